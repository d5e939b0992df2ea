//! What the log keeps, and what it says of a directory that somebody or something damaged.

use super::*;
use std::fs;

const OWNER: Owner = Owner { cluster: ClusterId(3), node: NodeId(5) };
const OPTIONS: StoreOptions = StoreOptions { cache: 1 << 20, queue: 1 << 20, sync_every: Duration::from_secs(1) };

fn open(dir: &Path) -> Result<Log, LogError> {
    Log::open(&dir.join("store"), &OPTIONS, OWNER)
}

fn put(log: &mut Log, name: &str, bytes: &[u8]) {
    log.commit([(key(name.as_bytes()), Some(value(bytes)))].into_iter(), false).unwrap();
}

fn all(log: &Log) -> Result<Vec<(String, Vec<u8>)>, LogError> {
    let (mut scan, mut found) = (log.scan(), Vec::new());
    loop {
        let part = scan.next(1000)?;
        if part.is_empty() {
            return Ok(found);
        }
        found.extend(
            part.into_iter().map(|(key, value)| (String::from_utf8_lossy(core_key(&key)).into_owned(), value.to_vec())),
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).unwrap() }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn batches_are_found_again_with_the_last_word_on_each_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    put(&mut log, "a", b"1");
    put(&mut log, "b", b"2");
    put(&mut log, "a", b"3");
    log.commit([(key(b"b"), None), (key(b"c"), Some(value(b"")))].into_iter(), true).unwrap();
    assert_eq!((log.number(), log.is_unsynced()), (4, false));
    close(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(log.number(), 4);
    assert_eq!(all(&log).unwrap(), [("a".to_owned(), b"3".to_vec()), ("c".to_owned(), Vec::new())]);
}

#[test]
fn a_scan_sees_the_records_of_its_beginning_while_others_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    for number in 0..100 {
        put(&mut log, &format!("{number:03}"), &[7; 100]);
    }
    let mut scan = log.scan();
    let mut seen = 0;
    loop {
        let part = scan.next(1000).unwrap();
        if part.is_empty() {
            break;
        }
        seen += part.len();
        log.commit(part.into_iter().map(|(key, _)| (key, None)), false).unwrap();
    }
    assert_eq!((seen, all(&log).unwrap().len()), (100, 0));
}

#[test]
fn the_store_of_another_node_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    put(&mut log, "a", b"1");
    close(log);
    let other = Owner { node: NodeId(6), ..OWNER };
    let error = Log::open(&dir.path().join("store"), &OPTIONS, other).unwrap_err();
    assert!(matches!(error, LogError::Foreign(_)), "{error}");
}

#[test]
fn a_torn_end_is_cut_off_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    put(&mut log, "synced", b"1");
    log.sync().unwrap();
    put(&mut log, "torn", &[7; 1000]);
    // As a crash would leave it.
    let crashed = dir.path().join("crashed");
    copy(&dir.path().join("store"), &crashed.join("store"));
    fs::copy(dir.path().join("store.synced"), crashed.join("store.synced")).unwrap();
    let journal = crashed.join("store/0.jnl");
    let written = written_length(&File::open(&journal).unwrap()).unwrap();
    fs::File::options().write(true).open(&journal).unwrap().set_len(written - 500).unwrap();
    let mut log = open(&crashed).unwrap();
    assert_eq!(all(&log).unwrap(), [("synced".to_owned(), b"1".to_vec())]);
    // It goes on from there.
    put(&mut log, "more", b"2");
    close(log);
    assert_eq!(all(&open(&crashed).unwrap()).unwrap().len(), 2);
}

#[test]
fn synced_batches_that_are_missing_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    put(&mut log, "a", b"1");
    put(&mut log, "b", &[7; 1000]);
    log.sync().unwrap();
    close(log);
    let journal = dir.path().join("store/0.jnl");
    let written = written_length(&File::open(&journal).unwrap()).unwrap();
    fs::File::options().write(true).open(&journal).unwrap().set_len(written - 500).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("the last 1 of 2 synced batches are missing"), "{error}");
}

/// One file after the other, bits flipped and ends cut off all over: either it is damaged, or all is there and right.
#[test]
fn whatever_is_damaged_nothing_wrong_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    // Enough that tables are written: the journal alone would hold it all.
    let expected: Vec<(String, Vec<u8>)> = (0..40u8).map(|n| (format!("{n:03}"), vec![n; 300 << 10])).collect();
    for (name, bytes) in &expected {
        put(&mut log, name, bytes);
    }
    log.sync().unwrap();
    log.wait_until_written_out();
    put(&mut log, "last", b"in the journal");
    log.sync().unwrap();
    close(log);
    let expected: Vec<_> = expected.into_iter().chain([("last".to_owned(), b"in the journal".to_vec())]).collect();
    let mut paths = Vec::new();
    files(&dir.path().join("store"), &mut paths);
    let (mut damaged, mut unharmed) = (0, 0);
    for path in paths {
        let length = written_length(&File::open(&path).unwrap()).unwrap();
        let inside = path.strip_prefix(dir.path()).unwrap();
        for (place, cut) in [(1, false), (2, false), (3, false), (2, true)] {
            let at = length * place / 4;
            let home = dir.path().join("harmed");
            copy(&dir.path().join("store"), &home.join("store"));
            fs::copy(dir.path().join("store.synced"), home.join("store.synced")).unwrap();
            let file = File::options().read(true).write(true).open(home.join(inside)).unwrap();
            if cut {
                file.set_len(at).unwrap();
            } else {
                let mut byte = [0];
                if file.read_at(&mut byte, at).unwrap() == 1 {
                    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
                }
            }
            drop(file);
            match open(&home).and_then(|log| all(&log)) {
                Ok(found) => {
                    let same = found == expected;
                    assert!(same, "{} at {at} of {length}, cut {cut}: {} records", inside.display(), found.len());
                    unharmed += 1;
                }
                Err(LogError::Damaged(_)) => damaged += 1,
                Err(error) => panic!("{} at {at} of {length}: {error}", inside.display()),
            }
            fs::remove_dir_all(&home).unwrap();
        }
    }
    println!("{damaged} damaged, {unharmed} unharmed");
    assert!(damaged > 5, "{damaged} damaged, {unharmed} unharmed");
}
