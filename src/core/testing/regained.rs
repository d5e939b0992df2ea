//! What a node is given back that it had let go, and what it may still hold of it (PROTOCOL §2; `handoff::ownership`).
//!
//! Old copies are of a time before others agreed to forget tombstones: each test deletes meanwhile, waits until nobody knows of it
//! any more, and gives everything back. Nodes A to F; N = 3, R = W = 2 unless said otherwise.

use super::{
    Call, Rig, RigConfig,
    disk::DiskMode,
    schedules::{A, B, C, MILLI, assert_written},
    transitions::{D, E, F, found},
};
use crate::{
    namespace::{Ack, Eviction, Namespace},
    ring::{Layout, Ring},
    wire::client::Status,
};
use std::{sync::Arc, time::Duration};

/// A tombstone is collected by then.
const COLLECTED: Duration = Duration::from_secs(20 * 60);
const KEYS: u64 = 60;

fn rig_of(namespace: Namespace, disks: usize) -> Rig {
    Rig::new(RigConfig { nodes: 6, disks, namespaces: vec![namespace], ..RigConfig::default() })
}

/// Namespace `kept`, with `ack = log`, of a mesh with disks.
fn kept() -> Rig {
    rig_of(Namespace { ack: Ack::Log, ..Namespace::new("kept") }, 6)
}

fn each(rig: &mut Rig, call: impl Fn(String) -> Call, judge: impl Fn(Status) -> bool) {
    for key in 0..KEYS {
        let call = call(format!("k{key}")).strict();
        let at = rig.owners(&call)[0];
        let answer = rig.call(at, &call);
        assert!(judge(answer.status), "k{key}: {answer:?}");
    }
}

fn write_all(rig: &mut Rig, space: &'static str) {
    each(rig, |key| Call::put(key, "v").within(space), |status| status == Status::Ok);
}

fn delete_all(rig: &mut Rig, space: &'static str) {
    each(rig, |key| Call::delete(key).within(space), |status| status == Status::Ok);
    rig.run_for(COLLECTED);
}

fn assert_gone(rig: &mut Rig, space: &'static str) {
    each(rig, |key| Call::get(key).within(space), |status| status == Status::NotFound);
}

fn entries(rig: &Rig) -> [u64; 6] {
    [A, B, C, D, E, F].map(|node| rig.stats(node).entries)
}

/// The default namespace has three copies and this one two: who moves down from the second place to the third stays an owner of the
/// partition, and is none of its keys any more.
#[test]
fn who_moves_down_among_the_owners_keeps_nothing_of_namespaces_with_fewer_copies() {
    let mut pair = Namespace::new("pair");
    (pair.n, pair.r, pair.w, pair.eviction) = (2, 1, 2, Eviction::None);
    let mut rig = rig_of(pair, 0);
    found(&mut rig, &[A, B, C, D]);
    write_all(&mut rig, "pair");
    let before = entries(&rig);
    rig.transition(&[A, B, C, D, E]);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(entries(&rig).iter().sum::<u64>(), 2 * KEYS, "two copies: {before:?}, then {:?}", entries(&rig));
    let moved = rig.stats(E).entries_moved;
    assert!(moved > 0 && moved == entries(&rig)[E], "{moved} came, and {} are E's", entries(&rig)[E]);
    delete_all(&mut rig, "pair");
    assert_eq!(entries(&rig), [0; 6]);
    rig.transition(&[A, B, C, D]);
    assert_gone(&mut rig, "pair");
    assert_eq!(entries(&rig), [0; 6]);
}

/// In the layout that gives way E has less of the partitions than in the one that follows.
#[test]
fn what_was_moved_for_a_layout_that_gave_way_does_not_count_for_the_next_one() {
    let mut pair = Namespace::new("pair");
    (pair.n, pair.r, pair.w, pair.eviction) = (2, 1, 2, Eviction::None);
    let mut rig = Rig::new(RigConfig { nodes: 6, partitions: 64, namespaces: vec![pair], ..RigConfig::default() });
    found(&mut rig, &[A, B, C, D]);
    write_all(&mut rig, "pair");
    rig.begin_transition(&[A, B, C, D, E]);
    // Of E's partitions it asks A alone, and then all but B.
    [B, C, D].into_iter().for_each(|other| rig.believe_down(E, other, true));
    rig.set_exchanges(false);
    rig.begin_moving();
    rig.run_for(Duration::from_secs(30));
    assert!(!rig.is_moved(), "A is not enough");
    rig.begin_transition(&[D, E]);
    rig.begin_moving();
    [C, D].into_iter().for_each(|other| rig.believe_down(E, other, false));
    rig.wait_until_moved();
    assert_eq!(rig.stats(E).entries, KEYS, "E owns all of them now");
}

/// A settles for the layout that takes everything from it, and is cut off before the older one retires, which is returned.
fn cut_off(rig: &mut Rig, space: &'static str) -> Layout {
    found(rig, &[A, B, C]);
    let first = rig.layout.clone();
    write_all(rig, space);
    rig.begin_transition(&[B, C, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.run_for(MILLI * 50);
    rig.set_deaf(A, true);
    rig.retire();
    delete_all(rig, space);
    assert_eq!(entries(rig), [KEYS, 0, 0, 0, 0, 0]);
    first
}

fn give_back(rig: &mut Rig, space: &'static str) {
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.run_for(MILLI * 50);
    rig.retire();
    rig.run_for(Duration::from_secs(30));
    assert_gone(rig, space);
}

#[test]
fn who_missed_the_end_of_a_transition_lets_go_before_the_next_one_gives_it_back() {
    let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
    cut_off(&mut rig, "default");
    rig.begin_transition(&[A, B, C]);
    rig.set_deaf(A, false);
    assert_eq!(rig.stats(A).entries, 0, "what D took over, and others have deleted since");
    give_back(&mut rig, "default");
}

/// By a review: beside the older layout it settled a conflict with another that was cut off, and what that came to is what others go
/// on to. The oldest layout passes by the newest that it knows.
#[test]
fn who_hears_late_of_the_layout_below_the_newest_lets_go_of_what_that_does_not_assign_and_votes_with_none_of_it() {
    let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
    let first = cut_off(&mut rig, "default");
    [B, C, D, E, F].into_iter().for_each(|other| rig.set_deaf(other, true));
    rig.begin_transition(&[A, B, C]);
    let second = (rig.layout.clone(), Arc::clone(&rig.ring));
    rig.ring = Arc::new(Ring::derive_among(&first, rig.ring.members()));
    rig.layout = first;
    rig.set_deaf(A, false);
    rig.run_for(MILLI * 50);
    assert_eq!((rig.stats(A).entries, rig.warming(A)), (KEYS, 0), "it owned all, and is to own all");
    (rig.layout, rig.ring) = second;
    [B, C, D, E, F].into_iter().for_each(|other| rig.set_deaf(other, false));
    assert_eq!(rig.stats(A).entries, 0, "what D took over, and others have deleted since");
    assert!(rig.warming(A) > 0);
    give_back(&mut rig, "default");
}

/// As before, and what it missed it missed because it was dead.
#[test]
fn what_a_disk_holds_of_a_layout_that_retired_does_not_come_back_with_the_next_one() {
    let mut rig = kept();
    cut_off(&mut rig, "kept");
    rig.kill(A);
    rig.begin_transition(&[A, B, C]);
    rig.set_deaf(A, false);
    assert_eq!(rig.restart_from_disk(A), 0);
    assert_eq!(rig.stats(A).entries, 0, "what D took over, and others have deleted since");
    rig.run_for(MILLI * 50);
    rig.kill(A);
    rig.hold_all(A);
    assert_eq!(rig.restart_from_disk(A), 0);
    assert_eq!(rig.stats(A).entries, 0, "nor does it stay on the disk");
    give_back(&mut rig, "kept");
}

/// What was moved counts for others once its node said that it has all: from then on a restart may not lose it.
#[test]
fn a_node_that_has_all_of_the_newest_layout_keeps_it_over_a_restart_and_one_that_has_not_asks_again() {
    for has_all in [false, true] {
        let mut rig = kept();
        found(&mut rig, &[A, B, C]);
        write_all(&mut rig, "kept");
        rig.begin_transition(&[B, C, D]);
        rig.begin_moving();
        rig.wait_until_moved();
        rig.run_for(MILLI * 50);
        if has_all {
            rig.hold_all(D);
        }
        rig.kill(D);
        assert_eq!(rig.restart_from_disk(D), 0);
        assert_eq!(rig.stats(D).entries, if has_all { KEYS } else { 0 });
        rig.run_for(Duration::from_secs(30));
        assert_eq!((rig.stats(D).entries, rig.warming(D)), (KEYS, 0));
        assert_written(&rig.call(D, &Call::put("k0", "w").within("kept").strict()));
    }
}

/// A and B move down from the second place to the third in some partitions: of what they drop there the disk keeps nothing valid, though it was
/// never told of a key.
#[test]
fn what_a_disk_was_not_told_of_dropped_trees_does_not_come_back_with_them() {
    let pair = Namespace { n: 2, r: 1, w: 2, eviction: Eviction::None, ack: Ack::Log, ..Namespace::new("pair") };
    let mut rig = rig_of(pair, 6);
    found(&mut rig, &[A, B, C, D]);
    write_all(&mut rig, "pair");
    rig.run_for(Duration::from_secs(5));
    rig.begin_transition(&[A, B, C, D, E]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.run_for(MILLI * 50);
    // From here on the disks of those who drop keep the terms alone: removals find them full, and are not repeated.
    [A, B, C, D].into_iter().for_each(|node| rig.set_disk(node, DiskMode::Full));
    rig.retire();
    rig.run_for(Duration::from_secs(1));
    [A, B, C, D].into_iter().for_each(|node| rig.set_disk(node, DiskMode::Good));
    rig.run_for(Duration::from_secs(30));
    delete_all(&mut rig, "pair");
    rig.transition(&[A, B, C, D]);
    for node in [A, B, C, D] {
        rig.kill(node);
        rig.hold_all(node);
    }
    for node in [A, B, C, D] {
        assert_eq!(rig.restart_from_disk(node), 0);
    }
    rig.run_for(Duration::from_secs(60));
    assert_gone(&mut rig, "pair");
}
