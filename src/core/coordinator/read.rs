//! A read's way: own copy, R−1 others, one more when they are slow, the body from whoever has it (PROTOCOL §4 "Read").
//!
//! A peer is asked for a digest whenever this node holds the key itself, whatever its size: a version names its entry,
//! so equal versions need no body, and most reads end there. (PROTOCOL asks for digests above 4 KiB; on a machine where
//! every byte is encrypted twice the version alone is cheaper at every size.) Only when a peer holds something newer is
//! the body fetched, from its holders in turn; gone everywhere is a miss.

use super::{
    Guarded, Operation, OperationId, Origin, Phase, Refused, Subject,
    answer::deliver_read,
    get::{Answer, Outcome, Verdict, Votes},
};
use crate::{
    id::NodeId,
    limits::HEDGE_PERCENT_MAX,
    outbox::ShardOutbox,
    shard::Shard,
    time::{Mono, Now},
    value::{Entry, Hlc, OwnedEntry, Version},
    view::View,
    wire::{
        client::{Status, Worth},
        peer::{Found, KeyRef, PeerMessage, ReplicaState},
    },
};
use std::sync::Arc;

/// A hedge costs this many hundredths; each read earns `HEDGE_PERCENT_MAX` of them.
const HEDGE_COST: u64 = 100;
/// Most hedges that may be saved up for a bad moment.
const HEDGES_SAVED_MAX: u64 = 50;

/// What may be spent on hedges after one more read.
#[inline]
pub(super) fn earned(credit: u64) -> u64 {
    (credit + HEDGE_PERCENT_MAX).min(HEDGES_SAVED_MAX * HEDGE_COST)
}

impl Shard {
    #[expect(
        clippy::too_many_arguments,
        reason = "the facts of a request, each used once; a struct would only rename them"
    )]
    pub(super) fn start_read(
        &mut self,
        now: Now,
        view: &Arc<View>,
        owners: &[u16],
        me: u16,
        origin: Origin,
        subject: Subject,
        need: u8,
        guarded: Option<Guarded>,
        deadline: Mono,
        out: &mut dyn ShardOutbox,
    ) -> Result<(), Refused> {
        self.hedge_credit = earned(self.hedge_credit);
        let mut votes = Votes::new(owners, need, subject.strict);
        let place = (subject.namespace, subject.slot, subject.partition, subject.hash);
        let state = if owners.contains(&me) {
            self.state_of(subject.namespace, subject.partition)
        } else {
            ReplicaState::Fallback
        };
        let local = Self::local(&mut self.table, &self.hints, place, &subject.key);
        let mine = match &local {
            Ok(entry) => Answer::Holds(state, entry.version),
            Err(forgotten) => Answer::Absent(state, *forgotten),
        };
        let full = local.is_err();
        match votes.targets.position(me) {
            Some(at) => votes.targets.set(at, mine),
            None => {
                votes.targets.add_fallback(me, None, mine).expect("there is room for one beside the owners");
            }
        }
        // The common cheap case: this copy alone is enough.
        if guarded.is_none()
            && let Verdict::Decided(outcome) = votes.verdict()
            && !outcome.sloppy
        {
            let worth = worth(&outcome, &subject, view);
            let wall = self.clock.reading(now).wall();
            let hit = deliver_read(origin, local.ok().as_ref(), wall, worth, out);
            self.count_lookup(hit);
            return Ok(());
        }
        self.mark_unreachable(now, view, &mut votes);
        let strict = subject.strict;
        let wanted = usize::from(need).saturating_sub(usize::from(counts(&votes, me, state, strict)));
        let operation = Operation {
            origin,
            subject,
            started: now.mono,
            deadline,
            phase: Phase::Read { votes, body: None, fetching: None, guarded },
        };
        let id = self.park(now, operation);
        for _ in 0..wanted {
            if !self.ask_another(now, view, id, full, out) {
                break;
            }
        }
        if !strict {
            self.ask_hint_holders(now, view, id, out);
        }
        self.advance_read(now, id, out);
        Ok(())
    }

    fn mark_unreachable(&mut self, now: Now, view: &View, votes: &mut Votes) {
        for at in 0..votes.targets.owners() {
            let member = votes.targets.member(at);
            if votes.targets.answer(at) == Answer::Unasked && !self.reachable(now, view, member) {
                votes.targets.set(at, Answer::Unreached);
            }
        }
    }

    /// Where nobody else is left to ask: asks the owners that could not be asked and answer again, and with `probes` those whose circuit
    /// breaker is open, too, as a probe or while one is under way, if with them it may be enough. Whether they were asked.
    fn ask_unreached(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        probes: bool,
        out: &mut dyn ShardOutbox,
    ) -> bool {
        let Some(operation) = self.in_flight.get_mut(id) else { return false };
        let Phase::Read { votes, .. } = &operation.phase else { return false };
        let votes = *votes;
        let asked = |at: &usize| {
            let member = votes.targets.member(*at);
            let can_be = || self.is_back(view, member) || probes && self.may_be_back(now, view, member);
            votes.targets.answer(*at) == Answer::Unreached && can_be()
        };
        let asked: Vec<usize> = (0..votes.targets.owners()).filter(asked).collect();
        if asked.is_empty() || !votes.suffices_with(&asked) {
            return false;
        }
        for at in asked {
            if let Some(Operation { phase: Phase::Read { votes, .. }, .. }) = self.in_flight.get_mut(id) {
                votes.targets.set(at, Answer::Pending);
            }
            self.send_read(now, view, id, at, true, out);
        }
        true
    }

    /// Asks one more owner: near before far, quick before slow, in turn. `false`: there is none to ask.
    fn ask_another(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        full: bool,
        out: &mut dyn ShardOutbox,
    ) -> bool {
        let Some(operation) = self.in_flight.get_mut(id) else { return false };
        let Phase::Read { votes, .. } = &mut operation.phase else { return false };
        self.turn = self.turn.wrapping_add(1);
        let owners = votes.targets.owners();
        let best = (0..owners)
            .map(|step| (step + self.turn) % owners)
            .filter(|at| votes.targets.answer(*at) == Answer::Unasked)
            .min_by_key(|at| {
                let member = votes.targets.member(*at);
                (self.peers.is_slow(member), !view.members.get(usize::from(member)).is_some_and(|known| known.near))
            });
        let Some(at) = best else { return false };
        votes.targets.set(at, Answer::Pending);
        self.send_read(now, view, id, at, full, out);
        true
    }

    fn send_read(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        at: usize,
        full: bool,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(deadline) = self.in_flight.get_mut(id).map(|operation| operation.deadline) else { return };
        let header = self.header(now, view, deadline);
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Read { votes, .. } = &operation.phase else { return };
        let subject = &operation.subject;
        self.peers.on_ask(votes.targets.member(at), now.mono);
        let to = Self::shard_of(view, votes.targets.member(at), subject);
        let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
        out.send(to, &PeerMessage::Read { id: id.0, header, key, full });
    }

    /// Sloppy reads ask those who may hold hints for owners that cannot be reached.
    fn ask_hint_holders(&mut self, now: Now, view: &Arc<View>, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let partition = operation.subject.partition;
        let copies = usize::from(operation.subject.copies);
        let Phase::Read { votes, .. } = &operation.phase else { return };
        let down =
            votes.targets.answers()[..votes.targets.owners()].iter().filter(|said| **said == Answer::Unreached).count();
        let mut asked = 0;
        for member in view.stand_ins(partition, copies) {
            if asked == down {
                break;
            }
            if !self.reachable(now, view, member) {
                continue;
            }
            let Some(operation) = self.in_flight.get_mut(id) else { return };
            let Phase::Read { votes, .. } = &mut operation.phase else { return };
            if votes.targets.position(member).is_some() {
                continue;
            }
            let Some(at) = votes.targets.add_fallback(member, None, Answer::Pending) else { break };
            asked += 1;
            self.send_read(now, view, id, at, true, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(crate) fn on_read_reply(
        &mut self,
        now: Now,
        from: NodeId,
        id: OperationId,
        hlc: Hlc,
        state: ReplicaState,
        found: &Found<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        let skewed = self.clock.receive(hlc, now).is_err();
        let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(from)) else { return };
        let Some(operation) = self.in_flight.get_mut(id) else {
            self.stats.late_votes += 1;
            return;
        };
        let started = operation.started;
        let Phase::Read { votes, body, fetching, guarded } = &mut operation.phase else { return };
        let Some(at) = votes.targets.position(member) else { return };
        self.peers.on_answer(member, started, now.mono);
        // Who has not heard of a flush yet holds what is gone.
        let flushed = self.table.flushed(operation.subject.slot);
        let void = Found::Absent { forgotten: flushed };
        let found = if found.version().is_some_and(|version| version <= flushed) { &void } else { found };
        let answer = match found {
            _ if skewed => {
                self.stats.clock_refusals += 1;
                Answer::Lost
            }
            Found::Entry(entry) => Answer::Holds(state, entry.version),
            Found::Digest { version } => Answer::Holds(state, *version),
            Found::Absent { forgotten } => Answer::Absent(state, *forgotten),
            Found::Refused(_) => Answer::Lost,
        };
        if matches!(answer, Answer::Holds(ReplicaState::Warming, _) | Answer::Absent(ReplicaState::Warming, _)) {
            self.stats.warming_votes_ignored += 1;
        }
        let counted = votes.record(at, answer);
        let entry = match found {
            Found::Entry(entry) if !skewed => Some(entry),
            Found::Entry(_) | Found::Digest { .. } | Found::Absent { .. } | Found::Refused(_) => None,
        };
        if let Some((version, holder)) = *fetching {
            if holder != at {
                return;
            }
            match (found, entry) {
                (_, Some(entry)) if entry.version >= version => {
                    *fetching = None;
                    self.conclude_read(now, id, Some(entry), out);
                }
                // The answer to an earlier question, come twice: the body is still on its way.
                (Found::Digest { .. }, _) => {}
                (Found::Absent { forgotten }, _) if operation.subject.strict && !skewed => {
                    votes.targets.set(at, Answer::Absent(state, *forgotten));
                    *fetching = None;
                    self.advance_read(now, id, out);
                }
                (Found::Absent { .. } | Found::Entry(_), _) if !skewed => self.fetch_next(now, id, out),
                (Found::Absent { .. } | Found::Entry(_) | Found::Refused(_), _) => self.fetch_lost(now, id, out),
            }
            return;
        }
        if !counted {
            return;
        }
        if let Some(entry) = entry {
            if guarded.is_none()
                && votes.newest() == Some(entry.version)
                && let Verdict::Decided(outcome) = votes.verdict()
                && outcome.version == Some(entry.version)
            {
                self.conclude_read(now, id, Some(entry), out);
                return;
            }
            if body.as_ref().is_none_or(|held| held.version < entry.version) {
                // Without room for it the body is fetched again, should it be the one.
                let bytes = entry.body.len() as u64;
                if self.may_hold(bytes) {
                    self.hold_body(id, OwnedEntry::from(entry));
                }
            }
        }
        self.advance_read(now, id, out);
    }

    fn hold_body(&mut self, id: OperationId, entry: OwnedEntry) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let before = operation.heap_bytes();
        if let Phase::Read { body, .. } = &mut operation.phase {
            *body = Some(entry);
        }
        self.in_flight_bytes = self.in_flight_bytes - before + operation.heap_bytes();
    }

    /// Whoever was asked for the body will not send it: its vote is lost, and the others decide.
    pub(super) fn fetch_lost(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Read { votes, fetching, .. } = &mut operation.phase else { return };
        if let Some((_, holder)) = fetching.take() {
            votes.targets.set(holder, Answer::Lost);
        }
        self.advance_read(now, id, out);
    }

    /// Does what the votes so far ask for.
    pub(super) fn advance_read(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        loop {
            let Some(operation) = self.in_flight.get_mut(id) else { return };
            let Phase::Read { votes, fetching, .. } = &mut operation.phase else { return };
            if fetching.is_some() {
                return;
            }
            match votes.verdict() {
                Verdict::Wait => return,
                Verdict::Decided(_) => return self.conclude_read(now, id, None, out),
                Verdict::Unavailable { have } => {
                    let need = votes.need();
                    if self.ask_unreached(now, &view, id, true, out) {
                        return;
                    }
                    if let Some(operation) = self.take(id) {
                        self.answer_failure(operation.origin, Status::Unavailable { need, have }, None, false, out);
                    }
                    return;
                }
                Verdict::AskMore => {
                    let mut votes = *votes;
                    self.mark_unreachable(now, &view, &mut votes);
                    if let Some(Operation { phase: Phase::Read { votes: held, .. }, .. }) = self.in_flight.get_mut(id) {
                        *held = votes;
                    }
                    self.ask_another(now, &view, id, true, out);
                }
            }
        }
    }

    /// The votes are in: finds the body of the version they decided on, then answers or goes on to the write.
    fn conclude_read(&mut self, now: Now, id: OperationId, arrived: Option<&Entry<'_>>, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Read { votes, body, guarded, .. } = &operation.phase else { return };
        let outcome = decided(votes);
        let subject = &operation.subject;
        let worth = worth(&outcome, subject, &view);
        let Some(version) = outcome.version else { return self.end_read(now, id, None, worth, out) };
        if let Some(entry) = arrived.filter(|entry| entry.version >= version) {
            return self.end_read(now, id, Some(&OwnedOr::Borrowed(*entry)), worth, out);
        }
        if let Some(held) = body.as_ref().filter(|held| held.version >= version) {
            let held = held.clone();
            return self.end_read(now, id, Some(&OwnedOr::Owned(held)), worth, out);
        }
        let place = (subject.namespace, subject.slot, subject.partition, subject.hash);
        let local = Self::local(&mut self.table, &self.hints, place, &subject.key).ok();
        if let Some(entry) = local.filter(|entry| entry.version >= version) {
            if guarded.is_some() {
                let held = OwnedEntry::from(&entry);
                return self.end_read(now, id, Some(&OwnedOr::Owned(held)), worth, out);
            }
            // The common case: the reply borrows the value from the memtable.
            let wall = self.clock.reading(now).wall();
            let hit = deliver_read(operation.origin, Some(&entry), wall, worth, out);
            // Only a read that met less pays for a copy.
            let stale = Self::met_stale(votes, entry.version).then(|| OwnedEntry::from(&entry));
            self.count_lookup(hit);
            self.stats.divergent_reads += u64::from(outcome.divergent);
            let Some(operation) = self.take(id) else { return };
            if let (Some(entry), Phase::Read { votes, .. }) = (stale, &operation.phase) {
                self.repair(now, &operation.subject, votes, &entry.as_entry(), out);
            }
            return;
        }
        let first = votes.holders(version).find(|at| {
            view.members.get(usize::from(votes.targets.member(*at))).is_some_and(|known| known.node != view.me)
        });
        match first {
            Some(at) => self.fetch(now, &view, id, version, at, out),
            None => self.end_read(now, id, None, worth, out),
        }
    }

    fn fetch(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        version: Version,
        at: usize,
        out: &mut dyn ShardOutbox,
    ) {
        if let Some(Operation { phase: Phase::Read { fetching, .. }, .. }) = self.in_flight.get_mut(id) {
            *fetching = Some((version, at));
        }
        self.send_read(now, view, id, at, true, out);
    }

    /// The holder that was asked for the body has none any more: the next one, or a miss.
    pub(super) fn fetch_next(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Read { votes, fetching, .. } = &operation.phase else { return };
        let Some((version, last)) = *fetching else { return };
        let me = view.ring.as_ref().and_then(|ring| ring.index_of(view.me));
        let next = votes.holders(version).find(|at| *at > last && Some(votes.targets.member(*at)) != me);
        match next {
            Some(at) => self.fetch(now, &view, id, version, at, out),
            None => {
                // What was decided stands, though its body went meanwhile: as few votes are behind the miss.
                let worth = Worth { stale: true, ..worth(&decided(votes), &operation.subject, &view) };
                self.end_read(now, id, None, worth, out);
            }
        }
    }

    fn end_read(
        &mut self,
        now: Now,
        id: OperationId,
        found: Option<&OwnedOr<'_>>,
        worth: Worth,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(operation) = self.take(id) else { return };
        let Operation { origin, subject, deadline, phase, .. } = operation;
        let Phase::Read { votes, guarded, .. } = phase else { return };
        if matches!(votes.verdict(), Verdict::Decided(Outcome { divergent: true, .. })) {
            self.stats.divergent_reads += 1;
        }
        let entry = found.map(OwnedOr::as_entry);
        match guarded {
            None => {
                self.answer_read(now, origin, entry.as_ref(), worth, out);
                if let Some(entry) = entry {
                    self.repair(now, &subject, &votes, &entry, out);
                }
            }
            Some(guarded) => self.guarded_write(now, origin, subject, guarded, entry.as_ref(), worth, deadline, out),
        }
    }

    pub(super) fn on_hedge(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        if self.in_flight.is_over(id) || self.hedge_credit < HEDGE_COST {
            return;
        }
        let view = Arc::clone(&self.view);
        if self.ask_another(now, &view, id, true, out) {
            self.hedge_credit -= HEDGE_COST;
            self.stats.hedges += 1;
        }
    }

    pub(super) fn on_read_patience(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let Phase::Read { votes, fetching, .. } = &mut operation.phase else { return };
        let silent = if votes.lose_patience() { silent(votes) } else { Vec::new() };
        let (asked, fetches, strict) = (operation.started, fetching.is_some(), operation.subject.strict);
        for member in silent {
            self.peers.on_timeout(member, asked, now.mono);
        }
        let view = Arc::clone(&self.view);
        if !self.ask_another(now, &view, id, true, out) && !fetches {
            // A sloppy one has what it has, and would wait for a probe that may not be answered.
            self.ask_unreached(now, &view, id, strict, out);
        }
        // Whoever comes back later is asked then.
        let in_flight = &self.in_flight;
        self.read_patience.push(now.mono, id, |id| in_flight.is_over(id));
    }

    pub(super) fn on_read_timeout(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let asked = operation.started;
        let Phase::Read { votes, fetching, .. } = &mut operation.phase else { return };
        let silent = silent(votes);
        for at in 0..votes.targets.len() {
            if matches!(votes.targets.answer(at), Answer::Pending | Answer::Unasked | Answer::Unreached) {
                votes.targets.set(at, Answer::Lost);
            }
        }
        let fetched = fetching.take();
        if let Some((_, holder)) = fetched {
            votes.targets.set(holder, Answer::Lost);
        }
        let need = votes.need();
        let have = match votes.verdict() {
            Verdict::Decided(outcome) => outcome.acks.min(need - 1),
            Verdict::Unavailable { have } => have,
            Verdict::Wait | Verdict::AskMore => 0,
        };
        for member in silent {
            self.peers.on_timeout(member, asked, now.mono);
        }
        self.advance_read(now, id, out);
        // No time is left to fetch a body: a value that is somewhere and does not come is no miss.
        let starts_again = self.in_flight.get_mut(id).is_some();
        if starts_again {
            let Some(operation) = self.take(id) else { return };
            self.answer_failure(operation.origin, Status::Unavailable { need, have }, None, false, out);
        }
    }
}

/// The members that were asked and have not answered.
fn silent(votes: &Votes) -> Vec<u16> {
    let asked = (0..votes.targets.len()).filter(|at| votes.targets.answer(*at) == Answer::Pending);
    asked.map(|at| votes.targets.member(at)).collect()
}

/// What the votes said when they were in. A fetched body may come after answers were lost: that still holds then.
fn decided(votes: &Votes) -> Outcome {
    match votes.verdict() {
        Verdict::Decided(outcome) => outcome,
        Verdict::Wait | Verdict::AskMore | Verdict::Unavailable { .. } => {
            Outcome { version: votes.newest(), acks: 1, fallbacks: 0, sloppy: true, warming: false, divergent: true }
        }
    }
}

/// Whether the coordinator's own answer is a vote.
fn counts(votes: &Votes, me: u16, state: ReplicaState, strict: bool) -> bool {
    let owner = votes.targets.position(me).is_some_and(|at| votes.targets.is_owner(at));
    owner && (state == ReplicaState::Ready || (state == ReplicaState::Settled && !strict))
}

fn worth(outcome: &Outcome, subject: &Subject, view: &View) -> Worth {
    Worth {
        acks: outcome.acks,
        fallbacks: outcome.fallbacks,
        epoch: view.ring.as_ref().map_or(0, |ring| ring.name().epoch),
        sloppy: outcome.sloppy,
        degraded: subject.degraded,
        warming: outcome.warming,
        stale: outcome.sloppy,
        superseded: false,
    }
}

/// An entry that came with a frame, or that had to be kept.
enum OwnedOr<'a> {
    Borrowed(Entry<'a>),
    Owned(OwnedEntry),
}

impl OwnedOr<'_> {
    fn as_entry(&self) -> Entry<'_> {
        match self {
            Self::Borrowed(entry) => *entry,
            Self::Owned(entry) => entry.as_entry(),
        }
    }
}
