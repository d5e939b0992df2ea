//! Changes of roles that an administrator asks for: leave, remove, weight, zone, replace, drain; taking back what is staged;
//! and giving up the dead
//! (PROTOCOL §2).
//!
//! A change is one write to the role map, stamped here; what follows from it (a new layout, its transition) is
//! `settlement`'s and happens alike on every node that learns of it. Refusals name what is missing.

use super::Node;
use crate::{
    config::NodeConfig,
    control::succession,
    id::NodeId,
    ring::{LayoutMember, Role, RoleState, Stage},
    time::Now,
    value::Version,
    wire::{control::LayoutChange, hello::NodeHello},
};

impl Node {
    /// Does what was asked; `false`: it was so already.
    ///
    /// # Errors
    /// Words for a person; nothing was changed.
    pub(super) fn change(&mut self, now: Now, change: LayoutChange) -> Result<bool, String> {
        self.may_change(now)?;
        match change {
            LayoutChange::Leave(node) => {
                let role = self.role(node)?;
                if role.state == RoleState::Active && self.active_members() == 1 {
                    return Err("the last active node cannot leave: its data would be nowhere".to_owned());
                }
                self.declare_role(now, node, Role { state: RoleState::Leaving, ..role })
            }
            LayoutChange::Remove(node) => {
                if node == self.config.node {
                    return Err("a node does not remove itself: let it leave, or ask another node".to_owned());
                }
                let role = self.role(node)?;
                let layouts = self.replicated.layouts();
                let stays = |member: &NodeId| {
                    let role = self.replicated.roles().get(*member);
                    *member != node && role.is_none_or(|role| role.state != RoleState::Removed)
                };
                let members = layouts.members();
                if members.contains(&node) && !members.iter().any(stays) {
                    return Err("it is the last member of the layout: let others join before it is removed".to_owned());
                }
                self.declare_role(now, node, Role { state: RoleState::Removed, ..role })
            }
            LayoutChange::Weight(node, weight) => {
                let role = self.role(node)?;
                self.declare_role(now, node, Role { weight, ..role })
            }
            LayoutChange::Zone(node, zone) => {
                let role = self.role(node)?;
                self.declare_role(now, node, Role { zone, ..role })
            }
            LayoutChange::Replace { old, new } => self.replace(now, old, new),
            LayoutChange::Drain(node, drained) => {
                let role = self.role(node)?;
                self.declare_role(now, node, Role { drained, ..role })
            }
            LayoutChange::SkipDead => self.skip_dead(),
            LayoutChange::Commit(version) => self.commit(version),
            LayoutChange::Clear => self.clear(now),
        }
    }

    fn active_members(&self) -> usize {
        self.replicated.roles().iter().filter(|(_, role)| role.state == RoleState::Active).count()
    }

    fn role(&self, node: NodeId) -> Result<Role, String> {
        match self.replicated.roles().get(node) {
            None => Err(format!("no node {node} is known here: `meshwork status -o wide` shows their ids")),
            Some(role) if role.state == RoleState::Removed => Err(format!("{} ({node}) was removed", role.name)),
            Some(role) => Ok(role.clone()),
        }
    }

    fn declare_role(&mut self, now: Now, node: NodeId, role: Role) -> Result<bool, String> {
        role.check().map_err(|error| error.to_string())?;
        if self.replicated.roles().get(node) == Some(&role) {
            return Ok(false);
        }
        let version = Version { hlc: self.clock.stamp(now), actor: self.config.actor };
        let changed = self.replicated.update(|roles, _| roles.set(node, role, version));
        self.unsent |= changed;
        if changed {
            Ok(true)
        } else {
            Err("a newer change to that node's role is known: look at `meshwork status` and ask again".to_owned())
        }
    }

    /// As a joiner of the dead member's name does by itself, for one that an administrator names.
    fn replace(&mut self, now: Now, old: NodeId, new: NodeId) -> Result<bool, String> {
        let (gone, own) = (self.role(old)?, self.role(new)?);
        let is_member = |node| self.replicated.layouts().active().iter().any(|layout| layout.member(node).is_some());
        if !is_member(old) {
            return Err(format!("{} ({old}) is no member of the layout: there is no place to take", gone.name));
        }
        if is_member(new) {
            return Err(format!("{} ({new}) is a member already: it has a place of its own", own.name));
        }
        if self.facts().is_up(old) {
            return Err(format!("{} ({old}) is up: stop it first, or let it leave", gone.name));
        }
        let version = Version { hlc: self.clock.stamp(now), actor: self.config.actor };
        let heir = succession::heir(old, &gone, &own);
        let removed = Role { state: RoleState::Removed, ..gone };
        let changed = self.replicated.update(|roles, _| {
            let removed = roles.set(old, removed, version);
            roles.set(new, heir, version) || removed
        });
        self.unsent |= changed;
        Ok(changed)
    }

    /// Makes what is staged the next layout, without waiting for more of its kind.
    fn commit(&mut self, version: u64) -> Result<bool, String> {
        let (layouts, roles) = (self.replicated.layouts(), self.replicated.roles());
        let epoch = layouts.current().map_or(0, |layout| layout.epoch);
        if version != epoch + 1 {
            return Err(format!(
                "the layout's version is {epoch}, so a commit makes {}: look at `meshwork plan show` again",
                epoch + 1
            ));
        }
        if layouts.in_transition() {
            return Err("a change of layouts is under way: `meshwork plan show` says what it waits for".to_owned());
        }
        if !layouts.is_agreed(roles) {
            return Err("not all members have acknowledged the layout yet: ask again in a moment".to_owned());
        }
        let waits = self.facts().waits();
        if !waits.is_empty() {
            return Err(format!("the change would stop half way: {waits}"));
        }
        let Some(next) = self.facts().staged() else {
            return Err("nothing is staged: no node joins, leaves, or has another weight or zone".to_owned());
        };
        self.propose(Some(next));
        Ok(true)
    }

    /// Takes back the members' staged weights, zones and departures. A joiner goes on asking, and a removal is for ever.
    fn clear(&mut self, now: Now) -> Result<bool, String> {
        let layouts = self.replicated.layouts();
        if layouts.in_transition() {
            return Err("a change of layouts is under way and ends first (`meshwork plan show`): \
                        then ask for the opposite"
                .to_owned());
        }
        let Some(layout) = layouts.current() else {
            return Err("there is no layout yet: nothing is staged".to_owned());
        };
        let before = |member: &LayoutMember| {
            let role = self.replicated.roles().get(member.node).filter(|role| role.state != RoleState::Removed)?;
            let (zone, weight) = (member.zone.clone(), member.weight);
            let before = Role { zone, weight, state: RoleState::Active, ..role.clone() };
            (before != *role).then_some((member.node, before))
        };
        let staged: Vec<(NodeId, Role)> = layout.members.iter().filter_map(before).collect();
        let mut changed = false;
        for (node, role) in staged {
            changed |= self.declare_role(now, node, role)?;
        }
        Ok(changed)
    }

    fn skip_dead(&mut self) -> Result<bool, String> {
        let layouts = self.replicated.layouts();
        if !layouts.in_transition() {
            return Err("no change of layouts is under way: there is nothing to skip".to_owned());
        }
        let dead: Vec<NodeId> = layouts.members().into_iter().filter(|node| !self.facts().is_up(*node)).collect();
        if dead.is_empty() && layouts.behind(Stage::Settled, self.replicated.roles()).is_empty() {
            return Ok(false);
        }
        let changed = self.replicated.update(|_, layouts| dead.iter().filter(|node| layouts.skip(**node)).count() > 0);
        self.unsent |= changed;
        Ok(changed)
    }
}

/// What this process would be by its configuration.
pub(super) fn own_role(config: &NodeConfig) -> Role {
    Role {
        token_id: config.node,
        zone: config.zone.clone(),
        weight: config.weight,
        state: RoleState::Active,
        name: config.name.clone(),
        address: config.address,
        shards: config.shards,
        replaces: None,
        drained: false,
    }
}

/// The role that a `Hello` implies, to check its bounds.
pub(super) fn role_of(hello: &NodeHello) -> Role {
    Role {
        token_id: hello.node,
        zone: hello.zone.clone(),
        weight: 1,
        state: RoleState::Active,
        name: hello.name.clone(),
        address: hello.address,
        shards: hello.shards,
        replaces: None,
        drained: false,
    }
}
