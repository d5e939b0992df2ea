//! L8 `writable`: N-W dead owners stop no strict write, and N dead owners no sloppy one while W nodes are reachable.
//!
//! Whether enough is alive, no history shows: whoever records it says so, request by request (`Invoke::must`), where it
//! knows that nothing is being broken, that nobody lost memory, and that enough owners live (strict) or members (sloppy).
//! Such a write may not be refused for want of nodes. In the phase `write`, when everybody knows who is gone, it may not be called
//! unavailable either when it was held somewhere already and may be applied: unless some replica had no memory left for what it
//! was sent, which its coordinator tells alike. (Seconds after a node died a request may still be passed on to it.) That there
//! is no memory left, or that a condition was not met, are other reasons, and "not owner" sends the client elsewhere; any
//! other unknown outcome is no refusal.

use super::{Finding, Invariant, Verdict};
use crate::history::{End, Event, History};

/// Refusals that do not say that nodes are missing.
const OTHER_REASONS: [&str; 7] =
    ["out of memory", "too large", "conflict", "not found", "overloaded", "no such namespace", "not owner"];

/// That too few were found to take a write, though it may be applied by those that did.
const WITHOUT_NODES: &str = "unavailable";
/// The fault that says that replicas refused for want of memory.
pub const WITHOUT_MEMORY: &str = "a replica had no memory for a write";

/// The phase in which nobody waits for the dead any more.
pub const SETTLED: &str = "write";

/// Judges every write that must be served.
pub fn check(history: &History) -> Verdict {
    let mut judged = 0;
    let starved =
        history.events.iter().any(|event| matches!(event, Event::Fault { what, .. } if what == WITHOUT_MEMORY));
    let began = |event: &Event| {
        if let Event::Phase { t, name } = event { (name == SETTLED).then_some(*t) } else { None }
    };
    let settled = history.events.iter().filter_map(began).min().unwrap_or(u64::MAX);
    for op in history.ops().iter().filter(|op| op.writes() && op.invoke.must) {
        match op.end {
            Some(End::Fail(end)) if OTHER_REASONS.contains(&end.status.as_str()) => {}
            Some(End::Maybe(end)) if starved || op.invoke.t < settled || end.status != WITHOUT_NODES => {}
            Some(End::Fail(end) | End::Maybe(end)) => {
                let mode = if op.invoke.strict { "strict" } else { "sloppy" };
                let what = format!(
                    "{mode} {} op {} of {}/{} with W={} was refused by n{}: {}, though enough nodes live",
                    op.invoke.f, op.invoke.op, op.invoke.ns, op.invoke.key, op.invoke.w, op.invoke.node, end.status
                );
                let ops = vec![op.invoke.op];
                return Verdict::Invalid(Finding { invariant: Invariant::L8, t: end.t, what, ops });
            }
            Some(End::Ok(_)) => judged += 1,
            None => {}
        }
    }
    if judged == 0 { Verdict::Unknown("no write that had to be served") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{fail, history, maybe, ok, write},
        history::Complete,
    };

    fn must(op: u64, t: u64) -> Event {
        let Event::Invoke(invoke) = write(op, t, "k") else { unreachable!("write makes Invoke") };
        Event::Invoke(crate::history::Invoke { must: true, ..invoke })
    }

    #[test]
    fn a_refusal_while_enough_nodes_live_is_refused() {
        let bad = history(vec![must(1, 0), ok(1, 5, 1), must(2, 6), fail(2, 7)]);
        let Verdict::Invalid(finding) = check(&bad) else { panic!("accepted") };
        assert_eq!((finding.invariant, finding.ops), (Invariant::L8, vec![2]));
    }

    #[test]
    fn a_write_that_too_few_took_while_enough_nodes_live_is_refused() {
        let partly = Event::Maybe(Complete { t: 9, op: 2, status: "unavailable".to_owned(), ..Complete::default() });
        let full = Event::Fault { t: 1, what: WITHOUT_MEMORY.to_owned() };
        assert_eq!(check(&history(vec![must(1, 0), ok(1, 5, 1), full, must(2, 6), partly.clone()])), Verdict::Valid);
        let early = history(vec![must(1, 0), ok(1, 5, 1), must(2, 6), partly.clone()]);
        assert_eq!(check(&early), Verdict::Valid, "not everybody knows who is gone");
        let settled = Event::Phase { t: 0, name: SETTLED.to_owned() };
        let bad = history(vec![settled, must(1, 0), ok(1, 5, 1), must(2, 6), partly]);
        let Verdict::Invalid(finding) = check(&bad) else { panic!("accepted") };
        assert_eq!((finding.invariant, finding.ops), (Invariant::L8, vec![2]));
    }

    #[test]
    fn other_writes_other_reasons_and_unknown_outcomes_are_accepted() {
        let full = Event::Fail(Complete { t: 9, op: 4, status: "out of memory".to_owned(), ..Complete::default() });
        let good =
            vec![must(1, 0), ok(1, 5, 1), write(2, 6, "k"), fail(2, 7), must(3, 8), maybe(3, 9), must(4, 8), full];
        assert_eq!(check(&history(good)), Verdict::Valid);
        assert!(matches!(check(&history(vec![write(1, 0, "k"), ok(1, 5, 1)])), Verdict::Unknown(_)));
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }
}
