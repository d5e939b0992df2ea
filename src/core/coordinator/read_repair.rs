//! Read repair: what a read found goes to those who answered it with less, after the reply (PROTOCOL §5, §6).
//!
//! Stale responders only: nobody is asked more than the read needed, and who did not answer is anti-entropy's business. An
//! owner is stale that answered with an older version, or with "absent" while it has forgotten nothing as high: one that
//! evicted the entry, or whose forget floor is above it, keeps its "absent" (version repair, not presence repair). What is
//! pushed to an owner without a copy is admitted there like any insert. Left alone: versions so young that their write may
//! still be on its way, and entries that every replica forgets within half a minute.
//!
//! Under a budget of bytes, a bucket that fills with time, and never while half of the places for requests are taken. A
//! repair is not waited for and not sent again: the next read of the key finds the difference again.

use super::{
    Subject,
    get::{Answer, Votes},
};
use crate::{
    limits::{EXPIRY_GRACE, READ_REPAIR_BYTES_PER_SECOND, READ_REPAIR_BYTES_SAVED, REPAIR_ENDS_WITHIN, WRITE_TIMEOUT},
    outbox::ShardOutbox,
    shard::Shard,
    time::{Mono, Now, Wall},
    value::{Entry, Version},
    wire::peer::{KeyRef, PeerMessage, ReplicaState, ReplicationKind},
};
use std::sync::Arc;

/// What an entry costs beside its key and value, bytes: a repair of nothing is not free.
const OVERHEAD: u64 = 256;

/// A bucket of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    saved: u64,
    filled: Mono,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: READ_REPAIR_BYTES_SAVED, filled: Mono(0) }
    }
}

impl Budget {
    /// Takes `bytes`, if they are there. What is larger than the bucket takes all of a full one.
    pub(crate) fn take(&mut self, bytes: u64, now: Mono) -> bool {
        let millis = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(READ_REPAIR_BYTES_PER_SECOND) / 1_000;
        if earned > 0 {
            self.saved = self.saved.saturating_add(earned).min(READ_REPAIR_BYTES_SAVED);
            self.filled = now;
        }
        let taken = bytes.min(READ_REPAIR_BYTES_SAVED);
        let there = self.saved >= taken;
        if there {
            self.saved -= taken;
        }
        there
    }
}

/// Positions of the owners that answered with less than `version`.
pub(super) fn stale(votes: &Votes, version: Version) -> impl Iterator<Item = usize> + '_ {
    (0..votes.targets.owners()).filter(move |at| match votes.targets.answer(*at) {
        Answer::Holds(state, less) | Answer::Absent(state, less) => match state {
            ReplicaState::Ready | ReplicaState::Warming | ReplicaState::Settled => less < version,
            ReplicaState::Fallback => false,
        },
        Answer::Unasked | Answer::Pending | Answer::Lost | Answer::Unreached => false,
    })
}

/// Whether an entry is worth repairing at `wall`: old enough to have arrived by itself, and not about to be forgotten.
fn is_due(entry: &Entry<'_>, wall: Wall) -> bool {
    let ends = entry.expires_at.map(|at| at.max(entry.hold_until.unwrap_or_default()) + EXPIRY_GRACE);
    entry.version.hlc.wall() + WRITE_TIMEOUT <= wall && ends.is_none_or(|ends| wall + REPAIR_ENDS_WITHIN < ends)
}

impl Shard {
    /// Whether a read that found `version` met owners with less.
    pub(super) fn met_stale(votes: &Votes, version: Version) -> bool {
        stale(votes, version).next().is_some()
    }

    /// Sends `entry` to the owners that answered with less. Call it after the reply.
    pub(super) fn repair(
        &mut self,
        now: Now,
        subject: &Subject,
        votes: &Votes,
        entry: &Entry<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        if !is_due(entry, self.clock.wall(now)) {
            return;
        }
        let view = Arc::clone(&self.view);
        let key = KeyRef { namespace: subject.namespace, hash: subject.hash, key: &subject.key };
        for at in stale(votes, entry.version) {
            let member = votes.targets.member(at);
            let Some(known) = view.members.get(usize::from(member)) else { continue };
            if known.node == view.me {
                // Its own answer to this is nobody's vote.
                let _ = self.apply(now, subject.slot, &key, entry);
                continue;
            }
            let bytes = OVERHEAD + (subject.key.len() + entry.body.len()) as u64;
            if self.in_flight.is_crowded() || !self.repair_budget.take(bytes, now.mono) {
                self.stats.read_repairs_skipped += 1;
                continue;
            }
            self.stats.read_repairs += 1;
            let id = self.hinted.replay.next_id();
            let header = self.header(now, &view, now.mono + WRITE_TIMEOUT);
            let to = Self::shard_of(&view, member, subject);
            let (entry, kind) = (*entry, ReplicationKind::REPAIR);
            out.send(to, &PeerMessage::Replicate { id, header, key, entry, stands_for: None, kind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ActorId,
        value::{Body, Hlc},
    };
    use std::time::Duration;

    fn version(millis: u64) -> Version {
        Version { hlc: Hlc::at(Wall(millis)), actor: ActorId(1) }
    }

    #[test]
    fn a_bucket_gives_what_it_saved_and_fills_with_time() {
        let mut budget = Budget::default();
        let now = Mono(0);
        assert!(budget.take(READ_REPAIR_BYTES_SAVED * 8, now), "the largest value takes all");
        assert!(!budget.take(1, now));
        assert!(!budget.take(READ_REPAIR_BYTES_PER_SECOND / 8 + 1, now + Duration::from_millis(125)));
        assert!(budget.take(READ_REPAIR_BYTES_PER_SECOND / 8, now + Duration::from_millis(125)));
        assert!(!budget.take(READ_REPAIR_BYTES_SAVED, now + Duration::from_millis(126)));
        assert!(budget.take(READ_REPAIR_BYTES_SAVED, now + Duration::from_secs(3_600)), "and no more than it holds");
        assert!(!budget.take(1, now + Duration::from_secs(3_600)));
    }

    #[test]
    fn owners_with_less_are_stale_and_those_that_forgot_as_much_are_not() {
        let mut votes = Votes::new(&[4, 5, 6, 7, 8], 2, false);
        let answers = [
            Answer::Holds(ReplicaState::Ready, version(9)),
            Answer::Holds(ReplicaState::Warming, version(8)),
            Answer::Absent(ReplicaState::Ready, version(8)),
            Answer::Absent(ReplicaState::Ready, version(9)),
            Answer::Lost,
        ];
        for (at, answer) in answers.into_iter().enumerate() {
            votes.targets.set(at, answer);
        }
        votes.targets.add_fallback(9, None, Answer::Holds(ReplicaState::Fallback, version(1))).unwrap();
        assert_eq!(stale(&votes, version(9)).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(stale(&votes, version(8)).count(), 0);
    }

    #[test]
    fn young_versions_and_entries_that_end_soon_are_left_alone() {
        let entry = |expires_at: Option<u64>, hold_until: Option<u64>| Entry {
            version: version(1_000),
            expires_at: expires_at.map(Wall),
            hold_until: hold_until.map(Wall),
            body: Body::Value(b"v"),
        };
        assert!(!is_due(&entry(None, None), Wall(1_499)) && is_due(&entry(None, None), Wall(1_500)));
        let ends = entry(Some(20_000), None);
        assert!(is_due(&ends, Wall(49_999)), "over, and it still buries what is older");
        assert!(!is_due(&ends, Wall(50_000)));
        assert!(is_due(&entry(Some(20_000), Some(40_000)), Wall(69_999)));
    }
}
