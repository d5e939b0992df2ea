//! under construction
#![forbid(unsafe_code)]

pub mod id;
pub mod ring;
pub mod rng;
pub mod time;
pub mod value;
