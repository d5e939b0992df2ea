//! A machine's two clocks (SIMULATION §2 "Clocks"): a wall that may be skewed, drift, jump and freeze, and a monotonic
//! clock that starts at zero with each process and drifts on its own.
//!
//! All of it is integer arithmetic over the virtual time, so that a replay agrees. True time is virtual time plus
//! `EPOCH_MS`; the checkers judge by it.

use crate::options::ClockOptions;
use meshwork_core::time::{Mono, Now, Wall};

/// True wall time when the virtual time is zero, ms since 1970.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// Virtual nanoseconds since the run began.
pub type Time = u64;

/// Nanoseconds of a millisecond.
pub const MS: Time = 1_000_000;

/// One machine's clocks.
#[derive(Clone, Debug)]
pub struct MachineClock {
    options: ClockOptions,
    /// Jumps so far, ms.
    jumped: i64,
    /// Since when the wall stands.
    frozen: Option<Time>,
}

impl MachineClock {
    /// The clock of a machine.
    pub fn new(options: ClockOptions) -> Self {
        Self { options, jumped: 0, frozen: None }
    }

    /// The wall at `at`.
    pub fn wall(&self, at: Time) -> Wall {
        let at = self.frozen.unwrap_or(at);
        let drift = (i128::from(at) * i128::from(self.options.drift_ppm) / 1_000_000 / i128::from(MS)) as i64;
        Wall((EPOCH_MS + at / MS).saturating_add_signed(self.options.skew_ms + self.jumped + drift))
    }

    /// Both clocks, for a process that started at `started`.
    pub fn now(&self, at: Time, started: Time) -> Now {
        Now { mono: self.mono(at, started), wall: self.wall(at) }
    }

    fn mono(&self, at: Time, started: Time) -> Mono {
        let elapsed = i128::from(at - started);
        Mono((elapsed + elapsed * i128::from(self.options.mono_ppm) / 1_000_000) as u64)
    }

    /// The first time at which the monotonic clock of a process started at `started` shows `mono` or more.
    pub fn when(&self, mono: Mono, started: Time) -> Time {
        let rate = i128::from(1_000_000 + self.options.mono_ppm);
        let mut at = started + (i128::from(mono.0) * 1_000_000 / rate) as u64;
        while self.mono(at, started) < mono {
            at += 1;
        }
        at
    }

    /// The wall jumps.
    pub fn jump(&mut self, ms: i64) {
        self.jumped += ms;
    }

    /// The wall stands from now on.
    pub fn freeze(&mut self, at: Time) {
        self.frozen = self.frozen.or(Some(at));
    }

    /// The wall goes again, as if it had never stood.
    pub fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Jumps are corrected, as by an operator: the wall is where skew and drift put it.
    pub fn repair(&mut self) {
        (self.jumped, self.frozen) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_is_reached_exactly_whatever_the_drift() {
        for mono_ppm in [-200, 0, 1, 173] {
            let clock = MachineClock::new(ClockOptions { skew_ms: 0, drift_ppm: 0, mono_ppm });
            for due in [1, 999, 1_000_000_007, 86_400_000_000_000] {
                let at = clock.when(Mono(due), 5_000);
                assert!(clock.now(at, 5_000).mono >= Mono(due) && at.abs_diff(5_000 + due) < due / 4_000 + 3);
            }
        }
    }

    #[test]
    fn a_wall_jumps_stands_and_is_repaired() {
        let mut clock = MachineClock::new(ClockOptions { skew_ms: 5, drift_ppm: 1_000, mono_ppm: 0 });
        assert_eq!(clock.wall(2_000 * MS), Wall(EPOCH_MS + 2_000 + 5 + 2));
        clock.jump(-100);
        clock.freeze(2_000 * MS);
        assert_eq!(clock.wall(9_000 * MS), Wall(EPOCH_MS + 2_000 + 5 + 2 - 100));
        clock.repair();
        assert_eq!(clock.wall(0), Wall(EPOCH_MS + 5));
    }
}
