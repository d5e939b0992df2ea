//! The start of a node with a disk: what reaches its shards, what is set aside, what is removed.

use super::{
    log::{Log, close, key, value},
    *,
};
use meshwork_core::{
    config::ShardConfig,
    id::{ActorId, ClusterId, KeyHasher, NamespaceId, NodeId, ShardId},
    time::{Mono, Now, Wall},
    value::Hlc,
};
use std::{path::Path, sync::mpsc};

const CLUSTER: ClusterId = ClusterId(3);
const PARTITIONS: u16 = 64;
const NOW: Now = Now { mono: Mono(0), wall: Wall(1_700_000_000_000) };

fn place(dir: &Path) -> Place {
    let options = StoreOptions { cache: 1 << 20, queue: 1 << 20, sync_every: Duration::from_secs(1) };
    Place { data_dir: dir.to_owned(), options, owner: Owner { cluster: CLUSTER, node: NodeId(5) } }
}

/// An entry as core stores it, and the shard of two that it belongs to.
fn entry(name: &str) -> (Vec<u8>, Vec<u8>, u16) {
    let (namespace, name) = (NamespaceId::of("default"), name.as_bytes());
    let hash = KeyHasher::new(CLUSTER).hash(namespace, name);
    let key = [&[1][..], &hash.0.to_be_bytes(), &namespace.0.to_be_bytes(), name].concat();
    let value = [&[1, 0][..], &[0; 4], &7u64.to_be_bytes(), &9u64.to_be_bytes(), b"value"].concat();
    (key, value, hash.partition(PARTITIONS).0 % 2)
}

fn shard(number: u16) -> ShardConfig {
    ShardConfig {
        node: NodeId(5),
        shard: ShardId(number),
        shards: 2,
        cluster: CLUSTER,
        partitions: PARTITIONS,
        actor: ActorId(1),
        memory: 16 << 20,
        clock_floor: Hlc(0),
        disk: true,
        seed: 1,
    }
}

/// Restores into two shards; how many records each counted.
fn restore(recovery: &mut Recovery, disk: &Disk) -> [u64; 2] {
    restore_into(16 << 20, recovery, disk)
}

/// As `restore`, into shards of so many bytes.
fn restore_into(memory: u64, recovery: &mut Recovery, disk: &Disk) -> [u64; 2] {
    let (fed, told) = mpsc::channel();
    let (feeds, threads): (Vec<_>, Vec<_>) = (0..2)
        .map(|number| {
            let (feed, records) = mpsc::sync_channel(2);
            let fed = fed.clone();
            let filled = std::thread::spawn(move || {
                let shard = fill(&ShardConfig { memory, ..shard(number) }, &records, &fed, || NOW, |_| ());
                shard.stats().restored
            });
            (feed, filled)
        })
        .unzip();
    drop(fed);
    recovery.restore(feeds, &told, PARTITIONS, disk);
    let mut counts = threads.into_iter().map(|thread| thread.join().unwrap());
    [counts.next().unwrap(), counts.next().unwrap()]
}

fn write(log: &mut Log, records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
    log.commit(records.into_iter().map(|(name, bytes)| (key(&name), Some(value(&bytes)))), true).unwrap();
}

fn stores(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("store") && name != "store.synced").collect();
    names.sort_unstable();
    names
}

#[test]
fn every_record_reaches_its_shard_and_those_of_no_use_are_removed_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (0..500).map(|number| entry(&format!("key-{number}"))).collect();
    let mut log = place(dir.path()).open().unwrap();
    write(&mut log, entries.iter().map(|(key, value, _)| (key.clone(), value.clone())));
    let strange = [(vec![99, 1, 2], vec![1]), (Vec::new(), vec![1]), (entry("x").0, vec![250, 0])];
    write(&mut log, strange);
    close(log);

    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    let counts = restore(&mut recovery, &disk);
    let of = |shard: u16| entries.iter().filter(|(.., theirs)| *theirs == shard).count() as u64;
    assert_eq!(counts, [of(0), of(1)]);
    let status = disk.status(0);
    assert_eq!((status.restored, status.skipped, status.trouble.clone()), (500, 3, None));
    assert!(status.found.contains("3 stored records could not be used"), "{status:?}");

    drop(recovery);
    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert_eq!(restore(&mut recovery, &disk), counts);
    let status = disk.status(0);
    assert_eq!((status.restored, status.skipped, status.found), (500, 0, String::new()));
}

#[test]
fn what_finds_no_room_in_memory_stays_for_a_larger_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = place(dir.path()).open().unwrap();
    write(&mut log, (0..12_000).map(|number| entry(&format!("key-{number}"))).map(|(key, value, _)| (key, value)));
    close(log);
    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    let small: u64 = restore_into(256 << 10, &mut recovery, &disk).iter().sum();
    let status = disk.status(0);
    assert!(status.found.contains("raise memory.limit"), "{status:?}");
    assert!(small < 12_000 && status.skipped > 0, "{small} {status:?}");
    drop(recovery);
    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert_eq!(restore(&mut recovery, &disk).iter().sum::<u64>(), 12_000);
    assert_eq!((disk.status(0).skipped, disk.status(0).found), (0, String::new()));
}

#[test]
fn a_damaged_store_is_set_aside_whole_and_the_node_starts_with_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = place(dir.path()).open().unwrap();
    write(&mut log, (0..50).map(|number| entry(&format!("key-{number}"))).map(|(key, value, _)| (key, value)));
    log.sync().unwrap();
    close(log);
    let journal = dir.path().join("store/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[500] ^= 1;
    std::fs::write(&journal, bytes).unwrap();

    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert_eq!(restore(&mut recovery, &disk), [0, 0]);
    let status = disk.status(0);
    assert_eq!((status.restored, status.trouble.clone()), (0, None), "{status:?}");
    assert!(status.found.contains("warms from its peers"), "{status:?}");
    let there = stores(dir.path());
    assert!(there.len() == 2 && there[1].starts_with("store.damaged-"), "{there:?}");
    // The new one works, and is found again.
    let (key, value, shard) = entry("new");
    write(recovery.log.as_mut().unwrap(), [(key, value)]);
    drop(recovery);
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert_eq!(restore(&mut recovery, &disk)[usize::from(shard)], 1);
}

#[test]
fn damage_met_half_way_empties_the_shards_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = place(dir.path()).open().unwrap();
    // More than a part, in several tables.
    let large = |number: u16| {
        let (key, mut value, _) = entry(&format!("key-{number}"));
        value.extend_from_slice(&[7; 200 << 10]);
        (key, value)
    };
    for number in 0..120 {
        write(&mut log, [large(number)]);
    }
    log.sync().unwrap();
    log.wait_until_written_out();
    close(log);
    let mut tables: Vec<_> = walk(&dir.path().join("store")).into_iter().filter(|path| is_table(path)).collect();
    tables.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).unwrap().len()));
    let mut bytes = std::fs::read(&tables[0]).unwrap();
    let last_block = bytes.len() * 9 / 10;
    bytes[last_block] ^= 1;
    std::fs::write(&tables[0], bytes).unwrap();

    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert!(recovery.log.is_some(), "blocks of values are looked at only when they are read");
    assert_eq!(restore(&mut recovery, &disk), [0, 0], "what was read before counts no more");
    assert_eq!((disk.status(0).restored, stores(dir.path()).len()), (0, 2));
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn is_table(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("tables"))
}

#[test]
fn a_store_that_is_known_to_be_wrong_is_not_even_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = place(dir.path()).open().unwrap();
    write(&mut log, [(entry("k").0, entry("k").1)]);
    close(log);
    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, Some("mesh.meta is damaged"));
    assert_eq!(restore(&mut recovery, &disk), [0, 0]);
    assert!(disk.status(0).found.contains("mesh.meta is damaged"));
    // Without a store there is nothing to distrust.
    let fresh = tempfile::tempdir().unwrap();
    let recovery = Recovery::open(place(fresh.path()), &Disk::default(), Some("mesh.meta is damaged"));
    assert!(recovery.log.is_some());
    assert_eq!(stores(fresh.path()), ["store"]);
}

#[test]
fn a_disk_that_refuses_keeps_nobody_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    // Opened twice in one process: the lock refuses, as a full or read-only disk would.
    let held = place(dir.path()).open().unwrap();
    let disk = Disk::default();
    let mut recovery = Recovery::open(place(dir.path()), &disk, None);
    assert_eq!(restore(&mut recovery, &disk), [0, 0]);
    assert!(recovery.log.is_none() && recovery.unread);
    assert!(disk.status(0).trouble.unwrap().contains("cannot be opened"));
    assert_eq!(stores(dir.path()), ["store", "store.unread"], "nothing is set aside that may be well");
    close(held);
}
