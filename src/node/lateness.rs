//! How late a request is, so that nothing is begun that its sender has given up.
//!
//! A request says how long its sender waits, but that time runs from when it was sent. A stopped process finds requests
//! in its socket that are long given up and repeated elsewhere; beginning one of them would stamp an old value above
//! newer acknowledged ones. So each request also says when it was sent, by its sender's monotonic clock. The two clocks
//! share no zero; the quickest delivery seen on the link stands for it, and a request is late by what it took longer.
//! Only the newest one to two minutes count, so that clocks may drift apart. No wall clock is involved.

use meshwork_core::time::Mono;
use std::time::Duration;

/// The quickest deliveries are forgotten after one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// The deliveries of one link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lateness {
    began: Mono,
    quickest: i64,
    /// Of the window before.
    before: i64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { began: Mono::default(), quickest: i64::MAX, before: i64::MAX }
    }
}

impl Lateness {
    /// Milliseconds by which a request sent at `sent` (milliseconds, the sender's clock) is late. Zero, as long as the
    /// sender does not say when it sent.
    #[inline]
    pub(crate) fn of(&mut self, now: Mono, sent: u64) -> u32 {
        if sent == 0 {
            return 0;
        }
        if now.since(self.began) >= WINDOW {
            (self.before, self.quickest, self.began) = (self.quickest, i64::MAX, now);
        }
        let took = i64::try_from(now.millis()).unwrap_or(i64::MAX) - i64::try_from(sent).unwrap_or(i64::MAX);
        self.quickest = self.quickest.min(took);
        u32::try_from(took - self.quickest.min(self.before)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1_000_000)
    }

    #[test]
    fn what_waited_in_a_stopped_process_is_late_by_the_stop() {
        let mut link = Lateness::default();
        assert_eq!(link.of(at(1_000), 7), 0);
        assert_eq!(link.of(at(1_100), 106), 1);
        // Stopped for nine seconds: sent at 200, read at 10,000.
        assert_eq!(link.of(at(10_000), 200), 8_807);
        assert_eq!(link.of(at(10_001), 9_008), 0);
    }

    #[test]
    fn clocks_that_drift_apart_are_followed() {
        let mut link = Lateness::default();
        for second in 0..10_000u64 {
            // The sender's clock loses a millisecond a second.
            let late = link.of(at(1_000_000 + second * 1_000), 1 + second * 999);
            assert!(late <= 121, "{late} ms late after {second} s");
        }
    }

    #[test]
    fn who_does_not_say_when_is_never_late() {
        let mut link = Lateness::default();
        assert_eq!((link.of(at(5), 5), link.of(at(90_000), 0)), (0, 0));
    }
}
