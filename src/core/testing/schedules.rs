//! Schedules by name: each broke an earlier version of a rule (SIMULATION §11).
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key, unless said otherwise.

use super::{Call, Fate, Rig, RigConfig, call::Answer};
use crate::{
    time::Wall,
    wire::{
        client::{Status, Ttl},
        peer::{PeerMessage, ReplicaState, Replicated, ReplicationKind},
    },
};
use std::{cell::Cell, rc::Rc, time::Duration};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const C: usize = 2;
pub(super) const MILLI: Duration = Duration::from_millis(1);

pub(super) fn put(value: &str) -> Call {
    Call::put("k", value).strict()
}

pub(super) fn get() -> Call {
    Call::get("k").strict()
}

pub(super) fn value(answer: &Answer) -> Option<&str> {
    answer.value.as_deref().map(|bytes| std::str::from_utf8(bytes).expect("tests write text"))
}

/// Nobody compares.
pub(super) fn no_exchange(_: usize, _: usize, message: &PeerMessage<'_>) -> Fate {
    if matches!(message, PeerMessage::Exchange { .. }) { Fate::Drop } else { Fate::Deliver }
}

#[track_caller]
pub(super) fn assert_written(answer: &Answer) {
    assert_eq!(answer.status, Status::Ok, "{answer:?}");
    assert!(answer.version.is_some(), "{answer:?}");
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
    rig.skew(C, -400);
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(A, &put("v1")));
    rig.run_for(MILLI * 5);
    rig.heal();
    rig.wipe(A, ReplicaState::Warming);
    // B is slow to answer: only A's vote could be had before it.
    rig.set_fate(|from, to, _| if (from, to) == (B, C) { Fate::Hold } else { Fate::Deliver });
    let ticket = rig.ask(C, &put("v2"));
    rig.run_for(MILLI * 50);
    assert_eq!(rig.reply(ticket), None, "A's Applied is no vote");
    rig.clear_fate();
    rig.release();
    assert_written(&rig.wait(ticket));
    assert_eq!(rig.stats(C).restamps, 1);
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
    rig.set_fate(no_exchange);
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

pub(super) const GHOST: u32 = 3_000;
const FLOOR: u32 = 12_000;

/// As `evict_at_a` leaves three nodes.
fn evicted_at_a(others: u32) -> Rig {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    evict_at_a(&mut rig, others);
    rig
}

/// A and B hold v2, of which A keeps a ghost or a floor only; C holds v1, and its clock is 400 ms behind. No time passed
/// since v2. With `GHOST` other keys a ghost remembers, with `FLOOR` the partition's floor does.
pub(super) fn evict_at_a(rig: &mut Rig, others: u32) {
    rig.skew(C, -400);
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.run_for(MILLI * 5);
    rig.cut(A, C);
    rig.cut(B, C);
    assert_written(&rig.call(B, &put("v2")));
    rig.run_for(MILLI);
    for other in [B, C] {
        rig.believe_down(A, other, true);
    }
    for other in 0..others {
        for _ in 0..2 {
            rig.call(A, &Call::put(format!("other {other}"), [7; 2_000]).w(1));
        }
    }
    let alone = rig.call(A, &Call::get("k").r(1));
    assert_eq!(alone.status, Status::NotFound, "A evicted it: {:?}", rig.stats(A));
    for other in [B, C] {
        rig.believe_down(A, other, false);
    }
    rig.heal();
}

#[test]
fn a_strict_read_after_a_one_sided_eviction_never_returns_the_older_value() {
    let mut rig = evicted_at_a(GHOST);
    rig.run_for(Duration::from_secs(2));
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
    for others in [GHOST, FLOOR] {
        let mut rig = evicted_at_a(others);
        rig.cut(B, A);
        rig.cut(B, C);
        let answer = rig.call(C, &put("v3"));
        assert_written(&answer);
        assert_eq!(rig.stats(C).restamps, 1, "A remembers v2, though it holds nothing: {:?}", rig.stats(A));
        rig.run_for(Duration::from_secs(2));
        for node in [A, C] {
            assert_eq!(value(&rig.call(node, &get())), Some("v3"));
        }
    }
}

// --- S3: found by the soak; ids began at one in every process ---

#[test]
fn a_reply_to_an_earlier_process_never_counts_for_a_request_of_this_one() {
    let mut rig = Rig::three();
    assert_written(&rig.call(B, &Call::put("one", "of one").w(3)));
    rig.wipe(A, ReplicaState::Ready);
    rig.set_fate(|from, _, _| if from == A { Fate::Hold } else { Fate::Deliver });
    rig.ask(A, &Call::get("one"));
    rig.wipe(A, ReplicaState::Ready);
    // The new process asks about another key, and what it asks is lost; what the old one asked is answered.
    rig.set_fate(|from, _, _| if from == A { Fate::Drop } else { Fate::Deliver });
    let ticket = rig.ask(A, &Call::get("two"));
    rig.release();
    let answer = rig.wait(ticket);
    assert_eq!(answer.value, None, "{answer:?}");
    assert_eq!(rig.stats(A).late_votes, 1);
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
    rig.run_for(MILLI * 5);
    rig.heal();
    rig.wipe(C, ReplicaState::Ready);
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

#[test]
fn a_message_minutes_old_changes_nothing() {
    let mut rig = Rig::three();
    let held = Rc::new(Cell::new(false));
    let hold = Rc::clone(&held);
    rig.set_fate(move |_, to, message| match message {
        // The hint that A keeps for C would bring it later, rightly.
        PeerMessage::Replicate { kind: ReplicationKind::Hint, .. } => Fate::Drop,
        PeerMessage::Replicate { .. } if to == C && !hold.replace(true) => Fate::Hold,
        PeerMessage::Exchange { .. } => Fate::Drop,
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
    let mut rig = evicted_at_a(GHOST);
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
    let kind = ReplicationKind::Client;
    rig.inject(C, A, &PeerMessage::Replicate { id: 77, header, key, entry, stands_for: None, kind });
    rig.run_for(MILLI * 10);
    assert_eq!(outcomes.get(), 1);
    assert!(rig.wall(A) > Wall(0));
}

// --- 13: EXPIRE through a stale owner ---

#[test]
fn a_touch_through_an_owner_that_missed_the_newest_write_extends_that_and_not_its_own() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.set_fate(|_, to, _| if to == C { Fate::Drop } else { Fate::Deliver });
    assert_written(&rig.call(A, &put("v2")));
    rig.clear_fate();
    rig.set_fate(no_exchange);
    assert_written(&rig.call(C, &Call::touch("k", Ttl::Millis(60_000)).strict()));
    for node in [A, B, C] {
        let read = rig.call(node, &get());
        assert_eq!(value(&read), Some("v2"), "{node}");
        assert!(read.expires_at.is_some(), "{node}");
    }
}

// --- c0042fb: a strict write is in flight when the layout of all its owners retires ---

#[test]
fn a_write_whose_owners_have_no_place_any_more_is_not_certainly_refused() {
    let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
    rig.relayout(&[A, B, C]);
    rig.set_fate(|from, _, message| match message {
        PeerMessage::Replicate { .. } if from == A => Fate::Hold,
        _ => Fate::Deliver,
    });
    let asked = rig.ask(A, &put("v"));
    rig.run_for(MILLI);
    rig.relayout(&[3, 4, 5]);
    let answer = rig.wait(asked);
    assert!(matches!(answer.status, Status::Unavailable { .. }), "{answer:?}");
    assert!(answer.maybe_applied, "A holds it, and B and C may");
}
