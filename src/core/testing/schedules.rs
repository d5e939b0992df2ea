//! Schedules by name: each broke an earlier rule, or is a promise made to whoever reads a reply (SIMULATION §11).
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key, unless said otherwise.

use super::{Call, Fate, Rig, RigConfig, call::Answer};
use crate::{
    limits,
    namespace::{Eviction, Namespace},
    time::Wall,
    view::Fence,
    wire::{
        client::{Condition, Status, Ttl},
        peer::{PeerMessage, ReplicaState, Replicated},
    },
};
use std::{cell::Cell, rc::Rc, time::Duration};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const MILLI: Duration = Duration::from_millis(1);

fn put(value: &str) -> Call {
    Call::put("k", value).strict()
}

fn get() -> Call {
    Call::get("k").strict()
}

fn value(answer: &Answer) -> Option<&str> {
    answer.value.as_deref().map(|bytes| std::str::from_utf8(bytes).expect("tests write text"))
}

#[track_caller]
fn assert_written(answer: &Answer) {
    assert_eq!(answer.status, Status::Ok, "{answer:?}");
    assert!(answer.version.is_some(), "{answer:?}");
}

/// Five nodes; the owners of "k" and then its fallbacks.
fn five() -> (Rig, Vec<usize>, Vec<usize>) {
    let rig = Rig::new(RigConfig { nodes: 5, ..RigConfig::default() });
    let (owners, fallbacks) = (rig.owners(&get()), rig.fallbacks(&get()));
    (rig, owners, fallbacks)
}

#[test]
fn a_written_value_is_read_at_every_node() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v")));
    for node in [A, B, C] {
        let answer = rig.call(node, &get());
        assert_eq!((answer.status, value(&answer), answer.worth.acks), (Status::Ok, Some("v"), 2));
        assert!(!answer.worth.sloppy && !answer.worth.stale && !answer.worth.degraded);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        let latency = (MILLI, MILLI * 5);
        let mut rig = Rig::new(RigConfig { seed, latency, ..RigConfig::default() });
        for node in [A, B, C] {
            rig.call(node, &put("v"));
            rig.call(node, &get());
        }
        rig.kill(B);
        rig.call(A, &put("w"));
        (rig.trace(), rig.inputs())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

// --- 2: v1 acked {A, B}, A wiped; C with a slow clock stamps below v1, A applies; B's v1 wins for ever ---

#[test]
fn a_warming_replica_does_not_approve_a_write() {
    let mut rig = Rig::three();
    rig.skew(C, -150);
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.kill(A);
    rig.restart(A, ReplicaState::Warming);
    rig.run_for(Duration::from_secs(2));
    rig.skew(C, -1_900);
    // B is slow to answer: only A's vote could be had before it.
    rig.set_fate(|from, to, _| if from == B && to == C { Fate::Hold } else { Fate::Deliver });
    let ticket = rig.ask(C, &put("v2"));
    rig.run_for(MILLI * 50);
    assert_eq!(rig.reply(ticket), None, "A's Applied is no vote");
    rig.clear_fate();
    rig.release();
    let answer = rig.wait(ticket);
    assert_written(&answer);
    for node in [B, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v2"), "the later write wins");
    }
}

// --- 1: v1 everywhere; v2 acked by {A, B}; A restarts empty and has v1 from C; strict read {A, C} ---

#[test]
fn a_warming_replica_that_holds_an_old_value_is_merged_and_not_counted() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v2")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.kill(A);
    rig.restart(A, ReplicaState::Warming);
    rig.run_for(Duration::from_secs(2));
    for node in [A, B, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v2"));
    }
    rig.kill(B);
    rig.all_believe_down(B, true);
    let answer = rig.call(C, &get());
    assert_eq!(answer.status, Status::Unavailable { need: 2, have: 1 }, "A is no vote, and B is down");
}

// --- 7: v1 without TTL on A, B, C; v2 with 20 s acked {A, B}; its hint is lost; read at 80 s and later ---

#[test]
fn a_short_ttl_uncovers_no_older_value() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v2").ttl(Ttl::Millis(20_000))));
    rig.run_for(Duration::from_secs(10));
    rig.heal();
    assert_eq!(value(&rig.call(A, &get())), Some("v2"));
    for seconds in [12, 60, 60, 600] {
        rig.run_for(Duration::from_secs(seconds));
        for node in [A, B, C] {
            let answer = rig.call(node, &get());
            assert_eq!(answer.status, Status::NotFound, "at {:?} through {node}", rig.now());
        }
    }
}

// --- 8: v2 acked {A, B}, C holds v1; A evicts v2; strict read {A, C}; and a slow-clock write through C ---

/// A and B hold v2, of which A keeps a ghost or a floor only; C holds v1.
fn evicted_at_a() -> Rig {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v2")));
    rig.run_for(Duration::from_secs(1));
    rig.cut(A, B);
    for other in 0..3_000 {
        rig.call(A, &Call::put(format!("other {other}"), [7; 2_000]).w(1));
        rig.run_for(MILLI);
    }
    let alone = rig.call(A, &Call::get("k").r(1));
    assert_eq!(alone.status, Status::NotFound, "A evicted it: {:?}", rig.stats(A));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.run_for(Duration::from_secs(2));
    rig
}

#[test]
fn a_strict_read_after_a_one_sided_eviction_never_returns_the_older_value() {
    let mut rig = evicted_at_a();
    for _ in 0..4 {
        for node in [A, C] {
            let answer = rig.call(node, &get());
            assert!(value(&answer) != Some("v1"), "through {node}: {answer:?}");
        }
    }
    rig.kill(B);
    rig.all_believe_down(B, true);
    for node in [A, C] {
        let answer = rig.call(node, &get());
        assert_eq!(answer.status, Status::NotFound, "through {node}: a miss is honest, v1 is not");
    }
}

#[test]
fn a_write_below_what_was_evicted_is_stamped_again() {
    let mut rig = evicted_at_a();
    rig.kill(B);
    rig.all_believe_down(B, true);
    let slow = i64::try_from(rig.now().millis()).unwrap();
    rig.kill(C);
    rig.restart(C, ReplicaState::Ready);
    // C's wall shows the time before v2; within the bounds it would be refused by nobody.
    rig.skew(C, -slow.min(400));
    rig.run_for(Duration::from_secs(2));
    assert_written(&rig.call(C, &put("v3")));
    for node in [A, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v3"));
    }
}

// --- S2: later wins over earlier, whatever the clocks did within bounds ---

#[test]
fn a_later_write_through_a_slow_clock_wins_over_an_acknowledged_one() {
    let mut rig = Rig::three();
    rig.skew(A, -450);
    // What B sends A about v1 is late; v1 is acknowledged by {B, C}.
    rig.set_fate(|from, to, message| match message {
        PeerMessage::Replicate { .. } if (from, to) == (B, A) => Fate::Hold,
        _ => Fate::Deliver,
    });
    assert_written(&rig.call(B, &put("v1")));
    rig.clear_fate();
    // The stamp of v2 is below v1, and v1 reaches A before the answers that say so.
    let ticket = rig.ask(A, &put("v2"));
    rig.release();
    let answer = rig.wait(ticket);
    assert_written(&answer);
    assert!(!answer.worth.superseded, "{answer:?}");
    rig.run_for(Duration::from_secs(1));
    for node in [A, B, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v2"), "through {node}");
    }
}

#[test]
fn an_answer_to_the_first_stamp_never_counts_for_the_second() {
    let mut rig = Rig::three();
    rig.skew(A, -400);
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v1").w(2)));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.run_for(Duration::from_secs(1));
    rig.skew(A, -2_400);
    rig.kill(C);
    rig.restart(C, ReplicaState::Ready);
    rig.run_for(Duration::from_secs(2));
    // C, which lost v1, applies the first stamp; its answer and every other one comes twice, and what it is asked for
    // the second stamp is lost.
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    rig.set_fate(move |from, to, message| match message {
        PeerMessage::Replicate { .. } if (from, to) == (A, C) => {
            count.set(count.get() + 1);
            if count.get() > 1 { Fate::Drop } else { Fate::Deliver }
        }
        PeerMessage::Replicated { .. } => Fate::Twice,
        _ => Fate::Deliver,
    });
    let answer = rig.call(A, &put("v2").w(3));
    assert_eq!((answer.status, answer.maybe_applied), (Status::Unknown, true), "C never held the second stamp");
    assert_eq!((rig.stats(A).restamps, asked.get()), (1, 2));
}

// --- 12: two nodes 800 ms apart refuse each other; a wall that jumps an hour ---

#[test]
fn two_nodes_800_ms_apart_refuse_each_other_and_poison_nothing() {
    let mut rig = Rig::three();
    rig.skew(A, 800);
    let answer = rig.call(A, &put("ahead"));
    assert!(matches!(answer.status, Status::Unavailable { .. }), "{answer:?}");
    assert!(rig.stats(B).clock_refusals > 0);
    let written = rig.call(B, &put("v"));
    assert_written(&written);
    let stamp = written.version.unwrap().hlc.wall().0;
    assert!(stamp <= rig.wall(B).0, "B's clock was not drawn along: {stamp} at {:?}", rig.wall(B));
    for node in [B, C] {
        assert_eq!(value(&rig.call(node, &get())), Some("v"));
    }
}

#[test]
fn a_wall_that_jumps_an_hour_stops_coordination_and_is_not_folded_in() {
    let mut rig = Rig::three();
    rig.jump_wall(A, 3_600_000);
    rig.run_for(Duration::from_secs(1));
    let refused = rig.call(A, &put("v"));
    assert_eq!(refused.status, Status::ClockSkew);
    assert!(refused.text.is_some_and(|text| text.contains("NTP")));
    let written = rig.call(B, &put("v").w(3));
    assert_written(&written);
    assert!(written.version.unwrap().hlc.wall() <= rig.wall(B), "A answered with its old time");
    rig.jump_wall(A, -3_600_000);
    rig.confirm_clock(A);
    assert_written(&rig.call(A, &put("w")));
}

#[test]
fn a_peer_an_hour_ahead_gets_a_refusal_and_the_node_keeps_serving() {
    let mut rig = Rig::three();
    rig.skew(A, 3_600_000);
    assert!(matches!(rig.call(A, &put("v")).status, Status::Unavailable { .. }));
    assert_written(&rig.call(B, &put("w")));
    assert_eq!(value(&rig.call(C, &get())), Some("w"));
}

// --- 13: two processes of one image ---

#[test]
fn two_processes_of_one_image_never_stamp_equal_versions() {
    let mut rig = Rig::three();
    let first = rig.call(A, &put("v1")).version.unwrap();
    rig.kill(A);
    rig.restart(A, ReplicaState::Ready);
    rig.jump_wall(A, -i64::try_from(rig.now().millis()).unwrap());
    let second = rig.call(A, &Call::put("other", "v2").w(1)).version.unwrap();
    assert_ne!(first.actor, second.actor);
    assert_ne!(first, second);
}

// --- quorums, fallbacks, honesty ---

#[test]
fn strict_reads_see_strict_writes_with_any_one_owner_dead() {
    for dead in [A, B, C] {
        let mut rig = Rig::three();
        let alive: Vec<usize> = [A, B, C].into_iter().filter(|node| *node != dead).collect();
        rig.kill(dead);
        for (round, node) in alive.iter().enumerate() {
            let text = format!("v{round}");
            assert_written(&rig.call(*node, &put(&text)));
            for reader in &alive {
                assert_eq!(value(&rig.call(*reader, &get())), Some(&*text), "dead {dead}, read through {reader}");
            }
        }
    }
}

#[test]
fn a_dead_owner_that_nobody_noticed_costs_a_strict_request_nothing_but_time() {
    let mut rig = Rig::three();
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v")));
    for _ in 0..4 {
        assert_eq!(value(&rig.call(B, &get())), Some("v"));
    }
}

#[test]
fn a_sloppy_write_with_owners_down_leaves_hints_that_sloppy_reads_find() {
    let (mut rig, owners, fallbacks) = five();
    for owner in &owners[..2] {
        rig.kill(*owner);
        rig.all_believe_down(*owner, true);
    }
    let answer = rig.call(owners[2], &Call::put("k", "v"));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks, answer.worth.sloppy), (2, 1, true));
    rig.run_for(Duration::from_secs(1));
    assert!(fallbacks.iter().all(|node| rig.stats(*node).hints >= 1), "one hint an owner that is down");
    rig.kill(owners[2]);
    rig.all_believe_down(owners[2], true);
    let read = rig.call(fallbacks[0], &Call::get("k"));
    assert_eq!(value(&read), Some("v"), "with every owner down: {read:?}");
    assert!(read.worth.sloppy && read.worth.stale);
    let read = rig.call(fallbacks[1], &Call::get("k"));
    assert_eq!(value(&read), Some("v"), "the second stand-in sends it on to the first: {read:?}");
}

#[test]
fn a_sloppy_write_with_every_owner_down_is_taken_by_stand_ins() {
    let (mut rig, owners, fallbacks) = five();
    for owner in &owners {
        rig.kill(*owner);
        rig.all_believe_down(*owner, true);
    }
    let answer = rig.call(fallbacks[1], &Call::put("k", "v"));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (2, 2));
    assert_eq!(value(&rig.call(fallbacks[0], &Call::get("k"))), Some("v"));
    let strict = rig.call(fallbacks[0], &put("w"));
    assert!(matches!(strict.status, Status::Unavailable { .. }), "{strict:?}");
}

#[test]
fn owners_that_fall_silent_are_stood_in_for_whatever_was_asked_before() {
    let (mut rig, owners, _) = five();
    rig.kill(owners[1]);
    rig.all_believe_down(owners[1], true);
    // Nobody has noticed yet that this one is gone.
    for node in 0..5 {
        rig.cut(owners[2], node);
    }
    let answer = rig.call(owners[0], &Call::put("k", "v").w(3));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (3, 2));
}

#[test]
fn strict_requests_count_no_fallback() {
    let (mut rig, owners, _) = five();
    for owner in &owners[..2] {
        rig.kill(*owner);
        rig.all_believe_down(*owner, true);
    }
    let written = rig.call(owners[2], &put("v"));
    assert_eq!((written.status, written.maybe_applied), (Status::Unavailable { need: 2, have: 1 }, true));
    assert_eq!(rig.call(owners[2], &get()).status, Status::Unavailable { need: 2, have: 1 });
}

#[test]
fn acknowledgements_are_distinct_nodes_even_when_answers_come_twice() {
    let mut rig = Rig::three();
    rig.set_fate(|from, _, message| match message {
        _ if from == C => Fate::Drop,
        PeerMessage::Replicated { .. } | PeerMessage::ReadReply { .. } => Fate::Twice,
        _ => Fate::Deliver,
    });
    let written = rig.call(A, &put("v").w(3));
    assert_eq!((written.status, written.maybe_applied), (Status::Unknown, true), "B's answer twice is one");
    assert!(matches!(rig.call(A, &get().r(3)).status, Status::Unavailable { need: 3, have: 2 }));
}

#[test]
fn a_late_reply_never_counts_for_another_request() {
    let mut rig = Rig::three();
    rig.set_fate(|_, _, message| match message {
        PeerMessage::Replicated { .. } => Fate::Hold,
        _ => Fate::Deliver,
    });
    let first = rig.call(A, &put("v1"));
    assert_eq!(first.status, Status::Unknown);
    rig.set_fate(|_, _, message| match message {
        PeerMessage::Replicate { .. } => Fate::Drop,
        _ => Fate::Deliver,
    });
    let second = rig.ask(A, &put("v2"));
    rig.release();
    let second = rig.wait(second);
    assert_eq!((second.status, second.maybe_applied), (Status::Unknown, true));
    assert_eq!(rig.stats(A).late_votes, 2);
}

#[test]
fn a_slow_owner_is_waited_for_when_nobody_can_stand_in() {
    let mut rig = Rig::new(RigConfig { latency: (MILLI * 70, MILLI * 70), ..RigConfig::default() });
    rig.kill(C);
    rig.all_believe_down(C, true);
    rig.run_for(Duration::from_secs(2));
    let answer = rig.call(A, &Call::put("k", "v"));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (2, 0));
    assert_eq!(value(&rig.call(A, &Call::get("k"))), Some("v"));
}

#[test]
fn a_superseded_sloppy_write_is_stamped_again_when_stand_ins_are_needed_for_its_quorum() {
    let (mut rig, owners, _) = five();
    rig.kill(owners[2]);
    rig.all_believe_down(owners[2], true);
    rig.skew(owners[0], -400);
    rig.cut(owners[0], owners[1]);
    assert_written(&rig.call(owners[1], &Call::put("k", "v1").w(1)));
    rig.run_for(Duration::from_millis(50));
    rig.heal();
    let answer = rig.call(owners[0], &Call::put("k", "v2").w(3));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.superseded), (3, false), "{answer:?}");
    assert_eq!(value(&rig.call(owners[1], &Call::get("k"))), Some("v2"));
}

// --- the coordinator's own copy, and bodies ---

#[test]
fn the_coordinators_copy_is_pinned_until_it_is_acknowledged() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    rig.set_fate(|_, _, message| match message {
        PeerMessage::Replicate { key, .. } if key.key == b"k" => Fate::Hold,
        _ => Fate::Deliver,
    });
    let ticket = rig.ask(A, &put("v"));
    for other in 0..3_000 {
        rig.ask(A, &Call::put(format!("other {other}"), [7; 2_000]).w(1));
        rig.run_for(Duration::from_micros(50));
    }
    assert!(rig.stats(A).evictions > 0, "{:?}", rig.stats(A));
    assert_eq!(rig.reply(ticket), None);
    assert_eq!(value(&rig.call(A, &Call::get("k").r(1))), Some("v"), "still there");
    rig.clear_fate();
    rig.release();
    assert_written(&rig.wait(ticket));
}

#[test]
fn a_read_whose_bodys_holder_is_silent_is_no_miss() {
    let mut rig = Rig::three();
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v1")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.run_for(Duration::from_secs(2));
    assert_written(&rig.call(A, &Call::put("k2", "x").w(3)));
    // A holds an older value, so that it asks for digests; bodies never come.
    rig.set_fate(|_, _, message| match message {
        PeerMessage::ReadReply { found: crate::wire::peer::Found::Entry(_), .. } => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut rig2 = rig;
    rig2.clear_fate();
    assert_written(&rig2.call(A, &put("v2").w(3)));
    rig2.cut(A, B);
    rig2.cut(A, C);
    assert_written(&rig2.call(B, &put("v3")));
    rig2.run_for(Duration::from_secs(1));
    rig2.heal();
    rig2.run_for(Duration::from_secs(2));
    rig2.set_fate(|_, _, message| match message {
        PeerMessage::ReadReply { found: crate::wire::peer::Found::Entry(_), .. } => Fate::Drop,
        _ => Fate::Deliver,
    });
    let answer = rig2.call(A, &get());
    assert!(matches!(answer.status, Status::Unavailable { .. }), "v3 is held by B and C: {answer:?}");
    rig2.clear_fate();
    rig2.run_for(Duration::from_secs(2));
    assert_eq!(value(&rig2.call(A, &get())), Some("v3"));
}

#[test]
fn a_digest_that_comes_twice_does_not_end_the_fetch_of_its_body() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v2")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.run_for(Duration::from_secs(2));
    rig.set_fate(|_, _, message| match message {
        PeerMessage::ReadReply { .. } => Fate::Twice,
        _ => Fate::Deliver,
    });
    for _ in 0..3 {
        assert_eq!(value(&rig.call(A, &get())), Some("v2"));
    }
}

// --- deadlines, losses, forwarding, hedges, breakers ---

#[test]
fn every_request_ends_by_its_deadline() {
    let mut rig = Rig::three();
    rig.cut(A, B);
    rig.cut(A, C);
    for (call, millis) in [
        (put("v"), 500),
        (get(), 250),
        (put("v").deadline_ms(40), 40),
        (get().deadline_ms(30), 30),
        (Call::put("k", "v"), 500),
        (put("v").when(Condition::IfAbsent), 500),
    ] {
        let ticket = rig.ask(A, &call);
        rig.run_for(Duration::from_millis(millis));
        let answer = rig.reply(ticket).unwrap_or_else(|| panic!("{call:?} is over after {millis} ms"));
        assert!(matches!(answer.status, Status::Unknown | Status::Unavailable { .. }), "{call:?}: {answer:?}");
        rig.run_for(Duration::from_secs(2));
        assert_eq!(rig.stats(A).in_flight, 0);
    }
    let late = rig.call(A, &get().deadline_ms(0));
    assert_eq!(late.status, Status::Timeout);
}

#[test]
fn a_peer_lost_in_the_middle_of_a_request_is_not_waited_for() {
    let mut rig = Rig::three();
    rig.set_fate(|_, _, _| Fate::Drop);
    let (write, read) = (rig.ask(A, &put("v")), rig.ask(A, &Call::get("k2").strict()));
    rig.run_for(MILLI);
    rig.lose_link(A, B);
    rig.lose_link(A, C);
    let write = rig.reply(write).expect("nobody is left who could answer").clone();
    assert_eq!((write.status, write.maybe_applied), (Status::Unavailable { need: 2, have: 1 }, true));
    assert_eq!(rig.reply(read).unwrap().status, Status::Unavailable { need: 2, have: 1 });
    assert_eq!(rig.stats(A).in_flight, 0);
}

#[test]
fn a_request_at_a_stranger_is_forwarded_once() {
    let (mut rig, owners, fallbacks) = five();
    let forwards = Rc::new(Cell::new(0));
    let count = Rc::clone(&forwards);
    rig.set_fate(move |_, _, message| {
        if matches!(message, PeerMessage::Forward { .. }) {
            count.set(count.get() + 1);
        }
        Fate::Deliver
    });
    assert_written(&rig.call(fallbacks[0], &put("v")));
    assert_eq!(value(&rig.call(fallbacks[1], &get())), Some("v"));
    assert_eq!(forwards.get(), 2);
    assert_eq!(fallbacks.iter().map(|node| rig.stats(*node).forwarded).sum::<u64>(), 2);
    assert_eq!(owners.iter().map(|node| rig.stats(*node).forwarded).sum::<u64>(), 0);
}

#[test]
fn a_forwarded_request_at_another_stranger_is_refused() {
    let (mut rig, _, fallbacks) = five();
    let call = put("v");
    let hash = crate::id::KeyHasher::new(crate::id::ClusterId(7)).hash(call.place().0, call.place().1);
    let refusals = Rc::new(Cell::new(0));
    let count = Rc::clone(&refusals);
    rig.set_fate(move |_, _, message| {
        if let PeerMessage::ForwardReply(reply) = message {
            count.set(count.get() + u32::from(reply.status == Status::NotOwner && reply.id == 9));
        }
        Fate::Deliver
    });
    rig.inject(fallbacks[0], fallbacks[1], &PeerMessage::Forward { id: 9, hash, request: call.request(0) });
    rig.run_for(Duration::from_secs(1));
    assert_eq!(refusals.get(), 1);
    assert_eq!(rig.stats(fallbacks[1]).forwarded, 0);
}

#[test]
fn a_forwarder_tries_lost_owners_again_after_a_second() {
    let namespaces = vec![Namespace { n: 1, r: 1, w: 1, ..Namespace::new("one") }];
    let mut rig = Rig::new(RigConfig { namespaces, ..RigConfig::default() });
    let call = Call::get("k").within("one");
    let owner = rig.owners(&call)[0];
    let other = (owner + 1) % 3;
    assert_eq!(rig.call(other, &call).status, Status::NotFound);
    rig.lose_link(other, owner);
    assert!(matches!(rig.call(other, &call.clone().strict()).status, Status::Unavailable { .. }));
    rig.run_for(Duration::from_millis(1_001));
    assert_eq!(rig.call(other, &call).status, Status::NotFound, "asked the owner");
    assert_eq!(rig.stats(other).forwarded, 2);
}

#[test]
fn a_hedge_asks_the_third_owner() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    for _ in 0..30 {
        rig.call(A, &get());
    }
    rig.cut_one_way(B, A);
    let began = rig.now();
    for _ in 0..4 {
        assert_eq!(value(&rig.call(A, &get())), Some("v"));
    }
    assert!(rig.stats(A).hedges >= 1, "{:?}", rig.stats(A));
    assert!(rig.now().since(began) < limits::READ_PATIENCE, "the hedge answered before patience ran out");
}

#[test]
fn a_breaker_opens_for_a_silent_peer_and_closes_when_it_answers() {
    let mut rig = Rig::three();
    rig.cut(A, C);
    for round in 0..8 {
        assert_written(&rig.call(A, &Call::put(format!("k{round}"), "v").strict()));
        rig.run_for(Duration::from_millis(130));
    }
    let sent = Rc::new(Cell::new(0));
    let count = Rc::clone(&sent);
    rig.set_fate(move |from, to, _| {
        count.set(count.get() + u32::from((from, to) == (A, C)));
        Fate::Deliver
    });
    assert_written(&rig.call(A, &put("v")));
    assert_eq!(sent.get(), 0, "the breaker is open");
    rig.heal();
    rig.run_for(Duration::from_millis(1_100));
    assert_written(&rig.call(A, &put("v")));
    assert_eq!(sent.get(), 1, "one probe");
    assert_written(&rig.call(A, &put("v").w(3)));
}

// --- conditions, expiries, touches ---

#[test]
fn conditions_are_checked_against_a_quorum() {
    let mut rig = Rig::three();
    let first = rig.call(A, &put("v1").when(Condition::IfAbsent));
    assert_written(&first);
    let again = rig.call(B, &put("v2").when(Condition::IfAbsent));
    assert_eq!((again.status, again.version), (Status::Conflict, first.version));
    let second = rig.call(C, &put("v2").when(Condition::IfVersion(first.version.unwrap())));
    assert_written(&second);
    let stale = rig.call(A, &Call::delete("k").strict().when(Condition::IfVersion(first.version.unwrap())));
    assert_eq!((stale.status, stale.version), (Status::Conflict, second.version));
    assert_eq!(value(&rig.call(A, &get())), Some("v2"));
    assert_written(&rig.call(B, &Call::delete("k").strict().when(Condition::IfVersion(second.version.unwrap()))));
    assert_eq!(rig.call(A, &get()).status, Status::NotFound);
    let gone = rig.call(C, &put("v3").when(Condition::IfVersion(second.version.unwrap())));
    assert_eq!((gone.status, gone.version), (Status::Conflict, None));
    assert_written(&rig.call(C, &put("v3").when(Condition::IfAbsent)));
}

#[test]
fn a_kept_expiry_is_that_of_the_value_replaced_and_a_touch_gives_a_new_one() {
    let mut rig = Rig::three();
    rig.call(A, &put("v1").ttl(Ttl::Millis(5_000)));
    let before = rig.call(B, &get()).expires_at.unwrap();
    rig.run_for(Duration::from_secs(1));
    assert_written(&rig.call(C, &put("v2").ttl(Ttl::Keep)));
    let kept = rig.call(A, &get());
    assert_eq!((value(&kept), kept.expires_at), (Some("v2"), Some(before)));
    assert_written(&rig.call(B, &Call::touch("k", Ttl::Millis(60_000)).strict()));
    let touched = rig.call(A, &get());
    assert_eq!(value(&touched), Some("v2"));
    assert!(touched.expires_at.unwrap() > before + Duration::from_secs(50));
    assert_written(&rig.call(B, &Call::touch("k", Ttl::Never).strict()));
    assert_eq!(rig.call(C, &get()).expires_at, None);
    assert_eq!(rig.call(A, &Call::touch("nothing", Ttl::Never).strict()).status, Status::NotFound);
    assert_eq!(rig.call(A, &Call::touch("k", Ttl::Keep)).status, Status::Invalid);
    assert_written(&rig.call(A, &Call::put("new", "v").strict().ttl(Ttl::Keep)));
    assert_eq!(rig.call(B, &Call::get("new").strict()).expires_at, None);
}

#[test]
fn nothing_is_served_at_its_expiry() {
    let mut rig = Rig::three();
    rig.call(A, &put("v").ttl(Ttl::Millis(1_000)).w(3));
    let end = rig.call(A, &get()).expires_at.unwrap();
    let left = Duration::from_millis(end.0 - rig.wall(A).0);
    rig.run_for(left - MILLI * 2);
    assert_eq!(value(&rig.call(B, &get())), Some("v"));
    rig.run_for(MILLI * 2);
    for node in [A, B, C] {
        assert_eq!(rig.call(node, &get()).status, Status::NotFound);
    }
    assert_written(&rig.call(C, &put("w").when(Condition::IfAbsent)));
}

// --- bad input, everywhere: a status and words each, and the node keeps serving ---

#[test]
fn bad_requests_are_refused_with_what_was_wrong() {
    let mut rig = Rig::three();
    let past_2500 = limits::EXPIRES_MS_MAX;
    let cases = [
        (Call::get(""), Status::Invalid, "empty"),
        (Call::get([7; 1025]), Status::TooLarge, "1025"),
        (Call::put("k", vec![0; (1 << 20) + 1]), Status::TooLarge, "value_max"),
        (Call::put("k", "v").ttl(Ttl::Millis(0)), Status::Invalid, "zero"),
        (Call::put("k", "v").ttl(Ttl::Millis(0)).when(Condition::IfAbsent), Status::Invalid, "zero"),
        (Call::touch("k", Ttl::Millis(0)), Status::Invalid, "zero"),
        (Call::put("k", "v").ttl(Ttl::Millis(past_2500)), Status::Invalid, "2500"),
        (Call::put("k", "v").ttl(Ttl::Millis(u64::MAX)), Status::Invalid, "2500"),
        (Call::put("k", "v").w(4), Status::Invalid, "4 votes"),
        (Call::get("k").r(4), Status::Invalid, "4 votes"),
        (Call::get("k").within("nowhere"), Status::NoSuchNamespace, "namespace create"),
    ];
    for (call, status, words) in cases {
        for node in [A, B] {
            let answer = rig.call(node, &call);
            let text = answer.text.unwrap_or_default();
            assert_eq!(answer.status, status, "{words}: {text}");
            assert!(text.contains(words), "{words:?} is not in {text:?}");
            assert!(!answer.maybe_applied);
        }
    }
    assert_written(&rig.call(A, &put("v")));
    assert_eq!(rig.stats(A).in_flight, 0);
}

#[test]
fn a_fenced_node_refuses_and_says_why() {
    let mut rig = Rig::three();
    rig.set_fence(A, Some(Fence::ClockOffset(420)));
    let answer = rig.call(A, &put("v"));
    assert_eq!(answer.status, Status::ClockSkew);
    assert!(answer.text.unwrap().contains("420 ms"));
    assert_written(&rig.call(B, &put("v").w(3)));
}

#[test]
fn strict_requests_wait_for_an_agreed_layout_and_sloppy_ones_do_not() {
    let mut rig = Rig::three();
    rig.set_agreed(false);
    assert_eq!(rig.call(A, &put("v")).status, Status::NotReady);
    assert_eq!(rig.call(A, &get()).status, Status::NotReady);
    assert_written(&rig.call(A, &Call::put("k", "v")));
}

#[test]
fn a_namespace_that_may_not_evict_refuses_when_memory_is_full_and_loses_nothing() {
    let namespaces = vec![Namespace { eviction: Eviction::None, ..Namespace::new("kept") }];
    let mut rig = Rig::new(RigConfig { memory: 4 << 20, namespaces, ..RigConfig::default() });
    let mut kept = Vec::new();
    let mut refused = 0;
    for round in 0..300 {
        let key = format!("k{round}");
        let answer = rig.call(A, &Call::put(&key, [7; 30_000]).within("kept").strict());
        match answer.status {
            Status::Ok => kept.push(key),
            Status::OutOfMemory => refused += 1,
            other => panic!("{other:?}: {answer:?}"),
        }
    }
    assert!(refused > 0 && kept.len() > 20, "{refused} refused, {} kept", kept.len());
    for key in &kept {
        let answer = rig.call(B, &Call::get(key).within("kept").strict());
        assert_eq!(answer.value.map(|value| value.len()), Some(30_000), "{key}");
    }
}

#[test]
fn a_layout_smaller_than_the_namespace_clamps_quorums_and_says_degraded() {
    let mut rig = Rig::new(RigConfig { nodes: 1, ..RigConfig::default() });
    let answer = rig.call(A, &put("v"));
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.degraded), (1, true));
    assert!(rig.call(A, &get()).worth.degraded);
}

// --- bounds ---

#[test]
fn a_burst_beyond_what_may_be_in_flight_is_refused_and_the_shard_recovers() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    rig.cut(A, B);
    rig.cut(A, C);
    let tickets: Vec<_> = (0..5_000).map(|at| rig.ask(A, &Call::put(format!("k{at}"), "v").strict())).collect();
    let refused = tickets.iter().filter(|ticket| {
        rig.reply(**ticket).is_some_and(|answer| matches!(answer.status, Status::Overloaded { .. }))
    });
    assert!(refused.count() > 0);
    rig.run_for(Duration::from_secs(3));
    assert!(tickets.iter().all(|ticket| rig.reply(*ticket).is_some()));
    assert_eq!(rig.stats(A).in_flight, 0);
    rig.heal();
    rig.run_for(Duration::from_secs(3));
    for round in 0..5 {
        let answer = rig.call(A, &put(&format!("v{round}")));
        assert_written(&answer);
    }
}

#[test]
fn replicas_refuse_old_epochs_and_requests_survive_a_new_layout() {
    let (mut rig, owners, _) = five();
    assert_written(&rig.call(owners[0], &put("v").w(3)));
    let tickets: Vec<_> = (0..5).map(|node| rig.ask(node, &get())).collect();
    let writes: Vec<_> = (0..5).map(|node| rig.ask(node, &Call::put(format!("w{node}"), "v"))).collect();
    let members: Vec<usize> = (0..5).filter(|node| *node != owners[2]).collect();
    rig.relayout(&members);
    rig.run_for(Duration::from_secs(3));
    for ticket in tickets.into_iter().chain(writes) {
        assert!(rig.reply(ticket).is_some(), "every request ends");
    }
    assert!((0..5).all(|node| rig.stats(node).in_flight == 0));
    let epoch = crate::ring::LayoutName { epoch: 1, hash: 1 };
    let call = get();
    let hash = crate::id::KeyHasher::new(crate::id::ClusterId(7)).hash(call.place().0, b"k");
    let key = crate::wire::peer::KeyRef { namespace: call.place().0, hash, key: b"k" };
    let hlc = crate::value::Hlc::at(rig.wall(owners[0]));
    let header = crate::wire::peer::Header { layout: epoch, hlc, deadline_ms: 100 };
    let before = rig.stats(owners[0]).stale_epochs;
    rig.inject(owners[1], owners[0], &PeerMessage::Read { id: 1, header, key, full: true });
    rig.run_for(MILLI * 10);
    assert_eq!(rig.stats(owners[0]).stale_epochs, before + 1);
}

#[test]
fn a_message_minutes_old_changes_nothing() {
    let mut rig = Rig::three();
    let held = Rc::new(Cell::new(false));
    let hold = Rc::clone(&held);
    rig.set_fate(move |_, to, message| match message {
        PeerMessage::Replicate { .. } if to == C && !hold.replace(true) => Fate::Hold,
        _ => Fate::Deliver,
    });
    assert_written(&rig.call(A, &put("v")));
    rig.run_for(Duration::from_secs(31));
    let before = rig.stats(C).clock_refusals;
    rig.release();
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.stats(C).clock_refusals, before + 1);
    assert_eq!(rig.stats(C).entries, 0);
}

#[test]
fn a_replica_that_forgot_supersedes_what_is_not_above_it() {
    let mut rig = evicted_at_a();
    let v1 = rig.call(C, &Call::get("k").r(1)).version.unwrap();
    let outcomes = Rc::new(Cell::new(0));
    let count = Rc::clone(&outcomes);
    rig.set_fate(move |from, _, message| {
        if let PeerMessage::Replicated { id: 77, outcome, .. } = message {
            let superseded = matches!(outcome, Replicated::Superseded { version, .. } if *version > v1);
            assert!(from == A && superseded, "{outcome:?}");
            count.set(count.get() + 1);
        }
        Fate::Deliver
    });
    let call = get();
    let hash = crate::id::KeyHasher::new(crate::id::ClusterId(7)).hash(call.place().0, b"k");
    let key = crate::wire::peer::KeyRef { namespace: call.place().0, hash, key: b"k" };
    let layout = crate::ring::LayoutName { epoch: 1, hash: 0 };
    let header = crate::wire::peer::Header { layout, hlc: crate::value::Hlc::at(rig.wall(C)), deadline_ms: 100 };
    let body = crate::value::Body::Value(b"v1");
    let entry = crate::value::Entry { version: v1, expires_at: None, hold_until: None, body };
    rig.inject(C, A, &PeerMessage::Replicate { id: 77, header, key, entry, stands_for: None });
    rig.run_for(MILLI * 10);
    assert_eq!(outcomes.get(), 1);
    assert!(rig.wall(A) > Wall(0));
}
