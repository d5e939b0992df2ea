//! What a caller is told, once: a reply goes to a client, or back to the node that forwarded the request.
//!
//! Here nothing is decided. A value is sent as it is borrowed from the memtable or a message, and only while it is served; a
//! failure carries words where its status does not say enough.

use super::in_flight::Origin;
use crate::{
    outbox::ShardOutbox,
    shard::Shard,
    time::{Now, Wall},
    value::{Body, Entry},
    wire::{
        client::{Reply, ReplyBody, Status, Worth},
        peer::PeerMessage,
    },
};

impl Shard {
    pub(super) fn answer(&self, origin: Origin, reply: Reply<'_>, out: &mut dyn ShardOutbox) {
        deliver(origin, reply, out);
    }

    /// Answers a read with what it found, if that is still served.
    pub(super) fn answer_read(
        &mut self,
        now: Now,
        origin: Origin,
        found: Option<&Entry<'_>>,
        worth: Worth,
        out: &mut dyn ShardOutbox,
    ) {
        let wall = self.served_until(now);
        let hit = deliver_read(origin, found, wall, worth, out);
        self.count_lookup(hit);
    }

    pub(super) fn count_lookup(&mut self, hit: bool) {
        if hit {
            self.stats.hits += 1;
        } else {
            self.stats.misses += 1;
        }
    }

    /// Ends a request that was begun: with `words`, where the status does not say enough.
    pub(super) fn answer_failure(
        &mut self,
        origin: Origin,
        status: Status,
        words: Option<&str>,
        maybe_applied: bool,
        out: &mut dyn ShardOutbox,
    ) {
        if origin == Origin::Nobody {
            return;
        }
        self.stats.errors += 1;
        match status {
            Status::Unavailable { .. } => self.stats.unavailable += 1,
            Status::Unknown => self.stats.unknown += 1,
            _ => {}
        }
        let worth = Worth { epoch: self.epoch(), ..Worth::default() };
        let reply = words.map_or_else(|| Reply::status(0, status), |words| Reply::text(0, status, words));
        self.answer(origin, Reply { maybe_applied, worth, ..reply }, out);
    }
}

/// Sends a reply to whoever asked.
pub(super) fn deliver(origin: Origin, reply: Reply<'_>, out: &mut dyn ShardOutbox) {
    match origin {
        Origin::Caller(caller) => out.reply(caller, &Reply { id: caller.id, ..reply }),
        Origin::Peer(peer, id) => out.send(peer, &PeerMessage::ForwardReply(Reply { id, ..reply })),
        Origin::Nobody => {}
    }
}

/// Sends what a read found, if it is served at `wall`; whether it was. Apart from the shard, so that the entry may be
/// borrowed from its memtable.
pub(super) fn deliver_read(
    origin: Origin,
    found: Option<&Entry<'_>>,
    wall: Wall,
    worth: Worth,
    out: &mut dyn ShardOutbox,
) -> bool {
    match found.filter(|entry| entry.is_live(wall)) {
        Some(entry) => {
            deliver_entry(origin, entry, worth, out);
            true
        }
        None => {
            deliver(origin, Reply { worth, ..Reply::status(0, Status::NotFound) }, out);
            false
        }
    }
}

/// Sends an entry that is served.
pub(super) fn deliver_entry(origin: Origin, entry: &Entry<'_>, worth: Worth, out: &mut dyn ShardOutbox) {
    let Body::Value(value) = entry.body else { unreachable!("only values are served") };
    let body = ReplyBody::Value { version: entry.version, expires_at: entry.expires_at, value };
    deliver(origin, Reply { id: 0, status: Status::Ok, maybe_applied: false, worth, body }, out);
}
