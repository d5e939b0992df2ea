//! `Op::Inspect`: a shard's own word on a key, for whoever explains a mesh. Nobody else is asked and nothing changes.
//!
//! Answered while the node is fenced or has no layout too: then most of all somebody wants to know.

use super::{Origin, Refused};
use crate::{
    id::KeyHash,
    outbox::ShardOutbox,
    shard::Shard,
    storage::Lookup,
    time::Now,
    value::{Body, Entry, Version},
    wire::{
        client::{Reply, ReplyBody, Request, Status},
        inspect::{Held, HeldHint, Inspection, Standing},
        peer::{KeyRef, ReplicaState},
    },
};

impl Shard {
    pub(super) fn inspect(
        &mut self,
        now: Now,
        origin: Origin,
        hash: KeyHash,
        request: &Request<'_>,
        out: &mut dyn ShardOutbox,
    ) -> Result<(), Refused> {
        let inspection = self.inspection(now, hash, request)?;
        let (version, value) = (inspection.version.unwrap_or(Version::ZERO), inspection.encode());
        let body = ReplyBody::Value { version, expires_at: None, value: &value };
        self.answer(origin, Reply { body, ..Reply::status(0, Status::Ok) }, out);
        Ok(())
    }

    fn inspection(&self, now: Now, hash: KeyHash, request: &Request<'_>) -> Result<Inspection, Refused> {
        let slot = self.rules_of(request)?.slot;
        let (namespace, key) = (request.namespace, request.key);
        let partition = hash.partition(self.config.partitions);
        let standing = match self.state_for(&KeyRef { namespace, hash, key }) {
            ReplicaState::Ready => Standing::Ready,
            ReplicaState::Warming | ReplicaState::Settled => Standing::Warming,
            ReplicaState::Fallback => Standing::NoOwner,
        };
        let wall = self.clock.wall(now);
        let word = |entry: &Entry<'_>| match entry.body {
            Body::Tombstone => Held::Tombstone,
            Body::Value(_) if entry.expires_at.is_some_and(|at| at <= wall) => Held::Ended,
            Body::Value(_) => Held::Value,
        };
        let floors = self.table.floors(slot, partition);
        let mut inspection = Inspection {
            node: self.view.me,
            layout: self.view.ring.as_ref().map(|ring| ring.name()),
            standing,
            held: Held::Absent,
            version: None,
            value_bytes: 0,
            expires_at: None,
            forgotten: floors.evicted.max(floors.tombstone),
            hints: Vec::new(),
            urgent: self.anti_entropy.urgent.contains(&partition),
        };
        match self.table.peek(slot, hash, key) {
            Lookup::Found(entry) => {
                inspection.held = word(&entry);
                inspection.version = Some(entry.version);
                inspection.value_bytes = entry.body.len() as u64;
                inspection.expires_at = entry.expires_at.map(|at| at.0);
            }
            Lookup::Ghost(version) => (inspection.held, inspection.version) = (Held::Ghost, Some(version)),
            Lookup::Absent => {}
        }
        for target in self.hints.targets() {
            if let Some(version) = self.hints.version_for(target, namespace, hash, key) {
                inspection.hints.push(HeldHint { target, version });
            }
        }
        Ok(inspection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{Call, Rig},
        view::Fence,
        wire::client::Ttl,
    };
    use std::time::Duration;

    const KEY: &str = "k";

    fn inspect(rig: &mut Rig, node: usize) -> Inspection {
        let answer = rig.call(node, &Call::inspect(KEY));
        assert_eq!(answer.status, Status::Ok, "{answer:?}");
        Inspection::decode(&answer.value.unwrap()).unwrap()
    }

    #[test]
    fn a_node_tells_what_it_holds_itself_and_asks_nobody() {
        let mut rig = Rig::three();
        let nothing = inspect(&mut rig, 0);
        assert_eq!((nothing.held, nothing.version, nothing.standing), (Held::Absent, None, Standing::Ready));
        let put = rig.call(0, &Call::put(KEY, "abc").ttl(Ttl::Millis(60_000)));
        rig.cut(0, 1);
        rig.cut(0, 2);
        let value = inspect(&mut rig, 0);
        assert_eq!((value.held, value.version, value.value_bytes), (Held::Value, put.version, 3));
        assert!(value.expires_at.is_some() && value.hints.is_empty());
        rig.set_fence(0, Some(Fence::ClockOffset(420)));
        assert_eq!(inspect(&mut rig, 0), value, "a fenced node is asked most of all");
        rig.set_fence(0, None);
        rig.run_for(Duration::from_secs(61));
        assert_eq!(inspect(&mut rig, 0).held, Held::Ended);
    }

    #[test]
    fn a_deletion_a_hint_and_a_copy_that_warms_are_told_as_such() {
        let mut rig = Rig::three();
        rig.set_exchanges(false);
        rig.kill(2);
        rig.all_believe_down(2, true);
        let deleted = rig.call(0, &Call::delete(KEY));
        rig.run_for(Duration::from_secs(1));
        let told = inspect(&mut rig, 0);
        assert_eq!((told.held, told.version), (Held::Tombstone, deleted.version));
        assert_eq!(told.hints.iter().map(|hint| Some(hint.version)).collect::<Vec<_>>(), [deleted.version]);
        rig.restart(2, ReplicaState::Warming);
        let back = inspect(&mut rig, 2);
        assert_eq!((back.held, back.standing), (Held::Absent, Standing::Warming));
    }

    #[test]
    fn a_namespace_and_a_key_that_cannot_be_are_refused_as_elsewhere() {
        let mut rig = Rig::three();
        for call in [Call::inspect(KEY).within("none"), Call::inspect("")] {
            let refused = rig.call(0, &call);
            assert!(matches!(refused.status, Status::NoSuchNamespace | Status::Invalid), "{refused:?}");
            assert!(refused.text.is_some());
        }
    }
}
