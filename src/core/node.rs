//! The control plane of one process: membership, roles, layouts, namespaces, clock (ARCHITECTURE §2, "Two planes").
//!
//! `Node` routes: it hands each input to a part (`control`, `membership`), and then *settles*: it asks the parts what is due,
//! in one fixed order, until the replicated state stands still, and publishes a new `View` if anything in it changed. Invariants:
//! - liveness never changes a role; a layout changes by bootstrap, by a change of roles, and by meeting another one
//!   (PROTOCOL §2); it may wait for somebody to be up;
//! - a node acks the newest layout it is a member of once its shards coordinate by it and nothing older is in flight;
//! - a node that is superseded or removed says so once and then only answers questions;
//! - nothing is sent but through the outbox, and nothing is lost that the next second would not repeat.
//!
//! Not here: data, and moving it: that is the shards', who report (`ShardReport`) how far they are.

mod company;
mod namespaces;
mod roles;
mod settlement;

use crate::{
    anti_entropy::readiness,
    canary::canary,
    clock::Clock,
    config::NodeConfig,
    control::{
        clock_watch::ClockWatch,
        disk::Disk,
        replicated::Replicated,
        seeds::Seeds,
        spread::{self, Spread},
        standing::Standing,
        status::Facts,
        succession::Absences,
    },
    id::{KeyHasher, NodeId},
    input::{Caller, NodeInput},
    membership::{Change, Effects, Identity, Membership},
    outbox::{NodeEvent, NodeOutbox, ShardReport},
    ring::{LayoutName, Ring, Stage},
    rng::Rng,
    stats::ShardStats,
    time::{Mono, Now},
    value::Hlc,
    view::{Fence, View},
    wire::{
        control::{ClientControl, ControlReply, Meta, NodeStatus, PeerControl},
        hello::{NodeHello, Routing},
    },
};
use roles::{own_role, role_of};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// Pings, digests, dials and looks at what time alone changes.
const TICK: Duration = Duration::from_secs(1);
/// A tick that comes later than this was held up with everything else here.
const PAUSE: Duration = Duration::from_millis(500);
/// Most nodes remembered from links; gossip and roles know the others.
const HELLOS_MAX: usize = 10_000;

/// The control plane of one process.
pub struct Node {
    config: NodeConfig,
    clock: Clock,
    incarnation: Hlc,
    started: Mono,
    rng: Rng,
    hasher: KeyHasher,
    membership: Membership,
    hellos: BTreeMap<NodeId, NodeHello>,
    /// Peers with a link.
    linked: BTreeSet<NodeId>,
    /// Those of them that SWIM had not heard of at the last tick.
    strangers: BTreeSet<NodeId>,
    /// When one that is down was last announced to.
    recalled_at: Mono,
    replicated: Replicated,
    /// The local state changed and nobody was told.
    unsent: bool,
    spread: Spread,
    watch: ClockWatch,
    seeds: Seeds,
    absences: Absences,
    standing: Standing,
    disk: Disk,
    /// When roles last came to differ from the layout.
    differs_since: Option<Mono>,
    /// A verdict that no peer can lift.
    verdict: Option<Fence>,
    fence: Option<Fence>,
    obstacle: Option<String>,
    refused: BTreeSet<NodeId>,
    stats: ShardStats,
    ring: Option<Arc<Ring>>,
    /// The other of two active layouts.
    beside: Option<Arc<Ring>>,
    /// What each shard said last.
    reports: BTreeMap<u16, ShardReport>,
    /// How often the layouts went on without this node.
    lapses: u64,
    /// The layout that others came to without it when it lapsed last.
    lapsed_for: Option<LayoutName>,
    /// The layout that this process settled last, or that an earlier one said on its disk that it has all of.
    settled: Option<LayoutName>,
    /// The state and the live peers for which no new layout was due.
    looked: Option<(u64, Vec<NodeId>)>,
    /// The layout that a transition last led to.
    completed: Option<LayoutName>,
    /// The stage this process came to, and towards which layout.
    stage_reached: Option<(LayoutName, Stage)>,
    view: Arc<View>,
    /// Where the view's members were when it was published.
    places: Vec<Option<(SocketAddr, u16)>>,
    tick_at: Mono,
}

impl Node {
    /// A node that knows nobody. Call `handle_timeout` at once: it dials the seeds.
    ///
    /// Panics on a configuration that was not checked: no copies, partitions that are no power of two, a role out of bounds.
    pub fn new(config: NodeConfig, now: Now) -> Self {
        let mut clock = Clock::new(config.clock_floor);
        clock.observe(now);
        let incarnation = clock.stamp(now);
        let me =
            Identity { node: config.node, incarnation, renewal: 0, address: config.address, shards: config.shards };
        assert_eq!(own_role(&config).check(), Ok(()), "the configuration was checked");
        let mut replicated = Replicated::new(&config.cluster);
        let mut standing = Standing::new(config.warming_max);
        let (mut disk, restored) = Disk::new(config.disk, config.restored.as_deref(), config.node, now.mono);
        let settled = restored.as_ref().and_then(|meta| meta.layouts.held_by(config.node));
        let mut obstacle = None;
        if let Some(meta) = restored {
            match replicated.join(&meta) {
                Ok(_) if meta.layouts.current().is_some() => standing.on_return(),
                Ok(_) => {}
                Err(reason) => {
                    disk.refuse();
                    obstacle = Some(format!("the state on its disk: {reason}"));
                }
            }
        }
        // What shards find beside a state that cannot be read is of an unknown time.
        let lapses = u64::from(disk.is_unreadable());
        if disk.is_unreadable() {
            let words =
                "the state on its disk cannot be read: it joins others, and founds no mesh (empty data_dir for that)";
            obstacle.get_or_insert_with(|| words.to_owned());
        }
        let mut view = View::empty(config.node, Arc::clone(replicated.namespaces()));
        view.fence = Some(Fence::ClockUnconfirmed);
        Self {
            clock,
            incarnation,
            started: now.mono,
            rng: Rng::fork(config.seed, "control"),
            hasher: KeyHasher::new(config.cluster.id),
            membership: Membership::new(me, Rng::fork(config.seed, "membership")),
            hellos: BTreeMap::new(),
            linked: BTreeSet::new(),
            strangers: BTreeSet::new(),
            recalled_at: now.mono,
            replicated,
            unsent: false,
            spread: Spread::default(),
            watch: ClockWatch::new(config.clock_floor),
            seeds: Seeds::new(config.address, config.seeds.clone()),
            absences: Absences::default(),
            standing,
            disk,
            differs_since: None,
            verdict: None,
            fence: view.fence,
            obstacle,
            refused: BTreeSet::new(),
            stats: ShardStats::default(),
            ring: None,
            beside: None,
            reports: BTreeMap::new(),
            lapses,
            settled,
            lapsed_for: None,
            looked: None,
            completed: None,
            stage_reached: None,
            view: Arc::new(view),
            places: Vec::new(),
            tick_at: now.mono,
            config,
        }
    }

    /// One input in; effects come out through `out`.
    pub fn handle(&mut self, now: Now, input: NodeInput<'_>, out: &mut dyn NodeOutbox) {
        self.clock.observe(now);
        if self.verdict.is_some() {
            if let NodeInput::Client { caller, admin, request } = input {
                let reply = self.answer(now, admin, request);
                out.reply(caller, &reply);
            }
            return;
        }
        match input {
            NodeInput::PeerHello { hello, wall: _ } => self.on_hello(now, hello, out),
            NodeInput::Gossip(packet) => {
                let effects = self.membership.handle_packet(packet, now.mono);
                self.apply(effects, now, out);
            }
            NodeInput::Peer { from, message } => self.on_peer(now, from, message, out),
            NodeInput::PeerLost(peer) => {
                self.linked.remove(&peer);
                self.spread.forget(peer);
                self.watch.forget(peer);
            }
            NodeInput::Client { caller, admin, request } => self.on_client(now, caller, admin, request, out),
            NodeInput::Seeds(addresses) => {
                self.seeds.replace(addresses);
                self.dial(now, out);
            }
            NodeInput::Stats(stats) => {
                self.stats = stats;
                let owned = self.trees_owned();
                if owned > 0 && stats.partitions_ready == owned && stats.partitions_warming == 0 {
                    self.standing.on_compared(now.mono);
                }
            }
            NodeInput::Report(report) => {
                self.reports.insert(report.shard, report);
            }
            NodeInput::ClockStored(bound) => self.watch.on_stored(bound),
            NodeInput::MetaStored(number) => {
                if let Some(life) = self.disk.on_stored(number) {
                    self.unsent |= self.replicated.live(self.config.node, life);
                }
            }
        }
        self.settle(now, out);
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        self.clock.observe(now);
        if self.verdict.is_some() {
            self.tick_at = now.mono + TICK;
            return;
        }
        let effects = self.membership.handle_timeout(now.mono);
        self.apply(effects, now, out);
        if self.tick_at <= now.mono {
            let paused = now.mono.since(self.tick_at) > PAUSE;
            self.tick_at = now.mono + TICK;
            self.tick(now, paused, out);
        }
        self.settle(now, out);
    }

    /// When `handle_timeout` has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.verdict.is_some() {
            return None;
        }
        [Some(self.tick_at), self.membership.poll_timeout(), self.spread.poll_timeout()].into_iter().flatten().min()
    }

    /// Trees of this node in the active layouts, over all its shards.
    fn trees_owned(&self) -> u64 {
        let rings = self.ring.as_deref().map(|ring| (ring, self.beside.as_deref()));
        rings.map_or(0, |rings| readiness::trees(rings, self.config.node))
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            membership: &self.membership,
            hellos: &self.hellos,
            replicated: &self.replicated,
            ring: self.ring.as_deref(),
            newest: self.beside.iter().chain(&self.ring).max_by_key(|ring| ring.name()).map(Arc::as_ref),
            reports: &self.reports,
            standing: &self.standing,
            watch: &self.watch,
            fence: self.fence,
            obstacle: self.obstacle.as_deref(),
            held_back: self.disk.obstacle(),
        }
    }

    /// What this node knows of the mesh and of itself.
    pub fn status(&self, now: Now) -> NodeStatus {
        self.facts().status(self.stats, self.incarnation, now.mono)
    }

    /// What a client needs to route; `None` until there is a layout.
    pub fn routing(&self) -> Option<Routing> {
        self.facts().routing()
    }

    /// What this node says of itself on every link.
    pub fn hello(&self) -> NodeHello {
        NodeHello {
            node: self.config.node,
            incarnation: self.incarnation,
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            address: self.config.address,
            shards: self.config.shards,
        }
    }

    /// The newest snapshot; the same `Arc` that was published last. It is published again, unchanged, when a member's
    /// address changes.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Where shard 0 of `node` listens, and how many shards it has: shard i is at port + i.
    pub fn address_of(&self, node: NodeId) -> Option<(SocketAddr, u16)> {
        self.facts().address_of(node)
    }

    /// Gossip packets and SWIM timers that could not be used since the start.
    pub fn gossip_refused(&self) -> u64 {
        self.membership.refused()
    }

    /// A reading of the control plane's clock, for the driver's `Hello`s.
    pub fn wall(&self, now: Now) -> crate::time::Wall {
        self.clock.wall(now)
    }

    // Inputs.

    fn on_hello(&mut self, now: Now, hello: NodeHello, out: &mut dyn NodeOutbox) {
        if hello.node == self.config.node {
            // The same incarnation is this very process, dialed through a seed's name; an older one learns it from our Hello.
            if hello.incarnation > self.incarnation && !canary!(K24) {
                self.condemn(Fence::Superseded, out);
            }
            return;
        }
        let declared = role_of(&hello);
        if let Err(error) = declared.check() {
            out.event(NodeEvent::Refused { reason: format!("node {} at {}: {error}", hello.node, hello.address) });
            return;
        }
        let peer = identity_of(&hello);
        let known = self.hellos.get(&hello.node);
        if known.is_some_and(|known| known.incarnation > hello.incarnation) {
            let effects = self.membership.convict(peer, now.mono);
            self.apply(effects, now, out);
            return;
        }
        let node = hello.node;
        if known.is_some() || self.hellos.len() < HELLOS_MAX {
            self.hellos.insert(node, hello);
        }
        self.linked.insert(node);
        if !self.membership.is_up(node) {
            let effects = self.membership.announce(peer, now.mono);
            self.apply(effects, now, out);
        }
        self.send(node, &PeerControl::MetaDigest { digest: self.replicated.digest() }, out);
        self.ping(node, now, out);
    }

    fn on_peer(&mut self, now: Now, from: NodeId, message: PeerControl, out: &mut dyn NodeOutbox) {
        match message {
            PeerControl::Ping { nonce, wall: _ } => {
                self.send(from, &PeerControl::Pong { nonce, wall: self.clock.wall(now) }, out);
            }
            PeerControl::Pong { nonce, wall } => self.watch.on_pong(from, nonce, wall, now),
            PeerControl::MetaDigest { digest } => {
                self.spread.learn(from, digest);
                if digest == self.replicated.digest() {
                    // It remembers what this node does.
                    let known = self.replicated.life(self.config.node);
                    self.remember(now, known, out);
                }
                if digest != self.replicated.digest() {
                    self.send(from, &PeerControl::MetaSync(Box::new(self.replicated.meta())), out);
                }
            }
            PeerControl::MetaSync(meta) => self.on_meta(now, from, &meta, out),
        }
    }

    fn on_meta(&mut self, now: Now, from: NodeId, meta: &Meta, out: &mut dyn NodeOutbox) {
        // A role with this node's id that this process did not write, in a mesh with a layout, is an earlier process'.
        let mine = meta.roles.version(self.config.node);
        if meta.layouts.current().is_some() && mine.is_some_and(|version| version.actor != self.config.actor) {
            self.standing.on_return();
        }
        let changed = match self.replicated.join(meta) {
            Ok(changed) => changed,
            Err(reason) => {
                let reason = format!("node {} ({from}): {reason}", self.facts().name_of(from));
                if self.refused.insert(from) {
                    out.event(NodeEvent::Refused { reason: reason.clone() });
                }
                self.obstacle = Some(reason);
                return;
            }
        };
        self.refused.remove(&from);
        // Others that have no layout either do not help one whose own state is of no use.
        if !self.disk.is_unreadable() || self.replicated.layout().is_some() {
            self.obstacle = None;
        }
        self.remember(now, meta.lives.get(&self.config.node).copied(), out);
        let theirs = Replicated::digest_of(meta);
        self.spread.learn(from, theirs);
        if changed {
            self.spread.forward(now.mono);
        } else if theirs != self.replicated.digest() {
            self.send(from, &PeerControl::MetaSync(Box::new(self.replicated.meta())), out);
        }
    }

    /// A peer remembers this life stamp of this node.
    fn remember(&mut self, now: Now, known: Option<Hlc>, out: &mut dyn NodeOutbox) {
        if self.disk.on_remembered(known) {
            self.lapse(now, self.replicated.layouts().current_name());
            let reason =
                "a peer remembers a newer state of this node than its disk has: it is an older copy".to_owned();
            out.event(NodeEvent::RestoredTooOld { reason });
        }
    }

    fn on_client(&mut self, now: Now, caller: Caller, admin: bool, request: ClientControl, out: &mut dyn NodeOutbox) {
        let reply = self.answer(now, admin, request);
        out.reply(caller, &reply);
    }

    fn answer(&mut self, now: Now, admin: bool, request: ClientControl) -> ControlReply {
        let refused = |reason: String| ControlReply::Refused { reason, denied: false };
        match request {
            ClientControl::Routing => ControlReply::Routing(self.routing().map(Box::new)),
            ClientControl::Status => ControlReply::Status(Box::new(self.status(now))),
            ClientControl::Owners { namespace, key } => {
                self.facts().owners(&self.hasher, &namespace, &key).map_or_else(refused, ControlReply::Owners)
            }
            ClientControl::Plan => ControlReply::Plan(Box::new(self.facts().plan(&self.stats))),
            ClientControl::Change(_) if !admin => ControlReply::Refused {
                reason: "changing the layout needs a certificate of the role admin".to_owned(),
                denied: true,
            },
            ClientControl::Change(change) => self.change(now, change).map_or_else(refused, ControlReply::Changed),
            ClientControl::NamespaceList => ControlReply::Namespaces(self.list_namespaces()),
            ClientControl::NamespaceHolds { name, mark } => ControlReply::Holds(self.holds_mark(&name, mark)),
            ClientControl::NamespaceCreate(_)
            | ClientControl::NamespaceFlush(_)
            | ClientControl::NamespaceDelete(_)
                if !admin =>
            {
                ControlReply::Refused {
                    reason: "making, emptying or deleting a namespace needs a certificate of the role admin".to_owned(),
                    denied: true,
                }
            }
            ClientControl::NamespaceCreate(namespace) => {
                self.create_namespace(now, *namespace).map_or_else(refused, ControlReply::Created)
            }
            ClientControl::NamespaceFlush(name) => {
                self.flush_namespace(now, &name).map_or_else(refused, ControlReply::Emptied)
            }
            ClientControl::NamespaceDelete(name) => {
                self.delete_namespace(now, &name).map_or_else(refused, ControlReply::Emptied)
            }
        }
    }

    /// Whether this node may stamp a change of what is replicated, or why not.
    fn may_change(&self, now: Now) -> Result<(), String> {
        if self.ring.is_none() {
            return Err(format!("there is no layout yet: {}", self.facts().state(now.mono)));
        }
        match self.fence {
            Some(fence) => Err(format!("this node must not stamp now: {fence}")),
            None => Ok(()),
        }
    }

    // What time brings.

    fn tick(&mut self, now: Now, paused: bool, out: &mut dyn NodeOutbox) {
        // After a pause of this very process the answers wait unread: whoever seems silent is asked again first.
        let silent = if paused { Vec::new() } else { self.watch.newly_silent(now.mono) };
        for peer in silent {
            let effects = self.membership.suspect(peer, now.mono);
            self.apply(effects, now, out);
        }
        self.introduce(now, out);
        self.recall(now, out);
        let peers = self.peers();
        for peer in spread::sample(peers.clone(), &mut self.rng) {
            self.ping(peer, now, out);
        }
        if let Some(peer) = spread::pick(&peers, &mut self.rng) {
            self.send(peer, &PeerControl::MetaDigest { digest: self.replicated.digest() }, out);
        }
        self.dial(now, out);
    }

    fn ping(&mut self, peer: NodeId, now: Now, out: &mut dyn NodeOutbox) {
        let nonce = self.watch.on_ping(peer, now.mono);
        self.send(peer, &PeerControl::Ping { nonce, wall: self.clock.wall(now) }, out);
    }

    // Effects.

    fn send(&self, to: NodeId, message: &PeerControl, out: &mut dyn NodeOutbox) {
        if let Some((address, _)) = self.address_of(to) {
            out.control(to, address, message);
        }
    }

    fn apply(&mut self, effects: Effects, now: Now, out: &mut dyn NodeOutbox) {
        for (to, packet) in effects.packets {
            out.gossip(to.node, to.address, &packet);
        }
        for change in effects.changes {
            match change {
                Change::Up(peer) | Change::Renewed(peer) => {
                    out.event(NodeEvent::MemberUp { node: peer.node, name: self.facts().name_of(peer.node) });
                    self.spread.forget(peer.node);
                    self.send(peer.node, &PeerControl::MetaDigest { digest: self.replicated.digest() }, out);
                    self.ping(peer.node, now, out);
                }
                Change::Down(peer) => {
                    out.event(NodeEvent::MemberDown { node: peer.node, name: self.facts().name_of(peer.node) });
                    self.spread.forget(peer.node);
                    self.watch.forget(peer.node);
                }
            }
        }
        if self.membership.is_superseded() && !canary!(K24) {
            self.condemn(Fence::Superseded, out);
        }
    }

    /// This process must end: it publishes why, and from now on only answers questions.
    fn condemn(&mut self, verdict: Fence, out: &mut dyn NodeOutbox) {
        if self.verdict.is_none() {
            self.verdict = Some(verdict);
            out.event(NodeEvent::MustStop { reason: verdict.to_string() });
        }
    }
}

/// The process that a `Hello` tells of.
fn identity_of(hello: &NodeHello) -> Identity {
    Identity {
        node: hello.node,
        incarnation: hello.incarnation,
        renewal: 0,
        address: hello.address,
        shards: hello.shards,
    }
}
