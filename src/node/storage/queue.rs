//! What waits for the disk: the shards' writes in the order given, bounded in bytes (ARCHITECTURE §4).
//!
//! A shard hands over what one batch of its inputs wrote, never waits, and gets it back when too much waits already.
//! Before that bound there is a lower one: beyond it clients' writes that would wait here are refused at once
//! (`is_behind`), so that peers' still find room.

use super::log;
use fjall::Slice;
use meshwork_core::outbox::StoreWrite;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What a write costs beside its bytes.
const WRITE_BYTES: usize = 96;

/// One shard's writes, in order.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    list: Vec<(Slice, Option<Slice>)>,
    first: u64,
    last: u64,
    bytes: usize,
    sync: bool,
}

impl Writes {
    pub(crate) fn push(&mut self, write: &StoreWrite<'_>) {
        if self.list.is_empty() {
            self.first = write.ticket;
        }
        self.last = write.ticket;
        self.sync |= write.sync;
        self.bytes += write.key.len() + write.value.map_or(0, <[u8]>::len) + WRITE_BYTES;
        self.list.push((log::key(write.key), write.value.map(log::value)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The ticket of the first.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The ticket of the last.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Bytes they take while they wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any asked to be synced.
    pub(crate) fn sync(&self) -> bool {
        self.sync
    }

    pub(crate) fn into_list(self) -> Vec<(Slice, Option<Slice>)> {
        self.list
    }
}

/// Writes and whose they are.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) shard: u16,
    pub(crate) writes: Writes,
}

/// Why writes came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
struct Waiting {
    handovers: VecDeque<Handover>,
    /// No shard will hand over any more.
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// Bytes that wait or are being written.
    bytes: AtomicUsize,
    limit: usize,
    arrived: Condvar,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::default(), bytes: AtomicUsize::new(0), limit, arrived: Condvar::new() }
    }

    /// Leaves writes for the disk; never waits.
    ///
    /// # Errors
    /// Too much waits: they are dropped. One hand-over may pass the bound, so that a large one is not refused for ever.
    pub(crate) fn hand_over(&self, handover: Handover) -> Result<(), Full> {
        let bytes = handover.writes.bytes();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) >= self.limit {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        let mut waiting = self.lock();
        let first = waiting.handovers.is_empty();
        waiting.handovers.push_back(handover);
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Whether clients' writes should be refused before they are begun.
    pub(crate) fn is_behind(&self) -> bool {
        self.bytes() > self.limit / 2
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// No more will come: `take` gives what is left.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// The oldest hand-overs, of about `bytes` in all, waiting for one at most for `patience`; whether no more will come.
    /// They count as waiting until `written` is told of them.
    pub(crate) fn take(&self, bytes: usize, patience: Duration) -> (Vec<Handover>, bool) {
        let until = Instant::now() + patience;
        let mut waiting = self.lock();
        while waiting.handovers.is_empty() && !waiting.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.arrived.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut taken, mut length) = (Vec::new(), 0);
        while length < bytes
            && let Some(handover) = waiting.handovers.pop_front()
        {
            length += handover.writes.bytes();
            taken.push(handover);
        }
        (taken, waiting.closed && waiting.handovers.is_empty())
    }

    /// So many bytes of those taken are dealt with.
    pub(crate) fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while pushing leaves a whole queue.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last word on each key: a batch of the log takes no key twice.
pub(super) fn merged(handovers: Vec<Handover>) -> HashMap<Slice, Option<Slice>> {
    let mut last = HashMap::new();
    for handover in handovers {
        for (key, value) in handover.writes.into_list() {
            last.insert(key, value);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(shard: u16, tickets: std::ops::Range<u64>) -> Handover {
        let mut writes = Writes::default();
        for ticket in tickets {
            writes.push(&StoreWrite {
                ticket,
                sync: ticket == 7,
                key: &[1, shard as u8],
                value: Some(&[ticket as u8; 100]),
            });
        }
        Handover { shard, writes }
    }

    #[test]
    fn hand_overs_come_out_in_order_and_in_parts_of_the_size_asked_for() {
        let queue = Queue::new(1 << 20);
        for first in [1, 4, 7] {
            queue.hand_over(handover(0, first..first + 3)).unwrap();
        }
        let each = handover(0, 1..4).writes.bytes();
        let (taken, over) = queue.take(each + 1, Duration::ZERO);
        assert_eq!((taken.len(), over), (2, false));
        assert_eq!((taken[0].writes.first(), taken[1].writes.last()), (1, 6));
        let (taken, _) = queue.take(each, Duration::ZERO);
        assert!(taken[0].writes.sync() && taken[0].writes.len() == 3);
        assert!(queue.take(1, Duration::ZERO).0.is_empty());
    }

    #[test]
    fn a_full_queue_refuses_until_what_was_taken_is_written() {
        let each = handover(0, 1..2).writes.bytes();
        let queue = Queue::new(2 * each);
        queue.hand_over(handover(0, 1..2)).unwrap();
        assert!(!queue.is_behind());
        queue.hand_over(handover(1, 1..2)).unwrap();
        assert!(queue.is_behind(), "clients are refused before peers");
        assert_eq!(queue.hand_over(handover(0, 2..3)), Err(Full));
        let (taken, _) = queue.take(usize::MAX, Duration::ZERO);
        assert_eq!(queue.hand_over(handover(0, 2..3)), Err(Full), "what is being written still counts");
        queue.written(taken.iter().map(|handover| handover.writes.bytes()).sum());
        assert_eq!((queue.hand_over(handover(0, 2..3)), queue.bytes()), (Ok(()), each));
    }

    #[test]
    fn one_hand_over_larger_than_the_bound_is_taken_when_nothing_waits() {
        let queue = Queue::new(10);
        queue.hand_over(handover(0, 1..9)).unwrap();
        assert_eq!(queue.hand_over(handover(0, 9..10)), Err(Full));
    }

    #[test]
    fn a_closed_queue_gives_what_is_left_and_says_so() {
        let queue = Queue::new(1 << 20);
        queue.hand_over(handover(0, 1..2)).unwrap();
        queue.close();
        let (taken, over) = queue.take(usize::MAX, Duration::from_secs(60));
        assert_eq!((taken.len(), over), (1, true));
        assert!(queue.take(1, Duration::from_secs(60)).1);
    }

    #[test]
    fn a_batch_has_the_last_word_on_each_key() {
        let merged = merged(vec![handover(0, 1..4), handover(1, 1..2), handover(0, 4..6)]);
        let mut values: Vec<u8> = merged.into_values().map(|value| value.unwrap()[0]).collect();
        values.sort_unstable();
        assert_eq!(values, [1, 5]);
    }
}
