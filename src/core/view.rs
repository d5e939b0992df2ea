//! What the control plane tells the shards: an immutable snapshot, replaced as a whole whenever any of it changed.
//!
//! Shards never ask the control plane anything. A snapshot is small and rare; a shard keeps the newest and decides by
//! it alone. `members` is parallel to `ring.members()`, so that an owner's index finds both.

use crate::{id::NodeId, namespace::NamespaceTable, ring::Ring, wire::peer::ReplicaState};
use std::sync::Arc;

/// What a shard needs to know of a member of the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Who.
    pub node: NodeId,
    /// How many shards it has: shard `partition % shards` has the partition.
    pub shards: u16,
    /// Whether membership believes it alive. One's own entry is always up.
    pub up: bool,
    /// Whether it is in this node's zone.
    pub near: bool,
}

/// Why a node does not coordinate, though it is up (PROTOCOL §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Not enough peers have confirmed the clock since the start, or since it jumped.
    ClockUnconfirmed,
    /// The clock disagrees with the median of the peers' by this many milliseconds.
    ClockOffset(i64),
    /// A newer process of the same identity is alive.
    Superseded,
    /// The node's role was removed.
    Removed,
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClockUnconfirmed => f.write_str(
                "this node's clock started or jumped and no peer has confirmed it yet: it will, or check NTP",
            ),
            Self::ClockOffset(millis) => {
                write!(f, "this node's clock is {millis} ms off its peers' median: check NTP on this host")
            }
            Self::Superseded => f.write_str("a newer process with this node's identity is running: stop one of them"),
            Self::Removed => f.write_str("this node was removed from the mesh: start it with a new identity to rejoin"),
        }
    }
}

/// The snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Owners of every partition; `None`: there is no layout, clients are refused.
    pub ring: Option<Arc<Ring>>,
    /// Parallel to the ring's members; empty without a ring.
    pub members: Vec<MemberView>,
    /// Whether all members acknowledged this very layout: strict requests are served.
    pub agreed: bool,
    /// Namespaces.
    pub namespaces: Arc<NamespaceTable>,
    /// Whether this node's own copies vote: `Ready`, `Warming`, `Settled`; `Fallback` when it is no member.
    pub state: ReplicaState,
    /// Why this node does not coordinate.
    pub fence: Option<Fence>,
    /// How many peers last confirmed the wall: each rise lets a shard fold a jumped wall into its clock again.
    pub clock_confirmations: u64,
}

impl View {
    /// The snapshot before anything is known.
    pub fn empty(me: NodeId, namespaces: Arc<NamespaceTable>) -> Self {
        Self {
            me,
            ring: None,
            members: Vec::new(),
            agreed: false,
            namespaces,
            state: ReplicaState::Fallback,
            fence: None,
            clock_confirmations: 0,
        }
    }
}
