//! Where a change of layouts stands, and what the next one would move: answers for people (PROTOCOL §2 "Transition").
//!
//! Roles are what is asked for, layouts what is. What roles ask for beyond the newest layout is *staged*: it becomes the
//! next version by itself after a quiet moment, or, with `layout = "manual"`, by `plan commit`. Everything here only reads.

use super::{status::Facts, succession};
use crate::{
    id::NodeId,
    ring::{Layout, Ring, RoleMap, RoleState, Stage},
    stats::ShardStats,
    wire::control::{Plan, Share},
};
use std::collections::{BTreeMap, BTreeSet};

impl Facts<'_> {
    /// A member that is neither up nor removed: no transition begins without it.
    pub fn missing_member(&self) -> Option<NodeId> {
        let roles = self.replicated.roles();
        let counts = |node: &NodeId| roles.get(*node).is_none_or(|role| role.state != RoleState::Removed);
        let mut members = self.replicated.layouts().members().into_iter().filter(counts);
        members.find(|node| !self.is_up(*node))
    }

    /// What a change of layouts waits for; empty: for nothing but time.
    pub fn waits(&self) -> String {
        let (layouts, roles) = (self.replicated.layouts(), self.replicated.roles());
        let names =
            |nodes: Vec<NodeId>| nodes.into_iter().map(|node| self.name_of(node)).collect::<Vec<_>>().join(", ");
        if layouts.in_transition() {
            for (stage, what) in [
                (Stage::Acked, "to write by the new layout"),
                (Stage::Synced, "to have its partitions"),
                (Stage::Settled, "to read by the new layout"),
            ] {
                let behind = layouts.behind(stage, roles);
                if !behind.is_empty() {
                    return format!("waiting for {} {what}", names(behind));
                }
            }
            return String::new();
        }
        match self.missing_member() {
            Some(node) => format!(
                "waiting for {} to be up: if it is gone for good, `meshwork node remove {node}`",
                self.name_of(node)
            ),
            None => String::new(),
        }
    }

    /// `waits`, and what an operator of this node can do for it.
    fn waits_with(&self, stats: &ShardStats) -> String {
        let waits = self.waits();
        let (missing, _, _) = self.progress();
        let full = stats.entries_without_room > 0 && stats.memory_bytes > stats.memory_limit_bytes / 10 * 9;
        if !self.replicated.layouts().in_transition() || missing == 0 || !(full || stats.entries_too_large > 0) {
            return waits;
        }
        if stats.entries_too_large > 0 {
            return format!(
                "{waits}; values for this node are larger than a quarter of a shard's memory, and nothing is evicted in their namespace: \
                 raise its memory.limit, or give it fewer shards"
            );
        }
        format!("{waits}; this node has no room for {missing} partitions: raise its memory.limit, or add nodes")
    }

    /// The roles that the next layout would be made of: all that was asked for.
    pub fn wanted(&self) -> RoleMap {
        let roles = self.replicated.roles();
        let Some(layout) = self.replicated.layout() else { return RoleMap::new() };
        succession::wanted(layout, roles, |node| self.is_up(node), self.config.cluster.replace_by_name)
    }

    /// The layout that a commit would make now; `None`: nothing is staged.
    pub fn staged(&self) -> Option<Layout> {
        let layout = self.replicated.layout()?;
        let wanted = self.wanted();
        let next = Layout::derive(layout.epoch + 1, layout.n, layout.partitions, &wanted)?;
        (!layout.matches(&wanted)).then_some(next)
    }

    /// Where a change of layouts stands, by the figures of this node's shards.
    pub fn plan(&self, stats: &ShardStats) -> Plan {
        let mut plan = self.outline(stats);
        let layouts = self.replicated.layouts();
        let Some(layout) = layouts.current() else { return plan };
        let staged = self.staged();
        plan.staged = staged.as_ref().map(|next| next.epoch);
        let (from, to) = match (layouts.active(), &staged) {
            ([older, newer, ..], _) => (older, newer),
            (_, Some(next)) => (layout, next),
            (_, None) => (layout, layout),
        };
        let (before, after) = (Ring::derive(from), Ring::derive(to));
        let of = |ring: &Ring| ring.shares().into_iter().collect::<BTreeMap<NodeId, u32>>();
        let (had, gets) = (of(&before), of(&after));
        let nodes: BTreeSet<NodeId> = had.keys().chain(gets.keys()).copied().collect();
        plan.shares = nodes
            .into_iter()
            .map(|node| {
                let member = to.member(node).or_else(|| from.member(node)).expect("it is in one of the rings");
                Share {
                    node,
                    name: self.name_of(node),
                    zone: member.zone.clone(),
                    weight: member.weight,
                    partitions: had.get(&node).copied().unwrap_or(0),
                    next: gets.get(&node).copied().unwrap_or(0),
                }
            })
            .collect();
        plan.moves = moves(&before, &after);
        let mine = had.get(&self.config.node).copied().unwrap_or(0);
        plan.move_bytes = stats.memory_bytes.checked_div(u64::from(mine)).map(|each| each * u64::from(plan.moves));
        plan.warnings = warnings(to, &plan.shares);
        plan
    }

    /// A plan without shares and what they cost to count.
    fn outline(&self, stats: &ShardStats) -> Plan {
        let (layouts, roles) = (self.replicated.layouts(), self.replicated.roles());
        let Some((layout, read)) = layouts.current().zip(layouts.read(roles)) else { return Plan::default() };
        let staged = self.staged();
        let (from, to) = match layouts.active() {
            [older, newer, ..] => (older, newer),
            _ => (layout, staged.as_ref().unwrap_or(layout)),
        };
        let without = |of: &Layout, other: &Layout| -> Vec<String> {
            of.members.iter().filter(|it| other.member(it.node).is_none()).map(|it| self.name_of(it.node)).collect()
        };
        let (missing, all, moved_bytes) = self.progress();
        Plan {
            active: layouts.names().to_vec(),
            read: layouts.names().iter().copied().find(|name| name.epoch == read.epoch),
            joins: without(to, from),
            leaves: without(from, to),
            waits: self.waits_with(stats),
            missing: (missing, all),
            moved_bytes,
            ..Plan::default()
        }
    }

    /// One line on a change of layouts, empty when none is under way or due.
    pub(super) fn transition(&self, stats: &ShardStats) -> String {
        let plan = self.outline(stats);
        if plan.active.len() < 2 && plan.joins.is_empty() && plan.leaves.is_empty() {
            return String::new();
        }
        let mut parts = Vec::new();
        if let [older, newer] = plan.active[..] {
            parts.push(format!("from {older} to {newer}"));
        }
        parts.extend((!plan.joins.is_empty()).then(|| format!("joining: {}", plan.joins.join(", "))));
        parts.extend((!plan.leaves.is_empty()).then(|| format!("leaving: {}", plan.leaves.join(", "))));
        let (missing, all) = plan.missing;
        parts.extend((missing > 0).then(|| format!("{missing} of {all} partitions missing here")));
        parts.extend((!plan.waits.is_empty()).then_some(plan.waits));
        parts.join("; ")
    }
}

/// Copies that are on another node afterwards.
fn moves(before: &Ring, after: &Ring) -> u32 {
    let new = |partition| {
        let owners = after.owners(partition).iter();
        owners.filter(|owner| !before.is_owner(partition, after.node(**owner))).count()
    };
    let all = (0..after.partitions()).map(|partition| new(crate::id::PartitionId(partition))).sum::<usize>();
    u32::try_from(all).expect("16,384 partitions of 16 copies")
}

/// What a person should know before this becomes the layout.
fn warnings(next: &Layout, shares: &[Share]) -> Vec<String> {
    let mut warnings = Vec::new();
    let (n, members) = (usize::from(next.n), next.members.len());
    if members < n {
        warnings.push(format!("{members} members for {n} copies: each key has {members} copies until more join"));
    }
    let zones: BTreeSet<&str> = next.members.iter().map(|member| member.zone.as_str()).collect();
    if (2..n).contains(&zones.len()) {
        warnings.push(format!("{} zones for {n} copies: some zone holds two copies of a key", zones.len()));
    }
    let idle = shares.iter().filter(|share| next.member(share.node).is_some() && share.next == 0);
    let idle: Vec<&str> = idle.map(|share| share.name.as_str()).collect();
    if !idle.is_empty() {
        warnings.push(format!("{} would hold nothing: there are more members than copies to deal", idle.join(", ")));
    }
    warnings
}
