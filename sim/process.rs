//! A simulated process: the real `Node` and `Shard`s, and the two outboxes that turn what they do into effects.
//!
//! Nothing of core is replaced. What a shard sends is encoded here by the real codec and decoded by its receiver; what the
//! checkers see of it (`sight`) is the message as it was sent. A process is never reused: a restart is another one, on the
//! same machine, with another actor, and with the disk that the fault left it.

use crate::{checkers::sight::Sight, clock::Time, disk::Write, network::Site};
use bytes::BytesMut;
use meshwork_core::{
    config::{NodeConfig, ShardConfig},
    id::{ActorId, NodeId, ShardId},
    input::{Caller, PeerShard},
    node::Node,
    outbox::{NodeEvent, NodeOutbox, ShardOutbox, ShardReport, StoreWrite},
    shard::Shard,
    time::Now,
    value::Hlc,
    view::View,
    wire::{
        client::Reply,
        control::{self, ControlReply, PeerControl},
        peer::PeerMessage,
    },
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// One process.
pub struct Process {
    /// Where it runs.
    pub machine: u16,
    /// Who it is.
    pub node_id: NodeId,
    /// Who stamps.
    pub actor: ActorId,
    /// The control plane.
    pub node: Node,
    /// The data plane.
    pub shards: Vec<Shard>,
    /// When it started.
    pub started: Time,
    /// Whether it still runs.
    pub alive: bool,
    /// It stands still until then.
    pub paused_until: Time,
    /// Its open connections, by peer, peer's shard and own shard.
    pub links: BTreeMap<(NodeId, u16, u16), u32>,
    /// Its connections in handshake, by address' machine, shard there and own shard.
    pub dials: BTreeMap<(u16, u16, u16), u32>,
    /// When `handle_timeout` of the node and of each shard is due, as it is in the queue.
    pub armed: Vec<Option<Time>>,
    /// When the newest snapshot reaches each shard.
    pub views_at: Vec<Time>,
    /// When the newest report of each shard reaches the control plane.
    pub reports_at: Vec<Time>,
    /// The newest snapshot that it published.
    pub view: Arc<View>,
    /// It said that it must stop.
    pub stopping: bool,
}

/// What a process did, to be carried out after the call.
#[derive(Debug)]
pub enum Effect {
    /// A frame of the data plane.
    Peer {
        /// From this shard.
        shard: u16,
        /// To that one.
        to: PeerShard,
        /// Encoded.
        frame: Vec<u8>,
    },
    /// A reply to a client.
    Reply {
        /// To whom.
        caller: Caller,
        /// Encoded.
        frame: Vec<u8>,
    },
    /// A SWIM packet.
    Gossip {
        /// To whom.
        to: NodeId,
        /// Where it listens.
        address: SocketAddr,
        /// As it is.
        packet: Vec<u8>,
    },
    /// A control message.
    Control {
        /// To whom.
        to: NodeId,
        /// Where it listens.
        address: SocketAddr,
        /// Encoded.
        frame: Vec<u8>,
    },
    /// A connection to whoever is there.
    Dial(SocketAddr),
    /// An answer of the control plane.
    ControlReply(Vec<u8>),
    /// How far a shard is with the layouts.
    Report(ShardReport),
    /// A new snapshot.
    Publish(Arc<View>),
    /// A clock bound for the disk.
    Store(Hlc),
    /// A change of what a shard stores.
    Write {
        /// Which shard.
        shard: u16,
        /// The change.
        write: Write,
    },
    /// The control plane's state for the disk.
    StoreMeta {
        /// Its number.
        number: u64,
        /// As it is.
        bytes: Vec<u8>,
    },
    /// News.
    Event(NodeEvent),
}

/// Outbox of a shard.
pub struct ShardOut<'a> {
    /// Sees everything.
    pub sight: &'a mut Sight,
    /// Collects.
    pub effects: &'a mut Vec<Effect>,
    /// Whose.
    pub site: Site,
    /// When.
    pub at: Time,
}

impl ShardOutbox for ShardOut<'_> {
    fn send(&mut self, to: PeerShard, message: &PeerMessage<'_>) {
        self.sight.on_sent(self.at, self.site, to, message);
        let mut frame = BytesMut::with_capacity(96);
        message.encode(&mut frame);
        self.effects.push(Effect::Peer { shard: self.site.shard, to, frame: frame.into() });
    }

    fn reply(&mut self, caller: Caller, reply: &Reply<'_>) {
        self.sight.on_reply(self.at, self.site, caller, reply);
        let mut frame = BytesMut::with_capacity(64);
        reply.encode(&mut frame);
        self.effects.push(Effect::Reply { caller, frame: frame.into() });
    }

    fn report(&mut self, report: ShardReport) {
        self.effects.push(Effect::Report(report));
    }

    fn store(&mut self, write: &StoreWrite<'_>) {
        let shard = self.site.shard;
        self.effects.push(Effect::Write { shard, write: Write::from(write) });
    }
}

/// Outbox of a node.
pub struct NodeOut<'a> {
    /// Collects.
    pub effects: &'a mut Vec<Effect>,
}

impl NodeOutbox for NodeOut<'_> {
    fn gossip(&mut self, to: NodeId, address: SocketAddr, packet: &[u8]) {
        self.effects.push(Effect::Gossip { to, address, packet: packet.to_vec() });
    }

    fn control(&mut self, to: NodeId, address: SocketAddr, message: &PeerControl) {
        let mut frame = BytesMut::new();
        control::encode(&mut frame, 0, message);
        self.effects.push(Effect::Control { to, address, frame: frame.into() });
    }

    fn dial(&mut self, address: SocketAddr) {
        self.effects.push(Effect::Dial(address));
    }

    fn reply(&mut self, _caller: Caller, reply: &ControlReply) {
        let mut frame = BytesMut::new();
        control::encode(&mut frame, 0, reply);
        self.effects.push(Effect::ControlReply(frame.into()));
    }

    fn publish(&mut self, view: Arc<View>) {
        self.effects.push(Effect::Publish(view));
    }

    fn store_clock(&mut self, bound: Hlc) {
        self.effects.push(Effect::Store(bound));
    }

    fn store_meta(&mut self, number: u64, bytes: &[u8]) {
        self.effects.push(Effect::StoreMeta { number, bytes: bytes.to_vec() });
    }

    fn event(&mut self, event: NodeEvent) {
        self.effects.push(Effect::Event(event));
    }
}

/// Where shard 0 of a machine's node listens; one address a machine.
pub fn address_of(machine: u16) -> SocketAddr {
    let [high, low] = machine.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7_000))
}

/// The machine at an address.
pub fn machine_at(address: SocketAddr) -> Option<u16> {
    match address {
        SocketAddr::V4(v4) => {
            let [ten, zero, high, low] = v4.ip().octets();
            (ten == 10 && zero == 0).then(|| u16::from_be_bytes([high, low]))
        }
        SocketAddr::V6(_) => None,
    }
}

impl Process {
    /// Starts one.
    pub fn start(machine: u16, config: NodeConfig, memory: u64, now: Now, started: Time) -> Self {
        let shards = (0..config.shards).map(|shard| {
            Shard::new(ShardConfig {
                node: config.node,
                shard: ShardId(shard),
                shards: config.shards,
                cluster: config.cluster.id,
                partitions: config.cluster.partitions,
                actor: config.actor,
                memory,
                clock_floor: config.clock_floor,
                disk: config.disk,
                seed: config.seed.rotate_left(u32::from(shard) + 1),
            })
        });
        let shards: Vec<Shard> = shards.collect();
        let (node_id, actor) = (config.node, config.actor);
        let armed = vec![None; shards.len() + 1];
        let [views_at, reports_at] = [vec![0; shards.len()], vec![0; shards.len()]];
        let node = Node::new(config, now);
        let view = node.view();
        Self {
            machine,
            node_id,
            actor,
            node,
            shards,
            started,
            alive: true,
            paused_until: 0,
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            armed,
            views_at,
            reports_at,
            view,
            stopping: false,
        }
    }
}
