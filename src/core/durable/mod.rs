//! What a shard stores, and what it makes of it after a restart (ARCHITECTURE §1 "Acknowledged means"; PROTOCOL §6).
//!
//! Core owns what is stored and its format (`record`); the driver owns a durable ordered map from bytes to bytes, whose
//! content after a crash is a prefix of the writes it was given. Stored is what namespaces with `ack = log` or `fsync` hold: entries, hints,
//! forget floors; and the terms of trees, which make void what was dropped with them. The rooms that hold those say which places changed
//! (`storage::changes`, `HintStore`), after every input the places are written as they are then (`log`), and a vote waits for that
//! (`votes`). Restored records wait for their namespaces (`waiting`) and are then held like any others, by a replica that warms.
//!
//! Invariants: without a disk nothing here costs or holds anything; in a namespace that asks for a log no vote is given
//! before the disk has it, and none at all without a disk; a tombstone is promised for collection once it is synced: a crash to
//! an older prefix would else bring back what all others agreed to forget.

pub(crate) mod log;
mod packed;
mod record;
mod removals;
mod restore;
pub(crate) mod votes;
mod waiting;

pub use record::{RestoreError, STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX, stored_shard};

use crate::{
    canary::canary,
    coordinator::OperationId,
    id::{KeyHash, KeyHasher, NamespaceId, NodeId, PartitionId},
    input::PeerShard,
    namespace::Ack,
    outbox::{ShardOutbox, StoreWrite},
    ring::LayoutName,
    shard::Shard,
    storage::{Changed, Floors, Lookup, LowTrees},
    time::{Mono, Now},
    value::Body,
    wire::peer::{KeyRef, PeerMessage, Refusal, ReplicaState, Replicated},
};
use log::{Log, Place};
use removals::Removals;
use std::time::Duration;
use votes::{Parked, Vote, Votes};
use waiting::Waiting;

/// This share of the memory may be taken by changes on their way to the disk, one in …: beyond it writes are refused.
const OUT_SHARE: u64 = 64;
/// What failed is written again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Places written again at once, and floors written with them.
const RETRY_MOST: usize = 256;

/// What a shard keeps of its disk.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    waiting: Waiting,
    log: Log,
    votes: Votes,
    retry_at: Mono,
    /// What came to this node for the newest layout is synced once this barrier is.
    moved: Option<(LayoutName, u64)>,
    /// The control plane was told that what came is not synced.
    unsynced: bool,
    removals: Removals,
    /// Bytes set aside for good, once a namespace is stored: what is noted of it comes where nobody can be asked for room.
    set_aside: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// What a vote for something held here is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may be given.
    Now,
    /// It may be given once this ticket is stored.
    After(u64),
    /// It may not be given.
    Never(Refusal),
}

impl Durable {
    /// Nothing was stored or restored yet; restored records may take `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { waiting: Waiting::new(bytes_max), ..Self::default() }
    }

    /// Bytes held beside the memtable.
    pub(crate) fn bytes(&self) -> u64 {
        self.waiting.bytes() + self.removals.bytes() + (self.log.bytes() + self.votes.bytes()).max(self.set_aside)
    }

    /// A namespace of a shard with so much memory is stored.
    pub(crate) fn begin(&mut self, memory: u64) {
        self.set_aside = memory / OUT_SHARE;
    }

    /// Changes whose storing is not confirmed, those to be written again, and records that are yet to be removed.
    pub(crate) fn waiting_stores(&self) -> u64 {
        (self.log.out() + self.log.failed() + self.removals.len()) as u64
    }

    /// A vote waits for this ticket.
    fn park(&mut self, ticket: u64, parked: Parked) {
        self.votes.park(ticket, parked);
    }

    /// Whether any namespace's changes are stored.
    pub(crate) fn stores(&self) -> bool {
        self.set_aside > 0
    }
}

impl Shard {
    /// Whether the disk is so far behind that nothing more may be promised.
    pub(crate) fn is_disk_behind(&self) -> bool {
        self.durable.votes.is_full() || self.durable.log.backlog() > self.config.memory / OUT_SHARE
    }

    /// What a vote for the entry held under `key` is worth, in a namespace that asks for `ack`. What changed is stored first.
    pub(crate) fn standing_of_entry(&mut self, ack: Ack, key: &KeyRef<'_>, out: &mut dyn ShardOutbox) -> Standing {
        if !ack.is_durable() || canary!(K4) {
            return Standing::Now;
        }
        let slot = self.rules.get(&key.namespace).map(|rules| rules.slot);
        self.standing(out, || Some(Place::Entry(slot?, key.hash, key.key.into())))
    }

    /// As `standing_of_entry`, of the hint held for `target`.
    pub(crate) fn standing_of_hint(
        &mut self,
        ack: Ack,
        target: NodeId,
        key: &KeyRef<'_>,
        out: &mut dyn ShardOutbox,
    ) -> Standing {
        if !ack.is_durable() || canary!(K4) {
            return Standing::Now;
        }
        self.standing(out, || Some(Place::Hint(target, key.hash, key.namespace, key.key.into())))
    }

    fn standing(&mut self, out: &mut dyn ShardOutbox, place: impl FnOnce() -> Option<Place>) -> Standing {
        if !self.config.disk {
            self.stats.votes_not_stored += 1;
            return Standing::Never(Refusal::NoDisk);
        }
        self.store_changes(out);
        let log = &self.durable.log;
        if log.failed() > 0 && place().is_none_or(|place| log.is_failed(&place)) {
            self.stats.votes_not_stored += 1;
            return Standing::Never(Refusal::NotStored);
        }
        if log.last() <= log.stored() { Standing::Now } else { Standing::After(log.last()) }
    }

    /// What the namespace of a key asks for.
    pub(crate) fn ack_of(&self, namespace: NamespaceId) -> Ack {
        self.rules.get(&namespace).map_or(Ack::Mem, |rules| rules.ack)
    }

    /// Writes what changed, as it is now. Called after every input, and before a vote is weighed.
    pub(crate) fn store_changes(&mut self, out: &mut dyn ShardOutbox) {
        if !self.config.disk || self.table.is_unchanged() && self.hints.is_unchanged() {
            return;
        }
        for changed in self.table.take_changes() {
            self.store_place(Place::Entry(changed.slot, changed.hash, changed.key), out);
        }
        for (target, (hash, namespace, key)) in self.hints.take_changes() {
            if self.ack_of(namespace).is_durable() {
                self.store_place(Place::Hint(target, hash, namespace, key), out);
            }
        }
    }

    /// What follows from the input that was just handled.
    pub(crate) fn settle_disk(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        if self.config.disk {
            self.store_changes(out);
            if self.durable.removals.is_due(now.mono) {
                self.remove_some(out);
            }
            if self.durable.log.is_barrier_wanted() {
                self.store_place(Place::Barrier, out);
            }
        }
    }

    /// What is held is void, all of it: it goes from memory now, and from the disk by and by.
    pub(crate) fn remove_records(&mut self) {
        let Self { table, spaces, durable: Durable { removals, key, .. }, .. } = self;
        table.remove_records(|gone| {
            for Changed { slot, hash, key: name } in gone {
                if let Some(namespace) = spaces.get(usize::from(slot.0)) {
                    record::entry_key(key, *namespace, hash, &name);
                    removals.push(key);
                }
            }
        });
    }

    /// Removes the next records that are of no use from the disk, but for those whose place was taken since.
    fn remove_some(&mut self, out: &mut dyn ShardOutbox) {
        let mut given = self.durable.removals.take(&KeyHasher::new(self.config.cluster));
        given.retain(|key| !self.is_taken(key));
        for key in &given {
            let ticket = self.durable.log.next();
            out.store(&StoreWrite { ticket, sync: false, key, value: None });
        }
        self.stats.stored_writes += given.len() as u64;
        if !given.is_empty() {
            self.durable.removals.follow(self.durable.log.last(), given);
        }
    }

    /// Whether something is held now under the key of a record.
    fn is_taken(&self, key: &[u8]) -> bool {
        let Some((target, namespace, hash, name)) = record::named(key) else { return true };
        if let Some(target) = target {
            return self.hints.find_for(target, namespace, hash, name).is_some();
        }
        let slot = self.rules.get(&namespace).map(|rules| rules.slot);
        slot.is_some_and(|slot| matches!(self.table.peek(slot, hash, name), Lookup::Found(_)))
    }

    /// Now and then: writes floors that rose, and again what was not kept.
    pub(crate) fn maintain_disk(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        if !self.config.disk {
            return;
        }
        for (slot, partition) in self.table.take_risen(RETRY_MOST) {
            self.store_place(Place::Floors(slot, partition), out);
        }
        if self.durable.log.failed() > 0 && now.mono >= self.durable.retry_at {
            for place in self.durable.log.take_failed(RETRY_MOST) {
                self.store_place(place, out);
            }
        }
    }

    /// Writes what is at `place` now.
    fn store_place(&mut self, place: Place, out: &mut dyn ShardOutbox) {
        let Durable { key, value, log, waiting, .. } = &mut self.durable;
        let (mut sync, mut held, mut tombstone) = (false, true, None);
        match &place {
            Place::Entry(slot, hash, name) => {
                let Some(namespace) = self.spaces.get(usize::from(slot.0)) else { return };
                sync = self.rules.get(namespace).is_some_and(|rules| rules.ack == Ack::Fsync);
                record::entry_key(key, *namespace, *hash, name);
                match self.table.peek(*slot, *hash, name) {
                    // What is void already must not be written again as of the partition's next term.
                    Lookup::Found(_)
                        if self.leaving.holds((hash.partition(self.config.partitions), self.table.copies(*slot))) =>
                    {
                        held = false;
                    }
                    Lookup::Found(entry) => {
                        record::entry_value(value, waiting.term(hash.partition(self.config.partitions)), &entry);
                        // A value that becomes one at its end is not written again.
                        let lasts = entry.body == Body::Tombstone || entry.outlasts_its_end();
                        tombstone = lasts.then_some(*hash);
                    }
                    Lookup::Ghost(_) | Lookup::Absent => held = false,
                }
            }
            Place::Hint(target, hash, namespace, name) => {
                sync = self.rules.get(namespace).is_some_and(|rules| rules.ack == Ack::Fsync);
                record::hint_key(key, *target, *namespace, *hash, name);
                match self.hints.find_for(*target, *namespace, *hash, name) {
                    Some(hint) => record::entry_value(value, 0, &hint.as_entry()),
                    None => held = false,
                }
            }
            Place::Floors(slot, partition) => {
                let Some(namespace) = self.spaces.get(usize::from(slot.0)) else { return };
                record::floors_key(key, *namespace, *partition);
                let floors = self.table.floors(*slot, *partition);
                held = floors != Floors::default();
                record::floors_value(value, floors);
            }
            Place::Term(trees) => {
                sync = true;
                record::term_key(key, *trees);
                record::term_value(value, waiting.term_of(*trees));
            }
            Place::Barrier => {
                sync = true;
                record::barrier_key(key, self.config.shard.0);
                record::barrier_value(value);
            }
        }
        let ticket = log.next();
        let sync = sync && held;
        out.store(&StoreWrite { ticket, sync, key, value: held.then_some(value.as_slice()) });
        self.stats.stored_writes += 1;
        if held {
            log.follow(ticket, sync, place);
        }
        if let Some(hash) = tombstone {
            log.wrote_tombstone(hash, ticket);
        }
    }

    /// The driver says that all up to `through` is stored.
    pub(crate) fn on_stored(&mut self, now: Now, through: u64, out: &mut dyn ShardOutbox) {
        self.durable.log.on_stored(through);
        self.durable.removals.on_stored(through);
        self.give_votes(now, out);
    }

    /// The driver says that what was given from `from` on was not kept.
    pub(crate) fn on_store_failed(&mut self, now: Now, from: u64, out: &mut dyn ShardOutbox) {
        let refused = self.durable.votes.take_from(from);
        self.stats.stored_failures += self.durable.log.on_failed(from);
        self.stats.votes_not_stored += refused.len() as u64;
        self.durable.retry_at = now.mono + RETRY_AFTER;
        self.durable.removals.on_failed(from, now.mono + RETRY_AFTER);
        self.durable.moved = None;
        for parked in refused {
            self.give(now, parked, false, out);
        }
        self.give_votes(now, out);
    }

    fn give_votes(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        while let Some(parked) = self.durable.votes.pop(self.durable.log.stored()) {
            self.give(now, parked, true, out);
        }
        // A barrier that failed is written anew once all that failed is.
        let log = &self.durable.log;
        let due = self.durable.moved.map_or(log.failed() == 0, |(_, barrier)| log.is_synced(barrier));
        if self.durable.unsynced && due {
            self.work_on_ownership(now, None, out);
        }
    }

    fn give(&mut self, now: Now, parked: Parked, kept: bool, out: &mut dyn ShardOutbox) {
        // A copy that completed its comparison meanwhile took the write as one that may lack something newer.
        let state = parked.state.lowered(self.state_in(parked.namespace, parked.partition));
        match parked.vote {
            Vote::Own(id) => self.on_own_stored(now, id, kept.then_some(state), out),
            Vote::Peer { to, id, outcome } => {
                let outcome = if kept { outcome } else { Replicated::Refused(Refusal::NotStored) };
                self.stats.replica_writes += u64::from(outcome == Replicated::Applied);
                let hlc = self.clock.reading(now);
                out.send(to, &PeerMessage::Replicated { id, hlc, state, outcome });
            }
        }
    }

    /// This node's own vote for a write that it coordinates waits for `ticket`.
    pub(crate) fn park_own(
        &mut self,
        ticket: u64,
        (namespace, partition): (NamespaceId, PartitionId),
        id: OperationId,
    ) {
        let state = self.state_in(namespace, partition);
        self.durable.park(ticket, Parked { namespace, partition, state, vote: Vote::Own(id) });
    }

    /// A vote for a peer waits for `ticket`.
    pub(crate) fn park_reply(
        &mut self,
        ticket: u64,
        key: &KeyRef<'_>,
        (to, id): (PeerShard, u64),
        state: ReplicaState,
        outcome: Replicated,
    ) {
        let partition = key.hash.partition(self.config.partitions);
        let vote = Vote::Peer { to, id, outcome };
        self.durable.park(ticket, Parked { namespace: key.namespace, partition, state, vote });
    }

    /// Some trees are dropped: what is stored of them is void, and votes for it are not given any more.
    pub(crate) fn void_trees(&mut self, now: Now, (partition, copies): LowTrees, out: &mut dyn ShardOutbox) {
        if !self.durable.stores() {
            return;
        }
        let next = self.durable.waiting.term(partition).saturating_add(1);
        self.durable.waiting.set_term((partition, copies), next);
        self.store_place(Place::Term((partition, copies)), out);
        let rules = &self.rules;
        let goes = |namespace| rules.get(&namespace).is_none_or(|rules| rules.n <= copies);
        for parked in self.durable.votes.take(|parked| parked.partition == partition && goes(parked.namespace)) {
            self.give(now, parked, false, out);
        }
    }

    /// Whether a tombstone of a namespace may be promised for collection, as far as the disk is concerned. If not, a barrier
    /// is on its way, and it may be next time.
    pub(crate) fn may_promise(&mut self, namespace: NamespaceId, hash: KeyHash) -> bool {
        if !self.config.disk || !self.ack_of(namespace).is_durable() {
            return true;
        }
        let Some(slot) = self.rules.get(&namespace).map(|rules| rules.slot) else { return false };
        let Some((key, _, _)) = self.table.by_hash(slot, hash) else { return false };
        let synced = self.durable.log.is_tombstone_synced(hash, &Place::Entry(slot, hash, key.into()));
        if !synced {
            self.durable.log.want_barrier();
        }
        synced
    }

    /// Whether all that was moved here for the newest layout is synced: whoever lets go of it relies on that. Asked once nothing
    /// is missing; the first time it writes a barrier.
    pub(crate) fn is_moved_synced(&mut self, out: &mut dyn ShardOutbox) -> bool {
        let synced = self.judge_moved(out);
        self.durable.unsynced = !synced;
        synced
    }

    fn judge_moved(&mut self, out: &mut dyn ShardOutbox) -> bool {
        let Some(newest) = self.view.newest().map(|ring| ring.name()) else { return true };
        if !self.durable.stores() || self.view.beside.is_none() {
            return true;
        }
        if self.durable.log.failed() > 0 {
            return false;
        }
        match self.durable.moved {
            Some((name, barrier)) if name == newest => self.durable.log.is_synced(barrier),
            Some(_) | None => {
                self.store_changes(out);
                self.store_place(Place::Barrier, out);
                self.durable.moved = Some((newest, self.durable.log.last()));
                false
            }
        }
    }
}
