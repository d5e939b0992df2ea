//! Milliseconds since the mesh handle was built: one clock for deadlines, attempts and silence.

use std::time::{Duration, Instant};

/// The clock of one `Mesh`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        millis(self.0.elapsed())
    }
}

/// Whole milliseconds, at least one unless the duration is zero.
pub(crate) fn millis(duration: Duration) -> u64 {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
    if millis == 0 && !duration.is_zero() { 1 } else { millis }
}
