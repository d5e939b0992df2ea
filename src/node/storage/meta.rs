//! `mesh.meta`: what the control plane wants to find again (namespaces, roles, layouts, incarnation), as core gives it.
//!
//! Replaced whole, with a check sum, since a layout with a flipped bit would be worse than none. A damaged file is set
//! aside and the node starts as if there were none. What the bytes mean is core's business.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

const MAGIC: &[u8; 8] = b"mwmeta1\n";
const CHECK_BYTES: usize = 32;
/// More is no meta of ours: a thousand namespaces and nodes are a tenth of it.
const META_BYTES_MAX: u64 = 64 << 20;

/// What was there at the start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No file: a first start, or a version before it.
    Nothing,
    /// What the last process stored last.
    Meta(Vec<u8>),
    /// It was damaged and is set aside, for the reason given.
    Damaged(String),
}

/// The file. Writers may come from several threads; the newest wins.
#[derive(Debug)]
pub(crate) struct MetaFile {
    directory: PathBuf,
    /// The number of what is in the file.
    written: Mutex<u64>,
}

impl MetaFile {
    /// The file in a data directory, and what is in it.
    ///
    /// # Errors
    /// The system refuses: neither read nor set aside.
    pub(crate) fn open(directory: &Path) -> io::Result<(Self, Found)> {
        let file = Self { directory: directory.to_owned(), written: Mutex::new(0) };
        let path = file.path();
        let found = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => return Err(error),
            Ok(opened) => match read(opened)? {
                Ok(meta) => Found::Meta(meta),
                Err(reason) => {
                    std::fs::rename(&path, directory.join(aside("mesh.meta")))?;
                    Found::Damaged(reason)
                }
            },
        };
        Ok((file, found))
    }

    /// Stores `bytes` unless something newer is there; returns once it is on disk. The number on disk then.
    pub(crate) fn store(&self, number: u64, bytes: &[u8]) -> io::Result<u64> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *written {
            let whole = [MAGIC, &blake3::hash(bytes).as_bytes()[..], bytes].concat();
            crate::replace::replace(&self.directory, "mesh.meta", &whole)?;
            *written = number;
        }
        Ok(*written)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("mesh.meta")
    }
}

/// A name for what is set aside: never one that is there, since seconds pass.
pub(super) fn aside(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{name}.damaged-{}", now.as_secs())
}

fn read(file: File) -> io::Result<Result<Vec<u8>, String>> {
    let mut bytes = Vec::new();
    file.take(META_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > META_BYTES_MAX {
        return Ok(Err(format!("it is longer than {META_BYTES_MAX} bytes")));
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Ok(Err("it does not begin as such a file does".to_owned()));
    };
    let Some((check, meta)) = rest.split_first_chunk::<CHECK_BYTES>() else {
        return Ok(Err("it is cut off".to_owned()));
    };
    if blake3::hash(meta) != *check {
        return Ok(Err("its check sum does not fit".to_owned()));
    }
    Ok(Ok(meta.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_meta_is_found_again_whatever_the_order_of_writers() {
        let dir = tempfile::tempdir().unwrap();
        let (file, found) = MetaFile::open(dir.path()).unwrap();
        assert_eq!(found, Found::Nothing);
        assert_eq!(file.store(1, b"one").unwrap(), 1);
        assert_eq!(file.store(3, b"three").unwrap(), 3);
        assert_eq!(file.store(2, b"two").unwrap(), 3, "an older one that comes late is dropped");
        let (again, found) = MetaFile::open(dir.path()).unwrap();
        assert_eq!(found, Found::Meta(b"three".to_vec()));
        assert_eq!(again.store(1, b"of the next process").unwrap(), 1);
        assert_eq!(MetaFile::open(dir.path()).unwrap().1, Found::Meta(b"of the next process".to_vec()));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_never_used() {
        let good = {
            let dir = tempfile::tempdir().unwrap();
            MetaFile::open(dir.path()).unwrap().0.store(1, b"namespaces and layouts").unwrap();
            std::fs::read(dir.path().join("mesh.meta")).unwrap()
        };
        for at in 0..good.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            for bytes in [&bad[..], &good[..at]] {
                std::fs::write(dir.path().join("mesh.meta"), bytes).unwrap();
                assert!(matches!(MetaFile::open(dir.path()).unwrap().1, Found::Damaged(_)), "{at}");
                assert!(!dir.path().join("mesh.meta").exists());
                let kept = std::fs::read_dir(dir.path())
                    .unwrap()
                    .flatten()
                    .find(|entry| entry.file_name().to_string_lossy().starts_with("mesh.meta.damaged-"));
                assert_eq!(std::fs::read(kept.unwrap().path()).unwrap(), bytes, "for whoever wants to look");
            }
        }
    }
}
