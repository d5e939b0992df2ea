//! A cluster in virtual time: the queue of events, and handing each to whom it is for (SIMULATION §2 "Loop").
//!
//! The queue is keyed `(time, order)`; `order` counts pushes, or in some seeds is a hash of that count, so that ties fall
//! otherwise. Nothing waits: the next event is the next in the queue. Every message between nodes and with clients passes
//! as encoded bytes. This file drives; `links` carries frames, `injury` breaks, `clients` ask, `phases` says when what.

use crate::{
    checkers::{
        Invariant,
        sight::{Given, Sight},
    },
    clients::Clients,
    clock::{MachineClock, Time},
    disk::Disk,
    history::Event as Recorded,
    keyed::{Purpose, below, draw},
    nemesis::Ledger,
    network::{Network, Site},
    plan::Plan,
    process::{Effect, NodeOut, Process, ShardOut, address_of},
    queue::Queue,
    timeline::Timeline,
    trace::Trace,
};
use bytes::BytesMut;
use meshwork_core::{
    config::NodeConfig,
    id::{ActorId, ClusterId, KeyHasher, NamespaceId, NodeId},
    input::{NodeInput, PeerShard, ShardInput},
    node::Node,
    outbox::ShardReport,
    shard::Shard,
    stats::ShardStats,
    time::Now,
    value::Hlc,
    view::View,
    wire::{
        control::{self, ControlReply, PeerControl},
        frame::{DecodeError, Decoder, FrameType},
        peer::PeerMessage,
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The cluster's id: nothing depends on it but the placement of keys.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x006d_6573_6877_6f72_6b00);

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A plane's `handle_timeout`: 0 is the node, 1 the first shard.
    Due { process: u32, plane: usize },
    /// A frame arrives over a connection, at this end of it.
    Frame { link: u32, end: usize, frame: Vec<u8> },
    /// A copy of a frame arrives that its connection would never have delivered.
    Stray { to: Site, from: PeerShard, frame: Vec<u8> },
    /// A packet arrives.
    Gossip { process: u32, packet: Vec<u8> },
    /// A dialer's `Hello` arrives.
    Hello { link: u32, frame: Vec<u8> },
    /// The answer to it arrives.
    Welcome { link: u32, frame: Vec<u8> },
    /// Nobody answered.
    DialFailed { link: u32 },
    /// An end learns that its connection is gone.
    Lost { link: u32, end: usize },
    /// Have two machines been cut off from each other since then?
    IdleCheck { a: u16, b: u16, since: Time },
    /// A snapshot arrives at a shard.
    View { site: Site, view: Arc<View> },
    /// A shard's report reaches its control plane.
    Report { process: u32, report: ShardReport },
    /// A clock bound is durable.
    Stored { process: u32, machine: u16, bound: Hlc },
    /// The disk gets to what a shard gave it first.
    Written { site: Site },
    /// The control plane's state is durable.
    MetaStored { process: u32, number: u64, bytes: Vec<u8> },
    /// A client begins an operation: its number.
    Ask { op: u64 },
    /// A client's frame arrives.
    Request { process: u32, link: u64, frame: Vec<u8> },
    /// A reply arrives at its client.
    Reply { op: u64, frame: Vec<u8> },
    /// A client waits no longer.
    GiveUp { op: u64 },
    /// A fault begins, ends, or goes on to its next step.
    Fault { index: usize, step: crate::injury::Step },
}

/// A machine: what lasts longer than a process.
pub(crate) struct Machine {
    pub(crate) clock: MachineClock,
    pub(crate) disk: Disk,
    /// The disk when the chaos began.
    pub(crate) old_disk: Disk,
    /// The process on it.
    pub(crate) process: Option<u32>,
    /// Identities drawn for it, and processes started on it.
    pub(crate) identities: u64,
    pub(crate) starts: u64,
    /// The disk is as the last process left it.
    pub(crate) whole: bool,
    /// It writes nothing durably.
    pub(crate) stalled: u32,
    /// It keeps nothing more of what shards store.
    pub(crate) full: u32,
    /// Whose node it runs: of a clone, the original's.
    pub(crate) of: u16,
}

impl Machine {
    /// Ends what ails it: its clock is right again, its disk takes and keeps what it is given.
    pub(crate) fn repair(&mut self) {
        self.clock.repair();
        (self.stalled, self.full) = (0, 0);
    }
}

/// The cluster.
pub(crate) struct Cluster<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) at: Time,
    queue: Queue<Event>,
    pushed: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) processes: Vec<Process>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) sight: Sight,
    pub(crate) recorded: Vec<Recorded>,
    pub(crate) trace: Trace,
    pub(crate) timeline: Option<Timeline>,
    pub(crate) chaos_from: Time,
    /// Members of the smallest layout so far.
    pub(crate) fewest_members: usize,
    /// By paused process: what arrived meanwhile.
    held: BTreeMap<u32, Vec<Event>>,
    /// Healing has begun: no fault does anything any more.
    pub(crate) faults_over: bool,
    pub(crate) replies: Vec<ControlReply>,
    pub(crate) totals: ShardStats,
    pub(crate) hasher: KeyHasher,
    effects: Vec<Effect>,
}

impl<'p> Cluster<'p> {
    /// Machines with nothing running on them.
    pub(crate) fn new(plan: &'p Plan, window: std::ops::Range<u64>, timeline: bool) -> Self {
        let config = &plan.config;
        let clones = plan.faults.iter().filter_map(|fault| match fault.kind {
            crate::nemesis::FaultKind::Clone { machine } => Some(machine),
            _ => None,
        });
        let owners: Vec<u16> = (0..config.nodes).chain(clones).collect();
        let machines = owners.iter().map(|of| Machine {
            clock: MachineClock::new(config.clocks[usize::from(*of)].clone()),
            disk: Disk::default(),
            old_disk: Disk::default(),
            process: None,
            identities: 0,
            starts: 0,
            whole: true,
            stalled: 0,
            full: 0,
            of: *of,
        });
        let machines: Vec<Machine> = machines.collect();
        let ledger = Ledger::of(config, &plan.faults);
        let evictable =
            config.spaces.iter().filter(|space| space.eviction).map(|space| NamespaceId::of(&space.name)).collect();
        Self {
            network: Network::new(plan.seed, config.network.clone(), machines.len()),
            machines,
            plan,
            at: 0,
            queue: Queue::new(),
            pushed: 0,
            processes: Vec::new(),
            clients: Clients::default(),
            sight: Sight::new(ledger, config.skew_max_ms(), config.memory, evictable),
            recorded: Vec::new(),
            trace: Trace::new(window),
            timeline: timeline.then(Timeline::default),
            chaos_from: 0,
            fewest_members: usize::MAX,
            held: BTreeMap::new(),
            faults_over: false,
            replies: Vec::new(),
            totals: ShardStats::default(),
            hasher: KeyHasher::new(CLUSTER),
            effects: Vec::new(),
        }
    }

    /// An event at a time, not before now.
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        self.pushed += 1;
        let order =
            if self.plan.config.shuffle { draw(self.plan.seed, Purpose::Phase, &[self.pushed]) } else { self.pushed };
        self.queue.push(at.max(self.at), order, event);
    }

    /// Runs until `end`, or until something broke.
    pub(crate) fn run_until(&mut self, end: Time) {
        while self.sight.findings.is_empty() {
            if self.queue.next_at().is_none_or(|at| at > end) {
                break;
            }
            let Some((at, event)) = self.queue.pop() else { break };
            self.at = at;
            self.deliver(event);
        }
        if self.sight.findings.is_empty() {
            self.at = end;
        }
    }

    /// For which process an event is, if a pause of it holds the event up.
    fn holder(&self, event: &Event) -> Option<u32> {
        match event {
            Event::Due { process, .. }
            | Event::Gossip { process, .. }
            | Event::Report { process, .. }
            | Event::Request { process, .. } => Some(*process),
            Event::Frame { link, end, .. } | Event::Lost { link, end } => {
                Some(self.network.links[*link as usize].ends[*end].process)
            }
            Event::Welcome { link, .. } => Some(self.network.links[*link as usize].ends[0].process),
            Event::Hello { link, .. } => {
                self.machines[usize::from(self.network.links[*link as usize].machines[1])].process
            }
            Event::Stray { to, .. } => Some(to.process),
            Event::View { site, .. } | Event::Written { site } => Some(site.process),
            Event::MetaStored { process, .. } => Some(*process),
            Event::Stored { .. }
            | Event::DialFailed { .. }
            | Event::IdleCheck { .. }
            | Event::Ask { .. }
            | Event::Reply { .. }
            | Event::GiveUp { .. }
            | Event::Fault { .. } => None,
        }
    }

    fn deliver(&mut self, event: Event) {
        if let Some(holder) = self.holder(&event) {
            let process = &self.processes[holder as usize];
            if !process.alive {
                if let Event::Frame { .. } | Event::Hello { .. } = event {
                    self.sight.probe("frame for a dead process");
                }
                return;
            }
            if process.paused_until > self.at {
                self.held.entry(holder).or_default().push(event);
                return;
            }
        }
        self.trace.add(self.at);
        match event {
            Event::Due { process, plane } => self.due(process, plane),
            Event::Frame { link, end, frame } => self.on_frame(link, end, &frame),
            Event::Stray { to, from, frame } => self.on_stray(to, from, &frame),
            Event::Gossip { process, packet } => {
                self.trace.add_bytes(&packet);
                self.trace.event(|| format!("p{process} packet of {} bytes", packet.len()));
                self.node_input(process, NodeInput::Gossip(&packet));
            }
            Event::Hello { link, frame } => self.on_hello(link, &frame),
            Event::Welcome { link, frame } => self.on_welcome(link, &frame),
            Event::DialFailed { link } => self.on_dial_failed(link),
            Event::Lost { link, end } => self.on_lost(link, end),
            Event::IdleCheck { a, b, since } => self.on_idle_check(a, b, since),
            Event::View { site, view } => {
                // What warmed until now did so under the view before.
                self.note_warming(site);
                self.sight.on_view(self.at, site, &view);
                self.trace.add(view.ring.as_ref().map_or(0, |ring| ring.name().hash));
                self.trace.event(|| format!("{site:?} view"));
                self.shard_call(site, &Given::Other, |shard, now, out| shard.handle(now, ShardInput::View(view), out));
            }
            Event::Report { process, report } => {
                self.trace.add(u64::from(report.missing) << 1 | u64::from(report.drained));
                self.trace.event(|| format!("p{process} {report:?}"));
                self.node_input(process, NodeInput::Report(report));
            }
            Event::Stored { process, machine, bound } => {
                let machine = &mut self.machines[usize::from(machine)];
                if machine.process == Some(process) {
                    machine.disk.bound = machine.disk.bound.max(bound);
                    self.trace.add(bound.0);
                    self.trace.event(|| format!("p{process} stored {:x}", bound.0));
                    self.node_input(process, NodeInput::ClockStored(bound));
                }
            }
            Event::Written { site } => self.on_written(site),
            Event::MetaStored { process, number, bytes } => self.on_meta_stored(process, number, bytes),
            Event::Ask { op } => self.on_ask(op),
            Event::Request { process, link, frame } => self.on_request(process, link, &frame),
            Event::Reply { op, frame } => self.on_client_reply(op, &frame),
            Event::GiveUp { op } => self.on_give_up(op),
            Event::Fault { index, step } => self.on_fault(index, step),
        }
    }

    /// A process that stood still goes on, if no other pause holds it: what arrived meanwhile arrives now, in order.
    pub(crate) fn resume(&mut self, process: u32) {
        if self.processes[process as usize].paused_until <= self.at {
            self.sight.on_pause(process);
            for (order, event) in (0..).zip(self.held.remove(&process).unwrap_or_default()) {
                self.queue.push(self.at, order, event);
            }
        }
    }

    fn due(&mut self, process: u32, plane: usize) {
        let armed = &mut self.processes[process as usize].armed[plane];
        if *armed != Some(self.at) {
            // An earlier time took its place, or a pause held it up.
            let late = armed.is_some_and(|armed| armed < self.at);
            if !late {
                return;
            }
        }
        *armed = None;
        self.trace.add(u64::from(process) << 8 | plane as u64);
        self.trace.event(|| format!("p{process} timeout of plane {plane}"));
        match plane {
            0 => self.node_due(process),
            _ => {
                let site = Site { process, shard: (plane - 1) as u16 };
                self.shard_call(site, &Given::Other, |shard, now, out| shard.handle_timeout(now, out));
            }
        }
    }

    /// Both clocks of a process.
    pub(crate) fn now_of(&self, process: u32) -> Now {
        let process = &self.processes[process as usize];
        self.machines[usize::from(process.machine)].clock.now(self.at, process.started)
    }

    pub(crate) fn node_input(&mut self, process: u32, input: NodeInput<'_>) {
        self.node_call(process, |node, now, out| node.handle(now, input, out));
    }

    pub(crate) fn node_call(&mut self, process: u32, call: impl FnOnce(&mut Node, Now, &mut NodeOut<'_>)) {
        let now = self.now_of(process);
        let mut out = NodeOut { effects: &mut self.effects };
        call(&mut self.processes[process as usize].node, now, &mut out);
        self.perform(process);
        self.arm(process, 0);
    }

    pub(crate) fn shard_call(
        &mut self,
        site: Site,
        given: &Given<'_>,
        call: impl FnOnce(&mut Shard, Now, &mut ShardOut<'_>),
    ) {
        let now = self.now_of(site.process);
        self.note_warming(site);
        self.sight.before(self.at, now.wall, site, given);
        let shard = &mut self.processes[site.process as usize].shards[usize::from(site.shard)];
        let mut out = ShardOut { sight: &mut self.sight, effects: &mut self.effects, site, at: self.at };
        call(shard, now, &mut out);
        self.sight.after(self.at, site, shard, &shard.stats());
        if !self.sight.behind.is_empty() {
            self.asked_early(site);
        }
        self.perform(site.process);
        self.arm(site.process, usize::from(site.shard) + 1);
    }

    /// S19: a part of a partition was asked for before some members coordinate with the layout that moves it. Of those whom the
    /// asking node knows to be removed nobody waits.
    fn asked_early(&mut self, site: Site) {
        let behind = std::mem::take(&mut self.sight.behind);
        let members = self.processes[site.process as usize].node.status(self.now_of(site.process)).members;
        let removed = |node| members.iter().any(|member| member.node == node && member.role == "removed");
        if let Some(node) = behind.into_iter().find(|node| !removed(*node)) {
            let what = format!("{site:?} asked for a partition, and {node} does not coordinate with its layout yet");
            let at = self.at;
            self.sight.blame(Invariant::S19, at, what);
        }
    }

    /// Puts the next due time of a plane into the queue, if it is not there.
    pub(crate) fn arm(&mut self, process: u32, plane: usize) {
        let running = &self.processes[process as usize];
        let due = match plane {
            0 => running.node.poll_timeout(),
            _ => running.shards[plane - 1].poll_timeout(),
        };
        let Some(due) = due else { return };
        let at = self.machines[usize::from(running.machine)].clock.when(due, running.started).max(self.at);
        if running.armed[plane].is_none_or(|armed| at < armed) {
            self.processes[process as usize].armed[plane] = Some(at);
            self.push(at, Event::Due { process, plane });
        }
    }

    /// Carries out what a call did.
    fn perform(&mut self, process: u32) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Peer { shard, to, frame } => self.send_to_peer(Site { process, shard }, to, frame),
                Effect::Reply { caller, frame } => self.send_reply(process, caller, frame),
                Effect::Gossip { to, address, packet } => self.send_gossip(process, to, address, packet),
                Effect::Control { to, address, frame } => self.send_control(process, to, address, frame),
                Effect::Dial(address) => self.dial_address(process, address),
                Effect::ControlReply(frame) => {
                    let (_, id, mut decoder) = Decoder::start(&frame).expect("a reply of the control plane is a frame");
                    self.replies.push(control::decode(id, &mut decoder).expect("a reply of the control plane decodes"));
                }
                Effect::Report(report) => {
                    let most = self.plan.config.view_delay_us * 1_000;
                    let key = [u64::from(process), u64::from(report.shard), u64::MAX];
                    let delay = below(draw(self.plan.seed, Purpose::Process, &key), most + 1);
                    // Reports of a shard reach the control plane in order, also those of one moment.
                    let last = &mut self.processes[process as usize].reports_at[usize::from(report.shard)];
                    *last = (self.at + delay).max(*last + 1);
                    let at = *last;
                    self.push(at, Event::Report { process, report });
                }
                Effect::Publish(view) => self.publish(process, view),
                Effect::Store(bound) => self.store(process, bound),
                Effect::Write { shard, write } => self.write(Site { process, shard }, write),
                Effect::StoreMeta { number, bytes } => self.store_meta(process, number, bytes),
                Effect::Event(event) => self.on_news(process, &event),
            }
        }
        self.effects = effects;
    }

    /// Starts a process on a machine, on the disk it has.
    pub(crate) fn start(&mut self, machine: u16) -> u32 {
        let process = self.processes.len() as u32;
        let config = &self.plan.config;
        let seed = self.plan.seed;
        let on = &mut self.machines[usize::from(machine)];
        on.starts += 1;
        let key = |what: u64| [u64::from(machine), on.starts, what];
        let known = config.disks && on.disk.node.is_some();
        let drawn = {
            let high = draw(seed, Purpose::Process, &[u64::from(machine), on.identities, 1]);
            let low = draw(seed, Purpose::Process, &[u64::from(machine), on.identities, 2]);
            NodeId(u128::from(high) << 64 | u128::from(low))
        };
        let node = match on.disk.node.filter(|_| config.disks) {
            Some(node) => node,
            None => {
                on.identities += 1;
                drawn
            }
        };
        on.disk.node = Some(node);
        let bound = if config.disks { on.disk.bound } else { Hlc(0) };
        let actor = ActorId(draw(seed, Purpose::Process, &key(3)));
        let mut settings = NodeConfig::new(CLUSTER, node, address_of(machine));
        settings.cluster.name = "sim".to_owned();
        settings.cluster.partitions = config.partitions;
        settings.cluster.n = config.n;
        settings.cluster.bootstrap_expect = config.bootstrap_expect;
        settings.cluster.replace_by_name = config.replace_by_name;
        settings.known = known;
        settings.actor = actor;
        settings.name = format!("n{}", on.of);
        settings.zone = format!("z{}", on.of % config.zones);
        settings.shards = config.shards[usize::from(on.of)];
        settings.seeds = (0..config.nodes).map(address_of).collect();
        settings.clock_floor = bound;
        settings.warming_max = Duration::from_millis(config.warming_max_ms);
        settings.seed = draw(seed, Purpose::Process, &key(4));
        settings.disk = config.durable;
        settings.restored = on.disk.meta.clone();
        let shards = settings.shards;
        let now = on.clock.now(self.at, self.at);
        on.process = Some(process);
        let continues = std::mem::replace(&mut on.whole, true) && config.disks;
        self.sight.on_start(node, actor, bound, shards, continues);
        let mut started = Process::start(machine, settings, config.memory, now, self.at);
        let skipped = on.disk.restore(&mut started, config.partitions, now);
        self.processes.push(started);
        if skipped > 0 {
            self.sight.probe("a damaged record was skipped");
        }
        let at = self.at;
        if let Some(timeline) = &mut self.timeline {
            timeline.start(at, machine, process);
        }
        self.record_fault(format!("start of p{process} on machine {machine} as {node}"));
        for plane in 0..=usize::from(shards) {
            self.arm(process, plane);
        }
        process
    }

    /// What happened, for histories and timelines.
    pub(crate) fn record_fault(&mut self, what: String) {
        if let Some(timeline) = &mut self.timeline {
            timeline.note(self.at, None, &what);
        }
        self.recorded.push(Recorded::Fault { t: self.at / 1_000, what });
    }

    // What arrives.

    /// A frame from a peer; over `link`, which a malformed one closes.
    pub(crate) fn on_peer_frame(&mut self, to: Site, from: PeerShard, frame: &[u8], link: Option<(u32, usize)>) {
        let outcome = Decoder::start(frame).and_then(|(frame_type, id, mut decoder)| match frame_type {
            FrameType::Control => {
                let message: PeerControl = control::decode(id, &mut decoder)?;
                self.node_input(to.process, NodeInput::Peer { from: from.node, message });
                Ok(())
            }
            FrameType::Request
            | FrameType::Reply
            | FrameType::Replicate
            | FrameType::Replicated
            | FrameType::Read
            | FrameType::ReadReply
            | FrameType::Forward
            | FrameType::ForwardReply
            | FrameType::Exchange
            | FrameType::StreamPull
            | FrameType::StreamChunk
            | FrameType::Unsupported => {
                let Some(message) = PeerMessage::decode(frame_type, id, &mut decoder)? else {
                    return Err(DecodeError::Malformed("a client's frame on a node's link"));
                };
                let shards = self.processes[to.process as usize].shards.len();
                if usize::from(to.shard) < shards {
                    let given = Given::Peer(from, &message);
                    self.shard_call(to, &given, |shard, now, out| {
                        shard.handle(now, ShardInput::Peer { from, message }, out)
                    });
                }
                Ok(())
            }
        });
        let Some((link, end)) = link else { return };
        match outcome {
            Ok(()) => {}
            Err(DecodeError::Unknown { id, .. }) => {
                self.sight.probe("unknown message answered with Unsupported");
                let mut answer = BytesMut::new();
                PeerMessage::Unsupported { id }.encode(&mut answer);
                self.transmit(link, end, answer.into());
                if meshwork_core::canary::is_planted(meshwork_core::canary::Canary::K26) {
                    self.close(link, "an unknown message (planted)");
                }
                if self.network.links[link as usize].state == crate::network::LinkState::Gone {
                    let at = self.at;
                    self.sight.blame(
                        Invariant::S24,
                        at,
                        format!("{to:?} closed its link to {} for a message it does not know", from.node),
                    );
                }
            }
            Err(DecodeError::Malformed(why)) => {
                self.sight.probe("malformed frame closed its link");
                self.close(link, why);
            }
        }
    }
}
