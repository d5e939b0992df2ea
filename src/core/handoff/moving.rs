//! The shard's part in range transfer: serving parts of a partition, and taking them in (PROTOCOL §2).
//!
//! `ownership` decides what is asked of whom and when a partition is complete; here entries are read and joined. A part is
//! joined as a repair into a warming replica is (PROTOCOL §5): below T it is refused, E is not asked. Ghosts travel with the
//! entries: what a source evicted is remembered here in the place of anything older, wherever that came from; and whether an
//! entry is popular, so that it stays here if not everything can (`storage::scan`). What does not fit is
//! asked for again later; the cursor moves on only once all of a part is held. Sent and compared are the trees that an active
//! layout assigns to the asker: of a namespace with fewer copies it may have none, and what it took would become old there.
//!
//! What one source sent may have been deleted at the next one, which then dropped the tombstone as new (T). As in a comparison
//! (`anti_entropy::delta`) a copy that lost its memory, as new ones did, gives up what the next one lacks and is as old, but for what was
//! written since it is one of those that writes need; and takes nothing as old from anybody else from when T is known: the part that told it
//! is asked for again.

use super::{
    ownership::{self, Ask},
    transfer::{Came, Transfer},
};
use crate::{
    anti_entropy::{
        merkle,
        readiness::{self, TreeName},
    },
    coordinator,
    id::{KeyHash, NamespaceId, NodeId, PartitionId},
    input::PeerShard,
    limits::{CLOCK_OFFSET_MAX, TRANSFER_PART_BYTES, WRITE_TIMEOUT},
    outbox::ShardOutbox,
    ring::Ring,
    shard::Shard,
    storage::{Evicted, Floors, Lookup, NamespaceSlot, Put, Scanned},
    time::Now,
    value::{Entry, Hlc, Version},
    view::View,
    wire::{
        peer::{Header, KeyRef, PeerMessage, Refusal, ReplicaState},
        stream::{self, Item},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// An item of a part behind what orders it: hash, namespace and key.
type Placed<'a> = ((KeyHash, NamespaceId, &'a [u8]), Item<'a>);

/// Of the number of an ask these say the partition, the rest the how manieth ask of it that is.
const PARTITION_BITS: u32 = 16;
/// What a ghost takes in a part.
const GHOST_BYTES: usize = 64;

/// A part as it arrived.
pub(crate) struct Part<'a> {
    /// That of the ask.
    pub(crate) id: u64,
    pub(crate) hlc: Hlc,
    pub(crate) state: ReplicaState,
    pub(crate) epoch: u64,
    pub(crate) partition: PartitionId,
    pub(crate) after: Option<u64>,
    pub(crate) last: Option<u64>,
    pub(crate) body: &'a [u8],
}

impl Part<'_> {
    /// Where it begins, and to which ask it is the answer.
    fn awaited(&self) -> (Option<u64>, u64) {
        (self.after, self.id >> PARTITION_BITS)
    }
}

/// What a part says beside what it lists.
#[derive(Default)]
struct Told {
    floors: Vec<(NamespaceId, Floors)>,
    /// The leaves in which it lists all up to its end; none: the source dropped no tombstones as new.
    leaves: Vec<u8>,
    /// What it lists in them.
    listed: BTreeSet<(KeyHash, NamespaceId)>,
}

impl Told {
    fn list(&mut self, hash: KeyHash, namespace: NamespaceId) {
        if !self.leaves.is_empty() {
            self.listed.insert((hash, namespace));
        }
    }
}

fn owns_tree(ring: &Ring, tree: (u8, PartitionId), me: u16) -> bool {
    readiness::owners(ring, tree).contains(&me)
}

impl Shard {
    /// Whether a partition is one of this shard's.
    fn has_partition(&self, partition: PartitionId) -> bool {
        partition.0 < self.config.partitions && partition.0 % self.config.shards == self.config.shard.0
    }

    /// Takes the layouts of a new view: drops what is no longer assigned here, and looks what is.
    pub(crate) fn on_layouts(&mut self, now: Now, view: &Arc<View>, out: &mut dyn ShardOutbox) {
        let (shards, shard) = (self.config.shards, self.config.shard.0);
        let mine = (0..self.config.partitions).filter(|at| at % shards == shard).map(PartitionId);
        let stamp = Hlc::at(self.clock.wall(now) + CLOCK_OFFSET_MAX);
        let cleanup = self.ownership.on_view((now.mono, stamp), view, mine, &self.anti_entropy.readiness);
        self.let_go(now, cleanup, out);
        self.work_on_ownership(now, None, out);
    }

    /// Asks for what is due, and tells the control plane how far this shard is.
    pub(crate) fn work_on_ownership(&mut self, now: Now, only: Option<PartitionId>, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        for (partition, transfer, sure) in self.ownership.take_complete(&view, only) {
            self.settle_partition(partition, transfer, sure);
        }
        let peers = &self.peers;
        let reachable = |member: u16| coordinator::is_up(&view, member) && peers.may_ask(member, now.mono);
        let asks = self.ownership.due(now.mono, &view, self.config.shards, reachable);
        // The clock is read only for what is sent: reading it ticks it.
        if let Some(newest) = view.newest().map(|ring| ring.name()).filter(|_| !asks.is_empty()) {
            let deadline_ms = u32::try_from(WRITE_TIMEOUT.as_millis()).expect("half a second");
            let header = Header { layout: newest, hlc: self.clock.reading(now), deadline_ms };
            for Ask { partition, member, after, number } in asks {
                let known = &view.members[usize::from(member)];
                let to = PeerShard { node: known.node, shard: partition.0 % known.shards.max(1) };
                self.peers.on_ask(member, now.mono);
                let id = u64::from(partition.0) | number << PARTITION_BITS;
                let trees = (partition, ownership::copies_from(&view, view.me, partition));
                let leaves = merkle::to_bytes(&self.table.leaf_sums(trees, u32::MAX));
                out.send(to, &PeerMessage::StreamPull { id, header, partition, after, leaves: &leaves });
            }
        }
        if let Some(since) = self.ownership.draining(now.mono)
            && !self.in_flight.any_since_before(since)
        {
            self.ownership.on_drained();
        }
        let synced = self.ownership.missing() > 0 || self.is_moved_synced(out);
        if let Some(report) = self.ownership.report(self.config.shard.0, self.stats.moved_bytes, synced) {
            out.report(report);
        }
    }

    /// A partition is complete: what its former owners may have forgotten is forgotten here too, and where enough of them
    /// were Ready, so is this copy.
    fn settle_partition(&mut self, partition: PartitionId, transfer: Transfer, sure: bool) {
        for (namespace, floors) in transfer.floors {
            if let Some(slot) = self.rules.get(&namespace).map(|rules| rules.slot) {
                self.table.raise_floors(slot, partition, floors);
            }
        }
        if sure {
            for copies in self.ownership.copies() {
                let ready = self.anti_entropy.readiness.complete((copies, partition));
                self.stats.partitions_warmed += u64::from(ready);
            }
            return;
        }
        // It voted, and may not go on to where its word alone counts.
        let view = Arc::clone(&self.view);
        let Some(newest) = view.newest() else { return };
        let Some(me) = newest.index_of(view.me) else { return };
        for tree in self.ownership.copies().into_iter().map(|copies| (copies, partition)) {
            if readiness::is_thinned(&view, tree) && owns_tree(newest, tree, me) {
                self.anti_entropy.readiness.distrust(tree);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(crate) fn on_stream_pull(
        &mut self,
        now: Now,
        from: PeerShard,
        id: u64,
        header: &Header,
        partition: PartitionId,
        (after, leaves): (Option<u64>, &[u8]),
        out: &mut dyn ShardOutbox,
    ) {
        let state = match self.admit_pull(now, header, partition) {
            Ok(state) => state,
            Err(refusal) => return out.send(from, &PeerMessage::StreamRefused { id, refusal }),
        };
        self.ownership.on_served(header.layout.epoch);
        self.stats.parts_sent += 1;
        let trees = (partition, ownership::copies_from(&self.view, from.node, partition));
        let (body, last) = self.part(trees, after, leaves);
        let (hlc, epoch) = (self.clock.reading(now), header.layout.epoch);
        out.send(from, &PeerMessage::StreamChunk { id, hlc, state, epoch, partition, after, last, body: &body });
    }

    /// Whether a part may be had from here, and what this copy is worth.
    fn admit_pull(&mut self, now: Now, header: &Header, partition: PartitionId) -> Result<ReplicaState, Refusal> {
        if self.clock.receive(header.hlc, now).is_err() {
            self.stats.clock_refusals += 1;
            return Err(Refusal::ClockSkew);
        }
        let (Some(newest), Some(oldest)) = (self.view.newest(), self.view.oldest()) else {
            return Err(Refusal::NotOwner);
        };
        if header.layout != newest.name() {
            self.stats.stale_epochs += 1;
            return Err(Refusal::StaleEpoch);
        }
        let owns = |me: u16| oldest.owners(partition).contains(&me);
        if !self.has_partition(partition) || !oldest.index_of(self.view.me).is_some_and(owns) {
            return Err(Refusal::NotOwner);
        }
        // One state stands for all namespaces: the least that any tree of the partition is worth.
        let worth = self.ownership.copies().into_iter().map(|copies| (copies, partition));
        let mut worth = worth.filter(|tree| self.owned(*tree));
        let warming = worth.any(|tree| self.replica_state(tree) != ReplicaState::Ready);
        Ok(if warming { ReplicaState::Warming } else { ReplicaState::Ready })
    }

    /// Whether the oldest layout assigns a tree here.
    fn owned(&self, tree: TreeName) -> bool {
        let oldest = self.view.oldest();
        oldest.is_some_and(|ring| ring.index_of(self.view.me).is_some_and(|me| owns_tree(ring, tree, me)))
    }

    /// The next part of a partition, and its last hash unless the partition ends with it: entries of namespaces with at least so
    /// many copies, in the leaves that differ from those that the asker holds. Looks at all of them, of deleted namespaces too:
    /// elsewhere one may be there again, and what is left of it here be of its next life.
    fn part(
        &self,
        (partition, copies): (PartitionId, u8),
        after: Option<u64>,
        held: &[u8],
    ) -> (bytes::BytesMut, Option<u64>) {
        let namespace_of = |slot: NamespaceSlot| self.spaces[usize::from(slot.0)];
        let differing = merkle::from_bytes(held, self.table.leaf_bits()).map(|theirs| {
            let bits = theirs.len().ilog2();
            let mine = self.table.leaf_sums((partition, copies), bits);
            let differs = |(at, theirs): (usize, &u64)| mine.get(at).copied().unwrap_or_default() != *theirs;
            (bits, theirs.iter().enumerate().map(differs).collect::<Vec<bool>>())
        });
        let is_asked_for = |slot: NamespaceSlot, hash: KeyHash| {
            let lacks = |(bits, differs): &(u32, Vec<bool>)| differs[self.table.leaf_of(hash, *bits)];
            let is_ahead = after.is_none_or(|after| hash.0 > after);
            is_ahead && self.table.copies(slot) >= copies && differing.as_ref().is_none_or(lacks)
        };
        // First what there is, 16 bytes each, then what fits: a partition may be far larger than a part.
        let mut sizes = Vec::new();
        self.table.scan_partition(partition, |held| {
            if is_asked_for(held.slot, held.hash) {
                sizes.push((held.hash, held.key.len() + held.entry.body.len() + 64));
            }
        });
        self.table.scan_ghosts(partition, |slot, ghost| {
            if is_asked_for(slot, ghost.hash) {
                sizes.push((ghost.hash, GHOST_BYTES));
            }
        });
        sizes.sort_unstable();
        // Keys of one hash travel together: the cursor is the hash.
        let (mut bytes, mut last) = (0, None);
        for (at, (hash, size)) in sizes.iter().enumerate() {
            bytes += size;
            if bytes >= TRANSFER_PART_BYTES && sizes.get(at + 1).is_some_and(|next| next.0 != *hash) {
                last = Some(*hash);
                break;
            }
        }
        let mut found: Vec<Placed<'_>> = Vec::new();
        let is_in_part = |slot, hash| is_asked_for(slot, hash) && last.is_none_or(|last| hash <= last);
        self.table.scan_partition(partition, |Scanned { slot, hash, key, entry, popular }| {
            if is_in_part(slot, hash) {
                let namespace = namespace_of(slot);
                found.push(((hash, namespace, key), Item::Entry(KeyRef { namespace, hash, key }, entry, popular)));
            }
        });
        self.table.scan_ghosts(partition, |slot, ghost| {
            if is_in_part(slot, ghost.hash) {
                let namespace = namespace_of(slot);
                found.push(((ghost.hash, namespace, &[]), Item::Ghost(namespace, ghost)));
            }
        });
        found.sort_unstable_by_key(|(at, _)| *at);
        let forgotten = |namespace: &NamespaceId| {
            // Of what it is no former owner of, what it lacks says nothing.
            let rules =
                self.rules.get(namespace).filter(|rules| rules.n >= copies && self.owned((rules.n, partition)))?;
            let floors = self.table.floors(rules.slot, partition);
            let tells = if last.is_none() { floors != Floors::default() } else { floors.tombstone > Version::ZERO };
            tells.then_some((*namespace, floors))
        };
        let floors: Vec<(NamespaceId, Floors)> = self.spaces.iter().filter_map(forgotten).collect();
        let shed = floors.iter().any(|(_, floors)| floors.tombstone > Version::ZERO);
        let leaves = differing.map_or_else(|| vec![1], |(_, differs)| differs.into_iter().map(u8::from).collect());
        let leaves = shed.then_some(Item::Leaves(&leaves));
        let floors = floors.into_iter().map(|(namespace, floors)| Item::Floors(namespace, floors));
        let items: Vec<Item<'_>> =
            leaves.into_iter().chain(found.into_iter().map(|(_, item)| item)).chain(floors).collect();
        (stream::encode(&items), last.map(|hash: KeyHash| hash.0))
    }

    pub(crate) fn on_stream_chunk(&mut self, now: Now, from: NodeId, part: &Part<'_>, out: &mut dyn ShardOutbox) {
        let partition = part.partition;
        self.hear(from);
        if self.clock.receive(part.hlc, now).is_err() {
            self.stats.clock_refusals += 1;
            return;
        }
        let newest = self.view.newest().map(|ring| ring.name().epoch);
        if newest != Some(part.epoch)
            || !self.has_partition(partition)
            || self.ownership.expected(from, partition, part.awaited()).is_none()
        {
            self.stats.late_votes += 1;
            return;
        }
        // Where what comes is stored, each entry is noted until the disk has it: more than the body takes, if keys are short.
        if self.durable.stores() && !self.make_room_for(2 * part.body.len() as u64) {
            self.stats.entries_without_room += 1;
            self.ownership.on_full(now.mono);
            self.ownership.on_refused(now.mono, from, partition, part.awaited().1);
            return self.work_on_ownership(now, Some(partition), out);
        }
        match self.take_part(now, part) {
            Some(told) => {
                let far = self.take_word(from, part, told);
                let bytes = part.body.len() as u64;
                self.stats.moved_bytes += bytes;
                self.ownership.on_part(partition, part.state, far, (bytes, self.config.shards));
            }
            None => self.ownership.on_refused(now.mono, from, partition, part.awaited().1),
        }
        self.work_on_ownership(now, Some(partition), out);
    }

    /// Joins all entries of a part; what it says beside. `None`: not all of it is held now.
    fn take_part(&mut self, now: Now, part: &Part<'_>) -> Option<Told> {
        let (mut told, mut held) = (Told::default(), true);
        let read = stream::decode(part.body, |item| match item {
            Item::Floors(namespace, forgotten) => {
                held &= self.rules.contains_key(&namespace) || forgotten.tombstone == Version::ZERO;
                told.floors.push((namespace, forgotten));
            }
            Item::Entry(key, entry, popular) => {
                told.list(key.hash, key.namespace);
                held &= self.take_entry(now, part.partition, &key, (&entry, popular));
            }
            Item::Ghost(namespace, ghost) => {
                told.list(ghost.hash, namespace);
                held &= self.take_ghost(part.partition, namespace, &ghost);
            }
            Item::Leaves(leaves) => told.leaves = leaves.to_vec(),
        });
        (read.is_ok() && held).then_some(told)
    }

    /// Takes what a source says beside its entries; how far that brings it. T of one that is not Ready says nothing: whoever saw a delete
    /// is among those that are, and have to be asked.
    fn take_word(&mut self, from: NodeId, part: &Part<'_>, mut told: Told) -> Came {
        if part.state == ReplicaState::Ready {
            self.give_up_deleted(part, &told);
            let transfer = self.ownership.expected(from, part.partition, part.awaited());
            if transfer.is_some_and(|transfer| transfer.on_shed(&told.floors)) {
                return Came::Again;
            }
        }
        let Some(last) = part.last else {
            self.take_forgotten(from, part, std::mem::take(&mut told.floors));
            return Came::All;
        };
        Came::UpTo(last)
    }

    /// Gives up what came from others, where the source of a part lacks it and dropped tombstones as new.
    fn give_up_deleted(&mut self, part: &Part<'_>, told: &Told) {
        if !told.leaves.len().is_power_of_two() || told.leaves.len().ilog2() > self.table.leaf_bits() {
            return;
        }
        let bits = told.leaves.len().ilog2();
        let (first, until) = (part.after.map_or(0, |after| after.saturating_add(1)), part.last.unwrap_or(u64::MAX));
        let shed: BTreeMap<NamespaceId, Version> =
            told.floors.iter().map(|(namespace, floors)| (*namespace, floors.tombstone)).collect();
        for tree in self.ownership.copies().into_iter().map(|copies| (copies, part.partition)) {
            if !self.anti_entropy.readiness.has_lost(tree, false) {
                continue;
            }
            for mine in self.listed(tree, bits, &told.leaves, first, until) {
                let Some(rules) = self.rules.get(&mine.namespace).copied().filter(|rules| rules.evictable) else {
                    continue;
                };
                let lost = self.anti_entropy.readiness.has_lost(tree, self.config.disk && rules.ack.is_durable());
                let is_old = shed.get(&mine.namespace).is_some_and(|tombstone| mine.version <= *tombstone);
                let is_old = is_old && mine.version.hlc <= self.ownership.began();
                if lost && is_old && !mine.ghost && !told.listed.contains(&(mine.hash, mine.namespace)) {
                    self.table.forget(rules.slot, mine.hash, mine.version, mine.entry_hash);
                }
            }
        }
    }

    /// All that a source holds is here: what it may have forgotten is noted, and of what it lacks nothing that it may have deleted is to
    /// come from the next ones.
    fn take_forgotten(&mut self, from: NodeId, part: &Part<'_>, floors: Vec<(NamespaceId, Floors)>) {
        let partition = part.partition;
        for (namespace, Floors { tombstone, .. }) in floors.iter().filter(|_| part.state == ReplicaState::Ready) {
            if let Some(slot) = self.rules.get(namespace).map(|rules| rules.slot) {
                self.table.raise_floors(slot, partition, Floors { evicted: Version::ZERO, tombstone: *tombstone });
            }
        }
        let Some(transfer) = self.ownership.expected(from, partition, part.awaited()) else { return };
        for (namespace, forgotten) in floors {
            let known = transfer.floors.entry(namespace).or_default();
            known.evicted = known.evicted.max(forgotten.evicted);
            known.tombstone = known.tombstone.max(forgotten.tombstone);
        }
    }

    /// Joins one entry, which may be popular; `false`: it is not held, and should be.
    fn take_entry(
        &mut self,
        now: Now,
        partition: PartitionId,
        key: &KeyRef<'_>,
        (entry, popular): (&Entry<'_>, bool),
    ) -> bool {
        if key.hash.partition(self.config.partitions) != partition {
            return true;
        }
        // A namespace that this node is about to learn: the part comes again.
        let Some(slot) = self.rules.get(&key.namespace).map(|rules| rules.slot) else { return false };
        if entry.version <= self.table.floors(slot, partition).tombstone
            && matches!(self.table.peek(slot, key.hash, key.key), Lookup::Absent)
        {
            return true;
        }
        self.keep_displaced(slot, key, entry.version);
        match self.table.put(self.clock.wall(now), slot, key.hash, key.key, entry, false) {
            Put::Applied { .. } => {
                self.stats.entries_moved += 1;
                if popular {
                    self.table.credit(slot, key.hash, key.key);
                }
                true
            }
            Put::Superseded { .. } => true,
            Put::TooLarge if self.table.evict_on_arrival(slot, key.hash, entry) => true,
            refused @ (Put::OutOfMemory | Put::TooLarge) => {
                self.stats.entries_too_large += u64::from(refused == Put::TooLarge);
                self.stats.entries_without_room += 1;
                if refused == Put::OutOfMemory {
                    self.ownership.on_full(now.mono);
                }
                false
            }
        }
    }

    /// Remembers what a source evicted; `false`: it cannot now.
    fn take_ghost(&mut self, partition: PartitionId, namespace: NamespaceId, ghost: &Evicted) -> bool {
        if ghost.hash.partition(self.config.partitions) != partition {
            return true;
        }
        self.rules.get(&namespace).map(|rules| rules.slot).is_some_and(|slot| self.table.adopt(slot, ghost))
    }

    /// A pull was answered. Unheard, each pull would count as the probe of a breaker that was open once, and requests would
    /// never get one (simulator, `bug-pulls-keep-a-breaker-open`).
    fn hear(&mut self, from: NodeId) {
        if let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(from)) {
            self.peers.on_heard(member);
        }
    }

    pub(crate) fn on_stream_refused(&mut self, now: Now, from: NodeId, id: u64, out: &mut dyn ShardOutbox) {
        self.hear(from);
        let partition = u16::try_from(id % (1 << PARTITION_BITS)).expect("16 bits remain");
        self.ownership.on_refused(now.mono, from, PartitionId(partition), id >> PARTITION_BITS);
        self.work_on_ownership(now, Some(PartitionId(partition)), out);
    }
}
