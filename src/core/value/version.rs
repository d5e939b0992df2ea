//! Versions: hybrid logical clock readings (Kulkarni et al., "Logical Physical Clocks", 2014) with the stamping
//! process, in one total order (PROTOCOL §1).

use crate::{id::ActorId, time::Wall};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A hybrid logical clock reading: 48 bits of wall milliseconds, 16 bits of logical counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first reading of a millisecond. Milliseconds beyond 48 bits (the year 10889) are cut to the largest.
    pub fn at(wall: Wall) -> Self {
        Self(wall.0.min((1 << 48) - 1) << 16)
    }

    /// The wall part, in milliseconds.
    pub fn wall(self) -> Wall {
        Wall(self.0 >> 16)
    }

    /// The smallest reading above this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Names one write: when, and by which process. Total order; equal versions are the same write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// When, by the coordinator's clock.
    pub hlc: Hlc,
    /// By which process: breaks ties of equal readings.
    pub actor: ActorId,
}

impl Version {
    /// Below every stamped version: what a replica says that holds and remembers nothing.
    pub const ZERO: Self = Self { hlc: Hlc(0), actor: ActorId(0) };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.hlc.0, self.actor.0)
    }
}
