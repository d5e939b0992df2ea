//! Range transfer: taking over the partitions that a new layout assigns here (PROTOCOL §2 "Transition", "Range transfer").
//!
//! A new owner pulls, part by part, in the order of key hashes; each pull is the credit for one part, so nothing is sent
//! that was not asked for, and a cursor resumes what was cut off. It pulls from as many former owners as must overlap
//! with every write quorum: `n − w + 1` Ready ones, or all others whatever their state. One is not enough: a write may be
//! acknowledged without it. Each pull tells the leaves of the puller's own tree, and what is equal is not sent: the first
//! source sends all, the next ones what the first lacked, and one that was cut off goes on with what is missing. From all
//! others, too few of them Ready, comes all that can be had, and the transition goes on; but such a copy is not Ready for
//! it, since what was acknowledged may be lost: it votes in sloppy requests only, until comparison (`anti_entropy`) makes
//! it Ready. Concurrent writes go to the owners of both layouts, so a stale part is harmless.
//!
//! Which copies vote is said in one place, `anti_entropy::readiness`. Here is what is on its way: a partition is wanted
//! while a tree of it warms that the newest layout assigns here, and what came whole makes its trees Ready there. Wanted, too,
//! is what was owned here before and has too few owners now (`readiness::is_thinned`): meanwhile that copy votes as it did.
//!
//! Invariants:
//! - pulling begins once all members coordinate with the newest layout (`View::moving`), and whoever serves a pull takes
//!   nothing more from a coordinator of an older one: what was acknowledged under it is in the parts, the rest is refused
//!   (*derived*; the acks alone do not stop a node that was removed and does not know);
//! - a partition is Ready here when its parts are complete, with their forget floors, and never before;
//! - nothing is dropped here while an active layout assigns it: only a transition that is over (`View::complete`) lets go,
//!   and `leaving` forgets. Of a partition that stays, who moves down among its owners lets the trees of namespaces with
//!   fewer copies go: in their later owners' eyes it never had them. Who missed the end of a transition, down or cut
//!   off, knows it by the next one, which could not begin before, and lets go then; what the next layout gives back comes
//!   from its owners. So does what a disk may hold of a layout before that.
//!
//! What it is not: comparison. Replicas that differ for other reasons are `anti_entropy`'s.

use super::transfer::{Came, RETRY_AFTER, Transfer};
use crate::{
    anti_entropy::readiness::{self, Readiness},
    canary::canary,
    id::{NamespaceId, NodeId, PartitionId},
    limits::{TRANSFER_BYTES_PER_SECOND, TRANSFER_PART_BYTES},
    outbox::ShardReport,
    ring::{LayoutName, Ring},
    storage::{ALL_COPIES, LowTrees},
    time::Mono,
    value::{Hlc, Version},
    view::View,
    wire::peer::ReplicaState,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Partitions pulled at once by a shard.
const WINDOW: usize = 4;
/// A part that does not come within this is asked for again, perhaps elsewhere.
const PART_TIMEOUT: Duration = Duration::from_secs(1);
/// Where a part found no room, nothing is asked for until others may have made some.
const ROOM_AFTER: Duration = Duration::from_secs(5);
/// Sources that were not Ready are asked again after this.
const START_OVER_AFTER: Duration = Duration::from_secs(5);
/// While requests of an older layout are in flight, how often to look.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

/// How long one of so many shards takes for so many bytes within the budget of its node, in nanoseconds.
fn pace(bytes: u64, shards: u16) -> u64 {
    bytes.saturating_mul(1_000_000_000 * u64::from(shards)) / TRANSFER_BYTES_PER_SECOND
}

/// What is known of this shard's partitions in the active layouts.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    /// The newest layout and the one that is read.
    pair: Option<(LayoutName, LayoutName)>,
    since: Mono,
    drained: bool,
    drain_at: Mono,
    /// Partitions that came from too few Ready owners, and the layout they came for.
    unsure: BTreeMap<PartitionId, LayoutName>,
    wanted: BTreeMap<PartitionId, Transfer>,
    /// How many parts were asked for.
    asks: u64,
    /// What was written before the newest layout was known here, or before the last lapse, is not above this.
    began: Hlc,
    /// Partitions whose owners became too few that came all the same, and the layout they came for.
    filled: BTreeMap<PartitionId, LayoutName>,
    /// Partitions of the newest layout here.
    owned: u32,
    /// Copies and W of all namespaces, each pair once.
    quorums: BTreeSet<(u8, u8)>,
    free_at: Mono,
    next_at: Option<Mono>,
    /// Coordinators of older epochs are refused.
    floor: u64,
    reported: Option<ShardReport>,
    /// The oldest and the newest layout of the view before.
    known: Option<(LayoutName, LayoutName)>,
    /// The complete layout that was cleaned up after, and for which lapse.
    cleaned: Option<LayoutName>,
    lapses: u64,
}

/// The trees of a partition that `ring` does not assign to `me`; `None`: it assigns all.
fn unassigned(ring: &Ring, partition: PartitionId, me: NodeId) -> Option<LowTrees> {
    let place = ring.owners(partition).iter().position(|owner| ring.node(*owner) == me);
    let copies = place.map_or(ALL_COPIES, |place| u8::try_from(place).expect("a partition has few owners"));
    (copies > 0).then_some((partition, copies))
}

/// Of namespaces with how many copies, at least, an active layout assigns a partition to `node`.
pub(crate) fn copies_from(view: &View, node: NodeId, partition: PartitionId) -> u8 {
    let rings = view.ring.iter().chain(&view.beside);
    rings
        .map(|ring| unassigned(ring, partition, node).map_or(0, |(_, copies)| copies))
        .min()
        .unwrap_or(ALL_COPIES)
        .saturating_add(1)
}

/// Whether an active layout assigns one of these trees to this node.
pub(crate) fn assigns(view: &View, (partition, copies): LowTrees) -> bool {
    let among = |ring: &Ring| readiness::owners(ring, (copies, partition)).iter().any(|it| ring.node(*it) == view.me);
    view.ring.iter().chain(&view.beside).any(|ring| among(ring))
}

/// A part to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) partition: PartitionId,
    /// Whom.
    pub(crate) member: u16,
    /// Behind which hash.
    pub(crate) after: Option<u64>,
    /// The how manieth of this shard it is.
    pub(crate) number: u64,
}

/// What a new view asks of the shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleanup {
    /// What nobody assigns here any more, of this shard's.
    pub(crate) dropped: Vec<LowTrees>,
    /// The node was given up for gone: what they held is old, whoever owns them now.
    pub(crate) lapsed: bool,
}

impl Ownership {
    /// Whether a partition came from too few Ready owners, and was not compared with enough since.
    #[inline]
    pub(crate) fn is_unsure(&self, partition: PartitionId) -> bool {
        !self.unsure.is_empty() && self.unsure.contains_key(&partition)
    }

    /// Whether a partition is yet to come.
    pub(crate) fn is_wanted(&self, partition: PartitionId) -> bool {
        self.wanted.contains_key(&partition)
    }

    /// A tree of a partition became Ready by comparison: with its last one the partition needs nothing more.
    pub(crate) fn on_compared(&mut self, view: &View, partition: PartitionId, readiness: &Readiness) {
        if self.lacks(view, partition, readiness) {
            return;
        }
        self.unsure.remove(&partition);
        if self.wanted.remove(&partition).is_some() {
            // The control plane is told when this shard is asked next.
            self.next_at = Some(Mono::default());
        }
    }

    /// Whether something may be missing here of a partition that the newest layout assigns here: a tree of it warms that a
    /// namespace has, or its owners became too few.
    fn lacks(&self, view: &View, partition: PartitionId, readiness: &Readiness) -> bool {
        let Some(newest) = view.newest() else { return false };
        let Some(me) = newest.index_of(view.me) else { return false };
        let thinned = |tree| readiness::is_thinned(view, tree) && self.filled.get(&partition) != Some(&newest.name());
        let mut trees = self.quorums.iter().map(|(copies, _)| (*copies, partition));
        trees.any(|tree| readiness::owners(newest, tree).contains(&me) && (readiness.is_warming(tree) || thinned(tree)))
    }

    /// Coordinators of an epoch below this one are refused, whatever is active.
    #[inline]
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// This node served a pull for the layout of `epoch`.
    pub(crate) fn on_served(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
    }

    /// How many partitions of the newest layout are not Ready here.
    pub(crate) fn missing(&self) -> usize {
        self.wanted.len()
    }

    /// Takes a new snapshot. `mine` are the partitions of this shard, `readiness` knows the snapshot already.
    pub(crate) fn on_view(
        &mut self,
        (now, stamp): (Mono, Hlc),
        view: &View,
        mine: impl Iterator<Item = PartitionId>,
        readiness: &Readiness,
    ) -> Cleanup {
        let (Some(newest), Some(oldest), Some(read)) = (view.newest(), view.oldest(), view.ring.as_ref()) else {
            return Cleanup::default();
        };
        let pair = (newest.name(), read.name());
        if self.pair != Some(pair) {
            if self.pair.is_none_or(|(before, _)| before != pair.0) {
                self.began = stamp;
                // What was asked of the sources so far were the trees that another layout assigns here.
                self.wanted.clear();
            }
            (self.pair, self.since, self.drained, self.drain_at) = (Some(pair), now, false, now);
        }
        self.next_at = view.moving.then_some(now);
        self.quorums = view.namespaces.iter().map(|(_, namespace)| (namespace.n, namespace.w)).collect();
        let lapsed = view.lapses > self.lapses;
        self.lapses = view.lapses;
        if lapsed {
            self.began = stamp;
            // What came was emptied with the rest, and what is on its way leaves out what was held before.
            self.unsure.clear();
            self.wanted.clear();
            self.filled.clear();
        }
        let alone = self.alone(view);
        let mut cleanup = Cleanup { dropped: Vec::new(), lapsed };
        let unassigned = |partition| match alone {
            _ if lapsed => Some((partition, ALL_COPIES)),
            Some(ring) => unassigned(ring, partition, view.me),
            None => None,
        };
        self.owned = 0;
        let Some(me) = newest.index_of(view.me) else {
            // A member of no active layout: all that it had is others'.
            cleanup.dropped = mine.filter_map(unassigned).collect();
            self.wanted.clear();
            self.unsure.clear();
            return cleanup;
        };
        for partition in mine {
            let owns = |ring: &Ring| ring.owners(partition).contains(&me);
            let (is, was) = (owns(newest), owns(oldest));
            self.owned += u32::from(is);
            if !is && !was {
                self.unsure.remove(&partition);
            }
            if !is {
                self.wanted.remove(&partition);
            }
            cleanup.dropped.extend(unassigned(partition));
            if is && view.beside.is_some() {
                self.want(view, partition, readiness);
            }
        }
        if view.beside.is_none() {
            self.wanted.clear();
            self.filled.clear();
        }
        cleanup
    }

    /// The layout that stands alone, or did before this view, if what it does not assign here is yet to be dropped; once each.
    fn alone<'a>(&mut self, view: &'a View) -> Option<&'a Ring> {
        let (oldest, newest) = (view.oldest()?, view.newest()?);
        let known = self.known.replace((oldest.name(), newest.name()));
        let early = canary!(K23) && view.beside.is_some();
        let read = view.ring.as_ref().filter(|ring| view.complete || early && ring.name() == newest.name());
        // Between this view and the one before a transition ended: to the layout that was the newest, or to an earlier one that this node
        // had come to before it settled a conflict. Of what a disk holds it is not known when it came, unless an earlier process had
        // all of the newest layout.
        let came_to = |last| last == oldest.name() || view.settled == Some(oldest.name());
        let missed = match known {
            Some((before, last)) => before.epoch < oldest.name().epoch && came_to(last),
            None => view.held != Some(newest.name()),
        };
        let oldest = (missed && view.beside.is_some()).then_some(oldest);
        let alone = read.or(oldest).filter(|ring| self.cleaned != Some(ring.name()))?;
        self.cleaned = Some(alone.name());
        Some(alone)
    }

    /// Looks whether `partition`, owned here in the newest layout, has to be moved here.
    fn want(&mut self, view: &View, partition: PartitionId, readiness: &Readiness) {
        let lacks = self.lacks(view, partition, readiness);
        if !lacks {
            self.unsure.remove(&partition);
        }
        if lacks && self.unsure.get(&partition).copied() != view.newest().map(|ring| ring.name()) {
            let intact = !self.quorums.iter().any(|(copies, _)| readiness.is_warming((*copies, partition)));
            let transfer = self.wanted.entry(partition);
            let since = self.asks + 1;
            transfer.or_insert_with(|| Transfer { intact, since, ..Transfer::default() }).intact &= intact;
        } else {
            self.wanted.remove(&partition);
        }
    }

    /// Whether `partition` has come from all former owners that can be asked for, and from enough Ready ones; and whom to
    /// ask next.
    fn coverage(&self, view: &View, partition: PartitionId, transfer: &Transfer) -> (bool, bool, Vec<u16>) {
        let (Some(newest), Some(oldest)) = (view.newest(), view.oldest()) else { return (false, false, Vec::new()) };
        let Some(me) = newest.index_of(view.me) else { return (false, false, Vec::new()) };
        let (mut enough, mut sure, mut next) = (true, true, Vec::new());
        for (copies, write) in &self.quorums {
            let prefix = |ring: &'_ Ring| -> Vec<u16> {
                ring.owners(partition).iter().copied().take(usize::from(*copies)).collect()
            };
            let owners = prefix(oldest);
            // What it owned and lost counts too: others take a Ready copy's word for every namespace.
            if !prefix(newest).contains(&me) && !owners.contains(&me) {
                continue;
            }
            // W at most a majority: a request may ask for fewer votes. Where this copy lost nothing it is one of the N.
            let lost = usize::from(!transfer.intact);
            let need = owners.len() - owners.len().min(usize::from(*write)).min(owners.len() / 2 + 1) + lost;
            let others: Vec<u16> = owners.into_iter().filter(|owner| *owner != me).collect();
            let done = |owner: &u16| transfer.done.get(&oldest.node(*owner)).copied();
            let ready = others.iter().filter(|owner| done(owner) == Some(true)).count();
            let left: Vec<u16> = others.into_iter().filter(|owner| done(owner).is_none()).collect();
            let given_up = left.iter().all(|owner| view.skipped.contains(&oldest.node(*owner)));
            // What was given up was accepted to be lost.
            sure &= ready >= need || (given_up && !left.is_empty());
            if ready < need && !given_up {
                enough = false;
                next.extend(left);
            }
        }
        (enough, sure, next)
    }

    /// Transfers to ask a part for now. `reachable` says who can be asked.
    /// Each ask is charged to the budget with a whole part, so that parts come one after the other and not by the window.
    pub(crate) fn due(&mut self, now: Mono, view: &View, shards: u16, reachable: impl Fn(u16) -> bool) -> Vec<Ask> {
        let mut asks = Vec::new();
        self.next_at = None;
        if !view.moving || self.wanted.is_empty() {
            return asks;
        }
        let Some(ring) = view.newest() else { return asks };
        let (mut wake, pace) = (now + PART_TIMEOUT, pace(TRANSFER_PART_BYTES as u64, shards));
        let mut under_way = 0;
        for transfer in self.wanted.values_mut() {
            if transfer.asked.is_some_and(|at| now.since(at) >= PART_TIMEOUT) {
                transfer.fail(now);
            }
            under_way += usize::from(transfer.asked.is_some());
        }
        let partitions: Vec<PartitionId> = self.wanted.keys().copied().collect();
        for partition in partitions {
            let transfer = &self.wanted[&partition];
            if transfer.asked.is_some() {
                continue;
            }
            if transfer.not_before > now {
                wake = wake.min(transfer.not_before);
                continue;
            }
            if under_way >= WINDOW {
                break;
            }
            if self.free_at > now {
                wake = wake.min(self.free_at);
                break;
            }
            let (_, _, next) = self.coverage(view, partition, transfer);
            let going_on = transfer.source.and_then(|node| ring.index_of(node)).filter(|member| next.contains(member));
            let failed = |member: &u16| transfer.failed == Some(ring.node(*member));
            let (fresh, tried): (Vec<u16>, Vec<u16>) = next.iter().copied().partition(|member| !failed(member));
            let going_on = going_on.filter(|member| !failed(member));
            let chosen = going_on.into_iter().chain(fresh).chain(tried).find(|member| reachable(*member));
            let Some(transfer) = self.wanted.get_mut(&partition) else { continue };
            match chosen {
                Some(member) => {
                    let node = ring.node(member);
                    if transfer.source != Some(node) {
                        (transfer.source, transfer.source_ready) = (Some(node), true);
                        transfer.begin();
                    }
                    (transfer.asked, transfer.failed) = (Some(now), None);
                    self.asks += 1;
                    transfer.ask = self.asks;
                    under_way += 1;
                    // A timer that rings late may be made up for by one part.
                    self.free_at = self.free_at.max(Mono(now.0.saturating_sub(pace))) + Duration::from_nanos(pace);
                    asks.push(Ask { partition, member, after: transfer.after, number: transfer.ask });
                }
                None if next.is_empty() => {
                    // All that can be asked were, and too few of them were Ready: perhaps they are by now.
                    transfer.done.retain(|_, ready| *ready);
                    transfer.not_before = now + START_OVER_AFTER;
                    wake = wake.min(transfer.not_before);
                }
                None => {
                    transfer.not_before = now + RETRY_AFTER;
                    wake = wake.min(transfer.not_before);
                }
            }
        }
        self.next_at = Some(wake);
        asks
    }

    /// The transfer that a part belongs to, if it was asked for.
    pub(crate) fn expected(
        &mut self,
        from: NodeId,
        partition: PartitionId,
        (after, ask): (Option<u64>, u64),
    ) -> Option<&mut Transfer> {
        self.wanted.get_mut(&partition).filter(|transfer| transfer.awaits(from, after, ask))
    }

    /// Up to which version the source that `partition` comes from dropped tombstones of a namespace: what it lacks, and is as old, is
    /// not to come from others.
    #[inline]
    pub(crate) fn shed(&self, partition: PartitionId, namespace: NamespaceId) -> Version {
        let transfer = if self.wanted.is_empty() { None } else { self.wanted.get(&partition) };
        transfer.and_then(|transfer| transfer.shed.get(&namespace)).copied().unwrap_or(Version::ZERO)
    }

    /// What is newer was written since this node is one of those that writes under the newest layout need.
    pub(crate) fn began(&self) -> Hlc {
        self.began
    }

    /// A part was taken in.
    pub(crate) fn on_part(
        &mut self,
        partition: PartitionId,
        state: ReplicaState,
        far: Came,
        (bytes, shards): (u64, u16),
    ) {
        // A whole part was charged when it was asked for.
        let (asked, came) = (pace(TRANSFER_PART_BYTES as u64, shards), pace(bytes, shards));
        self.free_at = Mono((self.free_at.0 + came).saturating_sub(asked));
        let Some(transfer) = self.wanted.get_mut(&partition) else { return };
        (transfer.asked, transfer.failures) = (None, 0);
        transfer.source_ready &= state == ReplicaState::Ready;
        match far {
            Came::Again => {}
            Came::UpTo(last) => transfer.after = Some(last),
            Came::All => {
                if let Some(source) = transfer.source.take() {
                    transfer.done.insert(source, transfer.source_ready);
                }
                transfer.begin();
            }
        }
    }

    /// A part could not be had, or not be taken in.
    pub(crate) fn on_refused(&mut self, now: Mono, from: NodeId, partition: PartitionId, ask: u64) {
        if let Some(transfer) = self.wanted.get_mut(&partition).filter(|it| it.is_from(from, ask)) {
            transfer.fail(now);
        }
    }

    /// This memory has no room for what comes.
    pub(crate) fn on_full(&mut self, now: Mono) {
        self.free_at = self.free_at.max(now + ROOM_AFTER);
    }

    /// Everything that waits for `node` asks elsewhere.
    pub(crate) fn on_lost(&mut self, now: Mono, node: NodeId) {
        for transfer in self.wanted.values_mut().filter(|it| it.source == Some(node) && it.asked.is_some()) {
            transfer.fail(now);
        }
    }

    /// Partitions, or the one named, that have come from all former owners that could be asked, with what those may have
    /// forgotten; `true`: enough of them were Ready.
    pub(crate) fn take_complete(
        &mut self,
        view: &View,
        only: Option<PartitionId>,
    ) -> Vec<(PartitionId, Transfer, bool)> {
        if !view.moving {
            return Vec::new();
        }
        let is_it = |partition: PartitionId| only.is_none_or(|only| only == partition);
        let Some(newest) = view.newest().map(|ring| ring.name()) else { return Vec::new() };
        let complete: Vec<(PartitionId, bool)> = self
            .wanted
            .iter()
            .filter(|(partition, transfer)| is_it(**partition) && transfer.asked.is_none())
            .filter_map(|(partition, transfer)| {
                let (enough, sure, _) = self.coverage(view, *partition, transfer);
                enough.then_some((*partition, sure))
            })
            .collect();
        for (partition, sure) in &complete {
            if self.quorums.iter().any(|(copies, _)| readiness::is_thinned(view, (*copies, *partition))) {
                self.filled.insert(*partition, newest);
            }
            if *sure {
                self.unsure.remove(partition);
            } else {
                self.unsure.insert(*partition, newest);
            }
        }
        let taken = complete.into_iter();
        taken.filter_map(|(partition, sure)| Some((partition, self.wanted.remove(&partition)?, sure))).collect()
    }

    /// The numbers of copies that namespaces have.
    pub(crate) fn copies(&self) -> BTreeSet<u8> {
        self.quorums.iter().map(|(copies, _)| *copies).collect()
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        let drains = (self.pair.is_some() && !self.drained).then_some(self.drain_at);
        self.next_at.into_iter().chain(drains).min()
    }

    /// Whether requests are to be looked for that began before the present layouts; `Some(since)`.
    pub(crate) fn draining(&mut self, now: Mono) -> Option<Mono> {
        if self.pair.is_none() || self.drained {
            return None;
        }
        self.drain_at = now + DRAIN_EVERY;
        Some(self.since)
    }

    /// None of them is left.
    pub(crate) fn on_drained(&mut self) {
        self.drained = true;
    }

    /// What to tell the control plane, if it is news. What came here and may not be `synced` yet is as if it were missing.
    pub(crate) fn report(&mut self, shard: u16, moved_bytes: u64, synced: bool) -> Option<ShardReport> {
        let (newest, read) = self.pair?;
        let missing = u32::try_from(self.wanted.len()).expect("at most PARTITIONS_MAX") + u32::from(!synced);
        let (drained, partitions, lapses) = (self.drained, self.owned, self.lapses);
        let report = ShardReport { shard, newest, read, lapses, drained, missing, partitions, moved_bytes };
        let is_news = self.reported.is_none_or(|told| ShardReport { moved_bytes, ..told } != report);
        is_news.then(|| {
            self.reported = Some(report);
            report
        })
    }
}
