//! Anti-entropy.
pub(crate) mod merkle;
