//! Bytes in a row: records of any length that wait, without a word of memory beside them.
//!
//! What goes in at the end comes out at the front, in pieces of the lengths that it went in with; whoever puts them in puts their
//! lengths before them. Kept and freed by chunks, so that what was taken out is soon free.

use std::collections::VecDeque;

/// Bytes that are kept and freed together.
const CHUNK: usize = 16 << 10;
/// What a length takes at most.
pub(super) const LENGTH_MAX: usize = 5;

/// Bytes that go in at the end and come out at the front.
#[derive(Debug, Default)]
pub(super) struct Packed {
    chunks: VecDeque<Vec<u8>>,
    /// Taken of the first one.
    taken: usize,
}

impl Packed {
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|last| last.len() == CHUNK) {
                self.chunks.push_back(Vec::with_capacity(CHUNK));
            }
            let last = self.chunks.back_mut().expect("one was just added");
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// A length in as few bytes as hold it, seven bits each (LEB128).
    pub(super) fn put_length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.put(&[length.to_le_bytes()[0] | 0x80]);
            length >>= 7;
        }
        self.put(&[length.to_le_bytes()[0]]);
    }

    pub(super) fn take_length(&mut self) -> usize {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return length;
            }
            shift += 7;
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let first = self.chunks.front().expect("as much comes out as went in");
            let now = (length - bytes.len()).min(first.len() - self.taken);
            bytes.extend_from_slice(&first[self.taken..self.taken + now]);
            self.taken += now;
            if self.taken == CHUNK {
                self.chunks.pop_front();
                self.taken = 0;
            }
        }
        bytes
    }

    /// What it takes with so many bytes more.
    pub(super) fn bytes_with(&self, more: usize) -> u64 {
        let room = self.chunks.back().map_or(0, |last| CHUNK - last.len());
        ((self.chunks.len() + more.saturating_sub(room).div_ceil(CHUNK)) * CHUNK) as u64
    }
}
