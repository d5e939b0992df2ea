//! Keeping data where it belongs when its owner cannot take it (PROTOCOL §6).
//!
//! `hint` is hinted handoff: a write kept for an unreachable owner. Range transfer, which streams a partition to a new
//! owner after a layout change, is the other handoff and shares nothing with it but the name: `ownership` decides, `moving`
//! sends and takes in.

pub mod hint;
mod moving;
mod ownership;

pub(crate) use moving::Part;
pub(crate) use ownership::Ownership;

pub use hint::{HintRefused, HintStore};
