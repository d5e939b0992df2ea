//! What a load generator does next: which operation, on which key, with which bytes and time to live.
//!
//! Everything a draw needs is prepared before the clock starts; a draw allocates nothing. A key is its number in
//! hexadecimal behind padding, written into the slot's own buffer: cheaper than a table of keys, which would miss the
//! cache once a draw. Values are slices of one incompressible block.

use super::zipf::{Zipf, unit};
use meshwork_core::rng::Rng;
use std::time::Duration;

/// An operation of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Reads.
    Get,
    /// Writes.
    Set,
    /// Writes if there is nothing.
    Add,
    /// Reads, and writes if that is still there.
    Cas,
    /// Deletes.
    Delete,
    /// Reads and writes.
    Increment,
}

const OPS: [Op; 6] = [Op::Get, Op::Set, Op::Add, Op::Cas, Op::Delete, Op::Increment];

/// Shares of operations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    /// Upper ends of each operation's part of [0, 1), rising; the last is 1.
    ends: Vec<(f64, Op)>,
}

impl Mix {
    /// A mix in these proportions; they need not sum to one. None at all: only reads.
    pub(crate) fn new(shares: &[(Op, f64)]) -> Self {
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut end = 0.0;
        let mut ends = Vec::new();
        for op in OPS {
            let share: f64 = shares.iter().filter(|(other, _)| *other == op).map(|(_, share)| share).sum();
            if share > 0.0 {
                end += share / sum;
                ends.push((end, op));
            }
        }
        match ends.last_mut() {
            // Rounding must not leave a gap at the end.
            Some((end, _)) => *end = 1.0,
            None => ends.push((1.0, Op::Get)),
        }
        Self { ends }
    }

    /// Reads, and `percent` writes among them.
    pub(crate) fn of_writes(percent: f64) -> Self {
        Self::new(&[(Op::Get, 100.0 - percent), (Op::Set, percent)])
    }

    /// The next operation.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Op {
        if let [(_, only)] = self.ends[..] {
            return only;
        }
        let at = unit(rng);
        self.ends.iter().find(|(end, _)| at < *end).expect("the last end is 1").1
    }

    /// The part of `op`.
    pub(crate) fn share(&self, op: Op) -> f64 {
        let mut begin = 0.0;
        for (end, other) in &self.ends {
            if *other == op {
                return end - begin;
            }
            begin = *end;
        }
        0.0
    }
}

/// Times to live with their shares.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ttls {
    ends: Vec<(f64, Duration)>,
}

impl Ttls {
    /// These, in these proportions; none: the namespace's default.
    pub(crate) fn new(shares: &[(Duration, f64)]) -> Self {
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut end = 0.0;
        let mut ends: Vec<_> = shares
            .iter()
            .map(|(ttl, share)| {
                end += share / sum;
                (end, *ttl)
            })
            .collect();
        if let Some((end, _)) = ends.last_mut() {
            *end = 1.0;
        }
        Self { ends }
    }

    /// The next one.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<Duration> {
        match self.ends[..] {
            [] => None,
            [(_, only)] => Some(only),
            _ => {
                let at = unit(rng);
                self.ends.iter().find(|(end, _)| at < *end).map(|(_, ttl)| *ttl)
            }
        }
    }

    /// The longest of them.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.ends.iter().map(|(_, ttl)| *ttl).max()
    }

    /// The shortest of them.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        self.ends.iter().map(|(_, ttl)| *ttl).min()
    }
}

/// Shortest key that can number `keys` keys, bytes.
pub(crate) fn key_bytes_min(keys: u64) -> usize {
    let digits = (u64::BITS - keys.saturating_sub(1).leading_zeros()).div_ceil(4).max(1);
    usize::try_from(digits).expect("at most 16")
}

/// A key that is written anew for each draw.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    bytes: Vec<u8>,
    digits: usize,
}

impl Key {
    /// A buffer for keys of `length` bytes that number `keys` keys; `length` is at least `key_bytes_min(keys)`.
    pub(crate) fn new(length: usize, keys: u64) -> Self {
        let digits = key_bytes_min(keys);
        assert!(length >= digits, "the command line admits no shorter key");
        Self { bytes: vec![b'k'; length], digits }
    }

    /// The key of this number.
    pub(crate) fn number(&mut self, number: u64) -> &[u8] {
        let length = self.bytes.len();
        let mut rest = number;
        for place in self.bytes[length - self.digits..].iter_mut().rev() {
            *place = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        &self.bytes
    }
}

/// Values: slices of one random block, so that neither compression nor a cache line gives a false picture.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    block: Vec<u8>,
    length: usize,
}

/// How many different beginnings a value has within the block.
const BEGINNINGS: usize = 64;
/// Bytes at the head of a stamped value: key number and sequence.
pub(crate) const STAMP_BYTES: usize = 16;

impl Values {
    /// Values of `length` bytes.
    pub(crate) fn new(length: usize, rng: &mut Rng) -> Self {
        let block = (0..(length + BEGINNINGS).div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).collect();
        Self { block, length }
    }

    /// The next value.
    pub(crate) fn draw(&self, rng: &mut Rng) -> &[u8] {
        let at = (rng.next() % BEGINNINGS as u64) as usize;
        &self.block[at..at + self.length]
    }

    /// A value that names its key and sequence; `length` is at least `STAMP_BYTES`.
    pub(crate) fn stamped(&self, into: &mut Vec<u8>, key: u64, sequence: u32) {
        into.clear();
        into.extend_from_slice(&self.block[..self.length]);
        into[..8].copy_from_slice(&key.to_be_bytes());
        into[8..STAMP_BYTES].copy_from_slice(&u64::from(sequence).to_be_bytes());
    }
}

/// Key and sequence of a stamped value; `None`: it was never stamped.
pub(crate) fn stamp(value: &[u8]) -> Option<(u64, u64)> {
    let head: &[u8; STAMP_BYTES] = value.first_chunk()?;
    let (key, sequence) = head.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some((number(key), number(sequence)))
}

/// One slot's source of work.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    rng: Rng,
    mix: Mix,
    zipf: Zipf,
    ttls: Ttls,
}

impl Draws {
    /// A source with its own seed.
    pub(crate) fn new(rng: Rng, mix: Mix, zipf: Zipf, ttls: Ttls) -> Self {
        Self { rng, mix, zipf, ttls }
    }

    /// The next operation and key number.
    pub(crate) fn next(&mut self) -> (Op, u64) {
        (self.mix.draw(&mut self.rng), self.zipf.draw(&mut self.rng))
    }

    /// The next time to live.
    pub(crate) fn ttl(&mut self) -> Option<Duration> {
        self.ttls.draw(&mut self.rng)
    }

    /// The next value.
    pub(crate) fn value<'v>(&mut self, values: &'v Values) -> &'v [u8] {
        values.draw(&mut self.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_drawn_in_its_proportions() {
        let mix = Mix::new(&[(Op::Get, 0.5), (Op::Delete, 0.25), (Op::Get, 0.25)]);
        let mut rng = Rng::new(1);
        let deletes = (0..100_000).filter(|_| mix.draw(&mut rng) == Op::Delete).count();
        assert!((24_000..26_000).contains(&deletes), "{deletes}");
        assert!((mix.share(Op::Get) - 0.75).abs() < 1e-9);
        assert_eq!(mix.share(Op::Set), 0.0);
    }

    #[test]
    fn the_ends_of_the_percentage_are_pure() {
        let mut rng = Rng::new(1);
        let (none, all) = (Mix::of_writes(0.0), Mix::of_writes(100.0));
        assert!((0..1000).all(|_| none.draw(&mut rng) == Op::Get && all.draw(&mut rng) == Op::Set));
    }

    #[test]
    fn keys_are_distinct_and_all_of_one_length() {
        assert_eq!([1, 2, 16, 17, 256, 257].map(key_bytes_min), [1, 1, 1, 2, 2, 3]);
        let mut key = Key::new(5, 300);
        let keys: std::collections::BTreeSet<Vec<u8>> = (0..300).map(|n| key.number(n).to_vec()).collect();
        assert_eq!(keys.len(), 300);
        assert!(keys.iter().all(|key| key.len() == 5));
        assert_eq!(key.number(299), b"kk12b");
    }

    #[test]
    fn a_stamped_value_names_its_key_and_sequence() {
        let values = Values::new(20, &mut Rng::new(1));
        let mut value = Vec::new();
        values.stamped(&mut value, 77, 5);
        assert_eq!((value.len(), stamp(&value)), (20, Some((77, 5))));
        assert_eq!(stamp(b"short"), None);
    }

    #[test]
    fn times_to_live_come_with_their_shares() {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        let ttls = Ttls::new(&[(minute, 0.9), (day, 0.1)]);
        let mut rng = Rng::new(3);
        let days = (0..10_000).filter(|_| ttls.draw(&mut rng) == Some(day)).count();
        assert!((800..1200).contains(&days), "{days}");
        assert_eq!(Ttls::new(&[]).draw(&mut rng), None);
        assert_eq!((ttls.shortest(), ttls.longest()), (Some(minute), Some(day)));
    }
}
