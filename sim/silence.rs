//! The long silence with which a small share of seeds ends: long enough for tombstones to be collected (L3).
//!
//! Nobody asks anything for `Config::silence_ms`. Before it, what all owners hold as deleted is noted; after it, their memories
//! are judged by `checkers::garbage`, they must agree (L1), and every key is read once more, so that the checkers of histories
//! say whether a client sees anything come back. Judged where PROTOCOL §6 promises it: all owners of a tree live and Ready, one
//! layout, clocks right. What it is not: a phase for faults; whatever was broken is mended or dead by then.

use crate::{
    checkers::{Invariant, Verdict, convergence::Copy, garbage},
    clock::MS,
    cluster::Cluster,
    keyed::{Purpose, Stream},
    options::Config,
    plan::Mix,
};
use meshwork_core::{id::PartitionId, limits::TOMBSTONE_AGE_MIN, wire::peer::ReplicaState};

/// Larger meshes are spared: what an idle minute costs grows with the links.
const NODES_MAX: u16 = 7;

/// How long the silence of `seed` is, ms, mostly 0: from a stream of its own, which moves no other draw.
pub(crate) fn draw(seed: u64, config: &Config) -> u64 {
    let stream = &mut Stream::new(seed, Purpose::Silence, 0);
    let chosen = stream.chance(if config.mix == Some(Mix::F4) { 100 } else { 30 });
    let enough = (TOMBSTONE_AGE_MIN + garbage::MARGIN).as_millis() as u64;
    let silence_ms = enough + stream.between(5_000, 60_000);
    let clocks_hold = Config { silence_ms, ..config.clone() }.clocks_within();
    if chosen && config.nodes <= NODES_MAX && clocks_hold { silence_ms } else { 0 }
}

impl Cluster<'_> {
    /// Lets the time go by, and judges what it leaves.
    pub(crate) fn silence(&mut self) {
        let lasts = self.plan.config.silence_ms * MS;
        if lasts == 0 {
            return;
        }
        self.phase("silence");
        let deleted = garbage::deleted(&self.settled_trees());
        self.run_until(self.at + lasts);
        if self.broken() {
            return;
        }
        match garbage::judge(&deleted, self.at, &self.settled_trees()) {
            Verdict::Valid => self.sight.probe("tombstones were gone after a silence"),
            Verdict::Unknown(_) => {}
            Verdict::Invalid(finding) => return self.sight.findings.push(finding),
        }
        if let Some(what) = self.difference_that_lasts().filter(|_| !self.broken()) {
            return self.blame_run(Invariant::L1, what);
        }
        self.read_everything();
    }

    /// Trees of which all owners are live, Ready and under one layout: what those hold.
    fn settled_trees(&self) -> Vec<Vec<Copy>> {
        let Some(live) = self.comparable() else { return Vec::new() };
        let view = |process: &u32| &self.processes[*process as usize].view;
        let Some(ring) = live.first().and_then(|first| view(first).ring.clone()) else { return Vec::new() };
        if live.iter().any(|process| view(process).beside.is_some()) {
            return Vec::new();
        }
        let mut trees = Vec::new();
        for partition in (0..ring.partitions()).map(PartitionId) {
            for copies in 1..=ring.n() {
                let ready = |process: &&u32| {
                    self.processes[**process as usize].copy_state((copies, partition)) == ReplicaState::Ready
                };
                let ready: Vec<u32> = live.iter().filter(ready).copied().collect();
                let held = self.copies_of(&ring, &ready, (copies, partition));
                if held.len() == usize::from(copies).min(ring.owners(partition).len()) {
                    trees.push(held);
                }
            }
        }
        trees
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Plan;

    #[test]
    fn a_few_seeds_end_in_a_silence_and_their_clocks_hold() {
        let plans: Vec<Plan> = (0..400).map(|seed| Plan::of_seed(seed, None)).collect();
        let silent: Vec<&Plan> = plans.iter().filter(|plan| plan.config.silence_ms > 0).collect();
        assert!((3..30).contains(&silent.len()), "{} of 400", silent.len());
        assert!(silent.iter().all(|plan| plan.config.clocks_within()));
    }
}
