//! Disks: what survives a process on its machine, and what becomes of what shards store (SIMULATION §2 "Disks").
//!
//! A shard's writes reach its log in the order given, each some time after it was given; a disk that stalls lets them wait, a full one keeps
//! none and says so. What is in the log survives a crash of the process; a loss of power keeps what was synced and a drawn
//! part, from the front, of the rest. Damage cuts one record short, within its header: one that is whole but wrong the driver
//! drops by its checksum; this one core is handed, and must skip. Each draw is keyed, so that a fault left out moves no other.

use crate::{
    clock::MS,
    cluster::{Cluster, Event},
    keyed::{Purpose, below, draw},
    network::Site,
    process::Process,
};
use meshwork_core::{
    durable::stored_shard,
    id::NodeId,
    input::{NodeInput, ShardInput},
    outbox::StoreWrite,
    time::Now,
    value::Hlc,
};
use std::collections::{BTreeMap, VecDeque};

/// Keys and values.
type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A change that a shard gave.
#[derive(Clone, Debug)]
pub struct Write {
    ticket: u64,
    sync: bool,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl From<&StoreWrite<'_>> for Write {
    fn from(write: &StoreWrite<'_>) -> Self {
        let (key, value) = (write.key.to_vec(), write.value.map(<[u8]>::to_vec));
        Self { ticket: write.ticket, sync: write.sync, key, value }
    }
}

/// A log of writes to a map.
#[derive(Clone, Debug, Default)]
pub struct Log {
    synced: Content,
    unsynced: VecDeque<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Log {
    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, sync: bool) {
        self.unsynced.push_back((key, value));
        if sync {
            self.keep(usize::MAX);
        }
    }

    /// The first `kept` of the writes that are not synced stay; the others are lost.
    fn keep(&mut self, kept: usize) {
        for (key, value) in std::mem::take(&mut self.unsynced).into_iter().take(kept) {
            match value {
                Some(value) => self.synced.insert(key, value),
                None => self.synced.remove(&key),
            };
        }
    }

    /// What a process finds here, once what is in the log is in the map.
    fn content(&mut self) -> &mut Content {
        self.keep(usize::MAX);
        &mut self.synced
    }
}

/// What survives a process on its machine.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The identity, once drawn.
    pub node: Option<NodeId>,
    /// The clock bound.
    pub bound: Hlc,
    /// What the control plane stored last.
    pub meta: Option<Vec<u8>>,
    /// What shards stored, by shard.
    pub logs: Vec<Log>,
    /// What the running process gave and the logs do not have yet, by shard.
    given: Vec<VecDeque<Write>>,
}

impl Disk {
    /// Gives the records to a process that starts, whichever shard they belong to now; how many it skipped.
    pub fn restore(&mut self, process: &mut Process, partitions: u16, now: Now) -> usize {
        let shards = process.shards.len();
        self.given = vec![VecDeque::new(); shards];
        self.logs.resize_with(shards, Log::default);
        let mut skipped = 0;
        // What a process that died had in its log may still be lost with the power: reading it syncs nothing.
        for (key, value) in self.logs.iter().flat_map(|log| log.clone().content().clone()) {
            let shard = stored_shard(&key, shards as u16, partitions).map(usize::from);
            let kept = shard.is_some_and(|shard| process.shards[shard].restore(now, &key, &value).is_ok());
            skipped += usize::from(!kept);
        }
        skipped
    }
}

impl Cluster<'_> {
    /// A clock bound is given to the disk.
    pub(crate) fn store(&mut self, process: u32, bound: Hlc) {
        let machine = self.processes[process as usize].machine;
        if !self.plan.config.disks {
            return self.push(self.at, Event::Stored { process, machine, bound });
        }
        if self.machines[usize::from(machine)].stalled > 0 {
            self.sight.probe("clock bound lost to a stalled disk");
            return;
        }
        let latency = 50_000 + below(draw(self.plan.seed, Purpose::Disk, &[u64::from(machine), bound.0]), 20 * MS);
        self.push(self.at + latency, Event::Stored { process, machine, bound });
    }

    /// A shard gives a change to its disk.
    pub(crate) fn write(&mut self, site: Site, write: Write) {
        let machine = self.processes[site.process as usize].machine;
        let key = [u64::from(machine), u64::from(site.shard), write.ticket];
        let latency = 20_000 + below(draw(self.plan.seed, Purpose::Durable, &key), 5 * MS);
        let disk = &mut self.machines[usize::from(machine)].disk;
        disk.given[usize::from(site.shard)].push_back(write);
        self.push(self.at + latency, Event::Written { site });
    }

    /// The disk gets to what a shard gave first: all of it that has been given by now.
    pub(crate) fn on_written(&mut self, site: Site) {
        let machine = self.processes[site.process as usize].machine;
        let on = &mut self.machines[usize::from(machine)];
        let shard = usize::from(site.shard);
        if on.process != Some(site.process) || on.disk.given[shard].is_empty() {
            return;
        }
        if on.stalled > 0 {
            return self.push(self.at + 100 * MS, Event::Written { site });
        }
        let Some(first) = on.disk.given[shard].pop_front() else { return };
        let ticket = first.ticket;
        let told = if on.full > 0 {
            on.disk.given[shard].clear();
            self.sight.probe("a full disk refused a write");
            ShardInput::StoreFailed { from: ticket }
        } else {
            on.disk.logs[shard].write(first.key, first.value, first.sync);
            ShardInput::Stored { through: ticket }
        };
        self.trace.add(ticket);
        self.trace.event(|| format!("{site:?} {told:?}"));
        self.shard_call(site, &crate::checkers::sight::Given::Other, |shard, now, out| shard.handle(now, told, out));
    }

    /// The control plane gives its state to the disk.
    pub(crate) fn store_meta(&mut self, process: u32, number: u64, bytes: Vec<u8>) {
        let machine = self.processes[process as usize].machine;
        if self.machines[usize::from(machine)].stalled > 0 {
            self.sight.probe("the state of a node lost to a stalled disk");
            return;
        }
        let key = [u64::from(machine), u64::from(process), u64::MAX, number];
        let latency = 50_000 + below(draw(self.plan.seed, Purpose::Durable, &key), 20 * MS);
        self.push(self.at + latency, Event::MetaStored { process, number, bytes });
    }

    pub(crate) fn on_meta_stored(&mut self, process: u32, number: u64, bytes: Vec<u8>) {
        let on = &mut self.machines[usize::from(self.processes[process as usize].machine)];
        if on.process == Some(process) {
            self.trace.add(number);
            self.trace.event(|| format!("p{process} stored its state, {} bytes", bytes.len()));
            on.disk.meta = Some(bytes);
            self.node_input(process, NodeInput::MetaStored(number));
        }
    }

    /// A machine loses its power; nothing runs on it.
    pub(crate) fn lose_power(&mut self, machine: u16, fault: usize) {
        let seed = self.plan.seed;
        let mut lost = 0;
        for (shard, log) in self.machines[usize::from(machine)].disk.logs.iter_mut().enumerate() {
            let key = [u64::MAX, u64::from(machine), shard as u64, fault as u64];
            let unsynced = log.unsynced.len();
            let kept = below(draw(seed, Purpose::Durable, &key), unsynced as u64 + 1) as usize;
            lost += unsynced - kept;
            log.keep(kept);
        }
        if lost > 0 {
            self.sight.probe("writes that were not synced were lost");
        }
        self.record_fault(format!("power of machine {machine} is lost"));
    }

    /// One record of a machine's disk is damaged; nothing runs on it.
    pub(crate) fn damage(&mut self, machine: u16, fault: usize) {
        let seed = self.plan.seed;
        for (shard, log) in self.machines[usize::from(machine)].disk.logs.iter_mut().enumerate() {
            let content = log.content();
            let key = [u64::MAX - 1, u64::from(machine), shard as u64, fault as u64];
            let at = below(draw(seed, Purpose::Durable, &key), content.len() as u64) as usize;
            if let Some(value) = content.values_mut().nth(at) {
                value.truncate(value.len().min(12));
            }
        }
        self.record_fault(format!("disk of machine {machine} is lost"));
    }
}
