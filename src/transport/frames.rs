//! Frames of a stream: a length (u32, big-endian, of the payload) and the payload (PROTOCOL §9).
//!
//! Reading: `FrameReader::batch` takes what has arrived, and `Frames::next` lends the complete frames in it one by one,
//! straight from the receive buffers where a frame lies in one piece. A length is judged before anything is allocated
//! for it, and memory grows with what arrives, never with what is announced. Zero and oversized lengths are errors that
//! end the stream. Writing is in `outbox.rs`. What is inside a payload is not this crate's business.

use crate::{activity::Activity, error::LinkError};
use bytes::{Bytes, BytesMut};
use std::{ops::Range, sync::Arc, time::Duration};

/// Bytes of a length.
pub(crate) const HEADER: usize = 4;

/// Chunks taken from a stream at once: one lock of the connection for all of them.
const CHUNKS: usize = 32;

/// A carry buffer that grew above this is given back after its frame.
const CARRY_KEPT: usize = 256 << 10;

/// Largest payloads, in bytes. Both ends must agree: the sender picks the stream by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// On `small`; default 64 KiB. A larger frame goes to `bulk`.
    pub small: usize,
    /// On `bulk`; default 8 MiB + 64 KiB: the largest value and its envelope.
    pub bulk: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { small: 64 << 10, bulk: (8 << 20) + (64 << 10) }
    }
}

/// Why a frame could not be read or queued. A stream with a bad frame is over: its link should be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length of zero.
    #[error("a frame of length zero")]
    Empty,
    /// A payload above the limit: announced by the peer, or encoded here (then nothing was queued).
    #[error("a frame of {length} bytes, the limit is {limit}")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The peer reset the stream.
    #[error("the stream was reset (code {0})")]
    StreamClosed(u64),
    /// The link is closed on this side: nothing was queued.
    #[error("the link is closed")]
    LinkClosed,
    /// The connection ended.
    #[error(transparent)]
    Link(Box<LinkError>),
}

/// Reads the frames of one stream.
pub struct FrameReader {
    stream: quinn::RecvStream,
    decoder: Decoder,
    chunks: Box<[Bytes; CHUNKS]>,
    activity: Arc<Activity>,
    idle: Duration,
}

impl FrameReader {
    pub(crate) fn new(stream: quinn::RecvStream, limit: usize, activity: Arc<Activity>, idle: Duration) -> Self {
        let chunks = Box::new(std::array::from_fn(|_| Bytes::new()));
        Self { stream, decoder: Decoder::new(limit), chunks, activity, idle }
    }

    /// Waits for bytes and gives the frames completed by them: none, if a frame is still incomplete. `None` when the
    /// peer has finished the stream. Frames left over from the last batch come first, without
    /// waiting: call `Frames::next` until `None`, or this never waits again. Safe to cancel.
    pub async fn batch(&mut self) -> Result<Option<Frames<'_>>, FrameError> {
        if let Some(error) = &self.decoder.error {
            return Err(error.clone());
        }
        if self.decoder.drained() {
            let taken = self.stream.read_chunks(&mut self.chunks[..]).await.map_err(|error| match error {
                quinn::ReadError::Reset(code) => FrameError::StreamClosed(code.into_inner()),
                quinn::ReadError::ConnectionLost(lost) => FrameError::Link(Box::new(LinkError::of(lost, self.idle))),
                quinn::ReadError::ClosedStream
                | quinn::ReadError::IllegalOrderedRead
                | quinn::ReadError::ZeroRttRejected => FrameError::LinkClosed,
            })?;
            let Some(filled) = taken else {
                return if self.decoder.within_frame() { Err(FrameError::Truncated) } else { Ok(None) };
            };
            self.activity.touch();
            self.decoder.offer(filled);
        }
        Ok(Some(Frames { decoder: &mut self.decoder, chunks: &mut self.chunks[..] }))
    }

    /// Hands every batch to `handle` until the peer finishes the stream or sends what is not a frame. `handle` takes
    /// all frames and then flushes each touched link once.
    pub async fn for_each_batch(&mut self, mut handle: impl FnMut(Frames<'_>)) -> Result<(), FrameError> {
        while let Some(frames) = self.batch().await? {
            handle(frames);
        }
        Ok(())
    }

    /// Waits for one frame and copies it: for handshakes. `None` when the stream is finished.
    pub async fn one(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let Some(mut frames) = self.batch().await? else { return Ok(None) };
            if let Some(frame) = frames.next() {
                return Ok(Some(Bytes::copy_from_slice(frame)));
            }
        }
    }
}

/// The complete frames of one batch, each lent until the next is asked for. Dropping it early loses nothing.
pub struct Frames<'a> {
    decoder: &'a mut Decoder,
    chunks: &'a mut [Bytes],
}

impl Frames<'_> {
    /// The next payload (never empty). After `None` the next batch brings more, or the error that stopped this one.
    #[expect(clippy::should_implement_trait, reason = "it lends; Iterator cannot")]
    #[inline]
    pub fn next(&mut self) -> Option<&[u8]> {
        match self.decoder.advance(self.chunks)? {
            Span::Chunk(index, range) => Some(&self.chunks[index][range]),
            Span::Carry(range) => Some(&self.decoder.carry[range]),
        }
    }

    /// Looks at the payloads to come without taking them, with their places in the order of `next`. Those that lie in
    /// pieces are left out, and so is all behind a length that is cut in two: it serves to fetch memory early, and
    /// nothing may depend on it.
    #[inline]
    pub fn ahead(&self, mut look: impl FnMut(usize, &[u8])) {
        let carried = &self.decoder.carry;
        if self.decoder.carry_done || (!carried.is_empty() && carried.len() < HEADER) {
            return;
        }
        let (mut place, mut skip) = (0, 0);
        if let Some(header) = carried.first_chunk::<HEADER>() {
            skip = (HEADER + u32::from_be_bytes(*header) as usize).saturating_sub(carried.len());
            place = 1;
        }
        for (index, chunk) in self.chunks[..self.decoder.filled].iter().enumerate().skip(self.decoder.at) {
            let mut at = if index == self.decoder.at { self.decoder.offset } else { 0 };
            let skipped = skip.min(chunk.len() - at);
            (at, skip) = (at + skipped, skip - skipped);
            while let Some((header, rest)) = chunk[at..].split_first_chunk::<HEADER>() {
                let length = u32::from_be_bytes(*header) as usize;
                match rest.get(..length) {
                    Some(frame) => look(place, frame),
                    None => skip = length - rest.len(),
                }
                place += 1;
                at += HEADER + length.min(rest.len());
            }
            if at < chunk.len() {
                return;
            }
        }
    }
}

/// Where a complete payload lies.
enum Span {
    Chunk(usize, Range<usize>),
    Carry(Range<usize>),
}

/// Finds frames in chunks; a frame in several pieces is gathered in `carry`.
struct Decoder {
    limit: usize,
    /// The start of a frame that is not complete in one chunk. Holds header and payload.
    carry: BytesMut,
    /// The frame in `carry` was handed out.
    carry_done: bool,
    at: usize,
    filled: usize,
    /// How much of chunk `at` is consumed.
    offset: usize,
    error: Option<FrameError>,
}

impl Decoder {
    fn new(limit: usize) -> Self {
        Self { limit, carry: BytesMut::new(), carry_done: false, at: 0, filled: 0, offset: 0, error: None }
    }

    fn offer(&mut self, filled: usize) {
        assert!(self.drained(), "chunks are replaced only when consumed");
        (self.at, self.filled, self.offset) = (0, filled, 0);
    }

    fn drained(&self) -> bool {
        self.at == self.filled
    }

    fn within_frame(&self) -> bool {
        !self.carry_done && !self.carry.is_empty()
    }

    /// Judges a header, before anything is allocated for its payload.
    #[inline]
    fn length(&mut self, header: &[u8]) -> Option<usize> {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length == 0 {
            self.error = Some(FrameError::Empty);
            return None;
        }
        if length > self.limit {
            self.error = Some(FrameError::TooLarge { length, limit: self.limit });
            return None;
        }
        Some(length)
    }

    #[inline]
    fn advance(&mut self, chunks: &mut [Bytes]) -> Option<Span> {
        if self.carry_done {
            self.carry_done = false;
            if self.carry.capacity() > CARRY_KEPT {
                self.carry = BytesMut::new();
            }
            self.carry.clear();
        }
        while self.error.is_none() && self.at < self.filled {
            let chunk = &mut chunks[self.at];
            let rest = chunk.len() - self.offset;
            if rest == 0 {
                // Dropped at once: it pins a receive buffer.
                *chunk = Bytes::new();
                (self.at, self.offset) = (self.at + 1, 0);
                continue;
            }
            if self.carry.is_empty() && rest >= HEADER {
                let length = self.length(&chunk[self.offset..self.offset + HEADER])?;
                if rest - HEADER >= length {
                    let start = self.offset + HEADER;
                    self.offset = start + length;
                    return Some(Span::Chunk(self.at, start..start + length));
                }
            }
            let needed = if self.carry.len() < HEADER {
                HEADER
            } else {
                let header = [self.carry[0], self.carry[1], self.carry[2], self.carry[3]];
                HEADER + self.length(&header)?
            };
            let taken = rest.min(needed - self.carry.len());
            self.carry.extend_from_slice(&chunk[self.offset..self.offset + taken]);
            self.offset += taken;
            if self.carry.len() >= HEADER {
                let header = [self.carry[0], self.carry[1], self.carry[2], self.carry[3]];
                let whole = HEADER + self.length(&header)?;
                if self.carry.len() == whole {
                    self.carry_done = true;
                    return Some(Span::Carry(HEADER..whole));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![];
        for payload in payloads {
            bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    fn decode(bytes: &[u8], piece: usize, limit: usize) -> (Vec<Vec<u8>>, Decoder) {
        let mut decoder = Decoder::new(limit);
        let mut found = vec![];
        let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        for batch in pieces.chunks(3) {
            let mut chunks = batch.to_vec();
            decoder.offer(chunks.len());
            let mut frames = Frames { decoder: &mut decoder, chunks: &mut chunks };
            let mut seen = vec![];
            frames.ahead(|place, frame| seen.push((found.len() + place, frame.to_vec())));
            while let Some(frame) = frames.next() {
                found.push(frame.to_vec());
            }
            for (place, frame) in seen {
                // What follows a bad length is seen ahead and never handed out.
                assert!(found.get(place).is_none_or(|handed| *handed == frame), "seen ahead at another place");
            }
            if decoder.error.is_some() {
                break;
            }
        }
        (found, decoder)
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let payloads: Vec<Vec<u8>> = [1, 2, 3, 4, 5, 30, 1, 100, 64].iter().map(|n| vec![*n as u8; *n]).collect();
        let bytes = encoded(&payloads);
        for piece in 1..=bytes.len() {
            let (found, decoder) = decode(&bytes, piece, 100);
            assert_eq!(found, payloads, "pieces of {piece}");
            assert!(decoder.error.is_none());
            assert!(!decoder.within_frame());
        }
    }

    #[test]
    fn frames_before_a_bad_length_are_still_handed_out() {
        for bad in [0u32, 101, u32::MAX] {
            let mut bytes = encoded(&[vec![1; 10], vec![2; 20]]);
            bytes.extend_from_slice(&bad.to_be_bytes());
            bytes.extend_from_slice(&[9; 50]);
            for piece in 1..=bytes.len() {
                let (found, decoder) = decode(&bytes, piece, 100);
                assert_eq!(found, [vec![1; 10], vec![2; 20]], "pieces of {piece}");
                let error = decoder.error.unwrap();
                match bad {
                    0 => assert_eq!(error, FrameError::Empty),
                    _ => assert_eq!(error, FrameError::TooLarge { length: bad as usize, limit: 100 }),
                }
            }
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing_before_its_bytes_arrive() {
        let limit = 8 << 20;
        let mut bytes = u32::try_from(limit).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&[1; 100]);
        let (found, decoder) = decode(&bytes, 7, limit);
        assert!(found.is_empty());
        assert!(decoder.within_frame());
        assert!(decoder.carry.capacity() < 1024, "capacity {}", decoder.carry.capacity());
    }
}
