//! What the control planes of a run tell: snapshots for their shards, late and in order, and news for those who watch.

use crate::{
    checkers::Invariant,
    cluster::{Cluster, Event},
    history::Event as Recorded,
    keyed::{Purpose, below, draw},
    network::Site,
};
use meshwork_core::{outbox::NodeEvent, view::View, wire::peer::ReplicaState};
use std::sync::Arc;

impl Cluster<'_> {
    pub(crate) fn publish(&mut self, process: u32, view: Arc<View>) {
        self.sight.layouts.on_published(&view);
        // Ready at once in a first layout, and after the boot: whoever made it had forgotten what was before.
        let running = &self.processes[process as usize];
        if running.view.ring.is_none()
            && view.ring.as_ref().is_some_and(|ring| ring.name().epoch == 1)
            && view.state == ReplicaState::Ready
            && self.chaos_from > 0
        {
            self.sight.probe("mesh founded anew");
            self.recorded.push(Recorded::Founded { t: self.at / 1_000 });
        }
        let dropped = view.lapses > running.view.lapses;
        let machine = running.machine;
        self.note_view(process, &view);
        if dropped {
            self.record_fault(format!("disk of machine {machine} is lost by p{process}"));
        }
        // Clients derive the ring from this layout: it must be the one that the node itself goes by.
        let routing = self.processes[process as usize].node.routing().map(|routing| routing.layout.name());
        if let (Some(ring), Some(layout)) = (view.ring.as_ref(), routing)
            && ring.name() != layout
        {
            let (at, name) = (self.at, ring.name());
            self.sight.blame(Invariant::S20, at, format!("p{process} routes by {name} and tells clients {layout}"));
        }
        let shards = self.processes[process as usize].shards.len() as u16;
        for shard in 0..shards {
            let most = self.plan.config.view_delay_us * 1_000;
            let delay = below(
                draw(self.plan.seed, Purpose::Process, &[u64::from(process), u64::from(shard), self.at]),
                most + 1,
            );
            // Snapshots reach a shard in order.
            let last = &mut self.processes[process as usize].views_at[usize::from(shard)];
            *last = (self.at + delay).max(*last + 1);
            let at = *last;
            self.push(at, Event::View { site: Site { process, shard }, view: Arc::clone(&view) });
        }
    }

    pub(crate) fn on_news(&mut self, process: u32, event: &NodeEvent) {
        self.sight.probe(match event {
            NodeEvent::MemberUp { .. } => "member up",
            NodeEvent::MemberDown { .. } => "member down",
            NodeEvent::LayoutAdopted { .. } => "layout adopted",
            NodeEvent::LayoutRetired { .. } => "layout retired",
            NodeEvent::Fenced(Some(_)) => "node fenced",
            NodeEvent::Fenced(None) => "node unfenced",
            NodeEvent::RestoredTooOld { .. } => "an older disk was dropped",
            NodeEvent::Refused { .. } => "node refused somebody",
            NodeEvent::MustStop { .. } => "node must stop",
        });
        if let NodeEvent::LayoutAdopted { members, .. } = event
            && *members < self.fewest_members
        {
            self.fewest_members = *members;
            self.record_fault(format!("layout of {members} members"));
        }
        if let NodeEvent::MustStop { .. } = event {
            self.processes[process as usize].stopping = true;
        }
        let (machine, at) = (self.processes[process as usize].machine, self.at);
        if let Some(timeline) = &mut self.timeline {
            timeline.note(at, Some(machine), &format!("{event:?}"));
        }
    }
}
