//! S6 `acks-honest`, as far as a client can see it: a reply's flags and counts do not contradict each other or the request.
//!
//! - Stand-ins are among the acknowledgements, and a strict write has none, nor a Warming owner's.
//! - A write that was done has W acknowledgements, unless it says `superseded`, or `degraded`: the mesh is too small for W.
//! - What has fewer than R or W owners behind it says so: `sloppy`, or for a read `stale`.
//!
//! Whether the acknowledgements are true, `sight` judges, which sees every answer that a coordinator got.

use super::{Finding, Invariant, Verdict};
use crate::history::{Complete, History, Invoke};

/// Judges every reply of a request that was done.
pub fn check(history: &History) -> Verdict {
    let mut judged = 0;
    for op in history.ops() {
        let (Some(end), Some(space)) = (op.ok(), history.space(&op.invoke.ns)) else { continue };
        judged += 1;
        if let Some(what) = contradiction(op.invoke, end, op.writes(), space.n) {
            let (f, ns, key) = (&op.invoke.f, &op.invoke.ns, &op.invoke.key);
            let mode = if op.invoke.strict { "strict" } else { "sloppy" };
            let what = format!(
                "{mode} {f} op {} of {ns}/{key} (R={} W={}) on n{} {what}: {} acks, {} of stand-ins, flags {:?}",
                op.invoke.op, op.invoke.r, op.invoke.w, op.invoke.node, end.acks, end.fallbacks, end.flags
            );
            let ops = vec![op.invoke.op];
            return Verdict::Invalid(Finding { invariant: Invariant::S6, t: end.t, what, ops });
        }
    }
    if judged == 0 { Verdict::Unknown("no request was done") } else { Verdict::Valid }
}

fn contradiction(invoke: &Invoke, end: &Complete, writes: bool, n: u8) -> Option<&'static str> {
    if end.fallbacks > end.acks {
        return Some("has more stand-ins than acknowledgements");
    }
    let owners = end.acks - end.fallbacks;
    let need = if writes { invoke.w } else { invoke.r }.min(n);
    let owes = !end.has("degraded");
    if !writes {
        let short = owes && owners < need && !end.has("sloppy") && !end.has("stale");
        return short.then_some("does not say that too few owners are behind it");
    }
    if invoke.strict && (end.fallbacks > 0 || end.has("sloppy") || end.has("warming")) {
        return Some("was done by others than Ready owners");
    }
    if end.has("superseded") || !owes {
        return None;
    }
    if end.acks < need {
        return Some("was done without W acknowledgements");
    }
    (owners < need && !end.has("sloppy")).then_some("does not say that stand-ins were needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::sample::{found, history, ok, read, write},
        history::Event,
    };

    /// A strict write or read with R = W = 2 in whose reply something is changed.
    fn told(strict: bool, reads: bool, change: impl FnOnce(&mut Complete)) -> Verdict {
        let mut events =
            if reads { vec![read(1, 0, "k"), found(1, 5, 1, 1)] } else { vec![write(1, 0, "k"), ok(1, 5, 1)] };
        if let Event::Invoke(invoke) = &mut events[0] {
            invoke.strict = strict;
        }
        if let Event::Ok(complete) = &mut events[1] {
            change(complete);
        }
        check(&history(events))
    }

    fn flagged(flag: &str) -> Vec<String> {
        vec![flag.to_owned()]
    }

    #[test]
    fn replies_that_contradict_themselves_or_the_request_are_refused() {
        let bad = [
            told(false, false, |end| end.fallbacks = 3),
            told(false, false, |end| end.acks = 1),
            told(false, false, |end| end.fallbacks = 1),
            told(true, false, |end| (end.fallbacks, end.flags) = (1, flagged("sloppy"))),
            told(true, false, |end| end.flags = flagged("warming")),
            told(true, true, |end| end.acks = 1),
            told(false, true, |end| end.fallbacks = 1),
        ];
        for verdict in bad {
            assert!(matches!(verdict, Verdict::Invalid(Finding { invariant: Invariant::S6, .. })), "{verdict:?}");
        }
    }

    #[test]
    fn whole_quorums_and_owned_up_shortfalls_are_accepted() {
        let good = [
            told(true, false, |_| {}),
            told(true, true, |_| {}),
            told(false, false, |end| (end.fallbacks, end.flags) = (1, flagged("sloppy"))),
            told(true, false, |end| (end.acks, end.flags) = (1, flagged("superseded"))),
            told(true, false, |end| (end.acks, end.flags) = (1, flagged("degraded"))),
            told(false, true, |end| (end.acks, end.flags) = (1, flagged("sloppy"))),
            told(true, true, |end| (end.acks, end.flags) = (1, flagged("stale"))),
        ];
        for verdict in good {
            assert_eq!(verdict, Verdict::Valid);
        }
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
    }
}
