//! What one part of a streamed partition holds: entries, ghosts, and what was forgotten (PROTOCOL §2 "Range transfer").
//!
//! Lists in one frame of their own: entries and ghosts in the order of their keys' hashes, and with the last part the
//! forget floors of each namespace. Where tombstones were dropped as new (T), every part tells those, and first of all in which
//! leaves it lists all that the source holds. Read one by one, borrowing: a part of any size allocates nothing before it is looked at.

use super::{
    frame::{DecodeError, Decoder, ENTRY_FIELDS, Encoder, FrameType},
    peer::KeyRef,
};
use crate::{
    id::{KeyHash, NamespaceId},
    storage::{Evicted, Floors},
    time::Wall,
    value::Entry,
};
use bytes::BytesMut;

/// Elements of one item: its kind, and what it is.
const ITEM_FIELDS: u32 = 5 + ENTRY_FIELDS;

/// One item of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An entry, and whether the source saw it used again and again.
    Entry(KeyRef<'a>, Entry<'a>, bool),
    /// What the source evicted and remembers.
    Ghost(NamespaceId, Evicted),
    /// What the source may have forgotten of a namespace in this partition.
    Floors(NamespaceId, Floors),
    /// Which leaves of the asker's tree differ from the source's: a byte for each, not zero if it does.
    Leaves(&'a [u8]),
}

/// The body of a part.
pub fn encode(items: &[Item<'_>]) -> BytesMut {
    let mut out = BytesMut::new();
    let fields = u32::try_from(items.len()).expect("a part is bounded") * ITEM_FIELDS;
    let mut encoder = Encoder::start(&mut out, FrameType::StreamChunk, 0, fields);
    for item in items {
        match item {
            Item::Entry(key, entry, popular) => {
                encoder.uint(0).uint(u64::from(key.namespace.0)).fixed(key.hash.0).bytes(key.key).entry(entry);
                encoder.uint(u64::from(*popular));
            }
            Item::Ghost(namespace, Evicted { hash, version, entry_hash, gone_at }) => {
                encoder.uint(2).uint(u64::from(namespace.0)).fixed(hash.0).version(*version);
                encoder.fixed(*entry_hash).uint(gone_at.0);
                (0..ITEM_FIELDS - 7).for_each(|_| {
                    encoder.nil();
                });
            }
            Item::Floors(namespace, floors) => {
                encoder.uint(1).uint(u64::from(namespace.0)).version(floors.evicted).version(floors.tombstone);
                (0..ITEM_FIELDS - 6).for_each(|_| {
                    encoder.nil();
                });
            }
            Item::Leaves(leaves) => {
                encoder.uint(3).uint(0).bytes(leaves);
                (0..ITEM_FIELDS - 3).for_each(|_| {
                    encoder.nil();
                });
            }
        }
    }
    out
}

/// Reads a body, calling `visit` with each item in order.
///
/// # Errors
/// A field is missing, cut off or out of range; items before it were visited.
pub fn decode<'a>(body: &'a [u8], mut visit: impl FnMut(Item<'a>)) -> Result<(), DecodeError> {
    let (_, _, mut decoder) = Decoder::start(body)?;
    while decoder.has_more() {
        let kind = decoder.uint()?;
        let namespace = NamespaceId(decoder.small()?);
        match kind {
            0 => {
                let key = KeyRef { namespace, hash: KeyHash(decoder.uint()?), key: decoder.bytes()? };
                visit(Item::Entry(key, decoder.entry()?, decoder.uint()? != 0));
            }
            1 => {
                let floors = Floors { evicted: decoder.version()?, tombstone: decoder.version()? };
                for _ in 0..ITEM_FIELDS - 6 {
                    decoder.bytes_or_nil()?;
                }
                visit(Item::Floors(namespace, floors));
            }
            2 => {
                let (hash, version) = (KeyHash(decoder.uint()?), decoder.version()?);
                let ghost = Evicted { hash, version, entry_hash: decoder.uint()?, gone_at: Wall(decoder.uint()?) };
                for _ in 0..ITEM_FIELDS - 7 {
                    decoder.bytes_or_nil()?;
                }
                visit(Item::Ghost(namespace, ghost));
            }
            3 => {
                let leaves = decoder.bytes()?;
                for _ in 0..ITEM_FIELDS - 3 {
                    decoder.bytes_or_nil()?;
                }
                visit(Item::Leaves(leaves));
            }
            _ => return Err(DecodeError::Malformed("an item of a part that is no entry, ghost, floors or leaves")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ActorId,
        value::{Body, Hlc, Version},
    };

    #[test]
    fn a_part_survives_the_wire_and_no_prefix_of_it_passes() {
        let version = |at| Version { hlc: Hlc(at), actor: ActorId(at) };
        let entry = Entry { version: version(7), expires_at: Some(Wall(9)), hold_until: None, body: Body::Value(b"v") };
        let dead = Entry { version: version(8), expires_at: None, hold_until: Some(Wall(3)), body: Body::Tombstone };
        let key = |hash, key| KeyRef { namespace: NamespaceId(5), hash: KeyHash(hash), key };
        let floors = Floors { evicted: version(3), tombstone: version(u64::MAX) };
        let items = [
            Item::Leaves(&[0, 1]),
            Item::Entry(key(1, b"a"), entry, false),
            Item::Ghost(
                NamespaceId(5),
                Evicted { hash: KeyHash(2), version: version(9), entry_hash: u64::MAX, gone_at: Wall(u64::MAX) },
            ),
            Item::Entry(key(u64::MAX, b"b"), dead, true),
            Item::Floors(NamespaceId(5), floors),
        ];
        let body = encode(&items);
        let mut seen = Vec::new();
        decode(&body, |item| seen.push(item)).unwrap();
        assert_eq!(seen, items);
        for length in 0..body.len() {
            assert!(decode(&body[..length], |_| {}).is_err(), "{length} bytes");
        }
        decode(&encode(&[]), |_| panic!("nothing is in it")).unwrap();
    }
}
