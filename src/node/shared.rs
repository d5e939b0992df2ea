//! What the threads of one node, its handle and its HTTP thread share: snapshots, mailboxes, and the shards themselves.
//!
//! A life runs `Running → Stopping → Ended` and never back; the first reason to stop is the one that is told.

use crate::{
    handle::{Addresses, Stopped},
    letter::Letter,
    lock::ShardLock,
    mailbox::Mailbox,
    storage::Store,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use meshwork_core::{
    id::ClusterId,
    stats::ShardStats,
    time::Mono,
    wire::{
        control::NodeStatus,
        hello::{NodeHello, Routing},
    },
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::watch;

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Admits nothing new.
    Stopping(Stopped),
    /// All threads have ended.
    Ended(Stopped),
}

/// What one shard's thread shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    stats: Mutex<ShardStats>,
    /// `Mono` of its last tick.
    ticked: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: ClusterId,
    pub(crate) cluster_name: String,
    pub(crate) hello: NodeHello,
    pub(crate) addresses: Addresses,
    pub(crate) clocks: crate::clock::Clocks,
    /// One a shard; callers in this process may read from it.
    pub(crate) shards: Vec<ShardLock>,
    /// One a shard.
    pub(crate) mailboxes: Vec<Mailbox<Letter>>,
    pub(crate) routing: ArcSwapOption<Routing>,
    pub(crate) certificate_expires: AtomicU64,
    /// Bytes the kernel granted a socket.
    pub(crate) udp_receive_buffer: AtomicU64,
    /// The disk; `None`: this node has none.
    pub(crate) store: Option<Arc<Store>>,
    pulses: Vec<Pulse>,
    status: ArcSwap<NodeStatus>,
    ready: watch::Sender<bool>,
    phase: watch::Sender<Phase>,
    /// The stop has begun: nothing new is admitted.
    closed: AtomicBool,
    panicked: AtomicBool,
    /// Shards that have nothing in flight any more, while stopping.
    drained: AtomicUsize,
    /// Threads that have not ended.
    threads: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(
        cluster: ClusterId,
        cluster_name: String,
        hello: NodeHello,
        addresses: Addresses,
        clocks: crate::clock::Clocks,
        status: NodeStatus,
        store: Option<Arc<Store>>,
    ) -> Self {
        let shards = usize::from(addresses.shards);
        Self {
            cluster,
            cluster_name,
            hello,
            addresses,
            clocks,
            shards: (0..shards).map(|_| ShardLock::default()).collect(),
            mailboxes: (0..shards).map(|_| Mailbox::new(crate::mailbox::MAILBOX_BYTES_MAX)).collect(),
            routing: ArcSwapOption::empty(),
            certificate_expires: AtomicU64::new(0),
            udp_receive_buffer: AtomicU64::new(0),
            store,
            pulses: (0..shards).map(|_| Pulse::default()).collect(),
            status: ArcSwap::from_pointee(status),
            ready: watch::Sender::new(false),
            phase: watch::Sender::new(Phase::Running),
            closed: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            threads: AtomicUsize::new(shards),
        }
    }

    /// A letter to a shard's thread that is always taken; lost when the thread has ended, as all is then.
    pub(crate) fn tell(&self, shard: u16, letter: Letter) {
        let _ = self.mailboxes[usize::from(shard)].send(letter);
    }

    pub(crate) fn set_status(&self, status: NodeStatus) {
        self.ready.send_if_modified(|ready| {
            let changed = *ready != status.ready;
            *ready = status.ready;
            changed
        });
        self.status.store(Arc::new(status));
    }

    pub(crate) fn status(&self) -> Arc<NodeStatus> {
        self.status.load_full()
    }

    /// A shard's thread is alive and has these figures.
    pub(crate) fn tick(&self, shard: u16, now: Mono, stats: ShardStats) {
        let pulse = &self.pulses[usize::from(shard)];
        *pulse.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        pulse.ticked.store(now.0, Ordering::Relaxed);
    }

    /// When each shard last ticked, and its figures.
    pub(crate) fn pulses(&self) -> impl Iterator<Item = (Mono, ShardStats)> {
        self.pulses.iter().map(|pulse| {
            let stats = *pulse.stats.lock().unwrap_or_else(PoisonError::into_inner);
            (Mono(pulse.ticked.load(Ordering::Relaxed)), stats)
        })
    }

    pub(crate) fn stats(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        self.pulses().for_each(|(_, stats)| sum.add(&stats));
        sum
    }

    /// Begins the stop, for the first reason given.
    pub(crate) fn stop(&self, why: Stopped) {
        self.closed.store(true, Ordering::Release);
        let begun = self.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            if running {
                *phase = Phase::Stopping(why);
            }
            running
        });
        if begun {
            for shard in 0..self.addresses.shards {
                self.tell(shard, Letter::Stop);
            }
        }
    }

    /// Whether the stop has begun.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A thread of the node is broken: the others should not wait for it.
    pub(crate) fn panicked(&self) {
        self.panicked.store(true, Ordering::Release);
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Acquire)
    }

    /// A stopping shard has nothing in flight any more.
    pub(crate) fn drained(&self) {
        self.drained.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn all_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire) >= usize::from(self.addresses.shards)
    }

    /// One more thread runs.
    pub(crate) fn thread_begins(&self) {
        self.threads.fetch_add(1, Ordering::AcqRel);
    }

    /// A thread has ended; the last one ends the node.
    pub(crate) fn thread_ended(&self) {
        if self.threads.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end();
        }
    }

    fn end(&self) {
        self.phase.send_modify(|phase| {
            *phase = match phase.clone() {
                Phase::Running => Phase::Ended(Stopped::Requested),
                Phase::Stopping(why) | Phase::Ended(why) => Phase::Ended(why),
            };
        });
    }

    /// Why the node is stopping or has ended.
    pub(crate) fn stopping(&self) -> Option<Stopped> {
        match &*self.phase.borrow() {
            Phase::Running => None,
            Phase::Stopping(why) | Phase::Ended(why) => Some(why.clone()),
        }
    }

    /// Waits until the stop has begun.
    pub(crate) async fn stop_begun(&self) -> Stopped {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
        self.stopping().unwrap_or(Stopped::Requested)
    }

    /// Waits until all threads have ended.
    pub(crate) async fn ended(&self) -> Stopped {
        let mut phase = self.phase.subscribe();
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        self.stopping().unwrap_or(Stopped::Requested)
    }

    /// Waits until clients are served.
    pub(crate) async fn ready(&self) -> Result<(), Stopped> {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            biased;
            why = self.stop_begun() => Err(why),
            _ = ready.wait_for(|ready| *ready) => Ok(()),
        }
    }

    /// Whether clients are served now.
    pub(crate) fn is_ready(&self) -> bool {
        self.stopping().is_none() && *self.ready.borrow()
    }
}
