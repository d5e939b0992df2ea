//! The thread that writes: one batch of the log for all that waits (group commit), and a word to each shard after it.
//!
//! A disk that fails, or is nearly full, makes writes fail and nothing else: the shards are told, namespaces in memory
//! go on, and the store is opened anew, with growing pauses, until it can be. It stops *before* the disk is full: fjall
//! after an I/O error must be opened anew, and merging tables needs room to make room. A store that came back with less
//! than this process wrote is left alone: only a new start reads what lies there, and decides.

use super::{
    Store,
    disk::{Figures, add, set},
    log::{self, Log, LogError},
    queue::{self, Handover},
    recovery::Recovery,
};
use crate::{config::bytes_for_people, letter::Letter, shared::Shared};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Most bytes in one batch.
const BATCH_BYTES: usize = 4 << 20;
/// How often the clock, the room and the health of the store are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the size on disk is asked for, which walks over the tables.
const SIZE_EVERY: Duration = Duration::from_secs(2);
/// First and longest pause before the store is opened anew.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// A store that went well for so long after a failure begins with the first pause again.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// With less room than this on the disk nothing is written: two journals' ends, a few buffers and a merge need so much.
const FREE_BYTES_MIN: u64 = 8 * log::BUFFER_BYTES;
/// With so much it goes on.
const FREE_BYTES_AGAIN: u64 = FREE_BYTES_MIN + log::BUFFER_BYTES;

/// What keeps the store from being written.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Well,
    /// It is open, and too little room is left.
    Low,
    /// It is closed; to be opened anew then, or never by this process.
    Broken {
        again: Option<Instant>,
    },
}

/// See the module.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    recovery: Recovery,
    state: State,
    /// Of the last batch that was committed.
    number: u64,
    pause: Duration,
    failed: Option<Instant>,
    looked: Instant,
    synced: Instant,
    sized: Option<Instant>,
}

impl Writer {
    /// Starts the thread; it counts as one of the node's.
    pub(crate) fn spawn(shared: &Arc<Shared>, store: &Arc<Store>, recovery: Recovery) -> std::io::Result<()> {
        let now = Instant::now();
        let mut writer = Self {
            shared: shared.clone(),
            store: store.clone(),
            number: recovery.log.as_ref().map_or(0, Log::number),
            state: if recovery.log.is_some() { State::Well } else { State::Broken { again: Some(now + PAUSE.0) } },
            recovery,
            pause: PAUSE.0,
            failed: None,
            looked: now,
            synced: now,
            sized: None,
        };
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        shared.thread_begins();
        let spawned = thread::Builder::new().name("meshwork-store".to_owned()).spawn(move || {
            let _subscriber = tracing::dispatcher::set_default(&subscriber);
            let _end = End(writer.shared.clone());
            writer.run();
        });
        if spawned.is_err() {
            shared.thread_ended();
        }
        spawned.map(drop)
    }

    fn run(&mut self) {
        self.look();
        loop {
            let (taken, over) = self.store.queue.take(BATCH_BYTES, LOOK_EVERY);
            if !taken.is_empty() {
                self.keep(taken);
            }
            if self.looked.elapsed() >= LOOK_EVERY {
                self.look();
            }
            if over {
                break;
            }
        }
        if let Some(mut log) = self.recovery.log.take() {
            if let Err(error) = log.sync() {
                tracing::warn!(%error, "the store could not be synced at the end");
            }
            log::close(log);
        }
    }

    /// Keeps what was taken, or says that it was not.
    fn keep(&mut self, taken: Vec<Handover>) {
        #[cfg(test)]
        while self.store.stalled.load(std::sync::atomic::Ordering::Acquire) {
            thread::yield_now();
        }
        let bytes = taken.iter().map(|handover| handover.writes.bytes()).sum();
        match (&self.state, &mut self.recovery.log) {
            (State::Well, Some(log)) => {
                let sync = taken.iter().any(|handover| handover.writes.sync());
                let told: Vec<_> = (taken.iter())
                    .map(|handover| (handover.shard, handover.writes.first(), handover.writes.last()))
                    .collect();
                let writes: usize = taken.iter().map(|handover| handover.writes.len()).sum();
                let begun = Instant::now();
                let kept = log.commit(queue::merged(taken).into_iter(), sync);
                let figures = &self.store.disk.figures;
                count(figures, begun, sync && kept.is_ok());
                match kept {
                    Ok(()) => {
                        self.number = log.number();
                        set(figures.unsettled(), u64::from(!log.is_settled()));
                        add(figures.commits(), 1);
                        add(figures.writes(), writes as u64);
                        add(figures.bytes(), bytes as u64);
                        for (shard, _, through) in last_of_each(told) {
                            self.shared.tell(shard, Letter::Stored { through });
                        }
                    }
                    Err(error) => {
                        add(figures.failures(), writes as u64);
                        for (shard, from, _) in told {
                            self.shared.tell(shard, Letter::StoreFailed { from });
                        }
                        self.fail(&error);
                    }
                }
            }
            (State::Well | State::Low | State::Broken { .. }, _) => self.refuse(taken),
        }
        self.store.queue.written(bytes);
    }

    fn refuse(&self, taken: Vec<Handover>) {
        for handover in taken {
            add(self.store.disk.figures.failures(), handover.writes.len() as u64);
            self.shared.tell(handover.shard, Letter::StoreFailed { from: handover.writes.first() });
        }
    }

    /// What time brings: the room on the disk, the sync, a look whether a worker of fjall failed, the next opening.
    fn look(&mut self) {
        self.looked = Instant::now();
        match self.state {
            State::Broken { again: Some(again) } => {
                if self.looked >= again {
                    self.open_anew();
                }
            }
            State::Broken { again: None } => {}
            State::Well | State::Low => {
                self.sync_if_due();
                self.look_at_room();
            }
        }
        if self.sized.is_none_or(|sized| sized.elapsed() >= SIZE_EVERY) {
            self.sized = Some(self.looked);
            let bytes = self.recovery.log.as_ref().map_or(0, Log::disk_bytes);
            set(self.store.disk.figures.disk_bytes(), bytes);
        }
    }

    fn sync_if_due(&mut self) {
        let Some(log) = &mut self.recovery.log else { return };
        let due = self.synced.elapsed() >= self.recovery.place.options.sync_every;
        let checked = if log.is_unsynced() && due {
            let begun = Instant::now();
            self.synced = begun;
            let synced = log.sync();
            count(&self.store.disk.figures, begun, synced.is_ok());
            synced
        } else {
            log.note_synced();
            log.check()
        };
        set(self.store.disk.figures.unsettled(), u64::from(!log.is_settled()));
        if let Err(error) = checked {
            self.fail(&error);
        }
    }

    fn look_at_room(&mut self) {
        let Some(free) = free_bytes(&self.recovery.place.data_dir) else { return };
        match self.state {
            State::Well if free < FREE_BYTES_MIN => {
                self.state = State::Low;
                let words = format!(
                    "{} has {} left, and the store needs {}: durable writes are refused here until there is more room",
                    self.recovery.place.data_dir.display(),
                    bytes_for_people(free),
                    bytes_for_people(FREE_BYTES_MIN)
                );
                tracing::error!("{words}");
                self.store.disk.set_trouble(Some(words));
            }
            State::Low if free >= FREE_BYTES_AGAIN => {
                self.state = State::Well;
                tracing::info!("there is room on the disk again: durable writes are taken");
                self.store.disk.set_trouble(None);
            }
            State::Well | State::Low | State::Broken { .. } => {}
        }
    }

    /// The store is of no use any more: closes it and says so.
    fn fail(&mut self, error: &LogError) {
        let now = Instant::now();
        if self.failed.is_none_or(|failed| now.duration_since(failed) > WELL_AFTER) {
            self.pause = PAUSE.0;
        }
        self.failed = Some(now);
        if let Some(log) = self.recovery.log.take() {
            log::close(log);
        }
        self.break_until(error, true);
    }

    fn break_until(&mut self, error: &LogError, can_heal: bool) {
        let store = self.recovery.place.store();
        let next = if can_heal {
            format!("it is opened anew in {} s at most", PAUSE.1.as_secs())
        } else {
            "restart this node: it then sets the store aside and warms from its peers".to_owned()
        };
        let words = format!("the store {} failed: {error}; durable writes are refused here; {next}", store.display());
        tracing::error!("{words}");
        self.store.disk.set_trouble(Some(words));
        let again = can_heal.then(|| Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.state = State::Broken { again };
    }

    fn open_anew(&mut self) {
        let opened = if self.recovery.unread { self.begin_anew() } else { self.recovery.place.open() };
        let found_less = |log: &Log| LogError::Damaged(format!("{} batches are missing", self.number - log.number()));
        match opened {
            Ok(log) if log.number() < self.number => {
                let error = found_less(&log);
                log.promise(self.number);
                log::close(log);
                self.break_until(&error, false);
            }
            Ok(log) => {
                self.recovery.unread = false;
                self.number = log.number();
                self.recovery.log = Some(log);
                self.state = State::Well;
                self.store.disk.set_trouble(None);
                add(self.store.disk.figures.reopened(), 1);
                tracing::info!("the store is open again: durable writes are taken");
                self.look_at_room();
            }
            Err(error @ LogError::Refused(_)) => self.break_until(&error, true),
            Err(error @ (LogError::Damaged(_) | LogError::Foreign(_))) => self.break_until(&error, false),
        }
    }

    /// What lies there was never read by this process: it is set aside unless it is empty.
    fn begin_anew(&self) -> Result<Log, LogError> {
        match self.recovery.place.open_empty("it was not read at the start") {
            Ok(log) => return Ok(log),
            Err(error @ LogError::Refused(_)) => return Err(error),
            Err(LogError::Damaged(_) | LogError::Foreign(_)) => {}
        }
        let to = self.recovery.place.set_aside().map_err(|error| LogError::Refused(error.to_string()))?;
        tracing::warn!(
            "the store that could not be read at the start is now {}: this node begins a new one",
            to.display()
        );
        add(self.store.disk.figures.set_aside(), 1);
        self.recovery.place.open()
    }
}

fn count(figures: &Figures, begun: Instant, synced: bool) {
    add(figures.busy_nanos(), u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    if synced {
        add(figures.syncs(), 1);
    }
}

/// Ends the thread's part of the node, however it ends.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if thread::panicking() {
            let message = "its message stands above in the log".to_owned();
            self.0.stop(crate::handle::Stopped::Panicked { thread: "store".to_owned(), message });
            self.0.panicked();
        }
        self.0.thread_ended();
    }
}

/// One word for each shard: the newest.
fn last_of_each(mut told: Vec<(u16, u64, u64)>) -> Vec<(u16, u64, u64)> {
    // Stable: a shard's hand-overs stay in order.
    told.sort_by_key(|(shard, ..)| *shard);
    told.reverse();
    told.dedup_by_key(|(shard, ..)| *shard);
    told
}

/// Room for this user on the disk that has `path`; `None`: the system does not say.
fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_gets_one_word_the_newest() {
        let told = vec![(0, 1, 4), (1, 1, 2), (0, 5, 9), (2, 7, 7)];
        assert_eq!(last_of_each(told), [(2, 7, 7), (1, 1, 2), (0, 5, 9)]);
    }

    #[test]
    fn the_room_on_a_disk_is_known() {
        assert!(free_bytes(std::path::Path::new("/")).is_some());
        assert_eq!(free_bytes(std::path::Path::new("/no/such/place")), None);
    }
}
