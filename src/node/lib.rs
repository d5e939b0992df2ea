//! A meshwork node: core's two planes on tokio and QUIC, in a process of its own or inside another (ARCHITECTURE §3, §4).
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use meshwork_node::{Config, Node};
//! let config = Config::load(Some("mesh.toml".as_ref()), std::env::vars(), &[])?;
//! let node = Node::start(config).await?;
//! node.ready().await?;
//! // meshwork_client::Mesh::builder().local(node.link()) …
//! node.stop().await?;
//! # Ok(()) }
//! ```
//!
//! # Threads
//!
//! One a shard, each with a current-thread runtime, one UDP endpoint, one `core::shard::Shard` and no lock on its data
//! path; the first also runs `core::node::Node`. One for HTTP, one for the disk where there is one. They meet only in
//! mailboxes and snapshots.
//!
//! # Where to start
//!
//! - what a node is told: `config`; who it is over restarts: `identity`; how it begins and ends: `start`, `shutdown`
//! - a frame's way: `worker` (the thread, its tasks) → `batch` (frames to inputs) → core → `outbox` (effects to frames)
//! - links: `links` (the table), `dial` (making them); the control plane's half: `control`
//! - the disk: `storage` (what is kept, and what is found again)
//! - between threads: `mailbox`, `letter`, `shared`, `lock`; in this process: `local`; for people: `admin`, `telemetry`

mod admin;
mod batch;
mod clock;
pub mod config;
mod control;
mod dial;
mod discovery;
mod handle;
mod identity;
mod lateness;
mod letter;
mod links;
mod local;
mod lock;
mod mailbox;
mod outbox;
mod replace;
mod shared;
mod shutdown;
mod start;
mod storage;
mod telemetry;
#[cfg(test)]
mod tests;
mod worker;

pub use config::{Config, ConfigError, Problem};
pub use handle::{Addresses, NodeHandle, Stopped};
pub use identity::IdentityError;
pub use start::{Node, StartError};
pub use storage::contains_panics;
