//! The links of one thread: who is at the other side, and which of them to flush.
//!
//! A name says its thread, its slot and the slot's generation, so that a reply to a link that is gone finds nobody and
//! not its successor. Several links to one (node, shard) may exist, when both sides dialled at once: the oldest serves.
//! Callers in this process have names too, and no slot.

use crate::lateness::Lateness;
use bytes::BytesMut;
use meshwork_core::{id::NodeId, input::PeerShard, value::Hlc, wire::local::OnFrames};
use meshwork_transport::Link;
use std::collections::BTreeMap;

/// A link's name, unique within its node for longer than any request lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkName(pub(crate) u64);

const LOCAL: u64 = 1 << 55;
const GENERATION_MASK: u64 = (1 << 23) - 1;

impl LinkName {
    /// The node itself asks.
    pub(crate) const INTERNAL: Self = Self(u64::MAX);

    /// A caller in this process.
    pub(crate) fn local(shard: u16, number: u32) -> Self {
        Self(u64::from(shard) << 56 | LOCAL | u64::from(number))
    }

    fn slot(shard: u16, generation: u64, slot: u32) -> Self {
        Self(u64::from(shard) << 56 | (generation & GENERATION_MASK) << 32 | u64::from(slot))
    }

    /// The thread it belongs to.
    #[inline]
    pub(crate) fn shard(self) -> u16 {
        u16::try_from(self.0 >> 56).expect("eight bits remain")
    }

    #[inline]
    pub(crate) fn is_local(self) -> bool {
        self.0 & LOCAL != 0
    }

    #[inline]
    fn index(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits fit")
    }
}

/// What the other side may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A user; `admin` may also change the cluster.
    Client { admin: bool },
    /// A member's shard.
    Node { peer: PeerShard, incarnation: Hlc },
}

/// One link.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: LinkName,
    pub(crate) link: Link,
    pub(crate) kind: Kind,
    /// How late its requests are.
    pub(crate) lateness: Lateness,
    /// Requests that came in on it and are not answered.
    pub(crate) in_flight: usize,
    /// Written to since the last flush.
    pub(crate) touched: bool,
    /// Bytes it may still queue; known anew at the first touch of each batch.
    pub(crate) room: usize,
}

/// A caller in this process.
pub(crate) struct Local {
    pub(crate) name: LinkName,
    pub(crate) on_frames: OnFrames,
    /// Replies of this batch.
    pub(crate) replies: BytesMut,
    pub(crate) in_flight: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    entry: Option<Entry>,
}

/// All links of one thread.
pub(crate) struct Links {
    shard: u16,
    slots: Vec<Slot>,
    free: Vec<u32>,
    peers: BTreeMap<PeerShard, Vec<LinkName>>,
    /// Few: found by looking at each.
    pub(crate) locals: Vec<Local>,
}

impl Links {
    pub(crate) fn new(shard: u16) -> Self {
        Self { shard, slots: Vec::new(), free: Vec::new(), peers: BTreeMap::new(), locals: Vec::new() }
    }

    pub(crate) fn insert(&mut self, link: Link, kind: Kind) -> LinkName {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            u32::try_from(self.slots.len() - 1).expect("connections are bounded far below 2^32")
        });
        let place = &mut self.slots[slot as usize];
        place.generation += 1;
        let name = LinkName::slot(self.shard, place.generation, slot);
        place.entry =
            Some(Entry { name, link, kind, lateness: Lateness::default(), in_flight: 0, touched: false, room: 0 });
        if let Kind::Node { peer, .. } = kind {
            self.peers.entry(peer).or_default().push(name);
        }
        name
    }

    pub(crate) fn remove(&mut self, name: LinkName) -> Option<Entry> {
        self.get(name)?;
        let entry = self.slots[name.index()].entry.take()?;
        self.free.push(u32::try_from(name.index()).expect("slots are named by 32 bits"));
        if let Kind::Node { peer, .. } = entry.kind
            && let Some(names) = self.peers.get_mut(&peer)
        {
            names.retain(|other| *other != name);
            if names.is_empty() {
                self.peers.remove(&peer);
            }
        }
        Some(entry)
    }

    #[inline]
    pub(crate) fn get(&mut self, name: LinkName) -> Option<&mut Entry> {
        self.slots.get_mut(name.index())?.entry.as_mut().filter(|entry| entry.name == name)
    }

    /// The link that serves a peer's shard.
    #[inline]
    pub(crate) fn of_peer(&self, peer: PeerShard) -> Option<LinkName> {
        self.peers.get(&peer).and_then(|names| names.first().copied())
    }

    /// Whether any link to this node is left.
    pub(crate) fn reaches(&self, node: NodeId) -> bool {
        self.peers.keys().any(|peer| peer.node == node)
    }

    /// Links to `node`, with the incarnation of each.
    pub(crate) fn of_node(&self, node: NodeId) -> impl Iterator<Item = (&Entry, Hlc)> {
        self.iter().filter_map(move |entry| match entry.kind {
            Kind::Node { peer, incarnation } if peer.node == node => Some((entry, incarnation)),
            Kind::Node { .. } | Kind::Client { .. } => None,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    #[inline]
    pub(crate) fn local(&mut self, name: LinkName) -> Option<&mut Local> {
        self.locals.iter_mut().find(|local| local.name == name)
    }

    /// Requests of this thread's links that are not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.iter().map(|entry| entry.in_flight).sum::<usize>()
            + self.locals.iter().map(|local| local.in_flight).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_thread_and_whether_it_is_in_this_process() {
        let local = LinkName::local(63, u32::MAX);
        assert_eq!((local.shard(), local.is_local()), (63, true));
        let remote = LinkName::slot(63, u64::MAX, 7);
        assert_eq!((remote.shard(), remote.is_local(), remote.index()), (63, false, 7));
        assert_ne!(LinkName::slot(1, 2, 3), LinkName::slot(1, 3, 3), "generations differ");
        assert!(LinkName::INTERNAL.shard() >= 64, "no thread has that number");
    }
}
