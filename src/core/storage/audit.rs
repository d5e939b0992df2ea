//! Recomputes from the records what the memtable keeps in counters, for tests: after any history all must agree.

use super::{
    Evicted, Memtable, MemtableConfig, NamespaceSlot, Pin, Put,
    record::Header,
    segments::{CLASSES, handle},
};
use crate::{
    id::{ActorId, KeyHash, PartitionId, ShardId},
    rng::Rng,
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use std::collections::BTreeMap;

fn audit(table: &Memtable) {
    let log = &table.log;
    let mut uses: BTreeMap<u16, u64> = BTreeMap::new();
    let (mut live, mut entries, mut tombstone_bytes) = (0, 0, [0, 0]);
    let (mut bytes, mut dead) = ([0, 0, 0, 0], [0, 0, 0, 0]);
    for (class, slots) in CLASSES.into_iter().map(|class| (class, log.queued(class))) {
        for slot in slots {
            let segment = *log.segment(slot);
            assert_eq!(segment.class, class);
            let (mut at, mut dead_here, mut pinned, mut due) = (0, 0, 0, u64::MAX);
            while at < segment.used {
                let record = log.record(handle(slot, at));
                let header = Header::read(record);
                if header.is_dead() {
                    dead_here += header.capacity();
                } else {
                    live += 1;
                    *uses.entry(header.actor()).or_default() += 1;
                    pinned += if header.is_pinned() { header.capacity() } else { 0 };
                    due = due.min(header.due(record));
                    let kept = usize::from(!table.is_evictable(header.namespace()));
                    if header.is_tombstone() {
                        tombstone_bytes[kept] += u64::from(header.needed());
                    } else {
                        entries += 1;
                    }
                    let is_it = |other| other == handle(slot, at);
                    assert!(table.index.find(table.placement.local(header.hash), header.hash, is_it).is_some());
                }
                at += header.capacity();
            }
            assert_eq!((at, dead_here, pinned), (segment.used, segment.dead, segment.pinned));
            assert!(segment.due <= due, "the sweep would miss a record");
            bytes[class as usize] += log.record(handle(slot, 0)).len() as u64;
            dead[class as usize] += u64::from(dead_here);
        }
    }
    for class in CLASSES {
        assert_eq!(log.class_bytes(class), bytes[class as usize], "{class:?}");
        assert_eq!(log.class_dead(class), dead[class as usize], "{class:?}");
    }
    let spare = if log.segments_bytes() == 0 { 0 } else { u64::from(log.segment_bytes()) };
    assert_eq!(log.segments_bytes(), bytes.iter().sum::<u64>() + spare);
    let indexed: usize = (0..table.index.tables()).map(|local| table.index.values(local).count()).sum();
    assert_eq!(indexed, live);
    let stats = table.stats();
    assert_eq!((stats.entries, stats.entries + stats.tombstones), (entries, live as u64));
    assert_eq!([stats.tombstone_bytes, stats.held_tombstone_bytes], tombstone_bytes);
    for local in 0..table.index.tables() {
        let partition = PartitionId(u16::try_from(local * 2).unwrap());
        for copies in 1..=table.copies_max() {
            assert!(table.audit(copies, partition), "the tree kept in place is that of the data");
            let leaves = table.leaves(copies, partition, 8).into_iter();
            assert_eq!(table.root(copies, partition), leaves.fold(0, u64::wrapping_add));
        }
    }
    for actor in table.ghosts.actors() {
        *uses.entry(actor).or_default() += 1;
    }
    let counted: u64 = uses.values().sum();
    assert_eq!(counted, live as u64 + stats.ghosts);
    for (actor, uses) in uses {
        assert_eq!(table.actors.references(actor), uses);
    }
}

fn hash_of(number: u64) -> KeyHash {
    KeyHash(Rng::new(number).next() & !(1 << 60))
}

#[test]
fn counters_agree_with_the_records_after_any_history() {
    for seed in 0..12u64 {
        let mut rng = Rng::new(seed);
        let limit = [300 << 10, 1 << 20, 3 << 20, 40 << 20][(seed % 4) as usize];
        let mut table = Memtable::new(MemtableConfig { limit, partitions: 16, shards: 2, shard: ShardId(0), seed: 1 });
        let slots = [NamespaceSlot(0), NamespaceSlot(1)];
        table.namespace(slots[0], true, 3);
        table.namespace(slots[1], false, 2);
        let mut pins: Vec<(Pin, NamespaceSlot, u64)> = Vec::new();
        let mut wall = 1_000_000;
        for step in 0..20_000u64 {
            wall += rng.below(60);
            let slot = slots[usize::from(rng.below(6) == 0)];
            let number = rng.below(4_000) | u64::from(slot.0) << 32;
            let key = number.to_be_bytes();
            match rng.below(1_000) {
                0..200 => drop(table.get(slot, hash_of(number), &key)),
                200..300 => drop(table.work(Wall(wall), 100)),
                300..400 if !pins.is_empty() => {
                    let at = usize::try_from(rng.below(pins.len() as u64)).unwrap();
                    let (pin, slot, number) = pins.swap_remove(at);
                    table.unpin(pin, slot, hash_of(number), &number.to_be_bytes());
                }
                400 => {
                    let copies = 1 + u8::try_from(rng.below(4)).unwrap();
                    table.remove_trees((PartitionId(2 * u16::try_from(rng.below(8)).unwrap()), copies), true);
                }
                401 => {
                    for evictable in [true, false] {
                        let copies = if evictable { 1 } else { 2 };
                        table.namespace(slots[1], evictable, copies);
                        audit(&table);
                    }
                }
                404..440 => {
                    let version = Version { hlc: Hlc::at(Wall(wall - rng.below(500))), actor: ActorId(rng.below(90)) };
                    let (entry_hash, gone_at) = (rng.next(), Wall(wall + rng.below(100_000)));
                    let most = table.limit().max(table.accounted());
                    table.adopt(slot, &Evicted { hash: hash_of(number), version, entry_hash, gone_at });
                    assert!(table.accounted() <= most, "seed {seed} step {step}");
                }
                403 => {
                    table.flush(slot, Hlc::at(Wall(wall - rng.below(1_000))));
                }
                402 => {
                    table.set_limit(limit / 2);
                    table.set_limit(limit);
                }
                _ => {
                    let size = [10, 100, 900, 9_000, 90_000][(rng.below(60).checked_ilog2().unwrap_or(0) % 5) as usize];
                    let value = vec![7; usize::try_from(rng.below(size)).unwrap()];
                    let version = Version { hlc: Hlc::at(Wall(wall - rng.below(500))), actor: ActorId(rng.below(90)) };
                    let expires_at = (rng.below(2) == 0).then(|| Wall(wall + rng.below(100_000)));
                    let hold_until = (rng.below(30) == 0).then(|| Wall(wall + rng.below(200_000)));
                    let body = if rng.below(8) == 0 { Body::Tombstone } else { Body::Value(&value) };
                    let entry = Entry { version, expires_at, hold_until, body };
                    // A namespace declared where nothing can be evicted may stand over the limit; no put adds to it.
                    let most = table.limit().max(table.accounted());
                    let pin = table.put(Wall(wall), slot, hash_of(number), &key, &entry, rng.below(4) == 0);
                    if let Put::Applied { pin: Some(pin) } = pin {
                        pins.push((pin, slot, number));
                    }
                    assert!(table.accounted() <= most, "seed {seed} step {step}");
                }
            }
            if step % 64 == 0 {
                audit(&table);
            }
        }
        let stats = *table.stats();
        assert!(stats.segments_cleaned > 0 && stats.expired > 0 || limit > 3 << 20, "{stats:?}");
    }
}
