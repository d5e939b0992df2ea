//! One write's votes: an answer goes in, a verdict comes out; no send, no clock (PROTOCOL §4 "Write").
//!
//! What it promises:
//! - `Superseded` is not an acknowledgement. Once W eligible owners have answered and one of them said so, the write is
//!   stamped again above what it reported, at most `RESTAMPS_MAX` times; then it is `Ok`, flagged.
//! - strict: only Ready owners' `Applied` counts. Sloppy: Settled owners' too; what Warming owners and fallbacks hold is
//!   *provisional*: it counts only when no eligible owner's answer is still out, because one of those might say
//!   `Superseded`. (PROTOCOL would not count a Warming replica at all before `warming_max`; then two restarts would stop
//!   sloppy writes although W nodes are reachable, against "always writable". Counted last and reported among
//!   `fallbacks`, such a write makes no promise that a strict or full one makes.)
//! - with two active layouts a strict write needs W owners in each; in the one that is not read an owner's `Applied` counts
//!   whatever its state, since holding the write is all that is asked there. A sloppy write waits for that too, but not for
//!   ever: after its patience W in the layout that is read do, and the reply is flagged (`partial`).
//!
//! Shown by the enumeration of every order of answers in the tests, and by the rig's schedules 2 and 8.

use super::quorum::{Targets, WRITE_TARGETS_MAX};
use crate::{canary::canary, time::Wall, value::Version, wire::peer::ReplicaState};

/// What one member said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not asked, because it is believed down.
    Unasked,
    /// Asked.
    Pending,
    /// It holds the entry now.
    Applied(ReplicaState),
    /// It holds or remembers something newer.
    Superseded(ReplicaState),
    /// It holds the entry in memory, and has no disk where the namespace asks for one: no vote, but nothing is missing there.
    Unstored,
    /// It is too large for that node, which remembers it as evicted: no vote, and nothing to bring there.
    Outsized,
    /// It would not, or its link was lost.
    Lost,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for more answers.
    Wait,
    /// Stamp above what was reported and ask again.
    Restamp,
    /// Acknowledged.
    Done(Outcome),
    /// Everybody answered, and W votes cannot be had: ask fallbacks, if any are left, or give up.
    Short {
        /// Votes there are.
        have: u8,
    },
}

/// What an acknowledged write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Members that hold it.
    pub(crate) acks: u8,
    /// Those among them whose vote is provisional: fallbacks and Warming owners.
    pub(crate) fallbacks: u8,
    /// A Warming owner is among them.
    pub(crate) warming: bool,
    /// Something newer was there after the last stamp.
    pub(crate) superseded: bool,
    /// Fewer than W owners of the active layout that is not read are known to hold it.
    pub(crate) partial: bool,
}

/// The votes of one write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Votes {
    pub(crate) targets: Targets<Answer, WRITE_TARGETS_MAX>,
    need: u8,
    /// Votes needed in the other active layout; zero without one.
    need_beside: u8,
    /// The other active layout is the newer one.
    beside_is_newest: bool,
    strict: bool,
    restamps_left: u8,
    /// Nobody waits for silent owners any more: patience ran out.
    impatient: bool,
    /// How many were asked when patience ran out last: those of them who are out are silent.
    silent: u8,
    /// Others are sent a newer write that took this one's place at the coordinator: what they hold is not this one.
    lost: bool,
    /// Somebody may hold it of whom nothing is said here any more.
    gone: bool,
    /// The highest version reported by `Superseded`, with the latest end of what it covers.
    pub(crate) reported: Version,
    /// See `reported`.
    pub(crate) hold_until: Option<Wall>,
}

impl Votes {
    /// Nobody has been asked yet. `need` is W, at most the number of owners.
    pub(crate) fn new(owners: &[u16], need: u8, strict: bool) -> Self {
        assert!(need >= 1 && usize::from(need) <= owners.len(), "quorums are clamped to the owners there are");
        Self {
            targets: Targets::new(owners, &[], Answer::Unasked),
            need,
            need_beside: 0,
            beside_is_newest: false,
            strict,
            restamps_left: crate::limits::RESTAMPS_MAX,
            impatient: false,
            silent: 0,
            lost: false,
            gone: false,
            reported: Version::ZERO,
            hold_until: None,
        }
    }

    /// Nobody has been asked yet, and there is another active layout with the owners `beside`, perhaps the newest. `need` is
    /// W there.
    pub(crate) fn beside(mut self, owners: &[u16], beside: &[u16], need: u8, newest: bool) -> Self {
        self.targets = Targets::new(owners, beside, Answer::Unasked);
        self.need_beside = need;
        self.beside_is_newest = newest;
        self
    }

    /// Whether the one at `position` owns the key only in an active layout that is older than the one that is read.
    pub(crate) fn is_left(&self, position: usize) -> bool {
        !self.beside_is_newest && self.targets.is_beside(position) && !self.targets.is_reader(position)
    }

    /// From now on others are sent what took this write's place (simulator, seed 900148e).
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// It is not stamped again: what took its place goes on.
    pub(crate) fn give_up(&mut self) {
        self.lost = true;
        self.restamps_left = 0;
    }

    /// The other active layout has retired: it asks for nothing any more.
    pub(crate) fn forget_beside(&mut self) {
        self.need_beside = 0;
    }

    /// W.
    pub(crate) fn need(&self) -> u8 {
        self.need
    }

    /// Whether only Ready owners vote.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Notes an answer; `false` when that member's vote is in already or it was never asked: one node, one vote.
    pub(crate) fn record(&mut self, position: usize, answer: Answer) -> bool {
        let mut position = position;
        if canary!(K6) && matches!(self.targets.answer(position), Answer::Applied(_)) {
            position =
                (0..self.targets.owners()).find(|at| self.targets.answer(*at) == Answer::Pending).unwrap_or(position);
        }
        let open = matches!(self.targets.answer(position), Answer::Pending);
        if open {
            self.targets.set(position, answer);
        }
        open
    }

    /// The copy of the one at `position` is worth no more than `state` any more.
    pub(crate) fn lower(&mut self, position: usize, state: ReplicaState) {
        let answer = match self.targets.answer(position) {
            Answer::Applied(was) => Answer::Applied(was.lowered(state)),
            Answer::Superseded(was) => Answer::Superseded(was.lowered(state)),
            other @ (Answer::Unasked | Answer::Pending | Answer::Unstored | Answer::Outsized | Answer::Lost) => other,
        };
        self.targets.set(position, answer);
    }

    /// Notes what a `Superseded` reported.
    pub(crate) fn report(&mut self, version: Version, hold_until: Option<Wall>) {
        self.reported = self.reported.max(version);
        self.hold_until = self.hold_until.max(hold_until);
    }

    /// Silent owners no longer keep provisional votes from counting, and silent stand-ins stand for nobody; if one of those answers
    /// yet, it is a vote beside that of the other: W nodes hold it, and an owner whom nobody holds it for gets a hint at the end. Says who
    /// of those that were asked since this was called last is silent.
    pub(crate) fn lose_patience(&mut self) -> Vec<u16> {
        self.impatient = true;
        let len = u8::try_from(self.targets.len()).expect("at most WRITE_TARGETS_MAX");
        let known = std::mem::replace(&mut self.silent, len);
        let silent = (usize::from(known)..usize::from(len)).filter(|at| self.targets.answer(*at) == Answer::Pending);
        silent.map(|at| self.targets.member(at)).collect()
    }

    /// The owners for whom a stand-in was asked that has not failed, and may answer yet.
    pub(crate) fn covered(&self) -> impl Iterator<Item = u16> + '_ {
        let stands = |at: &usize| match self.targets.answer(*at) {
            Answer::Applied(_) => true,
            Answer::Pending => *at >= usize::from(self.silent),
            Answer::Unasked | Answer::Superseded(_) | Answer::Unstored | Answer::Outsized | Answer::Lost => false,
        };
        let stand_ins = self.targets.owners()..self.targets.len();
        stand_ins.filter(stands).filter_map(|at| self.targets.covers(at))
    }

    /// Whether patience ran out.
    pub(crate) fn is_impatient(&self) -> bool {
        self.impatient
    }

    /// Begins again under a new stamp: everybody who was reached is asked again.
    pub(crate) fn restamp(&mut self) {
        assert!(self.restamps_left > 0, "a verdict of Restamp is only given while stamps are left");
        self.restamps_left -= 1;
        for position in 0..self.targets.len() {
            match self.targets.answer(position) {
                Answer::Pending | Answer::Applied(_) | Answer::Superseded(_) | Answer::Unstored | Answer::Outsized => {
                    self.targets.set(position, Answer::Pending);
                }
                Answer::Unasked | Answer::Lost => {}
            }
        }
    }

    /// How many members hold the entry, whatever their vote is worth.
    pub(crate) fn applied(&self) -> u8 {
        let applied = self.targets.answers().iter().filter(|answer| matches!(answer, Answer::Applied(_))).count();
        u8::try_from(applied).expect("at most TARGETS_MAX")
    }

    /// Whether somebody may hold the write, or may have served it: an earlier stamp of it was taken, whatever became of the last, or
    /// who took it or was asked to has no place in the layouts any more.
    pub(crate) fn may_be_held(&self) -> bool {
        self.applied() > 0 || self.gone || self.restamps_left < crate::limits::RESTAMPS_MAX
    }

    /// Names all by their places in a new ring. Whoever has none counts for nothing, and may hold the write (simulator, seed c0042fb).
    pub(crate) fn remap(&mut self, new_index: impl Fn(u16) -> Option<u16>) {
        self.gone |= self.applied() > 0 || self.is_waiting();
        self.targets.remap(new_index, Answer::Lost);
    }

    /// One of those who hold it without a disk, though the namespace asks for one.
    pub(crate) fn unstored(&self) -> Option<u16> {
        let at = (0..self.targets.len()).find(|at| self.targets.answer(*at) == Answer::Unstored)?;
        Some(self.targets.member(at))
    }

    /// Whether somebody asked has not answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.targets.answers().contains(&Answer::Pending)
    }

    fn eligible(&self, position: usize, state: ReplicaState) -> bool {
        self.targets.is_reader(position)
            && match state {
                ReplicaState::Ready => true,
                ReplicaState::Settled => !self.strict,
                ReplicaState::Warming | ReplicaState::Fallback => false,
            }
    }

    /// Votes in the other active layout, those who report something newer, and those who may still answer.
    fn tally_beside(&self) -> (u8, u8, u8) {
        let (mut votes, mut newer, mut out) = (0, 0, 0);
        for (position, answer) in self.targets.answers().iter().enumerate() {
            if self.targets.is_beside(position) {
                match answer {
                    Answer::Applied(_) => votes += 1,
                    Answer::Superseded(_) => newer += 1,
                    Answer::Pending => out += 1,
                    Answer::Unasked | Answer::Unstored | Answer::Outsized | Answer::Lost => {}
                }
            }
        }
        (votes, newer, out)
    }

    /// What the answers so far mean.
    pub(crate) fn verdict(&self) -> Verdict {
        let (votes_beside, newer_beside, out_beside) = self.tally_beside();
        let beside = votes_beside + newer_beside >= self.need_beside;
        let done = |acks, superseded| {
            let superseded = superseded || self.lost;
            Verdict::Done(Outcome { acks, fallbacks: 0, warming: false, superseded, partial: !beside })
        };
        let (mut votes, mut newer, mut provisional, mut warming) = (0u8, 0u8, 0u8, 0u8);
        // Like `newer`, said by those whose word is provisional.
        let mut newer_there = 0u8;
        let (mut owners_out, mut others_out) = (0u8, 0u8);
        for (position, answer) in self.targets.answers().iter().enumerate() {
            match answer {
                Answer::Unasked | Answer::Unstored | Answer::Outsized | Answer::Lost => {}
                Answer::Pending if self.targets.is_reader(position) => owners_out += 1,
                Answer::Pending => others_out += 1,
                Answer::Applied(state) if self.eligible(position, *state) => votes += 1,
                Answer::Applied(state) => {
                    provisional += 1;
                    warming += u8::from(*state == ReplicaState::Warming);
                }
                Answer::Superseded(state) if canary!(K2) && self.eligible(position, *state) => votes += 1,
                Answer::Superseded(state) if self.eligible(position, *state) => newer += 1,
                Answer::Superseded(_) => newer_there += 1,
            }
        }
        if canary!(K21) && self.beside_is_newest && self.need_beside > 0 && votes_beside >= self.need_beside {
            return done(votes_beside, false);
        }
        if votes + newer >= self.need {
            // Somebody whose vote counts reported something newer, here or in the other layout once that has answered.
            let newer = newer > 0 || (beside && self.need_beside > 0 && newer_beside > 0);
            if newer && self.restamps_left > 0 {
                return Verdict::Restamp;
            }
            if beside {
                return done(votes, newer);
            }
            if out_beside > 0 && (self.strict || !self.impatient) {
                return Verdict::Wait;
            }
            return if self.strict { Verdict::Short { have: votes_beside } } else { done(votes, newer) };
        }
        if owners_out > 0 && (self.strict || !self.impatient) {
            return Verdict::Wait;
        }
        if (!self.strict || canary!(K33)) && votes + newer + provisional + newer_there >= self.need {
            let superseded = newer + newer_there > 0;
            if superseded && self.restamps_left > 0 {
                return Verdict::Restamp;
            }
            return Verdict::Done(Outcome {
                acks: votes + provisional,
                fallbacks: provisional,
                warming: warming > 0,
                superseded: superseded || self.lost,
                partial: !beside,
            });
        }
        if others_out > 0 || owners_out > 0 {
            return Verdict::Wait;
        }
        Verdict::Short { have: votes + if self.strict { 0 } else { provisional } }
    }
}
