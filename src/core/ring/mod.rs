//! The ring: which members own a partition, as an immutable snapshot of one layout (PROTOCOL §2).
//!
//! `role` holds what nodes declare, `layout` names sets of owners, `transition` leads from one to the next, `claim` deals
//! partitions out, `preference_list` continues the walk behind the owners. A `Ring` is a pure function of the layout:
//! every node and client that holds the same layout routes alike, and nobody coordinates. It is derived once per layout
//! and then only read; who is alive is not in it, because liveness changes routing and never ownership.
//!
//! Members are numbered by their place in `members()`. Two rings derived among the same nodes (`derive_among`) share
//! their numbers; across others and on the wire a member is its `NodeId`.

mod claim;
pub mod layout;
mod preference_list;
pub mod role;
pub mod transition;

pub use layout::{Layout, LayoutMember, LayoutName};
pub use role::{Role, RoleMap, RoleState};
pub use transition::{LayoutHistory, Stage};

use crate::id::{NodeId, PartitionId};
use claim::Walk;
use serde::Serialize;
use std::fmt;

/// Partition to owners, for one layout. Made once per layout and shared.
pub struct Ring {
    name: LayoutName,
    n: u8,
    partitions: u16,
    members: Box<[NodeId]>,
    walk: Walk,
    /// `width` member indexes per partition.
    owners: Box<[u16]>,
    /// Owners per partition: `min(n, members)`.
    width: usize,
    /// How many of `members` are the layout's.
    own: usize,
}

impl Ring {
    /// The ring of `layout`; about 10 bytes per token (256 a member) stay allocated.
    ///
    /// Panics on a layout that fails [`Layout::check`]; derived and decoded ones pass.
    pub fn derive(layout: &Layout) -> Self {
        assert_eq!(layout.check(), Ok(()), "layout {}", layout.epoch);
        let walk = Walk::new(layout);
        Self {
            name: layout.name(),
            n: layout.n,
            partitions: layout.partitions,
            members: layout.members.iter().map(|member| member.node).collect(),
            owners: claim::deal(layout, &walk),
            walk,
            width: layout.members.len().min(usize::from(layout.n)),
            own: layout.members.len(),
        }
    }

    /// The ring of `layout` with members numbered among `nodes`, so that two active layouts share their numbers. Nodes
    /// that are no members of the layout own nothing in it and stand in for nobody.
    ///
    /// Panics as `derive` does, and unless `nodes` is sorted, distinct and holds every member.
    pub fn derive_among(layout: &Layout, nodes: &[NodeId]) -> Self {
        let mut ring = Self::derive(layout);
        assert!(nodes.windows(2).all(|pair| pair[0] < pair[1]), "nodes are sorted and distinct");
        let place = |node: &NodeId| nodes.binary_search(node).expect("every member is among the nodes");
        let places: Vec<u16> =
            ring.members.iter().map(|node| u16::try_from(place(node)).expect("two layouts of 4,096 members")).collect();
        for owner in &mut ring.owners {
            *owner = places[usize::from(*owner)];
        }
        ring.walk.renumber(&places);
        ring.members = nodes.into();
        ring
    }

    /// The layout this ring was derived from.
    pub fn name(&self) -> LayoutName {
        self.name
    }

    /// Number of partitions, a power of two.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Owners per partition asked for; with fewer members `owners` is shorter.
    pub fn n(&self) -> u8 {
        self.n
    }

    /// All members, sorted, and whoever they were numbered among. Member indexes count in this slice.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Indexes of the owners of `partition`, the primary first: `min(n, members)` of them, distinct. O(1).
    ///
    /// Panics when `partition` is not below `partitions()`; a partition from a peer is checked where it is parsed.
    pub fn owners(&self, partition: PartitionId) -> &[u16] {
        let first = usize::from(partition.0) * self.width;
        &self.owners[first..first + self.width]
    }

    /// Indexes of all other members, each once, in the order in which they stand in. Walked on demand: usually a few
    /// steps each. Panics as `owners` does.
    pub fn fallbacks(&self, partition: PartitionId) -> impl Iterator<Item = u16> {
        preference_list::fallbacks(&self.walk, partition, self.owners(partition), self.members.len(), self.own)
    }

    /// The member with this index. Panics when there is none.
    pub fn node(&self, index: u16) -> NodeId {
        self.members[usize::from(index)]
    }

    /// The index of `node`, if it is a member. O(log members).
    pub fn index_of(&self, node: NodeId) -> Option<u16> {
        let index = self.members.binary_search(&node).ok()?;
        Some(u16::try_from(index).expect("a layout has at most 4,096 members"))
    }

    /// Whether `node` owns `partition`. O(log members).
    pub fn is_owner(&self, partition: PartitionId, node: NodeId) -> bool {
        self.index_of(node).is_some_and(|index| self.owners(partition).contains(&index))
    }

    /// Partitions that each member holds. O(partitions × n).
    pub fn shares(&self) -> Vec<(NodeId, u32)> {
        let mut shares: Vec<(NodeId, u32)> = self.members.iter().map(|node| (*node, 0)).collect();
        for &owner in &self.owners {
            shares[usize::from(owner)].1 += 1;
        }
        shares
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("name", &self.name)
            .field("partitions", &self.partitions)
            .field("n", &self.n)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// First 8 bytes of blake3 over the MessagePack encoding of `value`, which must have one encoding only: no hash maps.
fn digest_of<T: Serialize>(value: &T) -> u64 {
    let encoded = rmp_serde::to_vec(value).expect("roles and layouts hold no type that MessagePack refuses");
    let hash = blake3::hash(&encoded);
    let bytes = hash.as_bytes();
    u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

#[cfg(test)]
mod tests;
