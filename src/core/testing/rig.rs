//! A few nodes of one shard each in virtual time: the control plane and the network are the test's (SIMULATION §8).
//!
//! Every message passes through the real codec, as bytes, both ways. Time jumps to the next event: a message that
//! arrives, or the earliest `poll_timeout`. The same seed and the same calls give the same `trace`, a hash over every
//! input and output. After every input the rig asserts what no schedule may break: memory within its limit, requests in
//! flight bounded, and one reply a caller, never two.
//!
//! What it is not: it knows no membership. Who is up, who is Ready and which layout holds is said by the test, and
//! `publish` tells the nodes. Links are faithful with a fixed latency; with a drawn one they also reorder.

use super::{
    call::{Answer, Call},
    disk::{Content, NodeDisk},
};
use crate::{
    config::ShardConfig,
    id::{ActorId, ClusterId, KeyHasher, NodeId, ShardId},
    input::{Caller, PeerShard, ShardInput},
    limits,
    namespace::{Namespace, NamespaceTable},
    outbox::{ShardOutbox, ShardReport, StoreWrite},
    ring::{Layout, LayoutMember, LayoutName, Ring},
    rng::Rng,
    shard::Shard,
    stats::ShardStats,
    time::{Mono, Now, Wall},
    value::{Hlc, Version},
    view::{Fence, MemberView, View},
    wire::{
        client::Reply,
        frame::{Decoder, FrameType},
        peer::{PeerMessage, ReplicaState},
    },
};
use bytes::BytesMut;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Wall time when a rig starts: 2026-01-01, milliseconds.
const START: u64 = 1_767_225_600_000;

/// How a rig is made.
#[derive(Clone, Debug)]
pub struct RigConfig {
    /// How many nodes.
    pub nodes: usize,
    /// Copies of a key.
    pub n: u8,
    /// Arcs of the ring.
    pub partitions: u16,
    /// Hard limit of each node, bytes.
    pub memory: u64,
    /// Shortest and longest time on the way; equal: nothing overtakes.
    pub latency: (Duration, Duration),
    /// Nodes that have a disk, from the first on.
    pub disks: usize,
    /// Namespaces beside `default`.
    pub namespaces: Vec<Namespace>,
    /// Every draw comes from here.
    pub seed: u64,
}

impl Default for RigConfig {
    fn default() -> Self {
        let latency = Duration::from_micros(200);
        let memory = 16 << 20;
        Self {
            nodes: 3,
            n: 3,
            partitions: 16,
            memory,
            latency: (latency, latency),
            disks: 0,
            namespaces: Vec::new(),
            seed: 1,
        }
    }
}

/// What becomes of a message that is about to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after the latency.
    Deliver,
    /// It waits for `release`.
    Hold,
    /// It is lost.
    Drop,
    /// It arrives twice.
    Twice,
}

pub(super) type FateOf = Box<dyn FnMut(usize, usize, &PeerMessage<'_>) -> Fate>;

pub(super) struct RigNode {
    /// `None`: killed.
    pub(super) shard: Option<Shard>,
    pub(super) state: ReplicaState,
    pub(super) fence: Option<Fence>,
    /// Wall against the rig's time, milliseconds.
    pub(super) skew: i64,
    pub(super) started: Mono,
    /// Rises with each start: what is on its way to an earlier process does not arrive.
    pub(super) life: u32,
    pub(super) confirmations: u64,
    /// What it knows of namespaces.
    pub(super) namespaces: Arc<NamespaceTable>,
    pub(super) view: Option<Arc<View>>,
    /// What its disk is said to hold all of.
    pub(super) held: Option<LayoutName>,
    pub(super) settled: Option<LayoutName>,
    /// How far its shard said it is with the layouts.
    pub(super) report: Option<ShardReport>,
}

pub(super) struct Flight {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) life: u32,
    pub(super) frame: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Effects {
    sends: Vec<(PeerShard, Vec<u8>)>,
    replies: Vec<(Caller, Vec<u8>)>,
    report: Option<ShardReport>,
    stores: Vec<Stored>,
}

/// A `StoreWrite` that owns its bytes.
struct Stored {
    ticket: u64,
    sync: bool,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl ShardOutbox for Effects {
    fn send(&mut self, to: PeerShard, message: &PeerMessage<'_>) {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        self.sends.push((to, frame.to_vec()));
    }

    fn reply(&mut self, caller: Caller, reply: &Reply<'_>) {
        let mut frame = BytesMut::new();
        reply.encode(&mut frame);
        self.replies.push((caller, frame.to_vec()));
    }

    fn report(&mut self, report: ShardReport) {
        self.report = Some(report);
    }

    fn store(&mut self, write: &StoreWrite<'_>) {
        let (key, value) = (write.key.to_vec(), write.value.map(<[u8]>::to_vec));
        self.stores.push(Stored { ticket: write.ticket, sync: write.sync, key, value });
    }
}

pub(super) enum Asked {
    At(usize),
    Answered(Answer),
    /// The node was killed first.
    Gone,
}

/// The rig. Nodes are numbered from zero.
pub struct Rig {
    pub(super) config: RigConfig,
    pub(super) nodes: Vec<RigNode>,
    pub(super) layout: Layout,
    pub(super) ring: Arc<Ring>,
    /// The other of two active layouts.
    pub(super) beside: Option<(Layout, Arc<Ring>)>,
    /// Partitions are being moved to the owners in the newest layout.
    pub(super) moving: bool,
    /// A transition led to the layout, and is over.
    pub(super) complete: bool,
    /// Nodes that hear nothing new of layouts.
    pub(super) deaf: BTreeSet<usize>,
    pub(super) agreed: bool,
    pub(super) namespaces: Arc<NamespaceTable>,
    pub(super) hasher: KeyHasher,
    pub(super) now: Mono,
    pub(super) flights: BTreeMap<(Mono, u64), Flight>,
    pub(super) sequence: u64,
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// Pairs (who, whom): who believes whom down.
    pub(super) down: BTreeSet<(usize, usize)>,
    pub(super) held: Vec<Flight>,
    /// Parallel to the nodes.
    pub(super) disks: Vec<NodeDisk>,
    /// How often each node was passed by.
    pub(super) lapses: Vec<u64>,
    /// What a node that starts finds on its disk.
    pub(super) restored: Vec<Option<Content>>,
    pub(super) fate: Option<FateOf>,
    exchanges: bool,
    pub(super) asked: Vec<Asked>,
    pub(super) rng: Rng,
    pub(super) trace: blake3::Hasher,
    pub(super) inputs: u64,
}

pub(super) fn node_id(node: usize) -> NodeId {
    NodeId(node as u128 + 1)
}

pub(super) fn index_of(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).expect("the rig numbers its nodes from one")
}

impl Rig {
    /// Running, Ready nodes that believe each other up and have agreed on a layout of all of them.
    pub fn new(config: RigConfig) -> Self {
        let mut namespaces = NamespaceTable::with_default(config.n);
        for (at, namespace) in config.namespaces.iter().enumerate() {
            let stamp = Version { hlc: Hlc(at as u64 + 1), actor: ActorId(1) };
            namespaces.create(namespace.clone(), config.n, stamp).expect("the rig's namespaces make sense");
        }
        let members = (0..config.nodes).map(|node| LayoutMember {
            node: node_id(node),
            token_id: node_id(node),
            zone: format!("zone-{node}"),
            weight: 100,
        });
        let layout = Layout { epoch: 1, n: config.n, partitions: config.partitions, members: members.collect() };
        let mut rig = Self {
            nodes: Vec::new(),
            ring: Arc::new(Ring::derive(&layout)),
            layout,
            beside: None,
            moving: false,
            complete: false,
            deaf: BTreeSet::new(),
            agreed: true,
            namespaces: Arc::new(namespaces),
            hasher: KeyHasher::new(ClusterId(7)),
            now: Mono(0),
            flights: BTreeMap::new(),
            sequence: 0,
            cuts: BTreeSet::new(),
            down: BTreeSet::new(),
            held: Vec::new(),
            disks: (0..config.nodes).map(|_| NodeDisk::default()).collect(),
            lapses: vec![0; config.nodes],
            restored: vec![None; config.nodes],
            fate: None,
            exchanges: true,
            asked: Vec::new(),
            rng: Rng::fork(config.seed, "rig"),
            trace: blake3::Hasher::new(),
            inputs: 0,
            config,
        };
        for node in 0..rig.config.nodes {
            let (started, state) = (rig.now, ReplicaState::Ready);
            let shard = Some(rig.make_shard(node, 0));
            rig.nodes.push(RigNode {
                shard,
                state,
                fence: None,
                skew: 0,
                started,
                life: 0,
                confirmations: 1,
                namespaces: Arc::clone(&rig.namespaces),
                view: None,
                held: None,
                settled: None,
                report: None,
            });
        }
        rig.publish();
        rig
    }

    /// Three nodes, three copies, R = W = 2: what most schedules are about.
    pub fn three() -> Self {
        Self::new(RigConfig::default())
    }

    pub(super) fn make_shard(&mut self, node: usize, life: u32) -> Shard {
        let content = self.restored.get_mut(node).and_then(Option::take).unwrap_or_default();
        let now = Now { mono: Mono(0), wall: self.true_wall() };
        let mut shard = self.empty_shard(node, life);
        for (key, value) in content {
            // What cannot be used is counted by the shard.
            let _ = shard.restore(now, &key, &value);
        }
        shard
    }

    fn empty_shard(&self, node: usize, life: u32) -> Shard {
        Shard::new(ShardConfig {
            node: node_id(node),
            shard: ShardId(0),
            shards: 1,
            cluster: ClusterId(7),
            partitions: self.config.partitions,
            actor: ActorId(100 * (node as u64 + 1) + u64::from(life)),
            memory: self.config.memory,
            clock_floor: Hlc::default(),
            disk: node < self.config.disks,
            seed: self.config.seed ^ ((node as u64) << 8) ^ u64::from(life),
        })
    }

    /// Virtual time since the rig was made.
    pub fn now(&self) -> Mono {
        self.now
    }

    fn true_wall(&self) -> Wall {
        Wall(START + self.now.millis())
    }

    /// The wall of `node`, as it believes it.
    pub fn wall(&self, node: usize) -> Wall {
        let true_wall = i64::try_from(self.true_wall().0).expect("a rig lives for days, not ages");
        Wall(u64::try_from(true_wall + self.nodes[node].skew).expect("skews are within the epoch"))
    }

    fn now_at(&self, node: usize) -> Now {
        Now { mono: Mono(self.now.0 - self.nodes[node].started.0), wall: self.wall(node) }
    }

    /// Owners of `call`'s key, first asked first.
    pub fn owners(&self, call: &Call) -> Vec<usize> {
        let (namespace, key) = call.place();
        let partition = self.hasher.hash(namespace, key).partition(self.config.partitions);
        self.ring.owners(partition).iter().map(|owner| index_of(self.ring.node(*owner))).collect()
    }

    /// Everybody else, in the order in which they stand in for an owner of `call`'s key.
    pub fn fallbacks(&self, call: &Call) -> Vec<usize> {
        let (namespace, key) = call.place();
        let partition = self.hasher.hash(namespace, key).partition(self.config.partitions);
        self.ring.fallbacks(partition).map(|member| index_of(self.ring.node(member))).collect()
    }

    /// What `node` counts.
    ///
    /// # Panics
    /// If it was killed.
    pub fn stats(&self, node: usize) -> ShardStats {
        self.nodes[node].shard.as_ref().expect("the node runs").stats()
    }

    /// Lets owners compare what they hold, or not: for tests of what repairs without.
    pub fn set_exchanges(&mut self, allowed: bool) {
        self.exchanges = allowed;
    }

    /// Hints that `node` holds, by target.
    ///
    /// # Panics
    /// If it was killed.
    pub fn hints_by_target(&self, node: usize) -> Vec<(NodeId, usize)> {
        self.nodes[node].shard.as_ref().expect("the node runs").hints_by_target()
    }

    /// How many trees of `node` do not vote yet.
    ///
    /// # Panics
    /// If it was killed.
    pub fn warming(&self, node: usize) -> usize {
        self.nodes[node].shard.as_ref().expect("the node runs").warming().count()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.config.nodes
    }

    /// Whether `node` runs.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].shard.is_some()
    }

    /// Inputs handled so far, all nodes together.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Hash of every input and output so far.
    pub fn trace(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }

    // --- views ---

    pub(super) fn publish(&mut self) {
        for node in 0..self.nodes.len() {
            if self.deaf.contains(&node) {
                continue;
            }
            let view = self.view_of(node);
            let known = &self.nodes[node];
            let name = |view: &View| view.beside.as_ref().map(|ring| ring.name());
            let same = known.view.as_ref().is_some_and(|old| {
                old.ring.as_ref().map(|ring| ring.name()) == view.ring.as_ref().map(|ring| ring.name())
                    && old.members == view.members
                    && (old.agreed, old.state, old.fence) == (view.agreed, view.state, view.fence)
                    && (old.clock_confirmations, old.lapses) == (view.clock_confirmations, view.lapses)
                    && (name(old), old.moving, old.complete) == (name(&view), view.moving, view.complete)
                    && Arc::ptr_eq(&old.namespaces, &view.namespaces)
            });
            if same || known.shard.is_none() {
                continue;
            }
            let view = Arc::new(view);
            self.nodes[node].view = Some(Arc::clone(&view));
            let told = format!("{:?} {:?} {:?}", view.members, view.state, view.fence);
            self.input(node, told.as_bytes(), |shard, now, out| shard.handle(now, ShardInput::View(view), out));
        }
    }

    fn view_of(&self, node: usize) -> View {
        let member = |member: &NodeId| {
            let whom = index_of(*member);
            let up = !self.down.contains(&(node, whom));
            MemberView { node: *member, shards: 1, up, near: whom == node }
        };
        let known = &self.nodes[node];
        let is_member = self.ring.members().contains(&node_id(node));
        View {
            me: node_id(node),
            ring: Some(Arc::clone(&self.ring)),
            beside: self.beside.as_ref().map(|(_, ring)| Arc::clone(ring)),
            moving: self.moving,
            complete: self.complete,
            held: known.held,
            settled: known.settled,
            skipped: Vec::new(),
            lapses: self.lapses[node],
            members: self.ring.members().iter().map(member).collect(),
            agreed: self.agreed,
            namespaces: Arc::clone(&known.namespaces),
            state: if is_member { known.state } else { ReplicaState::Fallback },
            fence: known.fence,
            clock_confirmations: known.confirmations,
        }
    }

    // --- time ---

    /// Runs everything that happens within `time`.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Handles the next event if it lies within `until`; whether there was one.
    pub fn step(&mut self, until: Mono) -> bool {
        let arrival = self.flights.first_key_value().map(|(key, _)| key.0);
        let timer = (0..self.nodes.len()).filter_map(|node| Some((self.due(node)?, node))).min();
        let disk = self.disks.iter().enumerate().filter_map(|(node, disk)| Some((disk.due()?, node))).min();
        if let Some((at, node)) = disk
            && at <= until
            && arrival.is_none_or(|arrival| at <= arrival)
            && timer.is_none_or(|(due, _)| at <= due)
        {
            self.now = self.now.max(at);
            self.run_disk(node);
            return true;
        }
        match (arrival, timer) {
            (Some(at), _) if at <= until && timer.is_none_or(|(due, _)| at <= due) => {
                self.now = self.now.max(at);
                let (_, flight) = self.flights.pop_first().expect("it was first");
                self.arrive(&flight);
                true
            }
            (_, Some((due, node))) if due <= until => {
                self.now = self.now.max(due);
                self.input(node, b"timeout", |shard, now, out| shard.handle_timeout(now, out));
                true
            }
            (Some(_) | None, Some(_) | None) => false,
        }
    }

    fn due(&self, node: usize) -> Option<Mono> {
        let known = &self.nodes[node];
        let due = known.shard.as_ref()?.poll_timeout()?;
        Some(Mono(due.0.saturating_add(known.started.0)))
    }

    fn arrive(&mut self, flight: &Flight) {
        let (from, to) = (flight.from, flight.to);
        if self.cuts.contains(&(from, to)) || self.nodes[to].life != flight.life {
            return;
        }
        self.input(to, &flight.frame, |shard, now, out| {
            let (frame_type, id, mut decoder) = Decoder::start(&flight.frame).expect("our own codec's frame");
            let message = PeerMessage::decode(frame_type, id, &mut decoder).expect("our own codec's message");
            let message = message.expect("a message of the data plane");
            let from = PeerShard { node: node_id(from), shard: 0 };
            shard.handle(now, ShardInput::Peer { from, message }, out);
        });
    }

    /// One input to one node, then its effects; the invariants are asserted here.
    pub(super) fn input(&mut self, node: usize, bytes: &[u8], act: impl FnOnce(&mut Shard, Now, &mut Effects)) {
        let now = self.now_at(node);
        let Some(shard) = self.nodes[node].shard.as_mut() else { return };
        let mut effects = Effects::default();
        act(shard, now, &mut effects);
        self.inputs += 1;
        let stats = shard.stats();
        assert!(
            stats.memory_bytes <= stats.memory_limit_bytes,
            "node {node} holds {} of {} bytes at {:?}",
            stats.memory_bytes,
            stats.memory_limit_bytes,
            self.now
        );
        assert!(stats.in_flight <= limits::IN_FLIGHT_PER_SHARD as u64, "requests in flight are bounded");
        self.note(node, bytes);
        if let Some(report) = effects.report {
            self.nodes[node].report = Some(report);
        }
        for (caller, frame) in effects.replies {
            self.note(node, &frame);
            let (_, id, mut decoder) = Decoder::start(&frame).expect("our own codec's frame");
            let reply = Reply::decode(id, &mut decoder).expect("our own codec's reply");
            assert_eq!(reply.id, caller.id, "a reply carries its caller's number");
            let asked = &mut self.asked[usize::try_from(caller.id).expect("tickets are small")];
            assert!(matches!(asked, Asked::At(at) if *at == node), "a caller gets one reply");
            *asked = Asked::Answered(Answer::from(&reply));
        }
        for Stored { ticket, sync, key, value } in effects.stores {
            let write = StoreWrite { ticket, sync, key: &key, value: value.as_deref() };
            self.disks[node].give(self.now, &write);
        }
        for (to, frame) in effects.sends {
            self.note(node, &frame);
            self.depart(node, usize::try_from(to.node.0 - 1).expect("the rig numbers its nodes from one"), frame);
        }
    }

    fn note(&mut self, node: usize, bytes: &[u8]) {
        self.trace.update(&self.now.0.to_le_bytes()).update(&(node as u64).to_le_bytes()).update(bytes);
    }

    fn depart(&mut self, from: usize, to: usize, frame: Vec<u8>) {
        if !self.exchanges && matches!(Decoder::start(&frame), Ok((FrameType::Exchange, ..))) {
            return;
        }
        let fate = match &mut self.fate {
            None => Fate::Deliver,
            Some(fate) => {
                let (frame_type, id, mut decoder) = Decoder::start(&frame).expect("our own codec's frame");
                let message = PeerMessage::decode(frame_type, id, &mut decoder).expect("our own codec's message");
                fate(from, to, &message.expect("a message of the data plane"))
            }
        };
        let life = self.nodes[to].life;
        match fate {
            Fate::Drop => {}
            Fate::Deliver => self.launch(Flight { from, to, life, frame }),
            Fate::Hold => self.held.push(Flight { from, to, life, frame }),
            Fate::Twice => {
                self.launch(Flight { from, to, life, frame: frame.clone() });
                self.launch(Flight { from, to, life, frame });
            }
        }
    }

    pub(super) fn launch(&mut self, flight: Flight) {
        let (least, most) = self.config.latency;
        let spread = u64::try_from((most - least).as_nanos()).expect("latencies are short");
        let latency = least + Duration::from_nanos(self.rng.below(spread + 1));
        self.sequence += 1;
        self.flights.insert((self.now + latency, self.sequence), flight);
    }
}
