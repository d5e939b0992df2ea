//! The format of what a shard stores: keys and values of the driver's map (PROTOCOL §3; ARCHITECTURE §1, "log").
//!
//! ```text
//! key:   1 | hash 8 | namespace 4 | key              value: 1 | flags 1 | term 4 | hlc 8 | actor 8 | [expiry 8] [hold 8] | value
//!        2 | hash 8 | namespace 4 | target 16 | key         as of an entry; term 0
//!        3 | partition 2 | namespace 4                      1 | evicted 16 | tombstone 16
//!        4 | partition 2 [| copies 1]                       1 | term 4
//!        5 | shard 2                                        1
//! ```
//!
//! Integers are big-endian, so that a scan meets the records of a partition together. A value begins with the version of
//! the format; bytes under one version never change their meaning: the fixtures below hold that. Nothing here is trusted when it is
//! read: lengths are checked before anything is sliced, and a record that does not decode is an error, never a panic.
//! What it is not: a checksum, which is the driver's, as torn records are.

use crate::{
    id::{ActorId, KeyHash, KeyHasher, NamespaceId, NodeId, PartitionId},
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    storage::{ALL_COPIES, Floors, LowTrees},
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};

/// The version that is written.
const FORMAT: u8 = 1;
/// Longest key of a record, bytes: that of a hint.
pub const STORE_KEY_BYTES_MAX: usize = 1 + 8 + 4 + 16 + KEY_BYTES_MAX;
/// Longest value of a record, bytes.
pub const STORE_VALUE_BYTES_MAX: usize = 64 + VALUE_BYTES_MAX as usize;

const ENTRY: u8 = 1;
const HINT: u8 = 2;
const FLOORS: u8 = 3;
const TERM: u8 = 4;
const BARRIER: u8 = 5;

const TOMBSTONE: u8 = 1;
const EXPIRES: u8 = 2;
const HOLD: u8 = 4;

/// Why a stored record cannot be used. It is skipped: peers bring what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by a newer process, or not by meshwork.
    #[error("a stored record is of the unknown kind {0}: a newer version wrote it, or the disk is damaged")]
    Kind(u8),
    /// Written by a newer process.
    #[error("a stored record has the unknown format {0}: a newer version wrote it, or the disk is damaged")]
    Format(u8),
    /// Too short, too long, or with bits that nobody sets.
    #[error("a stored record is malformed: the disk is damaged")]
    Malformed,
    /// Its hash is not that of its key in this cluster.
    #[error("a stored record is of another cluster, or the disk is damaged")]
    Hash,
    /// Its partition is another shard's: see `stored_shard`.
    #[error("a stored record belongs to another shard")]
    Shard,
    /// More is stored than memory holds.
    #[error("there is no memory for a stored record: raise memory.limit")]
    Memory,
}

/// One record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// What is held of a key.
    Entry { namespace: NamespaceId, hash: KeyHash, key: &'a [u8], term: u32, entry: Entry<'a> },
    /// What is held for an owner that could not be reached.
    Hint { target: NodeId, namespace: NamespaceId, hash: KeyHash, key: &'a [u8], entry: Entry<'a> },
    /// What was forgotten.
    Floors { namespace: NamespaceId, partition: PartitionId, floors: Floors },
    /// Entries of these trees with a smaller term are void: they were dropped since.
    Term { trees: LowTrees, term: u32 },
    /// Written to learn that all before it is synced.
    Barrier,
}

/// The key of an entry's record.
pub(crate) fn entry_key(out: &mut Vec<u8>, namespace: NamespaceId, hash: KeyHash, key: &[u8]) {
    out.clear();
    out.push(ENTRY);
    out.extend_from_slice(&hash.0.to_be_bytes());
    out.extend_from_slice(&namespace.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// A record's key without the hash that follows from the rest of it, in two pieces: what comes before, and after.
pub(super) fn without_hash(key: &[u8]) -> (&[u8], &[u8]) {
    if key[0] == ENTRY { (&key[..1], &key[1 + size_of::<KeyHash>()..]) } else { (key, &[]) }
}

/// The key of a record, of which `without_hash` made this.
pub(super) fn with_hash(packed: &[u8], hasher: &KeyHasher) -> Vec<u8> {
    let Some((namespace, name)) = packed[1..].split_first_chunk().filter(|_| packed[0] == ENTRY) else {
        return packed.to_vec();
    };
    let (namespace, mut key) = (NamespaceId(u32::from_be_bytes(*namespace)), Vec::with_capacity(packed.len() + 8));
    entry_key(&mut key, namespace, hasher.hash(namespace, name), name);
    key
}

/// Whose record a key is, entry or hint: the target of a hint, namespace, hash and name.
pub(super) fn named(key: &[u8]) -> Option<(Option<NodeId>, NamespaceId, KeyHash, &[u8])> {
    let mut fields = Fields(key);
    let kind = fields.u8().ok().filter(|kind| [ENTRY, HINT].contains(kind))?;
    let (hash, namespace) = (KeyHash(fields.u64().ok()?), NamespaceId(fields.u32().ok()?));
    let target = if kind == HINT { Some(NodeId(u128::from_be_bytes(fields.take().ok()?))) } else { None };
    Some((target, namespace, hash, fields.0))
}

/// The key of a hint's record.
pub(crate) fn hint_key(out: &mut Vec<u8>, target: NodeId, namespace: NamespaceId, hash: KeyHash, key: &[u8]) {
    out.clear();
    out.push(HINT);
    out.extend_from_slice(&hash.0.to_be_bytes());
    out.extend_from_slice(&namespace.0.to_be_bytes());
    out.extend_from_slice(&target.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// The key of the floors' record.
pub(crate) fn floors_key(out: &mut Vec<u8>, namespace: NamespaceId, partition: PartitionId) {
    out.clear();
    out.push(FLOORS);
    out.extend_from_slice(&partition.0.to_be_bytes());
    out.extend_from_slice(&namespace.0.to_be_bytes());
}

/// The key of the term of some trees of a partition; without a number of copies it is all of them.
pub(crate) fn term_key(out: &mut Vec<u8>, (partition, copies): LowTrees) {
    out.clear();
    out.push(TERM);
    out.extend_from_slice(&partition.0.to_be_bytes());
    if copies != ALL_COPIES {
        out.push(copies);
    }
}

/// The key of a shard's barrier.
pub(crate) fn barrier_key(out: &mut Vec<u8>, shard: u16) {
    out.clear();
    out.push(BARRIER);
    out.extend_from_slice(&shard.to_be_bytes());
}

/// The value of an entry's or a hint's record.
pub(crate) fn entry_value(out: &mut Vec<u8>, term: u32, entry: &Entry<'_>) {
    let (value, tombstone) = match entry.body {
        Body::Value(value) => (value, 0),
        Body::Tombstone => (&[][..], TOMBSTONE),
    };
    let expires = if entry.expires_at.is_some() { EXPIRES } else { 0 };
    let hold = if entry.hold_until.is_some() { HOLD } else { 0 };
    out.clear();
    out.extend_from_slice(&[FORMAT, tombstone | expires | hold]);
    out.extend_from_slice(&term.to_be_bytes());
    put_version(out, entry.version);
    for wall in entry.expires_at.into_iter().chain(entry.hold_until) {
        out.extend_from_slice(&wall.0.to_be_bytes());
    }
    out.extend_from_slice(value);
}

/// The value of the floors' record.
pub(crate) fn floors_value(out: &mut Vec<u8>, floors: Floors) {
    out.clear();
    out.push(FORMAT);
    put_version(out, floors.evicted);
    put_version(out, floors.tombstone);
}

/// The value of a term's record.
pub(crate) fn term_value(out: &mut Vec<u8>, term: u32) {
    out.clear();
    out.push(FORMAT);
    out.extend_from_slice(&term.to_be_bytes());
}

/// The value of a barrier's record.
pub(crate) fn barrier_value(out: &mut Vec<u8>) {
    out.clear();
    out.push(FORMAT);
}

fn put_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.hlc.0.to_be_bytes());
    out.extend_from_slice(&version.actor.0.to_be_bytes());
}

/// Takes fields off the front of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(RestoreError::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, RestoreError> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, RestoreError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, RestoreError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, RestoreError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn version(&mut self) -> Result<Version, RestoreError> {
        Ok(Version { hlc: Hlc(self.u64()?), actor: ActorId(self.u64()?) })
    }

    fn key(self) -> Result<&'a [u8], RestoreError> {
        if self.0.len() > KEY_BYTES_MAX { Err(RestoreError::Malformed) } else { Ok(self.0) }
    }

    fn end(self) -> Result<(), RestoreError> {
        if self.0.is_empty() { Ok(()) } else { Err(RestoreError::Malformed) }
    }
}

fn read_entry(mut fields: Fields<'_>) -> Result<(u32, Entry<'_>), RestoreError> {
    let flags = fields.u8()?;
    if flags & !(TOMBSTONE | EXPIRES | HOLD) != 0 {
        return Err(RestoreError::Malformed);
    }
    let (term, version) = (fields.u32()?, fields.version()?);
    let expires_at = if flags & EXPIRES != 0 { Some(Wall(fields.u64()?)) } else { None };
    let hold_until = if flags & HOLD != 0 { Some(Wall(fields.u64()?)) } else { None };
    let value = fields.0;
    let tombstone = flags & TOMBSTONE != 0;
    if value.len() > VALUE_BYTES_MAX as usize || tombstone && !value.is_empty() {
        return Err(RestoreError::Malformed);
    }
    let body = if tombstone { Body::Tombstone } else { Body::Value(value) };
    Ok((term, Entry { version, expires_at, hold_until, body }))
}

/// Reads a record.
pub(crate) fn read<'a>(key: &'a [u8], value: &'a [u8]) -> Result<Record<'a>, RestoreError> {
    let (mut key, mut value) = (Fields(key), Fields(value));
    let kind = key.u8()?;
    if !(ENTRY..=BARRIER).contains(&kind) {
        return Err(RestoreError::Kind(kind));
    }
    let format = value.u8()?;
    if format != FORMAT {
        return Err(RestoreError::Format(format));
    }
    match kind {
        ENTRY => {
            let (hash, namespace) = (KeyHash(key.u64()?), NamespaceId(key.u32()?));
            let (term, entry) = read_entry(value)?;
            Ok(Record::Entry { namespace, hash, key: key.key()?, term, entry })
        }
        HINT => {
            let (hash, namespace) = (KeyHash(key.u64()?), NamespaceId(key.u32()?));
            let target = NodeId(u128::from_be_bytes(key.take()?));
            let (_, entry) = read_entry(value)?;
            Ok(Record::Hint { target, namespace, hash, key: key.key()?, entry })
        }
        FLOORS => {
            let (partition, namespace) = (PartitionId(key.u16()?), NamespaceId(key.u32()?));
            let floors = Floors { evicted: value.version()?, tombstone: value.version()? };
            key.end().and(value.end())?;
            Ok(Record::Floors { namespace, partition, floors })
        }
        TERM => {
            let partition = PartitionId(key.u16()?);
            let copies = if key.0.is_empty() { ALL_COPIES } else { key.u8()? };
            let term = value.u32()?;
            key.end().and(value.end())?;
            Ok(Record::Term { trees: (partition, copies), term })
        }
        _ => {
            key.u16()?;
            key.end().and(value.end())?;
            Ok(Record::Barrier)
        }
    }
}

/// Which of `shards` shards a stored record belongs to, by its key, in a cluster of so many partitions; `None`: it does not
/// decode. A node that changes its number of shards moves records by this.
pub fn stored_shard(key: &[u8], shards: u16, partitions: u16) -> Option<u16> {
    let mut fields = Fields(key);
    let partition = match fields.u8().ok()? {
        ENTRY | HINT => KeyHash(fields.u64().ok()?).partition(partitions),
        FLOORS | TERM | BARRIER => PartitionId(fields.u16().ok()?),
        _ => return None,
    };
    partition.0.checked_rem(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: KeyHash = KeyHash(0x8001_0203_0405_0607);
    const SPACE: NamespaceId = NamespaceId(0x0a0b_0c0d);
    const VERSION: Version = Version { hlc: Hlc(0x0102), actor: ActorId(0x0304) };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn pair(write: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
        let (mut key, mut value) = (vec![9], vec![9]);
        write(&mut key, &mut value);
        (key, value)
    }

    #[test]
    fn the_bytes_of_format_one_never_change() {
        let held = Entry {
            version: VERSION,
            expires_at: Some(Wall(0x05)),
            hold_until: Some(Wall(0x06)),
            body: Body::Value(b"v"),
        };
        let (key, value) = pair(|key, value| {
            entry_key(key, SPACE, HASH, b"k");
            entry_value(value, 7, &held);
        });
        assert_eq!(hex(&key), "0180010203040506070a0b0c0d6b");
        assert_eq!(
            hex(&value),
            "01060000000700000000000001020000000000000304000000000000000500000000000000\
             0676"
        );
        let expected = Record::Entry { namespace: SPACE, hash: HASH, key: b"k", term: 7, entry: held };
        assert_eq!(read(&key, &value), Ok(expected));

        let buried = Entry { version: VERSION, expires_at: None, hold_until: None, body: Body::Tombstone };
        let (key, value) = pair(|key, value| {
            hint_key(key, NodeId(5), SPACE, HASH, b"k");
            entry_value(value, 0, &buried);
        });
        assert_eq!(hex(&key), "0280010203040506070a0b0c0d000000000000000000000000000000056b");
        assert_eq!(hex(&value), "01010000000000000000000001020000000000000304");
        let expected = Record::Hint { target: NodeId(5), namespace: SPACE, hash: HASH, key: b"k", entry: buried };
        assert_eq!(read(&key, &value), Ok(expected));

        let floors = Floors { evicted: VERSION, tombstone: Version::ZERO };
        let (key, value) = pair(|key, value| {
            floors_key(key, SPACE, PartitionId(3));
            floors_value(value, floors);
        });
        assert_eq!(hex(&key), "0300030a0b0c0d");
        assert_eq!(hex(&value), "010000000000000102000000000000030400000000000000000000000000000000");
        let expected = Record::Floors { namespace: SPACE, partition: PartitionId(3), floors };
        assert_eq!(read(&key, &value), Ok(expected));

        let (key, value) = pair(|key, value| {
            term_key(key, (PartitionId(3), ALL_COPIES));
            term_value(value, 9);
        });
        assert_eq!((hex(&key), hex(&value)), ("040003".to_owned(), "0100000009".to_owned()));
        assert_eq!(read(&key, &value), Ok(Record::Term { trees: (PartitionId(3), ALL_COPIES), term: 9 }));
        let (key, _) = pair(|key, _| term_key(key, (PartitionId(3), 2)));
        assert_eq!(hex(&key), "04000302");
        assert_eq!(read(&key, &value), Ok(Record::Term { trees: (PartitionId(3), 2), term: 9 }));

        let (key, value) = pair(|key, value| {
            barrier_key(key, 2);
            barrier_value(value);
        });
        assert_eq!((hex(&key), hex(&value)), ("050002".to_owned(), "01".to_owned()));
        assert_eq!(read(&key, &value), Ok(Record::Barrier));
    }

    #[test]
    fn a_damaged_record_is_an_error_whatever_is_cut_or_changed() {
        let entry =
            Entry { version: VERSION, expires_at: Some(Wall(5)), hold_until: None, body: Body::Value(b"value") };
        let (key, value) = pair(|key, value| {
            entry_key(key, SPACE, HASH, b"k");
            entry_value(value, 0, &entry);
        });
        for length in 0..13 {
            assert_eq!(read(&key[..length], &value), Err(RestoreError::Malformed), "{length}");
        }
        for length in 0..30 {
            assert_eq!(read(&key, &value[..length]), Err(RestoreError::Malformed), "{length}");
        }
        assert_eq!(read(&[6, 0], &value), Err(RestoreError::Kind(6)));
        assert_eq!(read(&[0], &value), Err(RestoreError::Kind(0)));
        let newer = [&[2], &value[1..]].concat();
        assert_eq!(read(&key, &newer), Err(RestoreError::Format(2)));
        let flags = [&[1, 8], &value[2..]].concat();
        assert_eq!(read(&key, &flags), Err(RestoreError::Malformed));
        let tombstone_with_a_value = [&[1, 3], &value[2..]].concat();
        assert_eq!(read(&key, &tombstone_with_a_value), Err(RestoreError::Malformed));
        assert_eq!(read(&[&key[..], &[0; KEY_BYTES_MAX]].concat(), &value), Err(RestoreError::Malformed));
    }

    #[test]
    fn every_record_finds_its_shard_whatever_their_number() {
        let (entry, _) = pair(|key, _| entry_key(key, SPACE, KeyHash(5 << 54), b"k"));
        let (hint, _) = pair(|key, _| hint_key(key, NodeId(1), SPACE, KeyHash(5 << 54), b"k"));
        let (floors, _) = pair(|key, _| floors_key(key, SPACE, PartitionId(5)));
        let (term, _) = pair(|key, _| term_key(key, (PartitionId(5), ALL_COPIES)));
        let (trees, _) = pair(|key, _| term_key(key, (PartitionId(5), 1)));
        for key in [&entry, &hint, &floors, &term, &trees] {
            assert_eq!((stored_shard(key, 2, 1024), stored_shard(key, 3, 1024)), (Some(1), Some(2)));
        }
        assert_eq!(
            (stored_shard(b"", 2, 1024), stored_shard(&[7, 1], 2, 1024), stored_shard(&entry, 0, 8)),
            (None, None, None)
        );
    }
}
