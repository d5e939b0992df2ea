//! Forget floors: what a shard admits to have forgotten, per namespace and partition (PROTOCOL §5).
//!
//! `evicted` (E) is the highest version evicted whose ghost is gone too; `tombstone` (T) the highest version of a
//! tombstone dropped without all owners' consent. Both only rise. They are not consulted here: whether an entry at or
//! below a floor is refused depends on who sent it, and that is the replica's rule.

use super::{NamespaceSlot, memtable::Memtable};
use crate::{id::PartitionId, value::Version};

/// Both floors of one namespace in one partition; [`Version::ZERO`]: nothing was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Floors {
    /// E: highest version evicted and no longer ghosted.
    pub evicted: Version,
    /// T: highest version of a tombstone dropped without consent.
    pub tombstone: Version,
}

/// All floors of one memtable: a dense row per declared evictable namespace.
#[derive(Default)]
pub(super) struct FloorTable {
    rows: Vec<Vec<Floors>>,
    bytes: u64,
}

impl FloorTable {
    /// Bytes that declaring `slot` adds.
    pub(super) fn growth(&self, slot: NamespaceSlot, partitions: usize) -> u64 {
        let slots = (usize::from(slot.0) + 1).saturating_sub(self.rows.len()) * size_of::<Vec<Floors>>();
        (slots * 2 + partitions * size_of::<Floors>()) as u64
    }

    pub(super) fn declare(&mut self, slot: NamespaceSlot, partitions: usize) {
        let at = usize::from(slot.0);
        if self.rows.len() <= at {
            self.rows.reserve_exact(at + 1 - self.rows.len());
            self.rows.resize_with(at + 1, Vec::new);
        }
        if self.rows[at].is_empty() {
            self.rows[at] = vec![Floors::default(); partitions];
        }
        let cells: usize = self.rows.iter().map(|row| row.capacity() * size_of::<Floors>()).sum();
        self.bytes = (cells + self.rows.capacity() * size_of::<Vec<Floors>>()) as u64;
    }

    pub(super) fn row(&self, slot: NamespaceSlot, local: usize) -> Floors {
        self.rows.get(usize::from(slot.0)).and_then(|row| row.get(local)).copied().unwrap_or_default()
    }

    /// Raises E; whether it rose.
    pub(super) fn raise_evicted(&mut self, slot: u16, local: usize, version: Version) -> bool {
        let floor = &mut self.rows[usize::from(slot)][local].evicted;
        let rises = version > *floor;
        *floor = (*floor).max(version);
        rises
    }

    /// Raises T; whether it rose.
    pub(super) fn raise_tombstone(&mut self, slot: u16, local: usize, version: Version) -> bool {
        let floor = &mut self.rows[usize::from(slot)][local].tombstone;
        let rises = version > *floor;
        *floor = (*floor).max(version);
        rises
    }

    /// Nothing was forgotten; whether that is news.
    fn reset(&mut self, slot: u16, local: usize) -> bool {
        let floors = self.rows.get_mut(usize::from(slot)).and_then(|row| row.get_mut(local));
        floors.is_some_and(|floors| std::mem::take(floors) != Floors::default())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Memtable {
    /// Whether T of a namespace is above zero in a partition.
    pub(crate) fn has_shed(&self, slot: NamespaceSlot, partition: PartitionId) -> bool {
        self.floors.row(slot, self.placement.local_partition(partition)).tombstone > Version::ZERO
    }

    /// What is dropped of a partition is forgotten as a whole: who holds it again has it from others, with what those forgot.
    pub(super) fn reset_floors(&mut self, slot: u16, local: usize) {
        if self.floors.reset(slot, local) {
            self.note_floor(slot, local);
        }
    }

    /// Takes over what another replica of the partition may have forgotten. Where nothing is evicted there are no floors.
    pub fn raise_floors(&mut self, slot: NamespaceSlot, partition: PartitionId, floors: Floors) {
        if self.is_evictable(slot.0) {
            let local = self.placement.local_partition(partition);
            let evicted = self.floors.raise_evicted(slot.0, local, floors.evicted);
            let tombstone = self.floors.raise_tombstone(slot.0, local, floors.tombstone);
            self.stats.evicted_floor_raised += u64::from(evicted);
            self.stats.tombstone_floor_raised += u64::from(tombstone);
            if evicted || tombstone {
                self.note_floor(slot.0, local);
            }
        }
    }
}
