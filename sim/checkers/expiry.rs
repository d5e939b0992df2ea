//! S18 `expiry-honest`: nothing is served after, or expires before, its `expires_at` by more than the clock bound; and a
//! value's expiry is its version's time plus what was asked for, copied, never restarted.
//!
//! Judged against true time only while every wall is within the bound; the arithmetic (`expires_at` minus version) always,
//! for values whose expiry no touch may have changed: a touch is another version of the same value.

use super::{Finding, Invariant, Verdict};
use crate::history::{History, Op};
use std::collections::BTreeMap;

/// A message's way and the rounding of clocks, ms.
const SLACK_MS: u64 = 5;
/// PROTOCOL §1: no two nodes that serve are further apart.
const OFFSET_MAX_MS: u64 = 500;

/// Judges every value read that expires, or should.
pub fn check(history: &History) -> Verdict {
    let ops = history.ops();
    let writers: BTreeMap<u64, &Op<'_>> = ops.iter().filter_map(|op| Some((op.invoke.arg?, op))).collect();
    let mut judged = 0;
    for read in &ops {
        let Some(end) = read.ok() else { continue };
        let (Some(value), Some(version)) = (end.value, end.version) else { continue };
        let Some(writer) = writers.get(&value) else { continue };
        let Some(space) = history.space(&read.invoke.ns) else { continue };
        judged += 1;
        let blame = |what: String| {
            Verdict::Invalid(Finding { invariant: Invariant::S18, t: end.t, what, ops: vec![value, read.invoke.op] })
        };
        let place = format!(
            "op {} read w{value} of {}/{} on n{}",
            read.invoke.op, read.invoke.ns, read.invoke.key, read.invoke.node
        );
        // When the request was asked, the value was not to be served any more: the reply's way does not matter.
        let asked_ms = history.header.epoch_ms + read.invoke.t / 1_000;
        if let Some(expires) = end.expires_at.filter(|_| history.header.clocks)
            && asked_ms > expires + OFFSET_MAX_MS + SLACK_MS
        {
            return blame(format!("{place}, asked {} ms after it expired", asked_ms - expires));
        }
        let touched = ops.iter().any(|op| {
            op.invoke.f == "touch"
                && op.invoke.key == read.invoke.key
                && op.invoke.ns == read.invoke.ns
                && !op.refused()
        });
        if touched || writer.invoke.f == "swap" {
            continue;
        }
        let asked = match writer.invoke.ttl_ms {
            None => space.ttl_default_ms,
            Some(0) => None,
            Some(ttl) => Some(ttl),
        };
        let due = asked.map(|ttl| version.hlc.wall().0 + ttl);
        if end.expires_at != due {
            let words = |at: Option<u64>| at.map_or("never".to_owned(), |at| at.to_string());
            return blame(format!(
                "{place}: it expires at {}, and its version and ttl say {}",
                words(end.expires_at),
                words(due)
            ));
        }
    }
    if judged == 0 { Verdict::Unknown("no read found a value") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{found, history, ok, read, write},
        clock::EPOCH_MS,
        history::Event,
    };

    fn with_expiry(asked: u64, expires: Option<u64>, read_at: u64) -> History {
        let mut sample =
            history(vec![write(1, 0, "k"), ok(1, 5, 1), read(3, read_at, "k"), found(3, read_at + 2, 1, 1)]);
        let (Event::Invoke(invoke), true) = (&mut sample.events[0], true) else { unreachable!("the first is a write") };
        invoke.ttl_ms = Some(asked);
        let Event::Ok(end) = &mut sample.events[3] else { unreachable!("the last is a reply") };
        end.expires_at = expires.map(|at| EPOCH_MS + at);
        sample
    }

    #[test]
    fn a_value_served_long_after_its_end_is_refused() {
        assert!(matches!(check(&with_expiry(100, Some(101), 700)), Verdict::Invalid(_)));
        assert_eq!(check(&with_expiry(100, Some(101), 550)), Verdict::Valid);
    }

    #[test]
    fn an_expiry_that_was_restarted_lost_or_invented_is_refused() {
        assert!(matches!(check(&with_expiry(100, Some(140), 50)), Verdict::Invalid(_)));
        assert!(matches!(check(&with_expiry(100, None, 50)), Verdict::Invalid(_)));
        assert!(matches!(check(&with_expiry(0, Some(9), 5)), Verdict::Invalid(_)));
        assert_eq!(check(&with_expiry(0, None, 5)), Verdict::Valid);
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }
}
