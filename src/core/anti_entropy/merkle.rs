//! Trees: what a replica holds of a partition, as sums of entry hashes (PROTOCOL §3 `hash`, §6 "Anti-entropy").
//!
//! A tree has up to 256 leaves, each the wrapping sum of the hashes of the entries whose key hash falls into it, and a
//! root, the sum of its leaves. A sum needs no order and changes in O(1) with every put, so trees are kept in place and
//! never rebuilt. Namespaces with fewer copies have fewer owners: each number of copies has trees of its own, or two
//! replicas could never be equal. Invariants: a tree is exactly the sum over the records and ghosts of its partition
//! (storage's audit); leaves are allocated for partitions with entries only. How many leaves there are follows from the
//! memory limit; nodes that differ in it compare at the smaller number, since leaves are ranges of key hashes.
//!
//! An entry's hash leaves at a wall time that all replicas compute alike (`gone_at`), in steps of 16 s: between two steps
//! no clock matters, and trees are compared only when both sides are through with the same step. Not here: who compares.

use crate::{id::KeyHash, time::Wall, value::Version};

/// How entries are hashed and listed. Replicas that differ in it do not compare: to them everything would differ.
pub(crate) const HASH_VERSION: u8 = 3;
/// Hashes leave trees at multiples of this: milliseconds of wall time.
pub(crate) const STEP_MS: u64 = 16_000;
/// Most leaves of a tree.
const LEAVES_MAX: u64 = 256;
/// Trees of a partition each take at most this share of the memory together, one in …
const TREES_SHARE: u64 = 64;

/// When an entry that ends at `end` is gone from every tree and replica: a minute later, at the next step.
pub(crate) fn gone_at(end: Wall, grace_ms: u64) -> Wall {
    let late = end.0.saturating_add(grace_ms);
    Wall(late.checked_next_multiple_of(STEP_MS).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_possible_truncation, reason = "both halves of the product are taken")]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The hash of an entry: of its key, version and ends, never of its value, its kind or the time. An entry that ended and
/// is held on as a tombstone keeps its hash. 64 bits: two replicas that differ are missed once in 2^64 comparisons.
pub(crate) fn entry_hash(hash: KeyHash, version: Version, expires_at: Option<Wall>, hold_until: Option<Wall>) -> u64 {
    let end = |end: Option<Wall>| end.map_or(0x5bd1_e995_7b93_a3c1, |at| at.0);
    let key = mix(hash.0 ^ 0x9e37_79b9_7f4a_7c15, version.hlc.0 ^ 0xc2b2_ae3d_27d4_eb4f);
    let write = mix(version.actor.0 ^ 0x1656_67b1_9e37_79f9, key ^ 0x2722_0a95_fe93_3dbd);
    let ends = mix(end(expires_at) ^ 0x27d4_eb2f_1656_67c5, end(hold_until) ^ 0x94d0_49bb_1331_11eb);
    mix(write ^ 0xbf58_476d_1ce4_e5b9, ends ^ key)
}

/// The root of the tree that `name` stands for, as part of one sum over many; zero, of an empty tree, adds nothing.
pub(crate) fn named(root: u64, name: u64) -> u64 {
    if root == 0 { 0 } else { mix(root ^ 0x1656_67b1_9e37_79f9, name ^ 0x9e37_79b9_7f4a_7c15) }
}

/// As [`entry_hash`], of a whole entry.
#[cfg(test)]
pub(crate) fn hash_of(hash: KeyHash, entry: &crate::value::Entry<'_>) -> u64 {
    entry_hash(hash, entry.version, entry.expires_at, entry.hold_until)
}

/// The leaf of `hash` in a tree of `2^leaf_bits` leaves of one of `2^partition_bits` partitions.
pub(crate) fn leaf_of(hash: u64, partition_bits: u32, leaf_bits: u32) -> usize {
    if leaf_bits == 0 {
        return 0;
    }
    usize::try_from((hash << partition_bits) >> (64 - leaf_bits)).expect("at most eight bits remain")
}

/// Leaves as they travel.
pub(crate) fn to_bytes(leaves: &[u64]) -> Vec<u8> {
    leaves.iter().flat_map(|leaf| leaf.to_be_bytes()).collect()
}

/// Leaves that arrived, folded to at most `2^bits`; `None`: they are not those of a tree.
pub(crate) fn from_bytes(leaves: &[u8], bits: u32) -> Option<Vec<u64>> {
    let count = leaves.len() / 8;
    if !count.is_power_of_two() || count as u64 > LEAVES_MAX || !leaves.len().is_multiple_of(8) {
        return None;
    }
    let fold = |part: &[u8]| {
        let words = part.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().unwrap_or_default()));
        words.fold(0u64, u64::wrapping_add)
    };
    Some(leaves.chunks(leaves.len() >> count.ilog2().min(bits)).map(fold).collect())
}

#[derive(Debug, Default)]
struct Tree {
    root: u64,
    entries: u32,
    leaves: Option<Box<[u64]>>,
}

/// The trees of one shard, by number of copies and the shard's own number of a partition.
#[derive(Debug)]
pub(crate) struct Trees {
    tables: usize,
    partition_bits: u32,
    leaf_bits: u32,
    /// By copies, less one; empty where no namespace has so many.
    classes: Vec<Vec<Tree>>,
    bytes: u64,
}

impl Trees {
    /// No trees yet, of `tables` partitions out of `partitions`, that suit a memory limit of `limit` bytes.
    pub(crate) fn new(limit: u64, partitions: u16, tables: usize) -> Self {
        let fitting = limit / TREES_SHARE / 8 / (tables.max(1) as u64);
        let leaf_bits = fitting.clamp(1, LEAVES_MAX).ilog2();
        Self { tables, partition_bits: partitions.trailing_zeros(), leaf_bits, classes: Vec::new(), bytes: 0 }
    }

    /// Bytes that declaring namespaces with so many copies adds.
    pub(crate) fn declare_growth(&self, copies: u8) -> u64 {
        let at = usize::from(copies.max(1)) - 1;
        match self.classes.get(at) {
            Some(class) if !class.is_empty() => 0,
            Some(_) | None => ((at + 1) * size_of::<Vec<Tree>>() + self.tables * size_of::<Tree>()) as u64,
        }
    }

    /// Namespaces have so many copies.
    pub(crate) fn declare(&mut self, copies: u8) {
        let at = usize::from(copies.max(1)) - 1;
        if self.classes.len() <= at {
            self.classes.reserve_exact(at + 1 - self.classes.len());
            self.classes.resize_with(at + 1, Vec::new);
        }
        if self.classes[at].is_empty() {
            self.bytes += (self.tables * size_of::<Tree>()) as u64;
            self.classes[at] = (0..self.tables).map(|_| Tree::default()).collect();
        }
    }

    fn tree_mut(&mut self, copies: u8, local: usize) -> &mut Tree {
        &mut self.classes[usize::from(copies.max(1)) - 1][local]
    }

    fn tree(&self, copies: u8, local: usize) -> Option<&Tree> {
        self.classes.get(usize::from(copies.max(1)) - 1)?.get(local)
    }

    /// Bytes that the first entry of a partition adds.
    #[inline]
    pub(crate) fn leaves_bytes(&self) -> u64 {
        8 << self.leaf_bits
    }

    /// An entry came.
    #[inline]
    pub(crate) fn add(&mut self, copies: u8, local: usize, hash: u64, entry: u64) {
        let (partition_bits, leaf_bits) = (self.partition_bits, self.leaf_bits);
        let tree = self.tree_mut(copies, local);
        let fresh = tree.leaves.is_none();
        let leaves = tree.leaves.get_or_insert_with(|| vec![0; 1 << leaf_bits].into());
        let leaf = &mut leaves[leaf_of(hash, partition_bits, leaf_bits)];
        *leaf = leaf.wrapping_add(entry);
        tree.root = tree.root.wrapping_add(entry);
        tree.entries += 1;
        if fresh {
            self.bytes += self.leaves_bytes();
        }
    }

    /// An entry that was added is gone.
    #[inline]
    pub(crate) fn remove(&mut self, copies: u8, local: usize, hash: u64, entry: u64) {
        let (partition_bits, leaf_bits) = (self.partition_bits, self.leaf_bits);
        let tree = self.tree_mut(copies, local);
        let leaves = tree.leaves.as_mut().expect("what is removed was added, and a tree with entries has leaves");
        let leaf = &mut leaves[leaf_of(hash, partition_bits, leaf_bits)];
        *leaf = leaf.wrapping_sub(entry);
        tree.root = tree.root.wrapping_sub(entry);
        tree.entries -= 1;
        if tree.entries == 0 {
            assert!(tree.root == 0, "a tree of no entries sums to nothing");
            tree.leaves = None;
            self.bytes -= self.leaves_bytes();
        }
    }

    /// The sum over a tree; zero without entries.
    #[inline]
    pub(crate) fn root(&self, copies: u8, local: usize) -> u64 {
        self.tree(copies, local).map_or(0, |tree| tree.root)
    }

    /// The leaves of a tree, folded to at most `2^bits`.
    pub(crate) fn leaves(&self, copies: u8, local: usize, bits: u32) -> Vec<u64> {
        let bits = bits.min(self.leaf_bits);
        let Some(leaves) = self.tree(copies, local).and_then(|tree| tree.leaves.as_deref()) else {
            return vec![0; 1 << bits];
        };
        let fold = |part: &[u64]| part.iter().fold(0u64, |sum, leaf| sum.wrapping_add(*leaf));
        leaves.chunks(1 << (self.leaf_bits - bits)).map(fold).collect()
    }

    /// Binary logarithm of the number of leaves.
    pub(crate) fn leaf_bits(&self) -> u32 {
        self.leaf_bits
    }

    /// Binary logarithm of the number of partitions.
    pub(crate) fn partition_bits(&self) -> u32 {
        self.partition_bits
    }

    /// Largest number of copies that has trees.
    pub(crate) fn copies_max(&self) -> u8 {
        u8::try_from(self.classes.len()).expect("copies are at most 8")
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + (self.classes.capacity() * size_of::<Vec<Tree>>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ActorId,
        rng::Rng,
        value::{Body, Entry, Hlc},
    };

    #[test]
    fn leaves_that_travelled_are_folded_to_fewer_and_are_refused_if_they_are_no_trees() {
        let leaves: Vec<u64> = (0..256).map(|at| u64::MAX - at).collect();
        let bytes = to_bytes(&leaves);
        assert_eq!(from_bytes(&bytes, 8).as_deref(), Some(&leaves[..]));
        assert_eq!(from_bytes(&bytes, 20).as_deref(), Some(&leaves[..]), "no more than there are");
        let halves = leaves.chunks(128).map(|half| half.iter().fold(0u64, |sum, leaf| sum.wrapping_add(*leaf)));
        assert_eq!(from_bytes(&bytes, 1), Some(halves.collect()));
        assert_eq!(from_bytes(&bytes[..8], 8), Some(vec![u64::MAX]));
        for length in [0, 1, 7, 9, 24, 2047] {
            assert_eq!(from_bytes(&bytes[..length], 8), None, "{length} bytes");
        }
        assert_eq!(from_bytes(&[0; 8 * 512], 8), None, "more than a tree has");
    }

    #[test]
    fn trees_of_different_width_agree_once_folded_and_whatever_the_order() {
        let mut rng = Rng::new(3);
        let (mut wide, mut narrow) = (Trees::new(1 << 30, 16, 16), Trees::new(40 << 10, 16, 16));
        assert!(wide.leaf_bits() > narrow.leaf_bits());
        wide.declare(3);
        narrow.declare(3);
        let entries: Vec<(u64, u64)> = (0..500).map(|_| (rng.next() >> 4, rng.next())).collect();
        entries.iter().for_each(|(hash, entry)| wide.add(3, 0, *hash, *entry));
        entries.iter().rev().for_each(|(hash, entry)| narrow.add(3, 0, *hash, *entry));
        let bits = narrow.leaf_bits();
        assert_eq!(wide.leaves(3, 0, bits), narrow.leaves(3, 0, bits));
        assert_eq!(wide.root(3, 0), narrow.root(3, 0));
        let full = wide.bytes();
        entries.iter().for_each(|(hash, entry)| wide.remove(3, 0, *hash, *entry));
        assert!(wide.root(3, 0) == 0 && wide.bytes() < full, "the last entry gives the leaves back");
    }

    #[test]
    fn a_hash_depends_on_every_part_but_the_body() {
        let version = Version { hlc: Hlc(7), actor: ActorId(1) };
        let entry = Entry { version, expires_at: Some(Wall(9)), hold_until: None, body: Body::Value(b"v") };
        let base = hash_of(KeyHash(1), &entry);
        assert_eq!(base, hash_of(KeyHash(1), &Entry { body: Body::Tombstone, ..entry }));
        let others = [
            hash_of(KeyHash(2), &entry),
            hash_of(KeyHash(1), &Entry { version: Version { hlc: Hlc(8), ..version }, ..entry }),
            hash_of(KeyHash(1), &Entry { version: Version { actor: ActorId(2), ..version }, ..entry }),
            hash_of(KeyHash(1), &Entry { expires_at: None, ..entry }),
            hash_of(KeyHash(1), &Entry { hold_until: Some(Wall(9)), ..entry }),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != base && !others[..at].contains(other), "{at}");
        }
    }

    #[test]
    fn replicas_whose_clocks_differ_compute_the_same_end() {
        assert_eq!(gone_at(Wall(0), 60_000), Wall(64_000));
        assert_eq!(gone_at(Wall(4_001), 60_000), Wall(80_000));
        assert_eq!(gone_at(Wall(u64::MAX), 60_000), Wall(u64::MAX));
    }
}
