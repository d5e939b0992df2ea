//! What an operator reads: events with fields, and no flood of them.
//!
//! The binary installs the subscriber; a node in another process logs wherever that one does. A line that the outside
//! can cause at will comes at most once in ten seconds, with how many were left out; another reason is another line, up
//! to a bound.

use crate::handle::Addresses;
use meshwork_core::{id::NodeId, outbox::NodeEvent, time::Mono};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

const SELDOM: Duration = Duration::from_secs(10);

/// Different lines let through in ten seconds: callers choose the words of some.
const KINDS_MAX: usize = 16;

/// Lets one line of a kind through in ten seconds, and a few kinds.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// Hashes of the kinds let through in the last ten seconds.
    said: Vec<(u64, Mono)>,
    suppressed: u64,
}

impl Seldom {
    /// Calls `log` with how many lines were left out since the last that was not, or leaves this one out. `kind` is what
    /// makes a line a repeat.
    pub(crate) fn tell(&mut self, now: Mono, kind: impl Hash, log: impl FnOnce(u64)) {
        let mut hasher = DefaultHasher::new();
        kind.hash(&mut hasher);
        let kind = hasher.finish();
        self.said.retain(|(_, at)| now.since(*at) < SELDOM);
        if self.said.len() >= KINDS_MAX || self.said.iter().any(|(said, _)| *said == kind) {
            self.suppressed += 1;
            return;
        }
        self.said.push((kind, now));
        log(std::mem::take(&mut self.suppressed));
    }
}

/// What the control plane tells.
pub(crate) fn node_event(event: &NodeEvent) {
    match event {
        NodeEvent::MemberUp { node, name } => tracing::info!(%node, name, "member up"),
        NodeEvent::MemberDown { node, name } => tracing::warn!(%node, name, "member down"),
        NodeEvent::LayoutAdopted { epoch, members } => tracing::info!(epoch, members, "layout adopted"),
        NodeEvent::LayoutRetired { epoch } => tracing::info!(epoch, "a layout retired: all is moved to the next one"),
        NodeEvent::Fenced(Some(fence)) => tracing::warn!(%fence, "this node stopped coordinating"),
        NodeEvent::Fenced(None) => tracing::info!("this node coordinates"),
        NodeEvent::RestoredTooOld { reason } => tracing::warn!(reason, "what was restored from the disk is dropped"),
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
            seldom.tell(Mono(second * 1_000_000_000), "expired", |suppressed| lines.push((second, suppressed)));
        }
        assert_eq!(lines, [(0, 0), (10, 3), (25, 0)]);
    }

    #[test]
    fn another_reason_is_another_line_but_not_without_end() {
        let mut seldom = Seldom::default();
        let mut lines = Vec::new();
        for reason in ["expired", "wrong cluster", "expired"] {
            seldom.tell(Mono(0), reason, |suppressed| lines.push((reason, suppressed)));
        }
        assert_eq!(lines, [("expired", 0), ("wrong cluster", 0)]);
        let mut count = 0;
        for reason in 0..1000 {
            seldom.tell(Mono(1), reason, |_| count += 1);
        }
        assert_eq!(count, KINDS_MAX - 2);
    }
}
