//! Milliseconds since the mesh handle was built: one clock for deadlines, attempts and silence.
//!
//! Reading the precise clock is a twentieth of what a call to a node in this process costs its caller. Where some
//! milliseconds do not matter, the kernel's coarse clock is read instead: the same line of time, as of the last tick (1 to
//! 10 ms ago).

#[cfg(target_os = "linux")]
use rustix::time::ClockId;
use std::time::{Duration, Instant};

/// The clock of one `Mesh`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// The same moment on the kernel's line of time. Of its precise clock: the coarse one's last tick lies before the
    /// start, and what is counted from there would be ahead.
    #[cfg(target_os = "linux")]
    kernel_start: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            kernel_start: kernel(ClockId::Monotonic),
            start: Instant::now(),
        }
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// The same as of the kernel's last tick, so never ahead of `now`.
    #[cfg(target_os = "linux")]
    pub(crate) fn roughly(&self) -> u64 {
        kernel(ClockId::MonotonicCoarse).saturating_sub(self.kernel_start)
    }

    /// The same: this system has no cheaper clock.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn roughly(&self) -> u64 {
        self.now()
    }
}

/// Whole milliseconds of one of the kernel's clocks.
#[cfg(target_os = "linux")]
fn kernel(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000
}

/// Whole milliseconds, at least one unless the duration is zero.
pub(crate) fn millis(duration: Duration) -> u64 {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
    if millis == 0 && !duration.is_zero() { 1 } else { millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rough_time_moves_on_and_is_never_ahead() {
        // Wherever between two ticks a mesh begins.
        for _ in 0..10 {
            let clock = Clock::start();
            let mut rough = 0;
            while rough < 21 {
                rough = clock.roughly();
                let precise = clock.now();
                // Both starts are cut to whole milliseconds.
                assert!(rough <= precise + 1, "{rough} is ahead of {precise}");
            }
        }
    }
}
