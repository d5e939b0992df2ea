//! What a test does to a rig: cuts, deaths, clocks, beliefs, layouts, and the fate of single messages.
//!
//! Nothing is noticed by itself. A killed node's links break, so its peers hear of that; whether anybody believes it down
//! is the test's to say, as membership would. Views that change are published at once.

use super::rig::{Asked, Fate, Flight, Rig, index_of, node_id};
use crate::{
    id::NodeId,
    input::ShardInput,
    namespace::NamespaceTable,
    ring::{LayoutMember, Ring},
    value::Hlc,
    view::Fence,
    wire::peer::{PeerMessage, ReplicaState},
};
use bytes::BytesMut;
use std::{sync::Arc, time::Duration};

impl Rig {
    /// Nothing passes between two nodes. Membership does not notice by itself: see `believe_down`.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Nothing passes from one node to another.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// `who` believes `whom` down, or up again; published at once.
    pub fn believe_down(&mut self, who: usize, whom: usize, down: bool) {
        let changed = if down { self.down.insert((who, whom)) } else { self.down.remove(&(who, whom)) };
        if changed {
            self.publish();
        }
    }

    /// Everybody else believes `whom` down, or up again.
    pub fn all_believe_down(&mut self, whom: usize, down: bool) {
        for who in 0..self.config.nodes {
            self.believe_down(who, whom, down && who != whom);
        }
    }

    /// The process dies. Its links break: everybody else is told so.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].shard = None;
        self.disks[node].crash();
        for asked in &mut self.asked {
            if matches!(asked, Asked::At(at) if *at == node) {
                *asked = Asked::Gone;
            }
        }
        for other in 0..self.config.nodes {
            self.lose_link(other, node);
        }
    }

    /// `at` is told that every link to `node` is gone.
    pub fn lose_link(&mut self, at: usize, node: usize) {
        self.input(at, &node_id(node).0.to_le_bytes(), |shard, now, out| {
            shard.handle(now, ShardInput::PeerLost(node_id(node)), out);
        });
    }

    /// The process is replaced by an empty one so quickly that nobody's links notice.
    pub fn wipe(&mut self, node: usize, state: ReplicaState) {
        self.nodes[node].shard = None;
        for asked in &mut self.asked {
            if matches!(asked, Asked::At(at) if *at == node) {
                *asked = Asked::Gone;
            }
        }
        self.restart(node, state);
    }

    /// A killed node starts again, empty, as a new process in this state.
    pub fn restart(&mut self, node: usize, state: ReplicaState) {
        let life = self.nodes[node].life + 1;
        let shard = self.make_shard(node, life);
        let (started, known) = (self.now, &mut self.nodes[node]);
        (known.shard, known.life, known.started, known.state) = (Some(shard), life, started, state);
        (known.view, known.confirmations) = (None, 1);
        self.publish();
    }

    /// Sets what `node`'s copies are worth.
    pub fn set_state(&mut self, node: usize, state: ReplicaState) {
        self.nodes[node].state = state;
        self.publish();
    }

    /// Stops or resumes `node`'s coordinating.
    pub fn set_fence(&mut self, node: usize, fence: Option<Fence>) {
        self.nodes[node].fence = fence;
        self.publish();
    }

    /// Changes the table of namespaces by a mark above every clock; `nodes` hear of it now, others when they are told again.
    pub fn empty(&mut self, nodes: &[usize], change: impl FnOnce(&mut NamespaceTable, Hlc)) {
        let fastest = (0..self.config.nodes).map(|node| self.wall(node)).max().expect("a rig has nodes");
        let mut table = (*self.namespaces).clone();
        change(&mut table, Hlc::at(fastest).next());
        self.namespaces = Arc::new(table);
        self.tell_namespaces(nodes);
    }

    /// These nodes hear of the namespaces there are.
    pub fn tell_namespaces(&mut self, nodes: &[usize]) {
        self.set_namespaces(nodes, &self.namespaces());
    }

    /// The namespaces there are now.
    pub fn namespaces(&self) -> Arc<NamespaceTable> {
        Arc::clone(&self.namespaces)
    }

    /// These nodes know so much of the namespaces, and no more.
    pub fn set_namespaces(&mut self, nodes: &[usize], known: &Arc<NamespaceTable>) {
        for node in nodes {
            self.nodes[*node].namespaces = Arc::clone(known);
        }
        self.publish();
    }

    /// Whether all members acknowledged the layout.
    pub fn set_agreed(&mut self, agreed: bool) {
        self.agreed = agreed;
        self.publish();
    }

    /// Moves `node`'s wall against the true time at once, milliseconds. A running node sees it jump.
    pub fn jump_wall(&mut self, node: usize, millis: i64) {
        self.nodes[node].skew += millis;
    }

    /// Moves `node`'s wall and confirms it: a node that started with this skew.
    pub fn skew(&mut self, node: usize, millis: i64) {
        self.nodes[node].skew = millis;
        self.confirm_clock(node);
    }

    /// Tells `node` that its peers confirmed its wall.
    pub fn confirm_clock(&mut self, node: usize) {
        self.nodes[node].confirmations += 1;
        self.publish();
    }

    /// A layout of these members replaces the one that holds, one epoch later, for everybody.
    pub fn relayout(&mut self, members: &[usize]) {
        self.relayout_quietly(members);
        self.publish();
    }

    fn relayout_quietly(&mut self, members: &[usize]) {
        self.layout.epoch += 1;
        self.layout.members = members
            .iter()
            .map(|node| LayoutMember {
                node: node_id(*node),
                token_id: node_id(*node),
                zone: format!("zone-{node}"),
                weight: 100,
            })
            .collect();
        self.layout.members.sort_by_key(|member| member.node);
        self.ring = Arc::new(Ring::derive(&self.layout));
    }

    /// A layout of these members, one epoch later, becomes active beside the one that holds; nothing is moved yet.
    pub fn begin_transition(&mut self, members: &[usize]) {
        let (older, older_ring) = (self.layout.clone(), Arc::clone(&self.ring));
        self.relayout_quietly(members);
        let newer = std::mem::replace(&mut self.layout, older);
        let mut nodes: Vec<NodeId> =
            older_ring.members().iter().copied().chain(newer.members.iter().map(|member| member.node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.ring = Arc::new(Ring::derive_among(&self.layout, &nodes));
        let newer_ring = Arc::new(Ring::derive_among(&newer, &nodes));
        self.beside = Some((newer, newer_ring));
        (self.moving, self.complete) = (false, false);
        self.publish();
    }

    /// Everybody acknowledged the newest layout: partitions are moved.
    pub fn begin_moving(&mut self) {
        self.moving = true;
        self.publish();
    }

    /// Whether the shards of all members have what the newest layout assigns to them.
    pub fn is_moved(&self) -> bool {
        let newest = self.beside.as_ref().map_or(&self.layout, |(newer, _)| newer);
        newest.members.iter().all(|member| {
            let report = self.nodes[index_of(member.node)].report;
            report.is_some_and(|report| report.newest == newest.name() && report.missing == 0)
        })
    }

    /// Everybody synced: the newest layout is read.
    pub fn flip(&mut self) {
        let newest = self.beside.as_ref().map(|(newer, _)| newer.name());
        for node in (0..self.nodes.len()).filter(|node| !self.deaf.contains(node)) {
            self.nodes[node].settled = newest;
        }
        if let Some((newer, ring)) = self.beside.take() {
            let older = (std::mem::replace(&mut self.layout, newer), std::mem::replace(&mut self.ring, ring));
            self.beside = Some(older);
        }
        self.publish();
    }

    /// Everybody reads by the newest layout: the older one retires.
    pub fn retire(&mut self) {
        (self.beside, self.moving, self.complete) = (None, false, true);
        self.ring = Arc::new(Ring::derive(&self.layout));
        self.publish();
    }

    /// All of a transition, one step after the other.
    ///
    /// # Panics
    /// If nothing is moved within a minute.
    pub fn transition(&mut self, members: &[usize]) {
        self.begin_transition(members);
        self.run_for(Duration::from_secs(1));
        self.begin_moving();
        self.wait_until_moved();
        self.flip();
        self.run_for(Duration::from_secs(1));
        self.retire();
    }

    /// Runs until everything is moved.
    ///
    /// # Panics
    /// If that takes a minute.
    pub fn wait_until_moved(&mut self) {
        let limit = self.now() + Duration::from_secs(60);
        while !self.is_moved() {
            assert!(self.step(limit), "partitions are still missing");
        }
    }

    /// The control plane of `node` stores that it has all that the newest layout assigns to it.
    pub fn hold_all(&mut self, node: usize) {
        let newest = self.beside.iter().map(|(_, ring)| ring).chain([&self.ring]).map(|ring| ring.name()).max();
        self.nodes[node].held = newest;
    }

    /// A node hears nothing new of layouts, or everything again.
    pub fn set_deaf(&mut self, node: usize, deaf: bool) {
        if deaf {
            self.deaf.insert(node);
        } else {
            self.deaf.remove(&node);
            self.publish();
        }
    }

    /// Decides over every message that leaves from now on; `None` as before: all arrive.
    pub fn set_fate(&mut self, fate: impl FnMut(usize, usize, &PeerMessage<'_>) -> Fate + 'static) {
        self.fate = Some(Box::new(fate));
    }

    /// Every message arrives again.
    pub fn clear_fate(&mut self) {
        self.fate = None;
    }

    /// Sends what was held, in the order in which it left.
    pub fn release(&mut self) {
        for flight in std::mem::take(&mut self.held) {
            self.launch(flight);
        }
    }

    /// How many messages are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Delivers a frame to `to` as if `from` had sent it: for hostile and forged ones.
    pub fn inject(&mut self, from: usize, to: usize, message: &PeerMessage<'_>) {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        let life = self.nodes[to].life;
        self.launch(Flight { from, to, life, frame: frame.to_vec() });
    }
}
