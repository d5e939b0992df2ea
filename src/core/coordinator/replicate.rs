//! Sending a write to those who shall hold it: owners, stand-ins for the unreachable, and all again under another stamp.
//!
//! `write` decides when; here is who, with what. A stand-in is asked once a request, stands for exactly one owner, and is
//! told for whom. A re-stamp is a new request under a new number, so that an answer to the first stamp never counts for
//! the second.

use super::{Operation, OperationId, Phase, put::Answer, write::own_answer};
use crate::{
    canary::canary,
    outbox::ShardOutbox,
    shard::Shard,
    storage::{FLUSHED, Put},
    time::Now,
    value::{Entry, OwnedEntry, Version},
    view::View,
    wire::{
        client::Status,
        peer::{KeyRef, PeerMessage, ReplicaState, ReplicationKind},
    },
};
use std::sync::Arc;

/// Why a write is refused that would be void at once.
pub(super) const BEYOND_THE_CLOCK: &str = "the namespace was flushed up to a moment that this node's clock must not pass yet: repeat in a second, or at another node";

impl Shard {
    pub(super) fn send_to_owners(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        entry: &Entry<'_>,
        me: u16,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        let deadline = operation.deadline;
        let Phase::Write { votes, .. } = &operation.phase else { return };
        let (members, owners, strict) = (votes.targets, votes.targets.owners(), votes.is_strict());
        let header = self.header(now, view, deadline);
        for at in 0..owners {
            let member = members.member(at);
            // Nobody else can stand in for an owner of a strict write.
            let asked = self.reachable(now, view, member) || strict && self.follows(now, view, member);
            if member == me || member == u16::MAX || !asked {
                continue;
            }
            let Some(operation) = self.in_flight.get_mut(id) else { return };
            let Phase::Write { votes, .. } = &mut operation.phase else { return };
            votes.targets.set(at, Answer::Pending);
            self.peers.on_ask(member, now.mono);
            let subject = &operation.subject;
            let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
            let to = Self::shard_of(view, member, subject);
            let (stands_for, kind) = (None, ReplicationKind::Client);
            out.send(to, &PeerMessage::Replicate { id: id.0, header, key, entry: *entry, stands_for, kind });
        }
    }

    /// One stand-in for each owner that could not be asked or does not answer, and for whom nobody stands in who may answer yet; or the
    /// owner itself, if it answers again. Where none is left it is asked, too, as a probe or while one is under way, or a stand-in while
    /// one of its is: with W = all in a mesh of N nodes, or with two nodes left, nobody else can serve (simulator, seeds 7001268, 200e4).
    /// Nobody stands in for the owners of a strict write. Whether anybody was asked.
    pub(super) fn send_to_fallbacks(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: OperationId,
        entry: &Entry<'_>,
        out: &mut dyn ShardOutbox,
    ) -> bool {
        let Some(ring) = view.ring.as_deref() else { return false };
        let Some(operation) = self.in_flight.get_mut(id) else { return false };
        let (partition, copies, deadline) =
            (operation.subject.partition, usize::from(operation.subject.copies), operation.deadline);
        let Phase::Write { votes, .. } = &operation.phase else { return false };
        let only_owners = votes.is_strict() && !canary!(K33);
        let me = ring.index_of(view.me);
        let targets = votes.targets;
        let missing: Vec<u16> = (0..targets.owners())
            .filter(|at| matches!(targets.answer(*at), Answer::Unasked | Answer::Lost | Answer::Pending))
            .filter(|at| votes.is_impatient() || targets.answer(*at) != Answer::Pending)
            .map(|at| targets.member(at))
            .filter(|member| {
                *member != u16::MAX && Some(*member) != me && !votes.covered().any(|owner| owner == *member)
            })
            .collect();
        if missing.is_empty() {
            return false;
        }
        let header = self.header(now, view, deadline);
        let walked = match () {
            () if only_owners => 0,
            () if canary!(K32) => 1,
            () => usize::MAX,
        };
        let mut stand_ins = view.stand_ins(partition, copies).take(walked);
        let mut probed = view.stand_ins(partition, copies).take(walked);
        let mut sent = false;
        for owner in missing {
            let Some(operation) = self.in_flight.get_mut(id) else { return sent };
            let Phase::Write { votes, .. } = &operation.phase else { return sent };
            let targets = votes.targets;
            let is_new = |member: &u16| targets.position(*member).is_none();
            let itself = targets.position(owner).filter(|at| targets.answer(*at) == Answer::Unasked);
            let back = itself.filter(|_| self.is_back(view, owner));
            let mut found = None;
            if back.is_none() {
                found = stand_ins.find(|member| is_new(member) && self.reachable(now, view, *member));
            }
            let itself = back.or_else(|| itself.filter(|_| found.is_none() && self.may_be_back(now, view, owner)));
            if found.is_none() && itself.is_none() {
                found = probed.find(|member| is_new(member) && self.follows(now, view, *member));
            }
            let Some(operation) = self.in_flight.get_mut(id) else { return sent };
            let Phase::Write { votes, .. } = &mut operation.phase else { return sent };
            let asked = match (found, itself) {
                (Some(member), _) => votes.targets.add_fallback(member, Some(owner), Answer::Pending).is_some(),
                (None, Some(at)) => {
                    votes.targets.set(at, Answer::Pending);
                    true
                }
                (None, None) => false,
            };
            if !asked {
                continue;
            }
            sent = true;
            let member = found.unwrap_or(owner);
            self.peers.on_ask(member, now.mono);
            let subject = &operation.subject;
            let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
            let to = Self::shard_of(view, member, subject);
            let (stands_for, kind) = (found.map(|_| ring.node(owner)), ReplicationKind::Client);
            out.send(to, &PeerMessage::Replicate { id: id.0, header, key, entry: *entry, stands_for, kind });
        }
        sent
    }

    /// Asks stand-ins for owners that were lost on the way, with the entry as it is held here; whether there was anybody to ask.
    pub(super) fn try_fallbacks(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) -> bool {
        let view = Arc::clone(&self.view);
        let held = self.held_entry(id);
        let lost = held.is_none();
        // A newer write that took its place here does as well: whoever holds that one holds nothing older.
        let Some(held) = held.or_else(|| self.successor(id)) else { return false };
        let sent = self.send_to_fallbacks(now, &view, id, &held.as_entry(), out);
        if sent
            && lost
            && let Some(Operation { phase: Phase::Write { votes, .. }, .. }) = self.in_flight.get_mut(id)
        {
            votes.lose();
        }
        sent
    }

    /// Whether a replica said that all up to a moment was flushed that this clock must not pass yet.
    pub(super) fn is_beyond_the_clock(&mut self, now: Now, id: OperationId) -> bool {
        let Some(Operation { phase: Phase::Write { votes, .. }, .. }) = self.in_flight.get_mut(id) else {
            return false;
        };
        let Version { hlc, actor } = votes.reported;
        self.clock.raise(hlc, now);
        actor == FLUSHED && self.clock.reading(now) < hlc
    }

    /// Stamps the write above everything that was reported, and asks again under a new number.
    pub(super) fn restamp(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        if self.is_beyond_the_clock(now, id) {
            return self.fail_write(now, id, Status::ClockSkew, Some(BEYOND_THE_CLOCK), true, out);
        }
        let held = self.held_entry(id);
        if held.is_none() && self.successor(id).is_some() {
            // A concurrent write of this very coordinator took its place: that one goes on, this one lost to it.
            let Some(Operation { phase: Phase::Write { votes, .. }, .. }) = self.in_flight.get_mut(id) else { return };
            votes.give_up();
            return self.advance_write(now, id, out);
        }
        let Some(mut operation) = self.take(id) else { return };
        let Phase::Write { votes, version, expiry, pin, kept } = &mut operation.phase else { return };
        *kept = None;
        let subject = &operation.subject;
        let Some(held) = held else {
            if let Some(pin) = pin.take() {
                self.table.unpin(pin, subject.slot, subject.hash, &subject.key);
            }
            return self.answer_failure(operation.origin, Status::OutOfMemory, None, true, out);
        };
        self.stats.restamps += 1;
        self.clock.raise(votes.reported.hlc, now);
        let hlc = self.clock.stamp(now);
        let expires_at = held.value.as_ref().and_then(|_| expiry.of(hlc));
        let hold_until = held.value.as_ref().and_then(|_| {
            let hold = held.hold_until.max(votes.hold_until);
            hold.filter(|hold| expires_at.is_some_and(|end| *hold > end))
        });
        let entry = OwnedEntry {
            version: Version { hlc, actor: self.config.actor },
            expires_at,
            hold_until,
            value: held.value,
        };
        *version = entry.version;
        votes.restamp();
        let me = view.ring.as_ref().and_then(|ring| ring.index_of(view.me));
        let own = me.and_then(|me| votes.targets.position(me));
        let (wall, state) = (self.clock.wall(now), self.state_of(subject.namespace, subject.partition));
        let (ack, mut after, place) = (self.ack_of(subject.namespace), None, (subject.namespace, subject.partition));
        if let Some(at) = own {
            if let Some(pin) = pin.take() {
                self.table.unpin(pin, subject.slot, subject.hash, &subject.key);
            }
            let answer = if votes.targets.is_owner(at) {
                match self.table.put(wall, subject.slot, subject.hash, &subject.key, &entry.as_entry(), true) {
                    Put::Applied { pin: pinned } => {
                        *pin = pinned;
                        let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
                        own_answer(self.standing_of_entry(ack, &key, out), state, &mut after)
                    }
                    Put::Superseded { version, hold_until } => {
                        votes.report(version, hold_until);
                        Answer::Superseded(state)
                    }
                    Put::OutOfMemory | Put::TooLarge => Answer::Lost,
                }
            } else {
                let owner = votes.targets.covers(at).and_then(|owner| view.members.get(usize::from(owner)));
                let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
                let kept = owner.filter(|owner| self.keep_hint_for(wall, owner.node, &key, &entry.as_entry()));
                kept.map_or(Answer::Lost, |owner| {
                    own_answer(self.standing_of_hint(ack, owner.node, &key, out), ReplicaState::Fallback, &mut after)
                })
            };
            votes.targets.set(at, answer);
        }
        let asked: Vec<(u16, Option<u16>)> = (0..votes.targets.len())
            .filter(|at| votes.targets.answer(*at) == Answer::Pending && Some(*at) != own)
            .map(|at| (votes.targets.member(at), votes.targets.covers(at)))
            .collect();
        let deadline = operation.deadline;
        let id = self.park(now, operation);
        if let Some(ticket) = after {
            self.park_own(ticket, place, id);
        }
        let header = self.header(now, &view, deadline);
        for (member, covers) in asked {
            self.peers.on_ask(member, now.mono);
            let Some(operation) = self.in_flight.get_mut(id) else { return };
            let subject = &operation.subject;
            let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
            let stands_for = covers.and_then(|owner| view.members.get(usize::from(owner))).map(|owner| owner.node);
            let to = Self::shard_of(&view, member, subject);
            let (entry, kind) = (entry.as_entry(), ReplicationKind::Client);
            let message = PeerMessage::Replicate { id: id.0, header, key, entry, stands_for, kind };
            out.send(to, &message);
        }
        self.advance_write(now, id, out);
    }
}
