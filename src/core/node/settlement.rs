//! Settling: what follows from what the node knows now. Runs after every input, to its end.
//!
//! One fixed order, because each step feeds the next: the own role is in the map before layouts are made of roles, a place is
//! claimed before a layout passes it on, a layout is acked before it is told, and the view comes last. Every step is
//! idempotent: settling twice does nothing the second time, and that is why inputs need not say what they changed.

use super::{Node, roles::own_role};
use crate::{
    canary::canary,
    control::succession,
    id::NodeId,
    outbox::{NodeEvent, NodeOutbox, ShardReport},
    ring::{Layout, LayoutName, Ring, Role, RoleState, Stage},
    time::Now,
    value::{Hlc, Version},
    view::{Fence, MemberView, View},
    wire::{control::PeerControl, peer::ReplicaState},
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
            self.keep(now, out);
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
                let member =
                    member || self.replicated.layouts().active().iter().any(|layout| layout.member(me).is_some());
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
        // Where there was a disk that cannot be read there may be a mesh: it is joined, not founded anew.
        if self.replicated.layout().is_some() || hasty || self.disk.is_unreadable() {
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
        self.follow_roles(now, epoch, n, partitions);
    }

    /// Derives the layout that changed roles ask for, once it can be come to.
    fn follow_roles(&mut self, now: Now, epoch: u64, n: u8, partitions: u16) {
        // Roles are compared after each input: only what changed since can have made a difference.
        let looked = (self.replicated.digest(), self.membership.up().keys().copied().collect::<Vec<NodeId>>());
        if self.differs_since.is_none() && self.looked.as_ref() == Some(&looked) {
            return;
        }
        self.looked = Some(looked);
        let Some(layout) = self.replicated.layout() else { return };
        let (roles, layouts) = (self.replicated.roles(), self.replicated.layouts());
        let is_up = |node| node == self.config.node || self.membership.is_up(node);
        let mut wanted = succession::wanted(layout, roles, is_up, self.config.cluster.replace_by_name);
        if self.config.cluster.manual_layout {
            wanted = succession::uncommitted(layout, &wanted);
        }
        if wanted.is_empty() || layout.matches(&wanted) {
            self.differs_since = None;
            return;
        }
        let since = *self.differs_since.get_or_insert(now.mono);
        let quiet = now.mono.since(since) >= QUIET
            || wanted.iter().any(|(node, role)| layout.member(node).is_none() && role.replaces.is_some());
        if !quiet || layouts.in_transition() || !layouts.is_agreed(roles) {
            return;
        }
        // A transition waits for every member: one that is down, and not removed, would hold it up half way.
        if self.facts().missing_member().is_none() {
            self.differs_since = None;
            self.propose(Layout::derive(epoch, n, partitions, &wanted));
        }
    }

    pub(super) fn propose(&mut self, layout: Option<Layout>) {
        // A layout may fail its check only at the last epoch, far beyond what an honest mesh reaches.
        if let Some(layout) = layout.filter(|layout| layout.check().is_ok()) {
            self.unsent |= self.replicated.update(|_, layouts| layouts.propose(layout));
        }
    }

    /// Makes the rings of the active layouts, and comes to the stage that the shards have reached.
    fn adopt(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        let me = self.config.node;
        let Some(newest) = self.replicated.layouts().current_name() else { return };
        let before = self.known();
        // Before it comes to any stage: what its shards said they have is gone.
        if let Some(passed) = before.and_then(|before| self.overtaken(before)) {
            self.lapse(now, Some(passed));
        }
        loop {
            self.make_rings();
            let Some(stage) = self.reached() else { break };
            if self.own_state() == Some(RoleState::Removed)
                || !self.disk.may_advance(newest, stage)
                || !self.replicated.update(|_, layouts| layouts.advance(me, newest, stage))
            {
                break;
            }
            self.unsent = true;
            self.stage_reached = Some((newest, stage));
            if stage == Stage::Settled {
                self.settled = Some(newest);
            }
        }
        if self.replicated.update(|roles, layouts| layouts.retire(roles)) {
            self.unsent = true;
            self.make_rings();
        }
        let oldest = before.map(|(oldest, _)| oldest);
        if let Some(left) = oldest.filter(|left| self.known().is_some_and(|(oldest, _)| oldest > *left)) {
            out.event(NodeEvent::LayoutRetired { epoch: left.epoch });
        }
        let layouts = self.replicated.layouts();
        let member = layouts.active().iter().any(|layout| layout.member(me).is_some());
        let of = |layout: Option<&Layout>| layout.is_some_and(|layout| layout.member(me).is_some());
        let arrives = layouts.in_transition() && of(layouts.current()) && !of(layouts.active().first());
        if before.is_none_or(|(_, last)| last != newest) {
            let members = layouts.current().map_or(0, |layout| layout.members.len());
            out.event(NodeEvent::LayoutAdopted { epoch: newest.epoch, members });
        }
        let (roles, layouts) = (self.replicated.roles(), self.replicated.layouts());
        if layouts.is_complete(roles) && self.completed != Some(newest) {
            self.completed = Some(newest);
            // Others completed the transition without it. A member that they did not give up had come to the newest layout itself, in this
            // process or an earlier one; what that one lost is as after any restart (simulator, seed 22002005).
            let given_up = layouts.is_given_up(me) && !self.has_part_in(newest);
            if before.is_some() && of(layouts.current()) && given_up {
                self.lapse(now, Some(newest));
            }
        }
        let (roles, layouts) = (self.replicated.roles(), self.replicated.layouts());
        let replaces = roles.get(me).is_some_and(|role| role.replaces.is_some());
        let agreed = layouts.is_agreed(roles);
        self.standing.observe(member, arrives, replaces, agreed, now.mono);
    }

    /// The layout that others went on to without this node, which knew these two before, the older first: what it holds is of before that.
    ///
    /// Either it had no part in all that followed on the newer one; another layout may have taken the place of that, of the same epoch.
    /// Or it is given up for the newest layout, and nobody waits for it any more. Or it was for what is the oldest now, which it may have
    /// heard of only now: cut off with another member that knew, it settled a conflict with that one beside the layout before, and the
    /// newest stays the same.
    fn overtaken(&self, (oldest, newest): (LayoutName, LayoutName)) -> Option<LayoutName> {
        let (me, layouts) = (self.config.node, self.replicated.layouts());
        let (base, current) = layouts.names().first().copied().zip(layouts.current_name())?;
        let was_member = self.rings().any(|ring| ring.index_of(me).is_some());
        let is_member = layouts.active().iter().any(|layout| layout.member(me).is_some());
        if !layouts.in_transition() || !was_member || !is_member {
            return None;
        }
        let missed = newest.epoch <= base.epoch && !layouts.names().contains(&newest);
        let given_up = oldest != base && layouts.is_given_up(me) && !self.has_part_in(base);
        let skipped = layouts.skipped().contains(&me) && !self.has_part_in(current);
        if skipped { Some(current) } else { (missed || given_up).then_some(base) }
    }

    /// Whether it came to `layout`, or started empty because others came to it: what it holds is of now.
    fn has_part_in(&self, layout: LayoutName) -> bool {
        self.settled == Some(layout) || self.lapsed_for == Some(layout)
    }

    /// The layouts went on to `passed` without this node, or its disk is older than what it told: its shards begin anew.
    pub(super) fn lapse(&mut self, now: Now, passed: Option<LayoutName>) {
        self.lapses += 1;
        self.lapsed_for = passed;
        (self.stage_reached, self.settled) = (None, None);
        self.standing.lapse(now.mono);
    }

    /// The oldest and the newest layout that it has rings of.
    fn known(&self) -> Option<(LayoutName, LayoutName)> {
        let names = || self.rings().map(|ring| ring.name());
        names().min().zip(names().max())
    }

    fn rings(&self) -> impl Iterator<Item = &Arc<Ring>> {
        self.ring.iter().chain(&self.beside)
    }

    /// The stage that this node has reached, if it may go on from the one it stands on.
    fn reached(&self) -> Option<Stage> {
        let (roles, layouts) = (self.replicated.roles(), self.replicated.layouts());
        let newest = layouts.current_name()?;
        if !layouts.in_transition() {
            // Nothing older is active: whoever coordinated by another layout is refused.
            return layouts.stage(self.config.node).is_none().then_some(Stage::Acked);
        }
        let read = self.ring.as_ref().map(|ring| ring.name());
        let shards = |holds: &dyn Fn(&ShardReport) -> bool| {
            (0..self.config.shards).all(|shard| {
                self.reports
                    .get(&shard)
                    .filter(|report| (report.newest, report.lapses) == (newest, self.lapses))
                    .is_some_and(|report| report.drained && holds(report))
            })
        };
        match layouts.stage(self.config.node) {
            None => shards(&|_| true).then_some(Stage::Acked),
            Some(Stage::Acked) => {
                let may = layouts.all_at(Stage::Acked, roles);
                (may && shards(&|report| report.missing == 0)).then_some(Stage::Synced)
            }
            Some(Stage::Synced) => {
                let all = layouts.all_at(Stage::Synced, roles);
                // Said by an earlier process of this node it is true of what its disk kept at the most: the rest comes again first.
                let has = self.stage_reached >= Some((newest, Stage::Synced));
                let settles = |report: &ShardReport| {
                    Some(report.read) == read && read == Some(newest) && (has || report.missing == 0)
                };
                (all && shards(&settles)).then_some(Stage::Settled)
            }
            Some(Stage::Settled) => None,
        }
    }

    fn make_rings(&mut self) {
        let layouts = self.replicated.layouts();
        let Some(read) = layouts.read(self.replicated.roles()) else { return };
        let other = layouts.active().iter().find(|layout| layout.epoch != read.epoch);
        let name_of = |layout: &Layout| layouts.names().iter().copied().find(|name| name.epoch == layout.epoch);
        let (read_name, other_name) = (name_of(read), other.and_then(name_of));
        let known = |ring: &Option<Arc<Ring>>| ring.as_ref().map(|ring| ring.name());
        if (known(&self.ring), known(&self.beside)) == (read_name, other_name) {
            return;
        }
        if (known(&self.ring), known(&self.beside)) == (other_name, read_name) {
            std::mem::swap(&mut self.ring, &mut self.beside);
            return;
        }
        let nodes = layouts.members();
        let derive = |layout: &Layout| {
            let planted = canary!(K22).then(|| self.by_arrival(layout));
            Arc::new(Ring::derive_among(planted.as_ref().unwrap_or(layout), &nodes))
        };
        let (ring, beside) = (derive(read), other.map(derive));
        (self.ring, self.beside) = (Some(ring), beside);
    }

    /// The planted bug K22: members take each other's tokens by who was met.
    fn by_arrival(&self, layout: &Layout) -> Layout {
        let mut layout = layout.clone();
        let place = |node: &NodeId| layout.members.iter().position(|member| member.node == *node);
        if let Some(met) = self.linked.iter().next().and_then(place).filter(|met| *met > 0) {
            let (first, rest) = layout.members.split_at_mut(met);
            std::mem::swap(&mut first[0].token_id, &mut rest[0].token_id);
        }
        layout
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

    /// Stores what the node would have to know if it started again now.
    fn keep(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        // Stored before it joined anybody, its state would be a readable one, and what lies beside that of its time.
        if !self.config.disk || self.disk.is_unreadable() && self.replicated.layout().is_none() {
            return;
        }
        let me = self.config.node;
        let alone =
            self.replicated.layout().is_some_and(|layout| layout.members.iter().all(|member| member.node == me));
        self.disk.observe(alone, now.mono);
        let (replicated, clock) = (&self.replicated, &mut self.clock);
        let due = self.disk.due(me, replicated.digest(), || replicated.meta(), || clock.stamp(now), now.mono);
        if let Some((number, bytes)) = due {
            out.store_meta(number, &bytes);
        }
    }

    fn publish(&mut self, out: &mut dyn NodeOutbox) {
        let me = self.config.node;
        let (serves, namespaces) = (self.disk.may_serve(), self.disk.usable(self.replicated.namespaces()));
        let layouts = self.replicated.layouts();
        let roles = self.replicated.roles();
        let zone = roles.get(me).map_or(self.config.zone.as_str(), |role| role.zone.as_str());
        let facts = self.facts();
        let near = |node: NodeId| {
            let known = layouts.active().iter().rev().find_map(|layout| layout.member(node));
            known.is_some_and(|member| member.zone == zone)
        };
        // An earlier process may have told others, and died before its disk knew: it is asked of all that is known when shards begin.
        let told = layouts.held_by(me).filter(|_| self.lapses == 0);
        let held = if self.view.ring.is_some() { self.view.held } else { told };
        let (ring, beside) = if serves { (self.ring.clone(), self.beside.clone()) } else { (None, None) };
        let listed = ring.as_ref().map_or(&[][..], |ring| ring.members());
        let places: Vec<_> = listed.iter().map(|node| facts.address_of(*node)).collect();
        let view = |(node, place): (&NodeId, &Option<(SocketAddr, u16)>)| MemberView {
            node: *node,
            shards: place.map_or(1, |(_, shards)| shards),
            up: facts.is_up(*node),
            near: near(*node),
        };
        let members: Vec<MemberView> = listed.iter().zip(&places).map(view).collect();
        let view = View {
            me,
            ring: ring.clone(),
            beside,
            moving: layouts.in_transition() && (layouts.all_at(Stage::Acked, roles) || canary!(K38)),
            complete: layouts.is_complete(roles),
            held,
            settled: self.settled,
            skipped: layouts.skipped().iter().copied().collect(),
            lapses: self.lapses,
            members,
            agreed: layouts.is_agreed(roles),
            namespaces,
            // Who is told of no layout owns nothing; what it is worth it learns with the layout.
            state: if serves { self.standing.state() } else { ReplicaState::Fallback },
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
    let name = |ring: &Option<Arc<Ring>>| ring.as_ref().map(|ring| ring.name());
    let names = |view: &View| (name(&view.ring), name(&view.beside));
    names(new) == names(old)
        && (new.moving, new.complete, new.lapses) == (old.moving, old.complete, old.lapses)
        && new.skipped == old.skipped
        && new.members == old.members
        && new.agreed == old.agreed
        && Arc::ptr_eq(&new.namespaces, &old.namespaces)
        && new.state == old.state
        && new.fence == old.fence
        && new.clock_confirmations == old.clock_confirmations
}
