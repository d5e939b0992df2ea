//! n real memberships in one virtual time: core's `Membership` as it ships, every packet through its codec.
//!
//! A mesh begins whole: each node takes all others for known, at a moment of its own within the longest period of SWIM's
//! timers, so that no two nodes act in step. Packets take a fixed delay and an exponential tail, and are lost at a given
//! rate; each fate is keyed by sender and number. A crashed node is gone with its table.
//! Invariants: events come by time and then by order, so a run is a function of its seed; a node's timers are asked for after
//! each input, as by every driver. What it is not: no streams, no reordering beyond the tail, no processing time.

use crate::{
    clock::{MS, Time},
    keyed::{Purpose, below, draw},
    queue::Queue,
};
use meshwork_core::{
    id::NodeId,
    membership::{Change, Effects, Identity, Membership},
    rng::Rng,
    time::Mono,
    value::Hlc,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Delay of every packet.
const DELAY: Time = MS / 4;
/// Mean of the exponential part of the delay.
const TAIL: Time = MS / 4;
/// Nodes begin spread over so long: the longest period of SWIM's timers, the announcements.
pub(super) const STAGGER: Time = 30_000 * MS;

/// Delay and loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    /// Every draw comes from here.
    pub(super) seed: u64,
    /// Packets lost, per million.
    pub(super) loss_ppm: u32,
}

impl Wire {
    /// How long packet number `nth` of `from` takes, and whether it is lost.
    pub(super) fn fate(self, from: u32, nth: u64) -> (Time, bool) {
        let bits = |what| draw(self.seed, Purpose::Message, &[u64::from(from), nth, what]);
        let lost = below(bits(0), 1_000_000) < u64::from(self.loss_ppm);
        // An exponential tail in integers: leading zeros are geometric, the bits below fill the gaps.
        let (bits, mean) = (bits(1), TAIL * 693 / 1_000);
        let tail = u64::from(bits.leading_zeros()) * mean + below(bits.rotate_left(32), mean);
        (DELAY + tail, lost)
    }
}

/// What a node came to believe of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// It is there.
    Up,
    /// Its own probes failed.
    Suspected,
    /// It is down: routed round from now on.
    Down,
}

/// One change of one node's mind.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// When.
    pub(super) at: Time,
    /// Whose.
    pub(super) observer: u32,
    /// About whom.
    pub(super) of: u32,
    /// What.
    pub(super) belief: Belief,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Packets, lost ones included.
    pub(super) packets: u64,
    /// Their payload, without what QUIC, UDP and IP add.
    pub(super) bytes: u64,
    /// The largest.
    pub(super) largest: u64,
}

enum Event {
    Packet { to: u32, bytes: Vec<u8> },
    Wake(u32),
}

struct Peer {
    identity: Identity,
    /// `None`: crashed.
    membership: Option<Membership>,
    /// The earliest wake in the queue.
    wake: Time,
    /// Packets sent so far.
    sent: u64,
}

/// All nodes, their network and their time.
pub(super) struct Mesh {
    seed: u64,
    wire: Wire,
    now: Time,
    order: u64,
    queue: Queue<Event>,
    peers: Vec<Peer>,
    live: usize,
    /// Sent since the start.
    pub(super) traffic: Traffic,
    /// Bytes by second of virtual time.
    pub(super) by_second: Vec<u64>,
    news: Vec<News>,
}

impl Mesh {
    /// `size` nodes that know each other. `progress` is told how far it is.
    pub(super) fn whole(size: usize, seed: u64, loss_ppm: u32, progress: &mut dyn FnMut(usize)) -> Self {
        let mut mesh = Self {
            seed,
            wire: Wire { seed, loss_ppm },
            now: 0,
            order: 0,
            queue: Queue::new(),
            peers: Vec::with_capacity(size),
            live: 0,
            traffic: Traffic::default(),
            by_second: Vec::new(),
            news: Vec::new(),
        };
        for _ in 0..size {
            mesh.add();
        }
        let all: Vec<Identity> = mesh.peers.iter().map(|peer| peer.identity).collect();
        for (index, me) in (0u32..).zip(&all) {
            let begin = below(draw(seed, Purpose::Process, &[u64::from(index), 1]), STAGGER);
            let others = all.iter().copied().filter(|other| other.node != me.node);
            mesh.drive(index, |membership| membership.restore(others, Mono(begin)));
            progress(index as usize + 1);
        }
        mesh.news.clear();
        mesh
    }

    /// One node more, that knows nobody; its index.
    pub(super) fn add(&mut self) -> u32 {
        let index = u32::try_from(self.peers.len()).expect("sizes are bounded");
        // The index is in the id, so that nothing needs to look it up; the rest is random, as every id is.
        let random = draw(self.seed, Purpose::Process, &[u64::from(index), 0]);
        let node = NodeId(u128::from(random) << 64 | u128::from(index));
        let [_, a, b, c] = index.to_be_bytes();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 7000);
        let identity = Identity { node, incarnation: Hlc(1), renewal: 0, address, shards: 2 };
        let membership = Some(Membership::new(identity, Rng::fork(random, "membership")));
        self.peers.push(Peer { identity, membership, wake: Time::MAX, sent: 0 });
        self.live += 1;
        index
    }

    /// `node` tells `of` of itself, and asks for members.
    pub(super) fn announce(&mut self, node: u32, of: u32) {
        let (identity, now) = (self.peers[of as usize].identity, Mono(self.now));
        self.drive(node, |membership| membership.announce(identity, now));
    }

    /// `node` knows everybody who runs, as links and roles tell a whole node.
    pub(super) fn introduce(&mut self, node: u32) {
        let others: Vec<Identity> =
            self.living().filter(|other| *other != node).map(|other| self.peers[other as usize].identity).collect();
        let now = Mono(self.now);
        self.drive(node, |membership| membership.restore(others.into_iter(), now));
    }

    /// `node` stops, without a word.
    pub(super) fn crash(&mut self, node: u32) {
        self.live -= usize::from(self.peers[node as usize].membership.take().is_some());
    }

    /// Virtual time.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Nodes that run.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// All nodes that run, by index.
    pub(super) fn living(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.peers).filter(|(_, peer)| peer.membership.is_some()).map(|(index, _)| index)
    }

    /// Whether `observer` runs and takes `node` for up.
    pub(super) fn is_up_at(&self, observer: u32, node: u32) -> bool {
        let id = self.peers[node as usize].identity.node;
        self.peers[observer as usize].membership.as_ref().is_some_and(|membership| membership.is_up(id))
    }

    /// Others that `node` takes for up.
    pub(super) fn known_to(&self, node: u32) -> usize {
        self.peers[node as usize].membership.as_ref().map_or(0, |membership| membership.up().len())
    }

    /// Packets and timers that nobody could use.
    pub(super) fn refused(&self) -> u64 {
        self.peers.iter().flat_map(|peer| &peer.membership).map(Membership::refused).sum()
    }

    /// Goes on until `end`, or until `on_news` says that it saw enough; whether it did.
    pub(super) fn run_until(&mut self, end: Time, on_news: &mut dyn FnMut(&News) -> bool) -> bool {
        while self.queue.next_at().is_some_and(|at| at <= end) {
            let (at, event) = self.queue.pop().expect("just seen");
            self.now = at;
            match event {
                Event::Packet { to, bytes } => self.drive(to, |membership| membership.handle_packet(&bytes, Mono(at))),
                Event::Wake(node) if self.peers[node as usize].wake == at => {
                    self.peers[node as usize].wake = Time::MAX;
                    self.drive(node, |membership| membership.handle_timeout(Mono(at)));
                }
                // An earlier wake took its place.
                Event::Wake(_) => {}
            }
            let mut enough = false;
            for news in self.news.drain(..) {
                enough |= on_news(&news);
            }
            if enough {
                return true;
            }
        }
        self.now = end;
        false
    }

    fn drive(&mut self, index: u32, call: impl FnOnce(&mut Membership) -> Effects) {
        let peer = &mut self.peers[index as usize];
        let Some(membership) = &mut peer.membership else { return };
        let effects = call(membership);
        let due = membership.poll_timeout().map_or(Time::MAX, |due| due.0.max(self.now));
        if due < peer.wake {
            peer.wake = due;
            self.order += 1;
            self.queue.push(due, self.order, Event::Wake(index));
        }
        let news = |belief, node: NodeId| News { at: self.now, observer: index, of: index_of(node), belief };
        self.news.extend(effects.suspected.iter().map(|node| news(Belief::Suspected, *node)));
        self.news.extend(effects.changes.iter().map(|change| match change {
            Change::Up(peer) | Change::Renewed(peer) => news(Belief::Up, peer.node),
            Change::Down(peer) => news(Belief::Down, peer.node),
        }));
        for (to, bytes) in effects.packets {
            self.send(index, index_of(to.node), bytes);
        }
    }

    fn send(&mut self, from: u32, to: u32, bytes: Vec<u8>) {
        let length = bytes.len() as u64;
        self.traffic.packets += 1;
        self.traffic.bytes += length;
        self.traffic.largest = self.traffic.largest.max(length);
        let second = usize::try_from(self.now / (1_000 * MS)).expect("virtual seconds fit");
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += length;
        let peer = &mut self.peers[from as usize];
        peer.sent += 1;
        let (delay, lost) = self.wire.fate(from, peer.sent);
        if !lost {
            self.order += 1;
            self.queue.push(self.now + delay, self.order, Event::Packet { to, bytes });
        }
    }
}

/// The index that `Mesh::add` put into the id.
fn index_of(node: NodeId) -> u32 {
    u32::try_from(node.0 & u128::from(u32::MAX)).expect("masked")
}
