//! How the mesh grows, answered without hardware (SIMULATION §9): the membership of core in virtual time at 10 to 5,000
//! nodes, and the balance of its ring.
//!
//! `mesh` runs n real `Membership`s over a network with delay and loss; `swim` joins, crashes and waits in it; `plane` does so
//! with whole `Node`s, as far as their cost allows; `balance` asks core's ring; `report` is what was found, as a table and as
//! JSON; `plots` and `chart` draw it.
//! Invariants: a report is a function of sizes, seed and loss alone; nothing is extrapolated: what was not measured is absent
//! and says why.
//! What it is not: no data plane, so no breakers of shards, and no time to compute.

pub mod balance;
mod chart;
mod mesh;
pub mod plane;
pub mod plots;
pub mod report;
pub mod swim;
#[cfg(test)]
mod tests;

pub use report::Report;

/// Fewest nodes: one has nobody to tell.
const SIZE_MIN: usize = 2;
/// Most nodes: tables of n members at n nodes need n² room.
const SIZE_MAX: usize = 10_000;
/// Most whole nodes: founding a mesh of n costs about n³, since n acknowledgements each travel in a state of n roles.
const PLANE_MAX: usize = 200;
/// Bytes that one node keeps of another, as measured (6.4 GiB at 5,000): SWIM's table, the map of who is up, the allocator's slack.
const MEMBER_BYTES: u64 = 280;

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sizes of meshes, rising.
    pub sizes: Vec<usize>,
    /// Every draw comes from here.
    pub seed: u64,
    /// Datagrams lost, per million.
    pub loss_ppm: u32,
    /// How much is tried at each size.
    pub effort: swim::Effort,
}

impl Settings {
    /// Checks `sizes` and sorts them. The error says what to do instead.
    pub fn new(mut sizes: Vec<usize>, seed: u64, loss_ppm: u32, effort: swim::Effort) -> Result<Self, String> {
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            return Err("no sizes: give some, as in --sizes 10,100".to_owned());
        }
        if let Some(size) = sizes.iter().find(|size| !(SIZE_MIN..=SIZE_MAX).contains(*size)) {
            return Err(format!("a mesh of {size} cannot be measured: sizes are from {SIZE_MIN} to {SIZE_MAX}"));
        }
        if loss_ppm >= 500_000 {
            return Err("with half of all datagrams lost nothing settles: give a --loss below 50".to_owned());
        }
        Ok(Self { sizes, seed, loss_ppm, effort })
    }

    /// Bytes of memory that the largest size takes, about.
    pub fn memory(&self) -> u64 {
        let largest = self.sizes.last().copied().unwrap_or(0) as u64;
        largest * largest * MEMBER_BYTES
    }
}

/// Measures all sizes, smallest first. `progress` gets a line now and then.
pub fn run(settings: &Settings, progress: &mut dyn FnMut(&str)) -> Report {
    let mut report = Report::new(settings);
    for &size in &settings.sizes {
        report.balance.extend(balance::measure(size, settings, progress));
    }
    for &size in settings.sizes.iter().filter(|size| **size <= PLANE_MAX) {
        report.plane.push(plane::measure(size, settings, progress));
    }
    for &size in &settings.sizes {
        report.swim.push(swim::measure(size, settings, progress));
    }
    report
}
