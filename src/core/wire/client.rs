//! Requests of clients and the replies to them (PROTOCOL §4, §9; INTERFACES "replies say their worth").
//!
//! One request shape for every operation, so that routing, forwarding and admission read one header. `GetMany` is not
//! a message: a client's many gets travel as many small frames in one flush, and are answered as each is done.

use super::frame::{DecodeError, Decoder, Encoder, FrameType};
use crate::{
    id::{KeyHash, NamespaceId},
    namespace::Mode,
    time::Wall,
    value::Version,
};
use bytes::BytesMut;

/// How many replicas must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Quorum {
    /// What the namespace says.
    #[default]
    Default,
    /// This many; at least one.
    Exactly(u8),
    /// More than half of the copies.
    Majority,
    /// Every copy.
    All,
}

impl Quorum {
    fn byte(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Exactly(count) => count.min(253),
            Self::Majority => 254,
            Self::All => 255,
        }
    }

    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Default,
            254 => Self::Majority,
            255 => Self::All,
            count => Self::Exactly(count),
        }
    }
}

/// What a request asks of its quorum; the default is what the namespace says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Consistency {
    /// For reads, and for the reading half of guarded writes.
    pub read: Quorum,
    /// For writes. A strict one asks for no fewer than the namespace's W, or than a majority of the owners if that is less: so many
    /// a change of owners counts on. For strict writes to one owner make the namespace with `w = 1`.
    pub write: Quorum,
    /// Whose votes count; `None`: what the namespace says.
    pub mode: Option<Mode>,
}

impl Consistency {
    fn pack(self) -> u64 {
        let mode = match self.mode {
            None => 0,
            Some(Mode::Sloppy) => 1,
            Some(Mode::Strict) => 2,
        };
        u64::from(self.read.byte()) << 16 | u64::from(self.write.byte()) << 8 | mode
    }

    fn unpack(packed: u64) -> Result<Self, DecodeError> {
        let byte = |shift: u32| u8::try_from(packed >> shift & 0xff).expect("masked to a byte");
        let mode = match byte(0) {
            0 => None,
            1 => Some(Mode::Sloppy),
            2 => Some(Mode::Strict),
            _ => return Err(DecodeError::Malformed("the quorum mode is neither default, sloppy nor strict")),
        };
        Ok(Self { read: Quorum::of(byte(16)), write: Quorum::of(byte(8)), mode })
    }
}

/// When a write expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ttl {
    /// After the namespace's default.
    #[default]
    Default,
    /// Never.
    Never,
    /// When the value it replaces does.
    Keep,
    /// After this many milliseconds; zero is refused.
    Millis(u64),
}

impl Ttl {
    fn pack(self) -> i64 {
        match self {
            Self::Default => -1,
            Self::Never => -2,
            Self::Keep => -3,
            Self::Millis(millis) => i64::try_from(millis).unwrap_or(i64::MAX),
        }
    }

    fn unpack(packed: i64) -> Result<Self, DecodeError> {
        match packed {
            -1 => Ok(Self::Default),
            -2 => Ok(Self::Never),
            -3 => Ok(Self::Keep),
            millis => {
                u64::try_from(millis).map(Self::Millis).map_err(|_| DecodeError::Malformed("an unknown kind of expiry"))
            }
        }
    }
}

/// What must hold for a write to be applied; checked at the coordinator after a quorum read: best effort, no lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no live value.
    IfAbsent,
    /// The live value has this version.
    IfVersion(Version),
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Reads a value.
    Get,
    /// Writes a value.
    Put {
        /// The value.
        value: &'a [u8],
        /// Its expiry.
        ttl: Ttl,
        /// When to write.
        condition: Condition,
    },
    /// Deletes a value.
    Delete {
        /// When to delete.
        condition: Condition,
    },
    /// Gives a value a new expiry.
    Touch {
        /// The expiry; `Keep` means nothing here.
        ttl: Ttl,
    },
    /// Asks this very node what it holds (`wire::inspect`); the answer is no vote of anybody.
    Inspect,
}

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's number for it, on its link.
    pub id: u64,
    /// Milliseconds the client waits, from when it sent.
    pub deadline_ms: u32,
    /// When it sent, milliseconds of its own monotonic clock; zero: it does not say. The receiving node takes off
    /// `deadline_ms` what the request is late.
    pub sent: u64,
    /// What it asks of its quorum.
    pub consistency: Consistency,
    /// Where.
    pub namespace: NamespaceId,
    /// Which key.
    pub key: &'a [u8],
    /// What.
    pub op: Op<'a>,
}

/// Integers of a request before its namespace and key.
const PLACE_AFTER: u32 = 4;

const GET: u64 = 1;
const PUT: u64 = 2;
const DELETE: u64 = 3;
const TOUCH: u64 = 4;
const INSPECT: u64 = 5;

fn encode_condition(encoder: &mut Encoder<'_>, condition: Condition) {
    match condition {
        Condition::Always => encoder.uint(0).uint(0).uint(0),
        Condition::IfAbsent => encoder.uint(1).uint(0).uint(0),
        Condition::IfVersion(version) => encoder.uint(2).version(version),
    };
}

fn decode_condition(decoder: &mut Decoder<'_>) -> Result<Condition, DecodeError> {
    let tag = decoder.uint()?;
    let version = decoder.version()?;
    match tag {
        0 => Ok(Condition::Always),
        1 => Ok(Condition::IfAbsent),
        2 => Ok(Condition::IfVersion(version)),
        _ => Err(DecodeError::Malformed("an unknown condition")),
    }
}

impl<'a> Request<'a> {
    /// The namespace and key of a request's frame, without reading the rest: to fetch memory early. `None`: not one.
    #[inline]
    pub fn place(frame: &'a [u8]) -> Option<(NamespaceId, &'a [u8])> {
        let (FrameType::Request, _, mut decoder) = Decoder::start(frame).ok()? else { return None };
        for _ in 0..PLACE_AFTER {
            decoder.uint().ok()?;
        }
        Some((NamespaceId(decoder.small().ok()?), decoder.bytes().ok()?))
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let fields = match self.op {
            Op::Get | Op::Inspect => 6,
            Op::Put { .. } => 11,
            Op::Delete { .. } => 9,
            Op::Touch { .. } => 7,
        };
        let mut encoder = Encoder::start(out, FrameType::Request, self.id, fields);
        let op = match self.op {
            Op::Get => GET,
            Op::Put { .. } => PUT,
            Op::Delete { .. } => DELETE,
            Op::Touch { .. } => TOUCH,
            Op::Inspect => INSPECT,
        };
        encoder.uint(op).uint(u64::from(self.deadline_ms)).uint(self.sent).uint(self.consistency.pack());
        encoder.uint(u64::from(self.namespace.0)).bytes(self.key);
        match self.op {
            Op::Get | Op::Inspect => {}
            Op::Put { value, ttl, condition } => {
                encoder.bytes(value).int(ttl.pack());
                encode_condition(&mut encoder, condition);
            }
            Op::Delete { condition } => encode_condition(&mut encoder, condition),
            Op::Touch { ttl } => {
                encoder.int(ttl.pack());
            }
        }
    }

    /// Reads what follows type and id.
    ///
    /// # Errors
    /// A field is missing, cut off or out of range; an operation that is not known.
    pub fn decode(id: u64, decoder: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let op = decoder.uint()?;
        let deadline_ms = decoder.small()?;
        let sent = decoder.uint()?;
        let consistency = Consistency::unpack(decoder.uint()?)?;
        let namespace = NamespaceId(decoder.small()?);
        let key = decoder.bytes()?;
        let op = match op {
            GET => Op::Get,
            PUT => {
                let value = decoder.bytes()?;
                let ttl = Ttl::unpack(decoder.int()?)?;
                Op::Put { value, ttl, condition: decode_condition(decoder)? }
            }
            DELETE => Op::Delete { condition: decode_condition(decoder)? },
            TOUCH => Op::Touch { ttl: Ttl::unpack(decoder.int()?)? },
            INSPECT => Op::Inspect,
            _ => return Err(DecodeError::Unknown { frame_type: FrameType::Request as u8, id }),
        };
        Ok(Self { id, deadline_ms, sent, consistency, namespace, key, op })
    }
}

/// What a reply is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Worth {
    /// Replicas that acknowledged or answered, each node once; fallbacks included.
    pub acks: u8,
    /// Stand-ins among them.
    pub fallbacks: u8,
    /// Layout it was decided under.
    pub epoch: u64,
    /// The sloppy rules were needed: fewer than the quorum of Ready owners are behind it.
    pub sloppy: bool,
    /// The quorum was clamped: the layout has fewer members than the namespace wants copies.
    pub degraded: bool,
    /// A Warming replica's answer is part of it.
    pub warming: bool,
    /// A newer version may exist: some asked replicas did not answer.
    pub stale: bool,
    /// The write was applied, and something newer was there already.
    pub superseded: bool,
}

impl Worth {
    fn pack(self) -> u64 {
        let flags = [self.sloppy, self.degraded, self.warming, self.stale, self.superseded];
        let bits = flags.iter().enumerate().map(|(bit, set)| u64::from(*set) << bit).sum::<u64>();
        u64::from(self.acks) << 16 | u64::from(self.fallbacks) << 8 | bits
    }

    fn unpack(packed: u64, epoch: u64) -> Self {
        let byte = |shift: u32| u8::try_from(packed >> shift & 0xff).expect("masked to a byte");
        let flag = |bit: u32| packed >> bit & 1 == 1;
        Self {
            acks: byte(16),
            fallbacks: byte(8),
            epoch,
            sloppy: flag(0),
            degraded: flag(1),
            warming: flag(2),
            stale: flag(3),
            superseded: flag(4),
        }
    }
}

/// How a request ended. Each says whether state changed, whose fault it is and whether repeating helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Nothing there. Not an error.
    NotFound,
    /// The condition of a write was not met; nothing changed. The body has the current version.
    Conflict,
    /// A write that may have been applied: fewer than W answers came in time. Repeat only what is idempotent.
    Unknown,
    /// Not begun: too much in flight here. Repeat after the delay.
    Overloaded {
        /// Milliseconds to wait.
        retry_after_ms: u32,
    },
    /// Too few replicas can be reached. A read: nothing changed. A write: see `maybe_applied` of the reply body.
    Unavailable {
        /// Votes needed.
        need: u8,
        /// Votes there were.
        have: u8,
    },
    /// Not begun: the coordinator's layout is older than its peers'. Repeat soon.
    StaleEpoch,
    /// This node's clock disagrees with its peers', or must not pass the mark of a flush yet. Repeat at another node. Not begun, but
    /// for a write with `maybe_applied`.
    ClockSkew,
    /// Refused: key or value too long. Do not repeat.
    TooLarge,
    /// Refused: memory is full and nothing may be evicted.
    OutOfMemory,
    /// Not begun: the node holds no such partition and may not forward again. Refresh the layout.
    NotOwner,
    /// Refused: this certificate's role may not do that.
    Denied,
    /// Refused: the namespace holds another kind of value.
    WrongKind,
    /// The message or option is not known to that node.
    Unsupported,
    /// Refused: there is no such namespace. Create it first.
    NoSuchNamespace,
    /// Refused: the request makes no sense (the body says what). Do not repeat.
    Invalid,
    /// Not begun: the deadline had passed. Nothing changed.
    Timeout,
    /// Not begun: the node has no layout yet, or is stopping. Repeat at another node or later.
    NotReady,
}

impl Status {
    fn pack(self) -> (u64, u64) {
        match self {
            Self::Ok => (0, 0),
            Self::NotFound => (1, 0),
            Self::Conflict => (2, 0),
            Self::Unknown => (3, 0),
            Self::Overloaded { retry_after_ms } => (4, u64::from(retry_after_ms)),
            Self::Unavailable { need, have } => (5, u64::from(need) << 8 | u64::from(have)),
            Self::StaleEpoch => (6, 0),
            Self::ClockSkew => (7, 0),
            Self::TooLarge => (8, 0),
            Self::OutOfMemory => (9, 0),
            Self::NotOwner => (10, 0),
            Self::Denied => (11, 0),
            Self::WrongKind => (12, 0),
            Self::Unsupported => (13, 0),
            Self::NoSuchNamespace => (14, 0),
            Self::Invalid => (15, 0),
            Self::Timeout => (16, 0),
            Self::NotReady => (17, 0),
        }
    }

    fn unpack(code: u64, detail: u64) -> Self {
        let byte = |shift: u32| u8::try_from(detail >> shift & 0xff).expect("masked to a byte");
        match code {
            0 => Self::Ok,
            1 => Self::NotFound,
            2 => Self::Conflict,
            3 => Self::Unknown,
            4 => Self::Overloaded { retry_after_ms: u32::try_from(detail).unwrap_or(u32::MAX) },
            5 => Self::Unavailable { need: byte(8), have: byte(0) },
            6 => Self::StaleEpoch,
            7 => Self::ClockSkew,
            8 => Self::TooLarge,
            9 => Self::OutOfMemory,
            10 => Self::NotOwner,
            11 => Self::Denied,
            12 => Self::WrongKind,
            14 => Self::NoSuchNamespace,
            15 => Self::Invalid,
            16 => Self::Timeout,
            17 => Self::NotReady,
            // A status of a newer version: its sender knows something this side cannot act upon.
            _ => Self::Unsupported,
        }
    }
}

/// What comes with a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyBody<'a> {
    /// Nothing more.
    Empty,
    /// A value: of `Ok` for a get.
    Value {
        /// Which write it is.
        version: Version,
        /// When it expires.
        expires_at: Option<Wall>,
        /// The bytes.
        value: &'a [u8],
    },
    /// A version: the one written, or the current one of `Conflict`.
    Written {
        /// Which.
        version: Version,
    },
    /// For a person: what was wrong and what to do.
    Text(&'a str),
}

/// The reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request's id.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// Whether a failed write may have been applied all the same.
    pub maybe_applied: bool,
    /// What it is worth.
    pub worth: Worth,
    /// What comes with it.
    pub body: ReplyBody<'a>,
}

impl<'a> Reply<'a> {
    /// A reply that only says how it ended; nothing was applied.
    pub fn status(id: u64, status: Status) -> Self {
        Self { id, status, maybe_applied: false, worth: Worth::default(), body: ReplyBody::Empty }
    }

    /// As `status`, with words for a person.
    pub fn text(id: u64, status: Status, text: &'a str) -> Self {
        Self { body: ReplyBody::Text(text), ..Self::status(id, status) }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_as(out, FrameType::Reply);
    }

    pub(super) fn encode_as(&self, out: &mut BytesMut, frame_type: FrameType) {
        let fields = match self.body {
            ReplyBody::Empty => 5,
            ReplyBody::Value { .. } => 9,
            ReplyBody::Written { .. } => 7,
            ReplyBody::Text(_) => 6,
        };
        let (code, detail) = self.status.pack();
        let mut encoder = Encoder::start(out, frame_type, self.id, fields);
        encoder.uint(code).uint(detail << 1 | u64::from(self.maybe_applied));
        encoder.uint(self.worth.pack()).uint(self.worth.epoch);
        match self.body {
            ReplyBody::Empty => encoder.uint(0),
            ReplyBody::Value { version, expires_at, value } => {
                encoder.uint(1).version(version).time(expires_at).bytes(value)
            }
            ReplyBody::Written { version } => encoder.uint(2).version(version),
            ReplyBody::Text(text) => encoder.uint(3).bytes(text.as_bytes()),
        };
    }

    /// Reads what follows type and id.
    ///
    /// # Errors
    /// A field is missing, cut off or out of range.
    pub fn decode(id: u64, decoder: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let code = decoder.uint()?;
        let detail = decoder.uint()?;
        let worth = decoder.uint()?;
        let worth = Worth::unpack(worth, decoder.uint()?);
        let body = match decoder.uint()? {
            1 => ReplyBody::Value { version: decoder.version()?, expires_at: decoder.time()?, value: decoder.bytes()? },
            2 => ReplyBody::Written { version: decoder.version()? },
            3 => ReplyBody::Text(
                std::str::from_utf8(decoder.bytes()?).map_err(|_| DecodeError::Malformed("a text is not UTF-8"))?,
            ),
            // A body of a newer version: the status still holds.
            _ => ReplyBody::Empty,
        };
        Ok(Self { id, status: Status::unpack(code, detail >> 1), maybe_applied: detail & 1 == 1, worth, body })
    }
}

/// What a driver needs of a request to find its shard, before it hands the request over.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// The request.
    pub request: Request<'a>,
    /// The hash of its namespace and key.
    pub hash: KeyHash,
}
