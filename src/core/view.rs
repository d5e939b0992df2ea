//! What the control plane tells the shards: an immutable snapshot, replaced as a whole whenever any of it changed.
//!
//! Shards never ask the control plane anything. A snapshot is small and rare; a shard keeps the newest and decides by
//! it alone. `members` is parallel to `ring.members()`, so that an owner's index finds both; in a transition both rings
//! are numbered among the members of both layouts (PROTOCOL §2).

use crate::{
    id::{NodeId, PartitionId},
    namespace::NamespaceTable,
    ring::{LayoutName, Ring},
    wire::peer::ReplicaState,
};
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
    /// Owners of every partition in the layout that is read; `None`: there is no layout, clients are refused.
    pub ring: Option<Arc<Ring>>,
    /// The other of two active layouts, older or newer: writes go there too. Numbered as `ring` is.
    pub beside: Option<Arc<Ring>>,
    /// Every member coordinates with the newest layout: what is acknowledged from now on goes to its owners, and moving the
    /// rest to them may begin.
    pub moving: bool,
    /// A transition led to this one layout and is over: what it does not assign here may be dropped.
    pub complete: bool,
    /// The newest layout when shards began, if an earlier process of this node had said that it has all that this one assigns here.
    pub held: Option<LayoutName>,
    /// The last layout that this node read by once all had what it assigns to them; or one of which an earlier process said that it has
    /// all. Of what it does not assign here others may have forgotten deletes since.
    pub settled: Option<LayoutName>,
    /// Members whose data was given up for the newest layout.
    pub skipped: Vec<NodeId>,
    /// How often this node was passed by: each rise empties it.
    pub lapses: u64,
    /// Parallel to the ring's members; empty without a ring.
    pub members: Vec<MemberView>,
    /// Whether all members acknowledged the layout that is read: strict requests are served.
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
    /// The newest active layout's ring.
    pub fn newest(&self) -> Option<&Arc<Ring>> {
        self.ring.iter().chain(&self.beside).max_by_key(|ring| ring.name())
    }

    /// The oldest active layout's ring.
    pub fn oldest(&self) -> Option<&Arc<Ring>> {
        self.ring.iter().chain(&self.beside).min_by_key(|ring| ring.name())
    }

    /// Owners of `partition` for a namespace of `copies`, in either active layout, as member indexes: of the one that is
    /// read, and of the other.
    pub fn owners(&self, partition: PartitionId, copies: u8) -> (&[u16], &[u16]) {
        let of = |ring: &Ring| ring.owners(partition).len().min(usize::from(copies));
        let read = self.ring.as_deref().map_or(&[][..], |ring| &ring.owners(partition)[..of(ring)]);
        let other = self.beside.as_deref().map_or(&[][..], |ring| &ring.owners(partition)[..of(ring)]);
        (read, other)
    }

    /// Members that may stand in for the owners of `partition` that are read, of a namespace of `copies`, in their order;
    /// some of them twice. Of two layouts the members of both: all who had a place in the older one may be dead.
    pub fn stand_ins(&self, partition: PartitionId, copies: usize) -> impl Iterator<Item = u16> + '_ {
        fn of(ring: &Ring, partition: PartitionId, from: usize) -> impl Iterator<Item = u16> + '_ {
            ring.owners(partition).iter().copied().skip(from).chain(ring.fallbacks(partition))
        }
        let read = self.ring.iter().flat_map(move |ring| of(ring, partition, copies));
        read.chain(self.beside.iter().flat_map(move |ring| of(ring, partition, 0)))
    }

    /// The snapshot before anything is known.
    pub fn empty(me: NodeId, namespaces: Arc<NamespaceTable>) -> Self {
        Self {
            me,
            ring: None,
            beside: None,
            moving: false,
            complete: false,
            held: None,
            settled: None,
            skipped: Vec::new(),
            lapses: 0,
            members: Vec::new(),
            agreed: false,
            namespaces,
            state: ReplicaState::Fallback,
            fence: None,
            clock_confirmations: 0,
        }
    }
}
