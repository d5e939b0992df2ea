//! One comparison as its beginner sees it: roots, then tree by tree leaves, keys and entries, until nothing is left.
//!
//! Every answer names its session; one that does not fit the session's phase is dropped. A range of a tree is done when all
//! that was asked for is held (or rightly forgotten): only then does a warming tree count as compared. Whatever is silent
//! for `SILENCE_MAX` ends the session, and the next round begins another.

use super::{
    AntiEntropy, MEMO_BYTES, REPEAT_AFTER, Settled,
    delta::{Action, Moment, Side, floors_of},
    merkle,
    readiness::{self, TreeName},
};
use crate::{
    canary::canary,
    id::{KeyHash, NodeId},
    input::PeerShard,
    limits,
    outbox::ShardOutbox,
    ring::Ring,
    shard::Shard,
    storage::{Evicted, Floors, NamespaceSlot},
    time::{Mono, Now},
    value::Version,
    view::View,
    wire::{
        exchange::{Exchange, FloorItem, KeyItem, Packed, PullItem, RootItem, Verdict, pack},
        peer::ReplicaState,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// A peer that says nothing for so long is asked again in the next round.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Trees that are of another moment are compared after this.
const LATER: Duration = Duration::from_secs(1);
/// What was asked for and did not come yet is looked for after this.
const ARRIVES_WITHIN: Duration = Duration::from_millis(100);
/// Without credit the next step waits for this.
const REST: Duration = Duration::from_millis(250);
/// How often one thing is tried in a session.
const TRIES_MAX: u8 = 3;
/// Most trees that a session takes on.
const WORK_MAX: usize = 4_096;

/// A tree that differs, with the roots that said so.
#[derive(Clone, Copy, Debug)]
struct Work {
    tree: TreeName,
    mine: u64,
    theirs: u64,
    /// It is looked through a second time: what came while T of the peer was not known here (review).
    again: bool,
}

/// An entry that was asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    slot: NamespaceSlot,
    item: PullItem,
    version: Version,
}

#[derive(Debug)]
enum Phase {
    /// The sums were sent, or are to be sent again.
    Roots { asked: bool },
    /// Leaves of the first tree were sent, from this hash on, or are to be.
    Leaves { from: u64, asked: bool },
    /// Entries were asked for; the next range begins at `next`, if there is one.
    Pulling { next: Option<u64>, wanted: Vec<Wanted>, pulled: bool },
}

/// What became of the differences of a tree, if there are any; of several things the last here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Differences {
    None,
    /// Nothing was sent, asked for or put off: nothing can be.
    Left,
    /// Something was.
    Tried,
    /// What can be done about them changed on the way.
    Changed,
}

/// One comparison.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: PeerShard,
    pub(super) due: Mono,
    phase: Phase,
    work: VecDeque<Work>,
    tries: u8,
    /// Of the tree at hand.
    differences: Differences,
    /// Of the tree at hand: all that was asked for came.
    whole: bool,
    /// Of the tree at hand: what the peer's copy is worth.
    state: ReplicaState,
    /// Of the tree at hand, if it warms: up to which versions the peer dropped tombstones (T).
    shed: Vec<(NamespaceSlot, Version)>,
}

impl Session {
    pub(super) fn bytes(&self) -> u64 {
        let wanted = match &self.phase {
            Phase::Pulling { wanted, .. } => wanted.capacity(),
            Phase::Roots { .. } | Phase::Leaves { .. } => 0,
        };
        let shed = self.shed.capacity() * size_of::<(NamespaceSlot, Version)>();
        256 + (self.work.capacity() * size_of::<Work>() + wanted * size_of::<Wanted>() + shed) as u64
    }

    /// What was left alone in `tree` may be given now.
    pub(super) fn on_filled(&mut self, tree: TreeName) {
        if self.work.front().is_some_and(|work| work.tree == tree) {
            self.differences = Differences::Changed;
        }
    }

    fn note(&mut self, differences: Differences) {
        self.differences = self.differences.max(differences);
    }
}

/// Whether range transfer brings a tree to `peer`: repairs beside it would bring all of it a second time, from every owner
/// at once, and for reads of the layout in use none of it counts. Once the newest layout is read, its Warming owners count for
/// each other as everywhere.
fn moves_there(view: &View, peer: NodeId, tree: TreeName, state: ReplicaState) -> bool {
    let index = view.ring.as_ref().and_then(|ring| ring.index_of(peer));
    let name = |ring: Option<&std::sync::Arc<Ring>>| ring.map(|ring| ring.name());
    name(view.ring.as_ref()) < name(view.newest())
        && state == ReplicaState::Warming
        && index.is_some_and(|index| readiness::is_gained(view, index, tree))
}

impl AntiEntropy {
    fn begin_work(session: &mut Session) {
        session.phase = Phase::Leaves { from: 0, asked: false };
        (session.tries, session.differences, session.whole, session.shed) = (0, Differences::None, true, Vec::new());
    }
}

impl Shard {
    pub(super) fn begin_session(&mut self, now: Now, peer: PeerShard, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let Some(member) = view.ring.as_ref().and_then(|ring| ring.index_of(peer.node)) else { return };
        if !self.reachable(now, &view, member) || !self.make_room_in_background(size_of::<Session>() as u64 + 256) {
            return;
        }
        let id = self.anti_entropy.next_id;
        self.anti_entropy.next_id += 1;
        let session = Session {
            peer,
            due: now.mono,
            phase: Phase::Roots { asked: false },
            work: VecDeque::new(),
            tries: 0,
            differences: Differences::None,
            whole: true,
            state: ReplicaState::Warming,
            shed: Vec::new(),
        };
        self.anti_entropy.sessions.insert(id, session);
        self.ask_roots(now, &view, id, out);
    }

    fn end_session(&mut self, id: u64) {
        self.anti_entropy.sessions.remove(&id);
    }

    fn ask_roots(&mut self, now: Now, view: &View, id: u64, out: &mut dyn ShardOutbox) {
        let wall = self.comparing_wall(now);
        let Some(at) = self.table.trees_at(wall) else { return self.put_off(now, id) };
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        session.phase = Phase::Roots { asked: true };
        session.due = now.mono + SILENCE_MAX;
        let peer = session.peer;
        let trees = self.shared_trees(view, peer);
        let full = trees.iter().any(|tree| self.anti_entropy.readiness.is_warming(*tree));
        let roots = Exchange::Roots { hash_version: merkle::HASH_VERSION, at, sum: self.sum_of(&trees), full };
        self.send_exchange(now, peer, id, roots, out);
    }

    /// The trees are of different moments: once more in a second.
    fn put_off(&mut self, now: Now, id: u64) {
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        session.tries += 1;
        if session.tries > TRIES_MAX {
            return self.end_session(id);
        }
        session.work.clear();
        session.phase = Phase::Roots { asked: false };
        session.due = now.mono + LATER;
    }

    pub(super) fn on_session_due(&mut self, now: Now, id: u64, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        match &session.phase {
            Phase::Roots { asked: false } => self.ask_roots(now, &view, id, out),
            Phase::Leaves { asked: false, .. } => self.ask_leaves(now, id, out),
            Phase::Pulling { pulled: true, .. } => self.check_pulled(now, id, out),
            Phase::Roots { asked: true } | Phase::Leaves { asked: true, .. } | Phase::Pulling { pulled: false, .. } => {
                self.end_session(id);
            }
        }
    }

    pub(super) fn on_answer(
        &mut self,
        now: Now,
        view: &Arc<View>,
        from: PeerShard,
        id: u64,
        exchange: &Exchange<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        let Some(session) = self.anti_entropy.sessions.get_mut(&id).filter(|session| session.peer == from) else {
            return;
        };
        let at_hand = session.work.front().map(|work| work.tree);
        match (exchange, &mut session.phase) {
            (Exchange::Later, Phase::Roots { asked: true } | Phase::Leaves { asked: true, .. })
            | (Exchange::RootsAre { verdict: Verdict::Later, .. }, Phase::Roots { asked: true }) => {
                self.put_off(now, id);
            }
            (Exchange::RootsAre { verdict, roots }, Phase::Roots { asked: true }) => {
                self.on_roots(now, view, id, *verdict, roots, out);
            }
            (
                Exchange::Keys { copies, partition, state, from, until, leaves, floors, items },
                Phase::Leaves { from: asked_from, asked: true },
            ) if at_hand == Some((*copies, *partition)) && from == asked_from => {
                // Of several answers about one tree the least counts.
                if *asked_from == 0 || *state != ReplicaState::Ready {
                    session.state = *state;
                }
                self.on_keys(now, id, (*from, *until), leaves, floors, items, out);
            }
            (Exchange::Pulled { .. }, Phase::Pulling { pulled, .. }) => {
                *pulled = true;
                self.check_pulled(now, id, out);
            }
            // Late, twice, or of another step.
            (_, Phase::Roots { .. } | Phase::Leaves { .. } | Phase::Pulling { .. }) => {}
        }
    }

    fn on_roots(
        &mut self,
        now: Now,
        view: &Arc<View>,
        id: u64,
        verdict: Verdict,
        roots: &[u8],
        out: &mut dyn ShardOutbox,
    ) {
        let Some(peer) = self.anti_entropy.sessions.get(&id).map(|session| session.peer) else { return };
        let listed: BTreeMap<TreeName, RootItem> =
            RootItem::list(roots).map(|item| ((item.copies, item.partition), item)).collect();
        if verdict == Verdict::Equal && listed.is_empty() && self.anti_entropy.readiness.len() == 0 {
            self.stats.exchanges_equal += 1;
            if !self.anti_entropy.urgent.is_empty() {
                for (_, partition) in self.shared_trees(view, peer) {
                    self.anti_entropy.urgent.remove(&partition);
                }
            }
            return self.end_session(id);
        }
        let mut work: Vec<Work> = Vec::new();
        for tree in self.shared_trees(view, peer) {
            let (state, theirs, shed) =
                listed.get(&tree).map_or((ReplicaState::Ready, 0, false), |item| (item.state, item.root, item.shed));
            let mine = self.table.root(tree.0, tree.1);
            if self.is_being_moved(view, tree) || moves_there(view, peer.node, tree, state) {
                continue;
            }
            // What a peer shed is asked for once.
            let asks = shed
                && view.ring.as_deref().is_some_and(|ring| {
                    let ready = state == ReplicaState::Ready;
                    self.anti_entropy.readiness.is_to_compare(tree, ring, peer.node, ready)
                });
            if mine == theirs && !asks {
                self.anti_entropy.memo.remove(&(tree, peer.node));
                self.anti_entropy.urgent.remove(&tree.1);
                self.note_compared(view, peer, tree, state);
                continue;
            }
            let known = self.anti_entropy.memo.get(&(tree, peer.node)).is_some_and(|settled| {
                (settled.mine, settled.theirs) == (mine, theirs) && settled.again_at.is_none_or(|at| now.mono < at)
            });
            let warming = self.anti_entropy.readiness.is_warming(tree) || state != ReplicaState::Ready;
            if (warming || !known) && work.len() < WORK_MAX {
                work.push(Work { tree, mine, theirs, again: false });
            }
        }
        self.stats.exchanges_equal += u64::from(work.is_empty());
        let urgent = &self.anti_entropy.urgent;
        work.sort_by_key(|work| (!urgent.contains(&work.tree.1), work.tree));
        for work in &work {
            self.anti_entropy.urgent.remove(&work.tree.1);
        }
        work.shrink_to_fit();
        if work.is_empty() || !self.make_room_in_background((work.capacity() * size_of::<Work>()) as u64) {
            return self.end_session(id);
        }
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        session.work = work.into();
        AntiEntropy::begin_work(session);
        self.ask_leaves(now, id, out);
    }

    /// This copy of `tree` holds all that the peer's copy holds.
    fn note_compared(&mut self, view: &View, peer: PeerShard, tree: TreeName, state: ReplicaState) {
        let Some(ring) = view.ring.as_deref() else { return };
        if !self.anti_entropy.readiness.is_warming(tree) || self.is_being_moved(view, tree) {
            return;
        }
        let gained = ring.index_of(view.me).is_some_and(|me| readiness::is_gained(view, me, tree));
        let how = (readiness::needed(view, ring, tree), gained);
        let ready = state == ReplicaState::Ready;
        if self.anti_entropy.readiness.compared(tree, ring, (view.me, peer.node), ready, how) {
            self.stats.partitions_warmed += 1;
            self.ownership.on_compared(view, tree.1, &self.anti_entropy.readiness);
        }
    }

    /// Whether a tree that a newer layout brought waits for range transfer: before the move begins nothing that is compared
    /// counts, and the transfer brings what others forgot, too. What it leaves unsure is compared.
    fn is_being_moved(&self, view: &View, tree: TreeName) -> bool {
        let gained = || view.ring.as_ref().and_then(|ring| ring.index_of(view.me));
        view.beside.is_some()
            && (!view.moving || self.ownership.is_wanted(tree.1))
            && self.anti_entropy.readiness.is_warming(tree)
            && gained().is_some_and(|me| readiness::is_gained(view, me, tree))
    }

    fn ask_leaves(&mut self, now: Now, id: u64, out: &mut dyn ShardOutbox) {
        let wall = self.comparing_wall(now);
        let Some(at) = self.table.trees_at(wall) else { return self.put_off(now, id) };
        let resting = self.anti_entropy.credit < 0;
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        let Phase::Leaves { from, asked } = &mut session.phase else { return };
        let Some(work) = session.work.front() else { return self.end_session(id) };
        if resting {
            session.due = now.mono + REST;
            return;
        }
        *asked = true;
        let (peer, tree, from) = (session.peer, work.tree, *from);
        session.due = now.mono + SILENCE_MAX;
        let leaves = merkle::to_bytes(&self.table.leaves(tree.0, tree.1, u32::MAX));
        let (copies, partition) = tree;
        self.anti_entropy.charge(leaves.len());
        self.send_exchange(now, peer, id, Exchange::Leaves { at, copies, partition, from, leaves: &leaves }, out);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    fn on_keys(
        &mut self,
        now: Now,
        id: u64,
        (from, until): (u64, u64),
        leaves: &[u8],
        floors: &[u8],
        items: &[u8],
        out: &mut dyn ShardOutbox,
    ) {
        let Some(session) = self.anti_entropy.sessions.get(&id) else { return };
        let (peer, state) = (session.peer, session.state);
        let Some(tree) = session.work.front().map(|work| work.tree) else { return };
        if !leaves.len().is_power_of_two() || leaves.len().ilog2() > self.table.leaf_bits() || until < from {
            return self.end_session(id);
        }
        let wall = self.comparing_wall(now);
        let marked = leaves.iter().any(|leaf| *leaf != 0);
        let mine = if marked { self.listed(tree, leaves.len().ilog2(), leaves, from, until) } else { Vec::new() };
        let floors: Vec<FloorItem> = FloorItem::list(floors).collect();
        let mut keys: BTreeMap<(KeyHash, crate::id::NamespaceId), (Option<KeyItem>, Option<KeyItem>)> = BTreeMap::new();
        for item in mine {
            keys.entry((item.hash, item.namespace)).or_default().0 = Some(item);
        }
        for item in KeyItem::list(items).filter(|item| item.hash.partition(self.config.partitions) == tree.1) {
            keys.entry((item.hash, item.namespace)).or_default().1 = Some(item);
        }
        let (mut differences, mut whole, mut wanted, mut sent, mut next) =
            (Differences::None, true, Vec::new(), 0, None);
        for ((hash, namespace), (mine, theirs)) in keys {
            if sent >= limits::EXCHANGE_BYTES_MAX {
                next = Some(hash.0);
                break;
            }
            // A namespace that is not known here yet will be: until then this copy lacks what the peer's holds of it.
            let Some(rules) = self.rules.get(&namespace).copied().filter(|rules| rules.n == tree.0) else {
                (differences, whole) = (Differences::Tried, false);
                continue;
            };
            let me = Side {
                floors: self.table.floors(rules.slot, tree.1),
                warming: self.anti_entropy.readiness.is_warming(tree),
                lost: self.anti_entropy.readiness.has_lost(tree, self.config.disk && rules.ack.is_durable()),
            };
            let warming = state != ReplicaState::Ready;
            let them = Side { floors: floors_of(&floors, namespace), warming, lost: false };
            let moment = Moment { wall, evictable: rules.evictable };
            let action = moment.judge(mine.as_ref(), theirs.as_ref(), (&me, &them));
            let action = planted(action, mine.as_ref(), theirs.as_ref(), &moment);
            let difference = match action {
                Action::Equal => Differences::None,
                Action::Leave => Differences::Left,
                Action::Wait | Action::Push | Action::Pull | Action::Adopt | Action::Forget | Action::Both => {
                    Differences::Tried
                }
            };
            let settled = difference <= Differences::Left;
            if rules.gone {
                // Nobody takes anything of a deleted namespace. To the peer it may be there again: then this is not compared.
                let agreed = theirs.is_none_or(|theirs| theirs.gone);
                whole &= settled || agreed;
                differences = differences.max(if agreed { difference.min(Differences::Left) } else { difference });
                // A copy that votes took part in what was acknowledged, or was not needed.
                if let (true, true, Some(theirs)) = (me.warming, agreed && !settled, theirs)
                    && let Some(rules) = self.rules.get_mut(&namespace)
                {
                    rules.overlooked = rules.overlooked.max(theirs.version.hlc);
                }
                continue;
            }
            differences = differences.max(difference);
            self.stats.repairs_left += u64::from(action == Action::Leave);
            if matches!(action, Action::Push | Action::Both) {
                sent += self.send_repair(now, peer, (rules.slot, hash), out).unwrap_or(0);
            }
            if let (Action::Forget, Some(KeyItem { hash, version, entry_hash, .. })) = (action, mine) {
                self.table.forget(rules.slot, hash, version, entry_hash);
            }
            if let (Action::Adopt, Some(KeyItem { hash, version, entry_hash, gone_at, .. })) = (action, theirs) {
                whole &= self.table.adopt(rules.slot, &Evicted { hash, version, entry_hash, gone_at });
            }
            if let (Action::Pull | Action::Both, Some(theirs)) = (action, theirs) {
                let item = PullItem { namespace, hash };
                wanted.push(Wanted { slot: rules.slot, item, version: theirs.version });
            }
        }
        let next = next.or_else(|| until.checked_add(1));
        wanted.shrink_to_fit();
        let shed = self.shed_by(tree, &floors);
        let more = wanted.capacity() * size_of::<Wanted>() + shed.capacity() * size_of::<(NamespaceSlot, Version)>();
        let room = self.make_room_in_background(more as u64);
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        session.note(differences);
        session.whole &= whole && (room || shed.is_empty());
        session.shed = if room { shed } else { Vec::new() };
        session.tries = 0;
        if wanted.is_empty() || !room {
            session.whole &= wanted.is_empty();
            return self.advance(now, id, next, out);
        }
        session.phase = Phase::Pulling { next, wanted, pulled: false };
        self.pull(now, id, out);
    }

    /// Of the namespaces of a warming tree up to which versions a peer that has these floors dropped tombstones.
    fn shed_by(&self, tree: TreeName, floors: &[FloorItem]) -> Vec<(NamespaceSlot, Version)> {
        if !self.anti_entropy.readiness.is_warming(tree) {
            return Vec::new();
        }
        let slot = |namespace| self.rules.get(&namespace).filter(|rules| rules.n == tree.0).map(|rules| rules.slot);
        let risen = floors.iter().filter(|item| item.tombstone > Version::ZERO);
        let mut shed: Vec<_> = risen.filter_map(|item| Some((slot(item.namespace)?, item.tombstone))).collect();
        shed.shrink_to_fit();
        shed
    }

    /// What the peer holds of a tree is here: of what it lacks nothing that it may have deleted is to come from others. Whether that is
    /// more than was known.
    fn take_floors(&mut self, tree: TreeName, shed: &[(NamespaceSlot, Version)]) -> bool {
        let mut rose = false;
        for (slot, tombstone) in shed.iter().copied().filter(|_| self.anti_entropy.readiness.is_warming(tree)) {
            rose |= tombstone > self.table.floors(slot, tree.1).tombstone;
            self.table.raise_floors(slot, tree.1, Floors { evicted: Version::ZERO, tombstone });
        }
        rose
    }

    fn pull(&mut self, now: Now, id: u64, out: &mut dyn ShardOutbox) {
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        let Some(partition) = session.work.front().map(|work| work.tree.1) else { return };
        let Phase::Pulling { wanted, pulled, .. } = &mut session.phase else { return };
        *pulled = false;
        session.due = now.mono + SILENCE_MAX;
        let items: Vec<PullItem> = wanted.iter().map(|wanted| wanted.item).collect();
        let (items, peer) = (pack(&items), session.peer);
        self.send_exchange(now, peer, id, Exchange::Pull { partition, items: &items }, out);
    }

    /// What was asked for has come, or is asked for once more, or is given up.
    fn check_pulled(&mut self, now: Now, id: u64, out: &mut dyn ShardOutbox) {
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        let Phase::Pulling { next, wanted, .. } = &mut session.phase else { return };
        let (before, next) = (wanted.len(), *next);
        let mut left = std::mem::take(wanted);
        left.retain(|wanted| !self.is_held(wanted));
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        if left.is_empty() {
            session.tries = 0;
            return self.advance(now, id, next, out);
        }
        let came = left.len() < before;
        let first_look = session.due > now.mono;
        let Phase::Pulling { wanted, .. } = &mut session.phase else { return };
        *wanted = left;
        if came {
            session.tries = 0;
        } else if first_look {
            // Links may reorder: the entries may still be behind the word that they were all sent.
            session.due = now.mono + ARRIVES_WITHIN;
            return;
        } else {
            session.tries += 1;
        }
        if session.tries >= TRIES_MAX {
            session.whole = false;
            session.note(Differences::Tried);
            return self.advance(now, id, next, out);
        }
        self.pull(now, id, out);
    }

    /// Whether an entry that was asked for is here, or was and is rightly forgotten.
    fn is_held(&self, wanted: &Wanted) -> bool {
        let hash = wanted.item.hash;
        let held = self.table.by_hash(wanted.slot, hash).is_some_and(|(_, entry, _)| entry.version >= wanted.version);
        let floors = self.table.floors(wanted.slot, hash.partition(self.config.partitions));
        held || self.table.ghost_by_hash(hash).is_some_and(|version| version >= wanted.version)
            || floors.evicted.max(floors.tombstone) >= wanted.version
    }

    /// A range of the tree at hand is done: the next one, or the next tree.
    fn advance(&mut self, now: Now, id: u64, next: Option<u64>, out: &mut dyn ShardOutbox) {
        let view = Arc::clone(&self.view);
        let memo_max = usize::try_from(self.config.memory / super::MEMO_SHARE).unwrap_or(usize::MAX);
        let Some(session) = self.anti_entropy.sessions.get_mut(&id) else { return };
        if let Some(from) = next {
            session.phase = Phase::Leaves { from, asked: false };
            return self.ask_leaves(now, id, out);
        }
        let Some(work) = session.work.pop_front() else { return self.end_session(id) };
        let (peer, state, whole, differences) = (session.peer, session.state, session.whole, session.differences);
        let shed = std::mem::take(&mut session.shed);
        AntiEntropy::begin_work(session);
        if whole {
            if self.take_floors(work.tree, &shed) && !work.again {
                // What came from others before is listed as differing now, and given up if the peer lacks it.
                let work = Work { mine: self.table.root(work.tree.0, work.tree.1), again: true, ..work };
                if let Some(session) = self.anti_entropy.sessions.get_mut(&id) {
                    session.work.push_front(work);
                }
                return self.ask_leaves(now, id, out);
            }
            self.note_compared(&view, peer, work.tree, state);
        }
        let again_at = match differences {
            Differences::Left => Some(None),
            Differences::Tried => Some(Some(now.mono + REPEAT_AFTER)),
            // The next round says more.
            Differences::None | Differences::Changed => None,
        };
        // Were the roots those of what was looked through?
        let same = self.table.root(work.tree.0, work.tree.1) == work.mine;
        if let Some(again_at) = again_at.filter(|_| same)
            && self.make_room_in_background(MEMO_BYTES)
        {
            if self.anti_entropy.memo.len() >= memo_max {
                self.anti_entropy.memo.pop_first();
            }
            let settled = Settled { mine: work.mine, theirs: work.theirs, again_at };
            self.anti_entropy.memo.insert((work.tree, peer.node), settled);
        }
        self.stats.trees_compared += 1;
        self.ask_leaves(now, id, out);
    }
}

/// K28: what a peer evicted is taken for missing.
fn planted(action: Action, mine: Option<&KeyItem>, theirs: Option<&KeyItem>, moment: &Moment) -> Action {
    let given = |mine: &KeyItem| !mine.ghost && !moment.is_ending(mine);
    let evicted = theirs.is_none_or(|theirs| theirs.ghost) && mine.is_some_and(given);
    if canary!(K28) && evicted { Action::Push } else { action }
}
