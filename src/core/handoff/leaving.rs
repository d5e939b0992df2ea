//! Partitions that no active layout assigns here any more, whose entries are still to be forgotten (PROTOCOL §2).
//!
//! A transition that is over lets go of a fourth of all entries and more at once, on every former owner at the same moment;
//! forgotten in one step they held up every request of the mesh for as long as that took (0.1 s at a million entries, and
//! it grows with them). So they go one partition at a time, with requests served in between.
//!
//! Invariants: what waits here is compared and sent by nobody, because nobody is its owner here; a stand-in may show it to a
//! sloppy read, as it may a hint: it is no older than what it said before, and counts as a stand-in's word. A partition that a
//! layout assigns here again is emptied before anything is done under that layout, since what it held is old.

use super::ownership::Cleanup;
use crate::{id::PartitionId, outbox::ShardOutbox, ring::Ring, shard::Shard, time::Mono, time::Now, view::View};
use std::{collections::BTreeSet, time::Duration};

/// Between two partitions.
const PAUSE: Duration = Duration::from_millis(1);

/// What waits to be forgotten.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    partitions: BTreeSet<PartitionId>,
    next_at: Mono,
}

impl Leaving {
    /// When the next partition is due.
    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        (!self.partitions.is_empty()).then_some(self.next_at)
    }

    /// Whether the partition's entries are void, though they are still there.
    pub(crate) fn holds(&self, partition: PartitionId) -> bool {
        self.partitions.contains(&partition)
    }

    fn add(&mut self, now: Mono, partitions: Vec<PartitionId>) {
        self.next_at = self.next_at.max(now);
        self.partitions.extend(partitions);
    }

    fn due(&mut self, now: Mono) -> Option<PartitionId> {
        if self.next_at > now {
            return None;
        }
        self.next_at = now + PAUSE;
        self.partitions.pop_first()
    }

    fn take(&mut self, which: impl Fn(PartitionId) -> bool) -> Vec<PartitionId> {
        self.partitions.extract_if(.., |partition| which(*partition)).collect()
    }
}

impl Shard {
    /// Before anything is done under the layouts of `view`: what they assign here must not still hold what it held when it
    /// was let go.
    pub(crate) fn empty_assigned(&mut self, view: &View) {
        let assigns =
            |ring: &Ring, partition| ring.index_of(view.me).is_some_and(|me| ring.owners(partition).contains(&me));
        let active = [view.newest(), view.oldest(), view.ring.as_ref()];
        for partition in self.leaving.take(|at| active.iter().flatten().any(|ring| assigns(ring, at))) {
            self.table.remove_partition(partition);
        }
    }

    /// Lets go of what is not assigned here any more: at once what must be empty now, the rest by and by.
    pub(crate) fn let_go(&mut self, now: Now, cleanup: Cleanup, out: &mut dyn ShardOutbox) {
        for partition in &cleanup.emptied {
            self.void_partition(now, *partition, out);
        }
        // Counted when it is decided: that is what must not be while an active layout assigns them.
        self.stats.partitions_dropped += (cleanup.emptied.len() + cleanup.dropped.len()) as u64;
        for partition in cleanup.emptied {
            // It may have waited for this.
            self.leaving.take(|at| at == partition);
            self.table.remove_partition(partition);
            // What a disk is told of it is given away at once, and not noted for all of them together.
            self.store_changes(out);
        }
        let mut later = Vec::new();
        for partition in cleanup.dropped {
            self.void_partition(now, partition, out);
            if self.is_tight() {
                // What a disk is told of them all together has no room (simulator, seed 10000b68): this makes some.
                self.table.remove_partition(partition);
                self.store_changes(out);
                self.reserve();
            } else {
                later.push(partition);
            }
        }
        self.leaving.add(now.mono, later);
    }

    /// Forgets the next partition that is due.
    pub(crate) fn forget_next(&mut self, now: Now) {
        if let Some(partition) = self.leaving.due(now.mono) {
            self.table.remove_partition(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_go_one_at_a_time_and_what_is_assigned_again_goes_first() {
        let millis = |count: u64| Mono(count * 1_000_000);
        let mut leaving = Leaving::default();
        assert_eq!((leaving.poll_timeout(), leaving.due(millis(5))), (None, None));
        leaving.add(millis(7), (0..4).map(PartitionId).collect());
        assert_eq!(leaving.poll_timeout(), Some(millis(7)));
        assert_eq!(leaving.due(millis(7)), Some(PartitionId(0)));
        assert_eq!((leaving.due(millis(7)), leaving.poll_timeout()), (None, Some(millis(8))));
        assert_eq!(leaving.take(|partition| partition.0 == 2), [PartitionId(2)]);
        assert_eq!((leaving.due(millis(8)), leaving.due(millis(9))), (Some(PartitionId(1)), Some(PartitionId(3))));
        assert_eq!(leaving.poll_timeout(), None);
    }
}
