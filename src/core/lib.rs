//! under construction
#![forbid(unsafe_code)]

pub mod id;
pub mod rng;
pub mod storage;
pub mod time;
pub mod value;
