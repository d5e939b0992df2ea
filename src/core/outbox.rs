//! What comes out of core: the driver implements these two traits (ARCHITECTURE §2, "The contract").
//!
//! The real driver encodes straight into the link's send buffer and flushes once a batch of inputs; the rig and the
//! simulator encode to bytes and put them on their event queue. Nothing here can fail: what cannot be sent is lost, and
//! core's timeouts deal with it.

use crate::{
    id::NodeId,
    input::{Caller, PeerShard},
    ring::LayoutName,
    value::Hlc,
    view::View,
    wire::{
        client::Reply,
        control::{ControlReply, PeerControl},
        peer::PeerMessage,
    },
};
use std::{net::SocketAddr, sync::Arc};

/// How far a shard is with the layouts it was told of: what the control plane builds a member's stage on (PROTOCOL §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// The newest layout it writes by.
    pub newest: LayoutName,
    /// The layout it reads by.
    pub read: LayoutName,
    /// As often it was emptied because the layouts went on without this node (`View::lapses`).
    pub lapses: u64,
    /// Nothing is in flight that began before it went by these two.
    pub drained: bool,
    /// Its partitions of the newest layout that are not Ready.
    pub missing: u32,
    /// Its partitions of the newest layout.
    pub partitions: u32,
    /// Bytes of entries that were moved here since the start.
    pub moved_bytes: u64,
}

/// A change of what a driver keeps for a shard: an ordered map from bytes to bytes, whose content is core's business
/// (`durable`). Writes of one shard are applied in the order given; what is there after a crash is a prefix of that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreWrite<'a> {
    /// Its number: one above that of the shard's last write; the first of a process has 1.
    pub ticket: u64,
    /// Whether `ShardInput::Stored` is to mean that it, and all before it, are synced.
    pub sync: bool,
    /// Where; at most `durable::STORE_KEY_BYTES_MAX`.
    pub key: &'a [u8],
    /// What is there from now on; `None`: nothing.
    pub value: Option<&'a [u8]>,
}

/// Effects of a shard.
pub trait ShardOutbox {
    /// Sends a message of the data plane to a peer's shard.
    fn send(&mut self, to: PeerShard, message: &PeerMessage<'_>);

    /// Replies to a caller. Each caller gets exactly one reply.
    fn reply(&mut self, caller: Caller, reply: &Reply<'_>);

    /// Tells the control plane of this process how far the shard is; it comes there as `NodeInput::Report`.
    fn report(&mut self, report: ShardReport);

    /// Stores a change, and says so by `ShardInput::Stored` or `ShardInput::StoreFailed`, in order. Never called without
    /// `ShardConfig.disk`.
    fn store(&mut self, write: &StoreWrite<'_>);
}

/// What a person watching the node wants to read: the driver logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// A member was heard of for the first time, or came back.
    MemberUp {
        /// Who.
        node: NodeId,
        /// Its label.
        name: String,
    },
    /// A member does not answer.
    MemberDown {
        /// Who.
        node: NodeId,
        /// Its label.
        name: String,
    },
    /// A layout was adopted.
    LayoutAdopted {
        /// Its epoch.
        epoch: u64,
        /// How many members it has.
        members: usize,
    },
    /// A transition is over: the layouts before this one are retired.
    LayoutRetired {
        /// The epoch that is left.
        epoch: u64,
    },
    /// The node stopped or resumed coordinating.
    Fenced(Option<crate::view::Fence>),
    /// The disk is older than what peers saw of this node: what was restored from it is dropped.
    RestoredTooOld {
        /// What was found, for a person.
        reason: String,
    },
    /// Somebody was refused.
    Refused {
        /// Who and why, for a person.
        reason: String,
    },
    /// This node's role was removed, or its identity taken by a newer process: stop the process.
    MustStop {
        /// Why.
        reason: String,
    },
}

/// Effects of the control plane.
pub trait NodeOutbox {
    /// Sends a gossip packet as a datagram to the shard 0 of a node at this address.
    fn gossip(&mut self, to: NodeId, address: SocketAddr, packet: &[u8]);

    /// Sends a control message to a node at this address.
    fn control(&mut self, to: NodeId, address: SocketAddr, message: &PeerControl);

    /// Opens a link to whoever listens there; its `Hello` comes back as an input.
    fn dial(&mut self, address: SocketAddr);

    /// Replies to a caller.
    fn reply(&mut self, caller: Caller, reply: &ControlReply);

    /// Hands a new snapshot to every shard of this node.
    fn publish(&mut self, view: Arc<View>);

    /// Stores the bound that the clock may not pass before the next one is stored. Diskless nodes confirm at once.
    fn store_clock(&mut self, bound: Hlc);

    /// Stores `bytes` in the place of what an earlier call stored, at once or not at all, and synced; then
    /// `NodeInput::MetaStored(number)`. Not more than about one a second; where several wait, the last is enough. Never called
    /// without `NodeConfig.disk`.
    fn store_meta(&mut self, number: u64, bytes: &[u8]);

    /// Tells whoever watches.
    fn event(&mut self, event: NodeEvent);
}
