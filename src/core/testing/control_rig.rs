//! A few `Node`s in virtual time, without shards: the control plane alone (STYLE §6).
//!
//! One queue of (time, sequence); the next event is the next in it, so nothing waits for anything real. What a node
//! sends is encoded to bytes and decoded by its receiver. A link is set up by the first message between two processes,
//! with a `Hello` each way, and is lost when one of them dies. Shards are imagined: they report what theirs would. Faults are drawn from nothing but the seed and the test's
//! calls; `trace` hashes all that was delivered, so equal runs have equal traces.

use crate::{
    config::NodeConfig,
    id::{ActorId, ClusterId, NodeId},
    input::{Caller, NodeInput},
    node::Node,
    outbox::{NodeEvent, NodeOutbox, ShardReport},
    rng::Rng,
    time::{Mono, Now, Wall},
    value::Hlc,
    view::View,
    wire::{
        control::{self, ClientControl, ControlReply, NodeStatus, PeerControl},
        frame::Decoder,
    },
};
use bytes::BytesMut;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// Wall time at the start of the rig, milliseconds.
const EPOCH: u64 = 1_800_000_000_000;
/// How long a link outlives a process that stopped answering.
const LINK_IDLE: Duration = Duration::from_secs(3);

/// One process, by the order of starting.
pub type Index = usize;

struct Process {
    node: Node,
    config: NodeConfig,
    alive: bool,
    wall_offset: i64,
    events: Vec<NodeEvent>,
    replies: Vec<ControlReply>,
    published: usize,
    armed: Option<Mono>,
    bound: Hlc,
    /// What it stored last, if it has a disk.
    meta: Option<Vec<u8>>,
    /// Whether what it stores reaches the disk.
    keeps: bool,
    /// Whether clock bounds reach the disk.
    disk: bool,
    paused_until: Mono,
    /// Whether its imagined shards get what they ask for.
    moves: bool,
}

#[derive(Debug)]
enum Event {
    Timeout(Index),
    Gossip { to: Index, packet: Vec<u8> },
    Control { to: Index, from: NodeId, frame: Vec<u8> },
    Hello { to: Index, from: Index },
    Lost { to: Index, peer: NodeId },
    Stored { to: Index, bound: Hlc },
    MetaStored { to: Index, number: u64, bytes: Vec<u8> },
    Report { to: Index, report: ShardReport },
}

enum Effect {
    Gossip(SocketAddr, Vec<u8>),
    Control(NodeId, SocketAddr, Vec<u8>),
    Dial(SocketAddr),
    Reply(ControlReply),
    Publish,
    Store(Hlc),
    StoreMeta(u64, Vec<u8>),
    Event(NodeEvent),
}

#[derive(Default)]
struct Collected(Vec<Effect>);

impl NodeOutbox for Collected {
    fn gossip(&mut self, _to: NodeId, address: SocketAddr, packet: &[u8]) {
        self.0.push(Effect::Gossip(address, packet.to_vec()));
    }
    fn control(&mut self, to: NodeId, address: SocketAddr, message: &PeerControl) {
        let mut frame = BytesMut::new();
        control::encode(&mut frame, 0, message);
        self.0.push(Effect::Control(to, address, frame.to_vec()));
    }
    fn dial(&mut self, address: SocketAddr) {
        self.0.push(Effect::Dial(address));
    }
    fn reply(&mut self, _caller: Caller, reply: &ControlReply) {
        let mut frame = BytesMut::new();
        control::encode(&mut frame, 0, reply);
        self.0.push(Effect::Reply(decoded(&frame)));
    }
    fn publish(&mut self, _view: Arc<View>) {
        self.0.push(Effect::Publish);
    }
    fn store_clock(&mut self, bound: Hlc) {
        self.0.push(Effect::Store(bound));
    }
    fn store_meta(&mut self, number: u64, bytes: &[u8]) {
        self.0.push(Effect::StoreMeta(number, bytes.to_vec()));
    }
    fn event(&mut self, event: NodeEvent) {
        self.0.push(Effect::Event(event));
    }
}

fn decoded<T: serde::de::DeserializeOwned>(frame: &[u8]) -> T {
    let (_, id, mut decoder) = Decoder::start(frame).expect("encoded by this rig");
    control::decode(id, &mut decoder).expect("encoded by this rig")
}

/// The processes and what is under way between them.
pub struct ControlRig {
    processes: Vec<Process>,
    queue: BTreeMap<(Mono, u64), Event>,
    sequence: u64,
    now: Mono,
    rng: Rng,
    links: BTreeSet<(Index, Index)>,
    cuts: BTreeSet<(Index, Index)>,
    /// To and from whom datagrams are lost while streams are not.
    gossip_lost: Option<Index>,
    trace: u64,
}

impl ControlRig {
    /// No process yet.
    pub fn new(seed: u64) -> Self {
        Self {
            processes: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            now: Mono(1_000_000_000),
            rng: Rng::fork(seed, "control rig"),
            links: BTreeSet::new(),
            cuts: BTreeSet::new(),
            gossip_lost: None,
            trace: 0,
        }
    }

    /// Settings of node `number`, called `node-NUMBER`, at its own address, with node 1 as its seed.
    pub fn config(&self, number: u16) -> NodeConfig {
        let mut config = NodeConfig::new(ClusterId(42), NodeId(u128::from(number) << 64), Self::address(number));
        config.cluster.partitions = 64;
        config.name = format!("node-{number}");
        config.seeds = vec![Self::address(1)];
        config
    }

    /// Where node `number` listens.
    pub fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 7000 + number))
    }

    /// Starts a process; its actor and seed are drawn here, its clock is right.
    pub fn start(&mut self, config: NodeConfig) -> Index {
        self.start_off_by(config, 0)
    }

    /// Starts a process whose wall is off by so many milliseconds.
    pub fn start_off_by(&mut self, mut config: NodeConfig, wall_offset: i64) -> Index {
        (config.actor, config.seed) = (ActorId(self.rng.next()), self.rng.next());
        let now = self.now_with(wall_offset);
        self.processes.push(Process {
            node: Node::new(config.clone(), now),
            alive: true,
            wall_offset,
            events: Vec::new(),
            replies: Vec::new(),
            published: 0,
            armed: None,
            bound: Hlc::default(),
            meta: config.restored.clone(),
            disk: true,
            paused_until: Mono::default(),
            moves: true,
            keeps: true,
            config,
        });
        let index = self.processes.len() - 1;
        self.arm(index);
        index
    }

    /// Kills a process: nothing of it is heard again, and its links are lost after a while.
    pub fn kill(&mut self, index: Index) {
        self.processes[index].alive = false;
        let peer = self.processes[index].config.node;
        let links: Vec<(Index, Index)> =
            self.links.iter().copied().filter(|(a, b)| *a == index || *b == index).collect();
        for link in links {
            self.links.remove(&link);
            let to = if link.0 == index { link.1 } else { link.0 };
            self.push(self.now + LINK_IDLE, Event::Lost { to, peer });
        }
    }

    /// Settings of a process that starts again on the same disk: identity and clock bound are kept.
    pub fn config_from_disk(&self, index: Index) -> NodeConfig {
        let process = &self.processes[index];
        let restored = process.meta.clone();
        NodeConfig { known: true, clock_floor: process.bound, restored, ..process.config.clone() }
    }

    /// What a process stored last.
    pub fn meta(&self, index: Index) -> Option<Vec<u8>> {
        self.processes[index].meta.clone()
    }

    /// The process stands still for so long, as under SIGSTOP; what arrives waits, and its timers come first.
    pub fn pause(&mut self, index: Index, time: Duration) {
        self.processes[index].paused_until = self.now + time;
    }

    /// Nothing passes between these two any more.
    pub fn cut(&mut self, a: Index, b: Index) {
        self.cuts.insert((a.min(b), a.max(b)));
    }

    /// From now on every datagram to and from this process is lost, or none anywhere; streams are whole.
    pub fn lose_gossip(&mut self, of: Option<Index>) {
        self.gossip_lost = of;
    }

    /// All cuts end.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// The wall of a process jumps.
    pub fn jump_wall(&mut self, index: Index, millis: i64) {
        self.processes[index].wall_offset += millis;
    }

    /// Whether clock bounds of a process still reach its disk.
    pub fn set_disk(&mut self, index: Index, works: bool) {
        self.processes[index].disk = works;
    }

    /// Whether the state that a process stores still reaches its disk.
    pub fn set_keeps(&mut self, index: Index, keeps: bool) {
        self.processes[index].keeps = keeps;
    }

    /// Whether partitions come to a process. Set before they are asked for.
    pub fn set_moves(&mut self, index: Index, moves: bool) {
        self.processes[index].moves = moves;
        self.report(index);
    }

    /// What shards would say of the newest view: drained after a moment, and complete once moving has begun.
    fn report(&mut self, index: Index) {
        let view = self.processes[index].node.view();
        let (Some(newest), Some(read)) = (view.newest(), view.ring.as_ref()) else { return };
        let owned = newest.shares().iter().find(|(node, _)| *node == view.me).map_or(0, |(_, share)| *share);
        let has = view.beside.is_none() || (view.moving && self.processes[index].moves);
        let report = |shard| ShardReport {
            shard,
            newest: newest.name(),
            read: read.name(),
            lapses: view.lapses,
            drained: true,
            missing: if has || shard > 0 { 0 } else { owned },
            partitions: if shard > 0 { 0 } else { owned },
            moved_bytes: 0,
        };
        for shard in 0..self.processes[index].config.shards {
            let at = self.now + Duration::from_millis(500) + self.latency();
            self.push(at, Event::Report { to: index, report: report(shard) });
        }
    }

    /// The state machine.
    pub fn node(&self, index: Index) -> &Node {
        &self.processes[index].node
    }

    /// Its snapshot.
    pub fn view(&self, index: Index) -> Arc<View> {
        self.node(index).view()
    }

    /// Its status.
    pub fn status(&self, index: Index) -> NodeStatus {
        self.node(index).status(self.now_of(index))
    }

    /// Its clock.
    pub fn wall(&self, index: Index) -> Wall {
        self.node(index).wall(self.now_of(index))
    }

    /// What it told its watcher.
    pub fn events(&self, index: Index) -> &[NodeEvent] {
        &self.processes[index].events
    }

    /// How many snapshots it published.
    pub fn published(&self, index: Index) -> usize {
        self.processes[index].published
    }

    /// Hash of all that happened so far.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Virtual time.
    pub fn now(&self) -> Mono {
        self.now
    }

    /// A client asks; the answer.
    pub fn ask(&mut self, index: Index, admin: bool, request: ClientControl) -> ControlReply {
        let caller = Caller { link: 1, id: 1 };
        self.input(index, NodeInput::Client { caller, admin, request });
        self.processes[index].replies.pop().expect("every caller gets a reply")
    }

    /// An input from outside the rig.
    pub fn input(&mut self, index: Index, input: NodeInput<'_>) {
        let now = self.now_of(index);
        let mut out = Collected::default();
        self.processes[index].node.handle(now, input, &mut out);
        self.perform(index, out);
    }

    /// Runs for so long.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `condition` holds, at most `limit`; how long that took.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        while !condition(self) {
            if !self.step(end) {
                return None;
            }
        }
        Some(self.now.since(start))
    }

    fn now_with(&self, wall_offset: i64) -> Now {
        let wall = (EPOCH + self.now.millis()).saturating_add_signed(wall_offset);
        Now { mono: self.now, wall: Wall(wall) }
    }

    fn now_of(&self, index: Index) -> Now {
        self.now_with(self.processes[index].wall_offset)
    }

    fn push(&mut self, at: Mono, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(200 + self.rng.below(2_000))
    }

    fn arm(&mut self, index: Index) {
        let due = self.processes[index].node.poll_timeout().map(|at| at.max(self.now));
        let Some(at) = due else { return };
        if self.processes[index].armed.is_none_or(|armed| at < armed) {
            self.processes[index].armed = Some(at);
            self.push(at, Event::Timeout(index));
        }
    }

    fn step(&mut self, end: Mono) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let (at, _) = *entry.key();
        let event = entry.remove();
        self.now = at;
        let line = format!("{} {event:?}", at.0);
        let hash = blake3::hash(&[&self.trace.to_be_bytes()[..], line.as_bytes()].concat());
        self.trace = u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("eight of 32 bytes"));
        self.deliver(event);
        true
    }

    fn deliver(&mut self, event: Event) {
        let to = match &event {
            Event::Timeout(to)
            | Event::Gossip { to, .. }
            | Event::Control { to, .. }
            | Event::Hello { to, .. }
            | Event::Lost { to, .. }
            | Event::Report { to, .. }
            | Event::MetaStored { to, .. }
            | Event::Stored { to, .. } => *to,
        };
        if !self.processes[to].alive {
            return;
        }
        let resumes = self.processes[to].paused_until;
        if resumes > self.now {
            let reads = Duration::from_micros(u64::from(!matches!(event, Event::Timeout(_))));
            self.push(resumes + reads, event);
            return;
        }
        match event {
            Event::Timeout(index) => {
                self.processes[index].armed = None;
                let now = self.now_of(index);
                let mut out = Collected::default();
                self.processes[index].node.handle_timeout(now, &mut out);
                self.perform(index, out);
            }
            Event::Gossip { packet, .. } => self.input(to, NodeInput::Gossip(&packet)),
            Event::Control { from, frame, .. } => {
                self.input(to, NodeInput::Peer { from, message: decoded(&frame) });
            }
            Event::Hello { from, .. } => {
                let (hello, wall) = (self.processes[from].node.hello(), self.now_of(from).wall);
                self.input(to, NodeInput::PeerHello { hello, wall });
            }
            Event::Report { report, .. } => self.input(to, NodeInput::Report(report)),
            Event::Lost { peer, .. } => self.input(to, NodeInput::PeerLost(peer)),
            Event::MetaStored { number, bytes, .. } => {
                self.processes[to].meta = Some(bytes);
                self.input(to, NodeInput::MetaStored(number));
            }
            Event::Stored { bound, .. } => {
                self.processes[to].bound = bound;
                self.input(to, NodeInput::ClockStored(bound));
            }
        }
    }

    /// The live process at an address, if `from` can reach it.
    fn reach(&self, from: Index, address: SocketAddr) -> Option<Index> {
        let to = self.processes.iter().rposition(|process| process.alive && process.config.address == address)?;
        (!self.cuts.contains(&(from.min(to), from.max(to)))).then_some(to)
    }

    fn link(&mut self, from: Index, to: Index, at: Mono) {
        if from == to || self.links.insert((from.min(to), from.max(to))) {
            self.push(at, Event::Hello { to, from });
            self.push(at, Event::Hello { to: from, from: to });
        }
    }

    fn perform(&mut self, from: Index, out: Collected) {
        for effect in out.0 {
            let at = self.now + self.latency();
            match effect {
                Effect::Gossip(address, packet) => {
                    if let Some(to) = self.reach(from, address) {
                        self.link(from, to, at);
                        if self.gossip_lost.is_none_or(|of| of != from && of != to) {
                            self.push(at, Event::Gossip { to, packet });
                        }
                    }
                }
                Effect::Control(node, address, frame) => {
                    if let Some(to) = self.reach(from, address).filter(|to| self.processes[*to].config.node == node) {
                        self.link(from, to, at);
                        let from = self.processes[from].config.node;
                        self.push(at, Event::Control { to, from, frame });
                    }
                }
                Effect::Dial(address) => {
                    if let Some(to) = self.reach(from, address) {
                        self.link(from, to, at);
                    }
                }
                Effect::Reply(reply) => self.processes[from].replies.push(reply),
                Effect::Publish => {
                    self.processes[from].published += 1;
                    self.report(from);
                }
                Effect::Store(bound) => {
                    if self.processes[from].disk {
                        self.push(at, Event::Stored { to: from, bound });
                    }
                }
                Effect::StoreMeta(number, bytes) => {
                    if self.processes[from].keeps {
                        self.push(at, Event::MetaStored { to: from, number, bytes });
                    }
                }
                Effect::Event(event) => self.processes[from].events.push(event),
            }
        }
        self.arm(from);
    }
}
