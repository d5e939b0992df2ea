//! Watches this node's wall against its peers', and the clock bound on disk (PROTOCOL §1).
//!
//! Each second peers are pinged; a pong's clock, moved by half the round trip, gives the offset. The verdict is a fence:
//! - the median offset is beyond `CLOCK_FENCE`: `ClockOffset`. Of two middle values the smaller counts, so that one
//!   node out of three that is off fences itself and not the others;
//! - nobody confirmed the wall since the start or its last jump: `ClockUnconfirmed`. A median within the fence confirms,
//!   by samples taken since; without anybody who could, `ALONE_AFTER` does, and in a cluster of one the start itself;
//! - the bound that the clock may not pass is not on disk, or the last process' bound still lies ahead: the same.
//!
//! The wall of a `Hello` is not a sample: it waited for a handshake of unknown length. Peers answer with their
//! *disciplined* wall, so one whose wall just jumped misleads nobody.

use crate::{
    clock::Clock,
    id::NodeId,
    limits::{CLOCK_FENCE, CLOCK_OFFSET_MAX},
    time::{Mono, Now, Wall},
    value::Hlc,
    view::Fence,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Without a live peer for so long, the own wall is all there is.
const ALONE_AFTER: Duration = Duration::from_secs(10);
/// A sample older than this says nothing.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(10);
/// A slower round trip could hide as much as the fence allows.
const ROUND_TRIP_MAX: Duration = CLOCK_FENCE.saturating_mul(2);
/// Without an answer for so long a peer is silent: just below the second after which it is pinged again.
const PONG_AFTER_MAX: Duration = Duration::from_millis(900);
/// The bound is stored so far ahead. A crash costs a node up to this long, fenced, before it may stamp again: a bound ahead
/// of the wall by more than `CLOCK_OFFSET_MAX` would make peers refuse its stamps.
const BOUND_AHEAD: Duration = Duration::from_secs(10);
/// With less than this left the next bound is stored: the disk may be slow for as long.
const BOUND_LEFT_MIN: Duration = Duration::from_secs(7);

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// This node's wall minus the peer's, milliseconds.
    offset: i64,
    /// How far it may be off: half the round trip.
    error: Duration,
    at: Mono,
}

/// Offsets, confirmation and bound of one node.
#[derive(Debug)]
pub struct ClockWatch {
    samples: BTreeMap<NodeId, Sample>,
    /// When the newest ping went to each peer, under which number.
    pings: BTreeMap<NodeId, (u64, Mono)>,
    nonce: u64,
    /// Peers that did not answer a ping for a second, and have not since.
    silent: BTreeSet<NodeId>,
    confirmed: bool,
    confirmations: u64,
    /// Since when confirmation is missing and nobody could give it.
    alone_since: Option<Mono>,
    floor: Hlc,
    requested: Hlc,
    stored: Hlc,
}

impl ClockWatch {
    /// Nothing is confirmed; the clock of the last process may have been as far as `floor`.
    pub fn new(floor: Hlc) -> Self {
        Self {
            samples: BTreeMap::new(),
            pings: BTreeMap::new(),
            nonce: 0,
            silent: BTreeSet::new(),
            confirmed: false,
            confirmations: 0,
            alone_since: None,
            floor,
            requested: Hlc::default(),
            stored: Hlc::default(),
        }
    }

    /// A ping to `peer` goes out now; its number.
    pub fn on_ping(&mut self, peer: NodeId, now: Mono) -> u64 {
        self.nonce += 1;
        self.pings.insert(peer, (self.nonce, now));
        self.nonce
    }

    /// Peers that fell silent: each once, until it answers again.
    pub fn newly_silent(&mut self, now: Mono) -> Vec<NodeId> {
        let unanswered = self.pings.iter().filter(|(_, (_, sent))| now.since(*sent) >= PONG_AFTER_MAX);
        let newly: Vec<NodeId> = unanswered.map(|(peer, _)| *peer).filter(|peer| !self.silent.contains(peer)).collect();
        self.silent.extend(&newly);
        newly
    }

    /// The answer of `peer` to the ping `nonce`; others than the newest tell nothing of its clock.
    pub fn on_pong(&mut self, peer: NodeId, nonce: u64, wall: Wall, now: Now) {
        self.silent.remove(&peer);
        let Some((_, sent)) = self.pings.get(&peer).copied().filter(|(newest, _)| *newest == nonce) else { return };
        self.pings.remove(&peer);
        let round_trip = now.mono.since(sent);
        if round_trip > ROUND_TRIP_MAX {
            return;
        }
        let theirs = wall + round_trip / 2;
        let millis = |wall: Wall| i64::try_from(wall.0).unwrap_or(i64::MAX);
        let offset = millis(now.wall).saturating_sub(millis(theirs));
        self.samples.insert(peer, Sample { offset, error: round_trip / 2, at: now.mono });
    }

    /// `peer` is down: it confirms nothing.
    pub fn forget(&mut self, peer: NodeId) {
        self.samples.remove(&peer);
        self.pings.remove(&peer);
        self.silent.remove(&peer);
    }

    /// The offset to `peer`, this node's wall minus its, milliseconds.
    pub fn offset(&self, peer: NodeId) -> Option<i64> {
        self.samples.get(&peer).map(|sample| sample.offset)
    }

    /// How far the fastest peer's wall may be ahead of this node's: at most as far as the walls of two that are not fenced.
    pub fn behind(&self, now: Mono) -> Duration {
        let fresh = self.samples.values().filter(|sample| now.since(sample.at) <= SAMPLE_AGE_MAX);
        let ahead = |sample: &Sample| Duration::from_millis(sample.offset.min(0).unsigned_abs()) + sample.error;
        fresh.map(ahead).max().unwrap_or_default().min(2 * CLOCK_FENCE)
    }

    fn median(&self, now: Mono) -> Option<i64> {
        let fresh = self.samples.values().filter(|sample| now.since(sample.at) <= SAMPLE_AGE_MAX);
        let mut offsets: Vec<i64> = fresh.map(|sample| sample.offset).collect();
        offsets.sort_unstable();
        let (low, high) = (*offsets.get(offsets.len().saturating_sub(1) / 2)?, *offsets.get(offsets.len() / 2)?);
        Some(if low.unsigned_abs() <= high.unsigned_abs() { low } else { high })
    }

    /// Looks at everything: confirms `clock` when that is due. `alone`: no peer is up; `single`: the cluster has no other
    /// member that could confirm anything.
    pub fn observe(&mut self, clock: &mut Clock, alone: bool, single: bool, now: Now) {
        if clock.is_unconfirmed() && self.confirmed {
            // Samples from before the jump measured another wall.
            self.confirmed = false;
            self.samples.clear();
            self.pings.clear();
            self.alone_since = None;
        }
        if self.confirmed {
            return;
        }
        if !alone {
            self.alone_since = None;
        } else if self.alone_since.is_none() {
            self.alone_since = Some(now.mono);
        }
        let waited = self.alone_since.is_some_and(|since| now.mono.since(since) >= ALONE_AFTER);
        let by_itself = alone && (waited || (single && !clock.is_unconfirmed()));
        let by_peers = self.median(now.mono).is_some_and(|median| !is_beyond_fence(median));
        if by_itself || by_peers {
            clock.confirm(now);
            self.confirmed = true;
            self.confirmations += 1;
            self.alone_since = None;
        }
    }

    /// Why this node must not stamp now; `None`: it may.
    pub fn fence(&self, clock: &Clock, now: Now) -> Option<Fence> {
        if let Some(median) = self.median(now.mono).filter(|median| is_beyond_fence(*median)) {
            return Some(Fence::ClockOffset(median));
        }
        let reading = clock.last().max(Hlc::at(clock.wall(now)));
        let floor_ahead = self.floor.wall() > clock.wall(now) + CLOCK_OFFSET_MAX / 2;
        (!self.confirmed || floor_ahead || reading >= self.stored).then_some(Fence::ClockUnconfirmed)
    }

    /// How often the wall was confirmed.
    pub fn confirmations(&self) -> u64 {
        self.confirmations
    }

    /// The bound to store now, if one is due.
    pub fn bound_due(&mut self, clock: &Clock, now: Now) -> Option<Hlc> {
        let wall = clock.wall(now);
        if self.requested.wall() > wall + BOUND_LEFT_MIN {
            return None;
        }
        // From the wall and not from the last reading: that may be the bound of a process before, and a crash loop would
        // push it ahead with each start. Still above the last reading, so that incarnations rise.
        self.requested = Hlc::at(wall + BOUND_AHEAD).max(Hlc::at(clock.last().wall() + Duration::from_millis(1)));
        Some(self.requested)
    }

    /// `bound` is on disk.
    pub fn on_stored(&mut self, bound: Hlc) {
        self.stored = self.stored.max(bound);
    }
}

fn is_beyond_fence(offset: i64) -> bool {
    u128::from(offset.unsigned_abs()) > CLOCK_FENCE.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Mono(ms * 1_000_000), wall: Wall(1_000_000 + ms) }
    }

    fn watched(offsets: &[i64]) -> (ClockWatch, Clock) {
        let (mut watch, mut clock) = (ClockWatch::new(Hlc::default()), Clock::new(Hlc::default()));
        clock.observe(at(0));
        for (peer, offset) in (1u128..).zip(offsets) {
            let nonce = watch.on_ping(NodeId(peer), at(0).mono);
            let theirs = Wall(at(10).wall.0.checked_add_signed(-offset - 5).unwrap());
            watch.on_pong(NodeId(peer), nonce, theirs, at(10));
        }
        let bound = watch.bound_due(&clock, at(10)).unwrap();
        watch.on_stored(bound);
        watch.observe(&mut clock, offsets.is_empty(), false, at(10));
        (watch, clock)
    }

    #[test]
    fn a_peer_within_the_fence_confirms_a_started_clock() {
        let (watch, clock) = watched(&[150]);
        assert_eq!(watch.fence(&clock, at(10)), None);
        assert_eq!(watch.confirmations(), 1);
    }

    #[test]
    fn the_fastest_peer_says_how_far_behind_this_clock_may_be() {
        assert_eq!(watched(&[]).0.behind(at(10).mono), Duration::ZERO);
        let error = Duration::from_millis(5);
        assert_eq!(watched(&[90, 20]).0.behind(at(10).mono), error, "nobody is ahead");
        assert_eq!(watched(&[90, -40, -7]).0.behind(at(10).mono), error + Duration::from_millis(40));
        let (watch, _) = watched(&[-3_000]);
        assert_eq!(watch.behind(at(10).mono), 2 * CLOCK_FENCE, "a clock beyond the fence stamps nothing");
        assert_eq!(watch.behind(at(60_000).mono), Duration::ZERO, "it was measured long ago");
    }

    #[test]
    fn a_peer_falls_silent_once_until_it_answers() {
        let (mut watch, _) = watched(&[0]);
        let nonce = watch.on_ping(NodeId(1), at(1_000).mono);
        assert!(watch.newly_silent(at(1_500).mono).is_empty());
        assert_eq!(watch.newly_silent(at(2_000).mono), [NodeId(1)]);
        assert!(watch.newly_silent(at(2_000).mono).is_empty());
        watch.on_pong(NodeId(1), nonce, at(2_100).wall, at(2_100));
        let late = watch.on_ping(NodeId(1), at(3_000).mono);
        assert!(late > nonce);
        assert_eq!(watch.newly_silent(at(4_000).mono), [NodeId(1)]);
    }

    #[test]
    fn one_of_three_that_is_off_fences_itself_and_not_the_others() {
        for (offsets, fence) in [
            (vec![0, -800], None),
            (vec![800, 800], Some(Fence::ClockOffset(800))),
            (vec![-800], Some(Fence::ClockOffset(-800))),
        ] {
            let (watch, clock) = watched(&offsets);
            assert_eq!(watch.fence(&clock, at(10)), fence, "{offsets:?}");
        }
    }

    #[test]
    fn alone_the_wall_is_confirmed_after_ten_seconds_and_not_before() {
        let (mut watch, mut clock) = watched(&[]);
        watch.observe(&mut clock, true, false, at(9_000));
        assert_eq!(watch.fence(&clock, at(9_000)), Some(Fence::ClockUnconfirmed));
        watch.observe(&mut clock, true, false, at(10_010));
        let bound = watch.bound_due(&clock, at(10_010)).unwrap();
        watch.on_stored(bound);
        assert_eq!(watch.fence(&clock, at(10_010)), None);
    }

    #[test]
    fn a_bound_that_is_not_stored_in_time_fences() {
        let (mut watch, clock) = watched(&[0]);
        let late = at(9_990);
        let nonce = watch.on_ping(NodeId(1), late.mono);
        watch.on_pong(NodeId(1), nonce, late.wall, late);
        assert_eq!(watch.fence(&clock, late), None);
        assert!(watch.bound_due(&clock, late).is_some());
        assert_eq!(watch.fence(&clock, at(10_011)), Some(Fence::ClockUnconfirmed), "asked for is not stored");
    }

    #[test]
    fn a_crash_loop_does_not_push_the_bound_ahead() {
        let mut floor = Hlc::default();
        for start in 0..100 {
            let (mut watch, mut clock) = (ClockWatch::new(floor), Clock::new(floor));
            clock.observe(at(start));
            let incarnation = clock.stamp(at(start));
            let bound = watch.bound_due(&clock, at(start)).unwrap();
            assert!(bound > incarnation && incarnation > floor);
            floor = bound;
        }
        assert!(floor.wall() <= at(100).wall + BOUND_AHEAD + Duration::from_millis(100));
    }

    #[test]
    fn the_bound_of_the_last_process_is_waited_for() {
        let (mut watch, clock) = watched(&[0]);
        watch.floor = Hlc::at(at(5_000).wall);
        assert_eq!(watch.fence(&clock, at(10)), Some(Fence::ClockUnconfirmed));
        assert_eq!(watch.fence(&clock, at(4_800)), None);
    }
}
