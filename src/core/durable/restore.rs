//! Taking up what an earlier process stored (PROTOCOL §6).
//!
//! The driver gives every record before the first input; here they are checked, and held once the view knows their
//! namespaces. A restored replica warms like one that lost everything, but what it has it has: whoever it compares with is
//! sent less, and where all owners restarted together nothing that was acknowledged is lost. What it cannot use it counts,
//! and what is void or of no use any more it removes from the disk.

use super::{
    record::{self, Record, RestoreError},
    stored_shard,
    waiting::Lost,
};
use crate::{
    handoff::{HintStore, is_dead},
    id::{KeyHasher, NamespaceId},
    shard::Shard,
    storage::{Floors, Put},
    time::Now,
};

/// Restored bytes that are moved into the memtable before the shard tells what it holds beside it.
const MOVE_STEP: u64 = 16 * 1024;

impl Shard {
    /// Takes a record that an earlier process stored. Called for each, in any order, before any input.
    ///
    /// # Errors
    /// The record cannot be used; it is counted and skipped, and peers bring what it held.
    pub fn restore(&mut self, now: Now, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        self.clock.observe(now);
        let restored = self.try_restore(key, value);
        match restored {
            Ok(()) => self.stats.restored += 1,
            Err(_) => self.stats.restore_errors += 1,
        }
        restored
    }

    fn try_restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let read = record::read(key, value)?;
        if stored_shard(key, self.config.shards, self.config.partitions) != Some(self.config.shard.0) {
            return Err(RestoreError::Shard);
        }
        if let Record::Entry { namespace, hash, key, .. } | Record::Hint { namespace, hash, key, .. } = read
            && KeyHasher::new(self.config.cluster).hash(namespace, key) != hash
        {
            return Err(RestoreError::Hash);
        }
        if let Record::Entry { hash, term, .. } = read {
            // Its partition had come to this, whatever became of the record that said so: the next term is above it.
            let partition = hash.partition(self.config.partitions);
            if term > self.durable.waiting.term(partition) {
                self.durable.waiting.set_term((partition, 0), term);
            }
        }
        self.durable.log.distrust();
        let kept = self.durable.waiting.push(&read, key, value);
        if kept.is_err() {
            self.lose_restored(&read);
        }
        kept
    }

    /// Holds what was restored of the namespaces that are known now.
    pub(crate) fn take_restored(&mut self, now: Now) {
        let knows = |namespace: NamespaceId| self.rules.contains_key(&namespace);
        if !self.durable.waiting.awaits(knows) {
            return;
        }
        let hasher = KeyHasher::new(self.config.cluster);
        let mut moved = 0;
        for _ in 0..self.durable.waiting.len() {
            let Some((key, value)) = self.durable.waiting.pop(&hasher) else { break };
            moved += (key.len() + value.len()) as u64;
            let Ok(read) = record::read(&key, &value) else { continue };
            if !self.hold_restored(now, &key, &read) && self.durable.waiting.push(&read, &key, &value).is_err() {
                self.stats.restore_errors += 1;
                self.lose_restored(&read);
            }
            if moved >= MOVE_STEP {
                moved = 0;
                self.reserve();
            }
        }
        for (of, lost) in self.durable.waiting.take_lost(|it| self.rules.contains_key(&it)) {
            self.fall_short(of, lost);
        }
    }

    fn lose_restored(&mut self, read: &Record<'_>) {
        if let Record::Entry { namespace, hash, term, entry, .. } = *read {
            let partition = hash.partition(self.config.partitions);
            self.durable.waiting.lose((namespace, partition, term), entry.version, entry.body);
        }
    }

    /// There was no room for records up to these versions. What may be evicted was: it is forgotten like anything else that was. Of
    /// other namespaces the partition must not call itself whole before owners that are have been asked.
    fn fall_short(&mut self, (namespace, partition, term): Lost, lost: Floors) {
        let Some(rules) = self.rules.get(&namespace).copied() else { return };
        if term < self.durable.waiting.least_term(partition, rules.n) {
            // It was void.
            return;
        }
        if rules.evictable {
            self.table.raise_floors(rules.slot, partition, lost);
        } else if rules.ack.is_durable() {
            self.anti_entropy.readiness.fell_short(partition);
        }
    }

    /// Forgets what was restored and is not held yet.
    pub(crate) fn forget_restored(&mut self) {
        self.durable.waiting.forget();
    }

    /// Holds the record that is stored under a key; `false`: its namespace is not known yet.
    fn hold_restored(&mut self, now: Now, stored: &[u8], read: &Record<'_>) -> bool {
        let wall = self.clock.wall(now);
        match *read {
            Record::Entry { namespace, hash, key, term, entry } => {
                let Some(rules) = self.rules.get(&namespace).copied() else { return false };
                let partition = hash.partition(self.config.partitions);
                let flushed = entry.version <= self.table.flushed(rules.slot);
                if flushed || term < self.durable.waiting.least_term(partition, rules.n) || !rules.ack.is_durable() {
                    self.durable.removals.push(stored);
                    return true;
                }
                let held = self.table.quietly(|table| table.put(wall, rules.slot, hash, key, &entry, false));
                if matches!(held, Put::OutOfMemory | Put::TooLarge) {
                    self.stats.restore_errors += 1;
                    self.lose_restored(read);
                }
            }
            Record::Hint { target, namespace, hash, key, entry } => {
                let Some(rules) = self.rules.get(&namespace).copied() else { return false };
                let room = self.make_room_for(HintStore::cost(key, &entry));
                let useful = rules.ack.is_durable() && entry.version > self.table.flushed(rules.slot);
                let kept = useful
                    && room
                    && self.hints.quietly(|hints| hints.store(wall, target, namespace, hash, key, &entry).is_ok());
                if !kept && useful && !is_dead(&entry, wall) {
                    // It stays on the disk, for a memory with more room.
                    self.stats.restore_errors += 1;
                    self.mark_urgent(hash);
                } else if !kept {
                    self.durable.removals.push(stored);
                }
            }
            Record::Floors { namespace, partition, floors } => {
                let Some(rules) = self.rules.get(&namespace).copied() else { return false };
                if rules.evictable {
                    self.table.quietly(|table| table.raise_floors(rules.slot, partition, floors));
                }
            }
            Record::Term { .. } | Record::Barrier => {}
        }
        true
    }
}
