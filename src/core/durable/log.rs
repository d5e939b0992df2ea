//! What was given to the disk: which tickets are out, what came back, and what has to be given again.
//!
//! A change is out until the driver says that it is stored, or that it is not: then its place (not its bytes) is kept among the
//! failed, and what is held there *then* is written again, so that a place is never behind by more than one write and order
//! cannot matter. Removals are not followed: one that is lost leaves an old version on the disk, which the next start
//! restores as what any replica may hold that was away; the term of trees that were dropped is followed, because its
//! entries must not come back at all (`record`). Invariants: tickets rise by one; a place that failed is failed until a later
//! write of it is stored; `bytes` is what the lists take.
//!
//! Also here: of which tombstones it is known that they are synced. Only what was asked to be synced says anything about
//! that, a barrier if need be; what was restored may lie in the system's memory only, until the first barrier.

use crate::{
    id::{KeyHash, NamespaceId, NodeId, PartitionId},
    storage::{LowTrees, NamespaceSlot},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where something is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// What is held of a key.
    Entry(NamespaceSlot, KeyHash, Box<[u8]>),
    /// What is held for an owner that could not be reached.
    Hint(NodeId, KeyHash, NamespaceId, Box<[u8]>),
    /// What was forgotten.
    Floors(NamespaceSlot, PartitionId),
    /// When trees of a partition were dropped last, by its count.
    Term(LowTrees),
    /// Nothing: it is written to learn that all before it is synced.
    Barrier,
}

/// What following a change costs beyond its key, bytes; generous.
const PLACE_BYTES: u64 = size_of::<(u64, bool, Place)>() as u64 + 16;
/// What remembering a tombstone that is not synced costs.
const TOMBSTONE_BYTES: u64 = 32;
/// Tombstones that are remembered one by one; beyond it all wait for the next barrier.
const TOMBSTONES_MAX: usize = 4_096;

impl Place {
    fn bytes(&self) -> u64 {
        let key = match self {
            Self::Entry(_, _, key) | Self::Hint(_, _, _, key) => key.len(),
            Self::Floors(..) | Self::Term(_) | Self::Barrier => 0,
        };
        PLACE_BYTES + key as u64
    }
}

/// The state of a shard's disk, as far as the shard knows it.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The newest ticket given out.
    last: u64,
    /// The driver answered for all up to this one that are followed.
    stored: u64,
    /// All up to this one are synced, but for those that failed.
    synced: u64,
    out: VecDeque<(u64, bool, Place)>,
    failed: BTreeSet<Place>,
    bytes: u64,
    /// The newest barrier.
    barrier: u64,
    barrier_wanted: bool,
    /// Tombstones whose record may not be synced, by the ticket of their newest write.
    tombstones: BTreeMap<KeyHash, u64>,
    /// None is known to be synced before this ticket is.
    unsynced_below: u64,
}

impl Log {
    /// The next ticket.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The newest ticket given out.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The driver answered for all tickets up to this one.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// A change with this ticket is on its way: what becomes of it matters.
    pub(super) fn follow(&mut self, ticket: u64, sync: bool, place: Place) {
        if let Place::Barrier = place {
            (self.barrier, self.barrier_wanted) = (ticket, false);
        }
        // Written again: whether it is kept is what becomes of this write.
        if self.failed.remove(&place) {
            self.bytes -= place.bytes();
        }
        self.bytes += place.bytes();
        self.out.push_back((ticket, sync, place));
    }

    /// The change with this ticket wrote a tombstone.
    pub(super) fn wrote_tombstone(&mut self, hash: KeyHash, ticket: u64) {
        if self.tombstones.len() >= TOMBSTONES_MAX && !self.tombstones.contains_key(&hash) {
            self.tombstones.clear();
            (self.unsynced_below, self.barrier_wanted) = (ticket, true);
            return;
        }
        self.tombstones.insert(hash, ticket);
    }

    /// All up to `through` is stored.
    pub(super) fn on_stored(&mut self, through: u64) {
        let (through, synced) = (through.min(self.last), self.synced);
        while self.out.front().is_some_and(|(ticket, _, _)| *ticket <= through) {
            let Some((ticket, sync, place)) = self.out.pop_front() else { break };
            if sync {
                self.synced = self.synced.max(ticket);
            }
            self.bytes -= place.bytes();
        }
        self.stored = if self.out.is_empty() { self.last } else { self.stored.max(through) };
        if self.synced > synced {
            let synced = self.synced;
            self.tombstones.retain(|_, ticket| *ticket > synced);
        }
    }

    /// What was given out from `from` on was not kept; how many places that leaves behind.
    pub(super) fn on_failed(&mut self, from: u64) -> u64 {
        let mut count = 0;
        while self.out.back().is_some_and(|(ticket, _, _)| *ticket >= from) {
            let Some((_, _, place)) = self.out.pop_back() else { break };
            count += 1;
            if self.failed.contains(&place) {
                self.bytes -= place.bytes();
            } else {
                self.failed.insert(place);
            }
        }
        if self.out.is_empty() {
            self.stored = self.last;
        }
        count
    }

    /// Whether what is held at `place` is not what is stored there, as far as is known.
    pub(super) fn is_failed(&self, place: &Place) -> bool {
        !self.failed.is_empty() && self.failed.contains(place)
    }

    /// How many places have to be written again.
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Takes places to write again.
    pub(super) fn take_failed(&mut self, most: usize) -> Vec<Place> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(place) = self.failed.pop_first()
        {
            self.bytes -= place.bytes();
            taken.push(place);
        }
        taken
    }

    /// How many changes are on their way.
    pub(super) fn out(&self) -> usize {
        self.out.len()
    }

    /// Bytes of what waits for the disk.
    pub(super) fn backlog(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the lists.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + TOMBSTONE_BYTES * self.tombstones.len() as u64
    }

    /// Something was restored that may not be synced.
    pub(super) fn distrust(&mut self) {
        self.unsynced_below = self.unsynced_below.max(1);
    }

    /// Whether the record of the tombstone held under `hash` is stored and synced.
    pub(super) fn is_tombstone_synced(&self, hash: KeyHash, place: &Place) -> bool {
        self.synced >= self.unsynced_below && !self.tombstones.contains_key(&hash) && !self.is_failed(place)
    }

    /// Somebody wants to know that what was written so far is synced.
    pub(super) fn want_barrier(&mut self) {
        self.barrier_wanted |= self.synced >= self.barrier;
    }

    /// Whether a barrier is to be written now.
    pub(super) fn is_barrier_wanted(&self) -> bool {
        self.barrier_wanted
    }

    /// Whether the change with this ticket, and all before it, are synced, but for those that failed.
    pub(super) fn is_synced(&self, ticket: u64) -> bool {
        self.synced >= ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &[u8]) -> Place {
        Place::Entry(NamespaceSlot(0), KeyHash(1), key.into())
    }

    #[test]
    fn what_failed_is_failed_until_it_is_given_again_and_costs_nothing_when_all_is_stored() {
        let mut log = Log::default();
        for key in [b"a", b"b", b"c"] {
            let ticket = log.next();
            log.follow(ticket, false, place(key));
        }
        log.on_stored(1);
        assert_eq!(log.on_failed(2), 2);
        assert!(!log.is_failed(&place(b"a")) && log.is_failed(&place(b"b")) && log.is_failed(&place(b"c")));
        // A later one that the driver kept says nothing of those.
        let ticket = log.next();
        log.follow(ticket, false, place(b"d"));
        log.on_stored(ticket);
        assert!(log.is_failed(&place(b"b")));
        let again = log.take_failed(9);
        assert_eq!(again, [place(b"b"), place(b"c")]);
        for place in again {
            let ticket = log.next();
            log.follow(ticket, false, place);
        }
        log.on_stored(log.last());
        assert_eq!((log.failed(), log.out(), log.bytes(), log.stored()), (0, 0, 0, 6));
    }

    #[test]
    fn a_new_write_of_what_failed_takes_its_place() {
        let mut log = Log::default();
        let first = log.next();
        log.follow(first, false, place(b"a"));
        assert_eq!(log.on_failed(first), 1);
        let second = log.next();
        log.follow(second, false, place(b"a"));
        assert!(!log.is_failed(&place(b"a")) && log.out() == 1);
        assert_eq!(log.on_failed(second), 1);
        assert!(log.is_failed(&place(b"a")), "nor was that kept");
        let third = log.next();
        log.follow(third, false, place(b"a"));
        log.on_stored(third);
        assert_eq!((log.failed(), log.bytes()), (0, 0));
    }

    #[test]
    fn a_tombstone_is_synced_when_a_later_barrier_is() {
        let mut log = Log::default();
        let deleted = log.next();
        log.follow(deleted, false, place(b"a"));
        log.wrote_tombstone(KeyHash(1), deleted);
        log.on_stored(deleted);
        assert!(!log.is_tombstone_synced(KeyHash(1), &place(b"a")), "stored is not synced");
        log.want_barrier();
        assert!(log.is_barrier_wanted());
        let barrier = log.next();
        log.follow(barrier, true, Place::Barrier);
        log.want_barrier();
        assert!(!log.is_barrier_wanted(), "one is on its way");
        assert!(!log.is_tombstone_synced(KeyHash(1), &place(b"a")));
        log.on_stored(barrier);
        assert!(log.is_tombstone_synced(KeyHash(1), &place(b"a")));
    }

    #[test]
    fn what_was_restored_is_synced_with_the_first_barrier_only() {
        let mut log = Log::default();
        log.distrust();
        assert!(!log.is_tombstone_synced(KeyHash(1), &place(b"a")));
        log.want_barrier();
        let barrier = log.next();
        log.follow(barrier, true, Place::Barrier);
        log.on_stored(barrier);
        assert!(log.is_tombstone_synced(KeyHash(1), &place(b"a")));
    }

    #[test]
    fn a_failed_barrier_is_written_again() {
        let mut log = Log::default();
        log.want_barrier();
        let barrier = log.next();
        log.follow(barrier, true, Place::Barrier);
        log.on_failed(barrier);
        assert_eq!(log.take_failed(9), [Place::Barrier]);
        assert!(!log.is_synced(barrier));
    }

    #[test]
    fn more_tombstones_than_are_remembered_wait_for_one_barrier_together() {
        let mut log = Log::default();
        for hash in 0..=TOMBSTONES_MAX as u64 {
            let ticket = log.next();
            log.wrote_tombstone(KeyHash(hash), ticket);
        }
        assert!(!log.is_tombstone_synced(KeyHash(1), &place(b"a")) && log.is_barrier_wanted());
        let barrier = log.next();
        log.follow(barrier, true, Place::Barrier);
        log.on_stored(barrier);
        assert!(log.is_tombstone_synced(KeyHash(1), &place(b"a")));
    }
}
