//! Core's effects become frames, straight in the buffers of links; each touched link is flushed once a batch.
//!
//! What cannot be sent is lost, and core's timeouts deal with it; but every bound is kept: a peer's link that queues
//! more than its bound takes no more messages, a client's gets `Overloaded` instead of a value, a peer without a link
//! gets a bounded queue while it is dialled. Dials themselves are made by `dial`, from the list here.

use crate::{
    letter::{AddressBook, Crossing, Letter, LinkFrames},
    links::{Kind, LinkName, Links},
    mailbox::Returned,
    shared::Shared,
    storage::Writes,
};
use bytes::BytesMut;
use meshwork_core::{
    id::NodeId,
    input::{Caller, PeerShard},
    outbox::{ShardOutbox, ShardReport, StoreWrite},
    time::Mono,
    wire::{
        client::{Reply, ReplyBody, Status},
        local,
        peer::PeerMessage,
    },
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// Most bytes queued for a peer's shard; beyond it messages are lost.
pub(crate) const PEER_QUEUE_BYTES_MAX: usize = 32 << 20;
/// Most bytes queued for a client before it gets `Overloaded` instead of values.
pub(crate) const CLIENT_QUEUE_BYTES_MAX: usize = 32 << 20;
/// Most bytes queued for a peer that is being dialled.
const DIALLING_BYTES_MAX: usize = 1 << 20;
/// Most gossip packets queued for one.
const DIALLING_PACKETS_MAX: usize = 16;
/// What an overloaded client is told to wait.
pub(crate) const RETRY_AFTER_MS: u32 = 20;
/// Room that a reply without a value may always have: it answers what was admitted.
const SMALL_REPLY: usize = 256;

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A member's shard.
    Peer(PeerShard),
    /// Whoever listens there.
    Anyone(SocketAddr),
}

/// A target without a link.
#[derive(Debug, Default)]
pub(crate) struct Dialling {
    /// A dial is under way.
    pub(crate) under_way: bool,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Not before.
    pub(crate) not_before: Mono,
    /// Frames with their lengths, to be sent once there is a link.
    pub(crate) frames: BytesMut,
    pub(crate) packets: Vec<Vec<u8>>,
}

/// The effects of one thread.
pub(crate) struct Outbox {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shard: u16,
    pub(crate) links: Links,
    pub(crate) addresses: Arc<AddressBook>,
    pub(crate) dialling: BTreeMap<Target, Dialling>,
    /// To be dialled after this batch.
    pub(crate) dials: Vec<(Target, SocketAddr)>,
    /// Messages lost because a queue was full, since the start.
    pub(crate) lost: u64,
    /// When this batch began.
    pub(crate) now: Mono,
    touched: Vec<LinkName>,
    touched_locals: Vec<LinkName>,
    /// For other threads, by thread.
    replies: Vec<Vec<LinkFrames>>,
    requests: Vec<Vec<Crossing>>,
    letters: Vec<u16>,
    /// For the disk.
    writes: Writes,
}

impl Outbox {
    pub(crate) fn new(shared: Arc<Shared>, shard: u16) -> Self {
        let shards = usize::from(shared.addresses.shards);
        Self {
            shared,
            shard,
            links: Links::new(shard),
            addresses: Arc::new(AddressBook::new()),
            dialling: BTreeMap::new(),
            dials: Vec::new(),
            lost: 0,
            now: Mono::default(),
            touched: Vec::new(),
            touched_locals: Vec::new(),
            replies: (0..shards).map(|_| Vec::new()).collect(),
            requests: (0..shards).map(|_| Vec::new()).collect(),
            letters: Vec::new(),
            writes: Writes::default(),
        }
    }

    /// Appends a frame of at most the link's room; `false`: there is none, or the link is gone.
    #[inline]
    pub(crate) fn frame(&mut self, name: LinkName, least: usize, encode: impl FnOnce(&mut BytesMut)) -> bool {
        let Some(entry) = self.links.get(name) else { return false };
        if !entry.touched {
            entry.touched = true;
            let most = match entry.kind {
                Kind::Client { .. } => CLIENT_QUEUE_BYTES_MAX,
                Kind::Node { .. } => PEER_QUEUE_BYTES_MAX,
            };
            entry.room = most.saturating_sub(entry.link.queued_bytes());
            self.touched.push(name);
        }
        if entry.room < least {
            self.lost += 1;
            return false;
        }
        let mut length = 0;
        let sent = entry.link.frame(|buffer| {
            let before = buffer.len();
            encode(buffer);
            length = buffer.len() - before;
        });
        entry.room = entry.room.saturating_sub(length);
        sent.is_ok()
    }

    /// A frame for a client's link, of whichever thread or in this process.
    pub(crate) fn answer(&mut self, link: u64, encode: impl FnOnce(&mut BytesMut)) {
        let name = LinkName(link);
        if name.shard() != self.shard {
            let Some(replies) = self.replies.get_mut(usize::from(name.shard())) else { return };
            if replies.is_empty() && self.requests[usize::from(name.shard())].is_empty() {
                self.letters.push(name.shard());
            }
            if replies.last().is_none_or(|last| last.link != link) {
                replies.push(LinkFrames { link, frames: BytesMut::new() });
            }
            if let Some(last) = replies.last_mut() {
                local::append(&mut last.frames, encode);
            }
        } else if name.is_local() {
            let Some(local) = self.links.local(name) else { return };
            if local.replies.is_empty() {
                self.touched_locals.push(name);
            }
            local.in_flight = local.in_flight.saturating_sub(1);
            local::append(&mut local.replies, encode);
        } else {
            if let Some(entry) = self.links.get(name) {
                entry.in_flight = entry.in_flight.saturating_sub(1);
            }
            self.frame(name, 0, encode);
        }
    }

    /// Replies that another thread made for links of this one.
    pub(crate) fn deliver(&mut self, batch: &LinkFrames) {
        let mut rest = &batch.frames[..];
        while let Some(frame) = local::next(&mut rest) {
            self.answer(batch.link, |buffer| buffer.extend_from_slice(frame));
        }
    }

    /// A request for a partition of another thread's shard.
    pub(crate) fn cross(&mut self, shard: u16, crossing: Crossing) {
        let index = usize::from(shard);
        if self.requests[index].is_empty() && self.replies[index].is_empty() {
            self.letters.push(shard);
        }
        self.requests[index].push(crossing);
    }

    /// A frame for a peer's shard: on a link, or into the queue of a dial.
    pub(crate) fn tell_peer(&mut self, to: PeerShard, address: Option<SocketAddr>, encode: impl FnOnce(&mut BytesMut)) {
        if let Some(name) = self.links.of_peer(to) {
            self.frame(name, 1, encode);
            return;
        }
        let Some(dialling) = self.dial(Target::Peer(to), address) else { return };
        if dialling.frames.len() < DIALLING_BYTES_MAX {
            local::append(&mut dialling.frames, encode);
        } else {
            self.lost += 1;
        }
    }

    /// A gossip packet for a node's shard 0.
    pub(crate) fn packet(&mut self, to: NodeId, address: SocketAddr, packet: &[u8]) {
        let to = PeerShard { node: to, shard: 0 };
        if let Some(entry) = self.links.of_peer(to).and_then(|name| self.links.get(name)) {
            // A lost packet is what membership expects of packets.
            let _ = entry.link.send_datagram(packet);
            return;
        }
        if let Some(dialling) = self.dial(Target::Peer(to), Some(address))
            && dialling.packets.len() < DIALLING_PACKETS_MAX
        {
            dialling.packets.push(packet.to_vec());
        }
    }

    /// Makes sure that a dial is under way; `None` when it is too early for another.
    pub(crate) fn dial(&mut self, target: Target, address: Option<SocketAddr>) -> Option<&mut Dialling> {
        let address = match target {
            Target::Anyone(address) => address,
            Target::Peer(to) => {
                // What the control plane knows now wins over the snapshot of the last layout.
                let base = address.or_else(|| self.addresses.get(&to.node).copied())?;
                SocketAddr::new(base.ip(), base.port().checked_add(to.shard)?)
            }
        };
        let dialling = self.dialling.entry(target).or_default();
        if !dialling.under_way {
            if self.now < dialling.not_before {
                return None;
            }
            dialling.under_way = true;
            self.dials.push((target, address));
        }
        Some(dialling)
    }

    /// A dial ended. What waited for it comes back when it succeeded.
    pub(crate) fn dialled(&mut self, target: Target, success: bool, now: Mono, jitter: u64) -> Option<Dialling> {
        if success {
            return self.dialling.remove(&target);
        }
        let dialling = self.dialling.get_mut(&target)?;
        let failures = dialling.failures + 1;
        // 50 ms doubling to 3.2 s, half of it random, so that a returning node is not met by all at once.
        let most = Duration::from_millis(50 << failures.min(6));
        let pause = most / 2 + most / 2 * u32::try_from(jitter % 100).expect("below 100") / 100;
        *dialling = Dialling { failures, not_before: now + pause, ..Dialling::default() };
        None
    }

    /// Sends what this batch wrote: one wake-up for each link, one letter for each thread, one call for each caller.
    pub(crate) fn flush(&mut self) {
        if !self.writes.is_empty() {
            self.hand_over();
        }
        while let Some(name) = self.touched.pop() {
            if let Some(entry) = self.links.get(name) {
                entry.touched = false;
                entry.link.flush();
            }
        }
        self.flush_locals();
        while let Some(shard) = self.letters.pop() {
            self.send_letters(shard);
        }
    }

    /// Leaves what this batch stores for the disk's thread.
    fn hand_over(&mut self) {
        let (shared, writes) = (self.shared.clone(), std::mem::take(&mut self.writes));
        let from = writes.first();
        // Without a disk core stores nothing; were it to, nothing would be kept.
        if shared.store.as_ref().is_none_or(|store| store.hand_over(self.shard, writes).is_err()) {
            shared.tell(self.shard, Letter::StoreFailed { from });
        }
    }

    /// Hands callers in this process the replies so far: one call for each.
    pub(crate) fn flush_locals(&mut self) {
        while let Some(name) = self.touched_locals.pop() {
            if let Some(local) = self.links.local(name) {
                (local.on_frames)(local.replies.split().freeze());
            }
        }
    }

    fn send_letters(&mut self, shard: u16) {
        let index = usize::from(shard);
        if !self.replies[index].is_empty() {
            let replies = std::mem::take(&mut self.replies[index]);
            self.shared.tell(shard, Letter::Replies(replies));
        }
        if self.requests[index].is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.requests[index]);
        match self.shared.mailboxes[index].send(Letter::Requests(requests)) {
            Ok(()) => {}
            Err(Returned::Full(letter) | Returned::Closed(letter)) => {
                let Letter::Requests(requests) = letter else { unreachable!("the letter sent above") };
                for crossing in requests {
                    if let Ok((_, id, _)) = meshwork_core::wire::frame::Decoder::start(&crossing.frame) {
                        let reply = Reply::status(id, Status::Overloaded { retry_after_ms: RETRY_AFTER_MS });
                        self.answer(crossing.link, |buffer| reply.encode(buffer));
                    }
                }
                // Callers of this thread only: one more round ends it.
                self.flush();
            }
        }
    }
}

impl ShardOutbox for Outbox {
    #[inline]
    fn send(&mut self, to: PeerShard, message: &PeerMessage<'_>) {
        self.tell_peer(to, None, |buffer| message.encode(buffer));
    }

    #[inline]
    fn reply(&mut self, caller: Caller, reply: &Reply<'_>) {
        debug_assert_eq!(caller.id, reply.id);
        if let ReplyBody::Value { value, .. } = reply.body
            && value.len() > SMALL_REPLY
            && !self.has_room(caller.link, value.len())
        {
            let refused = Reply::status(reply.id, Status::Overloaded { retry_after_ms: RETRY_AFTER_MS });
            self.answer(caller.link, |buffer| refused.encode(buffer));
            return;
        }
        self.answer(caller.link, |buffer| reply.encode(buffer));
    }

    fn report(&mut self, report: ShardReport) {
        // Also of shard 0: its control plane may be in the middle of a call.
        self.shared.tell(0, Letter::Report(report));
    }

    fn store(&mut self, write: &StoreWrite<'_>) {
        self.writes.push(write);
    }
}

impl Outbox {
    /// Whether this batch found or left more than `bytes` queued for a client's link.
    pub(crate) fn is_behind(&mut self, name: LinkName, bytes: usize) -> bool {
        let most = CLIENT_QUEUE_BYTES_MAX - bytes;
        self.links.get(name).is_some_and(|entry| entry.touched && entry.room < most)
    }

    /// Whether a client's link may queue so many bytes more. Links of other threads are judged there, by their reads.
    fn has_room(&mut self, link: u64, bytes: usize) -> bool {
        let name = LinkName(link);
        if name.shard() != self.shard || name.is_local() {
            return true;
        }
        self.links.get(name).is_none_or(|entry| {
            let room = if entry.touched {
                entry.room
            } else {
                CLIENT_QUEUE_BYTES_MAX.saturating_sub(entry.link.queued_bytes())
            };
            room >= bytes
        })
    }
}
