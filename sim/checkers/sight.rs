//! Sight of the nodes: every message as it is sent and as it arrives, every snapshot, every reply (SIMULATION §3, `*`).
//!
//! The run tells `Sight` what each shard is about to be given, what it sends while it handles that, and when it is done.
//! `Sight` hands that to the parts that judge: `votes` (S6, S7), `replicas`, `flushes`, `bounds`, `layout`; L5 inside the node is judged here.
//! Nothing here acts on the cluster. The first findings stay; a run ends at the first.
//!
//! Votes (`votes` judges them): each request is followed at its coordinator from its arrival to its reply, with every answer that arrived in
//! between, one a node. A reply may claim no more than those answers and the coordinator's own copy give. What cannot be
//! told for certain (two requests for one key that a timer woke at once) is not judged.

use super::{
    Finding, Invariant,
    bounds::Bounds,
    flushes::Flushes,
    hints::Hints,
    layout::Layouts,
    replicas::Replicas,
    standing::{Standing, Tree},
    votes::{judge, short_of_newer},
    writable::WITHOUT_MEMORY,
};
use crate::{
    clock::{MS, Time},
    nemesis::Ledger,
    network::Site,
};
use meshwork_core::{
    id::{ActorId, KeyHash, NamespaceId, NodeId, PartitionId},
    input::{Caller, PeerShard},
    namespace::Mode,
    shard::Shard,
    stats::ShardStats,
    time::Wall,
    value::{Hlc, Version},
    view::View,
    wire::{
        client::{Op, Quorum, Reply, ReplyBody, Request, Status},
        peer::{PeerMessage, Refusal, ReplicaState, Replicated, ReplicationKind},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Timers and the drift of clocks.
const SLACK: Time = 5 * MS;
/// No request is served for longer (PROTOCOL §10), forwarding included.
const SERVED_MAX: Time = 31_000 * MS;

/// What a shard is given.
pub enum Given<'a> {
    /// A client's request.
    Client(Caller, KeyHash, &'a Request<'a>),
    /// A peer's message.
    Peer(PeerShard, &'a PeerMessage<'a>),
    /// Anything else: a due timer, a snapshot, a lost link.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Client(Caller),
    Peer(PeerShard, u64),
}

/// One request at its coordinator.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: (NamespaceId, KeyHash),
    pub(super) kind: &'static str,
    pub(super) strict: bool,
    pub(super) r: u8,
    pub(super) w: u8,
    pub(super) owners: Vec<NodeId>,
    pub(super) epoch: u64,
    /// The newer of two active layouts, if it is not the one that is read: its epoch and the key's owners.
    pub(super) newer: Option<(u64, Vec<NodeId>)>,
    pub(super) arrived: Time,
    pub(super) allowed: Time,
    pub(super) forwarded: bool,
    pub(super) blurred: bool,
    pub(super) paused: bool,
    pub(super) reads: BTreeMap<NodeId, ReplicaState>,
    /// Number of copies, and partition.
    pub(super) tree: Tree,
    /// Whether the coordinator's own copy voted when the request arrived: a vote stays one if the copy warms afterwards.
    pub(super) own_ready: bool,
}

#[derive(Debug)]
struct Tally {
    origin: Origin,
    version: Option<Version>,
    applied: BTreeMap<NodeId, ReplicaState>,
}

/// What is known of one shard.
#[derive(Debug)]
pub(super) struct Seen {
    view: Option<Arc<View>>,
    asks: BTreeMap<Origin, Ask>,
    tallies: BTreeMap<u64, Tally>,
    pub(super) standing: Standing,
}

/// What a call in progress was given, as far as its outputs are judged by it.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Request(Origin),
    Answer(u64),
    Other,
}

/// Everything that is seen.
pub struct Sight {
    /// Broken invariants, in the order they showed.
    pub findings: Vec<Finding>,
    /// How often rare things happened.
    pub probes: BTreeMap<&'static str, u64>,
    /// Replicas, versions and clocks.
    pub replicas: Replicas,
    /// Memory and queues.
    pub bounds: Bounds,
    /// Namespaces that were flushed.
    pub flushes: Flushes,
    /// Hints on their way.
    pub hints: Hints,
    /// Layouts and fences.
    pub layouts: Layouts,
    /// Members that do not coordinate yet with the layout under which something was just asked for; they may be removed.
    pub behind: Vec<NodeId>,
    nodes: Vec<(NodeId, ActorId)>,
    seen: BTreeMap<Site, Seen>,
    cause: Cause,
}

impl Sight {
    /// Nothing seen yet.
    pub fn new(ledger: Ledger, skew_max_ms: u64, memory: u64, evictable: BTreeSet<NamespaceId>) -> Self {
        Self {
            findings: Vec::new(),
            probes: BTreeMap::new(),
            replicas: Replicas::new(ledger, skew_max_ms, evictable),
            bounds: Bounds::new(memory),
            flushes: Flushes::default(),
            hints: Hints::default(),
            layouts: Layouts::default(),
            behind: Vec::new(),
            nodes: Vec::new(),
            seen: BTreeMap::new(),
            cause: Cause::Other,
        }
    }

    /// Counts a rare thing.
    pub fn probe(&mut self, name: &'static str) {
        *self.probes.entry(name).or_insert(0) += 1;
    }

    /// Something broke.
    pub fn blame(&mut self, invariant: Invariant, at: Time, what: String) {
        if self.findings.len() < 16 {
            self.findings.push(Finding { invariant, t: at / 1_000, what, ops: Vec::new() });
        }
    }

    /// The next process starts. `continues`: it has the disk of the last process of this node, whole.
    pub fn on_start(&mut self, node: NodeId, actor: ActorId, floor: Hlc, shards: u16, continues: bool) {
        let process = self.nodes.len() as u32;
        self.nodes.push((node, actor));
        self.layouts.on_start(process, node, shards);
        self.replicas.on_start(node, actor, floor, continues);
        for shard in 0..shards {
            self.seen.insert(
                Site { process, shard },
                Seen { view: None, asks: BTreeMap::new(), tallies: BTreeMap::new(), standing: Standing::default() },
            );
        }
    }

    /// A process died: nothing is owed by it.
    pub fn on_death(&mut self, process: u32) {
        self.seen.retain(|site, _| site.process != process);
        self.hints.forget(|site| site.process == process);
        self.replicas.on_death(process);
    }

    /// A process stood still: deadlines that ran meanwhile are not judged.
    pub fn on_pause(&mut self, process: u32) {
        for (_, seen) in self.seen.iter_mut().filter(|(site, _)| site.process == process) {
            for ask in seen.asks.values_mut() {
                ask.paused = true;
            }
        }
    }

    /// A shard was given a snapshot.
    pub fn on_view(&mut self, at: Time, site: Site, view: &Arc<View>) {
        if let Some(finding) = self.layouts.on_view(at, view) {
            self.findings.push(finding);
        }
        self.hints.forget(|of| of == site);
        for (namespace, mark) in self.flushes.on_view(at, site, view) {
            self.replicas.on_flushed(site.process, namespace, mark);
        }
        self.layouts.on_lapses(site, view);
        self.layouts.on_active(site, view);
        self.layouts.on_given(site, view);
        if let Some(seen) = self.seen.get_mut(&site) {
            seen.standing.on_view(seen.view.as_deref(), view);
            seen.view = Some(Arc::clone(view));
        }
    }

    /// Whether a shard says now that other trees do not vote than it said before.
    pub fn has_warmed(&self, site: Site, trees: impl ExactSizeIterator<Item = (u8, PartitionId)>) -> bool {
        self.seen.get(&site).is_some_and(|seen| !seen.standing.says(trees))
    }

    /// A shard says which of its trees do not vote.
    pub fn on_warming(&mut self, site: Site, trees: impl Iterator<Item = (u8, PartitionId)>) {
        if let Some(seen) = self.seen.get_mut(&site) {
            seen.standing.on_warming(seen.view.as_deref(), trees.collect());
        }
    }

    /// A client's link is gone: its replies are not owed.
    pub fn on_caller_lost(&mut self, site: Site, link: u64) {
        if let Some(seen) = self.seen.get_mut(&site) {
            seen.asks.retain(|origin, _| !matches!(origin, Origin::Client(caller) if caller.link == link));
        }
    }

    /// A shard is about to be given something.
    pub fn before(&mut self, at: Time, wall: Wall, site: Site, given: &Given<'_>) {
        self.cause = match given {
            Given::Other => Cause::Other,
            Given::Client(caller, hash, request) => self.on_request(at, site, Origin::Client(*caller), *hash, request),
            Given::Peer(from, PeerMessage::Forward { id, hash, request }) => {
                self.probe("forwarded request arrived");
                self.on_request(at, site, Origin::Peer(*from, *id), *hash, request)
            }
            Given::Peer(from, message) => self.on_answer(site, *from, message),
        };
        if let Given::Peer(from, message) = given {
            self.hints.before(at, site, *from, message);
            self.replicas.before(wall, *from, message);
        } else {
            self.replicas.before_other();
        }
    }

    fn on_request(&mut self, at: Time, site: Site, origin: Origin, hash: KeyHash, request: &Request<'_>) -> Cause {
        let Some(seen) = self.seen.get_mut(&site) else { return Cause::Other };
        let mut ask = Ask {
            key: (request.namespace, hash),
            kind: match request.op {
                Op::Get => "get",
                Op::Put { condition: meshwork_core::wire::Condition::Always, .. } => "put",
                Op::Put { .. } => "guarded put",
                Op::Delete { .. } => "delete",
                Op::Touch { .. } => "touch",
                Op::Inspect => "inspect",
            },
            strict: false,
            r: 1,
            w: 1,
            owners: Vec::new(),
            epoch: 0,
            newer: None,
            arrived: at,
            allowed: Time::from(request.deadline_ms) * MS,
            forwarded: false,
            blurred: false,
            paused: false,
            reads: BTreeMap::new(),
            tree: (0, PartitionId(0)),
            own_ready: false,
        };
        if let Some(view) = &seen.view
            && let (Some(ring), Some(rules)) = (view.ring.as_ref(), view.namespaces.get(request.namespace))
        {
            let owners = ring.owners(hash.partition(ring.partitions()));
            let copies = usize::from(rules.n).min(owners.len());
            ask.tree = (rules.n, hash.partition(ring.partitions()));
            ask.own_ready = seen.standing.own_state(ask.tree, view) == ReplicaState::Ready;
            ask.owners = owners[..copies].iter().map(|owner| ring.node(*owner)).collect();
            ask.epoch = ring.name().epoch;
            ask.newer = view.beside.as_ref().filter(|newer| newer.name() > ring.name()).map(|newer| {
                let owners = newer.owners(hash.partition(newer.partitions()));
                let owners = owners.iter().take(usize::from(rules.n)).map(|owner| newer.node(*owner));
                (newer.name().epoch, owners.collect())
            });
            ask.strict = request.consistency.mode.unwrap_or(rules.mode) == Mode::Strict;
            let votes = |quorum: Quorum, default: u8| match quorum {
                Quorum::Default => default,
                Quorum::Exactly(count) => count,
                Quorum::Majority => rules.n / 2 + 1,
                Quorum::All => rules.n,
            };
            ask.r = votes(request.consistency.read, rules.r).min(copies as u8);
            ask.w = votes(request.consistency.write, rules.w).min(copies as u8);
        }
        seen.asks.insert(origin, ask);
        Cause::Request(origin)
    }

    fn on_answer(&mut self, site: Site, from: PeerShard, message: &PeerMessage<'_>) -> Cause {
        let Some(seen) = self.seen.get_mut(&site) else { return Cause::Other };
        match message {
            PeerMessage::Replicated { id, state, outcome, .. } => {
                let Some(tally) = seen.tallies.get_mut(id) else { return Cause::Other };
                if *outcome == Replicated::Applied {
                    let again = tally.applied.insert(from.node, *state).is_some();
                    if again {
                        self.probe("one replica answered a write twice");
                    }
                }
                Cause::Answer(*id)
            }
            PeerMessage::ReadReply { id, state, .. } => {
                let Some(origin) = seen.tallies.get(id).map(|tally| tally.origin) else { return Cause::Other };
                if let Some(ask) = seen.asks.get_mut(&origin) {
                    ask.reads.insert(from.node, *state);
                }
                Cause::Answer(*id)
            }
            PeerMessage::Exchange { .. } | PeerMessage::StreamChunk { .. } => {
                seen.standing.on_heard(from.node);
                Cause::Other
            }
            PeerMessage::Unsupported { .. }
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Forward { .. }
            | PeerMessage::Replicate { .. }
            | PeerMessage::StreamPull { .. }
            | PeerMessage::StreamRefused { .. }
            | PeerMessage::Read { .. } => Cause::Other,
        }
    }

    /// A shard sends a message.
    pub fn on_sent(&mut self, at: Time, site: Site, to: PeerShard, message: &PeerMessage<'_>) {
        if let Some((invariant, what)) = self.replicas.on_sent(at, site, message) {
            self.blame(invariant, at, what);
        }
        self.hints.on_sent(at, site, to, message);
        match message {
            PeerMessage::Replicate { kind: ReplicationKind::Repair { .. }, .. } => self.probe("repair sent"),
            PeerMessage::Replicate { id, key, entry, stands_for, kind, .. } => {
                if stands_for.is_some() {
                    self.probe("hint sent to a stand-in");
                }
                match kind {
                    // The answers to these are nobody's votes.
                    ReplicationKind::Repair { .. } => self.probe("stale responder repaired"),
                    ReplicationKind::Hint => self.probe("hint replayed"),
                    ReplicationKind::Stream => self.probe("entry streamed"),
                    ReplicationKind::Client => {
                        self.follow(site, *id, (key.namespace, key.hash), Some(entry.version));
                    }
                }
            }
            PeerMessage::Read { id, key, .. } => self.follow(site, *id, (key.namespace, key.hash), None),
            PeerMessage::Forward { .. } => {
                if let (Cause::Request(origin), Some(seen)) = (self.cause, self.seen.get_mut(&site))
                    && let Some(ask) = seen.asks.get_mut(&origin)
                {
                    ask.forwarded = true;
                }
            }
            PeerMessage::ForwardReply(reply) => self.finish(at, site, Origin::Peer(to, reply.id), reply),
            PeerMessage::StreamPull { header, .. } => {
                self.probe("part of a partition asked for");
                if let Some(view) = self.seen.get(&site).and_then(|seen| seen.view.as_ref()) {
                    self.behind = self.layouts.behind(view, header.layout);
                }
            }
            PeerMessage::StreamChunk { last: Some(_), .. } => self.probe("partition moved in more than one part"),
            PeerMessage::StreamRefused { .. } => self.probe("part of a partition refused"),
            PeerMessage::Replicated { outcome: Replicated::Refused(Refusal::OutOfMemory), .. } => {
                self.probe(WITHOUT_MEMORY);
            }
            PeerMessage::StreamChunk { .. }
            | PeerMessage::Replicated { .. }
            | PeerMessage::ReadReply { .. }
            | PeerMessage::Exchange { .. }
            | PeerMessage::Unsupported { .. } => {}
        }
    }

    /// A request of one of the asks goes out under `id`: whose is it?
    fn follow(&mut self, site: Site, id: u64, key: (NamespaceId, KeyHash), version: Option<Version>) {
        let Some(seen) = self.seen.get_mut(&site) else { return };
        if seen.tallies.contains_key(&id) {
            return;
        }
        let origin = match self.cause {
            Cause::Request(origin) => Some(origin),
            Cause::Answer(other) => seen.tallies.get(&other).map(|tally| tally.origin),
            Cause::Other => None,
        };
        let same = |origin: &Origin| seen.asks.get(origin).is_some_and(|ask| ask.key == key);
        let origin = origin.filter(same).or_else(|| {
            let mut of_key = seen.asks.iter_mut().filter(|(_, ask)| ask.key == key);
            let first = of_key.next().map(|(origin, ask)| (*origin, ask));
            let rest: Vec<&mut Ask> = of_key.map(|(_, ask)| ask).collect();
            let (origin, ask) = first?;
            if !rest.is_empty() {
                ask.blurred = true;
                for ask in rest {
                    ask.blurred = true;
                }
            }
            Some(origin)
        });
        if let Some(origin) = origin {
            seen.tallies.insert(id, Tally { origin, version, applied: BTreeMap::new() });
        }
    }

    /// A shard replies to a client.
    pub fn on_reply(&mut self, at: Time, site: Site, caller: Caller, reply: &Reply<'_>) {
        self.finish(at, site, Origin::Client(caller), reply);
    }

    fn finish(&mut self, at: Time, site: Site, origin: Origin, reply: &Reply<'_>) {
        let Some(seen) = self.seen.get_mut(&site) else { return };
        let Some(ask) = seen.asks.remove(&origin) else {
            let lost = matches!(origin, Origin::Peer(..));
            if !lost {
                self.blame(Invariant::L5, at, format!("{site:?} replied to {origin:?} a second time, or unasked"));
            }
            return;
        };
        let view = seen.view.clone();
        if let Some((invariant, what)) = self.replicas.on_reply(ask.key, reply) {
            self.findings.push(Finding { invariant, t: at / 1_000, what, ops: Vec::new() });
        }
        // What is forwarded another shard decided, which may not have heard yet.
        let flushed = self.flushes.on_reply(site, ask.arrived, ask.key.0, reply).filter(|_| !ask.forwarded);
        if let Some(what) = flushed {
            self.blame(Invariant::S16, at, what);
        }
        let Some(seen) = self.seen.get_mut(&site) else { return };
        let mut applied: BTreeMap<NodeId, ReplicaState> = BTreeMap::new();
        let written = match reply.body {
            ReplyBody::Written { version } => Some(version),
            ReplyBody::Empty | ReplyBody::Value { .. } | ReplyBody::Text(_) => None,
        };
        let mine: Vec<u64> =
            seen.tallies.iter().filter(|(_, tally)| tally.origin == origin).map(|(id, _)| *id).collect();
        for id in mine {
            let tally = seen.tallies.remove(&id).expect("just found");
            if tally.version.is_some() && tally.version == written {
                applied.extend(tally.applied);
            }
        }
        if let Some(what) = self.layouts.on_served(at, site, reply.status == Status::Ok) {
            self.blame(Invariant::S22, at, what);
        }
        let took = at - ask.arrived;
        let most = ask.allowed.min(SERVED_MAX) + SLACK + took / 1_000;
        if took > most && !ask.paused {
            let what = format!(
                "{} at {site:?} was answered after {} ms; it was given {}",
                ask.kind,
                took / MS,
                ask.allowed / MS
            );
            self.blame(Invariant::L5, at, what);
        }
        let Some(view) = view else { return };
        let same_layout = view.ring.as_ref().is_some_and(|ring| ring.name().epoch == ask.epoch);
        if ask.forwarded || ask.blurred || !same_layout || ask.owners.is_empty() {
            return;
        }
        let me = self.nodes[site.process as usize].0;
        if let Some(what) = short_of_newer(&ask, reply, &applied, me, &view) {
            self.blame(Invariant::S19, at, format!("{site:?} {me}: {} acknowledged with {what}", ask.kind));
        }
        let Some(seen) = self.seen.get(&site) else { return };
        if let Some((invariant, what)) = judge(&ask, reply, &applied, me, &view, seen) {
            self.blame(invariant, at, format!("{site:?} {me}: {} answered {:?} with {what}", ask.kind, reply.status));
        }
        self.notice(&ask, reply);
    }

    /// Rare things that a reply shows.
    fn notice(&mut self, ask: &Ask, reply: &Reply<'_>) {
        let worth = reply.worth;
        for (set, name) in [
            (worth.sloppy, "sloppy reply"),
            (worth.degraded, "degraded reply"),
            (worth.warming, "reply with a warming replica"),
            (worth.stale, "reply flagged stale"),
            (worth.superseded, "write acknowledged as superseded"),
            (worth.fallbacks > 0, "stand-in counted"),
            (ask.strict && reply.status == Status::Ok, "strict request done"),
            (
                ask.strict && ask.reads.values().any(|state| *state == ReplicaState::Warming),
                "strict read met a warming replica",
            ),
            (ask.kind == "touch" && reply.status == Status::Ok, "touch done"),
            (reply.status == Status::Conflict, "condition not met"),
            (reply.status == Status::Unknown, "write with unknown outcome"),
            (reply.status == Status::OutOfMemory, "out of memory"),
            (reply.status == Status::Timeout, "deadline passed before the request"),
            (reply.status == Status::ClockSkew, "request refused by a fenced node"),
            (reply.status == Status::NotOwner, "not owner"),
            (reply.maybe_applied, "failed write that may be applied"),
        ] {
            if set {
                self.probe(name);
            }
        }
    }

    /// A call is over.
    pub fn after(&mut self, at: Time, site: Site, shard: &Shard, stats: &ShardStats) {
        self.cause = Cause::Other;
        if let Some(what) = self.hints.after(site, shard) {
            self.blame(Invariant::S25, at, what);
        }
        if stats.expired > 0 {
            self.replicas.on_expired(site);
        }
        if stats.tombstones_collected > 0 {
            self.replicas.on_collected(site);
        }
        let active = self.seen.get(&site).and_then(|seen| seen.view.as_ref()).is_some_and(|view| view.beside.is_some());
        if self.layouts.has_dropped(site, stats.partitions_dropped) {
            self.probe("partition dropped after a transition");
            self.replicas.on_dropped(site.process);
            if active && !self.layouts.has_lapsed(site) && !self.layouts.has_passed(site) {
                let what = format!("{site:?} dropped a partition while two layouts are active");
                self.blame(Invariant::S21, at, what);
            }
        }
        if let Some(what) = self.bounds.after(site, stats) {
            self.blame(Invariant::S23, at, what);
        }
    }

    /// The run is over: what is still owed?
    pub fn at_end(&mut self, at: Time) {
        let late =
            self.seen.iter().flat_map(|(site, seen)| seen.asks.iter().map(move |(origin, ask)| (site, origin, ask)));
        let late = late.filter(|(_, _, ask)| !ask.paused && at > ask.arrived + SERVED_MAX + SLACK);
        let first =
            late.map(|(site, origin, ask)| format!("{} of {origin:?} at {site:?} was never answered", ask.kind)).next();
        if let Some(what) = first {
            self.blame(Invariant::L5, at, what);
        }
    }
}
