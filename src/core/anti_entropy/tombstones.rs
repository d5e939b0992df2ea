//! Collecting tombstones: all owners agree first, then all forget (PROTOCOL §6 "Tombstones").
//!
//! The first owner of a partition asks all others of that tree about tombstones that are 15 min old here: `Prepare`. Each
//! names those that it holds too, under the very same hash, unchanged for a minute, if its own copy is Ready. What all named
//! they drop at `Commit`, each only if it still holds exactly that. 15 min outlive every hint and message that could carry
//! what was buried (`limits` proves it), a minute outlives every repair on its way to an owner that has since got the
//! tombstone. No floor rises: everybody consented. A lost `Commit` leaves a tombstone somewhere; it comes back to the others
//! as a repair, and is collected again later. One that expiry made of a value is as old as that value's end.
//! Invariants: one collection of a tree at a time; an owner that cannot be asked stops it; nothing is dropped that some owner
//! may lack, nor what one's disk may lack after a loss of power or as an older copy of itself: in a namespace that asks for a
//! log an owner promises what is synced (`durable`), and was here for so long that every older disk gives itself away
//! (`STORED_CONSENT_AGE`).

use super::readiness::{self, TreeName};
use crate::{
    canary::canary,
    id::{NodeId, PartitionId},
    input::PeerShard,
    limits,
    outbox::ShardOutbox,
    ring::Ring,
    shard::Shard,
    storage::Holding,
    time::{Mono, Now, Wall},
    view::View,
    wire::{
        exchange::{Exchange, GcItem, Packed, pack},
        peer::ReplicaState,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Owners have said so within this, or the next turn asks again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Every partition's turn comes within so many rounds.
const ROUNDS: usize = 6;
/// Most tombstones of one collection.
const ITEMS_MAX: usize = 1_024;

/// A collection under way.
#[derive(Debug)]
pub(super) struct Collection {
    tree: TreeName,
    items: BTreeSet<GcItem>,
    waiting: BTreeSet<NodeId>,
    owners: Vec<PeerShard>,
    due: Mono,
}

/// All collections of a shard.
#[derive(Debug, Default)]
pub(super) struct Collections {
    running: BTreeMap<u64, Collection>,
    turn: usize,
}

impl Collections {
    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.running.values().map(|collection| 256 + 40 * collection.items.len() as u64).sum()
    }
}

/// How long a tombstone must have been here before its collection begins.
fn age_min() -> Duration {
    if canary!(K16) { limits::EXPIRY_GRACE } else { limits::TOMBSTONE_AGE_MIN }
}

impl Shard {
    /// Begins the collections whose turn it is.
    pub(super) fn begin_collections(&mut self, now: Now, ring: &Ring, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let collections = &mut self.anti_entropy.collections;
        collections.running.retain(|_, collection| collection.due > now.mono);
        let Some(me) = ring.index_of(view.me) else { return };
        let shard = (self.config.shard.0, self.config.shards);
        // Owners of two layouts never all hold the same: one of them alone collects.
        if view.beside.is_some() {
            return;
        }
        let mine: Vec<TreeName> = readiness::owned((ring, None), me, shard)
            .filter(|(_, owners)| owners.iter().next() == Some(me))
            .map(|(tree, _)| tree)
            .collect();
        let turns = mine.len().div_ceil(ROUNDS);
        let from = collections.turn;
        collections.turn = if mine.is_empty() { 0 } else { (from + turns) % mine.len() };
        if self.table.stats().tombstones == 0 {
            return;
        }
        for tree in mine.iter().cycle().skip(from).take(turns) {
            self.begin_collection(now, &view, ring, *tree, out);
        }
    }

    fn begin_collection(&mut self, now: Now, view: &View, ring: &Ring, tree: TreeName, out: &mut dyn ShardOutbox) {
        let running = self.anti_entropy.collections.running.values().any(|collection| collection.tree == tree);
        if running || self.replica_state(tree) != ReplicaState::Ready {
            return;
        }
        let owners = ring.owners(tree.1);
        let owners = &owners[..usize::from(tree.0).min(owners.len())];
        let others = owners.iter().copied().filter(|owner| ring.node(*owner) != view.me);
        let mut asked = Vec::new();
        for other in others {
            if !self.reachable(now, view, other) {
                return;
            }
            let member = &view.members[usize::from(other)];
            asked.push(PeerShard { node: member.node, shard: tree.1.0 % member.shards.max(1) });
        }
        let wall = self.clock.wall(now);
        let mut items = self.collectable(tree, wall, age_min());
        items.retain(|item| self.may_promise(item.namespace, item.hash));
        if items.is_empty() || !self.make_room_in_background(256 + 40 * items.len() as u64) {
            return;
        }
        let id = self.anti_entropy.next_id;
        self.anti_entropy.next_id += 1;
        let packed = pack(&items);
        let collection = Collection {
            tree,
            items: items.into_iter().collect(),
            waiting: asked.iter().map(|peer| peer.node).collect(),
            owners: asked.clone(),
            due: now.mono + ANSWERS_WITHIN,
        };
        self.anti_entropy.collections.running.insert(id, collection);
        for peer in asked {
            self.send_exchange(now, peer, id, Exchange::Prepare { partition: tree.1, items: &packed }, out);
        }
        self.finish_collection(now, id, out);
    }

    /// Tombstones of a tree that have been here, unchanged, for `age`.
    fn collectable(&self, tree: TreeName, wall: Wall, age: Duration) -> Vec<GcItem> {
        let mut items = Vec::new();
        self.table.visit_tree(tree.0, tree.1, |item| {
            if item.holding != Holding::Tombstone || items.len() >= ITEMS_MAX {
                return;
            }
            let Some(namespace) = self.spaces.get(usize::from(item.slot.0)) else { return };
            let gc = GcItem { namespace: *namespace, hash: item.hash, entry_hash: item.entry_hash };
            if self.is_collectable(&gc, tree.1, wall, age) {
                items.push(gc);
            }
        });
        items
    }

    fn is_collectable(&self, item: &GcItem, partition: PartitionId, wall: Wall, age: Duration) -> bool {
        let Some(rules) = self.rules.get(&item.namespace) else { return false };
        let stored = self.config.disk && rules.ack.is_durable();
        let age = if stored { age.max(limits::STORED_CONSENT_AGE) } else { age };
        let here = item.hash.partition(self.config.partitions) == partition;
        here && self.table.by_hash(rules.slot, item.hash).is_some_and(|(key, _, entry_hash)| {
            let since = self.table.tombstone_since(rules.slot, item.hash, key);
            entry_hash == item.entry_hash && since.is_some_and(|since| since + age <= wall)
        })
    }

    /// An owner asks, or says what to drop.
    pub(super) fn answer_collection(
        &mut self,
        now: Now,
        view: &View,
        from: PeerShard,
        id: u64,
        exchange: &Exchange<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        if view.beside.is_some() {
            return;
        }
        let wall = self.clock.wall(now);
        match *exchange {
            Exchange::Prepare { partition, items } => {
                let consents = |item: &GcItem| {
                    let Some(rules) = self.rules.get(&item.namespace) else { return false };
                    let tree = (rules.n, partition);
                    self.is_shared(view, from.node, tree)
                        && self.replica_state(tree) == ReplicaState::Ready
                        && self.is_collectable(item, partition, wall, limits::EXPIRY_GRACE)
                };
                let mut held: Vec<GcItem> = GcItem::list(items).take(ITEMS_MAX).filter(consents).collect();
                held.retain(|item| self.may_promise(item.namespace, item.hash));
                let held = pack(&held);
                self.send_exchange(now, from, id, Exchange::Prepared { partition, items: &held }, out);
            }
            Exchange::Commit { partition, items } => {
                let consents = |item: &GcItem| {
                    let Some(rules) = self.rules.get(&item.namespace) else { return false };
                    self.is_shared(view, from.node, (rules.n, partition))
                        && self.is_collectable(item, partition, wall, limits::EXPIRY_GRACE)
                };
                let agreed: Vec<GcItem> = GcItem::list(items).take(ITEMS_MAX).filter(consents).collect();
                self.collect(&agreed);
            }
            Exchange::Prepared { partition, items } => {
                let Some(collection) = self.anti_entropy.collections.running.get_mut(&id) else { return };
                if collection.tree.1 != partition || !collection.waiting.remove(&from.node) {
                    return;
                }
                let held: BTreeSet<GcItem> = GcItem::list(items).collect();
                collection.items.retain(|item| held.contains(item));
                self.finish_collection(now, id, out);
            }
            Exchange::Roots { .. }
            | Exchange::RootsAre { .. }
            | Exchange::Leaves { .. }
            | Exchange::Keys { .. }
            | Exchange::Pull { .. }
            | Exchange::Pulled { .. }
            | Exchange::Later => {}
        }
    }

    /// All owners have answered: all drop what all hold.
    fn finish_collection(&mut self, now: Now, id: u64, out: &mut dyn ShardOutbox) {
        let running = &mut self.anti_entropy.collections.running;
        if running.get(&id).is_none_or(|collection| !collection.waiting.is_empty()) {
            return;
        }
        let Some(collection) = running.remove(&id) else { return };
        let (wall, partition) = (self.clock.wall(now), collection.tree.1);
        let still = |item: &GcItem| self.is_collectable(item, partition, wall, age_min());
        let items: Vec<GcItem> = collection.items.into_iter().filter(still).collect();
        if items.is_empty() || collection.due <= now.mono || canary!(K43) {
            return;
        }
        let packed = pack(&items);
        for peer in collection.owners {
            self.send_exchange(now, peer, id, Exchange::Commit { partition, items: &packed }, out);
        }
        self.collect(&items);
    }

    fn collect(&mut self, items: &[GcItem]) {
        for item in items {
            let Some(rules) = self.rules.get(&item.namespace) else { continue };
            let collected = self.table.collect(rules.slot, item.hash, item.entry_hash);
            self.stats.tombstones_collected += u64::from(collected);
        }
    }
}
