//! Hints on their way home: sent when their target is steady, ended by its answer, given new targets by a new layout
//! (PROTOCOL §6 "Hints").
//!
//! What it promises: a hint leaves its store for four reasons only. Its target said that it holds the entry or something
//! newer; every current owner got it, here or as a hint of its own, or one of them where there is no room for more
//! hints; what it brings is over everywhere; it is older than `HINT_AGE_MAX`. The last makes its partition urgent, since then only anti-entropy finds the difference. Anything else a
//! target says puts the hint off. Replay stands behind clients: nothing is sent while half of the places for requests are
//! taken, and what is in flight is bounded (`replay`). Here: who may be sent what; when, is `replay`'s.

use super::{
    Replay,
    hint::{Place, is_dead, is_over},
};
use crate::{
    anti_entropy::readiness,
    canary::canary,
    id::{KeyHash, NamespaceId, NodeId},
    limits::{KEY_BYTES_MAX, WRITE_TIMEOUT},
    outbox::ShardOutbox,
    ring::Ring,
    shard::Shard,
    time::{Mono, Now},
    value::{Entry, Hlc, OwnedEntry},
    view::View,
    wire::peer::{KeyRef, PeerMessage, Refusal, Replicated, ReplicationKind},
};
use std::{sync::Arc, time::Duration};

/// Between two looks while hints wait for their targets.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks while a replay goes on: one window of hints each, at most.
const STEP_EVERY: Duration = Duration::from_millis(10);
/// What one hint in flight takes, its key included, bytes.
const REPLAY_ROOM: u64 = 128 + KEY_BYTES_MAX as u64;
/// Between two attempts to give hints new targets.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// Hints that one attempt moves, about a millisecond's worth.
const RESOLVE_MOST: usize = 1_000;

/// What a shard keeps of its replays.
#[derive(Debug)]
pub(crate) struct Hinted {
    pub(crate) replay: Replay,
    look_at: Option<Mono>,
    resolve_at: Option<Mono>,
}

impl Hinted {
    pub(crate) fn new(process: u64) -> Self {
        Self { replay: Replay::new(process), look_at: None, resolve_at: None }
    }

    /// When hints are looked at next.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.look_at
    }
}

impl Shard {
    /// The owners of a key by the active layouts. Empty: there is none, or no such namespace.
    fn owners_of(&self, view: &View, namespace: NamespaceId, hash: KeyHash) -> Vec<NodeId> {
        let copies = self.rules.get(&namespace).map_or(0, |rules| rules.n);
        let tree = (copies, hash.partition(self.config.partitions));
        let Some(rings) = readiness::rings(view) else { return Vec::new() };
        readiness::owners_of(rings, tree).iter().map(|owner| rings.0.node(owner)).collect()
    }

    /// A new snapshot: who is up decides who is steady, and a new ring who is a target at all.
    pub(crate) fn hints_see(&mut self, now: Now, new_ring: bool) {
        let view = Arc::clone(&self.view);
        for member in view.members.iter().filter(|member| member.node != view.me) {
            self.hinted.replay.set_up(member.node, member.up, now.mono);
        }
        if new_ring {
            let members: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
            self.hinted.replay.retain(&members);
            self.hinted.resolve_at = Some(now.mono);
        }
        if !self.hints.is_empty() {
            self.hinted.look_at = Some(now.mono);
        }
    }

    /// Makes sure that hints are looked at while there are any; called after every input.
    pub(crate) fn watch_hints(&mut self, now: Now) {
        if self.hints.is_empty() {
            self.hinted.look_at = None;
        } else if self.hinted.look_at.is_none() {
            self.hinted.look_at = Some(now.mono + LOOK_EVERY);
        }
    }

    /// Drops what is over or too old.
    pub(crate) fn expire_hints(&mut self, now: Now) {
        let died = self.hints.expire(self.clock.wall(now));
        for hash in died {
            self.mark_urgent(hash);
        }
    }

    /// Sends what may be sent.
    pub(crate) fn on_hints_due(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        if self.hinted.look_at.is_none_or(|at| now.mono < at) {
            return;
        }
        let view = Arc::clone(&self.view);
        let Some(ring) = view.ring.as_deref() else {
            self.hinted.look_at = Some(now.mono + LOOK_EVERY);
            return;
        };
        for (node, (overdue, asked)) in self.hinted.replay.overdue(now.mono) {
            self.stats.hints_put_off += overdue;
            self.hinted.replay.disturb(node, now.mono);
            if let Some(member) = ring.index_of(node) {
                self.peers.on_timeout(member, asked, now.mono);
            }
        }
        if self.hinted.resolve_at.is_some_and(|at| now.mono >= at) {
            let left = self.resolve_hints(now, &view);
            self.hinted.resolve_at = left.map(|wait| now.mono + wait);
        }
        if !self.in_flight.is_crowded() {
            for target in self.hints.targets() {
                let Some(member) = ring.index_of(target) else {
                    // Kept for one who was a member to who asked.
                    self.hinted.resolve_at.get_or_insert(now.mono + RESOLVE_EVERY);
                    continue;
                };
                if self.hinted.replay.is_steady(target, now.mono) && self.reachable(now, &view, member) {
                    self.replay_to(now, &view, target, member, out);
                }
            }
        }
        let busy = self.hinted.replay.in_flight() > 0;
        self.hinted.look_at = Some(now.mono + if busy { STEP_EVERY } else { LOOK_EVERY });
    }

    fn replay_to(&mut self, now: Now, view: &Arc<View>, target: NodeId, member: u16, out: &mut dyn ShardOutbox) {
        let wall = self.clock.wall(now);
        let header = self.header(now, view, now.mono + WRITE_TIMEOUT);
        let mut passed = 0;
        while self.make_room_in_background(REPLAY_ROOM) {
            let Some((place, held)) = self.hints.after(target, self.hinted.replay.cursor(target)) else {
                self.hinted.replay.end_round(target);
                return;
            };
            let entry = held.as_entry();
            let bytes = (place.2.len() + entry.body.len()) as u64;
            // Of a breaker that is open one hint is the probe, and the next ones wait for its answer.
            if !self.hinted.replay.may_send(target, bytes) || !self.peers.may_ask(member, now.mono) {
                return;
            }
            let (place, version) = (place.clone(), held.version);
            let stray = !self.owners_of(view, place.1, place.0).contains(&target);
            if stray || is_dead(&entry, wall) || is_over(&entry, wall) {
                // It goes with the next round of `expire_hints` or `resolve_hints`; until then it is passed over. Sent to who
                // is no owner it would be refused, and hold back all that come with it (simulator, seed d42fe).
                if stray {
                    self.hinted.resolve_at.get_or_insert(now.mono + RESOLVE_EVERY);
                }
                self.hinted.replay.pass(target, place);
                passed += 1;
                if passed == RESOLVE_MOST {
                    return;
                }
                continue;
            }
            let id = self.hinted.replay.send(target, place.clone(), version, bytes, now.mono);
            let known = &view.members[usize::from(member)];
            let to = crate::input::PeerShard {
                node: target,
                shard: place.0.partition(self.config.partitions).0 % known.shards.max(1),
            };
            let restarted = entry
                .expires_at
                .map(|at| wall + Duration::from_millis(at.0.saturating_sub(entry.version.hlc.wall().0)));
            let entry = if canary!(K20) { Entry { expires_at: restarted, ..entry } } else { entry };
            let key = KeyRef { namespace: place.1, hash: place.0, key: &place.2 };
            let kind = ReplicationKind::Hint;
            out.send(to, &PeerMessage::Replicate { id, header, key, entry, stands_for: None, kind });
            self.peers.on_ask(member, now.mono);
            if canary!(K41) {
                self.hints.end(target, &place, version);
            }
        }
    }

    /// A replication that no request waits for was answered.
    pub(crate) fn on_background_replicated(&mut self, now: Now, from: NodeId, id: u64, hlc: Hlc, outcome: &Replicated) {
        if self.clock.receive(hlc, now).is_err() {
            self.stats.clock_refusals += 1;
            return;
        }
        let Some(sent) = self.hinted.replay.answered(id, from) else { return };
        if let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(from)) {
            self.peers.on_answer(member, sent.asked, now.mono);
        }
        match outcome {
            // Without a disk it holds it in memory, and no more can be had there; nor where it is too large.
            Replicated::Applied
            | Replicated::Superseded { .. }
            | Replicated::Refused(Refusal::NoDisk | Refusal::TooLarge) => {
                self.hints.end(from, &sent.place, sent.version);
                self.stats.hints_replayed += 1;
            }
            Replicated::Refused(Refusal::Outlived) => {
                self.mark_urgent(sent.place.0);
                self.hints.end(from, &sent.place, sent.version);
            }
            Replicated::Refused(refusal) => {
                if canary!(K42) {
                    self.hints.end(from, &sent.place, sent.version);
                }
                self.stats.hints_put_off += 1;
                self.hinted.replay.disturb(from, now.mono);
                if *refusal == Refusal::NotOwner {
                    // One of us holds an older layout: with the newer one there may be other targets.
                    self.hinted.resolve_at.get_or_insert(now.mono + RESOLVE_EVERY);
                }
            }
        }
    }

    /// The receiver knows no hints, or the link to it is gone: what is in flight to it will not be answered.
    pub(crate) fn hints_lose(&mut self, node: NodeId, now: Now) {
        self.hinted.replay.disturb(node, now.mono);
    }

    /// Hints whose target owns their key no more go to those who do. Some stay when there is no room, or when there are
    /// many: how long to wait with those.
    fn resolve_hints(&mut self, now: Now, view: &View) -> Option<Duration> {
        let wall = self.clock.wall(now);
        let (mut moved, mut stayed) = (0, false);
        for target in self.hints.targets() {
            let mut cursor: Option<Place> = None;
            while let Some((place, held)) = self.hints.after(target, cursor.as_ref()) {
                let (place, held) = (place.clone(), held.clone());
                cursor = Some(place.clone());
                let owners = self.owners_of(view, place.1, place.0);
                if owners.is_empty() || owners.contains(&target) || is_dead(&held.as_entry(), wall) {
                    continue;
                }
                if moved == RESOLVE_MOST {
                    return Some(STEP_EVERY);
                }
                moved += 1;
                // It gives its own room to those it is for: else one that takes half of what hints may could never move.
                self.hints.end(target, &place, held.version);
                let handed = owners.iter().filter(|owner| self.hand_to(now, **owner, &place, &held)).count();
                if handed == 0 {
                    stayed = true;
                    let key = KeyRef { namespace: place.1, hash: place.0, key: &place.2 };
                    self.keep_hint_for(wall, target, &key, &held.as_entry());
                    continue;
                }
                if handed < owners.len() {
                    // There is no room for hints to all of them, and those that are delivered would be made again and again.
                    // One copy stood for one owner; it still does, and the owners compare.
                    self.mark_urgent(place.0);
                }
                self.stats.hints_resolved += 1;
            }
        }
        stayed.then_some(RESOLVE_EVERY)
    }

    /// Holds a hint for `owner`, or the entry itself when that is this node.
    fn hand_to(&mut self, now: Now, owner: NodeId, place: &Place, held: &OwnedEntry) -> bool {
        let key = KeyRef { namespace: place.1, hash: place.0, key: &place.2 };
        let wall = self.clock.wall(now);
        if owner != self.view.me {
            return self.keep_hint_for(wall, owner, &key, &held.as_entry());
        }
        let Some(slot) = self.rules.get(&place.1).map(|rules| rules.slot) else { return false };
        match self.apply(now, slot, &key, &held.as_entry()) {
            Replicated::Applied | Replicated::Superseded { .. } | Replicated::Refused(Refusal::TooLarge) => true,
            Replicated::Refused(_) => false,
        }
    }

    /// An owner is without a write, and nobody here keeps it for them: where this node is an owner too, comparing comes
    /// first. Otherwise the owners find out among themselves.
    pub(crate) fn mark_urgent(&mut self, hash: KeyHash) {
        let partition = hash.partition(self.config.partitions);
        let owns = |ring: &Ring| ring.index_of(self.view.me).is_some_and(|me| ring.owners(partition).contains(&me));
        if self.view.ring.iter().chain(&self.view.beside).any(|ring| owns(ring)) {
            self.anti_entropy.urgent.insert(partition);
        }
    }

    /// The version of the hint held for `target` under this key: for whoever explains or checks a node.
    pub fn hint_version(
        &self,
        target: NodeId,
        namespace: NamespaceId,
        hash: KeyHash,
        key: &[u8],
    ) -> Option<crate::value::Version> {
        self.hints.version_for(target, namespace, hash, key)
    }

    /// Hints held by target, in the order of targets.
    pub fn hints_by_target(&self) -> Vec<(NodeId, usize)> {
        self.hints.targets().into_iter().map(|target| (target, self.hints.len_for(target))).collect()
    }

    /// What a replica says to a hint before it looks at what it holds.
    pub(crate) fn refuse_hint(&self, now: Now, kind: ReplicationKind, entry: &Entry<'_>) -> Option<Replicated> {
        let wall = self.clock.wall(now);
        match kind {
            ReplicationKind::Hint => {
                let outlived = is_dead(entry, wall) || is_over(entry, wall);
                outlived.then_some(Replicated::Refused(Refusal::Outlived))
            }
            ReplicationKind::Client | ReplicationKind::Repair { .. } | ReplicationKind::Stream => None,
        }
    }
}

const _: () = assert!(STEP_EVERY.as_millis() < LOOK_EVERY.as_millis());
