//! What clients ask: operations with times, keys, quorums and deadlines, all drawn before the run (SIMULATION §2).
//!
//! Values are not in the plan: a put writes bytes that name its operation, so that every value read says who wrote it.
//! Whom a client asks is drawn by `target`, a number that the run reduces to whoever is there: leaving out a machine
//! changes no other operation. Retries are drawn while running, keyed by the operation.

use crate::{
    keyed::{Purpose, Stream},
    options::Config,
    plan::Mix,
};
use serde::{Deserialize, Serialize};

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Milliseconds after the chaos began.
    pub at_ms: u64,
    /// Who asks.
    pub client: u16,
    /// Which namespace of the plan.
    pub space: u8,
    /// Which key.
    pub key: u32,
    /// What.
    pub act: Act,
    /// Strict or sloppy whatever the namespace says; `None`: as it says.
    pub strict: Option<bool>,
    /// Read votes; `None`: as the namespace says.
    pub r: Option<u8>,
    /// Write votes.
    pub w: Option<u8>,
    /// How long the client waits, ms.
    pub deadline_ms: u32,
    /// Whom it asks.
    pub target: u64,
    /// Whether it knows the ring and asks an owner.
    pub smart: bool,
    /// How often it tries again elsewhere.
    pub retries: u8,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Reads.
    Get,
    /// Writes.
    Put {
        /// Bytes.
        size: u32,
        /// Expiry, ms; 0: the namespace's default.
        ttl_ms: u64,
    },
    /// Writes if there is nothing.
    Add {
        /// Bytes.
        size: u32,
    },
    /// Writes if the version is still the one this client saw last.
    Swap {
        /// Bytes.
        size: u32,
    },
    /// Deletes.
    Delete,
    /// Gives another expiry.
    Touch {
        /// Expiry, ms; 0: never.
        ttl_ms: u64,
    },
}

impl Act {
    /// Its name in histories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put { .. } => "put",
            Self::Add { .. } => "add",
            Self::Swap { .. } => "swap",
            Self::Delete => "delete",
            Self::Touch { .. } => "touch",
        }
    }
}

/// The operations of `seed` for this cluster.
pub(crate) fn draw(seed: u64, config: &Config) -> Vec<Op> {
    let whole = &mut Stream::new(seed, Purpose::Workload, 0);
    let rate = whole.pick(&[2u64, 10, 30, 60]);
    let rate = match config.mix {
        Some(Mix::F14) => 150,
        Some(Mix::F20) => rate.max(30),
        Some(_) | None => rate,
    };
    let count = (rate * config.chaos_ms / 1_000).clamp(20, 6_000);
    // Classes: get, put, add, swap, delete, touch. Off in half of the seeds, but for reads and writes.
    let mut weights = [whole.between(10, 100), whole.between(10, 100), 0, 0, 0, 0];
    for weight in &mut weights[2..] {
        *weight = if whole.chance(500) { whole.between(1, 60) } else { 0 };
    }
    let ttls = whole.chance(400) || matches!(config.mix, Some(Mix::F4 | Mix::F5));
    let large = whole.pick(&[64u64, 64, 1_000, 20_000]).min(config.memory / 64);
    // Memory is short only where more is written than fits.
    let large = match config.mix {
        Some(Mix::F8) => config.memory / 128,
        Some(Mix::F20) => config.memory / 64,
        Some(_) | None => large,
    };
    let hot = whole.below(800);
    let tight = whole.chance(300);
    let burst = whole.chance(300).then(|| (whole.below(config.chaos_ms), whole.between(500, 5_000)));
    let strict = whole.pick(&[None, None, Some(true), Some(false)]);
    let own_quorums = whole.chance(250);
    let total: u64 = weights.iter().sum();
    let mut ops: Vec<Op> = (1..=count)
        .map(|nth| {
            let stream = &mut Stream::new(seed, Purpose::Workload, nth);
            let space = stream.below(config.spaces.len() as u64) as u8;
            let n = config.spaces[usize::from(space)].n;
            let mut at = stream.below(total);
            let class = weights.iter().position(|weight| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            });
            let size = 12 + stream.below(large) as u32;
            let ttl_ms = if ttls && stream.chance(500) { stream.pick(&[200u64, 1_000, 5_000, 30_000]) } else { 0 };
            let act = match class.expect("the draw is below the sum") {
                0 => Act::Get,
                1 => Act::Put { size, ttl_ms },
                2 => Act::Add { size },
                3 => Act::Swap { size },
                4 => Act::Delete,
                _ => Act::Touch { ttl_ms },
            };
            let at_ms = match burst {
                Some((from, length)) if stream.chance(400) => (from + stream.below(length)).min(config.chaos_ms),
                Some(_) | None => stream.below(config.chaos_ms),
            };
            let quorum = |stream: &mut Stream| {
                (own_quorums && stream.chance(300)).then(|| stream.between(1, u64::from(n)) as u8)
            };
            Op {
                at_ms,
                client: stream.below(u64::from(config.clients)) as u16,
                space,
                key: if stream.chance(hot) { 0 } else { stream.below(u64::from(config.keys)) as u32 },
                act,
                strict: if stream.chance(200) { strict } else { None },
                r: quorum(stream),
                w: quorum(stream),
                deadline_ms: if tight {
                    stream.pick(&[1u32, 5, 20, 60, 100, 200])
                } else {
                    stream.pick(&[400u32, 1_000, 1_000, 5_000])
                },
                target: stream.bits(),
                smart: stream.chance(500),
                retries: stream.below(4) as u8,
            }
        })
        .collect();
    ops.sort_by_key(|op| op.at_ms);
    ops
}

/// The bytes that operation `op` writes: its number, and filler that follows from it.
pub fn value_of(op: u64, size: u32) -> Vec<u8> {
    let mut value = format!("w{op}.").into_bytes();
    let mut filler = op.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while value.len() < size as usize {
        filler = filler.rotate_left(7).wrapping_add(op);
        value.push(filler as u8);
    }
    value
}

/// The operation that wrote these bytes, if they are whole.
pub fn writer_of(value: &[u8]) -> Option<u64> {
    let dot = value.iter().position(|byte| *byte == b'.')?;
    let op = std::str::from_utf8(value.get(1..dot)?).ok()?.parse().ok()?;
    (value_of(op, value.len() as u32) == value).then_some(op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_writer_and_a_damaged_one_nobody() {
        for (op, size) in [(0, 12), (7, 300), (123_456, 12)] {
            let mut value = value_of(op, size);
            assert_eq!(writer_of(&value), Some(op));
            *value.last_mut().unwrap() ^= 1;
            assert_eq!(writer_of(&value), None);
        }
        assert_eq!(writer_of(b""), None);
    }
}
