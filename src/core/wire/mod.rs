//! What travels: frames, and the messages in them (ARCHITECTURE §4, PROTOCOL §9).
//!
//! - `frame`: one MessagePack array `[type, id, …]` a frame; reading and writing its parts by hand, bounded.
//! - `client`: requests of clients and the replies to them.
//! - `peer`: the data plane's messages between nodes.
//! - `hello`: the first frame each side sends on a link.
//! - `control`: everything slow (membership sync, namespaces, status) as serde structs inside one frame.
//!
//! Mixed versions must work: unknown trailing fields are skipped, an unknown type is answered with `Unsupported` and
//! never closes a connection. A frame that is no such array is `Malformed`: that link is closed, since nothing after
//! it can be trusted. The transport adds the length; a frame here is what lies between two lengths.

pub mod client;
pub mod control;
pub mod exchange;
pub mod frame;
pub mod hello;
pub mod inspect;
pub mod local;
pub mod peer;
pub mod stream;
#[cfg(test)]
mod tests;

pub use client::{Condition, Consistency, Op, Quorum, Reply, ReplyBody, Request, Status, Ttl, Worth};
pub use frame::{DecodeError, FrameType};
pub use hello::{Hello, HelloReply, NodeHello};
pub use local::LocalLink;
pub use peer::{Found, PeerMessage, ReplicaState, Replicated};
