//! Deadlines of requests in flight. One deadline leaves the core, the earliest of all (STYLE habit 8).
//!
//! Nearly every request waits one of a few fixed delays, so each delay has a queue in which later entries are due later:
//! adding and expiring cost O(1), where a heap would hold every request of the last half second. Requests that are over
//! are dropped from the front whenever one is added, so a queue is about as long as what is in flight. A request with a
//! deadline of its own goes to the odd queue, a sorted map. Ties keep the order of adding.

use crate::time::Mono;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Due times that all lie one fixed delay after they were added.
#[derive(Debug)]
pub struct DelayQueue<T> {
    delay: Duration,
    queue: VecDeque<(Mono, T)>,
}

impl<T: Copy> DelayQueue<T> {
    /// A queue for one delay.
    pub fn new(delay: Duration) -> Self {
        Self { delay, queue: VecDeque::new() }
    }

    /// The delay.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Changes the delay of entries to come. Entries stay in order: a shorter delay takes effect as the longer ones run
    /// out.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Adds `item`, due one delay from `now`; forgets items at the front for which `is_over` holds.
    #[inline]
    pub fn push(&mut self, now: Mono, item: T, is_over: impl Fn(T) -> bool) {
        while self.queue.front().is_some_and(|(_, item)| is_over(*item)) {
            self.queue.pop_front();
        }
        let due = now + self.delay;
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, item));
    }

    /// The next item that is due.
    pub fn pop(&mut self, now: Mono) -> Option<T> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            return None;
        }
        self.queue.pop_front().map(|(_, item)| item)
    }

    /// When the next item is due.
    pub fn next_due(&self) -> Option<Mono> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Due times of any distance, for the few that fit no fixed delay.
#[derive(Debug)]
pub struct OddQueue<T> {
    due: BTreeMap<(Mono, u64), T>,
    sequence: u64,
}

impl<T> Default for OddQueue<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), sequence: 0 }
    }
}

impl<T: Copy> OddQueue<T> {
    /// Adds `item`, due at `due`.
    pub fn push(&mut self, due: Mono, item: T) {
        self.due.insert((due, self.sequence), item);
        self.sequence += 1;
    }

    /// The next item that is due.
    pub fn pop(&mut self, now: Mono) -> Option<T> {
        let (key, _) = self.due.first_key_value()?;
        if key.0 > now {
            return None;
        }
        self.due.pop_first().map(|(_, item)| item)
    }

    /// When the next item is due.
    pub fn next_due(&self) -> Option<Mono> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_once_they_are_due() {
        let mut queue = DelayQueue::new(Duration::from_nanos(10));
        queue.push(Mono(0), 'a', |_| false);
        queue.push(Mono(5), 'b', |_| false);
        assert_eq!(queue.next_due(), Some(Mono(10)));
        assert_eq!((queue.pop(Mono(9)), queue.pop(Mono(10)), queue.pop(Mono(10))), (None, Some('a'), None));
        assert_eq!(queue.pop(Mono(15)), Some('b'));
    }

    #[test]
    fn what_is_over_leaves_from_the_front_when_another_is_added() {
        let mut queue = DelayQueue::new(Duration::from_nanos(10));
        for item in 0..100 {
            queue.push(Mono(item), item, |earlier| earlier < item);
        }
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_shorter_delay_keeps_the_order() {
        let mut queue = DelayQueue::new(Duration::from_nanos(100));
        queue.push(Mono(0), 'a', |_| false);
        queue.set_delay(Duration::from_nanos(1));
        queue.push(Mono(1), 'b', |_| false);
        assert_eq!(queue.pop(Mono(50)), None);
        assert_eq!((queue.pop(Mono(100)), queue.pop(Mono(100))), (Some('a'), Some('b')));
    }

    #[test]
    fn odd_deadlines_keep_the_order_of_adding_on_ties() {
        let mut queue = OddQueue::default();
        queue.push(Mono(7), 'b');
        queue.push(Mono(3), 'a');
        queue.push(Mono(7), 'c');
        assert_eq!(queue.next_due(), Some(Mono(3)));
        assert_eq!([queue.pop(Mono(7)), queue.pop(Mono(7)), queue.pop(Mono(7))], [Some('a'), Some('b'), Some('c')]);
    }
}
