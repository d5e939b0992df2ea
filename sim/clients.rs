//! Clients: sessions that ask nodes, wait, give up, and try elsewhere (SIMULATION §2).
//!
//! Each attempt is an operation of its own in the history, with a value of its own: a client that tries again after an
//! unknown outcome may have written twice. Requests and replies pass as encoded bytes over a link per client and process; a
//! process that dies answers nothing, a client that vanishes takes its link with it. A smart client asks an owner, as the
//! view of some live node has it; others ask anybody.

use crate::{
    checkers::sight::Given,
    clock::{MS, Time},
    cluster::{Cluster, Event},
    history::{Complete, Event as Recorded, Invoke, Outcome},
    keyed::{Purpose, below, draw},
    network::Site,
    workload::{Act, Op, value_of, writer_of},
};
use bytes::BytesMut;
use meshwork_core::{
    id::NamespaceId,
    input::{Caller, NodeInput, ShardInput},
    namespace::Mode,
    value::Version,
    wire::{
        client::{Condition, Consistency, Op as Ask, Quorum, Reply, ReplyBody, Request, Ttl},
        control::{self, ClientControl},
        frame::{Decoder, FrameType},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Attempts of one operation have numbers in steps of one below this.
pub(crate) const ATTEMPTS: u64 = 8;
/// A client waits so much longer than its deadline.
const PATIENCE: Time = 300 * MS;

/// One attempt under way.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    what: Op,
    process: u32,
}

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) open: BTreeMap<u64, Attempt>,
    /// By session, namespace and key: the version seen last.
    seen: BTreeMap<(u16, u8, u32), Version>,
    /// How often a client vanished: its links have other names afterwards.
    pub(crate) lives: BTreeMap<u16, u64>,
    /// Operations beside those of the plan, by number.
    pub(crate) extra: BTreeMap<u64, Op>,
    /// Those of them that must be served.
    pub(crate) must: BTreeSet<u64>,
    /// Of each outcome, how many.
    pub(crate) ended: BTreeMap<&'static str, u64>,
}

fn link_of(client: u16, life: u64, process: u32) -> u64 {
    u64::from(client) << 48 | life << 32 | u64::from(process)
}

impl Cluster<'_> {
    /// A client's request arrives at a process.
    pub(crate) fn on_request(&mut self, process: u32, link: u64, frame: &[u8]) {
        self.trace.add(link);
        self.trace.add_bytes(frame);
        self.trace.event(|| format!("p{process} request over client link {link:x}"));
        let (frame_type, id, mut decoder) = Decoder::start(frame).expect("clients send whole frames");
        if frame_type == FrameType::Control {
            let request: ClientControl = control::decode(id, &mut decoder).expect("clients send whole frames");
            let caller = Caller { link, id };
            return self.node_input(process, NodeInput::Client { caller, admin: true, request });
        }
        let request = Request::decode(id, &mut decoder).expect("clients send whole frames");
        let hash = self.hasher.hash(request.namespace, request.key);
        let shards = self.processes[process as usize].shards.len() as u16;
        let partition = hash.partition(self.plan.config.partitions);
        let site = Site { process, shard: partition.0 % shards };
        let caller = Caller { link, id };
        let given = Given::Client(caller, hash, &request);
        self.shard_call(site, &given, |shard, now, out| {
            shard.handle(now, ShardInput::Client { caller, hash, request }, out)
        });
    }

    /// The operation with this number, whichever attempt of it.
    fn op_of(&self, op: u64) -> Option<Op> {
        let planned = usize::try_from(op / ATTEMPTS).ok().and_then(|at| self.plan.ops.get(at)).cloned();
        planned.or_else(|| self.clients.extra.get(&(op / ATTEMPTS)).cloned())
    }

    /// The process that a client asks.
    fn target(&self, what: &Op, attempt: u64, hash: meshwork_core::id::KeyHash) -> Option<u32> {
        let nodes = u64::from(self.plan.config.nodes);
        let turn = what.target.wrapping_add(attempt);
        if what.smart {
            let live = (0..nodes).map(|step| ((turn + step) % nodes) as usize).find_map(|machine| {
                let process = self.machines[machine].process?;
                self.processes[process as usize].view.ring.clone()
            });
            if let Some(ring) = live {
                let owners = ring.owners(hash.partition(ring.partitions()));
                let node = ring.node(owners[(turn / nodes % owners.len() as u64) as usize]);
                let holds = |machine: &&crate::cluster::Machine| {
                    machine.process.is_some_and(|process| self.processes[process as usize].node_id == node)
                };
                return self.machines.iter().find(holds).and_then(|machine| machine.process);
            }
        }
        self.machines[(turn % nodes) as usize].process
    }

    pub(crate) fn on_ask(&mut self, op: u64) {
        let Some(what) = self.op_of(op) else { return };
        let space = &self.plan.config.spaces[usize::from(what.space)];
        let key = format!("k{}", what.key);
        let namespace = NamespaceId::of(&space.name);
        let hash = self.hasher.hash(namespace, key.as_bytes());
        let process = self.target(&what, op % ATTEMPTS, hash);
        let seen = self.clients.seen.get(&(what.client, what.space, what.key)).copied();
        let (value, ttl_ms) = match what.act {
            Act::Put { size, ttl_ms } => (Some(value_of(op, size)), (ttl_ms > 0).then_some(ttl_ms)),
            Act::Add { size } | Act::Swap { size } => (Some(value_of(op, size)), None),
            Act::Touch { ttl_ms } => (None, Some(ttl_ms)),
            Act::Get | Act::Delete => (None, None),
        };
        let strict = what.strict.unwrap_or(space.strict);
        let t = self.at / 1_000;
        self.recorded.push(Recorded::Invoke(Invoke {
            t,
            op,
            session: u32::from(what.client),
            node: process.map_or(u32::MAX, |process| u32::from(self.processes[process as usize].machine)),
            f: what.act.name().to_owned(),
            ns: space.name.clone(),
            key: key.clone(),
            arg: value.as_ref().map(|_| op),
            ttl_ms,
            r: what.r.unwrap_or(space.r),
            w: what.w.unwrap_or(space.w),
            strict,
            deadline_ms: what.deadline_ms,
            must: self.clients.must.contains(&(op / ATTEMPTS)),
        }));
        let Some(process) = process else {
            let complete = Complete { status: "nobody there".to_owned(), ..Complete::default() };
            return self.end(op, &what, Outcome::Fail, complete);
        };
        let quorum = |asked: Option<u8>| asked.map_or(Quorum::Default, Quorum::Exactly);
        let mode = what.strict.map(|strict| if strict { Mode::Strict } else { Mode::Sloppy });
        let ask = match (what.act, &value) {
            (Act::Get, _) => Ask::Get,
            (Act::Delete, _) => Ask::Delete { condition: Condition::Always },
            (Act::Touch { ttl_ms }, _) => {
                Ask::Touch { ttl: if ttl_ms == 0 { Ttl::Never } else { Ttl::Millis(ttl_ms) } }
            }
            (Act::Put { .. } | Act::Add { .. } | Act::Swap { .. }, value) => {
                let value = value.as_deref().unwrap_or_default();
                let condition = match (what.act, seen) {
                    (Act::Add { .. }, _) => Condition::IfAbsent,
                    (Act::Swap { .. }, Some(version)) => Condition::IfVersion(version),
                    (Act::Swap { .. } | Act::Put { .. } | Act::Get | Act::Delete | Act::Touch { .. }, _) => {
                        Condition::Always
                    }
                };
                Ask::Put { value, ttl: ttl_ms.map_or(Ttl::Default, Ttl::Millis), condition }
            }
        };
        let consistency = Consistency { read: quorum(what.r), write: quorum(what.w), mode };
        let request = Request {
            id: op,
            deadline_ms: what.deadline_ms,
            sent: 0,
            consistency,
            namespace,
            key: key.as_bytes(),
            op: ask,
        };
        let mut frame = BytesMut::new();
        request.encode(&mut frame);
        let life = self.clients.lives.get(&what.client).copied().unwrap_or(0);
        let link = link_of(what.client, life, process);
        let machine = self.processes[process as usize].machine;
        let way = self.network.fate(None, Some(machine), op).delay;
        self.push(self.at + way, Event::Request { process, link, frame: frame.into() });
        self.push(self.at + Time::from(what.deadline_ms) * MS + PATIENCE + way, Event::GiveUp { op });
        self.clients.open.insert(op, Attempt { what, process });
    }

    pub(crate) fn send_reply(&mut self, process: u32, caller: Caller, frame: Vec<u8>) {
        let machine = self.processes[process as usize].machine;
        self.trace.add(caller.id);
        self.trace.add_bytes(&frame);
        let way = self.network.fate(Some(machine), None, caller.id).delay;
        let client = (caller.link >> 48) as u16;
        let life = self.clients.lives.get(&client).copied().unwrap_or(0);
        if caller.link == link_of(client, life, process) {
            self.push(self.at + way, Event::Reply { op: caller.id, frame });
        }
    }

    pub(crate) fn on_client_reply(&mut self, op: u64, frame: &[u8]) {
        self.trace.add(op);
        self.trace.event(|| format!("client reply to op {op}"));
        let Some(attempt) = self.clients.open.remove(&op) else {
            self.sight.probe("reply after its client gave up");
            return;
        };
        let (_, id, mut decoder) = Decoder::start(frame).expect("nodes send whole replies");
        let reply = Reply::decode(id, &mut decoder).expect("nodes send whole replies");
        let what = attempt.what;
        let mut complete = Complete::of(&reply);
        if let ReplyBody::Value { value, .. } = reply.body {
            complete.value = writer_of(value);
            complete.torn = complete.value.is_none();
        }
        if let Some(version) = complete.version {
            self.clients.seen.insert((what.client, what.space, what.key), version);
        }
        let outcome = Outcome::of(&reply, what.act != Act::Get);
        self.end(op, &what, outcome, complete);
    }

    pub(crate) fn on_give_up(&mut self, op: u64) {
        let Some(attempt) = self.clients.open.remove(&op) else { return };
        self.sight.probe("client gave up");
        let outcome = Outcome::unanswered(attempt.what.act != Act::Get);
        self.end(op, &attempt.what, outcome, Complete { status: "no answer".to_owned(), ..Complete::default() });
    }

    /// An attempt is over: records it, and tries again where the client would.
    fn end(&mut self, op: u64, what: &Op, outcome: Outcome, complete: Complete) {
        *self.clients.ended.entry(outcome.name()).or_insert(0) += 1;
        let refused = matches!(complete.status.as_str(), "conflict" | "not found" | "too large" | "invalid");
        self.recorded.push(outcome.event(Complete { t: self.at / 1_000, op, ..complete }));
        let attempt = op % ATTEMPTS;
        if outcome != Outcome::Ok && !refused && attempt < u64::from(what.retries) && attempt + 1 < ATTEMPTS {
            let pause = 5 * MS + below(draw(self.plan.seed, Purpose::Client, &[op]), 100 * MS);
            self.push(self.at + pause, Event::Ask { op: op + 1 });
        }
    }

    /// A client's links are gone, with what it asked on them.
    pub(crate) fn vanish(&mut self, client: u16) {
        let life = self.clients.lives.get(&client).copied().unwrap_or(0);
        self.clients.lives.insert(client, life + 1);
        let lost: Vec<(u64, Attempt)> = self
            .clients
            .open
            .iter()
            .filter(|(_, attempt)| attempt.what.client == client)
            .map(|(op, attempt)| (*op, attempt.clone()))
            .collect();
        for (op, attempt) in lost {
            self.clients.open.remove(&op);
            let outcome = Outcome::unanswered(attempt.what.act != Act::Get);
            let mut what = attempt.what;
            what.retries = 0;
            self.end(op, &what, outcome, Complete { status: "link lost".to_owned(), ..Complete::default() });
            let process = attempt.process;
            if !self.processes[process as usize].alive {
                continue;
            }
            let link = link_of(client, life, process);
            for shard in 0..self.processes[process as usize].shards.len() as u16 {
                let site = Site { process, shard };
                self.sight.on_caller_lost(site, link);
                self.shard_call(site, &Given::Other, |shard, now, out| {
                    shard.handle(now, ShardInput::CallerLost { link }, out)
                });
            }
        }
    }
}
