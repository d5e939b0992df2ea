//! Who leaves with time: a bounded sweep over the segments that have something due.
//!
//! Each segment knows the earliest wall time at which one of its records is gone, a minute of grace included, and is
//! walked only then: a wheel as coarse as a segment. An entry that replaced one that would outlive it becomes a
//! tombstone instead and lasts until that one's end (PROTOCOL §5). Nothing here decides what a client sees.

use super::{
    memtable::Memtable,
    record::Header,
    segments::{Class, Handle, handle, slot_of},
};
use crate::time::Wall;

/// The least time between two passes, in milliseconds: many short TTLs must not make it walk all the time.
const PASS_MS: u64 = 1_000;

/// How far the sweep is.
pub(super) struct Sweep {
    /// No segment is due before this wall time, in milliseconds.
    due: u64,
    /// No pass begins before this one.
    not_before: u64,
    /// In a pass: the next slot, and the earliest time seen behind it.
    pass: Option<(u16, u64)>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { due: u64::MAX, not_before: 0, pass: None }
    }
}

impl Sweep {
    /// A record with this due time was written.
    pub(super) fn expect(&mut self, due: u64) {
        self.due = self.due.min(due);
        if let Some((_, earliest)) = &mut self.pass {
            *earliest = (*earliest).min(due);
        }
    }

    /// Whether a record that was due by `wall` may still be there.
    pub(super) fn has_due(&self, wall: u64) -> bool {
        self.due <= wall
    }
}

impl Memtable {
    /// Does background work: drops what has ended, evicts above 85 % of the limit, gives empty tables back. Walks about
    /// `records_max` records, but never less than one segment once it starts one. True: more is due now.
    pub fn work(&mut self, now: Wall, records_max: usize) -> bool {
        self.wall = now;
        let mut budget = records_max;
        let swept = self.sweep_flushed(&mut budget) | self.sweep_step(&mut budget);
        self.forget_ended_ghosts(&mut budget);
        let mut stuck = false;
        while budget > 0 && self.is_high() {
            let before = (self.stats.evictions, self.stats.moved_bytes);
            if !self.evict_in_background() {
                stuck = true;
                break;
            }
            let moved = (self.stats.moved_bytes - before.1) / 64;
            let walked = usize::try_from(self.stats.evictions - before.0 + moved).unwrap_or(usize::MAX);
            budget = budget.saturating_sub(walked.max(64));
        }
        // Ghosts of small values may for a while take more than their values gave.
        self.make_room(0);
        self.shrink_one();
        self.settle();
        swept || (!stuck && self.is_high())
    }

    fn sweep_step(&mut self, budget: &mut usize) -> bool {
        let now = self.wall.0;
        let (mut slot, mut earliest) = match self.sweep.pass {
            Some(pass) => pass,
            None if self.sweep.due <= now && self.sweep.not_before <= now => (0, u64::MAX),
            None => return false,
        };
        while slot < self.log.slots() {
            if *budget == 0 {
                self.sweep.pass = Some((slot, earliest));
                return true;
            }
            *budget -= 1;
            if self.log.segment(slot).due <= now {
                let walked = self.sweep_segment(slot);
                *budget = budget.saturating_sub(walked);
            }
            earliest = earliest.min(self.log.segment(slot).due);
            slot += 1;
        }
        self.sweep = Sweep { due: earliest, not_before: now.saturating_add(PASS_MS), pass: None };
        false
    }

    /// What was evicted and has ended by now protects nothing any more: no floor rises.
    fn forget_ended_ghosts(&mut self, budget: &mut usize) {
        if self.ghosts.is_due(self.wall.0) {
            for ghost in self.ghosts.take_ended(self.wall.0, budget) {
                self.tree_remove(ghost.namespace, ghost.hash, ghost.entry_hash);
                self.actors.release(ghost.actor);
            }
        }
    }

    fn sweep_segment(&mut self, slot: u16) -> usize {
        let generation = self.log.segment(slot).generation;
        let (mut at, mut walked, mut earliest) = (0, 0, u64::MAX);
        while at < self.log.segment(slot).used {
            let handle = handle(slot, at);
            let record = self.log.record(handle);
            let header = Header::read(record);
            let due = header.due(record);
            at += header.capacity();
            walked += 1;
            if header.is_dead() {
                continue;
            }
            if due > self.wall.0 {
                earliest = earliest.min(due);
            } else if self.after_end(&header, record) {
                self.bury_in_place(&header, handle);
                let record = self.log.record(handle);
                earliest = earliest.min(Header::read(record).due(record));
            } else {
                self.stats.expired += 1;
                self.drop_record(handle);
                if self.log.segment(slot).generation != generation {
                    return walked;
                }
            }
        }
        self.log.segment_mut(slot).due = earliest;
        walked
    }

    fn bury_in_place(&mut self, header: &Header, handle: Handle) {
        if header.is_pinned() {
            self.log.note_unpinned(handle, header.capacity());
        }
        self.count(header, false);
        let record = self.log.record_mut(handle);
        Header::read(record).bury(record);
        self.count(&Header::read(self.log.record(handle)), true);
        self.stats.expired += 1;
        if self.log.stands_alone(handle) {
            self.log.cut(handle);
            let class = if self.is_evictable(header.namespace()) { Class::Tombstones } else { Class::Held };
            self.log.requeue(slot_of(handle), class);
        } else {
            self.log.trim(handle, header.capacity());
        }
        self.note(handle);
    }

    /// Gives back one partition's tables where they are nearly empty, in turn with the clock.
    fn shrink_one(&mut self) {
        let tables = self.index.tables() as u64;
        let local = usize::try_from(self.wall.0 % tables).expect("below the number of tables");
        let log = &self.log;
        self.index.shrink(local, |handle| Header::read(log.record(handle)).hash);
        self.ghosts.shrink(local);
    }
}
