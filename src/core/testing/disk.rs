//! Disks of the rig and of the simulator: an ordered map behind a log of writes (SIMULATION §2 "Disks").
//!
//! A write that reached the log survives a crash of the process. A loss of power keeps what was synced, and of the rest a
//! part from the front: what is there is always a prefix of the writes, in their order. Writes that were given and have not
//! reached the log yet are the driver's; in a rig they reach it after a millisecond, or when the test says so.

use super::rig::Rig;
use crate::{input::ShardInput, outbox::StoreWrite, time::Mono, wire::peer::ReplicaState};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// How long a write of a rig takes to reach the log.
const LATENCY: Duration = Duration::from_millis(1);

/// Keys and values.
pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A change: the key, and what is there then.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A log of writes to a map.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    synced: Content,
    unsynced: VecDeque<Change>,
}

fn apply(content: &mut Content, (key, value): Change) {
    match value {
        Some(value) => content.insert(key, value),
        None => content.remove(&key),
    };
}

impl Disk {
    /// A disk that holds this, synced.
    pub fn of(content: Content) -> Self {
        Self { synced: content, unsynced: VecDeque::new() }
    }

    /// A write reaches the log; with `sync` it and all before it are safe.
    pub fn write(&mut self, change: Change, sync: bool) {
        self.unsynced.push_back(change);
        if sync {
            self.lose_power(usize::MAX);
        }
    }

    /// How many writes a loss of power may take.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Power is lost: the first `kept` of the writes that are not synced stay.
    pub fn lose_power(&mut self, kept: usize) {
        self.unsynced.truncate(kept);
        for change in std::mem::take(&mut self.unsynced) {
            apply(&mut self.synced, change);
        }
    }

    /// What a process finds here.
    pub fn content(&self) -> Content {
        let mut content = self.synced.clone();
        for change in &self.unsynced {
            apply(&mut content, change.clone());
        }
        content
    }
}

/// What becomes of writes that a node of a rig gives to its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskMode {
    /// They reach the log after a millisecond.
    #[default]
    Good,
    /// They wait.
    Stalled,
    /// They are not kept.
    Full,
}

/// A write that was given.
struct Given {
    ticket: u64,
    sync: bool,
    change: Change,
}

/// A node's disk, and what is on its way there.
#[derive(Default)]
pub(super) struct NodeDisk {
    pub(super) disk: Disk,
    mode: DiskMode,
    given: VecDeque<Given>,
    /// When the driver looks at what was given.
    due: Option<Mono>,
}

impl NodeDisk {
    pub(super) fn give(&mut self, now: Mono, write: &StoreWrite<'_>) {
        let change = (write.key.to_vec(), write.value.map(<[u8]>::to_vec));
        self.given.push_back(Given { ticket: write.ticket, sync: write.sync, change });
        if self.mode != DiskMode::Stalled {
            self.due.get_or_insert(now + LATENCY);
        }
    }

    /// The process is gone: what did not reach the log is lost.
    pub(super) fn crash(&mut self) {
        self.given.clear();
        self.due = None;
    }

    pub(super) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// What the driver tells the shard.
    fn run(&mut self) -> Option<ShardInput<'static>> {
        self.due = None;
        let (first, last) = (self.given.front()?.ticket, self.given.back()?.ticket);
        match self.mode {
            DiskMode::Stalled => None,
            DiskMode::Full => {
                self.given.clear();
                Some(ShardInput::StoreFailed { from: first })
            }
            DiskMode::Good => {
                for given in std::mem::take(&mut self.given) {
                    self.disk.write(given.change, given.sync);
                }
                Some(ShardInput::Stored { through: last })
            }
        }
    }
}

impl Rig {
    /// What becomes of what `node` gives to its disk from now on, and of what waits.
    pub fn set_disk(&mut self, node: usize, mode: DiskMode) {
        let now = self.now();
        let disk = &mut self.disks[node];
        disk.mode = mode;
        disk.due = (mode != DiskMode::Stalled && !disk.given.is_empty()).then_some(now);
    }

    /// The disk of `node`, to lose power or to be damaged.
    pub fn disk(&mut self, node: usize) -> &mut Disk {
        &mut self.disks[node].disk
    }

    pub(super) fn run_disk(&mut self, node: usize) {
        let Some(told) = self.disks[node].run() else { return };
        let words = format!("{told:?}");
        self.input(node, words.as_bytes(), |shard, now, out| shard.handle(now, told, out));
    }

    /// Nodes that start from now on have this much memory, bytes.
    pub fn set_memory(&mut self, memory: u64) {
        self.config.memory = memory;
    }

    /// A killed node starts again with what its disk holds; how many records could not be used.
    pub fn restart_from_disk(&mut self, node: usize) -> usize {
        let disk = &mut self.disks[node];
        (disk.given, disk.due, disk.mode) = (VecDeque::new(), None, DiskMode::Good);
        self.restored[node] = Some(disk.disk.content());
        self.restart(node, ReplicaState::Warming);
        usize::try_from(self.stats(node).restore_errors).expect("few")
    }
}
