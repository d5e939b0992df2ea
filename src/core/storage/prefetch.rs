//! Fetching the memory of a batch before its first request is handled.
//!
//! A look-up reads a line of the index and then three or four of a record, and where those are in no cache each wait is some
//! 0.1 µs. What it promises: nothing changes and nothing is answered by it; the waits of a batch overlap instead of adding up. It is
//! two loops without a branch that waits for a record, so short that the processor is in many rounds at once, and needs no
//! instruction that Rust calls unsafe. What it is worth: `tests/bench/memtable.rs` (get, and get in batches), T7.

use super::memtable::Memtable;
use crate::id::KeyHash;

/// Look-ups of one turn.
const TURN: usize = 64;
/// Where a record's lines begin, as far as they are fetched: what follows the processor fetches by itself.
const LINES: [usize; 4] = [0, 64, 128, 192];

impl Memtable {
    /// Reads the cache lines that calls for these hashes will need: of each record the first 256 bytes. The number means
    /// nothing; give it to [`std::hint::black_box`], or the compiler drops the reads.
    #[inline]
    pub fn warm(&self, hashes: impl IntoIterator<Item = KeyHash>) -> u64 {
        let (mut hashes, mut seen) = (hashes.into_iter(), 0);
        loop {
            let (mut handles, mut asked, mut known) = ([0; TURN], 0, 0);
            for hash in hashes.by_ref().take(TURN) {
                // The first whose tag fits is the record itself but for one time in twenty.
                if let Some(handle) = self.index.find(self.placement.local(hash.0), hash.0, |_| true) {
                    handles[known] = handle;
                    known += 1;
                }
                asked += 1;
            }
            for handle in &handles[..known] {
                let record = self.log.record(*handle);
                seen ^= LINES.iter().fold(0, |seen, at| seen ^ u64::from(record.get(*at).copied().unwrap_or_default()));
            }
            if asked < TURN {
                return seen;
            }
        }
    }
}
