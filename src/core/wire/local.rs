//! The seam between a client and a node in one process (INTERFACES §1, "Embedded").
//!
//! It carries the very frames that QUIC would, so that there is one client, one decoder and one set of rules; what is
//! saved is the socket, the encryption and the system calls. Frames travel in batches: one call for all requests that
//! a client's tasks made since the last. A frame stands behind its length (4 bytes, big-endian), and a request behind its
//! key's hash too (8 bytes, zero when the caller has none): hashing is a fifth of a shard's work for a read, callers'
//! threads are many, and one process trusts itself.

use super::hello::Routing;
use crate::{
    id::{KeyHash, NamespaceId},
    limits::FRAME_BYTES_MAX,
    value::Entry,
    wire::client::{Consistency, Worth},
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Receives a batch of reply frames, each as [`append`] writes it, on the node's thread: it must only queue them and wake
/// somebody.
pub type OnFrames = Arc<dyn Fn(Bytes) + Send + Sync>;

/// A node in this process, as its client sees it.
pub trait LocalLink: Send + Sync {
    /// Number of shards of the node.
    fn shards(&self) -> u16;

    /// What a client needs to route; `None` until there is a layout.
    fn routing(&self) -> Option<Routing>;

    /// The node's own id, to find it among the owners.
    fn node(&self) -> crate::id::NodeId;

    /// Lets `found` see the entry that the node's own copy answers alone, on this thread and at once; `false`: it may not, or
    /// `shard` is at work, so ask by a request.
    fn hit(
        &self,
        shard: u16,
        place: (NamespaceId, KeyHash),
        key: &[u8],
        consistency: Consistency,
        found: &mut dyn FnMut(&Entry<'_>, Worth),
    ) -> bool;

    /// Fetches the memory that these look-ups (shard, and key's hash) will need, all at once, where shards are not at work.
    fn warm(&self, wanted: &[(u16, KeyHash)]);

    /// Opens a caller at `shard`; replies to what it sends come to `on_frames`. Dropping the sender closes it.
    fn open(&self, shard: u16, on_frames: OnFrames) -> Box<dyn LocalSender>;
}

/// Sends request frames to one shard of a node in this process.
pub trait LocalSender: Send + Sync {
    /// Hands over a batch of requests, each as [`append_request`] writes it; `false`: the node has stopped.
    fn send(&self, frames: Bytes) -> bool;
}

/// Appends the frame that `encode` writes, behind its length.
#[inline]
pub fn append(buffer: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    encode(buffer);
    let length = u32::try_from(buffer.len() - start - 4).expect("frames are below 4 GiB: FRAME_BYTES_MAX");
    buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes the next frame off a batch; `None` at its end, or where it is cut off or no frame can be so long.
#[inline]
pub fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (header, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*header)).ok()?;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    let (frame, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(frame)
}

/// Appends a request's frame behind the hash of its key.
#[inline]
pub fn append_request(buffer: &mut BytesMut, hash: Option<KeyHash>, encode: impl FnOnce(&mut BytesMut)) {
    buffer.extend_from_slice(&hash.unwrap_or_default().0.to_be_bytes());
    append(buffer, encode);
}

/// Takes the next request off a batch, with the hash of its key if its caller knew it.
#[inline]
pub fn next_request<'a>(rest: &mut &'a [u8]) -> Option<(Option<KeyHash>, &'a [u8])> {
    let (hash, mut after) = rest.split_first_chunk::<8>()?;
    let hash = KeyHash(u64::from_be_bytes(*hash));
    let frame = next(&mut after)?;
    *rest = after;
    Some(((hash != KeyHash::default()).then_some(hash), frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_memory_come_out_as_they_went_in() {
        let mut buffer = BytesMut::new();
        for frame in [&b"a"[..], b"", b"long one"] {
            append(&mut buffer, |buffer| buffer.extend_from_slice(frame));
        }
        buffer.extend_from_slice(&[0, 0, 0, 9, 1]);
        let mut rest = &buffer[..];
        let mut found = Vec::new();
        while let Some(frame) = next(&mut rest) {
            found.push(frame.to_vec());
        }
        assert_eq!(found, [b"a".to_vec(), b"".to_vec(), b"long one".to_vec()]);
        assert_eq!(rest.len(), 5, "the frame that is cut off stays");
    }

    #[test]
    fn requests_bring_the_hash_that_their_caller_knew() {
        let mut buffer = BytesMut::new();
        append_request(&mut buffer, Some(KeyHash(7)), |buffer| buffer.extend_from_slice(b"a"));
        append_request(&mut buffer, None, |buffer| buffer.extend_from_slice(b"b"));
        buffer.extend_from_slice(&[0; 9]);
        let mut rest = &buffer[..];
        assert_eq!(next_request(&mut rest), Some((Some(KeyHash(7)), &b"a"[..])));
        assert_eq!(next_request(&mut rest), Some((None, &b"b"[..])));
        assert_eq!(next_request(&mut rest), None);
        assert_eq!(rest.len(), 9, "the request that is cut off stays");
    }
}
