//! Connections between processes: dialing, `Hello`s, frames, losing them (contract: one link per pair of shards).
//!
//! As the node's driver does it: a message to a peer's shard takes the open connection to it or dials one and waits;
//! whoever dialed, both ends use it. Each end says `Hello` with its real bytes. When the last connection of a shard to a
//! node is gone, that shard is told; when the last of the process is, its node is told too.

use crate::{
    checkers::sight::Given,
    clock::{MS, Time},
    cluster::{CLUSTER, Cluster, Event},
    keyed::below,
    network::{LinkState, Site},
    process::machine_at,
};
use meshwork_core::{
    id::NodeId,
    input::{NodeInput, PeerShard, ShardInput},
    wire::hello::{Hello, HelloReply, NodeHello, PROTOCOL, Welcome},
};
use std::net::SocketAddr;

/// A dial that nobody answers is given up after this.
const DIAL_TIMEOUT: Time = 1_000 * MS;
/// The peer of a process that died learns it so soon, when the machine lives and answers with a reset.
const RESET_AFTER: Time = 3 * MS;

impl Cluster<'_> {
    pub(crate) fn send_to_peer(&mut self, from: Site, to: PeerShard, frame: Vec<u8>) {
        match self.processes[from.process as usize].links.get(&(to.node, to.shard, from.shard)) {
            Some(link) => {
                let link = *link;
                let end = self.end_of(link, from.process);
                self.transmit(link, end, frame);
            }
            None => {
                let address = self.processes[from.process as usize].node.address_of(to.node);
                if let Some(machine) = address.and_then(|(address, _)| machine_at(address))
                    && let Some(link) = self.dial(from, machine, to.shard)
                {
                    self.network.wait(link, to.node, frame);
                }
            }
        }
    }

    pub(crate) fn send_control(&mut self, process: u32, to: NodeId, address: SocketAddr, frame: Vec<u8>) {
        let from = Site { process, shard: 0 };
        if self.processes[process as usize].links.contains_key(&(to, 0, 0)) {
            return self.send_to_peer(from, PeerShard { node: to, shard: 0 }, frame);
        }
        if let Some(link) = machine_at(address).and_then(|machine| self.dial(from, machine, 0)) {
            self.network.wait(link, to, frame);
        }
    }

    pub(crate) fn send_gossip(&mut self, process: u32, to: NodeId, address: SocketAddr, packet: Vec<u8>) {
        let from = Site { process, shard: 0 };
        match self.processes[process as usize].links.get(&(to, 0, 0)).copied() {
            Some(link) => self.datagram(link, self.end_of(link, process), packet),
            None => {
                if let Some(link) = machine_at(address).and_then(|machine| self.dial(from, machine, 0)) {
                    let pending = &mut self.network.links[link as usize].pending_gossip;
                    if pending.len() < 64 {
                        pending.push(packet);
                    }
                }
            }
        }
    }

    pub(crate) fn dial_address(&mut self, process: u32, address: SocketAddr) {
        if let Some(machine) = machine_at(address) {
            self.dial(Site { process, shard: 0 }, machine, 0);
        }
    }

    fn end_of(&self, link: u32, process: u32) -> usize {
        usize::from(self.network.links[link as usize].ends[0].process != process)
    }

    /// The connection in handshake to a shard of whoever is on that machine; `None`: there is no such machine.
    fn dial(&mut self, from: Site, machine: u16, shard: u16) -> Option<u32> {
        if usize::from(machine) >= self.machines.len() {
            return None;
        }
        let dialer = &self.processes[from.process as usize];
        if let Some(link) = dialer.dials.get(&(machine, shard, from.shard)) {
            return Some(*link);
        }
        let (own, node) = (dialer.machine, dialer.node_id);
        let hello = dialer.node.hello();
        let wall = dialer.node.wall(self.now_of(from.process));
        let link = self.network.dial([from, Site { process: u32::MAX, shard }], [own, machine], node);
        self.processes[from.process as usize].dials.insert((machine, shard, from.shard), link);
        let frame =
            Hello { protocol: PROTOCOL, cluster: CLUSTER, wall, node: Some(hello), shard: from.shard }.to_bytes();
        let reachable = self.machines[usize::from(machine)].process.is_some()
            && !self.network.is_blocked(own, machine)
            && !self.network.is_blocked(machine, own);
        if reachable {
            // TLS takes a round trip before the first frame.
            let handshake = self.network.fate(Some(own), Some(machine), 2).delay
                + self.network.fate(Some(machine), Some(own), 3).delay;
            let way = self.network.fate(Some(own), Some(machine), 4).delay;
            self.push(self.at + handshake + way, Event::Hello { link, frame });
        }
        self.push(self.at + DIAL_TIMEOUT + if reachable { 4_000 * MS } else { 0 }, Event::DialFailed { link });
        Some(link)
    }

    pub(crate) fn on_dial_failed(&mut self, link: u32) {
        let state = self.network.links[link as usize].state;
        if state == LinkState::Dialing {
            self.sight.probe("dial failed");
            self.network.links[link as usize].state = LinkState::Gone;
            self.forget_dial(link);
            let acceptor = self.network.links[link as usize].ends[1].process;
            if acceptor != u32::MAX {
                self.push(self.at, Event::Lost { link, end: 1 });
            }
        }
    }

    fn forget_dial(&mut self, link: u32) {
        let made = &mut self.network.links[link as usize];
        let (dialer, key) = (made.ends[0], (made.machines[1], made.ends[1].shard, made.ends[0].shard));
        made.pending = Vec::new();
        made.pending_gossip = Vec::new();
        let dials = &mut self.processes[dialer.process as usize].dials;
        if dials.get(&key) == Some(&link) {
            dials.remove(&key);
        }
    }

    pub(crate) fn on_hello(&mut self, link: u32, frame: &[u8]) {
        let made = &self.network.links[link as usize];
        let ([own, machine], [dialer, there]) = (made.machines, made.ends);
        let blocked = self.network.is_blocked(own, machine) || self.network.is_blocked(machine, own);
        let gone = made.state == LinkState::Gone || !self.processes[dialer.process as usize].alive;
        let Some(acceptor) = self.machines[usize::from(machine)].process.filter(|_| !blocked && !gone) else { return };
        self.trace.add_bytes(frame);
        self.trace.event(|| format!("p{acceptor} hello from p{}", dialer.process));
        if usize::from(there.shard) >= self.processes[acceptor as usize].shards.len() {
            return;
        }
        let hello = Hello::from_bytes(frame).expect("nodes send whole Hellos");
        let from = hello.node.expect("nodes say who they are");
        let welcome = HelloReply::Welcome(Box::new(Welcome {
            protocol: PROTOCOL,
            node: self.processes[acceptor as usize].node.hello(),
            shard: there.shard,
            wall: self.processes[acceptor as usize].node.wall(self.now_of(acceptor)),
            value_max: meshwork_core::limits::VALUE_BYTES_MAX,
            routing: None,
        }));
        let (node, own_node) = (from.node, self.processes[acceptor as usize].node_id);
        let itself = acceptor == dialer.process;
        {
            let made = &mut self.network.links[link as usize];
            made.ends[1].process = acceptor;
            made.nodes[1] = own_node;
        }
        if !itself && node != own_node {
            let shard = there.shard;
            self.processes[acceptor as usize].links.entry((node, dialer.shard, shard)).or_insert(link);
        }
        let (at, _) = self.network.arrival(link, 1, self.at);
        self.push(at, Event::Welcome { link, frame: welcome.to_bytes() });
        self.meet(acceptor, from, hello.wall);
    }

    pub(crate) fn on_welcome(&mut self, link: u32, frame: &[u8]) {
        let made = &self.network.links[link as usize];
        if made.state != LinkState::Dialing {
            return;
        }
        let (dialer, there) = (made.ends[0], made.ends[1]);
        self.trace.add_bytes(frame);
        self.trace.event(|| format!("p{} welcome from p{}", dialer.process, there.process));
        let HelloReply::Welcome(welcome) = HelloReply::from_bytes(frame).expect("nodes send whole Hellos") else {
            unreachable!("no simulated node refuses a link");
        };
        let itself =
            dialer.process == there.process || welcome.node.node == self.processes[dialer.process as usize].node_id;
        let pending = std::mem::take(&mut self.network.links[link as usize].pending);
        let packets = std::mem::take(&mut self.network.links[link as usize].pending_gossip);
        self.forget_dial(link);
        self.network.links[link as usize].state = if itself { LinkState::Gone } else { LinkState::Open };
        self.meet(dialer.process, welcome.node.clone(), welcome.wall);
        if itself {
            return;
        }
        let key = (welcome.node.node, there.shard, dialer.shard);
        self.processes[dialer.process as usize].links.entry(key).or_insert(link);
        for packet in packets {
            self.datagram(link, 0, packet);
        }
        // Whoever answered may be another process at the address of the one that was meant.
        for (_, frame) in pending.into_iter().filter(|(meant, _)| *meant == welcome.node.node) {
            self.transmit(link, 0, frame);
        }
    }

    /// A process reads a peer's `Hello`.
    fn meet(&mut self, process: u32, hello: NodeHello, wall: meshwork_core::time::Wall) {
        let met = &self.processes[process as usize];
        let own = met.node.hello();
        if hello.node == own.node && hello.incarnation > own.incarnation {
            self.sight.probe("a process met a newer one of its identity");
            self.sight.layouts.on_superseded(self.at, process);
        }
        self.node_input(process, NodeInput::PeerHello { hello, wall });
    }

    /// Sends a frame from an end of a connection.
    pub(crate) fn transmit(&mut self, link: u32, end: usize, frame: Vec<u8>) {
        let made = &self.network.links[link as usize];
        if made.state == LinkState::Gone {
            return;
        }
        let machines = made.machines;
        if self.network.is_blocked(machines[end], machines[1 - end]) {
            let held = &mut self.network.links[link as usize].held[end];
            if held.len() < 4_096 {
                held.push(frame);
            }
            return;
        }
        let (arrives, fate) = self.network.arrival(link, end, self.at);
        if let Some(timeline) = &mut self.timeline {
            timeline.frame((self.at, arrives), (machines[end], machines[1 - end]), &frame);
        }
        self.mischief(link, end, arrives, fate.bits, &frame);
        self.push(arrives, Event::Frame { link, end: 1 - end, frame });
    }

    /// What else may happen to a frame: copies, noise.
    fn mischief(&mut self, link: u32, end: usize, arrives: Time, bits: u64, frame: &[u8]) {
        let options = self.network.options();
        let (duplicate, late, unknown, damage) =
            (options.duplicate_ppm, options.late_ppm, options.unknown_ppm, options.damage_ppm);
        if duplicate + late + unknown + damage == 0 {
            return;
        }
        let hit = |turn: u32, ppm: u32| {
            below(bits.rotate_left(turn).wrapping_mul(0xd6e8_feb8_6659_fd93), 1_000_000) < u64::from(ppm)
        };
        let made = &self.network.links[link as usize];
        let (to, from) = (made.ends[1 - end], PeerShard { node: made.nodes[end], shard: made.ends[end].shard });
        // Replicate, Replicated, Read, ReadReply: what a retry over another connection could repeat.
        let repeats = frame.get(1).is_some_and(|kind| (16..=19).contains(kind));
        if repeats && hit(11, duplicate) {
            self.sight.probe("message delivered twice");
            self.push(arrives + below(bits, 60 * MS), Event::Stray { to, from, frame: frame.to_vec() });
        }
        if repeats && hit(23, late) {
            self.sight.probe("copy of a message minutes late");
            let delay = 31_000 * MS + below(bits, 170_000 * MS);
            self.push(arrives + delay, Event::Stray { to, from, frame: frame.to_vec() });
        }
        if hit(31, unknown) {
            // [99, 7]: a type that nobody knows.
            self.push(arrives, Event::Frame { link, end: 1 - end, frame: vec![0x92, 99, 7] });
        }
        if hit(43, damage) {
            let cut = below(bits.rotate_left(5), frame.len() as u64) as usize;
            let noise = if bits & 1 == 0 { frame[..cut].to_vec() } else { bits.to_le_bytes().to_vec() };
            self.push(arrives, Event::Frame { link, end: 1 - end, frame: noise });
        }
    }

    fn datagram(&mut self, link: u32, end: usize, packet: Vec<u8>) {
        let made = &self.network.links[link as usize];
        let machines = made.machines;
        let to = made.ends[1 - end].process;
        if made.state == LinkState::Gone || self.network.is_blocked(machines[end], machines[1 - end]) || to == u32::MAX
        {
            return;
        }
        let fate = self.network.fate(Some(machines[end]), Some(machines[1 - end]), 5);
        let lost = self.network.drops(fate);
        if let Some(timeline) = &mut self.timeline {
            timeline.packet((self.at, self.at + fate.delay), (machines[end], machines[1 - end]), lost);
        }
        if lost {
            self.sight.probe("datagram lost");
            return;
        }
        if below(fate.bits.rotate_left(9), 1_000_000) < u64::from(self.network.options().duplicate_ppm) {
            self.push(self.at + 2 * fate.delay, Event::Gossip { process: to, packet: packet.clone() });
        }
        self.push(self.at + fate.delay, Event::Gossip { process: to, packet });
    }

    pub(crate) fn on_frame(&mut self, link: u32, end: usize, frame: &[u8]) {
        let made = &self.network.links[link as usize];
        if made.state == LinkState::Gone {
            return;
        }
        let (to, from) = (made.ends[end], PeerShard { node: made.nodes[1 - end], shard: made.ends[1 - end].shard });
        self.trace.add(u64::from(link));
        self.trace.add_bytes(frame);
        self.trace.event(|| format!("{to:?} frame from {from:?}: {frame:02x?}"));
        self.on_peer_frame(to, from, frame, Some((link, end)));
    }

    pub(crate) fn on_stray(&mut self, to: Site, from: PeerShard, frame: &[u8]) {
        self.trace.add_bytes(frame);
        self.trace.event(|| format!("{to:?} stray frame from {from:?}: {frame:02x?}"));
        self.on_peer_frame(to, from, frame, None);
    }

    /// A connection ends for both; each end learns it a moment later.
    pub(crate) fn close(&mut self, link: u32, _why: &'static str) {
        if self.network.links[link as usize].state == LinkState::Gone {
            return;
        }
        if self.network.links[link as usize].state == LinkState::Dialing {
            self.forget_dial(link);
        }
        let made = &mut self.network.links[link as usize];
        made.state = LinkState::Gone;
        made.held = [Vec::new(), Vec::new()];
        let ends = made.ends;
        for (end, site) in ends.iter().enumerate() {
            if site.process != u32::MAX {
                self.push(self.at + RESET_AFTER, Event::Lost { link, end });
            }
        }
    }

    /// The process at one end died: the other learns it now or when the connection has been silent for too long.
    pub(crate) fn abandon(&mut self, link: u32, end: usize, answers: bool) {
        let made = &mut self.network.links[link as usize];
        if made.state == LinkState::Gone {
            return;
        }
        made.state = LinkState::Gone;
        made.held = [Vec::new(), Vec::new()];
        let other = made.ends[1 - end].process;
        if other != u32::MAX {
            let after = if answers { RESET_AFTER } else { self.network.options().idle_ms * MS };
            self.push(self.at + after, Event::Lost { link, end: 1 - end });
            if end == 1 {
                self.forget_dial(link);
            }
        }
    }

    pub(crate) fn on_lost(&mut self, link: u32, end: usize) {
        let made = &self.network.links[link as usize];
        let (site, other) = (made.ends[end], made.ends[1 - end]);
        let node = made.nodes[1 - end];
        let process = &mut self.processes[site.process as usize];
        let key = (node, other.shard, site.shard);
        if process.links.get(&key) == Some(&link) {
            process.links.remove(&key);
        }
        self.trace.add(u64::from(link) << 1 | end as u64);
        self.trace.event(|| format!("{site:?} lost its link to {node}"));
        let mut rest = self.processes[site.process as usize].links.keys().filter(|(to, _, _)| *to == node);
        let (any, same) = (rest.clone().next().is_some(), rest.any(|(_, _, own)| *own == site.shard));
        if !same {
            self.sight.probe("last link of a shard to a node lost");
            self.shard_call(site, &Given::Other, |shard, now, out| shard.handle(now, ShardInput::PeerLost(node), out));
        }
        if !any {
            self.node_input(site.process, NodeInput::PeerLost(node));
        }
    }

    /// One fault more, or less, blocks the way between two machines.
    pub(crate) fn block(&mut self, from: u16, to: u16, more: bool) {
        if from == to || !self.network.block(from, to, more) {
            return;
        }
        if more {
            let idle = self.network.options().idle_ms * MS;
            self.push(self.at + idle, Event::IdleCheck { a: from, b: to, since: self.at });
            self.network.since.insert((from, to), self.at);
        } else {
            self.network.since.remove(&(from, to));
            self.release(from, to);
        }
    }

    /// What a cut held goes on its way.
    pub(crate) fn release(&mut self, from: u16, to: u16) {
        for link in self.network.between(from, to) {
            let end = usize::from(self.network.links[link as usize].machines[0] != from);
            let held = std::mem::take(&mut self.network.links[link as usize].held[end]);
            for frame in held {
                self.transmit(link, end, frame);
            }
        }
    }

    pub(crate) fn on_idle_check(&mut self, a: u16, b: u16, since: Time) {
        if self.network.since.get(&(a, b)) != Some(&since) {
            return;
        }
        self.sight.probe("connection lost to a cut");
        for link in self.network.between(a, b) {
            self.close(link, "nothing was heard for the idle timeout");
        }
    }
}
