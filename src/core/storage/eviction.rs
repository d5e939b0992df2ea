//! Who leaves when room is needed: S3-FIFO (Yang et al., SOSP 2023) over the log.
//!
//! New values are on probation in a small queue of about 10 % of the bytes; those used again move to the main queue
//! when their segment is cleaned, the others become ghosts; a value whose ghost is still there comes back straight into
//! the main queue, which gives every use counted (at most 3) one more round. The unit of work is one segment.
//!
//! Chosen by `tests/bench/hit_ratio.rs` (400,000 keys, memory for a tenth, misses filled; hit ratio in percent, the
//! memtable itself last; `static` holds the most popular keys from the start):
//!
//! ```text
//!                     LRU  W-TinyLFU  S3-FIFO  memtable  static
//! zipf 0.9          61.81    69.08    69.28    69.31    72.28
//! zipf 1.0          75.92    80.50    80.76    80.80    83.12
//! zipf 1.1          86.87    89.16    89.42    89.50    91.22
//! zipf 1.2          93.72    94.63    94.74    94.84    96.13
//! zipf 0.9 + scans  50.23    58.35    58.51    58.57    62.00
//! zipf 1.0 + scans  61.55    67.79    68.01    68.07    71.03
//! zipf 1.1 + scans  70.39    74.43    75.12    75.17    77.91
//! zipf 1.2 + scans  76.94    78.46    79.34    79.38    82.26
//! ```
//!
//! S3-FIFO leads W-TinyLFU in every row and needs no sketch and no per-entry order. A promotion after two uses instead
//! of one costs up to 1.4 points, a small queue of 5 % instead of 10 % wins 0.2 at most.
//!
//! Invariants: tombstones, pinned entries and those of namespaces that never evict survive every cleaning; cleaning
//! allocates no segment (the log's spare one takes survivors); a request for room ends, because each segment cleaned
//! evicts, reclaims or lowers a count, and after [`PATIENCE`] of them counts are ignored.

use super::{
    Evicted, NamespaceSlot,
    ghosts::Ghost,
    memtable::Memtable,
    record::Header,
    segments::{CLASSES, Class, handle},
};
use crate::{
    anti_entropy::merkle::{entry_hash, gone_at},
    id::KeyHash,
    time::Wall,
    value::{Entry, Hlc, Version},
};

/// The small queue's share of evictable segments is one in this many.
const SMALL_SHARE: u64 = 10;
/// Uses on probation that move a value to the main queue.
const PROMOTE_USES: u8 = 1;
/// Segments cleaned by policy before a request for room evicts regardless of uses.
const PATIENCE: u32 = 8;
/// Ghosts take at most one in this many bytes of the limit (5 %).
const GHOST_SHARE: u64 = 20;
/// Tombstones take at most one in this many bytes of the limit (5 %), in either kind of namespace.
pub(super) const TOMBSTONE_SHARE: u64 = 20;
/// Background eviction starts here, in hundredths of the limit (PROTOCOL §5).
const HIGH_WATER: u64 = 85;

/// Why a segment is cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleaning {
    /// To make room, by the policy.
    Evict,
    /// To make room, whatever the uses.
    Force,
    /// Only to reclaim what is dead.
    Compact,
    /// To drop the oldest tombstones.
    Shed,
}

/// What becomes of one record of a cleaned segment.
enum Fate {
    Ended,
    Evicted,
    Dropped,
    Buried,
    Kept(Class, u8),
}

impl Memtable {
    /// Makes room to append a record of `needed` bytes and index it in table `local`, in a tree that may be new: making
    /// room may take the last other entry of its partition.
    pub(super) fn room_to_append(&mut self, class: Class, needed: u32, local: usize) -> bool {
        loop {
            let need = match self.log.growth(class, needed) {
                Some(growth) => growth + self.index.growth(local) + self.trees.leaves_bytes(),
                None => match self.clean_one(true) {
                    true => continue,
                    false => return false,
                },
            };
            if self.accounted() + need <= self.limit {
                return true;
            }
            if !self.make_room(need) {
                return false;
            }
        }
    }

    /// Evicts until `need` more bytes fit; false when nothing more may go.
    pub(super) fn make_room(&mut self, need: u64) -> bool {
        let mut cleaned = 0;
        while self.accounted() + need > self.limit {
            if !self.clean_one(cleaned >= PATIENCE) {
                return self.make_room_of_ghosts(need);
            }
            cleaned += 1;
        }
        true
    }

    /// The last resort, when no entry may go: drops the oldest ghosts, as far as that helps. Ghosts of what was evicted
    /// on the way may also have taken more than it gave, and must not stay over the limit.
    fn make_room_of_ghosts(&mut self, need: u64) -> bool {
        let others = self.accounted() - self.ghosts.bytes();
        let target = if others + need < self.limit { self.limit - need } else { self.limit };
        while self.accounted() > target {
            match self.ghosts.pop() {
                Some(ghost) => self.forget_ghost(&ghost),
                None => {
                    self.ghosts.release();
                    break;
                }
            }
        }
        self.accounted() + need <= self.limit
    }

    /// Cleans the segment whose turn it is; false when no segment has anything to give.
    fn clean_one(&mut self, force: bool) -> bool {
        // Much is dead somewhere: reclaiming it costs nobody a value.
        for class in CLASSES {
            let dead = self.log.class_dead(class);
            if dead * 4 >= self.log.class_bytes(class)
                && dead >= u64::from(self.log.segment_bytes())
                && let Some(slot) = self.log.deadest(class)
            {
                self.clean(slot, Cleaning::Compact);
                return true;
            }
        }
        let cleaning = if force { Cleaning::Force } else { Cleaning::Evict };
        // Segments of nothing but pinned entries are passed over, so one round over both queues finds any other.
        let (small, main) = (self.log.count(Class::Small), self.log.count(Class::Main));
        let (mut small_left, mut main_left) = (small, main);
        while small_left + main_left > 0 {
            let (small, main) = (self.log.class_bytes(Class::Small), self.log.class_bytes(Class::Main));
            let class = if small_left > 0 && (main_left == 0 || small * SMALL_SHARE > small + main) {
                small_left -= 1;
                Class::Small
            } else {
                main_left -= 1;
                Class::Main
            };
            let Some(slot) = self.log.oldest(class) else { continue };
            let segment = *self.log.segment(slot);
            if segment.pinned == segment.used {
                self.log.requeue(slot, class);
                continue;
            }
            if self.clean(slot, cleaning) {
                return true;
            }
        }
        for class in CLASSES {
            if let Some(slot) = self.log.deadest(class) {
                self.clean(slot, Cleaning::Compact);
                return true;
            }
        }
        false
    }

    /// Walks a segment, keeps what must be kept at the end of its queue, and frees it. Whether anything came of it:
    /// room, or at least a count lowered.
    fn clean(&mut self, slot: u16, cleaning: Cleaning) -> bool {
        self.stats.segments_cleaned += 1;
        let segment = *self.log.segment(slot);
        let data = self.log.take(slot);
        if data.len() != self.log.segment_bytes() as usize {
            return self.clean_lone(slot, data, cleaning);
        }
        let mut progress = segment.dead > 0;
        let mut at = 0;
        while at < segment.used {
            let record = &data[at as usize..];
            let header = Header::read(record);
            at += header.capacity();
            if header.is_dead() {
                continue;
            }
            let old = handle(slot, at - header.capacity());
            match self.fate(&header, record, segment.class, cleaning) {
                Fate::Kept(class, frequency) => {
                    progress |= frequency != header.frequency() || class != segment.class;
                    self.move_record(&header, record, old, class, frequency);
                }
                Fate::Buried => {
                    progress = true;
                    let mut copy = record[..header.needed() as usize].to_vec();
                    self.bury(&header, &mut copy);
                    self.move_record(&Header::read(&copy), &copy, old, Class::Tombstones, 0);
                }
                gone @ (Fate::Ended | Fate::Evicted | Fate::Dropped) => {
                    progress = true;
                    self.index.remove(self.placement.local(header.hash), header.hash, old);
                    self.lose(&header, record, &gone);
                }
            }
        }
        self.log.release(slot, data);
        progress
    }

    /// A record with a segment of its own is never copied: the segment changes its place.
    fn clean_lone(&mut self, slot: u16, mut data: Box<[u8]>, cleaning: Cleaning) -> bool {
        let header = Header::read(&data);
        let class = self.log.segment(slot).class;
        let handle = handle(slot, 0);
        if header.is_dead() {
            self.log.release(slot, data);
            return true;
        }
        let fate = self.fate(&header, &data, class, cleaning);
        match fate {
            Fate::Kept(to, frequency) => {
                Header::read(&data).set_frequency(&mut data, frequency);
                self.log.put_back(slot, data);
                self.log.requeue(slot, to);
                frequency != header.frequency() || to != class
            }
            Fate::Buried => {
                if header.is_pinned() {
                    self.log.note_unpinned(handle, header.capacity());
                }
                self.bury(&header, &mut data);
                self.log.put_back(slot, data);
                self.log.cut(handle);
                self.note(handle);
                self.log.requeue(slot, Class::Tombstones);
                true
            }
            Fate::Ended | Fate::Evicted | Fate::Dropped => {
                self.index.remove(self.placement.local(header.hash), header.hash, handle);
                self.lose(&header, &data, &fate);
                self.log.release(slot, data);
                true
            }
        }
    }

    fn move_record(&mut self, header: &Header, record: &[u8], old: u32, class: Class, frequency: u8) {
        let needed = header.needed();
        let new = self.log.append_survivor(class, needed);
        let into = self.log.record_mut(new);
        into[..needed as usize].copy_from_slice(&record[..needed as usize]);
        let mut header = *header;
        header.set_slack(into, 0);
        header.set_frequency(into, frequency);
        self.note(new);
        self.index.replace(self.placement.local(header.hash), header.hash, old, new);
        self.stats.moved_bytes += u64::from(needed);
    }

    /// Makes a value whose end has passed a tombstone that lasts as long as what it replaced (PROTOCOL §5).
    pub(super) fn bury(&mut self, header: &Header, record: &mut [u8]) {
        self.count(header, false);
        Header::read(record).bury(record);
        self.count(&Header::read(record), true);
        self.stats.expired += 1;
    }

    fn fate(&self, header: &Header, record: &[u8], class: Class, cleaning: Cleaning) -> Fate {
        let evictable = self.is_evictable(header.namespace());
        if self.flushing && self.is_void(header.namespace(), header.hlc) {
            return Fate::Ended;
        }
        if header.due(record) <= self.wall.0 {
            match self.after_end(header, record) {
                true => return Fate::Buried,
                false => return Fate::Ended,
            }
        }
        if header.is_tombstone() {
            let dropped = evictable && cleaning == Cleaning::Shed && !header.is_pinned();
            let class = if evictable { Class::Tombstones } else { Class::Held };
            return if dropped { Fate::Dropped } else { Fate::Kept(class, 0) };
        }
        if !evictable {
            return Fate::Kept(Class::Held, header.frequency());
        }
        let stay = match class {
            Class::Small => Class::Small,
            Class::Main | Class::Tombstones | Class::Held => Class::Main,
        };
        if header.is_pinned() {
            return Fate::Kept(stay, header.frequency());
        }
        let over = header.expires_at(record).is_some_and(|at| at <= self.wall);
        match cleaning {
            Cleaning::Compact | Cleaning::Shed => Fate::Kept(stay, header.frequency()),
            Cleaning::Evict | Cleaning::Force if over && self.after_end(header, record) => Fate::Buried,
            // Over but not gone: replicas that keep it still have its hash in their trees.
            Cleaning::Evict | Cleaning::Force if over => Fate::Evicted,
            Cleaning::Force => Fate::Evicted,
            Cleaning::Evict => match (stay, header.frequency()) {
                (Class::Small, uses) if uses >= PROMOTE_USES => Fate::Kept(Class::Main, 0),
                (Class::Small, _) | (_, 0) => Fate::Evicted,
                (_, uses) => Fate::Kept(Class::Main, uses - 1),
            },
        }
    }

    /// Whether a value past its own end must stay as a tombstone because what it replaced has not ended.
    pub(super) fn after_end(&self, header: &Header, record: &[u8]) -> bool {
        let hold = gone_at(header.hold_until(record).unwrap_or(Wall(0)), super::GRACE_MS);
        !header.is_tombstone() && hold > self.wall && header.hold_until(record) > header.expires_at(record)
    }

    /// Accounts for a record that leaves the index: its actor's reference goes to its ghost, if it gets one.
    fn lose(&mut self, header: &Header, record: &[u8], fate: &Fate) {
        self.count(header, false);
        self.note_gone(header, record);
        let gone = self.entry_hash(header, record);
        let version = Version { hlc: Hlc(header.hlc), actor: self.actors.resolve(header.actor()) };
        match fate {
            Fate::Evicted => {
                self.stats.evictions += 1;
                self.haunt(header, record, gone);
                return;
            }
            Fate::Dropped => {
                self.stats.tombstones_dropped += 1;
                let local = self.placement.local(header.hash);
                let rises = self.floors.raise_tombstone(header.namespace(), local, version);
                self.stats.tombstone_floor_raised += u64::from(rises);
                if rises {
                    self.note_floor(header.namespace(), local);
                }
            }
            Fate::Ended => self.stats.expired += 1,
            Fate::Buried | Fate::Kept(..) => unreachable!("those stay"),
        }
        self.tree_remove(header.namespace(), header.hash, gone);
        self.actors.release(header.actor());
    }

    /// Makes a ghost of an evicted record, dropping older ones to stay within their share.
    fn haunt(&mut self, header: &Header, record: &[u8], entry_hash: u64) {
        let (actor, namespace) = (header.actor(), header.namespace());
        self.remember(Ghost::new(header.hash, header.hlc, entry_hash, actor, namespace, header.gone_at(record)));
    }

    /// Keeps a ghost whose hash is in its tree, and whose actor is counted; else the floor rises.
    fn remember(&mut self, ghost: Ghost) {
        let growth = self.ghosts.growth(ghost.hash);
        if self.trim_ghosts(growth) {
            self.ghosts.push(ghost);
        } else {
            self.forget_ghost(&ghost);
        }
    }

    /// Takes over that another replica evicted a version of a key: what is held of it goes, if that is older, and the ghost is
    /// remembered here too. `false`: the older one cannot go now, or there is no memory to remember with; nothing changed.
    pub(crate) fn adopt(&mut self, slot: NamespaceSlot, evicted: &Evicted) -> bool {
        let adopted = self.try_adopt(slot, evicted);
        self.settle();
        adopted
    }

    /// Takes an entry that is too large for this memory for evicted on arrival; `false`: it may not be evicted, or see `adopt`.
    pub(crate) fn evict_on_arrival(&mut self, slot: NamespaceSlot, hash: KeyHash, entry: &Entry<'_>) -> bool {
        let Entry { version, expires_at, hold_until, .. } = *entry;
        let end = expires_at.unwrap_or(Wall(u64::MAX)).max(hold_until.unwrap_or_default());
        let (gone_at, entry_hash) = (gone_at(end, super::GRACE_MS), entry_hash(hash, version, expires_at, hold_until));
        let evicted = Evicted { hash, version, entry_hash, gone_at };
        let is_evicted = self.is_evictable(slot.0) && self.adopt(slot, &evicted);
        self.stats.evictions += u64::from(is_evicted);
        is_evicted
    }

    fn try_adopt(&mut self, slot: NamespaceSlot, evicted: &Evicted) -> bool {
        let Evicted { hash, version, entry_hash, mut gone_at } = *evicted;
        // Where nothing is evicted here nothing may be forgotten on the word of another.
        if !self.is_evictable(slot.0) || self.is_void_ghost(slot, evicted) {
            return true;
        }
        let growth = |table: &Self| {
            table.actors.growth(version.actor) + table.ghosts.growth(hash.0) + table.trees.leaves_bytes()
        };
        let mut need = 0;
        // Making room may give up memory of ghosts that this one was to have.
        while need < growth(self) {
            need = growth(self);
            if !self.make_room(need) {
                return false;
            }
        }
        let held = self.find_by_hash(slot, hash);
        if let Some(handle) = held {
            let header = Header::read(self.log.record(handle));
            if (Version { hlc: Hlc(header.hlc), actor: self.actors.resolve(header.actor()) }) >= version {
                return true;
            }
            if header.is_pinned() {
                return false;
            }
        }
        if self.ghost_by_hash(hash).is_some_and(|known| known >= version) {
            return true;
        }
        let Some(actor) = self.actors.acquire(version.actor) else { return false };
        // Whoever evicted it may not have known what it replaced, and how long that would have lasted.
        if let Some(handle) = held {
            let record = self.log.record(handle);
            gone_at = gone_at.max(Wall(Header::read(record).gone_at(record)));
            self.drop_record(handle);
        }
        if let Some(older) = self.ghosts.remove(hash.0) {
            gone_at = gone_at.max(Wall(older.gone_at()));
            self.tree_remove(older.namespace, older.hash, older.entry_hash);
            self.actors.release(older.actor);
        }
        self.trees.add(self.copies_of(slot.0), self.placement.local(hash.0), hash.0, entry_hash);
        let ghost = Ghost::new(hash.0, version.hlc.0, entry_hash, actor, slot.0, gone_at.0);
        self.remember(ghost);
        true
    }

    /// Drops the oldest ghosts until `growth` more bytes fit their share; false when even none is too many.
    pub(super) fn trim_ghosts(&mut self, growth: u64) -> bool {
        while self.ghosts.bytes() + growth > self.limit / GHOST_SHARE {
            match self.ghosts.pop() {
                Some(ghost) => self.forget_ghost(&ghost),
                None => return false,
            }
        }
        true
    }

    fn forget_ghost(&mut self, ghost: &Ghost) {
        let version = self.ghost_version(ghost);
        let local = self.placement.local(ghost.hash);
        let rises = self.floors.raise_evicted(ghost.namespace, local, version);
        self.stats.evicted_floor_raised += u64::from(rises);
        if rises {
            self.note_floor(ghost.namespace, local);
        }
        self.tree_remove(ghost.namespace, ghost.hash, ghost.entry_hash);
        self.actors.release(ghost.actor);
    }

    /// Drops the oldest segment's tombstones, again and again, until those of evictable namespaces are within quota.
    pub(super) fn shed_tombstones(&mut self) {
        let mut left = self.log.count(Class::Tombstones);
        while self.stats.tombstone_bytes > self.limit / TOMBSTONE_SHARE && left > 0 {
            left -= 1;
            let Some(slot) = self.log.oldest(Class::Tombstones) else { return };
            self.clean(slot, Cleaning::Shed);
        }
    }

    /// Whether background eviction is due.
    pub(super) fn is_high(&self) -> bool {
        self.accounted().saturating_mul(100) > self.limit.saturating_mul(HIGH_WATER)
    }

    /// One step of background eviction; false when there is nothing to evict.
    pub(super) fn evict_in_background(&mut self) -> bool {
        self.clean_one(false)
    }
}
