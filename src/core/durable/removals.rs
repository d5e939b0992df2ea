//! Records that are void, or of no use, to be removed from the disk by and by.
//!
//! A node that was given up lets go of all that it held, in one step, and a start may find as much that is void. A word to the disk for each
//! in the same step would take gigabytes beside the memory's limit, and stand before what clients write. So their keys wait, packed, in less
//! than the memory that they took themselves, and go some at a time: the next ones once the disk has answered for those before.
//!
//! Nothing depends on it: what is void is so by its term (`record`). A key under which something is held again is left out; its new
//! record took the place of the old one, or will. (Where the namespace is not stored any more there is none: the old one is found, and passed
//! over, at each start.) What the disk refused waits again.

use super::{packed::Packed, record};
use crate::{id::KeyHasher, time::Mono};

/// Most records that are removed at once.
const BATCH: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Removals {
    keys: Packed,
    waiting: usize,
    /// Given to the disk and not answered, with the ticket of the last.
    given: Vec<Vec<u8>>,
    ticket: Option<u64>,
    not_before: Mono,
}

impl Removals {
    /// The record under this key is to be removed.
    pub(super) fn push(&mut self, key: &[u8]) {
        let (kind, rest) = record::without_hash(key);
        self.keys.put_length(kind.len() + rest.len());
        self.keys.put(kind);
        self.keys.put(rest);
        self.waiting += 1;
    }

    /// Whether some may be given to the disk now.
    #[inline]
    pub(super) fn is_due(&self, now: Mono) -> bool {
        self.waiting > 0 && self.ticket.is_none() && now >= self.not_before
    }

    /// Takes the oldest keys.
    pub(super) fn take(&mut self, hasher: &KeyHasher) -> Vec<Vec<u8>> {
        let count = self.waiting.min(BATCH);
        self.waiting -= count;
        let mut take = || {
            let length = self.keys.take_length();
            record::with_hash(&self.keys.take(length), hasher)
        };
        let taken = (0..count).map(|_| take()).collect();
        if self.waiting == 0 {
            self.keys = Packed::default();
        }
        taken
    }

    /// These were given to the disk, the last with this ticket.
    pub(super) fn follow(&mut self, ticket: u64, given: Vec<Vec<u8>>) {
        (self.ticket, self.given) = (Some(ticket), given);
    }

    /// The disk has all up to `through`.
    pub(super) fn on_stored(&mut self, through: u64) {
        if self.ticket.is_some_and(|ticket| ticket <= through) {
            (self.ticket, self.given) = (None, Vec::new());
        }
    }

    /// The disk has nothing from `from` on, and is asked again then.
    pub(super) fn on_failed(&mut self, from: u64, again_at: Mono) {
        if self.ticket.take_if(|ticket| *ticket >= from).is_some() {
            std::mem::take(&mut self.given).iter().for_each(|key| self.push(key));
            self.not_before = again_at;
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.keys.bytes_with(0)
            + self.given.iter().map(|key| (size_of::<Vec<u8>>() + key.capacity()) as u64).sum::<u64>()
    }

    /// How many records are yet to be removed.
    pub(super) fn len(&self) -> usize {
        self.waiting + self.given.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterId, NamespaceId, NodeId};

    #[test]
    fn what_a_disk_refused_waits_again_and_one_batch_is_out_at_a_time() {
        let (hasher, space) = (KeyHasher::new(ClusterId(7)), NamespaceId(3));
        let (mut removals, mut key) = (Removals::default(), Vec::new());
        for number in (0u32..).take(BATCH + 9) {
            let (name, target) = (number.to_be_bytes(), NodeId(u128::from(number)));
            let hash = hasher.hash(space, &name);
            match number % 2 {
                0 => record::entry_key(&mut key, space, hash, &name),
                _ => record::hint_key(&mut key, target, space, hash, &name),
            }
            removals.push(&key);
        }
        assert!(removals.is_due(Mono(0)));
        let first = removals.take(&hasher);
        assert_eq!((first.len(), removals.len()), (BATCH, 9));
        assert_eq!(
            record::named(&first[2]),
            Some((None, space, hasher.hash(space, &2u32.to_be_bytes()), &2u32.to_be_bytes()[..]))
        );
        assert_eq!(record::named(&first[3]).map(|(target, ..)| target), Some(Some(NodeId(3))));
        removals.follow(7, first);
        assert!(!removals.is_due(Mono(0)) && removals.bytes() > 0);
        removals.on_failed(8, Mono(5));
        assert!(!removals.is_due(Mono(9)), "those are out still");
        removals.on_failed(6, Mono(5));
        assert!(!removals.is_due(Mono(4)) && removals.is_due(Mono(5)) && removals.len() == BATCH + 9);
        for ticket in [9, 10] {
            let batch = removals.take(&hasher);
            removals.follow(ticket, batch);
            removals.on_stored(ticket - 1);
            assert!(!removals.is_due(Mono(9)));
            removals.on_stored(ticket);
        }
        assert_eq!((removals.len(), removals.bytes(), removals.is_due(Mono(9))), (0, 0, false));
    }
}
