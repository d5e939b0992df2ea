//! A frame: one MessagePack array whose first two elements are its type and the id of its request.
//!
//! Hot messages are written and read by hand with `rmp` (serde costs as much as the transport). A reader borrows from
//! the frame and allocates nothing; every length is held against the bytes that are really there before it is used.

use crate::{
    id::{ActorId, NodeId},
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use bytes::{BufMut, BytesMut};
use rmp::{Marker, decode, encode};

/// The first element of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// A client's request.
    Request = 1,
    /// The reply to it.
    Reply = 2,
    /// An entry for a replica.
    Replicate = 16,
    /// Its answer.
    Replicated = 17,
    /// A read at a replica.
    Read = 18,
    /// Its answer.
    ReadReply = 19,
    /// A client's request for an owner.
    Forward = 20,
    /// The owner's reply.
    ForwardReply = 21,
    /// A step of a comparison between replicas.
    Exchange = 22,
    /// Asks for the next part of a partition.
    StreamPull = 24,
    /// That part.
    StreamChunk = 25,
    /// A message of the control plane.
    Control = 32,
    /// The receiver does not know the message with this id.
    Unsupported = 63,
}

impl FrameType {
    fn of(byte: u8) -> Option<Self> {
        const ALL: [FrameType; 13] = [
            FrameType::Request,
            FrameType::Reply,
            FrameType::Replicate,
            FrameType::Replicated,
            FrameType::Read,
            FrameType::ReadReply,
            FrameType::Forward,
            FrameType::ForwardReply,
            FrameType::Exchange,
            FrameType::StreamPull,
            FrameType::StreamChunk,
            FrameType::Control,
            FrameType::Unsupported,
        ];
        ALL.into_iter().find(|frame_type| *frame_type as u8 == byte)
    }
}

/// Why a frame cannot be used. State did not change; the sender is at fault; repeating it is useless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The type is not one this version knows: answer `Unsupported` with the id and go on.
    #[error("message type {frame_type} is not known here: the sender is newer, upgrade this side")]
    Unknown {
        /// The type.
        frame_type: u8,
        /// Its request.
        id: u64,
    },
    /// Not a frame: close the link.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
}

const MALFORMED: DecodeError = DecodeError::Malformed("a field is missing, cut off or of another type");

/// Writes the parts of a frame to the end of a send buffer.
pub struct Encoder<'a> {
    out: &'a mut BytesMut,
}

impl std::io::Write for Encoder<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.put_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.put_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const GROWS: &str = "a BytesMut grows and never refuses a write";

impl<'a> Encoder<'a> {
    /// Starts a frame of `fields` elements after type and id.
    pub fn start(out: &'a mut BytesMut, frame_type: FrameType, id: u64, fields: u32) -> Self {
        let mut encoder = Self { out };
        encode::write_array_len(&mut encoder, fields + 2).expect(GROWS);
        encoder.uint(u64::from(frame_type as u8)).uint(id);
        encoder
    }

    /// An unsigned integer, in as few bytes as it needs.
    #[inline]
    pub fn uint(&mut self, value: u64) -> &mut Self {
        encode::write_uint(self, value).expect(GROWS);
        self
    }

    /// A signed integer.
    #[inline]
    pub fn int(&mut self, value: i64) -> &mut Self {
        encode::write_sint(self, value).expect(GROWS);
        self
    }

    /// Eight bytes, whatever the value: for hashes, which do not shrink.
    #[inline]
    pub fn fixed(&mut self, value: u64) -> &mut Self {
        encode::write_u64(self, value).expect(GROWS);
        self
    }

    /// A byte string.
    #[inline]
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        encode::write_bin(self, value).expect(GROWS);
        self
    }

    /// A 128-bit id, as 16 bytes.
    pub fn node(&mut self, node: Option<NodeId>) -> &mut Self {
        match node {
            Some(node) => self.bytes(&node.0.to_be_bytes()),
            None => self.nil(),
        }
    }

    /// Nothing.
    pub fn nil(&mut self) -> &mut Self {
        encode::write_nil(self).expect(GROWS);
        self
    }

    /// A version, as two elements.
    #[inline]
    pub fn version(&mut self, version: Version) -> &mut Self {
        self.fixed(version.hlc.0).fixed(version.actor.0)
    }

    /// A time or none, as one element.
    #[inline]
    pub fn time(&mut self, time: Option<Wall>) -> &mut Self {
        match time {
            Some(time) => self.uint(time.0),
            None => self.nil(),
        }
    }

    /// An entry, as five elements.
    #[inline]
    pub fn entry(&mut self, entry: &Entry<'_>) -> &mut Self {
        self.version(entry.version).time(entry.expires_at).time(entry.hold_until);
        match entry.body {
            Body::Value(value) => self.bytes(value),
            Body::Tombstone => self.nil(),
        }
    }
}

/// Elements that `Encoder::entry` writes.
pub const ENTRY_FIELDS: u32 = 5;

/// Reads the parts of a frame, borrowing.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    fields: u32,
}

impl<'a> Decoder<'a> {
    /// Opens a frame: its type, its id, and the reader of what follows.
    ///
    /// # Errors
    /// Not such an array, or a type that is not known.
    pub fn start(frame: &'a [u8]) -> Result<(FrameType, u64, Self), DecodeError> {
        let mut decoder = Self { rest: frame, fields: 0 };
        let fields = decode::read_array_len(&mut decoder.rest)
            .map_err(|_| DecodeError::Malformed("a frame is a MessagePack array"))?;
        decoder.fields = fields;
        let frame_type = u8::try_from(decoder.uint()?).map_err(|_| MALFORMED)?;
        let id = decoder.uint()?;
        match FrameType::of(frame_type) {
            Some(known) => Ok((known, id, decoder)),
            None => Err(DecodeError::Unknown { frame_type, id }),
        }
    }

    /// Whether another element follows: fields added by newer versions are optional for older frames.
    pub fn has_more(&self) -> bool {
        self.fields > 0
    }

    #[inline]
    fn next_field(&mut self) -> Result<(), DecodeError> {
        self.fields = self.fields.checked_sub(1).ok_or(MALFORMED)?;
        Ok(())
    }

    #[inline]
    fn peek(&self) -> Result<Marker, DecodeError> {
        self.rest.first().map(|byte| Marker::from_u8(*byte)).ok_or(MALFORMED)
    }

    /// An unsigned integer.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        self.next_field()?;
        decode::read_int(&mut self.rest).map_err(|_| MALFORMED)
    }

    /// An unsigned integer that fits the type asked for.
    #[inline]
    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T, DecodeError> {
        T::try_from(self.uint()?).map_err(|_| DecodeError::Malformed("an integer is out of range"))
    }

    /// A signed integer.
    #[inline]
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        self.next_field()?;
        decode::read_int(&mut self.rest).map_err(|_| MALFORMED)
    }

    /// A byte string.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        self.next_field()?;
        let length = decode::read_bin_len(&mut self.rest).map_err(|_| MALFORMED)?;
        let (bytes, rest) = self.rest.split_at_checked(length as usize).ok_or(MALFORMED)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A byte string or nothing.
    #[inline]
    pub fn bytes_or_nil(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        if self.peek()? == Marker::Null { self.skip_nil().map(|()| None) } else { self.bytes().map(Some) }
    }

    fn skip_nil(&mut self) -> Result<(), DecodeError> {
        self.next_field()?;
        decode::read_nil(&mut self.rest).map_err(|_| MALFORMED)
    }

    /// A node id or nothing.
    pub fn node(&mut self) -> Result<Option<NodeId>, DecodeError> {
        let Some(bytes) = self.bytes_or_nil()? else { return Ok(None) };
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| DecodeError::Malformed("a node id has 16 bytes"))?;
        Ok(Some(NodeId(u128::from_be_bytes(bytes))))
    }

    /// A version.
    #[inline]
    pub fn version(&mut self) -> Result<Version, DecodeError> {
        Ok(Version { hlc: Hlc(self.uint()?), actor: ActorId(self.uint()?) })
    }

    /// A time or none.
    #[inline]
    pub fn time(&mut self) -> Result<Option<Wall>, DecodeError> {
        if self.peek()? == Marker::Null { self.skip_nil().map(|()| None) } else { Ok(Some(Wall(self.uint()?))) }
    }

    /// An entry.
    #[inline]
    pub fn entry(&mut self) -> Result<Entry<'a>, DecodeError> {
        let version = self.version()?;
        let (expires_at, hold_until) = (self.time()?, self.time()?);
        let body = match self.bytes_or_nil()? {
            Some(value) => Body::Value(value),
            None => Body::Tombstone,
        };
        Ok(Entry { version, expires_at, hold_until, body })
    }
}

/// Writes the frame that says "I do not know your message `id`".
pub fn encode_unsupported(out: &mut BytesMut, id: u64) {
    Encoder::start(out, FrameType::Unsupported, id, 0);
}
