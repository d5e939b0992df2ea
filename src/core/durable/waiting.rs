//! Restored records that wait for their namespace: a shard is given what its disk holds before it knows any.
//!
//! Records are checked when they arrive and kept in the order they came, until the shard's view knows their namespace; then they are taken
//! one by one, so that a record is not held twice for longer than it takes to move it. They lie packed, one behind the other and
//! without their hash, so that a record weighs less than the memtable's entry that comes of it: what a full memory held once waits in the
//! same memory. Bounded by the bytes given at creation, but for floors and terms, which are few. Of a partition that was
//! dropped since, only the term is remembered: its older records are void; of what found no room, the newest version.

use super::{
    packed::{LENGTH_MAX, Packed},
    record::{self, Record, RestoreError},
};
use crate::{
    id::{KeyHasher, NamespaceId, PartitionId},
    storage::{ALL_COPIES, Floors, LowTrees},
    value::{Body, Version},
};
use std::collections::BTreeMap;

/// What keeping a term or what was lost of a partition costs: a map node's share, generous.
const TERM_OVERHEAD: u64 = 32;
const LOST_OVERHEAD: u64 = 96;

/// A record's key and value.
type Stored = (Vec<u8>, Vec<u8>);

/// Of which namespace and partition, and as of which term, something was lost.
pub(super) type Lost = (NamespaceId, PartitionId, u32);

/// The records.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    records: Packed,
    /// How many wait, by namespace.
    namespaces: BTreeMap<NamespaceId, usize>,
    /// The newest that found no room, and of those that were deleted.
    lost: BTreeMap<Lost, Floors>,
    /// Where no copies are named, what an entry says that its partition had come to.
    terms: BTreeMap<LowTrees, u32>,
    bytes_max: u64,
}

impl Waiting {
    /// None, and never more than `bytes_max`.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Keeps a record that was read before.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn push(&mut self, record: &Record<'_>, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (namespace, few) = match record {
            Record::Term { trees, term } => {
                self.set_term(*trees, *term);
                return Ok(());
            }
            Record::Barrier => return Ok(()),
            Record::Floors { namespace, .. } => (*namespace, true),
            Record::Entry { namespace, .. } | Record::Hint { namespace, .. } => (*namespace, false),
        };
        let (kind, rest) = record::without_hash(key);
        let more = 2 * LENGTH_MAX + kind.len() + rest.len() + value.len();
        if !few && self.records.bytes_with(more) > self.bytes_max {
            return Err(RestoreError::Memory);
        }
        self.records.put_length(kind.len() + rest.len());
        self.records.put_length(value.len());
        [kind, rest, value].into_iter().for_each(|bytes| self.records.put(bytes));
        *self.namespaces.entry(namespace).or_default() += 1;
        Ok(())
    }

    /// What a partition has come to: what is stored of it now has this term. 0: nothing of it was ever dropped.
    pub(super) fn term(&self, partition: PartitionId) -> u32 {
        self.least_term(partition, 0)
    }

    /// Entries of namespaces with so many copies and a smaller term are void.
    pub(super) fn least_term(&self, partition: PartitionId, copies: u8) -> u32 {
        self.terms.range((partition, copies)..=(partition, ALL_COPIES)).map(|(_, term)| *term).max().unwrap_or_default()
    }

    /// The term at which some trees were dropped last.
    pub(super) fn term_of(&self, trees: LowTrees) -> u32 {
        self.terms.get(&trees).copied().unwrap_or_default()
    }

    /// Notes that entries of these trees with a smaller term are void.
    pub(super) fn set_term(&mut self, trees: LowTrees, term: u32) {
        let known = self.terms.entry(trees).or_default();
        *known = term.max(*known);
    }

    /// Notes that an entry found no room.
    pub(super) fn lose(&mut self, of: Lost, version: Version, body: Body<'_>) {
        let lost = self.lost.entry(of).or_default();
        lost.evicted = lost.evicted.max(version);
        if body == Body::Tombstone {
            lost.tombstone = lost.tombstone.max(version);
        }
    }

    /// What was lost of namespaces that are known now.
    pub(super) fn take_lost(&mut self, known: impl Fn(NamespaceId) -> bool) -> BTreeMap<Lost, Floors> {
        self.lost.extract_if(.., |(namespace, ..), _| known(*namespace)).collect()
    }

    /// Forgets the records; the terms hold.
    pub(super) fn forget(&mut self) {
        (self.records, self.namespaces, self.lost) = Default::default();
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.namespaces.values().sum()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        let lists = self.terms.len() as u64 * TERM_OVERHEAD + self.lost.len() as u64 * LOST_OVERHEAD;
        self.records.bytes_with(0) + lists
    }

    /// Takes the oldest record; those whose namespace nobody knows yet are to be given back.
    pub(super) fn pop(&mut self, hasher: &KeyHasher) -> Option<Stored> {
        if self.namespaces.is_empty() {
            return None;
        }
        let (key_length, value_length) = (self.records.take_length(), self.records.take_length());
        let key = record::with_hash(&self.records.take(key_length), hasher);
        let value = self.records.take(value_length);
        if let Ok(Record::Entry { namespace, .. } | Record::Hint { namespace, .. } | Record::Floors { namespace, .. }) =
            record::read(&key, &value)
            && let Some(waiting) = self.namespaces.get_mut(&namespace)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.namespaces.remove(&namespace);
            }
        }
        if self.namespaces.is_empty() {
            self.records = Packed::default();
        }
        Some((key, value))
    }

    /// Whether anything waits for one of these namespaces.
    pub(super) fn awaits(&self, known: impl Fn(NamespaceId) -> bool) -> bool {
        self.namespaces.keys().any(|namespace| known(*namespace))
            || self.lost.keys().any(|(namespace, ..)| known(*namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ClusterId,
        time::Wall,
        value::{Entry, Hlc},
    };

    #[test]
    fn records_come_out_as_they_went_in_over_the_edges_of_chunks() {
        let (hasher, space) = (KeyHasher::new(ClusterId(7)), NamespaceId(3));
        let version = Version { hlc: Hlc::at(Wall(5)), actor: crate::id::ActorId(1) };
        let mut waiting = Waiting::new(1 << 20);
        let (mut key, mut value, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..200u32 {
            let (name, body) = (number.to_le_bytes(), vec![7; number as usize * 17]);
            let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(&body) };
            record::entry_value(&mut value, 2, &entry);
            match number % 3 {
                0 => record::hint_key(&mut key, crate::id::NodeId(9), space, hasher.hash(space, &name), &name),
                _ => record::entry_key(&mut key, space, hasher.hash(space, &name), &name),
            }
            waiting.push(&record::read(&key, &value).unwrap(), &key, &value).unwrap();
            given.push((key.clone(), value.clone()));
        }
        assert!(waiting.len() == 200 && waiting.awaits(|known| known == space) && !waiting.awaits(|_| false));
        for expected in given {
            assert_eq!(waiting.pop(&hasher), Some(expected));
        }
        assert_eq!((waiting.pop(&hasher), waiting.len(), waiting.bytes()), (None, 0, 0));
    }

    #[test]
    fn floors_wait_whatever_room_there_is_and_entries_do_not() {
        let (mut waiting, space) = (Waiting::new(0), NamespaceId(3));
        let (mut key, mut value) = (Vec::new(), Vec::new());
        record::floors_key(&mut key, space, PartitionId(1));
        record::floors_value(&mut value, Floors::default());
        assert_eq!(waiting.push(&record::read(&key, &value).unwrap(), &key, &value), Ok(()));
        let entry = Entry { version: Version::ZERO, expires_at: None, hold_until: None, body: Body::Tombstone };
        record::entry_key(&mut key, space, crate::id::KeyHash(1), b"k");
        record::entry_value(&mut value, 0, &entry);
        assert_eq!(waiting.push(&record::read(&key, &value).unwrap(), &key, &value), Err(RestoreError::Memory));
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn trees_have_terms_of_their_own_and_the_next_one_is_above_all_that_was_heard_of() {
        let (mut waiting, partition) = (Waiting::new(0), PartitionId(1));
        let least = |waiting: &Waiting| [1, 2, 3].map(|copies| waiting.least_term(partition, copies));
        waiting.set_term((partition, 0), 5);
        assert_eq!((waiting.term(partition), least(&waiting)), (5, [0; 3]), "an entry's word voids nothing");
        waiting.set_term((partition, 2), 6);
        assert_eq!((waiting.term(partition), least(&waiting)), (6, [6, 6, 0]));
        waiting.set_term((partition, ALL_COPIES), 7);
        assert_eq!((waiting.term(partition), least(&waiting)), (7, [7; 3]));
        assert_eq!((waiting.term(PartitionId(2)), waiting.term_of((partition, 2))), (0, 6));
    }
}
