//! The one source of randomness: a required seed, forked by name, so that a new draw in one room shifts no other
//! room's stream (STYLE §2, habit 9). SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): not for secrets.

use std::convert::Infallible;

/// A deterministic generator.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

/// A map for look-ups by id, seeded instead of random. Its iteration order is arbitrary: never iterate it where order
/// could reach an output.
pub type SeededMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator of its own for the room called `name`: the same for the same seed and name, whatever was drawn.
    pub fn fork(seed: u64, name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        let mut rng = Self::new(seed ^ u64::from_le_bytes(bytes));
        rng.next();
        rng
    }

    /// 64 uniform bits.
    #[expect(clippy::should_implement_trait, reason = "a generator never ends; Option would only be noise")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero when `bound` is. Biased by less than 2^-32 for bounds below 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).expect("the high half fits")
    }
}

impl rand_core::TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.next() >> 32).expect("32 bits remain"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        for chunk in into.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values_do_not_change() {
        let mut rng = Rng::new(0);
        assert_eq!([rng.next(), rng.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn forks_by_other_names_differ_and_by_one_name_agree() {
        assert_eq!(Rng::fork(1, "a").next(), Rng::fork(1, "a").next());
        assert_ne!(Rng::fork(1, "a").next(), Rng::fork(1, "b").next());
    }
}
