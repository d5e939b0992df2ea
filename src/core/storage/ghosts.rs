//! Ghosts: what is remembered of evicted entries: key hash, version and entry hash (PROTOCOL §5).
//!
//! A ghost keeps a replica from taking an older version than the one it evicted, keeps the entry's hash in the
//! partition's tree, and tells S3-FIFO that a key came back. First in, first out, in chunks; at most 5 % of the limit.
//! Whoever drops a ghost raises the forget floor E by its version: the memtable does, this file only says which.

use super::{
    Evicted, NamespaceSlot,
    index::{Index, Placement},
    memtable::Memtable,
};
use crate::{
    anti_entropy::merkle::STEP_MS,
    id::{KeyHash, PartitionId},
    time::Wall,
};
use std::collections::{BTreeSet, VecDeque};

/// One evicted entry, 32 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ghost {
    pub(super) hash: u64,
    pub(super) hlc: u64,
    /// The entry's hash in the partition's tree.
    pub(super) entry_hash: u64,
    pub(super) actor: u16,
    pub(super) namespace: u16,
    /// In which step of the trees it ends; zero: this cell is empty.
    end: u32,
}

const NEVER: u32 = u32::MAX;

impl Ghost {
    /// `gone_at`: when the entry's hash leaves the tree, in wall milliseconds.
    pub(super) fn new(hash: u64, hlc: u64, entry_hash: u64, actor: u16, namespace: u16, gone_at: u64) -> Self {
        let end = u32::try_from(gone_at.div_ceil(STEP_MS)).unwrap_or(NEVER).max(1);
        Self { hash, hlc, entry_hash, actor, namespace, end }
    }

    /// When it is gone, in wall milliseconds; `u64::MAX`: not by time.
    pub(super) fn gone_at(&self) -> u64 {
        if self.end == NEVER { u64::MAX } else { u64::from(self.end) * STEP_MS }
    }

    fn is_live(&self) -> bool {
        self.end != 0
    }
}

const CHUNK: u32 = 128;
const CHUNK_BYTES: u64 = CHUNK as u64 * size_of::<Ghost>() as u64;

/// A FIFO map from key hash to ghost. Sequence numbers wrap; fewer than 2^31 are alive at once (5 % of a limit below
/// 1 TiB), so differences are exact.
pub(super) struct Ghosts {
    placement: Placement,
    index: Index,
    chunks: VecDeque<Box<[Ghost]>>,
    /// By chunk: no ghost in it ends before this step.
    ends: VecDeque<u32>,
    /// No ghost at all does.
    earliest: u32,
    /// Sequence number of the first cell of the first chunk.
    base: u32,
    /// Oldest and next sequence number.
    head: u32,
    tail: u32,
    live: u64,
    /// Trees (copies, and partition) in which a key's ghost was filled by the very version that it remembered.
    filled: BTreeSet<(u8, PartitionId)>,
}

impl Ghosts {
    pub(super) fn new(placement: Placement) -> Self {
        let index = Index::new(placement.tables());
        Self {
            placement,
            index,
            chunks: VecDeque::new(),
            ends: VecDeque::new(),
            earliest: NEVER,
            base: 0,
            head: 0,
            tail: 0,
            live: 0,
            filled: BTreeSet::new(),
        }
    }

    fn place(base: u32, sequence: u32) -> (usize, usize) {
        let distance = sequence.wrapping_sub(base);
        ((distance / CHUNK) as usize, (distance % CHUNK) as usize)
    }

    fn cell(chunks: &VecDeque<Box<[Ghost]>>, base: u32, sequence: u32) -> &Ghost {
        let (chunk, at) = Self::place(base, sequence);
        &chunks[chunk][at]
    }

    #[inline]
    fn find(&self, hash: u64) -> Option<u32> {
        if self.live == 0 {
            return None;
        }
        let is_it = |sequence| Self::cell(&self.chunks, self.base, sequence).hash == hash;
        self.index.find(self.placement.local(hash), hash, is_it)
    }

    /// The ghost of a key hash.
    #[inline]
    pub(super) fn lookup(&self, hash: u64) -> Option<&Ghost> {
        self.find(hash).map(|sequence| Self::cell(&self.chunks, self.base, sequence))
    }

    /// Forgets the ghost of `hash` because the key is held again; the caller owns its actor reference.
    pub(super) fn remove(&mut self, hash: u64) -> Option<Ghost> {
        let sequence = self.find(hash)?;
        Some(self.take(sequence))
    }

    fn take(&mut self, sequence: u32) -> Ghost {
        let (chunk, at) = Self::place(self.base, sequence);
        let cell = &mut self.chunks[chunk][at];
        let ghost = *cell;
        cell.end = 0;
        self.index.remove(self.placement.local(ghost.hash), ghost.hash, sequence);
        self.live -= 1;
        ghost
    }

    /// Bytes that one more ghost may add.
    pub(super) fn growth(&self, hash: u64) -> u64 {
        let full = Self::place(self.base, self.tail).0 >= self.chunks.len();
        self.index.growth(self.placement.local(hash)) + if full { CHUNK_BYTES + 384 } else { 0 }
    }

    /// Remembers an eviction. There is none of this hash yet.
    pub(super) fn push(&mut self, ghost: Ghost) {
        let (chunk, at) = Self::place(self.base, self.tail);
        if chunk >= self.chunks.len() {
            if self.chunks.len() == self.chunks.capacity() {
                self.chunks.reserve_exact(16 + self.chunks.len() / 8);
            }
            if self.ends.len() == self.ends.capacity() {
                self.ends.reserve_exact(self.chunks.capacity() - self.ends.len());
            }
            self.chunks.push_back(vec![Ghost::default(); CHUNK as usize].into());
            self.ends.push_back(NEVER);
        }
        self.chunks[chunk][at] = ghost;
        self.ends[chunk] = self.ends[chunk].min(ghost.end);
        self.earliest = self.earliest.min(ghost.end);
        let (chunks, base) = (&self.chunks, self.base);
        let hash_of = |sequence| Self::cell(chunks, base, sequence).hash;
        self.index.insert(self.placement.local(ghost.hash), ghost.hash, self.tail, hash_of);
        self.tail = self.tail.wrapping_add(1);
        self.live += 1;
    }

    /// Drops the oldest; the caller raises the floor and releases the actor.
    pub(super) fn pop(&mut self) -> Option<Ghost> {
        while self.head != self.tail {
            let sequence = self.head;
            let live = Self::cell(&self.chunks, self.base, sequence).is_live();
            let ghost = live.then(|| self.take(sequence));
            self.head = self.head.wrapping_add(1);
            if self.head.wrapping_sub(self.base) == CHUNK {
                self.chunks.pop_front();
                self.ends.pop_front();
                self.base = self.head;
            }
            if ghost.is_some() {
                return ghost;
            }
        }
        None
    }

    /// Gives all memory back once there is no ghost left.
    pub(super) fn release(&mut self) {
        if self.live == 0 {
            (self.chunks, self.ends, self.earliest) = (VecDeque::new(), VecDeque::new(), NEVER);
            (self.base, self.head) = (self.tail, self.tail);
            self.index = Index::new(self.placement.tables());
        }
    }

    /// Forgets all of a partition; the caller releases the actors.
    pub(super) fn take_partition(&mut self, local: usize) -> Vec<Ghost> {
        let sequences = self.index.take(local);
        self.live -= sequences.len() as u64;
        let base = self.base;
        let forget = |sequence: u32| {
            let (chunk, at) = Self::place(base, sequence);
            let cell = &mut self.chunks[chunk][at];
            let ghost = *cell;
            cell.end = 0;
            ghost
        };
        sequences.into_iter().map(forget).collect()
    }

    /// Whether a ghost may have ended by `wall`.
    pub(super) fn is_due(&self, wall: u64) -> bool {
        u64::from(self.earliest) <= wall / STEP_MS
    }

    /// Forgets ghosts of what has ended by `wall`, walking about `budget` of them; the caller releases their actors.
    pub(super) fn take_ended(&mut self, wall: u64, budget: &mut usize) -> Vec<Ghost> {
        let step = u32::try_from(wall / STEP_MS).unwrap_or(NEVER - 1);
        let mut ended = Vec::new();
        for chunk in 0..self.chunks.len() {
            if self.ends[chunk] > step {
                continue;
            }
            if *budget == 0 {
                return ended;
            }
            *budget = budget.saturating_sub(CHUNK as usize);
            let mut earliest = NEVER;
            for at in 0..CHUNK {
                let ghost = self.chunks[chunk][at as usize];
                if ghost.is_live() && ghost.end <= step {
                    let distance = u32::try_from(chunk).expect("a chunk's number fits a sequence") * CHUNK + at;
                    ended.push(self.take(self.base.wrapping_add(distance)));
                } else if ghost.is_live() {
                    earliest = earliest.min(ghost.end);
                }
            }
            self.ends[chunk] = earliest;
        }
        self.earliest = self.ends.iter().copied().min().unwrap_or(NEVER);
        ended
    }

    /// The ghosts of a partition, in no meaningful order.
    pub(super) fn of_partition(&self, local: usize) -> impl Iterator<Item = &Ghost> + '_ {
        self.index.values(local).map(|sequence| Self::cell(&self.chunks, self.base, sequence))
    }

    #[cfg(test)]
    pub(super) fn actors(&self) -> Vec<u16> {
        self.chunks.iter().flatten().filter(|ghost| ghost.is_live()).map(|ghost| ghost.actor).collect()
    }

    pub(super) fn shrink(&mut self, local: usize) {
        let (chunks, base) = (&self.chunks, self.base);
        self.index.shrink(local, |sequence| Self::cell(chunks, base, sequence).hash);
    }

    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn bytes(&self) -> u64 {
        self.index.bytes() + self.chunks.len() as u64 * CHUNK_BYTES + self.chunks.capacity() as u64 * 20
    }
}

impl Memtable {
    /// Calls `visit` with every ghost of a partition, in no meaningful order (but the same after the same history).
    pub(crate) fn scan_ghosts(&self, partition: PartitionId, mut visit: impl FnMut(NamespaceSlot, Evicted)) {
        for ghost in self.ghosts.of_partition(self.placement.local_partition(partition)) {
            let (version, gone_at) = (self.ghost_version(ghost), Wall(ghost.gone_at()));
            let evicted = Evicted { hash: KeyHash(ghost.hash), version, entry_hash: ghost.entry_hash, gone_at };
            if !self.flushing || !self.is_void(ghost.namespace, ghost.hlc) {
                visit(NamespaceSlot(ghost.namespace), evicted);
            }
        }
    }

    /// A ghost is filled by its own version. No sum of the tree changes, although what could not be given can be given now. Said
    /// of the version and not of the ghost: the room for the one may have taken the other.
    pub(super) fn note_filled(&mut self, slot: NamespaceSlot, hash: u64) {
        let partition = self.placement.partition(self.placement.local(hash));
        self.ghosts.filled.insert((self.copies_of(slot.0), partition));
    }

    /// The trees in which a ghost was filled by its own version since they were last taken.
    pub(crate) fn take_filled(&mut self) -> BTreeSet<(u8, PartitionId)> {
        std::mem::take(&mut self.ghosts.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardId;

    #[test]
    fn ghosts_of_what_ended_leave_at_their_step_and_no_other_does() {
        let mut ghosts = Ghosts::new(Placement::new(8, 1, ShardId(0)));
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 1..=1000 {
            let gone_at = if n % 3 == 0 { n * STEP_MS } else { u64::MAX };
            ghosts.push(Ghost::new(hash(n), n, 0, 0, 0, gone_at));
        }
        assert!(!ghosts.is_due(3 * STEP_MS - 1) && ghosts.is_due(3 * STEP_MS));
        let mut taken = 0;
        while ghosts.is_due(300 * STEP_MS) {
            taken += ghosts.take_ended(300 * STEP_MS, &mut 200).len();
        }
        assert_eq!((taken, ghosts.live()), (100, 900));
        assert!(ghosts.lookup(hash(300)).is_none() && ghosts.lookup(hash(303)).is_some());
    }

    #[test]
    fn ghosts_leave_in_the_order_they_came_and_removed_ones_are_skipped() {
        let mut ghosts = Ghosts::new(Placement::new(8, 2, ShardId(0)));
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !(1 << 61);
        // Wrapping sequence numbers are part of the test.
        (ghosts.base, ghosts.head, ghosts.tail) = (u32::MAX - 200, u32::MAX - 200, u32::MAX - 200);
        for n in 1..=1000 {
            ghosts.push(Ghost::new(hash(n), n, 0, 0, 0, u64::MAX));
        }
        assert!((1..=1000).all(|n| ghosts.lookup(hash(n)).is_some_and(|ghost| ghost.hlc == n)));
        assert_eq!(ghosts.remove(hash(2)).map(|ghost| ghost.hlc), Some(2));
        assert!(ghosts.lookup(hash(2)).is_none());
        let full = ghosts.bytes();
        let left: Vec<u64> = std::iter::from_fn(|| ghosts.pop()).map(|ghost| ghost.hlc).collect();
        assert_eq!(left, std::iter::once(1).chain(3..=1000).collect::<Vec<_>>());
        assert!(ghosts.live() == 0 && ghosts.bytes() < full);
    }
}
