//! The simulator: whole clusters of the very core that ships, in virtual time, broken in every way that can be drawn, and
//! judged (SIMULATION.md of the design; `README.md` here says what is covered).
//!
//! Three rules: the code under test is the code we ship; a run is a function of its plan alone; a green run in which nothing
//! happened is not green.
//!
//! # Map
//!
//! - before a run: `plan` (all of it, as data), made of `options` (the cluster), `nemesis` (faults), `workload` (operations),
//!   `latecomer` (a stand-in that is away for minutes); `keyed` is where every draw comes from
//! - the run: `cluster` (the loop), `queue`, `process` (the real `Node` and `Shard`s), `network` and `links`, `clock`,
//!   `injury` (faults carried out), `clients`, `phases` (boot to quiet), `finale` (thaw, writes, burst),
//!   `silence` (until tombstones are collected)
//! - after it: `history` (JSONL), `checkers`, `trace` (one hash over all of it), `timeline`, `shrink`, `canaries`
//! - many runs: `runner`, `probes` (what they must have met)
//! - growth: `scale` (the membership and the ring of core at up to 5,000 nodes)
//!
//! Start at [`phases::run`]. `history` and `checkers` are also for histories of real processes.
#![forbid(unsafe_code)]

pub mod canaries;
pub mod checkers;
mod clients;
pub mod clock;
mod cluster;
pub mod disk;
mod finale;
pub mod history;
mod injury;
pub mod keyed;
mod latecomer;
mod links;
mod memories;
pub mod nemesis;
pub mod network;
mod news;
pub mod options;
pub mod page;
pub mod phases;
pub mod plan;
pub mod probes;
pub mod process;
mod queue;
pub mod runner;
pub mod scale;
pub mod shrink;
mod silence;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod trace;
mod warming;
pub mod workload;

/// The commit this was built from, where the build knew it.
pub fn commit() -> &'static str {
    option_env!("MESHWORK_COMMIT").unwrap_or("unknown")
}
