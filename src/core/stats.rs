//! What a shard counts: plain integers, read by a scrape and fed to the metrics recorder (ARCHITECTURE §6).
//!
//! Counters only rise; gauges are named so in their line. Sums over shards are field by field: `add`.

use serde::{Deserialize, Serialize};

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters and gauges of one shard, or the sum over a node's shards.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct ShardStats { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl ShardStats {
            /// Adds another shard's figures to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Names and values, in declaration order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

stats! {
    /// Gets begun.
    gets,
    /// Gets that found a live value.
    hits,
    /// Gets that found none.
    misses,
    /// Puts begun.
    puts,
    /// Deletes begun.
    deletes,
    /// Touches begun.
    touches,
    /// Requests answered with an error status.
    errors,
    /// Requests refused because too much was in flight.
    overloaded,
    /// Reads and writes that could not reach their quorum.
    unavailable,
    /// Writes that ended without knowing whether they were applied.
    unknown,
    /// Requests sent on to an owner.
    forwarded,
    /// Reads that asked one more replica before the first answered.
    hedges,
    /// Reads that met two versions.
    divergent_reads,
    /// Writes stamped again after `Superseded`.
    restamps,
    /// Writes answered `Ok` although something newer was there.
    superseded,
    /// Votes that came after their request was answered.
    late_votes,
    /// Answers of Warming replicas that were merged and not counted.
    warming_votes_ignored,
    /// Peer messages refused for their clock.
    clock_refusals,
    /// Peer messages refused for their layout.
    stale_epochs,
    /// Replica writes applied.
    replica_writes,
    /// Replica reads answered.
    replica_reads,
    /// Rounds of comparisons begun.
    exchange_rounds,
    /// Messages of comparisons sent, repairs not counted.
    exchange_messages,
    /// Comparisons that found nothing to do.
    exchanges_equal,
    /// Trees that differed and were walked.
    trees_compared,
    /// Entries sent to repair a replica.
    repairs_sent,
    /// Their bytes.
    repair_bytes,
    /// Differences that are none to repair: evicted or forgotten on one side.
    repairs_left,
    /// Tombstones dropped because all owners held them.
    tombstones_collected,
    /// Trees that became Ready by comparing.
    partitions_warmed,
    /// Gauge: trees that warm.
    partitions_warming,
    /// Gauge: trees that vote.
    partitions_ready,
    /// Trees that were found not to be those of their data: a bug.
    tree_errors,
    /// Hints stored.
    hints_stored,
    /// Hints dropped by age or bound.
    hints_dropped,
    /// Hints that their targets acknowledged, or had something newer than.
    hints_replayed,
    /// Hints that their targets would not take yet, or did not answer in time.
    hints_put_off,
    /// Hints moved to the current owners after a new layout.
    hints_resolved,
    /// Entries sent to replicas that answered a read with less.
    read_repairs,
    /// Replicas that answered a read with less and were left so for want of budget.
    read_repairs_skipped,
    /// Gauge: partitions that a dead hint made urgent for anti-entropy.
    partitions_urgent,
    /// Gauge: hints held now.
    hints,
    /// Gauge: bytes of hints held now.
    hint_bytes,
    /// Parts of partitions sent to new owners.
    parts_sent,
    /// Entries taken over from former owners.
    entries_moved,
    /// Bytes of them.
    moved_bytes,
    /// Entries on their way here that found no room: their part is asked for again.
    entries_without_room,
    /// Those of them that are larger than a quarter of a shard's memory, in a namespace that evicts nothing.
    entries_too_large,
    /// Partitions dropped because a new layout assigns them elsewhere.
    partitions_dropped,
    /// Gauge: partitions of the newest layout that are not Ready here.
    partitions_missing,
    /// Records restored from the disk.
    restored,
    /// Stored records that could not be used: damaged, of a newer version, or too many for memory.
    restore_errors,
    /// Gauge: partitions of which stored records found no room, and that warm until owners that are Ready were asked.
    partitions_short,
    /// Changes given to the disk.
    stored_writes,
    /// Changes that the disk did not keep; written again since, or waiting for it.
    stored_failures,
    /// Votes refused because the namespace asks for a log, and there is no disk or it did not keep the write.
    votes_not_stored,
    /// Gauge: changes whose storing is not confirmed.
    stores_waiting,
    /// Gauge: requests in flight now.
    in_flight,
    /// Gauge: live and expired entries held, tombstones included.
    entries,
    /// Gauge: tombstones held.
    tombstones,
    /// Gauge: ghosts of evicted entries held.
    ghosts,
    /// Entries evicted for room.
    evictions,
    /// Entries dropped after their expiry.
    expired,
    /// Writes refused for want of memory.
    out_of_memory,
    /// Gauge: bytes accounted, everything the shard holds.
    memory_bytes,
    /// Gauge: the hard limit, bytes.
    memory_limit_bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_field_by_field() {
        let mut sum = ShardStats { gets: 1, ..ShardStats::default() };
        sum.add(&ShardStats { gets: 2, hits: 3, ..ShardStats::default() });
        assert_eq!((sum.gets, sum.hits, sum.puts), (3, 3, 0));
        assert_eq!(sum.each().next(), Some(("gets", 3)));
    }
}
