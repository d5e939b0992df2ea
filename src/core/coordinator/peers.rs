//! What a shard has learned of its peers by asking them: a circuit breaker and a latency each (PROTOCOL §7).
//!
//! Routing liveness of a peer is "membership believes it alive" and "its breaker is closed". A breaker opens after
//! `TIMEOUTS_TO_OPEN` timeouts in a row, and then lets one request through each `PROBE_EVERY`; any answer closes it. One
//! that nobody tried for `STALE_AFTER` says nothing of now: it closes, and the next timeout opens it again (a node that came
//! back while nobody asked for its keys refused all but one of the first requests; simulator, seed 200e4). A breaker is there
//! to choose by: a request that nobody else could serve is not refused while a probe is under way, it follows the probe (one
//! write after another to the only owner was refused for a round trip; simulator, seed a1055d). So are, for a while, the requests
//! whose timeouts opened it: the first after a silence of the link wait for a handshake, too, and five of them at once were five timeouts
//! (simulator, seed 6001140). Whom membership believes alive again may be probed at once: after a false suspicion of 50 ms all that
//! only that peer could serve was refused for the second (simulator, seed 5001463). A peer whose latency is far above the fastest
//! one's is slow: it is not chosen for reads, and still written.

use crate::{id::NodeId, time::Mono};
use std::{collections::BTreeMap, time::Duration};

const TIMEOUTS_TO_OPEN: u8 = 5;
const PROBE_EVERY: Duration = Duration::from_secs(1);
const STALE_AFTER: Duration = Duration::from_secs(5);
/// How long a probe without an answer may be followed.
const PROBE_PATIENCE: Duration = Duration::from_millis(250);
/// A peer is slow above this multiple of the fastest peer's mean …
const SLOW_FACTOR: u64 = 5;
/// … and above this: on a fast network a factor alone is noise.
const SLOW_MIN: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    timeouts: u8,
    /// Open until then; then one probe passes.
    probe_at: Option<Mono>,
    /// When the last probe was sent.
    probed: Option<Mono>,
    /// Mean round trip, nanoseconds; an exponential average of weight 1/16.
    mean: u64,
}

/// All peers of a shard's ring, by member index.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: Vec<Peer>,
    fastest: u64,
}

impl Peers {
    /// Takes the members of a new ring; what is known of those that stay is kept.
    pub(crate) fn set_members(&mut self, old: &[NodeId], new: &[NodeId]) {
        let known: BTreeMap<NodeId, Peer> = old.iter().copied().zip(self.peers.iter().copied()).collect();
        self.peers = new.iter().map(|node| known.get(node).copied().unwrap_or_default()).collect();
    }

    /// Whether a request may be sent to `member` now. Who sends one says so: `on_ask`.
    #[inline]
    pub(crate) fn may_ask(&self, member: u16, now: Mono) -> bool {
        self.peers.get(usize::from(member)).is_some_and(|peer| peer.probe_at.is_none_or(|at| now >= at))
    }

    /// Whether `member` answered whatever it was asked last: its breaker is closed.
    pub(crate) fn is_closed(&self, member: u16) -> bool {
        self.peers.get(usize::from(member)).is_some_and(|peer| peer.probe_at.is_none())
    }

    /// Whether a request that nobody else can serve may follow the probe of an open breaker.
    pub(crate) fn may_follow(&self, member: u16, now: Mono) -> bool {
        let peer = self.peers.get(usize::from(member));
        peer.and_then(|peer| peer.probed).is_some_and(|at| now < at + PROBE_PATIENCE)
    }

    /// A request goes to `member`: of an open breaker that is the probe, and the next one is a second away.
    #[inline]
    pub(crate) fn on_ask(&mut self, member: u16, now: Mono) {
        let Some(peer) = self.peers.get_mut(usize::from(member)) else { return };
        peer.probe_at = match peer.probe_at {
            Some(at) if now >= at + STALE_AFTER => {
                peer.timeouts = TIMEOUTS_TO_OPEN - 1;
                None
            }
            Some(at) if now >= at => {
                peer.probed = Some(now);
                Some(now + PROBE_EVERY)
            }
            // It follows the probe.
            known => known,
        };
    }

    /// `member` answered a request sent at `asked`.
    #[inline]
    pub(crate) fn on_answer(&mut self, member: u16, asked: Mono, now: Mono) {
        let Some(peer) = self.peers.get_mut(usize::from(member)) else { return };
        (peer.timeouts, peer.probe_at, peer.probed) = (0, None, None);
        let took = now.0.saturating_sub(asked.0);
        peer.mean = if peer.mean == 0 { took } else { peer.mean - peer.mean / 16 + took / 16 };
        if self.fastest == 0 || peer.mean < self.fastest {
            self.fastest = peer.mean;
        } else {
            // The floor follows slowly when everybody slows down.
            self.fastest += self.fastest / 4096 + 1;
        }
    }

    /// `member` answered something that says nothing of how fast it is: a part of a partition takes its time.
    pub(crate) fn on_heard(&mut self, member: u16) {
        if let Some(peer) = self.peers.get_mut(usize::from(member)) {
            (peer.timeouts, peer.probe_at, peer.probed) = (0, None, None);
        }
    }

    /// `member` did not answer a request of `asked` in time. What opens the breaker may still be answered: it is a probe, too.
    pub(crate) fn on_timeout(&mut self, member: u16, asked: Mono, now: Mono) {
        let Some(peer) = self.peers.get_mut(usize::from(member)) else { return };
        peer.timeouts = peer.timeouts.saturating_add(1);
        if peer.timeouts >= TIMEOUTS_TO_OPEN && peer.probe_at.is_none() {
            (peer.probe_at, peer.probed) = (Some(now + PROBE_EVERY), Some(now));
        } else if peer.probed.is_some_and(|probed| asked >= probed) {
            peer.probed = None;
        }
    }

    /// The link to `member` was lost: open at once, probe in a second.
    pub(crate) fn on_lost(&mut self, member: u16, now: Mono) {
        let Some(peer) = self.peers.get_mut(usize::from(member)) else { return };
        (peer.probe_at, peer.probed) = (Some(now + PROBE_EVERY), None);
    }

    /// Membership believes `member` alive again: its breaker, if open, lets a probe through.
    pub(crate) fn on_up(&mut self, member: u16, now: Mono) {
        let Some(peer) = self.peers.get_mut(usize::from(member)) else { return };
        peer.probe_at = peer.probe_at.map(|at| at.min(now));
    }

    /// Whether reads should rather go elsewhere.
    pub(crate) fn is_slow(&self, member: u16) -> bool {
        let mean = self.peers.get(usize::from(member)).map_or(0, |peer| peer.mean);
        mean > self.fastest.saturating_mul(SLOW_FACTOR) && Duration::from_nanos(mean) > SLOW_MIN
    }

    /// When to hedge a read: three times the fastest mean stands for the p95 of an exponential tail.
    pub(crate) fn hedge_after(&self) -> Duration {
        Duration::from_nanos(self.fastest.saturating_mul(3))
            .clamp(crate::limits::HEDGE_AFTER_MIN, crate::limits::READ_PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u128) -> Peers {
        let mut peers = Peers::default();
        peers.set_members(&[], &(0..count).map(NodeId).collect::<Vec<_>>());
        peers
    }

    #[test]
    fn a_breaker_opens_after_five_timeouts_lets_probes_through_and_closes_on_an_answer() {
        let (mut peers, second) = (peers(1), 1_000_000_000);
        for _ in 0..4 {
            peers.on_timeout(0, Mono(0), Mono(0));
        }
        assert!(peers.may_ask(0, Mono(0)));
        peers.on_timeout(0, Mono(0), Mono(0));
        assert!(!peers.may_ask(0, Mono(second - 1)));
        assert!(peers.may_follow(0, Mono(1)), "what opened it may be answered yet");
        peers.on_timeout(0, Mono(0), Mono(1));
        assert!(!peers.may_follow(0, Mono(0) + PROBE_PATIENCE), "for a while only");
        assert!(peers.may_ask(0, Mono(second)) && peers.may_ask(0, Mono(second)), "asking whether costs nothing");
        peers.on_ask(0, Mono(second));
        assert!(!peers.may_ask(0, Mono(second)), "and no second one");
        assert!(peers.may_follow(0, Mono(second + 1)), "but by whoever has nobody else");
        peers.on_ask(0, Mono(second + 1));
        assert!(peers.may_ask(0, Mono(2 * second)), "who follows puts the next probe off by nothing");
        let patience = Mono(second) + PROBE_PATIENCE;
        assert!(!peers.may_follow(0, patience), "a probe that is not answered is followed for a while only");
        peers.on_timeout(0, Mono(second - 1), Mono(second + 2));
        assert!(peers.may_follow(0, Mono(second + 2)), "what was asked before it says nothing of it");
        peers.on_timeout(0, Mono(second), Mono(second + 2));
        assert!(!peers.may_follow(0, Mono(second + 2)), "and not at all once it failed");
        assert!(!peers.is_closed(0));
        peers.on_answer(0, Mono(second), Mono(second + 1));
        assert!(peers.may_ask(0, Mono(second + 1)) && peers.is_closed(0));
    }

    #[test]
    fn a_breaker_that_nobody_tried_for_long_lets_all_through_and_opens_at_the_next_timeout() {
        let (mut peers, second) = (peers(1), 1_000_000_000);
        peers.on_lost(0, Mono(0));
        let long_after = Mono(second) + STALE_AFTER;
        peers.on_ask(0, long_after);
        assert!(peers.may_ask(0, long_after), "the first one is not alone");
        peers.on_timeout(0, long_after, long_after);
        assert!(!peers.may_ask(0, long_after));
    }

    #[test]
    fn whoever_is_believed_alive_again_is_probed_at_once_and_by_one_request() {
        let mut peers = peers(1);
        peers.on_lost(0, Mono(10));
        peers.on_up(0, Mono(20));
        assert!(peers.may_ask(0, Mono(20)));
        peers.on_ask(0, Mono(20));
        assert!(!peers.may_ask(0, Mono(21)) && peers.may_follow(0, Mono(21)));
        peers.on_answer(0, Mono(20), Mono(22));
        peers.on_up(0, Mono(23));
        assert!(peers.may_ask(0, Mono(23)) && !peers.may_follow(0, Mono(23)), "a closed one stays closed");
    }

    #[test]
    fn whoever_is_heard_closes_its_breaker_and_is_no_slower_for_it() {
        let mut peers = peers(1);
        peers.on_lost(0, Mono(0));
        peers.on_ask(0, Mono(0));
        assert!(!peers.may_ask(0, Mono(1)));
        peers.on_heard(0);
        assert!(peers.may_ask(0, Mono(1)) && !peers.is_slow(0));
    }

    #[test]
    fn a_peer_far_slower_than_the_fastest_is_slow() {
        let mut peers = peers(2);
        for _ in 0..50 {
            peers.on_answer(0, Mono(0), Mono(200_000));
            peers.on_answer(1, Mono(0), Mono(9_000_000));
        }
        assert!(peers.is_slow(1) && !peers.is_slow(0));
    }

    #[test]
    fn what_is_known_of_a_peer_survives_a_new_ring() {
        let mut peers = peers(2);
        peers.on_lost(1, Mono(0));
        peers.set_members(&[NodeId(0), NodeId(1)], &[NodeId(1), NodeId(5)]);
        assert!(!peers.may_ask(0, Mono(0)) && peers.may_ask(1, Mono(0)));
    }
}
