//! The parts of the control plane; `node` owns them and routes (ARCHITECTURE §2, "Two planes").
//!
//! Each part decides one thing and performs nothing: it is told what happened and says what is due.
//!
//! - `replicated`: roles, layouts and namespaces as one state that joins, and its digest
//! - `spread`: who is owed that state, and when
//! - `succession`: which roles make the next layout; the first layout; taking a dead member's place
//! - `clock_watch`: offsets to the peers, confirmation of the wall, the clock bound on disk
//! - `disk`: what is stored, and whether what was restored may be used
//! - `standing`: whether this node's copies vote
//! - `seeds`: whom to dial while nobody answers
//! - `plan`: where a change of layouts stands, and what the next one would move
//! - `status`: answers for people and clients

pub mod clock_watch;
pub mod disk;
pub mod plan;
pub mod replicated;
pub mod seeds;
pub mod spread;
pub mod standing;
pub mod status;
pub mod succession;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod given_up_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transition_tests;
