//! Namespaces that are flushed or deleted while nodes are down: nothing of theirs returns (PROTOCOL §4 "Flush").
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key.

use super::{
    Call, Fate, Rig, RigConfig,
    schedules::{A, B, C, assert_written, value},
};
use crate::{
    namespace::{Ack, Eviction, Namespace, NamespaceTable},
    value::{Hlc, Version},
    wire::{
        client::Status,
        exchange::Exchange,
        peer::{PeerMessage, ReplicaState},
    },
};
use std::{sync::Arc, time::Duration};

/// Hints are replayed and owners compared by then.
const LATER: Duration = Duration::from_secs(60);
const KEYS: usize = 40;

fn named(ack: Ack, eviction: Eviction) -> Rig {
    let namespaces = vec![Namespace { ack, eviction, ..Namespace::new("users") }];
    Rig::new(RigConfig { disks: if ack == Ack::Mem { 0 } else { 3 }, namespaces, ..RigConfig::default() })
}

fn write(rig: &mut Rig, node: usize, value: &str) {
    for number in 0..KEYS {
        assert_written(&rig.call(node, &Call::put(format!("k{number}"), value).within("users")));
    }
}

/// What is read of each key at `node`, strictly and not; all must say the same.
fn read(rig: &mut Rig, node: usize) -> Option<String> {
    let mut seen: Vec<Option<String>> = Vec::new();
    for number in 0..KEYS {
        for call in
            [Call::get(format!("k{number}")).within("users"), Call::get(format!("k{number}")).within("users").r(1)]
        {
            for call in [call.clone(), call.strict()] {
                let answer = rig.call(node, &call);
                assert!(matches!(answer.status, Status::Ok | Status::NotFound), "{answer:?}");
                seen.push(value(&answer).map(str::to_owned));
            }
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.pop().unwrap()
}

fn flush(rig: &mut Rig, nodes: &[usize]) {
    rig.empty(nodes, |table, mark| {
        table.flush("users", mark).unwrap();
    });
}

fn entries(rig: &Rig) -> Vec<u64> {
    [A, B, C].iter().filter(|node| rig.is_running(**node)).map(|node| rig.stats(*node).entries).collect()
}

#[test]
fn a_flush_empties_every_copy_at_once_and_gives_the_memory_back() {
    for eviction in [Eviction::On, Eviction::None] {
        let mut rig = named(Ack::Mem, eviction);
        write(&mut rig, A, "old");
        assert_written(&rig.call(A, &Call::put("other", "stays")));
        flush(&mut rig, &[A, B, C]);
        for node in [A, B, C] {
            assert_eq!(read(&mut rig, node), None);
            assert_eq!(value(&rig.call(node, &Call::get("other"))), Some("stays"), "another namespace is not touched");
        }
        rig.run_for(LATER);
        assert_eq!(entries(&rig), [1, 1, 1]);
        write(&mut rig, B, "new");
        for node in [A, B, C] {
            assert_eq!(read(&mut rig, node).as_deref(), Some("new"));
        }
        rig.run_for(LATER);
        assert_eq!(entries(&rig), [KEYS as u64 + 1; 3], "and is not swept with the old");
        assert_eq!(rig.stats(A).tree_errors, 0);
    }
}

#[test]
fn a_write_right_after_a_flush_takes_the_place_of_what_is_not_swept_yet() {
    let mut rig = named(Ack::Mem, Eviction::On);
    write(&mut rig, A, "old");
    flush(&mut rig, &[A, B, C]);
    write(&mut rig, C, "new");
    assert_eq!(entries(&rig), [KEYS as u64; 3], "one record a key");
    assert_eq!(read(&mut rig, A).as_deref(), Some("new"));
    rig.run_for(LATER);
    assert_eq!((read(&mut rig, B).as_deref(), rig.stats(B).tree_errors), (Some("new"), 0));
}

#[test]
fn an_owner_that_was_cut_off_brings_nothing_back_and_keeps_what_it_took_since() {
    let mut rig = named(Ack::Mem, Eviction::None);
    write(&mut rig, A, "old");
    for other in [A, B] {
        rig.cut(C, other);
        rig.cut(other, C);
        rig.believe_down(other, C, true);
        rig.believe_down(C, other, true);
    }
    flush(&mut rig, &[A, B]);
    assert_eq!((read(&mut rig, A), read(&mut rig, B)), (None, None));
    let sloppy = |key: &str, value: &str| Call::put(key, value).within("users").w(1);
    assert_written(&rig.call(C, &sloppy("since", "C took it")));
    assert_eq!(value(&rig.call(C, &Call::get("k0").within("users").r(1))), Some("old"), "it has not heard of it");
    rig.heal();
    for other in [A, B] {
        rig.believe_down(other, C, false);
        rig.believe_down(C, other, false);
    }
    // Links are back before the table is: it sends what it has, and nobody takes it.
    rig.run_for(LATER);
    assert_eq!((read(&mut rig, A), read(&mut rig, B)), (None, None));
    rig.tell_namespaces(&[C]);
    rig.run_for(LATER);
    for node in [A, B, C] {
        assert_eq!(read(&mut rig, node), None);
        assert_eq!(value(&rig.call(node, &Call::get("since").within("users"))), Some("C took it"));
    }
    assert_eq!(entries(&rig), [1, 1, 1]);
}

#[test]
fn hints_of_what_was_flushed_die_with_it() {
    let mut rig = named(Ack::Mem, Eviction::None);
    rig.set_exchanges(false);
    rig.kill(C);
    rig.all_believe_down(C, true);
    write(&mut rig, A, "old");
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.stats(A).hints, KEYS as u64);
    flush(&mut rig, &[A, B]);
    assert_eq!(rig.stats(A).hints, 0);
    rig.restart(C, ReplicaState::Ready);
    rig.all_believe_down(C, false);
    rig.run_for(LATER);
    assert_eq!(read(&mut rig, C), None);
}

#[test]
fn hints_of_a_deleted_namespace_die_with_it_whatever_their_version() {
    let mut rig = named(Ack::Mem, Eviction::None);
    rig.set_exchanges(false);
    rig.kill(C);
    rig.all_believe_down(C, true);
    rig.empty(&[B], |table, mark| {
        table.delete("users", mark).unwrap();
    });
    rig.run_for(Duration::from_secs(1));
    // A has not heard, and stamps above the mark.
    assert_written(&rig.call(A, &Call::put("since", "late").within("users").w(1)));
    assert_written(&rig.call(A, &Call::put("other", "waits behind it").w(2)));
    rig.run_for(Duration::from_secs(1));
    assert!(rig.stats(A).hints >= 2);
    rig.tell_namespaces(&[A, C]);
    assert_eq!(rig.stats(A).hints, 1, "the one of another namespace");
    rig.restart(C, ReplicaState::Ready);
    rig.all_believe_down(C, false);
    rig.run_for(LATER);
    assert_eq!((rig.stats(A).hints, rig.stats(A).hints_put_off), (0, 0));
}

#[test]
fn a_request_during_which_its_namespace_is_deleted_leaves_no_hint() {
    let mut rig = named(Ack::Mem, Eviction::None);
    rig.set_exchanges(false);
    rig.empty(&[B], |table, mark| {
        table.delete("users", mark).unwrap();
    });
    rig.run_for(Duration::from_secs(1));
    rig.cut(A, C);
    let asked = rig.ask(A, &Call::put("since", "late").within("users"));
    rig.run_for(Duration::from_millis(1));
    assert_eq!((rig.stats(A).entries, rig.stats(A).hints), (1, 0), "it waits for C, and was stamped above the mark");
    rig.tell_namespaces(&[A, C]);
    assert_ne!(rig.wait(asked).status, Status::Ok);
    rig.run_for(Duration::from_secs(2));
    assert_eq!(rig.stats(A).hints, 0);
}

#[test]
fn what_a_disk_kept_of_a_flushed_namespace_is_not_taken_back() {
    let mut rig = named(Ack::Log, Eviction::None);
    write(&mut rig, A, "old");
    rig.kill(C);
    rig.all_believe_down(C, true);
    flush(&mut rig, &[A, B]);
    rig.tell_namespaces(&[C]);
    assert_eq!(rig.restart_from_disk(C), 0);
    rig.all_believe_down(C, false);
    rig.run_for(LATER);
    assert_eq!((read(&mut rig, C), entries(&rig)), (None, vec![0, 0, 0]));
    for node in [A, B, C] {
        rig.kill(node);
    }
    for node in [A, B, C] {
        assert_eq!(rig.restart_from_disk(node), 0);
    }
    rig.run_for(LATER);
    assert_eq!((read(&mut rig, A), entries(&rig)), (None, vec![0, 0, 0]), "it was removed from the disks");
}

#[test]
fn what_a_deleted_namespace_still_got_from_who_had_not_heard_is_repaired_only_once_there_is_one_again() {
    let mut rig = named(Ack::Mem, Eviction::None);
    rig.empty(&[B], |table, mark| {
        table.delete("users", mark).unwrap();
    });
    rig.run_for(Duration::from_secs(1));
    assert_written(&rig.call(A, &Call::put("since", "late").within("users")));
    rig.tell_namespaces(&[A, C]);
    rig.run_for(LATER);
    let sent = |rig: &Rig| [A, B, C].map(|node| rig.stats(node).repairs_sent).iter().sum::<u64>();
    let before = sent(&rig);
    rig.run_for(LATER);
    assert_eq!((sent(&rig), entries(&rig)), (before, vec![1, 0, 1]), "B refuses it, and is not asked again and again");
    rig.empty(&[A, B, C], |table, mark| {
        assert_eq!(table.create(Namespace::new("users"), 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
    });
    rig.run_for(LATER);
    assert_eq!(entries(&rig), [1; 3]);
}

/// What A, B and C hold of what was written after the deletion that B heard of at once, and A and C after it.
fn written_late(rig: &mut Rig) {
    rig.empty(&[B], |table, mark| {
        table.delete("users", mark).unwrap();
    });
    rig.run_for(Duration::from_secs(1));
    assert_written(&rig.call(A, &Call::put("since", "late").within("users")));
    rig.tell_namespaces(&[A, C]);
    assert_eq!(entries(rig), [1, 0, 1]);
}

#[test]
fn what_is_left_of_a_deleted_namespace_keeps_no_copy_from_becoming_ready() {
    let mut rig = named(Ack::Mem, Eviction::None);
    written_late(&mut rig);
    rig.wipe(B, ReplicaState::Warming);
    rig.wipe(C, ReplicaState::Warming);
    rig.run_for(LATER);
    assert_eq!([B, C].map(|node| rig.stats(node).partitions_warming), [0, 0]);
    let compared = |rig: &Rig| [A, B, C].map(|node| rig.stats(node).trees_compared).iter().sum::<u64>();
    let before = compared(&rig);
    rig.run_for(LATER);
    assert_eq!(compared(&rig), before, "a difference about which nothing is to be done is not looked through again");
    rig.empty(&[A, B, C], |table, mark| {
        assert_eq!(table.create(Namespace::new("users"), 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
    });
    rig.run_for(LATER);
    assert_eq!(entries(&rig), [1; 3]);
    assert_eq!(value(&rig.call(B, &Call::get("since").within("users").strict())), Some("late"));
}

/// A was restarted, and heard of the layout from somebody who had not heard of the namespace.
#[test]
fn a_copy_is_ready_only_once_it_knows_the_namespaces_of_which_others_hold_something() {
    let mut rig = named(Ack::Mem, Eviction::On);
    write(&mut rig, B, "held");
    rig.set_namespaces(&[A], &Arc::new(NamespaceTable::with_default(3)));
    rig.wipe(A, ReplicaState::Warming);
    rig.run_for(LATER);
    assert_ne!(rig.stats(A).partitions_warming, 0);
    rig.tell_namespaces(&[A]);
    rig.run_for(LATER);
    assert_eq!((rig.stats(A).partitions_warming, read(&mut rig, A).as_deref()), (0, Some("held")));
}

/// Elsewhere the namespace may be there again, and this be what it holds.
#[test]
fn what_is_left_of_a_deleted_namespace_moves_with_its_partitions() {
    const D: usize = 3;
    let namespaces = vec![Namespace { eviction: Eviction::None, ..Namespace::new("users") }];
    let mut rig = Rig::new(RigConfig { nodes: 4, namespaces, ..RigConfig::default() });
    rig.relayout(&[A, B, C]);
    rig.run_for(LATER);
    written_late(&mut rig);
    rig.tell_namespaces(&[D]);
    rig.begin_transition(&[D, B, C]);
    rig.begin_moving();
    rig.wait_until_moved();
    assert_eq!(rig.stats(D).entries, 1);
}

#[test]
fn a_second_deletion_takes_what_came_after_the_first() {
    let mut rig = named(Ack::Log, Eviction::None);
    written_late(&mut rig);
    rig.run_for(LATER);
    assert_eq!(entries(&rig), [1, 0, 1]);
    rig.empty(&[A, B, C], |table, mark| {
        table.delete("users", mark).unwrap();
    });
    rig.run_for(LATER);
    assert_eq!((entries(&rig), rig.stats(A).tree_errors), (vec![0; 3], 0));
}

/// A namespace is deleted and made again, with four nodes, three of which own the key "since". The first two took a write of its next life
/// before they heard of either, then heard of the deletion alone, as the third did at first.
struct NextLife {
    rig: Rig,
    owners: [usize; 3],
}

impl NextLife {
    fn begin() -> Self {
        let namespaces = vec![Namespace { eviction: Eviction::None, ..Namespace::new("users") }];
        let mut rig = Rig::new(RigConfig { nodes: 4, namespaces, ..RigConfig::default() });
        let owners: [usize; 3] = rig.owners(&Call::get("since").within("users")).try_into().unwrap();
        let outside = (0..4).find(|node| !owners.contains(node)).unwrap();
        rig.empty(&owners[2..], |table, mark| {
            table.delete("users", mark).unwrap();
        });
        let deleted = rig.namespaces();
        rig.run_for(Duration::from_secs(1));
        rig.empty(&[outside], |table, mark| {
            assert_eq!(table.create(Namespace::new("users"), 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
        });
        assert_written(&rig.call(outside, &Call::put("since", "next life").within("users")));
        rig.run_for(Duration::from_secs(1));
        rig.set_namespaces(&owners[..2], &deleted);
        Self { rig, owners }
    }

    /// Nobody reaches `away`, and it nobody.
    fn part(&mut self, away: usize) {
        for node in (0..4).filter(|node| *node != away) {
            self.part_from(node, away);
        }
    }

    fn part_from(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.rig.cut(from, to);
            self.rig.believe_down(from, to, true);
        }
    }

    fn heal(&mut self) {
        self.rig.heal();
        (0..4).for_each(|node| self.rig.all_believe_down(node, false));
    }

    fn warming(&self, node: usize) -> u64 {
        self.rig.stats(node).partitions_warming
    }

    /// A strict read finds nobody who may say that there is nothing, and once all meet again, the value.
    fn assert_missed_until_healed(&mut self) {
        let [first, _, third] = self.owners;
        let get = Call::get("since").within("users").strict();
        let asked = self.rig.call(third, &get);
        assert!(matches!(asked.status, Status::Unavailable { .. }), "{asked:?}");
        self.heal();
        self.rig.run_for(LATER);
        assert_eq!((value(&self.rig.call(third, &get)), self.warming(first)), (Some("next life"), 0));
    }
}

/// The first loses its memory, and compares with two that call the namespace deleted: it becomes Ready, and must not vote once it hears
/// that it is there.
#[test]
fn a_copy_that_passed_over_a_deleted_namespace_votes_in_its_next_life_only_after_comparing_again() {
    let mut life = NextLife::begin();
    let [first, other, third] = life.owners;
    life.rig.wipe(first, ReplicaState::Warming);
    life.rig.run_for(LATER);
    assert_eq!(life.warming(first), 0);
    // Whoever holds it is away when the rest hears that there is a next life.
    life.part(other);
    life.rig.tell_namespaces(&[first, other, third]);
    assert_eq!(life.warming(third), 0, "what is not Warming owes its votes to no comparison");
    life.assert_missed_until_healed();
}

/// It hears of it while it is not Ready yet, after half of the comparisons.
#[test]
fn what_was_passed_over_counts_for_no_comparison_once_the_namespace_is_there() {
    let mut life = NextLife::begin();
    let [first, other, third] = life.owners;
    life.part_from(first, third);
    life.rig.wipe(first, ReplicaState::Warming);
    life.rig.run_for(LATER);
    assert_ne!(life.warming(first), 0, "one owner is not enough");
    life.heal();
    life.part(other);
    life.rig.tell_namespaces(&[first, other, third]);
    life.rig.run_for(LATER);
    life.assert_missed_until_healed();
}

/// It is made again with two copies. What two owners took of that lies in the trees of three copies until they hear of it; the trees of two
/// are equal and empty, and whoever lost its memory calls them Ready.
#[test]
fn a_tree_that_a_next_life_moves_to_votes_only_once_what_it_came_from_was_compared() {
    let namespaces = vec![Namespace { eviction: Eviction::None, ..Namespace::new("users") }];
    let mut rig = Rig::new(RigConfig { nodes: 4, namespaces, ..RigConfig::default() });
    let get = Call::get("since").within("users").strict();
    let owners = rig.owners(&get);
    let (first, other) = (owners[0], owners[1]);
    let outside = (0..4).find(|node| !owners.contains(node)).unwrap();
    let again = Namespace { n: 2, r: 1, w: 2, eviction: Eviction::None, ..Namespace::new("users") };
    rig.empty(&[outside], |table, mark| {
        table.delete("users", mark).unwrap();
        assert_eq!(table.create(again, 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
    });
    rig.run_for(Duration::from_secs(1));
    assert_written(&rig.call(outside, &Call::put("since", "next life").within("users")));
    rig.set_fate(move |from, to, message| {
        let keys = matches!(message, PeerMessage::Exchange { exchange: Exchange::Keys { .. }, .. });
        if keys && [from, to].contains(&first) { Fate::Drop } else { Fate::Deliver }
    });
    rig.wipe(first, ReplicaState::Warming);
    rig.run_for(LATER);
    assert_eq!(rig.stats(first).partitions_warming, 1, "three copies of where it lies");
    rig.cut(first, other);
    rig.cut(other, first);
    rig.tell_namespaces(&[first]);
    let asked = rig.call(first, &get);
    assert!(matches!(asked.status, Status::Unavailable { .. }), "{asked:?}");
    rig.heal();
    rig.set_fate(|_, _, _| Fate::Deliver);
    rig.tell_namespaces(&owners);
    rig.run_for(LATER);
    assert_eq!((value(&rig.call(first, &get)), rig.stats(first).partitions_warming), (Some("next life"), 0));
}

/// What was passed over went with the second deletion.
#[test]
fn a_copy_that_passed_over_what_a_second_deletion_took_goes_on_voting() {
    let mut rig = named(Ack::Mem, Eviction::None);
    written_late(&mut rig);
    rig.wipe(C, ReplicaState::Warming);
    rig.run_for(LATER);
    for round in 0..2 {
        rig.empty(&[A, B, C], |table, mark| {
            let again = Namespace::new("users");
            table.delete("users", mark).unwrap();
            if round == 1 {
                assert_eq!(table.create(again, 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
            }
        });
        assert_eq!([A, B, C].map(|node| rig.stats(node).partitions_warming), [0, 0, 0]);
    }
}

#[test]
fn a_deleted_namespace_serves_nobody_and_is_empty_when_it_is_created_again() {
    let mut rig = named(Ack::Mem, Eviction::On);
    write(&mut rig, A, "old");
    let delete = |rig: &mut Rig, nodes: &[usize]| {
        rig.empty(nodes, |table, mark| {
            table.delete("users", mark).unwrap();
        });
    };
    delete(&mut rig, &[A, B, C]);
    for call in [Call::get("k0"), Call::get("k0").r(1), Call::put("k0", "v"), Call::delete("k0"), Call::inspect("k0")] {
        assert_eq!(rig.call(A, &call.within("users")).status, Status::NoSuchNamespace);
    }
    // Fewer copies than before: its trees are others.
    let again = Namespace { n: 2, r: 1, w: 2, ..Namespace::new("users") };
    rig.empty(&[A, B, C], |table, mark| {
        assert_eq!(table.create(again, 3, Version { hlc: mark, ..Version::ZERO }), Ok(true));
    });
    assert_eq!(read(&mut rig, B), None);
    write(&mut rig, B, "new");
    rig.run_for(LATER);
    assert_eq!(read(&mut rig, C).as_deref(), Some("new"));
    assert_eq!(entries(&rig).iter().sum::<u64>(), 2 * KEYS as u64);
    assert!([A, B, C].iter().all(|node| rig.stats(*node).tree_errors == 0));
}

/// Simulator, seed 9000b87 (S16): the mark was 0.8 s ahead of a clock that may be pushed 0.5 s ahead of its wall. What was stamped below it
/// meanwhile was told to be acknowledged, and superseded by something newer; there was nothing newer.
#[test]
fn a_write_that_cannot_be_stamped_above_a_flush_yet_is_refused_and_soon_is_not() {
    let mut rig = named(Ack::Mem, Eviction::On);
    write(&mut rig, A, "old");
    rig.empty(&[A, B, C], |table, mark| {
        table.flush("users", Hlc::at(mark.wall() + Duration::from_millis(800))).unwrap();
    });
    let put = Call::put("k0", "new").within("users");
    let early = rig.call(C, &put);
    assert_eq!((early.status, early.maybe_applied), (Status::ClockSkew, false), "{early:?}");
    assert!(early.text.is_some_and(|text| text.contains("flushed") && text.contains("another node")));
    rig.run_for(Duration::from_millis(400));
    let late = rig.call(C, &put);
    assert_written(&late);
    assert!(!late.worth.superseded);
}

/// As above, at a coordinator that has not heard of the flush: replicas tell it.
#[test]
fn a_write_that_replicas_call_flushed_is_not_called_superseded() {
    let mut rig = named(Ack::Mem, Eviction::On);
    rig.empty(&[A, B], |table, mark| {
        table.flush("users", Hlc::at(mark.wall() + Duration::from_millis(800))).unwrap();
    });
    let put = Call::put("k0", "new").within("users").strict();
    let early = rig.call(C, &put);
    assert_eq!((early.status, early.maybe_applied), (Status::ClockSkew, true), "{early:?}");
    rig.run_for(Duration::from_millis(400));
    let late = rig.call(C, &put);
    assert_written(&late);
    assert_eq!((late.worth.superseded, late.worth.acks > 1), (false, true));
    assert_eq!(value(&rig.call(A, &Call::get("k0").within("users").strict())), Some("new"));
}
