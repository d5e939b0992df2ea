//! `bench --verify`: what was acknowledged, and whether it can still be read.
//!
//! Each key has one writer, the slot its number falls to, and a slot waits for each answer, so "the last acknowledged
//! value" is one value. A value carries its key and a sequence that rises with every write that was begun. Read back,
//! a key must hold the last acknowledged sequence or a later one that ended unknown; anything older, or another key's
//! value, is lost. Nothing at all is lost too, unless the mesh evicted or the time to live can have passed.

use super::workload::stamp;
use quanta::Instant;
use std::time::Duration;

/// The writes to one key.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    /// Sequence of the last write begun; zero: none.
    begun: u32,
    /// Sequence of the last write acknowledged; zero: none.
    acknowledged: u32,
    /// Sequence of the last delete begun; zero: none.
    deleted: u32,
}

/// What reading a key back says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// What was acknowledged, or something later.
    Good,
    /// Nothing, although a value was acknowledged.
    Absent,
    /// Older than what was acknowledged, or never written to this key.
    Wrong,
}

/// All keys of one slot: numbers `slot`, `slot + slots`, ...
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    slot: u64,
    slots: u64,
    keys: u64,
    writes: Vec<Writes>,
}

impl Ledger {
    /// The ledger of slot `slot` of `slots`, for `keys` ≥ `slots` keys.
    pub(crate) fn new(slot: u64, slots: u64, keys: u64) -> Self {
        assert!(slot < slots && slots <= keys, "the command line gives each slot a key");
        let own = (keys - slot).div_ceil(slots);
        Self { slot, slots, keys, writes: vec![Writes::default(); usize::try_from(own).expect("fits memory")] }
    }

    /// The key of this slot nearest to `key`: about as popular, and nobody else writes it.
    pub(crate) fn own(&self, key: u64) -> u64 {
        let own = key - key % self.slots + self.slot;
        if own < self.keys { own } else { own - self.slots }
    }

    fn at(&mut self, key: u64) -> &mut Writes {
        debug_assert_eq!(key % self.slots, self.slot);
        &mut self.writes[usize::try_from(key / self.slots).expect("fits memory")]
    }

    /// Begins a write; gives its sequence.
    pub(crate) fn begin(&mut self, key: u64) -> u32 {
        let writes = self.at(key);
        writes.begun += 1;
        writes.begun
    }

    /// Begins a delete; gives its sequence.
    pub(crate) fn begin_delete(&mut self, key: u64) -> u32 {
        let sequence = self.begin(key);
        self.at(key).deleted = sequence;
        sequence
    }

    /// The write of that sequence was acknowledged.
    pub(crate) fn acknowledge(&mut self, key: u64, sequence: u32) {
        self.at(key).acknowledged = sequence;
    }

    /// Keys with an acknowledged write.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = u64> + '_ {
        let written = self.writes.iter().zip(0..).filter(|(writes, _)| writes.acknowledged > 0);
        written.map(|(_, at): (_, u64)| at * self.slots + self.slot)
    }

    /// Judges what was read back.
    pub(crate) fn judge(&mut self, key: u64, value: Option<&[u8]>) -> Finding {
        let writes = *self.at(key);
        match value {
            // A delete that was acknowledged, or one after it that may have been applied.
            None if writes.deleted >= writes.acknowledged => Finding::Good,
            None => Finding::Absent,
            Some(value) => match stamp(value) {
                Some((of, sequence))
                    if of == key
                        && sequence >= u64::from(writes.acknowledged)
                        && sequence <= u64::from(writes.begun)
                        && sequence != u64::from(writes.deleted) =>
                {
                    Finding::Good
                }
                Some(_) | None => Finding::Wrong,
            },
        }
    }
}

/// Sums over all slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Keys that hold what was acknowledged.
    pub(crate) good: u64,
    /// Keys without a value.
    pub(crate) absent: u64,
    /// Keys with a wrong value.
    pub(crate) wrong: u64,
    /// Keys that could not be read.
    pub(crate) unread: u64,
}

impl Findings {
    /// Counts one.
    pub(crate) fn count(&mut self, finding: Finding) {
        match finding {
            Finding::Good => self.good += 1,
            Finding::Absent => self.absent += 1,
            Finding::Wrong => self.wrong += 1,
        }
    }

    /// Adds another slot's.
    pub(crate) fn add(&mut self, other: Self) {
        self.good += other.good;
        self.absent += other.absent;
        self.wrong += other.wrong;
        self.unread += other.unread;
    }

    /// Keys lost: absent ones are forgiven when the mesh evicted, or when the shortest time to live has passed since
    /// the run began.
    pub(crate) fn lost(&self, evicted: bool, ttl: Option<Duration>, begun: Instant) -> u64 {
        let forgiven = evicted || ttl.is_some_and(|ttl| begun.elapsed() >= ttl);
        self.wrong + if forgiven { 0 } else { self.absent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Values;
    use meshwork_core::rng::Rng;

    fn value(key: u64, sequence: u32) -> Vec<u8> {
        let mut value = Vec::new();
        Values::new(16, &mut Rng::new(1)).stamped(&mut value, key, sequence);
        value
    }

    #[test]
    fn every_key_has_one_owner_and_stays_in_range() {
        let ledgers: Vec<_> = (0..7).map(|slot| Ledger::new(slot, 7, 20)).collect();
        for key in 0..20 {
            for ledger in &ledgers {
                let own = ledger.own(key);
                assert!(own < 20 && own % 7 == ledger.slot, "{key} -> {own}");
            }
        }
    }

    #[test]
    fn older_than_acknowledged_is_wrong_and_a_later_unknown_write_is_good() {
        let mut ledger = Ledger::new(1, 2, 10);
        for _ in 0..3 {
            ledger.begin(3);
        }
        ledger.acknowledge(3, 2);
        assert_eq!(ledger.acknowledged().collect::<Vec<_>>(), [3]);
        assert_eq!(ledger.judge(3, Some(&value(3, 1))), Finding::Wrong);
        assert_eq!(ledger.judge(3, Some(&value(3, 2))), Finding::Good);
        assert_eq!(ledger.judge(3, Some(&value(3, 3))), Finding::Good);
        assert_eq!(ledger.judge(3, Some(&value(3, 4))), Finding::Wrong, "never written");
        assert_eq!(ledger.judge(3, Some(&value(5, 2))), Finding::Wrong, "another key's value");
        assert_eq!(ledger.judge(3, None), Finding::Absent);
    }

    #[test]
    fn what_was_deleted_must_stay_away() {
        let mut ledger = Ledger::new(0, 1, 1);
        let sequence = ledger.begin(0);
        ledger.acknowledge(0, sequence);
        let deleted = ledger.begin_delete(0);
        assert_eq!(ledger.judge(0, None), Finding::Good, "the delete may have been applied");
        assert_eq!(ledger.judge(0, Some(&value(0, 1))), Finding::Good, "or not");
        ledger.acknowledge(0, deleted);
        assert_eq!(ledger.judge(0, None), Finding::Good);
        assert_eq!(ledger.judge(0, Some(&value(0, 1))), Finding::Wrong, "came back");
    }

    #[test]
    fn absence_is_forgiven_only_by_eviction_or_expiry() {
        let findings = Findings { good: 5, absent: 2, wrong: 1, unread: 0 };
        let now = Instant::now();
        assert_eq!(findings.lost(false, None, now), 3);
        assert_eq!(findings.lost(true, None, now), 1);
        assert_eq!(findings.lost(false, Some(Duration::from_secs(3600)), now), 3);
        assert_eq!(findings.lost(false, Some(Duration::ZERO), now), 1);
    }
}
