//! What the memories of live processes hold, looked at together: do owners agree (L1), is what was flushed gone (S16)?

use crate::{
    checkers::{
        convergence::{self, Copy},
        flushes::covers,
    },
    clock::{MS, Time},
    cluster::Cluster,
    nemesis::Ledger,
};
use meshwork_core::{anti_entropy::Held, id::PartitionId, ring::Ring};
use std::collections::BTreeMap;

/// Three rounds of comparison, each at its longest.
const THREE_ROUNDS: Time = 36_000 * MS;

impl Cluster<'_> {
    /// L1: live owners agree, or will within three rounds. A hint that a stand-in keeps for a dead owner is in no tree; a
    /// sloppy read that finds it repairs the owners that answered, and the others learn it by comparing (seed 4dc251).
    pub(crate) fn difference_that_lasts(&mut self) -> Option<String> {
        self.difference()?;
        self.sight.probe("owners differed when their memories were first compared");
        self.run_until(self.at + THREE_ROUNDS);
        self.difference()
    }

    /// Live processes whose copies can be judged: clocks within bounds, and all of one layout and unfenced.
    pub(crate) fn comparable(&self) -> Option<Vec<u32>> {
        let ledger = Ledger::of(&self.plan.config, &self.plan.faults);
        let live = self.live();
        let view = |process: u32| &self.processes[process as usize].view;
        let ring = view(*live.first()?).ring.as_ref()?.name();
        let alike = live.iter().all(|process| {
            let view = view(*process);
            view.ring.as_ref().is_some_and(|ring_of| ring_of.name() == ring) && view.fence.is_none()
        });
        (alike && ledger.clocks && ledger.identities).then_some(live)
    }

    /// What live owners do not agree about.
    fn difference(&self) -> Option<String> {
        let live = self.comparable()?;
        let ring = self.processes[*live.first()? as usize].view.ring.clone()?;
        for partition in (0..ring.partitions()).map(PartitionId) {
            for copies in 1..=ring.n() {
                if let Some(what) = convergence::judge(&self.copies_of(&ring, &live, (copies, partition))) {
                    return Some(what);
                }
            }
        }
        None
    }

    /// What those of `processes` hold that own a tree. Of a namespace that stays deleted nobody repairs what came above its mark,
    /// from who had not heard yet (seed 7b of F17), and nobody is served: it is left out.
    pub(crate) fn copies_of(&self, ring: &Ring, processes: &[u32], tree: (u8, PartitionId)) -> Vec<Copy> {
        let (copies, partition) = tree;
        let Some(first) = processes.first() else { return Vec::new() };
        let namespaces = &self.processes[*first as usize].view.namespaces;
        let owners = ring.owners(partition);
        let owners = &owners[..usize::from(copies).min(owners.len())];
        let copy = |process: &u32| {
            let running = &self.processes[*process as usize];
            ring.index_of(running.node_id).filter(|index| owners.contains(index))?;
            let shard = &running.shards[usize::from(partition.0) % running.shards.len()];
            let mut held = Vec::new();
            let mut keep = |item: Held| held.extend(namespaces.get(item.namespace).map(|_| item));
            shard.holdings(copies, partition, &mut keep);
            Some(Copy { node: running.node_id, full: shard.stats().out_of_memory > 0, held })
        };
        processes.iter().filter_map(copy).collect()
    }

    /// S16: nobody who was told of a flush holds anything of before.
    pub(crate) fn flushed_and_held(&self) -> Option<String> {
        for process in self.live() {
            let running = &self.processes[process as usize];
            let marks: BTreeMap<_, _> = running.view.namespaces.all().map(|known| (known.id, known.mark)).collect();
            let partitions = running.view.ring.as_ref().map_or(0, |ring| ring.partitions());
            let n = running.view.ring.as_ref().map_or(0, |ring| ring.n());
            for partition in (0..partitions).map(PartitionId) {
                let shard = &running.shards[usize::from(partition.0) % running.shards.len()];
                for copies in 1..=n {
                    let mut old = None;
                    shard.holdings(copies, partition, |held| {
                        let mark = marks.get(&held.namespace).copied().unwrap_or_default();
                        old = old.or(covers(mark, held.version).then_some(held));
                    });
                    if let Some(held) = old {
                        return Some(format!("p{process} holds {held:?}, which was flushed"));
                    }
                }
            }
        }
        None
    }
}
