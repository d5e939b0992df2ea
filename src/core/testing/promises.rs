//! What replies promise: quorums, stand-ins, deadlines, conditions, expiries, refusals, bounds (PROTOCOL §4, §5).
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key, unless said otherwise. The schedules that broke earlier rules are
//! in `schedules`.

use super::{
    Call, Fate, Rig, RigConfig,
    schedules::{A, B, C, MILLI, assert_written, get, put, value},
};
use crate::{
    limits,
    namespace::{Eviction, Namespace},
    view::Fence,
    wire::{
        client::{Condition, Status, Ttl},
        peer::{Found, PeerMessage},
    },
};
use std::{cell::Cell, rc::Rc, time::Duration};

/// Five nodes; the owners of "k" and then its fallbacks.
fn five() -> (Rig, Vec<usize>, Vec<usize>) {
    let rig = Rig::new(RigConfig { nodes: 5, ..RigConfig::default() });
    let (owners, fallbacks) = (rig.owners(&get()), rig.fallbacks(&get()));
    (rig, owners, fallbacks)
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

/// Simulator, seed d00086e (L8): there was room for four stand-ins.
#[test]
fn a_sloppy_write_to_all_five_owners_that_are_down_is_taken_by_five_stand_ins() {
    let mut rig = Rig::new(RigConfig { nodes: 11, n: 5, ..RigConfig::default() });
    let call = Call::put("k", "v").w(5);
    let (owners, fallbacks) = (rig.owners(&call), rig.fallbacks(&call));
    for owner in &owners {
        rig.kill(*owner);
        rig.all_believe_down(*owner, true);
    }
    // One of those that live is lost on the way: a sixth is asked in its place.
    rig.cut(fallbacks[0], fallbacks[1]);
    let asked = rig.ask(fallbacks[0], &call);
    rig.run_for(MILLI * 10);
    rig.lose_link(fallbacks[0], fallbacks[1]);
    let answer = rig.wait(asked);
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (5, 5));
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

/// v1 at A, v2 at B and C; A asks them for digests, since it holds an older value.
fn newer_elsewhere() -> Rig {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v1").w(3)));
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v2")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig.run_for(Duration::from_secs(2));
    rig
}

fn is_body(message: &PeerMessage<'_>) -> bool {
    matches!(message, PeerMessage::ReadReply { found: Found::Entry(_), .. })
}

#[test]
fn a_read_whose_bodys_holders_are_silent_is_no_miss() {
    let mut rig = newer_elsewhere();
    rig.set_fate(|_, _, message| if is_body(message) { Fate::Drop } else { Fate::Deliver });
    let strict = rig.call(A, &get());
    assert!(matches!(strict.status, Status::Unavailable { .. }), "v2 is held by B and C: {strict:?}");
    let sloppy = rig.call(A, &Call::get("k"));
    assert_eq!(
        (value(&sloppy), sloppy.worth.stale, sloppy.worth.sloppy),
        (Some("v1"), true, true),
        "the best, flagged"
    );
    rig.clear_fate();
    rig.run_for(Duration::from_secs(2));
    assert_eq!(value(&rig.call(A, &get())), Some("v2"));
}

#[test]
fn a_read_that_is_decided_by_its_timeout_does_not_begin_to_fetch() {
    let mut rig = newer_elsewhere();
    rig.set_fate(|from, _, message| if from == C || is_body(message) { Fate::Drop } else { Fate::Deliver });
    let ticket = rig.ask(A, &Call::get("k").r(3));
    rig.run_for(limits::READ_TIMEOUT);
    let answer = rig.reply(ticket).expect("a request ends by its deadline");
    assert_eq!(answer.status, Status::Unavailable { need: 3, have: 2 });
}

#[test]
fn a_body_whose_holder_is_lost_is_fetched_from_the_next() {
    let mut rig = newer_elsewhere();
    rig.set_fate(|_, _, message| if is_body(message) { Fate::Hold } else { Fate::Deliver });
    let ticket = rig.ask(A, &get());
    rig.run_for(MILLI * 2);
    assert_eq!(rig.held(), 1, "the body that was asked for");
    rig.clear_fate();
    let first = if rig.stats(B).replica_reads > rig.stats(C).replica_reads { B } else { C };
    rig.lose_link(A, first);
    let answer = rig.wait(ticket);
    assert_eq!(value(&answer), Some("v2"), "{answer:?}");
}

#[test]
fn a_digest_that_comes_twice_does_not_end_the_fetch_of_its_body() {
    let mut rig = newer_elsewhere();
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
fn a_hedge_asks_the_third_owner() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    for _ in 0..60 {
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
    rig.run_for(Duration::from_secs(1));
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

/// A change of owners, and a copy that warms, count on a majority, or the namespace's W: one owner could be gone (simulator, seed 90004e1).
#[test]
fn a_strict_write_asks_for_no_fewer_votes_than_a_change_of_owners_counts_on() {
    let loose = Namespace { r: 3, w: 1, ..Namespace::new("loose") };
    let mut rig = Rig::new(RigConfig { namespaces: vec![loose], ..RigConfig::default() });
    for other in [B, C] {
        rig.kill(other);
        rig.all_believe_down(other, true);
    }
    let strict = rig.call(A, &put("v").w(1));
    assert_eq!((strict.status, strict.maybe_applied), (Status::Unavailable { need: 2, have: 1 }, true));
    assert_written(&rig.call(A, &Call::put("k", "v").w(1)));
    assert_written(&rig.call(A, &put("v").within("loose")));
    let mut alone = Rig::new(RigConfig { nodes: 1, ..RigConfig::default() });
    assert_written(&alone.call(A, &put("v").w(1)));
}

// --- bounds ---

#[test]
fn a_burst_beyond_what_may_be_in_flight_is_refused_and_the_shard_recovers() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    rig.cut(A, B);
    rig.cut(A, C);
    let tickets: Vec<_> = (0..5_000).map(|at| rig.ask(A, &Call::put(format!("k{at}"), "v").strict())).collect();
    let refused = tickets
        .iter()
        .filter(|ticket| rig.reply(**ticket).is_some_and(|answer| matches!(answer.status, Status::Overloaded { .. })));
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
