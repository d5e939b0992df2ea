//! Which of this shard's copies vote: a replica that may lack what was acknowledged warms until it compared (PROTOCOL §6).
//!
//! The one truth about it, tree by tree (a partition, for namespaces of one number of copies). While the control plane says
//! that the whole node is Warming or Settled, each tree becomes Ready by itself, once it compared with enough other owners:
//! N−W+1 that were Ready, so that one of them holds whatever was acknowledged, or all of them whatever their state, so that
//! somebody becomes Ready when all warm. Alone, that is at once. A tree that another layout gives to this node warms too,
//! though the node is Ready, and there only Ready owners of the layout that is read count: with all others "whatever their
//! state" a rolling restart in a transition made empty copies Ready. So it is where this memory had no room for what the disk held
//! (`fell_short`): others whatever their state may lack it too. Range transfer (`handoff`) may complete it as well.
//!
//! A tree is kept Ready over a change of layouts only by a layout that was active before and still is: what a node owned
//! under one that retired, or that another of its epoch took the place of, may have missed writes since. So may what the oldest
//! layout does not assign to it, where it hears of that one only now. Comparisons are forgotten whenever the layouts change.

use crate::{
    id::{NodeId, PartitionId},
    ring::Ring,
    storage::LowTrees,
    view::View,
};
use std::collections::{BTreeMap, BTreeSet};

/// A tree: copies, and partition.
pub(crate) type TreeName = (u8, PartitionId);

/// What a warming tree takes.
pub(crate) const WARMING_BYTES: u64 = 24;

/// With whom a warming tree was compared: a bit for each owner's place in the preference list of the layout that is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compared {
    all: u8,
    ready: u8,
    /// The copy held nothing when it began to warm: all that it has came from others, or was written since.
    lost: bool,
    /// The whole node began to warm: of what no disk keeps the same is true.
    restarted: bool,
}

impl Compared {
    /// With nobody so far; `before`: what was known of the tree, if it warms already.
    fn again(before: Option<&Self>) -> Self {
        Self { all: 0, ready: 0, ..before.copied().unwrap_or_default() }
    }
}

/// What warms.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    warming: BTreeMap<TreeName, Compared>,
    /// Partitions of which something acknowledged was not taken up from the disk.
    short: BTreeSet<PartitionId>,
}

/// The owners of a tree, as member indexes.
pub(crate) fn owners(ring: &Ring, (copies, partition): TreeName) -> &[u16] {
    let owners = ring.owners(partition);
    &owners[..usize::from(copies).min(owners.len())]
}

/// The place of a node among the owners of a tree.
fn place(ring: &Ring, tree: TreeName, node: NodeId) -> Option<usize> {
    owners(ring, tree).iter().position(|owner| ring.node(*owner) == node)
}

/// The owners of a tree in the layout that is read and in the other active one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners<'a> {
    read: &'a [u16],
    other: &'a [u16],
}

impl Owners<'_> {
    /// Whether `member` owns the tree in either layout.
    pub(crate) fn contains(&self, member: u16) -> bool {
        self.read.contains(&member) || self.other.contains(&member)
    }

    /// All of them, each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let others = self.other.iter().filter(|member| !self.read.contains(member));
        self.read.iter().chain(others).copied()
    }
}

/// The owners of `tree` in either of `rings`: the one that is read, and the other.
pub(crate) fn owners_of<'a>(rings: (&'a Ring, Option<&'a Ring>), tree: TreeName) -> Owners<'a> {
    Owners { read: owners(rings.0, tree), other: rings.1.map_or(&[][..], |ring| owners(ring, tree)) }
}

/// The rings of a view: the one that is read, and the other.
pub(crate) fn rings(view: &View) -> Option<(&Ring, Option<&Ring>)> {
    Some((view.ring.as_deref()?, view.beside.as_deref()))
}

/// The trees of this shard that `me` owns in either layout, and their owners.
pub(crate) fn owned<'a>(
    rings: (&'a Ring, Option<&'a Ring>),
    me: u16,
    shard: (u16, u16),
) -> impl Iterator<Item = (TreeName, Owners<'a>)> {
    let (shard, shards) = shard;
    let (partitions, copies) = (rings.0.partitions(), rings.1.map_or(0, Ring::n).max(rings.0.n()));
    let partitions = (shard..partitions).step_by(usize::from(shards.max(1))).map(PartitionId);
    partitions
        .flat_map(move |partition| (1..=copies).map(move |copies| (copies, partition)))
        .map(move |tree| (tree, owners_of(rings, tree)))
        .filter(move |(_, owners)| owners.contains(me))
}

/// How many trees `node` owns, over all its shards.
pub(crate) fn trees(rings: (&Ring, Option<&Ring>), node: NodeId) -> u64 {
    rings.0.index_of(node).map_or(0, |me| owned(rings, me, (0, 1)).count() as u64)
}

/// With how many owners in `ring` a copy of `tree` must compare to hold whatever was acknowledged: N−W+1 of the namespaces with
/// so many copies, W at most a majority, since a request may ask for fewer votes than W, though not than that.
pub(crate) fn needed(view: &View, ring: &Ring, tree: TreeName) -> usize {
    let n = owners(ring, tree).len();
    let w = view.namespaces.iter().filter(|(_, namespace)| namespace.n == tree.0);
    let w = w.map(|(_, namespace)| usize::from(namespace.w)).min().unwrap_or(n).min(n / 2 + 1);
    n - w.min(n) + 1
}

/// Whether too few owners of `tree` in the newer of two active layouts are sure to hold a write, though they own it by the older one
/// and vote. Of those that stay N−W may have missed one, and in the newer layout W must hold it, since all go on from there: 3 copies
/// become 1, and who is left alone was none of the two that acknowledged (simulator, seed e002f5); or they become 2, of which either
/// counts for both when it is left alone next (seed f003b3f). Such owners take over what the others have, too (`handoff::ownership`).
pub(crate) fn is_thinned(view: &View, tree: TreeName) -> bool {
    let (Some(oldest), Some(newest), Some(_)) = (view.oldest(), view.newest(), &view.beside) else { return false };
    let (before, after) = (owners(oldest, tree), owners(newest, tree));
    let stay = after.iter().filter(|owner| before.contains(owner)).count();
    let sure = after.len() - stay.min(needed(view, oldest, tree) - 1);
    sure + needed(view, newest, tree) <= after.len()
}

/// Whether `member` came to own `tree` with the newer of two active layouts.
pub(crate) fn is_gained(view: &View, member: u16, tree: TreeName) -> bool {
    view.beside.is_some() && view.oldest().is_some_and(|oldest| !owners(oldest, tree).contains(&member))
}

impl Readiness {
    /// All that `me` owns warms.
    pub(crate) fn warm_all(&mut self, rings: (&Ring, Option<&Ring>), me: u16, shard: (u16, u16)) {
        let old = std::mem::take(&mut self.warming);
        let again = |tree| Compared { restarted: true, ..Compared::again(old.get(&tree)) };
        self.warming = owned(rings, me, shard).map(|(tree, _)| (tree, again(tree))).collect();
    }

    /// Nothing warms: the node owns nothing.
    pub(crate) fn settle(&mut self) {
        self.warming.clear();
    }

    /// The layouts changed: what this node did not own before warms, what it does not own any more does not, and earlier
    /// comparisons count no longer.
    pub(crate) fn on_layouts(&mut self, before: &View, view: &View, shard: (u16, u16)) {
        let old = std::mem::take(&mut self.warming);
        let Some((all, me)) = rings(view).and_then(|all| Some((all, all.0.index_of(view.me)?))) else { return };
        let owns = |ring: &Ring, tree| ring.index_of(view.me).is_some_and(|me| owners(ring, tree).contains(&me));
        let of = |view: &View| view.ring.iter().chain(&view.beside).cloned().collect::<Vec<_>>();
        let (earlier, later) = (of(before), of(view));
        // Of one layout alone the next is known to follow, or nothing was promised, or this node lapsed and warms as a whole.
        let alone = earlier.len() == 1 && later.len() == 1;
        let lasting: Vec<_> =
            earlier.iter().filter(|ring| alone || later.iter().any(|other| other.name() == ring.name())).collect();
        // What begins between two layouts was given nothing by the newer one yet.
        let first = view.oldest().filter(|_| earlier.is_empty());
        // Heard of only now, though others went by it: they have written since what it assigns to them alone.
        let is_news = |ring: &Ring| !earlier.is_empty() && earlier.iter().all(|known| known.name() != ring.name());
        let late = view.oldest().filter(|oldest| !alone && is_news(oldest));
        let had = |tree| {
            lasting.iter().copied().chain(first).any(|ring| owns(ring, tree))
                && late.is_none_or(|ring| owns(ring, tree))
        };
        self.warming = owned(all, me, shard)
            .filter(|(tree, _)| old.contains_key(tree) || !had(*tree))
            .map(|(tree, _)| (tree, Compared::again(old.get(&tree))))
            .collect();
    }

    /// Of what warms and is not in `before` this copy holds nothing of those that are `empty`.
    pub(crate) fn note_lost(&mut self, before: &BTreeSet<TreeName>, empty: impl Fn(TreeName) -> bool) {
        for (tree, compared) in self.warming.iter_mut().filter(|(tree, _)| !before.contains(tree)) {
            compared.lost = empty(*tree);
        }
    }

    /// What was held of these trees was given up.
    pub(crate) fn note_emptied(&mut self, (partition, copies): LowTrees) {
        for (_, compared) in self.warming.iter_mut().filter(|(tree, _)| tree.1 == partition && tree.0 <= copies) {
            compared.lost = true;
        }
    }

    /// Whether a tree warms of which this copy held nothing when that began, of a namespace that the disk keeps or not.
    pub(crate) fn has_lost(&self, tree: TreeName, stored: bool) -> bool {
        self.warming.get(&tree).is_some_and(|compared| compared.lost || compared.restarted && !stored)
    }

    /// Whether a tree warms and has not been compared with `peer`, or not since that one is Ready.
    pub(crate) fn is_to_compare(&self, tree: TreeName, ring: &Ring, peer: NodeId, is_ready: bool) -> bool {
        let Some(compared) = self.warming.get(&tree) else { return false };
        let known = if is_ready { compared.ready } else { compared.all };
        place(ring, tree, peer).is_some_and(|place| known & (1 << place) == 0)
    }

    /// What the disk held of a partition found no room: only owners that are Ready tell what it lacks.
    pub(crate) fn fell_short(&mut self, partition: PartitionId) {
        self.short.insert(partition);
    }

    /// How many partitions fell short, and have not been filled since.
    pub(crate) fn short(&self) -> usize {
        self.short.len()
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

    /// A copy that voted, or compared already, may lack what was acknowledged.
    pub(crate) fn distrust(&mut self, tree: TreeName) {
        self.warming.insert(tree, Compared::again(self.warming.get(&tree)));
    }

    /// A tree was taken over whole from enough Ready owners: it is Ready from now on.
    pub(crate) fn complete(&mut self, tree: TreeName) -> bool {
        let warmed = self.warming.remove(&tree).is_some();
        if !self.short.is_empty() && !self.warming.keys().any(|it| it.1 == tree.1) {
            self.short.remove(&tree.1);
        }
        warmed
    }

    /// A tree was compared with `peer`, and holds now what that one held. `ring` is read, `need`: N−W+1, `gained`: only
    /// Ready owners count. Whether it became Ready.
    pub(crate) fn compared(
        &mut self,
        tree: TreeName,
        ring: &Ring,
        (me, peer): (NodeId, NodeId),
        was_ready: bool,
        (need, gained): (usize, bool),
    ) -> bool {
        let Some(compared) = self.warming.get_mut(&tree) else { return false };
        let Some(place) = place(ring, tree, peer) else { return false };
        compared.all |= 1 << place;
        if was_ready {
            compared.ready |= 1 << place;
        }
        self.judge(tree, ring, me, (need, gained))
    }

    /// Whether a tree has compared enough, perhaps with nobody: then it is Ready from now on.
    pub(crate) fn judge(&mut self, tree: TreeName, ring: &Ring, me: NodeId, (need, gained): (usize, bool)) -> bool {
        let Some(compared) = self.warming.get(&tree) else { return false };
        let others = owners(ring, tree).iter().filter(|owner| ring.node(**owner) != me).count();
        let all = !gained && !self.short.contains(&tree.1) && compared.all.count_ones() as usize >= others;
        let enough = compared.ready.count_ones() as usize >= need || all;
        if enough {
            self.complete(tree);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        namespace::NamespaceTable,
        ring::{Layout, LayoutMember},
        wire::peer::ReplicaState,
    };
    use std::sync::Arc;

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
        readiness.compared(TREE, ring, (NodeId(1), NodeId(peer)), ready, (need, false))
    }

    #[test]
    fn enough_ready_owners_make_a_tree_ready_and_one_source_is_not_enough() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.warm_all((&ring, None), 0, (0, 1));
        assert!(readiness.is_warming(TREE));
        assert!(!compare(&mut readiness, &ring, 2, true, 2));
        assert!(!compare(&mut readiness, &ring, 2, true, 2), "one owner counts once");
        assert!(compare(&mut readiness, &ring, 3, true, 2));
        assert!(!readiness.is_warming(TREE));
        readiness.warm_all((&ring, None), 0, (0, 1));
        assert!(compare(&mut readiness, &ring, 3, true, 1), "with W = N one is");
    }

    #[test]
    fn all_other_owners_are_enough_whatever_their_state_and_fewer_are_not() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.warm_all((&ring, None), 0, (0, 1));
        assert!(!compare(&mut readiness, &ring, 2, false, 1), "a Warming owner may lack it too");
        assert!(compare(&mut readiness, &ring, 3, false, 1));
    }

    #[test]
    fn what_found_no_room_is_made_good_by_ready_owners_only() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.fell_short(TREE.1);
        readiness.warm_all((&ring, None), 0, (0, 1));
        assert!(!compare(&mut readiness, &ring, 2, false, 1) && !compare(&mut readiness, &ring, 3, false, 1));
        assert_eq!(readiness.short(), 1);
        assert!(compare(&mut readiness, &ring, 2, true, 1));
        assert_eq!(readiness.short(), 0);
    }

    #[test]
    fn an_only_owner_is_ready_at_once() {
        let ring = ring(1, 1);
        let mut readiness = Readiness::default();
        readiness.warm_all((&ring, None), 0, (0, 1));
        assert!(readiness.judge((1, PartitionId(0)), &ring, NodeId(1), (1, false)));
    }

    /// What node 4 sees: epochs and numbers of members of the active layouts, the one that is read first.
    fn view(layouts: &[(u64, u128)]) -> View {
        let nodes: Vec<NodeId> = (1..=4).map(NodeId).collect();
        let ring = |(epoch, members): &(u64, u128)| {
            let member = |node| LayoutMember {
                node: NodeId(node),
                token_id: NodeId(node),
                zone: format!("zone-{node}"),
                weight: 100,
            };
            let members = (1..=*members).map(member).collect();
            Arc::new(Ring::derive_among(&Layout { epoch: *epoch, n: 2, partitions: 8, members }, &nodes))
        };
        let mut rings = layouts.iter().map(ring);
        let empty = View::empty(NodeId(4), Arc::new(NamespaceTable::default()));
        View { ring: rings.next(), beside: rings.next(), state: ReplicaState::Ready, ..empty }
    }

    fn owns(view: &View, ring: &Ring, tree: TreeName) -> bool {
        owners(ring, tree).contains(&ring.index_of(view.me).unwrap())
    }

    fn all() -> impl Iterator<Item = TreeName> {
        (0..8).map(|partition| (2, PartitionId(partition)))
    }

    #[test]
    fn what_a_newer_layout_brings_warms_and_what_was_owned_before_does_not() {
        let (old, new) = (view(&[(1, 3)]), view(&[(1, 3), (2, 4)]));
        // Node 4 has a place in the newer one only, and is told of both at once.
        let mut readiness = Readiness::default();
        readiness.on_layouts(&View::empty(new.me, Arc::clone(&new.namespaces)), &new, (0, 1));
        let (read, newer) = (new.ring.clone().unwrap(), new.beside.clone().unwrap());
        for tree in all() {
            let gained = owns(&new, &newer, tree) && !owns(&new, &read, tree);
            assert_eq!(readiness.is_warming(tree), gained, "{tree:?}");
            assert_eq!(is_gained(&new, newer.index_of(new.me).unwrap(), tree) && owns(&new, &newer, tree), gained);
        }
        assert!(readiness.len() > 0);
        // A first layout brings nothing that was acknowledged.
        let mut first = Readiness::default();
        first.on_layouts(&View::empty(old.me, Arc::clone(&old.namespaces)), &old, (0, 1));
        assert_eq!(first.len(), 0);
    }

    #[test]
    fn a_layout_that_took_anothers_place_gives_no_standing_and_one_that_retired_neither() {
        let (one, other) = (view(&[(1, 3), (2, 4)]), view(&[(1, 3), (3, 4)]));
        let mut readiness = Readiness::default();
        readiness.on_layouts(&view(&[(1, 3)]), &one, (0, 1));
        let gained = readiness.len();
        readiness.settle();
        readiness.on_layouts(&one, &other, (0, 1));
        assert_eq!(readiness.len(), gained, "writes of the other one's coordinators went elsewhere");
        readiness.settle();
        readiness.on_layouts(&other, &view(&[(3, 4)]), (0, 1));
        assert_eq!(readiness.len(), 0);
        readiness.on_layouts(&view(&[(1, 4)]), &view(&[(7, 4), (8, 4)]), (0, 1));
        assert_eq!(readiness.len(), owned(rings(&view(&[(8, 4)])).unwrap(), 3, (0, 1)).count());
    }

    #[test]
    fn a_copy_that_a_newer_layout_brought_counts_ready_owners_only() {
        let ring = ring(3, 3);
        let mut readiness = Readiness::default();
        readiness.warm_all((&ring, None), 0, (0, 1));
        let mut compare = |peer, ready| readiness.compared(TREE, &ring, (NodeId(1), NodeId(peer)), ready, (2, true));
        assert!(!compare(2, false) && !compare(3, false), "all, whatever their state, are not enough");
        assert!(!compare(2, true) && compare(3, true));
    }
}
