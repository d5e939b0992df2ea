//! When a target's hints are sent, and how many at once (PROTOCOL §6 "Hints", §7).
//!
//! A target is *steady* once it has been up for its wait: 10 s at first, twice as long after each time that it came back and
//! went down again soon, at most 5 min, and 10 s again once it was up that long. A lost link or an answer that does not come begins
//! the wait anew and doubles nothing. What is in flight is bounded by number and by bytes per target, and each hint in
//! flight has a number of its own kind, above all those of requests: an answer is never taken for a vote, nor a vote for it.
//!
//! What it is not: it holds no hints, sends nothing and knows no ring. A hint stays in its store until its target's answer
//! is here; a crash of the holder loses it as it loses the memory, unless its namespace asks for a log.

use crate::{
    handoff::hint::Place,
    id::NodeId,
    limits::{HINT_BYTES_IN_FLIGHT, HINT_WAIT_MAX, HINT_WAIT_MIN, HINTS_IN_FLIGHT, WRITE_TIMEOUT},
    time::Mono,
    value::Version,
};
use std::{collections::BTreeMap, time::Duration};

/// The highest bit marks numbers of replications that no request waits for: requests' numbers have 63 bits.
const BACKGROUND: u64 = 1 << 63;

/// A hint on its way to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) target: NodeId,
    pub(crate) place: Place,
    pub(crate) version: Version,
    pub(crate) asked: Mono,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Target {
    up: bool,
    /// Up without a disturbance since then.
    since: Mono,
    /// When it last came back from being down, whatever disturbed it since. `None`: it has not been down yet.
    rose: Option<Mono>,
    wait: Duration,
    cursor: Option<Place>,
    in_flight: usize,
    bytes: u64,
}

/// The state of every replay.
#[derive(Debug)]
pub(crate) struct Replay {
    targets: BTreeMap<NodeId, Target>,
    sent: BTreeMap<u64, Sent>,
    key_bytes: u64,
    last: u64,
}

impl Replay {
    /// Nothing known of anybody. `process` is drawn at each start: numbers of an earlier process are not met again.
    pub(crate) fn new(process: u64) -> Self {
        Self { targets: BTreeMap::new(), sent: BTreeMap::new(), key_bytes: 0, last: process >> 2 }
    }

    /// A number for a replication that no request waits for.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        BACKGROUND | self.last
    }

    /// Whether `id` came from `next_id`, of this or another process.
    pub(crate) fn is_background(id: u64) -> bool {
        id & BACKGROUND != 0
    }

    /// Membership says that `node` is up or down. Saying so again changes nothing.
    pub(crate) fn set_up(&mut self, node: NodeId, up: bool, now: Mono) {
        let known = self.targets.contains_key(&node);
        let target = self.targets.entry(node).or_insert_with(|| Target {
            up: false,
            since: now,
            rose: None,
            wait: HINT_WAIT_MIN,
            cursor: None,
            in_flight: 0,
            bytes: 0,
        });
        if up && !target.up {
            (target.since, target.cursor) = (now, None);
            target.rose = known.then_some(now);
        }
        if !up && target.up {
            let soon = target.rose.is_some_and(|rose| now.since(rose) < HINT_WAIT_MAX);
            target.wait = if soon { (target.wait * 2).min(HINT_WAIT_MAX) } else { HINT_WAIT_MIN };
        }
        target.up = up;
        if !up {
            self.forget(node);
        }
    }

    /// Only these are still of interest.
    pub(crate) fn retain(&mut self, members: &[NodeId]) {
        let gone: Vec<NodeId> = self.targets.keys().filter(|node| !members.contains(node)).copied().collect();
        for node in gone {
            self.forget(node);
            self.targets.remove(&node);
        }
    }

    /// A link to `node` was lost, or it would not take a hint: it has to be steady anew, and what is in flight is not
    /// waited for.
    pub(crate) fn disturb(&mut self, node: NodeId, now: Mono) {
        self.forget(node);
        if let Some(target) = self.targets.get_mut(&node) {
            (target.since, target.cursor) = (now, None);
        }
    }

    fn forget(&mut self, node: NodeId) {
        let freed: u64 = self.sent.values().filter(|sent| sent.target == node).map(|sent| key_bytes(&sent.place)).sum();
        self.key_bytes -= freed;
        self.sent.retain(|_, sent| sent.target != node);
        if let Some(target) = self.targets.get_mut(&node) {
            (target.in_flight, target.bytes) = (0, 0);
        }
    }

    /// Whether `node` has been up for its wait.
    pub(crate) fn is_steady(&self, node: NodeId, now: Mono) -> bool {
        self.targets.get(&node).is_some_and(|target| {
            let settled = target.rose.is_none_or(|rose| now.since(rose) >= HINT_WAIT_MAX);
            let wait = if settled { HINT_WAIT_MIN } else { target.wait };
            target.up && now.since(target.since) >= wait
        })
    }

    /// Where this round of `node`'s hints has come to; `None`: at its beginning.
    pub(crate) fn cursor(&self, node: NodeId) -> Option<&Place> {
        self.targets.get(&node)?.cursor.as_ref()
    }

    /// The round is over. Another begins when all its answers are there: what is still held then is sent again.
    pub(crate) fn end_round(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node)
            && target.in_flight == 0
        {
            target.cursor = None;
        }
    }

    /// The hint at `place` is passed over in this round.
    pub(crate) fn pass(&mut self, node: NodeId, place: Place) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.cursor = Some(place);
        }
    }

    /// Whether a hint of so many bytes may follow those in flight to `node`.
    pub(crate) fn may_send(&self, node: NodeId, bytes: u64) -> bool {
        self.targets.get(&node).is_some_and(|target| {
            target.in_flight == 0
                || (target.in_flight < HINTS_IN_FLIGHT && target.bytes + bytes <= HINT_BYTES_IN_FLIGHT)
        })
    }

    /// A hint leaves for `node`, under the number returned.
    pub(crate) fn send(&mut self, node: NodeId, place: Place, version: Version, bytes: u64, now: Mono) -> u64 {
        assert!(self.may_send(node, bytes), "the window was asked first");
        let id = self.next_id();
        let target = self.targets.get_mut(&node).expect("only known targets may be sent to");
        target.in_flight += 1;
        target.bytes += bytes;
        target.cursor = Some(place.clone());
        self.key_bytes += key_bytes(&place);
        self.sent.insert(id, Sent { target: node, place, version, asked: now, bytes });
        id
    }

    /// `from` answered under `id`: what it was sent, once.
    pub(crate) fn answered(&mut self, id: u64, from: NodeId) -> Option<Sent> {
        if self.sent.get(&id)?.target != from {
            return None;
        }
        let sent = self.sent.remove(&id)?;
        self.key_bytes -= key_bytes(&sent.place);
        let target = self.targets.get_mut(&from).expect("what is in flight has a known target");
        target.in_flight -= 1;
        target.bytes -= sent.bytes;
        Some(sent)
    }

    /// Whose answers are overdue, with how many are and when the last of them was sent.
    pub(crate) fn overdue(&self, now: Mono) -> BTreeMap<NodeId, (u64, Mono)> {
        let mut overdue: BTreeMap<NodeId, (u64, Mono)> = BTreeMap::new();
        for sent in self.sent.values().filter(|sent| sent.asked + WRITE_TIMEOUT <= now) {
            let (count, last) = overdue.entry(sent.target).or_default();
            (*count, *last) = (*count + 1, sent.asked.max(*last));
        }
        overdue
    }

    /// How many hints are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Bytes held for those in flight.
    pub(crate) fn bytes(&self) -> u64 {
        // A map node beside the key.
        self.key_bytes + self.sent.len() as u64 * (size_of::<Sent>() as u64 + 64)
    }
}

fn key_bytes(place: &Place) -> u64 {
    place.2.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{KeyHash, NamespaceId};

    const NODE: NodeId = NodeId(7);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Mono {
        Mono(0) + SECOND * u32::try_from(seconds).unwrap()
    }

    fn place(number: u64) -> Place {
        (KeyHash(number), NamespaceId(1), Box::from(*b"key"))
    }

    #[test]
    fn a_target_is_steady_after_ten_seconds_and_after_twice_as_long_each_time_it_flapped() {
        let mut replay = Replay::new(0);
        let mut now = 100;
        replay.set_up(NODE, false, at(0));
        for wait in [10, 20, 40, 80, 160, 300, 300] {
            replay.set_up(NODE, true, at(now));
            replay.set_up(NODE, true, at(now + 1));
            assert!(!replay.is_steady(NODE, at(now + wait - 1)), "{wait}");
            // That it would be steady now does not make it so for good: it goes down at this very moment.
            assert!(replay.is_steady(NODE, at(now + wait)), "{wait}");
            replay.set_up(NODE, false, at(now + 5));
            assert!(!replay.is_steady(NODE, at(now + 1_000)));
            now += 7;
        }
        replay.set_up(NODE, true, at(1_000));
        replay.set_up(NODE, false, at(1_300));
        replay.set_up(NODE, true, at(1_301));
        assert!(replay.is_steady(NODE, at(1_311)), "five minutes of quiet are forgiveness");
    }

    #[test]
    fn a_disturbance_begins_the_wait_anew_and_doubles_nothing() {
        let mut replay = Replay::new(0);
        replay.set_up(NODE, true, at(0));
        let id = replay.send(NODE, place(1), Version::ZERO, 10, at(20));
        replay.disturb(NODE, at(21));
        assert_eq!((replay.in_flight(), replay.bytes()), (0, 0));
        assert_eq!(replay.answered(id, NODE), None, "a late answer says nothing");
        assert!(!replay.is_steady(NODE, at(30)) && replay.is_steady(NODE, at(31)));
    }

    #[test]
    fn the_window_is_bounded_by_number_and_by_bytes() {
        let mut replay = Replay::new(0);
        assert!(!replay.may_send(NODE, 1), "nobody said that it is up");
        replay.set_up(NODE, true, at(0));
        assert!(replay.may_send(NODE, 8 << 20), "one large hint travels alone");
        let large = replay.send(NODE, place(0), Version::ZERO, 8 << 20, at(0));
        assert!(!replay.may_send(NODE, 1));
        assert!(replay.answered(large, NodeId(8)).is_none(), "not by somebody else");
        assert!(replay.answered(large, NODE).is_some() && replay.answered(large, NODE).is_none());
        for number in 0..HINTS_IN_FLIGHT as u64 {
            assert!(replay.may_send(NODE, 1));
            replay.send(NODE, place(number), Version::ZERO, 1, at(1));
        }
        assert!(!replay.may_send(NODE, 1));
        replay.end_round(NODE);
        assert!(replay.cursor(NODE).is_some(), "a round with answers out is not over");
        assert!(replay.overdue(at(1)).is_empty());
        assert_eq!(replay.overdue(at(2)), BTreeMap::from([(NODE, (HINTS_IN_FLIGHT as u64, at(1)))]));
    }

    #[test]
    fn numbers_of_hints_are_no_numbers_of_requests() {
        let mut replay = Replay::new(u64::MAX);
        let first = replay.next_id();
        assert!(Replay::is_background(first) && replay.next_id() != first);
        assert!(!Replay::is_background(u64::MAX >> 1));
    }
}
