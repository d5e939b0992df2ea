//! Layouts: who owns partitions, derived from the role map (PROTOCOL §2).
//!
//! A layout is content; its name is (epoch, hash of the content), so equal names are equal layouts on every node.
//! Invariants: members are sorted by `NodeId` and distinct; `partitions` is a power of two. Which layouts are active, and
//! how far each member got from one to the next, is `transition`'s.

use super::role::{RoleMap, RoleState, WEIGHT_MAX, ZONE_BYTES_MAX};
use crate::id::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most members of a layout.
pub const MEMBERS_MAX: usize = 4096;
/// Most partitions: the largest power of two that [`PartitionId`](crate::id::PartitionId) numbers.
pub const PARTITIONS_MAX: u16 = 32_768;
/// Most owners per partition: more copies than anyone wants, few enough that a hostile layout costs no minutes to derive.
pub const N_MAX: u8 = 16;
/// Largest epoch accepted from outside; keeps `epoch + 1` far from overflow.
pub const EPOCH_MAX: u64 = 1 << 48;

/// Names a layout. The larger epoch is newer; equal names are equal layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutName {
    /// Number, from 1.
    pub epoch: u64,
    /// First 8 bytes of blake3 over the content.
    #[serde(with = "crate::id::hexadecimal")]
    pub hash: u64,
}

impl fmt::Display for LayoutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.epoch, self.hash)
    }
}

/// One owner of partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutMember {
    /// Who.
    pub node: NodeId,
    /// Places its tokens.
    pub token_id: NodeId,
    /// Failure domain.
    pub zone: String,
    /// Relative capacity.
    pub weight: u16,
}

/// Everything that placement depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Content")]
pub struct Layout {
    /// Number, from 1.
    pub epoch: u64,
    /// Owners per partition that lists are made for; the cluster's largest n.
    pub n: u8,
    /// Number of partitions, a power of two; fixed at the cluster's creation.
    pub partitions: u16,
    /// The owners, sorted by `node`.
    pub members: Vec<LayoutMember>,
}

/// A layout before it is checked.
#[derive(Deserialize)]
struct Content {
    epoch: u64,
    n: u8,
    partitions: u16,
    members: Vec<LayoutMember>,
}

impl TryFrom<Content> for Layout {
    type Error = LayoutError;

    fn try_from(content: Content) -> Result<Self, LayoutError> {
        let Content { epoch, n, partitions, members } = content;
        let layout = Self { epoch, n, partitions, members };
        layout.check()?;
        Ok(layout)
    }
}

/// Why a layout is not acceptable. Nothing was changed; its sender is at fault; a retry does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Epoch zero, or beyond [`EPOCH_MAX`].
    #[error("layout epoch {0} is not between 1 and 2^48")]
    Epoch(u64),
    /// No owner per partition, or more than [`N_MAX`].
    #[error("n is {0}: 1 to {N_MAX} owners per partition are possible")]
    N(u8),
    /// Not a power of two, or beyond [`PARTITIONS_MAX`].
    #[error("{0} partitions: a power of two up to {PARTITIONS_MAX} is needed")]
    Partitions(u16),
    /// None, or more than [`MEMBERS_MAX`].
    #[error("a layout has 1 to {MEMBERS_MAX} members, not {0}")]
    Members(usize),
    /// Members not sorted, or one twice.
    #[error("members are not sorted and distinct at {0}")]
    Order(NodeId),
    /// Weight or zone of a member out of bounds.
    #[error("member {0} has a weight or zone out of bounds")]
    Member(NodeId),
}

impl Layout {
    /// The layout of all active roles; `None` when there is none, or when there are more than [`MEMBERS_MAX`].
    ///
    /// Panics when `n` is not 1 to [`N_MAX`] or `partitions` is no power of two: the configuration was checked before.
    pub fn derive(epoch: u64, n: u8, partitions: u16, roles: &RoleMap) -> Option<Self> {
        assert!((1..=N_MAX).contains(&n) && partitions.is_power_of_two(), "n = {n}, partitions = {partitions}");
        let members = active_members(roles);
        (!members.is_empty() && members.len() <= MEMBERS_MAX).then_some(Self { epoch, n, partitions, members })
    }

    /// Epoch and hash. O(members); callers on a hot path keep it.
    pub fn name(&self) -> LayoutName {
        LayoutName { epoch: self.epoch, hash: super::digest_of(self) }
    }

    /// Whether a layout derived from `roles` would have these very members: then no new layout is due.
    pub fn matches(&self, roles: &RoleMap) -> bool {
        // Compared in place: nodes ask after every input, and a list of members would clone every zone.
        let mut active = roles.iter().filter(|(_, role)| role.state == RoleState::Active);
        let same = |member: &LayoutMember| {
            active.next().is_some_and(|(node, role)| {
                (node, role.token_id, &role.zone, role.weight)
                    == (member.node, member.token_id, &member.zone, member.weight)
            })
        };
        self.members.iter().all(same) && active.next().is_none()
    }

    /// The member called `node`.
    pub fn member(&self, node: NodeId) -> Option<&LayoutMember> {
        self.members.binary_search_by_key(&node, |member| member.node).ok().map(|index| &self.members[index])
    }

    /// Checks the invariants that placement relies on; a decoded layout has passed.
    pub fn check(&self) -> Result<(), LayoutError> {
        if self.epoch == 0 || self.epoch > EPOCH_MAX {
            return Err(LayoutError::Epoch(self.epoch));
        }
        if self.n == 0 || self.n > N_MAX {
            return Err(LayoutError::N(self.n));
        }
        if !self.partitions.is_power_of_two() || self.partitions > PARTITIONS_MAX {
            return Err(LayoutError::Partitions(self.partitions));
        }
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(LayoutError::Members(self.members.len()));
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].node >= pair[1].node) {
            return Err(LayoutError::Order(pair[1].node));
        }
        let out_of_bounds =
            |member: &&LayoutMember| !(1..=WEIGHT_MAX).contains(&member.weight) || member.zone.len() > ZONE_BYTES_MAX;
        match self.members.iter().find(out_of_bounds) {
            Some(member) => Err(LayoutError::Member(member.node)),
            None => Ok(()),
        }
    }
}

fn active_members(roles: &RoleMap) -> Vec<LayoutMember> {
    roles
        .iter()
        .filter(|(_, role)| match role.state {
            RoleState::Active => true,
            RoleState::Leaving | RoleState::Removed => false,
        })
        .map(|(node, role)| LayoutMember {
            node,
            token_id: role.token_id,
            zone: role.zone.clone(),
            weight: role.weight,
        })
        .collect()
}

#[cfg(test)]
mod tests;
