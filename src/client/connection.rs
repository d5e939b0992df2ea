//! One link to one shard of one node: its pending requests, its phase, and whether to ask it first.
//!
//! Callers of any thread submit under one short lock: the frame is encoded straight into the link's send buffer, its
//! slot is registered, and the link's task is woken only if nothing was waiting to be flushed. So whatever the tasks of
//! a program ask in one turn of the runtime leaves in one batch, without anybody doing anything for it.
//!
//! Invariants: a frame is encoded only while the link is up, so that a request that timed out before was never sent;
//! every slot ends: by its answer, by the sweep, or by the loss of the link. Dialing is in `dial.rs`, choice in
//! `router.rs`.

use crate::{
    Error, ErrorKind,
    slots::{Answer, Body, Failure, Outcome, Slots, Ticket},
};
use bytes::{Bytes, BytesMut};
use meshwork_core::{
    id::{KeyHash, NodeId},
    wire::{
        DecodeError, FrameType, Reply, ReplyBody,
        control::{self, ClientControl, ControlReply},
        frame::Decoder,
        local::{self, LocalSender},
    },
};
use meshwork_transport::{Frames, Link};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::{sync::Notify, task::AbortHandle};

/// A node in this process is handed requests in batches of about this: two threads then work at the same time.
const LOCAL_BATCH_BYTES: usize = 2 << 10;
/// Milliseconds without a frame, while answers are awaited, after which other nodes are asked first.
const SILENCE_MS: u64 = 100;
/// Milliseconds between probes of a silent link.
const PROBE_MS: u64 = 200;
/// Bytes in a link's send buffer above which large values are refused.
const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Frames below this are not counted against `QUEUED_BYTES_MAX`: the calls in flight bound them.
const COUNTED_BYTES_MIN: usize = 16 << 10;
/// The id of probes: no slot ever has it, since a slab of 2^32 slots does not exist.
const PROBE_ID: u64 = u64::MAX;

/// Frames that arrived together, each lent until the next.
pub(crate) trait Batch {
    fn next_frame(&mut self) -> Option<&[u8]>;
}

impl Batch for Frames<'_> {
    fn next_frame(&mut self) -> Option<&[u8]> {
        self.next()
    }
}

/// Frames behind their lengths, as a local node hands them over.
pub(crate) struct LocalBatch {
    pub(crate) bytes: Bytes,
    pub(crate) at: usize,
}

impl Batch for LocalBatch {
    fn next_frame(&mut self) -> Option<&[u8]> {
        let mut rest = &self.bytes[self.at..];
        let frame = local::next(&mut rest)?;
        self.at = self.bytes.len() - rest.len();
        Some(frame)
    }
}

/// What frames are written to.
pub(crate) enum Wire {
    Quic(Link),
    Local { sender: Box<dyn LocalSender>, buffer: BytesMut },
}

enum Phase {
    /// Nobody has needed it yet.
    Idle,
    /// A handshake is under way, or its next try is waited for.
    Dialing,
    Up(Wire),
    Closed,
}

struct State {
    phase: Phase,
    slots: Slots,
    /// Counts flushes: what was encoded since the last has not left.
    batch: u32,
    /// The flusher has been told.
    dirty: bool,
    /// When a frame last arrived, or somebody began to wait after nobody did.
    heard: u64,
    probed: u64,
    trouble: Option<Arc<Error>>,
    node: Option<NodeId>,
}

/// See the module.
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    state: Mutex<State>,
    pub(crate) flush: Notify,
    pub(crate) wanted: Notify,
    /// Others are asked first: there is no link, or it is silent.
    avoided: AtomicBool,
    pub(crate) links_made: AtomicU64,
    pub(crate) batches: AtomicU64,
    task: OnceLock<AbortHandle>,
}

/// Why a request was not taken.
pub(crate) enum Refused {
    /// The mesh was closed.
    Closed,
    /// The send buffer is full.
    Full,
    /// The frame is longer than frames may be.
    TooLarge(String),
}

impl Connection {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let state = State {
            phase: Phase::Idle,
            slots: Slots::default(),
            batch: 0,
            dirty: false,
            heard: 0,
            probed: 0,
            trouble: None,
            node: None,
        };
        Self {
            address,
            state: Mutex::new(state),
            flush: Notify::new(),
            wanted: Notify::new(),
            avoided: AtomicBool::new(false),
            links_made: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            task: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the task that keeps this link.
    pub(crate) fn kept_by(&self, task: AbortHandle) {
        // Set once, right after creation.
        let _ = self.task.set(task);
    }

    /// Hands a request over: `encode` appends its payload, given its id; `hash` is its key's, where the caller had to
    /// compute it. While there is no link the request is parked,
    /// and comes back as `LinkUp` once there is one.
    pub(crate) fn submit(
        &self,
        now: u64,
        due: u64,
        bytes: usize,
        hash: Option<KeyHash>,
        waker: &Waker,
        encode: impl FnOnce(&mut BytesMut, u64),
    ) -> Result<Ticket, Refused> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.slots.occupied() == 0 {
            state.heard = now;
        }
        let ticket = match &mut state.phase {
            Phase::Up(Wire::Quic(link)) => {
                if bytes > COUNTED_BYTES_MIN && link.queued_bytes() > QUEUED_BYTES_MAX {
                    return Err(Refused::Full);
                }
                let ticket = state.slots.wait(waker.clone(), state.batch, due);
                if let Err(error) = link.frame(|out| encode(out, ticket.0)) {
                    state.slots.abandon(ticket);
                    if let meshwork_transport::FrameError::TooLarge { .. } = error {
                        return Err(Refused::TooLarge(error.to_string()));
                    }
                    // The link is over and its task is about to learn it: wait for the next one.
                    return Ok(state.slots.park(waker.clone(), due));
                }
                ticket
            }
            Phase::Up(Wire::Local { sender, buffer }) => {
                if bytes > COUNTED_BYTES_MIN && buffer.len() > QUEUED_BYTES_MAX {
                    return Err(Refused::Full);
                }
                let ticket = state.slots.wait(waker.clone(), state.batch, due);
                local::append_request(buffer, hash, |out| encode(out, ticket.0));
                if buffer.len() >= LOCAL_BATCH_BYTES {
                    // Handed over before the flush: the node works on these while this thread makes the next.
                    let batch = buffer.split().freeze();
                    if !sender.send(batch.clone()) {
                        // The flush to come will find it there and learn that the node has stopped.
                        buffer.extend_from_slice(&batch);
                    }
                }
                ticket
            }
            Phase::Idle => {
                state.phase = Phase::Dialing;
                self.wanted.notify_one();
                return Ok(state.slots.park(waker.clone(), due));
            }
            Phase::Dialing => return Ok(state.slots.park(waker.clone(), due)),
            Phase::Closed => return Err(Refused::Closed),
        };
        let wake = !std::mem::replace(&mut state.dirty, true);
        drop(guard);
        if wake {
            self.flush.notify_one();
        }
        Ok(ticket)
    }

    /// The outcome of a request, when it is there. The ticket is used up then.
    pub(crate) fn poll(&self, ticket: Ticket, context: &mut Context<'_>) -> Poll<Outcome> {
        self.lock().slots.poll(ticket, context)
    }

    /// The caller of this request is gone.
    pub(crate) fn abandon(&self, ticket: Ticket) {
        self.lock().slots.abandon(ticket);
    }

    /// Asks for a link, if nobody has yet.
    pub(crate) fn want(&self) {
        let mut state = self.lock();
        if let Phase::Idle = state.phase {
            state.phase = Phase::Dialing;
            self.wanted.notify_one();
        }
    }

    /// Sends what was encoded since the last time. For the link's task.
    pub(crate) fn flush_now(&self) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.dirty = false;
        state.batch = state.batch.wrapping_add(1);
        self.batches.fetch_add(1, Ordering::Relaxed);
        match &mut state.phase {
            Phase::Up(Wire::Quic(link)) => {
                let link = link.clone();
                drop(guard);
                link.flush();
                true
            }
            Phase::Up(Wire::Local { sender, buffer }) => {
                // Under the lock: batches reach the node in the order of their ids, and the node only queues.
                buffer.is_empty() || sender.send(buffer.split().freeze())
            }
            Phase::Idle | Phase::Dialing | Phase::Closed => true,
        }
    }

    /// The answers of a batch; an error means that nothing after it can be trusted.
    pub(crate) fn receive(&self, now: u64, batch: &mut impl Batch, wakers: &mut Vec<Waker>) -> Result<(), DecodeError> {
        let mut state = self.lock();
        let (heard, result) = state.receive(batch, wakers);
        if heard {
            state.heard = now;
            // Whatever it says, the node talks again.
            if self.avoided.load(Ordering::Relaxed) {
                self.avoided.store(false, Ordering::Relaxed);
            }
        }
        drop(state);
        wakers.drain(..).for_each(Waker::wake);
        result
    }

    /// The link is up.
    pub(crate) fn establish(&self, wire: Wire, node: NodeId, now: u64) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        if let Phase::Closed = state.phase {
            return;
        }
        state.phase = Phase::Up(wire);
        (state.node, state.heard, state.trouble, state.dirty) = (Some(node), now, None, false);
        state.slots.release_parked(&mut wakers);
        drop(state);
        self.links_made.fetch_add(1, Ordering::Relaxed);
        self.avoided.store(false, Ordering::Relaxed);
        wakers.drain(..).for_each(Waker::wake);
    }

    /// There is no link: whoever waits is told, and may ask elsewhere.
    pub(crate) fn lose(&self, why: Error) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let closed = matches!(state.phase, Phase::Closed);
        if !closed {
            state.phase = Phase::Dialing;
        }
        let (why, batch) = (Arc::new(why), state.batch);
        state.slots.lose(batch, &why, &mut wakers);
        // What is encoded next must not be taken for what was encoded into the lost buffer.
        state.batch = batch.wrapping_add(1);
        state.trouble = Some(why);
        self.avoided.store(true, Ordering::Relaxed);
        drop(state);
        wakers.drain(..).for_each(Waker::wake);
    }

    /// Ends it for good.
    pub(crate) fn close(&self) {
        let phase = std::mem::replace(&mut self.lock().phase, Phase::Closed);
        if let Phase::Up(Wire::Quic(link)) = phase {
            link.close(0, "the client closed the mesh");
        }
        self.lose(Error::new(ErrorKind::Closed, "this program closed the mesh"));
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Ends attempts that are due, and notices silence; `true` while a silent link is being probed.
    pub(crate) fn sweep(&self, now: u64, wakers: &mut Vec<Waker>) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let silent = state.slots.occupied() > 0 && now.saturating_sub(state.heard) > SILENCE_MS;
        state.slots.sweep(now, wakers);
        if silent {
            self.avoided.store(true, Ordering::Relaxed);
        }
        let mut suspected = false;
        if let Phase::Up(wire) = &mut state.phase {
            suspected = self.avoided.load(Ordering::Relaxed);
            if suspected && now.saturating_sub(state.probed) > PROBE_MS {
                state.probed = now;
                let probe = |out: &mut BytesMut| control::encode(out, PROBE_ID, &ClientControl::Routing);
                match wire {
                    // A link that is over is noticed by its task.
                    Wire::Quic(link) => drop(link.frame(probe)),
                    Wire::Local { buffer, .. } => local::append_request(buffer, None, probe),
                }
                state.dirty = true;
                self.flush.notify_one();
            }
        }
        drop(guard);
        wakers.drain(..).for_each(Waker::wake);
        suspected
    }

    /// Whether others should be asked first.
    pub(crate) fn avoided(&self) -> bool {
        self.avoided.load(Ordering::Relaxed)
    }

    /// Whether requests would leave at once.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.lock().phase, Phase::Up(_))
    }

    /// The node at the other end, once it said so.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.lock().node
    }

    /// Why there is no link, when one was tried.
    pub(crate) fn trouble(&self) -> Option<Arc<Error>> {
        self.lock().trouble.clone()
    }

    /// Requests that are not over.
    #[cfg(test)]
    pub(crate) fn occupied(&self) -> usize {
        self.lock().slots.occupied()
    }
}

impl State {
    /// Whether any frame came, and whether all were readable.
    fn receive(&mut self, batch: &mut impl Batch, wakers: &mut Vec<Waker>) -> (bool, Result<(), DecodeError>) {
        let mut heard = false;
        while let Some(frame) = batch.next_frame() {
            heard = true;
            if let Err(error) = self.receive_frame(frame, wakers) {
                return (true, Err(error));
            }
        }
        (heard, Ok(()))
    }

    #[inline]
    fn receive_frame(&mut self, frame: &[u8], wakers: &mut Vec<Waker>) -> Result<(), DecodeError> {
        let (frame_type, id, mut decoder) = match Decoder::start(frame) {
            Ok(parts) => parts,
            // A newer node said something this version cannot read: its caller is told, the link stays.
            Err(DecodeError::Unknown { id, .. }) => {
                self.slots.complete(Ticket(id), Err(Failure::Unsupported), wakers);
                return Ok(());
            }
            Err(error @ DecodeError::Malformed(_)) => return Err(error),
        };
        let ticket = Ticket(id);
        let outcome = match frame_type {
            FrameType::Reply => {
                let reply = Reply::decode(id, &mut decoder)?;
                if !self.slots.awaits(ticket) {
                    return Ok(());
                }
                Ok(answer(&reply))
            }
            FrameType::Control => {
                if !self.slots.awaits(ticket) {
                    return Ok(());
                }
                match control::decode::<ControlReply>(id, &mut decoder) {
                    Ok(reply) => Ok(Answer {
                        status: meshwork_core::wire::Status::Ok,
                        maybe_applied: false,
                        worth: meshwork_core::wire::Worth::default(),
                        body: Body::Control(Box::new(reply)),
                    }),
                    Err(DecodeError::Unknown { .. }) => Err(Failure::Unsupported),
                    Err(error @ DecodeError::Malformed(_)) => return Err(error),
                }
            }
            FrameType::Unsupported => Err(Failure::Unsupported),
            FrameType::Request
            | FrameType::Replicate
            | FrameType::Replicated
            | FrameType::Read
            | FrameType::ReadReply
            | FrameType::Forward
            | FrameType::ForwardReply
            | FrameType::Exchange
            | FrameType::StreamPull
            | FrameType::StreamChunk => {
                return Err(DecodeError::Malformed("a node sends replies to its clients, nothing else"));
            }
        };
        self.slots.complete(ticket, outcome, wakers);
        Ok(())
    }
}

fn answer(reply: &Reply<'_>) -> Answer {
    let body = match reply.body {
        ReplyBody::Empty => Body::Empty,
        // Copied: a slice would pin a receive buffer for as long as the caller keeps the value.
        ReplyBody::Value { version, expires_at, value } => {
            Body::Value { version, expires_at, value: Bytes::copy_from_slice(value) }
        }
        ReplyBody::Written { version } => Body::Written { version },
        ReplyBody::Text(text) => Body::Text(text.into()),
    };
    Answer { status: reply.status, maybe_applied: reply.maybe_applied, worth: reply.worth, body }
}
