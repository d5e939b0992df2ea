//! The start: the store is opened and every record goes to its shard, before the node serves.
//!
//! A store that shows any damage is set aside whole, and the node starts empty and warms from its peers. Skipping only
//! what cannot be read would be wrong: in a tree of sorted tables an unreadable block uncovers *older* records of its
//! keys, and values that were deleted, and whose tombstones all owners have since forgotten, would come back. A torn end
//! of the journal is no damage: what was not synced may be missing, and core counts on no more.
//!
//! For the same reason a record that core cannot read (unknown format, damaged) is removed; one that finds no room stays,
//! and its partition asks others before it votes. A store that could
//! not be opened now, and so was not read, is set aside when it can be, by this process or a later one (`store.unread` says
//! so beside it): it would be older than what peers were told.

use super::{
    Disk, Place,
    disk::{add, get, set},
    log::{self, Log, LogError, core_key},
    meta::aside,
};
use fjall::Slice;
use meshwork_core::{
    config::ShardConfig,
    durable::{RestoreError, stored_shard},
    shard::Shard,
};
use std::{
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender},
    time::{Duration, Instant},
};

/// Bytes of records handed to a shard at once; two such parts may wait for each.
const PART_BYTES: usize = 1 << 20;
/// Refused records are removed in batches of so many.
const REFUSED_MAX: usize = 4096;
/// A recovery that takes longer says how far it is, so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// A shard's thread that waits for records says so often that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// A word to a shard's thread that is being filled. When no more can come, it is full.
pub(crate) enum Feed {
    /// Records of its shard.
    Records(Vec<(Slice, Slice)>),
    /// Forget them all: the store is damaged.
    Abandon,
}

/// What became of one `Feed::Records`.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    taken: u64,
    bytes: u64,
    refused: Vec<Slice>,
    /// Why the last of them was refused.
    reason: String,
    /// Records that found no room in memory.
    short: u64,
}

/// A shard, filled with what is fed until there is no more. Runs on the shard's thread; `alive` is called now and then.
pub(crate) fn fill(
    config: &ShardConfig,
    feed: &Receiver<Feed>,
    fed: &Sender<Fed>,
    now: impl Fn() -> meshwork_core::time::Now,
    alive: impl Fn(&Shard),
) -> Shard {
    let mut shard = Shard::new(config.clone());
    loop {
        let word = match feed.recv_timeout(ALIVE_EVERY) {
            Ok(word) => word,
            Err(RecvTimeoutError::Disconnected) => return shard,
            // Others' records are read: this thread does not hang.
            Err(RecvTimeoutError::Timeout) => {
                alive(&shard);
                continue;
            }
        };
        match word {
            Feed::Records(records) => {
                let (now, mut told) = (now(), Fed::default());
                for (key, value) in records {
                    match shard.restore(now, core_key(&key), &value) {
                        Ok(()) => {
                            told.taken += 1;
                            told.bytes += (key.len() + value.len()) as u64;
                        }
                        // It is what a larger memory holds: it stays in the store.
                        Err(RestoreError::Memory) => told.short += 1,
                        Err(error) => {
                            told.reason = error.to_string();
                            told.refused.push(key);
                        }
                    }
                }
                // Nobody listens when the start was given up.
                let _ = fed.send(told);
            }
            Feed::Abandon => shard = Shard::new(config.clone()),
        }
        alive(&shard);
    }
}

impl Place {
    pub(super) fn open(&self) -> Result<Log, LogError> {
        Log::open(&self.store(), &self.options, self.owner)
    }

    /// Moves the store out of the way, for whoever wants to look at it; where it is then.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let name = aside("store");
        let paths = (0..).map(|turn| if turn == 0 { name.clone() } else { format!("{name}-{turn}") });
        let mut paths = paths.map(|name| self.data_dir.join(name));
        let to = paths.find(|path| !path.exists()).expect("numbers do not end");
        std::fs::rename(self.store(), &to)?;
        // In this order: a note without its store only says that a new store lacks something, and that one is empty.
        log::forget_mark(&self.store())?;
        self.set_unread(false)?;
        Ok(to)
    }

    /// The file that says, over restarts, that the store must not be read any more.
    fn unread(&self) -> PathBuf {
        self.data_dir.join("store.unread")
    }

    pub(super) fn set_unread(&self, unread: bool) -> io::Result<()> {
        if unread {
            return std::fs::File::create(self.unread())?.sync_all();
        }
        match std::fs::remove_file(self.unread()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Opens what lies there if it is empty; it is known to be older than what peers were told.
    pub(super) fn open_empty(&self, reason: &str) -> Result<Log, LogError> {
        match self.open() {
            Ok(log) if log.number() == 0 => {
                self.set_unread(false).map_err(|error| LogError::Refused(error.to_string()))?;
                Ok(log)
            }
            Err(error @ LogError::Refused(_)) => Err(error),
            Ok(log) => {
                log::close(log);
                Err(LogError::Damaged(reason.to_owned()))
            }
            Err(LogError::Damaged(_) | LogError::Foreign(_)) => Err(LogError::Damaged(reason.to_owned())),
        }
    }
}

/// The store of a node that starts.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(super) place: Place,
    pub(super) log: Option<Log>,
    /// What lies on disk was not read, and must never be.
    pub(super) unread: bool,
}

impl Recovery {
    /// Opens the store, or begins one. `distrust`: what is known against what lies there, whatever it looks like.
    pub(crate) fn open(place: Place, disk: &Disk, distrust: Option<&str>) -> Self {
        let mut recovery = Self { place, log: None, unread: false };
        let earlier = recovery.place.unread().exists().then_some("an earlier start could not read it");
        let opened = match distrust.or(earlier) {
            Some(reason) => recovery.place.open_empty(reason),
            None => recovery.place.open(),
        };
        match opened {
            Ok(log) => recovery.log = Some(log),
            Err(error) => recovery.refuse(&error, disk),
        }
        recovery
    }

    /// What lies there is of no use: sets it aside and begins anew, or does without a disk for now.
    fn refuse(&mut self, error: &LogError, disk: &Disk) {
        let path = self.place.store();
        let fresh = match error {
            LogError::Refused(_) => Err(error.to_string()),
            LogError::Damaged(_) | LogError::Foreign(_) => match self.place.set_aside() {
                Err(failed) => Err(format!("{error}; it cannot be set aside either: {failed}")),
                Ok(to) => {
                    add(disk.figures.set_aside(), 1);
                    let words = format!(
                        "the store {} could not be used ({error}): it is now {}, and this node starts empty and warms from its peers",
                        path.display(),
                        to.display()
                    );
                    tracing::warn!("{words}");
                    disk.set_found(words);
                    self.place.open().map_err(|again| again.to_string())
                }
            },
        };
        match fresh {
            Ok(log) => self.log = Some(log),
            Err(reason) => {
                self.unread = true;
                // Where even this is refused, only a restart before the store can be opened again goes unnoticed.
                let noted = self.place.set_unread(true);
                let words = format!(
                    "the store {} cannot be opened: {reason}; durable writes are refused here until it can, which is tried again and again",
                    path.display()
                );
                tracing::error!(noted = noted.is_ok(), "{words}");
                disk.set_trouble(Some(words));
            }
        }
    }

    /// Reads all records and gives each to its shard; `feeds` has one a shard, `partitions` is the cluster's. Returns once
    /// all shards have taken theirs.
    pub(crate) fn restore(&mut self, feeds: Vec<SyncSender<Feed>>, fed: &Receiver<Fed>, partitions: u16, disk: &Disk) {
        let begun = Instant::now();
        let mut tally = Tally::default();
        if let Some(mut log) = self.log.take() {
            match read_all(&mut log, &feeds, fed, partitions, &mut tally, disk) {
                Ok(()) => self.log = Some(log),
                Err(error) => {
                    for feed in &feeds {
                        // A thread that ended needs no word.
                        let _ = feed.send(Feed::Abandon);
                    }
                    log::close(log);
                    tally = Tally::default();
                    self.refuse(&error, disk);
                }
            }
        }
        drop(feeds);
        // Ends when every shard is filled.
        let abandoned = self.log.as_ref().is_none_or(|log| log.number() == 0);
        for told in fed {
            if !abandoned {
                tally.add(told);
            }
        }
        if let Some(log) = &mut self.log
            && let Err(error) = tally.remove_refused(log)
        {
            // The writer finds out by itself and tells people.
            tracing::warn!(%error, "records that cannot be used could not be removed from the store");
        }
        tally.show(disk);
        if tally.restored > 0 || tally.skipped > 0 || tally.short > 0 {
            let (records, bytes) = (tally.restored, tally.bytes);
            tracing::info!(
                records,
                bytes,
                skipped = tally.skipped,
                seconds = begun.elapsed().as_secs_f64(),
                "store read"
            );
        }
        if tally.skipped > 0 {
            let (skipped, reason) = (tally.skipped, &tally.reason);
            let words =
                format!("{skipped} stored records could not be used and were dropped; the last because: {reason}");
            tracing::warn!("{words}");
            disk.set_found(words);
        }
        if tally.short > 0 {
            let words = format!(
                "{} stored records found no room in memory and stay in the store: raise memory.limit and start again",
                tally.short
            );
            tracing::warn!("{words}");
            disk.set_found(words);
        }
    }
}

#[derive(Default)]
struct Tally {
    restored: u64,
    bytes: u64,
    skipped: u64,
    short: u64,
    reason: String,
    refused: Vec<Slice>,
}

impl Tally {
    fn add(&mut self, told: Fed) {
        self.restored += told.taken;
        self.bytes += told.bytes;
        self.skipped += told.refused.len() as u64;
        self.short += told.short;
        if !told.refused.is_empty() {
            self.reason = told.reason;
        }
        self.refused.extend(told.refused);
    }

    fn remove_refused(&mut self, log: &mut Log) -> Result<(), LogError> {
        if self.refused.is_empty() {
            return Ok(());
        }
        log.commit(std::mem::take(&mut self.refused).into_iter().map(|key| (key, None)), false)
    }

    fn show(&self, disk: &Disk) {
        set(disk.figures.restored(), self.restored);
        set(disk.figures.restored_bytes(), self.bytes);
        set(disk.figures.skipped(), self.skipped + self.short);
    }
}

fn read_all(
    log: &mut Log,
    feeds: &[SyncSender<Feed>],
    fed: &Receiver<Fed>,
    partitions: u16,
    tally: &mut Tally,
    disk: &Disk,
) -> Result<(), LogError> {
    let shards = u16::try_from(feeds.len()).expect("at most SHARDS_MAX");
    let (mut scan, mut said) = (log.scan(), Instant::now());
    let on_disk = log.disk_bytes();
    set(disk.figures.disk_bytes(), on_disk);
    loop {
        let part = scan.next(PART_BYTES)?;
        if part.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<Vec<(Slice, Slice)>> = feeds.iter().map(|_| Vec::new()).collect();
        for (key, value) in part {
            match stored_shard(core_key(&key), shards, partitions) {
                Some(shard) => sorted[usize::from(shard)].push((key, value)),
                None => tally.add(Fed {
                    refused: vec![key],
                    reason: "its key is of no known kind".to_owned(),
                    ..Fed::default()
                }),
            }
        }
        for (feed, records) in feeds.iter().zip(sorted) {
            if !records.is_empty() {
                // A thread that ended stops the node by itself.
                let _ = feed.send(Feed::Records(records));
            }
        }
        fed.try_iter().for_each(|told| tally.add(told));
        if tally.refused.len() >= REFUSED_MAX {
            tally.remove_refused(log)?;
        }
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            tally.show(disk);
            tracing::info!(
                records = get(disk.figures.restored()),
                bytes = tally.bytes,
                on_disk,
                "reading the store; clients are served after that"
            );
        }
    }
}
