//! From one layout to the next: which are active, and how far each member got (PROTOCOL §2 "Transition").
//!
//! At most two layouts are active, the older one first. Each member stands on one of three stages towards the newest,
//! in this order: it coordinates with it (`Acked`), it has all its partitions (`Synced`), it reads by it (`Settled`).
//! PROTOCOL's trackers `ack`, `sync`, `sync_ack` are these stages: one stage for the newest layout says all three, since
//! nobody is on a later one without the earlier. Writes go to both layouts, reads to the older one until all are
//! `Synced`; once all are `Settled` the older one retires. "All" are the members of both whose role is not `Removed`.
//!
//! A history moves forward only: the larger epoch wins, and of two older layouts the newer one, since its members had
//! what the older one's had. Two newest layouts of one epoch with different hashes are a conflict, and the join itself
//! settles it: both give way to epoch + 1, derived from the merged role map, so whoever sees the conflict with the same
//! map makes the same layout. This is why roles are joined first. A node that saw one side only still agrees after one
//! more exchange; the price is that a join of three histories may, by order, end an epoch apart until then.

use super::{
    layout::{Layout, LayoutName},
    role::{RoleMap, RoleState},
};
use crate::{canary::canary, id::NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How far a member got towards the newest layout. Later stages imply the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// It coordinates with the newest layout, and nothing older is in flight there (`ack`).
    Acked,
    /// All its partitions of the newest layout are Ready (`sync`).
    Synced,
    /// It knows that everybody synced, and reads by the newest layout (`sync_ack`).
    Settled,
}

/// What a node knows of layouts: the active ones, and the stages of their members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Known")]
pub struct LayoutHistory {
    /// Oldest first, at most two.
    layouts: Vec<Layout>,
    /// Of members of the active layouts, towards the newest.
    stages: BTreeMap<NodeId, Stage>,
    /// Members whose data was given up for the newest layout (`layout skip-dead`).
    skipped: BTreeSet<NodeId>,
    /// Those whose data was given up when the oldest active layout took over.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    given_up: BTreeSet<NodeId>,
    /// The names of `layouts`, kept because each costs a hash over all members.
    #[serde(skip_serializing)]
    names: Vec<LayoutName>,
}

/// A history as it travels.
#[derive(Deserialize)]
struct Known {
    layouts: Vec<Layout>,
    stages: BTreeMap<NodeId, Stage>,
    skipped: BTreeSet<NodeId>,
    #[serde(default)]
    given_up: BTreeSet<NodeId>,
}

impl From<Known> for LayoutHistory {
    fn from(known: Known) -> Self {
        let Known { mut layouts, stages, skipped, given_up } = known;
        // Of a history that no honest node made, the newest two layouts are what can be meant.
        layouts.sort_by_key(Layout::name);
        layouts.dedup_by_key(|layout| layout.epoch);
        layouts.drain(..layouts.len().saturating_sub(2));
        let names = layouts.iter().map(Layout::name).collect();
        let mut history = Self { names, layouts, stages, skipped, given_up };
        history.forget_strangers();
        history
    }
}

impl LayoutHistory {
    /// No layout yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest layout known.
    pub fn current(&self) -> Option<&Layout> {
        self.layouts.last()
    }

    /// The name of the newest layout known; O(1).
    pub fn current_name(&self) -> Option<LayoutName> {
        self.names.last().copied()
    }

    /// The active layouts, oldest first: none, one, or two.
    pub fn active(&self) -> &[Layout] {
        &self.layouts
    }

    /// Names of the active layouts; O(1).
    pub fn names(&self) -> &[LayoutName] {
        &self.names
    }

    /// Whether an older layout has not retired yet.
    pub fn in_transition(&self) -> bool {
        self.layouts.len() == 2
    }

    /// All members of the active layouts, sorted.
    pub fn members(&self) -> Vec<NodeId> {
        let all: BTreeSet<NodeId> =
            self.layouts.iter().flat_map(|layout| &layout.members).map(|member| member.node).collect();
        all.into_iter().collect()
    }

    /// How far `node` got towards the newest layout.
    pub fn stage(&self, node: NodeId) -> Option<Stage> {
        self.stages.get(&node).copied()
    }

    /// The newest layout, if `node` said that it has all that this one assigns to it.
    pub fn held_by(&self, node: NodeId) -> Option<LayoutName> {
        self.current_name().filter(|_| self.stage(node) >= Some(Stage::Synced) && !self.skipped.contains(&node))
    }

    /// Members whose data was given up.
    pub fn skipped(&self) -> &BTreeSet<NodeId> {
        &self.skipped
    }

    /// Whether the data of `node` was given up when the oldest active layout took over from the one before.
    pub(crate) fn is_given_up(&self, node: NodeId) -> bool {
        self.given_up.contains(&node)
    }

    /// Members of both, a few of them twice: asked after every input, so nothing is allocated.
    fn tracked<'a>(&'a self, roles: &'a RoleMap) -> impl Iterator<Item = NodeId> + 'a {
        let counts =
            |node: &NodeId| canary!(K29) || roles.get(*node).is_none_or(|role| role.state != RoleState::Removed);
        self.layouts.iter().flat_map(|layout| &layout.members).map(|member| member.node).filter(counts)
    }

    /// The members that have not come to `stage` yet, removed ones left out.
    pub fn behind(&self, stage: Stage, roles: &RoleMap) -> Vec<NodeId> {
        let behind: BTreeSet<NodeId> = self.tracked(roles).filter(|node| self.stage(*node) < Some(stage)).collect();
        behind.into_iter().collect()
    }

    /// Whether every member that is not removed came to `stage`; `false` without a layout or without such a member.
    pub fn all_at(&self, stage: Stage, roles: &RoleMap) -> bool {
        let mut tracked = self.tracked(roles).peekable();
        tracked.peek().is_some() && tracked.all(|node| self.stage(node) >= Some(stage))
    }

    /// Whether strict requests may be served: the layout that is read was acked by all its members. One that was left
    /// for another had been.
    pub fn is_agreed(&self, roles: &RoleMap) -> bool {
        self.in_transition() || self.all_at(Stage::Acked, roles)
    }

    /// The layout that is read: the newest that all have synced.
    pub fn read(&self, roles: &RoleMap) -> Option<&Layout> {
        if self.all_at(Stage::Synced, roles) { self.layouts.last() } else { self.layouts.first() }
    }

    /// First 8 bytes of blake3 over the encoding: equal histories have equal digests. O(members).
    pub fn digest(&self) -> u64 {
        super::digest_of(self)
    }

    /// Takes `layout` when its epoch is above the newest one's; says whether it did. The newest one becomes the older of
    /// two, unless there are two already: then it is the one that gives way. Stages towards it are forgotten.
    pub fn propose(&mut self, layout: Layout) -> bool {
        if self.current().is_some_and(|current| current.epoch >= layout.epoch) {
            return false;
        }
        debug_assert_eq!(layout.check(), Ok(()));
        self.layouts.truncate(1);
        self.names.truncate(1);
        self.names.push(layout.name());
        self.layouts.push(layout);
        self.stages.clear();
        self.skipped.clear();
        true
    }

    /// Records that member `me` came to `stage` towards the layout called `name`; says whether that is news. Anything but
    /// the newest layout is refused, and epochs only grow, so that a node acks one hash per epoch.
    pub fn advance(&mut self, me: NodeId, name: LayoutName, stage: Stage) -> bool {
        let is_member = self.layouts.iter().any(|layout| layout.member(me).is_some());
        if !is_member || self.current_name() != Some(name) || self.stage(me) >= Some(stage) {
            return false;
        }
        self.stages.insert(me, stage);
        true
    }

    /// Gives up the data of a dead member for the sake of the newest layout, unless it had come to that: nobody waits for it any more.
    /// Says whether that is news.
    pub fn skip(&mut self, node: NodeId) -> bool {
        let is_member = self.layouts.iter().any(|layout| layout.member(node).is_some());
        let waits = self.in_transition() && is_member && self.stage(node) < Some(Stage::Settled);
        if !waits || !self.skipped.insert(node) {
            return false;
        }
        self.stages.insert(node, Stage::Settled);
        true
    }

    /// Retires the older layout once everybody reads by the newest; says whether it did.
    pub fn retire(&mut self, roles: &RoleMap) -> bool {
        if !self.in_transition() || !self.all_at(Stage::Settled, roles) {
            return false;
        }
        self.layouts.remove(0);
        self.names.remove(0);
        self.given_up = std::mem::take(&mut self.skipped);
        self.forget_strangers();
        true
    }

    /// Whether the one active layout came out of a transition: then what it does not assign is nobody's.
    pub fn is_complete(&self, roles: &RoleMap) -> bool {
        !self.in_transition() && self.all_at(Stage::Settled, roles)
    }

    /// Takes in what `other` knows; says whether something changed. `roles` are those that a conflict (see the module) is
    /// settled from, after `other`'s were joined. Should they name no active node, the members of the layout with the
    /// larger hash go on.
    pub fn join(&mut self, other: &Self, roles: &RoleMap) -> bool {
        let (Some(their_name), Some(my_name)) = (other.current_name(), self.current_name()) else {
            if other.layouts.is_empty() {
                return false;
            }
            self.clone_from(other);
            return true;
        };
        let before = self.clone();
        let older = self.names[0].max(other.names[0]);
        if their_name == my_name {
            for (node, stage) in &other.stages {
                let known = self.stages.entry(*node).or_insert(*stage);
                *known = (*known).max(*stage);
            }
            self.skipped.extend(other.skipped.iter().copied());
        } else if their_name.epoch == my_name.epoch {
            self.settle_conflict(other, roles);
        } else if their_name.epoch > my_name.epoch {
            self.clone_from(other);
        }
        self.rest_on(older, &before, other);
        let base = self.names.first();
        let of_base = |side: &&Self| side.names.first() == base;
        let given_up = [&before, other].into_iter().filter(of_base).flat_map(|side| side.given_up.iter().copied());
        self.given_up = given_up.collect();
        self.forget_strangers();
        *self != before
    }

    /// The newest layout of both sides gives way to a newer one.
    fn settle_conflict(&mut self, other: &Self, roles: &RoleMap) {
        let (Some(mine), Some(theirs)) = (self.current(), other.current()) else { return };
        // Nodes of one cluster agree on n and partitions; the maximum makes the outcome the same if they do not.
        let (epoch, n, partitions) = (mine.epoch + 1, mine.n.max(theirs.n), mine.partitions.max(theirs.partitions));
        // Never one of the two as it is: a node that acked the other one would then ack a second hash of its epoch.
        let layout = Layout::derive(epoch, n, partitions, roles).unwrap_or_else(|| {
            let larger = if other.current_name() > self.current_name() { theirs } else { mine };
            Layout { epoch, ..larger.clone() }
        });
        // Two that stand alone have nothing in common to rest on: as after two first layouts, nothing is promised across.
        if !self.in_transition() && !other.in_transition() {
            *self = Self::new();
        }
        self.propose(layout);
    }

    /// Makes the layout called `older`, of one of the two sides, the older one of two, or leaves the newest alone.
    fn rest_on(&mut self, older: LayoutName, mine: &Self, theirs: &Self) {
        if !self.in_transition() || self.names[0] == older {
            return;
        }
        let newest = self.layouts.len() - 1;
        if self.names[newest] <= older {
            self.layouts.remove(0);
            self.names.remove(0);
        } else if let Some((layout, name)) = mine
            .layouts
            .iter()
            .chain(&theirs.layouts)
            .zip(mine.names.iter().chain(&theirs.names))
            .find(|it| *it.1 == older)
        {
            (self.layouts[0], self.names[0]) = (layout.clone(), *name);
        }
    }

    fn forget_strangers(&mut self) {
        let members = self.members();
        self.stages.retain(|node, _| members.binary_search(node).is_ok());
        self.skipped.retain(|node| members.binary_search(node).is_ok());
        if !self.in_transition() {
            self.skipped.clear();
        }
    }
}

#[cfg(test)]
mod tests;
