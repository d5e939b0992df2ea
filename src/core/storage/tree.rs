//! What a memtable tells those that compare themselves with it: trees, and the entries and ghosts behind them.
//!
//! The trees are kept in place wherever a record comes, goes or becomes a ghost (`tree_add`, `tree_remove`); here are those
//! two and the reading side. Invariant, held against the records by `audit`: every record and ghost is in its tree, and
//! nothing else is. By time a record leaves the tree when it leaves the memtable, and both happen at a step (`gone_at`);
//! until the sweep is through with the newest step, the trees are of no moment at all (`trees_at`), and nobody compares.

use super::{
    Floors, NamespaceSlot,
    changes::Changed,
    memtable::Memtable,
    record::Header,
    segments::{Handle, handle},
};
use crate::{
    anti_entropy::merkle::{STEP_MS, entry_hash, leaf_of},
    id::{KeyHash, PartitionId},
    time::Wall,
    value::{Entry, Hlc, Version},
};

/// How an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// With its value.
    Value,
    /// As a tombstone.
    Tombstone,
    /// Evicted; its ghost remembers the version.
    Ghost,
}

/// Some trees of a partition: those of namespaces with up to so many copies. Of all owners of a partition the first ones have those
/// of fewer copies, so what a node does not own of it is always of this form.
pub(crate) type LowTrees = (PartitionId, u8);

/// Whatever the number of copies: the whole partition.
pub(crate) const ALL_COPIES: u8 = u8::MAX;

/// One summand of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeItem {
    pub(crate) slot: NamespaceSlot,
    pub(crate) hash: KeyHash,
    pub(crate) version: Version,
    pub(crate) entry_hash: u64,
    pub(crate) holding: Holding,
    /// When it leaves the tree; `Wall(u64::MAX)`: not by time.
    pub(crate) gone_at: Wall,
    /// Of a tombstone that was stored as one: when.
    pub(crate) since: Option<Wall>,
}

impl Memtable {
    pub(super) fn entry_hash(&self, header: &Header, record: &[u8]) -> u64 {
        let version = Version { hlc: Hlc(header.hlc), actor: self.actors.resolve(header.actor()) };
        entry_hash(KeyHash(header.hash), version, header.expires_at(record), header.hold_until(record))
    }

    pub(super) fn copies_of(&self, namespace: u16) -> u8 {
        self.namespaces[usize::from(namespace)].expect("a namespace is declared before its first use").copies
    }

    /// The record at `handle` was written.
    pub(super) fn tree_add(&mut self, handle: Handle) {
        let record = self.log.record(handle);
        let header = Header::read(record);
        let entry = self.entry_hash(&header, record);
        self.trees.add(self.copies_of(header.namespace()), self.placement.local(header.hash), header.hash, entry);
        self.note_held(&header, handle);
    }

    /// A record or ghost of this hash is about to go.
    pub(super) fn tree_remove(&mut self, namespace: u16, hash: u64, entry_hash: u64) {
        self.trees.remove(self.copies_of(namespace), self.placement.local(hash), hash, entry_hash);
    }

    /// A namespace turns out to have another number of copies: its entries change trees. Linear in all entries.
    pub(super) fn retree(&mut self, namespace: u16, from: u8, to: u8) {
        for local in 0..self.index.tables() {
            let mut found: Vec<(u64, u64)> = Vec::new();
            for handle in self.index.values(local) {
                let record = self.log.record(handle);
                let header = Header::read(record);
                if header.namespace() == namespace {
                    found.push((header.hash, self.entry_hash(&header, record)));
                }
            }
            let ghosts = self.ghosts.of_partition(local).filter(|ghost| ghost.namespace == namespace);
            found.extend(ghosts.map(|ghost| (ghost.hash, ghost.entry_hash)));
            for (hash, entry) in found {
                self.trees.add(to, local, hash, entry);
                self.trees.remove(from, local, hash, entry);
            }
        }
    }

    /// The wall time of the newest call that brought one.
    pub(crate) fn told(&self) -> Wall {
        self.wall
    }

    /// As of which step of wall time the trees are; `None` while something that ended by then is still in them.
    pub(crate) fn trees_at(&self, wall: Wall) -> Option<u64> {
        let step = wall.0 / STEP_MS;
        (!self.sweep.has_due(step * STEP_MS) && !self.ghosts.is_due(wall.0)).then_some(step)
    }

    /// The root of the tree of namespaces with `copies` copies in `partition`.
    pub(crate) fn root(&self, copies: u8, partition: PartitionId) -> u64 {
        self.trees.root(copies, self.placement.local_partition(partition))
    }

    /// Its leaves, folded to at most `2^bits`.
    pub(crate) fn leaves(&self, copies: u8, partition: PartitionId, bits: u32) -> Vec<u64> {
        self.trees.leaves(copies, self.placement.local_partition(partition), bits)
    }

    /// The leaves of the trees of a partition with at least so many copies, folded to at most `2^bits` and summed; empty if there
    /// is nothing in them.
    pub(crate) fn leaf_sums(&self, (partition, copies): (PartitionId, u8), bits: u32) -> Vec<u64> {
        let held = |copies: &u8| self.root(*copies, partition) != 0;
        let trees = (copies..=self.copies_max()).filter(held).map(|copies| self.leaves(copies, partition, bits));
        let sum = |sums: Vec<u64>, leaves: Vec<u64>| sums.iter().zip(leaves).map(|(a, b)| a.wrapping_add(b)).collect();
        trees.reduce(sum).unwrap_or_default()
    }

    /// Binary logarithm of the leaves of each tree here.
    pub(crate) fn leaf_bits(&self) -> u32 {
        self.trees.leaf_bits()
    }

    /// In which of `2^bits` leaves a key hash lies.
    pub(crate) fn leaf_of(&self, hash: KeyHash, bits: u32) -> usize {
        leaf_of(hash.0, self.trees.partition_bits(), bits)
    }

    /// How many copies a namespace has.
    pub(crate) fn copies(&self, slot: NamespaceSlot) -> u8 {
        self.copies_of(slot.0)
    }

    /// Smallest number of copies of any namespace.
    pub(crate) fn copies_min(&self) -> u8 {
        self.namespaces.iter().flatten().map(|known| known.copies).min().unwrap_or(1)
    }

    /// Largest number of copies of any namespace so far.
    pub(crate) fn copies_max(&self) -> u8 {
        self.trees.copies_max()
    }

    /// Calls `visit` with every summand of a tree that is not void, in no meaningful order (but the same after the same
    /// history). Walks the whole partition.
    pub(crate) fn visit_tree(&self, copies: u8, partition: PartitionId, mut visit: impl FnMut(TreeItem)) {
        self.visit_summands(copies, partition, |item| {
            if !self.flushing || !self.is_void(item.slot.0, item.version.hlc.0) {
                visit(item);
            }
        });
    }

    /// As `visit_tree`, with void ones.
    fn visit_summands(&self, copies: u8, partition: PartitionId, mut visit: impl FnMut(TreeItem)) {
        let local = self.placement.local_partition(partition);
        for handle in self.index.values(local) {
            let record = self.log.record(handle);
            let header = Header::read(record);
            if self.copies_of(header.namespace()) != copies {
                continue;
            }
            visit(TreeItem {
                slot: NamespaceSlot(header.namespace()),
                hash: KeyHash(header.hash),
                version: Version { hlc: Hlc(header.hlc), actor: self.actors.resolve(header.actor()) },
                entry_hash: self.entry_hash(&header, record),
                holding: if header.is_tombstone() { Holding::Tombstone } else { Holding::Value },
                gone_at: Wall(header.gone_at(record)),
                since: header.since(record),
            });
        }
        for ghost in self.ghosts.of_partition(local) {
            if self.copies_of(ghost.namespace) != copies {
                continue;
            }
            visit(TreeItem {
                slot: NamespaceSlot(ghost.namespace),
                hash: KeyHash(ghost.hash),
                version: self.ghost_version(ghost),
                entry_hash: ghost.entry_hash,
                holding: Holding::Ghost,
                gone_at: Wall(ghost.gone_at()),
                since: None,
            });
        }
    }

    /// The record under a key hash, for who knows no more of it.
    pub(super) fn find_by_hash(&self, slot: NamespaceSlot, hash: KeyHash) -> Option<Handle> {
        let is_it = |handle| {
            let header = Header::read(self.log.record(handle));
            header.hash == hash.0 && header.namespace() == slot.0
        };
        self.index.find(self.placement.local(hash.0), hash.0, is_it)
    }

    /// Key and entry under a key hash, with the entry's hash in the tree.
    pub(crate) fn by_hash(&self, slot: NamespaceSlot, hash: KeyHash) -> Option<(&[u8], Entry<'_>, u64)> {
        let handle = self.find_by_hash(slot, hash)?;
        let record = self.log.record(handle);
        let header = Header::read(record);
        if self.flushing && self.is_void(slot.0, header.hlc) {
            return None;
        }
        let entry = header.entry(record, self.actors.resolve(header.actor()));
        Some((header.key(record), entry, self.entry_hash(&header, record)))
    }

    /// Drops the tombstone under a key hash, if its hash in the tree is this one; whether it was. All owners agreed to that:
    /// no floor rises.
    pub(crate) fn collect(&mut self, slot: NamespaceSlot, hash: KeyHash, expected: u64) -> bool {
        self.drop_known(slot, hash, (expected, true))
    }

    /// Drops the value under a key hash, if its hash in the tree is this one; whether it was. It counts as evicted.
    pub(crate) fn forget(&mut self, slot: NamespaceSlot, hash: KeyHash, version: Version, expected: u64) -> bool {
        let dropped = self.drop_known(slot, hash, (expected, false));
        if dropped {
            self.stats.evictions += 1;
            let floors = Floors { evicted: version, tombstone: Version::ZERO };
            self.raise_floors(slot, self.placement.partition(self.placement.local(hash.0)), floors);
        }
        dropped
    }

    fn drop_known(&mut self, slot: NamespaceSlot, hash: KeyHash, (expected, tombstone): (u64, bool)) -> bool {
        let is_it = |handle| {
            let record = self.log.record(handle);
            let header = Header::read(record);
            let same = header.hash == hash.0 && header.namespace() == slot.0 && header.is_tombstone() == tombstone;
            same && !header.is_pinned() && self.entry_hash(&header, record) == expected
        };
        let local = self.placement.local(hash.0);
        let Some(handle) = self.index.find(local, hash.0, is_it) else { return false };
        self.drop_record(handle);
        self.settle();
        true
    }

    /// Drops what this shard no longer owns of a partition: namespaces of up to so many copies, and what is known to have been
    /// forgotten of them. Who holds them goes on without this copy; when it is theirs again it takes over their floors. With its own it
    /// would refuse what is as old. `noted`: whether the disk is to be told of each key.
    pub(crate) fn remove_trees(&mut self, (partition, copies): LowTrees, noted: bool) {
        let changed = self.changes.len();
        let local = self.placement.local_partition(partition);
        if self.copies_max() <= copies {
            for handle in self.index.take(local) {
                self.note_gone_at(handle);
                self.forget_record(handle);
            }
            for ghost in self.ghosts.take_partition(local) {
                self.tree_remove(ghost.namespace, ghost.hash, ghost.entry_hash);
                self.actors.release(ghost.actor);
            }
        } else {
            let goes = |namespace: u16| self.copies_of(namespace) <= copies;
            let records = self.index.values(local);
            let records = records.filter(|handle| goes(Header::read(self.log.record(*handle)).namespace()));
            let ghosts = self.ghosts.of_partition(local).filter(|ghost| goes(ghost.namespace));
            let (records, ghosts): (Vec<_>, Vec<_>) = (records.collect(), ghosts.map(|ghost| ghost.hash).collect());
            records.into_iter().for_each(|handle| self.drop_record(handle));
            for hash in ghosts {
                self.drop_ghost(hash);
            }
        }
        if !noted {
            self.changes.truncate(changed);
        }
        for slot in 0..self.namespaces.len() {
            if self.namespaces[slot].is_some_and(|known| known.copies <= copies) {
                self.reset_floors(u16::try_from(slot).expect("slots have 13 bits"), local);
            }
        }
        self.settle();
    }

    /// Drops all records, segment by segment so that each frees what it took before the next one is looked at; `gone` is told the keys that
    /// a disk holds. Ghosts and floors stay.
    pub(crate) fn remove_records(&mut self, mut gone: impl FnMut(Vec<Changed>)) {
        for slot in 0..self.log.slots() {
            let (mut at, generation) = (0, self.log.segment(slot).generation);
            while self.log.segment(slot).generation == generation && at < self.log.segment(slot).used {
                let handle = handle(slot, at);
                let header = Header::read(self.log.record(handle));
                at += header.capacity();
                if !header.is_dead() {
                    self.drop_record(handle);
                }
            }
            gone(self.take_changes());
        }
        self.settle();
    }

    /// Drops the ghost under a key hash; whether there was one.
    pub(super) fn drop_ghost(&mut self, hash: u64) -> bool {
        let Some(ghost) = self.ghosts.remove(hash) else { return false };
        self.tree_remove(ghost.namespace, hash, ghost.entry_hash);
        self.actors.release(ghost.actor);
        true
    }

    /// The version a ghost remembers under a key hash.
    pub(crate) fn ghost_by_hash(&self, hash: KeyHash) -> Option<Version> {
        self.ghosts.lookup(hash.0).map(|ghost| self.ghost_version(ghost))
    }

    /// Recomputes a partition's tree from the data; whether it agrees. Walks the partition.
    pub(crate) fn audit(&self, copies: u8, partition: PartitionId) -> bool {
        let bits = self.trees.leaf_bits();
        let mut leaves = vec![0u64; 1 << bits];
        self.visit_summands(copies, partition, |item| {
            let leaf = &mut leaves[self.leaf_of(item.hash, bits)];
            *leaf = leaf.wrapping_add(item.entry_hash);
        });
        self.leaves(copies, partition, bits) == leaves
    }
}
