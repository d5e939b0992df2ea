//! S3 `no-phantom`, S2 `last-write-kept` and S4 `ack-survives`.
//!
//! `check`: every value read is whole, and was written to that very key by an operation that had begun and was not refused.
//! Never suspended. `check_last_writer`: of two acknowledged writes of a key, the second asked after the first was
//! acknowledged, the second has the larger version, whatever the clocks: with W > N/2 their owners meet. Judged for strict
//! writes always, for sloppy ones without stand-ins while nobody loses memory; a write flagged `superseded` says itself that
//! it is not the last, and one that was flushed meanwhile is none to be larger than.
//!
//! `check_survival`: S1 with less to excuse. In a namespace that asks for a log a process that dies loses nothing; in one of
//! `fsync` neither does a loss of power. What is excused is what S1 excuses with memories: as many disks lost at one time as
//! acknowledged the write (wiped, replaced by an older copy, damaged; for `log`, without power), and one that ran twice.

use super::{Finding, Invariant, Verdict, losses::Losses, marks::Marks, quorum};
use crate::history::{History, Op};
use meshwork_core::{namespace::Ack, value::Version};
use std::collections::BTreeMap;

/// Judges every value read.
pub fn check(history: &History) -> Verdict {
    let ops = history.ops();
    let writers: BTreeMap<u64, &Op<'_>> = ops.iter().filter_map(|op| Some((op.invoke.arg?, op))).collect();
    let mut judged = 0;
    for read in &ops {
        let Some(end) = read.ok().filter(|end| end.value.is_some() || end.torn) else { continue };
        judged += 1;
        let blame = |what: String, writer: Option<u64>| {
            let ops = writer.into_iter().chain([read.invoke.op]).collect();
            Verdict::Invalid(Finding { invariant: Invariant::S3, t: end.t, what, ops })
        };
        let place =
            format!("op {} read {}/{} on n{}", read.invoke.op, read.invoke.ns, read.invoke.key, read.invoke.node);
        let Some(value) = end.value else {
            return blame(format!("{place}: the value names no operation whole"), None);
        };
        let Some(writer) = writers.get(&value) else {
            return blame(format!("{place}: w{value}, which nobody wrote"), None);
        };
        if (&writer.invoke.ns, &writer.invoke.key) != (&read.invoke.ns, &read.invoke.key) {
            let to = format!("{}/{}", writer.invoke.ns, writer.invoke.key);
            return blame(format!("{place}: w{value}, which was written to {to}"), Some(value));
        }
        if writer.refused() {
            return blame(format!("{place}: w{value}, which was certainly refused"), Some(value));
        }
        if writer.invoke.t > end.t {
            return blame(format!("{place}: w{value}, which was written later"), Some(value));
        }
    }
    if judged == 0 { Verdict::Unknown("no read found a value") } else { Verdict::Valid }
}

/// A write, when it was told that it was done, and its version.
type Told<'a> = (&'a Op<'a>, u64, Version);

/// Judges every pair of acknowledged writes by their order.
pub fn check_last_writer(history: &History) -> Verdict {
    let ops = history.ops();
    let ledger = history.ledger();
    let mut keys: BTreeMap<(&str, &str), Vec<Told<'_>>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.writes()) {
        let (Some(end), Some(space)) = (op.ok(), history.space(&op.invoke.ns)) else { continue };
        let Some(version) = end.version else { continue };
        let strong =
            op.invoke.strict || (ledger.memories && end.fallbacks == 0 && !end.has("sloppy") && !end.has("warming"));
        if strong && !end.has("superseded") && u16::from(op.invoke.w) * 2 > u16::from(space.n) {
            keys.entry((&op.invoke.ns, &op.invoke.key)).or_default().push((op, end.t, version));
        }
    }
    let (foundings, losses, marks) = (history.foundings(), Losses::of(history), Marks::of(history));
    let spanned = |from: u64, to: u64| foundings.iter().any(|at| (from..=to).contains(at));
    let mut judged = 0;
    for ((ns, key), writes) in keys {
        let copies = history.space(ns).map_or(0, |space| space.n);
        // By when they were told: the newest version told so far is what any later write must beat.
        let mut told: Vec<&Told<'_>> = writes.iter().collect();
        told.sort_by_key(|(_, told, _)| *told);
        let mut highest: Option<&Told<'_>> = None;
        let mut next = 0;
        for (op, end, version) in &writes {
            while let Some(other) = told.get(next).filter(|other| other.1 < op.invoke.t) {
                if highest.is_none_or(|highest| highest.2 < other.2) {
                    highest = Some(other);
                }
                next += 1;
            }
            let spans = |first: &&Told<'_>| {
                spanned(first.0.invoke.t, *end)
                    || losses.may_have_taken(first.0, op.invoke.w, copies, *end)
                    || marks.may_have_taken(first.0, *end)
            };
            let Some((first, at, older)) = highest.filter(|first| !spans(first)) else { continue };
            judged += 1;
            if version <= older {
                let what = format!(
                    "{} op {} of {ns}/{key} was told {older} at {} ms; {} op {} asked afterwards was told {version}, which loses",
                    first.invoke.f,
                    first.invoke.op,
                    at / 1_000,
                    op.invoke.f,
                    op.invoke.op
                );
                return Verdict::Invalid(Finding {
                    invariant: Invariant::S2,
                    t: *end,
                    what,
                    ops: vec![first.invoke.op, op.invoke.op],
                });
            }
        }
    }
    if judged == 0 {
        Verdict::Unknown("no two acknowledged writes of one key, one after the other")
    } else {
        Verdict::Valid
    }
}

/// Judges strict reads of namespaces that ask for a log.
pub fn check_survival(history: &History) -> Verdict {
    let (log, fsync) = (Losses::of_disks(history, true), Losses::of_disks(history, false));
    quorum::judge(history, Invariant::S4, |space| match space.ack {
        Ack::Mem => None,
        Ack::Log => Some(&log),
        Ack::Fsync => Some(&fsync),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{absent, fail, flush, found, history, maybe, ok, read, write},
        history::Event,
    };

    #[test]
    fn values_of_nobody_of_another_key_or_of_a_refused_write_are_refused() {
        let bad = [
            vec![read(3, 10, "k"), found(3, 12, 1, 1)],
            vec![write(1, 0, "j"), ok(1, 5, 1), read(3, 10, "k"), found(3, 12, 1, 1)],
            vec![write(1, 0, "k"), fail(1, 5), read(3, 10, "k"), found(3, 12, 1, 1)],
        ];
        for events in bad {
            assert!(matches!(check(&history(events)), Verdict::Invalid(Finding { invariant: Invariant::S3, .. })));
        }
    }

    #[test]
    fn a_write_that_nobody_knows_of_may_be_read() {
        let good = history(vec![write(1, 0, "k"), maybe(1, 5), read(3, 10, "k"), found(3, 12, 1, 1)]);
        assert_eq!(check(&good), Verdict::Valid);
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }

    #[test]
    fn a_later_write_with_a_smaller_version_is_refused() {
        let bad = history(vec![write(1, 0, "k"), ok(1, 5, 9), write(2, 6, "k"), ok(2, 9, 7)]);
        assert!(matches!(check_last_writer(&bad), Verdict::Invalid(Finding { invariant: Invariant::S2, .. })));
    }

    fn durable(ack: Ack, mut events: Vec<Event>, faults: &[&str]) -> Verdict {
        let at = events.len();
        events.extend(faults.iter().map(|what| Event::Fault { t: 6_000, what: (*what).to_owned() }));
        events.extend([read(3, 10, "k"), absent(3, 12)]);
        assert!(at > 0);
        let mut history = history(events);
        history.header.spaces.iter_mut().for_each(|space| space.ack = ack);
        check_survival(&history)
    }

    #[test]
    fn an_acknowledgement_outlives_every_process_but_not_as_many_disks_as_gave_it() {
        let written = || vec![write(1, 0, "k"), ok(1, 5, 1)];
        let restarts =
            ["start of p5 on machine 0 as a", "start of p6 on machine 1 as b", "start of p7 on machine 2 as c"];
        assert!(matches!(
            durable(Ack::Log, written(), &restarts),
            Verdict::Invalid(Finding { invariant: Invariant::S4, .. })
        ));
        assert!(matches!(durable(Ack::Mem, written(), &restarts), Verdict::Unknown(_)));
        let one = ["disk of machine 0 is lost", restarts[0], restarts[1], restarts[2]];
        assert!(matches!(durable(Ack::Log, written(), &one), Verdict::Invalid(_)));
        let two = ["disk of machine 0 is lost", "disk of machine 1 is lost", restarts[0], restarts[1]];
        assert!(matches!(durable(Ack::Log, written(), &two), Verdict::Unknown(_)));
        let power = ["power of machine 0 is lost", "power of machine 1 is lost", restarts[0], restarts[1]];
        assert!(matches!(durable(Ack::Log, written(), &power), Verdict::Unknown(_)));
        assert!(matches!(durable(Ack::Fsync, written(), &power), Verdict::Invalid(_)), "it was synced");
        let compared = ["disk of machine 0 is lost", restarts[0], "ready is p5", "disk of machine 1 is lost"];
        assert!(matches!(durable(Ack::Log, written(), &compared), Verdict::Invalid(_)), "one after the other");
        assert!(matches!(check_survival(&history(vec![])), Verdict::Unknown(_)));
    }

    #[test]
    fn what_a_flush_may_have_taken_is_owed_by_no_disk_and_no_later_version_and_what_it_may_not_is() {
        let ends = |mark: u64, version: u64| {
            let end = vec![write(1, 0, "k"), ok(1, 5, 5), flush(6, mark), write(2, 7, "k"), ok(2, 9, version)];
            check_last_writer(&history(end))
        };
        assert!(matches!(ends(4, 3), Verdict::Invalid(Finding { invariant: Invariant::S2, .. })));
        assert!(matches!(ends(5, 3), Verdict::Unknown(_)), "it may be gone when the second is written");
        let written = |mark: u64| vec![write(1, 0, "k"), ok(1, 5, 5), flush(6, mark)];
        assert!(matches!(durable(Ack::Log, written(4), &[]), Verdict::Invalid(_)));
        assert!(matches!(durable(Ack::Log, written(5), &[]), Verdict::Unknown(_)));
    }

    #[test]
    fn later_writes_win_and_concurrent_ones_are_not_judged() {
        let good = history(vec![write(1, 0, "k"), ok(1, 5, 5), write(2, 6, "k"), ok(2, 9, 7)]);
        assert_eq!(check_last_writer(&good), Verdict::Valid);
        let concurrent = history(vec![write(1, 0, "k"), write(2, 1, "k"), ok(1, 5, 9), ok(2, 9, 7)]);
        assert!(matches!(check_last_writer(&concurrent), Verdict::Unknown(_)));
        assert!(matches!(check_last_writer(&history(vec![])), Verdict::Unknown(_)));
    }
}
