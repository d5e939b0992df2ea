//! The memtable alone: resident bytes per item beyond key and value, and nanoseconds per get and put.
//!
//! Run with `cargo bench -p meshwork-core --bench memtable [-- ITEMS…]`, 1,000,000 items if none are given. 16-byte
//! keys, 100-byte values, each with an expiry (T6 of the targets). Resident memory is read from `/proc/self/statm`, so
//! the figure includes the allocator's own waste and exists on Linux only.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark measures")]

use meshwork_core::{
    id::{ActorId, KeyHash, ShardId},
    rng::Rng,
    storage::{Lookup, Memtable, MemtableConfig, NamespaceSlot, Put},
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use std::{hint::black_box, time::Instant};

const SLOT: NamespaceSlot = NamespaceSlot(0);

fn main() {
    let mut counts: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if counts.is_empty() {
        counts.push(1_000_000);
    }
    println!(
        "{:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "items",
        "rss B/it",
        "acct B/it",
        "insert ns",
        "get ns",
        "batch get",
        "miss ns",
        "update ns",
        "batch upd",
        "pin ns",
        "evict ns"
    );
    for count in counts {
        measure(count);
    }
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn measure(count: u64) {
    let before = resident();
    let config = MemtableConfig { limit: 1 << 40, partitions: 1024, shards: 1, shard: ShardId(0), seed: 1 };
    let mut table = Memtable::new(config);
    table.namespace(SLOT, true, 3);
    let put = |table: &mut Memtable, number: u64, time: u64, pin: bool| {
        let (key, hash) = key(number);
        let now = Wall(1_700_000_000_000 + time);
        let version = Version { hlc: Hlc::at(now), actor: ActorId(time & 3) };
        let expires_at = Some(Wall(now.0 + 3_600_000));
        let entry = Entry { version, expires_at, hold_until: None, body: Body::Value(&[7; 100]) };
        match table.put(now, SLOT, hash, &key, &entry, pin) {
            Put::Applied { pin: Some(pin) } => table.unpin(pin, SLOT, hash, &key),
            Put::Applied { pin: None } => {}
            other @ (Put::Superseded { .. } | Put::OutOfMemory | Put::TooLarge) => panic!("{other:?}"),
        }
    };
    let per = |started: Instant, rounds: u64| started.elapsed().as_nanos() as f64 / rounds as f64;

    let started = Instant::now();
    (0..count).for_each(|number| put(&mut table, number, 1, false));
    let insert = per(started, count);
    let rss = (resident() - before) as f64 / count as f64 - 116.0;
    let accounted = table.accounted() as f64 / count as f64 - 116.0;

    let rounds = 4_000_000;
    let mut rng = Rng::new(9);
    let numbers: Vec<u64> = (0..rounds).map(|_| rng.below(count)).collect();
    let started = Instant::now();
    for number in &numbers {
        let (key, hash) = key(*number);
        assert!(matches!(black_box(table.get(SLOT, hash, &key)), Lookup::Found(_)));
    }
    let get = per(started, rounds);
    let started = Instant::now();
    for batch in numbers.chunks(32) {
        black_box(table.warm(batch.iter().map(|number| key(*number).1)));
        for number in batch {
            let (key, hash) = key(*number);
            assert!(matches!(black_box(table.get(SLOT, hash, &key)), Lookup::Found(_)));
        }
    }
    let batched = per(started, rounds);
    let started = Instant::now();
    for number in &numbers {
        let (key, hash) = key(number + count);
        assert!(matches!(black_box(table.get(SLOT, hash, &key)), Lookup::Absent));
    }
    let miss = per(started, rounds);
    let started = Instant::now();
    numbers.iter().zip(2..).for_each(|(number, time)| put(&mut table, *number, time, false));
    let update = per(started, rounds);
    let started = Instant::now();
    for (at, batch) in (0..).zip(numbers.chunks(32)) {
        black_box(table.warm(batch.iter().map(|number| key(*number).1)));
        batch.iter().zip(rounds + 2 + at * 32..).for_each(|(number, time)| put(&mut table, *number, time, false));
    }
    let batch_update = per(started, rounds);
    let started = Instant::now();
    numbers.iter().zip(2 * rounds + 2..).for_each(|(number, time)| put(&mut table, *number, time, true));
    let pin = per(started, rounds);
    table.set_limit(table.accounted() + (1 << 20));
    let started = Instant::now();
    (0..rounds).for_each(|number| put(&mut table, number + count, 4 * rounds + number, false));
    let evict = per(started, rounds);
    println!(
        "{count:>10} {rss:>9.1} {accounted:>9.1} {insert:>9.0} {get:>9.0} {batched:>9.0} {miss:>9.0} {update:>9.0} {batch_update:>9.0} {pin:>9.0} {evict:>9.0}"
    );
}

/// A key and its hash; the hash is cheap here because the caller has it already in the real path.
fn key(number: u64) -> ([u8; 16], KeyHash) {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    (key, KeyHash(Rng::new(number).next()))
}
