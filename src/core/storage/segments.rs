//! The log: records appended to segments, segments in four first-in-first-out queues.
//!
//! A handle is a segment's slot (16 bits) and an offset in 4-byte units (16 bits). Segments are 256 KiB (smaller under
//! a small limit, so that a queue still has many); only a record longer than one has a segment of its own. One size for
//! all others on purpose: an allocator keeps pages per size, and pages of a size that nobody asks for any more stay half
//! used when the values' sizes change (a 384 MiB node held 700 MiB). What two long records leave unused is accounted.
//! Invariants: a record never straddles segments; walking a segment from 0 by `capacity` visits every record, dead or
//! alive, and ends at `used`; the last of a queue may be open for appends; one spare segment is kept once there is any,
//! so that a victim can be cleaned when nothing more may be allocated. What is not here: which segment to clean.

use super::record::{HEADER, Header, SLACK_MAX, UNIT, write_filler};
use std::collections::VecDeque;

/// What a segment was filled with. A record may lie in a queue of another class (a value that expired into a tombstone
/// in place, say): its own flags rule, the class only says what a segment mostly holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Evictable values on probation.
    Small = 0,
    /// Evictable values that were asked for again.
    Main = 1,
    /// Tombstones of evictable namespaces, oldest first.
    Tombstones = 2,
    /// Everything of namespaces that never evict.
    Held = 3,
}

pub(super) const CLASSES: [Class; 4] = [Class::Small, Class::Main, Class::Tombstones, Class::Held];

/// Where a record is.
pub(super) type Handle = u32;

/// What is known of a segment without walking it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Bytes appended, dead ones too.
    pub(super) used: u32,
    pub(super) dead: u32,
    pub(super) pinned: u32,
    /// Counts the lives of the slot: a handle kept outside is checked with it.
    pub(super) generation: u32,
    /// No record needs the sweep before this wall time, in milliseconds.
    pub(super) due: u64,
    pub(super) class: Class,
}

/// The segments of one memtable.
pub(super) struct Log {
    segment_bytes: u32,
    data: Vec<Box<[u8]>>,
    segments: Vec<Segment>,
    free: Vec<u16>,
    queues: [VecDeque<u16>; 4],
    open: [Option<u16>; 4],
    spare: Option<Box<[u8]>>,
    class_bytes: [u64; 4],
    class_dead: [u64; 4],
    allocated: u64,
}

/// The handle of the record `offset` bytes into a segment.
pub(super) fn handle(slot: u16, offset: u32) -> Handle {
    (u32::from(slot) << 16) | (offset / UNIT)
}

/// The slot of a handle's segment.
pub(super) fn slot_of(handle: Handle) -> u16 {
    u16::try_from(handle >> 16).expect("16 bits remain")
}

fn split(handle: Handle) -> (usize, usize) {
    ((handle >> 16) as usize, ((handle & 0xffff) * UNIT) as usize)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a segment is below 4 GiB")
}

/// Slots are made this many at a time, so that growth is small beside a segment.
const SLOTS_STEP: usize = 64;
/// Free slots an append needs: its own and one for the spare segment.
const SLOTS_LEFT: usize = 2;
/// Bytes of tables a slot costs: descriptors, a free cell and one in every queue, so that queues never grow alone.
const SLOT_BYTES: u64 = 16 + size_of::<Segment>() as u64 + 10;

impl Log {
    /// An empty log whose segments suit a limit of `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        let fitting = (limit / 128).clamp(4 << 10, 256 << 10);
        let segment_bytes = 1 << fitting.ilog2();
        Self {
            segment_bytes,
            data: Vec::new(),
            segments: Vec::new(),
            free: Vec::new(),
            queues: Default::default(),
            open: [None; 4],
            spare: None,
            class_bytes: [0; 4],
            class_dead: [0; 4],
            allocated: 0,
        }
    }

    fn is_jumbo(&self, needed: u32) -> bool {
        needed > self.segment_bytes
    }

    fn open_with_room(&self, class: Class, needed: u32) -> Option<u16> {
        self.open[class as usize].filter(|slot| self.segments[usize::from(*slot)].used + needed <= self.segment_bytes)
    }

    /// Bytes that appending `needed` bytes to `class` will allocate; `None`: no slot is left for a new segment.
    pub(super) fn growth(&self, class: Class, needed: u32) -> Option<u64> {
        let jumbo = self.is_jumbo(needed);
        if !jumbo && self.open_with_room(class, needed).is_some() {
            return Some(0);
        }
        if self.free.len() + usize::from(u16::MAX) < self.data.len() + SLOTS_LEFT {
            return None;
        }
        let slots = if self.lacks_slots() { SLOTS_STEP as u64 * SLOT_BYTES } else { 0 };
        let spare = if self.spare.is_none() { u64::from(self.segment_bytes) } else { 0 };
        Some(slots + spare + u64::from(if jumbo { needed } else { self.segment_bytes }))
    }

    /// Room for a record of `needed` bytes at the end of `class`; the caller made room by [`Log::growth`] and writes
    /// the record at once.
    pub(super) fn append(&mut self, class: Class, needed: u32) -> Handle {
        if self.spare.is_none() {
            self.spare = Some(vec![0; self.segment_bytes as usize].into());
            self.allocated += u64::from(self.segment_bytes);
        }
        let jumbo = self.is_jumbo(needed);
        if (jumbo || self.open_with_room(class, needed).is_none()) && self.lacks_slots() {
            self.add_slots();
        }
        if jumbo {
            let slot = self.insert(class, vec![0; needed as usize].into());
            self.allocated += u64::from(needed);
            return self.extend(slot, needed);
        }
        let slot = match self.open_with_room(class, needed) {
            Some(slot) => slot,
            None => {
                self.allocated += u64::from(self.segment_bytes);
                let slot = self.insert(class, vec![0; self.segment_bytes as usize].into());
                self.open[class as usize] = Some(slot);
                slot
            }
        };
        self.extend(slot, needed)
    }

    /// Room for a record that survives a cleaning: allocates nothing. The survivors of one victim fit what is open and
    /// one spare segment, because together they are no longer than the victim; if another class took the spare, they
    /// share it.
    pub(super) fn append_survivor(&mut self, class: Class, needed: u32) -> Handle {
        let room = self.open_with_room(class, needed);
        let slot = match room {
            Some(slot) => slot,
            None => match self.spare.take() {
                Some(spare) => {
                    let slot = self.insert(class, spare);
                    self.open[class as usize] = Some(slot);
                    slot
                }
                None => CLASSES
                    .into_iter()
                    .find_map(|other| self.open_with_room(other, needed))
                    .expect("the segment that the spare became has room for one victim"),
            },
        };
        self.extend(slot, needed)
    }

    fn extend(&mut self, slot: u16, needed: u32) -> Handle {
        let segment = &mut self.segments[usize::from(slot)];
        let offset = segment.used;
        segment.used += needed;
        handle(slot, offset)
    }

    /// Whether a new segment would leave none for the spare one, which a cleaning puts in a slot of its own.
    fn lacks_slots(&self) -> bool {
        self.free.len() + self.data.capacity() < self.data.len() + SLOTS_LEFT
    }

    fn add_slots(&mut self) {
        let slots = self.data.len() + SLOTS_STEP;
        self.data.reserve_exact(SLOTS_STEP);
        self.segments.reserve_exact(SLOTS_STEP);
        self.free.reserve_exact(slots - self.free.len());
        for queue in &mut self.queues {
            queue.reserve_exact(slots - queue.len());
        }
    }

    fn insert(&mut self, class: Class, data: Box<[u8]>) -> u16 {
        let bytes = data.len() as u64;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.data.len()).expect("growth was asked for first");
                assert!(self.data.len() < self.data.capacity(), "a slot was kept for a cleaning");
                self.data.push(Box::default());
                let blank = Segment { used: 0, dead: 0, pinned: 0, generation: 0, due: u64::MAX, class };
                self.segments.push(blank);
                slot
            }
        };
        self.data[usize::from(slot)] = data;
        let segment = &mut self.segments[usize::from(slot)];
        let generation = segment.generation.wrapping_add(1);
        *segment = Segment { used: 0, dead: 0, pinned: 0, generation, due: u64::MAX, class };
        self.enqueue(slot, class, bytes);
        slot
    }

    fn enqueue(&mut self, slot: u16, class: Class, bytes: u64) {
        let queue = &mut self.queues[class as usize];
        // The open segment stays last.
        match self.open[class as usize] {
            Some(open) if queue.back() == Some(&open) && bytes != u64::from(self.segment_bytes) => {
                queue.insert(queue.len() - 1, slot);
            }
            Some(_) | None => queue.push_back(slot),
        }
        self.class_bytes[class as usize] += bytes;
    }

    #[inline]
    pub(super) fn record(&self, handle: Handle) -> &[u8] {
        let (slot, at) = split(handle);
        &self.data[slot][at..]
    }

    #[inline]
    pub(super) fn record_mut(&mut self, handle: Handle) -> &mut [u8] {
        let (slot, at) = split(handle);
        &mut self.data[slot][at..]
    }

    pub(super) fn segment(&self, slot: u16) -> &Segment {
        &self.segments[usize::from(slot)]
    }

    pub(super) fn segment_mut(&mut self, slot: u16) -> &mut Segment {
        &mut self.segments[usize::from(slot)]
    }

    pub(super) fn slots(&self) -> u16 {
        u16::try_from(self.data.len().min(usize::from(u16::MAX))).expect("it was cut")
    }

    /// The generation of the segment `handle` lies in, if there is a record at `handle` when it equals the handle's.
    pub(super) fn generation(&self, handle: Handle) -> Option<u32> {
        self.segments.get(split(handle).0).map(|segment| segment.generation)
    }

    /// The record at `handle` needs the sweep at `due`, and pins `pinned` bytes more.
    pub(super) fn note(&mut self, handle: Handle, due: u64, pinned: u32) {
        let segment = &mut self.segments[split(handle).0];
        segment.due = segment.due.min(due);
        segment.pinned += pinned;
    }

    pub(super) fn note_unpinned(&mut self, handle: Handle, bytes: u32) {
        self.segments[split(handle).0].pinned -= bytes;
    }

    /// Marks the record at `handle` dead; frees its segment when that was the last and the segment is not open.
    pub(super) fn kill(&mut self, handle: Handle) {
        let header = Header::read(self.record(handle));
        header.set_dead(self.record_mut(handle));
        let (slot, _) = split(handle);
        let bytes = header.capacity();
        if header.is_pinned() {
            self.segments[slot].pinned -= bytes;
        }
        self.add_dead(slot, bytes);
        self.free_if_dead(slot_of(handle));
    }

    fn add_dead(&mut self, slot: usize, bytes: u32) {
        let segment = &mut self.segments[slot];
        segment.dead += bytes;
        assert!(segment.dead <= segment.used, "a record dies once");
        self.class_dead[segment.class as usize] += u64::from(bytes);
    }

    fn free_if_dead(&mut self, slot: u16) {
        let Segment { used, dead, class, .. } = self.segments[usize::from(slot)];
        if dead == used && used > 0 && self.open[class as usize] != Some(slot) {
            self.unqueue(slot);
            let data = std::mem::take(&mut self.data[usize::from(slot)]);
            self.release(slot, data);
        }
    }

    /// The record at `handle`, `capacity` long, is now shorter: what is past `needed` becomes its slack, or a dead
    /// record where a header cannot say so much.
    pub(super) fn trim(&mut self, handle: Handle, capacity: u32) {
        let (slot, at) = split(handle);
        let record = &mut self.data[slot][at..];
        let mut header = Header::read(record);
        let slack = capacity - header.needed();
        if slack <= SLACK_MAX {
            header.set_slack(record, slack);
            return;
        }
        let keep = SLACK_MAX.min(slack - HEADER);
        header.set_slack(record, keep);
        let gap = (header.needed() + keep) as usize..capacity as usize;
        write_filler(&mut record[gap]);
        self.add_dead(slot, slack - keep);
    }

    /// Whether the record at `handle` has a segment of its own.
    pub(super) fn stands_alone(&self, handle: Handle) -> bool {
        self.data[split(handle).0].len() != self.segment_bytes as usize
    }

    /// Cuts a lone record's segment to what it needs.
    pub(super) fn cut(&mut self, handle: Handle) {
        let (slot, _) = split(handle);
        let needed = Header::read(self.record(handle)).needed();
        let data = &mut self.data[slot];
        let freed = u64::from(length(data) - needed);
        *data = data[..needed as usize].into();
        let segment = &mut self.segments[slot];
        self.allocated -= freed;
        self.class_bytes[segment.class as usize] -= freed;
        segment.used = needed;
        if segment.pinned > 0 {
            segment.pinned = needed;
        }
    }

    fn unqueue(&mut self, slot: u16) {
        let class = self.segments[usize::from(slot)].class as usize;
        let queue = &mut self.queues[class];
        let at = queue.iter().position(|other| *other == slot).expect("a segment is in its class's queue");
        queue.remove(at);
    }

    /// Takes the bytes of `slot` out for cleaning; handles into it are dangling until [`Log::release`].
    pub(super) fn take(&mut self, slot: u16) -> Box<[u8]> {
        self.unqueue(slot);
        let class = self.segments[usize::from(slot)].class as usize;
        if self.open[class] == Some(slot) {
            self.open[class] = None;
        }
        std::mem::take(&mut self.data[usize::from(slot)])
    }

    /// Gives a cleaned segment's memory back; it becomes the spare where that is missing.
    pub(super) fn release(&mut self, slot: u16, data: Box<[u8]>) {
        let bytes = data.len() as u64;
        let segment = &mut self.segments[usize::from(slot)];
        self.class_bytes[segment.class as usize] -= bytes;
        self.class_dead[segment.class as usize] -= u64::from(segment.dead);
        *segment = Segment { used: 0, dead: 0, pinned: 0, due: u64::MAX, ..*segment };
        segment.generation = segment.generation.wrapping_add(1);
        self.free.push(slot);
        if self.spare.is_none() && bytes == u64::from(self.segment_bytes) {
            self.spare = Some(data);
        } else {
            self.allocated -= bytes;
        }
    }

    /// Undoes [`Log::take`]: the segment is the first of its class again.
    pub(super) fn put_back(&mut self, slot: u16, data: Box<[u8]>) {
        let class = self.segments[usize::from(slot)].class as usize;
        self.data[usize::from(slot)] = data;
        self.queues[class].push_front(slot);
    }

    /// Moves a whole segment to the end of `class`, records unmoved.
    pub(super) fn requeue(&mut self, slot: u16, class: Class) {
        self.unqueue(slot);
        let segment = &mut self.segments[usize::from(slot)];
        let (bytes, dead) = (self.data[usize::from(slot)].len() as u64, u64::from(segment.dead));
        if self.open[segment.class as usize] == Some(slot) {
            self.open[segment.class as usize] = None;
        }
        self.class_bytes[segment.class as usize] -= bytes;
        self.class_dead[segment.class as usize] -= dead;
        segment.class = class;
        self.class_dead[class as usize] += dead;
        // In front of the open one, if there is one: that must stay last.
        let queue = &mut self.queues[class as usize];
        let at = queue.len() - usize::from(self.open[class as usize].is_some());
        queue.insert(at, slot);
        self.class_bytes[class as usize] += bytes;
    }

    /// The oldest segment of a class.
    pub(super) fn oldest(&self, class: Class) -> Option<u16> {
        self.queues[class as usize].front().copied()
    }

    /// The segment of a class with the largest dead share, at least an eighth.
    pub(super) fn deadest(&self, class: Class) -> Option<u16> {
        let share = |slot: &u16| {
            let bytes = length(&self.data[usize::from(*slot)]);
            (u64::from(self.segments[usize::from(*slot)].dead) << 16) / u64::from(bytes)
        };
        let slot = self.queues[class as usize].iter().copied().max_by_key(share)?;
        (share(&slot) >= 1 << 13).then_some(slot)
    }

    #[cfg(test)]
    pub(super) fn queued(&self, class: Class) -> Vec<u16> {
        self.queues[class as usize].iter().copied().collect()
    }

    pub(super) fn count(&self, class: Class) -> usize {
        self.queues[class as usize].len()
    }

    pub(super) fn class_bytes(&self, class: Class) -> u64 {
        self.class_bytes[class as usize]
    }

    pub(super) fn class_dead(&self, class: Class) -> u64 {
        self.class_dead[class as usize]
    }

    pub(super) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Bytes of segments, the spare one too.
    pub(super) fn segments_bytes(&self) -> u64 {
        self.allocated
    }

    /// Bytes of the tables that describe segments.
    pub(super) fn tables_bytes(&self) -> u64 {
        let queues: usize = self.queues.iter().map(|queue| queue.capacity() * 2).sum();
        let descriptors = self.data.capacity() * 16 + self.segments.capacity() * size_of::<Segment>();
        (queues + descriptors + self.free.capacity() * 2) as u64
    }
}
