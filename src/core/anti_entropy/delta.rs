//! What to do about one difference: the rules by which a repair may carry an entry (PROTOCOL §5 "Version repair", §6).
//!
//! Pure: two items in, an action out. The newer version goes to who holds an older one, whoever compares; to who holds
//! nothing it goes only if that one cannot have forgotten it: above its floors E (where entries may be evicted) and T. So
//! nothing evicted is pushed back for ever, and nothing deleted comes back. A ghost holds a version and gives no value: to a
//! Warming copy that has nothing as new it gives itself, for that copy may be the last that held what was evicted, and an older
//! version from elsewhere would be served in its place (simulator, seed c402bc).
//! What is still on its way (younger than two write timeouts), and what ends before a repair could matter, is left alone
//! for now; the rest of what is left alone stays so until one of both trees changes, and costs nothing meanwhile. One thing makes
//! more possible without a change of its tree: a ghost that the version itself fills keeps its hash there. Its holder then forgets what
//! it found out (simulator, seed 80032af).
//!
//! What a copy that lost its memory took from one owner it gives up again if another one lacks it, and dropped tombstones as new: it may
//! have been deleted, and with this copy's vote a read that asks neither would return it. A copy that has its own from a disk keeps it.
//!
//! PROTOCOL lets a Warming replica take back what it evicted since it began to warm; here it does not: it says honestly
//! that it forgot, and a comparison under memory pressure has an end.

use crate::{
    limits,
    storage::Floors,
    time::Wall,
    value::Version,
    wire::exchange::{FloorItem, KeyItem},
};

/// What comes of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing differs.
    Equal,
    /// Nothing may be done until one of the trees changes, or a ghost is filled.
    Leave,
    /// Nothing is to be done yet.
    Wait,
    /// They shall have mine.
    Push,
    /// I want theirs.
    Pull,
    /// I shall remember, as they do, that there was theirs.
    Adopt,
    /// I am to drop mine.
    Forget,
    /// Both: one version whose ends differ is joined.
    Both,
}

/// What a side is, beside what it lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// What it forgot of the namespace in the partition.
    pub(super) floors: Floors,
    /// It warms: it wants even what is on its way, since that may have been acknowledged without it.
    pub(super) warming: bool,
    /// It warms, and held nothing when that began.
    pub(super) lost: bool,
}

/// When items are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Wall,
    /// Whether entries of the namespace may be evicted.
    pub(super) evictable: bool,
}

/// What ends within this of now is not repaired.
pub(super) fn is_ending(gone_at: Wall, wall: Wall) -> bool {
    gone_at <= wall + limits::REPAIR_END_MARGIN
}

impl Moment {
    pub(super) fn is_ending(&self, item: &KeyItem) -> bool {
        is_ending(item.gone_at, self.wall)
    }

    fn is_young(&self, version: Version) -> bool {
        version.hlc.wall() + 2 * limits::WRITE_TIMEOUT > self.wall
    }

    /// Judges one key: what I list of it, and what they do.
    pub(super) fn judge(&self, mine: Option<&KeyItem>, theirs: Option<&KeyItem>, (me, them): (&Side, &Side)) -> Action {
        match (mine, theirs) {
            (None, None) => Action::Equal,
            (Some(mine), None) if self.is_doubtful(mine, me, them) => Action::Forget,
            (Some(mine), None) => self.give(mine, None, them, Action::Push),
            (None, Some(theirs)) => self.give(theirs, None, me, Action::Pull),
            (Some(mine), Some(theirs)) if mine.entry_hash == theirs.entry_hash => Action::Equal,
            (Some(mine), Some(theirs)) if mine.version > theirs.version => {
                self.give(mine, Some(theirs), them, Action::Push)
            }
            (Some(mine), Some(theirs)) if mine.version < theirs.version => {
                self.give(theirs, Some(mine), me, Action::Pull)
            }
            (Some(mine), Some(theirs)) if mine.ghost || theirs.ghost => Action::Leave,
            (Some(mine), Some(theirs)) if self.is_ending(mine) || self.is_ending(theirs) => Action::Wait,
            (Some(_), Some(_)) => Action::Both,
        }
    }

    /// Whether a copy that lost its memory may have a value from who missed its delete: the peer does not hold it, and dropped
    /// tombstones as new (T). Reads that ask the peer would not return it either.
    fn is_doubtful(&self, mine: &KeyItem, me: &Side, them: &Side) -> bool {
        self.evictable && !mine.ghost && me.lost && mine.version <= them.floors.tombstone
    }

    fn give(&self, newer: &KeyItem, older: Option<&KeyItem>, taker: &Side, action: Action) -> Action {
        let forgotten =
            newer.version <= taker.floors.tombstone || (self.evictable && newer.version <= taker.floors.evicted);
        if older.is_none() && forgotten {
            return Action::Leave;
        }
        if newer.ghost {
            let adopts = action == Action::Pull && taker.warming && self.evictable;
            return if adopts { Action::Adopt } else { Action::Leave };
        }
        if self.is_ending(newer) || (self.is_young(newer.version) && !taker.warming) {
            return Action::Wait;
        }
        action
    }
}

/// The floors of a namespace in a peer's list; none listed: none risen.
pub(super) fn floors_of(list: &[FloorItem], namespace: crate::id::NamespaceId) -> Floors {
    let found = list.iter().find(|item| item.namespace == namespace);
    found.map_or(Floors::default(), |item| Floors { evicted: item.evicted, tombstone: item.tombstone })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{ActorId, KeyHash, NamespaceId},
        value::Hlc,
    };

    fn version(ms: u64) -> Version {
        Version { hlc: Hlc::at(Wall(ms)), actor: ActorId(1) }
    }

    fn item(ms: u64) -> KeyItem {
        KeyItem {
            namespace: NamespaceId(1),
            hash: KeyHash(2),
            version: version(ms),
            entry_hash: ms,
            ghost: false,
            gone: false,
            gone_at: Wall(u64::MAX),
        }
    }

    fn side(evicted: u64, tombstone: u64) -> Side {
        Side {
            floors: Floors { evicted: version(evicted), tombstone: version(tombstone) },
            warming: false,
            lost: false,
        }
    }

    const NOW: Moment = Moment { wall: Wall(100_000), evictable: true };

    fn judge(mine: Option<KeyItem>, theirs: Option<KeyItem>) -> Action {
        NOW.judge(mine.as_ref(), theirs.as_ref(), (&side(50, 20), &side(50, 20)))
    }

    #[test]
    fn the_newer_version_goes_to_who_holds_or_ghosts_an_older_one() {
        let ghost = KeyItem { ghost: true, ..item(5) };
        assert_eq!(judge(Some(item(10)), Some(item(5))), Action::Push, "below the floors too: it holds an older one");
        assert_eq!(judge(Some(item(10)), Some(ghost)), Action::Push);
        assert_eq!(judge(Some(item(5)), Some(item(10))), Action::Pull);
        assert_eq!(judge(Some(ghost), Some(item(10))), Action::Pull);
        assert_eq!(judge(Some(item(5)), Some(item(5))), Action::Equal);
    }

    #[test]
    fn who_holds_nothing_gets_only_what_it_cannot_have_forgotten() {
        assert_eq!(judge(Some(item(60)), None), Action::Push);
        assert_eq!(judge(Some(item(50)), None), Action::Leave, "it may have evicted it");
        assert_eq!(judge(None, Some(item(50))), Action::Leave);
        let kept = Moment { evictable: false, ..NOW };
        let sides = (&side(50, 20), &side(50, 20));
        assert_eq!(
            kept.judge(Some(&item(50)), None, sides),
            Action::Push,
            "E decides nothing where nothing is evicted"
        );
        assert_eq!(kept.judge(Some(&item(20)), None, sides), Action::Leave, "a tombstone above it was dropped");
    }

    #[test]
    fn a_ghost_gives_nothing_and_is_not_filled_again() {
        let ghost = KeyItem { ghost: true, ..item(60) };
        assert_eq!(judge(Some(ghost), Some(item(10))), Action::Leave);
        assert_eq!(judge(Some(ghost), None), Action::Leave);
        assert_eq!(judge(Some(KeyItem { entry_hash: 1, ..ghost }), Some(item(60))), Action::Leave);
        assert_eq!(judge(Some(ghost), Some(item(60))), Action::Equal, "it keeps the hash in the tree");
    }

    #[test]
    fn a_warming_copy_takes_over_a_ghost_of_what_is_newer_than_all_it_has() {
        let ghost = KeyItem { ghost: true, ..item(60) };
        let (cold, warm) = (side(50, 20), Side { warming: true, ..side(50, 20) });
        let judge = |mine: Option<KeyItem>, me: &Side, them: &Side| NOW.judge(mine.as_ref(), Some(&ghost), (me, them));
        assert_eq!(judge(Some(item(10)), &warm, &cold), Action::Adopt);
        assert_eq!(judge(None, &warm, &cold), Action::Adopt, "an older one may come from elsewhere");
        assert_eq!(judge(None, &Side { warming: true, ..side(60, 0) }, &cold), Action::Leave, "its floor says as much");
        assert_eq!(judge(Some(item(70)), &warm, &cold), Action::Push);
        assert_eq!(judge(Some(item(60)), &warm, &cold), Action::Equal, "it has the value");
        assert_eq!(judge(Some(item(10)), &cold, &cold), Action::Leave, "others that vote have seen it");
        assert_eq!(NOW.judge(Some(&ghost), Some(&item(10)), (&cold, &warm)), Action::Leave, "whoever warms asks");
    }

    #[test]
    fn what_is_on_its_way_or_about_to_end_waits_and_a_warming_replica_does_not() {
        assert_eq!(judge(Some(item(99_500)), None), Action::Wait);
        assert_eq!(judge(Some(KeyItem { gone_at: NOW.wall, ..item(60) }), None), Action::Wait);
        let warm = Side { warming: true, ..side(50, 20) };
        assert_eq!(NOW.judge(None, Some(&item(99_500)), (&warm, &side(0, 0))), Action::Pull);
        assert_eq!(NOW.judge(Some(&item(99_500)), None, (&warm, &side(0, 0))), Action::Wait, "they do not warm");
    }

    #[test]
    fn one_version_with_different_ends_is_joined_on_both_sides() {
        assert_eq!(judge(Some(item(60)), Some(KeyItem { entry_hash: 1, ..item(60) })), Action::Both);
    }

    /// Who has it from its own disk was there when it was written, and loses it to nobody's bookkeeping.
    #[test]
    fn what_a_peer_may_have_deleted_is_given_up_by_who_lost_its_memory_alone() {
        let shed = side(0, 50);
        let judge = |ms, me: &Side| NOW.judge(Some(&item(ms)), None, (me, &shed));
        let warming = Side { warming: true, ..side(0, 0) };
        let lost = Side { lost: true, ..warming };
        assert_eq!(
            (judge(40, &warming), judge(40, &lost), judge(60, &lost)),
            (Action::Leave, Action::Forget, Action::Push)
        );
        let kept = Moment { evictable: false, ..NOW };
        assert_ne!(kept.judge(Some(&item(40)), None, (&lost, &shed)), Action::Forget);
    }
}
