//! What threads of a node tell each other.

use crate::mailbox::Weighed;
use bytes::{Bytes, BytesMut};
use meshwork_core::{
    id::{KeyHash, NodeId},
    input::PeerShard,
    outbox::ShardReport,
    time::Wall,
    view::View,
    wire::{hello::NodeHello, local::OnFrames},
};
use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

/// Where the shards 0 of the members are.
pub(crate) type AddressBook = BTreeMap<NodeId, SocketAddr>;

/// Frames, each behind its 4-byte length, for or from one link of another thread.
#[derive(Debug)]
pub(crate) struct LinkFrames {
    /// The link's name, which says its thread.
    pub(crate) link: u64,
    pub(crate) frames: BytesMut,
}

/// One client's request on its way to the shard that has its partition.
#[derive(Debug)]
pub(crate) struct Crossing {
    pub(crate) link: u64,
    pub(crate) hash: KeyHash,
    /// The frame without its length.
    pub(crate) frame: Bytes,
}

/// A letter to a shard's thread.
pub(crate) enum Letter {
    /// Clients' requests for this shard's partitions, from another thread.
    Requests(Vec<Crossing>),
    /// Replies to requests that came in on this thread's links.
    Replies(Vec<LinkFrames>),
    /// A message of the data plane that arrived at the wrong thread.
    Peer { from: PeerShard, frame: Bytes },
    /// A link of another thread is gone.
    CallerLost { link: u64 },
    /// A client in this process opens a caller.
    LocalOpen { link: u64, on_frames: OnFrames },
    /// Its requests.
    Local { link: u64, frames: Bytes },
    /// Its requests that found the mailbox full: their ids, to be answered `Overloaded`.
    LocalRefused { link: u64, ids: Vec<u64> },
    /// It is gone.
    LocalClose { link: u64 },
    /// The control plane's newest snapshot, and where its members are.
    View(Arc<View>, Arc<AddressBook>),
    /// For shard 0's thread: a control frame from a node.
    PeerControl { from: NodeId, frame: Bytes },
    /// For shard 0's thread: a control frame from a client of another thread.
    ClientControl { link: u64, admin: bool, frame: Bytes },
    /// For shard 0's thread: a node said hello.
    PeerHello { hello: NodeHello, wall: Wall },
    /// For shard 0's thread: how far a shard is with the layouts.
    Report(ShardReport),
    /// This shard's writes up to this ticket are in the log.
    Stored { through: u64 },
    /// This shard's writes from this ticket on were not kept.
    StoreFailed { from: u64 },
    /// Stop.
    Stop,
    /// Panic, as a bug would.
    #[cfg(test)]
    Panic,
}

impl Weighed for Letter {
    fn weight(&self) -> usize {
        match self {
            Self::Requests(crossings) => crossings.iter().map(|crossing| crossing.frame.len() + 64).sum(),
            Self::Local { frames, .. } => frames.len() + 64,
            Self::Peer { frame, .. } | Self::PeerControl { frame, .. } | Self::ClientControl { frame, .. } => {
                frame.len() + 64
            }
            // Replies answer what was admitted already.
            Self::Replies(_)
            | Self::CallerLost { .. }
            | Self::LocalOpen { .. }
            | Self::LocalRefused { .. }
            | Self::LocalClose { .. }
            | Self::View(..)
            | Self::PeerHello { .. }
            | Self::Report(_)
            | Self::Stored { .. }
            | Self::StoreFailed { .. }
            | Self::Stop => 0,
            #[cfg(test)]
            Self::Panic => 0,
        }
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Requests(_) => "Requests",
            Self::Replies(_) => "Replies",
            Self::Peer { .. } => "Peer",
            Self::CallerLost { .. } => "CallerLost",
            Self::LocalOpen { .. } => "LocalOpen",
            Self::Local { .. } => "Local",
            Self::LocalRefused { .. } => "LocalRefused",
            Self::LocalClose { .. } => "LocalClose",
            Self::View(..) => "View",
            Self::PeerControl { .. } => "PeerControl",
            Self::ClientControl { .. } => "ClientControl",
            Self::PeerHello { .. } => "PeerHello",
            Self::Report(_) => "Report",
            Self::Stored { .. } => "Stored",
            Self::StoreFailed { .. } => "StoreFailed",
            Self::Stop => "Stop",
            #[cfg(test)]
            Self::Panic => "Panic",
        };
        f.write_str(name)
    }
}
