//! S19 `quorums-overlap` (as far as partitions move), S20 `layout-pure`, S21 `range-kept`, L4 `layout-completes`, S22 `removed-stays-out` (as far as there are incarnations), and L6 `membership-heals`.
//!
//! Equal layout names must be equal owners on every node, distinct for each partition; a process that was shown a newer one
//! of its identity stops coordinating; no partition is asked for under a layout that a member does not coordinate with yet, since
//! what that one gets acknowledged the new owner would miss; and after healing, every node of the core sees every other alive, the rest not, and
//! one layout.

use super::{Finding, Invariant};
use crate::{
    clock::{MS, Time},
    network::Site,
    trace::Trace,
};
use meshwork_core::{
    id::{NodeId, PartitionId},
    ring::LayoutName,
    view::View,
    wire::control::{MemberStatus, NodeStatus},
};
use std::{collections::BTreeMap, sync::Arc};

/// A snapshot's way to the shards, and a second to settle.
const FENCED_AFTER: Time = 1_500 * MS;

/// What was seen of layouts.
#[derive(Debug, Default)]
pub struct Layouts {
    owners: BTreeMap<LayoutName, u128>,
    shown: BTreeMap<u32, Time>,
    dropped: BTreeMap<Site, u64>,
    /// By shard: how often its node was passed by, as of its newest view with a layout, and whether that view was the first
    /// to say so.
    lapses: BTreeMap<Site, (u64, bool)>,
    /// By shard: oldest and newest layout of its newest view, and whether between that and the one before a transition ended, or none
    /// was before.
    active: BTreeMap<Site, (LayoutName, LayoutName, bool)>,
    /// Nodes of processes, and their shards.
    processes: BTreeMap<u32, (NodeId, u16)>,
    /// The newest layout that each shard was given.
    given: BTreeMap<Site, LayoutName>,
    /// By node: the newest layout that all shards of one of its processes were given, whatever became of that process.
    adopted: BTreeMap<NodeId, LayoutName>,
}

impl Layouts {
    /// A shard was given a snapshot.
    pub fn on_view(&mut self, at: Time, view: &Arc<View>) -> Option<Finding> {
        let ring = view.ring.as_ref()?;
        let mut digest = Trace::new(0..0);
        for partition in 0..ring.partitions() {
            let owners = ring.owners(PartitionId(partition));
            for (place, owner) in owners.iter().enumerate() {
                if owners[..place].contains(owner) {
                    return Some(blame(
                        at,
                        format!("layout {}: partition {partition} has one owner twice", ring.name()),
                    ));
                }
                let node = ring.node(*owner).0;
                digest.add(node as u64);
                digest.add((node >> 64) as u64);
            }
        }
        let known = *self.owners.entry(ring.name()).or_insert(digest.hash());
        (known != digest.hash())
            .then(|| blame(at, format!("layout {} has other owners on {} than elsewhere", ring.name(), view.me)))
    }

    /// The next process starts.
    pub fn on_start(&mut self, process: u32, node: NodeId, shards: u16) {
        self.processes.insert(process, (node, shards));
    }

    /// A node says which layouts are active. One alone it coordinates with at once: nothing older is left to be drained.
    pub fn on_published(&mut self, view: &View) {
        if let (Some(ring), None) = (&view.ring, &view.beside) {
            self.adopt(view.me, ring.name());
        }
    }

    /// A shard coordinates with the newest layout of its snapshot from now on.
    pub fn on_given(&mut self, site: Site, view: &View) {
        let (Some(newest), Some((node, shards))) = (view.newest(), self.processes.get(&site.process).copied()) else {
            return;
        };
        self.given.insert(site, newest.name());
        let all = (0..shards).map(|shard| self.given.get(&Site { shard, ..site }).copied());
        if let Some(Some(least)) = all.min() {
            self.adopt(node, least);
        }
    }

    fn adopt(&mut self, node: NodeId, name: LayoutName) {
        let known = self.adopted.entry(node).or_insert(name);
        *known = name.max(*known);
    }

    /// Members of the active layouts of `view` that cannot have acked `newest` yet, those left out whose data was given up.
    pub fn behind(&self, view: &View, newest: LayoutName) -> Vec<NodeId> {
        let adopted = |node: &NodeId| self.adopted.get(node).is_some_and(|name| *name >= newest);
        let members = view.ring.iter().flat_map(|ring| ring.members());
        members.copied().filter(|node| !adopted(node) && !view.skipped.contains(node)).collect()
    }

    /// As `on_view`, of which shard.
    pub fn on_lapses(&mut self, site: Site, view: &Arc<View>) {
        if view.ring.is_some() {
            let known = self.lapses.get(&site).map_or(0, |known| known.0);
            self.lapses.insert(site, (view.lapses, view.lapses > known));
        }
    }

    /// As `on_view`, of which shard: what it missed the end of.
    pub fn on_active(&mut self, site: Site, view: &View) {
        if let (Some(oldest), Some(newest)) = (view.oldest(), view.newest()) {
            let (oldest, newest) = (oldest.name(), newest.name());
            let passed = match self.active.get(&site) {
                None => true,
                // What it says is done with the very view that says it.
                Some((before, last, _)) => *before < oldest && (*last == oldest || view.settled == Some(oldest)),
            };
            self.active.insert(site, (oldest, newest, passed));
        }
    }

    /// Whether the shard may drop what the oldest layout of its view does not assign to it: that one stood alone without its knowing.
    pub fn has_passed(&self, site: Site) -> bool {
        self.active.get(&site).is_some_and(|active| active.2)
    }

    /// Whether the newest view says that what the shard held is of no use: then it may drop it, whatever is active.
    pub fn has_lapsed(&self, site: Site) -> bool {
        self.lapses.get(&site).is_some_and(|known| known.1)
    }

    /// Whether a shard dropped partitions since it was looked at last.
    pub fn has_dropped(&mut self, site: Site, dropped: u64) -> bool {
        self.dropped.insert(site, dropped).unwrap_or_default() < dropped
    }

    /// A process was shown a newer one of its own identity.
    pub fn on_superseded(&mut self, at: Time, process: u32) {
        self.shown.entry(process).or_insert(at);
    }

    /// A shard answered a request.
    pub fn on_served(&self, at: Time, site: Site, ok: bool) -> Option<String> {
        let shown = self.shown.get(&site.process)?;
        (ok && at > shown + FENCED_AFTER).then(|| {
            format!("{site:?} was shown a newer process of its identity at {} ms, and still coordinates", shown / MS)
        })
    }
}

fn blame(at: Time, what: String) -> Finding {
    Finding { invariant: Invariant::S20, t: at / 1_000, what, ops: Vec::new() }
}

/// Judges a change of layouts in a healed core, by the views of those that live: with all members up it must be over, and
/// with all but removed ones it must at least have begun to move data.
pub fn completion(at: Time, views: &[Arc<View>], is_removed: impl Fn(NodeId) -> bool) -> Option<Finding> {
    // Whoever's clock is off is heard by nobody: its partitions cannot be moved.
    if views.iter().any(|view| view.fence.is_some()) {
        return None;
    }
    let stuck = views.iter().find(|view| {
        let waits = |all: bool| {
            view.members
                .iter()
                .all(|it| (!all && is_removed(it.node)) || (it.up && views.iter().any(|of| of.me == it.node)))
        };
        let somebody = view.members.iter().any(|it| !is_removed(it.node));
        view.beside.is_some() && somebody && (waits(true) || (!view.moving && waits(false)))
    })?;
    let names: Vec<LayoutName> = stuck.ring.iter().chain(&stuck.beside).map(|ring| ring.name()).collect();
    let what = format!("{} is still between the layouts {names:?}, and nobody is missing", stuck.me);
    Some(Finding { invariant: Invariant::L4, t: at / 1_000, what, ops: Vec::new() })
}

/// Judges what the nodes of a healed core say of each other: their status, and the names of those that live.
pub fn agreement(at: Time, statuses: &[NodeStatus]) -> Option<Finding> {
    let live: Vec<_> = statuses.iter().map(|status| status.node).collect();
    let blame = |what: String| Some(Finding { invariant: Invariant::L6, t: at / 1_000, what, ops: Vec::new() });
    for status in statuses {
        let missing = live.iter().find(|node| {
            // Routing takes a suspect for up. One that was suspected by a process which then died stays so without end:
            // nobody is left to confirm it, and nobody tells it, so that it never refutes.
            let seen = |member: &MemberStatus| {
                member.node == **node && (member.health == "alive" || member.health == "suspect")
            };
            **node != status.node && !status.members.iter().any(seen)
        });
        if let Some(missing) = missing {
            let health =
                status.members.iter().find(|member| member.node == *missing).map(|member| member.health.as_str());
            return blame(format!(
                "{} does not see {missing} alive, but {}",
                status.name,
                health.unwrap_or("not at all")
            ));
        }
        let ghost = status.members.iter().find(|member| member.health == "alive" && !live.contains(&member.node));
        if let Some(ghost) = ghost {
            return blame(format!("{} sees {} ({}) alive, which is not", status.name, ghost.node, ghost.name));
        }
    }
    let mut layouts = statuses.iter().map(|status| (&status.name, status.layout));
    let first = layouts.next()?;
    match layouts.find(|(_, layout)| *layout != first.1) {
        Some(other) => blame(format!("{} is on layout {:?}, {} on {:?}", first.0, first.1, other.0, other.1)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::{
        namespace::NamespaceTable,
        ring::{Layout, LayoutMember, Ring},
        view::MemberView,
    };

    fn view(tokens: [u128; 3]) -> Arc<View> {
        let member = |node: u128, token: u128| LayoutMember {
            node: NodeId(node),
            token_id: NodeId(token),
            zone: "z".to_owned(),
            weight: 100,
        };
        let members = tokens.iter().enumerate().map(|(at, token)| member(at as u128 + 1, *token)).collect();
        let layout = Layout { epoch: 1, n: 2, partitions: 16, members };
        let mut view = View::empty(NodeId(1), Arc::new(NamespaceTable::with_default(2)));
        view.ring = Some(Arc::new(Ring::derive(&layout)));
        Arc::new(view)
    }

    #[test]
    fn equal_rings_are_accepted_and_different_layouts_are_not_compared() {
        let mut layouts = Layouts::default();
        assert_eq!(layouts.on_view(1, &view([1, 2, 3])), None);
        assert_eq!(layouts.on_view(2, &view([1, 2, 3])), None);
        assert_eq!(layouts.on_view(3, &view([3, 2, 1])), None);
    }

    #[test]
    fn other_owners_under_one_name_are_refused() {
        let mut layouts = Layouts::default();
        let one = view([1, 2, 3]);
        layouts.owners.insert(one.ring.as_ref().unwrap().name(), 42);
        assert!(layouts.on_view(2, &one).is_some());
    }

    #[test]
    fn a_transition_that_waits_for_nobody_is_refused() {
        let mut between = View::clone(&view([1, 2, 3]));
        let up = |node: u128| MemberView { node: NodeId(node), shards: 1, up: true, near: false };
        (between.me, between.members, between.moving) = (NodeId(1), vec![up(1), up(2)], true);
        let seen = |of: &View| [Arc::new(of.clone()), Arc::new(View { me: NodeId(2), ..of.clone() })];
        assert_eq!(completion(0, &seen(&between), |_| false), None, "one active layout");
        between.beside = view([3, 2, 1]).ring.clone();
        assert!(completion(0, &seen(&between), |_| false).is_some());
        between.members.push(up(9));
        assert_eq!(completion(0, &seen(&between), |node| node == NodeId(9)), None, "9 is gone with what only it held");
        between.moving = false;
        assert!(completion(0, &seen(&between), |node| node == NodeId(9)).is_some(), "but nobody waits for its ack");
        assert_eq!(completion(0, &seen(&between), |_| false), None);
    }

    #[test]
    fn a_member_has_adopted_a_layout_once_all_shards_of_a_process_were_given_it() {
        let (mut layouts, first) = (Layouts::default(), view([1, 2, 3]));
        let mut next = View::clone(&first);
        next.beside = view([3, 2, 1]).ring.clone();
        let newest = next.newest().unwrap().name();
        assert_eq!(layouts.behind(&next, newest), [NodeId(1), NodeId(2), NodeId(3)], "nobody was given anything");
        assert_eq!(layouts.behind(&View::empty(NodeId(1), Arc::clone(&first.namespaces)), newest), []);
        for node in [1, 2, 3] {
            layouts.on_start(node, NodeId(u128::from(node)), 2);
            layouts.on_published(&View { me: NodeId(u128::from(node)), ..next.clone() });
            layouts.on_given(Site { process: node, shard: 0 }, &next);
        }
        layouts.on_given(Site { process: 1, shard: 1 }, &next);
        layouts.on_published(&View { me: NodeId(2), ring: next.newest().cloned(), ..View::clone(&first) });
        assert_eq!(layouts.behind(&next, newest), [NodeId(3)], "a shard of it goes on by the older one");
        next.skipped = vec![NodeId(3)];
        assert_eq!(layouts.behind(&next, newest), []);
    }

    #[test]
    fn partitions_that_were_dropped_are_noticed_once() {
        let (mut layouts, site) = (Layouts::default(), Site { process: 1, shard: 0 });
        assert!(!layouts.has_dropped(site, 0) && layouts.has_dropped(site, 3) && !layouts.has_dropped(site, 3));
    }

    #[test]
    fn a_superseded_process_that_serves_is_refused() {
        let mut layouts = Layouts::default();
        layouts.on_superseded(0, 3);
        let site = Site { process: 3, shard: 0 };
        assert_eq!(layouts.on_served(FENCED_AFTER, site, true), None);
        assert_eq!(layouts.on_served(2 * FENCED_AFTER, site, false), None);
        assert!(layouts.on_served(2 * FENCED_AFTER, site, true).is_some());
        assert_eq!(agreement(0, &[]), None);
    }
}
