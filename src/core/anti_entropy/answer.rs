//! The answering side of a comparison: it keeps no state, and each question carries what its answer needs.
//!
//! Whatever arrives is judged against this node's own ring first: a tree that it or the asker does not own is answered with
//! `Later`, as are questions about another moment. Answers are bounded: roots by the partitions, keys by
//! `EXCHANGE_LEAVES_MAX` leaves and a few thousand items, entries by `EXCHANGE_BYTES_MAX`; the asker goes on from there.

use super::{merkle, readiness::TreeName};
use crate::{
    id::{KeyHash, PartitionId},
    input::PeerShard,
    limits,
    outbox::ShardOutbox,
    shard::Shard,
    storage::{Floors, Holding, TreeItem},
    time::Now,
    value::Version,
    view::View,
    wire::{
        exchange::{Exchange, FloorItem, KeyItem, Packed, PullItem, RootItem, Verdict, pack},
        peer::ReplicaState,
    },
};

/// Most items of one list of keys; equal hashes stay together.
const ITEMS_MAX: usize = 1_700;
/// Most entries sent for one request.
const PULLS_MAX: usize = 4_096;

/// The last key hash of a leaf: one of `2^bits` in `partition`, one of `2^partition_bits`.
pub(super) fn leaf_end(partition: PartitionId, partition_bits: u32, bits: u32, leaf: usize) -> u64 {
    let width = 64 - partition_bits - bits;
    let prefix = (u64::from(partition.0) << bits) | leaf as u64;
    match width {
        64 => u64::MAX,
        width => (prefix << width) | ((1 << width) - 1),
    }
}

impl Shard {
    pub(super) fn answer_roots(
        &mut self,
        now: Now,
        view: &View,
        from: PeerShard,
        id: u64,
        (hash_version, at, sum, full): (u8, u64, u64, bool),
        out: &mut dyn ShardOutbox,
    ) {
        let wall = self.comparing_wall(now);
        if hash_version != merkle::HASH_VERSION || self.table.trees_at(wall) != Some(at) {
            return self.send_exchange(now, from, id, Exchange::Later, out);
        }
        let trees = self.shared_trees(view, from);
        let equal = self.sum_of(&trees) == sum;
        let verdict = if equal { Verdict::Equal } else { Verdict::Different };
        let mut roots = Vec::new();
        if !equal || full {
            // What is not listed is Ready and empty, and dropped no tombstone alone.
            let item = |(copies, partition): &TreeName| RootItem {
                copies: *copies,
                partition: *partition,
                state: self.state_told(view, from.node, (*copies, *partition)),
                root: self.table.root(*copies, *partition),
                // Who does not warm has no use for it.
                shed: full && self.has_shed((*copies, *partition)),
            };
            let says_something = |item: &RootItem| item.root != 0 || item.state != ReplicaState::Ready || item.shed;
            roots = trees.iter().map(item).filter(says_something).collect();
        }
        let roots = pack(&roots);
        self.send_exchange(now, from, id, Exchange::RootsAre { verdict, roots: &roots }, out);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(super) fn answer_leaves(
        &mut self,
        now: Now,
        view: &View,
        from: PeerShard,
        id: u64,
        at: u64,
        tree: TreeName,
        first: u64,
        theirs: &[u8],
        out: &mut dyn ShardOutbox,
    ) {
        let wall = self.comparing_wall(now);
        let comparable = self.is_shared(view, from.node, tree) && self.table.trees_at(wall) == Some(at);
        let theirs = merkle::from_bytes(theirs, self.table.leaf_bits()).filter(|_| comparable);
        let Some(theirs) = theirs else { return self.send_exchange(now, from, id, Exchange::Later, out) };
        let bits = theirs.len().ilog2();
        let mine = self.table.leaves(tree.0, tree.1, bits);
        let partition_bits = self.config.partitions.trailing_zeros();
        let end = |leaf: usize| leaf_end(tree.1, partition_bits, bits, leaf);
        let mut differing = (0..mine.len()).filter(|leaf| mine.get(*leaf) != theirs.get(*leaf) && end(*leaf) >= first);
        let listed: Vec<usize> = differing.by_ref().take(limits::EXCHANGE_LEAVES_MAX).collect();
        let mut until =
            if differing.next().is_some() { listed.last().map_or(u64::MAX, |leaf| end(*leaf)) } else { u64::MAX };
        let mut leaves = vec![0u8; mine.len()];
        listed.iter().for_each(|leaf| leaves[*leaf] = 1);
        let mut items = if listed.is_empty() { Vec::new() } else { self.listed(tree, bits, &leaves, first, until) };
        if items.len() > ITEMS_MAX {
            // The list ends before the first hash that does not fit whole; one hash alone always does.
            let cut = items[ITEMS_MAX].hash;
            let kept = items.iter().position(|item| item.hash == cut).filter(|kept| *kept > 0);
            let kept = kept.unwrap_or_else(|| items.iter().filter(|item| item.hash == cut).count());
            items.truncate(kept);
            until = items.last().map_or(until, |item| item.hash.0);
        }
        let (floors, items) = (pack(&self.floor_items(tree)), pack(&items));
        let (copies, partition) = tree;
        let keys = Exchange::Keys {
            copies,
            partition,
            state: self.state_told(view, from.node, tree),
            from: first,
            until,
            leaves: &leaves,
            floors: &floors,
            items: &items,
        };
        self.anti_entropy.charge(items.len());
        self.send_exchange(now, from, id, keys, out);
    }

    /// What this shard holds of a tree between two hashes in the leaves that are marked, by hash.
    pub(crate) fn listed(&self, tree: TreeName, bits: u32, leaves: &[u8], first: u64, until: u64) -> Vec<KeyItem> {
        let mut items = Vec::new();
        self.table.visit_tree(tree.0, tree.1, |item: TreeItem| {
            let inside = item.hash.0 >= first && item.hash.0 <= until;
            let marked = leaves.get(self.table.leaf_of(item.hash, bits)).is_some_and(|leaf| *leaf != 0);
            if !inside || !marked {
                return;
            }
            let Some(namespace) = self.spaces.get(usize::from(item.slot.0)) else { return };
            items.push(KeyItem {
                namespace: *namespace,
                hash: item.hash,
                version: item.version,
                entry_hash: item.entry_hash,
                ghost: item.holding == Holding::Ghost,
                gone: self.rules.get(namespace).is_some_and(|rules| rules.gone),
                gone_at: item.gone_at,
            });
        });
        items.sort_unstable_by_key(|item| (item.hash, item.namespace));
        items
    }

    /// Whether tombstones of a tree were dropped that not all owners agreed to forget, here or at who this copy was compared with.
    fn has_shed(&self, (copies, partition): TreeName) -> bool {
        let of_tree = |rules: &&crate::shard::Rules| rules.n == copies;
        self.table.stats().tombstone_floor_raised > 0
            && self.rules.values().filter(of_tree).any(|rules| self.table.has_shed(rules.slot, partition))
    }

    /// The forget floors of all namespaces of a tree that have risen.
    pub(super) fn floor_items(&self, (copies, partition): TreeName) -> Vec<FloorItem> {
        let item = |namespace: &crate::id::NamespaceId| {
            let rules = self.rules.get(namespace).filter(|rules| rules.n == copies)?;
            let Floors { evicted, tombstone } = self.table.floors(rules.slot, partition);
            let risen = evicted.max(tombstone) > Version::ZERO;
            risen.then_some(FloorItem { namespace: *namespace, evicted, tombstone })
        };
        self.spaces.iter().filter_map(item).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(super) fn answer_pull(
        &mut self,
        now: Now,
        view: &View,
        from: PeerShard,
        id: u64,
        partition: PartitionId,
        items: &[u8],
        out: &mut dyn ShardOutbox,
    ) {
        let mut bytes = 0;
        for PullItem { namespace, hash } in PullItem::list(items).take(PULLS_MAX) {
            let Some(rules) = self.rules.get(&namespace).copied().filter(|rules| !rules.gone) else { continue };
            let tree = (rules.n, partition);
            if !self.is_shared(view, from.node, tree) || hash.partition(self.config.partitions) != partition {
                continue;
            }
            bytes += self.send_repair(now, from, (rules.slot, KeyHash(hash.0)), out).unwrap_or(0);
            if bytes >= limits::EXCHANGE_BYTES_MAX {
                break;
            }
        }
        self.send_exchange(now, from, id, Exchange::Pulled { partition }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_end_where_the_next_ones_begin() {
        assert_eq!(leaf_end(PartitionId(0), 0, 0, 0), u64::MAX);
        assert_eq!(leaf_end(PartitionId(3), 2, 0, 0), u64::MAX);
        assert_eq!(leaf_end(PartitionId(0), 2, 1, 0), (1 << 61) - 1);
        assert_eq!(leaf_end(PartitionId(0), 2, 1, 1), (1 << 62) - 1);
        assert_eq!(leaf_end(PartitionId(1), 2, 1, 0), (1 << 62) + (1 << 61) - 1);
        for hash in [5u64, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0] {
            let (partition, leaf) = (KeyHash(hash).partition(16), merkle::leaf_of(hash, 4, 8));
            let end = leaf_end(partition, 4, 8, leaf);
            assert!(hash <= end && end - hash < (1 << 52), "{hash:x} {end:x}");
        }
    }
}
