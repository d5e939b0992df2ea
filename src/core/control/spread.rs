//! Who is owed the replicated state, and when (PROTOCOL §2: gossip digests and `MetaSync`).
//!
//! A local change goes out at once, to everybody up to `FANOUT_ALL` peers and else to a few random ones; a change that
//! came in is passed on a moment later, so that a burst of acks becomes one message. Whatever both miss is found by a
//! digest sent to one random peer each second. A peer whose newest digest equals ours is owed nothing: that ends the
//! flood. Losing any message costs a second, never agreement.

use crate::{id::NodeId, rng::Rng, time::Mono};
use std::{collections::BTreeMap, time::Duration};

/// Up to so many peers are told directly.
const FANOUT_ALL: usize = 16;
/// Of more, so many.
const FANOUT_SOME: usize = 3;
/// How long a change that came in waits for others to join it.
const FORWARD_AFTER: Duration = Duration::from_millis(10);

/// What is known of the peers' states.
#[derive(Debug, Default)]
pub struct Spread {
    digests: BTreeMap<NodeId, u64>,
    forward_at: Option<Mono>,
}

impl Spread {
    /// `peer` has a state with this digest.
    pub fn learn(&mut self, peer: NodeId, digest: u64) {
        self.digests.insert(peer, digest);
    }

    /// Nothing is known of `peer` any more.
    pub fn forget(&mut self, peer: NodeId) {
        self.digests.remove(&peer);
    }

    /// A peer's message changed our state: the others are owed it soon.
    pub fn forward(&mut self, now: Mono) {
        self.forward_at.get_or_insert(now + FORWARD_AFTER);
    }

    /// When a forward is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.forward_at
    }

    /// Whether a forward is due; then `targets` are owed it.
    pub fn is_due(&self, now: Mono) -> bool {
        self.forward_at.is_some_and(|at| at <= now)
    }

    /// Whom to send the state with `digest`; takes for granted that it is sent.
    pub fn targets(&mut self, peers: &[NodeId], digest: u64, rng: &mut Rng) -> Vec<NodeId> {
        self.forward_at = None;
        let owed = |peer: &NodeId| self.digests.get(peer) != Some(&digest);
        sample(peers.iter().copied().filter(owed).collect(), rng)
    }
}

/// All of a few peers, a few of many.
pub fn sample(mut peers: Vec<NodeId>, rng: &mut Rng) -> Vec<NodeId> {
    if peers.len() <= FANOUT_ALL {
        return peers;
    }
    (0..FANOUT_SOME).map(|_| peers.swap_remove(draw(peers.len(), rng))).collect()
}

/// One of them.
pub fn pick(peers: &[NodeId], rng: &mut Rng) -> Option<NodeId> {
    (!peers.is_empty()).then(|| peers[draw(peers.len(), rng)])
}

fn draw(below: usize, rng: &mut Rng) -> usize {
    usize::try_from(rng.below(below as u64)).expect("below a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_the_state_is_owed_nothing() {
        let (mut spread, mut rng) = (Spread::default(), Rng::new(1));
        spread.learn(NodeId(2), 77);
        assert_eq!(spread.targets(&[NodeId(2), NodeId(3)], 77, &mut rng), [NodeId(3)]);
        assert_eq!(spread.targets(&[NodeId(2), NodeId(3)], 78, &mut rng), [NodeId(2), NodeId(3)]);
    }

    #[test]
    fn of_many_peers_a_few_distinct_ones_are_told() {
        let peers: Vec<NodeId> = (0..40).map(NodeId).collect();
        let mut told = sample(peers, &mut Rng::new(5));
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), FANOUT_SOME);
    }
}
