//! One thread of a node: its shard, its links, and the tasks that feed them (PERFORMANCE §3.1–3.2).
//!
//! All tasks of a thread share one `Worker`, borrowed for one batch at a time and never across an await. A batch is:
//! read both clocks, handle every frame there is, run what is due, flush each touched link once. The timer's task wakes
//! when core is due; it is armed anew only when core is due earlier than it knows.

use crate::{
    control::ControlPlane,
    letter::Letter,
    links::{Kind, LinkName, Local},
    lock::Held,
    outbox::{CLIENT_QUEUE_BYTES_MAX, Outbox, RETRY_AFTER_MS},
    shared::Shared,
    telemetry::Seldom,
};
use bytes::BytesMut;
use meshwork_core::{
    id::{KeyHash, KeyHasher, NamespaceId},
    input::{Caller, ShardInput},
    shard::Shard,
    time::{Mono, Now},
    view::View,
    wire::{
        client::{Reply, Request, Status},
        control::{self, ClientControl, PeerControl},
        frame::Decoder,
        local,
        peer::PeerMessage,
    },
};
use meshwork_transport::{Endpoint, FrameReader, Frames, Link};
use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// A client's link that queues more than this is not read until it drained.
const CLIENT_PAUSE_BYTES: usize = 4 << 20;
/// How many of a client's frames are handled before its queue is looked at again.
const PAUSE_CHECK_EVERY: usize = 8;
/// How often figures are shown to the rest of the node.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// Close code of a link whose other side broke the rules.
pub(crate) const OFFENCE_CODE: u32 = 2;
/// Close code of a stopping node.
pub(crate) const STOP_CODE: u32 = 3;

const _: () = assert!(CLIENT_PAUSE_BYTES < CLIENT_QUEUE_BYTES_MAX);

/// What the tasks of one thread share.
pub(crate) struct Worker {
    pub(crate) shard: Held,
    pub(crate) out: Outbox,
    /// On shard 0's thread.
    pub(crate) control: Option<ControlPlane>,
    pub(crate) hasher: KeyHasher,
    pub(crate) partitions: u16,
    pub(crate) stopping: bool,
    /// Namespaces whose writes wait for the disk.
    pub(crate) durable: BTreeSet<NamespaceId>,
    pub(crate) endpoint: Endpoint,
    pub(crate) offences: Seldom,
    pub(crate) refusals: Seldom,
    /// Hashes of the keys of this batch's requests, by their place in it; see `warm`.
    pub(crate) hashes: Vec<Option<KeyHash>>,
    /// Hashes of the keys that this batch needs, whoever sent it.
    wanted: Vec<KeyHash>,
    /// That of the frame in hand.
    pub(crate) hash_ahead: Option<KeyHash>,
    /// When core wants to be called next, as the last batch left it.
    due: Mono,
    /// When the timer's task wakes.
    armed: Mono,
    ticked: Mono,
    rearm: Rc<Notify>,
}

/// A thread's worker, as its tasks hold it.
pub(crate) type Seat = Rc<RefCell<Worker>>;

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shard: Shard,
        number: u16,
        partitions: u16,
        endpoint: Endpoint,
        control: Option<ControlPlane>,
    ) -> Self {
        let hasher = KeyHasher::new(shared.cluster);
        let mut shard = Held::new(shared.shards[usize::from(number)].clone(), shard);
        shard.give_back();
        Self {
            shard,
            out: Outbox::new(shared, number),
            control,
            hasher,
            partitions,
            stopping: false,
            durable: BTreeSet::new(),
            endpoint,
            offences: Seldom::default(),
            refusals: Seldom::default(),
            hashes: Vec::new(),
            wanted: Vec::new(),
            hash_ahead: None,
            due: Mono::default(),
            armed: Mono(u64::MAX),
            ticked: Mono::default(),
            rearm: Rc::new(Notify::new()),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.out.shared
    }

    /// Begins a batch: both clocks are read here and nowhere else, and the shard is this thread's until `finish`.
    #[inline]
    pub(crate) fn begin(&mut self) -> Now {
        self.shard.take();
        let now = self.out.shared.clocks.now();
        self.out.now = now.mono;
        now
    }

    /// Looks through a batch before it is handled: the keys' hashes are computed here, once, and the memory that each
    /// request will need is fetched, so that the waits for it overlap instead of adding up.
    #[inline]
    fn warm(&mut self, name: LinkName, frames: &Frames<'_>) {
        self.hashes.clear();
        let Some(entry) = self.out.links.get(name) else { return };
        let is_client = matches!(entry.kind, Kind::Client { .. });
        self.wanted.clear();
        frames.ahead(|place, frame| {
            let hash = if is_client {
                let hash = Request::place(frame).map(|(namespace, key)| self.hasher.hash(namespace, key));
                self.hashes.resize(place, None);
                self.hashes.push(hash);
                hash
            } else {
                match PeerMessage::place(frame) {
                    Some(Ok(hash)) => Some(hash),
                    Some(Err(id)) => self.shard.hash_of_answer(id),
                    None => None,
                }
            };
            self.wanted.extend(hash);
        });
        self.warm_wanted();
    }

    /// The same for the first requests, at most `most`, of a caller in this process; how many there are.
    pub(crate) fn warm_group(&mut self, mut frames: &[u8], most: usize) -> usize {
        self.hashes.clear();
        self.wanted.clear();
        while self.hashes.len() < most
            && let Some((known, frame)) = local::next_request(&mut frames)
        {
            let hash = known.or_else(|| Request::place(frame).map(|(namespace, key)| self.hasher.hash(namespace, key)));
            self.hashes.push(hash);
            self.wanted.extend(hash);
        }
        self.warm_wanted();
        self.hashes.len()
    }

    #[inline]
    fn warm_wanted(&mut self) {
        let (shards, shard, partitions) = (self.out.shared.addresses.shards, self.out.shard, self.partitions);
        if shards > 1 {
            self.wanted.retain(|hash| hash.partition(partitions).0 % shards == shard);
        }
        self.shard.warm(self.wanted.iter().copied());
    }

    /// Ends a batch: what is due, what follows from it, one flush.
    pub(crate) fn finish(&mut self, now: Now, seat: &Seat) {
        if self.shard.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.shard.handle_timeout(now, &mut self.out);
        }
        self.settle_control(now);
        self.out.flush();
        for (target, address) in std::mem::take(&mut self.out.dials) {
            crate::dial::spawn_dial(self, seat, target, address);
        }
        let control = self.control.as_ref().and_then(ControlPlane::poll_timeout);
        let due = [self.shard.poll_timeout(), control].into_iter().flatten().min();
        self.due = due.map_or(self.ticked + TICK, |due| due.min(self.ticked + TICK));
        if self.due < self.armed {
            self.rearm.notify_one();
        }
        self.shard.give_back();
    }

    /// The timer's part of a batch.
    fn tick(&mut self, now: Now) {
        self.shard.handle_timeout(now, &mut self.out);
        if now.mono.since(self.ticked) >= TICK {
            self.ticked = now.mono;
            let stats = self.shard.stats();
            self.out.shared.tick(self.out.shard, now.mono, stats);
            if let Some(control) = &mut self.control {
                control.tick(now, &self.out.shared);
            }
        }
    }

    /// One letter of another thread.
    fn on_letter(&mut self, now: Now, letter: Letter) {
        match letter {
            Letter::Requests(crossings) => self.on_crossings(now, &crossings),
            Letter::Replies(batches) => batches.iter().for_each(|batch| self.out.deliver(batch)),
            Letter::Peer { from, frame } => self.on_crossed_peer(now, from, &frame),
            Letter::CallerLost { link } => {
                self.shard.handle(now, ShardInput::CallerLost { link }, &mut self.out);
            }
            Letter::LocalOpen { link, on_frames } => {
                let name = LinkName(link);
                self.out.links.locals.push(Local { name, on_frames, replies: BytesMut::new(), in_flight: 0 });
            }
            Letter::Local { link, frames } => self.on_local(now, LinkName(link), &frames),
            Letter::LocalRefused { link, ids } => {
                for id in ids {
                    let reply = Reply::status(id, Status::Overloaded { retry_after_ms: RETRY_AFTER_MS });
                    // It was never counted in, and the reply counts one out.
                    if let Some(local) = self.out.links.local(LinkName(link)) {
                        local.in_flight += 1;
                    }
                    self.out.answer(link, |buffer| reply.encode(buffer));
                }
            }
            Letter::LocalClose { link } => {
                self.out.links.locals.retain(|local| local.name != LinkName(link));
                self.caller_lost(now, LinkName(link));
            }
            Letter::View(view, addresses) => {
                self.out.addresses = addresses;
                self.on_view(now, view);
            }
            Letter::Report(report) => self.on_report(now, report),
            Letter::Stored { through } => self.shard.handle(now, ShardInput::Stored { through }, &mut self.out),
            Letter::StoreFailed { from } => self.shard.handle(now, ShardInput::StoreFailed { from }, &mut self.out),
            Letter::PeerControl { from, frame } => {
                let Ok((_, id, mut decoder)) = Decoder::start(&frame) else { return };
                // From a newer node, and another thread's link: not worth an answer, the control plane repeats itself.
                if let Ok(message) = control::decode::<PeerControl>(id, &mut decoder) {
                    self.on_peer_control(now, from, message);
                }
            }
            Letter::ClientControl { link, admin, frame } => {
                let Ok((_, id, mut decoder)) = Decoder::start(&frame) else { return };
                match control::decode::<ClientControl>(id, &mut decoder) {
                    Ok(request) => self.on_client_control(now, Caller { link, id }, admin, request),
                    Err(_) => self.out.answer(link, |buffer| {
                        meshwork_core::wire::frame::encode_unsupported(buffer, id);
                    }),
                }
            }
            Letter::PeerHello { hello, wall } => self.on_peer_hello(now, hello, wall),
            Letter::Stop => self.stopping = true,
            #[cfg(test)]
            Letter::Panic => panic!("as a bug would"),
        }
    }

    /// The control plane's newest snapshot.
    pub(crate) fn on_view(&mut self, now: Now, view: Arc<View>) {
        let durable = view.namespaces.iter().filter(|(_, namespace)| namespace.ack.is_durable());
        self.durable = durable.map(|(id, _)| id).collect();
        self.shard.handle(now, ShardInput::View(view), &mut self.out);
    }

    /// A caller is gone: whoever works for it may stop.
    fn caller_lost(&mut self, now: Now, name: LinkName) {
        self.shard.handle(now, ShardInput::CallerLost { link: name.0 }, &mut self.out);
        for shard in (0..self.out.shared.addresses.shards).filter(|shard| *shard != self.out.shard) {
            self.out.shared.tell(shard, Letter::CallerLost { link: name.0 });
        }
    }

    /// A link is over: forget it, and tell core what was lost with it.
    pub(crate) fn on_link_lost(&mut self, now: Now, name: LinkName) {
        let Some(entry) = self.out.links.remove(name) else { return };
        match entry.kind {
            Kind::Client { .. } => self.caller_lost(now, name),
            Kind::Node { peer, .. } => {
                if !self.out.links.reaches(peer.node) {
                    self.shard.handle(now, ShardInput::PeerLost(peer.node), &mut self.out);
                    self.on_peer_lost(now, peer.node);
                }
            }
        }
    }
}

/// Runs `future` as a task of this thread; its panic stops the node.
pub(crate) fn spawn(seat: &Seat, future: impl Future<Output = ()> + 'static) {
    let guard = crate::shutdown::PanicGuard::new(seat.borrow().shared().clone(), seat.borrow().out.shard);
    spawn_guarded(guard, future);
}

/// As `spawn`, while the worker is borrowed.
pub(crate) fn spawn_guarded(guard: crate::shutdown::PanicGuard, future: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(async move {
        let _guard = guard;
        future.await;
    });
}

/// Reads one stream of a link until it ends, batch by batch.
pub(crate) async fn read(seat: Seat, name: LinkName, link: Link, mut reader: FrameReader, pauses: bool) {
    loop {
        let offence = match reader.batch().await {
            Ok(Some(mut frames)) => {
                let worker = &mut *seat.borrow_mut();
                let now = worker.begin();
                let (mut offence, mut handled) = (None, 0);
                worker.warm(name, &frames);
                while let Some(frame) = frames.next() {
                    worker.hash_ahead = worker.hashes.get(handled).copied().flatten();
                    if let Err(reason) = worker.on_frame(now, name, frame) {
                        offence = Some(reason);
                        break;
                    }
                    // A batch may hold thousands of small requests for large values; what is left of it comes next.
                    handled += 1;
                    if pauses
                        && handled.is_multiple_of(PAUSE_CHECK_EVERY)
                        && worker.out.is_behind(name, CLIENT_PAUSE_BYTES)
                    {
                        break;
                    }
                }
                worker.hash_ahead = None;
                worker.finish(now, &seat);
                offence
            }
            Ok(None) => Some("it ended a stream".to_owned()),
            Err(error) => match link.close_reason() {
                // The task that waits for the link's end tells it.
                Some(_) => return,
                None => Some(error.to_string()),
            },
        };
        if let Some(reason) = offence {
            let worker = &mut *seat.borrow_mut();
            let now = worker.begin();
            worker.offences.tell(now.mono, &reason, |suppressed| {
                tracing::warn!(peer = %link.peer(), address = %link.remote_address(), %reason, suppressed,
                    "link closed: its other side broke the rules");
            });
            link.close(OFFENCE_CODE, &reason);
            worker.finish(now, &seat);
            return;
        }
        if pauses {
            // One who does not read its replies is not read either: what it may queue here is bounded.
            while link.queued_bytes() > CLIENT_PAUSE_BYTES && link.close_reason().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Waits for the end of a link and cleans up after it.
pub(crate) async fn watch(seat: Seat, name: LinkName, link: Link) {
    let why = link.closed().await;
    let worker = &mut *seat.borrow_mut();
    let now = worker.begin();
    tracing::debug!(peer = %link.peer(), address = %link.remote_address(), %why, "link closed");
    worker.on_link_lost(now, name);
    worker.finish(now, &seat);
}

/// Reads gossip from a node's link.
pub(crate) async fn read_gossip(seat: Seat, link: Link) {
    while let Ok(packet) = link.read_datagram().await {
        let worker = &mut *seat.borrow_mut();
        let now = worker.begin();
        worker.on_gossip(now, &packet);
        worker.finish(now, &seat);
    }
}

/// Calls core when it is due.
pub(crate) async fn run_timer(seat: Seat) {
    let rearm = seat.borrow().rearm.clone();
    loop {
        let deadline = {
            let worker = &mut *seat.borrow_mut();
            worker.armed = worker.due;
            worker.shared().clocks.instant(worker.armed)
        };
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {
                let worker = &mut *seat.borrow_mut();
                let now = worker.begin();
                worker.tick(now);
                worker.control_timeout(now);
                worker.finish(now, &seat);
            }
            () = rearm.notified() => {}
        }
    }
}

/// Takes letters.
pub(crate) async fn run_mailbox(seat: Seat) {
    let (shared, number) = {
        let worker = seat.borrow();
        (worker.shared().clone(), usize::from(worker.out.shard))
    };
    let mut letters = Vec::new();
    loop {
        shared.mailboxes[number].arrived().await;
        shared.mailboxes[number].take(&mut letters);
        let worker = &mut *seat.borrow_mut();
        let now = worker.begin();
        for letter in letters.drain(..) {
            worker.on_letter(now, letter);
        }
        worker.finish(now, &seat);
    }
}
