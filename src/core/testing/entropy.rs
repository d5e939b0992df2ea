//! Comparison and repair by name: what anti-entropy must bring, and what it must never bring (SIMULATION §11, PROTOCOL §5, §6).
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key, unless said otherwise. Nothing but anti-entropy repairs here:
//! reads that would are asked of one copy only.

use super::{
    Call, Fate, Rig, RigConfig,
    schedules::{A, B, C, GHOST, MILLI, assert_written, evict_at_a, get, put, value},
};
use crate::{
    namespace::{Eviction, Namespace},
    value::Hlc,
    wire::{
        client::{Status, Ttl},
        exchange::Exchange,
        frame::{Decoder, FrameType},
        peer::{Header, PeerMessage, ReplicaState, ReplicationKind},
    },
};
use bytes::BytesMut;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

/// Three rounds, the longest they may take, and the step at which trees are of one moment again.
const ROUNDS: Duration = Duration::from_secs(45);

/// What a node's own copy says.
fn own(rig: &mut Rig, node: usize, key: &str) -> Option<String> {
    let others: Vec<usize> = (0..rig.nodes()).filter(|other| *other != node && rig.is_running(*other)).collect();
    let answer = rig.call(node, &Call::get(key).r(1));
    assert!(!others.is_empty() && matches!(answer.status, Status::Ok | Status::NotFound), "{answer:?}");
    value(&answer).map(str::to_owned)
}

fn isolate(rig: &mut Rig, node: usize) {
    for other in (0..rig.nodes()).filter(|other| *other != node) {
        rig.cut(node, other);
        rig.believe_down(node, other, true);
        rig.believe_down(other, node, true);
    }
}

fn rejoin(rig: &mut Rig, node: usize) {
    rig.heal();
    for other in (0..rig.nodes()).filter(|other| *other != node) {
        rig.believe_down(node, other, false);
        rig.believe_down(other, node, false);
    }
}

fn repairs(rig: &Rig) -> u64 {
    (0..rig.nodes()).filter(|node| rig.is_running(*node)).map(|node| rig.stats(node).repairs_sent).sum()
}

#[test]
fn what_a_replica_missed_reaches_it_by_comparison() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &put("v2")));
    assert_written(&rig.call(B, &Call::put("other", "o").strict()));
    rig.run_for(Duration::from_secs(2));
    rejoin(&mut rig, C);
    rig.run_for(ROUNDS);
    for node in [A, B, C] {
        assert_eq!(own(&mut rig, node, "k").as_deref(), Some("v2"), "{node}");
        assert_eq!(own(&mut rig, node, "other").as_deref(), Some("o"), "{node}");
    }
    let before = repairs(&rig);
    rig.run_for(ROUNDS);
    assert_eq!(repairs(&rig), before, "and then nothing is sent any more");
    assert!([A, B, C].iter().all(|node| rig.stats(*node).tree_errors == 0));
}

#[test]
fn many_differences_of_large_values_are_repaired_in_bounded_steps() {
    let mut rig = Rig::new(RigConfig { memory: 64 << 20, partitions: 4, ..RigConfig::default() });
    isolate(&mut rig, C);
    for key in 0..3_000 {
        rig.call(A, &Call::put(format!("key {key}"), vec![7; 4_000]));
    }
    rig.run_for(Duration::from_secs(2));
    let largest = Rc::new(Cell::new(0));
    let seen = Rc::clone(&largest);
    rig.set_fate(move |_, _, message| {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        seen.set(seen.get().max(frame.len()));
        Fate::Deliver
    });
    rejoin(&mut rig, C);
    rig.run_for(ROUNDS);
    assert_eq!(rig.stats(C).entries, 3_000);
    assert!(largest.get() < 128 << 10, "{}", largest.get());
}

// --- 1: v1 everywhere; v2 acked by {A, B}; A restarts empty, has v1 from C; strict read {A, C} ---

#[test]
fn a_replica_that_restarted_empty_votes_once_it_compared_and_then_has_the_newest() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &put("v2")));
    rig.run_for(Duration::from_secs(1));
    rejoin(&mut rig, C);
    rig.kill(A);
    // B is not to be reached from A: what A has now it has from C.
    rig.cut(A, B);
    rig.restart(A, ReplicaState::Warming);
    rig.believe_down(A, B, true);
    rig.believe_down(B, A, true);
    rig.set_fate(|from, to, message| match message {
        PeerMessage::Exchange { .. } | PeerMessage::Replicate { .. }
            if (from, to) == (B, C) || (from, to) == (C, B) =>
        {
            Fate::Drop
        }
        _ => Fate::Deliver,
    });
    rig.run_for(ROUNDS);
    assert!(rig.warming(A) > 0, "one of two owners is not enough");
    let answer = rig.call(A, &get());
    assert!(value(&answer) != Some("v1"), "{answer:?}");
    rig.heal();
    rig.clear_fate();
    rig.believe_down(A, B, false);
    rig.believe_down(B, A, false);
    rig.run_for(ROUNDS);
    assert_eq!(rig.warming(A), 0);
    rig.kill(B);
    rig.all_believe_down(B, true);
    for node in [A, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v2"), "A votes, and holds it");
    }
}

// --- 2: v1 acked {A, B}, A wiped; A votes again only when it holds v1 ---

#[test]
fn a_wiped_replica_supersedes_a_slow_clock_once_it_is_ready() {
    let mut rig = Rig::three();
    rig.skew(C, -400);
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(MILLI * 5);
    rig.heal();
    rig.wipe(A, ReplicaState::Warming);
    // C learns nothing of v1 but by asking.
    rig.set_fate(|_, to, message| match message {
        PeerMessage::Replicate { kind: ReplicationKind::Repair { .. }, .. } if to == C => Fate::Drop,
        _ => Fate::Deliver,
    });
    rig.run_for(Duration::from_secs(4));
    assert_eq!(rig.warming(A), 0, "it compared with both, and skipped nothing because it was young");
    rig.cut(B, C);
    let answer = rig.call(C, &put("v2"));
    assert_written(&answer);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(value(&rig.call(A, &get())), Some("v2"));
}

// --- 3: all owners warming, N = 1 and N = 3, first boot: somebody becomes Ready ---

#[test]
fn an_only_owner_that_warms_is_ready_at_once() {
    let mut rig = Rig::new(RigConfig { nodes: 1, n: 1, ..RigConfig::default() });
    rig.wipe(A, ReplicaState::Warming);
    assert_eq!(rig.warming(A), 0);
    assert_written(&rig.call(A, &Call::put("k", "v").w(1).r(1).strict()));
}

#[test]
fn owners_that_all_warm_compare_with_each_other_and_become_ready() {
    let mut rig = Rig::three();
    rig.run_for(MILLI);
    for node in [A, B, C] {
        rig.kill(node);
    }
    for node in [A, B, C] {
        rig.restart(node, ReplicaState::Warming);
    }
    rig.run_for(Duration::from_secs(5));
    assert_eq!([A, B, C].map(|node| rig.warming(node)), [0, 0, 0]);
    assert_written(&rig.call(A, &put("v")));
}

#[test]
fn a_replica_becomes_ready_while_writes_go_on() {
    let mut rig = Rig::three();
    for key in 0..400 {
        assert_written(&rig.call(A, &Call::put(format!("key {key}"), "old").strict()));
    }
    rig.kill(C);
    rig.all_believe_down(C, true);
    rig.restart(C, ReplicaState::Warming);
    rig.all_believe_down(C, false);
    for round in 0..600 {
        rig.ask(round % 2, &Call::put(format!("key {}", round % 400), "new").strict());
        rig.run_for(MILLI * 10);
    }
    assert_eq!(rig.warming(C), 0);
    rig.run_for(ROUNDS);
    for key in 0..400 {
        let expected = own(&mut rig, A, &format!("key {key}"));
        assert_eq!(own(&mut rig, C, &format!("key {key}")), expected, "{key}");
    }
}

// --- 4: v acked {B, C}; A returns empty and compares with C only, which missed v ---

#[test]
fn one_source_is_not_enough() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v0").w(3)));
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(Duration::from_secs(1));
    rejoin(&mut rig, C);
    isolate(&mut rig, B);
    rig.kill(A);
    rig.restart(A, ReplicaState::Warming);
    rig.run_for(ROUNDS);
    let answer = rig.call(C, &get());
    assert!(matches!(answer.status, Status::Unavailable { .. }), "neither A nor C holds v1: {answer:?}");
}

// --- eviction ---

fn kept() -> Namespace {
    let mut namespace = Namespace::new("kept");
    namespace.eviction = Eviction::None;
    namespace
}

/// Three nodes of little memory; C missed half of what was written, and all have evicted.
fn pressed() -> Rig {
    let mut rig = Rig::new(RigConfig { memory: 1 << 20, namespaces: vec![kept()], ..RigConfig::default() });
    for key in 0..1_500 {
        rig.call(key % 3, &Call::put(format!("key {key}"), vec![1; 900]));
    }
    isolate(&mut rig, C);
    for key in 1_000..3_000 {
        rig.call(key % 2, &Call::put(format!("key {key}"), vec![2; 900]));
    }
    rig.run_for(Duration::from_secs(2));
    rejoin(&mut rig, C);
    rig
}

#[test]
fn repair_goes_to_zero_under_memory_pressure() {
    let mut rig = pressed();
    assert!([A, B, C].iter().all(|node| rig.stats(*node).evictions > 0 && rig.stats(*node).ghosts > 0));
    rig.run_for(ROUNDS * 2);
    let sent = repairs(&rig);
    assert!(sent > 0, "C missed something");
    rig.run_for(ROUNDS * 3);
    assert_eq!(repairs(&rig), sent, "what was evicted is not pushed back");
}

#[test]
fn an_evicted_entry_is_not_pushed_back_and_its_ghost_keeps_the_trees_equal() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    assert_written(&rig.call(A, &put("v").w(3)));
    // Only A is pressed: others hold no copy of what fills it.
    for other in [B, C] {
        rig.believe_down(A, other, true);
    }
    rig.set_fate(|from, _, message| match message {
        PeerMessage::Replicate { .. } | PeerMessage::Exchange { .. } if from == A => Fate::Drop,
        _ => Fate::Deliver,
    });
    for key in 0..3_000 {
        rig.call(A, &Call::put(format!("other {key}"), [7; 1_000]).w(1).ttl(Ttl::Millis(1_000)));
    }
    assert_eq!(own(&mut rig, A, "k"), None, "evicted");
    rig.run_for(Duration::from_secs(100));
    rig.clear_fate();
    for other in [B, C] {
        rig.believe_down(A, other, false);
    }
    rig.run_for(ROUNDS);
    assert_eq!(repairs(&rig), 0, "{:?}", rig.stats(B));
    assert_eq!(own(&mut rig, A, "k"), None);
    assert_eq!(own(&mut rig, B, "k").as_deref(), Some("v"));
}

// --- c402bc: v2 acked {A, B}; A evicts it, B loses its memory; C holds v1 ---

#[test]
fn what_one_owner_evicted_and_another_lost_is_a_miss_and_not_what_was_there_before() {
    for first in [A, C] {
        let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
        evict_at_a(&mut rig, GHOST);
        rig.kill(B);
        rig.restart(B, ReplicaState::Warming);
        let later = if first == A { C } else { A };
        rig.cut(B, later);
        rig.believe_down(B, later, true);
        rig.run_for(ROUNDS);
        assert!(rig.warming(B) > 0, "one of two is not enough");
        rig.heal();
        rig.believe_down(B, later, false);
        rig.run_for(ROUNDS);
        assert_eq!(rig.warming(B), 0);
        rig.kill(A);
        rig.all_believe_down(A, true);
        for node in [B, C] {
            let answer = rig.call(node, &get());
            assert_eq!(answer.status, Status::NotFound, "compared with {first} first, through {node}: {answer:?}");
        }
    }
}

// --- 80032af: A remembers v2 as a ghost, C holds v1, B is gone; a hint that took its time brings A v2 again ---

#[test]
fn what_fills_its_own_ghost_reaches_who_was_compared_with_before() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    let sent = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&sent);
    rig.set_fate(move |from, to, message| {
        if (from, to) == (B, A) && matches!(message, PeerMessage::Replicate { key, .. } if key.key == b"k") {
            let mut frame = BytesMut::new();
            message.encode(&mut frame);
            *seen.borrow_mut() = Some(frame.to_vec());
        }
        Fate::Deliver
    });
    evict_at_a(&mut rig, GHOST);
    rig.kill(B);
    rig.all_believe_down(B, true);
    rig.run_for(ROUNDS * 3);
    assert_eq!([A, C].map(|node| own(&mut rig, node, "k")), [None, Some("v1".to_owned())]);
    let compared = |rig: &Rig| [A, C].map(|node| rig.stats(node).trees_compared);
    let before = compared(&rig);
    rig.run_for(ROUNDS);
    assert_eq!(compared(&rig), before, "all that differs is remembered");
    let frame = sent.borrow_mut().take().expect("B wrote v2 to A");
    let (_, id, mut decoder) = Decoder::start(&frame).expect("our own codec's frame");
    let message = PeerMessage::decode(FrameType::Replicate, id, &mut decoder);
    let Ok(Some(PeerMessage::Replicate { header, key, entry, .. })) = message else { panic!("{message:?}") };
    let (header, kind) = (Header { hlc: Hlc::at(rig.wall(C)), ..header }, ReplicationKind::Hint);
    rig.inject(C, A, &PeerMessage::Replicate { id: 1, header, key, entry, stands_for: None, kind });
    rig.run_for(ROUNDS);
    assert_eq!([A, C].map(|node| own(&mut rig, node, "k")), [Some("v2".to_owned()), Some("v2".to_owned())]);
}

// --- what is gone stays gone ---

#[test]
fn a_delete_that_a_replica_missed_reaches_it_and_the_value_does_not_come_back() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &Call::delete("k").strict()));
    rig.run_for(Duration::from_secs(2));
    rejoin(&mut rig, C);
    rig.run_for(ROUNDS);
    for node in [A, B, C] {
        assert_eq!(own(&mut rig, node, "k"), None, "{node}");
        assert_eq!(rig.stats(node).tombstones, 1, "{node}");
    }
}

#[test]
fn expiry_at_clocks_that_differ_sends_nothing_and_brings_nothing_back() {
    let mut rig = Rig::three();
    rig.skew(B, 200);
    rig.skew(C, -200);
    for key in 0..300 {
        let ttl = Ttl::Millis(1_000 + key * 97);
        assert_written(&rig.call(A, &Call::put(format!("key {key}"), "v").w(3).strict().ttl(ttl)));
    }
    rig.run_for(Duration::from_secs(200));
    assert_eq!(repairs(&rig), 0);
    assert!([A, B, C].iter().all(|node| rig.stats(*node).entries == 0), "{:?}", rig.stats(A));
}

#[test]
fn an_entry_missed_by_one_replica_that_ends_is_not_repaired_past_its_end() {
    let mut rig = Rig::three();
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &put("v").ttl(Ttl::Millis(5_000))));
    rig.run_for(Duration::from_secs(51));
    rejoin(&mut rig, C);
    rig.run_for(ROUNDS);
    assert_eq!((repairs(&rig), rig.stats(C).entries), (0, 0), "it ends within 30 s everywhere");
}

#[test]
fn a_hold_that_only_one_replica_knows_is_joined_on_all() {
    let mut rig = Rig::three();
    isolate(&mut rig, C);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(Duration::from_secs(1));
    rejoin(&mut rig, C);
    // A and B replace a value without an end; C, which never had it, sees a plain value with one.
    assert_written(&rig.call(C, &put("v2").w(3).ttl(Ttl::Millis(100_000))));
    rig.run_for(ROUNDS);
    let before = repairs(&rig);
    assert!(before > 0);
    rig.run_for(ROUNDS * 2 + Duration::from_secs(60));
    for node in [A, B, C] {
        assert_eq!((own(&mut rig, node, "k"), rig.stats(node).tombstones), (None, 1), "held as a tombstone: {node}");
    }
    assert_eq!(repairs(&rig), before);
}

// --- 9: tombstones go when all owners hold them, and nothing comes back ---

const COLLECTED: Duration = Duration::from_secs(18 * 60);

#[test]
fn a_tombstone_goes_once_all_owners_held_it_long_enough_and_nothing_is_sent_after() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    assert_written(&rig.call(B, &Call::delete("k").strict()));
    rig.run_for(Duration::from_secs(14 * 60));
    assert_eq!([A, B, C].map(|node| rig.stats(node).tombstones), [1, 1, 1]);
    rig.run_for(Duration::from_secs(4 * 60));
    assert_eq!([A, B, C].map(|node| rig.stats(node).tombstones), [0, 0, 0]);
    rig.run_for(ROUNDS);
    assert_eq!((repairs(&rig), own(&mut rig, A, "k")), (0, None));
}

/// Found by seed 13, F4: that one had no age, and stayed for ever.
#[test]
fn what_expiry_made_a_tombstone_for_good_is_collected_like_any_other() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    assert_written(&rig.call(A, &put("v2").w(3).ttl(Ttl::Millis(5_000))));
    rig.run_for(Duration::from_secs(15 * 60));
    assert_eq!([A, B, C].map(|node| rig.stats(node).tombstones), [1, 1, 1], "it is one for less than 15 min");
    rig.run_for(Duration::from_secs(5 * 60));
    assert_eq!([A, B, C].map(|node| rig.stats(node).entries), [0, 0, 0]);
    rig.run_for(ROUNDS);
    assert_eq!((repairs(&rig), own(&mut rig, A, "k")), (0, None));
}

#[test]
fn a_tombstone_stays_while_one_owner_is_away_or_lacks_it() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    isolate(&mut rig, C);
    assert_written(&rig.call(B, &Call::delete("k").strict()));
    rig.run_for(COLLECTED);
    assert_eq!([A, B, C].map(|node| rig.stats(node).tombstones), [1, 1, 0]);
    rejoin(&mut rig, C);
    rig.run_for(ROUNDS);
    assert_eq!(
        [A, B, C].map(|node| (rig.stats(node).tombstones, own(&mut rig, node, "k"))),
        [(1, None), (1, None), (1, None)]
    );
    rig.run_for(COLLECTED);
    assert_eq!([A, B, C].map(|node| rig.stats(node).entries), [0, 0, 0], "whoever is its first owner");
}

#[test]
fn a_stand_in_that_slept_through_the_collection_brings_nothing_back_with_its_hint() {
    let mut rig = Rig::new(RigConfig { nodes: 5, ..RigConfig::default() });
    let (owners, stand_in) = (rig.owners(&get()), rig.fallbacks(&get())[0]);
    isolate(&mut rig, owners[2]);
    assert_written(&rig.call(owners[0], &Call::put("k", "v").w(3)));
    assert_eq!(rig.stats(stand_in).hints, 1);
    rejoin(&mut rig, owners[2]);
    // Its link was lost: the next probe passes in a second. The hint waits for ten.
    rig.run_for(Duration::from_secs(2));
    isolate(&mut rig, stand_in);
    assert_written(&rig.call(owners[0], &Call::delete("k").strict().w(3)));
    rig.run_for(COLLECTED);
    assert!(owners.iter().all(|node| rig.stats(*node).tombstones == 0), "collected without it");
    rejoin(&mut rig, stand_in);
    rig.run_for(ROUNDS * 2);
    for node in owners {
        assert_eq!(own(&mut rig, node, "k"), None, "{node}");
    }
}

#[test]
fn a_push_that_a_collection_overtook_brings_nothing_back() {
    let mut rig = Rig::three();
    // What A sends C of v is on its way for minutes; C learns of the delete meanwhile.
    rig.set_fate(|from, to, message| match message {
        PeerMessage::Replicate { entry, .. } if (from, to) == (A, C) && !entry.body.is_empty() => Fate::Hold,
        _ => Fate::Deliver,
    });
    assert_written(&rig.call(A, &put("v")));
    assert_written(&rig.call(A, &Call::delete("k").w(3)));
    rig.run_for(COLLECTED);
    assert_eq!([A, B, C].map(|node| rig.stats(node).tombstones), [0, 0, 0]);
    assert!(rig.held() > 0);
    rig.clear_fate();
    rig.release();
    rig.run_for(ROUNDS);
    for node in [A, B, C] {
        assert_eq!(own(&mut rig, node, "k"), None, "{node}");
    }
}

#[test]
fn a_lost_commit_leaves_a_tombstone_that_is_collected_later_and_no_value() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    assert_written(&rig.call(B, &Call::delete("k").strict()));
    rig.set_fate(|_, _, message| match message {
        PeerMessage::Exchange { exchange: Exchange::Commit { .. }, .. } => Fate::Drop,
        _ => Fate::Deliver,
    });
    rig.run_for(COLLECTED);
    rig.clear_fate();
    let left: u64 = [A, B, C].iter().map(|node| rig.stats(*node).tombstones).sum();
    assert!(left > 0, "only the first owner dropped it, and got it back");
    rig.run_for(COLLECTED);
    assert_eq!([A, B, C].map(|node| rig.stats(node).entries), [0, 0, 0]);
}

// --- costs ---

#[test]
fn an_idle_mesh_compares_for_less_than_two_kibibytes_a_second() {
    let config = RigConfig { memory: 64 << 20, partitions: 1024, ..RigConfig::default() };
    let mut rig = Rig::new(config);
    for key in 0..20_000 {
        rig.call(key % 3, &Call::put(format!("key {key}"), "v").w(3));
    }
    rig.run_for(Duration::from_secs(20));
    let bytes = Rc::new(Cell::new(0));
    let sum = Rc::clone(&bytes);
    rig.set_fate(move |from, _, message| {
        if from == A {
            let mut frame = BytesMut::new();
            message.encode(&mut frame);
            sum.set(sum.get() + frame.len() as u64 + 4);
        }
        Fate::Deliver
    });
    rig.run_for(Duration::from_secs(100));
    // What an idle exchange costs does not depend on how many entries there are: equal sums end it.
    assert!(bytes.get() > 0 && bytes.get() < 100 * 2_048, "{} bytes in 100 s", bytes.get());
    println!("idle: {} bytes a node in 100 s", bytes.get());
    rig.clear_fate();
    isolate(&mut rig, C);
    rig.call(A, &Call::put("key 7", "w"));
    rig.run_for(Duration::from_secs(2));
    rejoin(&mut rig, C);
    let cost = Rc::new(Cell::new(0));
    let sum = Rc::clone(&cost);
    rig.set_fate(move |_, _, message| {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        sum.set(sum.get() + frame.len() as u64);
        Fate::Deliver
    });
    rig.run_for(ROUNDS);
    assert_eq!(own(&mut rig, C, "key 7").as_deref(), Some("w"));
    println!("one differing key: {} bytes in all", cost.get());
}

/// Use is local knowledge: a mesh whose nodes were all restarted had forgotten what was popular, although it held every entry.
#[test]
fn a_rolling_restart_forgets_no_entry_and_not_which_were_popular() {
    let mut rig = Rig::new(RigConfig { memory: 4 << 20, ..RigConfig::default() });
    let write = |rig: &mut Rig, key: usize| {
        assert_written(&rig.call(A, &Call::put(format!("k{key}"), vec![7; 2_000]).w(3)));
    };
    (0..1_000).for_each(|key| write(&mut rig, key));
    for (node, key) in [A, B, C, A, B, C].into_iter().flat_map(|node| (0..100).map(move |key| (node, key))) {
        assert_eq!(rig.call(node, &Call::get(format!("k{key}")).r(1)).status, Status::Ok);
    }
    rig.run_for(Duration::from_secs(3));
    for node in [A, B, C] {
        rig.wipe(node, ReplicaState::Warming);
        rig.run_for(ROUNDS);
        assert_eq!((rig.stats(node).entries, rig.warming(node)), (1_000, 0));
    }
    (1_000..3_000).for_each(|key| write(&mut rig, key));
    let mut kept = |keys: std::ops::Range<usize>| {
        keys.filter(|key| rig.call(C, &Call::get(format!("k{key}")).r(1)).status == Status::Ok).count()
    };
    assert_eq!(kept(0..100), 100);
    assert!(kept(100..1_000) < 450, "nothing had to go");
}
