//! A record: one entry as it lies in a segment, a 32-byte header before key and value.
//!
//! ```text
//! hash 8 | hlc 8 | shape 8 | rest 8 | [hold 8] [wide expiry 8] [since 8] | key | value | pad to 4 | slack
//! shape: value length 24, key length 11, slack units 8, frequency 2, flags 6, namespace slot 13
//! rest:  expiry offset 40, interned actor 16, value kind 8 (zero: register; others are reserved)
//! ```
//!
//! The whole key hash is kept: an index is rehashed and a ghost made without hashing a key again. Expiry is stored as
//! milliseconds after the version's own, 40 bits (34 years); anything else takes a wide field, so that every `Wall`
//! round-trips. Invariant: `capacity` of the header is the distance to the next record, whatever was overwritten in place.

use crate::{
    anti_entropy::merkle::gone_at,
    canary::canary,
    id::ActorId,
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};

/// Bytes of the fixed part.
pub(super) const HEADER: u32 = 32;
/// Records start at multiples of this, so a 16-bit offset spans a 256 KiB segment.
pub(super) const UNIT: u32 = 4;
/// Largest slack a header can say, in bytes.
pub(super) const SLACK_MAX: u32 = 255 * UNIT;
/// Namespace slots are below this.
pub const NAMESPACE_SLOTS_MAX: u16 = 1 << 13;

const EXPIRY_NONE: u64 = (1 << 40) - 1;
const TOMBSTONE: u64 = 1 << 45;
const PINNED: u64 = 1 << 46;
const DEAD: u64 = 1 << 47;
const HOLD: u64 = 1 << 48;
const WIDE: u64 = 1 << 49;
const SINCE: u64 = 1 << 50;
const FREQUENCY_SHIFT: u32 = 43;
const FREQUENCY: u64 = 3 << FREQUENCY_SHIFT;
const SLACK_SHIFT: u32 = 35;

/// The fixed part of a record, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) hash: u64,
    pub(super) hlc: u64,
    shape: u64,
    rest: u64,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

impl Header {
    /// Reads the header at the start of `record`.
    #[inline]
    pub(super) fn read(record: &[u8]) -> Self {
        let fixed: &[u8; HEADER as usize] = record[..HEADER as usize].try_into().expect("a header's length was sliced");
        Self { hash: word(fixed, 0), hlc: word(fixed, 8), shape: word(fixed, 16), rest: word(fixed, 24) }
    }

    pub(super) fn value_len(&self) -> u32 {
        (self.shape & 0xff_ffff) as u32
    }

    pub(super) fn key_len(&self) -> u32 {
        ((self.shape >> 24) & 0x7ff) as u32
    }

    pub(super) fn frequency(&self) -> u8 {
        ((self.shape >> FREQUENCY_SHIFT) & 3) as u8
    }

    pub(super) fn namespace(&self) -> u16 {
        (self.shape >> 51) as u16
    }

    pub(super) fn actor(&self) -> u16 {
        ((self.rest >> 40) & 0xffff) as u16
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.shape & TOMBSTONE != 0
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.shape & PINNED != 0
    }

    pub(super) fn is_dead(&self) -> bool {
        self.shape & DEAD != 0
    }

    fn extras(&self) -> u32 {
        (self.shape & (HOLD | WIDE | SINCE)).count_ones() * 8
    }

    /// Bytes in use, padded.
    pub(super) fn needed(&self) -> u32 {
        (HEADER + self.extras() + self.key_len() + self.value_len()).next_multiple_of(UNIT)
    }

    /// Distance to the next record.
    pub(super) fn capacity(&self) -> u32 {
        self.needed() + ((self.shape >> SLACK_SHIFT) & 0xff) as u32 * UNIT
    }

    /// The key within `record`.
    #[inline]
    pub(super) fn key<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        let at = (HEADER + self.extras()) as usize;
        &record[at..at + self.key_len() as usize]
    }

    pub(super) fn value<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        let at = (HEADER + self.extras() + self.key_len()) as usize;
        &record[at..at + self.value_len() as usize]
    }

    pub(super) fn hold_until(&self, record: &[u8]) -> Option<Wall> {
        (self.shape & HOLD != 0).then(|| Wall(word(record, HEADER as usize)))
    }

    pub(super) fn expires_at(&self, record: &[u8]) -> Option<Wall> {
        if self.shape & WIDE != 0 {
            let at = HEADER as usize + if self.shape & HOLD != 0 { 8 } else { 0 };
            return Some(Wall(word(record, at)));
        }
        let offset = self.rest & EXPIRY_NONE;
        (offset != EXPIRY_NONE).then(|| Wall(Hlc(self.hlc).wall().0 + offset))
    }

    /// Since when a tombstone is here: its age for collection. One that was a value is one since that was over for good.
    pub(super) fn since(&self, record: &[u8]) -> Option<Wall> {
        if self.shape & SINCE == 0 || !self.is_tombstone() {
            return None;
        }
        let before = (self.shape & (HOLD | WIDE)).count_ones() as usize * 8;
        let stored = Wall(word(record, HEADER as usize + before));
        let over = self.expires_at(record).map_or(stored, |at| gone_at(at, super::GRACE_MS));
        Some(stored.max(over))
    }

    /// The entry in `record`, stamped by `actor`.
    #[inline]
    pub(super) fn entry<'a>(&self, record: &'a [u8], actor: ActorId) -> Entry<'a> {
        Entry {
            version: Version { hlc: Hlc(self.hlc), actor },
            expires_at: self.expires_at(record),
            hold_until: self.hold_until(record),
            body: if self.is_tombstone() { Body::Tombstone } else { Body::Value(self.value(record)) },
        }
    }

    /// When the sweep has something to do with this record, in wall milliseconds: `u64::MAX` for never. The time past
    /// the end is the same on every replica (PROTOCOL §5).
    pub(super) fn due(&self, record: &[u8]) -> u64 {
        let Some(expires) = self.expires_at(record) else { return u64::MAX };
        let end = if self.is_tombstone() { expires.max(self.hold_until(record).unwrap_or_default()) } else { expires };
        if canary!(K34) {
            return end.0;
        }
        gone_at(end, super::GRACE_MS).0
    }

    /// When this record's hash leaves the tree, in wall milliseconds: `u64::MAX` for never.
    pub(super) fn gone_at(&self, record: &[u8]) -> u64 {
        let Some(expires) = self.expires_at(record) else { return u64::MAX };
        gone_at(expires.max(self.hold_until(record).unwrap_or_default()), super::GRACE_MS).0
    }

    fn write_shape(self, record: &mut [u8]) {
        record[16..24].copy_from_slice(&self.shape.to_le_bytes());
    }

    /// Counts one more use, to at most 3. A second writes nothing once it is there.
    #[inline]
    pub(super) fn touch(mut self, record: &mut [u8]) {
        if self.shape & FREQUENCY != FREQUENCY {
            self.shape += 1 << FREQUENCY_SHIFT;
            self.write_shape(record);
        }
    }

    pub(super) fn set_frequency(&mut self, record: &mut [u8], frequency: u8) {
        self.shape = (self.shape & !FREQUENCY) | (u64::from(frequency.min(3)) << FREQUENCY_SHIFT);
        self.write_shape(record);
    }

    pub(super) fn set_pinned(&mut self, record: &mut [u8], pinned: bool) {
        self.shape = if pinned { self.shape | PINNED } else { self.shape & !PINNED };
        self.write_shape(record);
    }

    pub(super) fn set_dead(mut self, record: &mut [u8]) {
        self.shape |= DEAD;
        self.write_shape(record);
    }

    /// The record's slack became `bytes`, a multiple of [`UNIT`] up to [`SLACK_MAX`].
    pub(super) fn set_slack(&mut self, record: &mut [u8], bytes: u32) {
        assert!(bytes <= SLACK_MAX && bytes.is_multiple_of(UNIT), "slack of {bytes} bytes cannot be said");
        self.shape = (self.shape & !(0xff << SLACK_SHIFT)) | (u64::from(bytes / UNIT) << SLACK_SHIFT);
        self.write_shape(record);
    }

    /// Drops the value and makes the record a tombstone; its old capacity is the caller's to give away.
    pub(super) fn bury(&mut self, record: &mut [u8]) {
        self.shape = (self.shape & !0xff_ffff & !(0xff << SLACK_SHIFT)) | TOMBSTONE;
        self.write_shape(record);
    }
}

/// Makes `gap` (at least a header long, a multiple of [`UNIT`]) a dead record, so that a walk steps over it.
pub(super) fn write_filler(gap: &mut [u8]) {
    let length = u64::try_from(gap.len()).expect("a segment's length") - u64::from(HEADER);
    gap[..HEADER as usize].fill(0);
    gap[16..24].copy_from_slice(&(DEAD | length).to_le_bytes());
}

/// What a record is written from.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a> {
    pub(super) hash: u64,
    pub(super) hlc: Hlc,
    pub(super) actor: u16,
    pub(super) namespace: u16,
    pub(super) expires_at: Option<Wall>,
    pub(super) hold_until: Option<Wall>,
    pub(super) since: Option<Wall>,
    pub(super) tombstone: bool,
    pub(super) pinned: bool,
    pub(super) frequency: u8,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Draft<'_> {
    /// The expiry's offset, or `None` when it takes the wide field.
    fn offset(&self) -> Option<u64> {
        match self.expires_at {
            None => Some(EXPIRY_NONE),
            Some(at) => at.0.checked_sub(self.hlc.wall().0).filter(|offset| *offset < EXPIRY_NONE),
        }
    }

    /// Bytes the record takes; key and value are within their limits.
    pub(super) fn needed(&self) -> u32 {
        let extras =
            u32::from(self.hold_until.is_some()) + u32::from(self.offset().is_none()) + u32::from(self.since.is_some());
        let lengths = u32::try_from(self.key.len() + self.value.len()).expect("lengths were checked");
        (HEADER + extras * 8 + lengths).next_multiple_of(UNIT)
    }

    /// Writes the record over the start of `into`, with no slack.
    pub(super) fn write(&self, into: &mut [u8]) -> Header {
        let offset = self.offset();
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let shape = self.value.len() as u64
            | (self.key.len() as u64) << 24
            | u64::from(self.frequency.min(3)) << FREQUENCY_SHIFT
            | flag(self.tombstone, TOMBSTONE)
            | flag(self.pinned, PINNED)
            | flag(self.hold_until.is_some(), HOLD)
            | flag(offset.is_none(), WIDE)
            | flag(self.since.is_some(), SINCE)
            | u64::from(self.namespace) << 51;
        let rest = offset.unwrap_or(0) | u64::from(self.actor) << 40;
        let header = Header { hash: self.hash, hlc: self.hlc.0, shape, rest };
        let (fixed, mut tail) = into.split_at_mut(HEADER as usize);
        for (at, word) in [header.hash, header.hlc, shape, rest].into_iter().enumerate() {
            fixed[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        let wide = if offset.is_none() { self.expires_at } else { None };
        for extra in [self.hold_until, wide, self.since].into_iter().flatten() {
            let (field, rest) = tail.split_at_mut(8);
            field.copy_from_slice(&extra.0.to_le_bytes());
            tail = rest;
        }
        let (key, tail) = tail.split_at_mut(self.key.len());
        key.copy_from_slice(self.key);
        tail[..self.value.len()].copy_from_slice(self.value);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_a_value_is_a_tombstone_since_its_end_or_since_it_came() {
        let over = gone_at(Wall(7), super::super::GRACE_MS).0;
        for (stored, since) in [(5, over), (over + 1, over + 1)] {
            let draft = Draft {
                hash: 42,
                hlc: Hlc(1),
                actor: 1,
                namespace: 1,
                expires_at: Some(Wall(7)),
                hold_until: Some(Wall(u64::MAX)),
                since: Some(Wall(stored)),
                tombstone: false,
                pinned: false,
                frequency: 0,
                key: b"key",
                value: b"value",
            };
            let mut bytes = vec![0; draft.needed() as usize];
            let mut header = draft.write(&mut bytes);
            assert_eq!(header.since(&bytes), None, "a value has no age");
            header.bury(&mut bytes);
            let header = Header::read(&bytes);
            assert_eq!((header.since(&bytes), header.key(&bytes)), (Some(Wall(since)), &b"key"[..]));
        }
    }

    #[test]
    fn every_expiry_and_hold_round_trips_exactly() {
        for expires_at in [None, Some(0), Some(999), Some(1_000), Some(1 << 41), Some(u64::MAX)] {
            for hold_until in [None, Some(Wall(7)), Some(Wall(u64::MAX))] {
                let draft = Draft {
                    hash: 42,
                    hlc: Hlc::at(Wall(1_000)),
                    actor: 65_535,
                    namespace: NAMESPACE_SLOTS_MAX - 1,
                    expires_at: expires_at.map(Wall),
                    hold_until,
                    since: Some(Wall(5)),
                    tombstone: false,
                    pinned: true,
                    frequency: 2,
                    key: b"key",
                    value: b"value",
                };
                let mut bytes = vec![0xff; draft.needed() as usize + 8];
                draft.write(&mut bytes);
                let mut header = Header::read(&bytes);
                header.set_slack(&mut bytes, 8);
                let header = Header::read(&bytes);
                let entry = header.entry(&bytes, ActorId(3));
                assert_eq!(entry.expires_at, draft.expires_at);
                assert_eq!(entry.hold_until, hold_until);
                assert_eq!(entry.body, Body::Value(b"value"));
                assert_eq!((header.key(&bytes), header.since(&bytes)), (&b"key"[..], None));
                assert_eq!((header.actor(), header.namespace()), (65_535, NAMESPACE_SLOTS_MAX - 1));
                assert_eq!((header.frequency(), header.is_pinned(), header.is_dead()), (2, true, false));
                assert_eq!((header.needed(), header.capacity()), (draft.needed(), draft.needed() + 8));
            }
        }
    }
}
