//! The checkers: one small file a promise (SIMULATION §3, §5).
//!
//! Two kinds. Those that judge any history, of the simulator or of real processes: `quorum`, `durability`, `expiry`,
//! `deadline`, `resurrection`, `writable`, `overload`, `worth`. And those that need sight of the nodes, fed while the run goes on:
//! `sight` (votes, flags, replicas), `flushes`, `bounds`, `hints` and `layout`. None shares code with core beyond its message types; a
//! checker that shares code shares the bug.
//!
//! Verdicts: valid; invalid, with the smallest explanation; unknown, when there was nothing to judge. Not judged yet, since
//! core does not promise it yet: causal kinds, leases.

pub mod bounds;
pub mod convergence;
pub mod deadline;
pub mod durability;
pub mod expiry;
pub mod flushes;
pub mod garbage;
pub mod hints;
pub mod layout;
mod losses;
mod marks;
pub mod overload;
pub mod quorum;
pub mod replicas;
pub mod resurrection;
#[cfg(test)]
pub mod sample;
pub mod sight;
mod standing;
mod votes;
pub mod worth;
pub mod writable;

use crate::history::History;
use std::fmt;

/// What was broken: an invariant of SIMULATION §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named and stated in SIMULATION §3, S25 in `hints`; `words` has the names")]
pub enum Invariant {
    S1,
    S2,
    S3,
    S4,
    S6,
    S7,
    S9,
    S13,
    S14,
    S15,
    S16,
    S18,
    S19,
    S20,
    S21,
    S22,
    S23,
    S24,
    S25,
    L1,
    L2,
    L3,
    L4,
    L5,
    L6,
    L7,
    L8,
    Panic,
}

impl Invariant {
    /// Its id and name.
    pub fn words(self) -> &'static str {
        match self {
            Self::S1 => "S1 quorum-visible",
            Self::S2 => "S2 last-write-kept",
            Self::S3 => "S3 no-phantom",
            Self::S4 => "S4 ack-survives",
            Self::S6 => "S6 acks-honest",
            Self::S7 => "S7 warming-silent",
            Self::S9 => "S9 dot-once",
            Self::S13 => "S13 clock-bounded",
            Self::S14 => "S14 no-resurrection",
            Self::S15 => "S15 floors-hold",
            Self::S16 => "S16 flush-final",
            Self::S18 => "S18 expiry-honest",
            Self::S19 => "S19 quorums-overlap",
            Self::S20 => "S20 layout-pure",
            Self::S21 => "S21 range-kept",
            Self::S22 => "S22 removed-stays-out",
            Self::S23 => "S23 bounded",
            Self::S24 => "S24 wire-robust",
            Self::S25 => "S25 hint-kept",
            Self::L1 => "L1 converges",
            Self::L2 => "L2 quiesces",
            Self::L3 => "L3 garbage-goes",
            Self::L4 => "L4 layout-completes",
            Self::L5 => "L5 deadline",
            Self::L6 => "L6 membership-heals",
            Self::L7 => "L7 overload-recovers",
            Self::L8 => "L8 writable",
            Self::Panic => "panic",
        }
    }

    /// Exit code of a run that broke it: crash, safety or liveness (SIMULATION §7).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Panic => 10,
            Self::L1 | Self::L2 | Self::L3 | Self::L4 | Self::L5 | Self::L6 | Self::L7 | Self::L8 => 12,
            Self::S1
            | Self::S2
            | Self::S3
            | Self::S4
            | Self::S6
            | Self::S7
            | Self::S9
            | Self::S13
            | Self::S14
            | Self::S15
            | Self::S16
            | Self::S18
            | Self::S19
            | Self::S20
            | Self::S21
            | Self::S22
            | Self::S23
            | Self::S24
            | Self::S25 => 11,
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub invariant: Invariant,
    /// When it showed, microseconds.
    pub t: u64,
    /// The smallest explanation.
    pub what: String,
    /// The operations in it.
    pub ops: Vec<u64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, ms) = (self.t / 1_000_000, self.t / 1_000 % 1_000);
        write!(f, "{} at {:02}:{:02}.{ms:03}: {}", self.invariant, s / 60, s % 60, self.what)
    }
}

/// A verdict on a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing broke, and something was judged.
    Valid,
    /// Something broke.
    Invalid(Finding),
    /// There was nothing to judge: what was missing.
    Unknown(&'static str),
}

/// A checker of histories.
pub type Checker = fn(&History) -> Verdict;

/// All checkers that judge any history, by the file they live in.
pub const CHECKERS: [(&str, Checker); 10] = [
    ("quorum", quorum::check),
    ("durability", durability::check),
    ("last-writer", durability::check_last_writer),
    ("survival", durability::check_survival),
    ("expiry", expiry::check),
    ("deadline", deadline::check),
    ("resurrection", resurrection::check),
    ("writable", writable::check),
    ("overload", overload::check),
    ("worth", worth::check),
];
