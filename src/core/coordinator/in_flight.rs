//! The requests in flight of one shard: a bounded table whose ids never come back (PROTOCOL §4).
//!
//! An id is a sequence number above and a slot below. A reply that comes late finds another sequence number in its slot
//! and is known as late; ids of a table are used once, and tables of two processes begin at numbers drawn apart, so no
//! reply is ever matched to another request.

use super::{get, put, write};
use crate::{
    canary::canary,
    id::{KeyHash, NamespaceId, PartitionId},
    input::{Caller, PeerShard},
    limits::IN_FLIGHT_PER_SHARD,
    shard::WRITE_TIMERS,
    storage::{NamespaceSlot, Pin},
    time::Mono,
    value::OwnedEntry,
    wire::client::{Condition, Ttl},
};

const SLOT_BITS: u32 = 16;
const _: () = assert!(IN_FLIGHT_PER_SHARD <= 1 << SLOT_BITS);

/// Names one request in flight at this shard, on the wire too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperationId(pub(crate) u64);

/// Who waits for the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of this node.
    Caller(Caller),
    /// A node that forwarded a client's request under its number.
    Peer(PeerShard, u64),
    /// Nobody any more: it was answered, or the caller has gone.
    Nobody,
}

/// Which key a request is about, and the rules of its namespace that hold for it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) namespace: NamespaceId,
    pub(crate) slot: NamespaceSlot,
    pub(crate) hash: KeyHash,
    pub(crate) partition: PartitionId,
    pub(crate) key: Box<[u8]>,
    /// Copies, clamped to the layout.
    pub(crate) copies: u8,
    /// W, clamped.
    pub(crate) write: u8,
    /// W as it was asked for: the other active layout may have more owners.
    pub(crate) write_asked: u8,
    /// W of the namespace, if the request is strict.
    pub(crate) write_least: u8,
    pub(crate) strict: bool,
    pub(crate) degraded: bool,
}

impl Subject {
    /// W among so many owners: of a strict write no fewer than a copy that warms, and a layout that takes over, count on
    /// (`anti_entropy::readiness::needed`): fewer might all be no owners any more, and nobody would miss the write.
    pub(crate) fn votes_among(&self, owners: u8) -> u8 {
        self.write_asked.max(self.write_least.min(owners / 2 + 1)).min(owners)
    }
}

/// What a guarded write does once its read is decided.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub(crate) change: Change,
    pub(crate) condition: Condition,
}

/// The change a write makes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A new value.
    Put { value: Box<[u8]>, ttl: Ttl },
    /// A tombstone.
    Delete,
    /// The same value with a new expiry.
    Touch { ttl: Ttl },
}

/// How far a request is.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Collecting read votes.
    Read {
        votes: get::Votes,
        /// The newest entry that came with its body.
        body: Option<OwnedEntry>,
        /// The version whose body is being fetched from its holders, and who was asked last.
        fetching: Option<(crate::value::Version, usize)>,
        /// What comes after it; `None`: the reply.
        guarded: Option<Guarded>,
    },
    /// Collecting write votes.
    Write {
        votes: put::Votes,
        /// The version all were asked to hold.
        version: crate::value::Version,
        /// When it expires, for another stamp.
        expiry: write::Expiry,
        /// Keeps the coordinator's own copy from being evicted.
        pin: Option<Pin>,
        /// The write itself, once a peer's newer one took its place in the memtable.
        kept: Option<OwnedEntry>,
    },
    /// Sent on to an owner.
    Forwarded {
        /// The owner.
        to: u16,
        /// Whether the request writes.
        writes: bool,
    },
}

/// One request in flight.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) origin: Origin,
    pub(crate) subject: Subject,
    pub(crate) started: Mono,
    pub(crate) deadline: Mono,
    pub(crate) phase: Phase,
}

#[derive(Debug)]
struct Slot {
    sequence: u64,
    operation: Option<Operation>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    sequence: u64,
    len: usize,
    most: usize,
    /// How many writes are in flight by low bits of the key's hash: most keys a peer sends are written by nobody here.
    writes: Box<[u32; WRITES]>,
}

const WRITES: usize = 1024;
/// No memory is so small that a shard has no room for these.
const FEWEST: usize = 8;

fn bucket(hash: KeyHash) -> usize {
    usize::try_from(hash.0 % WRITES as u64).expect("below WRITES")
}

impl InFlight {
    /// An empty table that never takes more than `bytes`: it does not shrink, so what it once took is taken for good.
    /// `process` is drawn at each start and never again: its numbers begin elsewhere than those of an earlier process,
    /// whose answers may still come.
    pub(crate) fn new(bytes: u64, process: u64) -> Self {
        let slots = usize::try_from(bytes).unwrap_or(usize::MAX) / (size_of::<Slot>() + size_of::<u16>());
        let most = slots.clamp(FEWEST, IN_FLIGHT_PER_SHARD);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            sequence: process >> (SLOT_BITS + 1),
            len: 0,
            most,
            writes: Box::new([0; WRITES]),
        }
    }

    /// Whether a write to a key of this hash may be in flight; `false` is certain.
    #[inline]
    pub(crate) fn may_be_written(&self, hash: KeyHash) -> bool {
        self.writes[bucket(hash)] > 0
    }

    fn count_write(&mut self, operation: &Operation, begins: bool) {
        if let Phase::Write { .. } = operation.phase {
            let count = &mut self.writes[bucket(operation.subject.hash)];
            *count = if begins { *count + 1 } else { *count - 1 };
        }
    }

    /// Bytes that one more request adds to the table.
    pub(crate) fn growth(&self) -> u64 {
        let full = self.free.is_empty() && self.slots.len() == self.slots.capacity();
        if full { self.step() as u64 * (size_of::<Slot>() + size_of::<u16>()) as u64 } else { 0 }
    }

    fn step(&self) -> usize {
        self.slots.len().clamp(FEWEST, (self.most - self.slots.len()).max(FEWEST))
    }

    /// How many are in flight.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no more is admitted.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.most
    }

    /// Whether half of the places are taken: time for nothing but clients.
    pub(crate) fn is_crowded(&self) -> bool {
        self.len >= self.most / 2
    }

    /// Adds a request; the caller made sure that the table is not full.
    pub(crate) fn insert(&mut self, operation: Operation) -> OperationId {
        assert!(!self.is_full(), "admission refuses requests beyond the table");
        self.sequence += 1;
        self.len += 1;
        self.count_write(&operation, true);
        if self.free.is_empty() && self.slots.len() == self.slots.capacity() {
            let step = self.step();
            self.slots.reserve_exact(step);
            self.free.reserve_exact(self.slots.capacity());
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { sequence: 0, operation: None });
            u16::try_from(self.slots.len() - 1).expect("IN_FLIGHT_PER_SHARD slots fit 16 bits")
        });
        let slot = &mut self.slots[usize::from(index)];
        slot.sequence = self.sequence;
        slot.operation = Some(operation);
        OperationId(self.sequence << SLOT_BITS | u64::from(index))
    }

    fn slot(id: OperationId) -> usize {
        usize::try_from(id.0 & ((1 << SLOT_BITS) - 1)).expect("16 bits")
    }

    /// Whether the request is over.
    #[inline]
    pub(crate) fn is_over(&self, id: OperationId) -> bool {
        let slot = self.slots.get(Self::slot(id));
        !slot.is_some_and(|slot| slot.sequence == id.0 >> SLOT_BITS && slot.operation.is_some())
    }

    /// The request, unless it is over.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        let slot = self.slots.get_mut(Self::slot(id))?;
        if slot.sequence == id.0 >> SLOT_BITS || canary!(K3) { slot.operation.as_mut() } else { None }
    }

    /// The key of the request, unless it is over.
    #[inline]
    pub(crate) fn hash_of(&self, id: OperationId) -> Option<KeyHash> {
        let slot = self.slots.get(Self::slot(id))?;
        let operation = slot.operation.as_ref().filter(|_| slot.sequence == id.0 >> SLOT_BITS)?;
        Some(operation.subject.hash)
    }

    /// Takes the request out: it is over.
    pub(crate) fn remove(&mut self, id: OperationId) -> Option<Operation> {
        let index = Self::slot(id);
        let slot = self.slots.get_mut(index)?;
        if slot.sequence != id.0 >> SLOT_BITS {
            return None;
        }
        let operation = slot.operation.take()?;
        self.count_write(&operation, false);
        self.free.push(u16::try_from(index).expect("16 bits"));
        self.len -= 1;
        Some(operation)
    }

    /// All ids in flight, in slot order.
    pub(crate) fn ids(&self) -> Vec<OperationId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.operation.is_some())
            .map(|(index, slot)| OperationId(slot.sequence << SLOT_BITS | index as u64))
            .collect()
    }

    /// Whether any request that began at `since` or before, and asks replicas by itself, is still in flight.
    pub(crate) fn any_since_before(&self, since: Mono) -> bool {
        let began =
            |operation: &Operation| operation.started <= since && !matches!(operation.phase, Phase::Forwarded { .. });
        self.slots.iter().filter_map(|slot| slot.operation.as_ref()).any(began)
    }

    /// Bytes of the table itself.
    pub(crate) fn bytes(&self) -> u64 {
        (self.slots.capacity() * size_of::<Slot>() + self.free.capacity() * size_of::<u16>()) as u64
            + size_of_val(&*self.writes) as u64
    }
}

impl Operation {
    /// Bytes it owns beside its slot, and those that it will.
    pub(super) fn heap_bytes(&self) -> u64 {
        let key = self.subject.key.len() as u64;
        let phase = match &self.phase {
            Phase::Read { body, guarded, .. } => {
                let body = body.as_ref().and_then(|entry| entry.value.as_ref()).map_or(0, |value| value.len() as u64);
                let guarded = match guarded.as_ref().map(|guarded| &guarded.change) {
                    Some(Change::Put { value, .. }) => WRITE_TIMERS + value.len() as u64,
                    Some(Change::Delete | Change::Touch { .. }) => WRITE_TIMERS,
                    None => 0,
                };
                body + guarded
            }
            Phase::Write { kept, .. } => {
                kept.as_ref().and_then(|entry| entry.value.as_ref()).map_or(0, |value| value.len() as u64)
            }
            Phase::Forwarded { .. } => 0,
        };
        key + phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        Operation {
            origin: Origin::Nobody,
            subject: Subject {
                namespace: NamespaceId(1),
                slot: NamespaceSlot(0),
                hash: KeyHash(1),
                partition: PartitionId(0),
                key: Box::from(*b"k"),
                copies: 1,
                write: 1,
                write_asked: 1,
                write_least: 0,
                strict: false,
                degraded: false,
            },
            started: Mono(0),
            deadline: Mono(1),
            phase: Phase::Forwarded { to: 0, writes: false },
        }
    }

    #[test]
    fn a_late_reply_never_finds_the_request_that_took_its_slot() {
        let mut table = InFlight::new(1 << 16, 0);
        let first = table.insert(operation());
        assert!(table.remove(first).is_some());
        let second = table.insert(operation());
        assert_ne!(first, second);
        assert!(table.get_mut(first).is_none() && table.is_over(first));
        assert!(table.get_mut(second).is_some() && !table.is_over(second));
        assert!(table.remove(first).is_none());
        assert_eq!((table.len(), table.ids()), (1, vec![second]));
    }
}
