//! The protocol of meshwork, sans-IO: no socket, clock, thread, file or async in it (ARCHITECTURE §2).
//!
//! # The contract
//!
//! Two state machines, each driven alike. [`node::Node`], one a process, is the control plane: membership, roles,
//! layouts, namespaces. [`shard::Shard`], one a core, is the data plane: a fixed subset of the partitions, their
//! entries, their requests in flight. A driver runs each like this:
//!
//! ```text
//! loop {
//!     wait for an input, or until poll_timeout()
//!     let now = both clocks, read once a batch
//!     handle(now, input, &mut outbox)          // one input in; effects come out through the outbox
//!     handle_timeout(now, &mut outbox)         // whatever is due
//!     flush every link the outbox touched, once
//! }
//! ```
//!
//! Nothing else mutates. `Now.mono` decides timeouts, `Now.wall` expiry and versions. Randomness comes from the one seed
//! in the configuration. The same inputs at the same times give the same outputs, in any process: that is what the rig
//! in `testing` and the simulator rely on, and why `clippy.toml` bans clocks, threads and randomly ordered maps.
//!
//! # Where to start
//!
//! - a request's way: [`shard`] → `coordinator` → [`storage`] and `replica`
//! - who owns a key: [`ring`]; who is alive: [`membership`]; what both planes share: [`view`]
//! - what travels: [`wire`]; what is bounded: [`limits`]; what merges: [`value`]
//!
//! # Panics
//!
//! From outside nothing panics: peers, clients and configuration get typed errors. A broken invariant of our own does,
//! in release too; the driver then stops the node, since the mesh repairs a crash and nothing repairs half a node.
#![forbid(unsafe_code)]

pub mod anti_entropy;
pub mod canary;
pub mod clock;
pub mod config;
pub mod control;
mod coordinator;
pub mod durable;
pub mod handoff;
pub mod id;
pub mod input;
pub mod limits;
pub mod membership;
pub mod namespace;
pub mod node;
pub mod outbox;
mod replica;
pub mod ring;
pub mod rng;
pub mod shard;
pub mod stats;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod timers;
pub mod value;
pub mod view;
pub mod wire;
