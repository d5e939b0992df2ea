//! S25 `hint-kept`: a hint that was sent is held until its target said that it holds the entry or something newer.
//!
//! Judged by sight of the holder, right after the events that tempt it to forget: when it has sent the hint, and when the
//! target's answer was a refusal. Its own age, a new layout and the end of what it brings end a hint too: answers that come
//! after a snapshot, or later than a hint's time to be answered, are not judged, nor those to a hint that ends within twice that
//! (seed 22001118).

use crate::{
    clock::{MS, Time},
    network::Site,
};
use meshwork_core::{
    id::{KeyHash, NamespaceId, NodeId},
    input::PeerShard,
    limits::{EXPIRY_GRACE, HINT_AGE_MAX, WRITE_TIMEOUT},
    shard::Shard,
    value::Version,
    wire::peer::{PeerMessage, Refusal, Replicated, ReplicationKind},
};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    at: Time,
    target: NodeId,
    place: (NamespaceId, KeyHash, Box<[u8]>),
    version: Version,
}

/// What is on its way, and what is to be looked for after this event.
#[derive(Debug, Default)]
pub struct Hints {
    sent: BTreeMap<(Site, u64), Sent>,
    tempted: Vec<Sent>,
}

impl Hints {
    /// A shard sends a message.
    pub fn on_sent(&mut self, at: Time, site: Site, to: PeerShard, message: &PeerMessage<'_>) {
        if let PeerMessage::Replicate { id, header, key, entry, stands_for: None, kind: ReplicationKind::Hint } =
            message
        {
            let place = (key.namespace, key.hash, Box::from(key.key));
            let sent = Sent { at, target: to.node, place, version: entry.version };
            self.tempted.push(sent.clone());
            let ends = entry.expires_at.map(|at| at.max(entry.hold_until.unwrap_or_default()) + EXPIRY_GRACE);
            let ends = ends.into_iter().chain([entry.version.hlc.wall() + HINT_AGE_MAX]).min();
            if ends > Some(header.hlc.wall() + 2 * WRITE_TIMEOUT) {
                self.sent.insert((site, *id), sent);
            }
        }
    }

    /// A shard is about to be given a message.
    pub fn before(&mut self, at: Time, site: Site, from: PeerShard, message: &PeerMessage<'_>) {
        let in_time = WRITE_TIMEOUT.as_millis() as Time * MS;
        self.sent.retain(|_, sent| at < sent.at + in_time);
        let PeerMessage::Replicated { id, outcome, .. } = message else { return };
        let Some(answered) = self.sent.get(&(site, *id)).filter(|sent| sent.target == from.node).cloned() else {
            return;
        };
        match outcome {
            Replicated::Refused(Refusal::Outlived) | Replicated::Applied | Replicated::Superseded { .. } => {
                let same = |sent: &Sent| sent.target == answered.target && sent.place == answered.place;
                self.sent.retain(|(of, _), sent| *of != site || !same(sent));
            }
            Replicated::Refused(_) => {
                self.sent.remove(&(site, *id));
                self.tempted.push(answered);
            }
        }
    }

    /// A shard was given a snapshot, or died.
    pub fn forget(&mut self, of: impl Fn(Site) -> bool) {
        self.sent.retain(|(site, _), _| !of(*site));
    }

    /// A call of `shard` is over: what is held no more?
    pub fn after(&mut self, site: Site, shard: &Shard) -> Option<String> {
        let held = |sent: &Sent| {
            let (namespace, hash, key) = &sent.place;
            shard.hint_version(sent.target, *namespace, *hash, key)
        };
        let tempted = std::mem::take(&mut self.tempted);
        let lost = tempted.iter().find(|sent| held(sent).is_none_or(|version| version < sent.version))?;
        Some(format!("{site:?} dropped its hint of version {} for {} unacknowledged", lost.version, lost.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::{
        config::ShardConfig,
        id::{ActorId, ClusterId, ShardId},
        ring::LayoutName,
        time::Wall,
        value::{Body, Entry, Hlc},
        wire::peer::{Header, KeyRef, ReplicaState},
    };

    const SITE: Site = Site { process: 0, shard: 0 };
    const TARGET: PeerShard = PeerShard { node: NodeId(2), shard: 0 };

    /// A shard that holds no hints.
    fn empty() -> Shard {
        Shard::new(ShardConfig {
            node: NodeId(1),
            shard: ShardId(0),
            shards: 1,
            cluster: ClusterId(1),
            partitions: 16,
            actor: ActorId(1),
            memory: 4 << 20,
            clock_floor: Hlc(0),
            disk: false,
            seed: 1,
        })
    }

    fn replicate(kind: ReplicationKind) -> PeerMessage<'static> {
        replicate_until(kind, None)
    }

    /// Sent a minute after it was written.
    fn replicate_until(kind: ReplicationKind, expires_at: Option<Wall>) -> PeerMessage<'static> {
        let hlc = Hlc::at(Wall(0) + EXPIRY_GRACE);
        let header = Header { layout: LayoutName { epoch: 1, hash: 0 }, hlc, deadline_ms: 100 };
        let key = KeyRef { namespace: NamespaceId(1), hash: KeyHash(1), key: b"k" };
        let version = Version { hlc: Hlc(5), actor: ActorId(9) };
        let entry = Entry { version, expires_at, hold_until: None, body: Body::Value(b"v") };
        PeerMessage::Replicate { id: 7, header, key, entry, stands_for: None, kind }
    }

    fn answer(outcome: Replicated) -> PeerMessage<'static> {
        PeerMessage::Replicated { id: 7, hlc: Hlc(1), state: ReplicaState::Ready, outcome }
    }

    #[test]
    fn a_hint_that_is_gone_once_it_was_sent_or_refused_is_found() {
        let mut hints = Hints::default();
        hints.on_sent(0, SITE, TARGET, &replicate(ReplicationKind::Client));
        assert_eq!(hints.after(SITE, &empty()), None, "a client's write is no hint");
        hints.on_sent(0, SITE, TARGET, &replicate(ReplicationKind::Hint));
        assert!(hints.after(SITE, &empty()).is_some());
        assert_eq!(hints.after(SITE, &empty()), None, "said once");
        hints.before(MS, SITE, TARGET, &answer(Replicated::Refused(Refusal::OutOfMemory)));
        assert!(hints.after(SITE, &empty()).is_some());
        // One that is over soon may be when the answer comes.
        hints.on_sent(0, SITE, TARGET, &replicate_until(ReplicationKind::Hint, Some(Wall(0))));
        assert!(hints.after(SITE, &empty()).is_some(), "it was sent only now");
        hints.before(MS, SITE, TARGET, &answer(Replicated::Refused(Refusal::OutOfMemory)));
        assert_eq!(hints.after(SITE, &empty()), None);
    }

    #[test]
    fn a_hint_may_go_once_it_was_taken_outlived_or_a_snapshot_came() {
        for outcome in [Replicated::Applied, Replicated::Refused(Refusal::Outlived)] {
            let mut hints = Hints::default();
            hints.on_sent(0, SITE, TARGET, &replicate(ReplicationKind::Hint));
            hints.tempted.clear();
            hints.before(MS, SITE, TARGET, &answer(outcome));
            assert_eq!((hints.after(SITE, &empty()), hints.sent.len()), (None, 0));
        }
        for late in [true, false] {
            let mut hints = Hints::default();
            hints.on_sent(0, SITE, TARGET, &replicate(ReplicationKind::Hint));
            hints.tempted.clear();
            if !late {
                hints.forget(|site| site == SITE);
            }
            let at = if late { 600 * MS } else { MS };
            hints.before(at, SITE, TARGET, &answer(Replicated::Refused(Refusal::OutOfMemory)));
            assert_eq!(hints.after(SITE, &empty()), None);
        }
    }
}
