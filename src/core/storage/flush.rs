//! Flushed namespaces: what has a version up to a mark is not there any more (PROTOCOL §4 "Flush").
//!
//! What it promises: from `flush` on nothing at or below the mark is found, listed, put or adopted, whatever brings it; what is
//! above stays. The mark only rises, and counts as a forget floor of every partition (`floors`), so that whoever asks for or sends
//! something old is told how much was forgotten. Its memory is given back by and by (`work`), one partition's table at a
//! time; until then such records are in the trees, as those of other owners are that have not swept yet. Shown by the tests below and
//! `testing::flushes`.

use super::{Evicted, NamespaceSlot, floors::Floors, memtable::Memtable, record::Header};
use crate::{
    canary::canary,
    id::{ActorId, PartitionId},
    value::{Hlc, Version},
};

/// Whose the highest version is that a mark covers: nobody's.
pub(crate) const FLUSHED: ActorId = ActorId(u64::MAX);

/// The highest version that a mark covers.
fn covers(mark: Hlc) -> Version {
    if mark == Hlc::default() { Version::ZERO } else { Version { hlc: mark, actor: FLUSHED } }
}

impl Memtable {
    /// Empties a declared namespace of what has a version up to `mark`; whether the mark rose.
    pub fn flush(&mut self, slot: NamespaceSlot, mark: Hlc) -> bool {
        let namespace = self.namespaces[usize::from(slot.0)].as_mut();
        let namespace = namespace.expect("a namespace is declared before its first use");
        if mark <= namespace.mark {
            return false;
        }
        (namespace.mark, namespace.swept) = (mark, Some(0));
        self.flushing = true;
        true
    }

    /// The version up to which a namespace was flushed.
    #[inline]
    pub(crate) fn flushed(&self, slot: NamespaceSlot) -> Version {
        if canary!(K18) {
            return Version::ZERO;
        }
        covers(self.namespaces.get(usize::from(slot.0)).copied().flatten().map_or(Hlc::default(), |known| known.mark))
    }

    /// Whether a version of a namespace is covered by its mark.
    #[inline]
    pub(super) fn is_void(&self, namespace: u16, hlc: u64) -> bool {
        self.namespaces[usize::from(namespace)].is_some_and(|known| hlc <= known.mark.0 && known.mark > Hlc::default())
    }

    /// The forget floors of a namespace in a partition; what was flushed was forgotten by all.
    pub fn floors(&self, slot: NamespaceSlot, partition: PartitionId) -> Floors {
        let row = self.floors.row(slot, self.placement.local_partition(partition));
        Floors { tombstone: row.tombstone.max(self.flushed(slot)), ..row }
    }

    /// Gives memory of flushed namespaces back; whether there is more to do. A table of a partition is walked at once.
    pub(super) fn sweep_flushed(&mut self, budget: &mut usize) -> bool {
        if !self.flushing {
            return false;
        }
        for slot in 0..self.namespaces.len() {
            while let Some(local) = self.namespaces[slot].and_then(|known| known.swept) {
                if *budget == 0 {
                    return true;
                }
                let walked = self.sweep_flushed_in(u16::try_from(slot).expect("slots have 13 bits"), local);
                *budget = budget.saturating_sub(walked + 1);
                let next = Some(local + 1).filter(|next| *next < self.index.tables());
                self.namespaces[slot].as_mut().expect("it was read above").swept = next;
            }
        }
        self.flushing = false;
        false
    }

    fn sweep_flushed_in(&mut self, slot: u16, local: usize) -> usize {
        let is_void = |memtable: &Self, namespace: u16, hlc: u64| namespace == slot && memtable.is_void(namespace, hlc);
        let (mut walked, mut void) = (0, Vec::new());
        for handle in self.index.values(local) {
            let header = Header::read(self.log.record(handle));
            walked += 1;
            if is_void(self, header.namespace(), header.hlc) {
                void.push(handle);
            }
        }
        for handle in void {
            self.drop_record(handle);
        }
        let ghosts = self.ghosts.of_partition(local).filter(|ghost| is_void(self, ghost.namespace, ghost.hlc));
        for hash in ghosts.map(|ghost| ghost.hash).collect::<Vec<u64>>() {
            walked += 1;
            self.drop_ghost(hash);
        }
        walked
    }

    /// Whether a ghost that another replica remembers is void here.
    pub(super) fn is_void_ghost(&self, slot: NamespaceSlot, ghost: &Evicted) -> bool {
        self.is_void(slot.0, ghost.version.hlc.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{KeyHash, ShardId},
        storage::{Lookup, MemtableConfig, Put},
        time::Wall,
        value::{Body, Entry},
    };

    const SLOT: NamespaceSlot = NamespaceSlot(0);
    const OTHER: NamespaceSlot = NamespaceSlot(1);
    const HELD: Put = Put::Applied { pin: None };

    fn table() -> Memtable {
        let mut table =
            Memtable::new(MemtableConfig { limit: 1 << 20, partitions: 4, shards: 1, shard: ShardId(0), seed: 1 });
        table.namespace(SLOT, true, 3);
        table.namespace(OTHER, false, 2);
        table
    }

    fn hash(key: u64) -> KeyHash {
        KeyHash(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn put(table: &mut Memtable, slot: NamespaceSlot, key: u64, at: u64) -> Put {
        let version = Version { hlc: Hlc(at), actor: ActorId(1) };
        let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(b"value") };
        table.put(Wall(1), slot, hash(key), &key.to_be_bytes(), &entry, false)
    }

    fn found(table: &Memtable, slot: NamespaceSlot, key: u64) -> Option<u64> {
        match table.peek(slot, hash(key), &key.to_be_bytes()) {
            Lookup::Found(entry) => Some(entry.version.hlc.0),
            Lookup::Ghost(_) | Lookup::Absent => None,
        }
    }

    fn listed(table: &Memtable) -> usize {
        let mut count = 0;
        for partition in (0..4).map(PartitionId) {
            table.scan_partition(partition, |_| count += 1);
            (2..=3).for_each(|copies| table.visit_tree(copies, partition, |_| count += 1));
            assert!((2..=3).all(|copies| table.audit(copies, partition)));
        }
        count
    }

    #[test]
    fn what_is_at_or_below_the_mark_is_gone_before_its_memory_is() {
        let mut table = table();
        for key in 0..100 {
            assert_eq!(put(&mut table, SLOT, key, 10 + key % 2), HELD);
            assert_eq!(put(&mut table, OTHER, key, 5), HELD);
        }
        assert!(table.flush(SLOT, Hlc(10)) && !table.flush(SLOT, Hlc(10)) && !table.flush(SLOT, Hlc(9)));
        for swept in [false, true] {
            assert_eq!(
                (found(&table, SLOT, 2), found(&table, SLOT, 3), found(&table, OTHER, 2)),
                (None, Some(11), Some(5))
            );
            assert_eq!(table.by_hash(SLOT, hash(2)), None);
            assert_eq!((listed(&table), table.stats().entries), (300, if swept { 150 } else { 200 }));
            let refused =
                Put::Superseded { version: Version { hlc: Hlc(10), actor: ActorId(u64::MAX) }, hold_until: None };
            assert_eq!((put(&mut table, SLOT, 2, 10), put(&mut table, SLOT, 9_999, 3)), (refused, refused));
            assert_eq!(table.floors(SLOT, PartitionId(3)).tombstone.hlc, Hlc(10));
            while table.work(Wall(1), 1) {}
        }
    }

    #[test]
    fn a_newer_write_takes_the_place_of_a_void_one_and_the_sweep_leaves_it() {
        let mut table = table();
        assert_eq!(put(&mut table, SLOT, 1, 10), HELD);
        table.flush(SLOT, Hlc(20));
        assert_eq!(put(&mut table, SLOT, 1, 21), HELD);
        assert_eq!((found(&table, SLOT, 1), table.stats().entries), (Some(21), 1));
        while table.work(Wall(1), 1) {}
        assert_eq!((found(&table, SLOT, 1), listed(&table)), (Some(21), 2));
    }

    #[test]
    fn a_mark_that_rises_during_the_sweep_begins_it_again() {
        let mut table = table();
        (0..100).for_each(|key| assert_eq!(put(&mut table, SLOT, key, key + 1), HELD));
        table.flush(SLOT, Hlc(50));
        table.work(Wall(1), 1);
        table.flush(SLOT, Hlc(100));
        while table.work(Wall(1), 1) {}
        assert_eq!((table.stats().entries, listed(&table)), (0, 0));
    }
}
