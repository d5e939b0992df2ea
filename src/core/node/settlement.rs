//! Settling: what follows from what the node knows now. Runs after every input, to its end.
//!
//! One fixed order, because each step feeds the next: the own role is in the map before layouts are made of roles, a place is
//! claimed before a layout passes it on, a layout is acked before it is told, and the view comes last. Every step is
//! idempotent: settling twice does nothing the second time, and that is why inputs need not say what they changed.

use super::{Node, own_role};
use crate::{
    canary::canary,
    control::succession,
    id::NodeId,
    outbox::{NodeEvent, NodeOutbox},
    ring::{Layout, LayoutMember, Ring, Role, RoleState},
    time::Now,
    value::{Hlc, Version},
    view::{Fence, MemberView, View},
    wire::control::PeerControl,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// A role change other than a replacement waits for more of its kind.
const QUIET: Duration = Duration::from_secs(5);
/// A node that would found a cluster by itself listens to its seeds for so long.
const FOUND_AFTER: Duration = Duration::from_secs(3);

impl Node {
    pub(super) fn settle(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        if self.verdict.is_none() {
            self.declare();
            let (me, membership) = (self.config.node, &self.membership);
            let is_up = |node| node == me || membership.is_up(node);
            self.absences.observe(self.replicated.layout(), is_up, now.mono);
            self.judge_clock(now, out);
            self.found(now);
            self.succeed(now);
            self.adopt(now, out);
            self.tell(now, out);
        }
        if self.own_state() == Some(RoleState::Removed) {
            self.condemn(Fence::Removed, out);
        }
        let fence = self.verdict.or_else(|| self.watch.fence(&self.clock, now));
        if fence != self.fence {
            self.fence = fence;
            out.event(NodeEvent::Fenced(fence));
        }
        self.publish(out);
    }

    fn own_state(&self) -> Option<RoleState> {
        self.replicated.roles().get(self.config.node).map(|role| role.state)
    }

    /// Keeps the own role in the map, and true to this process.
    fn declare(&mut self) {
        let (me, own) = (self.config.node, own_role(&self.config));
        let roles = self.replicated.roles();
        let (role, version) = match roles.get(me).zip(roles.version(me)) {
            // Below every stamp, and below an earlier process' first role: what the mesh knows of this node stays.
            None => {
                let age = (1 << 47) - self.incarnation.wall().0.min((1 << 47) - 1);
                (own, Version { hlc: Hlc(age), actor: self.config.actor })
            }
            Some((known, version)) if known.state == RoleState::Active => {
                let layout = self.replicated.layout();
                let member = layout.is_some_and(|layout| layout.member(me).is_some());
                let lost = layout.is_some_and(|layout| {
                    !member && known.replaces.is_some() && succession::due(&[layout], roles).get(me).is_none()
                });
                let mut role = if lost { own.clone() } else { known.clone() };
                (role.name, role.address, role.shards) = (own.name, own.address, own.shards);
                if !member && role.replaces.is_none() {
                    // Of a member they would move data; they count when it joins anew.
                    (role.zone, role.weight) = (own.zone, own.weight);
                }
                if role == *known {
                    return;
                }
                (role, Version { hlc: version.hlc.next(), actor: self.config.actor })
            }
            Some(_) => return,
        };
        self.unsent |= self.replicated.update(|roles, _| roles.set(me, role, version));
    }

    fn judge_clock(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        let alone = self.membership.up().is_empty();
        let single = match self.replicated.layout() {
            Some(layout) => layout.members.iter().all(|member| member.node == self.config.node),
            None => self.config.cluster.bootstrap_expect <= 1 && self.seeds.is_empty(),
        };
        self.watch.observe(&mut self.clock, alone, single, now);
        if let Some(bound) = self.watch.bound_due(&self.clock, now) {
            out.store_clock(bound);
        }
    }

    /// Makes the first layout once enough live nodes are known.
    fn found(&mut self, now: Now) {
        let cluster = &self.config.cluster;
        let hasty =
            cluster.bootstrap_expect <= 1 && !self.seeds.is_empty() && now.mono.since(self.started) < FOUND_AFTER;
        if self.replicated.layout().is_some() || hasty {
            return;
        }
        let is_live = |node| node == self.config.node || self.membership.is_up(node);
        if let Some(roles) = succession::first(self.replicated.roles(), is_live, cluster.bootstrap_expect) {
            let layout = Layout::derive(1, cluster.n, cluster.partitions, &roles);
            self.propose(layout);
        }
    }

    /// Claims a dead member's place, and derives the layout that changed roles ask for.
    fn succeed(&mut self, now: Now) {
        let Some(layout) = self.replicated.layout() else { return };
        let me = self.config.node;
        let (epoch, n, partitions) = (layout.epoch + 1, layout.n, layout.partitions);
        let roles = self.replicated.roles();
        let own = own_role(&self.config);
        let claims = self.config.cluster.replace_by_name
            && layout.member(me).is_none()
            && self.fence.is_none()
            && roles.get(me).is_some_and(|role| role.state == RoleState::Active && role.replaces.is_none())
            // Without any member to talk to, everybody looks dead.
            && layout.members.iter().any(|member| self.membership.is_up(member.node));
        let vacant = || succession::replaceable(layout, roles, (&own.name, own.address), &self.absences, now.mono);
        if let Some(node) = claims.then(vacant).flatten() {
            let old = roles.get(node).expect("its role made it replaceable").clone();
            let version = Version { hlc: self.clock.stamp(now), actor: self.config.actor };
            let heir = succession::heir(node, &old, &own);
            let removed = Role { state: RoleState::Removed, ..old };
            self.unsent |= self.replicated.update(|roles, _| {
                let removed = roles.set(node, removed, version);
                roles.set(me, heir, version) || removed
            });
        }
        let Some(layout) = self.replicated.layout() else { return };
        let due = succession::due(&[layout], self.replicated.roles());
        if due.is_empty() || layout.matches(&due) {
            self.differs_since = None;
            return;
        }
        let replaces = due.iter().any(|(node, _)| layout.member(node).is_none());
        let since = *self.differs_since.get_or_insert(now.mono);
        if replaces || now.mono.since(since) >= QUIET {
            self.differs_since = None;
            self.propose(Layout::derive(epoch, n, partitions, &due));
        }
    }

    fn propose(&mut self, layout: Option<Layout>) {
        // A layout may fail its check only at the last epoch, far beyond what an honest mesh reaches.
        if let Some(layout) = layout.filter(|layout| layout.check().is_ok()) {
            self.unsent |= self.replicated.update(|_, layouts| layouts.propose(layout));
        }
    }

    /// Acks the newest layout, and makes its ring.
    fn adopt(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        let Some((layout, name)) = self.replicated.layout().zip(self.replicated.layouts().current_name()) else {
            return;
        };
        if self.ring.as_ref().is_none_or(|ring| ring.name() != name) {
            self.ring = Some(Arc::new(if canary!(K22) { self.ring_by_arrival(layout) } else { Ring::derive(layout) }));
            out.event(NodeEvent::LayoutAdopted { epoch: name.epoch, members: layout.members.len() });
        }
        let me = self.config.node;
        let member = layout.member(me).is_some();
        if self.own_state() == Some(RoleState::Active) {
            self.unsent |= self.replicated.update(|_, layouts| layouts.ack(me, name));
        }
        let replaces = self.replicated.roles().get(me).is_some_and(|role| role.replaces.is_some());
        self.standing.observe(member, replaces, self.replicated.layouts().all_acked(), now.mono);
    }

    /// The planted bug K22: members take each other's tokens by who was met.
    fn ring_by_arrival(&self, layout: &Layout) -> Ring {
        let mut layout = layout.clone();
        let place = |node: &NodeId| layout.members.iter().position(|member| member.node == *node);
        if let Some(met) = self.linked.iter().next().and_then(place).filter(|met| *met > 0) {
            let (first, rest) = layout.members.split_at_mut(met);
            std::mem::swap(&mut first[0].token_id, &mut rest[0].token_id);
        }
        Ring::derive(&layout)
    }

    /// Sends the state to whom it is owed.
    fn tell(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        if !self.unsent && !self.spread.is_due(now.mono) {
            return;
        }
        self.unsent = false;
        let peers = self.peers();
        let targets = self.spread.targets(&peers, self.replicated.digest(), &mut self.rng);
        if targets.is_empty() {
            return;
        }
        let message = PeerControl::MetaSync(Box::new(self.replicated.meta()));
        for peer in targets {
            self.send(peer, &message, out);
        }
    }

    fn publish(&mut self, out: &mut dyn NodeOutbox) {
        let me = self.config.node;
        let layouts = self.replicated.layouts();
        let facts = self.facts();
        let listed = layouts.current().map_or(&[][..], |layout| &layout.members);
        let places: Vec<_> = listed.iter().map(|member| facts.address_of(member.node)).collect();
        let zone = self.replicated.roles().get(me).map_or(self.config.zone.as_str(), |role| role.zone.as_str());
        let view = |(member, place): (&LayoutMember, &Option<(SocketAddr, u16)>)| MemberView {
            node: member.node,
            shards: place.map_or(1, |(_, shards)| shards),
            up: facts.is_up(member.node),
            near: member.zone == zone,
        };
        let members: Vec<MemberView> = listed.iter().zip(&places).map(view).collect();
        let view = View {
            me,
            ring: self.ring.clone(),
            members,
            agreed: layouts.all_acked(),
            namespaces: Arc::clone(self.replicated.namespaces()),
            state: self.standing.state(),
            fence: self.fence,
            clock_confirmations: self.watch.confirmations(),
        };
        // The driver looks addresses up when a view comes: a member that moved is news, though the view itself is equal.
        if !is_same(&view, &self.view) || places != self.places {
            self.places = places;
            self.view = Arc::new(view);
            out.publish(Arc::clone(&self.view));
        }
    }
}

fn is_same(new: &View, old: &View) -> bool {
    let names = |view: &View| view.ring.as_ref().map(|ring| ring.name());
    names(new) == names(old)
        && new.members == old.members
        && new.agreed == old.agreed
        && Arc::ptr_eq(&new.namespaces, &old.namespaces)
        && new.state == old.state
        && new.fence == old.fence
        && new.clock_confirmations == old.clock_confirmations
}
