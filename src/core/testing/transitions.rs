//! Two active layouts at the data plane: who must hold a write, who is read, what is moved, what is dropped (SIMULATION
//! §11: 4 and 5).
//!
//! Nodes A to F; A, B, C own every key unless said otherwise. N = 3, R = W = 2.

use super::{
    Call, Fate, Rig, RigConfig,
    schedules::{A, B, C, GHOST, MILLI, assert_written, evict_at_a, get, put, value},
};
use crate::{
    limits,
    namespace::{Eviction, Namespace},
    wire::{
        client::{Status, Ttl},
        peer::{PeerMessage, ReplicaState},
    },
};
use std::{cell::Cell, rc::Rc, time::Duration};

pub(super) const D: usize = 3;
pub(super) const E: usize = 4;
pub(super) const F: usize = 5;

/// Six nodes, of which the first three own everything.
pub(super) fn six() -> Rig {
    let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
    found(&mut rig, &[A, B, C]);
    rig
}

/// Makes these nodes the owners, and waits until they compared what they have: nothing.
pub(super) fn found(rig: &mut Rig, nodes: &[usize]) {
    rig.relayout(nodes);
    for _ in 0..20 {
        if nodes.iter().all(|node| rig.stats(*node).partitions_warming == 0) {
            return;
        }
        rig.run_for(Duration::from_secs(1));
    }
    panic!("the first owners do not become Ready");
}

// --- 4: v acked {B, C}; D replaces C, streaming from A only; the old layout retires; read {A, D} ---

#[test]
fn one_source_is_not_enough_for_a_new_owner() {
    let mut rig = six();
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.begin_transition(&[A, B, D]);
    // B and C are out of D's reach: A alone has all that it asks for.
    rig.cut(D, B);
    rig.cut(D, C);
    rig.begin_moving();
    rig.run_for(Duration::from_secs(20));
    assert!(!rig.is_moved(), "A may lack what B and C acknowledged");
    rig.heal();
    rig.wait_until_moved();
    rig.flip();
    rig.run_for(Duration::from_secs(1));
    rig.retire();
    rig.kill(B);
    rig.all_believe_down(B, true);
    for node in [A, D] {
        assert_eq!(value(&rig.call(node, &get())), Some("v"));
    }
}

// --- 5: D has compared, then X (old epoch) gets v acked {B, C}; read {A, D} after retirement ---

#[test]
fn a_late_coordinator_of_the_old_layout_gets_no_acknowledgement_once_a_new_owner_has_compared() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.set_deaf(C, true);
    rig.begin_transition(&[A, B, D]);
    rig.run_for(Duration::from_secs(1));
    // C was removed, or it would have to acknowledge first: it does not know, and goes on.
    rig.begin_moving();
    rig.cut(C, D);
    rig.wait_until_moved();
    rig.cut(A, C);
    let answer = rig.call(C, &put("v2"));
    assert!(matches!(answer.status, Status::Unavailable { .. } | Status::Unknown), "B has served D: {answer:?}");
    assert!(rig.stats(B).stale_epochs > 0);
    rig.heal();
    rig.flip();
    rig.run_for(Duration::from_secs(1));
    rig.retire();
    for node in [A, D] {
        assert_eq!(value(&rig.call(node, &get())), Some("v1"));
    }
}

#[test]
fn what_a_coordinator_of_the_old_layout_got_acknowledged_before_is_moved() {
    let mut rig = six();
    rig.set_deaf(C, true);
    rig.begin_transition(&[A, B, D]);
    rig.cut(A, C);
    assert_written(&rig.call(C, &put("v")));
    rig.heal();
    rig.set_deaf(C, false);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.retire();
    rig.kill(B);
    rig.all_believe_down(B, true);
    for node in [A, D] {
        assert_eq!(value(&rig.call(node, &get())), Some("v"));
    }
}

#[test]
fn a_strict_write_needs_its_quorum_in_both_layouts() {
    let mut rig = six();
    rig.begin_transition(&[C, D, E]);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(MILLI * 10);
    assert_eq!([A, B, C, D, E, F].map(|node| rig.stats(node).entries), [1, 1, 1, 1, 1, 0]);
    for node in [D, E] {
        rig.cut(A, node);
    }
    let answer = rig.call(A, &put("v2"));
    assert_eq!((answer.status, answer.maybe_applied), (Status::Unknown, true), "C alone holds it in the new layout");
    let sloppy = rig.call(A, &Call::put("other", "v"));
    assert_eq!((sloppy.status, sloppy.worth.sloppy, sloppy.worth.fallbacks), (Status::Ok, true, 0), "{sloppy:?}");
    rig.heal();
    rig.cut(A, B);
    rig.cut(A, C);
    let answer = rig.call(A, &put("v3"));
    assert_ne!(answer.status, Status::Ok, "A alone holds it in the old one");
}

/// Whoever knows no layout yet has nothing to say of one that retired.
#[test]
fn an_owner_in_the_older_layout_that_restarts_gives_no_leave_to_do_without_it() {
    let mut rig = six();
    rig.begin_transition(&[C, D, E]);
    rig.begin_moving();
    rig.wait_until_moved();
    for node in [A, B, C] {
        rig.set_deaf(node, true);
    }
    rig.flip();
    rig.wipe(A, ReplicaState::Warming);
    for node in [B, C] {
        rig.cut(D, node);
    }
    let answer = rig.call(D, &put("v"));
    assert!(answer.status != Status::Ok && answer.maybe_applied, "B and C read by the older one: {answer:?}");
}

#[test]
fn reads_ask_the_old_owners_until_all_have_synced_and_then_the_new_ones() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v").w(3)));
    rig.begin_transition(&[D, E, F]);
    for node in [A, D] {
        assert_eq!(value(&rig.call(node, &get())), Some("v"), "D coordinates, and asks the old owners");
    }
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    for node in [A, B, C] {
        rig.kill(node);
        rig.all_believe_down(node, true);
    }
    for node in [D, E, F] {
        assert_eq!(value(&rig.call(node, &get())), Some("v"));
    }
}

#[test]
fn a_node_still_reading_by_the_old_layout_sees_what_one_of_the_new_wrote() {
    let mut rig = six();
    rig.begin_transition(&[D, E, F]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.set_deaf(A, true);
    rig.flip();
    assert_written(&rig.call(D, &put("v")));
    assert_eq!(value(&rig.call(A, &get())), Some("v"));
    assert_written(&rig.call(A, &put("w")));
    assert_eq!(value(&rig.call(D, &get())), Some("w"));
    rig.retire();
    // A has not heard of that: the others refuse to be owners of the old layout, and nobody reads by it.
    assert_written(&rig.call(E, &put("x")));
    rig.set_deaf(A, false);
    assert_eq!(value(&rig.call(A, &get())), Some("x"), "forwarded");
}

/// Forty keys of A, B and C, and all of them at D too, for which A goes.
fn moved() -> Rig {
    let mut rig = six();
    for key in 0..40 {
        assert_written(&rig.call(A, &Call::put(format!("k{key}"), "v").strict().w(3)));
    }
    rig.begin_transition(&[B, C, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig
}

#[test]
fn a_range_is_dropped_when_the_old_layout_retired_and_not_before() {
    let mut rig = moved();
    assert_eq!((rig.stats(A).entries, rig.stats(D).entries), (40, 40));
    rig.flip();
    rig.run_for(Duration::from_secs(5));
    assert_eq!(rig.stats(A).entries, 40);
    rig.retire();
    // One partition after the other, so that requests are served in between.
    rig.run_for(Duration::from_millis(3));
    let left = rig.stats(A).entries;
    assert!((1..40).contains(&left), "{left} entries after 3 ms");
    rig.run_for(Duration::from_millis(50));
    assert_eq!((rig.stats(A).entries, rig.stats(B).entries, rig.stats(A).partitions_dropped), (0, 40, 16));
    for key in 0..40 {
        assert_eq!(value(&rig.call(A, &Call::get(format!("k{key}")).strict())), Some("v"), "an old client's node");
    }
}

#[test]
fn what_was_let_go_and_is_assigned_again_comes_from_its_owners_and_not_from_what_was_still_there() {
    let mut rig = moved();
    rig.flip();
    rig.retire();
    assert!(rig.stats(A).entries > 0, "nothing was left to come back");
    rig.begin_transition(&[A, B, C]);
    assert_eq!(rig.stats(A).entries, 0, "old copies under a layout that assigns them here");
}

#[test]
fn tombstones_expiries_and_large_partitions_are_moved_as_they_are() {
    let mut rig = six();
    let large = "x".repeat(40_000);
    for key in 0..120 {
        assert_written(&rig.call(A, &Call::put(format!("k{key}"), &large).w(3).ttl(Ttl::Millis(60_000 + key * 1_000))));
    }
    assert_written(&rig.call(A, &Call::put("dead", "v").w(3)));
    assert_written(&rig.call(A, &Call::delete("dead").w(3)));
    let expires = rig.call(A, &Call::get("k7").r(3)).expires_at;
    rig.run_for(Duration::from_secs(3));
    rig.transition(&[D, E, F]);
    assert!(rig.stats(A).parts_sent > 40, "{} parts", rig.stats(A).parts_sent);
    assert_eq!([D, E, F].map(|node| (rig.stats(node).entries, rig.stats(node).tombstones)), [(121, 1); 3]);
    let moved = rig.call(D, &Call::get("k7").strict());
    assert_eq!((moved.value.map(|value| value.len()), moved.expires_at), (Some(40_000), expires));
    assert_eq!(rig.call(D, &Call::get("dead").strict()).status, Status::NotFound);
    rig.run_for(Duration::from_secs(60));
    assert_eq!(rig.call(E, &Call::get("k1").strict()).status, Status::NotFound, "its time was over when it said so");
}

/// N − W + 1 sources are asked, and all but the first for what differs: a join once moved twice its bytes by transfer, and
/// owners that compared themselves with the newcomer sent it all a third time as repairs.
#[test]
fn a_new_owner_is_sent_each_entry_once_though_it_asks_several_sources() {
    let mut rig = six();
    for key in 0..300 {
        assert_written(&rig.call(A, &Call::put(format!("k{key}"), "x".repeat(1_000)).w(3)));
    }
    rig.run_for(Duration::from_secs(3));
    let repairs = |rig: &Rig| [A, B, C].map(|node| rig.stats(node).repairs_sent);
    let before = repairs(&rig);
    rig.begin_transition(&[A, D, E]);
    rig.run_for(Duration::from_secs(12));
    rig.begin_moving();
    rig.wait_until_moved();
    for node in [D, E] {
        let stats = rig.stats(node);
        assert_eq!((stats.entries, stats.entries_moved), (300, 300));
        assert!(stats.moved_bytes < 2 * 300 * 1_000, "{} bytes", stats.moved_bytes);
    }
    assert_eq!(repairs(&rig), before);
    let asked: u64 = [A, B, C].iter().map(|node| rig.stats(*node).parts_sent).sum();
    assert_eq!(
        asked,
        2 * 2 * u64::from(RigConfig::default().partitions),
        "of each partition by two nodes from two sources"
    );
}

/// To a newcomer all entries are new, and the popular would go with the rest.
#[test]
fn what_was_popular_at_the_old_owners_stays_at_new_ones_that_have_to_evict() {
    let mut rig = Rig::new(RigConfig { nodes: 6, memory: 4 << 20, ..RigConfig::default() });
    found(&mut rig, &[A, B, C]);
    let write = |rig: &mut Rig, node, key: usize| {
        assert_written(&rig.call(node, &Call::put(format!("k{key}"), vec![7; 2_000]).w(3)));
    };
    (0..1_000).for_each(|key| write(&mut rig, A, key));
    for (node, key) in [A, B, C, A, B, C].into_iter().flat_map(|node| (0..100).map(move |key| (node, key))) {
        assert_eq!(rig.call(node, &Call::get(format!("k{key}")).r(1)).status, Status::Ok);
    }
    rig.run_for(Duration::from_secs(3));
    rig.transition(&[D, E, F]);
    (1_000..3_000).for_each(|key| write(&mut rig, D, key));
    let mut kept = |keys: std::ops::Range<usize>| {
        keys.filter(|key| rig.call(D, &Call::get(format!("k{key}"))).status == Status::Ok).count()
    };
    assert_eq!(kept(0..100), 100);
    assert!(kept(100..1_000) < 450, "nothing had to go");
}

#[test]
fn parts_come_evenly_and_not_by_the_window() {
    let mut rig = Rig::new(RigConfig { nodes: 4, memory: 128 << 20, partitions: 8, ..RigConfig::default() });
    found(&mut rig, &[A, B, C]);
    for key in 0..600 {
        rig.call(A, &Call::put(format!("key {key}"), vec![7; 20_000]));
    }
    rig.run_for(Duration::from_secs(2));
    let parts = Rc::new(Cell::new(0));
    let count = Rc::clone(&parts);
    rig.set_fate(move |_, to, message| {
        count.set(count.get() + u64::from(to == D && matches!(message, PeerMessage::StreamChunk { .. })));
        Fate::Deliver
    });
    rig.begin_transition(&[A, B, D]);
    rig.begin_moving();
    let (began, mut most) = (rig.now(), 0);
    while !rig.is_moved() {
        assert!(rig.now().since(began) < Duration::from_secs(60), "{:?}", rig.stats(D));
        let before = parts.get();
        rig.run_for(MILLI * 10);
        most = most.max(parts.get() - before);
    }
    let moved = rig.stats(D).moved_bytes;
    let due = Duration::from_millis(moved * 1_000 / limits::TRANSFER_BYTES_PER_SECOND);
    let took = rig.now().since(began);
    assert!(moved > 8 << 20 && took > due * 4 / 5, "{moved} bytes in {took:?}, due in {due:?}");
    let fair = limits::TRANSFER_BYTES_PER_SECOND / 100 / limits::TRANSFER_PART_BYTES as u64 + 2;
    assert!(most <= fair, "{most} parts within 10 ms, {fair} are their share");
}

/// Where nothing may be evicted, a layout of too few nodes cannot take over: it waits, and nothing is lost meanwhile.
#[test]
fn a_partition_that_finds_no_room_stays_where_it_is_and_is_asked_for_more_and_more_rarely() {
    let mut kept = Namespace::new("kept");
    kept.eviction = Eviction::None;
    let config = RigConfig { nodes: 6, memory: 2 << 20, namespaces: vec![kept], ..RigConfig::default() };
    let mut rig = Rig::new(config);
    found(&mut rig, &[A, B, C, D, E, F]);
    let put = |key: usize| Call::put(format!("k{key}"), "x".repeat(3_000)).within("kept").w(3);
    let written: Vec<usize> = (0..900).filter(|key| rig.call(key % 6, &put(*key)).status == Status::Ok).collect();
    assert!(written.len() > 800, "{} were taken by six nodes", written.len());
    rig.begin_transition(&[A, B, C]);
    rig.run_for(Duration::from_secs(1));
    rig.begin_moving();
    rig.run_for(Duration::from_secs(60));
    assert!(!rig.is_moved() && [A, B, C].iter().all(|node| rig.stats(*node).entries_without_room > 0));
    let asked = |rig: &Rig| [A, B, C, D, E, F].iter().map(|node| rig.stats(*node).parts_sent).sum::<u64>();
    let before = asked(&rig);
    rig.run_for(Duration::from_secs(60));
    assert!(asked(&rig) - before < 3 * 60, "{} parts in a minute", asked(&rig) - before);
    for key in written {
        let read = rig.call(key % 6, &Call::get(format!("k{key}")).within("kept").strict());
        assert_eq!(read.status, Status::Ok, "k{key}");
    }
}

#[test]
fn a_transfer_goes_on_when_its_source_dies_and_parts_are_lost() {
    let mut rig = six();
    for key in 0..200 {
        assert_written(&rig.call(A, &Call::put(format!("k{key}"), "v".repeat(5_000)).strict().w(3)));
    }
    let count = Rc::new(Cell::new(0));
    let lost = Rc::clone(&count);
    rig.set_fate(move |_, _, message| match message {
        PeerMessage::StreamChunk { .. } => {
            lost.set(lost.get() + 1);
            match lost.get() % 4 {
                0 => Fate::Drop,
                1 => Fate::Twice,
                _ => Fate::Deliver,
            }
        }
        _ => Fate::Deliver,
    });
    rig.begin_transition(&[B, C, D]);
    rig.begin_moving();
    rig.run_for(MILLI * 3);
    assert!(!rig.is_moved());
    rig.kill(A);
    rig.all_believe_down(A, true);
    rig.wait_until_moved();
    assert_eq!(rig.stats(D).entries, 200);
}

#[test]
fn a_new_owner_takes_over_what_its_sources_may_have_forgotten() {
    let mut rig = Rig::new(RigConfig { nodes: 4, memory: 2 << 20, ..RigConfig::default() });
    found(&mut rig, &[A, B, C]);
    assert_written(&rig.call(C, &put("v1").w(3)));
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v2")));
    // A and B evict v2 and forget its ghost, C keeps v1.
    for key in 0..30_000 {
        rig.call(A, &Call::put(format!("fill{key}"), "x".repeat(300)).w(1));
    }
    rig.run_for(Duration::from_secs(2));
    rig.heal();
    rig.begin_transition(&[A, C, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.retire();
    rig.kill(A);
    rig.all_believe_down(A, true);
    let answer = rig.call(D, &get());
    assert_ne!(value(&answer), Some("v1"), "what was overwritten does not come back: {answer:?}");
}

#[test]
fn a_new_owner_remembers_what_a_source_evicted_and_serves_nothing_older() {
    let mut rig = Rig::new(RigConfig { nodes: 4, memory: 2 << 20, ..RigConfig::default() });
    found(&mut rig, &[A, B, C]);
    evict_at_a(&mut rig, GHOST);
    rig.kill(B);
    rig.all_believe_down(B, true);
    rig.begin_transition(&[A, C, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    assert!(rig.stats(D).ghosts > 0, "{:?}", rig.stats(D));
    rig.flip();
    rig.run_for(Duration::from_secs(1));
    rig.retire();
    rig.kill(A);
    rig.all_believe_down(A, true);
    for node in [C, D] {
        let answer = rig.call(node, &get());
        assert_eq!(answer.status, Status::NotFound, "through {node}: {answer:?}");
    }
}

#[test]
fn a_warming_owner_counts_for_no_read_until_its_partition_is_moved() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v").w(3)));
    rig.begin_transition(&[A, B, D]);
    rig.begin_moving();
    rig.cut(D, A);
    rig.cut(D, B);
    rig.cut(D, C);
    rig.run_for(Duration::from_secs(5));
    // Somebody believes too early that all have synced.
    rig.flip();
    rig.heal();
    rig.set_fate(
        |_, to, message| {
            if matches!(message, PeerMessage::StreamPull { .. }) || to == B { Fate::Drop } else { Fate::Deliver }
        },
    );
    let answer = rig.call(A, &get());
    assert!(matches!(answer.status, Status::Unavailable { .. }), "D has nothing yet: {answer:?}");
}

#[test]
fn a_namespace_with_fewer_copies_is_moved_to_who_rises_among_the_owners() {
    let mut pair = Namespace::new("pair");
    (pair.n, pair.r, pair.w, pair.eviction) = (2, 1, 2, Eviction::None);
    let mut rig = Rig::new(RigConfig { nodes: 6, namespaces: vec![pair], ..RigConfig::default() });
    found(&mut rig, &[A, B, C, D]);
    let call = |key: u32| Call::put(format!("k{key}"), "v").within("pair").strict();
    for key in 0..60 {
        let at = rig.owners(&call(key))[0];
        assert_written(&rig.call(at, &call(key)));
    }
    rig.transition(&[B, C, D, E]);
    rig.kill(A);
    for key in 0..60 {
        let get = Call::get(format!("k{key}")).within("pair").strict();
        let at = rig.owners(&get)[0];
        assert_eq!(value(&rig.call(at, &get)), Some("v"), "k{key}");
    }
}

#[test]
fn a_restarted_owner_catches_up_in_a_transition() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v").w(3)));
    rig.kill(B);
    rig.restart(B, ReplicaState::Warming);
    rig.begin_transition(&[A, B, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.retire();
    rig.kill(A);
    rig.all_believe_down(A, true);
    assert_eq!(value(&rig.call(B, &get())), Some("v"), "B and D are Ready");
}

#[test]
fn what_came_from_too_few_ready_owners_votes_in_nothing_strict_until_it_is_compared() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v").w(3)));
    for node in [A, B] {
        rig.kill(node);
        rig.restart(node, ReplicaState::Warming);
    }
    rig.set_fate(|_, _, message| match message {
        PeerMessage::Exchange { .. } => Fate::Drop,
        _ => Fate::Deliver,
    });
    rig.begin_transition(&[A, B, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.flip();
    rig.retire();
    let answer = rig.call(A, &get());
    assert!(matches!(answer.status, Status::Unavailable { .. }), "two of three copies were lost: {answer:?}");
    assert_eq!(value(&rig.call(A, &Call::get("k").r(3))), Some("v"), "all that could be had is there");
    rig.set_fate(|_, _, _| Fate::Deliver);
    rig.run_for(Duration::from_secs(10));
    assert_eq!(value(&rig.call(A, &get())), Some("v"), "they compared with all who may hold more");
}

#[test]
fn nothing_is_collected_between_two_layouts_and_all_of_it_after() {
    let mut rig = six();
    assert_written(&rig.call(A, &put("v").w(3)));
    assert_written(&rig.call(A, &Call::delete("k").w(3)));
    rig.begin_transition(&[A, B, D]);
    rig.begin_moving();
    rig.wait_until_moved();
    rig.run_for(Duration::from_secs(18 * 60));
    assert_eq!([A, B, C, D].map(|node| rig.stats(node).tombstones), [1; 4]);
    rig.flip();
    rig.run_for(Duration::from_secs(18 * 60));
    assert_eq!([A, B, C, D].map(|node| rig.stats(node).tombstones), [1; 4], "read or not, it is active");
    rig.retire();
    rig.run_for(Duration::from_secs(18 * 60));
    assert_eq!([A, B, C, D].map(|node| rig.stats(node).entries), [0; 4]);
}

#[test]
fn a_hint_for_an_owner_of_the_newer_layout_is_kept_while_both_are_active() {
    let mut rig = six();
    rig.begin_transition(&[A, B, D]);
    rig.kill(D);
    rig.all_believe_down(D, true);
    assert_eq!(rig.call(A, &Call::put("k", "v")).status, Status::Ok);
    rig.run_for(Duration::from_secs(15));
    let hints: u64 = [A, B, C].map(|node| rig.stats(node).hints).iter().sum();
    assert!(hints > 0, "D will want it");
}

/// Found by seed 7209d of mix F6: a node with no place in either layout knew of nobody to forward to.
#[test]
fn with_all_owners_of_the_older_layout_dead_those_of_the_newer_stand_in() {
    let mut rig = Rig::new(RigConfig { nodes: 8, ..RigConfig::default() });
    let (g, h) = (6, 7);
    found(&mut rig, &[A, B, C]);
    rig.begin_transition(&[D, E, F, g]);
    for node in [A, B, C] {
        rig.kill(node);
        rig.all_believe_down(node, true);
    }
    for node in [D, E, F, g, h] {
        let key = format!("k{node}");
        let written = rig.call(node, &Call::put(&key, "v"));
        assert_eq!((written.status, written.worth.sloppy), (Status::Ok, true), "{written:?}");
        for reader in [D, g, h] {
            assert_eq!(value(&rig.call(reader, &Call::get(&key))), Some("v"), "written by {node}, read by {reader}");
        }
    }
}

#[test]
fn a_write_needs_as_many_owners_in_a_larger_layout_as_were_asked_for() {
    let mut rig = Rig::new(RigConfig { nodes: 3, ..RigConfig::default() });
    found(&mut rig, &[A, B]);
    rig.begin_transition(&[A, B, C]);
    rig.cut(A, C);
    let answer = rig.call(A, &put("v").w(3));
    assert_ne!(answer.status, Status::Ok, "C does not hold it, and W = 3: {answer:?}");
    assert_written(&rig.call(A, &put("v").w(2)));
}
