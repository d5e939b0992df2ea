//! The two clocks core is told of, as integers (ARCHITECTURE §2).
//!
//! `Mono` only moves forward and decides timeouts. `Wall` may jump and decides expiry and versions, and nothing else.
//! Core never reads a clock: each input carries `Now`.

use serde::{Deserialize, Serialize};
use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// Monotonic time in nanoseconds since an arbitrary start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

/// Wall time in milliseconds since 1970-01-01T00:00:00Z, as the machine believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Wall(pub u64);

/// What an input carries: both clocks, read by the driver once per batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// For timeouts.
    pub mono: Mono,
    /// For expiry and versions.
    pub wall: Wall,
}

impl Mono {
    /// Time since `earlier`, zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds.
    pub fn millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(more.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, less: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(less.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Wall {
    type Output = Self;
    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(more.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Wall {
    type Output = Self;
    fn sub(self, less: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(less.as_millis()).unwrap_or(u64::MAX)))
    }
}
