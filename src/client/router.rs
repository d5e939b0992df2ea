//! Which link a key's request takes (PROTOCOL §4: any live owner coordinates; ARCHITECTURE §3).
//!
//! The client derives the ring from the layout as every node does, and asks the owning shard of an owner: the node in
//! this process first, then owners in its zone, then in the ring's order. Keeping to the first owner makes one
//! coordinator see all writes of a key, which spares re-stamps; over all partitions the first owners spread evenly.
//! Links that are down, silent or were tried already come last, and when no owner is left any other member forwards.
//! A table is immutable and replaced as a whole; its links outlive it.

use crate::connection::Connection;
use meshwork_core::{
    id::{KeyHash, KeyHasher, NamespaceId, NodeId, PartitionId},
    ring::{LayoutName, Ring},
    wire::hello::{Place, Routing},
};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// Where a mesh gets its links from: made once, kept.
pub(crate) trait Links {
    /// The link to a shard's own address.
    fn remote(&self, address: SocketAddr) -> Arc<Connection>;
    /// The link to a shard of the node in this process.
    fn local(&self, shard: u16) -> Arc<Connection>;
}

/// A snapshot of who owns what and how to reach it.
pub(crate) struct Table {
    pub(crate) routing: Routing,
    hasher: KeyHasher,
    ring: Arc<Ring>,
    /// Parallel to `ring.members()`.
    members: Box<[Member]>,
    /// Which of them is in this process.
    here: Option<u16>,
}

struct Member {
    place: Option<Place>,
    shards: u16,
    near: bool,
    local: bool,
    links: Box<[OnceLock<Arc<Connection>>]>,
}

/// Members that a call has tried, so that its next attempt goes elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    members: [u16; 4],
    count: u8,
}

impl Tried {
    fn contains(&self, member: u16) -> bool {
        self.members[..usize::from(self.count)].contains(&member)
    }

    pub(crate) fn add(&mut self, member: u16) {
        let at = usize::from(self.count) % self.members.len();
        self.members[at] = member;
        self.count = (self.count + 1).min(4);
    }
}

impl Table {
    /// The table of `routing`, taking over the ring of `before` when the layout is the same.
    pub(crate) fn new(
        routing: Routing,
        before: Option<&Self>,
        zone: Option<&str>,
        local: Option<(NodeId, u16)>,
    ) -> Self {
        let name = routing.layout.name();
        let ring = match before {
            Some(before) if before.name() == name => before.ring.clone(),
            Some(_) | None => Arc::new(Ring::derive(&routing.layout)),
        };
        let member = |node: &NodeId| {
            let place = routing.members.get(node).cloned();
            let here = local.filter(|(here, _)| here == node);
            let shards =
                here.map_or_else(|| place.as_ref().map_or(1, |place| place.shards.max(1)), |(_, shards)| shards);
            Member {
                near: zone.is_some() && place.as_ref().map(|place| place.zone.as_str()) == zone,
                place,
                shards,
                local: here.is_some(),
                links: (0..shards).map(|_| OnceLock::new()).collect(),
            }
        };
        let members = ring.members().iter().map(member).collect();
        let here = local.and_then(|(node, _)| ring.index_of(node));
        Self { hasher: KeyHasher::new(routing.cluster), ring, members, here, routing }
    }

    /// The layout it follows.
    pub(crate) fn name(&self) -> LayoutName {
        self.ring.name()
    }

    /// The hash of a key, where it is needed: with one shard in all, every key goes there, and only a node in this process
    /// is told the hash.
    pub(crate) fn hash(&self, namespace: NamespaceId, key: &[u8]) -> Option<KeyHash> {
        if let [Member { shards: 1, local: false, .. }] = &self.members[..] {
            return None;
        }
        Some(self.hasher.hash(namespace, key))
    }

    /// The link to the node in this process and the shard of it that has a key, if that node owns the key.
    #[inline]
    pub(crate) fn here(&self, hash: KeyHash, links: &dyn Links) -> Option<(u16, &Arc<Connection>)> {
        let (index, member) = self.here.and_then(|index| Some((index, self.members.get(usize::from(index))?)))?;
        let partition = hash.partition(self.ring.partitions());
        let owned = self.ring.owners(partition).contains(&index);
        Some((partition.0 % member.shards, member.link(partition, links).filter(|_| owned)?))
    }

    /// The link for a key's next attempt, with the member behind it. `None` when no member can be addressed at all.
    pub(crate) fn choose(&self, hash: KeyHash, tried: &Tried, links: &dyn Links) -> Option<(u16, Arc<Connection>)> {
        let partition = hash.partition(self.ring.partitions());
        let owners = self.ring.owners(partition);
        let best = self.best(owners.iter().copied(), partition, tried, links);
        match best {
            Some((score, member, link)) if score < UNFIT => Some((member, link)),
            owner @ (Some(_) | None) => {
                // Starting at the partition's place spreads a lost owner's share over the others.
                let count = self.members.len();
                let others = (0..count)
                    .map(|step| (usize::from(partition.0) + step) % count)
                    .map(|index| u16::try_from(index).expect("a layout has at most 4,096 members"))
                    .filter(|index| !owners.contains(index))
                    .take(8);
                let other = self.best(others, partition, tried, links);
                let (_, member, link) = match (owner, other) {
                    (Some(owner), Some(other)) => {
                        if other.0 < owner.0 {
                            other
                        } else {
                            owner
                        }
                    }
                    (owner, other) => owner.or(other)?,
                };
                Some((member, link))
            }
        }
    }

    fn best(
        &self,
        candidates: impl Iterator<Item = u16>,
        partition: PartitionId,
        tried: &Tried,
        links: &dyn Links,
    ) -> Option<(u8, u16, Arc<Connection>)> {
        let mut best: Option<(u8, u16, &Arc<Connection>)> = None;
        for index in candidates {
            let member = &self.members[usize::from(index)];
            let Some(link) = member.link(partition, links) else { continue };
            let up = member.local || member.place.as_ref().is_none_or(|place| place.up);
            let score = if tried.contains(index) { UNFIT * 2 } else { 0 }
                + if link.avoided() { UNFIT } else { 0 }
                + if up { 0 } else { 4 }
                + if member.local {
                    0
                } else if member.near {
                    1
                } else {
                    2
                };
            if best.is_none_or(|(least, ..)| score < least) {
                best = Some((score, index, link));
            }
            // Nobody is better than a fit owner here or, where zones and local nodes do not matter, the first fit one.
            if score == 0 {
                break;
            }
        }
        best.map(|(score, index, link)| (score, index, link.clone()))
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The links to all shards of all members that can be addressed.
    pub(crate) fn links<'a>(&'a self, links: &'a dyn Links) -> impl Iterator<Item = &'a Arc<Connection>> {
        self.members
            .iter()
            .flat_map(move |member| (0..member.shards).filter_map(move |shard| member.link(PartitionId(shard), links)))
    }
}

/// From this score on a link is not expected to answer.
const UNFIT: u8 = 16;

impl Member {
    fn link(&self, partition: PartitionId, links: &dyn Links) -> Option<&Arc<Connection>> {
        let shard = partition.0 % self.shards;
        let slot = &self.links[usize::from(shard)];
        if let Some(link) = slot.get() {
            return Some(link);
        }
        if self.local {
            return Some(slot.get_or_init(|| links.local(shard)));
        }
        let mut address = self.place.as_ref()?.address;
        address.set_port(address.port().checked_add(shard)?);
        Some(slot.get_or_init(|| links.remote(address)))
    }
}
