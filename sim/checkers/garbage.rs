//! L3 `garbage-goes`, and S14 beside it, from the memories of all owners of a tree, before and after a long silence.
//!
//! - A tombstone that all owners have held for `TOMBSTONE_AGE_MIN` and a margin is collected: its turn came twice.
//! - What has an end is gone a margin after it, whatever it is: values, tombstones that end by themselves, ghosts.
//! - What all owners held as deleted when the silence began nobody holds as a value, in that version or an older one.
//!
//! Where that promise stands the caller knows: all owners live, Ready, under one layout, clocks right. Not judged: a tree of
//! which an owner refused writes for want of memory, and whether owners agree (L1). A `Commit` that is lost lets a tombstone come
//! back as a repair: it is young then, by its owners' own books, and not judged either.

use super::{Finding, Invariant, Verdict, convergence::Copy};
use crate::clock::{EPOCH_MS, MS, Time};
use meshwork_core::{
    anti_entropy::Held,
    id::{KeyHash, NamespaceId},
    limits::TOMBSTONE_AGE_MIN,
    time::Wall,
    value::Version,
};
use std::{collections::BTreeMap, time::Duration};

/// Each partition's turn comes within 72 s, and one may be lost.
pub const MARGIN: Duration = Duration::from_secs(180);

/// What was deleted, by its tombstone.
pub type Deleted = BTreeMap<(NamespaceId, KeyHash), Version>;

/// What each of `owners` holds of a key.
fn of_all<'a>(owners: &'a [Copy], held: &Held) -> Vec<Option<&'a Held>> {
    let same = |other: &&Held| (other.namespace, other.hash) == (held.namespace, held.hash);
    owners.iter().map(|copy| copy.held.iter().find(same)).collect()
}

/// The tombstones, without an end of their own, that all owners of a tree hold; each item of `trees` is all its owners.
pub fn deleted(trees: &[Vec<Copy>]) -> Deleted {
    let mut deleted = Deleted::new();
    for owners in trees.iter().filter(|owners| owners.iter().all(|copy| !copy.full)) {
        for held in owners.first().iter().flat_map(|first| &first.held).filter(|held| held.deleted_since.is_some()) {
            let same = |other: &Held| other.deleted_since.is_some() && other.version == held.version;
            if of_all(owners, held).into_iter().all(|other| other.is_some_and(same)) {
                deleted.insert((held.namespace, held.hash), held.version);
            }
        }
    }
    deleted
}

/// Judges trees after the silence; `before` is what was deleted when it began.
pub fn judge(before: &Deleted, at: Time, trees: &[Vec<Copy>]) -> Verdict {
    let wall = Wall(EPOCH_MS + at / MS);
    let blame = |invariant, what| Verdict::Invalid(Finding { invariant, t: at / 1_000, what, ops: Vec::new() });
    for owners in trees.iter().filter(|owners| owners.iter().all(|copy| !copy.full)) {
        for (copy, held) in owners.iter().flat_map(|copy| copy.held.iter().map(move |held| (copy, held))) {
            let what = format!("{:?}/{:?} version {}", held.namespace, held.hash, held.version);
            let due = |held: &Held| held.deleted_since.is_some_and(|since| since + TOMBSTONE_AGE_MIN + MARGIN <= wall);
            let same = |other: &Held| other.version == held.version && due(other);
            if due(held) && of_all(owners, held).into_iter().all(|other| other.is_some_and(same)) {
                let minutes = TOMBSTONE_AGE_MIN.as_secs() / 60;
                let what = format!(
                    "{what}: all owners have held this tombstone for more than {minutes} min and none collects it"
                );
                return blame(Invariant::L3, what);
            }
            if held.gone_at != Wall(u64::MAX) && held.gone_at + MARGIN <= wall {
                let over = (wall.0 - held.gone_at.0) / 1_000;
                return blame(Invariant::L3, format!("{what}: {} holds it {over} s after it was to go", copy.node));
            }
            let deleted = before.get(&(held.namespace, held.hash));
            let value = !held.ghost && !held.tombstone;
            if let Some(deleted) = deleted.filter(|deleted| value && held.version <= **deleted) {
                return blame(
                    Invariant::S14,
                    format!("{what}: {} holds it again; all owners held the tombstone {deleted}", copy.node),
                );
            }
        }
    }
    if before.is_empty() { Verdict::Unknown("no tombstone that all owners held") } else { Verdict::Valid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample::held as value;
    use meshwork_core::id::NodeId;

    /// Twenty minutes after a silence began.
    const AT: Time = 1_200_000 * MS;
    const BEGAN: Wall = Wall(EPOCH_MS);

    fn tombstone(version: u64, since: Wall) -> Held {
        Held { tombstone: true, deleted_since: Some(since), ..value(version) }
    }

    fn tree(held: [&[Held]; 2]) -> Vec<Vec<Copy>> {
        let copy = |(node, held): (u128, &[Held])| Copy { node: NodeId(node), full: false, held: held.to_vec() };
        vec![(1..).zip(held).map(copy).collect()]
    }

    fn broken(verdict: &Verdict) -> Option<Invariant> {
        if let Verdict::Invalid(finding) = verdict { Some(finding.invariant) } else { None }
    }

    #[test]
    fn a_tombstone_that_all_have_held_for_long_is_refused() {
        let old: &[Held] = &[tombstone(5, BEGAN)];
        let before = deleted(&tree([old, old]));
        assert_eq!(before.len(), 1);
        assert_eq!(broken(&judge(&before, AT, &tree([old, old]))), Some(Invariant::L3));
    }

    #[test]
    fn what_was_to_go_and_what_came_back_are_refused() {
        let over: &[Held] = &[Held { ghost: true, gone_at: BEGAN, ..value(5) }];
        assert_eq!(broken(&judge(&Deleted::new(), AT, &tree([over, &[]]))), Some(Invariant::L3));
        let old: &[Held] = &[tombstone(5, BEGAN)];
        let before = deleted(&tree([old, old]));
        assert_eq!(broken(&judge(&before, AT, &tree([&[], &[value(4)]]))), Some(Invariant::S14));
    }

    #[test]
    fn what_is_gone_young_newer_or_not_everywhere_is_accepted() {
        let old: &[Held] = &[tombstone(5, BEGAN)];
        let before = deleted(&tree([old, old]));
        assert_eq!(judge(&before, AT, &tree([&[], &[]])), Verdict::Valid);
        let young: &[Held] = &[tombstone(5, BEGAN + Duration::from_secs(600))];
        assert_eq!(judge(&before, AT, &tree([young, young])), Verdict::Valid, "a lost commit brought it back");
        assert_eq!(judge(&before, AT, &tree([old, &[]])), Verdict::Valid, "L1 judges that");
        assert_eq!(judge(&before, AT, &tree([&[value(6)], &[value(6)]])), Verdict::Valid);
        let lasts: &[Held] = &[Held { gone_at: BEGAN + Duration::from_secs(1_100), ..value(6) }];
        assert_eq!(judge(&before, AT, &tree([lasts, lasts])), Verdict::Valid);
        let mut full = tree([old, old]);
        full[0][0].full = true;
        assert_eq!(judge(&before, AT, &full), Verdict::Valid);
    }

    #[test]
    fn memories_in_which_not_all_held_a_tombstone_are_unknown() {
        assert!(matches!(judge(&Deleted::new(), AT, &[]), Verdict::Unknown(_)));
        let before = deleted(&tree([&[tombstone(5, BEGAN)], &[tombstone(4, BEGAN)]]));
        assert!(matches!(judge(&before, AT, &tree([&[], &[]])), Verdict::Unknown(_)));
    }
}
