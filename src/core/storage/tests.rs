//! The memtable against a plain map, and each of its promises alone.

#![allow(clippy::cast_possible_truncation, reason = "sizes and fill bytes drawn for a test")]

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
    made.namespace(EVICTABLE, true, 3);
    made.namespace(KEPT, false, 3);
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

/// What the memtable must know after a join, by the rules of PROTOCOL §3 alone, when nothing is evicted.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    version: Version,
    expires_at: Option<Wall>,
    hold_until: Option<Wall>,
    body: Option<Vec<u8>>,
}

impl Known {
    fn of(entry: &Entry<'_>) -> Self {
        let body = match entry.body {
            Body::Value(bytes) => Some(bytes.to_vec()),
            Body::Tombstone => None,
        };
        Self { version: entry.version, expires_at: entry.expires_at, hold_until: entry.hold_until, body }
    }

    fn entry(&self) -> Entry<'_> {
        let body = self.body.as_deref().map_or(Body::Tombstone, Body::Value);
        Entry { version: self.version, expires_at: self.expires_at, hold_until: self.hold_until, body }
    }

    fn join(&mut self, other: &Entry<'_>) {
        let mine = self.clone();
        if other.version > self.version {
            *self = Self::of(other);
            self.hold_until = self.hold_until.max(mine.entry().hold_for_successor(other.expires_at));
        } else if other.version == self.version {
            self.hold_until = self.hold_until.max(other.hold_until);
        } else {
            self.hold_until = self.hold_until.max(other.hold_for_successor(self.expires_at));
        }
    }
}

#[test]
fn every_join_agrees_with_a_plain_map_while_there_is_room() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let mut table = memtable(64 << 20);
        let mut map: BTreeMap<(NamespaceSlot, u64), Known> = BTreeMap::new();
        for step in 0..20_000u64 {
            let slot = if rng.below(2) == 0 { EVICTABLE } else { KEPT };
            let number = rng.below(300);
            let key = number.to_be_bytes();
            // Few versions, so that equal ones meet; one write has one body, so everything else follows from it.
            let millis = rng.below(400);
            let bytes = vec![millis as u8; [0, 3, 100, 101, 5_000, 150_000][(millis % 6) as usize]];
            let mut entry = value(millis, &bytes);
            if millis.is_multiple_of(5) {
                entry.body = Body::Tombstone;
            } else if millis.is_multiple_of(3) {
                entry.expires_at = Some(Wall(millis + millis % 4 * 1_000_000));
            }
            entry.hold_until = (rng.below(9) == 0).then_some(Wall(rng.below(9_000_000)));
            let answer = put(&mut table, 1, slot, &key, &entry);
            let known = map.entry((slot, number)).or_insert_with(|| Known::of(&entry));
            let newer = known.version > entry.version;
            known.join(&entry);
            let expected = match newer {
                true => Put::Superseded { version: known.version, hold_until: known.hold_until },
                false => Put::Applied { pin: None },
            };
            assert_eq!(answer, expected, "seed {seed} step {step}");
            assert_eq!(peek(&table, slot, &key), Lookup::Found(known.entry()), "seed {seed} step {step}");
        }
        let mut found = BTreeMap::new();
        for partition in (0..16).step_by(2) {
            table.scan_partition(PartitionId(partition), |held| {
                let home = (held.hash, held.hash.partition(16));
                assert_eq!(home, (hash_of(held.slot, held.key), PartitionId(partition)));
                let number = u64::from_be_bytes(held.key.try_into().unwrap());
                assert!(found.insert((held.slot, number), Known::of(&held.entry)).is_none());
            });
        }
        assert_eq!(found, map);
        let tombstones = map.values().filter(|known| known.body.is_none()).count() as u64;
        assert_eq!((table.stats().tombstones, table.stats().evictions), (tombstones, 0));
        assert_eq!(table.stats().entries, map.len() as u64 - tombstones);
    }
}

/// Fills the evictable namespace with `count` values of `size` bytes.
fn fill(table: &mut Memtable, from: u64, count: u64, size: usize) {
    for number in from..from + count {
        let key = (number | 1 << 40).to_be_bytes();
        assert_eq!(put(table, 1, EVICTABLE, &key, &value(number, &vec![1; size])), Put::Applied { pin: None });
    }
}

#[test]
fn tombstones_and_pinned_entries_outlast_any_pressure_and_an_unpinned_one_does_not() {
    let mut table = memtable(2 << 20);
    assert_eq!(put(&mut table, 1, EVICTABLE, b"gone", &tombstone(5)), Put::Applied { pin: None });
    let hash = hash_of(EVICTABLE, b"young");
    let young = value(9, b"young value");
    let Put::Applied { pin: Some(pin) } = table.put(Wall(1), EVICTABLE, hash, b"young", &young, true) else { panic!() };
    fill(&mut table, 0, 60_000, 100);
    assert_eq!(peek(&table, EVICTABLE, b"gone"), Lookup::Found(tombstone(5)));
    assert_eq!(peek(&table, EVICTABLE, b"young"), Lookup::Found(young));
    assert!(table.stats().segments_cleaned > 300);
    // The record has moved by now: the pin falls back to a look-up.
    table.unpin(pin, EVICTABLE, hash, b"young");
    fill(&mut table, 60_000, 60_000, 100);
    assert_ne!(peek(&table, EVICTABLE, b"young"), Lookup::Found(young));
    assert_eq!(peek(&table, EVICTABLE, b"gone"), Lookup::Found(tombstone(5)));
}

#[test]
fn the_pin_of_a_replaced_write_does_not_unpin_its_successor() {
    let mut table = memtable(2 << 20);
    let hash = hash_of(EVICTABLE, b"k");
    let Put::Applied { pin: Some(first) } = table.put(Wall(1), EVICTABLE, hash, b"k", &value(1, b"1"), true) else {
        panic!()
    };
    let second = value(2, b"2");
    let Put::Applied { pin: Some(pin) } = table.put(Wall(1), EVICTABLE, hash, b"k", &second, true) else { panic!() };
    table.unpin(first, EVICTABLE, hash, b"k");
    fill(&mut table, 0, 60_000, 100);
    assert_eq!(peek(&table, EVICTABLE, b"k"), Lookup::Found(second));
    table.unpin(pin, EVICTABLE, hash, b"k");
    // Its overwrite counted as a use, so that the main queue has it: nearly everything must go.
    assert!(table.room_for(table.limit() * 8 / 10));
    assert_ne!(peek(&table, EVICTABLE, b"k"), Lookup::Found(second));
}

#[test]
fn memory_full_of_pinned_entries_refuses_and_recovers_after_unpinning() {
    let mut table = memtable(1 << 20);
    let mut pins = Vec::new();
    let refused = (0..20_000u64).find(|number| {
        let key = number.to_be_bytes();
        let hash = hash_of(EVICTABLE, &key);
        match table.put(Wall(1), EVICTABLE, hash, &key, &value(1, &[0; 100]), true) {
            Put::Applied { pin } => pins.push((key, hash, pin.unwrap())),
            Put::OutOfMemory => return true,
            other @ (Put::Superseded { .. } | Put::TooLarge) => panic!("{other:?}"),
        }
        false
    });
    assert!(refused.is_some_and(|number| number > 4_000), "{refused:?}");
    assert_eq!((table.stats().evictions, table.stats().out_of_memory), (0, 1));
    assert!(table.accounted() <= table.limit());
    for (key, hash, pin) in pins {
        table.unpin(pin, EVICTABLE, hash, &key);
    }
    fill(&mut table, 0, 20_000, 100);
}

#[test]
fn a_namespace_that_never_evicts_answers_out_of_memory_and_keeps_everything() {
    let mut table = memtable(1 << 20);
    fill(&mut table, 0, 20_000, 100);
    let mut kept = 0u64;
    while put(&mut table, 1, KEPT, &kept.to_be_bytes(), &value(1, &[3; 200])) == (Put::Applied { pin: None }) {
        kept += 1;
    }
    assert!(kept > 2_500, "it may take the room of evictable namespaces, but only held {kept}");
    assert!(table.stats().out_of_memory > 0);
    for number in 0..kept {
        assert_eq!(peek(&table, KEPT, &number.to_be_bytes()), Lookup::Found(value(1, &[3; 200])));
    }
    assert!(!table.room_for(1 << 20));
    // An overwrite that fits needs no room; half as many deletes fit the quota as make it, and then none.
    assert_eq!(put(&mut table, 1, KEPT, &0u64.to_be_bytes(), &value(2, &[4; 200])), Put::Applied { pin: None });
}

#[test]
fn a_full_tombstone_quota_refuses_deletes_where_nothing_is_evicted_and_raises_the_floor_elsewhere() {
    let mut table = memtable(2 << 20);
    let quota = table.limit() / 20;
    let refused = (0..10_000u64)
        .find(|number| put(&mut table, 1, KEPT, &number.to_be_bytes(), &tombstone(1)) == Put::OutOfMemory)
        .unwrap();
    assert!(table.stats().held_tombstone_bytes <= quota && refused > 1_000);
    assert!((0..refused).all(|number| matches!(peek(&table, KEPT, &number.to_be_bytes()), Lookup::Found(_))));

    let mut last = BTreeMap::new();
    for number in 0..10_000u64 {
        let key = number.to_be_bytes();
        assert_eq!(put(&mut table, 1, EVICTABLE, &key, &tombstone(number + 1)), Put::Applied { pin: None });
        assert!(table.stats().tombstone_bytes <= quota);
        let partition = hash_of(EVICTABLE, &key).partition(16);
        let floors = table.floors(EVICTABLE, partition);
        let before = last.insert(partition, floors).unwrap_or_default();
        assert!(floors.tombstone >= before.tombstone && floors.evicted >= before.evicted);
    }
    assert!(table.stats().tombstones_dropped > 5_000);
    for number in 0..10_000u64 {
        let key = number.to_be_bytes();
        if peek(&table, EVICTABLE, &key) == Lookup::Absent {
            let floors = table.floors(EVICTABLE, hash_of(EVICTABLE, &key).partition(16));
            assert!(version(number + 1) <= floors.tombstone, "a dropped tombstone is at or below T");
        }
    }
    assert_eq!(
        table.tombstone_since(EVICTABLE, hash_of(EVICTABLE, &9_999u64.to_be_bytes()), &9_999u64.to_be_bytes()),
        Some(Wall(1))
    );
    assert_eq!(table.floors(KEPT, PartitionId(0)), Floors::default());
}

#[test]
fn whatever_was_evicted_has_a_ghost_or_lies_at_or_below_the_floor() {
    let mut table = memtable(1 << 20);
    let (mut ghosts, mut absent) = (0u64, 0u64);
    fill(&mut table, 1, 30_000, 60);
    for number in 1..=30_000u64 {
        let key = (number | 1 << 40).to_be_bytes();
        match peek(&table, EVICTABLE, &key) {
            Lookup::Found(entry) => assert_eq!(entry.version, version(number)),
            Lookup::Ghost(remembered) => {
                ghosts += 1;
                assert_eq!(remembered, version(number));
                let late = value(number - 1, b"late");
                let superseded = Put::Superseded { version: remembered, hold_until: None };
                assert_eq!(put(&mut table, 1, EVICTABLE, &key, &late), superseded);
            }
            Lookup::Absent => {
                absent += 1;
                assert!(table.floors(EVICTABLE, hash_of(EVICTABLE, &key).partition(16)).evicted >= version(number));
            }
        }
    }
    assert_eq!(table.stats().ghosts, ghosts);
    assert_eq!(table.stats().evictions, ghosts + absent);
    assert!(ghosts > 500 && absent > 500 && table.stats().ghost_bytes <= table.limit() / 20);
}

#[test]
fn a_short_ttl_uncovers_nothing() {
    // SIMULATION §11, schedule 7, on one replica: the entry with a TTL keeps hiding what it replaced.
    let mut table = memtable(4 << 20);
    let work = |table: &mut Memtable, now: u64| while table.work(Wall(now), 50) {};
    let expiring = |millis: u64, ttl: u64| Entry { expires_at: Some(Wall(millis + ttl)), ..value(millis, b"short") };
    let jumbo = vec![5; 100_000];
    for (key, first) in [(&b"small"[..], &b"old"[..]), (b"jumbo", &jumbo)] {
        // Without an end, and with a later one.
        let _ = put(&mut table, 1_000, EVICTABLE, key, &value(1_000, first));
        let _ = put(&mut table, 2_000, EVICTABLE, key, &Entry { body: Body::Value(first), ..expiring(2_000, 20_000) });
    }
    let _ = put(&mut table, 1_000, EVICTABLE, b"ends", &expiring(1_000, 500_000));
    let _ = put(&mut table, 2_000, EVICTABLE, b"ends", &expiring(2_000, 20_000));
    let _ = put(&mut table, 2_000, EVICTABLE, b"alone", &expiring(2_000, 20_000));

    work(&mut table, 95_999);
    assert_eq!(table.stats().expired, 0, "a minute of grace, and the step it ends in, have not passed");
    work(&mut table, 96_000);
    assert_eq!(peek(&table, EVICTABLE, b"alone"), Lookup::Absent);
    for (key, hold) in [(&b"small"[..], u64::MAX), (b"jumbo", u64::MAX), (b"ends", 501_000)] {
        let Lookup::Found(entry) = peek(&table, EVICTABLE, key) else { panic!("{key:?}") };
        assert_eq!((entry.body, entry.hold_until, entry.version), (Body::Tombstone, Some(Wall(hold)), version(2_000)));
        let late = put(&mut table, 96_000, EVICTABLE, key, &value(1_000, b"old"));
        assert!(matches!(late, Put::Superseded { .. }), "{late:?}");
    }
    assert!(table.accounted() < 1 << 20, "the jumbo value's memory was given back");
    fill(&mut table, 0, 80_000, 60);
    assert!(matches!(peek(&table, EVICTABLE, b"jumbo"), Lookup::Found(_)));
    work(&mut table, 600_000);
    assert!(matches!(peek(&table, EVICTABLE, b"small"), Lookup::Found(_)));
    assert_eq!(peek(&table, EVICTABLE, b"jumbo"), peek(&table, EVICTABLE, b"jumbo"));
    // The late write had no end, so that what was held until 501 s is held for ever now.
    assert!(matches!(peek(&table, EVICTABLE, b"ends"), Lookup::Found(_)));
}

#[test]
fn a_hold_that_ends_frees_its_tombstone_and_memory_pressure_keeps_it_until_then() {
    let mut table = memtable(1 << 20);
    let entry = Entry { expires_at: Some(Wall(10_000)), hold_until: Some(Wall(300_000)), ..value(1, b"v") };
    let _ = put(&mut table, 1, EVICTABLE, b"held", &entry);
    let plain = Entry { hold_until: None, ..entry };
    let _ = put(&mut table, 1, EVICTABLE, b"plain", &plain);
    for number in 0..30_000u64 {
        let _ = put(&mut table, 20_000, EVICTABLE, &number.to_be_bytes(), &value(2, &[0; 60]));
    }
    assert_eq!(peek(&table, EVICTABLE, b"plain"), Lookup::Absent, "what has expired is the first to go");
    let Lookup::Found(held) = peek(&table, EVICTABLE, b"held") else { panic!() };
    assert_eq!((held.body, held.hold_until), (Body::Tombstone, Some(Wall(300_000))));
    while table.work(Wall(367_999), 1_000) {}
    assert!(matches!(peek(&table, EVICTABLE, b"held"), Lookup::Found(_)));
    while table.work(Wall(369_000), 1_000) {}
    assert_eq!(peek(&table, EVICTABLE, b"held"), Lookup::Absent);
    assert_eq!(table.stats().tombstones, 0);
}

#[test]
fn oversized_keys_and_values_are_too_large_and_large_ones_have_their_own_segment() {
    let mut table = memtable(64 << 20);
    let long = vec![1; VALUE_BYTES_MAX];
    assert_eq!(put(&mut table, 1, EVICTABLE, b"k", &value(1, &[&long[..], b"x"].concat())), Put::TooLarge);
    assert_eq!(put(&mut table, 1, EVICTABLE, &[0; KEY_BYTES_MAX + 1], &value(1, b"")), Put::TooLarge);
    assert_eq!(put(&mut table, 1, EVICTABLE, &[0; KEY_BYTES_MAX], &value(1, &long)), Put::Applied { pin: None });
    assert_eq!(peek(&table, EVICTABLE, &[0; KEY_BYTES_MAX]), Lookup::Found(value(1, &long)));
    for number in 0..40u64 {
        let answer = put(&mut table, 1, EVICTABLE, &number.to_be_bytes(), &value(number, &long));
        assert_eq!(answer, Put::Applied { pin: None });
    }
    assert!(table.stats().evictions > 30);
    let shorter = value(41, b"short");
    assert_eq!(put(&mut table, 1, EVICTABLE, &39u64.to_be_bytes(), &shorter), Put::Applied { pin: None });
    assert_eq!(peek(&table, EVICTABLE, &39u64.to_be_bytes()), Lookup::Found(shorter));
    let mut small = memtable(1 << 20);
    assert_eq!(put(&mut small, 1, KEPT, b"k", &value(1, &long)), Put::TooLarge);
}

#[test]
fn background_work_comes_down_to_the_low_side_of_85_percent_and_then_rests() {
    let mut table = memtable(4 << 20);
    fill(&mut table, 0, 60_000, 100);
    assert!(table.accounted() * 100 > table.limit() * 95);
    let mut calls = 0;
    while table.work(Wall(2), 100) {
        calls += 1;
        assert!(calls < 1_000);
    }
    assert!(calls > 3, "each call does little");
    assert!(table.accounted() * 100 <= table.limit() * 85);
    let before = *table.stats();
    assert!(!table.work(Wall(3), 100));
    assert_eq!(*table.stats(), before);
}

#[test]
fn a_removed_partition_leaves_nothing_and_refuses_nothing_when_it_comes_again() {
    let mut table = memtable(1 << 20);
    fill(&mut table, 1, 30_000, 60);
    assert_ne!(table.floors(EVICTABLE, PartitionId(4)), Floors::default());
    for partition in (0..16).step_by(2) {
        table.remove_trees((PartitionId(partition), ALL_COPIES), true);
    }
    let stats = table.stats();
    assert_eq!((stats.entries, stats.tombstones, stats.ghosts), (0, 0, 0));
    assert_eq!(table.floors(EVICTABLE, PartitionId(4)), Floors::default());
    fill(&mut table, 1, 30_000, 60);
}

#[test]
fn a_lower_limit_and_a_reservation_evict_at_once() {
    let mut table = memtable(8 << 20);
    fill(&mut table, 0, 60_000, 80);
    table.set_limit(4 << 20);
    assert!(table.accounted() <= 4 << 20);
    assert!(table.room_for(1 << 20));
    table.set_reserved(1 << 20);
    assert!(table.accounted() <= 4 << 20);
    fill(&mut table, 60_000, 60_000, 80);
    table.namespace(EVICTABLE, false, 3);
    let key = (119_999u64 | 1 << 40).to_be_bytes();
    assert!(matches!(peek(&table, EVICTABLE, &key), Lookup::Found(_)));
    table.namespace(EVICTABLE, true, 3);
    fill(&mut table, 120_000, 60_000, 80);
}

#[test]
fn equal_calls_leave_equal_numbers() {
    let run = || {
        let mut table = memtable(1 << 20);
        let mut rng = Rng::new(3);
        for step in 0..50_000u64 {
            let key = rng.below(20_000).to_be_bytes();
            let entry = Entry { expires_at: Some(Wall(step + rng.below(90_000))), ..value(step, &[0; 50]) };
            let _ = put(&mut table, step, EVICTABLE, &key, &entry);
            if step % 64 == 0 {
                table.work(Wall(step), 64);
            }
        }
        *table.stats()
    };
    assert_eq!(run(), run());
}

#[test]
fn what_others_evicted_takes_the_place_of_what_is_older_and_lasts_as_long() {
    let mut table = memtable(1 << 20);
    let hash = hash_of(EVICTABLE, b"k");
    let evicted = |millis| Evicted { hash, version: version(millis), entry_hash: millis, gone_at: Wall(16_000) };
    assert!(matches!(put(&mut table, 1_000, EVICTABLE, b"k", &value(20, b"held")), Put::Applied { .. }));
    assert!(table.adopt(EVICTABLE, &evicted(10)));
    assert!(matches!(peek(&table, EVICTABLE, b"k"), Lookup::Found(_)), "what is newer stays");
    assert!(table.adopt(EVICTABLE, &evicted(30)));
    assert!(matches!(put(&mut table, 1_000, EVICTABLE, b"k", &value(25, b"late")), Put::Superseded { .. }));
    while table.work(Wall(100_000), 1_000) {}
    assert_eq!(peek(&table, EVICTABLE, b"k"), Lookup::Ghost(version(30)), "what it replaced would never have ended");
    assert!(table.adopt(EVICTABLE, &Evicted { hash: hash_of(EVICTABLE, b"new"), ..evicted(30) }));
    while table.work(Wall(100_000), 1_000) {}
    assert_eq!((table.stats().ghosts, table.stats().entries), (1, 0), "and what replaced nothing has ended");
    assert!(table.audit(3, hash.partition(16)));

    let pinned = table.put(Wall(1_000), EVICTABLE, hash, b"k", &value(40, b"mine"), true);
    assert!(matches!(pinned, Put::Applied { pin: Some(_) }));
    assert!(!table.adopt(EVICTABLE, &evicted(50)), "a write in progress is not taken away");
}

/// What was found out by comparing says nothing any more then, whether the ghost went when it was filled or made room for that.
#[test]
fn a_ghost_that_its_own_version_fills_is_noted_though_the_room_for_it_took_the_ghost() {
    let mut table = memtable(1 << 20);
    let keys = 1_000..30_000u64;
    let put_again = |table: &mut Memtable, n: u64| put(table, 1_000, EVICTABLE, &n.to_be_bytes(), &value(n, &[0; 100]));
    keys.clone().for_each(|n| assert!(matches!(put_again(&mut table, n), Put::Applied { .. })));
    assert_eq!(table.take_filled(), [].into(), "nothing was a ghost of these");
    let (mut filled, mut taken) = (0, 0);
    for n in keys {
        let partition = hash_of(EVICTABLE, &n.to_be_bytes()).partition(16);
        let forgotten = |table: &Memtable| table.floors(EVICTABLE, partition).evicted >= version(n);
        if peek(&table, EVICTABLE, &n.to_be_bytes()) != Lookup::Ghost(version(n)) || forgotten(&table) {
            continue;
        }
        assert!(matches!(put_again(&mut table, n), Put::Applied { .. }));
        assert_eq!(table.take_filled(), [(3, partition)].into(), "{n}");
        filled += 1;
        taken += u32::from(forgotten(&table));
    }
    assert!(filled > 100 && taken > 0, "{filled} {taken}");
}
