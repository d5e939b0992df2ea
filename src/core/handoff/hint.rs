//! Hints: writes kept for owners that could not be reached (PROTOCOL §6 "Hints").
//!
//! A hint is an entry under `(target, namespace, key)`; a newer version for the same place merges into it, so the order
//! of arrival cannot matter. Bounded per target and in all, and by age: older than `HINT_AGE_MAX` it dies. A holder that
//! cannot store one refuses to acknowledge. Sloppy reads look hints up by key, whatever their target. Replay to the
//! target moves in with repair; until then a hint serves reads and dies of age.
//!
//! Invariants: `bytes` is the sum of what the maps hold; no target holds more than `HINT_BYTES_MAX`, all together not
//! more than the budget given at creation; expiry is absolute and copied verbatim.

use crate::{
    canary::canary,
    id::{KeyHash, NamespaceId, NodeId},
    limits::{HINT_AGE_MAX, HINT_BYTES_MAX},
    time::Wall,
    value::{Entry, OwnedEntry},
};
use std::collections::BTreeMap;

/// What a map node, a key and the bookkeeping cost beyond key and value, bytes; generous.
const HINT_OVERHEAD: u64 = 192;

/// There is no room for the hint: do not acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintRefused;

/// Where a hint belongs. The hash comes first, so that look-ups compare one integer; the key settles collisions.
type Place = (KeyHash, NamespaceId, Box<[u8]>);

/// All hints of a shard.
#[derive(Debug, Default)]
pub struct HintStore {
    targets: BTreeMap<NodeId, Target>,
    bytes: u64,
    bytes_max: u64,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Target {
    hints: BTreeMap<Place, OwnedEntry>,
    bytes: u64,
}

fn cost(key: &[u8], value_bytes: usize) -> u64 {
    HINT_OVERHEAD + key.len() as u64 + value_bytes as u64
}

fn cost_owned(key: &[u8], entry: &OwnedEntry) -> u64 {
    cost(key, entry.value.as_ref().map_or(0, |value| value.len()))
}

impl HintStore {
    /// An empty store that holds at most `bytes_max`, all targets together.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that storing `entry` could add: ask the memory budget for them first.
    pub fn cost(key: &[u8], entry: &Entry<'_>) -> u64 {
        cost(key, entry.body.len())
    }

    /// How many hints are held.
    pub fn len(&self) -> usize {
        self.targets.values().map(|target| target.hints.len()).sum()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How many died of age so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Keeps `entry` for `target`, merged with what is kept for it already.
    ///
    /// # Errors
    /// No room, or too old to be useful: the hint is not kept.
    pub fn store(
        &mut self,
        wall: Wall,
        target: NodeId,
        namespace: NamespaceId,
        hash: KeyHash,
        key: &[u8],
        entry: &Entry<'_>,
    ) -> Result<(), HintRefused> {
        if entry.version.hlc.wall() + HINT_AGE_MAX < wall {
            return Err(HintRefused);
        }
        let held = self.targets.entry(target).or_default();
        let place = (hash, namespace, Box::from(key));
        let old = held.hints.get(&place);
        if old.is_some_and(|old| old.version >= entry.version) {
            return Ok(());
        }
        let freed = old.map_or(0, |old| cost_owned(key, old));
        let needed = Self::cost(key, entry);
        let over = held.bytes - freed + needed > HINT_BYTES_MAX || self.bytes - freed + needed > self.bytes_max;
        if over && !canary!(K25) {
            return Err(HintRefused);
        }
        held.hints.insert(place, OwnedEntry::from(entry));
        held.bytes = held.bytes - freed + needed;
        self.bytes = self.bytes - freed + needed;
        Ok(())
    }

    /// The newest entry kept for anybody under this key.
    pub fn find(&self, namespace: NamespaceId, hash: KeyHash, key: &[u8]) -> Option<&OwnedEntry> {
        if self.is_empty() {
            return None;
        }
        let place: Place = (hash, namespace, key.into());
        self.targets.values().filter_map(|target| target.hints.get(&place)).max_by_key(|entry| entry.version)
    }

    /// Drops what is too old or long expired; call it now and then.
    pub fn expire(&mut self, wall: Wall) {
        let (mut freed_in_all, mut dropped) = (0, 0);
        for target in self.targets.values_mut() {
            let mut freed = 0;
            target.hints.retain(|(_, _, key), entry| {
                let dead = entry.version.hlc.wall() + HINT_AGE_MAX < wall;
                if dead {
                    freed += cost_owned(key, entry);
                    dropped += 1;
                }
                !dead
            });
            target.bytes -= freed;
            freed_in_all += freed;
        }
        self.targets.retain(|_, target| !target.hints.is_empty());
        self.bytes -= freed_in_all;
        self.dropped += dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ActorId,
        value::{Body, Hlc, Version},
    };

    const SPACE: NamespaceId = NamespaceId(1);

    fn entry(at: u64, value: &[u8]) -> Entry<'_> {
        let version = Version { hlc: Hlc::at(Wall(at)), actor: ActorId(1) };
        Entry { version, expires_at: Some(Wall(at + 5_000)), hold_until: None, body: Body::Value(value) }
    }

    fn store(hints: &mut HintStore, target: u128, entry: &Entry<'_>) -> Result<(), HintRefused> {
        hints.store(Wall(1_000), NodeId(target), SPACE, KeyHash(7), b"k", entry)
    }

    #[test]
    fn the_newest_version_stays_whatever_the_order_and_keeps_its_expiry() {
        let (mut up, mut down) = (HintStore::new(1 << 20), HintStore::new(1 << 20));
        for at in [1_000, 2_000] {
            store(&mut up, 1, &entry(at, b"v")).unwrap();
        }
        for at in [2_000, 1_000] {
            store(&mut down, 1, &entry(at, b"v")).unwrap();
        }
        let found = up.find(SPACE, KeyHash(7), b"k").unwrap();
        assert_eq!(Some(found), down.find(SPACE, KeyHash(7), b"k"));
        assert_eq!((found.version.hlc.wall(), found.expires_at), (Wall(2_000), Some(Wall(7_000))));
        assert_eq!((up.len(), up.bytes()), (1, down.bytes()));
    }

    #[test]
    fn a_full_store_refuses_and_says_so() {
        let mut hints = HintStore::new(1_000);
        store(&mut hints, 1, &entry(1_000, &[0; 500])).unwrap();
        assert_eq!(store(&mut hints, 2, &entry(1_000, &[0; 500])), Err(HintRefused));
        assert!(hints.bytes() <= 1_000);
    }

    #[test]
    fn hints_die_of_age_and_give_their_bytes_back() {
        let mut hints = HintStore::new(1 << 20);
        store(&mut hints, 1, &entry(1_000, b"v")).unwrap();
        hints.expire(Wall(1_000) + HINT_AGE_MAX);
        assert_eq!(hints.len(), 1);
        hints.expire(Wall(1_001) + HINT_AGE_MAX);
        assert_eq!((hints.len(), hints.bytes(), hints.dropped()), (0, 0, 1));
        let late = hints.store(Wall(2_000_000), NodeId(1), SPACE, KeyHash(7), b"k", &entry(1_000, b"v"));
        assert_eq!(late, Err(HintRefused));
    }
}
