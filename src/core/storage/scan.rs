//! A partition's entries for whoever takes them over, and which of them are popular.
//!
//! PROTOCOL §2 would send the most used entries first. Nobody reads a new owner before it has everything, so the order
//! helps nobody; what a newcomer lacks is the knowledge whom to keep. To it all entries are new, and the first that make room
//! are the oldest by arrival, popular or not. So each entry says whether it is popular, in range transfer and in the repairs
//! that fill a restarted node, and what is popular counts as that where it arrives.
//!
//! Popular is what was used twice since its segment was last cleaned, by `tests/bench/hit_ratio.rs`: hit ratio in percent of a node
//! that took over everything a full one held, over as many requests as it holds entries; its memory is the full one's, half,
//! a quarter and an eighth of it. Counting everything in the main queue as popular, too, was worse than nothing at an eighth.
//!
//! ```text
//!                    nothing said   used once   twice   three times
//! zipf 1.0, all             79.88       80.27   80.21         80.06
//! zipf 1.0, half            65.83       70.91   75.21         72.36
//! zipf 1.0, quarter         54.37       55.93   58.22         59.97
//! zipf 1.0, eighth          43.73       42.89   43.92         46.30
//! zipf 1.2, half            86.87       92.62   92.05         91.63
//! zipf 1.2, eighth          72.37       74.93   78.48         81.03
//! ```

use super::{NamespaceSlot, memtable::Memtable, record::Header};
use crate::{
    id::{KeyHash, PartitionId},
    value::Entry,
};

/// Uses that make an entry popular.
const POPULAR_USES: u8 = 2;

/// One entry of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Scanned<'a> {
    /// Its namespace here.
    pub slot: NamespaceSlot,
    /// The key's hash.
    pub hash: KeyHash,
    /// The key.
    pub key: &'a [u8],
    /// What is held of it.
    pub entry: Entry<'a>,
    /// Whether it was used again and again of late.
    pub popular: bool,
}

impl Memtable {
    /// Calls `visit` with every entry of a partition, in no meaningful order (but the same after the same history).
    pub fn scan_partition<'a>(&'a self, partition: PartitionId, mut visit: impl FnMut(Scanned<'a>)) {
        for handle in self.index.values(self.placement.local_partition(partition)) {
            let record = self.log.record(handle);
            let header = Header::read(record);
            if !self.flushing || !self.is_void(header.namespace(), header.hlc) {
                visit(Scanned {
                    slot: NamespaceSlot(header.namespace()),
                    hash: KeyHash(header.hash),
                    key: header.key(record),
                    entry: self.entry(handle),
                    popular: header.frequency() >= POPULAR_USES,
                });
            }
        }
    }

    /// Whether what is held under a key hash was used again and again of late.
    pub(crate) fn is_popular(&self, slot: NamespaceSlot, hash: KeyHash) -> bool {
        let uses = |handle| Header::read(self.log.record(handle)).frequency();
        self.find_by_hash(slot, hash).is_some_and(|handle| uses(handle) >= POPULAR_USES)
    }

    /// Takes over that an entry is popular elsewhere. It is here then too: nodes restarted one after the other tell each other.
    pub fn credit(&mut self, slot: NamespaceSlot, hash: KeyHash, key: &[u8]) {
        let Some(handle) = self.find(slot, hash.0, key) else { return };
        let record = self.log.record_mut(handle);
        let mut header = Header::read(record);
        if header.frequency() < POPULAR_USES {
            header.set_frequency(record, POPULAR_USES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{ActorId, ShardId},
        storage::{Lookup, MemtableConfig},
        time::Wall,
        value::{Body, Hlc, Version},
    };

    const SLOT: NamespaceSlot = NamespaceSlot(0);
    const NOW: Wall = Wall(1_000_000);

    fn table(limit: u64) -> Memtable {
        let config = MemtableConfig { limit, partitions: 4, shards: 1, shard: ShardId(0), seed: 1 };
        let mut table = Memtable::new(config);
        table.namespace(SLOT, true, 3);
        table
    }

    fn hash(key: u64) -> KeyHash {
        KeyHash(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn put(table: &mut Memtable, key: u64) {
        let version = Version { hlc: Hlc::at(NOW), actor: ActorId(1) };
        let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(&[7; 200]) };
        let _ = table.put(NOW, SLOT, hash(key), &key.to_be_bytes(), &entry, false);
    }

    fn holds(table: &Memtable, key: u64) -> bool {
        matches!(table.peek(SLOT, hash(key), &key.to_be_bytes()), Lookup::Found(_))
    }

    /// Gives all of `from` to a table that can keep about a quarter; how many of the keys below 500 it keeps.
    fn kept(from: &Memtable, credited: bool) -> usize {
        let mut to = table(from.limit() / 8);
        for partition in (0..4).map(PartitionId) {
            from.scan_partition(partition, |held| {
                let _ = to.put(NOW, held.slot, held.hash, held.key, &held.entry, false);
                if credited && held.popular {
                    to.credit(held.slot, held.hash, held.key);
                }
            });
        }
        (0..500).filter(|key| holds(&to, *key)).count()
    }

    #[test]
    fn what_was_used_stays_with_a_newcomer_that_cannot_hold_everything() {
        let mut from = table(4 << 20);
        (0..8_000).for_each(|key| put(&mut from, key));
        for key in (0..500u64).chain(0..500) {
            let _ = from.get(SLOT, hash(key), &key.to_be_bytes());
        }
        assert_eq!((from.stats().entries, from.stats().evictions), (8_000, 0));
        assert_eq!(kept(&from, true), 500);
        assert!(kept(&from, false) < 250, "without the credit they go as others do");
    }

    #[test]
    fn who_was_told_tells_others_and_an_unknown_key_gets_no_credit() {
        let mut table = table(1 << 20);
        put(&mut table, 1);
        let popular = |table: &Memtable| {
            let mut found = Vec::new();
            (0..4).for_each(|at| table.scan_partition(PartitionId(at), |held| found.push(held.popular)));
            assert_eq!(found, [table.is_popular(SLOT, hash(1))]);
            found[0]
        };
        table.credit(SLOT, hash(2), &2u64.to_be_bytes());
        let _ = table.get(SLOT, hash(1), &1u64.to_be_bytes());
        assert!(!popular(&table), "one use says little");
        table.credit(SLOT, hash(1), &1u64.to_be_bytes());
        assert!(popular(&table));
    }
}
