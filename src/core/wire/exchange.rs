//! Messages by which two replicas compare themselves and agree on what to collect (PROTOCOL §6, §9 `Ae…`, `Gc…`).
//!
//! One frame type with a kind inside: an older node answers all of them with `Unsupported`, and is then not compared with.
//! Lists travel packed, big-endian, as one byte string each: a reader borrows it, and its length is bounded by the frame.
//! Here are the messages and the shapes of their lists; what they mean is in `anti_entropy`.

use super::{
    frame::{DecodeError, Decoder, Encoder, FrameType},
    peer::{Header, ReplicaState},
};
use crate::{
    id::{ActorId, KeyHash, NamespaceId, PartitionId},
    ring::LayoutName,
    time::Wall,
    value::{Hlc, Version},
};
use bytes::BytesMut;

/// How two replicas' roots compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sums over all shared trees are equal.
    Equal,
    /// They are not; the roots follow.
    Different,
    /// The trees are of different moments: ask again.
    Later,
}

/// One step of a comparison or collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange<'a> {
    /// Do our trees sum to the same?
    Roots {
        /// How entries are hashed; another number is not compared.
        hash_version: u8,
        /// The step of wall time that the sender's trees are of.
        at: u64,
        /// Over all trees that both own.
        sum: u64,
        /// Whether the roots are wanted even when the sums are equal.
        full: bool,
    },
    /// The answer.
    RootsAre {
        /// How they compare.
        verdict: Verdict,
        /// The sender's roots, [`RootItem`]s; all others are zero.
        roots: &'a [u8],
    },
    /// These are my leaves of a tree: what do you hold where they differ?
    Leaves {
        /// As in `Roots`.
        at: u64,
        /// Which tree: of namespaces with so many copies …
        copies: u8,
        /// … in this partition.
        partition: PartitionId,
        /// Only key hashes from here on.
        from: u64,
        /// Eight bytes a leaf, a power of two of them.
        leaves: &'a [u8],
    },
    /// The answer: this.
    Keys {
        /// As in `Leaves`.
        copies: u8,
        /// As in `Leaves`.
        partition: PartitionId,
        /// The sender's state there.
        state: ReplicaState,
        /// The list is complete from here …
        from: u64,
        /// … to here, inclusive; `u64::MAX`: nothing is left.
        until: u64,
        /// … within these leaves: a bit each, of a power of two.
        leaves: &'a [u8],
        /// What the sender forgot, [`FloorItem`]s.
        floors: &'a [u8],
        /// What it holds, [`KeyItem`]s by key hash.
        items: &'a [u8],
    },
    /// Send me these: [`PullItem`]s. They come as repairs, and then `Pulled`.
    Pull {
        /// Where.
        partition: PartitionId,
        /// Which.
        items: &'a [u8],
    },
    /// That was all.
    Pulled {
        /// Where.
        partition: PartitionId,
    },
    /// The trees are of different moments, or the sender is no owner here: another time.
    Later,
    /// Do you hold these tombstones, unchanged for long enough? [`GcItem`]s.
    Prepare {
        /// Where.
        partition: PartitionId,
        /// Which.
        items: &'a [u8],
    },
    /// Of those, these.
    Prepared {
        /// Where.
        partition: PartitionId,
        /// Which: [`GcItem`]s.
        items: &'a [u8],
    },
    /// All owners hold these: drop those that are still so.
    Commit {
        /// Where.
        partition: PartitionId,
        /// Which: [`GcItem`]s.
        items: &'a [u8],
    },
}

/// A list item of fixed length.
pub trait Packed: Sized + 'static {
    /// Bytes.
    const LENGTH: usize;
    /// Appends it.
    fn pack(&self, out: &mut Vec<u8>);
    /// Reads it from exactly `LENGTH` bytes; `None`: a field is out of range.
    fn unpack(bytes: &[u8]) -> Option<Self>;

    /// Items of a list; what is cut off or out of range is left out.
    fn list(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks_exact(Self::LENGTH).filter_map(Self::unpack)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn version(bytes: &[u8], at: usize) -> Version {
    Version { hlc: Hlc(word(bytes, at)), actor: ActorId(word(bytes, at + 8)) }
}

fn pack_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.hlc.0.to_be_bytes());
    out.extend_from_slice(&version.actor.0.to_be_bytes());
}

/// The root of one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootItem {
    /// Which tree: of namespaces with so many copies …
    pub copies: u8,
    /// … in this partition.
    pub partition: PartitionId,
    /// The sender's state there.
    pub state: ReplicaState,
    /// The sum over the tree.
    pub root: u64,
    /// Whether the sender dropped tombstones of it without the consent of all: of equal roots, too, who warms asks for its floors.
    pub shed: bool,
}

/// In the byte of a state.
const SHED: u8 = 0x80;

impl Packed for RootItem {
    const LENGTH: usize = 12;

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.copies, self.state.byte() | if self.shed { SHED } else { 0 }]);
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        out.extend_from_slice(&self.root.to_be_bytes());
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        let partition = PartitionId(u16::from_be_bytes([bytes[2], bytes[3]]));
        let (state, shed) = (ReplicaState::of_byte(bytes[1] & !SHED)?, bytes[1] & SHED != 0);
        Some(Self { copies: bytes[0], partition, state, root: word(bytes, 4), shed })
    }
}

/// One entry or ghost behind a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyItem {
    /// Where.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub hash: KeyHash,
    /// Which write.
    pub version: Version,
    /// The entry's hash in the tree.
    pub entry_hash: u64,
    /// Evicted: the sender has no value to give.
    pub ghost: bool,
    /// The sender knows its namespace as deleted, and gives nothing of it.
    pub gone: bool,
    /// When it leaves the trees, in wall milliseconds; `u64::MAX`: not by time.
    pub gone_at: Wall,
}

impl Packed for KeyItem {
    const LENGTH: usize = 45;

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.0.to_be_bytes());
        out.extend_from_slice(&self.hash.0.to_be_bytes());
        pack_version(out, self.version);
        out.extend_from_slice(&self.entry_hash.to_be_bytes());
        out.push(u8::from(self.ghost) | (u8::from(self.gone) << 1));
        out.extend_from_slice(&self.gone_at.0.to_be_bytes());
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            namespace: NamespaceId(half(bytes, 0)),
            hash: KeyHash(word(bytes, 4)),
            version: version(bytes, 12),
            entry_hash: word(bytes, 28),
            ghost: bytes[36] & 1 != 0,
            gone: bytes[36] & 2 != 0,
            gone_at: Wall(word(bytes, 37)),
        })
    }
}

/// The forget floors of one namespace in the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorItem {
    /// Where.
    pub namespace: NamespaceId,
    /// E: the highest version evicted and no longer ghosted.
    pub evicted: Version,
    /// T: the highest version of a tombstone dropped without consent.
    pub tombstone: Version,
}

impl Packed for FloorItem {
    const LENGTH: usize = 36;

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.0.to_be_bytes());
        pack_version(out, self.evicted);
        pack_version(out, self.tombstone);
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        let namespace = NamespaceId(half(bytes, 0));
        Some(Self { namespace, evicted: version(bytes, 4), tombstone: version(bytes, 20) })
    }
}

/// An entry that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullItem {
    /// Where.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub hash: KeyHash,
}

impl Packed for PullItem {
    const LENGTH: usize = 12;

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.0.to_be_bytes());
        out.extend_from_slice(&self.hash.0.to_be_bytes());
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        Some(Self { namespace: NamespaceId(half(bytes, 0)), hash: KeyHash(word(bytes, 4)) })
    }
}

/// A tombstone that may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GcItem {
    /// Where.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub hash: KeyHash,
    /// The tombstone's hash in the tree: another one is another tombstone.
    pub entry_hash: u64,
}

impl Packed for GcItem {
    const LENGTH: usize = 20;

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.0.to_be_bytes());
        out.extend_from_slice(&self.hash.0.to_be_bytes());
        out.extend_from_slice(&self.entry_hash.to_be_bytes());
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        let namespace = NamespaceId(half(bytes, 0));
        Some(Self { namespace, hash: KeyHash(word(bytes, 4)), entry_hash: word(bytes, 12) })
    }
}

/// Packs a list.
pub fn pack<T: Packed>(items: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() * T::LENGTH);
    items.iter().for_each(|item| item.pack(&mut out));
    out
}

const HEADER_FIELDS: u32 = 4;

/// Appends the frame.
pub(super) fn encode(out: &mut BytesMut, id: u64, header: &Header, exchange: &Exchange<'_>) {
    let (kind, fields) = match exchange {
        Exchange::Roots { .. } => (0, 4),
        Exchange::RootsAre { .. } => (1, 2),
        Exchange::Leaves { .. } => (2, 5),
        Exchange::Keys { .. } => (3, 8),
        Exchange::Pull { .. } => (4, 2),
        Exchange::Pulled { .. } => (5, 1),
        Exchange::Later => (6, 0),
        Exchange::Prepare { .. } => (7, 2),
        Exchange::Prepared { .. } => (8, 2),
        Exchange::Commit { .. } => (9, 2),
    };
    let mut encoder = Encoder::start(out, FrameType::Exchange, id, HEADER_FIELDS + fields);
    encoder.uint(header.layout.epoch).fixed(header.layout.hash).fixed(header.hlc.0).uint(kind);
    match *exchange {
        Exchange::Roots { hash_version, at, sum, full } => {
            encoder.uint(u64::from(hash_version)).uint(at).fixed(sum).uint(u64::from(full))
        }
        Exchange::RootsAre { verdict, roots } => {
            let code = match verdict {
                Verdict::Equal => 0,
                Verdict::Different => 1,
                Verdict::Later => 2,
            };
            encoder.uint(code).bytes(roots)
        }
        Exchange::Leaves { at, copies, partition, from, leaves } => {
            encoder.uint(at).uint(u64::from(copies)).uint(u64::from(partition.0)).fixed(from).bytes(leaves)
        }
        Exchange::Keys { copies, partition, state, from, until, leaves, floors, items } => {
            encoder.uint(u64::from(copies)).uint(u64::from(partition.0)).uint(u64::from(state.byte()));
            encoder.fixed(from).fixed(until).bytes(leaves).bytes(floors).bytes(items)
        }
        Exchange::Pulled { partition } => encoder.uint(u64::from(partition.0)),
        Exchange::Later => &mut encoder,
        Exchange::Pull { partition, items }
        | Exchange::Prepare { partition, items }
        | Exchange::Prepared { partition, items }
        | Exchange::Commit { partition, items } => encoder.uint(u64::from(partition.0)).bytes(items),
    };
}

/// Reads the fields after type and id.
///
/// # Errors
/// A field is missing, cut off or out of range; a kind that is not known.
pub(super) fn decode<'a>(id: u64, decoder: &mut Decoder<'a>) -> Result<(Header, Exchange<'a>), DecodeError> {
    let layout = LayoutName { epoch: decoder.uint()?, hash: decoder.uint()? };
    let header = Header { layout, hlc: Hlc(decoder.uint()?), deadline_ms: 0 };
    let state = |code: u64| {
        let byte = u8::try_from(code).ok();
        byte.and_then(ReplicaState::of_byte).ok_or(DecodeError::Malformed("an unknown replica state"))
    };
    let exchange = match decoder.uint()? {
        0 => Exchange::Roots {
            hash_version: decoder.small()?,
            at: decoder.uint()?,
            sum: decoder.uint()?,
            full: decoder.uint()? != 0,
        },
        1 => {
            let verdict = match decoder.uint()? {
                0 => Verdict::Equal,
                1 => Verdict::Different,
                _ => Verdict::Later,
            };
            Exchange::RootsAre { verdict, roots: decoder.bytes()? }
        }
        2 => Exchange::Leaves {
            at: decoder.uint()?,
            copies: decoder.small()?,
            partition: PartitionId(decoder.small()?),
            from: decoder.uint()?,
            leaves: decoder.bytes()?,
        },
        3 => Exchange::Keys {
            copies: decoder.small()?,
            partition: PartitionId(decoder.small()?),
            state: state(decoder.uint()?)?,
            from: decoder.uint()?,
            until: decoder.uint()?,
            leaves: decoder.bytes()?,
            floors: decoder.bytes()?,
            items: decoder.bytes()?,
        },
        4 => Exchange::Pull { partition: PartitionId(decoder.small()?), items: decoder.bytes()? },
        5 => Exchange::Pulled { partition: PartitionId(decoder.small()?) },
        6 => Exchange::Later,
        7 => Exchange::Prepare { partition: PartitionId(decoder.small()?), items: decoder.bytes()? },
        8 => Exchange::Prepared { partition: PartitionId(decoder.small()?), items: decoder.bytes()? },
        9 => Exchange::Commit { partition: PartitionId(decoder.small()?), items: decoder.bytes()? },
        _ => return Err(DecodeError::Unknown { frame_type: FrameType::Exchange as u8, id }),
    };
    Ok((header, exchange))
}
