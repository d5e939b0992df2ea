//! Rare situations that a large run must have met: "sometimes" assertions (SIMULATION §2 "Diversity").
//!
//! Each probe counts itself where it happens: the simulator's in `Sight::probe`, core's own as counters of its shards. A
//! probe that no seed of ten thousand reaches means that the generator lost something, or that code became unreachable; a
//! run of that size reports those by name and ends with exit code 13. A new rare path brings its probe here.

use std::collections::BTreeMap;

/// From so many seeds on, each probe must have been hit.
pub const SEEDS_FOR_PROBES: u64 = 10_000;

/// What must happen at least once.
pub const MUST_HIT: [&str; 74] = [
    // The machines and what is broken.
    "a burst at the end",
    "a disk image runs twice",
    "a process met a newer one of its identity",
    "client gave up",
    "clock bound lost to a stalled disk",
    "connection lost to a cut",
    "copy of a message minutes late",
    "datagram lost",
    "dial failed",
    "frame for a dead process",
    "last link of a shard to a node lost",
    "machines that were given up return",
    "malformed frame closed its link",
    "mesh founded anew",
    "message delivered twice",
    "reply after its client gave up",
    "unknown message answered with Unsupported",
    // Membership and layouts.
    "layout adopted",
    "member down",
    "member up",
    "node fenced",
    "node must stop",
    "node unfenced",
    "stale_epochs",
    // Votes and replies.
    "condition not met",
    "degraded reply",
    "divergent_reads",
    "failed write that may be applied",
    "forwarded",
    "forwarded request arrived",
    "hedges",
    "hint sent to a stand-in",
    "late_votes",
    "not owner",
    "one replica answered a write twice",
    "reply flagged stale",
    "reply with a warming replica",
    "request refused by a fenced node",
    "restamps",
    "sloppy reply",
    "stand-in counted",
    "strict read met a warming replica",
    "strict request done",
    "superseded",
    "touch done",
    "unavailable",
    "unknown",
    "warming_votes_ignored",
    "write acknowledged as superseded",
    "write with unknown outcome",
    // What shards hold and refuse.
    "clock_refusals",
    "deletes",
    "entries",
    "errors",
    "evictions",
    "expired",
    "ghosts",
    "gets",
    "hint_bytes",
    "hints",
    "hints_dropped",
    "hints_stored",
    "hits",
    "in_flight",
    "misses",
    "out of memory",
    "overloaded",
    "puts",
    "replica_reads",
    "replica_writes",
    "tombstones",
    "tombstones were gone after a silence",
    "tombstones_collected",
    "touches",
];

/// Those that were never reached.
pub fn never<T>(hit: &BTreeMap<&'static str, T>) -> Vec<&'static str> {
    MUST_HIT.into_iter().filter(|name| !hit.contains_key(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::stats::ShardStats;

    #[test]
    fn each_is_listed_once_and_the_counters_among_them_exist() {
        let mut sorted = MUST_HIT;
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]));
        let counters: Vec<&str> = ShardStats::default().each().map(|(name, _)| name).collect();
        let probes = MUST_HIT.into_iter().filter(|name| name.contains('_'));
        assert!(probes.into_iter().all(|name| counters.contains(&name)));
    }

    #[test]
    fn what_no_seed_reached_is_named() {
        let all: BTreeMap<&'static str, u64> = MUST_HIT.into_iter().map(|name| (name, 1)).collect();
        assert!(never(&all).is_empty());
        let mut few = all;
        few.remove("evictions");
        assert_eq!(never(&few), ["evictions"]);
    }
}
