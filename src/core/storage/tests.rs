//! The memtable against a plain map, and each of its promises alone.

use super::*;
use crate::{
    id::{ActorId, KeyHash, PartitionId},
    rng::Rng,
    value::{Body, Hlc},
};
use std::collections::BTreeMap;

const EVICTABLE: NamespaceSlot = NamespaceSlot(0);
const KEPT: NamespaceSlot = NamespaceSlot(1);

fn memtable(limit: u64) -> Memtable {
    let mut made = Memtable::new(MemtableConfig { limit, partitions: 16, shards: 2, shard: ShardId(0), seed: 1 });
    made.namespace(EVICTABLE, true);
    made.namespace(KEPT, false);
    made
}

/// A hash in one of shard 0's partitions (even ones of 16).
fn hash_of(slot: NamespaceSlot, key: &[u8]) -> KeyHash {
    let mut seed = u64::from(slot.0) << 32;
    for byte in key {
        seed = Rng::new(seed ^ u64::from(*byte)).next();
    }
    KeyHash(Rng::new(seed).next() & !(1 << 60))
}

fn version(millis: u64) -> Version {
    Version { hlc: Hlc::at(Wall(millis)), actor: ActorId(7) }
}

fn value(millis: u64, bytes: &[u8]) -> Entry<'_> {
    Entry { version: version(millis), expires_at: None, hold_until: None, body: Body::Value(bytes) }
}

fn tombstone(millis: u64) -> Entry<'static> {
    Entry { version: version(millis), expires_at: None, hold_until: None, body: Body::Tombstone }
}

fn put(table: &mut Memtable, now: u64, slot: NamespaceSlot, key: &[u8], entry: &Entry<'_>) -> Put {
    let answer = table.put(Wall(now), slot, hash_of(slot, key), key, entry, false);
    assert!(table.accounted() <= table.limit(), "{} > {}", table.accounted(), table.limit());
    answer
}

fn peek<'a>(table: &'a Memtable, slot: NamespaceSlot, key: &[u8]) -> Lookup<'a> {
    table.peek(slot, hash_of(slot, key), key)
}

#[test]
fn accounted_bytes_stay_within_the_limit_after_every_call() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let mut table = memtable(if seed % 2 == 0 { 1 << 20 } else { 6 << 20 });
        let mut newest: BTreeMap<(NamespaceSlot, u64), Version> = BTreeMap::new();
        let (mut wall, mut reserved) = (1_000_000, 0);
        for step in 0..40_000u64 {
            wall += rng.below(40);
            let slot = if rng.below(8) == 0 { KEPT } else { EVICTABLE };
            let number = rng.below(30_000);
            let key = number.to_be_bytes();
            let size = match rng.below(100) {
                0 => rng.below(200_000),
                1..10 => rng.below(4_000),
                _ => rng.below(150),
            };
            let bytes = vec![rng.next() as u8; size as usize];
            let mut entry = value(wall - rng.below(100), &bytes);
            entry.version.actor = ActorId(rng.below(300));
            if rng.below(2) == 0 {
                entry.expires_at = Some(Wall(wall + rng.below(50_000)));
            }
            if rng.below(10) == 0 {
                (entry.body, entry.expires_at) = (Body::Tombstone, None);
            }
            let hash = hash_of(slot, &key);
            match rng.below(20) {
                0 => drop(table.work(Wall(wall), 200)),
                1 => {
                    let bytes = rng.below(100_000);
                    if table.room_for(bytes.saturating_sub(reserved)) {
                        table.set_reserved(bytes);
                        reserved = bytes;
                    }
                }
                2 => drop(table.get(slot, hash, &key)),
                _ => {
                    if let Put::Applied { .. } = table.put(Wall(wall), slot, hash, &key, &entry, false) {
                        let known = newest.entry((slot, number)).or_default();
                        *known = (*known).max(entry.version);
                        let Lookup::Found(held) = table.peek(slot, hash, &key) else { panic!("step {step}") };
                        assert_eq!(held.version, entry.version);
                    }
                }
            }
            assert!(table.accounted() <= table.limit(), "seed {seed} step {step}: {}", table.accounted());
        }
        for ((slot, number), newest) in newest {
            let key = number.to_be_bytes();
            match peek(&table, slot, &key) {
                Lookup::Found(entry) => assert_eq!(entry.version, newest),
                Lookup::Ghost(version) => assert_eq!(version, newest),
                Lookup::Absent => {}
            }
        }
        let stats = table.stats();
        assert!(stats.evictions > 0 && stats.expired > 0 && stats.in_place > 0, "{stats:?}");
    }
}
