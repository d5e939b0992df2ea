//! S14 `no-resurrection`: after an acknowledged strict delete and a strict read that found nothing, no strict read returns
//! what was deleted, or something older.
//!
//! One pass over time per key. S1 judges every read against the newest write; this one says that what was seen to be gone
//! stays gone, also where S1 says nothing (R + W ≤ N, and after evictions): late hints, repairs and old disks come after the
//! "absent". Sloppy deletes whose votes were all owners' count while nobody loses memory. A delete that was flushed
//! is forgotten with what it deleted: whether that comes back is S16's.

use super::{Finding, Invariant, Verdict, losses::Losses, marks::Marks};
use crate::history::{History, Op};
use meshwork_core::value::Version;
use std::collections::BTreeMap;

/// Judges every strict read that found a value.
pub fn check(history: &History) -> Verdict {
    let ops = history.ops();
    let (memories, losses, marks) = (history.ledger().memories, Losses::of(history), Marks::of(history));
    let mut keys: BTreeMap<(&str, &str), Vec<&Op<'_>>> = BTreeMap::new();
    for op in &ops {
        keys.entry((&op.invoke.ns, &op.invoke.key)).or_default().push(op);
    }
    let mut judged = 0;
    for ((ns, key), ops) in keys {
        let Some(space) = history.space(ns) else { continue };
        let n = u16::from(space.n);
        let deletes: Vec<(u64, u16, Version, &Op<'_>)> = ops
            .iter()
            .filter(|op| op.invoke.f == "delete")
            .filter_map(|op| {
                let end = op.ok()?;
                let strong = op.invoke.strict || (memories && end.fallbacks == 0 && !end.has("warming"));
                let whole = strong && !end.has("sloppy") && !end.has("superseded");
                whole.then_some((end.t, u16::from(op.invoke.w), end.version?, *op))
            })
            .collect();
        if deletes.is_empty() {
            continue;
        }
        let reads = ops.iter().filter(|op| op.invoke.f == "get" && op.invoke.strict);
        let mut reads: Vec<(&Op<'_>, u64)> = reads.filter_map(|op| Some((*op, op.ok()?.t))).collect();
        reads.sort_by_key(|(_, told)| *told);
        for (read, _) in &reads {
            let Some(end) = read.ok() else { continue };
            let (Some(value), Some(version)) = (end.value, end.version) else { continue };
            // Deletes that were seen to have worked, before this read was asked, by a quorum that this read's must meet.
            let seen = deletes.iter().filter(|(told, w, _, op)| {
                !losses.may_have_taken(op, read.invoke.r, space.n, end.t)
                    && !marks.may_have_taken(op, end.t)
                    && w + u16::from(read.invoke.r) > n
                    && reads.iter().any(|(absent, gone)| {
                        absent.invoke.t > *told
                            && *gone < read.invoke.t
                            && absent.ok().is_some_and(|end| end.value.is_none() && !end.torn)
                    })
            });
            let Some((told, _, deleted, op)) = seen.max_by_key(|(_, _, version, _)| *version) else { continue };
            judged += 1;
            if version <= *deleted {
                let what = format!(
                    "delete op {} of {ns}/{key} was acknowledged at {} ms with version {deleted} and seen; read op {} asked at {} ms returned w{value} with {version}",
                    op.invoke.op,
                    told / 1_000,
                    read.invoke.op,
                    read.invoke.t / 1_000
                );
                let ops = vec![op.invoke.op, read.invoke.op];
                return Verdict::Invalid(Finding { invariant: Invariant::S14, t: end.t, what, ops });
            }
        }
    }
    if judged == 0 {
        Verdict::Unknown("no value read of a key that was deleted and seen to be gone")
    } else {
        Verdict::Valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{absent, flush, found, history, invoke, ok, read, write},
        history::Event,
    };

    #[test]
    fn what_was_deleted_and_seen_to_be_gone_does_not_come_back() {
        let deleted = vec![write(1, 0, "k"), ok(1, 5, 1), invoke(2, 6, "delete", "k"), ok(2, 9, 7), read(3, 10, "k")];
        let back = [deleted.clone(), vec![absent(3, 12), read(4, 20, "k"), found(4, 22, 1, 1)]].concat();
        assert!(matches!(check(&history(back)), Verdict::Invalid(Finding { invariant: Invariant::S14, .. })));
        let newer = vec![absent(3, 12), write(5, 13, "k"), ok(5, 15, 13), read(4, 20, "k"), found(4, 22, 5, 13)];
        assert_eq!(check(&history([deleted.clone(), newer].concat())), Verdict::Valid);
        // All that acknowledged it lost their memories before they had compared: nothing is promised.
        let lost = Event::Fault { t: 15_000, what: "start of p5 on machine 0 as a".to_owned() };
        let other = Event::Fault { t: 16_000, what: "start of p6 on machine 1 as b".to_owned() };
        let forgotten = vec![absent(3, 12), lost, other, read(4, 20, "k"), found(4, 22, 1, 1)];
        assert!(matches!(check(&history([deleted.clone(), forgotten].concat())), Verdict::Unknown(_)));
        // A delete above the mark of a flush is kept as ever; one that the flush covers is not there any more.
        let flushed = |mark: u64| {
            let back = vec![absent(3, 12), flush(13, mark), read(4, 20, "k"), found(4, 22, 1, 1)];
            check(&history([deleted.clone(), back].concat()))
        };
        assert!(matches!(flushed(6), Verdict::Invalid(_)));
        assert!(matches!(flushed(7), Verdict::Unknown(_)));
        // A read that overlaps the one that saw nothing may still see it.
        let overlaps = vec![read(4, 11, "k"), absent(3, 12), found(4, 22, 1, 1)];
        assert!(matches!(check(&history([deleted, overlaps].concat())), Verdict::Unknown(_)));
    }
}
