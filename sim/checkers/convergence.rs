//! L1 `converges` and L2 `quiesces`, from the memories of the live owners of a tree: once faults ended and before anything is
//! read, and again after the reads.
//!
//! - All live owners that hold an entry hold the same version, unless it is too young, or too near its end, to be repaired.
//! - Where nothing is evicted, all hold it: what one owner holds and another does not is a difference that must not last.
//! - What an owner remembers as evicted is not older than it need be: a ghost below what others hold counts as older.
//! - Then nothing is sent any more: repairs, counted over all live shards, stand still.
//!
//! Not judged: an owner that refused writes for want of memory, and clocks beyond their bounds.

use meshwork_core::{
    anti_entropy::Held,
    id::{KeyHash, NamespaceId, NodeId},
};
use std::collections::BTreeMap;

/// What one live owner of a tree holds.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Who.
    pub node: NodeId,
    /// It refused something for want of memory since it started.
    pub full: bool,
    /// Its entries and ghosts.
    pub held: Vec<Held>,
}

/// Judges one tree by its live owners' copies; words for what differs.
pub fn judge(copies: &[Copy]) -> Option<String> {
    if copies.iter().any(|copy| copy.full) {
        return None;
    }
    let mut keys: BTreeMap<(NamespaceId, KeyHash), Vec<(NodeId, Held)>> = BTreeMap::new();
    for copy in copies {
        for held in &copy.held {
            keys.entry((held.namespace, held.hash)).or_default().push((copy.node, *held));
        }
    }
    for ((namespace, hash), holders) in keys {
        if holders.iter().any(|(_, held)| held.passing) {
            continue;
        }
        // Only who has the value can give it.
        let Some((giver, newest)) = holders.iter().filter(|(_, held)| !held.ghost).max_by_key(|(_, held)| held.version)
        else {
            continue;
        };
        if let Some((node, older)) = holders.iter().find(|(_, held)| held.version < newest.version) {
            return Some(format!(
                "{namespace:?}/{hash:?}: {node} holds {}, and {giver} {}",
                older.version, newest.version
            ));
        }
        let without = copies.iter().find(|copy| holders.iter().all(|(node, _)| *node != copy.node));
        if let Some(without) = without.filter(|_| !newest.evictable) {
            return Some(format!(
                "{namespace:?}/{hash:?}: {} holds nothing, and {giver} {}",
                without.node, newest.version
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample::held;

    fn copy(node: u128, held: Vec<Held>) -> Copy {
        Copy { node: NodeId(node), full: false, held }
    }

    #[test]
    fn owners_that_hold_different_versions_or_lack_one_are_refused() {
        assert!(judge(&[copy(1, vec![held(5)]), copy(2, vec![held(6)])]).is_some());
        assert!(judge(&[copy(1, vec![held(5)]), copy(2, vec![])]).is_some());
        let ghost = Held { ghost: true, evictable: true, ..held(5) };
        assert!(judge(&[copy(1, vec![ghost]), copy(2, vec![Held { evictable: true, ..held(6) }])]).is_some());
    }

    #[test]
    fn equal_owners_and_differences_that_are_none_to_repair_are_accepted() {
        assert_eq!(judge(&[copy(1, vec![held(5)]), copy(2, vec![held(5)])]), None);
        let evictable = Held { evictable: true, ..held(5) };
        assert_eq!(judge(&[copy(1, vec![evictable]), copy(2, vec![])]), None, "evicted there");
        let ghost = Held { ghost: true, ..evictable };
        assert_eq!(judge(&[copy(1, vec![Held { version: held(9).version, ..ghost }]), copy(2, vec![evictable])]), None);
        let young = Held { passing: true, ..held(6) };
        assert_eq!(judge(&[copy(1, vec![held(5)]), copy(2, vec![young])]), None);
        let full = Copy { full: true, ..copy(2, vec![]) };
        assert_eq!(judge(&[copy(1, vec![held(5)]), full]), None);
        assert_eq!(judge(&[]), None);
    }
}
