//! The queue of a run: what happens next, by time and then by order (SIMULATION §2 "Loop").
//!
//! A heap with four children a node (LaMarca, Ladner, "The Influence of Caches on the Performance of Heaps", JEA 1996) of
//! small plain keys; the events themselves stay where they are, in a slab whose slots are used again. Times never run
//! backwards; of equal times the smaller order is first, and orders are distinct or equal only where a keyed hash made
//! them so (then the slot decides, which is a function of the run too).

use crate::clock::Time;

/// When, in which order, and where the event is kept.
type Key = (Time, u64, u32);

/// Events by time.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: Vec<Key>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Queue<E> {
    /// Nothing is due.
    pub(crate) fn new() -> Self {
        Self { heap: Vec::new(), slots: Vec::new(), free: Vec::new() }
    }

    /// When the next event is due.
    #[inline]
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.heap.first().map(|(at, _, _)| *at)
    }

    /// One event more. O(log events).
    pub(crate) fn push(&mut self, at: Time, order: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).expect("a run has less than four billion events at once")
            }
        };
        self.slots[slot as usize] = Some(event);
        let key = (at, order, slot);
        let mut hole = self.heap.len();
        self.heap.push(key);
        while hole > 0 {
            let parent = (hole - 1) / 4;
            if self.heap[parent] <= key {
                break;
            }
            self.heap[hole] = self.heap[parent];
            hole = parent;
        }
        self.heap[hole] = key;
    }

    /// The next event and its time. O(log events).
    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        let (at, _, slot) = *self.heap.first()?;
        let last = self.heap.pop().expect("there is a first");
        let length = self.heap.len();
        if length > 0 {
            let mut hole = 0;
            loop {
                let first = 4 * hole + 1;
                if first >= length {
                    break;
                }
                let mut least = first;
                for child in first + 1..(first + 4).min(length) {
                    if self.heap[child] < self.heap[least] {
                        least = child;
                    }
                }
                if self.heap[least] >= last {
                    break;
                }
                self.heap[hole] = self.heap[least];
                hole = least;
            }
            self.heap[hole] = last;
        }
        let event = self.slots[slot as usize].take().expect("a queued slot is filled");
        self.free.push(slot);
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Purpose, below, draw};

    #[test]
    fn events_come_by_time_and_then_by_order_however_they_went_in() {
        let mut queue = Queue::new();
        let mut expected = Vec::new();
        for nth in 0..500 {
            let at = below(draw(1, Purpose::Phase, &[nth]), 40);
            queue.push(at, nth, (at, nth));
            expected.push((at, nth));
        }
        expected.sort_unstable();
        let first: Vec<_> = (0..250).map(|_| queue.pop().unwrap().1).collect();
        for nth in 500..600 {
            queue.push(100, nth, (100, nth));
        }
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        let all: Vec<_> = first.into_iter().chain(rest).collect();
        assert_eq!(all[..500], expected[..]);
        assert_eq!(all[500..], (500..600).map(|nth| (100, nth)).collect::<Vec<_>>()[..]);
        assert!(queue.next_at().is_none() && queue.slots.len() <= 500);
    }
}
