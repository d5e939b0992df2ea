//! Values that merge (PROTOCOL §3). Everything replicated is a join: commutative, associative, idempotent.
//!
//! `version` orders writes; `register` is the last-writer-wins kind, the only one so far. Other kinds move in beside it.

pub mod register;
pub mod version;

pub use register::{Body, Entry, OwnedEntry};
pub use version::{Hlc, Version};
