//! `Op::Inspect`: a shard's own word on a key, for whoever explains a mesh. Nobody else is asked and nothing changes.
//!
//! Answered while the node is fenced or has no layout too: then most of all somebody wants to know.

use super::{Origin, Refused, refused};
use crate::{
    id::{KeyHash, NamespaceId},
    limits,
    outbox::ShardOutbox,
    shard::Shard,
    storage::Lookup,
    time::Now,
    value::{Body, Entry, Version},
    wire::{
        client::{Reply, ReplyBody, Request, Status},
        inspect::{Held, HeldHint, Inspection, Standing},
        peer::ReplicaState,
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
        if request.key.is_empty() || request.key.len() > limits::KEY_BYTES_MAX {
            return Err(refused(Status::Invalid, "a key has 1 to 1024 bytes"));
        }
        let inspection = self.inspection(now, request.namespace, hash, request.key)?;
        let (version, value) = (inspection.version.unwrap_or(Version::ZERO), inspection.encode());
        let body = ReplyBody::Value { version, expires_at: None, value: &value };
        self.answer(origin, Reply { body, ..Reply::status(0, Status::Ok) }, out);
        Ok(())
    }

    fn inspection(&self, now: Now, namespace: NamespaceId, hash: KeyHash, key: &[u8]) -> Result<Inspection, Refused> {
        let Some(rules) = self.rules.get(&namespace) else {
            return Err(refused(Status::NoSuchNamespace, "this node knows no such namespace"));
        };
        let partition = hash.partition(self.config.partitions);
        let ring = self.view.ring.as_deref();
        let owns = ring.is_some_and(|ring| {
            let mine = ring.index_of(self.view.me);
            ring.owners(partition).iter().take(usize::from(rules.n)).any(|owner| Some(*owner) == mine)
        });
        let standing = match self.replica_state((rules.n, partition)) {
            _ if !owns => Standing::NoOwner,
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
        let floors = self.table.floors(rules.slot, partition);
        let mut inspection = Inspection {
            node: self.view.me,
            layout: ring.map(|ring| ring.name()),
            standing,
            held: Held::Absent,
            version: None,
            value_bytes: 0,
            expires_at: None,
            forgotten: floors.evicted.max(floors.tombstone),
            hints: Vec::new(),
            urgent: self.anti_entropy.urgent.contains(&partition),
        };
        match self.table.peek(rules.slot, hash, key) {
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
