//! The data plane's messages between nodes (PROTOCOL §9). They carry whole entries, never operations.
//!
//! Sender and incarnation are facts of the link (its `Hello`), so frames do not repeat them. Every request carries the
//! sender's layout and clock; every reply the replier's clock. `id` is the asker's number, and is echoed.

use super::{
    client::{Reply, Request},
    exchange::{self, Exchange},
    frame::{DecodeError, Decoder, ENTRY_FIELDS, Encoder, FrameType},
};
use crate::{
    id::{KeyHash, NamespaceId, NodeId, PartitionId},
    ring::LayoutName,
    time::Wall,
    value::{Entry, Hlc, Version},
};
use bytes::BytesMut;

/// What every peer request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The layout the sender decides under.
    pub layout: LayoutName,
    /// The sender's clock.
    pub hlc: Hlc,
    /// Milliseconds until nobody waits any more.
    pub deadline_ms: u32,
}

/// Which key, with the hash its coordinator computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef<'a> {
    /// Where.
    pub namespace: NamespaceId,
    /// The hash of namespace and key.
    pub hash: KeyHash,
    /// The key.
    pub key: &'a [u8],
}

/// How a replica took an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicated {
    /// Held in memory now (or was already).
    Applied,
    /// Something newer is held or remembered. Not an acknowledgement.
    Superseded {
        /// That newer version.
        version: Version,
        /// Until when a successor must be held, when what is held outlives the refused entry.
        hold_until: Option<Wall>,
    },
    /// Not held.
    Refused(Refusal),
}

/// Why a replica did not do as asked. Nothing changed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its oldest active layout is newer than the request's.
    StaleEpoch,
    /// The sender's clock is too far ahead or behind.
    ClockSkew,
    /// No memory, and nothing to evict.
    OutOfMemory,
    /// It knows no such namespace yet.
    NoSuchNamespace,
    /// It is no owner and no fallback, or has no layout.
    NotOwner,
    /// Its queues are full.
    Overloaded,
    /// It does not know the message.
    Unsupported,
    /// The hint is too old, or what it brings is over: drop it.
    Outlived,
    /// The namespace asks for a log, and it has no disk: what was sent is held in memory, and that is no vote.
    NoDisk,
    /// The namespace asks for a log, and its disk is full, failing or too far behind: held in memory perhaps, no vote.
    NotStored,
    /// It is larger than a quarter of its shard's memory: evicted as it arrived, and remembered as that.
    TooLarge,
}

impl Refusal {
    pub(super) const ALL: [Self; 11] = [
        Self::StaleEpoch,
        Self::ClockSkew,
        Self::OutOfMemory,
        Self::NoSuchNamespace,
        Self::NotOwner,
        Self::Overloaded,
        Self::Unsupported,
        Self::Outlived,
        Self::NoDisk,
        Self::NotStored,
        Self::TooLarge,
    ];

    fn code(self) -> u64 {
        match self {
            Self::StaleEpoch => 0,
            Self::ClockSkew => 1,
            Self::OutOfMemory => 2,
            Self::NoSuchNamespace => 3,
            Self::NotOwner => 4,
            Self::Overloaded => 5,
            Self::Unsupported => 6,
            Self::Outlived => 7,
            Self::NoDisk => 8,
            Self::NotStored => 9,
            Self::TooLarge => 10,
        }
    }

    fn of(code: u64) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code).unwrap_or(Self::Unsupported)
    }
}

/// Whether a replica's "absent" and "applied" count (PROTOCOL §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has everything it acknowledged: it votes.
    Ready,
    /// It may have lost what it acknowledged: it votes in nothing yet.
    Warming,
    /// Warming for longer than `warming_max`: it votes in sloppy requests only.
    Settled,
    /// It is no owner: it speaks for hints only.
    Fallback,
}

impl ReplicaState {
    /// What a vote given as `self` is worth once its copy is worth `now`: no more than before, whatever it is by now.
    pub(crate) fn lowered(self, now: Self) -> Self {
        match (self, now) {
            (Self::Ready, _) | (Self::Settled, Self::Warming | Self::Fallback) => now,
            (Self::Settled | Self::Warming | Self::Fallback, _) => self,
        }
    }

    fn code(self) -> u64 {
        u64::from(self.byte())
    }

    /// The state as a byte of a packed list.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Warming => 1,
            Self::Settled => 2,
            Self::Fallback => 3,
        }
    }

    fn of(code: u64) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Ready),
            1 => Ok(Self::Warming),
            2 => Ok(Self::Settled),
            3 => Ok(Self::Fallback),
            _ => Err(DecodeError::Malformed("an unknown replica state")),
        }
    }

    /// Which state such a byte means.
    pub(super) fn of_byte(byte: u8) -> Option<Self> {
        Self::of(u64::from(byte)).ok()
    }
}

/// Why an entry is sent, which decides how it is received and which class its bytes travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationKind {
    /// A client's write, now: the receiver's answer is a vote.
    Client,
    /// What a read or an exchange found the receiver to be without.
    Repair {
        /// Whether the sender saw it used again and again.
        popular: bool,
    },
    /// A write kept while its owner could not be reached; or, with `stands_for`, handed over to be kept on.
    Hint,
    /// Part of a range transfer to a new owner.
    Stream,
}

impl ReplicationKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Client, Self::REPAIR, Self::Hint, Self::Stream, Self::Repair { popular: true }];
    /// A repair of what nobody is known to ask for.
    pub const REPAIR: Self = Self::Repair { popular: false };

    fn code(self) -> u64 {
        match self {
            Self::Client => 0,
            Self::Repair { popular: false } => 1,
            Self::Hint => 2,
            Self::Stream => 3,
            Self::Repair { popular: true } => 4,
        }
    }

    /// A kind that only a newer version knows is received like a repair, by the most careful rule there is.
    fn of(code: u64) -> Self {
        Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::REPAIR)
    }
}

/// What a replica holds of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// All of it.
    Entry(Entry<'a>),
    /// Which version it holds, without the body: equal versions are equal entries.
    Digest {
        /// That version.
        version: Version,
    },
    /// Nothing; and the highest version it may have held and forgotten (ghost or forget floor).
    Absent {
        /// `Version::ZERO`: nothing was forgotten.
        forgotten: Version,
    },
    /// It could not say.
    Refused(Refusal),
}

impl Found<'_> {
    /// The version that is held.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Entry(entry) => Some(entry.version),
            Self::Digest { version } => Some(*version),
            Self::Absent { .. } | Self::Refused(_) => None,
        }
    }
}

/// A message of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// Hold this entry.
    Replicate {
        /// The asker's number.
        id: u64,
        /// Layout, clock, deadline.
        header: Header,
        /// Which key.
        key: KeyRef<'a>,
        /// The entry.
        entry: Entry<'a>,
        /// The unreachable owner for whom the receiver holds it as a hint; `None`: the receiver is an owner.
        stands_for: Option<NodeId>,
        /// Why it is sent.
        kind: ReplicationKind,
    },
    /// How it was taken.
    Replicated {
        /// The asker's number.
        id: u64,
        /// The replica's clock.
        hlc: Hlc,
        /// The replica's state.
        state: ReplicaState,
        /// How.
        outcome: Replicated,
    },
    /// What do you hold?
    Read {
        /// The asker's number.
        id: u64,
        /// Layout, clock, deadline.
        header: Header,
        /// Which key.
        key: KeyRef<'a>,
        /// Whether the body is wanted, or only its version.
        full: bool,
    },
    /// This.
    ReadReply {
        /// The asker's number.
        id: u64,
        /// The replica's clock.
        hlc: Hlc,
        /// The replica's state.
        state: ReplicaState,
        /// What it holds.
        found: Found<'a>,
    },
    /// A client's request, for an owner; forwarded once and never again.
    Forward {
        /// The forwarder's number.
        id: u64,
        /// The hash of its namespace and key.
        hash: KeyHash,
        /// The request, whose `id` means nothing here.
        request: Request<'a>,
    },
    /// The reply, whose `id` is the forwarder's number.
    ForwardReply(Reply<'a>),
    /// A step of a comparison between replicas.
    Exchange {
        /// The number of the comparison, its beginner's.
        id: u64,
        /// Layout and clock; no deadline.
        header: Header,
        /// Which step.
        exchange: Exchange<'a>,
    },
    /// Send the next part of a partition, in the order of key hashes: a new owner asks one of those who had it.
    StreamPull {
        /// The asker's number.
        id: u64,
        /// The newest layout: from now on the receiver takes nothing from who decides under an older one.
        header: Header,
        /// Which partition.
        partition: PartitionId,
        /// The part begins behind this hash; `None`: at the beginning.
        after: Option<u64>,
        /// What the asker holds of the partition: the sums of its leaves over all trees, 8 bytes each. Of leaves that are
        /// equal nothing is sent. Empty: it holds nothing.
        leaves: &'a [u8],
    },
    /// This part.
    StreamChunk {
        /// The asker's number.
        id: u64,
        /// The source's clock.
        hlc: Hlc,
        /// The source's state as a replica of the partition.
        state: ReplicaState,
        /// The layout it was asked for, by its epoch.
        epoch: u64,
        /// Which partition.
        partition: PartitionId,
        /// As asked.
        after: Option<u64>,
        /// The last hash of this part; `None`: the partition ends with it.
        last: Option<u64>,
        /// Entries, and forget floors: see `wire::stream`.
        body: &'a [u8],
    },
    /// No such part can be had from here now.
    StreamRefused {
        /// The asker's number.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The receiver does not know the message with this number.
    Unsupported {
        /// The asker's number.
        id: u64,
    },
}

fn encode_header(encoder: &mut Encoder<'_>, header: &Header, key: &KeyRef<'_>) {
    encoder.uint(header.layout.epoch).fixed(header.layout.hash).fixed(header.hlc.0).uint(u64::from(header.deadline_ms));
    encoder.uint(u64::from(key.namespace.0)).fixed(key.hash.0).bytes(key.key);
}

const HEADER_FIELDS: u32 = 7;
/// Integers of a header before the key's hash.
const HASH_AFTER: u32 = 5;

fn decode_header<'a>(decoder: &mut Decoder<'a>) -> Result<(Header, KeyRef<'a>), DecodeError> {
    let layout = LayoutName { epoch: decoder.uint()?, hash: decoder.uint()? };
    let header = Header { layout, hlc: Hlc(decoder.uint()?), deadline_ms: decoder.small()? };
    let key =
        KeyRef { namespace: NamespaceId(decoder.small()?), hash: KeyHash(decoder.uint()?), key: decoder.bytes()? };
    Ok((header, key))
}

impl<'a> PeerMessage<'a> {
    /// The hash of the key that a frame asks about, or the number of the request that it answers, without reading the
    /// rest: to fetch memory early.
    #[inline]
    pub fn place(frame: &'a [u8]) -> Option<Result<KeyHash, u64>> {
        let (frame_type, id, mut decoder) = Decoder::start(frame).ok()?;
        match frame_type {
            FrameType::Replicate | FrameType::Read => {
                for _ in 0..HASH_AFTER {
                    decoder.uint().ok()?;
                }
                Some(Ok(KeyHash(decoder.uint().ok()?)))
            }
            FrameType::Forward => Some(Ok(KeyHash(decoder.uint().ok()?))),
            FrameType::ReadReply => Some(Err(id)),
            FrameType::Replicated
            | FrameType::ForwardReply
            | FrameType::Exchange
            | FrameType::StreamPull
            | FrameType::StreamChunk
            | FrameType::Unsupported
            | FrameType::Request
            | FrameType::Reply
            | FrameType::Control => None,
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Replicate { id, header, key, entry, stands_for, kind } => {
                let mut encoder = Encoder::start(out, FrameType::Replicate, *id, HEADER_FIELDS + ENTRY_FIELDS + 2);
                encode_header(&mut encoder, header, key);
                encoder.entry(entry).node(*stands_for).uint(kind.code());
            }
            Self::Replicated { id, hlc, state, outcome } => {
                let fields = match outcome {
                    Replicated::Applied => 3,
                    Replicated::Superseded { .. } => 6,
                    Replicated::Refused(_) => 4,
                };
                let mut encoder = Encoder::start(out, FrameType::Replicated, *id, fields);
                encoder.fixed(hlc.0).uint(state.code());
                match outcome {
                    Replicated::Applied => encoder.uint(0),
                    Replicated::Superseded { version, hold_until } => {
                        encoder.uint(1).version(*version).time(*hold_until)
                    }
                    Replicated::Refused(refusal) => encoder.uint(2).uint(refusal.code()),
                };
            }
            Self::Read { id, header, key, full } => {
                let mut encoder = Encoder::start(out, FrameType::Read, *id, HEADER_FIELDS + 1);
                encode_header(&mut encoder, header, key);
                encoder.uint(u64::from(*full));
            }
            Self::ReadReply { id, hlc, state, found } => {
                let fields = match found {
                    Found::Entry(_) => 3 + ENTRY_FIELDS,
                    Found::Digest { .. } | Found::Absent { .. } => 5,
                    Found::Refused(_) => 4,
                };
                let mut encoder = Encoder::start(out, FrameType::ReadReply, *id, fields);
                encoder.fixed(hlc.0).uint(state.code());
                match found {
                    Found::Entry(entry) => encoder.uint(0).entry(entry),
                    Found::Digest { version } => encoder.uint(1).version(*version),
                    Found::Absent { forgotten } => encoder.uint(2).uint(forgotten.hlc.0).uint(forgotten.actor.0),
                    Found::Refused(refusal) => encoder.uint(3).uint(refusal.code()),
                };
            }
            Self::Forward { id, hash, request } => {
                let mut nested = BytesMut::with_capacity(request.key.len() + 64);
                request.encode(&mut nested);
                Encoder::start(out, FrameType::Forward, *id, 2).fixed(hash.0).bytes(&nested);
            }
            Self::StreamPull { id, header, partition, after, leaves } => {
                let mut encoder = Encoder::start(out, FrameType::StreamPull, *id, 7);
                encoder.uint(header.layout.epoch).fixed(header.layout.hash).fixed(header.hlc.0);
                encoder.uint(u64::from(header.deadline_ms)).uint(u64::from(partition.0));
                encoder.time(after.map(Wall)).bytes(leaves);
            }
            Self::StreamChunk { id, hlc, state, epoch, partition, after, last, body } => {
                let mut encoder = Encoder::start(out, FrameType::StreamChunk, *id, 8);
                encoder.uint(0).fixed(hlc.0).uint(state.code()).uint(*epoch).uint(u64::from(partition.0));
                encoder.time(after.map(Wall)).time(last.map(Wall)).bytes(body);
            }
            Self::StreamRefused { id, refusal } => {
                Encoder::start(out, FrameType::StreamChunk, *id, 2).uint(1).uint(refusal.code());
            }
            Self::ForwardReply(reply) => reply.encode_as(out, FrameType::ForwardReply),
            Self::Exchange { id, header, exchange } => exchange::encode(out, *id, header, exchange),
            Self::Unsupported { id } => super::frame::encode_unsupported(out, *id),
        }
    }

    /// Reads a frame of the data plane; `Ok(None)` when it is of another plane (a client's, or control).
    ///
    /// # Errors
    /// A field is missing, cut off or out of range; a type that is not known.
    pub fn decode(frame_type: FrameType, id: u64, decoder: &mut Decoder<'a>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match frame_type {
            FrameType::Replicate => {
                let (header, key) = decode_header(decoder)?;
                let entry = decoder.entry()?;
                let stands_for = decoder.node()?;
                // Frames from before there were kinds end here: they were all clients' writes.
                let kind =
                    if decoder.has_more() { ReplicationKind::of(decoder.uint()?) } else { ReplicationKind::Client };
                Self::Replicate { id, header, key, entry, stands_for, kind }
            }
            FrameType::Replicated => {
                let hlc = Hlc(decoder.uint()?);
                let state = ReplicaState::of(decoder.uint()?)?;
                let outcome = match decoder.uint()? {
                    0 => Replicated::Applied,
                    1 => Replicated::Superseded { version: decoder.version()?, hold_until: decoder.time()? },
                    2 => Replicated::Refused(Refusal::of(decoder.uint()?)),
                    _ => Replicated::Refused(Refusal::Unsupported),
                };
                Self::Replicated { id, hlc, state, outcome }
            }
            FrameType::Read => {
                let (header, key) = decode_header(decoder)?;
                Self::Read { id, header, key, full: decoder.uint()? != 0 }
            }
            FrameType::ReadReply => {
                let hlc = Hlc(decoder.uint()?);
                let state = ReplicaState::of(decoder.uint()?)?;
                let found = match decoder.uint()? {
                    0 => Found::Entry(decoder.entry()?),
                    1 => Found::Digest { version: decoder.version()? },
                    2 => Found::Absent { forgotten: decoder.version()? },
                    3 => Found::Refused(Refusal::of(decoder.uint()?)),
                    _ => Found::Refused(Refusal::Unsupported),
                };
                Self::ReadReply { id, hlc, state, found }
            }
            FrameType::Forward => {
                let hash = KeyHash(decoder.uint()?);
                let (nested_type, nested_id, mut nested) = Decoder::start(decoder.bytes()?)?;
                if nested_type != FrameType::Request {
                    return Err(DecodeError::Malformed("only requests are forwarded"));
                }
                Self::Forward { id, hash, request: Request::decode(nested_id, &mut nested)? }
            }
            FrameType::ForwardReply => Self::ForwardReply(Reply::decode(id, decoder)?),
            FrameType::Exchange => {
                let (header, exchange) = exchange::decode(id, decoder)?;
                Self::Exchange { id, header, exchange }
            }
            FrameType::StreamPull => {
                let layout = LayoutName { epoch: decoder.uint()?, hash: decoder.uint()? };
                let header = Header { layout, hlc: Hlc(decoder.uint()?), deadline_ms: decoder.small()? };
                let partition = PartitionId(decoder.small()?);
                let after = decoder.time()?.map(|hash| hash.0);
                // Who tells nothing is sent everything.
                let leaves = if decoder.has_more() { decoder.bytes()? } else { &[] };
                Self::StreamPull { id, header, partition, after, leaves }
            }
            FrameType::StreamChunk => match decoder.uint()? {
                0 => Self::StreamChunk {
                    id,
                    hlc: Hlc(decoder.uint()?),
                    state: ReplicaState::of(decoder.uint()?)?,
                    epoch: decoder.uint()?,
                    partition: PartitionId(decoder.small()?),
                    after: decoder.time()?.map(|hash| hash.0),
                    last: decoder.time()?.map(|hash| hash.0),
                    body: decoder.bytes()?,
                },
                _ => Self::StreamRefused { id, refusal: Refusal::of(decoder.uint()?) },
            },
            FrameType::Unsupported => Self::Unsupported { id },
            FrameType::Request | FrameType::Reply | FrameType::Control => return Ok(None),
        }))
    }
}
