//! Anti-entropy: owners of a partition compare what they hold, and send each other what differs (PROTOCOL §6).
//!
//! `merkle` keeps the trees, `session` is one comparison as its beginner sees it, `answer` the other side, `delta` decides
//! what a repair may carry, `readiness` which copies vote, `tombstones` what all owners may forget together. Here: when
//! whom is asked, and what limits it.
//!
//! Every 10 s ± 20 % one message goes to each shard of a peer that shares partitions: one sum over all shared trees. Equal,
//! and that was all. Else the roots, then the leaves of one tree after the other, then versions, then entries as repairs.
//! The answering side keeps no state; a comparison that is lost is begun again in the next round. While copies warm, rounds
//! come each 2 s. Invariants: at most `SESSIONS_MAX` comparisons of a shard run at once; what they send is charged to a
//! budget of bytes; nothing here changes an entry but by the joins of `replica`.

mod answer;
mod delta;
pub(crate) mod merkle;
pub(crate) mod readiness;
mod session;
mod tombstones;

use crate::{
    canary::canary,
    id::{KeyHash, NamespaceId, NodeId, PartitionId},
    input::PeerShard,
    limits,
    outbox::ShardOutbox,
    ring::Ring,
    rng::Rng,
    shard::Shard,
    storage::{Floors, Holding},
    time::{Mono, Now, Wall},
    value::Version,
    view::View,
    wire::{
        exchange::Exchange,
        peer::{Header, PeerMessage, ReplicaState},
    },
};
use readiness::{Readiness, TreeName};
use session::Session;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Comparisons that a shard runs at once.
const SESSIONS_MAX: usize = 4;
/// Between two rounds while copies of this shard warm.
const WARMING_EVERY: Duration = Duration::from_secs(2);
/// Trees that are of no moment yet are looked at again after this.
const UNSETTLED: Duration = Duration::from_millis(250);
/// What a remembered difference takes.
const MEMO_BYTES: u64 = 96;
/// What a shard of a peer takes that waits to be compared with.
const QUEUED_BYTES: u64 = 32;
/// What an urgent partition takes.
pub(crate) const URGENT_BYTES: u64 = 16;
/// Repairs that changed nothing are sent again after this.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Differences remembered as not to be repaired: one for so many bytes of memory.
const MEMO_SHARE: u64 = 16 * 1024;
/// The number of every repair: its answer is of no consequence.
pub(crate) const REPAIR_ID: u64 = 0;

/// A write younger than this may still be on its way to an owner: twice what a comparison waits.
const YOUNG: Duration = Duration::from_secs(2);

/// What a shard holds of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub hash: KeyHash,
    /// Which write.
    pub version: Version,
    /// Evicted, and remembered.
    pub ghost: bool,
    /// A tombstone, of a delete or of what came to its end.
    pub tombstone: bool,
    /// Of a tombstone that lasts until it is collected: since when it is here.
    pub deleted_since: Option<Wall>,
    /// When it goes by itself; `Wall(u64::MAX)`: never.
    pub gone_at: Wall,
    /// Too young or too near its end to be repaired now.
    pub passing: bool,
    /// Whether its namespace may be evicted.
    pub evictable: bool,
    /// What the shard forgot of the namespace in this partition.
    pub floor: Version,
}

/// A difference that was looked through to its end.
#[derive(Clone, Copy, Debug)]
struct Settled {
    mine: u64,
    theirs: u64,
    /// `None`: for as long as both sides stay as they are.
    again_at: Option<Mono>,
}

/// What a shard knows about comparing itself.
pub(crate) struct AntiEntropy {
    pub(crate) readiness: Readiness,
    /// Partitions of which a write may have been lost: they are compared first.
    pub(crate) urgent: BTreeSet<PartitionId>,
    sessions: BTreeMap<u64, Session>,
    queue: VecDeque<PeerShard>,
    round_at: Mono,
    next_id: u64,
    /// Differences, by the roots of both sides, about which nothing can be done before the roots change or a ghost is filled, or not
    /// before a while: what a peer without memory refuses would else be sent in every round.
    memo: BTreeMap<(TreeName, NodeId), Settled>,
    rng: Rng,
    /// Bytes that repairs may take now; below zero: what was taken in advance.
    credit: i64,
    credited_at: Mono,
    audited: u16,
    collections: tombstones::Collections,
    /// Trees of this shard under the ring it knows.
    owned: u64,
}

impl AntiEntropy {
    pub(crate) fn new(mut rng: Rng) -> Self {
        let next_id = (rng.next() >> 16).max(REPAIR_ID + 1);
        Self {
            readiness: Readiness::default(),
            urgent: BTreeSet::new(),
            sessions: BTreeMap::new(),
            queue: VecDeque::new(),
            round_at: Mono::default(),
            next_id,
            memo: BTreeMap::new(),
            rng,
            credit: 0,
            credited_at: Mono::default(),
            audited: 0,
            collections: tombstones::Collections::default(),
            owned: 0,
        }
    }

    /// When something is due.
    pub(crate) fn next_due(&self) -> Mono {
        self.sessions.values().map(|session| session.due).min().map_or(self.round_at, |due| due.min(self.round_at))
    }

    /// Bytes held beside the lists of partitions, for which the shard sets memory aside.
    pub(crate) fn bytes(&self) -> u64 {
        let sessions: u64 = self.sessions.values().map(Session::bytes).sum();
        sessions
            + self.collections.bytes()
            + MEMO_BYTES * self.memo.len() as u64
            + QUEUED_BYTES * self.queue.len() as u64
    }

    /// Nothing that ran or was learned holds under another ring, or of what was emptied.
    fn forget(&mut self) {
        self.sessions.clear();
        self.queue.clear();
        self.memo.clear();
        self.collections.clear();
    }

    /// A copy in `tree` can give what it only remembered: what was found out about the tree, with whomever, says nothing any more.
    fn on_filled(&mut self, tree: TreeName) {
        self.memo.extract_if((tree, NodeId(0))..=(tree, NodeId(u128::MAX)), |_, _| true).for_each(drop);
        for session in self.sessions.values_mut() {
            session.on_filled(tree);
        }
    }

    fn charge(&mut self, bytes: usize) {
        self.credit -= i64::try_from(bytes).unwrap_or(i64::MAX / 2);
    }
}

impl Shard {
    /// Trees of this shard that vote.
    pub(crate) fn trees_ready(&self) -> u64 {
        let warming = self.anti_entropy.readiness.len() as u64;
        if self.view.state == ReplicaState::Fallback { 0 } else { self.anti_entropy.owned.saturating_sub(warming) }
    }

    /// What this node's copy of a tree (copies, and partition) is worth, as an owner's.
    #[inline]
    pub fn replica_state(&self, tree: (u8, PartitionId)) -> ReplicaState {
        let warming = self.anti_entropy.readiness.is_warming(tree);
        match self.view.state {
            ReplicaState::Fallback => ReplicaState::Fallback,
            // All that can be had was moved here: it votes where nothing strict is asked.
            ReplicaState::Ready if warming && self.ownership.is_unsure(tree.1) => ReplicaState::Settled,
            ReplicaState::Ready if warming => ReplicaState::Warming,
            state @ (ReplicaState::Warming | ReplicaState::Settled) if warming => state,
            ReplicaState::Ready | ReplicaState::Warming | ReplicaState::Settled => ReplicaState::Ready,
        }
    }

    /// What this node's copy of a partition is worth for a namespace, as an owner.
    #[inline]
    pub(crate) fn state_of(&self, namespace: NamespaceId, partition: PartitionId) -> ReplicaState {
        match self.view.state {
            // Without a warming tree, the common case, no rules are looked up.
            ReplicaState::Ready if self.anti_entropy.readiness.len() == 0 => ReplicaState::Ready,
            ReplicaState::Ready | ReplicaState::Warming | ReplicaState::Settled | ReplicaState::Fallback => {
                let copies = self.rules.get(&namespace).map_or(0, |rules| rules.n);
                self.replica_state((copies, partition))
            }
        }
    }

    /// Trees of this shard that do not vote yet, for `status` and for tests.
    pub fn warming(&self) -> impl ExactSizeIterator<Item = (u8, PartitionId)> + '_ {
        self.anti_entropy.readiness.warming()
    }

    /// Calls `visit` with all that this shard holds or remembers of a tree: for tests and the simulator. Walks the partition.
    pub fn holdings(&self, copies: u8, partition: PartitionId, mut visit: impl FnMut(Held)) {
        let wall = self.table.told();
        self.table.visit_tree(copies, partition, |item| {
            let Some(namespace) = self.spaces.get(usize::from(item.slot.0)) else { return };
            let rules = self.rules.get(namespace);
            let Floors { evicted, tombstone } = self.table.floors(item.slot, partition);
            let lasts = item.holding == Holding::Tombstone && item.gone_at == Wall(u64::MAX);
            visit(Held {
                namespace: *namespace,
                hash: item.hash,
                version: item.version,
                ghost: item.holding == Holding::Ghost,
                tombstone: item.holding == Holding::Tombstone,
                deleted_since: lasts.then(|| item.since.unwrap_or(item.version.hlc.wall())),
                gone_at: item.gone_at,
                passing: delta::is_ending(item.gone_at, wall) || item.version.hlc.wall() + YOUNG > wall,
                evictable: rules.is_some_and(|rules| rules.evictable),
                floor: evicted.max(tombstone),
            });
        });
    }

    /// A snapshot came: what warms is found out anew.
    pub(crate) fn on_view_compared(&mut self, now: Now, old: &View) {
        let view = Arc::clone(&self.view);
        let shard = (self.config.shard.0, self.config.shards);
        let known = readiness::rings(&view).and_then(|rings| Some((rings, rings.0.index_of(view.me)?)));
        let Some((rings, me)) = known else {
            self.anti_entropy.readiness.settle();
            self.anti_entropy.forget();
            self.anti_entropy.owned = 0;
            return;
        };
        let name = |ring: &Option<std::sync::Arc<Ring>>| ring.as_ref().map(|ring| ring.name());
        // Of a session that began before the move what it learns of a gained tree must not count.
        let layouts = |view: &View| (name(&view.ring), name(&view.beside), view.moving);
        let moved = layouts(old) != layouts(&view);
        let lapsed = view.lapses > old.lapses;
        let before: BTreeSet<TreeName> = self.anti_entropy.readiness.warming().filter(|_| !lapsed).collect();
        // Of what was emptied, nothing counts that a comparison found equal.
        if moved || lapsed {
            self.anti_entropy.forget();
        }
        if moved {
            self.anti_entropy.owned = readiness::owned(rings, me, shard).count() as u64;
            self.anti_entropy.readiness.on_layouts(old, &view, shard);
        }
        let warms = |state: ReplicaState| matches!(state, ReplicaState::Warming | ReplicaState::Settled);
        match (warms(old.state) && !lapsed, warms(view.state)) {
            (false, true) if canary!(K36) => self.anti_entropy.readiness.settle(),
            (false, true) => {
                self.anti_entropy.readiness.warm_all(rings, me, shard);
                self.anti_entropy.round_at = now.mono;
            }
            // What warms yet came with a layout that the node had not heard of when it called itself Ready.
            (true, false | true) | (false, false) => {}
        }
        if self.anti_entropy.readiness.len() > 0 {
            let table = &self.table;
            let is_empty = |(copies, partition)| lapsed || table.root(copies, partition) == 0;
            self.anti_entropy.readiness.note_lost(&before, is_empty);
            self.anti_entropy.round_at = self.anti_entropy.round_at.min(now.mono + WARMING_EVERY);
        }
        let alone: Vec<TreeName> = self.anti_entropy.readiness.warming().collect();
        for tree in alone {
            let how = (readiness::needed(&view, rings.0, tree), readiness::is_gained(&view, me, tree));
            self.anti_entropy.readiness.judge(tree, rings.0, view.me, how);
        }
    }

    /// A namespace that was deleted is there again, with `copies` instead of `before`: differences in it count once more. Where
    /// comparisons passed some over (`overlooked`) it may have been there before this node heard of that, and what was acknowledged be
    /// missing here. With other copies it is in other trees, which may have become Ready without it.
    pub(crate) fn compare_again(&mut self, before: u8, copies: u8, overlooked: bool) {
        self.anti_entropy.forget();
        let view = Arc::clone(&self.view);
        let shard = (self.config.shard.0, self.config.shards);
        let Some(rings) = readiness::rings(&view) else { return };
        let Some(me) = rings.0.index_of(view.me) else { return };
        let readiness = &mut self.anti_entropy.readiness;
        for (tree, _) in readiness::owned(rings, me, shard).filter(|((n, _), _)| *n == copies) {
            if overlooked || before != copies && readiness.is_warming((before, tree.1)) {
                readiness.distrust(tree);
            }
        }
    }

    /// After an input that may have filled ghosts: what they remembered can be given now.
    pub(crate) fn note_filled_ghosts(&mut self) {
        for tree in self.table.take_filled() {
            self.anti_entropy.on_filled(tree);
        }
    }

    /// Runs what is due of comparisons.
    pub(crate) fn run_anti_entropy(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        let since = now.mono.since(self.anti_entropy.credited_at);
        if since >= UNSETTLED {
            let rate = i64::try_from(limits::REPAIR_BYTES_PER_SECOND).unwrap_or(i64::MAX)
                / i64::from(self.config.shards.max(1));
            let millis = i64::try_from(since.as_millis().min(1_000)).expect("at most a thousand");
            self.anti_entropy.credit = (self.anti_entropy.credit + rate * millis / 1_000).min(rate);
            self.anti_entropy.credited_at = now.mono;
        }
        let due = self.anti_entropy.sessions.iter().filter(|(_, session)| session.due <= now.mono);
        let due: Vec<u64> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.on_session_due(now, id, out);
        }
        if self.anti_entropy.round_at <= now.mono {
            self.begin_round(now, out);
        }
        self.begin_sessions(now, out);
    }

    fn begin_round(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        let every = if self.anti_entropy.readiness.len() > 0 { WARMING_EVERY } else { limits::EXCHANGE_EVERY };
        let spread = u64::try_from(every.as_nanos() * 2 / 5).expect("rounds are seconds apart");
        let jitter = Duration::from_nanos(self.anti_entropy.rng.below(spread + 1));
        self.anti_entropy.round_at = now.mono + every * 4 / 5 + jitter;
        let view = Arc::clone(&self.view);
        let Some(rings) = readiness::rings(&view) else { return };
        let Some(me) = rings.0.index_of(view.me) else { return };
        if view.fence.is_some() || self.clock.is_unconfirmed() {
            return;
        }
        let wall = self.clock.wall(now);
        if self.table.trees_at(wall).is_none() {
            self.anti_entropy.round_at = now.mono + UNSETTLED;
            return;
        }
        self.audit_a_partition(rings.0);
        self.begin_collections(now, rings.0, out);
        let mut peers: BTreeSet<PeerShard> = BTreeSet::new();
        let shard = (self.config.shard.0, self.config.shards);
        for (tree, owners) in readiness::owned(rings, me, shard) {
            for owner in owners.iter().filter(|owner| *owner != me) {
                let Some(member) = view.members.get(usize::from(owner)) else { continue };
                peers.insert(PeerShard { node: member.node, shard: tree.1.0 % member.shards.max(1) });
            }
        }
        let mut queue: Vec<PeerShard> = peers.into_iter().collect();
        if !queue.is_empty() {
            let first = usize::try_from(self.anti_entropy.rng.below(queue.len() as u64)).expect("below a length");
            queue.rotate_left(first);
        }
        let running: BTreeSet<PeerShard> = self.anti_entropy.sessions.values().map(|session| session.peer).collect();
        queue.retain(|peer| !running.contains(peer));
        self.anti_entropy.queue.clear();
        if self.make_room_in_background(QUEUED_BYTES * queue.len() as u64) {
            self.anti_entropy.queue = queue.into();
        }
        self.stats.exchange_rounds += 1;
    }

    /// Recomputes the trees of one partition, in turn: a tree that lies would hide differences, or find some for ever.
    fn audit_a_partition(&mut self, ring: &Ring) {
        let shards = self.config.shards.max(1);
        let mut partition = self.anti_entropy.audited.saturating_add(shards);
        if partition >= ring.partitions() || partition % shards != self.config.shard.0 {
            partition = self.config.shard.0;
        }
        self.anti_entropy.audited = partition;
        if partition >= ring.partitions() {
            return;
        }
        for copies in 1..=self.table.copies_max() {
            let honest = self.table.audit(copies, PartitionId(partition));
            debug_assert!(honest, "the tree of partition {partition} is not that of its data");
            self.stats.tree_errors += u64::from(!honest);
        }
    }

    fn begin_sessions(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        while self.anti_entropy.sessions.len() < SESSIONS_MAX {
            let Some(peer) = self.anti_entropy.queue.pop_front() else { return };
            self.begin_session(now, peer, out);
        }
    }

    /// The trees that this shard and a peer's shard both own, each in either active layout.
    fn shared_trees(&self, view: &View, peer: PeerShard) -> Vec<TreeName> {
        let Some(rings) = readiness::rings(view) else { return Vec::new() };
        let index = |node| rings.0.index_of(node);
        let (Some(me), Some(them)) = (index(view.me), index(peer.node)) else { return Vec::new() };
        let shards = view.members.get(usize::from(them)).map_or(1, |member| member.shards.max(1));
        readiness::owned(rings, me, (self.config.shard.0, self.config.shards))
            .filter(|(tree, owners)| tree.1.0 % shards == peer.shard && owners.contains(them))
            .map(|(tree, _)| tree)
            .collect()
    }

    /// One sum over trees; of which tree a root is counts.
    fn sum_of(&self, trees: &[TreeName]) -> u64 {
        let roots = trees.iter().map(|tree| (*tree, self.table.root(tree.0, tree.1)));
        roots.fold(0, |sum, ((copies, partition), root)| {
            sum ^ merkle::named(root, u64::from(copies) << 16 | u64::from(partition.0))
        })
    }

    fn exchange_header(&mut self, now: Now) -> Option<Header> {
        let layout = self.view.newest()?.name();
        Some(Header { layout, hlc: self.clock.reading(now), deadline_ms: 0 })
    }

    fn send_exchange(&mut self, now: Now, to: PeerShard, id: u64, exchange: Exchange<'_>, out: &mut dyn ShardOutbox) {
        if let Some(header) = self.exchange_header(now) {
            self.stats.exchange_messages += 1;
            out.send(to, &PeerMessage::Exchange { id, header, exchange });
        }
    }

    /// A step of a comparison arrived. What is not under the same newest layout, or whose clock is out of bounds, is not
    /// answered: then both know the same owners, but of a layout that one of them has left already.
    pub(crate) fn on_exchange(
        &mut self,
        now: Now,
        from: PeerShard,
        id: u64,
        header: &Header,
        exchange: &Exchange<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        if self.clock.receive(header.hlc, now).is_err() {
            self.stats.clock_refusals += 1;
            return;
        }
        let view = Arc::clone(&self.view);
        let (Some(ring), Some(newest)) = (view.ring.as_deref(), view.newest().map(|ring| ring.name())) else { return };
        if header.layout != newest || ring.index_of(from.node).is_none() || ring.index_of(view.me).is_none() {
            self.stats.stale_epochs += 1;
            return;
        }
        if view.moving {
            // What a new owner is told of here must be all that a coordinator of the older layout alone got acknowledged.
            self.ownership.on_served(newest.epoch);
        }
        match *exchange {
            Exchange::Roots { hash_version, at, sum, full } => {
                self.answer_roots(now, &view, from, id, (hash_version, at, sum, full), out);
            }
            Exchange::Leaves { at, copies, partition, from: first, leaves } => {
                self.answer_leaves(now, &view, from, id, at, (copies, partition), first, leaves, out);
            }
            Exchange::Pull { partition, items } => self.answer_pull(now, &view, from, id, partition, items, out),
            Exchange::RootsAre { .. } | Exchange::Keys { .. } | Exchange::Pulled { .. } | Exchange::Later => {
                self.on_answer(now, &view, from, id, exchange, out);
            }
            Exchange::Prepare { .. } | Exchange::Prepared { .. } | Exchange::Commit { .. } => {
                self.answer_collection(now, &view, from, id, exchange, out);
            }
        }
    }

    /// Sends the entry under a key hash as a repair; bytes it took, or `None` where there is none to send.
    fn send_repair(
        &mut self,
        now: Now,
        to: PeerShard,
        place: (crate::storage::NamespaceSlot, KeyHash),
        out: &mut dyn ShardOutbox,
    ) -> Option<usize> {
        let header = self.exchange_header(now)?;
        let namespace = self.spaces.get(usize::from(place.0.0)).copied()?;
        let (key, entry, _) = self.table.by_hash(place.0, place.1)?;
        let bytes = key.len() + entry.body.len() + 96;
        let key = crate::wire::peer::KeyRef { namespace, hash: place.1, key };
        let popular = self.table.is_popular(place.0, place.1);
        let (stands_for, kind) = (None, crate::wire::peer::ReplicationKind::Repair { popular });
        out.send(to, &PeerMessage::Replicate { id: REPAIR_ID, header, key, entry, stands_for, kind });
        self.anti_entropy.charge(bytes);
        self.stats.repairs_sent += 1;
        self.stats.repair_bytes += bytes as u64;
        Some(bytes)
    }

    /// Whether `node` owns `tree` in an active layout, and this shard has it.
    fn is_shared(&self, view: &View, node: NodeId, tree: TreeName) -> bool {
        let Some(rings) = readiness::rings(view) else { return false };
        let (copies, partition) = tree;
        let here = partition.0 < rings.0.partitions() && partition.0 % self.config.shards == self.config.shard.0;
        if !here || copies == 0 || copies > rings.1.map_or(0, Ring::n).max(rings.0.n()) {
            return false;
        }
        let owners = readiness::owners_of(rings, tree);
        let owns = |node| rings.0.index_of(node).is_some_and(|index| owners.contains(index));
        owns(view.me) && owns(node)
    }

    /// What this copy of a tree is worth to `asker`: a new owner must not count it while coordinators may still get writes
    /// acknowledged without that owner.
    fn state_told(&self, view: &View, asker: NodeId, tree: TreeName) -> ReplicaState {
        let state = self.replica_state(tree);
        let index = view.ring.as_ref().and_then(|ring| ring.index_of(asker));
        let early = !view.moving && index.is_some_and(|asker| readiness::is_gained(view, asker, tree));
        if early && state == ReplicaState::Ready { ReplicaState::Warming } else { state }
    }

    fn comparing_wall(&self, now: Now) -> Wall {
        self.clock.wall(now)
    }
}
