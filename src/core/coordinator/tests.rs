//! Every order of answers, held against the rules written a second time, in words closer to PROTOCOL §4 and §6.
//!
//! Three owners, the first of which may be the coordinator; each says everything it can say in every state, in every
//! order, with and without patience and with fallbacks. The rules here look at who said what and at nothing else.

use super::{get, put, quorum::Targets};
use crate::{
    id::ActorId,
    value::{Hlc, Version},
    wire::peer::ReplicaState,
};

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const STATES: [ReplicaState; 3] = [ReplicaState::Ready, ReplicaState::Warming, ReplicaState::Settled];
const OWNERS: [u16; 3] = [4, 5, 6];

fn version(number: u64) -> Version {
    Version { hlc: Hlc(number), actor: ActorId(1) }
}

/// Whose word counts.
fn counts(state: ReplicaState, strict: bool) -> bool {
    match state {
        ReplicaState::Ready => true,
        ReplicaState::Settled => !strict,
        ReplicaState::Warming | ReplicaState::Fallback => false,
    }
}

/// What an owner may say to a write; `Pending`: it stays silent.
fn write_answers() -> Vec<put::Answer> {
    let mut answers = vec![put::Answer::Pending, put::Answer::Lost];
    for state in STATES {
        answers.extend([put::Answer::Applied(state), put::Answer::Superseded(state)]);
    }
    answers
}

/// Counts of answers: those that satisfy `what`.
fn count<A: Copy, const MOST: usize>(targets: &Targets<A, MOST>, what: impl Fn(usize, A) -> bool) -> u8 {
    let satisfying = (0..targets.len()).filter(|at| what(*at, targets.answer(*at))).count();
    u8::try_from(satisfying).unwrap()
}

/// Holds a write's verdict against the rules.
fn judge_write(votes: &put::Votes, strict: bool, impatient: bool, restamps_left: bool) -> put::Verdict {
    use put::{Answer, Verdict};
    let targets = &votes.targets;
    let acknowledged = count(
        targets,
        |at, answer| matches!(answer, Answer::Applied(state) if at < targets.owners() && counts(state, strict)),
    );
    let applied = count(targets, |_, answer| matches!(answer, Answer::Applied(_)));
    let refuted = count(
        targets,
        |at, answer| matches!(answer, Answer::Superseded(state) if at < targets.owners() && counts(state, strict)),
    );
    let superseded = count(targets, |_, answer| matches!(answer, Answer::Superseded(_)));
    let pending = count(targets, |_, answer| answer == Answer::Pending);
    let owners_pending = count(targets, |at, answer| at < targets.owners() && answer == Answer::Pending);
    let need = votes.need();
    let verdict = votes.verdict();
    let said = format!("{:?} need {need} strict {strict} impatient {impatient}: {verdict:?}", targets.answers());
    match verdict {
        Verdict::Wait => {
            assert!(pending > 0, "waits for nobody: {said}");
            assert!(acknowledged < need, "waits with its votes in: {said}");
            if impatient && !strict {
                assert!(applied < need, "sloppy, impatient, and W nodes hold it: {said}");
            }
        }
        Verdict::Restamp => {
            assert!(restamps_left && superseded > 0, "{said}");
            let answered = if strict { acknowledged + refuted } else { applied + superseded };
            assert!(answered >= need, "stamped again before W answered: {said}");
        }
        Verdict::Done(outcome) => {
            assert!(!outcome.superseded || superseded > 0, "{said}");
            assert!(outcome.superseded || outcome.acks >= need, "acknowledged by too few: {said}");
            assert!(outcome.acks <= applied, "superseded, lost or silent is no acknowledgement: {said}");
            assert!(outcome.acks - outcome.fallbacks <= acknowledged, "{said}");
            if strict {
                assert_eq!((outcome.fallbacks, outcome.warming), (0, false), "{said}");
                assert!(outcome.superseded || acknowledged >= need, "{said}");
            } else if !impatient && outcome.fallbacks > 0 {
                assert_eq!(owners_pending, 0, "an owner that may say Superseded is still out: {said}");
            }
            assert!(refuted == 0 || outcome.superseded || acknowledged + refuted < need, "{said}");
            assert!(!outcome.superseded || !restamps_left, "stamps are left: {said}");
        }
        Verdict::Short { have } => {
            assert_eq!(pending, 0, "gives up while somebody may answer: {said}");
            assert!(have < need && acknowledged < need, "{said}");
            assert!(strict || applied + superseded < need, "sloppy, and W nodes answered: {said}");
        }
    }
    if strict && acknowledged < need {
        assert!(!matches!(verdict, Verdict::Done(put::Outcome { superseded: false, .. })), "{said}");
    }
    verdict
}

#[test]
fn every_order_of_answers_to_a_write_keeps_the_rules() {
    let answers = write_answers();
    let mut seen = [0; 4];
    for strict in [false, true] {
        for need in 1..=3 {
            for order in ORDERS {
                for combination in 0..answers.len().pow(3) {
                    let said = [0, 1, 2].map(|at| answers[combination / answers.len().pow(at) % answers.len()]);
                    for impatient in [false, true] {
                        let mut votes = put::Votes::new(&OWNERS, need, strict);
                        (0..3).for_each(|at| votes.targets.set(at, put::Answer::Pending));
                        if impatient {
                            votes.lose_patience();
                        }
                        for at in order {
                            if judge_write(&votes, strict, impatient, true) != put::Verdict::Wait {
                                break;
                            }
                            if said[at] != put::Answer::Pending {
                                assert!(votes.record(at, said[at]));
                                assert!(
                                    !votes.record(at, put::Answer::Applied(ReplicaState::Ready)),
                                    "one vote a node"
                                );
                            }
                        }
                        let kind = match judge_write(&votes, strict, impatient, true) {
                            put::Verdict::Wait => 0,
                            put::Verdict::Restamp => 1,
                            put::Verdict::Done(_) => 2,
                            put::Verdict::Short { .. } => 3,
                        };
                        seen[kind] += 1;
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|times| *times > 1_000), "{seen:?}");
}

#[test]
fn every_write_without_stamps_left_ends_flagged_or_acknowledged() {
    let answers = write_answers();
    for strict in [false, true] {
        for need in 1..=3 {
            for combination in 0..answers.len().pow(3) {
                let said = [0, 1, 2].map(|at| answers[combination / answers.len().pow(at) % answers.len()]);
                let mut votes = put::Votes::new(&OWNERS, need, strict);
                for _ in 0..crate::limits::RESTAMPS_MAX {
                    votes.restamp();
                }
                (0..3).for_each(|at| votes.targets.set(at, said[at]));
                assert_ne!(judge_write(&votes, strict, false, false), put::Verdict::Restamp);
            }
        }
    }
}

#[test]
fn a_write_that_was_stamped_again_may_be_held_under_its_first_stamp_whatever_was_said_to_the_last() {
    let mut votes = put::Votes::new(&OWNERS, 2, true);
    assert!(!votes.may_be_held(), "nobody was asked");
    votes.targets.set(0, put::Answer::Applied(ReplicaState::Warming));
    votes.targets.set(1, put::Answer::Superseded(ReplicaState::Ready));
    assert!(votes.may_be_held());
    votes.restamp();
    votes.targets.set(0, put::Answer::Superseded(ReplicaState::Warming));
    votes.targets.set(1, put::Answer::Lost);
    assert!(votes.applied() == 0 && votes.may_be_held());
}

#[test]
fn a_copy_that_is_worth_less_than_when_it_took_the_write_votes_as_what_it_is() {
    for (was, now, counts) in [
        (ReplicaState::Ready, ReplicaState::Ready, true),
        (ReplicaState::Ready, ReplicaState::Warming, false),
        (ReplicaState::Settled, ReplicaState::Warming, false),
        (ReplicaState::Settled, ReplicaState::Ready, true),
        (ReplicaState::Warming, ReplicaState::Ready, false),
    ] {
        let mut votes = put::Votes::new(&[0, 1, 2], 1, false);
        for position in 0..3 {
            votes.targets.set(position, put::Answer::Pending);
        }
        votes.record(0, put::Answer::Applied(was));
        votes.lower(0, now);
        assert_eq!(matches!(votes.verdict(), put::Verdict::Done(_)), counts, "{was:?} {now:?}");
    }
}

#[test]
fn a_fallback_makes_a_sloppy_quorum_and_never_a_strict_one() {
    let answers = write_answers();
    for strict in [false, true] {
        for need in 1..=3 {
            for impatient in [false, true] {
                for combination in 0..answers.len().pow(3) {
                    let said = [0, 1, 2].map(|at| answers[combination / answers.len().pow(at) % answers.len()]);
                    for fallback in [
                        put::Answer::Pending,
                        put::Answer::Lost,
                        put::Answer::Applied(ReplicaState::Fallback),
                        put::Answer::Superseded(ReplicaState::Fallback),
                    ] {
                        let mut votes = put::Votes::new(&OWNERS, need, strict);
                        for (at, answer) in said.into_iter().enumerate() {
                            votes.targets.set(at, answer);
                        }
                        if impatient {
                            votes.lose_patience();
                        }
                        votes.targets.add_fallback(9, Some(OWNERS[2]), fallback).unwrap();
                        judge_write(&votes, strict, impatient, true);
                    }
                }
            }
        }
    }
}

/// What an owner may say to a read: nothing, lost, a version, or an absent that forgot as much.
fn read_answers() -> Vec<get::Answer> {
    let mut answers = vec![get::Answer::Pending, get::Answer::Unasked, get::Answer::Lost, get::Answer::Unreached];
    for state in STATES {
        for number in [1, 2] {
            answers.push(get::Answer::Holds(state, version(number)));
        }
        for forgotten in [Version::ZERO, version(1), version(2)] {
            answers.push(get::Answer::Absent(state, forgotten));
        }
    }
    answers
}

fn judge_read(votes: &get::Votes, strict: bool) -> get::Verdict {
    use get::{Answer, Verdict};
    let targets = &votes.targets;
    let newest = (0..targets.len())
        .filter_map(|at| match targets.answer(at) {
            Answer::Holds(_, version) => Some(version),
            Answer::Unasked | Answer::Pending | Answer::Absent(..) | Answer::Lost | Answer::Unreached => None,
        })
        .max();
    assert_eq!(votes.newest(), newest);
    let voting = count(targets, |at, answer| match answer {
        Answer::Holds(state, _) => at < targets.owners() && counts(state, strict),
        Answer::Absent(state, forgotten) => {
            let forgot = strict && newest.is_some_and(|newest| forgotten >= newest);
            at < targets.owners() && counts(state, strict) && !forgot
        }
        Answer::Unasked | Answer::Pending | Answer::Lost | Answer::Unreached => false,
    });
    let ready = count(targets, |at, answer| match answer {
        Answer::Holds(state, _) | Answer::Absent(state, _) => at < targets.owners() && counts(state, strict),
        Answer::Unasked | Answer::Pending | Answer::Lost | Answer::Unreached => false,
    });
    let answered = count(targets, |at, answer| match answer {
        Answer::Holds(..) => true,
        Answer::Absent(..) => at < targets.owners(),
        Answer::Unasked | Answer::Pending | Answer::Lost | Answer::Unreached => false,
    });
    let pending = count(targets, |_, answer| answer == Answer::Pending);
    let unasked = count(targets, |at, answer| at < targets.owners() && answer == Answer::Unasked);
    let need = votes.need();
    let verdict = votes.verdict();
    let said = format!("{:?} need {need} strict {strict}: {verdict:?}", targets.answers());
    match verdict {
        Verdict::Wait => assert!(pending > 0 && voting < need, "{said}"),
        Verdict::AskMore => assert!(pending == 0 && unasked > 0 && voting < need, "{said}"),
        Verdict::Decided(outcome) => {
            assert!(outcome.acks <= answered, "{said}");
            assert_eq!(outcome.sloppy, voting < need, "{said}");
            if strict && voting < need {
                assert!(outcome.version.is_none() && ready >= need, "only a miss has fewer votes: {said}");
            } else {
                assert_eq!(outcome.version, newest, "{said}");
            }
            assert!(voting >= need || pending + unasked == 0, "{said}");
        }
        Verdict::Unavailable { have } => {
            assert!(pending + unasked == 0 && have < need, "{said}");
            assert!(if strict { ready < need } else { answered == 0 }, "{said}");
        }
    }
    verdict
}

#[test]
fn every_combination_of_answers_to_a_read_keeps_the_rules() {
    let answers = read_answers();
    let mut seen = [0; 4];
    for strict in [false, true] {
        for need in 1..=3 {
            for combination in 0..answers.len().pow(3) {
                let said = [0, 1, 2].map(|at| answers[combination / answers.len().pow(at) % answers.len()]);
                for fallback in [
                    None,
                    Some(get::Answer::Pending),
                    Some(get::Answer::Lost),
                    Some(get::Answer::Holds(ReplicaState::Fallback, version(2))),
                    Some(get::Answer::Absent(ReplicaState::Fallback, version(2))),
                ] {
                    let mut votes = get::Votes::new(&OWNERS, need, strict);
                    for (at, answer) in said.into_iter().enumerate() {
                        votes.targets.set(at, answer);
                    }
                    if let Some(answer) = fallback {
                        votes.targets.add_fallback(9, None, answer).unwrap();
                    }
                    let kind = match judge_read(&votes, strict) {
                        get::Verdict::Wait => 0,
                        get::Verdict::AskMore => 1,
                        get::Verdict::Decided(_) => 2,
                        get::Verdict::Unavailable { .. } => 3,
                    };
                    seen[kind] += 1;
                }
            }
        }
    }
    assert!(seen.iter().all(|times| *times > 1_000), "{seen:?}");
}

#[test]
fn the_order_of_answers_to_a_read_does_not_change_what_all_of_them_mean() {
    let answers: Vec<get::Answer> = read_answers()
        .into_iter()
        .filter(|answer| !matches!(answer, get::Answer::Pending | get::Answer::Unasked))
        .collect();
    for strict in [false, true] {
        for combination in 0..answers.len().pow(3) {
            let said = [0, 1, 2].map(|at| answers[combination / answers.len().pow(at) % answers.len()]);
            let verdicts = ORDERS.map(|order| {
                let mut votes = get::Votes::new(&OWNERS, 2, strict);
                (0..3).for_each(|at| votes.targets.set(at, get::Answer::Pending));
                for at in order {
                    judge_read(&votes, strict);
                    assert!(votes.record(at, said[at]));
                    assert!(!votes.record(at, get::Answer::Holds(ReplicaState::Ready, version(9))), "one vote a node");
                }
                votes.verdict()
            });
            assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{said:?}: {verdicts:?}");
        }
    }
}
