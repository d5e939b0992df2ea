//! What changed in the namespaces that are stored, for whoever stores it (`durable`).
//!
//! Noted where a record comes or goes, like the sums of the trees: `tree_add` is the one place where a record begins to be
//! held, and a record leaves by the sweep, by eviction, by a collection or with its partition. Only where, not what: who
//! takes the list looks up what is held now, so that a key that changed twice is stored as it is. What time alone does (a value
//! that becomes a tombstone at its end) is no change: the stored value becomes one too. Nothing is noted of other
//! namespaces, and nothing costs anything where none is stored.

use super::{NamespaceSlot, memtable::Memtable, record::Header};
use crate::id::{KeyHash, PartitionId};
use std::collections::BTreeSet;

/// A key whose entry came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) slot: NamespaceSlot,
    pub(crate) hash: KeyHash,
    pub(crate) key: Box<[u8]>,
}

/// Changes since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Changes {
    entries: Vec<Changed>,
    floors: BTreeSet<(u16, PartitionId)>,
    /// What is held from now on came from the disk.
    quiet: bool,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what was noted after the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
    }
}

impl Memtable {
    /// Whether what a declared namespace holds is stored.
    pub(crate) fn set_stored(&mut self, slot: NamespaceSlot, stored: bool) {
        let namespace = self.namespaces[usize::from(slot.0)].as_mut();
        namespace.expect("a namespace is declared before its first use").stored = stored;
    }

    fn is_stored(&self, slot: u16) -> bool {
        self.namespaces[usize::from(slot)].is_some_and(|namespace| namespace.stored)
    }

    /// A record begins to be held.
    #[inline]
    pub(super) fn note_held(&mut self, header: &Header, handle: super::segments::Handle) {
        if self.is_stored(header.namespace()) && !self.changes.quiet {
            let key = header.key(self.log.record(handle)).into();
            self.note_change(header, key);
        }
    }

    /// A record is not held any more.
    #[inline]
    pub(super) fn note_gone(&mut self, header: &Header, record: &[u8]) {
        if self.is_stored(header.namespace()) {
            self.note_change(header, header.key(record).into());
        }
    }

    /// As `note_gone`, of a record that lies in its segment.
    #[inline]
    pub(super) fn note_gone_at(&mut self, handle: super::segments::Handle) {
        let header = Header::read(self.log.record(handle));
        if self.is_stored(header.namespace()) {
            let key = header.key(self.log.record(handle)).into();
            self.note_change(&header, key);
        }
    }

    fn note_change(&mut self, header: &Header, key: Box<[u8]>) {
        let (slot, hash) = (NamespaceSlot(header.namespace()), KeyHash(header.hash));
        let changed = Changed { slot, hash, key };
        if self.changes.entries.last() != Some(&changed) {
            self.changes.entries.push(changed);
        }
    }

    /// A floor rose.
    pub(super) fn note_floor(&mut self, slot: u16, local: usize) {
        if self.is_stored(slot) && !self.changes.quiet {
            self.changes.floors.insert((slot, self.placement.partition(local)));
        }
    }

    /// Runs `change` without noting what it makes held: it is stored already. What leaves for it is noted.
    pub(crate) fn quietly<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        self.changes.quiet = true;
        let done = change(self);
        self.changes.quiet = false;
        done
    }

    /// The keys that changed, in order; some of them twice.
    pub(crate) fn take_changes(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changes.entries)
    }

    /// At most `most` of the floors that rose.
    pub(crate) fn take_risen(&mut self, most: usize) -> Vec<(NamespaceSlot, PartitionId)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((slot, partition)) = self.changes.floors.pop_first()
        {
            taken.push((NamespaceSlot(slot), partition));
        }
        taken
    }

    /// Whether there is nothing to take.
    #[inline]
    pub(crate) fn is_unchanged(&self) -> bool {
        self.changes.entries.is_empty()
    }
}
