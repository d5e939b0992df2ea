//! Copies that warm: what a node is told of its shards, and what the checkers are told of both.
//!
//! The driver hands the shards' figures to the control plane each second; here that happens at the control plane's own
//! timeouts, and only while the node warms. When it is Ready as a whole, or a newcomer's partitions were moved to it, the
//! history says so: from then on it owes (again) what it holds. Nothing here decides anything.

use crate::{cluster::Cluster, network::Site, process::Process};
use meshwork_core::{id::PartitionId, input::NodeInput, stats::ShardStats, view::View, wire::peer::ReplicaState};
use std::sync::Arc;

fn warms(state: ReplicaState) -> bool {
    matches!(state, ReplicaState::Warming | ReplicaState::Settled)
}

impl Process {
    /// What its copy of a tree is worth.
    pub(crate) fn copy_state(&self, tree: (u8, PartitionId)) -> ReplicaState {
        let shard = &self.shards[usize::from(tree.1.0) % self.shards.len()];
        shard.replica_state(tree)
    }
}

impl Cluster<'_> {
    /// The node's timeout. As the driver does each second, one that warms is told how far its shards are.
    pub(crate) fn node_due(&mut self, process: u32) {
        let running = &self.processes[process as usize];
        if warms(running.view.state) {
            let mut sum = ShardStats::default();
            running.shards.iter().for_each(|shard| sum.add(&shard.stats()));
            self.node_input(process, NodeInput::Stats(sum));
        }
        self.node_call(process, |node, now, out| node.handle_timeout(now, out));
    }

    /// A process publishes `view`.
    pub(crate) fn note_view(&mut self, process: u32, view: &Arc<View>) {
        let running = &self.processes[process as usize];
        // Who came with a newer layout has, once the older one retired, what its partitions' former owners had.
        let retired = running.view.beside.is_some() && view.beside.is_none();
        let moved = || retired && running.shards.iter().all(|shard| shard.warming().len() == 0);
        if view.state == ReplicaState::Ready && (warms(running.view.state) || moved()) {
            self.record_fault(format!("ready is p{process}"));
        }
        self.processes[process as usize].view = Arc::clone(view);
    }

    /// Sight learns which trees of a shard do not vote.
    pub(crate) fn note_warming(&mut self, site: Site) {
        let shard = &self.processes[site.process as usize].shards[usize::from(site.shard)];
        if self.sight.has_warmed(site, shard.warming()) {
            self.sight.on_warming(site, shard.warming());
        }
    }
}
