//! The first frame each side of a link sends (PROTOCOL §1, §9): who it is, which cluster, what time it believes.
//!
//! The dialer sends `Hello`, the other side answers `HelloReply`. Role and name come from the certificate, never from
//! here. Encoded with named fields: a newer side may add some.

use crate::{
    id::{ClusterId, NodeId},
    ring::Layout,
    time::Wall,
    value::Hlc,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// The version of the protocol: links between different ones are refused with words.
pub const PROTOCOL: u16 = 1;

/// What a node says of itself; also what membership gossips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHello {
    /// Who.
    pub node: NodeId,
    /// Its clock when its process started: the newest wins, the older is fenced.
    pub incarnation: Hlc,
    /// Its label.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Where its shard 0 listens; shard i at port + i.
    pub address: SocketAddr,
    /// How many shards it has.
    pub shards: u16,
}

/// The dialer's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `PROTOCOL`.
    pub protocol: u16,
    /// The dialer's cluster.
    pub cluster: ClusterId,
    /// The dialer's clock.
    pub wall: Wall,
    /// The node that dials; `None`: a client.
    pub node: Option<NodeHello>,
    /// The dialer's shard; zero for a client.
    pub shard: u16,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// Go on.
    Welcome(Box<Welcome>),
    /// Not with you; the link will be closed.
    Refused {
        /// What is wrong and what to do.
        reason: String,
    },
}

/// What a welcomed dialer learns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// `PROTOCOL`.
    pub protocol: u16,
    /// The answering node.
    pub node: NodeHello,
    /// The shard that answers on this link.
    pub shard: u16,
    /// Its clock.
    pub wall: Wall,
    /// Longest value a frame may carry, bytes.
    pub value_max: u32,
    /// What a client needs to route; `None` until there is a layout.
    pub routing: Option<Routing>,
}

/// What a client needs to send each key to its owning shard: the layout, from which it derives the ring as every node
/// does, and where the members are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// The cluster.
    pub cluster: ClusterId,
    /// The newest layout.
    pub layout: Layout,
    /// Its members: address of shard 0, number of shards, zone, and whether the answering node can reach it.
    pub members: BTreeMap<NodeId, Place>,
}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where its shard 0 listens.
    pub address: SocketAddr,
    /// How many shards it has.
    pub shards: u16,
    /// Its zone.
    pub zone: String,
    /// Whether it answers, and clients should ask it: a drained one is asked when no other can be.
    pub up: bool,
}

impl Hello {
    /// The frame's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a Hello has no type that MessagePack lacks")
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// Words for a person: the other side does not speak this protocol.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        rmp_serde::from_slice(bytes).map_err(|error| format!("the first frame is no Hello of meshwork: {error}"))
    }
}

impl HelloReply {
    /// The frame's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a HelloReply has no type that MessagePack lacks")
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// Words for a person: the other side does not speak this protocol.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        rmp_serde::from_slice(bytes).map_err(|error| format!("the answer is no HelloReply of meshwork: {error}"))
    }
}
