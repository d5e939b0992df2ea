//! Preference lists: a partition's owners, then its fallbacks in walk order (PROTOCOL §2).
//!
//! Owners are looked up; fallbacks are walked on demand, because they are needed only while an owner is unreachable, and
//! a table of them would take partitions × members entries. Every member is in a preference list exactly once. The
//! list knows nothing of liveness: the coordinator skips whom it cannot reach.

use super::claim::Walk;
use crate::id::PartitionId;

/// The members behind the `owners` of `partition`, each once, of `members` with numbers below `numbered`. O(members / 8) bytes; a full iteration costs O(tokens).
pub(super) fn fallbacks(
    walk: &Walk,
    partition: PartitionId,
    owners: &[u16],
    numbered: usize,
    members: usize,
) -> impl Iterator<Item = u16> {
    let mut seen = vec![0u64; numbered.div_ceil(64)];
    let mut first_visit = move |index: u16| {
        let (word, bit) = (usize::from(index / 64), 1 << (index % 64));
        let unseen = seen[word] & bit == 0;
        seen[word] |= bit;
        unseen
    };
    for &owner in owners {
        first_visit(owner);
    }
    // Bounded by the count, so that the walk ends at the last new member rather than after a full turn.
    walk.from(partition).filter(move |index| first_visit(*index)).take(members - owners.len())
}
