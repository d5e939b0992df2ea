//! Whether this node's copies vote (PROTOCOL §6, "Replica states").
//!
//! A member of a first layout has everything that was acknowledged, since nothing was: it is `Ready`. So is one that
//! arrives with a transition: what it lacks warms partition by partition, and its shards know of each whether it was moved
//! (`handoff::ownership`) or compared (`anti_entropy`). Who comes back, or finds itself in a layout that others agreed on
//! without it, may lack what was acknowledged: it is `Warming`, and `Settled` after `warming_max`. Shards make its copies
//! Ready one by one; once all are, the node is `Ready` as a whole.

use crate::{time::Mono, wire::peer::ReplicaState};
use std::time::Duration;

/// Shards have heard by then that they warm, and their figures say so.
const COMPARED_AFTER: Duration = Duration::from_secs(3);

/// The node's standing, and what it was told that decides the next one.
#[derive(Debug)]
pub struct Standing {
    state: ReplicaState,
    warming_max: Duration,
    warming_since: Mono,
    /// A process of this node was a member before this one.
    returned: bool,
    /// Others agreed on a layout without this node.
    passed_over: bool,
}

impl Standing {
    /// No member yet.
    pub fn new(warming_max: Duration) -> Self {
        Self {
            state: ReplicaState::Fallback,
            warming_max,
            warming_since: Mono::default(),
            returned: false,
            passed_over: false,
        }
    }

    /// A role of this node, written by an earlier process, is known in a mesh that has a layout.
    pub fn on_return(&mut self) {
        self.returned = true;
    }

    /// Others went on to a layout that they think this node has, and it was away: what it holds is of the past.
    pub fn lapse(&mut self, now: Mono) {
        if self.state != ReplicaState::Fallback {
            (self.state, self.warming_since) = (ReplicaState::Warming, now);
        }
        self.returned = true;
    }

    /// Looks at the active layouts: whether this node is a member, whether it `arrives` with the newest of two, by taking
    /// another's place, and whether all members acknowledged.
    pub fn observe(&mut self, member: bool, arrives: bool, replaces: bool, agreed: bool, now: Mono) {
        if !member {
            self.passed_over |= agreed;
            self.state = ReplicaState::Fallback;
            return;
        }
        if self.state == ReplicaState::Fallback {
            let complete = !self.returned && (arrives || !replaces && !self.passed_over);
            self.state = if complete { ReplicaState::Ready } else { ReplicaState::Warming };
            self.warming_since = now;
        }
        if self.state == ReplicaState::Warming && now.since(self.warming_since) >= self.warming_max {
            self.state = ReplicaState::Settled;
        }
    }

    /// All of this node's shards say that all their copies compared with enough other owners. What was said before the
    /// shards heard that they warm does not count.
    pub fn on_compared(&mut self, now: Mono) {
        let warms = matches!(self.state, ReplicaState::Warming | ReplicaState::Settled);
        if warms && now.since(self.warming_since) >= COMPARED_AFTER {
            self.state = ReplicaState::Ready;
        }
    }

    /// The state of this node's copies.
    pub fn state(&self) -> ReplicaState {
        self.state
    }

    /// How long until a warming replica settles.
    pub fn warming_left(&self, now: Mono) -> Duration {
        self.warming_max.saturating_sub(now.since(self.warming_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing::new(Duration::from_secs(5))
    }

    #[test]
    fn a_member_of_a_first_layout_is_ready_at_once() {
        let mut standing = standing();
        standing.observe(true, false, false, false, Mono(0));
        assert_eq!(standing.state(), ReplicaState::Ready);
    }

    #[test]
    fn a_warming_node_whose_copies_all_compared_is_ready() {
        let mut standing = standing();
        standing.on_return();
        standing.observe(true, false, false, true, Mono(0));
        standing.on_compared(Mono(1));
        assert_eq!(standing.state(), ReplicaState::Warming, "that was said of another time");
        standing.on_compared(Mono(0) + COMPARED_AFTER);
        assert_eq!(standing.state(), ReplicaState::Ready);
        standing.observe(true, false, false, true, Mono(0) + Duration::from_secs(50));
        assert_eq!(standing.state(), ReplicaState::Ready);
    }

    #[test]
    fn who_returns_replaces_or_was_passed_over_warms_and_then_settles() {
        let (mut returned, mut replaced, mut passed_over) = (standing(), standing(), standing());
        returned.on_return();
        passed_over.observe(false, false, false, true, Mono(0));
        for (standing, replaces) in [(&mut returned, false), (&mut replaced, true), (&mut passed_over, false)] {
            standing.observe(true, false, replaces, true, Mono(0));
            assert_eq!(standing.state(), ReplicaState::Warming);
            standing.observe(true, false, replaces, true, Mono(0) + Duration::from_secs(5));
            assert_eq!(standing.state(), ReplicaState::Settled);
        }
    }

    #[test]
    fn who_arrives_with_a_transition_is_ready_for_all_that_is_not_moved_to_it() {
        let mut standing = standing();
        standing.observe(false, false, false, true, Mono(0));
        standing.observe(true, true, true, true, Mono(0));
        assert_eq!(standing.state(), ReplicaState::Ready);
        standing.lapse(Mono(0));
        assert_eq!(standing.state(), ReplicaState::Warming);
    }
}
