//! L7 `overload-recovers`: ten seconds after a burst, as many requests are done as before it.
//!
//! The recorder names three phases: `calm`, a modest rate; `overload`, far more than that; and, ten seconds after its
//! end, `recovered`, the modest rate again. The share of requests done in the last may not be below nine tenths of that in
//! the first. Requests are counted in the phase that they are asked in. What a burst wrote where nothing may be
//! evicted can leave a memory full, for other namespaces too: a refusal for that says nothing of load (seed f6062), nor does a
//! write that another node had to take, too, and whose memory is (seed 23002079).

use super::{Finding, Invariant, Verdict};
use crate::history::{End, Event, History, Op};

/// Fewer requests in a phase say nothing.
const REQUESTS_LEAST: u64 = 20;

/// What a phase came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Goodput {
    asked: u64,
    done: u64,
    last: u64,
}

/// Judges the last burst.
pub fn check(history: &History) -> Verdict {
    let (mut calm, mut recovered, mut ran) = (Goodput::default(), Goodput::default(), false);
    let mut phases: Vec<(u64, &str)> = Vec::new();
    for event in &history.events {
        if let Event::Phase { t, name } = event {
            phases.push((*t, name));
            ran |= name == "overload";
        }
    }
    let keeps = history.header.spaces.iter().any(|space| !space.eviction);
    let phase_of = |t: u64| phases.iter().rev().find(|(from, _)| *from <= t).map_or("", |(_, name)| name);
    let ended = |end: Option<&End<'_>>, with: &str| match end {
        Some(End::Fail(end) | End::Maybe(end)) => end.status == with,
        Some(End::Ok(_)) | None => false,
    };
    let is_full = |op: &Op<'_>| phase_of(op.invoke.t) == "recovered" && ended(op.end.as_ref(), "out of memory");
    let full = keeps && history.ops().iter().any(is_full);
    for op in history.ops() {
        let refused = keeps && ended(op.end.as_ref(), "out of memory");
        if refused || full && op.invoke.f != "get" && ended(op.end.as_ref(), "unavailable") {
            continue;
        }
        let phase = phase_of(op.invoke.t);
        let goodput = match phase {
            "calm" => &mut calm,
            "recovered" => &mut recovered,
            _ => continue,
        };
        goodput.asked += 1;
        goodput.done += u64::from(op.ok().is_some());
        goodput.last = op.invoke.t;
    }
    if !ran || calm.asked < REQUESTS_LEAST || recovered.asked < REQUESTS_LEAST || calm.done == 0 {
        return Verdict::Unknown("no burst between two phases of modest load");
    }
    if recovered.done * calm.asked * 10 < calm.done * recovered.asked * 9 {
        let what = format!(
            "{} of {} requests were done ten seconds after a burst, {} of {} before it",
            recovered.done, recovered.asked, calm.done, calm.asked
        );
        return Verdict::Invalid(Finding { invariant: Invariant::L7, t: recovered.last, what, ops: Vec::new() });
    }
    Verdict::Valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample::{fail, history, ok, write};
    use crate::history::Complete;

    fn burst(done_before: u64, done_after: u64) -> History {
        burst_with(done_before, done_after, fail)
    }

    fn burst_with(done_before: u64, done_after: u64, fail: impl Fn(u64, u64) -> Event) -> History {
        let phase = |t: u64, name: &str| Event::Phase { t: t * 1_000, name: name.to_owned() };
        let mut events = vec![phase(0, "calm")];
        let load = |events: &mut Vec<Event>, from: u64, done: u64| {
            for nth in 0..40 {
                events.push(write(from + nth, from + nth, "k"));
                events.push(if nth < done { ok(from + nth, from + nth, nth) } else { fail(from + nth, from + nth) });
            }
        };
        load(&mut events, 1, done_before);
        events.push(phase(100, "overload"));
        load(&mut events, 101, 3);
        events.push(phase(10_200, "recovered"));
        load(&mut events, 10_201, done_after);
        history(events)
    }

    #[test]
    fn what_a_full_memory_refuses_is_not_counted_where_nothing_may_be_evicted() {
        let full = |op: u64, t: u64| match fail(op, t) {
            Event::Fail(end) => Event::Fail(Complete { status: "out of memory".to_owned(), ..end }),
            other => other,
        };
        assert!(matches!(check(&burst_with(40, 25, full)), Verdict::Valid));
        let mut evicting = burst_with(40, 25, full);
        evicting.header.spaces[0].eviction = true;
        assert!(matches!(check(&evicting), Verdict::Invalid(_)));
        // The memory of another owner is full: so says another request, or nobody.
        let elsewhere = |refusals: u64| {
            move |op: u64, t: u64| match fail(op, t) {
                Event::Fail(end) => {
                    let status = if op < 10_201 + 25 + refusals { "out of memory" } else { "unavailable" };
                    Event::Fail(Complete { status: status.to_owned(), ..end })
                }
                other => other,
            }
        };
        assert!(matches!(check(&burst_with(40, 25, elsewhere(5))), Verdict::Valid));
        assert!(matches!(check(&burst_with(40, 25, elsewhere(0))), Verdict::Invalid(_)));
    }

    #[test]
    fn a_cluster_that_stays_slow_after_a_burst_is_refused() {
        assert!(matches!(check(&burst(40, 35)), Verdict::Invalid(Finding { invariant: Invariant::L7, .. })));
        assert!(matches!(check(&burst(40, 0)), Verdict::Invalid(_)));
    }

    #[test]
    fn one_that_is_as_good_as_before_is_accepted_however_bad_it_was_meanwhile() {
        assert_eq!(check(&burst(40, 36)), Verdict::Valid);
        assert_eq!(check(&burst(20, 19)), Verdict::Valid);
    }

    #[test]
    fn no_burst_and_nothing_done_before_it_are_unknown() {
        assert!(matches!(check(&history(vec![])), Verdict::Unknown(_)));
        assert!(matches!(check(&burst(0, 40)), Verdict::Unknown(_)));
    }
}
