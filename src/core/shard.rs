//! The data plane: one core's partitions as a single-threaded state machine (ARCHITECTURE §2).
//!
//! It owns the parts and only routes: clients' requests to `coordinator`, peers' requests to `replica`, answers to the
//! request they belong to, due times to whoever waits. Invariants: one input is handled whole before the next; every
//! caller gets exactly one reply; what the memtable accounts, everything the shard holds beside it included, is at most
//! its limit after every input. Not here: membership, layouts, clocks of other nodes; they arrive as a `View`.

use crate::{
    anti_entropy::{AntiEntropy, REPAIR_ID, URGENT_BYTES, readiness::WARMING_BYTES},
    canary::canary,
    clock::Clock,
    config::ShardConfig,
    coordinator::{Budget, InFlight, OperationId, Peers},
    durable::Durable,
    handoff::{HintStore, Hinted, Leaving, Ownership, Part},
    id::{ActorId, KeyHash, NamespaceId, NodeId},
    input::ShardInput,
    limits,
    namespace::{Ack, Eviction, Known, Mode, NamespaceTable},
    outbox::ShardOutbox,
    rng::{Rng, SeededMap},
    stats::ShardStats,
    storage::{Memtable, MemtableConfig, NamespaceSlot},
    time::{Mono, Now},
    timers::{DelayQueue, OddQueue},
    value::{Hlc, Version},
    view::{MemberView, View},
    wire::peer::PeerMessage,
};
use std::{sync::Arc, time::Duration};

/// How often hints are searched for dead ones, and the memtable for expired entries.
const MAINTENANCE_EVERY: Duration = Duration::from_millis(100);
const HINTS_EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Records that one round of background work may look at: about a millisecond.
const MAINTENANCE_RECORDS: usize = 2_000;
/// What the shard holds beside the memtable is accounted in steps of this, rounded up: bytes.
const RESERVE_STEP: u64 = 16 * 1024;
/// This share of the memory is set aside for requests in flight, one in …
const SET_ASIDE_SHARE: u64 = 64;
/// This share of the memory is set aside for the books of repair, one in …: they must be kept when nothing can be evicted.
const BACKGROUND_SHARE: u64 = 128;
/// What a place in a queue of due times takes, bytes; one in the odd queue takes four of them.
const TIMER_BYTES: u64 = 24;
/// What the places of a request that is let in take: of a read, and of the write that may come after it.
const REQUEST_TIMERS: u64 = 7 * TIMER_BYTES + WRITE_TIMERS;
/// What those of a write take. A read that a write comes after owns them from the start: nobody is asked for room between.
pub(crate) const WRITE_TIMERS: u64 = 6 * TIMER_BYTES;
/// Hints get this share of the memory, one in …
const HINTS_SHARE: u64 = 20;
/// This share of the memory is kept free of restored records that wait, one in …, and so many bytes or half of what there is.
const RESTORE_HEADROOM_SHARE: u64 = 64;
const RESTORE_HEADROOM: u64 = 64 << 10;
/// Requests in flight get this share of the memory, one in …
const IN_FLIGHT_SHARE: u64 = 8;

/// The rules of a namespace, where a request finds them without walking the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) slot: NamespaceSlot,
    pub(crate) n: u8,
    pub(crate) r: u8,
    pub(crate) w: u8,
    pub(crate) mode: Mode,
    pub(crate) ttl_default: Option<u64>,
    pub(crate) ttl_max: Option<u64>,
    pub(crate) value_max: u32,
    pub(crate) evictable: bool,
    pub(crate) ack: Ack,
    /// It was deleted: no request is served.
    pub(crate) gone: bool,
    /// The newest that a comparison of a Warming copy has passed over since then, of a peer that knew of the deletion, too.
    pub(crate) overlooked: Hlc,
}

/// One shard. See the crate's front page for how it is driven.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) clock: Clock,
    pub(crate) view: Arc<View>,
    pub(crate) rules: SeededMap<NamespaceId, Rules>,
    /// By slot: which namespace.
    pub(crate) spaces: Vec<NamespaceId>,
    pub(crate) table: Memtable,
    pub(crate) hints: HintStore,
    pub(crate) hinted: Hinted,
    pub(crate) repair_budget: Budget,
    pub(crate) anti_entropy: AntiEntropy,
    pub(crate) ownership: Ownership,
    pub(crate) durable: Durable,
    pub(crate) leaving: Leaving,
    pub(crate) in_flight: InFlight,
    /// Bytes that the request at hand was let in with and does not own yet. Counted, or what it keeps meanwhile (a hint for an owner
    /// that is down) would be given the same room (simulator, seed 1003908).
    pub(crate) promised: u64,
    /// Bytes that requests in flight own beside the table of them: keys and waiting values.
    pub(crate) in_flight_bytes: u64,
    pub(crate) peers: Peers,
    pub(crate) stats: ShardStats,
    pub(crate) hedges: DelayQueue<OperationId>,
    pub(crate) read_patience: DelayQueue<OperationId>,
    pub(crate) write_patience: DelayQueue<OperationId>,
    pub(crate) read_timeout: DelayQueue<OperationId>,
    pub(crate) write_timeout: DelayQueue<OperationId>,
    pub(crate) own_deadline: OddQueue<OperationId>,
    /// Hundredths of a hedge that may be spent.
    pub(crate) hedge_credit: u64,
    pub(crate) turn: usize,
    reserved: u64,
    maintain_at: Mono,
    hints_expire_at: Mono,
}

impl Shard {
    /// An empty shard that refuses clients until it is given a view with a ring.
    pub fn new(config: ShardConfig) -> Self {
        let table = Memtable::new(MemtableConfig {
            limit: config.memory,
            partitions: config.partitions,
            shards: config.shards,
            shard: config.shard,
            seed: config.seed,
        });
        // What is restored waits beside an empty memtable, and leaves it room to take it over.
        let room = config.memory.saturating_sub(table.accounted());
        let headroom = (config.memory / RESTORE_HEADROOM_SHARE).max(RESTORE_HEADROOM.min(room / 2));
        let for_restored = room.saturating_sub(headroom);
        let process = Rng::fork(config.seed, &format!("requests in flight of {}", config.actor.0)).next();
        let hinted = Hinted::new(Rng::fork(config.seed, &format!("hints in flight of {}", config.actor.0)).next());
        let mut hints = HintStore::new(config.memory / HINTS_SHARE);
        if config.disk {
            hints.note_changes();
        }
        let view = View::empty(config.node, Arc::new(NamespaceTable::default()));
        Self {
            clock: Clock::new(config.clock_floor),
            view: Arc::new(view),
            rules: SeededMap::with_hasher(foldhash::fast::FixedState::with_seed(config.seed)),
            spaces: Vec::new(),
            table,
            anti_entropy: AntiEntropy::new(Rng::fork(config.seed, &format!("anti-entropy of {}", config.actor.0))),
            hints,
            hinted,
            repair_budget: Budget::default(),
            ownership: Ownership::default(),
            durable: Durable::new(for_restored),
            leaving: Leaving::default(),
            in_flight: InFlight::new(config.memory / IN_FLIGHT_SHARE / 2, process),
            promised: 0,
            in_flight_bytes: 0,
            peers: Peers::default(),
            stats: ShardStats::default(),
            hedges: DelayQueue::new(limits::HEDGE_AFTER_MIN),
            read_patience: DelayQueue::new(limits::READ_PATIENCE),
            write_patience: DelayQueue::new(limits::WRITE_PATIENCE),
            read_timeout: DelayQueue::new(limits::READ_TIMEOUT),
            write_timeout: DelayQueue::new(limits::WRITE_TIMEOUT),
            own_deadline: OddQueue::default(),
            hedge_credit: 0,
            turn: 0,
            reserved: 0,
            maintain_at: Mono::default(),
            hints_expire_at: Mono::default(),
            config,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: ShardInput<'_>, out: &mut dyn ShardOutbox) {
        self.clock.observe(now);
        match input {
            ShardInput::Client { caller, hash, request } => self.on_client(now, caller, hash, &request, out),
            ShardInput::Peer { from, message } => match message {
                PeerMessage::Replicate { id, header, key, entry, stands_for, kind } => {
                    self.on_replicate(now, from, id, &header, &key, &entry, stands_for, kind, out);
                }
                PeerMessage::Read { id, header, key, full } => self.on_read(now, from, id, &header, &key, full, out),
                PeerMessage::Replicated { id: REPAIR_ID, .. } => {}
                PeerMessage::Replicated { id, hlc, state, outcome } => {
                    self.on_replicated(now, from.node, OperationId(id), hlc, state, &outcome, out);
                }
                PeerMessage::ReadReply { id, hlc, state, found } => {
                    self.on_read_reply(now, from.node, OperationId(id), hlc, state, &found, out);
                }
                PeerMessage::Forward { id, hash, request } => self.on_forward(now, from, id, hash, &request, out),
                PeerMessage::StreamPull { id, header, partition, after, leaves } => {
                    self.on_stream_pull(now, from, id, &header, partition, (after, leaves), out);
                }
                PeerMessage::StreamChunk { id, hlc, state, epoch, partition, after, last, body } => {
                    let part = Part { id, hlc, state, epoch, partition, after, last, body };
                    self.on_stream_chunk(now, from.node, &part, out);
                }
                PeerMessage::StreamRefused { id, refusal: _ } => self.on_stream_refused(now, from.node, id, out),
                PeerMessage::ForwardReply(reply) => self.on_forward_reply(now, from.node, &reply, out),
                PeerMessage::Exchange { id, header, exchange } => {
                    self.on_exchange(now, from, id, &header, &exchange, out);
                }
                PeerMessage::Unsupported { id } => self.on_unsupported(now, from.node, OperationId(id), out),
            },
            ShardInput::View(view) => self.on_view(now, &view, out),
            ShardInput::PeerLost(node) => self.on_peer_lost(now, node, out),
            ShardInput::CallerLost { link } => self.on_caller_lost(link),
            ShardInput::Stored { through } => self.on_stored(now, through, out),
            ShardInput::StoreFailed { from } => self.on_store_failed(now, from, out),
        }
        self.note_filled_ghosts();
        self.settle_disk(now, out);
        self.watch_hints(now);
        self.reserve();
    }

    /// Fetches the memory that requests for these keys will need. Called with a batch before its first request is
    /// handled, the waits for memory overlap. Changes nothing.
    #[inline]
    pub fn warm(&self, hashes: impl IntoIterator<Item = KeyHash>) {
        std::hint::black_box(self.table.warm(hashes));
    }

    /// The key of the request in flight with this number, to warm it for the answer.
    #[inline]
    pub fn hash_of_answer(&self, id: u64) -> Option<KeyHash> {
        self.in_flight.hash_of(OperationId(id))
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        self.clock.observe(now);
        self.run_due(now, out);
        self.on_hints_due(now, out);
        self.run_anti_entropy(now, out);
        if self.ownership.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.work_on_ownership(now, None, out);
        }
        self.forget_next(now);
        if now.mono >= self.maintain_at {
            let more = self.table.work(self.clock.wall(now), MAINTENANCE_RECORDS);
            let pause = if more { MAINTENANCE_EVERY / 50 } else { MAINTENANCE_EVERY };
            self.maintain_at = now.mono + pause;
            if now.mono >= self.hints_expire_at {
                self.expire_hints(now);
                self.hints_expire_at = now.mono + HINTS_EXPIRE_EVERY;
            }
            self.maintain_disk(now, out);
        }
        self.note_filled_ghosts();
        self.settle_disk(now, out);
        self.watch_hints(now);
        self.reserve();
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let queues = [
            self.hedges.next_due(),
            self.read_patience.next_due(),
            self.write_patience.next_due(),
            self.read_timeout.next_due(),
            self.write_timeout.next_due(),
            self.own_deadline.next_due(),
            self.hinted.next_due(),
            Some(self.maintain_at),
            Some(self.anti_entropy.next_due()),
            self.ownership.poll_timeout(),
            self.leaving.poll_timeout(),
        ];
        queues.into_iter().flatten().min()
    }

    /// Counters and gauges of now.
    pub fn stats(&self) -> ShardStats {
        let table = self.table.stats();
        ShardStats {
            partitions_missing: self.ownership.missing() as u64,
            hints: self.hints.len() as u64,
            hint_bytes: self.hints.bytes(),
            hints_dropped: self.hints.dropped(),
            partitions_urgent: self.anti_entropy.urgent.len() as u64,
            partitions_short: self.anti_entropy.readiness.short() as u64,
            stores_waiting: self.durable.waiting_stores(),
            in_flight: self.in_flight.len() as u64,
            entries: table.entries + table.tombstones,
            tombstones: table.tombstones,
            ghosts: table.ghosts,
            evictions: table.evictions,
            expired: table.expired,
            out_of_memory: table.out_of_memory,
            partitions_ready: self.trees_ready(),
            partitions_warming: self.anti_entropy.readiness.len() as u64,
            memory_bytes: self.table.accounted(),
            memory_limit_bytes: self.table.limit(),
            ..self.stats
        }
    }

    /// Whether one more request is admitted that owns `bytes` (key, waiting value).
    pub(crate) fn has_room_in_flight(&mut self, bytes: u64) -> bool {
        let needed = bytes + self.in_flight.growth() + REQUEST_TIMERS;
        let admitted = !self.in_flight.is_full() && self.may_hold(needed);
        self.promised = if admitted { needed } else { 0 };
        admitted
    }

    /// Whether requests in flight may own `bytes` more.
    pub(crate) fn may_hold(&mut self, bytes: u64) -> bool {
        let budget = self.config.memory / IN_FLIGHT_SHARE / 2;
        self.in_flight_bytes + bytes <= budget && self.make_room_for(bytes)
    }

    /// Makes room in the memtable's account for `bytes` that are about to be held beside it; whether there is.
    pub(crate) fn make_room_for(&mut self, bytes: u64) -> bool {
        let held = self.held() + bytes;
        if held <= self.reserved {
            return true;
        }
        if !self.table.room_for(held - self.reserved) {
            return false;
        }
        self.set_aside(held);
        true
    }

    /// Whether what is held beside the memtable has outgrown what is free, but for what a few inputs may add.
    pub(crate) fn is_tight(&self) -> bool {
        let more = self.held().saturating_sub(self.reserved) + RESERVE_STEP;
        more > self.table.limit().saturating_sub(self.table.accounted())
    }

    /// As `make_room_for`, for the books of repair, which have something set aside.
    pub(crate) fn make_room_in_background(&mut self, bytes: u64) -> bool {
        self.background() + bytes <= self.config.memory / BACKGROUND_SHARE || self.make_room_for(bytes)
    }

    /// Bytes that the books of repair take.
    fn background(&self) -> u64 {
        self.hinted.replay.bytes() + self.anti_entropy.bytes()
    }

    /// Bytes set aside for the lists of partitions that warm or are urgent, which grow when nobody can be asked.
    fn listed_partitions(&self) -> u64 {
        let partitions = u64::from(self.config.partitions.div_ceil(self.config.shards.max(1)));
        partitions * (URGENT_BYTES + WARMING_BYTES * u64::from(self.table.copies_max()))
    }

    /// A little is set aside for good: a full memtable that may not evict must still answer.
    fn rounded(&self, held: u64) -> u64 {
        held.max(self.config.memory / SET_ASIDE_SHARE).div_ceil(RESERVE_STEP) * RESERVE_STEP
    }

    /// Bytes that the shard holds beside the memtable.
    fn held(&self) -> u64 {
        let queued = self.hedges.len()
            + self.read_patience.len()
            + self.write_patience.len()
            + self.read_timeout.len()
            + self.write_timeout.len()
            + 4 * self.own_deadline.len();
        let hints = if canary!(K35) { 0 } else { self.hints.bytes() };
        let background = self.background().max(self.config.memory / BACKGROUND_SHARE) + self.listed_partitions();
        hints
            + self.durable.bytes()
            + background
            + self.in_flight.bytes()
            + self.in_flight_bytes
            + self.promised
            + TIMER_BYTES * queued as u64
    }

    /// Tells the memtable what the shard holds beside it, so that one limit covers all.
    pub(crate) fn reserve(&mut self) {
        self.set_aside(self.held());
    }

    /// Puts `held` bytes on the memtable's account: in steps, but a step must not be what goes over the limit.
    fn set_aside(&mut self, held: u64) {
        let rounded = self.rounded(held);
        if rounded == self.reserved {
            return;
        }
        let room = self.table.limit().saturating_sub(self.table.accounted() - self.reserved);
        let reserved = rounded.min(room.max(held));
        if reserved != self.reserved {
            self.reserved = reserved;
            self.table.set_reserved(reserved);
        }
    }

    fn on_view(&mut self, now: Now, view: &Arc<View>, out: &mut dyn ShardOutbox) {
        if view.clock_confirmations > self.view.clock_confirmations {
            self.clock.confirm(now);
        }
        self.empty_assigned(view);
        let old = std::mem::replace(&mut self.view, Arc::new(View::clone(view)));
        self.learn_namespaces(now);
        let lapsed = self.view.lapses > old.lapses;
        if lapsed {
            self.forget_restored();
        }
        self.take_restored(now);
        let names = |view: &View| (view.newest().map(|ring| ring.name()), view.oldest().map(|ring| ring.name()));
        let new_ring = names(&old) != names(&self.view);
        // Which copies vote is known before any request goes on under the new layouts.
        self.on_view_compared(now, &old);
        let members = |view: &View| -> Vec<NodeId> { view.members.iter().map(|member| member.node).collect() };
        let (before, after) = (members(&old), members(&self.view));
        if before != after || new_ring || lapsed {
            self.peers.set_members(&before, &after);
            self.on_new_ring(now, &before, &after, out);
        }
        let turned = |up: bool| -> Vec<NodeId> {
            let turned = |was: &&MemberView| self.view.members.iter().any(|is| is.node == was.node && is.up == up);
            old.members.iter().filter(|was| was.up != up).filter(turned).map(|was| was.node).collect()
        };
        let (went_down, came_up) = (turned(false), turned(true));
        for node in went_down {
            self.on_peer_lost(now, node, out);
        }
        for node in came_up {
            self.on_peer_up(now, node);
        }
        self.hints_see(now, new_ring);
        self.on_layouts(now, view, out);
    }

    fn learn_namespaces(&mut self, now: Now) {
        let view = Arc::clone(&self.view);
        for Known { id, namespace, live, mark } in view.namespaces.all() {
            let next = u16::try_from(self.rules.len()).expect("NAMESPACES_MAX fits 16 bits");
            let before = self.rules.get(&id).copied();
            let slot = before.map_or(NamespaceSlot(next), |rules| rules.slot);
            let overlooked = before.map_or(Hlc::default(), |rules| rules.overlooked);
            if let Some(before) = before.filter(|before| live && (before.gone || before.n != namespace.n)) {
                self.compare_again(before.n, namespace.n, overlooked > mark);
            }
            self.table.namespace(slot, namespace.eviction == Eviction::On, namespace.n);
            let rules = Rules {
                slot,
                n: namespace.n,
                r: namespace.r,
                w: namespace.w,
                mode: namespace.mode,
                ttl_default: namespace.ttl_default,
                ttl_max: namespace.ttl_max,
                value_max: namespace.value_max,
                evictable: namespace.eviction == Eviction::On,
                ack: namespace.ack,
                gone: !live,
                overlooked: if live { Hlc::default() } else { overlooked },
            };
            let stored = self.config.disk && namespace.ack.is_durable();
            self.table.set_stored(slot, stored);
            if stored {
                self.durable.begin(self.config.memory);
            }
            if usize::from(slot.0) == self.spaces.len() {
                self.spaces.push(id);
            }
            self.rules.insert(id, rules);
            // Who asked has put it above every clock already; who adds to it again takes what was written since.
            let takes_more = canary!(K44) && mark > Hlc::default();
            let mark = if takes_more { Hlc::at(mark.wall() + limits::CLOCK_OFFSET_MAX) } else { mark };
            if self.table.flush(slot, mark) {
                self.hints.flush(id, self.table.flushed(slot));
                // What is written here from now on is above the mark, or refused while the clock must not pass it.
                self.clock.raise(mark, now);
            }
            if !live {
                // Above the mark, too: whoever it is for refuses it while there is no such namespace, and meanwhile all behind it waits.
                self.hints.flush(id, Version { hlc: Hlc(u64::MAX), actor: ActorId(u64::MAX) });
            }
        }
    }
}
