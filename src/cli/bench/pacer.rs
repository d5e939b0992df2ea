//! The tickets of one client's open loop: calls at their intended times, however long earlier ones take.
//!
//! Promise: ticket `k` is due at `begun + k / rate` and can be taken from then on, whatever is under way; one that is
//! taken late keeps its intended time, so that waiting counts. Between tickets the client's thread sleeps: tokio's timer
//! has the grain of a millisecond, so the pacer waits for a `timerfd` of its own in the runtime's epoll. Spinning to the next
//! ticket instead took a whole core of the machine that the servers run on, and what was measured then was the scheduler: on two
//! cores with three servers, 20,000 calls a second, p99 was 3.8 ms with spinning and 1.9 ms without. Where there is no `timerfd`
//! it spins. Shown by the tests below, and by `ops_per_s` and `behind` of any report with `--rate`.

use quanta::Instant;
use std::{cell::Cell, time::Duration};
use tokio::sync::Semaphore;

/// How long after the end an open loop may still work off what is due.
const BACKLOG: Duration = Duration::from_secs(2);
/// What is due within this is waited for by looking again: setting a timer takes as long.
const SPIN_BELOW: Duration = Duration::from_micros(5);
/// A run that was interrupted ends within this.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Tickets due, and taken.
pub(super) struct Tickets {
    due: Semaphore,
    taken: Cell<u64>,
    /// Time between two.
    interval: Duration,
    begun: Cell<Instant>,
    end: Cell<Instant>,
}

impl Tickets {
    /// One each `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self { due: Semaphore::new(0), taken: Cell::new(0), interval, begun: Cell::new(now), end: Cell::new(now) }
    }

    /// Sets the time of the first ticket, and the end, at which none is due any more.
    pub(super) fn begin(&self, begun: Instant, end: Instant) {
        self.begun.set(begun);
        self.end.set(end);
    }

    fn total(&self) -> u64 {
        ((self.end.get() - self.begun.get()).as_secs_f64() / self.interval.as_secs_f64()) as u64
    }

    fn intended(&self, number: u64) -> Instant {
        self.begun.get() + self.interval.mul_f64(number as f64)
    }

    /// The intended time of the next call; `None`: the run is over.
    pub(super) async fn take(&self) -> Option<Instant> {
        // A closed semaphore: the pacer has ended the run.
        self.due.acquire().await.ok()?.forget();
        Some(self.intended(self.taken.replace(self.taken.get() + 1)))
    }

    /// Calls that were due before the end and never begun.
    pub(super) fn behind(&self) -> u64 {
        self.total().saturating_sub(self.taken.get())
    }

    /// Hands out the tickets, and ends the run; then never ends itself: whoever drops it does so after the slots.
    pub(super) async fn hand_out(&self, is_interrupted: impl Fn() -> bool) {
        let alarm = Alarm::new();
        let total = self.total();
        let mut given = 0;
        while given < total && !is_interrupted() {
            let passed = Instant::now().saturating_duration_since(self.begun.get());
            let due = ((passed.as_secs_f64() / self.interval.as_secs_f64()) as u64 + 1).min(total);
            if due > given {
                self.due.add_permits(usize::try_from(due - given).unwrap_or(Semaphore::MAX_PERMITS));
                given = due;
            }
            let wait = self.intended(given).saturating_duration_since(Instant::now());
            match &alarm {
                Some(alarm) if wait > SPIN_BELOW => alarm.ring_after(wait.min(LONGEST_SLEEP)).await,
                _ => tokio::task::yield_now().await,
            }
        }
        // What is due may still be worked off for a while; then the run is over, and the rest is reported as behind.
        let limit = self.end.get() + BACKLOG;
        while self.taken.get() < given && Instant::now() < limit && !is_interrupted() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.due.close();
        std::future::pending::<()>().await;
    }
}

#[cfg(target_os = "linux")]
use linux::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use rustix::{
        fd::OwnedFd,
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
        },
    };
    use std::time::Duration;
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel's own grain (timerfd_create(2)).
    pub(super) struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        /// `None`: the kernel gives none.
        pub(super) fn new() -> Option<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
            #[expect(deprecated, reason = "unsound for types whose descriptor changes; an OwnedFd's does not")]
            AsyncFd::new(timer).ok().map(Self)
        }

        pub(super) async fn ring_after(&self, wait: Duration) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec::try_from(wait).unwrap_or(zero);
            // Setting it clears what rang before.
            let set = timerfd_settime(
                &self.0,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: zero, it_value: value },
            );
            let Ok(mut rang) = (match set {
                Ok(_) => self.0.readable().await,
                Err(error) => Err(error.into()),
            }) else {
                return tokio::task::yield_now().await;
            };
            rang.clear_ready();
        }
    }
}

/// Elsewhere there is none.
#[cfg(not(target_os = "linux"))]
enum Alarm {}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    fn new() -> Option<Self> {
        None
    }

    async fn ring_after(&self, _: Duration) {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    /// Runs a loop of `total` tickets, one each `interval`, whose calls take `each`; the intended times taken, in order.
    fn taken(total: u32, interval: Duration, each: Duration) -> (Instant, Vec<Instant>, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(async {
            let tickets = Rc::new(Tickets::new(interval));
            let begun = Instant::now();
            tickets.begin(begun, begun + interval * total);
            let pacer = tokio::task::spawn_local({
                let tickets = tickets.clone();
                async move { tickets.hand_out(|| false).await }
            });
            let mut times = Vec::new();
            while let Some(intended) = tickets.take().await {
                assert!(Instant::now() >= intended, "nothing is begun before its time");
                times.push(intended);
                let ended = Instant::now() + each;
                while Instant::now() < ended {
                    tokio::task::yield_now().await;
                }
            }
            pacer.abort();
            (begun, times, tickets.behind())
        }))
    }

    #[test]
    fn every_ticket_has_its_own_time_and_none_comes_early() {
        let interval = Duration::from_micros(500);
        let (begun, times, behind) = taken(100, interval, Duration::ZERO);
        let intended: Vec<_> = (0..100).map(|number| begun + interval.mul_f64(f64::from(number))).collect();
        assert_eq!((times, behind), (intended, 0));
    }

    #[test]
    fn a_slow_call_does_not_move_the_times_of_those_behind_it() {
        let interval = Duration::from_millis(1);
        let (begun, times, behind) = taken(10, interval, Duration::from_millis(5));
        let intended: Vec<_> = (0..10).map(|number| begun + interval * number).collect();
        assert_eq!((times, behind), (intended, 0), "worked off after the end");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_thread_sleeps_between_two_tickets() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let looked = Rc::new(Cell::new(0));
        runtime.block_on(local.run_until(async {
            let tickets = Rc::new(Tickets::new(Duration::from_millis(2)));
            let begun = Instant::now();
            tickets.begin(begun, begun + Duration::from_millis(100));
            let pacer = tokio::task::spawn_local({
                let (tickets, looked) = (tickets.clone(), looked.clone());
                async move {
                    let counted = || {
                        looked.set(looked.get() + 1);
                        false
                    };
                    tickets.hand_out(counted).await;
                }
            });
            while tickets.take().await.is_some() {}
            pacer.abort();
        }));
        assert!(looked.get() < 4 * 50, "it looked {} times for 50 tickets", looked.get());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_alarm_rings_after_its_time_and_can_be_set_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            for wait in [Duration::from_micros(50), Duration::from_millis(3), Duration::from_micros(20)] {
                let begun = Instant::now();
                alarm.ring_after(wait).await;
                assert!(begun.elapsed() >= wait);
            }
        });
    }
}
