//! L8 `writable`: N-W dead owners stop no strict write, and N dead owners no sloppy one while W nodes are reachable.
//!
//! Whether enough is alive, no history shows: whoever records it says so, request by request (`Invoke::must`), where it
//! knows that nothing is being broken, that nobody lost memory, and that enough owners live (strict) or members (sloppy).
//! Such a write may not be refused for want of nodes. That there is no memory left, or that a condition was not met, are
//! other reasons, and "not owner" sends the client elsewhere; an unknown outcome is no refusal.

use super::{Finding, Invariant, Verdict};
use crate::history::{End, History};

/// Refusals that do not say that nodes are missing.
const OTHER_REASONS: [&str; 7] =
    ["out of memory", "too large", "conflict", "not found", "overloaded", "no such namespace", "not owner"];

/// Judges every write that must be served.
pub fn check(history: &History) -> Verdict {
    let mut judged = 0;
    for op in history.ops().iter().filter(|op| op.writes() && op.invoke.must) {
        match op.end {
            Some(End::Fail(end)) if !OTHER_REASONS.contains(&end.status.as_str()) => {
                let mode = if op.invoke.strict { "strict" } else { "sloppy" };
                let what = format!(
                    "{mode} {} op {} of {}/{} with W={} was refused by n{}: {}, though enough nodes live",
                    op.invoke.f, op.invoke.op, op.invoke.ns, op.invoke.key, op.invoke.w, op.invoke.node, end.status
                );
                let ops = vec![op.invoke.op];
                return Verdict::Invalid(Finding { invariant: Invariant::L8, t: end.t, what, ops });
            }
            Some(End::Ok(_)) => judged += 1,
            Some(End::Fail(_) | End::Maybe(_)) | None => {}
        }
    }
    if judged == 0 { Verdict::Unknown("no write that had to be served") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{fail, history, maybe, ok, write},
        history::{Complete, Event},
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
    fn other_writes_other_reasons_and_unknown_outcomes_are_accepted() {
        let full = Event::Fail(Complete { t: 9, op: 4, status: "out of memory".to_owned(), ..Complete::default() });
        let good =
            vec![must(1, 0), ok(1, 5, 1), write(2, 6, "k"), fail(2, 7), must(3, 8), maybe(3, 9), must(4, 8), full];
        assert_eq!(check(&history(good)), Verdict::Valid);
        assert!(matches!(check(&history(vec![write(1, 0, "k"), ok(1, 5, 1)])), Verdict::Unknown(_)));
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }
}
