//! What a shard's own copies are worth while they warm, as far as can be seen from outside (S7).
//!
//! A copy that warms may vote once the shard says so, and only if it heard from enough other owners before: N−W+1 of them, or
//! all that there are: of one active layout, by comparison or by taking a partition over. What was proven stays proven under
//! another ring, for a copy that goes on being owned. A copy that a newer layout brings warms though its node is Ready; it
//! may vote in sloppy requests once all that could be had came. Nothing here looks into a shard but at its own list of what
//! warms.

use meshwork_core::{
    id::{NodeId, PartitionId},
    ring::Ring,
    view::View,
    wire::peer::ReplicaState,
};
use std::collections::BTreeSet;

/// A partition, for namespaces of one number of copies.
pub(super) type Tree = (u8, PartitionId);

/// The copies of one shard.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Trees that the shard says do not vote.
    warming: BTreeSet<Tree>,
    /// Who compared itself with this shard since it began to warm.
    heard: BTreeSet<NodeId>,
    /// Trees that had heard from enough when they began to vote.
    proven: BTreeSet<Tree>,
}

fn warms(view: &View) -> bool {
    matches!(view.state, ReplicaState::Warming | ReplicaState::Settled)
}

impl Standing {
    /// The shard was given a snapshot.
    pub(super) fn on_view(&mut self, before: Option<&View>, view: &View) {
        if warms(view) && !before.is_some_and(warms) {
            self.heard.clear();
            self.proven.clear();
        }
        // With nobody to hear from, a tree votes at once.
        let alone = |tree: &Tree| view.ring.as_deref().is_some_and(|ring| others(ring, view.me, *tree).is_empty());
        self.proven.extend(trees_of(view).filter(alone));
    }

    /// An owner took part in a comparison, or handed over a part of a partition.
    pub(super) fn on_heard(&mut self, from: NodeId) {
        self.heard.insert(from);
    }

    /// Whether the shard's list of what warms is the known one.
    pub(super) fn says(&self, trees: impl ExactSizeIterator<Item = Tree>) -> bool {
        self.warming.len() == trees.len() && self.warming.iter().copied().eq(trees)
    }

    /// The shard's list of what warms.
    pub(super) fn on_warming(&mut self, view: Option<&View>, trees: BTreeSet<Tree>) {
        let before = std::mem::replace(&mut self.warming, trees);
        if let Some(view) = view {
            let heard = |tree: &Tree| has_heard(view, *tree, &self.heard);
            self.proven.extend(before.difference(&self.warming).copied().filter(heard));
        }
        self.proven.retain(|tree| !self.warming.contains(tree));
    }

    /// What the copy of `tree` may be worth at its own node.
    pub(super) fn own_state(&self, tree: Tree, view: &View) -> ReplicaState {
        let votes = || self.proven.contains(&tree) || has_heard(view, tree, &self.heard);
        match view.state {
            ReplicaState::Ready if self.warming.contains(&tree) => ReplicaState::Settled,
            ReplicaState::Warming | ReplicaState::Settled if !self.warming.contains(&tree) && votes() => {
                ReplicaState::Ready
            }
            state @ (ReplicaState::Ready | ReplicaState::Warming | ReplicaState::Settled | ReplicaState::Fallback) => {
                state
            }
        }
    }
}

/// The trees that the node of `view` owns.
fn trees_of(view: &View) -> impl Iterator<Item = Tree> + '_ {
    let ring = view.ring.as_deref();
    let me = ring.and_then(|ring| ring.index_of(view.me));
    let copies: BTreeSet<u8> = view.namespaces.iter().map(|(_, rules)| rules.n).collect();
    ring.into_iter()
        .flat_map(|ring| (0..ring.partitions()).map(move |partition| (ring, PartitionId(partition))))
        .flat_map(move |(ring, partition)| {
            let owners = ring.owners(partition);
            let owned = move |copies: &u8| {
                me.is_some_and(|me| owners.iter().take(usize::from(*copies)).any(|owner| *owner == me))
            };
            copies.clone().into_iter().filter(owned).map(move |copies| (copies, partition))
        })
}

/// The other owners of a tree.
fn others(ring: &Ring, me: NodeId, (copies, partition): Tree) -> Vec<NodeId> {
    let owners = ring.owners(partition).iter().take(usize::from(copies));
    owners.map(|owner| ring.node(*owner)).filter(|owner| *owner != me).collect()
}

/// Whether a copy that warmed has heard from as many other owners, of one active layout, as it must: N−W+1, W at most a
/// majority.
fn has_heard(view: &View, tree: Tree, heard: &BTreeSet<NodeId>) -> bool {
    view.ring.iter().chain(&view.beside).any(|ring| {
        let others = others(ring, view.me, tree);
        let copies = usize::from(tree.0).min(ring.owners(tree.1).len());
        let w =
            view.namespaces.iter().filter(|(_, rules)| rules.n == tree.0).map(|(_, rules)| usize::from(rules.w)).min();
        let needs = copies - w.unwrap_or(copies).min(copies / 2 + 1).min(copies) + 1;
        others.iter().filter(|owner| heard.contains(*owner)).count() >= needs.min(others.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::{
        namespace::NamespaceTable,
        ring::{Layout, LayoutMember, Ring},
    };
    use std::sync::Arc;

    const TREE: Tree = (3, PartitionId(0));

    /// Node 1 of so many, with three copies, R = W = 2.
    fn view(epoch: u64, nodes: &[u128], state: ReplicaState) -> View {
        let member = |node: &u128| LayoutMember {
            node: NodeId(*node),
            token_id: NodeId(*node),
            zone: format!("zone-{node}"),
            weight: 100,
        };
        let layout = Layout { epoch, n: 3, partitions: 1, members: nodes.iter().map(member).collect() };
        let ring = Some(Arc::new(Ring::derive(&layout)));
        View { ring, state, ..View::empty(NodeId(1), Arc::new(NamespaceTable::with_default(3))) }
    }

    fn warming(heard: &[u128]) -> (Standing, View) {
        let (mut standing, view) = (Standing::default(), view(1, &[1, 2, 3], ReplicaState::Warming));
        standing.on_view(None, &view);
        standing.on_warming(Some(&view), [TREE].into());
        heard.iter().for_each(|node| standing.on_heard(NodeId(*node)));
        (standing, view)
    }

    #[test]
    fn a_copy_that_votes_and_heard_from_too_few_owners_is_worth_no_vote() {
        let (mut standing, view) = warming(&[2]);
        assert_eq!(standing.own_state(TREE, &view), ReplicaState::Warming);
        standing.on_warming(Some(&view), BTreeSet::new());
        assert_eq!(standing.own_state(TREE, &view), ReplicaState::Warming, "it says that it may vote, and may not");
    }

    #[test]
    fn a_copy_that_heard_from_enough_stays_proven_when_a_new_owner_comes() {
        let (mut standing, old) = warming(&[2, 3]);
        assert_eq!(standing.own_state(TREE, &old), ReplicaState::Warming, "it does not say so yet");
        standing.on_warming(Some(&old), BTreeSet::new());
        assert_eq!(standing.own_state(TREE, &old), ReplicaState::Ready);
        let new = view(2, &[1, 4, 5], ReplicaState::Warming);
        standing.on_view(Some(&old), &new);
        assert_eq!(standing.own_state(TREE, &new), ReplicaState::Ready);
        standing.on_warming(Some(&new), [TREE].into());
        standing.on_warming(Some(&new), BTreeSet::new());
        assert_eq!(standing.own_state(TREE, &new), ReplicaState::Warming, "once it warms again, it must hear again");
    }
}
