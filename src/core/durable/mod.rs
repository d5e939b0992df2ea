//! What a shard stores, and what it makes of it after a restart (ARCHITECTURE §1 "Acknowledged means"; PROTOCOL §6).
//!
//! Core owns what is stored and its format (`record`); the driver owns a durable ordered map from bytes to bytes, whose
//! content after a crash is a prefix of the writes it was given. Restored records wait for their namespaces (`waiting`).

mod record;
mod waiting;

pub use record::{RestoreError, STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX, stored_shard};

use crate::{id::KeyHasher, outbox::ShardOutbox, shard::Shard, time::Now};
use record::Record;
use waiting::Waiting;

/// What a shard keeps of its disk.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    waiting: Waiting,
}

impl Durable {
    /// Nothing was stored or restored yet; restored records may take `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { waiting: Waiting::new(bytes_max) }
    }

    /// Bytes held beside the memtable.
    pub(crate) fn bytes(&self) -> u64 {
        self.waiting.bytes()
    }
}

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

    pub(crate) fn on_stored(&mut self, _now: Now, _through: u64, _out: &mut dyn ShardOutbox) {}

    pub(crate) fn on_store_failed(&mut self, _now: Now, _from: u64, _out: &mut dyn ShardOutbox) {}

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
        self.durable.waiting.push(&read, key, value)
    }
}
