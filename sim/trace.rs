//! The trace of a run: a 128-bit hash over everything that happened, in order (SIMULATION §2 "Determinism").
//!
//! Every input of every node and every output rolls in: time, who, what, bytes. Each 1,024 events a checkpoint is kept, so
//! that two traces that differ are narrowed to the first differing window; `log` then holds that window in words. The hash
//! is our own two-lane multiply-rotate: the same on every machine, in every build. Not for secrets.

/// Events between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 1024;

/// A rolling trace.
#[derive(Clone, Debug)]
pub struct Trace {
    lanes: [u64; 2],
    events: u64,
    checkpoints: Vec<u128>,
    /// Events to keep in words.
    window: std::ops::Range<u64>,
    log: Vec<String>,
}

impl Trace {
    /// An empty trace that keeps the events numbered `window` in words; an empty window keeps none.
    pub fn new(window: std::ops::Range<u64>) -> Self {
        Self {
            lanes: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            events: 0,
            checkpoints: Vec::new(),
            window,
            log: Vec::new(),
        }
    }

    /// One number more.
    #[inline]
    pub fn add(&mut self, word: u64) {
        let [a, b] = self.lanes;
        let a = (a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.lanes = [a, (b.wrapping_add(word) ^ a).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(31)];
    }

    /// Bytes, with their length.
    #[inline]
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.add(u64::from_le_bytes(last));
        self.add(bytes.len() as u64);
    }

    /// An event ends; `words` says what it was, if it is to be kept.
    #[inline]
    pub fn event(&mut self, words: impl FnOnce() -> String) {
        if self.window.contains(&self.events) {
            self.log.push(format!("#{} {}", self.events, words()));
        }
        self.events += 1;
        if self.events.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpoints.push(self.hash());
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u128 {
        u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1])
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The checkpoints, one each `CHECKPOINT_EVERY` events.
    pub fn checkpoints(&self) -> &[u128] {
        &self.checkpoints
    }

    /// The events kept in words.
    pub fn log(&self) -> &[String] {
        &self.log
    }
}

/// The window of events in which two runs first differ; `None`: they are equal.
pub fn first_difference(a: (&[u128], u128), b: (&[u128], u128)) -> Option<std::ops::Range<u64>> {
    let same = a.0.iter().zip(b.0).take_while(|(a, b)| a == b).count() as u64;
    let equal = a.0.len() == b.0.len() && same == a.0.len() as u64 && a.1 == b.1;
    (!equal).then(|| same * CHECKPOINT_EVERY..(same + 1) * CHECKPOINT_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_content_and_length_all_change_the_hash() {
        let hash = |parts: &[&[u8]]| {
            let mut trace = Trace::new(0..0);
            for part in parts {
                trace.add_bytes(part);
            }
            trace.hash()
        };
        let all = [hash(&[b"a", b"b"]), hash(&[b"b", b"a"]), hash(&[b"ab"]), hash(&[b"a\0", b"b"]), hash(&[])];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn a_difference_is_narrowed_to_its_window() {
        assert_eq!(first_difference((&[1, 2], 9), (&[1, 2], 9)), None);
        assert_eq!(first_difference((&[1, 2], 9), (&[1, 3], 9)), Some(1024..2048));
        assert_eq!(first_difference((&[1, 2], 9), (&[1, 2], 8)), Some(2048..3072));
        assert_eq!(first_difference((&[1], 9), (&[1, 2], 9)), Some(1024..2048));
    }

    #[test]
    fn a_window_keeps_its_events_in_words() {
        let mut trace = Trace::new(1..2);
        for event in 0..3 {
            trace.event(|| format!("e{event}"));
        }
        assert_eq!((trace.log(), trace.events()), (&["#1 e1".to_owned()][..], 3));
    }
}
