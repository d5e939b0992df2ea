//! Carrying out faults: beginning, stepping and ending each of `nemesis`' kinds on the cluster.
//!
//! A fault undoes exactly what it did: cuts count, so that overlapping ones end each for themselves. Crashes lose memory;
//! what the disk keeps is what the fault says. At the end of the chaos `heal` mends everything in the core and leaves the
//! rest dead.

use crate::{
    clock::{MS, Time},
    cluster::{Cluster, Event},
    history::Event as Recorded,
    keyed::{Purpose, draw},
    nemesis::FaultKind,
};
use meshwork_core::{
    input::{Caller, NodeInput},
    wire::control::{ClientControl, ControlReply, LayoutChange},
};

/// A moment of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It begins.
    Begin,
    /// A flap turns, or a rolling restart goes on, for the nth time.
    Turn(u16),
    /// A machine of it comes back.
    Restart(u16),
    /// It ends.
    End,
}

/// How long a machine of a rolling restart is down.
const ROLLING_DOWN: Time = 400 * MS;

impl Cluster<'_> {
    fn cut_off(&mut self, side: &[u16], both: Option<u16>, more: bool) {
        for a in 0..self.machines.len() as u16 {
            for b in 0..self.machines.len() as u16 {
                if side.contains(&a) != side.contains(&b) && Some(a) != both && Some(b) != both {
                    self.block(a, b, more);
                }
            }
        }
    }

    pub(crate) fn on_fault(&mut self, index: usize, step: Step) {
        if self.faults_over {
            return;
        }
        let fault = self.plan.faults[index].clone();
        self.trace.add(index as u64);
        self.trace.event(|| format!("fault {index} {step:?} {:?}", fault.kind));
        match step {
            Step::Begin => self.record_fault(format!("begin {index} {:?} for {} ms", fault.kind, fault.for_ms)),
            Step::End => self.record_fault(format!("end {index}")),
            Step::Turn(_) | Step::Restart(_) => {}
        }
        let begins = step == Step::Begin;
        if let Some(timeline) = self.timeline.as_mut().filter(|_| begins) {
            timeline.fault(self.at, self.at + fault.for_ms * MS, &fault.kind);
        }
        let end = self.at + fault.for_ms * MS;
        if begins {
            self.push(end, Event::Fault { index, step: Step::End });
        }
        match (&fault.kind, step) {
            (_, Step::Restart(machine)) => self.revive(machine),
            (FaultKind::Cut { a, b }, Step::Begin | Step::End) => {
                self.block(*a, *b, begins);
                self.block(*b, *a, begins);
            }
            (FaultKind::OneWay { from, to }, Step::Begin | Step::End) => self.block(*from, *to, begins),
            (FaultKind::Isolate { machine }, Step::Begin | Step::End) => self.cut_off(&[*machine], None, begins),
            (FaultKind::Split { side }, Step::Begin | Step::End) => self.cut_off(side, None, begins),
            (FaultKind::Bridge { side, machine }, Step::Begin | Step::End) => {
                self.cut_off(side, Some(*machine), begins)
            }
            (FaultKind::Flap { a, b, period_ms }, Step::Begin | Step::Turn(_)) => {
                let nth = if let Step::Turn(nth) = step { nth } else { 0 };
                self.block(*a, *b, nth % 2 == 0);
                self.block(*b, *a, nth % 2 == 0);
                let over = u64::from(nth) * period_ms >= fault.for_ms;
                if (!over || nth % 2 == 0) && nth < 2_000 {
                    self.push(self.at + period_ms * MS, Event::Fault { index, step: Step::Turn(nth + 1) });
                }
            }
            (FaultKind::Reset { machine }, Step::Begin) => {
                for link in self.network.of_machine(*machine) {
                    self.close(link, "reset by a fault");
                }
            }
            (FaultKind::Slow { machine, extra_us }, Step::Begin | Step::End) => {
                self.network.slow(*machine, extra_us * 1_000, begins);
            }
            (FaultKind::Loss { ppm }, Step::Begin | Step::End) => self.network.lose(*ppm, begins),
            (FaultKind::Pause { machine }, Step::Begin) => {
                if let Some(process) = self.machines[usize::from(*machine)].process {
                    self.sight.on_pause(process);
                    let until = &mut self.processes[process as usize].paused_until;
                    *until = (*until).max(end);
                }
            }
            (FaultKind::Pause { machine }, Step::End) => {
                if let Some(process) = self.machines[usize::from(*machine)].process {
                    self.resume(process);
                }
            }
            (FaultKind::Crash { machine }, Step::Begin) => self.kill(*machine),
            (FaultKind::Crash { machine }, Step::End) => self.revive(*machine),
            (FaultKind::Wipe { machine }, Step::Begin) => {
                self.kill(*machine);
                self.wipe(*machine);
            }
            (FaultKind::Wipe { machine } | FaultKind::CrashOld { machine }, Step::End) => self.revive(*machine),
            (FaultKind::CrashOld { machine }, Step::Begin) => {
                self.kill(*machine);
                let on = &mut self.machines[usize::from(*machine)];
                (on.disk, on.whole) = (on.old_disk.clone(), false);
                self.record_fault(format!("disk of machine {machine} is lost"));
            }
            (FaultKind::Clone { machine }, Step::Begin) => {
                let clones = self.plan.faults[..index]
                    .iter()
                    .filter(|fault| matches!(fault.kind, FaultKind::Clone { .. }))
                    .count();
                let place = self.plan.config.nodes + clones as u16;
                let disk = self.machines[usize::from(*machine)].disk.clone();
                if disk.node.is_some() && self.plan.config.disks {
                    self.sight.probe("a disk image runs twice");
                    let on = &mut self.machines[usize::from(place)];
                    (on.disk, on.whole) = (disk, false);
                    self.start(place);
                }
            }
            (FaultKind::Clone { .. }, Step::End) => {
                let clones = self.plan.faults[..index]
                    .iter()
                    .filter(|fault| matches!(fault.kind, FaultKind::Clone { .. }))
                    .count();
                self.kill(self.plan.config.nodes + clones as u16);
            }
            (FaultKind::Rolling { each_ms }, Step::Begin | Step::Turn(_)) => {
                let nth = if let Step::Turn(nth) = step { nth } else { 0 };
                if nth < self.plan.config.nodes {
                    self.kill(nth);
                    self.push(self.at + ROLLING_DOWN, Event::Fault { index, step: Step::Restart(nth) });
                    self.push(self.at + each_ms * MS, Event::Fault { index, step: Step::Turn(nth + 1) });
                }
            }
            (FaultKind::Zone { zone }, Step::Begin | Step::End) => {
                for machine in (0..self.plan.config.nodes).filter(|machine| machine % self.plan.config.zones == *zone) {
                    if begins { self.kill(machine) } else { self.revive(machine) }
                }
            }
            (FaultKind::ClockJump { machine, ms }, Step::Begin) => self.machines[usize::from(*machine)].clock.jump(*ms),
            (FaultKind::ClockFreeze { machine }, Step::Begin) => {
                self.machines[usize::from(*machine)].clock.freeze(self.at)
            }
            (FaultKind::ClockFreeze { machine }, Step::End) => self.machines[usize::from(*machine)].clock.thaw(),
            (FaultKind::DiskStall { machine }, Step::Begin) => self.machines[usize::from(*machine)].stalled += 1,
            (FaultKind::DiskStall { machine }, Step::End) => {
                let stalled = &mut self.machines[usize::from(*machine)].stalled;
                *stalled = stalled.saturating_sub(1);
            }
            (FaultKind::PowerLoss { machine } | FaultKind::Damage { machine }, Step::End) => self.revive(*machine),
            (FaultKind::PowerLoss { machine }, Step::Begin) => {
                self.kill(*machine);
                self.lose_power(*machine, index);
            }
            (FaultKind::Damage { machine }, Step::Begin) => {
                self.kill(*machine);
                self.damage(*machine, index);
            }
            (FaultKind::PowerCut | FaultKind::CrashAll, Step::Begin) => {
                for machine in 0..self.plan.config.nodes {
                    self.kill(machine);
                    if matches!(fault.kind, FaultKind::PowerCut) {
                        self.lose_power(machine, index);
                    }
                }
            }
            (FaultKind::PowerCut | FaultKind::CrashAll, Step::End) => {
                for machine in 0..self.plan.config.nodes {
                    self.revive(machine);
                }
            }
            (FaultKind::DiskFull { machine }, Step::Begin) => self.machines[usize::from(*machine)].full += 1,
            (FaultKind::DiskFull { machine }, Step::End) => {
                let full = &mut self.machines[usize::from(*machine)].full;
                *full = full.saturating_sub(1);
            }
            (FaultKind::Weight { machine, weight }, Step::Begin) => {
                if let Some(node) = self.machines[usize::from(*machine)].disk.node {
                    self.command(LayoutChange::Weight(node, *weight));
                }
            }
            (FaultKind::Leave { machine }, Step::Begin) => {
                if let Some(node) = self.machines[usize::from(*machine)].disk.node {
                    self.command(LayoutChange::Leave(node));
                }
            }
            (FaultKind::Remove { machine }, Step::Begin) => {
                let node = self.machines[usize::from(*machine)].disk.node;
                self.kill(*machine);
                self.wipe(*machine);
                if let Some(node) = node {
                    self.command(LayoutChange::Remove(node));
                }
            }
            (FaultKind::Remove { machine }, Step::End) => self.revive(*machine),
            (FaultKind::Flush { space }, Step::Begin) => {
                self.empty(*space, ClientControl::NamespaceFlush, "an administrator flushed a namespace");
            }
            (FaultKind::Delete { space }, Step::Begin) => {
                self.empty(*space, ClientControl::NamespaceDelete, "an administrator deleted a namespace");
            }
            (FaultKind::Delete { space }, Step::End) => self.create_again(*space),
            (FaultKind::Vanish { client }, Step::Begin) => self.vanish(*client),
            // Nothing else ends or turns: what is done is done.
            (_, Step::End | Step::Turn(_)) => {}
        }
    }

    fn command(&mut self, change: LayoutChange) {
        let changed = |reply: &ControlReply| *reply == ControlReply::Changed(true);
        if self.administer(&ClientControl::Change(change), changed).is_some() {
            self.sight.probe("an administrator changed a role");
        }
    }

    /// An administrator empties a namespace by `request`.
    fn empty(&mut self, space: u8, request: fn(String) -> ClientControl, done: &'static str) {
        let ns = self.plan.config.spaces[usize::from(space)].name.clone();
        let emptied = |reply: &ControlReply| matches!(reply, ControlReply::Emptied(_));
        if let Some(ControlReply::Emptied(mark)) = self.administer(&request(ns.clone()), emptied) {
            self.sight.probe(done);
            self.recorded.push(Recorded::Flush { t: self.at / 1_000, ns, mark });
        }
    }

    /// An administrator makes a deleted namespace again, as it was; one that is there stays as it is.
    fn create_again(&mut self, space: u8) {
        let namespace = self.namespace(usize::from(space));
        let ns = namespace.name.clone();
        let request = ClientControl::NamespaceCreate(Box::new(namespace));
        let created = |reply: &ControlReply| matches!(reply, ControlReply::Created(_));
        if self.administer(&request, created) == Some(ControlReply::Created(true)) {
            self.sight.probe("a deleted namespace was made again");
            self.recorded.push(Recorded::Created { t: self.at / 1_000, ns });
        }
    }

    /// An administrator asks the first node that will do it; what that one answered, if one did.
    fn administer(&mut self, request: &ClientControl, done: impl Fn(&ControlReply) -> bool) -> Option<ControlReply> {
        let live: Vec<u32> = self.machines.iter().filter_map(|machine| machine.process).collect();
        for process in live {
            let caller = Caller { link: u64::MAX, id: 0 };
            let running = &self.processes[process as usize];
            if !running.alive || running.stopping || running.paused_until > self.at {
                continue;
            }
            self.node_input(process, NodeInput::Client { caller, admin: true, request: request.clone() });
            if let Some(reply) = self.replies.pop().filter(&done) {
                return Some(reply);
            }
        }
        None
    }

    /// The process on a machine dies between two events.
    pub(crate) fn kill(&mut self, machine: u16) {
        let Some(process) = self.machines[usize::from(machine)].process.take() else { return };
        self.record_fault(format!("death of p{process} on machine {machine}"));
        let dying = &mut self.processes[process as usize];
        dying.alive = false;
        for shard in &dying.shards {
            self.totals.add(&shard.stats());
        }
        dying.shards = Vec::new();
        self.sight.on_death(process);
        if let Some(timeline) = &mut self.timeline {
            timeline.death(self.at, machine);
        }
        let links: Vec<u32> = self.network.of_machine(machine);
        for link in links {
            for end in 0..2 {
                if self.network.links[link as usize].ends[end].process == process {
                    let answers =
                        draw(self.plan.seed, Purpose::Process, &[u64::from(process), u64::from(link)]) & 1 == 0;
                    self.abandon(link, end, answers);
                }
            }
        }
    }

    fn revive(&mut self, machine: u16) {
        if self.machines[usize::from(machine)].process.is_none() {
            self.start(machine);
        }
    }

    fn wipe(&mut self, machine: u16) {
        let on = &mut self.machines[usize::from(machine)];
        (on.disk, on.whole) = (crate::disk::Disk::default(), false);
        self.record_fault(format!("disk of machine {machine} is lost"));
    }

    /// Everything in the core is whole again; everybody else is dead for good.
    pub(crate) fn heal(&mut self) {
        self.record_fault("heal the core, freeze the rest".to_owned());
        self.faults_over = true;
        let core = self.plan.config.core.clone();
        for machine in 0..self.machines.len() as u16 {
            if !core.contains(&machine) {
                self.kill(machine);
            }
        }
        self.network.mend();
        for a in 0..self.machines.len() as u16 {
            for b in 0..self.machines.len() as u16 {
                self.release(a, b);
            }
        }
        for machine in core {
            let on = &mut self.machines[usize::from(machine)];
            on.repair();
            let (process, at) = (on.process, self.at);
            match process {
                Some(process) if self.processes[process as usize].stopping => {
                    // It said that it must stop; whoever runs it starts it anew.
                    self.kill(machine);
                    self.wipe(machine);
                    self.revive(machine);
                }
                Some(process) => {
                    let paused = &mut self.processes[process as usize].paused_until;
                    *paused = (*paused).min(at);
                    self.resume(process);
                }
                None => self.revive(machine),
            }
        }
    }
}
