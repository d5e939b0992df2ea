//! The index: per partition one table of 32-bit handles and no keys, 5 bytes a bucket.
//!
//! A table grows by doubling and only its own partition's entries move then, so the longest stall is one partition's.
//! Growth is announced (`growth`) before it happens, because it counts against the memory limit. Iteration order
//! follows from the history of calls alone: nothing here is seeded by chance.

use crate::id::{KeyHash, PartitionId, ShardId};
use hashbrown::HashTable;

/// Which of a shard's own tables a hash lies in: partition `p` of shard `p % shards` is its table `p / shards`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    partitions: u16,
    shards: u16,
    shard: u16,
}

impl Placement {
    pub(super) fn new(partitions: u16, shards: u16, shard: ShardId) -> Self {
        assert!(partitions.is_power_of_two(), "a ring has a power of two of partitions");
        assert!(shard.0 < shards, "shards are numbered from zero");
        Self { partitions, shards, shard: shard.0 }
    }

    #[inline]
    pub(super) fn local(self, hash: u64) -> usize {
        let partition = KeyHash(hash).partition(self.partitions);
        debug_assert!(partition.0 % self.shards == self.shard, "{partition:?} is another shard's");
        usize::from(partition.0 / self.shards)
    }

    pub(super) fn local_partition(self, partition: PartitionId) -> usize {
        assert!(partition.0 % self.shards == self.shard, "{partition:?} is another shard's");
        usize::from(partition.0 / self.shards)
    }

    /// The partition of a table.
    pub(super) fn partition(self, local: usize) -> PartitionId {
        PartitionId(u16::try_from(local).expect("as many tables as partitions") * self.shards + self.shard)
    }

    /// Tables a shard needs.
    pub(super) fn tables(self) -> usize {
        usize::from(self.partitions.div_ceil(self.shards))
    }
}

/// Tables of `u32`s found by a key's hash: handles of records, or sequence numbers of ghosts.
pub(super) struct Index {
    tables: Vec<HashTable<u32>>,
    bytes: u64,
}

/// The partition's bits lead every hash of one table; a multiplication spreads the others to the top, where the table
/// takes its tags from.
#[inline]
fn spread(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Index {
    pub(super) fn new(tables: usize) -> Self {
        let bytes = (tables * size_of::<HashTable<u32>>()) as u64;
        Self { tables: (0..tables).map(|_| HashTable::new()).collect(), bytes }
    }

    #[inline]
    pub(super) fn find(&self, local: usize, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.tables[local].find(spread(hash), |found| is_it(*found)).copied()
    }

    /// Upper bound of the bytes an insertion into this table may add; zero while it has room. The old table lives until
    /// the new one is filled, so its bytes are not given back here.
    pub(super) fn growth(&self, local: usize) -> u64 {
        let table = &self.tables[local];
        if table.len() < table.capacity() {
            return 0;
        }
        let buckets = (table.num_buckets() * 2).max(8) as u64;
        buckets * 5 + 64
    }

    /// Adds `value`, which is not in the table; `hash_of` gives the hash of any value in it.
    #[inline]
    pub(super) fn insert(&mut self, local: usize, hash: u64, value: u32, hash_of: impl Fn(u32) -> u64) {
        let table = &mut self.tables[local];
        if table.len() < table.capacity() {
            table.insert_unique(spread(hash), value, |other| spread(hash_of(*other)));
            return;
        }
        let before = table.allocation_size();
        table.insert_unique(spread(hash), value, |other| spread(hash_of(*other)));
        self.bytes = self.bytes + table.allocation_size() as u64 - before as u64;
    }

    /// Puts `new` where `old` is.
    pub(super) fn replace(&mut self, local: usize, hash: u64, old: u32, new: u32) {
        *self.tables[local].find_mut(spread(hash), |found| *found == old).expect("what is live is indexed") = new;
    }

    /// Removes `value`, which must be there.
    pub(super) fn remove(&mut self, local: usize, hash: u64, value: u32) {
        match self.tables[local].find_entry(spread(hash), |found| *found == value) {
            Ok(found) => drop(found.remove()),
            Err(_) => panic!("what is live is indexed"),
        }
    }

    /// All values of a table, in no meaningful order.
    pub(super) fn values(&self, local: usize) -> impl Iterator<Item = u32> + '_ {
        self.tables[local].iter().copied()
    }

    /// Empties a table and gives its memory back.
    pub(super) fn take(&mut self, local: usize) -> Vec<u32> {
        let table = std::mem::take(&mut self.tables[local]);
        self.bytes -= table.allocation_size() as u64;
        table.into_iter().collect()
    }

    /// Gives memory back where a table is at most an eighth full.
    pub(super) fn shrink(&mut self, local: usize, hash_of: impl Fn(u32) -> u64) {
        let table = &mut self.tables[local];
        if table.num_buckets() >= 16 && table.len() * 8 <= table.num_buckets() {
            let before = table.allocation_size();
            table.shrink_to(table.len() * 2, |other| spread(hash_of(*other)));
            self.bytes = self.bytes + table.allocation_size() as u64 - before as u64;
        }
    }

    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
