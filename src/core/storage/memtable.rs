//! The memtable's calls: look up, join, pin, account. See the module above for the map of its parts.
//!
//! A put is a join (PROTOCOL §3): the larger version stays, equal ones are one write, and whichever stays absorbs the
//! other's end as `hold_until`. Room is made before anything is changed, and making room may move or evict any record,
//! the old one of the same key included: a handle is looked up again afterwards.

use super::{
    KEY_BYTES_MAX, Lookup, MemtableConfig, MemtableStats, NAMESPACE_SLOTS_MAX, NamespaceSlot, Pin, Put,
    VALUE_BYTES_MAX,
    actors::Actors,
    changes::Changes,
    expiry::Sweep,
    floors::FloorTable,
    ghosts::{Ghost, Ghosts},
    index::{Index, Placement},
    record::{Draft, Header, SLACK_MAX},
    segments::{Class, Handle, Log},
};
use crate::{
    anti_entropy::merkle::Trees,
    canary::canary,
    id::KeyHash,
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use std::cmp::Ordering;

/// All that one shard holds. Single-threaded; every call is a plain function of the calls before it.
pub struct Memtable {
    pub(super) limit: u64,
    pub(super) reserved: u64,
    pub(super) placement: Placement,
    pub(super) log: Log,
    pub(super) index: Index,
    pub(super) ghosts: Ghosts,
    pub(super) floors: FloorTable,
    pub(super) trees: Trees,
    pub(super) actors: Actors,
    pub(super) namespaces: Vec<Option<Namespace>>,
    pub(super) stats: MemtableStats,
    pub(super) sweep: Sweep,
    /// Something void may still be in memory (`flush`).
    pub(super) flushing: bool,
    pub(super) changes: Changes,
    /// The wall clock as the last call that brought one told it.
    pub(super) wall: Wall,
}

/// What a namespace asked for.
#[derive(Clone, Copy)]
pub(super) struct Namespace {
    pub(super) evictable: bool,
    pub(super) copies: u8,
    /// Whether its changes are noted.
    pub(super) stored: bool,
    /// What has a version at or below this is void.
    pub(super) mark: Hlc,
    /// The next table whose void records are still to go; `None`: all are gone.
    pub(super) swept: Option<usize>,
}

/// What a place for a namespace takes.
const NAMESPACE_BYTES: u64 = size_of::<Option<Namespace>>() as u64;

impl Memtable {
    /// An empty memtable. Its tables take 64 bytes per partition of its own at once.
    ///
    /// # Panics
    /// If `partitions` is not a power of two or `shard` not below `shards`. All calls take hashes and partitions of this
    /// shard only; those that name a partition panic for another shard's.
    pub fn new(config: MemtableConfig) -> Self {
        let placement = Placement::new(config.partitions, config.shards, config.shard);
        let mut made = Self {
            limit: config.limit,
            reserved: 0,
            placement,
            log: Log::new(config.limit),
            index: Index::new(placement.tables()),
            ghosts: Ghosts::new(placement),
            floors: FloorTable::default(),
            trees: Trees::new(config.limit, config.partitions, placement.tables()),
            actors: Actors::new(config.seed),
            namespaces: Vec::new(),
            stats: MemtableStats::default(),
            sweep: Sweep::default(),
            flushing: false,
            changes: Changes::default(),
            wall: Wall(0),
        };
        made.settle();
        made
    }

    /// Declares a namespace with so many copies of a key, or changes whether it may be evicted; needed before its first
    /// use. Floors of an evictable one take 32 bytes per partition, trees of each number of copies as much.
    ///
    /// # Panics
    /// If `slot` is not below [`NAMESPACE_SLOTS_MAX`].
    pub fn namespace(&mut self, slot: NamespaceSlot, evictable: bool, copies: u8) {
        assert!(slot.0 < NAMESPACE_SLOTS_MAX, "a namespace slot has 13 bits");
        let at = usize::from(slot.0);
        // Where nothing can be evicted the row goes over the limit: puts are refused until there is room again.
        let growth = self.floors.growth(slot, self.placement.tables()) + self.trees.declare_growth(copies);
        self.make_room(growth + NAMESPACE_BYTES * (at as u64 + 1));
        self.trees.declare(copies);
        if self.namespaces.len() <= at {
            self.namespaces.reserve_exact(at + 1 - self.namespaces.len());
            self.namespaces.resize(at + 1, None);
        }
        let before = self.namespaces[at];
        let fresh = Namespace { evictable, copies, stored: false, mark: Hlc::default(), swept: None };
        self.namespaces[at] = Some(before.map_or(fresh, |before| Namespace { evictable, copies, ..before }));
        if let Some(before) = before.filter(|before| before.copies != copies) {
            self.retree(slot.0, before.copies, copies);
        }
        if before.is_some_and(|before| before.evictable != evictable) {
            self.recount_tombstones(slot.0, evictable);
        }
        if evictable {
            self.floors.declare(slot, self.placement.tables());
        }
        self.settle();
    }

    /// A namespace changed its kind: its tombstones count against the other quota. Linear in all entries.
    fn recount_tombstones(&mut self, namespace: u16, evictable: bool) {
        let (mut bytes, log) = (0, &self.log);
        for handle in (0..self.index.tables()).flat_map(|local| self.index.values(local)) {
            let header = Header::read(log.record(handle));
            if header.namespace() == namespace && header.is_tombstone() {
                bytes += u64::from(header.needed());
            }
        }
        let stats = &mut self.stats;
        let (to, from) = match evictable {
            true => (&mut stats.tombstone_bytes, &mut stats.held_tombstone_bytes),
            false => (&mut stats.held_tombstone_bytes, &mut stats.tombstone_bytes),
        };
        *to += bytes;
        *from -= bytes;
    }

    pub(super) fn is_evictable(&self, namespace: u16) -> bool {
        self.namespaces[usize::from(namespace)].expect("a namespace is declared before its first use").evictable
    }

    #[inline]
    pub(super) fn find(&self, slot: NamespaceSlot, hash: u64, key: &[u8]) -> Option<Handle> {
        let is_it = |handle| {
            let record = self.log.record(handle);
            let header = Header::read(record);
            header.hash == hash && header.namespace() == slot.0 && header.key(record) == key
        };
        self.index.find(self.placement.local(hash), hash, is_it)
    }

    /// As `find`, of what is not void.
    #[inline]
    fn find_valid(&self, slot: NamespaceSlot, hash: u64, key: &[u8]) -> Option<Handle> {
        let handle = self.find(slot, hash, key)?;
        let void = self.flushing && self.is_void(slot.0, Header::read(self.log.record(handle)).hlc);
        (!void).then_some(handle)
    }

    #[inline]
    pub(super) fn entry(&self, handle: Handle) -> Entry<'_> {
        let record = self.log.record(handle);
        let header = Header::read(record);
        header.entry(record, self.actors.resolve(header.actor()))
    }

    pub(super) fn ghost_version(&self, ghost: &Ghost) -> Version {
        Version { hlc: Hlc(ghost.hlc), actor: self.actors.resolve(ghost.actor) }
    }

    fn lookup_absent(&self, hash: u64) -> Lookup<'_> {
        match self.ghosts.lookup(hash).filter(|ghost| !self.flushing || !self.is_void(ghost.namespace, ghost.hlc)) {
            Some(ghost) => Lookup::Ghost(self.ghost_version(ghost)),
            None => Lookup::Absent,
        }
    }

    /// Looks a key up and counts the use.
    pub fn get(&mut self, slot: NamespaceSlot, hash: KeyHash, key: &[u8]) -> Lookup<'_> {
        let Some(handle) = self.find_valid(slot, hash.0, key) else { return self.lookup_absent(hash.0) };
        let record = self.log.record_mut(handle);
        Header::read(record).touch(record);
        Lookup::Found(self.entry(handle))
    }

    /// Looks a key up and leaves no trace.
    pub fn peek(&self, slot: NamespaceSlot, hash: KeyHash, key: &[u8]) -> Lookup<'_> {
        match self.find_valid(slot, hash.0, key) {
            Some(handle) => Lookup::Found(self.entry(handle)),
            None => self.lookup_absent(hash.0),
        }
    }

    /// Joins `entry` into what is held of `key`. `hash` is the key's hash in its namespace. With `pin` the entry stays
    /// until [`Memtable::unpin`], or until it is replaced, whatever room is needed.
    ///
    /// An absent key with a newer ghost is `Superseded` too. Floors are the caller's to check. Expired entries are
    /// joined like others. A put into a namespace that is not evictable may evict entries of those that are.
    ///
    /// # Panics
    /// If the namespace was not declared.
    pub fn put(
        &mut self,
        now: Wall,
        slot: NamespaceSlot,
        hash: KeyHash,
        key: &[u8],
        entry: &Entry<'_>,
        pin: bool,
    ) -> Put {
        self.wall = now;
        if key.len() > KEY_BYTES_MAX || entry.body.len() > VALUE_BYTES_MAX {
            return Put::TooLarge;
        }
        let answer = self.join(slot, hash.0, key, entry, pin);
        if answer == Put::OutOfMemory {
            self.stats.out_of_memory += 1;
        }
        self.settle();
        answer
    }

    fn join(&mut self, slot: NamespaceSlot, hash: u64, key: &[u8], entry: &Entry<'_>, pin: bool) -> Put {
        if self.is_void(slot.0, entry.version.hlc.0) && !canary!(K18) {
            return Put::Superseded { version: self.flushed(slot), hold_until: None };
        }
        let mut found = self.find(slot, hash, key);
        if let Some(handle) = found.filter(|_| self.flushing)
            && self.is_void(slot.0, Header::read(self.log.record(handle)).hlc)
        {
            self.drop_record(handle);
            found = None;
        }
        let Some(handle) = found else {
            let ghost = self.ghosts.lookup(hash).map(|ghost| self.ghost_version(ghost));
            if let Some(version) = ghost.filter(|version| *version > entry.version) {
                return Put::Superseded { version, hold_until: None };
            }
            let class = if ghost.is_some() { Class::Main } else { Class::Small };
            let stored = self.store(slot, hash, key, entry, pin, None, class);
            if ghost == Some(entry.version) && matches!(stored, Put::Applied { .. }) {
                self.note_filled(slot, hash);
            }
            return stored;
        };
        let old = self.entry(handle);
        let order = entry.version.cmp(&old.version);
        let order = if canary!(K27) { entry.version.hlc.cmp(&old.version.hlc) } else { order };
        match order {
            Ordering::Greater => {
                let hold_until = entry.hold_until.max(old.hold_for_successor(entry.expires_at));
                self.store(slot, hash, key, &Entry { hold_until, ..*entry }, pin, Some(handle), Class::Small)
            }
            Ordering::Equal => {
                let hold_until = entry.hold_until.max(old.hold_until);
                let pinned = Header::read(self.log.record(handle)).is_pinned();
                if hold_until != old.hold_until {
                    return self.hold(slot, handle, hold_until, pin || pinned);
                }
                if pin && !pinned {
                    self.set_pinned(handle, true);
                }
                Put::Applied { pin: pin.then(|| self.pin_of(handle)) }
            }
            Ordering::Less => {
                let hold_until = old.hold_until.max(entry.hold_for_successor(old.expires_at));
                let version = old.version;
                if hold_until != old.hold_until {
                    let pinned = Header::read(self.log.record(handle)).is_pinned();
                    match self.hold(slot, handle, hold_until, pinned) {
                        Put::Applied { .. } => {}
                        refused @ (Put::Superseded { .. } | Put::OutOfMemory | Put::TooLarge) => return refused,
                    }
                }
                Put::Superseded { version, hold_until }
            }
        }
    }

    /// Stores what is held at `handle` again with another hold. Rare, so that copying it out is fine.
    fn hold(&mut self, slot: NamespaceSlot, handle: Handle, hold_until: Option<Wall>, pin: bool) -> Put {
        let record = self.log.record(handle);
        let header = Header::read(record);
        let (key, value) = (header.key(record).to_vec(), header.value(record).to_vec());
        let old = self.entry(handle);
        let body = if header.is_tombstone() { Body::Tombstone } else { Body::Value(&value) };
        let entry = Entry { version: old.version, expires_at: old.expires_at, hold_until, body };
        self.store(slot, header.hash, &key, &entry, pin, Some(handle), Class::Small)
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of put, called from three places in this file")]
    fn store(
        &mut self,
        slot: NamespaceSlot,
        hash: u64,
        key: &[u8],
        entry: &Entry<'_>,
        pinned: bool,
        found: Option<Handle>,
        admitted: Class,
    ) -> Put {
        let cleaned = self.stats.segments_cleaned;
        let growth = self.actors.growth(entry.version.actor);
        if growth > 0 && !self.make_room(growth) {
            return Put::OutOfMemory;
        }
        // Cleaning may have moved or evicted what was found.
        let found = if self.stats.segments_cleaned == cleaned { found } else { self.find(slot, hash, key) };
        let Some(actor) = self.actors.acquire(entry.version.actor) else { return Put::OutOfMemory };
        let answer = self.store_stamped(slot, hash, key, entry, actor, pinned, found, admitted);
        match answer {
            Put::Applied { .. } => {}
            Put::Superseded { .. } | Put::OutOfMemory | Put::TooLarge => self.actors.release(actor),
        }
        answer
    }

    #[expect(clippy::too_many_arguments, reason = "the rest of `store`, split so that a refusal releases the actor")]
    fn store_stamped(
        &mut self,
        slot: NamespaceSlot,
        hash: u64,
        key: &[u8],
        entry: &Entry<'_>,
        actor: u16,
        pinned: bool,
        found: Option<Handle>,
        admitted: Class,
    ) -> Put {
        let evictable = self.is_evictable(slot.0);
        let (value, tombstone) = match entry.body {
            Body::Value(value) => (value, false),
            Body::Tombstone => (&[][..], true),
        };
        let mut draft = Draft {
            hash,
            hlc: entry.version.hlc,
            actor,
            namespace: slot.0,
            expires_at: entry.expires_at,
            hold_until: entry.hold_until,
            since: (tombstone || entry.outlasts_its_end()).then_some(self.wall),
            tombstone,
            pinned,
            frequency: 0,
            key,
            value,
        };
        let needed = draft.needed();
        if u64::from(needed) > self.limit / 4 {
            return Put::TooLarge;
        }
        if tombstone && !evictable {
            let quota = self.limit / super::eviction::TOMBSTONE_SHARE;
            if self.stats.held_tombstone_bytes + u64::from(needed) > quota {
                return Put::OutOfMemory;
            }
        }
        if let Some(handle) = found {
            let old = Header::read(self.log.record(handle));
            draft.frequency = old.frequency() + 1;
            let capacity = old.capacity();
            let fits = old.is_tombstone() == tombstone
                && needed <= capacity
                && (capacity - needed <= SLACK_MAX || !self.log.stands_alone(handle));
            if fits {
                self.overwrite(handle, &old, &draft);
                return Put::Applied { pin: pinned.then(|| self.pin_of(handle)) };
            }
        }
        let class = match (evictable, tombstone) {
            (false, _) => Class::Held,
            (true, true) => Class::Tombstones,
            (true, false) => admitted,
        };
        let local = self.placement.local(hash);
        let cleaned = self.stats.segments_cleaned;
        if !self.room_to_append(class, needed, local) {
            return Put::OutOfMemory;
        }
        let found = if self.stats.segments_cleaned == cleaned { found } else { self.find(slot, hash, key) };
        let handle = self.log.append(class, needed);
        let header = draft.write(self.log.record_mut(handle));
        match found {
            Some(old) => {
                self.index.replace(local, hash, old, handle);
                self.tree_add(handle);
                self.forget_record(old);
            }
            None => {
                let log = &self.log;
                self.index.insert(local, hash, handle, |other| Header::read(log.record(other)).hash);
                self.tree_add(handle);
            }
        }
        self.stats.ghost_hits += u64::from(self.drop_ghost(hash));
        self.count(&header, true);
        self.note(handle);
        if tombstone && evictable {
            self.shed_tombstones();
        }
        Put::Applied { pin: pinned.then(|| self.pin_of_key(slot, hash, key)).flatten() }
    }

    fn overwrite(&mut self, handle: Handle, old: &Header, draft: &Draft<'_>) {
        self.count(old, false);
        let gone = self.entry_hash(old, self.log.record(handle));
        self.actors.release(old.actor());
        if old.is_pinned() {
            self.log.note_unpinned(handle, old.capacity());
        }
        let header = draft.write(self.log.record_mut(handle));
        self.tree_add(handle);
        self.tree_remove(old.namespace(), old.hash, gone);
        self.log.trim(handle, old.capacity());
        self.count(&header, true);
        self.note(handle);
        self.stats.in_place += 1;
    }

    /// Tells the segment of a record just written when the sweep is due there and what is pinned.
    pub(super) fn note(&mut self, handle: Handle) {
        let record = self.log.record(handle);
        let header = Header::read(record);
        let due = header.due(record);
        self.sweep.expect(due);
        self.log.note(handle, due, if header.is_pinned() { header.capacity() } else { 0 });
    }

    /// Counts a record in, or out.
    pub(super) fn count(&mut self, header: &Header, added: bool) {
        let evictable = self.is_evictable(header.namespace());
        let stats = &mut self.stats;
        let step = |gauge: &mut u64, by: u64| *gauge = if added { *gauge + by } else { *gauge - by };
        match (header.is_tombstone(), evictable) {
            (false, _) => step(&mut stats.entries, 1),
            (true, true) => {
                step(&mut stats.tombstones, 1);
                step(&mut stats.tombstone_bytes, u64::from(header.needed()));
            }
            (true, false) => {
                step(&mut stats.tombstones, 1);
                step(&mut stats.held_tombstone_bytes, u64::from(header.needed()));
            }
        }
    }

    /// Drops a record that the index names.
    pub(super) fn drop_record(&mut self, handle: Handle) {
        let hash = Header::read(self.log.record(handle)).hash;
        self.index.remove(self.placement.local(hash), hash, handle);
        self.note_gone_at(handle);
        self.forget_record(handle);
    }

    /// Ends a record that the index no longer names.
    pub(super) fn forget_record(&mut self, handle: Handle) {
        let record = self.log.record(handle);
        let header = Header::read(record);
        let gone = self.entry_hash(&header, record);
        self.tree_remove(header.namespace(), header.hash, gone);
        self.count(&header, false);
        self.actors.release(header.actor());
        self.log.kill(handle);
    }

    fn pin_of(&self, handle: Handle) -> Pin {
        let hlc = Header::read(self.log.record(handle)).hlc;
        Pin { handle, generation: self.log.generation(handle).expect("the handle is live"), hlc }
    }

    fn pin_of_key(&self, slot: NamespaceSlot, hash: u64, key: &[u8]) -> Option<Pin> {
        self.find(slot, hash, key).map(|handle| self.pin_of(handle))
    }

    fn set_pinned(&mut self, handle: Handle, pinned: bool) {
        let record = self.log.record_mut(handle);
        let mut header = Header::read(record);
        header.set_pinned(record, pinned);
        if pinned {
            self.log.note(handle, u64::MAX, header.capacity());
        } else {
            self.log.note_unpinned(handle, header.capacity());
        }
    }

    /// Lets a pinned write be evicted again. Does nothing if a newer write took its place or it is gone.
    pub fn unpin(&mut self, pin: Pin, slot: NamespaceSlot, hash: KeyHash, key: &[u8]) {
        let is_it = |handle| {
            let record = self.log.record(handle);
            let header = Header::read(record);
            let same = header.hash == hash.0 && header.namespace() == slot.0 && header.hlc == pin.hlc;
            (same && !header.is_dead() && header.key(record) == key).then_some(header.is_pinned())
        };
        // A slot keeps its generation while its records stay where they are, so the handle still starts a record.
        let there = self.log.generation(pin.handle) == Some(pin.generation);
        let found = match there.then(|| is_it(pin.handle)).flatten() {
            Some(pinned) => Some((pin.handle, pinned)),
            None => self.find(slot, hash.0, key).and_then(|handle| Some((handle, is_it(handle)?))),
        };
        if let Some((handle, true)) = found {
            self.set_pinned(handle, false);
        }
    }

    /// Since when the tombstone of `key` is here, one that expiry made included; `None` where there is no tombstone, or one
    /// that ends by itself.
    pub fn tombstone_since(&self, slot: NamespaceSlot, hash: KeyHash, key: &[u8]) -> Option<Wall> {
        let record = self.log.record(self.find_valid(slot, hash.0, key)?);
        Header::read(record).since(record)
    }

    /// Sets what the shard holds elsewhere on this memtable's account (hints, requests in flight, buffers), in bytes.
    /// Evicts what no longer fits; ask [`Memtable::room_for`] first where that must not fail.
    pub fn set_reserved(&mut self, bytes: u64) {
        self.reserved = bytes;
        self.make_room(0);
        self.settle();
    }

    /// Makes room for `bytes` more, evicting if need be; whether there is.
    pub fn room_for(&mut self, bytes: u64) -> bool {
        let made = self.make_room(bytes);
        self.stats.out_of_memory += u64::from(!made);
        self.settle();
        made
    }

    /// Moves the limit; what no longer fits is evicted at once, in time linear in it.
    pub fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes;
        self.trim_ghosts(0);
        self.make_room(0);
        self.settle();
    }

    /// Bytes the limit is compared with.
    pub fn accounted(&self) -> u64 {
        self.log.segments_bytes()
            + self.log.tables_bytes()
            + self.index.bytes()
            + self.ghosts.bytes()
            + self.trees.bytes()
            + self.small_tables_bytes()
            + self.reserved
    }

    fn small_tables_bytes(&self) -> u64 {
        self.floors.bytes() + self.actors.bytes() + self.namespaces.capacity() as u64 * NAMESPACE_BYTES
    }

    /// The hard limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &MemtableStats {
        &self.stats
    }

    /// Brings the gauges up to date at the end of a call.
    pub(super) fn settle(&mut self) {
        self.stats.ghosts = self.ghosts.live();
        self.stats.segment_bytes = self.log.segments_bytes();
        self.stats.index_bytes = self.index.bytes() + self.log.tables_bytes();
        self.stats.ghost_bytes = self.ghosts.bytes();
        self.stats.tree_bytes = self.trees.bytes();
        self.stats.table_bytes = self.small_tables_bytes();
    }
}
