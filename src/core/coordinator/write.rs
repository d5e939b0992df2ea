//! A write's way: stamp, hold it here, ask every owner to, count, and hint what was missed (PROTOCOL §4 "Write").
//!
//! The coordinator's own copy is pinned until enough others hold it, so that eviction cannot undo an acknowledgement
//! that is about to be given. A re-stamp is a new request to the replicas under a new number: an answer to the first
//! stamp must not count for the second. The request stays in flight after its reply until every owner answered or the
//! write timed out; what is missing then becomes a hint.

use super::{
    Change, Guarded, Operation, OperationId, Origin, Phase, Refused, Subject,
    put::{Answer, Outcome, Verdict, Votes},
    refused,
    replicate::BEYOND_THE_CLOCK,
};
use crate::{
    canary::canary,
    durable::Standing,
    handoff::{HintStore, Replay},
    id::{NamespaceId, NodeId},
    limits::WRITE_PATIENCE,
    namespace::Ack,
    outbox::ShardOutbox,
    ring::Ring,
    shard::{Shard, WRITE_TIMERS},
    storage::{Lookup, NamespaceSlot, Put},
    time::{Mono, Now, Wall},
    value::{Body, Entry, Hlc, OwnedEntry, Version},
    view::View,
    wire::{
        client::{Condition, Reply, ReplyBody, Status, Ttl, Worth},
        peer::{KeyRef, Refusal, ReplicaState, Replicated},
    },
};
use std::{sync::Arc, time::Duration};

/// When a write expires, before its version is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    /// Milliseconds after its version.
    After(u64),
    /// Then, whatever its version: kept from the value it replaces.
    At(Wall),
}

impl Expiry {
    pub(super) fn of(self, hlc: Hlc) -> Option<Wall> {
        match self {
            Self::Never => None,
            Self::After(millis) => Some(Wall(hlc.wall().0.saturating_add(millis))),
            Self::At(wall) => Some(wall),
        }
    }
}

impl Shard {
    #[expect(
        clippy::too_many_arguments,
        reason = "the facts of a request, each used once; a struct would only rename them"
    )]
    pub(super) fn start_write(
        &mut self,
        now: Now,
        view: &Arc<View>,
        ring: &Ring,
        owners: &[u16],
        me: u16,
        origin: Origin,
        subject: Subject,
        value: Option<&[u8]>,
        expiry: Expiry,
        deadline: Mono,
        out: &mut dyn ShardOutbox,
    ) -> Result<(), Refused> {
        let rules = self.rules.get(&subject.namespace);
        let (copies, ack) = rules.map_or((0, Ack::Mem), |rules| (rules.n, rules.ack));
        if ack.is_durable() && self.config.disk && self.is_disk_behind() {
            return Err(refused(
                Status::Overloaded { retry_after_ms: 100 },
                "this node's disk is full, failing or far behind (its `meshwork status` says which), and the namespace asks for its log",
            ));
        }
        let (_, beside) = view.owners(subject.partition, copies);
        let newest = view.beside.as_ref().is_some_and(|beside| beside.name() > ring.name());
        let need_beside = subject.votes_among(u8::try_from(beside.len()).expect("at most COPIES_MAX"));
        let mut votes = Votes::new(owners, subject.write, subject.strict).beside(owners, beside, need_beside, newest);
        let is_owner = votes.targets.position(me).is_some();
        let copies = votes.targets.owners();
        // Above everything known here, so that a slow clock of ours loses to nothing we hold.
        let floors = self.table.floors(subject.slot, subject.partition);
        let (known, mut hold) = match self.table.peek(subject.slot, subject.hash, &subject.key) {
            Lookup::Found(entry) => (entry.version, Some(entry)),
            Lookup::Ghost(version) => (version.max(floors.evicted).max(floors.tombstone), None),
            Lookup::Absent => (floors.evicted.max(floors.tombstone), None),
        };
        self.clock.raise(known.hlc, now);
        let hlc = self.clock.stamp(now);
        let version = Version { hlc, actor: self.config.actor };
        if version <= self.table.flushed(subject.slot) {
            return Err(refused(Status::ClockSkew, BEYOND_THE_CLOCK));
        }
        let expires_at = match value {
            Some(_) => expiry.of(hlc),
            None => None,
        };
        let hold_until = hold.take().and_then(|old| value.and(old.hold_for_successor(expires_at)));
        let body = value.map_or(Body::Tombstone, Body::Value);
        let entry = Entry { version, expires_at, hold_until, body };
        let (wall, state) = (self.clock.wall(now), self.state_of(subject.namespace, subject.partition));
        let (mut pin, mut after) = (None, None);
        if is_owner {
            let at = votes.targets.position(me).expect("an owner is among the owners");
            match self.table.put(wall, subject.slot, subject.hash, &subject.key, &entry, copies > 1) {
                Put::Applied { pin: pinned } => {
                    pin = pinned;
                    let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
                    let standing = self.standing_of_entry(ack, &key, out);
                    votes.targets.set(at, own_answer(standing, state, &mut after));
                }
                Put::Superseded { version, hold_until } => {
                    // Only a version beyond the clock's bounds is still above the stamp.
                    votes.report(version, hold_until);
                    votes.targets.set(at, Answer::Superseded(state));
                }
                Put::OutOfMemory => {
                    return Err(refused(
                        Status::OutOfMemory,
                        "memory is full and nothing may be evicted: raise memory.limit, delete, or allow eviction",
                    ));
                }
                Put::TooLarge => {
                    return Err(refused(Status::TooLarge, "key and value are too large for this node's memory limit"));
                }
            }
        } else {
            let owner = owners.iter().copied().find(|owner| !self.reachable(now, view, *owner));
            let Some(target) = owner.map(|owner| ring.node(owner)) else {
                // They were, or this node was one of them, when the request's condition was read.
                return Err(refused(Status::NotOwner, "the owners of the key are back, or changed: ask again"));
            };
            if !self.keep_hint(wall, target, &subject, &entry) {
                return Err(refused(Status::OutOfMemory, "no room to keep the write for its unreachable owner"));
            }
            let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
            let standing = self.standing_of_hint(ack, target, &key, out);
            let answer = own_answer(standing, ReplicaState::Fallback, &mut after);
            votes.targets.add_fallback(me, owner, answer).expect("there is room");
        }
        let place = (subject.namespace, subject.partition);
        if copies == 1
            && is_owner
            && let Verdict::Done(outcome) = votes.verdict()
        {
            self.answer_write(origin, &subject, version, &outcome, out);
            return Ok(());
        }
        let operation = Operation {
            origin,
            subject,
            started: now.mono,
            deadline,
            phase: Phase::Write { votes, version, expiry, pin, kept: None },
        };
        let id = self.park(now, operation);
        if let Some(ticket) = after {
            self.park_own(ticket, place, id);
        }
        self.send_to_owners(now, view, id, &entry, me, out);
        self.send_to_fallbacks(now, view, id, &entry, out);
        self.advance_write(now, id, out);
        Ok(())
    }

    /// Keeps `entry` for `target`, if there is room for it in the hints and in memory.
    pub(crate) fn keep_hint(&mut self, wall: Wall, target: NodeId, subject: &Subject, entry: &Entry<'_>) -> bool {
        let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
        self.keep_hint_for(wall, target, &key, entry)
    }

    pub(crate) fn keep_hint_for(&mut self, wall: Wall, target: NodeId, key: &KeyRef<'_>, entry: &Entry<'_>) -> bool {
        let restarted =
            entry.expires_at.map(|at| wall + Duration::from_millis(at.0.saturating_sub(entry.version.hlc.wall().0)));
        let entry = if canary!(K20) { &Entry { expires_at: restarted, ..*entry } } else { entry };
        // Flushed, or deleted, while the request ran: nobody would take it.
        let rules = self.rules.get(&key.namespace);
        let void = rules.is_some_and(|rules| rules.gone || entry.version <= self.table.flushed(rules.slot));
        let kept = !void
            && self.make_room_for(HintStore::cost(key.key, entry))
            && self.hints.store(wall, target, key.namespace, key.hash, key.key, entry).is_ok();
        if kept {
            self.stats.hints_stored += 1;
        }
        kept
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(crate) fn on_replicated(
        &mut self,
        now: Now,
        from: NodeId,
        id: OperationId,
        hlc: Hlc,
        state: ReplicaState,
        outcome: &Replicated,
        out: &mut dyn ShardOutbox,
    ) {
        if Replay::is_background(id.0) {
            return self.on_background_replicated(now, from, id.0, hlc, outcome);
        }
        let skewed = self.clock.receive(hlc, now).is_err();
        let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(from)) else { return };
        let Some(operation) = self.in_flight.get_mut(id) else {
            self.stats.late_votes += 1;
            return;
        };
        let started = operation.started;
        let answered = operation.origin == Origin::Nobody;
        let Phase::Write { votes, .. } = &mut operation.phase else { return };
        let Some(at) = votes.targets.position(member) else { return };
        self.peers.on_answer(member, started, now.mono);
        let answer = match outcome {
            _ if skewed => {
                self.stats.clock_refusals += 1;
                Answer::Lost
            }
            Replicated::Applied => Answer::Applied(state),
            Replicated::Superseded { version, hold_until } => {
                votes.report(*version, *hold_until);
                Answer::Superseded(state)
            }
            // An owner in the older of two layouts is none any more: that layout retired, and nobody reads by it.
            Replicated::Refused(Refusal::NotOwner) if self.view.beside.is_some() && votes.is_left(at) => {
                votes.forget_beside();
                Answer::Lost
            }
            Replicated::Refused(Refusal::NoDisk) => Answer::Unstored,
            Replicated::Refused(Refusal::TooLarge) => Answer::Outsized,
            Replicated::Refused(_) => Answer::Lost,
        };
        if state == ReplicaState::Warming {
            self.stats.warming_votes_ignored += 1;
        }
        if votes.record(at, answer) {
            self.stats.late_votes += u64::from(answered);
            self.advance_write(now, id, out);
        }
    }

    /// This node's own vote is stored, or will not be (`None`).
    pub(crate) fn on_own_stored(
        &mut self,
        now: Now,
        id: OperationId,
        stored: Option<ReplicaState>,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(me) = self.view.ring.as_ref().and_then(|ring| ring.index_of(self.view.me)) else { return };
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Write { votes, .. } = &mut operation.phase else { return };
        let Some(at) = votes.targets.position(me) else { return };
        let answer = match stored {
            Some(state) if votes.targets.is_owner(at) => Answer::Applied(state),
            Some(_) => Answer::Applied(ReplicaState::Fallback),
            None => Answer::Lost,
        };
        if votes.record(at, answer) {
            self.advance_write(now, id, out);
        }
    }

    /// Why a node gives no vote in a namespace that asks for a log.
    fn diskless(&self, namespace: NamespaceId, member: u16) -> Option<String> {
        let node = self.view.members.get(usize::from(member))?.node;
        let namespace = self.view.namespaces.get(namespace)?;
        Some(namespace.diskless(&node.to_string()))
    }

    /// Does what the votes so far ask for.
    pub(super) fn advance_write(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Write { votes, version, .. } = &operation.phase else { return };
        if operation.origin == Origin::Nobody {
            if !votes.is_waiting() {
                self.end_write(now, id);
            }
            return;
        }
        match votes.verdict() {
            Verdict::Wait => {}
            Verdict::Restamp => self.restamp(now, id, out),
            Verdict::Done(outcome) => {
                let (origin, version, waiting) = (operation.origin, *version, votes.is_waiting());
                operation.origin = Origin::Nobody;
                let subject = operation.subject.worth_facts();
                self.answer_written(origin, subject, version, &outcome, out);
                if !waiting {
                    self.end_write(now, id);
                }
            }
            Verdict::Short { have } => {
                let need = votes.need();
                if self.try_fallbacks(now, id, out) {
                    return;
                }
                let Some(operation) = self.in_flight.get_mut(id) else { return };
                let Phase::Write { votes, .. } = &operation.phase else { return };
                let (unstored, namespace) = (votes.unstored(), operation.subject.namespace);
                // Without a vote of its disk a replica may hold it all the same.
                let maybe = votes.may_be_held() || self.rules.get(&namespace).is_some_and(|it| it.ack.is_durable());
                let words = unstored.and_then(|member| self.diskless(namespace, member));
                self.fail_write(now, id, Status::Unavailable { need, have }, words.as_deref(), maybe, out);
            }
        }
    }

    /// Tells whoever still waits that the write failed, and ends it.
    pub(super) fn fail_write(
        &mut self,
        now: Now,
        id: OperationId,
        status: Status,
        words: Option<&str>,
        maybe_applied: bool,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let origin = std::mem::replace(&mut operation.origin, Origin::Nobody);
        self.answer_failure(origin, status, words, maybe_applied, out);
        self.end_write(now, id);
    }

    /// The entry of a write in flight, as it lies in the memtable or among the hints, or as it was kept when a peer's
    /// newer one took its place; `None`: a newer one did, and it was not kept.
    pub(super) fn held_entry(&mut self, id: OperationId) -> Option<OwnedEntry> {
        let operation = self.in_flight.get_mut(id)?;
        let Phase::Write { version, kept, .. } = &operation.phase else { return None };
        if let Some(kept) = kept {
            return Some(kept.clone());
        }
        let version = *version;
        self.local_entry(id).filter(|held| held.version == version)
    }

    /// The newer entry that took the place of a write in flight.
    pub(super) fn successor(&mut self, id: OperationId) -> Option<OwnedEntry> {
        let operation = self.in_flight.get_mut(id)?;
        let Phase::Write { version, .. } = &operation.phase else { return None };
        let version = *version;
        self.local_entry(id).filter(|held| held.version > version)
    }

    fn local_entry(&mut self, id: OperationId) -> Option<OwnedEntry> {
        let subject = &self.in_flight.get_mut(id)?.subject;
        let place = (subject.namespace, subject.slot, subject.partition, subject.hash);
        Self::local(&mut self.table, &self.hints, place, &subject.key).ok().map(|held| OwnedEntry::from(&held))
    }

    /// A peer's entry of `version` is about to replace what is held of this key. If that is a write in flight here, it
    /// is kept: it may yet be stamped above the peer's, since it may have begun after that one was acknowledged.
    pub(crate) fn keep_displaced(&mut self, slot: NamespaceSlot, key: &KeyRef<'_>, version: Version) {
        if !self.in_flight.may_be_written(key.hash) {
            return;
        }
        let held = match self.table.peek(slot, key.hash, key.key) {
            Lookup::Found(held) if held.version < version => OwnedEntry::from(&held),
            Lookup::Found(_) | Lookup::Ghost(_) | Lookup::Absent => return,
        };
        let bytes = held.value.as_ref().map_or(0, |value| value.len() as u64);
        if !self.may_hold(bytes) {
            return;
        }
        for id in self.in_flight.ids() {
            let Some(operation) = self.in_flight.get_mut(id) else { continue };
            let subject = &operation.subject;
            if operation.origin == Origin::Nobody || subject.slot != slot || *subject.key != *key.key {
                continue;
            }
            if let Phase::Write { version, kept, .. } = &mut operation.phase
                && *version == held.version
                && kept.is_none()
            {
                *kept = Some(held);
                self.in_flight_bytes += bytes;
                return;
            }
        }
    }

    /// Everybody answered or was given up: unpins, and keeps hints for owners that do not hold the write.
    fn end_write(&mut self, now: Now, id: OperationId) {
        let missed = match self.in_flight.get_mut(id).map(|operation| &operation.phase) {
            Some(Phase::Write { votes, .. }) => needs_hints(votes),
            Some(Phase::Read { .. } | Phase::Forwarded { .. }) | None => false,
        };
        let held = if missed { self.held_entry(id) } else { None };
        // What took its place here is newer, and its own write tells the owners; nobody does of what was evicted.
        let forgotten = missed && held.is_none() && self.successor(id).is_none();
        let Some(operation) = self.take(id) else { return };
        let Phase::Write { votes, pin, .. } = operation.phase else { return };
        let subject = &operation.subject;
        if let Some(pin) = pin {
            self.table.unpin(pin, subject.slot, subject.hash, &subject.key);
        }
        let Some(held) = held else {
            if forgotten {
                self.mark_urgent(subject.hash);
            }
            return;
        };
        let view = Arc::clone(&self.view);
        let wall = self.clock.wall(now);
        // Those for whom a fallback holds it need no hint here.
        let missing = (0..votes.targets.owners())
            .filter(|at| matches!(votes.targets.answer(*at), Answer::Unasked | Answer::Lost))
            .map(|at| votes.targets.member(at))
            .filter(|owner| !votes.covered().any(|held| held == *owner))
            .filter_map(|owner| view.members.get(usize::from(owner)))
            .filter(|member| member.node != view.me);
        for member in missing {
            if !self.keep_hint(wall, member.node, subject, &held.as_entry()) {
                self.mark_urgent(subject.hash);
            }
        }
    }

    pub(super) fn on_write_patience(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Write { votes, .. } = &mut operation.phase else { return };
        // Whoever was asked since patience ran out before was asked then, or later.
        let before =
            Mono(now.mono.0.saturating_sub(u64::try_from(WRITE_PATIENCE.as_nanos()).expect("less than a second")));
        let asked = if votes.is_impatient() { before } else { operation.started };
        let (silent, waits) = (votes.lose_patience(), operation.origin != Origin::Nobody);
        let me = self.view.ring.as_ref().and_then(|ring| ring.index_of(self.view.me));
        // Its own vote waits for the disk: that is no silence of a peer.
        for member in silent.into_iter().filter(|member| Some(*member) != me) {
            self.peers.on_timeout(member, asked, now.mono);
        }
        if waits {
            self.try_fallbacks(now, id, out);
            self.advance_write(now, id, out);
        }
        // Whoever comes back later is asked then.
        if self.in_flight.get_mut(id).is_some_and(|operation| operation.origin != Origin::Nobody) {
            let in_flight = &self.in_flight;
            self.write_patience.push(now.mono, id, |id| in_flight.is_over(id));
        }
    }

    pub(super) fn on_write_timeout(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Write { votes, .. } = &mut operation.phase else { return };
        for at in 0..votes.targets.len() {
            if votes.targets.answer(at) == Answer::Pending {
                votes.targets.set(at, Answer::Lost);
            }
        }
        if operation.origin != Origin::Nobody && matches!(votes.verdict(), Verdict::Done(_)) {
            return self.advance_write(now, id, out);
        }
        // The replicas that were silent may still apply it.
        self.fail_write(now, id, Status::Unknown, None, true, out);
    }

    /// A guarded write's read is decided: checks the condition, and writes.
    #[expect(clippy::too_many_arguments, reason = "the facts of a request, each used once")]
    pub(super) fn guarded_write(
        &mut self,
        now: Now,
        origin: Origin,
        subject: Subject,
        guarded: Guarded,
        current: Option<&Entry<'_>>,
        worth: Worth,
        deadline: Mono,
        out: &mut dyn ShardOutbox,
    ) {
        let wall = self.served_until(now);
        let live = current.filter(|entry| entry.is_live(wall));
        let met = match guarded.condition {
            Condition::Always => true,
            Condition::IfAbsent => live.is_none(),
            Condition::IfVersion(version) => live.is_some_and(|entry| entry.version == version),
        };
        if !met {
            let reply = match live {
                Some(entry) => Reply {
                    body: ReplyBody::Written { version: entry.version },
                    worth,
                    ..Reply::status(0, Status::Conflict)
                },
                None => Reply { worth, ..Reply::status(0, Status::Conflict) },
            };
            return self.answer(origin, reply, out);
        }
        if let Some(entry) = current {
            // What the quorum holds is below the stamp, though this node may never have held it.
            self.clock.raise(entry.version.hlc, now);
        }
        let kept = || live.and_then(|entry| entry.expires_at).map_or(Expiry::Never, Expiry::At);
        let (value, expiry) = match &guarded.change {
            Change::Put { value, ttl: Ttl::Keep } => (Some(&**value), Ok(kept())),
            Change::Put { value, ttl } => (Some(&**value), self.expiry(now, &subject, *ttl)),
            Change::Delete => (None, Ok(Expiry::Never)),
            Change::Touch { ttl } => match live {
                Some(Entry { body: Body::Value(value), .. }) => (Some(*value), self.expiry(now, &subject, *ttl)),
                Some(_) | None => {
                    self.stats.misses += 1;
                    return self.answer(origin, Reply { worth, ..Reply::status(0, Status::NotFound) }, out);
                }
            },
        };
        let view = Arc::clone(&self.view);
        self.promised = (subject.key.len() + value.map_or(0, <[u8]>::len)) as u64 + WRITE_TIMERS;
        let begun = expiry.and_then(|expiry| {
            let gone = || refused(Status::NotOwner, "the layout changed while the request ran: ask again");
            let ring = view.ring.as_deref().ok_or_else(gone)?;
            let me = ring.index_of(view.me).ok_or_else(gone)?;
            let owners = &ring.owners(subject.partition);
            let owners = &owners[..usize::from(subject.copies).min(owners.len())];
            if owners.len() != usize::from(subject.copies) {
                return Err(gone());
            }
            self.start_write(now, &view, ring, owners, me, origin, subject, value, expiry, deadline, out)
        });
        self.promised = 0;
        if let Err(Refused(status, words)) = begun {
            self.stats.errors += 1;
            self.answer(origin, Reply::text(0, status, &words), out);
        }
    }

    pub(super) fn answer_write(
        &mut self,
        origin: Origin,
        subject: &Subject,
        version: Version,
        outcome: &Outcome,
        out: &mut dyn ShardOutbox,
    ) {
        self.answer_written(origin, subject.worth_facts(), version, outcome, out);
    }

    fn answer_written(
        &mut self,
        origin: Origin,
        (write, degraded): (u8, bool),
        version: Version,
        outcome: &Outcome,
        out: &mut dyn ShardOutbox,
    ) {
        self.stats.superseded += u64::from(outcome.superseded);
        let worth = Worth {
            acks: outcome.acks,
            fallbacks: outcome.fallbacks,
            epoch: self.epoch(),
            sloppy: outcome.partial || outcome.fallbacks > 0 && outcome.acks - outcome.fallbacks < write,
            degraded,
            warming: outcome.warming,
            stale: false,
            superseded: outcome.superseded,
        };
        let body = ReplyBody::Written { version };
        self.answer(origin, Reply { id: 0, status: Status::Ok, maybe_applied: false, worth, body }, out);
    }
}

/// What the coordinator's own copy says, and after which ticket.
pub(super) fn own_answer(standing: Standing, state: ReplicaState, after: &mut Option<u64>) -> Answer {
    match standing {
        Standing::Now => Answer::Applied(state),
        Standing::After(ticket) => {
            *after = Some(ticket);
            Answer::Pending
        }
        Standing::Never(Refusal::NoDisk) => Answer::Unstored,
        Standing::Never(_) => Answer::Lost,
    }
}

/// Whether an owner is without the write.
fn needs_hints(votes: &Votes) -> bool {
    let owners = &votes.targets.answers()[..votes.targets.owners()];
    votes.applied() > 0 && owners.iter().any(|answer| matches!(answer, Answer::Unasked | Answer::Lost))
}

impl Subject {
    /// What a reply's worth is made of: W, and whether the layout is smaller than the namespace wants.
    fn worth_facts(&self) -> (u8, bool) {
        (self.write, self.degraded)
    }
}
