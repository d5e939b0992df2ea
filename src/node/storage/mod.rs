//! The disk of a node: what shards ask to be kept, and what is found again at the next start (ARCHITECTURE §1 "log").
//!
//! Core says what is stored, in which format, and what it is worth; here is the durable ordered map from bytes to bytes
//! that it asks for. One store a node, in `data_dir/store/`; one thread writes it. A shard hands over what a batch of
//! inputs wrote (`queue`), the thread keeps all that waits as one batch (`writer`), and answers by letters. A shard never
//! waits for the disk, and what waits for it is bounded.
//!
//! A cache's disk is never a reason not to start: what is damaged is set aside, whole (`recovery` says why whole), and
//! the node warms from its peers. Nothing set aside is ever deleted.
//!
//! Memory beside `memory.limit`: `storage.cache`, twice `storage.queue` (what waits and what is being written), up to four
//! write buffers of 4 MiB and the last ones written out, which fjall keeps a while, blocks under merge, and what the
//! allocator keeps for three more threads. Measured with the defaults: below 110 MiB under minutes of full load; count 128.

mod disk;
mod log;
mod meta;
mod queue;
mod recovery;
mod writer;

pub(crate) use disk::{Disk, add, get};
pub(crate) use log::Owner;
pub use log::contains_panics;
pub(crate) use meta::{Found, MetaFile};
pub(crate) use queue::Writes;
pub(crate) use recovery::{Fed, Feed, Recovery, fill};
pub(crate) use writer::{LOOK_EVERY, Writer};

use meshwork_core::wire::control::DiskStatus;
use queue::{Handover, Queue};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// What the whole store may take beside `memory.limit` with its defaults, in bytes: measured as above, with room.
pub(crate) const STORE_BYTES: u64 = 128 << 20;

/// `[storage]`, as the store needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreOptions {
    /// Bytes of blocks kept in memory.
    pub(crate) cache: u64,
    /// Most bytes that wait for the disk.
    pub(crate) queue: usize,
    /// Longest time that a write stays unsynced.
    pub(crate) sync_every: Duration,
}

/// Where the store is and whose.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) owner: Owner,
}

impl Place {
    fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }
}

/// What the threads of a node share of its store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) disk: Disk,
    queue: Queue,
    /// Shards that may still hand over.
    shards: AtomicUsize,
    /// Writes wait while it is set.
    #[cfg(test)]
    pub(crate) stalled: std::sync::atomic::AtomicBool,
}

impl Store {
    pub(crate) fn new(options: &StoreOptions, shards: u16) -> Self {
        Self {
            disk: Disk::default(),
            queue: Queue::new(options.queue),
            shards: AtomicUsize::new(shards.into()),
            #[cfg(test)]
            stalled: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Leaves a shard's writes for the disk; never waits.
    ///
    /// # Errors
    /// Too much waits: these writes are lost, and their shard must be told.
    pub(crate) fn hand_over(&self, shard: u16, writes: Writes) -> Result<(), queue::Full> {
        let count = writes.len() as u64;
        let kept = self.queue.hand_over(Handover { shard, writes });
        if kept.is_err() {
            disk::add(self.disk.figures.failures(), count);
        }
        kept
    }

    /// Whether clients' writes that ask for the disk should be refused: too much waits for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.queue.is_behind()
    }

    /// Bytes that wait for the disk.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.bytes()
    }

    /// For `status`.
    pub(crate) fn status(&self) -> DiskStatus {
        self.disk.status(self.queue.bytes())
    }

    /// A shard's thread has ended; after the last, the writer keeps what waits and ends too.
    pub(crate) fn shard_ended(&self) {
        if self.shards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.queue.close();
        }
    }
}

#[cfg(test)]
mod tests;
