//! S1 `quorum-visible`: a strict read after an acknowledged strict write (R + W > N) returns it or something newer.
//!
//! Judged per key in one pass over time: the newest version that a strict write was acknowledged with before the read was
//! asked is the floor. A value read must be at or above it, by version. Nothing read is legal only where the floor or
//! something above it may be gone or hidden: a delete, an expiry, an eviction. In core every strict vote is a Ready
//! owner's, and who lost its memory is Ready again only once it compared; so a write is lost only when as many machines as
//! acknowledged it had lost their memory at one time: then nothing is promised, and nothing across a mesh that was founded
//! anew, by nodes that all forgot the layout; and of a namespace that was flushed what the mark covers is no floor any more.
//! Also S14: what is older than an acknowledged delete is older than the floor.

use super::{Finding, Invariant, Verdict, losses::Losses, marks::Marks};
use crate::history::{History, Op, SpaceRules};
use meshwork_core::value::Version;
use std::collections::BTreeMap;

/// An acknowledged strict write.
struct Written<'a> {
    told: u64,
    version: Version,
    w: u8,
    op: &'a Op<'a>,
}

/// Judges every strict read.
pub fn check(history: &History) -> Verdict {
    let losses = Losses::of(history);
    judge(history, Invariant::S1, |_| Some(&losses))
}

/// Judges every strict read of the namespaces that have `losses`: what excuses a write that is gone there.
pub(super) fn judge<'l>(
    history: &History,
    invariant: Invariant,
    losses: impl Fn(&SpaceRules) -> Option<&'l Losses>,
) -> Verdict {
    let ops = history.ops();
    let mut keys: BTreeMap<(&str, &str), Vec<&Op<'_>>> = BTreeMap::new();
    for op in &ops {
        keys.entry((&op.invoke.ns, &op.invoke.key)).or_default().push(op);
    }
    let (foundings, marks) = (history.foundings(), Marks::of(history));
    let spanned = |from: u64, to: u64| foundings.iter().any(|at| (from..=to).contains(at));
    let mut judged = 0;
    for ((ns, _), ops) in keys {
        let Some(space) = history.space(ns) else { continue };
        let Some(losses) = losses(space) else { continue };
        let mut writes: Vec<Written<'_>> = ops
            .iter()
            .filter(|op| op.writes() && op.invoke.strict)
            .filter_map(|op| {
                let end = op.ok()?;
                Some(Written { told: end.t, version: end.version?, w: op.invoke.w, op })
            })
            .collect();
        writes.sort_by_key(|written| written.told);
        // May what a key holds be gone without a word?
        let fades = space.eviction || space.ttl_default_ms.is_some();
        let hides = |op: &&Op<'_>| op.invoke.f == "delete" || op.invoke.ttl_ms.is_some_and(|ttl| ttl > 0);
        for read in ops.iter().filter(|op| op.invoke.f == "get" && op.invoke.strict) {
            let Some(end) = read.ok() else { continue };
            // Writes that this read's quorum must meet.
            let before = writes.iter().take_while(|written| written.told < read.invoke.t);
            let before = before.filter(|written| !spanned(written.op.invoke.t, end.t));
            let before = before.filter(|written| !marks.may_have_taken(written.op, end.t));
            let met = before.filter(|written| u16::from(written.w) + u16::from(read.invoke.r) > u16::from(space.n));
            let Some(floor) = met.max_by_key(|written| written.version) else { continue };
            if losses.may_have_taken(floor.op, read.invoke.r, space.n, end.t) {
                continue;
            }
            judged += 1;
            let blame = |what: String| {
                Verdict::Invalid(Finding { invariant, t: end.t, what, ops: vec![floor.op.invoke.op, read.invoke.op] })
            };
            let wrote = format!(
                "{} w{} of {}/{} acknowledged at {} ms with version {}",
                floor.op.invoke.f,
                floor.op.invoke.op,
                ns,
                read.invoke.key,
                floor.told / 1_000,
                floor.version
            );
            match (end.value, end.version) {
                (Some(value), Some(version)) if version < floor.version => {
                    return blame(format!(
                        "{wrote}; read op {} asked of n{} at {} ms returned w{value} with the older {version}",
                        read.invoke.op,
                        read.invoke.node,
                        read.invoke.t / 1_000
                    ));
                }
                (Some(_), _) => {}
                (None, _) => {
                    let hidden = fades
                        || ops.iter().any(|op| {
                            hides(op)
                                && !op.refused()
                                && op.invoke.t < end.t
                                && op.ok().and_then(|end| end.version).is_none_or(|version| version >= floor.version)
                        });
                    if !hidden {
                        return blame(format!(
                            "{wrote}; read op {} asked of n{} at {} ms found nothing, and nothing deletes, expires or evicts there",
                            read.invoke.op,
                            read.invoke.node,
                            read.invoke.t / 1_000
                        ));
                    }
                }
            }
        }
    }
    if judged == 0 { Verdict::Unknown("no strict read after an acknowledged strict write") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{absent, fail, flush, found, history, invoke, maybe, ok, read, write},
        history::Event,
    };
    use meshwork_core::value::Hlc;

    #[test]
    fn an_older_value_or_nothing_after_an_acknowledged_write_is_refused() {
        let stale = history(vec![
            write(1, 0, "k"),
            ok(1, 5, 1),
            write(2, 6, "k"),
            ok(2, 9, 7),
            read(3, 10, "k"),
            found(3, 12, 1, 1),
        ]);
        assert!(matches!(check(&stale), Verdict::Invalid(Finding { invariant: Invariant::S1, .. })));
        let gone = history(vec![write(1, 0, "k"), ok(1, 5, 1), read(3, 10, "k"), absent(3, 12)]);
        assert!(matches!(check(&gone), Verdict::Invalid(_)));
    }

    #[test]
    fn the_value_a_newer_one_and_an_absence_after_a_delete_are_accepted() {
        let good = history(vec![write(1, 0, "k"), ok(1, 5, 1), read(3, 10, "k"), found(3, 12, 1, 1)]);
        assert_eq!(check(&good), Verdict::Valid);
        let newer = history(vec![
            write(1, 0, "k"),
            ok(1, 5, 1),
            write(2, 6, "k"),
            maybe(2, 9),
            read(3, 10, "k"),
            found(3, 12, 2, 8),
        ]);
        assert_eq!(check(&newer), Verdict::Valid);
        let deleted = history(vec![
            write(1, 0, "k"),
            ok(1, 5, 1),
            invoke(2, 6, "delete", "k"),
            maybe(2, 9),
            read(3, 10, "k"),
            absent(3, 12),
        ]);
        assert_eq!(check(&deleted), Verdict::Valid);
    }

    #[test]
    fn what_as_many_machines_as_acknowledged_it_lost_at_once_is_not_owed() {
        let fault = |t: u64, what: &str| Event::Fault { t: t * 1_000, what: what.to_owned() };
        let with = |faults: [Event; 3]| {
            let mut events = vec![write(1, 0, "k"), ok(1, 5, 1)];
            events.extend(faults);
            events.extend([read(3, 10_000, "k"), absent(3, 10_002)]);
            check(&history(events))
        };
        let (first, second) = ("start of p5 on machine 0 as a", "start of p6 on machine 1 as b");
        let both = [fault(6, first), fault(7, second), fault(8, "ready is p5")];
        assert!(matches!(with(both), Verdict::Unknown(_)));
        let in_turn = [fault(6, first), fault(7, "ready is p5"), fault(8, second)];
        assert!(matches!(with(in_turn), Verdict::Invalid(_)), "one after the other has compared is owed");
    }

    #[test]
    fn a_resurrection_after_a_delete_is_refused() {
        let back = history(vec![
            write(1, 0, "k"),
            ok(1, 5, 1),
            invoke(2, 6, "delete", "k"),
            ok(2, 9, 7),
            read(3, 10, "k"),
            found(3, 12, 1, 1),
        ]);
        assert!(matches!(check(&back), Verdict::Invalid(_)));
    }

    #[test]
    fn a_write_from_before_the_mesh_was_founded_anew_is_not_missed() {
        let mut gone = vec![write(1, 0, "k"), ok(1, 5, 1), read(3, 10, "k"), absent(3, 12)];
        gone.insert(2, Event::Founded { t: 7_000 });
        assert!(matches!(check(&history(gone)), Verdict::Unknown(_)));
    }

    #[test]
    fn a_flush_takes_what_its_mark_covers_from_when_it_is_asked_for_and_nothing_later() {
        let with = |asked: u64, mark: u64| {
            let asks = [write(1, 0, "k"), ok(1, 5, 4), read(3, 10, "k"), absent(3, 12)];
            check(&history([asks.to_vec(), vec![flush(asked, mark)]].concat()))
        };
        assert!(matches!(with(6, 4), Verdict::Unknown(_)), "all that was owed is covered");
        assert!(matches!(with(11, 4), Verdict::Unknown(_)), "and may be gone while it is read");
        assert!(matches!(with(6, 3), Verdict::Invalid(_)), "its version is above the mark");
        assert!(matches!(with(13, 4), Verdict::Invalid(_)), "the flush was asked for after it was missed");
    }

    #[test]
    fn a_later_write_is_owed_whatever_was_flushed_before_it() {
        let before = vec![write(1, 0, "k"), ok(1, 5, 4), flush(6, 7), write(2, 7, "k"), ok(2, 9, 8), read(3, 10, "k")];
        let taken = [before.clone(), vec![absent(3, 12)]].concat();
        let Verdict::Invalid(finding) = check(&history(taken)) else { panic!("accepted") };
        assert_eq!((finding.invariant, finding.ops), (Invariant::S1, vec![2, 3]));
        let kept = [before.clone(), vec![found(3, 12, 2, 8)]].concat();
        assert_eq!(check(&history(kept)), Verdict::Valid);
        let elsewhere = before.into_iter().map(|event| match event {
            Event::Flush { t, mark, .. } => Event::Flush { t, ns: "b".to_owned(), mark: Hlc(mark.0 * 2) },
            other => other,
        });
        let elsewhere = elsewhere.chain([absent(3, 12)]).collect();
        assert!(matches!(check(&history(elsewhere)), Verdict::Invalid(_)), "another namespace's mark");
    }

    #[test]
    fn what_was_asked_of_a_namespace_before_it_was_made_again_is_not_owed() {
        let with = |created: u64| {
            let made = Event::Created { t: created * 1_000, ns: "a".to_owned() };
            check(&history(vec![flush(0, 2), write(1, 3, "k"), ok(1, 5, 4), made, read(3, 10, "k"), absent(3, 12)]))
        };
        assert!(matches!(with(6), Verdict::Unknown(_)), "somebody took it who had not heard that it was deleted");
        assert!(matches!(with(2), Verdict::Invalid(_)));
    }

    #[test]
    fn concurrent_and_empty_histories_are_unknown() {
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
        let concurrent =
            history(vec![write(1, 0, "k"), read(2, 1, "k"), absent(2, 3), ok(1, 5, 1), write(4, 6, "k"), fail(4, 7)]);
        assert!(matches!(check(&concurrent), Verdict::Unknown(_)));
    }
}
