//! Which acknowledged writes may be gone because their namespace was flushed: what S1, S2, S4 and S14 do not hold against a cluster.
//!
//! A flush is known by its mark. What has a version at or below it may be gone from the moment that the flush was asked for,
//! whoever has heard of it by then; what has a higher one is owed as ever, though it was written by somebody who had not heard.
//! That what may be gone is gone in the end, S16 judges.

use crate::history::{Event, History, Op};
use meshwork_core::value::Hlc;
use std::collections::BTreeMap;

/// Every flush of a history.
pub(super) struct Marks<'a> {
    /// By namespace: when each was asked for, and its mark.
    flushes: BTreeMap<&'a str, Vec<(u64, Hlc)>>,
}

impl<'a> Marks<'a> {
    /// All there are.
    pub(super) fn of(history: &'a History) -> Self {
        let mut flushes: BTreeMap<&str, Vec<(u64, Hlc)>> = BTreeMap::new();
        for event in &history.events {
            if let Event::Flush { t, ns, mark } = event {
                flushes.entry(ns).or_default().push((*t, *mark));
            }
        }
        Self { flushes }
    }

    /// Whether a write that was told its version may have been flushed by `to`, microseconds.
    pub(super) fn may_have_taken(&self, write: &Op<'_>, to: u64) -> bool {
        let (Some(flushes), Some(end)) = (self.flushes.get(write.invoke.ns.as_str()), write.ok()) else { return false };
        let Some(version) = end.version else { return false };
        flushes.iter().any(|(asked, mark)| *asked <= to && version.hlc <= *mark)
    }
}
