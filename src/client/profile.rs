//! How patient a caller is: deadlines, attempts, retries, and how much may be in flight (INTERFACES §1, `Profile`).
//!
//! A deadline is on by default and travels in every request. Retries happen only here, never in a node (PROTOCOL §4),
//! and draw on a budget shared by the whole `Mesh`, so that a slow mesh is not drowned by its clients.

use std::time::Duration;

/// Until when a call may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// This long from the call's start, whatever is retried meanwhile.
    After(Duration),
    /// For ever; each attempt still has its own limit.
    None,
}

impl From<Duration> for Deadline {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

/// Settings of calls. Each default is right for a service that asks a mesh in its own data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub(crate) deadline: Deadline,
    pub(crate) attempt_read: Duration,
    pub(crate) attempt_write: Duration,
    pub(crate) dial: Duration,
    pub(crate) retries: u32,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) in_flight: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            deadline: Deadline::After(Duration::from_secs(1)),
            attempt_read: Duration::from_millis(300),
            attempt_write: Duration::from_millis(550),
            dial: Duration::from_secs(1),
            retries: 2,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
            in_flight: 4096,
        }
    }
}

impl Profile {
    /// Total time of a call; default 1 s. Shorter than an attempt, it cuts the attempt.
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Time one attempt waits; defaults 300 ms for reads, 550 ms for writes: a little above what a node itself waits
    /// for its replicas (250 and 500 ms), so that its answer is heard.
    #[must_use]
    pub fn attempt(mut self, read: Duration, write: Duration) -> Self {
        (self.attempt_read, self.attempt_write) = (read, write);
        self
    }

    /// Time a handshake may take; default 1 s.
    #[must_use]
    pub fn dial(mut self, limit: Duration) -> Self {
        self.dial = limit;
        self
    }

    /// Most retries of one call; default 2. They also need budget: 10 % of calls with a reserve of 1,024.
    #[must_use]
    pub fn retries(mut self, most: u32) -> Self {
        self.retries = most;
        self
    }

    /// Pause before a retry: drawn between zero and a bound that doubles from `min` to `max`; defaults 5 and 200 ms.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max.max(min));
        self
    }

    /// Most calls in flight on one `Mesh`; default 4,096. Beyond it a call fails with `Overloaded` at once.
    #[must_use]
    pub fn in_flight(mut self, most: usize) -> Self {
        self.in_flight = most.max(1);
        self
    }
}
