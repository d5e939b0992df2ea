//! Keeping data where it belongs when its owner cannot take it (PROTOCOL §6).
//!
//! `hint` is hinted handoff's store: writes kept for unreachable owners. `replay` decides when they are sent and how many
//! at once, `hinted` sends them, hears the answers and finds new targets after a layout change. Range transfer, which
//! streams a partition to a new owner, is the other handoff and shares nothing with it but the name: `ownership` decides,
//! `moving` sends and takes in, `leaving` forgets what was given away.

pub mod hint;
mod hinted;
mod leaving;
mod moving;
mod ownership;
mod replay;
mod transfer;

pub(crate) use leaving::Leaving;
pub(crate) use moving::Part;
pub(crate) use ownership::Ownership;

pub(crate) use hint::is_dead;
pub use hint::{HintRefused, HintStore};
pub(crate) use hinted::Hinted;
pub(crate) use replay::Replay;
