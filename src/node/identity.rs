//! Who this node is over restarts: the data directory keeps its id and the bound its clock may reach (PROTOCOL §1).
//!
//! `node.json` is replaced whole: written beside, synced, renamed, directory synced. A lock on `node.lock` keeps a second
//! process out, and goes with the process, whatever ends it. Without a directory everything is drawn anew. What cannot
//! be read is an error and never a new identity: a node that forgot who it was would count twice in quorums.

use meshwork_core::{
    id::{ActorId, NodeId},
    value::Hlc,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Why the data directory cannot be used. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused.
    #[error("{}: {source}; node.data_dir must be a directory this user may write", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another meshwork process: stop that one, or give this node its own node.data_dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// What lies there is not ours, or is damaged.
    #[error(
        "{} is damaged ({reason}): restore it, or remove it so that this node starts as a new one and its old id is removed from the mesh",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gives no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// Hexadecimal: JSON numbers do not hold 128 bits.
    node: String,
    /// `Hlc` as an integer.
    clock_bound: u64,
    /// Of the two above, so that a flipped bit is noticed.
    check: String,
}

impl Stored {
    fn new(node: NodeId, clock_bound: Hlc) -> Self {
        let node = format!("{:032x}", node.0);
        let check = Self::check_of(&node, clock_bound.0);
        Self { format: 1, node, clock_bound: clock_bound.0, check }
    }

    fn check_of(node: &str, bound: u64) -> String {
        blake3::hash(format!("{node}/{bound}").as_bytes()).to_hex()[..16].to_owned()
    }
}

/// A node's identity for the life of this process, and its data directory if there is one.
#[derive(Debug)]
pub(crate) struct NodeIdentity {
    pub(crate) node: NodeId,
    /// Whether the id was there before.
    pub(crate) known: bool,
    pub(crate) clock_bound: Hlc,
    directory: Option<PathBuf>,
    /// Held for the life of the process.
    _lock: Option<File>,
}

impl NodeIdentity {
    pub(crate) fn open(directory: Option<&Path>) -> Result<Self, IdentityError> {
        let Some(directory) = directory else {
            let node = NodeId(u128::from_be_bytes(random()?));
            return Ok(Self { node, known: false, clock_bound: Hlc(0), directory: None, _lock: None });
        };
        std::fs::create_dir_all(directory).map_err(failed(directory))?;
        let lock_path = directory.join("node.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(IdentityError::InUse { path: directory.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(IdentityError::File { path: lock_path, source });
            }
        }
        let path = directory.join("node.json");
        let mut identity = Self {
            node: NodeId(0),
            known: true,
            clock_bound: Hlc(0),
            directory: Some(directory.to_owned()),
            _lock: Some(lock),
        };
        match File::open(&path) {
            Ok(file) => (identity.node, identity.clock_bound) = read(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (identity.node, identity.known) = (NodeId(u128::from_be_bytes(random()?)), false);
                identity.store_clock(Hlc(0))?;
            }
            Err(source) => return Err(IdentityError::File { path, source }),
        }
        Ok(identity)
    }

    /// Whether anything is kept over restarts.
    pub(crate) fn has_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Keeps the bound; returns once it is on disk. Nothing to do without a directory.
    pub(crate) fn store_clock(&self, bound: Hlc) -> Result<(), IdentityError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let (path, beside) = (directory.join("node.json"), directory.join("node.json.new"));
        let text = serde_json::to_vec_pretty(&Stored::new(self.node, bound)).expect("strings and integers are JSON");
        let mut file = File::create(&beside).map_err(failed(&beside))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed(&beside))?;
        std::fs::rename(&beside, &path).map_err(failed(&path))?;
        // The rename itself is durable once the directory is.
        File::open(directory).and_then(|handle| handle.sync_all()).map_err(failed(directory))
    }
}

fn read(path: &Path, file: File) -> Result<(NodeId, Hlc), IdentityError> {
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(|error| damaged(error.to_string()))?;
    let stored: Stored = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if stored.format != 1 {
        return Err(damaged(format!("format {} is not known to this version", stored.format)));
    }
    if stored.check != Stored::check_of(&stored.node, stored.clock_bound) {
        return Err(damaged("its check sum does not fit".to_owned()));
    }
    let node = u128::from_str_radix(&stored.node, 16).map_err(|_| damaged("the id is no number".to_owned()))?;
    Ok((NodeId(node), Hlc(stored.clock_bound)))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> IdentityError {
    move |source| IdentityError::File { path: path.to_owned(), source }
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).map_err(IdentityError::Random)?;
    Ok(bytes)
}

/// Names this process as the stamper of versions: drawn at each start, never kept.
pub(crate) fn draw_actor() -> Result<ActorId, IdentityError> {
    random().map(|bytes| ActorId(u64::from_be_bytes(bytes)))
}

/// A seed for everything core draws.
pub(crate) fn draw_seed() -> Result<u64, IdentityError> {
    random().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_clock_bound_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("deep/er");
        let first = NodeIdentity::open(Some(&home)).unwrap();
        assert!(!first.known);
        first.store_clock(Hlc(77)).unwrap();
        let node = first.node;
        drop(first);
        let second = NodeIdentity::open(Some(&home)).unwrap();
        assert_eq!((second.node, second.known, second.clock_bound), (node, true, Hlc(77)));
    }

    #[test]
    fn two_processes_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NodeIdentity::open(Some(dir.path())).unwrap();
        let error = NodeIdentity::open(Some(dir.path())).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeIdentity::open(Some(dir.path())).unwrap());
        let path = dir.path().join("node.json");
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            "{".to_owned(),
            good.replace("\"clock_bound\": 0", "\"clock_bound\": 9"),
            good.replace(": 1", ": 2"),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = NodeIdentity::open(Some(dir.path())).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{bad}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn without_a_directory_each_start_is_somebody_new() {
        let (a, b) = (NodeIdentity::open(None).unwrap(), NodeIdentity::open(None).unwrap());
        assert_ne!(a.node, b.node);
        a.store_clock(Hlc(1)).unwrap();
    }
}
