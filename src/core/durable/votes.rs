//! Votes that wait for the disk: in a namespace that asks for a log, a replica says `Applied` once it is stored, not before.
//!
//! Waiting is data: who is to be told what, under the ticket that has to be stored first. Tickets rise, so the list is in
//! their order and its front is what is due. Bounded by the places there are for requests in flight; beyond that the vote is refused. Deadlines are
//! the coordinator's: a vote that comes late is late, like any other. A `Superseded` waits as well: whoever gets it may let
//! go of an older version that is stored elsewhere, and the newer one must not be lost with this process.

use crate::{
    coordinator::OperationId,
    id::{NamespaceId, PartitionId},
    input::PeerShard,
    limits::IN_FLIGHT_PER_SHARD,
    wire::peer::{ReplicaState, Replicated},
};
use std::collections::VecDeque;

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    /// This node's own, for a write that it coordinates.
    Own(OperationId),
    /// For a peer, under the number of its request.
    Peer { to: PeerShard, id: u64, outcome: Replicated },
}

/// A vote that waits, and of what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) namespace: NamespaceId,
    pub(crate) partition: PartitionId,
    /// What the copy was worth when it took the write.
    pub(crate) state: ReplicaState,
    pub(crate) vote: Vote,
}

/// The votes that wait.
#[derive(Debug, Default)]
pub(super) struct Votes {
    parked: VecDeque<(u64, Parked)>,
}

impl Votes {
    /// Whether no more can wait.
    pub(super) fn is_full(&self) -> bool {
        self.parked.len() >= IN_FLIGHT_PER_SHARD
    }

    /// Waits until `ticket` is stored.
    pub(super) fn park(&mut self, ticket: u64, parked: Parked) {
        self.parked.push_back((ticket, parked));
    }

    /// The next vote whose ticket is stored.
    pub(super) fn pop(&mut self, stored: u64) -> Option<Parked> {
        self.parked.front().filter(|(ticket, _)| *ticket <= stored)?;
        self.parked.pop_front().map(|(_, parked)| parked)
    }

    /// Takes those that wait for this ticket or a later one.
    pub(super) fn take_from(&mut self, from: u64) -> Vec<Parked> {
        let at = self.parked.partition_point(|(ticket, _)| *ticket < from);
        self.parked.drain(at..).map(|(_, parked)| parked).collect()
    }

    /// Takes some of them.
    pub(super) fn take(&mut self, which: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        if !self.parked.iter().any(|(_, it)| which(it)) {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut self.parked).into_iter().partition(|(_, it)| which(it));
        self.parked = left;
        let taken: VecDeque<(u64, Parked)> = taken;
        taken.into_iter().map(|(_, parked)| parked).collect()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        (self.parked.len() * size_of::<(u64, Parked)>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(partition: u16) -> Parked {
        let vote = Vote::Own(OperationId(u64::from(partition)));
        Parked { namespace: NamespaceId(1), partition: PartitionId(partition), state: ReplicaState::Ready, vote }
    }

    #[test]
    fn votes_leave_in_the_order_of_their_tickets_and_not_before_them() {
        let mut votes = Votes::default();
        for (ticket, partition) in [(3, 1), (3, 2), (5, 3), (8, 4)] {
            votes.park(ticket, parked(partition));
        }
        assert_eq!(votes.pop(2), None);
        assert_eq!((votes.pop(4), votes.pop(4), votes.pop(4)), (Some(parked(1)), Some(parked(2)), None));
        assert_eq!(votes.take_from(6), [parked(4)]);
        assert_eq!(votes.take(|it| it.partition == PartitionId(3)), [parked(3)]);
        assert_eq!(votes.bytes(), 0);
    }
}
