//! The seam between a client and a node in one process (INTERFACES §1, "Embedded").
//!
//! It carries the very frames that QUIC would, so that there is one client, one decoder and one set of rules; what is
//! saved is the socket, the encryption and the system calls. Frames travel in batches: one call for all requests that
//! a client's tasks made since the last.

use super::hello::Routing;
use bytes::Bytes;
use std::sync::Arc;

/// Receives a batch of reply frames, each behind its 4-byte big-endian length, on the node's thread: it must only queue
/// them and wake somebody.
pub type OnFrames = Arc<dyn Fn(Bytes) + Send + Sync>;

/// A node in this process, as its client sees it.
pub trait LocalLink: Send + Sync {
    /// Number of shards of the node.
    fn shards(&self) -> u16;

    /// What a client needs to route; `None` until there is a layout.
    fn routing(&self) -> Option<Routing>;

    /// The node's own id, to find it among the owners.
    fn node(&self) -> crate::id::NodeId;

    /// Opens a caller at `shard`; replies to what it sends come to `on_frames`. Dropping the sender closes it.
    fn open(&self, shard: u16, on_frames: OnFrames) -> Box<dyn LocalSender>;
}

/// Sends request frames to one shard of a node in this process.
pub trait LocalSender: Send + Sync {
    /// Hands over a batch of request frames, each behind its length; `false`: the node has stopped.
    fn send(&self, frames: Bytes) -> bool;
}
