//! The whole control plane at one size: n real `Node`s, with links, pings, roles, a layout and its acknowledgements.
//!
//! Where `swim` measures the membership alone, this shows what nodes do with it: a peer that does not answer a ping is suspected
//! sooner, everybody greets a newcomer over a link, and every change of roles or acknowledgements travels as the whole state. A link
//! is made when the first message wants it, takes a round trip for its handshake, keeps order, never loses, and stays; a crashed
//! node's peers learn of it after the idle timeout. Datagrams are lost as in `mesh`. What it is not: bytes of handshakes,
//! keep-alives and streams are not counted, and clocks are right.

use super::{
    Settings,
    mesh::Wire,
    report::{PlaneRow, Quantiles},
    swim::{Learning, Samples},
};
use crate::{
    clock::{EPOCH_MS, MS, Time},
    keyed::{Purpose, Stream, below, draw},
    process::{Effect, NodeOut},
    queue::Queue,
};
use meshwork_core::{
    config::NodeConfig,
    id::{ActorId, ClusterId, NodeId},
    input::NodeInput,
    node::Node,
    outbox::NodeEvent,
    time::{Mono, Now, Wall},
    wire::{
        control::{self, PeerControl},
        frame::Decoder,
        hello::NodeHello,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

const SECOND: Time = 1_000 * MS;
/// Nodes start spread over so long.
const START_WITHIN: Time = 10 * SECOND;
/// How long they are given to agree on the first layout.
const FOUND_MAX: Time = 600 * SECOND;
/// Quiet before something is measured.
const SETTLE: Time = 30 * SECOND;
const IDLE: Time = 60 * SECOND;
const JOIN_MAX: Time = 60 * SECOND;
const CRASH_MAX: Time = 120 * SECOND;
/// The transport's idle timeout.
const LOST_AFTER: Time = 8 * SECOND;
/// The first nodes are everybody's seeds.
const SEEDS: u32 = 3;
/// Joins and crashes: as many as make five hundred learners, and at most ten.
const LEARNERS: usize = 500;
const ROUNDS_MIN: u32 = 2;
const ROUNDS_MAX: u32 = 10;

enum Event {
    Wake(u32),
    Gossip { to: u32, packet: Vec<u8> },
    Control { from: u32, to: u32, frame: Vec<u8> },
    Hello { to: u32, hello: NodeHello },
    Lost { to: u32, peer: u32 },
}

/// Payload sent, bytes, and links made.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    gossip: u64,
    /// Pings, answers, digests.
    small: u64,
    /// Whole states.
    state: u64,
    links: u64,
}

struct Peer {
    id: NodeId,
    node: Option<Node>,
    wake: Time,
    sent: u64,
}

/// A link: until when its handshake lasts, and when the last frame of each way arrives.
struct Link {
    open: Time,
    last: [Time; 2],
}

struct Plane {
    seed: u64,
    expect: u16,
    wire: Wire,
    now: Time,
    order: u64,
    queue: Queue<Event>,
    peers: Vec<Peer>,
    by_id: BTreeMap<NodeId, u32>,
    links: BTreeMap<(u32, u32), Link>,
    sent: Sent,
    /// (when, observer, about, up).
    news: Vec<(Time, u32, u32, bool)>,
}

/// Measures a plane of `size`: it is founded, idles, and then nodes join and crash in turn.
pub fn measure(size: usize, settings: &Settings, progress: &mut dyn FnMut(&str)) -> PlaneRow {
    let mut plane = Plane {
        seed: settings.seed,
        expect: u16::try_from(size).expect("planes are smaller than meshes"),
        wire: Wire { seed: settings.seed, loss_ppm: settings.loss_ppm },
        now: 0,
        order: 0,
        queue: Queue::new(),
        peers: Vec::new(),
        by_id: BTreeMap::new(),
        links: BTreeMap::new(),
        sent: Sent::default(),
        news: Vec::new(),
    };
    let mut starts: Vec<Time> =
        (0..size as u64).map(|index| below(draw(settings.seed, Purpose::Process, &[index, 2]), START_WITHIN)).collect();
    starts.sort_unstable();
    for at in &starts {
        plane.run_until(*at, &mut |_, _, _, _| {});
        plane.start();
    }
    let rounds = u32::try_from(LEARNERS / size).unwrap_or(ROUNDS_MAX).clamp(ROUNDS_MIN, ROUNDS_MAX);
    let rounds = rounds.min(settings.effort.rounds_max);
    let mut row = PlaneRow { nodes: size, rounds, ..PlaneRow::default() };
    let last = plane.now;
    while !plane.agrees() && plane.now < last + FOUND_MAX {
        plane.run_until(plane.now + SECOND / 10, &mut |_, _, _, _| {});
    }
    row.founded_ms = plane.agrees().then(|| (plane.now - last) / MS);
    row.founding_bytes = plane.sent.state / size as u64;
    progress(&format!("{size} whole nodes: agreed after {:?} ms", row.founded_ms));
    plane.pass(SETTLE);
    let before = plane.sent;
    plane.pass(IDLE);
    let each = |bytes: u64| bytes / (IDLE / SECOND) / size as u64;
    row.idle_gossip_bytes = each(plane.sent.gossip - before.gossip);
    row.idle_small_bytes = each(plane.sent.small - before.small);
    row.idle_state_bytes = each(plane.sent.state - before.state);
    let mut draws = Stream::new(settings.seed, Purpose::Workload, size as u64);
    let (mut join, mut crash, mut newcomer) = (Samples::default(), Samples::default(), Vec::new());
    for round in 1..=rounds {
        let joiner = plane.join(&mut row, &mut join, &mut newcomer);
        plane.pass(SETTLE);
        plane.crash(joiner, &mut draws, &mut crash);
        plane.pass(SETTLE);
        progress(&format!("{size} whole nodes: round {round} of {rounds}"));
    }
    row.join_bytes /= u64::from(rounds) * size as u64;
    row.join_links /= u64::from(rounds);
    row.join = Quantiles::of(&mut join.learners);
    row.join_all = Quantiles::of(&mut join.last);
    row.join_missing = join.missing;
    row.newcomer = Quantiles::of(&mut newcomer);
    row.newcomer_missing = rounds - u32::try_from(newcomer.len()).expect("at most one a round");
    row.crash = Quantiles::of(&mut crash.learners);
    row.crash_all = Quantiles::of(&mut crash.last);
    row.crash_missing = crash.missing;
    row
}

impl Plane {
    fn pass(&mut self, time: Time) {
        self.run_until(self.now + time, &mut |_, _, _, _| {});
    }

    fn agrees(&self) -> bool {
        self.living().all(|index| self.peers[index as usize].node.as_ref().is_some_and(|node| node.view().agreed))
    }

    fn living(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.peers).filter(|(_, peer)| peer.node.is_some()).map(|(index, _)| index)
    }

    fn both_clocks(&self) -> Now {
        Now { mono: Mono(self.now), wall: Wall(EPOCH_MS + self.now / MS) }
    }

    /// One node more.
    fn start(&mut self) -> u32 {
        let index = u32::try_from(self.peers.len()).expect("planes are small");
        let bits = |nth| draw(self.seed, Purpose::Process, &[u64::from(index), nth, 3]);
        let id = NodeId(u128::from(bits(0)) << 64 | u128::from(bits(1)));
        let mut config = NodeConfig::new(ClusterId(u128::from(self.seed) | 1 << 100), id, address_of(index));
        config.cluster.bootstrap_expect = self.expect;
        config.actor = ActorId(bits(2));
        config.name = format!("node-{index}");
        config.zone = format!("zone-{}", index % 3);
        config.shards = 2;
        config.seeds = (0..SEEDS).map(address_of).collect();
        config.seed = bits(4);
        let node = Node::new(config, self.both_clocks());
        self.by_id.insert(id, index);
        self.peers.push(Peer { id, node: Some(node), wake: Time::MAX, sent: 0 });
        self.drive(index, |node, now, out| node.handle_timeout(now, out));
        index
    }

    fn join(&mut self, row: &mut PlaneRow, join: &mut Samples, newcomer: &mut Vec<Time>) -> u32 {
        let (start, before) = (self.now, self.sent);
        let ignorant: BTreeSet<u32> = self.living().collect();
        let others = ignorant.len();
        let joiner = self.start();
        let mut learning = Learning { start, ignorant, times: Vec::new() };
        let (mut known, mut knows_all) = (BTreeSet::new(), None);
        for second in 1..=JOIN_MAX / SECOND {
            self.run_until(start + second * SECOND, &mut |at, observer, of, up| {
                if up && of == joiner {
                    learning.hear(observer, at);
                }
                if up && observer == joiner && known.insert(of) && known.len() == others {
                    knows_all = Some(at - start);
                }
            });
            if learning.ignorant.is_empty() && knows_all.is_some() {
                break;
            }
        }
        // What follows the news: the state, and links to the newcomer.
        self.run_until(self.now.max(start + 10 * SECOND), &mut |_, _, _, _| {});
        row.join_bytes += self.sent.state - before.state;
        row.join_links += self.sent.links - before.links;
        join.add(learning);
        newcomer.extend(knows_all);
        joiner
    }

    fn crash(&mut self, spared: u32, draws: &mut Stream, crash: &mut Samples) {
        let start = self.now;
        let candidates: Vec<u32> = self.living().filter(|node| *node != spared && *node >= SEEDS).collect();
        let victim = if candidates.is_empty() { 0 } else { draws.pick(&candidates) };
        self.peers[victim as usize].node = None;
        let gone: Vec<(u32, u32)> = self.links.keys().copied().filter(|(a, b)| *a == victim || *b == victim).collect();
        for (a, b) in gone {
            self.links.remove(&(a, b));
            let to = if a == victim { b } else { a };
            self.push(start + LOST_AFTER, Event::Lost { to, peer: victim });
        }
        let ignorant = self.living().collect();
        let mut learning = Learning { start, ignorant, times: Vec::new() };
        for second in 1..=CRASH_MAX / SECOND {
            self.run_until(start + second * SECOND, &mut |at, observer, of, up| {
                if !up && of == victim {
                    learning.hear(observer, at);
                }
            });
            if learning.ignorant.is_empty() {
                break;
            }
        }
        crash.add(learning);
    }

    fn run_until(&mut self, end: Time, on_news: &mut dyn FnMut(Time, u32, u32, bool)) {
        while self.queue.next_at().is_some_and(|at| at <= end) {
            let (at, event) = self.queue.pop().expect("just seen");
            self.now = at;
            match event {
                Event::Wake(index) if self.peers[index as usize].wake == at => {
                    self.peers[index as usize].wake = Time::MAX;
                    self.drive(index, |node, now, out| node.handle_timeout(now, out));
                }
                // An earlier wake took its place.
                Event::Wake(_) => {}
                Event::Gossip { to, packet } => {
                    self.drive(to, |node, now, out| node.handle(now, NodeInput::Gossip(&packet), out));
                }
                Event::Control { from, to, frame } => {
                    let from = self.peers[from as usize].id;
                    let message = decoded(&frame);
                    self.drive(to, |node, now, out| node.handle(now, NodeInput::Peer { from, message }, out));
                }
                Event::Hello { to, hello } => {
                    let wall = self.both_clocks().wall;
                    self.drive(to, |node, now, out| node.handle(now, NodeInput::PeerHello { hello, wall }, out));
                }
                Event::Lost { to, peer } => {
                    let peer = self.peers[peer as usize].id;
                    self.drive(to, |node, now, out| node.handle(now, NodeInput::PeerLost(peer), out));
                }
            }
            for (at, observer, of, up) in std::mem::take(&mut self.news) {
                on_news(at, observer, of, up);
            }
        }
        self.now = end;
    }

    fn push(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(at, self.order, event);
    }

    fn drive(&mut self, index: u32, call: impl FnOnce(&mut Node, Now, &mut NodeOut<'_>)) {
        let now = self.both_clocks();
        let Some(node) = &mut self.peers[index as usize].node else { return };
        let mut effects = Vec::new();
        call(node, now, &mut NodeOut { effects: &mut effects });
        // A disk that is at once done.
        for at in 0..effects.len() {
            if let Effect::Store(bound) = effects[at] {
                node.handle(now, NodeInput::ClockStored(bound), &mut NodeOut { effects: &mut effects });
            }
        }
        let due = node.poll_timeout().map_or(Time::MAX, |due| due.0.max(self.now));
        if due < self.peers[index as usize].wake {
            self.peers[index as usize].wake = due;
            self.push(due, Event::Wake(index));
        }
        for effect in effects {
            match effect {
                Effect::Gossip { to, packet, .. } => {
                    self.sent.gossip += packet.len() as u64;
                    self.gossip(index, self.by_id[&to], packet);
                }
                Effect::Control { to, frame, .. } => {
                    let length = frame.len() as u64;
                    // Pings, answers and digests have less than this; a state has a role at least.
                    *(if length < 100 { &mut self.sent.small } else { &mut self.sent.state }) += length;
                    self.control(index, self.by_id[&to], frame);
                }
                Effect::Dial(address) => {
                    if let Some(to) = index_at(address).filter(|to| (*to as usize) < self.peers.len()) {
                        self.link(index, to);
                    }
                }
                Effect::Event(NodeEvent::MemberUp { node, .. }) => {
                    self.news.push((self.now, index, self.by_id[&node], true));
                }
                Effect::Event(NodeEvent::MemberDown { node, .. }) => {
                    self.news.push((self.now, index, self.by_id[&node], false));
                }
                Effect::Event(
                    NodeEvent::LayoutAdopted { .. }
                    | NodeEvent::LayoutRetired { .. }
                    | NodeEvent::Fenced(_)
                    | NodeEvent::RestoredTooOld { .. }
                    | NodeEvent::Refused { .. }
                    | NodeEvent::MustStop { .. },
                )
                | Effect::Publish(_)
                | Effect::Store(_)
                | Effect::Write { .. }
                | Effect::StoreMeta { .. }
                | Effect::ControlReply(_)
                | Effect::Reply { .. }
                | Effect::Report(_)
                | Effect::Peer { .. } => {}
            }
        }
    }

    fn delay(&mut self, from: u32) -> (Time, bool) {
        let peer = &mut self.peers[from as usize];
        peer.sent += 1;
        self.wire.fate(from, peer.sent)
    }

    /// When the link between the two is open; made if there was none, `None` if nobody is there.
    fn link(&mut self, from: u32, to: u32) -> Option<Time> {
        if from == to || self.peers[to as usize].node.is_none() {
            return None;
        }
        let pair = (from.min(to), from.max(to));
        if let Some(link) = self.links.get(&pair) {
            return Some(link.open);
        }
        let (there, _) = self.delay(from);
        let (back, _) = self.delay(to);
        let (again, _) = self.delay(from);
        self.sent.links += 1;
        let heard = self.now + there + back + again;
        let open = heard + back;
        self.links.insert(pair, Link { open, last: [open; 2] });
        for (at, to, of) in [(heard, to, from), (open, from, to)] {
            if let Some(node) = &self.peers[of as usize].node {
                let hello = node.hello();
                self.push(at, Event::Hello { to, hello });
            }
        }
        Some(open)
    }

    fn gossip(&mut self, from: u32, to: u32, packet: Vec<u8>) {
        let Some(open) = self.link(from, to) else { return };
        let (delay, lost) = self.delay(from);
        if !lost {
            self.push(open.max(self.now) + delay, Event::Gossip { to, packet });
        }
    }

    fn control(&mut self, from: u32, to: u32, frame: Vec<u8>) {
        let Some(open) = self.link(from, to) else { return };
        let (delay, lost) = self.delay(from);
        // A loss on a stream is a resend.
        let resend = if lost { 2 * delay + 20 * MS } else { 0 };
        let link = self.links.get_mut(&(from.min(to), from.max(to))).expect("just seen");
        let last = &mut link.last[usize::from(from > to)];
        *last = (open.max(self.now) + delay + resend).max(*last + 1);
        let at = *last;
        self.push(at, Event::Control { from, to, frame });
    }
}

fn decoded(frame: &[u8]) -> PeerControl {
    let (_, id, mut decoder) = Decoder::start(frame).expect("nodes send whole frames");
    control::decode(id, &mut decoder).expect("nodes send whole messages")
}

fn address_of(index: u32) -> SocketAddr {
    let [_, a, b, c] = index.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 7000)
}

fn index_at(address: SocketAddr) -> Option<u32> {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            Some(u32::from_be_bytes([0, a, b, c]))
        }
        IpAddr::V6(_) => None,
    }
}
