//! Every bound of the protocol: name, unit, reason, and its checked relation to its neighbours (STYLE habit 13).
//!
//! Defaults are those of PROTOCOL §10. What an operator may change lives in `config`; what must be equal everywhere,
//! or is a safety margin, lives here.

use std::time::Duration;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value unless the namespace says otherwise, bytes.
pub const VALUE_BYTES_DEFAULT: u32 = 1 << 20;
/// Longest value that a namespace may allow, bytes.
pub const VALUE_BYTES_MAX: u32 = 8 << 20;
/// Longest namespace name, bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest frame, bytes: the longest value and key with room for the envelope.
pub const FRAME_BYTES_MAX: usize = VALUE_BYTES_MAX as usize + 64 * 1024;
/// Longest gossip packet, bytes: the first QUIC datagram of a connection holds 1,162.
pub const GOSSIP_BYTES_MAX: usize = 1100;
/// Most copies of a key (N): vote sets are fixed arrays of this size.
pub const COPIES_MAX: usize = 8;
/// Most namespaces: their dense slot is a `u16`, their floors cost 32 bytes a partition.
pub const NAMESPACES_MAX: usize = 1024;
/// Most shards of a node: its UDP port range.
pub const SHARDS_MAX: u16 = 64;
/// Most partitions of a cluster.
pub const PARTITIONS_MAX: u16 = 1 << 14;

/// A message whose clock is further ahead is refused and not folded in.
pub const CLOCK_OFFSET_MAX: Duration = Duration::from_millis(500);
/// A node whose median offset to its peers is larger stops coordinating.
pub const CLOCK_FENCE: Duration = Duration::from_millis(200);
/// A wall that moves further than this against the monotonic clock has jumped.
pub const CLOCK_JUMP: Duration = Duration::from_millis(100);
/// A peer message whose clock is further behind is refused: nothing minutes late can bring the dead back.
pub const MESSAGE_AGE_MAX: Duration = Duration::from_secs(30);

/// Total time for a read at the coordinator.
pub const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Total time for a write at the coordinator.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest deadline that a request may ask for.
pub const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// After this without an answer a read asks the next owner, whatever the hedge budget says.
pub const READ_PATIENCE: Duration = Duration::from_millis(60);
/// After this without an answer a sloppy write turns to fallbacks.
pub const WRITE_PATIENCE: Duration = Duration::from_millis(120);
/// Earliest hedge of a read.
pub const HEDGE_AFTER_MIN: Duration = Duration::from_millis(1);
/// Hedges per hundred reads.
pub const HEDGE_PERCENT_MAX: u64 = 5;
/// Re-stamps of one write after `Superseded`.
pub const RESTAMPS_MAX: u8 = 2;

/// Entries that a node takes over from others after a change of layouts, bytes a second, all its shards together.
pub const TRANSFER_BYTES_PER_SECOND: u64 = 16 << 20;
/// About so many bytes travel in one part of a partition; one larger entry travels alone.
pub const TRANSFER_PART_BYTES: usize = 64 << 10;

/// A hint dies, and is refused by its receiver, at this age.
pub const HINT_AGE_MAX: Duration = Duration::from_secs(600);
/// A target must have been up so long before its hints are replayed; twice as long after each flap …
pub const HINT_WAIT_MIN: Duration = Duration::from_secs(10);
/// … up to this, and from the start again once it was up for as long.
pub const HINT_WAIT_MAX: Duration = Duration::from_secs(300);
/// Hints in flight to one target: a returning node has clients to serve.
pub const HINTS_IN_FLIGHT: usize = 32;
/// Bytes of hints in flight to one target; one larger hint travels alone.
pub const HINT_BYTES_IN_FLIGHT: u64 = 256 << 10;
/// Read repairs may send so many bytes a second, a shard: a read that finds differences must not slow others down.
pub const READ_REPAIR_BYTES_PER_SECOND: u64 = 4 << 20;
/// Most bytes of read repairs at once, saved up.
pub const READ_REPAIR_BYTES_SAVED: u64 = 1 << 20;
/// What ends so soon is left to end: every replica forgets it at the same time.
pub const REPAIR_ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of hints for one target.
pub const HINT_BYTES_MAX: u64 = 64 << 20;
/// A tombstone is kept at least this long.
pub const TOMBSTONE_AGE_MIN: Duration = Duration::from_secs(900);
/// A node with a disk tells its peers so often up to when its disk goes: one that comes back with an older disk gives
/// itself away.
pub const LIFE_STAMP_EVERY: Duration = Duration::from_secs(240);
/// A tombstone that is stored must have been there for so long before its owner promises to forget it.
pub const STORED_CONSENT_AGE: Duration = Duration::from_secs(600);
/// After this a replica that could not compare itself votes in sloppy requests (default of `warming_max`).
pub const WARMING_MAX: Duration = Duration::from_secs(600);
/// Entries are forgotten this long after they stopped being served, on every replica alike.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(60);

/// What leaves every replica within this is not repaired any more.
pub const REPAIR_END_MARGIN: Duration = Duration::from_secs(30);
/// Between two comparisons with a peer, give or take a fifth.
pub const EXCHANGE_EVERY: Duration = Duration::from_secs(10);
/// Most leaves that one answer lists.
pub const EXCHANGE_LEAVES_MAX: usize = 64;
/// Bytes of keys, and of entries, after which one step of an exchange goes on with the next.
pub const EXCHANGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of repair that a node may send a second.
pub const REPAIR_BYTES_PER_SECOND: u64 = 16 << 20;

/// Requests in flight that a shard admits from one caller's link.
pub const IN_FLIGHT_PER_LINK: usize = 4096;
/// Requests in flight that a shard admits in all.
pub const IN_FLIGHT_PER_SHARD: usize = 65_536;
/// Requests in flight to one peer.
pub const IN_FLIGHT_PER_PEER: usize = 8192;
/// Latest expiry, milliseconds since 1970: 2500-01-01. A later one is a unit error of the caller.
pub const EXPIRES_MS_MAX: u64 = 16_725_225_600_000;

// Two unfenced nodes never refuse each other.
const _: () = assert!(2 * CLOCK_FENCE.as_millis() < CLOCK_OFFSET_MAX.as_millis());
// A collected tombstone outlives every hint and message that could carry what it buried.
const _: () = assert!(TOMBSTONE_AGE_MIN.as_secs() > HINT_AGE_MAX.as_secs() + MESSAGE_AGE_MAX.as_secs());
// An older disk that lacks a tombstone which was collected is known to be older: the stamp had time to spread.
const _: () = assert!(STORED_CONSENT_AGE.as_secs() >= 2 * LIFE_STAMP_EVERY.as_secs() + 60);
const _: () = assert!(STORED_CONSENT_AGE.as_secs() <= TOMBSTONE_AGE_MIN.as_secs());
// A hint whose target flapped worst still finds its time before it dies.
const _: () = assert!(HINT_WAIT_MAX.as_secs() < HINT_AGE_MAX.as_secs());
// What is not repaired any more is still everywhere: an ended entry stays for longer than the margin.
const _: () = assert!(REPAIR_END_MARGIN.as_secs() < EXPIRY_GRACE.as_secs());
// Turning to somebody else must leave time for the answer.
const _: () = assert!(READ_PATIENCE.as_millis() * 2 < READ_TIMEOUT.as_millis());
const _: () = assert!(WRITE_PATIENCE.as_millis() * 2 < WRITE_TIMEOUT.as_millis());
