//! The phases of a run: boot, chaos, heal, converge, read everything, quiet (SIMULATION §2 "Phases").
//!
//! Each has a bound of virtual time. What must hold at the end of a phase is judged here (L2, L6, L8); what must hold at
//! every event is judged as it happens. A run is over at its first finding.

use crate::{
    checkers::{CHECKERS, Finding, Invariant, Verdict, layout},
    clients::ATTEMPTS,
    clock::{EPOCH_MS, MS, Time},
    cluster::{Cluster, Event},
    history::{Event as Recorded, HISTORY_VERSION, Header, History, SpaceRules},
    injury::Step,
    keyed::{Purpose, below, draw},
    nemesis::Ledger,
    network::Site,
    plan::Plan,
    timeline::Timeline,
    workload::{Act, Op},
};
use meshwork_core::{
    input::{Caller, NodeInput},
    namespace::{Eviction, Mode, Namespace},
    stats::ShardStats,
    wire::control::{ClientControl, ControlReply},
};
use std::{collections::BTreeMap, sync::Arc};

/// All nodes start within this.
const STARTS_WITHIN: Time = 3_000 * MS;
/// A mesh without faults serves within this.
const BOOT_MAX: Time = 90_000 * MS;
/// Membership heals within this: a down member is tried each 20 s, an isolated node reseeds after 30 s.
const CONVERGE: Time = 90_000 * MS;
/// Requests end, and connections settle, within this.
const QUIET: Time = 35_000 * MS;
/// A repair that changed nothing is sent again within this.
const REPAIRS_REPEAT: Time = 75_000 * MS;
/// The longest wait before a replay, and time for it.
const HINTS_DRAIN: Time = 360_000 * MS;
/// Reads of the read-everything phase, at most.
const READS_MAX: usize = 1_500;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What broke, first first.
    pub findings: Vec<Finding>,
    /// Checkers that had nothing to judge, and what they missed.
    pub unknown: Vec<(&'static str, &'static str)>,
    /// What clients asked and were told.
    pub history: History,
    /// 128 bits over everything that happened.
    pub trace: u128,
    /// Each 1,024 events.
    pub checkpoints: Vec<u128>,
    /// Events of the window that was asked for, in words.
    pub log: Vec<String>,
    /// How many events.
    pub events: u64,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
    /// Rare things that happened.
    pub probes: BTreeMap<&'static str, u64>,
    /// Sums of core's own counters over all shards that ever ran.
    pub totals: ShardStats,
    /// Of clients' attempts, how many ended how.
    pub ended: BTreeMap<&'static str, u64>,
    /// For people, when asked for.
    pub timeline: Option<Timeline>,
}

/// What to keep of a run beside its outcome.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Events to put into words.
    pub window: std::ops::Range<u64>,
    /// Whether to keep a timeline.
    pub timeline: bool,
}

/// Runs a plan.
pub fn run(plan: &Plan, keep: &Keep) -> Outcome {
    let mut cluster = Cluster::new(plan, keep.window.clone(), keep.timeline);
    cluster.boot();
    cluster.chaos();
    cluster.converge();
    cluster.read_everything();
    if !cluster.broken() && cluster.thaw() {
        cluster.settle();
        cluster.read_everything();
    }
    if !cluster.broken() {
        cluster.write_everywhere();
    }
    if !cluster.broken() {
        cluster.burst();
    }
    cluster.quiet();
    if !cluster.broken() {
        cluster.silence();
    }
    cluster.outcome()
}

impl Cluster<'_> {
    pub(crate) fn broken(&self) -> bool {
        !self.sight.findings.is_empty()
    }

    pub(crate) fn phase(&mut self, name: &str) {
        let (at, t) = (self.at, self.at / 1_000);
        self.recorded.push(Recorded::Phase { t, name: name.to_owned() });
        if let Some(timeline) = &mut self.timeline {
            timeline.note(at, None, &format!("phase: {name}"));
        }
    }

    pub(crate) fn live(&self) -> Vec<u32> {
        self.machines.iter().filter_map(|machine| machine.process).collect()
    }

    pub(crate) fn blame_run(&mut self, invariant: Invariant, what: String) {
        let at = self.at;
        self.sight.blame(invariant, at, what);
    }

    fn boot(&mut self) {
        self.phase("boot");
        for machine in 0..self.plan.config.nodes {
            let at = below(draw(self.plan.seed, Purpose::Phase, &[u64::from(machine)]), STARTS_WITHIN);
            // The order of starting is the order of times: processes are numbered by it.
            self.machines[usize::from(machine)].old_disk.bound.0 = at;
        }
        let mut starts: Vec<(Time, u16)> = (0..self.plan.config.nodes)
            .map(|machine| (self.machines[usize::from(machine)].old_disk.bound.0, machine))
            .collect();
        starts.sort_unstable();
        for (at, machine) in starts {
            self.run_until(at);
            self.start(machine);
        }
        let mut created = vec![false; self.plan.config.spaces.len()];
        while !self.broken() && self.at < BOOT_MAX {
            self.run_until(self.at + 250 * MS);
            let live = self.live();
            let serves = |process: &u32| {
                let view = &self.processes[*process as usize].view;
                view.ring.is_some() && view.agreed && view.fence.is_none()
            };
            let first = live.iter().copied().find(serves);
            // A node whose clock is off fences itself, and one that came after the first layout waits outside it.
            let ready = live.iter().all(|process| {
                let view = &self.processes[*process as usize].view;
                view.ring.is_some() && (view.agreed || view.fence.is_some())
            });
            let known = live
                .iter()
                .all(|process| self.processes[*process as usize].view.namespaces.iter().count() > created.len());
            if ready && known && created.iter().all(|created| *created) {
                break;
            }
            if let Some(process) = first {
                for (at, done) in created.iter_mut().enumerate().filter(|(_, done)| !**done) {
                    *done = self.create(process, at);
                }
            }
        }
        if self.broken() {
            return;
        }
        if !created.iter().all(|created| *created) && self.plan.config.clocks_within() {
            let states: Vec<String> = self
                .live()
                .iter()
                .map(|process| self.processes[*process as usize].node.status(self.now_of(*process)).state)
                .collect();
            self.blame_run(
                Invariant::L6,
                format!("no node serves {} s after the start: {states:?}", self.at / 1_000 / MS),
            );
        }
        for machine in &mut self.machines {
            machine.old_disk = machine.disk.clone();
        }
    }

    /// A namespace of the plan, as it is made.
    pub(crate) fn namespace(&self, at: usize) -> Namespace {
        let space = &self.plan.config.spaces[at];
        let mut namespace = Namespace::new(&space.name);
        (namespace.n, namespace.r, namespace.w) = (space.n, space.r, space.w);
        namespace.mode = if space.strict { Mode::Strict } else { Mode::Sloppy };
        namespace.eviction = if space.eviction { Eviction::On } else { Eviction::None };
        namespace.ttl_default = space.ttl_default_ms;
        namespace.ack = space.ack;
        namespace
    }

    fn create(&mut self, process: u32, at: usize) -> bool {
        let request = ClientControl::NamespaceCreate(Box::new(self.namespace(at)));
        self.node_input(
            process,
            NodeInput::Client { caller: Caller { link: u64::MAX, id: at as u64 }, admin: true, request },
        );
        let created = |reply: ControlReply| matches!(reply, ControlReply::Created(_));
        self.replies.pop().is_some_and(created)
    }

    fn chaos(&mut self) {
        if self.broken() {
            return;
        }
        self.phase("chaos");
        self.chaos_from = self.at;
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.push(self.chaos_from + fault.at_ms * MS, Event::Fault { index, step: Step::Begin });
        }
        for (nth, op) in self.plan.ops.iter().enumerate() {
            // Within the millisecond, so that clients do not ask in step.
            let within = below(draw(self.plan.seed, Purpose::Client, &[u64::MAX, nth as u64]), MS);
            self.push(self.chaos_from + op.at_ms * MS + within, Event::Ask { op: nth as u64 * ATTEMPTS });
        }
        self.run_until(self.chaos_from + self.plan.config.chaos_ms * MS);
    }

    fn converge(&mut self) {
        if self.broken() {
            return;
        }
        self.phase("heal");
        self.heal();
        self.phase("converge");
        self.settle();
    }

    /// Lets whatever was broken come right, and judges whether it did.
    fn settle(&mut self) {
        self.run_until(self.at + CONVERGE);
        if self.broken() {
            return;
        }
        // A suspicion may be young: a broken agreement must last. Of an identity that ran twice nobody promises anything.
        let identities = Ledger::of(&self.plan.config, &self.plan.faults).identities;
        if identities && self.disagreement().is_some() {
            self.sight.probe("membership had not settled when it was first asked");
            self.run_until(self.at + 10_000 * MS);
            if let Some(finding) = self.disagreement() {
                self.sight.findings.push(finding);
            }
        }
        if identities && self.unfinished().is_some() {
            self.sight.probe("a change of layouts was under way when it was first asked for");
            self.run_until(self.at + 60_000 * MS);
            if let Some(finding) = self.unfinished() {
                self.sight.findings.push(finding);
            }
        }
        // Before anything is read: reads repair what comparisons should have.
        if let Some(what) = self.difference_that_lasts().filter(|_| !self.broken()) {
            self.blame_run(Invariant::L1, what);
        }
    }

    /// Repairs sent so far by all that run.
    fn repairs(&self) -> u64 {
        let shards = self.live().into_iter().flat_map(|process| &self.processes[process as usize].shards);
        shards.map(|shard| shard.stats().repairs_sent).sum()
    }

    fn disagreement(&self) -> Option<Finding> {
        let running = |process: &u32| !self.processes[*process as usize].stopping;
        let live: Vec<u32> = self.live().into_iter().filter(running).collect();
        let statuses: Vec<_> =
            live.iter().map(|process| self.processes[*process as usize].node.status(self.now_of(*process))).collect();
        layout::agreement(self.at, &statuses)
    }

    fn unfinished(&self) -> Option<Finding> {
        // Of a clock that jumped an hour ahead its shards' clocks remember that hour, and nobody hears them meanwhile.
        if !Ledger::of(&self.plan.config, &self.plan.faults).clocks {
            return None;
        }
        let live = self.live();
        let views: Vec<_> = live.iter().map(|process| Arc::clone(&self.processes[*process as usize].view)).collect();
        // Where nothing may be evicted, what does not fit stays where it is: the status says for whom.
        let stats = |process: &u32| self.processes[*process as usize].shards.iter().map(|shard| shard.stats());
        if live.iter().flat_map(stats).any(|stats| stats.entries_without_room > 0) {
            return None;
        }
        let status =
            live.first().map(|process| self.processes[*process as usize].node.status(self.now_of(*process)))?;
        let removed = |node| status.members.iter().any(|member| member.node == node && member.role == "removed");
        let mut finding = layout::completion(self.at, &views, removed)?;
        for process in &live {
            let running = &self.processes[*process as usize];
            let status = running.node.status(self.now_of(*process));
            let warming: usize = running.shards.iter().map(|shard| shard.warming().len()).sum();
            finding.what += &format!("\n  p{process} {}: {}; {warming} trees warm", running.node_id, status.transition);
        }
        Some(finding)
    }

    pub(crate) fn read_everything(&mut self) {
        if self.broken() {
            return;
        }
        self.phase("read everything");
        let mut keys: Vec<(u8, u32)> = self.plan.ops.iter().map(|op| (op.space, op.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        let core = &self.plan.config.core;
        let reads = keys.len() * core.len() * 2;
        let every = reads.div_ceil(READS_MAX).max(1);
        let mut number = self.next_number();
        let mut at = self.at;
        let mut nth = 0;
        for (space, key) in keys {
            for machine in core {
                for strict in [true, false] {
                    nth += 1;
                    if nth % every != 0 {
                        continue;
                    }
                    let op = Op {
                        at_ms: 0,
                        client: 0,
                        space,
                        key,
                        act: Act::Get,
                        strict: Some(strict),
                        r: None,
                        w: None,
                        deadline_ms: 1_000,
                        target: u64::from(*machine),
                        smart: false,
                        retries: 0,
                    };
                    self.clients.extra.insert(number, op);
                    self.push(at, Event::Ask { op: number * ATTEMPTS });
                    at += MS / 2;
                    number += 1;
                }
            }
        }
        self.run_until(at + 2_000 * MS);
    }

    fn quiet(&mut self) {
        if self.broken() {
            return;
        }
        self.phase("quiet");
        if self.comparable().is_some() {
            self.sight.probe("owners' memories were compared");
        }
        if let Some(what) = self.difference_that_lasts().filter(|_| !self.broken()) {
            return self.blame_run(Invariant::L1, what);
        }
        if let Some(what) = self.repairs_that_do_not_end() {
            return self.blame_run(Invariant::L2, what);
        }
        if self.broken() {
            return;
        }
        if let Some(what) = self.flushed_and_held() {
            return self.blame_run(Invariant::S16, what);
        }
        let errors: u64 = self
            .live()
            .iter()
            .flat_map(|process| &self.processes[*process as usize].shards)
            .map(|shard| shard.stats().tree_errors)
            .sum();
        if errors > 0 {
            return self.blame_run(Invariant::L1, format!("{errors} trees were not those of their data"));
        }
        let at = self.at;
        self.sight.at_end(at);
        self.hints_drain();
        if self.broken() {
            return;
        }
        for process in self.live() {
            for (shard, running) in self.processes[process as usize].shards.iter().enumerate() {
                let stats = running.stats();
                if stats.in_flight > 0 {
                    let site = Site { process, shard: shard as u16 };
                    let what = format!(
                        "{site:?} has {} requests in flight {} s after the last was asked",
                        stats.in_flight,
                        QUIET / 1_000 / MS
                    );
                    return self.blame_run(Invariant::L2, what);
                }
            }
        }
    }

    /// L2: repairs go to zero. One may still come when time makes a difference (a ghost ends where another owner holds the
    /// end of what it remembers); one that comes back each minute is a livelock.
    fn repairs_that_do_not_end(&mut self) -> Option<String> {
        let comparable = self.comparable().is_some();
        let shards = |run: &Self| -> Vec<(u64, u64)> {
            let shards = run.live().into_iter().flat_map(|process| &run.processes[process as usize].shards);
            shards.map(|shard| (shard.stats().evictions, shard.stats().out_of_memory)).collect()
        };
        let evicts = shards(self).iter().any(|(evictions, _)| *evictions > 0);
        let first = if evicts { REPAIRS_REPEAT } else { QUIET };
        let mut sent = 0;
        for window in [first, REPAIRS_REPEAT, REPAIRS_REPEAT] {
            let before = self.repairs();
            self.run_until(self.at + window);
            sent = self.repairs().saturating_sub(before);
            if self.broken() || sent == 0 {
                return None;
            }
            self.sight.probe("a repair although nobody wrote");
        }
        // Who has no memory refuses repairs, which come again each minute: that is no livelock.
        let starved = shards(self).iter().any(|(_, out_of_memory)| *out_of_memory > 0);
        let judged = comparable && !starved && self.comparable().is_some();
        judged.then(|| {
            format!("{sent} repairs were sent in a minute, the third in which nobody wrote and nothing differed")
        })
    }

    /// L2: hints for members that are back go to zero, however they flapped before.
    fn hints_drain(&mut self) {
        let ledger = Ledger::of(&self.plan.config, &self.plan.faults);
        // Who disagrees about the time, or about who is who, refuses what the other sends.
        if !ledger.clocks || !ledger.identities {
            return;
        }
        // Of a small memory that refuses some now and then, they go one by one: what counts is that they go.
        let held = |run: &Self| -> usize {
            let shards = run.processes.iter().flat_map(|process| &process.shards);
            shards.flat_map(|shard| shard.hints_by_target()).map(|(_, count)| count).sum()
        };
        let (mut until, mut left) = (self.at + HINTS_DRAIN, held(self));
        while self.at < until && !self.broken() && self.hints_left().is_some() {
            self.run_until(self.at + 5_000 * MS);
            if self.at >= until && held(self) < left {
                (until, left) = (self.at + HINTS_DRAIN / 3, held(self));
            }
        }
        if let Some(what) = self.hints_left().filter(|_| !self.broken()) {
            self.blame_run(Invariant::L2, what);
        }
    }

    /// The first hint that a node of the core holds for another one of it that it sees, and that has room.
    fn hints_left(&self) -> Option<String> {
        let core = |process: &u32| {
            let known = &self.processes[*process as usize];
            !known.stopping && self.plan.config.core.contains(&known.machine)
        };
        let live: Vec<u32> = self.live().into_iter().filter(core).collect();
        for holder in &live {
            let known = &self.processes[*holder as usize];
            for (target, count) in known.shards.iter().flat_map(|shard| shard.hints_by_target()) {
                let seen = known.view.members.iter().any(|member| member.node == target && member.up);
                let takes = live.iter().any(|other| {
                    let other = &self.processes[*other as usize];
                    let full = other.shards.iter().any(|shard| shard.stats().out_of_memory > 0);
                    other.node_id == target && other.view.ring.is_some() && !full
                });
                if seen && takes {
                    return Some(format!("p{holder} holds {count} hints for {target}, which is up and has room"));
                }
            }
        }
        None
    }

    fn outcome(mut self) -> Outcome {
        for process in self.live() {
            for shard in &self.processes[process as usize].shards {
                self.totals.add(&shard.stats());
            }
        }
        let config = &self.plan.config;
        let ledger = Ledger::of(config, &self.plan.faults);
        let spaces = config.spaces.iter().map(|space| SpaceRules {
            name: space.name.clone(),
            n: space.n,
            eviction: space.eviction,
            ttl_default_ms: space.ttl_default_ms,
            ack: space.ack,
        });
        let header = Header {
            v: HISTORY_VERSION,
            source: "sim".to_owned(),
            seed: format!("{:x}", self.plan.seed),
            commit: crate::commit().to_owned(),
            spaces: spaces.collect(),
            clocks: ledger.clocks,
            memories: ledger.memories,
            identities: ledger.identities,
            skew_max_ms: config.skew_max_ms(),
            epoch_ms: EPOCH_MS,
        };
        let history = History { header, events: self.recorded };
        let mut findings = self.sight.findings;
        let mut unknown = Vec::new();
        for (name, check) in CHECKERS {
            match check(&history) {
                Verdict::Valid => {}
                Verdict::Invalid(finding) => findings.push(finding),
                Verdict::Unknown(why) => unknown.push((name, why)),
            }
        }
        Outcome {
            findings,
            unknown,
            history,
            trace: self.trace.hash(),
            checkpoints: self.trace.checkpoints().to_vec(),
            log: self.trace.log().to_vec(),
            events: self.trace.events(),
            virtual_ms: self.at / MS,
            probes: self.sight.probes,
            totals: self.totals,
            ended: self.clients.ended,
            timeline: self.timeline,
        }
    }
}
