//! Hints: writes kept for owners that could not be reached (PROTOCOL §6 "Hints").
//!
//! A hint is an entry under `(target, namespace, key)`; another version for the same place joins it, so the order of
//! arrival cannot matter. Bounded per target and in all, and by age: older than `HINT_AGE_MAX` it dies. A holder that
//! cannot store one refuses to acknowledge. Sloppy reads look hints up by key, whatever their target. `hinted` replays
//! them. One that counted as an acknowledgement is a hint like any other: nothing is ever dropped for room.
//!
//! Invariants: `bytes` is the sum of what the maps hold; no target holds more than `HINT_BYTES_MAX`, all together not
//! more than the budget given at creation; expiry is absolute and copied verbatim.

use crate::{
    canary::canary,
    id::{KeyHash, NamespaceId, NodeId},
    limits::{EXPIRY_GRACE, HINT_AGE_MAX, HINT_BYTES_MAX},
    time::Wall,
    value::{Body, Entry, OwnedEntry, Version},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// What a map node, a key and the bookkeeping cost beyond key and value, bytes; generous.
const HINT_OVERHEAD: u64 = 192;

/// There is no room for the hint: do not acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintRefused;

/// Where a hint belongs. The hash comes first, so that look-ups compare one integer; the key settles collisions.
pub(crate) type Place = (KeyHash, NamespaceId, Box<[u8]>);

/// All hints of a shard.
#[derive(Debug, Default)]
pub struct HintStore {
    targets: BTreeMap<NodeId, Target>,
    bytes: u64,
    bytes_max: u64,
    dropped: u64,
    /// Places that changed since they were last taken, if anybody takes them.
    changes: Option<Vec<(NodeId, Place)>>,
}

#[derive(Debug, Default)]
struct Target {
    hints: BTreeMap<Place, OwnedEntry>,
    bytes: u64,
}

/// Whether a hint may no longer be delivered: what it buried may have been collected since.
pub(crate) fn is_dead(entry: &Entry<'_>, wall: Wall) -> bool {
    entry.version.hlc.wall() + HINT_AGE_MAX < wall
}

/// Whether every replica has forgotten what the hint brings, or never will hold it.
pub(crate) fn is_over(entry: &Entry<'_>, wall: Wall) -> bool {
    entry.expires_at.is_some_and(|at| at.max(entry.hold_until.unwrap_or_default()) + EXPIRY_GRACE <= wall)
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

    /// From now on notes which places change.
    pub(crate) fn note_changes(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// The places that changed, in order; some of them twice.
    pub(crate) fn take_changes(&mut self) -> Vec<(NodeId, Place)> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether there is nothing to take.
    #[inline]
    pub(crate) fn is_unchanged(&self) -> bool {
        self.changes.as_ref().is_none_or(Vec::is_empty)
    }

    /// Runs `change` without noting anything: what it brings is stored already.
    pub(crate) fn quietly<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let changes = self.changes.take();
        let done = change(self);
        self.changes = changes;
        done
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
        if is_dead(entry, wall) {
            return Err(HintRefused);
        }
        let place = (hash, namespace, Box::from(key));
        let held = self.targets.entry(target).or_default();
        // Whichever stays absorbs the other's end, as in the memtable.
        let mut hold_until = entry.hold_until;
        let old = match held.hints.get_mut(&place) {
            Some(old) if old.version >= entry.version => {
                let end = if old.version == entry.version {
                    entry.hold_until
                } else {
                    entry.hold_for_successor(old.expires_at).filter(|_| old.value.is_some())
                };
                if end > old.hold_until {
                    old.hold_until = end;
                    if let Some(changes) = &mut self.changes {
                        changes.push((target, place));
                    }
                }
                return Ok(());
            }
            Some(old) => {
                let end = old.as_entry().hold_for_successor(entry.expires_at);
                hold_until = hold_until.max(end.filter(|_| matches!(entry.body, Body::Value(_))));
                Some(&*old)
            }
            None => None,
        };
        let freed = old.map_or(0, |old| cost_owned(key, old));
        let needed = Self::cost(key, entry);
        let over = held.bytes - freed + needed > HINT_BYTES_MAX || self.bytes - freed + needed > self.bytes_max;
        if over && !canary!(K25) {
            if held.hints.is_empty() {
                self.targets.remove(&target);
            }
            return Err(HintRefused);
        }
        if let Some(changes) = &mut self.changes {
            changes.push((target, place.clone()));
        }
        held.hints.insert(place, OwnedEntry::from(&Entry { hold_until, ..*entry }));
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

    /// For whom hints are held.
    pub(crate) fn targets(&self) -> Vec<NodeId> {
        self.targets.keys().copied().collect()
    }

    /// How many hints are held for `target`.
    pub fn len_for(&self, target: NodeId) -> usize {
        self.targets.get(&target).map_or(0, |held| held.hints.len())
    }

    /// The version held for `target` under this key.
    pub fn version_for(&self, target: NodeId, namespace: NamespaceId, hash: KeyHash, key: &[u8]) -> Option<Version> {
        let place: Place = (hash, namespace, key.into());
        self.targets.get(&target)?.hints.get(&place).map(|entry| entry.version)
    }

    /// What is held for `target` under this key.
    pub(crate) fn find_for(
        &self,
        target: NodeId,
        namespace: NamespaceId,
        hash: KeyHash,
        key: &[u8],
    ) -> Option<&OwnedEntry> {
        let place: Place = (hash, namespace, key.into());
        self.targets.get(&target)?.hints.get(&place)
    }

    /// The hint of `target` that follows `place`; `None`: the first.
    pub(crate) fn after(&self, target: NodeId, place: Option<&Place>) -> Option<(&Place, &OwnedEntry)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.targets.get(&target)?.hints.range((from, Bound::Unbounded)).next()
    }

    /// Ends the hint of `target` at `place`, unless a version above `version` has joined it; whether it ended.
    pub(crate) fn end(&mut self, target: NodeId, place: &Place, version: Version) -> bool {
        let Some(held) = self.targets.get_mut(&target) else { return false };
        let Some(entry) = held.hints.get(place).filter(|entry| entry.version <= version) else { return false };
        let freed = cost_owned(&place.2, entry);
        if let Some(changes) = &mut self.changes {
            changes.push((target, place.clone()));
        }
        held.hints.remove(place);
        held.bytes -= freed;
        self.bytes -= freed;
        if held.hints.is_empty() {
            self.targets.remove(&target);
        }
        true
    }

    /// Drops what is held of a namespace with a version up to `mark`.
    pub(crate) fn flush(&mut self, namespace: NamespaceId, mark: Version) {
        let of = |(target, held): (&NodeId, &Target)| {
            let flushed = held.hints.iter().filter(|((_, of, _), entry)| *of == namespace && entry.version <= mark);
            flushed.map(|(place, _)| (*target, place.clone())).collect::<Vec<_>>()
        };
        let flushed: Vec<(NodeId, Place)> = self.targets.iter().flat_map(of).collect();
        for (target, place) in flushed {
            self.end(target, &place, mark);
        }
    }

    /// Drops what is over, and what is too old: the hashes of the keys of the latter, which nobody will bring their
    /// targets any more. Call it now and then.
    pub(crate) fn expire(&mut self, wall: Wall) -> BTreeSet<KeyHash> {
        let (mut freed_in_all, mut dropped, mut died) = (0, 0, BTreeSet::new());
        for (name, target) in &mut self.targets {
            let mut freed = 0;
            target.hints.retain(|place, entry| {
                let (hash, _, key) = place;
                let over = is_over(&entry.as_entry(), wall);
                let dead = is_dead(&entry.as_entry(), wall);
                if dead && !over {
                    dropped += 1;
                    died.insert(*hash);
                }
                if dead || over {
                    freed += cost_owned(key, entry);
                    if let Some(changes) = &mut self.changes {
                        changes.push((*name, place.clone()));
                    }
                }
                !(dead || over)
            });
            target.bytes -= freed;
            freed_in_all += freed;
        }
        self.targets.retain(|_, target| !target.hints.is_empty());
        self.bytes -= freed_in_all;
        self.dropped += dropped;
        died
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ActorId,
        value::{Hlc, Version},
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
    fn a_hint_whose_entry_is_over_everywhere_goes_and_is_no_death() {
        let mut hints = HintStore::new(1 << 20);
        store(&mut hints, 1, &entry(1_000, b"v")).unwrap();
        assert!(hints.expire(Wall(65_999)).is_empty());
        assert_eq!(hints.len(), 1, "its minute of grace is not over");
        assert!(hints.expire(Wall(66_000)).is_empty());
        assert_eq!((hints.len(), hints.bytes(), hints.dropped()), (0, 0, 0));
    }

    #[test]
    fn a_shorter_life_that_joins_a_longer_one_is_held_until_its_end_in_either_order() {
        let long = Entry { expires_at: Some(Wall(50_000)), ..entry(1_000, b"old") };
        let short = Entry { expires_at: Some(Wall(9_000)), ..entry(2_000, b"new") };
        for order in [[long, short], [short, long]] {
            let mut hints = HintStore::new(1 << 20);
            for entry in order {
                store(&mut hints, 1, &entry).unwrap();
            }
            let found = hints.find(SPACE, KeyHash(7), b"k").unwrap();
            assert_eq!((found.version, found.hold_until), (short.version, Some(Wall(50_000))));
        }
    }

    #[test]
    fn a_hint_ends_at_the_version_that_was_delivered_and_not_above() {
        let mut hints = HintStore::new(1 << 20);
        store(&mut hints, 1, &entry(2_000, b"v")).unwrap();
        let (place, held) = hints.after(NodeId(1), None).map(|(place, held)| (place.clone(), held.version)).unwrap();
        assert!(hints.after(NodeId(1), Some(&place)).is_none());
        assert!(!hints.end(NodeId(1), &place, entry(1_000, b"v").version), "a newer one joined it meanwhile");
        assert_eq!(hints.version_for(NodeId(1), SPACE, KeyHash(7), b"k"), Some(held));
        assert!(hints.end(NodeId(1), &place, held) && !hints.end(NodeId(1), &place, held));
        assert_eq!((hints.len(), hints.bytes(), hints.targets()), (0, 0, vec![]));
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
        let endless = |at| Entry { expires_at: None, ..entry(at, b"v") };
        store(&mut hints, 1, &endless(1_000)).unwrap();
        assert!(hints.expire(Wall(1_000) + HINT_AGE_MAX).is_empty());
        assert_eq!(hints.len(), 1);
        assert_eq!(hints.expire(Wall(1_001) + HINT_AGE_MAX), BTreeSet::from([KeyHash(7)]));
        assert_eq!((hints.len(), hints.bytes(), hints.dropped()), (0, 0, 1));
        let late = hints.store(Wall(2_000_000), NodeId(1), SPACE, KeyHash(7), b"k", &entry(1_000, b"v"));
        assert_eq!(late, Err(HintRefused));
    }
}
