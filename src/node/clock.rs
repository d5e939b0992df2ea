//! The one place that reads the machine's clocks.
//!
//! All threads of a node share the start of monotonic time, so that their `Mono`s compare. Read once a batch.

use meshwork_core::time::{Mono, Now, Wall};
#[cfg(target_os = "linux")]
use rustix::time::ClockId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    start: Instant,
    /// The same moment on the kernel's line of time.
    #[cfg(target_os = "linux")]
    kernel_start: Duration,
}

impl Clocks {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            // Read last, so that what is counted roughly is never ahead.
            #[cfg(target_os = "linux")]
            kernel_start: kernel(ClockId::Monotonic),
        }
    }

    #[inline]
    pub(crate) fn now(self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    /// Monotonic time as of the kernel's last tick, 1 to 10 ms ago: cheaper to read.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn roughly(self) -> Mono {
        let mono = kernel(ClockId::MonotonicCoarse).saturating_sub(self.kernel_start).as_nanos();
        Mono(u64::try_from(mono).unwrap_or(u64::MAX))
    }

    /// The same: this system has no cheaper clock.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn roughly(self) -> Mono {
        self.mono()
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

/// One of the kernel's clocks.
#[cfg(target_os = "linux")]
#[inline]
fn kernel(clock: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    Duration::new(part(time.tv_sec), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The machine's wall clock; one before 1970 reads as 1970 and is fenced by its peers.
#[inline]
pub(crate) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rough_clock_moves_on_and_is_behind_by_little() {
        let clocks = Clocks::start();
        let (mut rough, limit) = (clocks.roughly(), Instant::now() + Duration::from_secs(10));
        while rough < Mono(40_000_000) {
            let now = clocks.mono();
            assert!(rough <= now, "{rough:?} is ahead of {now:?}");
            assert!(Instant::now() < limit, "it stands still");
            rough = clocks.roughly();
        }
    }
}
