//! Partitions, or trees of them, that no active layout assigns here any more, whose entries are still to be forgotten (PROTOCOL §2).
//!
//! A transition that is over lets go of a fourth of all entries and more at once, on every former owner at the same moment;
//! forgotten in one step they held up every request of the mesh for as long as that took (0.1 s at a million entries, and
//! it grows with them). So they go one partition at a time, with requests served in between.
//!
//! Invariants: what waits here is compared and sent by nobody, because nobody is its owner here; a stand-in may show it to a
//! sloppy read, as it may a hint: it is no older than what it said before, and counts as a stand-in's word. A partition that a
//! layout assigns here again is emptied before anything is done under that layout, since what it held is old.

use super::ownership::{self, Cleanup};
use crate::{id::PartitionId, outbox::ShardOutbox, shard::Shard, storage::LowTrees, time::Mono, time::Now, view::View};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Between two partitions.
const PAUSE: Duration = Duration::from_millis(1);

/// What waits to be forgotten.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// Up to how many copies.
    partitions: BTreeMap<PartitionId, u8>,
    next_at: Mono,
}

impl Leaving {
    /// When the next partition is due.
    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        (!self.partitions.is_empty()).then_some(self.next_at)
    }

    /// Whether the entries of namespaces with so many copies are void, though they are still there.
    pub(crate) fn holds(&self, (partition, copies): (PartitionId, u8)) -> bool {
        self.partitions.get(&partition).is_some_and(|leaving| copies <= *leaving)
    }

    fn add(&mut self, now: Mono, trees: Vec<LowTrees>) {
        self.next_at = self.next_at.max(now);
        for (partition, copies) in trees {
            let leaving = self.partitions.entry(partition).or_default();
            *leaving = copies.max(*leaving);
        }
    }

    fn due(&mut self, now: Mono) -> Option<LowTrees> {
        if self.next_at > now {
            return None;
        }
        self.next_at = now + PAUSE;
        self.partitions.pop_first()
    }

    fn take(&mut self, which: impl Fn(LowTrees) -> bool) -> Vec<LowTrees> {
        self.partitions.extract_if(.., |partition, copies| which((*partition, *copies))).collect()
    }
}

impl Shard {
    /// Before anything is done under the layouts of `view`: what they assign here must not still hold what it held when it
    /// was let go.
    pub(crate) fn empty_assigned(&mut self, view: &View) {
        for trees in self.leaving.take(|trees| ownership::assigns(view, trees)) {
            self.table.remove_trees(trees, true);
        }
    }

    /// Lets go of what is not assigned here any more: at once what must be empty now, the rest by and by.
    pub(crate) fn let_go(&mut self, now: Now, cleanup: Cleanup, out: &mut dyn ShardOutbox) {
        let Cleanup { dropped, lapsed } = cleanup;
        let dropped: Vec<LowTrees> =
            dropped.into_iter().filter(|(_, copies)| self.table.copies_min() <= *copies).collect();
        if lapsed {
            // What changed before is of the term before.
            self.store_changes(out);
            // All first: a crash half way must not leave some of it valid, for the next process may not lapse.
            dropped.iter().for_each(|trees| self.void_trees(now, *trees, out));
            self.remove_records();
        }
        // Counted when it is decided: that is what must not be while an active layout assigns them.
        self.stats.partitions_dropped += dropped.len() as u64;
        let (view, mut later) = (Arc::clone(&self.view), Vec::new());
        for trees in dropped {
            if !lapsed {
                self.void_trees(now, trees, out);
            }
            let assigned = !lapsed && ownership::assigns(&view, trees);
            if lapsed || assigned || self.is_tight() {
                // It may have waited for this.
                self.leaving.take(|(partition, _)| partition == trees.0);
                // What is assigned here comes again, and takes the place of what is void on the disk: no word of that for each key.
                self.table.remove_trees(trees, !assigned);
                self.anti_entropy.readiness.note_emptied(trees);
                // What a disk is told of them all together has no room (simulator, seed 10000b68), and this makes some.
                self.store_changes(out);
                self.reserve();
            } else {
                later.push(trees);
            }
        }
        self.leaving.add(now.mono, later);
    }

    /// Forgets the next partition that is due.
    pub(crate) fn forget_next(&mut self, now: Now) {
        if let Some(trees) = self.leaving.due(now.mono) {
            self.table.remove_trees(trees, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ALL_COPIES;

    #[test]
    fn partitions_go_one_at_a_time_and_what_is_assigned_again_goes_first() {
        let millis = |count: u64| Mono(count * 1_000_000);
        let mut leaving = Leaving::default();
        assert_eq!((leaving.poll_timeout(), leaving.due(millis(5))), (None, None));
        let trees = |partition, copies| (PartitionId(partition), copies);
        leaving.add(millis(7), (0..4).map(|partition| trees(partition, 2)).collect());
        leaving.add(millis(7), vec![trees(1, ALL_COPIES), trees(3, 1)]);
        assert_eq!(leaving.poll_timeout(), Some(millis(7)));
        assert_eq!([1, 2, 3].map(|copies| leaving.holds(trees(0, copies))), [true, true, false]);
        assert_eq!(leaving.due(millis(7)), Some(trees(0, 2)));
        assert_eq!((leaving.due(millis(7)), leaving.poll_timeout()), (None, Some(millis(8))));
        assert_eq!(leaving.take(|it| it.0.0 == 2), [trees(2, 2)]);
        assert_eq!((leaving.due(millis(8)), leaving.due(millis(9))), (Some(trees(1, ALL_COPIES)), Some(trees(3, 2))));
        assert_eq!(leaving.poll_timeout(), None);
    }
}
