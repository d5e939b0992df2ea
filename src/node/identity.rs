//! Who this node is over restarts: the data directory keeps its id and the bound its clock may reach (PROTOCOL §1).
//!
//! `node.json` is replaced whole. A lock on `node.lock` keeps a second process out, and goes with the process, whatever
//! ends it. Without a directory everything is drawn anew. What cannot be read, or is of another cluster, is an error and
//! never a new identity: a node that forgot who it was would count twice in quorums.

use crate::replace::replace;
use meshwork_core::{
    id::{ActorId, ClusterId, NodeId},
    value::Hlc,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
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
    /// It is of a node of another cluster.
    #[error(
        "{} is the data directory of a node of another cluster ({theirs}, and this node's certificate is of {ours}): give this node its own node.data_dir, or the certificate of that cluster",
        path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it is of, hexadecimal.
        theirs: String,
        /// The cluster of the certificate, hexadecimal.
        ours: String,
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
    /// Hexadecimal; a version before this one wrote none.
    #[serde(default)]
    cluster: Option<String>,
}

impl Stored {
    fn new(node: NodeId, clock_bound: Hlc, cluster: ClusterId) -> Self {
        let node = format!("{:032x}", node.0);
        let check = Self::check_of(&node, clock_bound.0);
        Self { format: 1, node, clock_bound: clock_bound.0, check, cluster: Some(shown(cluster)) }
    }

    fn check_of(node: &str, bound: u64) -> String {
        blake3::hash(format!("{node}/{bound}").as_bytes()).to_hex()[..16].to_owned()
    }
}

fn shown(cluster: ClusterId) -> String {
    format!("{:032x}", cluster.0)
}

/// A node's identity for the life of this process, and its data directory if there is one.
#[derive(Debug)]
pub(crate) struct NodeIdentity {
    pub(crate) node: NodeId,
    /// Whether the id was there before.
    pub(crate) known: bool,
    pub(crate) clock_bound: Hlc,
    cluster: ClusterId,
    directory: Option<PathBuf>,
    /// The highest bound that this process has on disk.
    written: Mutex<Hlc>,
    /// Held for the life of the process.
    _lock: Option<File>,
}

impl NodeIdentity {
    pub(crate) fn open(directory: Option<&Path>, cluster: ClusterId) -> Result<Self, IdentityError> {
        let Some(directory) = directory else {
            let node = NodeId(u128::from_be_bytes(random()?));
            let written = Mutex::new(Hlc(0));
            return Ok(Self {
                node,
                known: false,
                clock_bound: Hlc(0),
                cluster,
                directory: None,
                written,
                _lock: None,
            });
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
            cluster,
            directory: Some(directory.to_owned()),
            written: Mutex::new(Hlc(0)),
            _lock: Some(lock),
        };
        match File::open(&path) {
            Ok(file) => {
                let (node, clock_bound, theirs) = read(&path, file)?;
                if let Some(theirs) = theirs.filter(|theirs| *theirs != shown(cluster)) {
                    let (path, ours) = (directory.to_owned(), shown(cluster));
                    return Err(IdentityError::OtherCluster { path, theirs, ours });
                }
                (identity.node, identity.clock_bound) = (node, clock_bound);
            }
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

    /// Keeps the bound; returns once it, or a higher one, is on disk. Nothing to do without a directory. May be called from
    /// several threads at once: on a slow disk the next bound is due before the last one is synced.
    pub(crate) fn store_clock(&self, bound: Hlc) -> Result<(), IdentityError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if bound < *written {
            return Ok(());
        }
        let stored = Stored::new(self.node, bound, self.cluster);
        let text = serde_json::to_vec_pretty(&stored).expect("strings and integers are JSON");
        replace(directory, "node.json", &text).map_err(failed(&directory.join("node.json")))?;
        *written = bound;
        Ok(())
    }
}

fn read(path: &Path, file: File) -> Result<(NodeId, Hlc, Option<String>), IdentityError> {
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
    Ok((NodeId(node), Hlc(stored.clock_bound), stored.cluster))
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

    const CLUSTER: ClusterId = ClusterId(7);

    #[test]
    fn a_bound_that_comes_late_does_not_lower_the_one_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap();
        std::thread::scope(|scope| {
            for bound in [5, 3, 9, 7, 1, 8] {
                let first = &first;
                scope.spawn(move || first.store_clock(Hlc(bound)).unwrap());
            }
        });
        first.store_clock(Hlc(4)).unwrap();
        drop(first);
        assert_eq!(NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap().clock_bound, Hlc(9));
    }

    #[test]
    fn identity_and_clock_bound_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("deep/er");
        let first = NodeIdentity::open(Some(&home), CLUSTER).unwrap();
        assert!(!first.known);
        first.store_clock(Hlc(77)).unwrap();
        let node = first.node;
        drop(first);
        let second = NodeIdentity::open(Some(&home), CLUSTER).unwrap();
        assert_eq!((second.node, second.known, second.clock_bound), (node, true, Hlc(77)));
    }

    #[test]
    fn two_processes_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap();
        let error = NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap());
        let path = dir.path().join("node.json");
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            "{".to_owned(),
            good.replace("\"clock_bound\": 0", "\"clock_bound\": 9"),
            good.replace(": 1", ": 2"),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{bad}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn the_directory_of_another_cluster_is_refused_and_one_of_before_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap().node;
        let error = NodeIdentity::open(Some(dir.path()), ClusterId(8)).unwrap_err();
        assert!(matches!(error, IdentityError::OtherCluster { .. }), "{error}");
        // As the version before wrote it.
        let path = dir.path().join("node.json");
        let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        stored.as_object_mut().unwrap().remove("cluster");
        std::fs::write(&path, stored.to_string()).unwrap();
        let taken = NodeIdentity::open(Some(dir.path()), ClusterId(8)).unwrap();
        assert_eq!(taken.node, node);
        taken.store_clock(Hlc(1)).unwrap();
        drop(taken);
        NodeIdentity::open(Some(dir.path()), CLUSTER).unwrap_err();
    }

    #[test]
    fn without_a_directory_each_start_is_somebody_new() {
        let (a, b) = (NodeIdentity::open(None, CLUSTER).unwrap(), NodeIdentity::open(None, CLUSTER).unwrap());
        assert_ne!(a.node, b.node);
        a.store_clock(Hlc(1)).unwrap();
    }
}
