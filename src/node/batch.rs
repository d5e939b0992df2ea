//! Frames become inputs of core; who may send what is decided here (ARCHITECTURE §4, §5).
//!
//! A client's link carries requests and its control messages, a node's the data plane's messages and the control
//! plane's. A frame that is none of these ends its link with a reason, since nothing after it can be trusted; a message
//! of a newer version gets `Unsupported` and the link stays. A request for another shard's partition crosses to it.

use crate::{
    letter::{Crossing, Letter},
    links::{Kind, LinkName},
    outbox::RETRY_AFTER_MS,
    storage::add,
    worker::Worker,
};
use bytes::Bytes;
use meshwork_core::{
    id::KeyHash,
    input::{Caller, PeerShard, ShardInput},
    limits::IN_FLIGHT_PER_LINK,
    time::Now,
    wire::{
        client::{Op, Reply, Request, Status},
        control::{self, ClientControl, PeerControl},
        frame::{DecodeError, Decoder, FrameType, encode_unsupported},
        local,
        peer::PeerMessage,
    },
};

/// Requests of a caller in this process are warmed, handled and answered in groups of so many, not only as a whole batch:
/// the memory they need stays in the cache between the first look and the second, and two threads work at the same time.
const LOCAL_GROUP: usize = 32;

/// Why a link is closed.
pub(crate) type Offence = String;

impl Worker {
    /// One frame of a link of this thread.
    ///
    /// # Errors
    /// Words for the log and for the other side: close the link.
    #[inline]
    pub(crate) fn on_frame(&mut self, now: Now, name: LinkName, frame: &[u8]) -> Result<(), Offence> {
        // A link that was closed while its frames were read.
        let Some(entry) = self.out.links.get(name) else { return Ok(()) };
        match entry.kind {
            Kind::Client { admin } => self.on_client_frame(now, name, admin, frame),
            Kind::Node { peer, .. } => self.on_node_frame(now, name, peer, frame),
        }
    }

    /// A batch of a caller in this process.
    pub(crate) fn on_local(&mut self, now: Now, name: LinkName, frames: &Bytes) {
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let count = self.warm_group(rest, LOCAL_GROUP);
            for place in 0..count {
                let Some((_, frame)) = local::next_request(&mut rest) else { return };
                self.hash_ahead = self.hashes.get(place).copied().flatten();
                if let Err(reason) = self.on_client_frame(now, name, true, frame) {
                    tracing::warn!(%reason, "a caller in this process sent what is not a request; it is ignored");
                    self.hash_ahead = None;
                    return;
                }
            }
            self.hash_ahead = None;
            if count < LOCAL_GROUP {
                return;
            }
            self.out.flush_locals();
        }
    }

    #[inline]
    fn on_client_frame(&mut self, now: Now, name: LinkName, admin: bool, frame: &[u8]) -> Result<(), Offence> {
        let (frame_type, id, mut decoder) = match Decoder::start(frame) {
            Ok(parts) => parts,
            Err(error) => return self.undecodable(name, error),
        };
        match frame_type {
            FrameType::Request => match Request::decode(id, &mut decoder) {
                Ok(request) => {
                    self.on_request(now, name, request, frame);
                    Ok(())
                }
                Err(error) => self.undecodable(name, error),
            },
            FrameType::Control => {
                // Counted like a request, since its reply is; never refused: a full node still says how it is.
                self.admit(name);
                if self.control.is_none() {
                    let frame = Bytes::copy_from_slice(frame);
                    self.out.shared.tell(0, Letter::ClientControl { link: name.0, admin, frame });
                    return Ok(());
                }
                match control::decode::<ClientControl>(id, &mut decoder) {
                    Ok(request) => {
                        self.on_client_control(now, Caller { link: name.0, id }, admin, request);
                        Ok(())
                    }
                    Err(error) => self.undecodable(name, error),
                }
            }
            FrameType::Unsupported => Ok(()),
            FrameType::Reply
            | FrameType::Replicate
            | FrameType::Replicated
            | FrameType::Read
            | FrameType::ReadReply
            | FrameType::Forward
            | FrameType::ForwardReply
            | FrameType::Exchange
            | FrameType::StreamPull
            | FrameType::StreamChunk => {
                Err("a client may send requests only: nodes need a certificate with the role node".to_owned())
            }
        }
    }

    #[inline]
    fn on_request(&mut self, now: Now, name: LinkName, request: Request<'_>, frame: &[u8]) {
        let caller = Caller { link: name.0, id: request.id };
        if !self.admit(name) {
            let reply = if self.stopping {
                Reply::text(request.id, Status::NotReady, "this node is stopping: ask another")
            } else {
                Reply::status(request.id, Status::Overloaded { retry_after_ms: RETRY_AFTER_MS })
            };
            self.out.answer(caller.link, |buffer| reply.encode(buffer));
            return;
        }
        let late = self.out.links.get(name).map_or(0, |entry| entry.lateness.of(now.mono, request.sent));
        let request = Request { deadline_ms: request.deadline_ms.saturating_sub(late), ..request };
        if late > 0 && request.deadline_ms == 0 {
            let reply =
                Reply::text(request.id, Status::Timeout, "the request arrived after its sender had given it up");
            self.out.answer(caller.link, |buffer| reply.encode(buffer));
            return;
        }
        if self.waits_too_long(&request) {
            if let Some(store) = &self.out.shared.store {
                add(store.disk.figures.refused(), 1);
            }
            let reply = Reply::status(request.id, Status::Overloaded { retry_after_ms: RETRY_AFTER_MS });
            self.out.answer(caller.link, |buffer| reply.encode(buffer));
            return;
        }
        let hash = self.hash_ahead.take().unwrap_or_else(|| self.hasher.hash(request.namespace, request.key));
        let shard = self.shard_of(hash);
        if shard == self.out.shard {
            self.shard.handle(now, ShardInput::Client { caller, hash, request }, &mut self.out);
        } else {
            self.out.cross(shard, Crossing { link: caller.link, hash, frame: Bytes::copy_from_slice(frame) });
        }
    }

    /// Whether this is a write for the disk, and too much waits for that.
    #[inline]
    fn waits_too_long(&self, request: &Request<'_>) -> bool {
        let writes = match request.op {
            Op::Put { .. } | Op::Delete { .. } | Op::Touch { .. } => true,
            Op::Get | Op::Inspect => false,
        };
        writes
            && self.out.shared.store.as_ref().is_some_and(|store| store.is_behind())
            && self.durable.contains(&request.namespace)
    }

    /// Counts a request in; the reply counts it out. `false`: it may not come in, and its reply counts nothing.
    #[inline]
    fn admit(&mut self, name: LinkName) -> bool {
        let stopping = self.stopping;
        let in_flight = if name.is_local() {
            self.out.links.local(name).map(|local| &mut local.in_flight)
        } else {
            self.out.links.get(name).map(|entry| &mut entry.in_flight)
        };
        let Some(in_flight) = in_flight else { return false };
        // Counted in any case: every reply counts one out.
        *in_flight += 1;
        !stopping && *in_flight <= IN_FLIGHT_PER_LINK
    }

    /// Clients' requests that another thread received.
    pub(crate) fn on_crossings(&mut self, now: Now, crossings: &[Crossing]) {
        for Crossing { link, hash, frame } in crossings {
            // Decoded there already: a frame that fails here is a bug, and costs its caller a timeout.
            let Ok((FrameType::Request, id, mut decoder)) = Decoder::start(frame) else { continue };
            let Ok(request) = Request::decode(id, &mut decoder) else { continue };
            let caller = Caller { link: *link, id };
            self.shard.handle(now, ShardInput::Client { caller, hash: *hash, request }, &mut self.out);
        }
    }

    #[inline]
    fn on_node_frame(&mut self, now: Now, name: LinkName, from: PeerShard, frame: &[u8]) -> Result<(), Offence> {
        let (frame_type, id, mut decoder) = match Decoder::start(frame) {
            Ok(parts) => parts,
            Err(error) => return self.undecodable(name, error),
        };
        match frame_type {
            FrameType::Control => {
                if self.control.is_none() {
                    let frame = Bytes::copy_from_slice(frame);
                    // Dropped when too much waits: the control plane repeats itself.
                    let _ = self.out.shared.mailboxes[0].send(Letter::PeerControl { from: from.node, frame });
                    return Ok(());
                }
                match control::decode::<PeerControl>(id, &mut decoder) {
                    Ok(message) => {
                        self.on_peer_control(now, from.node, message);
                        Ok(())
                    }
                    Err(error) => self.undecodable(name, error),
                }
            }
            FrameType::Request | FrameType::Reply => {
                Err("a node's link carries no client requests: say Hello as a client for those".to_owned())
            }
            FrameType::Replicate
            | FrameType::Replicated
            | FrameType::Read
            | FrameType::ReadReply
            | FrameType::Forward
            | FrameType::ForwardReply
            | FrameType::Exchange
            | FrameType::StreamPull
            | FrameType::StreamChunk
            | FrameType::Unsupported => match PeerMessage::decode(frame_type, id, &mut decoder) {
                Ok(Some(message)) => {
                    let message = self.on_time(now, name, message);
                    self.on_peer_message(now, from, message, frame);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => self.undecodable(name, error),
            },
        }
    }

    /// A forwarded request with what it is late taken off its deadline, and every other message as it is.
    fn on_time<'a>(&mut self, now: Now, name: LinkName, message: PeerMessage<'a>) -> PeerMessage<'a> {
        let PeerMessage::Forward { id, hash, request } = message else { return message };
        let late = self.out.links.get(name).map_or(0, |entry| entry.lateness.of(now.mono, request.sent));
        let request = Request { deadline_ms: request.deadline_ms.saturating_sub(late), ..request };
        PeerMessage::Forward { id, hash, request }
    }

    #[inline]
    fn on_peer_message(&mut self, now: Now, from: PeerShard, message: PeerMessage<'_>, frame: &[u8]) {
        let shards = self.out.shared.addresses.shards;
        let shard = match &message {
            PeerMessage::Replicate { key, .. } | PeerMessage::Read { key, .. } => self.shard_of(key.hash),
            PeerMessage::Forward { hash, .. } => self.shard_of(*hash),
            PeerMessage::StreamPull { partition, .. } => partition.0 % shards,
            // Answers come to the shard that asked: it dialled, or its number stands in the link's Hello.
            PeerMessage::Replicated { .. }
            | PeerMessage::ReadReply { .. }
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Exchange { .. }
            | PeerMessage::StreamChunk { .. }
            | PeerMessage::StreamRefused { .. }
            | PeerMessage::Unsupported { .. } => self.out.shard,
        };
        if shard == self.out.shard {
            self.shard.handle(now, ShardInput::Peer { from, message }, &mut self.out);
        } else {
            let frame = Bytes::copy_from_slice(frame);
            // Lost when too much waits: its sender's timeout deals with it.
            let _ = self.out.shared.mailboxes[usize::from(shard)].send(Letter::Peer { from, frame });
        }
    }

    /// A message of the data plane that another thread received.
    pub(crate) fn on_crossed_peer(&mut self, now: Now, from: PeerShard, frame: &[u8]) {
        let Ok((frame_type, id, mut decoder)) = Decoder::start(frame) else { return };
        if let Ok(Some(message)) = PeerMessage::decode(frame_type, id, &mut decoder) {
            self.shard.handle(now, ShardInput::Peer { from, message }, &mut self.out);
        }
    }

    fn undecodable(&mut self, name: LinkName, error: DecodeError) -> Result<(), Offence> {
        match error {
            DecodeError::Unknown { id, .. } => {
                if name.is_local()
                    || matches!(self.out.links.get(name).map(|entry| entry.kind), Some(Kind::Client { .. }))
                {
                    self.out.answer(name.0, |buffer| encode_unsupported(buffer, id));
                } else {
                    self.out.frame(name, 1, |buffer| encode_unsupported(buffer, id));
                }
                Ok(())
            }
            DecodeError::Malformed(_) => Err(error.to_string()),
        }
    }

    #[inline]
    pub(crate) fn shard_of(&self, hash: KeyHash) -> u16 {
        let shards = self.out.shared.addresses.shards;
        if shards == 1 { 0 } else { hash.partition(self.partitions).0 % shards }
    }
}

/// Ids of the requests in a batch that could not be taken, to be answered all the same.
pub(crate) fn request_ids(frames: &[u8]) -> Vec<u64> {
    let (mut rest, mut ids) = (frames, Vec::new());
    while let Some((_, frame)) = local::next_request(&mut rest) {
        if let Ok((FrameType::Request, id, _)) = Decoder::start(frame) {
            ids.push(id);
        }
    }
    ids
}
