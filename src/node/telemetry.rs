//! What an operator reads: events with fields, and no flood of them.
//!
//! The binary installs the subscriber; a node in another process logs wherever that one does. A line that the outside
//! can cause at will comes at most once in ten seconds, with how many were left out.

use crate::handle::Addresses;
use meshwork_core::{id::NodeId, outbox::NodeEvent, time::Mono};
use std::time::Duration;

const SELDOM: Duration = Duration::from_secs(10);

/// Lets one line through in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Mono>,
    suppressed: u64,
}

impl Seldom {
    /// Calls `log` with how many were left out since the last, or leaves this one out.
    pub(crate) fn tell(&mut self, now: Mono, log: impl FnOnce(u64)) {
        if self.last.is_some_and(|last| now.since(last) < SELDOM) {
            self.suppressed += 1;
            return;
        }
        self.last = Some(now);
        log(std::mem::take(&mut self.suppressed));
    }
}

/// What the control plane tells.
pub(crate) fn node_event(event: &NodeEvent) {
    match event {
        NodeEvent::MemberUp { node, name } => tracing::info!(%node, name, "member up"),
        NodeEvent::MemberDown { node, name } => tracing::warn!(%node, name, "member down"),
        NodeEvent::LayoutAdopted { epoch, members } => tracing::info!(epoch, members, "layout adopted"),
        NodeEvent::Fenced(Some(fence)) => tracing::warn!(%fence, "this node stopped coordinating"),
        NodeEvent::Fenced(None) => tracing::info!("this node coordinates"),
        NodeEvent::Refused { reason } => tracing::warn!(reason, "a peer was refused"),
        NodeEvent::MustStop { reason } => tracing::error!(reason, "this node must stop"),
    }
}

/// The first line of a life.
pub(crate) fn started(
    node: NodeId,
    name: &str,
    zone: &str,
    addresses: Addresses,
    memory: u64,
    sockets: Option<String>,
) {
    let http = addresses.http.map_or_else(|| "off".to_owned(), |http| http.to_string());
    let memory = crate::config::bytes_for_people(memory);
    tracing::info!(%node, name, zone, listen = %addresses.listen, advertise = %addresses.advertise,
        shards = addresses.shards, http, memory, "node started");
    if let Some(warning) = sockets {
        tracing::warn!("{warning}");
    }
    if zone == "unknown" {
        tracing::warn!("this node's zone is unknown: copies cannot be spread over zones; set node.zone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_come_once_in_ten_seconds_with_their_count() {
        let mut seldom = Seldom::default();
        let mut lines = Vec::new();
        for second in [0, 1, 2, 9, 10, 25] {
            seldom.tell(Mono(second * 1_000_000_000), |suppressed| lines.push((second, suppressed)));
        }
        assert_eq!(lines, [(0, 0), (10, 3), (25, 0)]);
    }
}
