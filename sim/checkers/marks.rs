//! Which acknowledged writes may be gone because their namespace was flushed: what S1, S2, S4 and S14 do not hold against a cluster.
//!
//! A flush is known by its mark. What has a version at or below it may be gone from the moment that the flush was asked for,
//! whoever has heard of it by then; what has a higher one is owed as ever, though it was written by somebody who had not heard.
//! That what may be gone is gone in the end, S16 judges.
//!
//! A deletion has a mark like a flush. What was written since by somebody who had not heard of it has a higher version, and
//! nobody who has heard moves, compares or serves it: once the namespace is made again, nothing asked before that is owed.

use crate::history::{Event, History, Op};
use meshwork_core::value::Hlc;
use std::collections::BTreeMap;

/// Every flush of a history, and every namespace made again.
pub(super) struct Marks<'a> {
    /// By namespace: when each was asked for, and its mark.
    flushes: BTreeMap<&'a str, Vec<(u64, Hlc)>>,
    /// By namespace: when it was made again.
    created: BTreeMap<&'a str, Vec<u64>>,
}

impl<'a> Marks<'a> {
    /// All there are.
    pub(super) fn of(history: &'a History) -> Self {
        let mut marks = Self { flushes: BTreeMap::new(), created: BTreeMap::new() };
        for event in &history.events {
            match event {
                Event::Flush { t, ns, mark } => marks.flushes.entry(ns).or_default().push((*t, *mark)),
                Event::Created { t, ns } => marks.created.entry(ns).or_default().push(*t),
                Event::Invoke(_) | Event::Ok(_) | Event::Fail(_) | Event::Maybe(_) => {}
                Event::Fault { .. } | Event::Founded { .. } | Event::Phase { .. } => {}
            }
        }
        marks
    }

    /// Whether a write that was told its version may have been flushed by `to`, microseconds.
    pub(super) fn may_have_taken(&self, write: &Op<'_>, to: u64) -> bool {
        let ns = write.invoke.ns.as_str();
        let Some(version) = write.ok().and_then(|end| end.version) else { return false };
        let covered = |(asked, mark): &(u64, Hlc)| *asked <= to && version.hlc <= *mark;
        let earlier = |created: &u64| *created <= to && write.invoke.t <= *created;
        self.flushes.get(ns).is_some_and(|flushes| flushes.iter().any(covered))
            || self.created.get(ns).is_some_and(|created| created.iter().any(earlier))
    }
}
