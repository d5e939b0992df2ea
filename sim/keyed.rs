//! Keyed randomness: every draw is a hash of the seed and of what it is for, never the next number of a shared stream.
//!
//! That is what makes shrinking work: leaving a fault or an operation out of a plan leaves the fate of every message that
//! still travels alone. The mix is that of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), one round per part of the key.
//! Golden vectors in the tests: a plan outlives the machine it was found on. Not for secrets.

/// What a draw is for: the first part of every key, so that two uses never share a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The configuration of a seed.
    Config = 1,
    /// Its faults.
    Faults = 2,
    /// Its operations.
    Workload = 3,
    /// Delay and loss of a message.
    Message = 4,
    /// Identities and seeds of a process.
    Process = 5,
    /// Latency of a disk.
    Disk = 6,
    /// Clients: links, retries.
    Client = 7,
    /// Phases after the chaos.
    Phase = 8,
    /// What shards store, and what becomes of it.
    Durable = 9,
    /// Which namespaces are flushed, and deleted.
    Flush = 10,
    /// How few machines are healed.
    Core = 11,
    /// A stand-in that comes back late.
    Latecomer = 12,
    /// A long silence at the end.
    Silence = 13,
}

/// One draw: 64 uniform bits, the same for the same seed, purpose and key.
#[inline]
pub fn draw(seed: u64, purpose: Purpose, key: &[u64]) -> u64 {
    let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(purpose as u64));
    for part in key {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
    }
    state
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `bits` as a number below `bound`; zero when `bound` is.
#[inline]
pub fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// A stream for one purpose and key, where many draws belong together and are made at once: the making of a plan.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    purpose: Purpose,
    key: u64,
    count: u64,
}

impl Stream {
    /// The stream of `seed` for `purpose`, number `key`.
    pub fn new(seed: u64, purpose: Purpose, key: u64) -> Self {
        Self { seed, purpose, key, count: 0 }
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.count += 1;
        draw(self.seed, self.purpose, &[self.key, self.count])
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        below(self.bits(), bound)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `per_mille` of a thousand draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_draws_do_not_change() {
        assert_eq!(draw(1, Purpose::Message, &[2, 3]), draw(1, Purpose::Message, &[2, 3]));
        assert_eq!(draw(0, Purpose::Config, &[]), 0xe220_a839_7b1d_cdaf);
        assert_eq!(draw(7, Purpose::Faults, &[1]), GOLDEN);
    }

    const GOLDEN: u64 = 5_411_993_668_810_812_948;

    #[test]
    fn another_purpose_key_or_seed_is_another_draw() {
        let base = draw(1, Purpose::Message, &[2, 3]);
        assert_ne!(base, draw(2, Purpose::Message, &[2, 3]));
        assert_ne!(base, draw(1, Purpose::Client, &[2, 3]));
        assert_ne!(base, draw(1, Purpose::Message, &[3, 2]));
    }

    #[test]
    fn draws_below_a_bound_stay_below_and_reach_all() {
        let mut stream = Stream::new(5, Purpose::Workload, 0);
        let mut seen = [false; 7];
        for _ in 0..200 {
            seen[stream.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(below(u64::MAX, 0), 0);
    }
}
