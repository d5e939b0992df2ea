//! One partition on its way here: whom it comes from, how far it is, and what its sources said beside.
//!
//! Answers are matched by their source and by where the part begins: one that comes late is as good as the one to a later ask. But none is
//! taken to an ask from before the transfer began (another one was emptied since), or before the part was asked for a second time because T
//! was not known (`moving`).

use crate::{
    id::{NamespaceId, NodeId},
    storage::Floors,
    time::Mono,
    value::Version,
};
use std::{collections::BTreeMap, time::Duration};

/// After a refusal, or without anybody to ask; doubled with each in a row, three times at most.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_DOUBLED_MAX: u32 = 3;
/// After so many in a row nothing that the source said holds any more.
const FAILURES_MAX: u32 = 3;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// This copy votes, and lost nothing: its owners became too few.
    pub(super) intact: bool,
    /// Who is asked now.
    pub(super) source: Option<NodeId>,
    /// The last hash that came from the source.
    pub(super) after: Option<u64>,
    /// Whether all that the source sent came from a Ready replica.
    pub(super) source_ready: bool,
    /// When the part under way was asked for.
    pub(super) asked: Option<Mono>,
    /// The number of that ask, and of the first one whose answer is taken.
    pub(super) ask: u64,
    pub(super) since: u64,
    /// Not asked again before.
    pub(super) not_before: Mono,
    /// Failures since the last part that came.
    pub(super) failures: u32,
    /// Who failed last: others are asked first.
    pub(super) failed: Option<NodeId>,
    /// Complete sources, and whether they were Ready.
    pub(super) done: BTreeMap<NodeId, bool>,
    /// What the sources may have forgotten, by namespace.
    pub(super) floors: BTreeMap<NamespaceId, Floors>,
    /// Up to which versions the source dropped tombstones as new (T), as far as it said.
    pub(super) shed: BTreeMap<NamespaceId, Version>,
    /// The part under way is asked for a second time.
    pub(super) again: bool,
}

/// How far a part brought its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Not at all: the same is asked for again.
    Again,
    /// The source goes on behind this hash.
    UpTo(u64),
    /// The source has no more.
    All,
}

impl Transfer {
    /// A source is asked from the beginning: nothing is known of what it dropped.
    pub(super) fn begin(&mut self) {
        (self.after, self.again) = (None, false);
        self.shed.clear();
    }

    /// Whether the answer to an ask is what is waited for.
    pub(super) fn awaits(&self, from: NodeId, after: Option<u64>, ask: u64) -> bool {
        self.is_from(from, ask) && self.asked.is_some() && self.after == after
    }

    /// Whether something is the answer of the source under way.
    pub(super) fn is_from(&self, from: NodeId, ask: u64) -> bool {
        self.source == Some(from) && ask >= self.since
    }

    /// The source dropped tombstones up to these versions; whether its part must be asked for once more.
    pub(super) fn on_shed(&mut self, shed: &[(NamespaceId, Floors)]) -> bool {
        let mut rose = false;
        for (namespace, Floors { tombstone, .. }) in shed.iter().filter(|(_, floors)| floors.tombstone > Version::ZERO)
        {
            let known = self.shed.entry(*namespace).or_insert(Version::ZERO);
            rose |= *known < *tombstone;
            *known = (*known).max(*tombstone);
        }
        self.again = rose && !self.again;
        if self.again {
            self.since = self.ask + 1;
        }
        self.again
    }

    /// Whoever was asked does not answer: another one, or the same again from where it was. If that goes on, what it said that it dropped
    /// holds up repairs no longer: then it is from the beginning, and what is equal is not sent.
    pub(super) fn fail(&mut self, now: Mono) {
        if self.failures >= FAILURES_MAX && !self.shed.is_empty() {
            self.begin();
        }
        (self.asked, self.failed) = (None, self.source);
        self.not_before = now + RETRY_AFTER * (1 << self.failures.min(RETRY_DOUBLED_MAX));
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Hlc;

    const SOURCE: NodeId = NodeId(7);

    fn told(hlc: u64) -> [(NamespaceId, Floors); 1] {
        let version = |hlc| Version { hlc: Hlc(hlc), ..Version::ZERO };
        [(NamespaceId::of("n"), Floors { evicted: version(99), tombstone: version(hlc) })]
    }

    /// One that asked `SOURCE` for the part behind `after`, and has asked so often.
    fn asked(after: Option<u64>, ask: u64) -> Transfer {
        Transfer { source: Some(SOURCE), after, asked: Some(Mono(1)), ask, since: 3, ..Transfer::default() }
    }

    #[test]
    fn an_answer_is_taken_once_from_who_was_asked_for_that_part_and_not_from_before_the_transfer() {
        let mut transfer = asked(Some(5), 4);
        assert!(transfer.awaits(SOURCE, Some(5), 4));
        assert!(transfer.awaits(SOURCE, Some(5), 3), "that of an earlier ask is as good");
        assert!(!transfer.awaits(SOURCE, Some(5), 2), "what it found here was emptied since");
        assert!(!transfer.awaits(SOURCE, None, 4) && !transfer.awaits(NodeId(8), Some(5), 4));
        transfer.asked = None;
        assert!(!transfer.awaits(SOURCE, Some(5), 4));
    }

    #[test]
    fn a_part_that_tells_of_dropped_tombstones_is_asked_for_once_more_and_an_earlier_answer_is_not_taken() {
        let mut transfer = asked(None, 4);
        assert!(!transfer.on_shed(&told(0)) && transfer.shed.is_empty());
        assert!(transfer.on_shed(&told(10)));
        assert!(!transfer.awaits(SOURCE, None, 4), "it was made before that was known");
        transfer.ask = 5;
        assert!(transfer.awaits(SOURCE, None, 5));
        assert!(!transfer.on_shed(&told(20)), "it drops more and more: never a third time in a row");
        assert_eq!(transfer.shed.values().map(|version| version.hlc).collect::<Vec<_>>(), [Hlc(20)]);
        assert!(!transfer.on_shed(&told(15)) && transfer.on_shed(&told(30)), "a later part may tell more");
        transfer.begin();
        assert!(transfer.shed.is_empty() && transfer.on_shed(&told(10)), "from the beginning nothing is known");
    }

    #[test]
    fn who_goes_on_failing_is_asked_from_the_beginning_and_what_it_said_holds_no_longer() {
        let mut transfer = asked(Some(5), 4);
        transfer.on_shed(&told(10));
        for failure in 0..FAILURES_MAX {
            transfer.fail(Mono(0));
            assert_eq!(transfer.not_before, Mono(0) + RETRY_AFTER * (1 << failure));
            assert_eq!((transfer.shed.len(), transfer.after, transfer.failed), (1, Some(5), Some(SOURCE)));
        }
        transfer.fail(Mono(0));
        assert_eq!((transfer.shed.len(), transfer.after), (0, None));
        transfer.fail(Mono(0));
        assert_eq!(
            transfer.not_before,
            Mono(0) + RETRY_AFTER * (1 << RETRY_DOUBLED_MAX),
            "it waits no longer than that"
        );
    }
}
