//! The memtable of one shard: all that a shard holds in memory, under one hard byte limit (PROTOCOL §5).
//!
//! Start at [`Memtable`]. Beneath it: `record` (how an entry lies in memory), `segments` (the log records are appended
//! to), `index` (hash to handle, per partition), `eviction` (who leaves when room is needed), `expiry` (who leaves with
//! time), `flush` (what is void at once), `changes` (what is to be stored), `ghosts` and `floors` (what is remembered of those that left), `actors` (interned process ids), `tree` (what others
//! compare themselves with), `scan` (what others take over).
//!
//! Invariant: after every call the accounted bytes are at most the limit, unless the limit or the reservation was just
//! moved past what may be evicted. What it is not: it answers for no clock (served or not is [`Entry::is_live`], asked
//! by the caller), it sends nothing, and it does not check floors.

mod actors;
#[cfg(test)]
mod audit;
mod changes;
mod eviction;
mod expiry;
mod floors;
mod flush;
mod ghosts;
mod index;
mod memtable;
mod prefetch;
mod record;
mod scan;
mod segments;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use changes::Changed;
pub use floors::Floors;
pub(crate) use flush::FLUSHED;
pub use memtable::Memtable;
pub use record::NAMESPACE_SLOTS_MAX;
pub use scan::Scanned;
pub(crate) use tree::{ALL_COPIES, Holding, LowTrees, TreeItem};

use crate::{
    id::{KeyHash, ShardId},
    time::Wall,
    value::{Entry, Version},
};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// An ended entry is kept this long past its end, and to the next step of the trees, so that every replica drops it at the
/// same wall time although their clocks differ (PROTOCOL §5). Milliseconds.
pub(crate) const GRACE_MS: u64 = 60_000;

/// A small dense id of a namespace within one memtable, chosen by the caller; below [`NAMESPACE_SLOTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceSlot(pub u16);

/// How a memtable is made.
#[derive(Clone, Copy, Debug)]
pub struct MemtableConfig {
    /// Hard limit in bytes, of this shard alone. Below about 1 MiB the tables of 1,024 partitions leave little room.
    pub limit: u64,
    /// Partitions of the cluster, a power of two.
    pub partitions: u16,
    /// Shards of the node.
    pub shards: u16,
    /// This one: it holds the partitions `p` with `p % shards == shard`.
    pub shard: ShardId,
    /// Seeds internal maps.
    pub seed: u64,
}

/// What a memtable knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// It holds this entry: perhaps a tombstone, perhaps expired.
    Found(Entry<'a>),
    /// It held this version and evicted it.
    Ghost(Version),
    /// It knows nothing, or has forgotten: see [`Floors`].
    Absent,
}

/// An entry that a replica evicted and remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Of which key.
    pub hash: KeyHash,
    /// Which write.
    pub version: Version,
    /// The entry's hash in the tree.
    pub entry_hash: u64,
    /// When it leaves the trees; `u64::MAX`: not by time.
    pub gone_at: Wall,
}

/// The result of a put. Of those below, only `Applied` leaves the entry in the memtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// The memtable now holds this version, or did already.
    Applied {
        /// To unpin with; there if a pin was asked for.
        pin: Option<Pin>,
    },
    /// It holds or remembers a newer version. The loser's end was folded into what it holds.
    Superseded {
        /// The newer version.
        version: Version,
        /// The hold of the newer entry after the join; `None` of a ghost.
        hold_until: Option<Wall>,
    },
    /// Nothing that may be evicted makes enough room. Nothing changed, except that others may have been evicted.
    OutOfMemory,
    /// The key or value is over its maximum, or the record over a quarter of the limit. Nothing changed.
    TooLarge,
}

/// Names one pinned write, so that unpinning costs no look-up while the record has not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    handle: u32,
    generation: u32,
    hlc: u64,
}

/// Counters since the start and gauges of now. Plain integers; equal calls give equal numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemtableStats {
    /// Values held now, expired ones too.
    pub entries: u64,
    /// Tombstones held now.
    pub tombstones: u64,
    /// Ghosts held now.
    pub ghosts: u64,
    /// Bytes of segments: records, and room for them.
    pub segment_bytes: u64,
    /// Bytes of the tables: index and segment descriptors.
    pub index_bytes: u64,
    /// Bytes of ghosts and their index.
    pub ghost_bytes: u64,
    /// Bytes of trees.
    pub tree_bytes: u64,
    /// Bytes of floors, interned actors and namespaces.
    pub table_bytes: u64,
    /// Bytes of tombstone records in evictable namespaces.
    pub tombstone_bytes: u64,
    /// Bytes of tombstone records elsewhere.
    pub held_tombstone_bytes: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
    /// Entries dropped, or made tombstones, because their time was over.
    pub expired: u64,
    /// Tombstones dropped over quota.
    pub tombstones_dropped: u64,
    /// Times a floor E rose.
    pub evicted_floor_raised: u64,
    /// Times a floor T rose.
    pub tombstone_floor_raised: u64,
    /// Puts, and requests for room, refused for want of memory.
    pub out_of_memory: u64,
    /// Puts that overwrote in place.
    pub in_place: u64,
    /// Puts of keys that had a ghost.
    pub ghost_hits: u64,
    /// Segments cleaned.
    pub segments_cleaned: u64,
    /// Bytes of records that a cleaning moved.
    pub moved_bytes: u64,
}
