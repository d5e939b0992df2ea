//! Rigs that drive core in virtual time, for its own tests and for the simulator (SIMULATION §8, §11).
//!
//! - `rig`: a few shards, messages on their way, cuts, clocks, and the loop that jumps from one event to the next.
//! - `call`: what clients ask and what they are told.
//! - `control_rig`: the same for the control plane.
//! - `faults`: what a test does to them.
//! - `disk`: what a process finds again; `durability` (tests): what is promised about it.
//! - `handoff` (tests): hints and read repair; `flushes` (tests): namespaces that are emptied.
//! - `schedules`, `promises`, `breakers`, `transitions`, `shrinking` and `soak` (tests): the schedules that broke earlier rules, by name; and random
//!   ones, many.
//!
//! Nothing here is part of a node. It is behind the feature `testing`, which only tests turn on.

#[cfg(test)]
mod breakers;
mod call;
pub mod control_rig;
pub mod disk;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod entropy;
mod faults;
#[cfg(test)]
mod flushes;
#[cfg(test)]
mod forgotten;
#[cfg(test)]
mod handoff;
#[cfg(test)]
mod hits;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod regained;
mod rig;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod shrinking;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod transitions;

pub use call::{Answer, Call, Ticket};
pub use rig::{Fate, Rig, RigConfig};
