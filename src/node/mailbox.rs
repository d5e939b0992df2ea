//! Letters to a thread of the node: bounded, in batches (ARCHITECTURE §4).
//!
//! A `Vec` behind a mutex that nobody holds for long, and one wake-up for however many letters. The reader takes all at
//! once. Letters that carry clients' frames count against a bound in bytes and are handed back when it is reached, so
//! that a slow shard makes `Overloaded` and not memory; letters of the control plane are few and always taken.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// Most bytes of clients' frames waiting for one thread.
pub(crate) const MAILBOX_BYTES_MAX: usize = 32 << 20;

/// What waits in a mailbox.
pub(crate) trait Weighed {
    /// Bytes that count against the bound; zero: always taken.
    fn weight(&self) -> usize;
}

/// One thread's letters.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    letters: Mutex<Vec<T>>,
    weight: AtomicUsize,
    limit: usize,
    wake: Notify,
    closed: AtomicBool,
}

/// Why a letter came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Returned<T> {
    /// Too much waits already.
    Full(T),
    /// The thread has ended.
    Closed(T),
}

impl<T: Weighed> Mailbox<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            letters: Mutex::new(Vec::new()),
            weight: AtomicUsize::new(0),
            limit,
            wake: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Leaves a letter and wakes the reader, once for all letters it has not seen.
    ///
    /// # Errors
    /// The letter itself, when it may not stay.
    pub(crate) fn send(&self, letter: T) -> Result<(), Returned<T>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Returned::Closed(letter));
        }
        let weight = letter.weight();
        // One letter may pass the bound, so that a large one is not refused for ever.
        if weight > 0 && self.weight.fetch_add(weight, Ordering::Relaxed) >= self.limit {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            return Err(Returned::Full(letter));
        }
        let mut letters = self.lock();
        let first = letters.is_empty();
        letters.push(letter);
        drop(letters);
        if first {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until there is a letter. Safe to cancel.
    pub(crate) async fn arrived(&self) {
        self.wake.notified().await;
    }

    /// Takes all letters, into the empty `into` so that both buffers are kept.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.lock(), into);
        let weight: usize = into.iter().map(Weighed::weight).sum();
        if weight > 0 {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// The reader has ended: letters come back from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let left = std::mem::take(&mut *self.lock());
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A panic while pushing leaves a whole Vec.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Debug, PartialEq, Eq)]
    struct Letter(usize);

    impl Weighed for Letter {
        fn weight(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn letters_come_out_in_order_and_all_at_once() {
        let mailbox = Mailbox::new(100);
        for weight in [0, 1, 2] {
            mailbox.send(Letter(weight)).unwrap();
        }
        let mut taken = Vec::new();
        mailbox.take(&mut taken);
        assert_eq!(taken, [Letter(0), Letter(1), Letter(2)]);
        taken.clear();
        mailbox.take(&mut taken);
        assert!(taken.is_empty());
    }

    #[test]
    fn a_full_mailbox_hands_frames_back_but_takes_what_weighs_nothing() {
        let mailbox = Mailbox::new(10);
        mailbox.send(Letter(9)).unwrap();
        mailbox.send(Letter(9)).unwrap();
        assert_eq!(mailbox.send(Letter(1)), Err(Returned::Full(Letter(1))));
        mailbox.send(Letter(0)).unwrap();
        let mut taken = Vec::new();
        mailbox.take(&mut taken);
        assert_eq!(taken.len(), 3);
        mailbox.send(Letter(5)).unwrap();
    }

    #[test]
    fn a_closed_mailbox_takes_nothing() {
        let mailbox = Mailbox::new(10);
        mailbox.send(Letter(1)).unwrap();
        mailbox.close();
        assert_eq!(mailbox.send(Letter(0)), Err(Returned::Closed(Letter(0))));
    }

    #[test]
    fn letters_of_many_threads_all_arrive() {
        let mailbox = Arc::new(Mailbox::new(usize::MAX));
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || (0..1000).for_each(|_| mailbox.send(Letter(1)).unwrap()))
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut seen, mut taken) = (0, Vec::new());
        runtime.block_on(async {
            while seen < 4000 {
                mailbox.arrived().await;
                mailbox.take(&mut taken);
                seen += taken.drain(..).count();
            }
        });
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(seen, 4000);
    }
}
