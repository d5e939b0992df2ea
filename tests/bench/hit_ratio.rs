//! Hit ratios of eviction policies: exact LRU, W-TinyLFU and S3-FIFO as plain models, and the memtable itself.
//!
//! Run with `cargo bench -p meshwork-core --bench hit_ratio`. A miss is filled at once, as a cache's user would. Zipf
//! requests over 400,000 keys, memory for about a tenth of them; every second trace has scans, each of a tenth of the
//! keys in a row, a fifth of all requests. The models get as many entries as the memtable held on average, ghosts and
//! all, so that a row compares policies and not record formats. The models count entries and know no bytes.
//!
//! A second table is of a newcomer that takes over what a full node holds and may have room for a part of it: hit ratio of the
//! first requests after that, where what is popular counts as used (`storage::scan`) and where not.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a benchmark may panic, on 64 bits")]

use meshwork_core::{
    id::{ActorId, KeyHash, PartitionId, ShardId},
    rng::Rng,
    storage::{Lookup, Memtable, MemtableConfig, NamespaceSlot, Scanned},
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use std::collections::{BTreeMap, VecDeque};

const KEYS: u32 = 400_000;
const REQUESTS: usize = 4_000_000;
const WARM_UP: usize = 1_000_000;
const PARTITIONS: u16 = 64;
/// For a tenth of the keys.
const MEMORY: u64 = KEYS as u64 / 10 * 200;

fn main() {
    println!(
        "{:<18} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}",
        "trace", "entries", "LRU", "TinyLFU", "S3 g=1", "S3 g=.2", "memtable", "over LRU", "static"
    );
    for scans in [false, true] {
        for skew in [0.9, 1.0, 1.1, 1.2] {
            let trace = trace(skew, scans);
            let (table, entries) = memtable(&trace);
            let lru = ratio(&trace, &mut Lru::new(entries));
            let lfu = ratio(&trace, &mut TinyLfu::new(entries));
            let s3 = ratio(&trace, &mut S3Fifo::new(entries, entries));
            let s3_short = ratio(&trace, &mut S3Fifo::new(entries, entries / 5));
            let best = best_static(&trace, entries);
            let name = format!("zipf {skew:.1}{}", if scans { " + scans" } else { "" });
            println!(
                "{name:<18} {entries:>8} {lru:>7.2} {lfu:>8.2} {s3:>8.2} {s3_short:>8.2} {table:>9.2} {:>+9.2} {best:>8.2}",
                table - lru
            );
        }
    }
    println!("\n{:<18} {:>8} {:>9} {:>9} {:>9}", "newcomer", "memory", "credited", "not", "gain");
    for skew in [0.9, 1.0, 1.1, 1.2] {
        let trace = trace(skew, false);
        for share in [1, 2, 4, 8] {
            let [credited, not] = [true, false].map(|credit| newcomer(&trace, share, credit));
            println!(
                "zipf {skew:<13.1} {:>8} {credited:>9.2} {not:>9.2} {:>+9.2}",
                format!("1/{share}"),
                credited - not
            );
        }
    }
}

/// A node of a `share`th of the memory takes over everything that a warm one holds, partition by partition; its hit ratio over
/// as many requests as it holds entries.
fn newcomer(trace: &[u32], share: u64, credit: bool) -> f64 {
    let mut from = Real::new(MEMORY);
    trace[..WARM_UP].iter().for_each(|key| _ = from.access(*key));
    let mut to = Real { time: from.time, ..Real::new(MEMORY / share) };
    for partition in (0..PARTITIONS).map(PartitionId) {
        let mut held = Vec::new();
        from.table.scan_partition(partition, |scanned| held.push(scanned));
        held.sort_unstable_by_key(|scanned| scanned.hash);
        for Scanned { slot, hash, key, entry, popular } in held {
            let _ = to.table.put(Wall(1_000_000 + to.time), slot, hash, key, &entry, false);
            if credit && popular {
                to.table.credit(slot, hash, key);
            }
        }
    }
    let requests = to.table.stats().entries as usize;
    let hits = trace[WARM_UP..][..requests].iter().filter(|key| to.access(**key)).count();
    hits as f64 * 100.0 / requests as f64
}

/// What holding the most asked `entries` keys from the start would hit: about as far as any policy can come.
fn best_static(trace: &[u32], entries: usize) -> f64 {
    let mut counts = vec![0u32; KEYS as usize];
    trace[WARM_UP..].iter().for_each(|key| counts[*key as usize] += 1);
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts[..entries].iter().map(|count| f64::from(*count)).sum::<f64>() * 100.0 / (REQUESTS - WARM_UP) as f64
}

/// Key numbers; popularity is scattered over them, so that a scan meets hot and cold ones.
fn trace(skew: f64, scans: bool) -> Vec<u32> {
    let mut rng = Rng::fork(7, "trace");
    let mut sum = 0.0;
    let shares: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += f64::from(rank).powf(-skew);
            sum
        })
        .collect();
    let mut scattered: Vec<u32> = (0..KEYS).collect();
    for at in (1..scattered.len()).rev() {
        scattered.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let mut scan = (0, 0u32);
    let mut made = Vec::with_capacity(REQUESTS);
    while made.len() < REQUESTS {
        if scans && scan.0 == 0 && rng.below(u64::from(KEYS) / 10 * 4) == 0 {
            scan = (KEYS / 10, rng.below(u64::from(KEYS)) as u32);
        }
        if scan.0 > 0 && rng.below(2) == 0 {
            made.push(scan.1 % KEYS);
            scan = (scan.0 - 1, scan.1 + 1);
        } else {
            let at = (rng.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
            made.push(scattered[shares.partition_point(|share| *share < at).min(KEYS as usize - 1)]);
        }
    }
    made
}

trait Policy {
    /// Asks for `key` and fills a miss; whether it hit.
    fn access(&mut self, key: u32) -> bool;
}

fn ratio(trace: &[u32], policy: &mut impl Policy) -> f64 {
    let mut hits = 0;
    for (at, key) in trace.iter().enumerate() {
        let hit = policy.access(*key);
        hits += usize::from(hit && at >= WARM_UP);
    }
    hits as f64 * 100.0 / (REQUESTS - WARM_UP) as f64
}

/// The real memtable: 16-byte keys, 100-byte values, background work every 256 requests.
struct Real {
    table: Memtable,
    time: u64,
    entries: u64,
}

impl Real {
    fn new(limit: u64) -> Self {
        let config = MemtableConfig { limit, partitions: PARTITIONS, shards: 1, shard: ShardId(0), seed: 1 };
        let mut table = Memtable::new(config);
        table.namespace(NamespaceSlot(0), true, 3);
        Self { table, time: 0, entries: 0 }
    }
}

impl Policy for Real {
    fn access(&mut self, key: u32) -> bool {
        self.time += 1;
        self.entries += self.table.stats().entries;
        let now = Wall(1_000_000 + self.time);
        if self.time.is_multiple_of(256) {
            self.table.work(now, 256);
        }
        let bytes = u128::from(key).to_be_bytes();
        let hash = KeyHash(Rng::new(u64::from(key)).next());
        if let Lookup::Found(_) = self.table.get(NamespaceSlot(0), hash, &bytes) {
            return true;
        }
        let version = Version { hlc: Hlc::at(now), actor: ActorId(1) };
        let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(&[7; 100]) };
        let _ = self.table.put(now, NamespaceSlot(0), hash, &bytes, &entry, false);
        false
    }
}

/// Hit ratio of the memtable, and how many entries it held on average.
fn memtable(trace: &[u32]) -> (f64, usize) {
    let mut real = Real::new(MEMORY);
    let hit = ratio(trace, &mut real);
    (hit, (real.entries / real.time) as usize)
}

/// Exact least recently used, by the time of the last use.
struct Lru {
    capacity: usize,
    time: u64,
    used: Vec<u64>,
    order: BTreeMap<u64, u32>,
}

impl Lru {
    fn new(capacity: usize) -> Self {
        Self { capacity, time: 0, used: vec![0; KEYS as usize], order: BTreeMap::new() }
    }

    fn touch(&mut self, key: u32) -> bool {
        self.time += 1;
        let held = self.order.remove(&std::mem::replace(&mut self.used[key as usize], self.time)).is_some();
        self.order.insert(self.time, key);
        held
    }

    fn remove(&mut self, key: u32) -> bool {
        self.order.remove(&std::mem::take(&mut self.used[key as usize])).is_some()
    }

    fn holds(&self, key: u32) -> bool {
        self.used[key as usize] != 0
    }

    fn oldest(&self) -> Option<u32> {
        self.order.first_key_value().map(|(_, key)| *key)
    }

    fn pop_over(&mut self) -> Option<u32> {
        let key = (self.order.len() > self.capacity).then(|| self.oldest()).flatten()?;
        self.remove(key);
        Some(key)
    }
}

impl Policy for Lru {
    fn access(&mut self, key: u32) -> bool {
        let hit = self.touch(key);
        self.pop_over();
        hit
    }
}

/// Einziger, Friedman, Manes, "TinyLFU" (ACM ToS 2017): window 1 %, main a segmented LRU 20/80, counts halved every
/// ten capacities. The sketch has 4 rows of 4-bit counts, eight per entry.
struct TinyLfu {
    window: Lru,
    probation: Lru,
    protected: Lru,
    main: usize,
    rows: [Vec<u8>; 4],
    counted: usize,
    period: usize,
}

impl TinyLfu {
    fn new(capacity: usize) -> Self {
        let window = capacity.div_ceil(100);
        let main = capacity - window;
        let row = vec![0; (capacity * 8).next_power_of_two()];
        Self {
            window: Lru::new(window),
            probation: Lru::new(main),
            protected: Lru::new(main * 4 / 5),
            main,
            rows: [row.clone(), row.clone(), row.clone(), row],
            counted: 0,
            period: capacity * 10,
        }
    }

    fn cell(&self, row: usize, key: u32) -> usize {
        (Rng::new(u64::from(key) << 2 | row as u64).next() & (self.rows[row].len() as u64 - 1)) as usize
    }

    fn count(&mut self, key: u32) {
        for row in 0..4 {
            let at = self.cell(row, key);
            self.rows[row][at] = (self.rows[row][at] + 1).min(15);
        }
        self.counted += 1;
        if self.counted == self.period {
            self.counted /= 2;
            self.rows.iter_mut().flatten().for_each(|count| *count /= 2);
        }
    }

    fn estimate(&self, key: u32) -> u8 {
        (0..4).map(|row| self.rows[row][self.cell(row, key)]).min().unwrap()
    }
}

impl Policy for TinyLfu {
    fn access(&mut self, key: u32) -> bool {
        self.count(key);
        if self.window.holds(key) {
            return self.window.touch(key);
        }
        if self.protected.holds(key) {
            return self.protected.touch(key);
        }
        if self.probation.remove(key) {
            self.protected.touch(key);
            if let Some(demoted) = self.protected.pop_over() {
                self.probation.touch(demoted);
            }
            return true;
        }
        self.window.touch(key);
        if let Some(candidate) = self.window.pop_over() {
            let full = self.probation.order.len() + self.protected.order.len() >= self.main;
            match self.probation.oldest().filter(|_| full) {
                Some(victim) if self.estimate(candidate) <= self.estimate(victim) => {}
                Some(victim) => {
                    self.probation.remove(victim);
                    self.probation.touch(candidate);
                }
                None => drop(self.probation.touch(candidate)),
            }
        }
        false
    }
}

/// Yang et al., "FIFO queues are all you need" (SOSP 2023), with one use enough to leave the small queue.
struct S3Fifo {
    capacity: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: VecDeque<u32>,
    ghosts_max: usize,
    held: Vec<bool>,
    ghosted: Vec<u32>,
    uses: Vec<u8>,
}

impl S3Fifo {
    fn new(capacity: usize, ghosts_max: usize) -> Self {
        let keys = KEYS as usize;
        Self {
            capacity,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghosts_max,
            held: vec![false; keys],
            ghosted: vec![0; keys],
            uses: vec![0; keys],
        }
    }

    fn evict(&mut self) {
        while self.small.len() * 10 > self.capacity || self.main.is_empty() {
            let key = self.small.pop_front().unwrap();
            if self.uses[key as usize] > 0 {
                self.uses[key as usize] = 0;
                self.main.push_back(key);
                continue;
            }
            return self.haunt(key);
        }
        while let Some(key) = self.main.pop_front() {
            if self.uses[key as usize] == 0 {
                return self.haunt(key);
            }
            self.uses[key as usize] -= 1;
            self.main.push_back(key);
        }
    }

    fn haunt(&mut self, key: u32) {
        self.held[key as usize] = false;
        self.ghosted[key as usize] += 1;
        self.ghosts.push_back(key);
        if self.ghosts.len() > self.ghosts_max {
            let gone = self.ghosts.pop_front().unwrap();
            self.ghosted[gone as usize] -= 1;
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, key: u32) -> bool {
        let at = key as usize;
        if self.held[at] {
            self.uses[at] = (self.uses[at] + 1).min(3);
            return true;
        }
        if self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        (self.held[at], self.uses[at]) = (true, 0);
        if self.ghosted[at] > 0 { &mut self.main } else { &mut self.small }.push_back(key);
        false
    }
}
