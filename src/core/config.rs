//! What core is told at its start. Settings that must agree across the cluster are a struct of their own, so that
//! nobody sets them per node by accident (STYLE habit 14).

use crate::{
    id::{ActorId, ClusterId, NodeId, ShardId},
    limits,
    value::Hlc,
};
use std::{net::SocketAddr, time::Duration};

/// Settings that every node of a cluster must share; a joiner that differs is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's id.
    pub id: ClusterId,
    /// The cluster's name, for people.
    pub name: String,
    /// Arcs of the ring: a power of two, fixed at creation. More spread load finer and cost 32 bytes each per namespace.
    pub partitions: u16,
    /// Copies of a key. Namespaces have at most as many.
    pub n: u8,
    /// Without any layout, the first is made when so many members are known. Set it above half of the initial nodes,
    /// or two halves that cannot see each other both begin.
    pub bootstrap_expect: u16,
    /// Whether a joiner may take the role of a down member of its name; diskless nodes need it to come back.
    pub replace_by_name: bool,
    /// Joins, weights and zones wait for `plan commit`. A node without this commits by itself: set it on all.
    pub manual_layout: bool,
}

/// Settings of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// What must agree.
    pub cluster: ClusterConfig,
    /// Its identity: from its data directory, or drawn at start.
    pub node: NodeId,
    /// Whether the identity was there before: a known node that returns to its role.
    pub known: bool,
    /// Drawn at each start.
    pub actor: ActorId,
    /// Its label; its role is found by it after a disk is lost.
    pub name: String,
    /// Its zone; copies spread over zones.
    pub zone: String,
    /// Its share of the ring; 100 is one share. Never zero.
    pub weight: u16,
    /// Where peers and clients reach its shard 0.
    pub address: SocketAddr,
    /// How many shards it runs.
    pub shards: u16,
    /// Addresses to find the mesh by; one's own is ignored.
    pub seeds: Vec<SocketAddr>,
    /// The clock never starts below this: the bound that the last process stored.
    pub clock_floor: Hlc,
    /// How long a replica that could not compare itself stays out of sloppy votes.
    pub warming_max: Duration,
    /// Whether the driver keeps what it is told to store. Without it the node gives no vote in a namespace that asks for a
    /// log, and creates none.
    pub disk: bool,
    /// What the last `NodeOutbox::store_meta` of an earlier process stored, if anything: the node then starts with that
    /// process' namespaces, roles and layouts; where there is a layout among them, or they cannot be read, it founds none.
    pub restored: Option<Vec<u8>>,
    /// Every draw of the node comes from here.
    pub seed: u64,
}

/// Settings of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// The node it belongs to.
    pub node: NodeId,
    /// Which shard.
    pub shard: ShardId,
    /// Of how many.
    pub shards: u16,
    /// The cluster, for hashing keys.
    pub cluster: ClusterId,
    /// Arcs of the ring.
    pub partitions: u16,
    /// Who stamps.
    pub actor: ActorId,
    /// Hard limit of everything it holds, bytes.
    pub memory: u64,
    /// The clock never starts below this.
    pub clock_floor: Hlc,
    /// Whether the driver keeps what it is told to store.
    pub disk: bool,
    /// Every draw of the shard comes from here.
    pub seed: u64,
}

impl NodeConfig {
    /// A configuration with the defaults of PROTOCOL §10, for tests and embedding: three copies, 1024 partitions.
    pub fn new(cluster: ClusterId, node: NodeId, address: SocketAddr) -> Self {
        Self {
            cluster: ClusterConfig {
                id: cluster,
                name: "mesh".to_owned(),
                partitions: 1024,
                n: 3,
                bootstrap_expect: 3,
                replace_by_name: false,
                manual_layout: false,
            },
            node,
            known: false,
            actor: ActorId(1),
            name: format!("node-{node}"),
            zone: "unknown".to_owned(),
            weight: 100,
            address,
            shards: 1,
            seeds: Vec::new(),
            clock_floor: Hlc::default(),
            warming_max: limits::WARMING_MAX,
            disk: false,
            restored: None,
            seed: 1,
        }
    }
}
