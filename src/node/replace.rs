//! A small file replaced whole: after a crash it holds the old bytes or the new ones, and the new ones once this returned.
//!
//! Written beside, synced, exchanged, directory synced. The old file stays beside as the next one's room: on a full disk
//! a node must still store the bound of its clock, and files that are written over need no new blocks (where the file
//! system writes in place). What a reader finds under the name is always whole; what lies beside is never read.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Makes `bytes` the content of the file `name` in `directory`.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (path, beside) = (directory.join(name), directory.join(format!("{name}.new")));
    let mut file = File::options().create(true).truncate(false).write(true).open(&beside)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    exchange(&beside, &path)?;
    // The exchange itself is durable once the directory is.
    File::open(directory)?.sync_all()
}

fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // There is nothing yet to exchange it with, or the file system cannot.
    }
    std::fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_stand_under_the_name_whether_longer_or_shorter() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["first", "a longer second", "3rd", ""] {
            replace(dir.path(), "file", text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), text);
        }
    }

    #[test]
    fn what_a_crash_left_beside_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "file", b"old").unwrap();
        std::fs::write(dir.path().join("file.new"), b"half of something much longer").unwrap();
        replace(dir.path(), "file", b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"new");
    }
}
