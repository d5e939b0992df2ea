//! The network between machines: delays, cuts, connections (SIMULATION §2 "Network").
//!
//! A connection joins one shard of a process with one shard of another, as in the transport crate: dialed on demand, used
//! both ways, each way in order; a loss on it is delay, a reset eats what is in flight, silence for the idle timeout loses
//! it. Datagrams are lost, late and out of order. Every fate is keyed by sender, receiver and the message's number between
//! them. A cut holds what is sent over a stream until it ends or the connection is lost; it drops datagrams.

use crate::{
    clock::{MS, Time},
    keyed::{Purpose, below, draw},
    options,
};
use meshwork_core::id::NodeId;
use std::collections::BTreeMap;

/// One shard of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Which process, by order of starting.
    pub process: u32,
    /// Which of its shards.
    pub shard: u16,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The dialer waits for the answer.
    Dialing,
    /// Both have said `Hello`.
    Open,
    /// Reset, timed out, or its end was told.
    Gone,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// Dialer and acceptor.
    pub ends: [Site; 2],
    /// Their machines.
    pub machines: [u16; 2],
    /// Their nodes, as their `Hello`s said.
    pub nodes: [NodeId; 2],
    /// How far it is.
    pub state: LinkState,
    /// Frames that wait for the handshake.
    pub pending: Vec<(NodeId, Vec<u8>)>,
    /// Packets that wait for the handshake.
    pub pending_gossip: Vec<Vec<u8>>,
    /// By sending end: frames held by a cut.
    pub held: [Vec<Vec<u8>>; 2],
    /// By sending end: when the last frame arrives.
    last: [Time; 2],
}

/// Frames that wait for a handshake, at most.
const PENDING_MAX: usize = 1_024;

/// All machines' network.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    options: options::Network,
    machines: usize,
    /// By sender and receiver: how many faults block that way.
    blocked: Vec<u16>,
    /// By sender and receiver: since when nothing passes.
    pub since: BTreeMap<(u16, u16), Time>,
    /// By sender and receiver: messages so far.
    sent: Vec<u64>,
    /// By machine: delay added to what it sends and receives.
    slow: Vec<Time>,
    /// Datagrams lost beyond the options, per million.
    loss: u32,
    /// All connections ever.
    pub links: Vec<Link>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// Delay of the message.
    pub delay: Time,
    /// Uniform bits for what else may happen to it.
    pub bits: u64,
}

impl Network {
    /// A network of `machines`, whole.
    pub fn new(seed: u64, options: options::Network, machines: usize) -> Self {
        Self {
            seed,
            options,
            machines,
            blocked: vec![0; machines * machines],
            since: BTreeMap::new(),
            sent: vec![0; machines * machines],
            slow: vec![0; machines],
            loss: 0,
            links: Vec::new(),
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &options::Network {
        &self.options
    }

    fn way(&self, from: u16, to: u16) -> usize {
        usize::from(from) * self.machines + usize::from(to)
    }

    /// Whether nothing passes this way now.
    pub fn is_blocked(&self, from: u16, to: u16) -> bool {
        from != to && self.blocked[self.way(from, to)] > 0
    }

    /// One fault more, or less, blocks this way; true when that changed whether anything passes.
    pub fn block(&mut self, from: u16, to: u16, more: bool) -> bool {
        let way = self.way(from, to);
        let before = self.blocked[way];
        self.blocked[way] = if more { before + 1 } else { before.saturating_sub(1) };
        (before == 0) != (self.blocked[way] == 0)
    }

    /// Nothing is blocked, slow or lossy any more beyond the options.
    pub fn mend(&mut self) {
        self.blocked.fill(0);
        self.since.clear();
        self.slow.fill(0);
        self.loss = 0;
    }

    /// What `machine` sends and receives takes so much longer, or no longer.
    pub fn slow(&mut self, machine: u16, extra: Time, begins: bool) {
        let slow = &mut self.slow[usize::from(machine)];
        *slow = if begins { *slow + extra } else { slow.saturating_sub(extra) };
    }

    /// So many more datagrams per million are lost, or no longer.
    pub fn lose(&mut self, ppm: u32, begins: bool) {
        self.loss = if begins { self.loss + ppm } else { self.loss.saturating_sub(ppm) };
    }

    /// The fate of the next message from `from` to `to`; both may be one machine, or a client's (`None`).
    pub fn fate(&mut self, from: Option<u16>, to: Option<u16>, salt: u64) -> Fate {
        let nth = match (from, to) {
            (Some(from), Some(to)) => {
                let way = self.way(from, to);
                self.sent[way] += 1;
                self.sent[way]
            }
            (Some(_) | None, None) | (None, Some(_)) => 0,
        };
        let name = |machine: Option<u16>| machine.map_or(u64::MAX, u64::from);
        let bits = draw(self.seed, Purpose::Message, &[name(from), name(to), nth, salt]);
        let options = &self.options;
        // An exponential tail in integers: leading zeros are geometric, the bits below fill the gaps.
        let tail = u64::from(bits.leading_zeros()) * options.tail_us * 693 / 1_000
            + below(bits << 20, options.tail_us * 693 / 1_000 + 1);
        let hump = if below(bits.rotate_left(17), 1_000_000) < u64::from(options.hump_ppm) {
            options.tail_us * 100
        } else {
            0
        };
        let extra = [from, to].into_iter().flatten().map(|machine| self.slow[usize::from(machine)]).max().unwrap_or(0);
        let delay = (options.delay_us + tail + hump) * 1_000 + extra;
        Fate { delay, bits: bits.rotate_left(37).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// When a frame sent now by `end` of `link` arrives: in order, a loss being a resend.
    pub fn arrival(&mut self, link: u32, end: usize, at: Time) -> (Time, Fate) {
        let machines = self.links[link as usize].machines;
        let fate = self.fate(Some(machines[end]), Some(machines[1 - end]), 1);
        let lost = below(fate.bits, 1_000_000) < u64::from(self.options.loss_ppm + self.loss);
        let resend = if lost { 2 * fate.delay + 20 * MS } else { 0 };
        let last = &mut self.links[link as usize].last[end];
        *last = (at + fate.delay + resend).max(*last + 1);
        (*last, fate)
    }

    /// Whether a datagram with this fate is lost.
    pub fn drops(&self, fate: Fate) -> bool {
        below(fate.bits, 1_000_000) < u64::from(self.options.loss_ppm + self.loss)
    }

    /// A new connection in its handshake.
    pub fn dial(&mut self, ends: [Site; 2], machines: [u16; 2], node: NodeId) -> u32 {
        self.links.push(Link {
            ends,
            machines,
            nodes: [node, NodeId(0)],
            state: LinkState::Dialing,
            pending: Vec::new(),
            pending_gossip: Vec::new(),
            held: [Vec::new(), Vec::new()],
            last: [0; 2],
        });
        (self.links.len() - 1) as u32
    }

    /// Keeps a frame for the end of the handshake; beyond the bound it is lost.
    pub fn wait(&mut self, link: u32, to: NodeId, frame: Vec<u8>) {
        let pending = &mut self.links[link as usize].pending;
        if pending.len() < PENDING_MAX {
            pending.push((to, frame));
        }
    }

    /// Connections that are not gone and touch this way, in the order they were made.
    pub fn between(&self, a: u16, b: u16) -> Vec<u32> {
        let links =
            self.links.iter().enumerate().filter(|(_, link)| {
                link.state != LinkState::Gone && (link.machines == [a, b] || link.machines == [b, a])
            });
        links.map(|(at, _)| at as u32).collect()
    }

    /// Connections of a machine that are not gone.
    pub fn of_machine(&self, machine: u16) -> Vec<u32> {
        let links = self.links.iter().enumerate();
        links
            .filter(|(_, link)| link.state != LinkState::Gone && link.machines.contains(&machine))
            .map(|(at, _)| at as u32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let options = options::Network {
            delay_us: 100,
            tail_us: 50,
            hump_ppm: 10_000,
            loss_ppm: 10_000,
            duplicate_ppm: 0,
            late_ppm: 0,
            unknown_ppm: 0,
            damage_ppm: 0,
            idle_ms: 3_000,
        };
        Network::new(1, options, 3)
    }

    #[test]
    fn frames_of_one_direction_arrive_in_order_and_not_at_once() {
        let mut network = network();
        let ends = [Site { process: 0, shard: 0 }, Site { process: 1, shard: 0 }];
        let link = network.dial(ends, [0, 1], NodeId(1));
        let arrivals: Vec<Time> = (0..2_000).map(|nth| network.arrival(link, 0, nth * 1_000).0).collect();
        assert!(arrivals.windows(2).all(|pair| pair[0] < pair[1]));
        let delays: Vec<Time> = arrivals.iter().enumerate().map(|(nth, at)| at - nth as u64 * 1_000).collect();
        assert!(delays.iter().all(|delay| *delay >= 100_000) && delays.iter().any(|delay| *delay > 5_000_000));
    }

    #[test]
    fn overlapping_cuts_count() {
        let mut network = network();
        assert!(network.block(0, 1, true) && !network.block(0, 1, true));
        assert!(!network.block(0, 1, false) && network.is_blocked(0, 1) && !network.is_blocked(1, 0));
        assert!(network.block(0, 1, false) && !network.is_blocked(0, 1));
    }
}
