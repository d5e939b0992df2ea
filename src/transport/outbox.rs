//! The send side of a stream: frames pile up in one buffer, one task writes it out when flushed.
//!
//! `frame` encodes in place under a mutex that is not contended on a node (one thread) and held only for the encoding
//! on a client, so both share this code; its cost is not measured yet. `flush` wakes the writer once per
//! batch; the writer takes the whole buffer as one `Bytes`. `queued` counts what the connection has not taken yet:
//! callers refuse work above their own bound, this queue does not drop.

use crate::{
    activity::Activity,
    frames::{FrameError, HEADER},
};
use bytes::{Bytes, BytesMut};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::Notify;

/// Frames waiting to be written to one stream.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// The writer has something to do.
    wake: Notify,
    /// The writer has done something.
    wrote: Notify,
    activity: Arc<Activity>,
}

#[derive(Default)]
struct Queue {
    /// Complete frames, older than those in `buffer`.
    chunks: VecDeque<Bytes>,
    buffer: BytesMut,
    /// Bytes in `chunks`, in `buffer` and in the writer's hand.
    queued: usize,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Takes no more frames; the writer finishes the stream when all are written.
    Finishing,
    /// The stream is finished and all was acknowledged, or it failed.
    Over,
}

impl Outbox {
    /// Makes the queue of `stream` and starts its writer on the current runtime.
    pub(crate) fn start(stream: quinn::SendStream, activity: Arc<Activity>) -> Arc<Self> {
        let outbox =
            Arc::new(Self { queue: Mutex::new(Queue::default()), wake: Notify::new(), wrote: Notify::new(), activity });
        tokio::spawn(write_out(outbox.clone(), stream));
        outbox
    }

    /// Appends the frame that `encode` writes. One above `limit` goes to `overflow`, when that is given and takes
    /// frames up to its limit. A frame left empty is not sent.
    #[inline]
    pub(crate) fn frame(
        &self,
        limit: usize,
        overflow: Option<(&Self, usize)>,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<(), FrameError> {
        let mut queue = self.lock();
        if queue.state != State::Open {
            return Err(FrameError::LinkClosed);
        }
        let start = queue.buffer.len();
        queue.buffer.extend_from_slice(&[0; HEADER]);
        encode(&mut queue.buffer);
        let length = queue.buffer.len().checked_sub(start + HEADER).expect("encoders only append");
        if length == 0 {
            queue.buffer.truncate(start);
            return Ok(());
        }
        let most = overflow.map_or(limit, |(_, limit)| limit);
        if length > most {
            queue.buffer.truncate(start);
            return Err(FrameError::TooLarge { length, limit: most });
        }
        let header = u32::try_from(length).expect("limits are below 4 GiB").to_be_bytes();
        queue.buffer[start..start + HEADER].copy_from_slice(&header);
        if length <= limit {
            queue.queued += HEADER + length;
            return Ok(());
        }
        // Moved, not copied. The lock is released first: the two queues are never held together.
        let large = queue.buffer.split_off(start).freeze();
        drop(queue);
        let (bulk, _) = overflow.expect("above the limit only with an overflow");
        bulk.push(large)
    }

    fn push(&self, frame: Bytes) -> Result<(), FrameError> {
        let mut queue = self.lock();
        if queue.state != State::Open {
            return Err(FrameError::LinkClosed);
        }
        if !queue.buffer.is_empty() {
            let older = queue.buffer.split().freeze();
            queue.chunks.push_back(older);
        }
        queue.queued += frame.len();
        queue.chunks.push_back(frame);
        Ok(())
    }

    /// Wakes the writer, if there is anything to write.
    #[inline]
    pub(crate) fn flush(&self) {
        let queue = self.lock();
        let empty = queue.buffer.is_empty() && queue.chunks.is_empty();
        drop(queue);
        if !empty {
            self.activity.touch();
            self.wake.notify_one();
        }
    }

    /// Bytes the connection has not taken yet.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Waits until at most `bytes` are queued, or the stream is over.
    pub(crate) async fn drained(&self, bytes: usize) {
        self.until(|queue| queue.queued <= bytes || queue.state == State::Over).await;
    }

    /// Takes no more frames, writes all that are queued, and waits until the peer acknowledged them or is gone.
    pub(crate) async fn finish(&self) {
        {
            let mut queue = self.lock();
            if queue.state == State::Open {
                queue.state = State::Finishing;
            }
        }
        self.wake.notify_one();
        self.until(|queue| queue.state == State::Over).await;
    }

    /// Drops everything and ends the writer.
    pub(crate) fn abandon(&self) {
        let mut queue = self.lock();
        *queue = Queue { state: State::Over, ..Queue::default() };
        drop(queue);
        self.wake.notify_one();
        self.wrote.notify_waiters();
    }

    async fn until(&self, reached: impl Fn(&Queue) -> bool) {
        loop {
            let wrote = self.wrote.notified();
            tokio::pin!(wrote);
            // Registered before the check, or a change in between would be missed.
            wrote.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            wrote.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("encoders do not panic: a panic here left half a frame, the link must not go on")
    }

    fn take(&self) -> Taken {
        let mut queue = self.lock();
        match (queue.state, queue.chunks.pop_front()) {
            (State::Over, _) => Taken::Over,
            (State::Open | State::Finishing, Some(chunk)) => Taken::Batch(chunk),
            (State::Open | State::Finishing, None) if !queue.buffer.is_empty() => {
                Taken::Batch(queue.buffer.split().freeze())
            }
            (State::Open, None) => Taken::Nothing,
            (State::Finishing, None) => Taken::Finish,
        }
    }
}

enum Taken {
    Batch(Bytes),
    Nothing,
    Finish,
    Over,
}

/// The writer's task: lives as long as the stream.
async fn write_out(outbox: Arc<Outbox>, mut stream: quinn::SendStream) {
    loop {
        match outbox.take() {
            Taken::Batch(batch) => {
                let length = batch.len();
                if stream.write_chunk(batch).await.is_err() {
                    // The connection's own error is what its owner sees.
                    outbox.abandon();
                    return;
                }
                {
                    let mut queue = outbox.lock();
                    queue.queued = queue.queued.saturating_sub(length);
                }
                outbox.wrote.notify_waiters();
            }
            Taken::Nothing => outbox.wake.notified().await,
            Taken::Finish => {
                if stream.finish().is_ok() {
                    // Its result says only whether the peer stopped the stream: over either way.
                    let _ = stream.stopped().await;
                }
                outbox.abandon();
                return;
            }
            Taken::Over => return,
        }
    }
}
