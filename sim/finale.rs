//! After the healing: who was given up comes back, every promise of service is claimed, a burst is survived (SIMULATION §2
//! "Phases").
//!
//! Half of the seeds that gave machines up thaw them: they return with the disk they had, where resurrection hides, and
//! everything is judged once more. Then writes are asked of every machine that must be served (L8), where that can be known:
//! no clock is off, nothing damages messages, and enough owners whose votes count, or stand-ins for the dead, live. Half of
//! the seeds end with a burst, and modest load before it and ten seconds after it (L7).

use crate::{
    checkers::writable::{SETTLED, WITHOUT_MEMORY},
    clients::ATTEMPTS,
    clock::{MS, Time},
    cluster::{Cluster, Event},
    keyed::{Purpose, draw},
    nemesis::Ledger,
    options::Space,
    plan::Mix,
    workload::{Act, Op},
};
use meshwork_core::{id::NamespaceId, wire::peer::ReplicaState};

/// Keys of a namespace that are written to show that they can be.
const KEYS: u32 = 6;
/// Keys of the phases after the chaos begin here: nothing was ever written to them.
const FRESH: u32 = 1_000_000;
/// Requests of a modest second, and of a burst.
const MODEST: u64 = 60;
const BURST: u64 = 900;
/// A burst is over so soon.
const BURST_LASTS: Time = 300 * MS;
/// How long a mesh has to recover from one.
const RECOVERY: Time = 10_000 * MS;

impl Cluster<'_> {
    /// Machines given up at the end of the chaos start again, in half of the seeds that have any; true: they did.
    pub(crate) fn thaw(&mut self) -> bool {
        let config = &self.plan.config;
        let lost: Vec<u16> = (0..config.nodes).filter(|machine| !config.core.contains(machine)).collect();
        if lost.is_empty() || draw(self.plan.seed, Purpose::Phase, &[1 << 32]) & 1 == 0 {
            return false;
        }
        self.phase("thaw");
        self.sight.probe("machines that were given up return");
        for machine in lost {
            self.machines[usize::from(machine)].repair();
            self.start(machine);
        }
        true
    }

    /// The first number that no operation has.
    pub(crate) fn next_number(&self) -> u64 {
        self.clients.extra.keys().next_back().map_or(self.plan.ops.len() as u64 + 1, |last| last + 1)
    }

    /// Whether what nodes promise about service can be judged in this plan at all.
    fn serves_for_sure(&self) -> bool {
        let ledger = Ledger::of(&self.plan.config, &self.plan.faults);
        let stops = |machine: &crate::cluster::Machine| {
            machine.process.is_some_and(|process| self.processes[process as usize].stopping)
        };
        // A message that takes a hundred times its time is no other than one to a dead node, for whoever waits.
        let network = &self.plan.config.network;
        let honest = network.damage_ppm == 0 && network.hump_ppm == 0;
        ledger.clocks && ledger.identities && honest && !self.machines.iter().any(stops)
    }

    /// Whether a write asked of `machine` must be served, whatever else is dead.
    fn must(&self, machine: u16, space: &Space, key: &str, strict: bool) -> bool {
        let Some(process) = self.machines[usize::from(machine)].process else { return false };
        let view = &self.processes[process as usize].view;
        let Some(ring) = view.ring.as_ref().filter(|_| view.agreed && view.fence.is_none()) else { return false };
        let hash = self.hasher.hash(NamespaceId::of(&space.name), key.as_bytes());
        let partition = hash.partition(ring.partitions());
        // The state of a member's copy; `None`: it is dead, or takes no part.
        let state = |index: &u16| {
            let node = ring.node(*index);
            let mut running = self
                .machines
                .iter()
                .filter_map(|machine| machine.process)
                .map(|process| &self.processes[process as usize]);
            let found = running.find(|running| running.node_id == node && running.view.fence.is_none());
            found
                .filter(|found| found.view.ring.as_ref().is_some_and(|own| own.name() == ring.name()))
                .map(|found| found.copy_state((space.n, partition)))
        };
        let owners = ring.owners(partition);
        let mine = &owners[..owners.len().min(usize::from(space.n))];
        let need = usize::from(space.w).min(mine.len());
        let votes = |index: &&u16| match state(index) {
            Some(ReplicaState::Ready) => true,
            Some(ReplicaState::Settled) => !strict,
            Some(ReplicaState::Warming | ReplicaState::Fallback) | None => false,
        };
        let voting = mine.iter().filter(votes).count();
        if strict {
            // In the other of two layouts as many must take it, whatever their votes are worth.
            let (_, beside) = view.owners(partition, space.n);
            let takers = beside.iter().filter(|index| state(index).is_some()).count();
            return voting >= need && takers >= usize::from(space.w).min(beside.len());
        }
        let dead = mine.iter().filter(|owner| state(owner).is_none()).count();
        let spare = (0..ring.members().len() as u16).filter(|member| !mine.contains(member) && state(member).is_some());
        voting + dead.min(spare.count()) >= need
    }

    /// Writes fresh keys through every machine of the core, strict and sloppy.
    pub(crate) fn write_everywhere(&mut self) {
        if !self.serves_for_sure() {
            return;
        }
        self.phase(SETTLED);
        let plan = self.plan;
        let (mut number, mut at, mut key) = (self.next_number(), self.at, FRESH);
        for (space, rules) in plan.config.spaces.iter().enumerate() {
            for nth in 0..KEYS {
                let machine = plan.config.core[nth as usize % plan.config.core.len()];
                for strict in [true, false] {
                    key += 1;
                    if self.must(machine, rules, &format!("k{key}"), strict) {
                        self.clients.must.insert(number);
                    }
                    let mut op = request(space as u8, key, machine, Act::Put { size: 16, ttl_ms: 0 });
                    op.strict = Some(strict);
                    self.clients.extra.insert(number, op);
                    self.push(at, Event::Ask { op: number * ATTEMPTS });
                    (number, at) = (number + 1, at + 3 * MS);
                }
            }
        }
        self.run_until(at + 6_000 * MS);
        if self.sight.probes.contains_key(WITHOUT_MEMORY) {
            self.record_fault(WITHOUT_MEMORY.to_owned());
        }
    }

    /// A burst, with modest load before and after it.
    pub(crate) fn burst(&mut self) {
        let plan = self.plan;
        let chosen = plan.config.mix == Some(Mix::F14) || draw(plan.seed, Purpose::Phase, &[2 << 32]) & 1 == 0;
        let space = plan.config.spaces.iter().position(|space| space.eviction);
        let Some(space) = space.filter(|_| chosen && self.serves_for_sure()) else {
            return;
        };
        let key = FRESH * 2;
        self.phase("calm");
        self.load(space as u8, key, MODEST, 1_000 * MS, 16);
        self.run_until(self.at + 6_000 * MS);
        self.phase("overload");
        self.sight.probe("a burst at the end");
        self.load(space as u8, key + 100, BURST, BURST_LASTS, (plan.config.memory / 512).min(20_000) as u32);
        self.run_until(self.at + BURST_LASTS + RECOVERY);
        self.phase("recovered");
        self.load(space as u8, key, MODEST, 1_000 * MS, 16);
        self.run_until(self.at + 6_000 * MS);
    }

    /// `count` requests within `lasts`, each second one a read.
    fn load(&mut self, space: u8, key: u32, count: u64, lasts: Time, size: u32) {
        let core = &self.plan.config.core;
        for (number, nth) in (self.next_number()..).zip(0..count) {
            let act = if nth % 2 == 0 { Act::Put { size, ttl_ms: 0 } } else { Act::Get };
            let machine = core[(nth / 2) as usize % core.len()];
            let op = request(space, key + (nth % 20) as u32, machine, act);
            self.clients.extra.insert(number, op);
            self.push(self.at + lasts * nth / count, Event::Ask { op: number * ATTEMPTS });
        }
    }
}

/// A patient request of one machine, as the namespace has it.
fn request(space: u8, key: u32, machine: u16, act: Act) -> Op {
    Op {
        at_ms: 0,
        client: 0,
        space,
        key,
        act,
        strict: None,
        r: None,
        w: None,
        deadline_ms: 5_000,
        target: u64::from(machine),
        smart: false,
        retries: 0,
    }
}
