//! L5 `deadline`, as a client sees it: every request ends, once, and no reply changes afterwards.
//!
//! A request that the history never ends, though it goes on for longer than any deadline, is refused; so is one that ends
//! twice. What happens inside the nodes after a deadline is judged by `sight`, which sees the coordinator's own clock.

use super::{Finding, Invariant, Verdict};
use crate::history::{Event, History};
use std::collections::BTreeMap;

/// PROTOCOL §4: no request is served for longer; the client then waits a little more. Microseconds.
const END_MAX_US: u64 = 35_000_000;

/// Judges every request.
pub fn check(history: &History) -> Verdict {
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ended: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last = 0;
    for event in &history.events {
        let complete = match event {
            Event::Invoke(invoke) => {
                last = last.max(invoke.t);
                open.insert(invoke.op, invoke.t);
                continue;
            }
            Event::Fault { t, .. }
            | Event::Founded { t }
            | Event::Flush { t, .. }
            | Event::Created { t, .. }
            | Event::Phase { t, .. } => {
                last = last.max(*t);
                continue;
            }
            Event::Ok(complete) | Event::Fail(complete) | Event::Maybe(complete) => complete,
        };
        last = last.max(complete.t);
        let blame = |what: String| {
            Verdict::Invalid(Finding { invariant: Invariant::L5, t: complete.t, what, ops: vec![complete.op] })
        };
        if let Some(first) = ended.insert(complete.op, complete.t) {
            return blame(format!("op {} ended twice, at {first} and {} us", complete.op, complete.t));
        }
        match open.remove(&complete.op) {
            None => return blame(format!("op {} ended and was never asked", complete.op)),
            Some(asked) if complete.t > asked + END_MAX_US => {
                return blame(format!("op {} took {} ms", complete.op, (complete.t - asked) / 1_000));
            }
            Some(_) => {}
        }
    }
    if let Some((op, asked)) = open.iter().find(|(_, asked)| **asked + END_MAX_US < last) {
        let what = format!("op {op} asked at {} ms never ended", asked / 1_000);
        return Verdict::Invalid(Finding { invariant: Invariant::L5, t: last, what, ops: vec![*op] });
    }
    if ended.is_empty() { Verdict::Unknown("no request ended") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample::{history, ok, read, write};

    #[test]
    fn a_request_that_never_ends_ends_twice_or_too_late_is_refused() {
        let bad = [
            vec![write(1, 0, "k"), read(2, 60_000, "k"), ok(2, 60_001, 1)],
            vec![write(1, 0, "k"), ok(1, 5, 1), ok(1, 6, 1)],
            vec![ok(1, 5, 1)],
            vec![write(1, 0, "k"), ok(1, 50_000, 1)],
        ];
        for events in bad {
            assert!(matches!(check(&history(events)), Verdict::Invalid(Finding { invariant: Invariant::L5, .. })));
        }
    }

    #[test]
    fn ended_and_still_running_requests_are_accepted() {
        assert_eq!(check(&history(vec![write(1, 0, "k"), ok(1, 5, 1), read(2, 6, "k")])), Verdict::Valid);
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }
}
