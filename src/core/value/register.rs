//! `register`: last-writer-wins. The larger version is the value; equal versions are the same write (PROTOCOL §3).
//!
//! What surprises: a write whose coordinator's clock runs behind loses against a concurrent one, and only
//! re-stamping after `Superseded` (coordinator/put.rs) keeps a *later* write from losing. `expires_at` is absolute and
//! part of the version: it is copied verbatim, never restarted. `hold_until` is the expiry of what an entry replaced
//! when that was later: until then the entry must not vanish, or the replaced value would come back. A join takes the
//! larger `hold_until` of both sides when versions are equal, and folds the loser's expiry into the winner.

use super::version::Version;
use crate::{canary::canary, time::Wall};

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A value, opaque to the mesh.
    Value(&'a [u8]),
    /// A delete, kept as a version.
    Tombstone,
}

impl Body<'_> {
    /// Bytes of the value; zero for a tombstone.
    pub fn len(&self) -> usize {
        match self {
            Self::Value(bytes) => bytes.len(),
            Self::Tombstone => 0,
        }
    }

    /// Whether there is nothing in it, as in a tombstone or an empty value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One replica's knowledge of a key, borrowed from a frame or the memtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Which write.
    pub version: Version,
    /// Served while the clock is below it; `None`: no expiry.
    pub expires_at: Option<Wall>,
    /// The expiry of what this entry replaced, when later than its own; `Some(Wall(u64::MAX))`: that had none.
    pub hold_until: Option<Wall>,
    /// Value or tombstone.
    pub body: Body<'a>,
}

impl Entry<'_> {
    /// Whether a client may see the value at `wall`.
    pub fn is_live(&self, wall: Wall) -> bool {
        matches!(self.body, Body::Value(_)) && self.expires_at.is_none_or(|at| wall < at)
    }

    /// Whether it becomes, at its end, a tombstone that stays until it is collected.
    pub fn outlasts_its_end(&self) -> bool {
        self.expires_at.is_some() && self.hold_until == Some(Wall(u64::MAX))
    }

    /// The `hold_until` that an entry expiring at `expires_at` must carry when it replaces this one: this entry's own
    /// end where that is later, else nothing.
    pub fn hold_for_successor(&self, expires_at: Option<Wall>) -> Option<Wall> {
        const NEVER: Wall = Wall(u64::MAX);
        if canary!(K37) {
            return None;
        }
        let mine = match self.body {
            Body::Value(_) => self.expires_at.unwrap_or(NEVER).max(self.hold_until.unwrap_or_default()),
            // A tombstone shows nothing, but what it buried may still be held elsewhere, and it would have stayed until it
            // is collected: so must what takes its place. One with an expiry is a value that was held beyond its end.
            Body::Tombstone => self.expires_at.map_or(NEVER, |at| at.max(self.hold_until.unwrap_or_default())),
        };
        (mine > expires_at.unwrap_or(NEVER)).then_some(mine)
    }
}

/// An entry that owns its value: of a hint, or of a request that waits for votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// As in [`Entry`].
    pub version: Version,
    /// As in [`Entry`].
    pub expires_at: Option<Wall>,
    /// As in [`Entry`].
    pub hold_until: Option<Wall>,
    /// The value; `None`: a tombstone.
    pub value: Option<Box<[u8]>>,
}

impl OwnedEntry {
    /// The same entry, borrowed.
    pub fn as_entry(&self) -> Entry<'_> {
        let body = self.value.as_deref().map_or(Body::Tombstone, Body::Value);
        Entry { version: self.version, expires_at: self.expires_at, hold_until: self.hold_until, body }
    }
}

impl From<&Entry<'_>> for OwnedEntry {
    fn from(entry: &Entry<'_>) -> Self {
        let value = match entry.body {
            Body::Value(value) => Some(value.into()),
            Body::Tombstone => None,
        };
        Self { version: entry.version, expires_at: entry.expires_at, hold_until: entry.hold_until, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(expires_at: Option<u64>, hold_until: Option<u64>, body: Body<'_>) -> Entry<'_> {
        Entry { version: Version::ZERO, expires_at: expires_at.map(Wall), hold_until: hold_until.map(Wall), body }
    }

    /// Found by seed 1: value without TTL, deleted, then put with a TTL. When that ended all was forgotten, and a replica
    /// that had missed the delete brought the first value back.
    #[test]
    fn what_replaces_a_tombstone_is_held_as_long_as_the_tombstone_would_have_been() {
        let deleted = entry(None, None, Body::Tombstone);
        assert_eq!(deleted.hold_for_successor(Some(Wall(5))), Some(Wall(u64::MAX)));
        let held_beyond_its_end = entry(Some(3), Some(9), Body::Tombstone);
        assert_eq!(held_beyond_its_end.hold_for_successor(Some(Wall(5))), Some(Wall(9)));
        assert_eq!(held_beyond_its_end.hold_for_successor(Some(Wall(9))), None);
    }

    #[test]
    fn a_shorter_life_carries_the_end_of_the_longer_one_it_replaces() {
        assert_eq!(entry(None, None, Body::Value(b"v")).hold_for_successor(Some(Wall(5))), Some(Wall(u64::MAX)));
        assert_eq!(entry(Some(7), None, Body::Value(b"v")).hold_for_successor(Some(Wall(5))), Some(Wall(7)));
        assert_eq!(entry(Some(7), None, Body::Value(b"v")).hold_for_successor(None), None);
    }
}
