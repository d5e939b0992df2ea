//! Restored records that wait for their namespace: a shard is given what its disk holds before it knows any.
//!
//! Records are checked when they arrive and kept as they came, in the order they came, until the shard's view knows their namespace; then they are
//! taken one by one, so that a record is not held twice for longer than it takes to move it. Bounded by the bytes given at
//! creation. Of a partition that was dropped since, only the term is remembered: its older records are void.

use super::record::{Record, RestoreError, read};
use crate::id::{NamespaceId, PartitionId};
use std::collections::{BTreeMap, VecDeque};

/// What keeping a record costs beyond its bytes.
const RECORD_OVERHEAD: u64 = 2 * size_of::<Box<[u8]>>() as u64;
/// What keeping a term costs: a map node's share, generous.
const TERM_OVERHEAD: u64 = 32;

/// A record's key and value.
type Stored = (Box<[u8]>, Box<[u8]>);

/// The records.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    records: VecDeque<Stored>,
    terms: BTreeMap<PartitionId, u32>,
    bytes: u64,
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
        match record {
            Record::Term { partition, term } => {
                let known = self.terms.entry(*partition).or_default();
                *known = (*known).max(*term);
                Ok(())
            }
            Record::Barrier => Ok(()),
            Record::Entry { .. } | Record::Hint { .. } | Record::Floors { .. } => {
                let cost = RECORD_OVERHEAD + key.len() as u64 + value.len() as u64;
                if self.bytes + cost > self.bytes_max {
                    return Err(RestoreError::Memory);
                }
                self.bytes += cost;
                self.records.push_back((key.into(), value.into()));
                Ok(())
            }
        }
    }

    /// The highest term stored of a partition; 0: it was never dropped.
    pub(super) fn term(&self, partition: PartitionId) -> u32 {
        self.terms.get(&partition).copied().unwrap_or_default()
    }

    /// Notes that entries of the partition with a smaller term are void.
    pub(super) fn set_term(&mut self, partition: PartitionId, term: u32) {
        self.terms.insert(partition, term);
    }

    /// Forgets the records; the terms hold.
    pub(super) fn forget(&mut self) {
        (self.records, self.bytes) = (VecDeque::new(), 0);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.terms.len() as u64 * TERM_OVERHEAD
    }

    /// Takes the oldest record; those whose namespace nobody knows yet are to be given back.
    pub(super) fn pop(&mut self) -> Option<Stored> {
        let (key, value) = self.records.pop_front()?;
        self.bytes -= RECORD_OVERHEAD + key.len() as u64 + value.len() as u64;
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
        Some((key, value))
    }

    /// Whether any record waits for one of these namespaces.
    pub(super) fn awaits(&self, known: impl Fn(NamespaceId) -> bool) -> bool {
        self.records.iter().any(|(key, value)| match read(key, value) {
            Ok(Record::Entry { namespace, .. } | Record::Hint { namespace, .. } | Record::Floors { namespace, .. }) => {
                known(namespace)
            }
            Ok(Record::Term { .. } | Record::Barrier) | Err(_) => false,
        })
    }
}
