//! The one place that reads the machine's clocks.
//!
//! All threads of a node share the start of monotonic time, so that their `Mono`s compare. Read once a batch.

use meshwork_core::time::{Mono, Now, Wall};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Both clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    start: Instant,
}

impl Clocks {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    #[inline]
    pub(crate) fn now(self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    #[inline]
    pub(crate) fn mono(self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When `mono` is, on tokio's clock.
    pub(crate) fn instant(self, mono: Mono) -> tokio::time::Instant {
        // Far deadlines are cut to a day: the timer looks again then.
        let after = std::time::Duration::from_nanos(mono.0);
        let limit = self.start.elapsed() + std::time::Duration::from_secs(86_400);
        tokio::time::Instant::from_std(self.start + after.min(limit))
    }
}

/// The machine's wall clock; one before 1970 reads as 1970 and is fenced by its peers.
#[inline]
pub(crate) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
