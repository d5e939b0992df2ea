//! What goes into core: one enum a plane (ARCHITECTURE §2, "The contract").

use crate::{
    id::{KeyHash, NodeId},
    view::View,
    wire::{
        client::Request,
        control::{ClientControl, PeerControl},
        hello::NodeHello,
        peer::PeerMessage,
    },
};
use std::sync::Arc;

/// Who asked, as the driver names them; core only gives it back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// The driver's name of the link.
    pub link: u64,
    /// The request's number on it.
    pub id: u64,
}

/// One shard of one node: where peer messages go, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerShard {
    /// The node.
    pub node: NodeId,
    /// Its shard.
    pub shard: u16,
}

/// One input of a shard.
#[derive(Debug)]
pub enum ShardInput<'a> {
    /// A client's request for a partition of this shard. The driver computed the hash to find the shard.
    Client {
        /// Who asked.
        caller: Caller,
        /// The hash of its namespace and key.
        hash: KeyHash,
        /// What.
        request: Request<'a>,
    },
    /// A message of the data plane from a peer's shard.
    Peer {
        /// Which.
        from: PeerShard,
        /// What.
        message: PeerMessage<'a>,
    },
    /// The control plane's newest snapshot.
    View(Arc<View>),
    /// Every link to this node was lost: what was asked on them will not be answered.
    PeerLost(NodeId),
    /// The caller's link is gone: its replies go nowhere.
    CallerLost {
        /// The driver's name of the link.
        link: u64,
    },
    /// Writes of `ShardOutbox::store` are in the log, and synced where they asked for that (or everywhere: more is no harm).
    Stored {
        /// All up to this ticket.
        through: u64,
    },
    /// Writes of `ShardOutbox::store` were not kept: the disk is full, or failed. What they said is written again later,
    /// under new tickets; those given out meanwhile may or may not be kept.
    StoreFailed {
        /// This ticket and all later ones given out so far.
        from: u64,
    },
}

/// One input of the control plane.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a second, and moved once")]
pub enum NodeInput<'a> {
    /// A link to or from this node was set up: its `Hello`, and the clock it showed (wall, milliseconds).
    PeerHello {
        /// What it said of itself.
        hello: NodeHello,
        /// Its clock when it said so.
        wall: crate::time::Wall,
    },
    /// A gossip packet.
    Gossip(&'a [u8]),
    /// A control message from a node.
    Peer {
        /// Which.
        from: NodeId,
        /// What.
        message: PeerControl,
    },
    /// The last link to this node was lost.
    PeerLost(NodeId),
    /// A client or administrator asks.
    Client {
        /// Who asked.
        caller: Caller,
        /// Whether its certificate's role is `admin` or `node`.
        admin: bool,
        /// What.
        request: ClientControl,
    },
    /// Seeds resolved again: names may give other addresses than before.
    Seeds(Vec<std::net::SocketAddr>),
    /// The shards' figures, for status.
    Stats(crate::stats::ShardStats),
    /// A shard of this process says how far it is.
    Report(crate::outbox::ShardReport),
    /// The clock bound of an earlier `store` is on disk.
    ClockStored(crate::value::Hlc),
    /// What `NodeOutbox::store_meta` gave under this number, or later, is on disk and synced. A node with a disk does not
    /// serve before it heard so of its first one. One that could not be stored is not answered: another comes.
    MetaStored(u64),
}
