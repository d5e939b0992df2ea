//! The lock around a shard: its thread holds it for a batch, and between two batches a caller in this process may read.
//!
//! What it promises: the shard's thread waits for at most one look-up of a caller (which the kernel may have taken off its core
//! meanwhile), callers never wait at all (whoever finds the shard busy sends a request), and nobody reads from a shard whose
//! thread has ended or panicked. It saves a caller's hit the way through two threads. Shown by `tests::hits`.

use crate::{handle::Stopped, shared::Shared};
use meshwork_core::shard::Shard;
use parking_lot::{ArcMutexGuard, Mutex, RawMutex};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

/// No look-up takes as long.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// One shard, for whoever holds the lock; `None`: not filled yet, or its thread has ended.
#[derive(Clone, Default)]
pub(crate) struct ShardLock(Arc<Mutex<Option<Shard>>>);

impl fmt::Debug for ShardLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardLock")
    }
}

impl ShardLock {
    /// Lets `read` look at the shard on this thread, if its own is not at work.
    #[inline]
    pub(crate) fn try_with<T>(&self, shared: &Shared, read: impl FnOnce(&mut Shard) -> Option<T>) -> Option<T> {
        let mut shard = self.0.try_lock()?;
        let shard = shard.as_mut()?;
        let _guard = Broken { shared };
        read(shard)
    }

    /// The shard's thread has ended: its memory is given back. After a panic the lock may stay held for good.
    pub(crate) fn close(&self) {
        if let Some(mut shard) = self.0.try_lock_for(CLOSE_WITHIN) {
            *shard = None;
        }
    }
}

/// A caller's thread that panics in a shard leaves half of one: the node stops, as it does when its own thread panics.
struct Broken<'a> {
    shared: &'a Shared,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "it was reading from a shard; its message stands above in the log".to_owned();
            self.shared.stop(Stopped::Panicked { thread: "of a caller".to_owned(), message });
            self.shared.panicked();
        }
    }
}

/// The shard as its own thread has it: taken when a batch begins, given back when it ends.
pub(crate) struct Held {
    lock: ShardLock,
    guard: Option<ArcMutexGuard<RawMutex, Option<Shard>>>,
}

impl Held {
    /// Puts `shard` behind `lock`, and holds it.
    pub(crate) fn new(lock: ShardLock, shard: Shard) -> Self {
        let mut guard = lock.0.lock_arc();
        *guard = Some(shard);
        Self { lock, guard: Some(guard) }
    }

    /// A batch begins.
    #[inline]
    pub(crate) fn take(&mut self) {
        if self.guard.is_none() {
            self.guard = Some(self.lock.0.lock_arc());
        }
    }

    /// A batch has ended.
    #[inline]
    pub(crate) fn give_back(&mut self) {
        self.guard = None;
    }
}

const HELD: &str = "a batch that has begun holds its shard";

impl Deref for Held {
    type Target = Shard;

    #[inline]
    fn deref(&self) -> &Shard {
        self.guard.as_ref().and_then(|guard| guard.as_ref()).expect(HELD)
    }
}

impl DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Shard {
        self.guard.as_mut().and_then(|guard| guard.as_mut()).expect(HELD)
    }
}
