//! Which of this shard's copies vote: a replica that may lack what was acknowledged warms until it compared (PROTOCOL §6).
//!
//! The control plane says what the whole node is. While it is Warming or Settled, each tree (a partition, for namespaces of
//! one number of copies) becomes Ready by itself, once it compared with enough other owners: N−W+1 that were Ready, so that
//! one of them holds whatever was acknowledged, or all of them whatever their state, so that somebody becomes Ready when
//! all warm. Alone, that is at once. A partition that another layout gives to this node warms too, though the node is Ready.
//! Invariant: a tree is warming or it is not; what was compared is forgotten whenever the ring changes.

use crate::{
    id::{NodeId, PartitionId},
    ring::Ring,
};
use std::collections::BTreeMap;

/// A tree: copies, and partition.
pub(crate) type TreeName = (u8, PartitionId);

/// What a warming tree takes.
pub(crate) const WARMING_BYTES: u64 = 24;

/// With whom a warming tree was compared: a bit for each owner's place in the preference list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compared {
    all: u8,
    ready: u8,
}

/// What warms.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    warming: BTreeMap<TreeName, Compared>,
}

/// The trees of this shard that `me` owns, and the place of each other owner of them.
pub(crate) fn owned(ring: &Ring, me: u16, shard: (u16, u16)) -> impl Iterator<Item = (TreeName, &[u16])> {
    let (shard, shards) = shard;
    let partitions = (shard..ring.partitions()).step_by(usize::from(shards.max(1))).map(PartitionId);
    partitions.flat_map(move |partition| {
        let owners = ring.owners(partition);
        let mine = owners.iter().position(|owner| *owner == me);
        (1..=ring.n()).filter_map(move |copies| {
            let owners = &owners[..usize::from(copies).min(owners.len())];
            mine.filter(|mine| *mine < owners.len()).map(|_| ((copies, partition), owners))
        })
    })
}

/// How many trees `node` owns, over all its shards.
pub(crate) fn trees(ring: &Ring, node: NodeId) -> u64 {
    ring.index_of(node).map_or(0, |me| owned(ring, me, (0, 1)).count() as u64)
}

impl Readiness {
    /// All that `me` owns warms.
    pub(crate) fn warm_all(&mut self, ring: &Ring, me: u16, shard: (u16, u16)) {
        self.warming = owned(ring, me, shard).map(|(tree, _)| (tree, Compared::default())).collect();
    }

    /// Nothing warms: the node is Ready as a whole, or owns nothing.
    pub(crate) fn settle(&mut self) {
        self.warming.clear();
    }

    /// The ring changed: what `me` did not own before warms, what it does not own any more does not, and comparisons with
    /// earlier owners count no longer.
    /// `before`: the ring until now, with the place of `me` in it, if there was one and if it was a member.
    pub(crate) fn on_ring(&mut self, before: Option<(&Ring, Option<u16>)>, ring: &Ring, me: u16, shard: (u16, u16)) {
        let old = std::mem::take(&mut self.warming);
        let had = |(copies, partition): TreeName| {
            before.is_none_or(|(before, me)| {
                let Some(me) = me else { return false };
                let owners = before.owners(partition);
                let width = usize::from(copies).min(owners.len());
                owners[..width].contains(&me)
            })
        };
        self.warming = owned(ring, me, shard)
            .filter(|(tree, _)| old.contains_key(tree) || !had(*tree))
            .map(|(tree, _)| (tree, Compared::default()))
            .collect();
    }

    /// Whether a tree warms.
    #[inline]
    pub(crate) fn is_warming(&self, tree: TreeName) -> bool {
        !self.warming.is_empty() && self.warming.contains_key(&tree)
    }

    /// How many trees warm.
    pub(crate) fn len(&self) -> usize {
        self.warming.len()
    }

    /// The trees that warm.
    pub(crate) fn warming(&self) -> impl ExactSizeIterator<Item = TreeName> + '_ {
        self.warming.keys().copied()
    }

    /// A tree was compared with `peer`, and holds now what that one held. `need`: N−W+1. Whether it became Ready.
    pub(crate) fn compared(
        &mut self,
        tree: TreeName,
        ring: &Ring,
        me: NodeId,
        peer: NodeId,
        was_ready: bool,
        need: usize,
    ) -> bool {
        let Some(compared) = self.warming.get_mut(&tree) else { return false };
        let owners = ring.owners(tree.1);
        let owners = &owners[..usize::from(tree.0).min(owners.len())];
        let Some(place) = owners.iter().position(|owner| ring.node(*owner) == peer) else { return false };
        compared.all |= 1 << place;
        if was_ready {
            compared.ready |= 1 << place;
        }
        self.judge(tree, ring, me, need)
    }

    /// Whether a tree has compared enough, perhaps with nobody: then it is Ready from now on.
    pub(crate) fn judge(&mut self, tree: TreeName, ring: &Ring, me: NodeId, need: usize) -> bool {
        let Some(compared) = self.warming.get(&tree) else { return false };
        let owners = ring.owners(tree.1);
        let owners = &owners[..usize::from(tree.0).min(owners.len())];
        let others = owners.iter().filter(|owner| ring.node(**owner) != me).count();
        let enough = compared.ready.count_ones() as usize >= need || compared.all.count_ones() as usize >= others;
        if enough {
            self.warming.remove(&tree);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Layout, LayoutMember};

    fn ring(members: u128, n: u8) -> Ring {
        let member = |node| LayoutMember {
            node: NodeId(node),
            token_id: NodeId(node),
            zone: format!("zone-{node}"),
            weight: 100,
        };
        let layout = Layout { epoch: 1, n, partitions: 8, members: (1..=members).map(member).collect() };
        Ring::derive(&layout)
    }

    const TREE: TreeName = (3, PartitionId(0));

    fn compare(readiness: &mut Readiness, ring: &Ring, peer: u128, ready: bool, need: usize) -> bool {
        readiness.compared(TREE, ring, NodeId(1), NodeId(peer), ready, need)
    }

    #[test]
    fn enough_ready_owners_make_a_tree_ready_and_one_source_is_not_enough() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.warm_all(&ring, 0, (0, 1));
        assert!(readiness.is_warming(TREE));
        assert!(!compare(&mut readiness, &ring, 2, true, 2));
        assert!(!compare(&mut readiness, &ring, 2, true, 2), "one owner counts once");
        assert!(compare(&mut readiness, &ring, 3, true, 2));
        assert!(!readiness.is_warming(TREE));
        readiness.warm_all(&ring, 0, (0, 1));
        assert!(compare(&mut readiness, &ring, 3, true, 1), "with W = N one is");
    }

    #[test]
    fn all_other_owners_are_enough_whatever_their_state_and_fewer_are_not() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.warm_all(&ring, 0, (0, 1));
        assert!(!compare(&mut readiness, &ring, 2, false, 1), "a Warming owner may lack it too");
        assert!(compare(&mut readiness, &ring, 3, false, 1));
    }

    #[test]
    fn an_only_owner_is_ready_at_once() {
        let ring = ring(1, 1);
        let mut readiness = Readiness::default();
        readiness.warm_all(&ring, 0, (0, 1));
        assert!(readiness.judge((1, PartitionId(0)), &ring, NodeId(1), 1));
    }

    #[test]
    fn what_a_new_ring_brings_warms_and_what_was_owned_before_does_not() {
        let (three, four) = (ring(3, 2), ring(4, 2));
        let mut readiness = Readiness::default();
        readiness.on_ring(Some((&four, Some(0))), &three, 0, (0, 1));
        let owns = |ring: &Ring, partition| ring.owners(PartitionId(partition)).contains(&0);
        for partition in 0..8 {
            let brought = owns(&three, partition) && !owns(&four, partition);
            assert_eq!(readiness.is_warming((2, PartitionId(partition))), brought, "{partition}");
        }
        assert!(readiness.len() > 0);
        readiness.on_ring(None, &three, 0, (0, 1));
        assert!(readiness.len() > 0, "it warms on");
        let mut stranger = Readiness::default();
        stranger.on_ring(Some((&three, None)), &four, 3, (0, 1));
        assert_eq!(stranger.len(), owned(&four, 3, (0, 1)).count(), "who was no member warms as a whole");
    }
}
