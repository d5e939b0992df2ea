//! How the disk does: what metrics, `status` and the log tell of it. Plain numbers that any thread may read.
//!
//! The state is words for a person and one bit for a machine; `writer` and `recovery` set it, nobody acts on it but
//! people. Durable votes are refused because writes fail, not because of what stands here.

use meshwork_core::wire::control::DiskStatus;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

macro_rules! figures {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters and gauges of a store.
        #[derive(Debug, Default)]
        pub(crate) struct Figures { $($(#[doc = $doc])+ $name: AtomicU64,)+ }

        impl Figures {
            $(
                $(#[doc = $doc])+
                pub(crate) fn $name(&self) -> &AtomicU64 {
                    &self.$name
                }
            )+
        }
    };
}

figures! {
    /// Records written or removed.
    writes,
    /// Bytes of them.
    bytes,
    /// Batches committed.
    commits,
    /// Syncs, whether asked for or by time.
    syncs,
    /// Time spent in commits and syncs, nanoseconds.
    busy_nanos,
    /// Records that were not kept: the disk failed, or too much waited for it.
    failures,
    /// Writes that clients were refused because too much waited for the disk.
    refused,
    /// Times that the store was opened anew after a failure.
    reopened,
    /// Records restored at the start.
    restored,
    /// Bytes of them.
    restored_bytes,
    /// Records that were there at the start and could not be used.
    skipped,
    /// Stores set aside at the start because they were damaged or another's.
    set_aside,
    /// Gauge: 1 while something that was written is not synced, or not noted so.
    unsettled,
    /// Gauge: bytes on disk.
    disk_bytes,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Sets a gauge.
pub(crate) fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

/// Reads either.
pub(crate) fn get(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// The disk of a node.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) figures: Figures,
    /// Why it does not store; `None`: it does.
    trouble: Mutex<Option<String>>,
    /// What was found at the start, for a person; empty: nothing to say.
    found: Mutex<String>,
}

impl Disk {
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_found(&self, found: String) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// For `status`; `waiting`: bytes that wait for the disk.
    pub(crate) fn status(&self, waiting: usize) -> DiskStatus {
        let figures = &self.figures;
        DiskStatus {
            trouble: self.trouble(),
            found: self.found.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            restored: get(figures.restored()),
            skipped: get(figures.skipped()),
            writes: get(figures.writes()),
            syncs: get(figures.syncs()),
            failures: get(figures.failures()),
            disk_bytes: get(figures.disk_bytes()),
            idle: waiting == 0 && get(figures.unsettled()) == 0,
        }
    }
}
