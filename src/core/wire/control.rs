//! Messages of the control plane: rare, so serde structs with named fields inside one `Control` frame (PROTOCOL §9).
//!
//! The same frame type serves nodes (`PeerControl`) and clients (`ClientControl`, answered by `ControlReply` under the
//! request's id); which one it is follows from the link's role and direction.

use super::{
    frame::{DecodeError, Decoder, Encoder, FrameType},
    hello::Routing,
};
use crate::{
    id::NodeId,
    namespace::{Namespace, NamespaceTable},
    ring::{LayoutHistory, LayoutName, RoleMap},
    time::Wall,
    value::Hlc,
};
use bytes::BytesMut;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, net::SocketAddr};

/// Between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PeerControl {
    /// What time is it? Measures round trip and clock offset.
    Ping {
        /// Echoed.
        nonce: u64,
        /// The sender's clock.
        wall: Wall,
    },
    /// The answer.
    Pong {
        /// Of the ping.
        nonce: u64,
        /// The answerer's clock.
        wall: Wall,
    },
    /// "My replicated state hashes to this": differing, the receiver answers with its own state.
    MetaDigest {
        /// Of roles, layouts and namespaces.
        digest: u64,
    },
    /// All replicated state; the receiver joins it.
    MetaSync(Box<Meta>),
}

/// All state that the control plane replicates; a join of joins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Declared roles.
    pub roles: RoleMap,
    /// Layouts and who acknowledged them.
    pub layouts: LayoutHistory,
    /// Namespaces.
    pub namespaces: NamespaceTable,
    /// Copies of a key, cluster-wide: must agree.
    pub n: u8,
    /// Partitions: must agree.
    pub partitions: u16,
    /// Up to when the disks of nodes go that have one, as far as they said so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lives: BTreeMap<NodeId, Hlc>,
}

/// From a client or an administrator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientControl {
    /// The newest layout and where its members are.
    Routing,
    /// What this node knows of the mesh and of itself.
    Status,
    /// Owners and fallbacks of a key.
    Owners {
        /// The namespace's name.
        namespace: String,
        /// The key.
        #[serde(with = "serde_bytes_vec")]
        key: Vec<u8>,
    },
    /// Creates a namespace.
    NamespaceCreate(Box<Namespace>),
    /// All namespaces.
    NamespaceList,
    /// Empties a namespace of everything written so far.
    NamespaceFlush(String),
    /// Deletes a namespace with all that is in it.
    NamespaceDelete(String),
    /// Whether the answering node holds to this mark of a namespace, and will after a restart.
    NamespaceHolds {
        /// The namespace's name.
        name: String,
        /// See [`ControlReply::Emptied`].
        mark: Hlc,
    },
    /// The active layouts, what the roles ask for, and how far each member is.
    Plan,
    /// Changes who owns what.
    Change(LayoutChange),
}

/// A change of roles, or of what a transition waits for (PROTOCOL §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayoutChange {
    /// The member gives its partitions away and is then in no layout.
    Leave(NodeId),
    /// The member is gone for good; its identity never returns.
    Remove(NodeId),
    /// Its share of the ring.
    Weight(NodeId, u16),
    /// Its failure domain.
    Zone(NodeId, String),
    /// A new node takes the place of one that is gone for good.
    Replace {
        /// The member.
        old: NodeId,
        /// The node that waits outside the layout.
        new: NodeId,
    },
    /// Clients are sent to other nodes, or to this one again; it keeps its copies and its vote.
    Drain(NodeId, bool),
    /// The running transition goes on without its members that are down, and without what only they held.
    SkipDead,
    /// What is staged becomes the layout of this version, which must be the next one.
    Commit(u64),
    /// Members get back the weight, zone and place that they have in the layout: nothing of those is staged then.
    Clear,
}

/// What a member holds, and what it would hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Who.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// Its zone in the next layout.
    pub zone: String,
    /// Its weight in the next layout.
    pub weight: u16,
    /// Partitions it owns.
    pub partitions: u32,
    /// Partitions it owns in the next layout.
    pub next: u32,
}

/// Where a change of layouts stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Active layouts, oldest first.
    pub active: Vec<LayoutName>,
    /// The one that is read.
    pub read: Option<LayoutName>,
    /// Nodes that the next layout would bring in.
    pub joins: Vec<String>,
    /// Nodes that it would leave out.
    pub leaves: Vec<String>,
    /// What it waits for, for a person; empty: nothing.
    pub waits: String,
    /// Partitions that the answering node still lacks of those it is to own, and of how many.
    pub missing: (u32, u32),
    /// Bytes of entries moved to the answering node since it started.
    pub moved_bytes: u64,
    /// The version that what is staged becomes; `None`: nothing is.
    #[serde(default)]
    pub staged: Option<u64>,
    /// Every member of the layout and of the next one.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Copies of partitions that change their node.
    #[serde(default)]
    pub moves: u32,
    /// Bytes in them, as many as the answering node holds on average; `None`: it holds none to tell by.
    #[serde(default)]
    pub move_bytes: Option<u64>,
    /// What to think of before.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The answer to a `ClientControl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ControlReply {
    /// To `Routing`; `None`: there is no layout yet.
    Routing(Option<Box<Routing>>),
    /// To `Status`.
    Status(Box<NodeStatus>),
    /// To `Owners`.
    Owners(Owners),
    /// To `NamespaceCreate`: `false` when exactly this one was there.
    Created(bool),
    /// To `NamespaceList`.
    Namespaces(Vec<Namespace>),
    /// To `NamespaceFlush` and `NamespaceDelete`: what has a version up to this mark is gone, once every member holds to it.
    Emptied(Hlc),
    /// To `NamespaceHolds`.
    Holds(bool),
    /// To `Plan`.
    Plan(Box<Plan>),
    /// To `Change`: `false` when it was so already.
    Changed(bool),
    /// Not done: what was wrong and what to do.
    Refused {
        /// Words for a person.
        reason: String,
        /// Whether this certificate's role is what is missing.
        denied: bool,
    },
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owners {
    /// The key's hash, hexadecimal.
    pub hash: String,
    /// Its partition.
    pub partition: u16,
    /// The layout that says so.
    pub layout: LayoutName,
    /// Names of its owners, first asked first.
    pub owners: Vec<String>,
    /// Names of those who stand in, in order.
    pub fallbacks: Vec<String>,
}

/// What a node knows of the mesh and of itself: the object of `/v1/status` and of `status -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Of this object: 1.
    pub schema_version: u32,
    /// The answering node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// One line for a person: "ready", or what it waits for.
    pub state: String,
    /// Whether clients are served here.
    pub ready: bool,
    /// The newest layout, none yet: `None`.
    pub layout: Option<LayoutName>,
    /// Whether every member acknowledged that very layout: strict requests are served.
    pub layout_agreed: bool,
    /// Where a change of layouts stands; empty: none is under way or due.
    #[serde(default)]
    pub transition: String,
    /// Everybody this node knows, in id order.
    pub members: Vec<MemberStatus>,
    /// Why the node does not coordinate: its clock; `None`: it does.
    pub fenced: Option<String>,
    /// Sum over the node's shards.
    pub stats: crate::stats::ShardStats,
    /// How its disk does; `None`: it has none.
    #[serde(default)]
    pub disk: Option<DiskStatus>,
}

/// How a node's disk does. Core knows nothing of disks: the driver fills this in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// Why nothing is stored now, and so durable writes are refused; `None`: all is well.
    pub trouble: Option<String>,
    /// What was found at the start, for a person; empty: nothing to say.
    pub found: String,
    /// Records restored at the start.
    pub restored: u64,
    /// Records that were there at the start and could not be used.
    pub skipped: u64,
    /// Records written or removed since.
    pub writes: u64,
    /// Syncs since, whether asked for or by time.
    pub syncs: u64,
    /// Records that were not kept since: the disk failed, or too much waited for it.
    pub failures: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Nothing waits, and all that was written is synced.
    pub idle: bool,
}

/// One member, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Who.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Its share of the ring.
    pub weight: u16,
    /// Where its shard 0 listens.
    pub address: SocketAddr,
    /// How many shards it has.
    pub shards: u16,
    /// `member` of the layout, `joining`, `leaving` or `removed`.
    pub role: String,
    /// `alive`, `suspect` or `down`.
    pub health: String,
    /// `ready` or `warming`; empty for nodes that are not in the layout.
    pub replica: String,
    /// Partitions it owns.
    pub partitions: u32,
    /// Its clock against the answering node's, milliseconds; `None`: not measured.
    pub clock_offset_ms: Option<i64>,
    /// Incarnation: its clock when it started.
    pub incarnation: Hlc,
    /// Clients are sent to others.
    #[serde(default)]
    pub drained: bool,
}

/// Appends a control frame.
pub fn encode<T: Serialize>(out: &mut BytesMut, id: u64, message: &T) {
    let bytes = rmp_serde::to_vec_named(message).expect("control messages have no type that MessagePack lacks");
    Encoder::start(out, FrameType::Control, id, 1).bytes(&bytes);
}

/// Reads what follows type and id of a control frame.
///
/// # Errors
/// Not a byte string with such a message in it: `Unknown`, since a newer side may send messages this one lacks.
pub fn decode<T: DeserializeOwned>(id: u64, decoder: &mut Decoder<'_>) -> Result<T, DecodeError> {
    let bytes = decoder.bytes()?;
    rmp_serde::from_slice(bytes).map_err(|_| DecodeError::Unknown { frame_type: FrameType::Control as u8, id })
}

/// Keys as MessagePack `bin`, not as arrays of integers.
mod serde_bytes_vec {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
