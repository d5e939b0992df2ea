//! Reads that this node's own copy answers alone: R = 1, and an owner's copy that votes holds an entry that is served.
//!
//! What it promises: the very answer that `read` would give at once, without votes and allocations, and no trace but the counts
//! and the use of the entry. Whatever it is not sure of (a miss, a hint, two layouts where this one is not read, an entry about to
//! end, anything to refuse) is `None` and goes the long way. It waits for nobody and keeps nothing, so a caller in the node's
//! process may ask on its own thread, with a clock that is a tick of the kernel behind. Every client's read comes here first,
//! in the simulator too. Shown by `testing::hits`: what it answers is what a request is answered.

use super::Terms;
use crate::{
    id::{KeyHash, NamespaceId},
    shard::Shard,
    storage::Lookup,
    time::Mono,
    value::Entry,
    wire::{
        client::{Consistency, Worth},
        peer::ReplicaState,
    },
};
use std::time::Duration;

/// An entry that ends within this goes the long way: the clock that is given here may be so far behind.
const ENDING: Duration = Duration::from_millis(25);

impl Shard {
    /// The entry under a key, if this copy alone may answer for it; `None`: ask by a request. `mono` may be up to 20 ms behind
    /// that of earlier inputs.
    pub fn hit(
        &mut self,
        mono: Mono,
        (namespace, hash): (NamespaceId, KeyHash),
        key: &[u8],
        consistency: Consistency,
    ) -> Option<(Entry<'_>, Worth)> {
        let view = &*self.view;
        let ring = view.ring.as_deref()?;
        if view.fence.is_some() || self.clock.is_unconfirmed() {
            return None;
        }
        let rules = self.rules.get(&namespace).filter(|rules| !rules.gone)?;
        let slot = rules.slot;
        let (me, partition) = (ring.index_of(view.me)?, hash.partition(ring.partitions()));
        let owners = ring.owners(partition);
        let terms = Terms::new(rules, consistency, owners.len()).ok()?;
        let is_owner = owners[..usize::from(terms.copies)].contains(&me);
        if terms.read != 1 || (terms.strict && !view.agreed) || !is_owner {
            return None;
        }
        let votes = match self.state_of(namespace, partition) {
            ReplicaState::Ready => true,
            ReplicaState::Settled => !terms.strict,
            ReplicaState::Warming | ReplicaState::Fallback => false,
        };
        if !votes || self.hints.find(namespace, hash, key).is_some() {
            return None;
        }
        let worth = Worth { acks: 1, epoch: ring.name().epoch, degraded: terms.degraded, ..Worth::default() };
        let Lookup::Found(entry) = self.table.get(slot, hash, key) else { return None };
        if !entry.is_live(self.clock.reading_at(mono).wall() + ENDING) {
            return None;
        }
        self.stats.gets += 1;
        self.stats.hits += 1;
        self.hedge_credit = super::read::earned(self.hedge_credit);
        Some((entry, worth))
    }
}
