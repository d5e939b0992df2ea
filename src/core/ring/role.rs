//! Roles: what each node declared about itself, in one map that merges (PROTOCOL §2).
//!
//! A role map is a last-writer-wins register per `NodeId`, stamped with a version. Joins commute, associate and are
//! idempotent, so maps may arrive by gossip in any order, twice, or through others. What surprises:
//! - `Removed` is sticky. It outranks every version, so a node that comes back with a newer clock stays removed; it must
//!   draw a new `NodeId`. Between two removed roles, and between two others, the larger version wins.
//! - Equal versions with different content should not exist. Should a peer send such, the larger content hash wins: the
//!   sides still agree.
//!
//! A role map is not membership: SWIM says who answers, and never changes a role. Forgetting removed roles after 7 days
//! is not here yet; it has to know the active layouts of all members.

use crate::{id::NodeId, value::Version};
use crdts::{CvRDT, LWWReg};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt, net::SocketAddr};

/// Most roles that a decoded map may hold: above twice [`MEMBERS_MAX`](super::layout::MEMBERS_MAX), because removed
/// roles stay for a while.
pub const ROLES_MAX: usize = 10_000;
/// Largest weight: ten times the default, so that a hostile role cannot ask every node for millions of tokens.
pub const WEIGHT_MAX: u16 = 1000;
/// Longest zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Longest name, in bytes: that of a DNS name (RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 253;
/// Most shards of one node.
pub const SHARDS_MAX: u16 = 1024;

/// What a node may be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RoleState {
    /// Owns partitions.
    Active,
    /// Gives its partitions away with the next layout.
    Leaving,
    /// Gone for good: this `NodeId` never returns.
    Removed,
}

/// What a node declares about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Places the tokens: its own `NodeId` at first, inherited by a replacement.
    pub token_id: NodeId,
    /// Failure domain, at most [`ZONE_BYTES_MAX`] bytes; replicas spread over zones. May be empty: then that is a zone too.
    pub zone: String,
    /// Relative capacity, 100 by default, 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// What it may be asked to do.
    pub state: RoleState,
    /// For people and for `replace_by_name`, at most [`NAME_BYTES_MAX`] bytes. Not unique by itself.
    pub name: String,
    /// Where shard 0 listens; shard `i` listens on this port + `i`.
    pub address: SocketAddr,
    /// How many shards, 1 to [`SHARDS_MAX`].
    pub shards: u16,
    /// The member whose place this one took, if any.
    pub replaces: Option<NodeId>,
    /// Clients are sent to others; it keeps its copies and its vote.
    #[serde(default)]
    pub drained: bool,
}

/// Why a role is not acceptable. Nothing was changed; the node that declared it is at fault; a retry does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// Weight out of range.
    #[error("weight {0} is not between 1 and {WEIGHT_MAX}")]
    Weight(u16),
    /// Zone too long.
    #[error("zone of {0} bytes is longer than {ZONE_BYTES_MAX}")]
    Zone(usize),
    /// Name too long.
    #[error("name of {0} bytes is longer than {NAME_BYTES_MAX}")]
    Name(usize),
    /// Shard count out of range, or the last shard's port would be above 65,535.
    #[error("{shards} shards from port {port} on: 1 to {SHARDS_MAX} shards and ports up to 65535 are possible")]
    Shards {
        /// How many.
        shards: u16,
        /// Port of shard 0.
        port: u16,
    },
    /// More roles than a map may hold.
    #[error("{0} roles are more than {ROLES_MAX}")]
    Roles(usize),
}

impl Role {
    /// Checks the bounds that every node relies on. A role from a configuration must pass before [`RoleMap::set`];
    /// roles in a decoded [`RoleMap`] have passed.
    pub fn check(&self) -> Result<(), RoleError> {
        if self.weight == 0 || self.weight > WEIGHT_MAX {
            return Err(RoleError::Weight(self.weight));
        }
        if self.zone.len() > ZONE_BYTES_MAX {
            return Err(RoleError::Zone(self.zone.len()));
        }
        if self.name.len() > NAME_BYTES_MAX {
            return Err(RoleError::Name(self.name.len()));
        }
        let port = self.address.port();
        if self.shards == 0 || self.shards > SHARDS_MAX || port.checked_add(self.shards - 1).is_none() {
            return Err(RoleError::Shards { shards: self.shards, port });
        }
        Ok(())
    }
}

/// Total order of the states of one node's role: removal first, then time, then content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    removed: bool,
    version: Version,
    content: u64,
}

impl Stamp {
    fn of(role: &Role, version: Version) -> Self {
        Self { removed: role.state == RoleState::Removed, version, content: super::digest_of(role) }
    }
}

/// All roles known here, by `NodeId`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RoleMap {
    roles: BTreeMap<NodeId, LWWReg<Role, Stamp>>,
}

impl RoleMap {
    /// No roles.
    pub fn new() -> Self {
        Self::default()
    }

    /// The role of `node`, removed or not.
    pub fn get(&self, node: NodeId) -> Option<&Role> {
        self.roles.get(&node).map(|register| &register.val)
    }

    /// The version of `node`'s role: a change must be stamped above it.
    pub fn version(&self, node: NodeId) -> Option<Version> {
        self.roles.get(&node).map(|register| register.marker.version)
    }

    /// All roles, in `NodeId` order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Role)> {
        self.roles.iter().map(|(node, register)| (*node, &register.val))
    }

    /// How many roles, removed ones counted.
    pub fn len(&self) -> usize {
        self.roles.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// First 8 bytes of blake3 over the map's encoding: equal maps have equal digests. O(len); ask once per change.
    pub fn digest(&self) -> u64 {
        super::digest_of(self)
    }

    /// Records `role` for `node` unless what is known outranks it; says whether something changed. `role` must satisfy
    /// [`Role::check`], else peers refuse the map.
    pub fn set(&mut self, node: NodeId, role: Role, version: Version) -> bool {
        debug_assert_eq!(role.check(), Ok(()), "role of {node}");
        let marker = Stamp::of(&role, version);
        self.merge(node, LWWReg { val: role, marker })
    }

    /// The map with the roles of `nodes` alone, each under the version it has here. Cheaper than setting them anew: what a
    /// role's stamp holds of its content is copied, not hashed again.
    pub fn only(&self, nodes: impl Iterator<Item = NodeId>) -> Self {
        let kept = nodes.filter_map(|node| Some((node, self.roles.get(&node)?.clone())));
        Self { roles: kept.collect() }
    }

    /// Takes in what `other` knows; says whether something changed.
    pub fn join(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (node, register) in &other.roles {
            // Looked at first, so that the usual case (nothing new) clones no strings.
            if self.roles.get(node).is_none_or(|known| known.marker < register.marker) {
                changed |= self.merge(*node, register.clone());
            }
        }
        changed
    }

    fn merge(&mut self, node: NodeId, register: LWWReg<Role, Stamp>) -> bool {
        let Some(known) = self.roles.get_mut(&node) else {
            self.roles.insert(node, register);
            return true;
        };
        let before = known.marker;
        CvRDT::merge(known, register);
        known.marker != before
    }
}

impl fmt::Debug for RoleMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for RoleMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.roles.iter().map(|(node, register)| (node, &register.val, register.marker.version)))
    }
}

impl<'de> Deserialize<'de> for RoleMap {
    /// Refuses roles that fail [`Role::check`] and more than [`ROLES_MAX`] of them. The order of stamps is derived from
    /// the roles, so a peer cannot claim one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<(NodeId, Role, Version)>::deserialize(deserializer)?;
        if entries.len() > ROLES_MAX {
            return Err(de::Error::custom(RoleError::Roles(entries.len())));
        }
        let mut map = Self::new();
        for (node, role, version) in entries {
            role.check().map_err(|error| de::Error::custom(format_args!("role of {node}: {error}")))?;
            map.set(node, role, version);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::role, *};
    use crate::{id::ActorId, value::Hlc};

    const NODE: NodeId = NodeId(7);

    fn at(time: u64, actor: u64) -> Version {
        Version { hlc: Hlc(time), actor: ActorId(actor) }
    }

    /// Every state of one node's role that two versions, two weights and all role states make, and none.
    fn states() -> Vec<RoleMap> {
        let mut states = vec![RoleMap::new()];
        for state in [RoleState::Active, RoleState::Leaving, RoleState::Removed] {
            for version in [at(1, 1), at(1, 2), at(2, 1)] {
                for weight in [100, 200] {
                    let mut map = RoleMap::new();
                    assert!(map.set(NODE, Role { state, ..role(7, "a", weight) }, version));
                    states.push(map);
                }
            }
        }
        states
    }

    fn joined(left: &RoleMap, right: &RoleMap) -> RoleMap {
        let mut out = left.clone();
        let changed = out.join(right);
        assert_eq!(changed, out != *left, "join says whether something changed");
        out
    }

    #[test]
    fn joins_of_role_maps_commute_associate_and_repeat_without_effect() {
        let states = states();
        for a in &states {
            assert_eq!(&joined(a, a), a);
            for b in &states {
                let both = joined(a, b);
                assert_eq!(both, joined(b, a));
                assert_eq!(both.digest(), joined(b, a).digest());
                for c in &states {
                    assert_eq!(joined(&both, c), joined(a, &joined(b, c)));
                }
            }
        }
    }

    #[test]
    fn a_removed_node_stays_removed_whatever_its_clock_says() {
        let removed = Role { state: RoleState::Removed, ..role(7, "a", 100) };
        let mut map = RoleMap::new();
        assert!(map.set(NODE, role(7, "a", 100), at(5, 1)));
        assert!(map.set(NODE, removed, at(2, 2)), "even with an older stamp");
        assert!(!map.set(NODE, role(7, "a", 100), at(1000, 1)));
        assert_eq!(map.get(NODE).unwrap().state, RoleState::Removed);
        assert_eq!(map.version(NODE), Some(at(2, 2)));
    }

    #[test]
    fn the_larger_version_is_the_role() {
        let mut map = RoleMap::new();
        assert!(map.set(NODE, role(7, "b", 100), at(2, 1)));
        assert!(!map.set(NODE, role(7, "a", 100), at(1, 9)));
        assert!(!map.set(NODE, role(7, "b", 100), at(2, 1)), "the same write again");
        assert_eq!(map.get(NODE).unwrap().zone, "b");
    }

    #[test]
    fn maps_that_differ_in_anything_have_other_digests_and_survive_the_wire() {
        let mut digests: Vec<u64> = states().iter().map(RoleMap::digest).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), states().len());
        for mut map in states() {
            map.set(
                NodeId(u128::MAX),
                Role { replaces: Some(NODE), ..role(u128::MAX, "c", 1) },
                at(u64::MAX, u64::MAX),
            );
            let encoded = rmp_serde::to_vec(&map).unwrap();
            assert_eq!(rmp_serde::from_slice::<RoleMap>(&encoded).unwrap(), map);
        }
    }

    #[test]
    fn a_role_out_of_bounds_is_refused_by_name() {
        let good = role(7, "a", 100);
        let cases = [
            (Role { weight: 0, ..good.clone() }, RoleError::Weight(0)),
            (Role { weight: 1001, ..good.clone() }, RoleError::Weight(1001)),
            (Role { zone: "z".repeat(65), ..good.clone() }, RoleError::Zone(65)),
            (Role { name: "n".repeat(254), ..good.clone() }, RoleError::Name(254)),
            (Role { shards: 0, ..good.clone() }, RoleError::Shards { shards: 0, port: 7000 }),
            (
                Role { address: "[::1]:65535".parse().unwrap(), shards: 2, ..good.clone() },
                RoleError::Shards { shards: 2, port: 65_535 },
            ),
        ];
        for (role, error) in cases {
            assert_eq!(role.check(), Err(error.clone()));
            let encoded = rmp_serde::to_vec(&[(NODE, role, at(1, 1))]).unwrap();
            let refusal = rmp_serde::from_slice::<RoleMap>(&encoded).unwrap_err();
            assert!(refusal.to_string().contains(&error.to_string()), "{refusal}");
        }
        let many: Vec<_> = (0..=ROLES_MAX as u128).map(|node| (NodeId(node), good.clone(), at(1, 1))).collect();
        let refusal = rmp_serde::from_slice::<RoleMap>(&rmp_serde::to_vec(&many).unwrap()).unwrap_err();
        assert!(refusal.to_string().contains("10001 roles"), "{refusal}");
    }
}
