//! What a log keeps, by name: votes that wait for the disk, restarts that find it, disks that are older (ARCHITECTURE §1).
//!
//! N = 3, R = W = 2, nodes A, B, C with disks, namespace `kept` with `ack = log`, unless said otherwise.

use super::{
    Call, Fate, Rig, RigConfig,
    disk::{Disk, DiskMode},
    rig::{Effects, node_id},
    schedules::{A, B, C, MILLI, assert_written, value},
};
use crate::{
    config::ShardConfig,
    durable::{RestoreError, stored_shard},
    id::{ActorId, ClusterId, KeyHash, PartitionId, ShardId},
    input::ShardInput,
    namespace::{Ack, Eviction, Namespace},
    rng::Rng,
    shard::Shard,
    time::{Mono, Now},
    value::{Hlc, Version},
    view::View,
    wire::{
        client::{Status, Ttl},
        peer::{PeerMessage, ReplicaState},
    },
};
use std::{cell::Cell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

/// Owners that restarted together have compared by then.
const ROUNDS: Duration = Duration::from_secs(45);

fn rig_of(ack: Ack, disks: usize) -> Rig {
    let namespaces = vec![Namespace { ack, ..Namespace::new("kept") }];
    Rig::new(RigConfig { disks, namespaces, ..RigConfig::default() })
}

fn put(key: &str, value: &str) -> Call {
    Call::put(key, value).within("kept")
}

fn read(rig: &mut Rig, node: usize, key: &str) -> Option<String> {
    let answer = rig.call(node, &Call::get(key).within("kept").strict());
    assert!(matches!(answer.status, Status::Ok | Status::NotFound), "{answer:?}");
    value(&answer).map(str::to_owned)
}

fn restart_all(rig: &mut Rig) {
    for node in [A, B, C] {
        rig.kill(node);
    }
    for node in [A, B, C] {
        assert_eq!(rig.restart_from_disk(node), 0);
    }
    rig.run_for(ROUNDS);
    assert!([A, B, C].iter().all(|node| rig.warming(*node) == 0), "all warmed together, and all compared");
}

#[test]
fn a_write_is_acknowledged_once_w_disks_have_it_and_not_before() {
    let mut rig = rig_of(Ack::Log, 3);
    for node in [A, B, C] {
        rig.set_disk(node, DiskMode::Stalled);
    }
    let ticket = rig.ask(A, &put("k", "v").strict());
    rig.run_for(MILLI * 50);
    assert_eq!(rig.reply(ticket), None, "all three hold it in memory, and no disk has it");
    rig.set_disk(B, DiskMode::Good);
    rig.run_for(MILLI * 50);
    assert_eq!(rig.reply(ticket), None, "one disk is not two");
    rig.set_disk(A, DiskMode::Good);
    let answer = rig.wait(ticket);
    assert_written(&answer);
    assert_eq!(answer.worth.acks, 2);
}

#[test]
fn a_namespace_that_asks_for_no_log_waits_for_no_disk() {
    let mut rig = rig_of(Ack::Log, 3);
    for node in [A, B, C] {
        rig.set_disk(node, DiskMode::Stalled);
    }
    assert_written(&rig.call(A, &Call::put("k", "v").strict()));
    assert_eq!(rig.stats(A).stored_writes, 0);
}

#[test]
fn a_disk_that_is_full_gives_no_vote_and_what_it_missed_is_written_when_there_is_room() {
    let mut rig = rig_of(Ack::Log, 3);
    for node in [B, C] {
        rig.set_disk(node, DiskMode::Full);
    }
    let answer = rig.call(A, &put("k", "v").strict());
    assert!(matches!(answer.status, Status::Unavailable { need: 2, .. }), "{answer:?}");
    assert!(answer.maybe_applied, "it is in their memory");
    assert!(rig.stats(B).votes_not_stored > 0 && rig.stats(B).stored_failures > 0);
    for node in [B, C] {
        rig.set_disk(node, DiskMode::Good);
    }
    rig.run_for(Duration::from_secs(3));
    assert_written(&rig.call(A, &put("k", "w").strict()));
    rig.run_for(Duration::from_secs(1));
    assert!([A, B, C].iter().all(|node| rig.stats(*node).stores_waiting == 0));
    restart_all(&mut rig);
    assert_eq!(read(&mut rig, C, "k").as_deref(), Some("w"));
}

#[test]
fn a_vote_for_what_a_full_disk_did_not_keep_is_not_given_later_either() {
    let mut rig = rig_of(Ack::Log, 3);
    rig.set_disk(B, DiskMode::Full);
    assert_written(&rig.call(A, &put("k", "v").strict()));
    rig.run_for(MILLI * 50);
    // Something else is kept by B now, under a later ticket; what failed still waits to be written again.
    rig.set_disk(B, DiskMode::Good);
    assert_written(&rig.call(A, &put("other", "o").strict().w(3)));
    let answer = rig.call(B, &Call::delete("gone").within("kept").strict());
    assert_written(&answer);
    rig.kill(A);
    rig.kill(B);
    rig.kill(C);
    // Of "k" the disks of A and C know: two of three restart, and it is there whoever they are.
    for node in [A, B, C] {
        rig.restart_from_disk(node);
    }
    rig.run_for(ROUNDS);
    assert_eq!(read(&mut rig, B, "k").as_deref(), Some("v"));
}

#[test]
fn a_hint_for_an_owner_without_a_disk_ends_when_that_holds_it_in_memory() {
    let mut rig = rig_of(Ack::Log, 2);
    rig.kill(C);
    rig.all_believe_down(C, true);
    assert_written(&rig.call(A, &put("k", "v")));
    let held = |rig: &Rig| [A, B].iter().map(|node| rig.stats(*node).hints).sum::<u64>();
    assert_eq!(held(&rig), 1);
    rig.restart(C, ReplicaState::Ready);
    rig.all_believe_down(C, false);
    rig.run_for(Duration::from_secs(60));
    assert_eq!((held(&rig), rig.stats(C).entries), (0, 1));
}

#[test]
fn a_node_without_a_disk_gives_no_vote_and_the_client_is_told_why() {
    let mut rig = rig_of(Ack::Log, 1);
    let answer = rig.call(A, &put("k", "v"));
    assert!(matches!(answer.status, Status::Unavailable { need: 2, have: 1 }), "{answer:?}");
    let text = answer.text.unwrap_or_default();
    assert!(
        text.starts_with("namespace kept wants ack=log, and node ")
            && text.contains("has no data_dir: set node.data_dir there"),
        "{text}"
    );
    let two = &mut rig_of(Ack::Log, 2);
    assert_written(&two.call(A, &put("k", "v")));
    assert_written(&two.call(C, &put("k", "w")));
    two.run_for(Duration::from_secs(2));
    assert_eq!(two.hints_by_target(A), [], "it holds the write: nothing has to be brought to it");
}

#[test]
fn a_mesh_that_restarts_as_a_whole_keeps_every_acknowledged_write() {
    let mut rig = rig_of(Ack::Log, 3);
    for key in 0..40 {
        assert_written(&rig.call(key % 3, &put(&format!("key {key}"), &format!("value {key}"))));
    }
    for key in 0..10 {
        assert_written(&rig.call(A, &Call::delete(format!("key {key}")).within("kept")));
    }
    restart_all(&mut rig);
    for key in 0..40 {
        let expected = (key >= 10).then(|| format!("value {key}"));
        assert_eq!(read(&mut rig, key % 3, &format!("key {key}")), expected, "{key}");
    }
    assert!(rig.stats(A).restored >= 40);
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_synced() {
    let mut rig = rig_of(Ack::Fsync, 3);
    for key in 0..20 {
        assert_written(&rig.call(A, &put(&format!("key {key}"), "v")));
    }
    for node in [A, B, C] {
        rig.disk(node).lose_power(0);
    }
    restart_all(&mut rig);
    for key in 0..20 {
        assert_eq!(read(&mut rig, B, &format!("key {key}")).as_deref(), Some("v"), "{key}");
    }
}

#[test]
fn a_damaged_record_is_skipped_and_repaired_by_peers() {
    let mut rig = rig_of(Ack::Log, 3);
    assert_written(&rig.call(A, &put("k", "v").w(3)));
    assert_written(&rig.call(A, &put("other", "o").w(3)));
    rig.run_for(Duration::from_secs(2));
    rig.kill(A);
    let mut content = rig.disk(A).content();
    let first = content.values_mut().next().expect("two records");
    first.truncate(first.len() / 2);
    content.insert(vec![200, 1, 2], vec![3]);
    *rig.disk(A) = Disk::of(content);
    assert_eq!(rig.restart_from_disk(A), 2);
    rig.run_for(ROUNDS);
    assert_eq!((rig.warming(A), rig.stats(A).entries), (0, 2));
    assert_eq!((read(&mut rig, A, "k").as_deref(), read(&mut rig, A, "other").as_deref()), (Some("v"), Some("o")));
}

/// The tombstone is older than anything that may be on its way, and held by all; but B's disk has not synced what made it.
fn assert_promised_once_synced(buries: &Call) {
    let mut rig = rig_of(Ack::Log, 3);
    assert_written(&rig.call(A, &put("k", "v").w(3)));
    rig.run_for(Duration::from_secs(1));
    for node in [A, B, C] {
        rig.disk(node).lose_power(usize::MAX);
    }
    assert_written(&rig.call(A, buries));
    rig.run_for(Duration::from_secs(1));
    assert!(rig.disk(B).unsynced() > 0, "it is in its log, and not synced");
    // From now on B's disk takes nothing: a barrier does not come through.
    rig.set_disk(B, DiskMode::Stalled);
    rig.run_for(Duration::from_secs(20 * 60));
    let tombstones = |rig: &Rig| [A, B, C].map(|node| rig.stats(node).tombstones);
    assert_eq!(tombstones(&rig), [1, 1, 1], "B promises nothing");
    rig.kill(B);
    rig.disk(B).lose_power(0);
    rig.restart_from_disk(B);
    rig.run_for(ROUNDS);
    assert_eq!(read(&mut rig, B, "k"), None, "what its disk brought back is buried by the others");
    rig.set_state(B, ReplicaState::Ready);
    rig.run_for(Duration::from_secs(30 * 60));
    assert_eq!(tombstones(&rig), [0, 0, 0], "and once B has synced it, all forget it");
    rig.kill(B);
    rig.disk(B).lose_power(0);
    rig.restart_from_disk(B);
    rig.run_for(ROUNDS);
    for node in [A, B, C] {
        assert_eq!(read(&mut rig, node, "k"), None, "{node}");
    }
}

#[test]
fn a_tombstone_is_not_promised_for_collection_before_it_is_synced() {
    assert_promised_once_synced(&Call::delete("k").within("kept").w(3));
}

/// A value over one without an end, which it outlasts: at its own end it becomes a tombstone, and nothing is written then.
#[test]
fn a_value_that_becomes_a_tombstone_is_not_promised_before_it_is_synced_either() {
    assert_promised_once_synced(&put("k", "ends").w(3).ttl(Ttl::Millis(5_000)));
}

/// What a shard holds, by key hash.
fn held(shard: &Shard, partitions: u16, shards: u16) -> BTreeMap<KeyHash, Version> {
    let mut held = BTreeMap::new();
    let mine = (0..partitions).filter(|at| at % shards == shard.config.shard.0).map(PartitionId);
    for partition in mine {
        for copies in 1..=3 {
            shard.holdings(copies, partition, |item| {
                if !item.ghost {
                    held.insert(item.hash, item.version);
                }
            });
        }
    }
    held
}

/// Puts, deletes and ends at random, in memory that is too small for them, over restarts and changes of layouts.
#[test]
fn what_is_restored_is_what_was_held_whatever_happened() {
    let (mut compared, mut evicted) = (0, 0);
    for seed in 1..=6 {
        let mut rng = Rng::fork(seed, "stored");
        let namespaces = vec![Namespace { ack: Ack::Log, ..Namespace::new("kept") }];
        let (memory, longest) = if seed % 2 == 0 { (20 << 20, 150_000) } else { (8 << 20, 6_000) };
        let mut rig = Rig::new(RigConfig { nodes: 4, disks: 4, memory, namespaces, seed, ..RigConfig::default() });
        for step in 0..900 {
            let key = format!("key {}", rng.below(400));
            let value = vec![7; usize::try_from(rng.below(longest)).expect("small")];
            let call = match rng.below(10) {
                0..7 => Call::put(&key, value),
                7 => Call::put(&key, value).ttl(Ttl::Millis(1 + rng.below(20_000))),
                _ => Call::delete(&key),
            };
            let node = usize::try_from(rng.below(4)).expect("few");
            rig.ask(node, &call.within("kept"));
            rig.run_for(MILLI * u32::try_from(rng.below(60)).expect("small"));
            match step {
                300 => rig.transition(&[A, B, C]),
                500 => rig.set_disk(B, DiskMode::Full),
                520 => rig.set_disk(B, DiskMode::Good),
                600 => rig.transition(&[A, B, C, 3]),
                _ => {}
            }
        }
        rig.run_for(Duration::from_secs(100));
        for node in 0..4 {
            assert_eq!(rig.stats(node).stores_waiting, 0, "seed {seed}");
            evicted += rig.stats(node).evictions;
            let of = |rig: &Rig| held(rig.nodes[node].shard.as_ref().expect("it runs"), 16, 1);
            let before = of(&rig);
            rig.kill(node);
            assert_eq!(rig.restart_from_disk(node), 0, "seed {seed}");
            let after = of(&rig);
            let lost: Vec<&KeyHash> = before.keys().filter(|hash| after.get(hash) != before.get(hash)).collect();
            let more: Vec<&KeyHash> = after.keys().filter(|hash| !before.contains_key(hash)).collect();
            assert!(lost.is_empty(), "seed {seed}, node {node}: {lost:?}");
            // Removals that a full disk did not keep are not made up for: what was evicted there may come back.
            assert!(more.is_empty() || node == B, "seed {seed}, node {node}: {more:?}");
            compared += before.len();
        }
    }
    assert!(compared > 3_000 && evicted > 100, "{compared} {evicted}");
}

#[test]
fn a_small_memory_takes_up_what_it_stored() {
    let namespaces = vec![Namespace { ack: Ack::Log, n: 1, r: 1, w: 1, ..Namespace::new("kept") }];
    let config = RigConfig { nodes: 1, n: 1, disks: 1, memory: 384 << 10, namespaces, ..RigConfig::default() };
    let mut rig = Rig::new(config);
    assert_written(&rig.call(A, &put("k", "v")));
    rig.kill(A);
    assert_eq!(rig.restart_from_disk(A), 0);
    assert_eq!(read(&mut rig, A, "k").as_deref(), Some("v"));
}

/// What waits for its namespace weighs no more than what is held. Of a memory that is full to the last byte, and may not evict, a
/// hundredth may find no room: it is cut into pieces in another order.
#[test]
fn a_full_memory_takes_up_all_that_it_held() {
    for (bytes, eviction) in [(8, Eviction::None), (200, Eviction::None), (8, Eviction::On)] {
        let kept = Namespace { ack: Ack::Log, n: 1, r: 1, w: 1, eviction, ..Namespace::new("kept") };
        let namespaces = vec![kept];
        let mut rig =
            Rig::new(RigConfig { nodes: 1, n: 1, disks: 1, memory: 8 << 20, namespaces, ..RigConfig::default() });
        let value = "v".repeat(bytes);
        for number in 0..(8 << 20) / (bytes + 40) {
            assert_written(&rig.call(A, &put(&format!("{number:08}"), &value)));
            if number % 256 == 0 && rig.stats(A).memory_bytes > (8 << 20) / 100 * 97 {
                break;
            }
        }
        let held = rig.stats(A);
        assert!(held.memory_bytes > (8 << 20) / 100 * if eviction == Eviction::On { 80 } else { 97 }, "{held:?}");
        rig.kill(A);
        assert_eq!(rig.restart_from_disk(A), 0, "{bytes} bytes, {eviction:?}");
        rig.run_for(Duration::from_secs(2));
        let stats = rig.stats(A);
        assert_eq!((stats.partitions_warming, stats.partitions_short, stats.entries), (0, 0, held.entries));
    }
}

/// A memory that became smaller evicts what it cannot take up: that is no reason to be never Ready, where all owners have less.
#[test]
fn owners_that_restart_with_less_memory_evict_and_vote() {
    let kept = Namespace { ack: Ack::Log, ..Namespace::new("kept") };
    let namespaces = vec![kept];
    let mut rig = Rig::new(RigConfig { disks: 3, memory: 8 << 20, namespaces, ..RigConfig::default() });
    for number in 0..20_000 {
        assert_written(&rig.call(A, &put(&format!("{number:08}"), &"v".repeat(200))));
    }
    rig.set_memory(2 << 20);
    for node in [A, B, C] {
        rig.kill(node);
    }
    for node in [A, B, C] {
        assert!(rig.restart_from_disk(node) > 0);
    }
    rig.run_for(ROUNDS);
    for node in [A, B, C] {
        let stats = rig.stats(node);
        assert_eq!((stats.partitions_warming, stats.partitions_short), (0, 0));
    }
    for number in (0..20_000).step_by(500) {
        read(&mut rig, A, &format!("{number:08}"));
    }
}

/// A node of so many shards that starts with this content; how many records each refused because they are another's.
fn shards_of(rig: &mut Rig, shards: u16, view: &Arc<View>) -> (usize, BTreeMap<KeyHash, Version>) {
    let (mut foreign, mut all) = (0, BTreeMap::new());
    let now = Now { mono: Mono(0), wall: rig.wall(A) };
    for shard in 0..shards {
        let mut made = Shard::new(ShardConfig {
            node: node_id(A),
            shard: ShardId(shard),
            shards,
            cluster: ClusterId(7),
            partitions: 16,
            actor: ActorId(9),
            memory: 8 << 20,
            clock_floor: Hlc::default(),
            disk: true,
            seed: 1,
        });
        for (key, value) in rig.disk(A).content() {
            match made.restore(now, &key, &value) {
                Ok(()) => assert_eq!(stored_shard(&key, shards, 16), Some(shard)),
                Err(error) => {
                    assert_eq!(error, RestoreError::Shard);
                    foreign += 1;
                }
            }
        }
        made.handle(now, ShardInput::View(Arc::clone(view)), &mut Effects::default());
        all.append(&mut held(&made, 16, shards));
    }
    (foreign, all)
}

#[test]
fn records_find_their_shards_when_the_number_of_shards_changed() {
    let mut rig = rig_of(Ack::Log, 3);
    for key in 0..60 {
        assert_written(&rig.call(A, &put(&format!("key {key}"), "v").w(3)));
    }
    rig.run_for(Duration::from_secs(1));
    let before = held(rig.nodes[A].shard.as_ref().expect("it runs"), 16, 1);
    let view = Arc::clone(rig.nodes[A].view.as_ref().expect("it was told"));
    assert_eq!(before.len(), 60);
    assert_eq!(shards_of(&mut rig, 2, &view), (60, before.clone()));
    assert_eq!(shards_of(&mut rig, 3, &view), (120, before));
}

/// What the control plane of a node whose disk is older than its peers remember tells its shards.
#[test]
fn a_shard_whose_node_lapsed_starts_empty_on_its_disk_too() {
    let mut rig = rig_of(Ack::Log, 3);
    for key in 0..20 {
        assert_written(&rig.call(A, &put(&format!("key {key}"), "v").w(3)));
    }
    rig.run_for(Duration::from_secs(1));
    rig.kill(A);
    rig.lapses[A] = 1;
    assert_eq!(rig.restart_from_disk(A), 0);
    assert_eq!(held(rig.nodes[A].shard.as_ref().expect("it runs"), 16, 1), BTreeMap::new());
    rig.cut(A, B);
    rig.cut(A, C);
    rig.run_for(Duration::from_secs(1));
    rig.kill(A);
    rig.lapses[A] = 0;
    rig.restart_from_disk(A);
    assert_eq!(held(rig.nodes[A].shard.as_ref().expect("it runs"), 16, 1), BTreeMap::new(), "it was void");
    rig.heal();
    rig.run_for(ROUNDS);
    assert_eq!((rig.warming(A), held(rig.nodes[A].shard.as_ref().expect("it runs"), 16, 1).len()), (0, 20));
}

/// Found by the simulator's seed 12c of F21: nobody asked again, and the transition never ended.
#[test]
fn what_moved_here_counts_once_a_disk_that_was_full_has_it() {
    let namespaces = vec![Namespace { ack: Ack::Log, ..Namespace::new("kept") }];
    let mut rig = Rig::new(RigConfig { nodes: 4, disks: 4, namespaces, ..RigConfig::default() });
    rig.relayout(&[A, B, C]);
    for key in 0..20 {
        assert_written(&rig.call(A, &put(&format!("key {key}"), "v")));
    }
    rig.begin_transition(&[A, B, C, 3]);
    rig.run_for(Duration::from_secs(1));
    rig.set_disk(3, DiskMode::Full);
    rig.begin_moving();
    rig.run_for(Duration::from_secs(10));
    assert!(!rig.is_moved(), "what only its memory has may be lost with it");
    rig.set_disk(3, DiskMode::Good);
    rig.wait_until_moved();
    rig.flip();
    rig.run_for(Duration::from_secs(1));
    rig.retire();
    for node in [A, B, C, 3] {
        rig.kill(node);
    }
    for node in [A, B, C, 3] {
        rig.disk(node).lose_power(0);
        rig.restart_from_disk(node);
    }
    rig.run_for(ROUNDS);
    for key in 0..20 {
        assert_eq!(read(&mut rig, 3, &format!("key {key}")).as_deref(), Some("v"), "{key}");
    }
}

/// A comparison that began before a lapse had seen as equal what the lapse emptied, and made the copy Ready all the same.
#[test]
fn a_comparison_from_before_a_lapse_does_not_make_what_is_empty_now_ready() {
    let mut rig = Rig::new(RigConfig { partitions: 1, ..RigConfig::default() });
    assert_written(&rig.call(B, &Call::put("equal", "v").w(3)));
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &Call::put("missed", "v").strict()));
    rig.run_for(Duration::from_secs(3));
    let asked = Rc::new(Cell::new([false; 3]));
    let seen = Rc::clone(&asked);
    rig.set_fate(move |from, to, message| {
        let held = to == A && matches!(message, PeerMessage::Replicate { .. });
        let mut asked = seen.get();
        asked[from] |= held;
        seen.set(asked);
        if held { Fate::Hold } else { Fate::Deliver }
    });
    rig.heal();
    rig.set_state(A, ReplicaState::Warming);
    while asked.get() != [false, true, true] {
        rig.run_for(Duration::from_millis(1));
    }
    rig.lapses[A] = 1;
    rig.publish();
    rig.clear_fate();
    rig.release();
    while rig.warming(A) > 0 {
        rig.run_for(Duration::from_millis(1));
    }
    assert_eq!(rig.stats(A).entries, 2, "it votes, and holds what it held before the lapse");
}

/// By a review: a word for each record in one step takes more memory than the records did.
#[test]
fn what_a_lapse_makes_void_leaves_the_disk_by_and_by() {
    let mut rig = rig_of(Ack::Log, 3);
    let count = 3_000;
    for number in 0..count {
        assert_written(&rig.call(A, &put(&format!("k{number}"), "v").w(3)));
    }
    rig.run_for(Duration::from_secs(1));
    let records = |rig: &mut Rig| rig.disk(A).content().keys().filter(|key| key[0] == 1).count();
    assert_eq!(records(&mut rig), count);
    rig.cut(A, B);
    rig.cut(A, C);
    rig.set_disk(A, DiskMode::Stalled);
    let before = rig.stats(A).stored_writes;
    rig.lapses[A] = 1;
    rig.publish();
    rig.run_for(Duration::from_secs(1));
    let partitions = u64::from(RigConfig::default().partitions);
    let given = rig.stats(A).stored_writes - before;
    assert!(rig.stats(A).entries == 0 && given < partitions + 300, "{given} at once");
    // What the disk refuses is asked for again.
    rig.set_disk(A, DiskMode::Full);
    rig.run_for(Duration::from_millis(100));
    rig.set_disk(A, DiskMode::Good);
    // A key that is held again keeps its record.
    rig.heal();
    rig.run_for(ROUNDS);
    let held = usize::try_from(rig.stats(A).entries).unwrap();
    assert_eq!((held, records(&mut rig)), (count, count));
    // Nothing comes back to one that lapses again and stays alone.
    rig.cut(A, B);
    rig.cut(A, C);
    rig.lapses[A] = 2;
    rig.publish();
    rig.run_for(Duration::from_secs(5));
    assert_eq!((rig.stats(A).entries, records(&mut rig)), (0, 0));
}
