//! S23 `bounded`: memory, hints and requests in flight stay within their limits after every event.
//!
//! The figures are the shard's own accounting, plus one relation that accounting cannot fake: what it accounts is never
//! less than its empty tables and its hints together. (A shard may be pushed over its limit for as long as what it holds
//! beside the memtable cannot be made room for; core promises that this does not happen to one that may evict.)

use crate::network::Site;
use meshwork_core::{limits, stats::ShardStats};
use std::collections::BTreeMap;

/// Hints get one in so many bytes of a shard (core's own bound).
const HINTS_SHARE: u64 = 20;

/// What a shard sets aside is one in so many bytes of its memory, in steps of `RESERVE_STEP`.
const SET_ASIDE_SHARE: u64 = 64;
const RESERVE_STEP: u64 = 64 * 1024;

/// What was seen of each shard.
#[derive(Debug)]
pub struct Bounds {
    memory: u64,
    empty: BTreeMap<Site, u64>,
}

impl Bounds {
    /// For shards with this limit, bytes.
    pub fn new(memory: u64) -> Self {
        Self { memory, empty: BTreeMap::new() }
    }

    /// Judges a shard's figures after a call.
    pub fn after(&mut self, site: Site, stats: &ShardStats) -> Option<String> {
        let empty = *self.empty.entry(site).or_insert(stats.memory_bytes);
        if stats.memory_bytes > self.memory {
            return Some(format!("{site:?} accounts {} bytes of {}", stats.memory_bytes, self.memory));
        }
        if stats.hint_bytes > self.memory / HINTS_SHARE {
            return Some(format!(
                "{site:?} holds {} bytes of hints, and may hold {}",
                stats.hint_bytes,
                self.memory / HINTS_SHARE
            ));
        }
        // A shard sets some memory aside from the start, which the first hints use.
        let aside = (self.memory / SET_ASIDE_SHARE).div_ceil(RESERVE_STEP) * RESERVE_STEP;
        // One that restored something was not empty when it was first looked at.
        let began_empty = stats.restored == 0;
        if began_empty && stats.memory_bytes + aside < empty + stats.hint_bytes {
            return Some(format!(
                "{site:?} accounts {} bytes, but was {empty} when empty and holds {} of hints",
                stats.memory_bytes, stats.hint_bytes
            ));
        }
        if stats.in_flight > limits::IN_FLIGHT_PER_SHARD as u64 {
            return Some(format!("{site:?} has {} requests in flight", stats.in_flight));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { process: 0, shard: 0 };

    #[test]
    fn figures_over_their_limits_or_not_charged_are_refused() {
        let mut bounds = Bounds::new(4_000_000);
        let good = ShardStats { memory_bytes: 100, ..ShardStats::default() };
        assert_eq!(bounds.after(SITE, &good), None);
        let bad = [
            ShardStats { memory_bytes: 4_000_001, ..good },
            ShardStats { memory_bytes: 300_000, hint_bytes: 200_001, ..good },
            ShardStats { memory_bytes: 110, hint_bytes: 70_000, ..good },
            ShardStats { in_flight: 65_537, ..good },
        ];
        assert!(bad.iter().all(|stats| bounds.after(SITE, stats).is_some()));
        assert_eq!(bounds.after(SITE, &ShardStats { memory_bytes: 130, hint_bytes: 20, ..good }), None);
    }
}
