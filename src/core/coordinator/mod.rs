//! Running a request: who is asked, who is counted, what the caller is told (PROTOCOL §4).
//!
//! `get` and `put` count votes and decide, without sending; `read`, `write`, `replicate` and `forward` send what they ask for;
//! `hit` answers what needs nobody else; `in_flight` holds the requests that wait, `peers` what was learned of those who answer,
//! `quorum` who was asked; `answer` tells the caller.
//! Here: which way a request takes, and why it may be refused before anything happens.
//!
//! What it promises: the coordinator is an owner whenever one can be reached; exactly one reply a request; no reply says
//! more than the votes behind it; nothing waits past its deadline. Shown by the exhaustive tests of `get` and `put` and
//! by the named schedules in `testing`.

mod answer;
mod forward;
mod get;
mod hit;
mod in_flight;
mod inspect;
mod peers;
mod put;
mod quorum;
mod read;
mod read_repair;
mod replicate;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use in_flight::{InFlight, OperationId};
pub(crate) use peers::Peers;
pub(crate) use read_repair::Budget;

use crate::{
    canary::canary,
    handoff::Replay,
    id::{KeyHash, NodeId},
    input::{Caller, PeerShard},
    limits,
    namespace::Mode,
    outbox::ShardOutbox,
    ring::Ring,
    shard::{Rules, Shard},
    time::{Mono, Now, Wall},
    view::View,
    wire::{
        client::{Condition, Consistency, Op, Quorum, Reply, Request, Status, Ttl},
        peer::Header,
    },
};
use in_flight::{Change, Guarded, Operation, Origin, Phase, Subject};
use std::{borrow::Cow, sync::Arc, time::Duration};

/// A request refused before anything happened.
struct Refused(Status, Cow<'static, str>);

fn refused(status: Status, words: &'static str) -> Refused {
    Refused(status, Cow::Borrowed(words))
}

/// Votes that `quorum` asks for, of `n` copies: what the namespace says, or more than can exist.
fn votes_wanted(quorum: Quorum, default: u8, n: u8) -> Result<u8, Refused> {
    match quorum {
        Quorum::Default => Ok(default),
        Quorum::Majority => Ok(n / 2 + 1),
        Quorum::All => Ok(n),
        Quorum::Exactly(0) => Err(refused(Status::Invalid, "no votes were asked for: ask for at least 1")),
        Quorum::Exactly(count) if count <= n => Ok(count),
        Quorum::Exactly(count) => Err(Refused(
            Status::Invalid,
            format!("{count} votes were asked for, and the namespace has {n} copies: ask for at most {n}").into(),
        )),
    }
}

/// How many must vote on a request, and how.
struct Terms {
    /// R, clamped to the layout.
    read: u8,
    /// W as it was asked for.
    write: u8,
    /// Copies, clamped.
    copies: u8,
    strict: bool,
    /// The layout has fewer owners than was asked for.
    degraded: bool,
}

impl Terms {
    fn new(rules: &Rules, consistency: Consistency, owners: usize) -> Result<Self, Refused> {
        let read = votes_wanted(consistency.read, rules.r, rules.n)?;
        let write = votes_wanted(consistency.write, rules.w, rules.n)?;
        let copies = rules.n.min(u8::try_from(owners).expect("at most COPIES_MAX owners"));
        Ok(Self {
            read: read.min(copies),
            write,
            copies,
            strict: consistency.mode.unwrap_or(rules.mode) == Mode::Strict,
            degraded: read > copies || write > copies || rules.n > copies,
        })
    }
}

/// Whether membership believes `member`, another node, alive.
#[inline]
pub(crate) fn is_up(view: &View, member: u16) -> bool {
    view.members.get(usize::from(member)).is_some_and(|known| known.up && known.node != view.me)
}

impl Shard {
    pub(crate) fn on_client(
        &mut self,
        now: Now,
        caller: Caller,
        hash: KeyHash,
        request: &Request<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        self.begin(now, Origin::Caller(caller), hash, request, out);
    }

    pub(crate) fn on_forward(
        &mut self,
        now: Now,
        from: PeerShard,
        id: u64,
        hash: KeyHash,
        request: &Request<'_>,
        out: &mut dyn ShardOutbox,
    ) {
        self.begin(now, Origin::Peer(from, id), hash, request, out);
    }

    fn begin(&mut self, now: Now, origin: Origin, hash: KeyHash, request: &Request<'_>, out: &mut dyn ShardOutbox) {
        if request.op == Op::Get
            && request.deadline_ms > 0
            && let Some((entry, worth)) =
                self.hit(now.mono, (request.namespace, hash), request.key, request.consistency)
        {
            return answer::deliver_entry(origin, &entry, worth, out);
        }
        match request.op {
            Op::Get => self.stats.gets += 1,
            Op::Put { .. } => self.stats.puts += 1,
            Op::Delete { .. } => self.stats.deletes += 1,
            Op::Touch { .. } => self.stats.touches += 1,
            Op::Inspect => {}
        }
        let begun = match request.op {
            Op::Inspect => self.inspect(now, origin, hash, request, out),
            Op::Get | Op::Put { .. } | Op::Delete { .. } | Op::Touch { .. } => {
                self.try_begin(now, origin, hash, request, out)
            }
        };
        self.promised = 0;
        if let Err(Refused(status, words)) = begun {
            self.stats.errors += 1;
            if matches!(status, Status::Overloaded { .. }) {
                self.stats.overloaded += 1;
            }
            self.answer(origin, Reply::text(0, status, &words), out);
        }
    }

    fn try_begin(
        &mut self,
        now: Now,
        origin: Origin,
        hash: KeyHash,
        request: &Request<'_>,
        out: &mut dyn ShardOutbox,
    ) -> Result<(), Refused> {
        let view = Arc::clone(&self.view);
        let Some(ring) = view.ring.as_deref() else {
            return Err(refused(
                Status::NotReady,
                "this node has no layout yet: `meshwork status` says what it waits for",
            ));
        };
        if let Some(fence) = view.fence {
            return Err(Refused(Status::ClockSkew, fence.to_string().into()));
        }
        if self.clock.is_unconfirmed() {
            return Err(Refused(Status::ClockSkew, crate::view::Fence::ClockUnconfirmed.to_string().into()));
        }
        let (subject, read) = self.subject(&view, ring, hash, request)?;
        if request.deadline_ms == 0 {
            return Err(refused(Status::Timeout, "the deadline had passed when the request arrived"));
        }
        let waits = match request.op {
            Op::Put { value, .. } => value.len() as u64,
            Op::Get | Op::Delete { .. } | Op::Touch { .. } | Op::Inspect => 0,
        };
        if !self.has_room_in_flight(request.key.len() as u64 + waits) {
            return Err(refused(Status::Overloaded { retry_after_ms: 20 }, "too many requests are in flight here"));
        }
        let owners = &ring.owners(subject.partition)[..usize::from(subject.copies)];
        let Some(me) = ring.index_of(view.me) else {
            return self.forward(now, &view, origin, subject, request, owners, out);
        };
        let (_, beside) = view.owners(subject.partition, self.rules.get(&subject.namespace).map_or(0, |rules| rules.n));
        if !owners.contains(&me) && !beside.contains(&me) {
            let stand_in = self.stand_in(now, &view, &subject, owners, me);
            if !stand_in {
                return self.forward(now, &view, origin, subject, request, owners, out);
            }
        }
        let allowed = Duration::from_millis(u64::from(request.deadline_ms)).min(limits::DEADLINE_MAX);
        match request.op {
            Op::Get => {
                let deadline = now.mono + allowed.min(limits::READ_TIMEOUT);
                self.start_read(now, &view, owners, me, origin, subject, read, None, deadline, out)
            }
            Op::Put { value, ttl, condition } => {
                let deadline = now.mono + allowed.min(limits::WRITE_TIMEOUT);
                if condition == Condition::Always && ttl != Ttl::Keep {
                    let expiry = self.expiry(now, &subject, ttl)?;
                    return self.start_write(
                        now,
                        &view,
                        ring,
                        owners,
                        me,
                        origin,
                        subject,
                        Some(value),
                        expiry,
                        deadline,
                        out,
                    );
                }
                if ttl != Ttl::Keep {
                    self.expiry(now, &subject, ttl)?;
                }
                let guarded = Guarded { change: Change::Put { value: value.into(), ttl }, condition };
                self.start_read(now, &view, owners, me, origin, subject, read, Some(guarded), deadline, out)
            }
            Op::Delete { condition } => {
                let deadline = now.mono + allowed.min(limits::WRITE_TIMEOUT);
                if condition == Condition::Always {
                    return self.start_write(
                        now,
                        &view,
                        ring,
                        owners,
                        me,
                        origin,
                        subject,
                        None,
                        write::Expiry::Never,
                        deadline,
                        out,
                    );
                }
                let guarded = Guarded { change: Change::Delete, condition };
                self.start_read(now, &view, owners, me, origin, subject, read, Some(guarded), deadline, out)
            }
            Op::Touch { ttl } => {
                let deadline = now.mono + allowed.min(limits::WRITE_TIMEOUT);
                if ttl == Ttl::Keep {
                    return Err(refused(Status::Invalid, "a touch without a new expiry changes nothing: give one"));
                }
                self.expiry(now, &subject, ttl)?;
                let guarded = Guarded { change: Change::Touch { ttl }, condition: Condition::Always };
                let read = if canary!(K40) { 1 } else { read };
                self.start_read(now, &view, owners, me, origin, subject, read, Some(guarded), deadline, out)
            }
            Op::Inspect => unreachable!("it is answered before anything is coordinated"),
        }
    }

    /// The rules that hold for the request's key, if a key may be like that.
    fn rules_of(&self, request: &Request<'_>) -> Result<&Rules, Refused> {
        let Some(rules) = self.rules.get(&request.namespace).filter(|rules| !rules.gone) else {
            return Err(refused(
                Status::NoSuchNamespace,
                "there is no such namespace: create it with `meshwork namespace create`",
            ));
        };
        if request.key.is_empty() {
            return Err(refused(Status::Invalid, "the key is empty: a key has 1 to 1024 bytes"));
        }
        if request.key.len() > limits::KEY_BYTES_MAX {
            return Err(Refused(
                Status::TooLarge,
                format!("the key has {} bytes and may have {}", request.key.len(), limits::KEY_BYTES_MAX).into(),
            ));
        }
        Ok(rules)
    }

    /// The request's key with the rules that hold for it, and R.
    fn subject(
        &self,
        view: &View,
        ring: &Ring,
        hash: KeyHash,
        request: &Request<'_>,
    ) -> Result<(Subject, u8), Refused> {
        let rules = self.rules_of(request)?;
        if let Op::Put { value, .. } = request.op
            && value.len() > rules.value_max as usize
        {
            return Err(Refused(
                Status::TooLarge,
                format!("the value has {} bytes and may have {} (value_max)", value.len(), rules.value_max).into(),
            ));
        }
        let partition = hash.partition(ring.partitions());
        let Terms { read, write, copies, strict, degraded } =
            Terms::new(rules, request.consistency, ring.owners(partition).len())?;
        if strict && !view.agreed {
            return Err(refused(
                Status::NotReady,
                "not all members have acknowledged the layout yet: strict requests wait for it, sloppy ones are served",
            ));
        }
        let subject = Subject {
            namespace: request.namespace,
            slot: rules.slot,
            hash,
            partition,
            key: request.key.into(),
            copies,
            write: write.min(copies),
            write_asked: write,
            write_least: if strict { rules.w } else { 0 },
            strict,
            degraded,
        };
        Ok((Subject { write: subject.votes_among(copies), ..subject }, read))
    }

    /// When a write with this `ttl` expires.
    fn expiry(&self, now: Now, subject: &Subject, ttl: Ttl) -> Result<write::Expiry, Refused> {
        let rules = self.rules.get(&subject.namespace).expect("the subject was made from these rules");
        let millis = match ttl {
            Ttl::Default => rules.ttl_default,
            Ttl::Never => None,
            Ttl::Millis(millis) => Some(millis),
            Ttl::Keep => unreachable!("a kept expiry is known only after the read"),
        };
        let Some(millis) = millis else {
            return match rules.ttl_max {
                Some(max) => Ok(write::Expiry::After(max)),
                None => Ok(write::Expiry::Never),
            };
        };
        if millis == 0 {
            return Err(refused(Status::Invalid, "a ttl of zero: give at least 1 ms, or delete the key"));
        }
        if rules.ttl_max.is_some_and(|max| millis > max) {
            return Err(refused(Status::Invalid, "the ttl is above the namespace's ttl_max"));
        }
        if self.clock.wall(now).0.saturating_add(millis) > limits::EXPIRES_MS_MAX {
            return Err(refused(Status::Invalid, "the ttl ends after the year 2500: is it in the right unit?"));
        }
        Ok(write::Expiry::After(millis))
    }

    /// Whether this node, no owner of the key, is the first that can coordinate it all the same.
    fn stand_in(&self, now: Now, view: &View, subject: &Subject, owners: &[u16], me: u16) -> bool {
        if subject.strict || owners.iter().any(|owner| self.reachable(now, view, *owner)) {
            return false;
        }
        for member in view.stand_ins(subject.partition, owners.len()) {
            if member == me {
                return true;
            }
            if self.reachable(now, view, member) {
                return false;
            }
        }
        false
    }

    /// Whether `member` can be asked: membership believes it alive and its breaker lets a request through.
    #[inline]
    pub(crate) fn reachable(&self, now: Now, view: &View, member: u16) -> bool {
        is_up(view, member) && self.peers.may_ask(member, now.mono)
    }

    /// Whether `member`, whose breaker is open, may be asked what nobody else can serve: membership believes it alive, and a
    /// probe is under way.
    pub(super) fn follows(&self, now: Now, view: &View, member: u16) -> bool {
        is_up(view, member) && self.peers.may_follow(member, now.mono)
    }

    /// Whether `member` may be asked late, where nobody else is left: a probe, too, or whoever follows one.
    pub(super) fn may_be_back(&self, now: Now, view: &View, member: u16) -> bool {
        self.reachable(now, view, member) || self.follows(now, view, member)
    }

    /// Whether `member` answers again: to be asked late it is as good as one that always did.
    pub(super) fn is_back(&self, view: &View, member: u16) -> bool {
        is_up(view, member) && self.peers.is_closed(member)
    }

    /// The shard of `member` that has `subject`'s partition.
    #[inline]
    fn shard_of(view: &View, member: u16, subject: &Subject) -> PeerShard {
        let known = &view.members[usize::from(member)];
        PeerShard { node: known.node, shard: subject.partition.0 % known.shards.max(1) }
    }

    pub(crate) fn header(&mut self, now: Now, view: &View, deadline: Mono) -> Header {
        let layout = view.newest().map(|ring| ring.name()).expect("requests run under a ring");
        let deadline_ms = u32::try_from(deadline.since(now.mono).as_millis()).unwrap_or(u32::MAX);
        Header { layout, hlc: self.clock.reading(now), deadline_ms }
    }

    /// What expiry is judged by here: never behind any stamp this clock has seen.
    pub(crate) fn served_until(&mut self, now: Now) -> Wall {
        self.clock.reading(now).wall()
    }

    fn epoch(&self) -> u64 {
        self.view.ring.as_ref().map_or(0, |ring| ring.name().epoch)
    }

    /// Puts a request among those in flight, with the times at which it is looked at again.
    fn park(&mut self, now: Now, operation: Operation) -> OperationId {
        let deadline = operation.deadline;
        let is_read = matches!(operation.phase, Phase::Read { .. });
        self.in_flight_bytes += operation.heap_bytes();
        self.promised = 0;
        let id = self.in_flight.insert(operation);
        let in_flight = &self.in_flight;
        let over = |id| in_flight.is_over(id);
        let (patience, timeout) = if is_read {
            self.hedges.push(now.mono, id, over);
            (&mut self.read_patience, &mut self.read_timeout)
        } else {
            (&mut self.write_patience, &mut self.write_timeout)
        };
        patience.push(now.mono, id, over);
        timeout.push(now.mono, id, over);
        if deadline < now.mono + timeout.delay() && !canary!(K30) {
            self.own_deadline.push(deadline, id);
        }
        id
    }

    fn take(&mut self, id: OperationId) -> Option<Operation> {
        let operation = self.in_flight.remove(id)?;
        self.in_flight_bytes -= operation.heap_bytes();
        Some(operation)
    }

    /// Runs every due time.
    pub(crate) fn run_due(&mut self, now: Now, out: &mut dyn ShardOutbox) {
        while let Some(id) = self.hedges.pop(now.mono) {
            self.on_hedge(now, id, out);
        }
        self.hedges.set_delay(self.peers.hedge_after());
        while let Some(id) = self.read_patience.pop(now.mono) {
            self.on_read_patience(now, id, out);
        }
        while let Some(id) = self.write_patience.pop(now.mono) {
            self.on_write_patience(now, id, out);
        }
        let timeouts = |shard: &mut Self| {
            shard
                .read_timeout
                .pop(now.mono)
                .or_else(|| shard.write_timeout.pop(now.mono))
                .or_else(|| shard.own_deadline.pop(now.mono))
        };
        while let Some(id) = timeouts(self) {
            let Some(operation) = self.in_flight.get_mut(id) else { continue };
            match operation.phase {
                Phase::Read { .. } => self.on_read_timeout(now, id, out),
                Phase::Write { .. } => self.on_write_timeout(now, id, out),
                Phase::Forwarded { .. } => self.on_forward_timeout(now, id, out),
            }
        }
    }

    /// All links to `node` are gone: whoever waits for it waits no longer.
    pub(crate) fn on_peer_lost(&mut self, now: Now, node: NodeId, out: &mut dyn ShardOutbox) {
        let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(node)) else { return };
        self.peers.on_lost(member, now.mono);
        self.hints_lose(node, now);
        self.ownership.on_lost(now.mono, node);
        for id in self.in_flight.ids() {
            self.lose(now, id, member, out);
        }
    }

    /// Membership believes a peer alive again.
    pub(crate) fn on_peer_up(&mut self, now: Now, node: NodeId) {
        if let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(node)) {
            self.peers.on_up(member, now.mono);
        }
    }

    fn lose(&mut self, now: Now, id: OperationId, member: u16, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        match &mut operation.phase {
            Phase::Read { votes, fetching, .. } => {
                let Some(at) = votes.targets.position(member) else { return };
                let fetched = fetching.is_some_and(|(_, holder)| holder == at);
                if votes.record(at, get::Answer::Lost) {
                    self.advance_read(now, id, out);
                } else if fetched {
                    self.fetch_lost(now, id, out);
                }
            }
            Phase::Write { votes, .. } => {
                let Some(at) = votes.targets.position(member) else { return };
                if votes.record(at, put::Answer::Lost) {
                    self.advance_write(now, id, out);
                }
            }
            Phase::Forwarded { to, writes } => {
                if *to == member {
                    let (origin, maybe) = (operation.origin, *writes);
                    self.take(id);
                    self.answer_failure(origin, Status::Unavailable { need: 1, have: 0 }, None, maybe, out);
                }
            }
        }
    }

    /// The ring changed: requests in flight name its members by their new indexes.
    pub(crate) fn on_new_ring(&mut self, now: Now, before: &[NodeId], after: &[NodeId], out: &mut dyn ShardOutbox) {
        let new_index = |old: u16| {
            let node = before.get(usize::from(old))?;
            after.binary_search(node).ok().and_then(|index| u16::try_from(index).ok())
        };
        let me = self.view.ring.as_ref().and_then(|ring| ring.index_of(self.view.me));
        for id in self.in_flight.ids() {
            let Some(operation) = self.in_flight.get_mut(id) else { continue };
            let (namespace, partition) = (operation.subject.namespace, operation.subject.partition);
            let state = self.state_of(namespace, partition);
            let Some(operation) = self.in_flight.get_mut(id) else { continue };
            match &mut operation.phase {
                Phase::Read { votes, .. } => {
                    votes.targets.remap(new_index, get::Answer::Lost);
                    self.advance_read(now, id, out);
                }
                Phase::Write { votes, .. } => {
                    votes.remap(new_index);
                    // A copy that warms under the new ring, or since the node lapsed, votes no more as it did.
                    if let Some(at) = me.and_then(|me| votes.targets.position(me)) {
                        votes.lower(at, state);
                    }
                    self.advance_write(now, id, out);
                }
                Phase::Forwarded { to, .. } => match new_index(*to) {
                    Some(index) => *to = index,
                    None => *to = u16::MAX,
                },
            }
        }
    }

    /// A caller's link is gone: its requests run on for the replicas' sake and answer nobody.
    pub(crate) fn on_caller_lost(&mut self, link: u64) {
        for id in self.in_flight.ids() {
            let Some(operation) = self.in_flight.get_mut(id) else { continue };
            if matches!(operation.origin, Origin::Caller(caller) if caller.link == link) {
                operation.origin = Origin::Nobody;
            }
        }
    }

    pub(crate) fn on_unsupported(&mut self, now: Now, from: NodeId, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(member) = self.view.ring.as_ref().and_then(|ring| ring.index_of(from)) else { return };
        if Replay::is_background(id.0) {
            self.hints_lose(from, now);
            return;
        }
        self.lose(now, id, member, out);
    }
}
