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
