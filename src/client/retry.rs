//! When to try again: the retry budget and jittered pauses (INTERFACES §1; PROTOCOL §4).
//!
//! The budget is a bucket that every call fills by a tenth and every retry empties by one, holding at most the reserve:
//! a mesh in trouble sees at most 10 % more requests, and a short fault of a quiet client is still ridden out. Calls are
//! only counted by the caller; the bucket catches up when somebody wants to retry, so that a call costs one addition.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Retries that may be made at once after a quiet time.
pub(crate) const RESERVE: u64 = 1024;
/// Calls that earn one retry.
const CALLS_PER_RETRY: u64 = 10;

/// The budget of one `Mesh`.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    /// In tenths of a retry.
    tenths: u64,
    /// Calls that have been credited.
    credited: u64,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Bucket { tenths: RESERVE * CALLS_PER_RETRY, credited: 0 }))
    }

    /// Takes one retry out, if there is one; `calls` were made until now.
    pub(crate) fn take(&self, calls: u64) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = calls.saturating_sub(bucket.credited);
        bucket.credited = bucket.credited.max(calls);
        bucket.tenths = (bucket.tenths + earned).min(RESERVE * CALLS_PER_RETRY);
        let affordable = bucket.tenths >= CALLS_PER_RETRY;
        if affordable {
            bucket.tenths -= CALLS_PER_RETRY;
        }
        affordable
    }
}

/// Draws of a xorshift generator (Marsaglia 2003), seeded from the process's address-space layout and clock: jitter
/// needs to differ between clients, not to be secret.
#[derive(Debug)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(AtomicU64::new(RandomState::new().hash_one(0u8) | 1))
    }

    /// The next draw.
    pub(crate) fn draw(&self) -> u64 {
        // Two racing draws may be equal: harmless here.
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A time from zero to `most`, uniformly ("full jitter").
    pub(crate) fn up_to(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.draw() % (nanos + 1))
    }

    /// The pause before try number `failures + 1`: uniformly up to `min · 2^failures`, at most `max`.
    pub(crate) fn backoff(&self, min: Duration, max: Duration, failures: u32) -> Duration {
        self.up_to(min.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_all_there_is_until_calls_earn_more() {
        let budget = Budget::new();
        assert_eq!((0..5000).filter(|_| budget.take(0)).count(), 1024);
        assert!(!budget.take(9));
        assert!(budget.take(10));
        assert!(!budget.take(19));
        assert_eq!((0..5000).filter(|_| budget.take(1_000_000)).count(), 1024, "it holds no more than the reserve");
    }

    #[test]
    fn pauses_stay_within_their_doubling_bound() {
        let jitter = Jitter::new();
        let (min, max) = (Duration::from_millis(5), Duration::from_millis(200));
        for failures in 0..100 {
            let bound = min * 2u32.pow(failures.min(6));
            assert!(jitter.backoff(min, max, failures) <= bound.min(max));
        }
        let draws: Vec<_> = (0..64).map(|_| jitter.backoff(min, max, 9)).collect();
        assert!(draws.iter().any(|draw| *draw > max / 4), "they spread over the whole range");
    }
}
