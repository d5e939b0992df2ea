//! The map on disk: fjall behind five words (open, commit, sync, scan, close). No other file knows it.
//!
//! Invariants:
//! - a batch is kept whole or not at all, and batches are kept in order: after a crash there is a prefix of them;
//! - each batch carries its number, and the number of the last *synced* batch stands beside the database. One that comes
//!   back with less lost what was promised, and counts as damaged, as does one whose sealed journals lost their ends:
//!   fjall by itself cuts a journal off at the first thing it cannot read, wherever that is, and says nothing;
//! - a store belongs to one node of one cluster: the number's record says which.
//!
//! fjall panics at some files that were tampered with, so opening and reading are guarded. After an I/O error it refuses
//! everything ("poisoned") until it is opened anew: that is `writer`'s business. What records mean is core's.

use super::StoreOptions;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice, config};
use meshwork_core::id::{ClusterId, NodeId};
use std::{
    cell::Cell,
    fs::File,
    io,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Bytes of a write buffer. Up to four live at once: one is filled, the others wait to be written out.
pub(super) const BUFFER_BYTES: u64 = 4 << 20;
/// Journals of written-out buffers are removed; more than this on disk forces buffers out. fjall takes no less.
const JOURNAL_BYTES: u64 = 64 << 20;
/// One writes buffers out, the other merges tables.
const WORKERS: usize = 2;
/// Files kept open.
const FILES: usize = 64;
/// fjall sleeps inside a commit, deaf to everything, while four buffers wait. We wait outside before that: one more comes
/// of our own commit, and one of fjall's, for the sake of its journals.
const WAITING_BUFFERS_MAX: usize = 2;
/// The same for tables that wait to be merged: it sleeps at 30, and each waiting buffer becomes one.
const WAITING_TABLES_MAX: usize = 24;
/// A disk that cannot write one buffer in so long counts as failing.
const STALL_MAX: Duration = Duration::from_secs(20);
/// What a record costs in a write buffer beside its bytes.
const ENTRY_BYTES: usize = 100;
const STALL_LOOK: Duration = Duration::from_millis(5);

/// First byte of the keys of core's records.
const RECORD: u8 = b'r';
/// The key of the batches' number and their owner.
const MARK: &[u8] = b"m";
const MARK_FORMAT: u8 = 1;

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// What lies there cannot be read, or less is there than was promised: it must not be used.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Another node's, or another cluster's.
    #[error("it belongs to {0}")]
    Foreign(String),
    /// The disk is full, read-only, not ours, or fails.
    #[error("{0}")]
    Refused(String),
}

/// A key as the log takes it.
pub(crate) fn key(key: &[u8]) -> Slice {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(RECORD);
    bytes.extend_from_slice(key);
    Slice::from(bytes)
}

/// A value as the log takes it.
pub(crate) fn value(value: &[u8]) -> Slice {
    Slice::new(value)
}

/// The open store. Dropped, it is closed.
pub(crate) struct Log {
    records: Keyspace,
    owner: Owner,
    /// Of the last batch committed.
    number: u64,
    /// Of the last batch synced.
    synced: u64,
    /// The number that stands beside the database.
    noted: u64,
    /// Bytes in the write buffer that is being filled, about.
    filled: u64,
    mark: SyncMark,
    // Last: its workers end when it goes.
    database: Database,
}

impl Log {
    /// Opens what is in `directory`, or begins there.
    pub(crate) fn open(directory: &Path, options: &StoreOptions, owner: Owner) -> Result<Self, LogError> {
        guarded(|| Self::open_unguarded(directory, options, owner))
    }

    fn open_unguarded(directory: &Path, options: &StoreOptions, owner: Owner) -> Result<Self, LogError> {
        let journals = Journals::look(directory).map_err(|error| system(&error))?;
        let mark = SyncMark::open(&mark_path(directory)).map_err(|error| system(&error))?;
        let database = Database::builder(directory)
            .cache_size(options.cache)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .max_cached_files(Some(FILES))
            .open()
            .map_err(failure)?;
        journals.check()?;
        let records = database.keyspace("records", settings).map_err(failure)?;
        let mut log = Self { records, owner, number: 0, synced: 0, noted: 0, filled: 0, mark, database };
        match log.records.get(MARK).map_err(failure)? {
            Some(stored) => {
                let (number, stored) = read_mark(&stored)?;
                if stored != owner {
                    return Err(LogError::Foreign(format!(
                        "node {} of cluster {:032x}",
                        stored.node, stored.cluster.0
                    )));
                }
                log.number = number;
            }
            None if log.records.iter().next().is_some() => {
                return Err(LogError::Damaged("it has records but not the mark of its owner".to_owned()));
            }
            None => {}
        }
        let promised = log.mark.read();
        if log.number < promised {
            let lost = promised - log.number;
            return Err(LogError::Damaged(format!("the last {lost} of {promised} synced batches are missing")));
        }
        // What was replayed is in a buffer of unknown size: the next write begins a new one.
        log.filled = if log.number > 0 { BUFFER_BYTES } else { 0 };
        log.synced = log.number;
        log.database.persist(PersistMode::SyncAll).map_err(failure)?;
        log.note_synced();
        Ok(log)
    }

    /// How many batches were ever committed.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether something is not synced yet.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.synced < self.number
    }

    /// Whether all is synced and noted so: were it damaged now, that would be noticed.
    pub(crate) fn is_settled(&self) -> bool {
        self.noted == self.number
    }

    /// Keeps a batch, whole or not at all; `sync`: on disk when this returns, else in the system's hands. No key may come
    /// twice. After an error the log is unusable.
    pub(crate) fn commit(
        &mut self,
        writes: impl Iterator<Item = (Slice, Option<Slice>)>,
        sync: bool,
    ) -> Result<(), LogError> {
        guarded(|| {
            self.wait_for_room()?;
            if self.filled >= BUFFER_BYTES {
                // fjall would do so by itself, when its threads come to it: under load the buffer is several by then.
                self.records.rotate_memtable().map_err(failure)?;
                self.filled = 0;
            }
            let number = self.number + 1;
            let mut batch = self.database.batch();
            if sync {
                batch = batch.durability(Some(PersistMode::SyncData));
            }
            for (key, value) in writes {
                self.filled += (key.len() + value.as_ref().map_or(0, |value| value.len()) + ENTRY_BYTES) as u64;
                match value {
                    Some(value) => batch.insert(&self.records, key, value),
                    None => batch.remove(&self.records, key),
                }
            }
            batch.insert(&self.records, MARK, mark_bytes(number, self.owner));
            batch.commit().map_err(failure)?;
            self.number = number;
            if sync {
                self.synced = number;
            }
            Ok(())
        })
    }

    /// Syncs all batches so far, and notes that beside them.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        guarded(|| {
            self.database.persist(PersistMode::SyncData).map_err(failure)?;
            self.synced = self.number;
            Ok(())
        })?;
        self.note_synced();
        Ok(())
    }

    /// Notes beside the database what is synced. Cheap; worth it now and then.
    pub(crate) fn note_synced(&mut self) {
        if self.noted < self.synced {
            self.mark.write(self.synced);
            self.noted = self.synced;
        }
    }

    /// Notes that so many batches were there, synced or not: with fewer the next start takes the store for damaged.
    pub(crate) fn promise(&self, number: u64) {
        self.mark.write(number);
    }

    /// Whether it still takes writes: fjall's own threads may have failed meanwhile.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        guarded(|| self.database.persist(PersistMode::Buffer).map_err(failure))
    }

    /// Bytes it takes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// All records of now, keys in order, while the log is written to.
    pub(crate) fn scan(&self) -> Scan {
        Scan(self.records.iter())
    }

    /// Waits until tables hold all that buffers held.
    #[cfg(test)]
    pub(super) fn wait_until_written_out(&self) {
        let limit = Instant::now() + Duration::from_secs(60);
        while self.records.sealed_memtable_count() > 0 || self.records.table_count() == 0 {
            assert!(Instant::now() < limit, "no table was written");
            std::thread::yield_now();
        }
    }

    fn wait_for_room(&self) -> Result<(), LogError> {
        let begun = Instant::now();
        while self.records.sealed_memtable_count() >= WAITING_BUFFERS_MAX
            || self.records.l0_table_count() >= WAITING_TABLES_MAX
        {
            // Says whether it is poisoned, and so whether waiting can help.
            self.database.persist(PersistMode::Buffer).map_err(failure)?;
            if begun.elapsed() > STALL_MAX {
                return Err(LogError::Refused(format!("the disk wrote nothing out in {} s", STALL_MAX.as_secs())));
            }
            std::thread::sleep(STALL_LOOK);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("number", &self.number).field("synced", &self.synced).finish_non_exhaustive()
    }
}

/// A walk over all records. Every block is read and its check sum compared.
pub(crate) struct Scan(fjall::Iter);

impl Scan {
    /// The next records, of about `bytes` in all; none: that was the last.
    pub(crate) fn next(&mut self, bytes: usize) -> Result<Vec<(Slice, Slice)>, LogError> {
        guarded(|| {
            let (mut records, mut length) = (Vec::new(), 0);
            while length < bytes
                && let Some(record) = self.0.next()
            {
                let (key, value) = record.into_inner().map_err(failure)?;
                // Others are the mark, and whatever a newer version adds of that kind.
                if key.first() == Some(&RECORD) {
                    length += key.len() + value.len();
                    records.push((key, value));
                }
            }
            Ok(records)
        })
    }
}

/// The key of core's that is in a key of the log's.
pub(crate) fn core_key(key: &Slice) -> &[u8] {
    key.get(1..).unwrap_or_default()
}

/// Closes a log that may be broken. One that panics at that stays locked until the process ends, and says so when it is
/// opened anew.
pub(crate) fn close(log: Log) {
    let _ = contained(|| drop(log));
}

/// Removes the note of what was synced: the database beside it is about to be another.
pub(crate) fn forget_mark(directory: &Path) -> io::Result<()> {
    match std::fs::remove_file(mark_path(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn mark_path(directory: &Path) -> PathBuf {
    directory.with_extension("synced")
}

/// Values may be large and are never looked up: plain blocks, no filters.
fn settings() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Never by itself: see `commit`.
        .max_memtable_size(1 << 40)
        .data_block_size_policy(config::BlockSizePolicy::all(16 << 10))
        .filter_policy(config::FilterPolicy::disabled())
        .expect_point_read_hits(true)
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is caught and dealt with: of the store's library, at files that were damaged. A
/// process that ends at every panic should let these pass.
pub fn contains_panics() -> bool {
    CONTAINED.get() || std::thread::current().name().is_some_and(|name| name.starts_with("fjall"))
}

fn contained<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let before = CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(before);
    done
}

/// Runs what may panic at bytes that nobody wrote.
fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    contained(work).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
        Err(LogError::Damaged(format!("reading it panicked: {words}")))
    })
}

fn failure(error: fjall::Error) -> LogError {
    match &error {
        fjall::Error::Io(inner) => system(inner),
        fjall::Error::Storage(fjall::LsmError::Io(inner)) => system(inner),
        fjall::Error::Poisoned => LogError::Refused("an earlier write failed".to_owned()),
        fjall::Error::Locked => LogError::Refused("another process has it open".to_owned()),
        // Everything else says that bytes are not what they should be; so will new variants.
        _ => LogError::Damaged(error.to_string()),
    }
}

/// Whether the system refuses, which room or rights can mend, or what lies there is not as it was left.
fn system(error: &io::Error) -> LogError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::NotFound
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory => LogError::Damaged(error.to_string()),
        _ => LogError::Refused(error.to_string()),
    }
}

fn mark_bytes(number: u64, owner: Owner) -> [u8; 41] {
    let mut bytes = [MARK_FORMAT; 41];
    bytes[1..17].copy_from_slice(&owner.cluster.0.to_be_bytes());
    bytes[17..33].copy_from_slice(&owner.node.0.to_be_bytes());
    bytes[33..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn read_mark(bytes: &[u8]) -> Result<(u64, Owner), LogError> {
    let unknown = || LogError::Damaged("the mark of its owner is not known to this version".to_owned());
    let (format, rest) = bytes.split_first().ok_or_else(unknown)?;
    let (cluster, rest) = rest.split_first_chunk().ok_or_else(unknown)?;
    let (node, rest) = rest.split_first_chunk().ok_or_else(unknown)?;
    let number = rest.try_into().map_err(|_| unknown())?;
    if *format != MARK_FORMAT {
        return Err(unknown());
    }
    let owner = Owner { cluster: ClusterId(u128::from_be_bytes(*cluster)), node: NodeId(u128::from_be_bytes(*node)) };
    Ok((u64::from_be_bytes(number), owner))
}

/// The number of the last synced batch, in a file of its own. Written after the sync it tells of and never synced
/// itself, so it may be too low and never too high; torn, it says nothing.
struct SyncMark(File);

impl SyncMark {
    fn open(path: &Path) -> io::Result<Self> {
        File::options().create(true).truncate(false).read(true).write(true).open(path).map(Self)
    }

    fn read(&self) -> u64 {
        let mut bytes = [0; 16];
        if self.0.read_exact_at(&mut bytes, 0).is_err() || bytes != Self::bytes(number_of(&bytes)) {
            return 0;
        }
        number_of(&bytes)
    }

    fn write(&self, number: u64) {
        // Without it a loss is noticed less well, and nothing else.
        let _ = self.0.write_all_at(&Self::bytes(number), 0);
    }

    fn bytes(number: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes[8..].copy_from_slice(&blake3::hash(&number.to_be_bytes()).as_bytes()[..8]);
        bytes
    }
}

fn number_of(bytes: &[u8; 16]) -> u64 {
    bytes[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Journals that were full when the process ended, and how far they had been written: all of it must be read.
struct Journals(Vec<(File, u64)>);

impl Journals {
    fn look(directory: &Path) -> io::Result<Self> {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(Vec::new())),
            Err(error) => return Err(error),
        };
        let mut journals = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            if let (Some(number), Some("jnl")) = (number, path.extension().and_then(|end| end.to_str())) {
                journals.push((number, path));
            }
        }
        journals.sort_unstable();
        // The newest ends wherever the crash was.
        journals.pop();
        let sealed = journals.into_iter().map(|(_, path)| {
            let file = File::open(path)?;
            let written = written_length(&file)?;
            Ok((file, written))
        });
        sealed.collect::<io::Result<_>>().map(Self)
    }

    /// After opening: what fjall could not read is cut off now. The files are held open, so that one that was removed
    /// since, being written out, still tells its length.
    fn check(&self) -> Result<(), LogError> {
        for (file, written) in &self.0 {
            let left = file.metadata().map_err(|error| system(&error))?.len();
            if left < *written {
                let lost = written - left;
                return Err(LogError::Damaged(format!("{lost} bytes in the middle of the journal cannot be read")));
            }
        }
        Ok(())
    }
}

/// Journals are made large and filled: bytes up to the last that is not zero.
fn written_length(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let length = end.min(block.len() as u64);
        let part = &mut block[..usize::try_from(length).expect("a block")];
        file.read_exact_at(part, end - length)?;
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            return Ok(end - length + last as u64 + 1);
        }
        end -= length;
    }
    Ok(0)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
