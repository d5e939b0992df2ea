//! Serving peers: holding the entries they send, saying what is held (PROTOCOL §4, §6).
//!
//! What it promises: an answer of `Applied` means that the entry, or a newer one under an equal version, is in memory
//! now; a version not above what was held *or forgotten* here is `Superseded`, so that a slow clock cannot write under
//! something that was evicted; a message whose clock or layout is out of bounds changes nothing. A replica never asks
//! anybody; who counts its answer, and for what, is the coordinator's business (`coordinator::put`, `coordinator::get`).

use crate::{
    anti_entropy::REPAIR_ID,
    canary::canary,
    clock::Skew,
    durable::Standing,
    handoff::HintStore,
    id::{KeyHash, NamespaceId, PartitionId},
    input::PeerShard,
    namespace::Ack,
    outbox::ShardOutbox,
    shard::Shard,
    storage::{Lookup, Memtable, NamespaceSlot, Put},
    time::Now,
    value::{Entry, OwnedEntry, Version},
    wire::peer::{Found, Header, KeyRef, PeerMessage, Refusal, ReplicaState, Replicated, ReplicationKind},
};

impl Shard {
    /// What this node itself holds of a key: entry or hint, whichever is newer; else what it may have forgotten.
    pub(crate) fn local<'a>(
        table: &'a mut Memtable,
        hints: &'a HintStore,
        subject: (NamespaceId, NamespaceSlot, PartitionId, KeyHash),
        key: &[u8],
    ) -> Result<Entry<'a>, Version> {
        let (namespace, slot, partition, hash) = subject;
        let hint = hints.find(namespace, hash, key).map(OwnedEntry::as_entry);
        let floors = table.floors(slot, partition);
        let floor = floors.evicted.max(floors.tombstone);
        let forgotten = match table.get(slot, hash, key) {
            Lookup::Found(entry) => {
                return Ok(hint.filter(|hint| hint.version > entry.version).unwrap_or(entry));
            }
            Lookup::Ghost(version) => version.max(floor),
            Lookup::Absent => floor,
        };
        // What was evicted here may have been newer than a hint for somebody else: then the hint is no answer.
        hint.filter(|hint| hint.version > forgotten).ok_or(forgotten)
    }

    /// Whether a peer's request may be served at all; folds its clock in.
    fn admit_peer(&mut self, now: Now, header: &Header, key: &KeyRef<'_>) -> Result<(NamespaceSlot, Ack), Refusal> {
        match self.clock.receive(header.hlc, now) {
            Ok(()) => {}
            Err(Skew::Ahead | Skew::Behind) => {
                self.stats.clock_refusals += 1;
                return Err(Refusal::ClockSkew);
            }
        }
        // No word on who owns the key: to a coordinator that would say that a layout retired.
        let Some(oldest) = self.view.oldest() else { return Err(Refusal::StaleEpoch) };
        if header.layout.epoch < oldest.name().epoch.max(self.ownership.floor()) {
            self.stats.stale_epochs += 1;
            return Err(Refusal::StaleEpoch);
        }
        let rules = self.rules.get(&key.namespace).filter(|rules| !rules.gone);
        rules.map(|rules| (rules.slot, rules.ack)).ok_or(Refusal::NoSuchNamespace)
    }

    /// This node's state as a replica of the key.
    pub(crate) fn state_for(&self, key: &KeyRef<'_>) -> ReplicaState {
        self.state_in(key.namespace, key.hash.partition(self.config.partitions))
    }

    /// As `state_for`, of any key of `partition`.
    pub(crate) fn state_in(&self, namespace: NamespaceId, partition: PartitionId) -> ReplicaState {
        let Some(ring) = self.view.ring.as_ref() else { return ReplicaState::Fallback };
        let copies = self.rules.get(&namespace).map_or(0, |rules| rules.n);
        let Some(me) = ring.index_of(self.view.me) else { return ReplicaState::Fallback };
        let (owners, beside) = self.view.owners(partition, copies);
        let owns = owners.contains(&me) || beside.contains(&me);
        if owns { self.replica_state((copies, partition)) } else { ReplicaState::Fallback }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(crate) fn on_replicate(
        &mut self,
        now: Now,
        from: PeerShard,
        id: u64,
        header: &Header,
        key: &KeyRef<'_>,
        entry: &Entry<'_>,
        stands_for: Option<crate::id::NodeId>,
        kind: ReplicationKind,
        out: &mut dyn ShardOutbox,
    ) {
        // An owner that is asked to stand in for itself, at the address of another, is the owner (simulator, seed f001501).
        let stands_for = stands_for.filter(|target| *target != self.view.me);
        let admitted = self.admit_peer(now, header, key);
        let ack = admitted.map_or(Ack::Mem, |(_, ack)| ack);
        let (mut state, mut outcome) = match admitted {
            Err(refusal) => (ReplicaState::Fallback, Replicated::Refused(refusal)),
            // Whoever is behind takes nothing more: not even in memory, where it would have to be written later.
            Ok(_) if ack.is_durable() && self.config.disk && self.is_disk_behind() => {
                self.stats.votes_not_stored += 1;
                (ReplicaState::Fallback, Replicated::Refused(Refusal::NotStored))
            }
            Ok((slot, _)) => match (stands_for, self.state_for(key)) {
                (Some(_), _) if ack.is_durable() && !self.config.disk => {
                    (ReplicaState::Fallback, Replicated::Refused(Refusal::NoDisk))
                }
                (Some(target), _) => {
                    let kept = self.keep_hint_for(self.clock.wall(now), target, key, entry);
                    let outcome = if kept { Replicated::Applied } else { Replicated::Refused(Refusal::OutOfMemory) };
                    (ReplicaState::Fallback, outcome)
                }
                (None, ReplicaState::Fallback) => (ReplicaState::Fallback, Replicated::Refused(Refusal::NotOwner)),
                (None, state) => {
                    let refused = self.refuse_hint(now, kind, entry);
                    let outcome = refused.unwrap_or_else(|| self.apply(now, slot, key, entry));
                    if (kind, outcome) == (ReplicationKind::Repair { popular: true }, Replicated::Applied) {
                        self.table.credit(slot, key.hash, key.key);
                    }
                    (state, outcome)
                }
            },
        };
        // Nobody waits for the answer to a repair.
        if ack.is_durable() && id != REPAIR_ID && !matches!(outcome, Replicated::Refused(_)) {
            let standing = match stands_for {
                Some(target) => self.standing_of_hint(ack, target, key, out),
                None => self.standing_of_entry(ack, key, out),
            };
            match standing {
                Standing::Now => {}
                Standing::After(ticket) => {
                    return self.park_reply(ticket, key, (from, id), state, outcome);
                }
                Standing::Never(refusal) => {
                    (state, outcome) = (ReplicaState::Fallback, Replicated::Refused(refusal));
                }
            }
        }
        self.stats.replica_writes += u64::from(outcome == Replicated::Applied);
        let hlc = self.clock.reading(now);
        out.send(from, &PeerMessage::Replicated { id, hlc, state, outcome });
    }

    /// Joins an entry into what is held, unless it is not above what was forgotten.
    pub(crate) fn apply(&mut self, now: Now, slot: NamespaceSlot, key: &KeyRef<'_>, entry: &Entry<'_>) -> Replicated {
        let wall = self.clock.wall(now);
        let partition = key.hash.partition(self.config.partitions);
        let floors = self.table.floors(slot, partition);
        let floor = floors.evicted.max(floors.tombstone).max(self.ownership.shed(partition, key.namespace));
        // A version above every floor needs no look-up of its own: the put finds ghosts and newer entries by itself.
        if entry.version <= floor && !canary!(K17) {
            match self.table.peek(slot, key.hash, key.key) {
                Lookup::Found(_) => {}
                Lookup::Ghost(version) => {
                    return Replicated::Superseded { version: version.max(floor), hold_until: None };
                }
                Lookup::Absent => return Replicated::Superseded { version: floor, hold_until: None },
            }
        }
        self.keep_displaced(slot, key, entry.version);
        match self.table.put(wall, slot, key.hash, key.key, entry, false) {
            Put::Applied { .. } => Replicated::Applied,
            Put::Superseded { version, hold_until } => Replicated::Superseded { version, hold_until },
            // No vote; but what is older here must not be shown any more, nor this one be sent again and again.
            Put::TooLarge if self.table.evict_on_arrival(slot, key.hash, entry) => {
                Replicated::Refused(Refusal::TooLarge)
            }
            Put::OutOfMemory | Put::TooLarge => Replicated::Refused(Refusal::OutOfMemory),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(crate) fn on_read(
        &mut self,
        now: Now,
        from: PeerShard,
        id: u64,
        header: &Header,
        key: &KeyRef<'_>,
        full: bool,
        out: &mut dyn ShardOutbox,
    ) {
        self.stats.replica_reads += 1;
        let admitted = self.admit_peer(now, header, key);
        let state = self.state_for(key);
        let hlc = self.clock.reading(now);
        let found = match admitted {
            Err(refusal) => Found::Refused(refusal),
            Ok((slot, _)) => {
                let place = (key.namespace, slot, key.hash.partition(self.config.partitions), key.hash);
                match Self::local(&mut self.table, &self.hints, place, key.key) {
                    Ok(entry) if full => Found::Entry(entry),
                    Ok(entry) => Found::Digest { version: entry.version },
                    Err(forgotten) => Found::Absent { forgotten },
                }
            }
        };
        out.send(from, &PeerMessage::ReadReply { id, hlc, state, found });
    }
}

const _: () = assert!(Version::ZERO.hlc.0 == 0, "a replica that forgot nothing supersedes nothing");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{ActorId, NodeId, ShardId},
        storage::MemtableConfig,
        time::Wall,
        value::{Body, Hlc},
    };

    /// Found by seed 8e of mix F8: an owner that kept a hint for another owner evicted its own newer copy, and then showed
    /// the hint.
    #[test]
    fn a_hint_older_than_what_was_evicted_is_no_answer() {
        let (slot, space, hash) = (NamespaceSlot(0), NamespaceId(1), KeyHash(7));
        let config = MemtableConfig { limit: 256 << 10, partitions: 1, shards: 1, shard: ShardId(0), seed: 1 };
        let (mut table, mut hints) = (Memtable::new(config), HintStore::new(1 << 20));
        table.namespace(slot, true, 3);
        let at = |ms| Version { hlc: Hlc::at(Wall(ms)), actor: ActorId(1) };
        let entry = |ms, value| Entry { version: at(ms), expires_at: None, hold_until: None, body: Body::Value(value) };
        hints.store(Wall(10), NodeId(2), space, hash, b"k", &entry(10, b"old")).unwrap();
        let show = |table: &mut Memtable| {
            Shard::local(table, &hints, (space, slot, PartitionId(0), hash), b"k").map(|entry| entry.version)
        };
        assert_eq!(show(&mut table), Ok(at(10)));
        // Not looked at while it is there: what is used stays.
        let put = table.put(Wall(20), slot, hash, b"k", &entry(20, b"new"), false);
        assert!(matches!(put, Put::Applied { .. }));
        for other in 0..10_000u64 {
            let key = other.to_be_bytes();
            let spread = KeyHash(other.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 40);
            let put = table.put(Wall(21), slot, spread, &key, &entry(15, &[0; 64]), false);
            assert!(matches!(put, Put::Applied { .. }));
        }
        assert!(show(&mut table).is_err_and(|forgotten| forgotten >= at(20)), "it was evicted and is not denied");
    }
}
