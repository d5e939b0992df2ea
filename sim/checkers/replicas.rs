//! What replicas and clocks must keep: S9 `dot-once`, S13 `clock-bounded`, S14 and S15 as each replica sees them.
//!
//! - A replica that answered `Applied` holds that version or a newer one, or says that it forgot at least so much, until the
//!   latest end of everything it held of the key is a minute past, or its shard collected tombstones and this is as old as
//!   those are. What it said it forgot it does not accept again, nor what a delete buried that it took.
//! - A version names one key, value and expiry wherever it is seen; an expiry that differs was restarted (S18).
//! - What a shard says of its clock only rises; what a node stamps is above all that its earlier processes stamped; nothing
//!   is ahead of true time by more than the bound.
//! - A message whose clock is more than 30 s behind changes nothing and is answered with nothing; nor does a hint whose
//!   version is more than 10 min behind.

use super::Invariant;
use crate::{
    clock::{EPOCH_MS, MS, Time},
    nemesis::Ledger,
    network::Site,
    trace::Trace,
};
use meshwork_core::{
    id::{ActorId, KeyHash, NamespaceId, NodeId},
    input::PeerShard,
    limits,
    time::Wall,
    value::{Body, Entry, Hlc, Version},
    wire::{
        client::{Reply, ReplyBody},
        peer::{Found, PeerMessage, Replicated, ReplicationKind},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A namespace and a key's hash.
pub type Key = (NamespaceId, KeyHash);

/// Clocks of one process may differ from the machine's wall by a jump that is not followed, or by rounding.
const CLOCK_SLACK_MS: u64 = 200;

/// What a replica owes of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    version: Version,
    /// Latest end of all that it held; `Wall(u64::MAX)`: never.
    end: Wall,
    /// The most it said it had forgotten.
    forgotten: Version,
    /// When a newer write of its own was over: all that it remembered then (seed 2200135e).
    replaced_until: Option<Wall>,
    /// The newest delete that it took.
    deleted: Version,
}

/// What a version names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dot {
    /// `None`: only a tombstone with an end was seen. A value whose hold outlives it becomes one under its own version.
    value: Option<u128>,
    expires_at: Option<Wall>,
}

/// A request that a replica is answering now.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    id: u64,
    key: Key,
    entry: Option<(Version, Wall)>,
    /// A tombstone without an end.
    deletes: bool,
    stands_in: bool,
    old: bool,
    /// A hint that its receiver must refuse.
    outlived: bool,
    wall: Wall,
}

/// What was seen.
#[derive(Debug)]
pub struct Replicas {
    ledger: Ledger,
    skew_max_ms: u64,
    /// Namespaces in which memory may be taken from entries.
    evictable: BTreeSet<NamespaceId>,
    nodes: Vec<(NodeId, ActorId, Hlc)>,
    kept: BTreeMap<(u32, Key), Kept>,
    /// Shards of one node have clocks of their own and share an actor: a version names one write of a key.
    dots: BTreeMap<(Version, Key), Dot>,
    clocks: BTreeMap<Site, Hlc>,
    stamps: BTreeMap<(NodeId, u16), (ActorId, Hlc)>,
    incoming: Option<Incoming>,
    /// Shards in which something has come to its end.
    expired: BTreeSet<Site>,
    /// Shards that have collected a tombstone.
    collected: BTreeSet<Site>,
}

fn end_of(entry: &Entry<'_>) -> Wall {
    // What has an end keeps it when it is over and travels without its value.
    entry.expires_at.map_or(Wall(u64::MAX), |at| at.max(entry.hold_until.unwrap_or_default()))
}

fn dot_of(value: Option<&[u8]>, expires_at: Option<Wall>) -> Dot {
    let mut hash = Trace::new(0..0);
    hash.add(u64::from(value.is_some()));
    hash.add_bytes(value.unwrap_or_default());
    let ended = value.is_none() && expires_at.is_some();
    Dot { value: (!ended).then(|| hash.hash()), expires_at }
}

impl Replicas {
    /// Nothing seen.
    pub fn new(ledger: Ledger, skew_max_ms: u64, evictable: BTreeSet<NamespaceId>) -> Self {
        Self {
            ledger,
            skew_max_ms,
            evictable,
            nodes: Vec::new(),
            kept: BTreeMap::new(),
            dots: BTreeMap::new(),
            clocks: BTreeMap::new(),
            stamps: BTreeMap::new(),
            incoming: None,
            expired: BTreeSet::new(),
            collected: BTreeSet::new(),
        }
    }

    /// The next process starts, its clock not below `floor`; without the disk of the last one it owes nothing to its stamps.
    pub fn on_start(&mut self, node: NodeId, actor: ActorId, floor: Hlc, continues: bool) {
        self.nodes.push((node, actor, floor));
        if !continues {
            self.stamps.retain(|(of, _), _| *of != node);
        }
    }

    /// A process let go of partitions that a new layout assigns elsewhere: what it holds of its keys is not known.
    pub fn on_dropped(&mut self, process: u32) {
        self.kept.retain(|(of, _), _| *of != process);
    }

    /// A process was told that all of a namespace up to `mark` is flushed: that is not owed, nor its end by what comes after.
    pub fn on_flushed(&mut self, process: u32, namespace: NamespaceId, mark: Hlc) {
        let flushed = |((of, key), kept): &(&(u32, Key), &mut Kept)| {
            *of == process && key.0 == namespace && kept.version.hlc <= mark
        };
        for (_, kept) in self.kept.iter_mut().filter(flushed) {
            (kept.version, kept.end, kept.deleted) = (Version::ZERO, Wall(0), Version::ZERO);
        }
    }

    /// What a process held is gone.
    pub fn on_death(&mut self, process: u32) {
        self.kept.retain(|(of, _), _| *of != process);
        self.clocks.retain(|site, _| site.process != process);
    }

    /// A shard is about to be given a peer's message; `wall` is its machine's.
    pub fn before(&mut self, wall: Wall, _from: PeerShard, message: &PeerMessage<'_>) {
        let age = limits::MESSAGE_AGE_MAX.as_millis() as u64 + CLOCK_SLACK_MS;
        let hint_age = limits::HINT_AGE_MAX.as_millis() as u64 + CLOCK_SLACK_MS;
        let old = |hlc: Hlc| self.ledger.clocks && hlc.wall().0 + age < wall.0;
        self.incoming = match message {
            PeerMessage::Replicate { id, header, key, entry, stands_for, kind } => Some(Incoming {
                id: *id,
                key: (key.namespace, key.hash),
                entry: Some((entry.version, end_of(entry))),
                deletes: matches!(entry.body, Body::Tombstone) && entry.expires_at.is_none(),
                stands_in: stands_for.is_some(),
                old: old(header.hlc),
                outlived: *kind == ReplicationKind::Hint
                    && self.ledger.clocks
                    && entry.version.hlc.wall().0 + hint_age < wall.0,
                wall,
            }),
            PeerMessage::Read { id, header, key, .. } => Some(Incoming {
                id: *id,
                key: (key.namespace, key.hash),
                entry: None,
                deletes: false,
                stands_in: false,
                old: old(header.hlc),
                outlived: false,
                wall,
            }),
            PeerMessage::Replicated { .. }
            | PeerMessage::ReadReply { .. }
            | PeerMessage::Forward { .. }
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Exchange { .. }
            | PeerMessage::StreamPull { .. }
            | PeerMessage::StreamChunk { .. }
            | PeerMessage::StreamRefused { .. }
            | PeerMessage::Unsupported { .. } => None,
        };
    }

    /// Something came to its end in a shard.
    pub fn on_expired(&mut self, site: Site) {
        self.expired.insert(site);
    }

    /// Tombstones were collected in a shard.
    pub fn on_collected(&mut self, site: Site) {
        self.collected.insert(site);
    }

    /// A shard is about to be given something else.
    pub fn before_other(&mut self) {
        self.incoming = None;
    }

    /// A shard sends something.
    pub fn on_sent(&mut self, at: Time, site: Site, message: &PeerMessage<'_>) -> Option<(Invariant, String)> {
        let hlc = match message {
            PeerMessage::Replicate { header, .. }
            | PeerMessage::Read { header, .. }
            | PeerMessage::Exchange { header, .. }
            | PeerMessage::StreamPull { header, .. } => header.hlc,
            PeerMessage::Replicated { hlc, .. }
            | PeerMessage::ReadReply { hlc, .. }
            | PeerMessage::StreamChunk { hlc, .. } => *hlc,
            PeerMessage::StreamRefused { .. } => return None,
            PeerMessage::Forward { .. } => return None,
            PeerMessage::ForwardReply(_) => return None,
            PeerMessage::Unsupported { .. } => return None,
        };
        if let Some(broken) = self.clock(at, site, hlc) {
            return Some(broken);
        }
        match message {
            PeerMessage::Replicate { key, entry, .. } => {
                let place = (key.namespace, key.hash);
                self.wrote(site, place, entry);
                self.stamp(site, entry.version).or_else(|| self.dot(place, entry.version, entry.body, entry.expires_at))
            }
            PeerMessage::Replicated { id, outcome, .. } => self.replicated(site, *id, outcome),
            PeerMessage::ReadReply { id, found, .. } => self.read_reply(site, *id, found),
            PeerMessage::Read { .. }
            | PeerMessage::Forward { .. }
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Exchange { .. }
            | PeerMessage::StreamPull { .. }
            | PeerMessage::StreamChunk { .. }
            | PeerMessage::StreamRefused { .. }
            | PeerMessage::Unsupported { .. } => None,
        }
    }

    /// A value of a key reaches a client.
    pub fn on_reply(&mut self, key: Key, reply: &Reply<'_>) -> Option<(Invariant, String)> {
        match reply.body {
            ReplyBody::Value { version, expires_at, value } => self.dot(key, version, Body::Value(value), expires_at),
            ReplyBody::Empty | ReplyBody::Written { .. } | ReplyBody::Text(_) => None,
        }
    }

    fn clock(&mut self, at: Time, site: Site, hlc: Hlc) -> Option<(Invariant, String)> {
        let last = self.clocks.entry(site).or_default();
        if hlc < *last {
            return Some((Invariant::S13, format!("the clock of {site:?} fell from {:x} to {:x}", last.0, hlc.0)));
        }
        *last = hlc;
        let most = EPOCH_MS + at / MS + limits::CLOCK_OFFSET_MAX.as_millis() as u64 + self.skew_max_ms + CLOCK_SLACK_MS;
        // A process that starts on a stored bound reads that bound, and is refused and fenced until it has passed.
        let floor = self.nodes.get(site.process as usize).map_or(0, |(_, _, floor)| floor.wall().0);
        let most = most.max(floor + CLOCK_SLACK_MS);
        (self.ledger.clocks && hlc.wall().0 > most).then(|| {
            (Invariant::S13, format!("the clock of {site:?} is {} ms ahead of the bound", hlc.wall().0 - most))
        })
    }

    /// A shard sends a write of its own, which it holds itself where it owns the key: what that replaced may have been evicted,
    /// and how long it would have lasted with it. Then no more is owed than the write's own end (seed e013e7).
    fn wrote(&mut self, site: Site, place: Key, entry: &Entry<'_>) {
        let own = entry.version.actor == self.nodes[site.process as usize].1;
        if own
            && self.evictable.contains(&place.0)
            && let Some(kept) = self.kept.get_mut(&(site.process, place))
        {
            if entry.version > kept.version {
                kept.end = kept.end.min(end_of(entry));
            }
            if entry.version > kept.forgotten {
                kept.replaced_until = kept.replaced_until.max(Some(end_of(entry)));
            }
        }
    }

    fn stamp(&mut self, site: Site, version: Version) -> Option<(Invariant, String)> {
        let (node, actor, _) = self.nodes[site.process as usize];
        if version.actor != actor || !self.ledger.identities {
            return None;
        }
        let (last_actor, last) = self.stamps.entry((node, site.shard)).or_insert((actor, Hlc(0)));
        if *last_actor != actor && version.hlc <= *last {
            let what = format!("{node} stamps {version} after a restart; before it, its clock was at {:x}", last.0);
            return Some((Invariant::S13, what));
        }
        (*last_actor, *last) = (actor, (*last).max(version.hlc));
        None
    }

    fn dot(
        &mut self,
        key: Key,
        version: Version,
        body: Body<'_>,
        expires_at: Option<Wall>,
    ) -> Option<(Invariant, String)> {
        let value = match body {
            Body::Value(value) => Some(value),
            Body::Tombstone => None,
        };
        let seen = dot_of(value, expires_at);
        let known = self.dots.entry((version, key)).or_insert(seen);
        match (known.value, seen.value) {
            (Some(known), Some(seen)) if known != seen => {
                return Some((Invariant::S9, format!("version {version} names two values")));
            }
            // What ended was met first, at a node whose clock is ahead.
            (None, Some(value)) => known.value = Some(value),
            (Some(_), Some(_)) | (Some(_) | None, None) => {}
        }
        let known = *known;
        (known.expires_at != seen.expires_at).then(|| {
            (
                Invariant::S18,
                format!("version {version} expires at {:?} here and at {:?} there", seen.expires_at, known.expires_at),
            )
        })
    }

    fn replicated(&mut self, site: Site, id: u64, outcome: &Replicated) -> Option<(Invariant, String)> {
        let incoming = self.incoming.filter(|incoming| incoming.id == id)?;
        let (version, end) = incoming.entry?;
        match outcome {
            Replicated::Applied => {}
            Replicated::Superseded { .. } | Replicated::Refused(_) => return None,
        }
        if incoming.old {
            return Some((
                Invariant::S14,
                format!("{site:?} took version {version} from a message more than 30 s old"),
            ));
        }
        if incoming.outlived {
            return Some((Invariant::S14, format!("{site:?} took version {version} from a hint more than 10 min old")));
        }
        if incoming.stands_in {
            return None;
        }
        let kept = self.kept.entry((site.process, incoming.key)).or_default();
        // The very write that it said was over, or evicted, is no older one: it may hold it still, or take it back.
        let same = version == kept.forgotten && (end <= incoming.wall || self.evictable.contains(&incoming.key.0));
        // The end of its own write, or of one that it told of after its disk had it, may not have been seen here; where memory may
        // be taken, that was all it remembered, until it was over (seeds a10179, 9a103).
        let own = kept.forgotten.actor == self.nodes[site.process as usize].1;
        let dot = self.dots.get(&(kept.forgotten, incoming.key));
        let ended = dot.map_or(own, |dot| dot.expires_at.is_some_and(|at| at <= incoming.wall));
        let over = ended && self.evictable.contains(&incoming.key.0) && self.expired.contains(&site);
        // A ghost of what ended goes a minute later. A delete that comes then brings nothing back (seed 17004db1).
        let is_past = |at: Wall| at + limits::EXPIRY_GRACE <= incoming.wall;
        let is_past = [dot.and_then(|dot| dot.expires_at), kept.replaced_until].into_iter().flatten().any(is_past);
        let buries = incoming.deletes && self.evictable.contains(&incoming.key.0) && is_past;
        if version <= kept.forgotten && version > kept.version && !same && !over && !buries {
            let what = format!(
                "{site:?} took version {version}, which ends at {} ms, at {} ms, and had said that it forgot up to {}",
                end.0 as i64 - EPOCH_MS as i64,
                incoming.wall.0 - EPOCH_MS,
                kept.forgotten
            );
            return Some((Invariant::S15, what));
        }
        // Collected or dropped, a delete outlives whatever could bring back what it buried.
        if version < kept.deleted && self.ledger.clocks && self.ledger.identities {
            let what = format!(
                "{site:?} took version {version} at {} ms and had taken the delete {}",
                incoming.wall.0 - EPOCH_MS,
                kept.deleted
            );
            return Some((Invariant::S14, what));
        }
        if incoming.deletes {
            kept.deleted = kept.deleted.max(version);
        }
        // Who may evict may have evicted what this one replaces, and its end with it: then only its own end is owed.
        let evictable = self.evictable.contains(&incoming.key.0);
        // And what was over may be forgotten when an older one comes: then that one is owed, and no more (seed f6175).
        let anew = is_over(kept.end, incoming.wall, evictable);
        kept.end = if anew || evictable && version > kept.version { end } else { kept.end.max(end) };
        kept.version = if anew { version } else { kept.version.max(version) };
        None
    }

    fn read_reply(&mut self, site: Site, id: u64, found: &Found<'_>) -> Option<(Invariant, String)> {
        let incoming = self.incoming.filter(|incoming| incoming.id == id)?;
        if incoming.old && !matches!(found, Found::Refused(_)) {
            return Some((Invariant::S14, format!("{site:?} answered a read from a message more than 30 s old")));
        }
        if let Found::Entry(entry) = found
            && let Some(broken) = self.dot(incoming.key, entry.version, entry.body, entry.expires_at)
        {
            return Some(broken);
        }
        let kept = self.kept.entry((site.process, incoming.key)).or_default();
        let has = match found {
            Found::Entry(entry) => entry.version,
            Found::Digest { version } => *version,
            Found::Absent { forgotten } => {
                if kept.forgotten <= *forgotten {
                    (kept.forgotten, kept.replaced_until) = (*forgotten, None);
                }
                *forgotten
            }
            Found::Refused(_) => return None,
        };
        let evictable = self.evictable.contains(&incoming.key.0);
        let over = is_over(kept.end, incoming.wall, evictable);
        // A shard's own writes are not seen here: one with an end may have replaced this and be over, and where memory may be
        // taken, what it replaced was perhaps not there any more to be remembered.
        let over = over || (evictable && self.expired.contains(&site));
        // Nor is a delete of its own that was collected with what it buried.
        let collected = incoming.wall + Duration::from_millis(CLOCK_SLACK_MS)
            >= kept.version.hlc.wall() + limits::TOMBSTONE_AGE_MIN
            && self.collected.contains(&site);
        let over = over || collected;
        // A wall that jumped may have ended entries early; what is kept is then not judged.
        if has < kept.version && !over && self.ledger.clocks {
            let what = format!(
                "{site:?} took version {} of {:?}/{:?}{}, owed until {}, and at {} has {has} and remembers nothing",
                kept.version,
                incoming.key.0,
                incoming.key.1,
                if evictable { " (evictable)" } else { "" },
                if kept.end == Wall(u64::MAX) {
                    "for ever".to_owned()
                } else {
                    format!("{} ms", kept.end.0 - EPOCH_MS)
                },
                incoming.wall.0 - EPOCH_MS
            );
            return Some((Invariant::S15, what));
        }
        None
    }
}

/// Whether what was to be remembered until `end` may be forgotten at `wall`. What may be evicted goes first, before its minute
/// of grace: nothing it said can be missed by then.
fn is_over(end: Wall, wall: Wall, evictable: bool) -> bool {
    let grace = if evictable { 0 } else { limits::EXPIRY_GRACE.as_millis() as u64 };
    end.0.saturating_add(grace) <= wall.0 + CLOCK_SLACK_MS
}

#[cfg(test)]
mod tests;
