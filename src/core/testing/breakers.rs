//! Circuit breakers by name: who is asked while a peer's breaker is open, and who follows the probe that is under way.
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key, unless said otherwise.

use super::{
    Call, Fate, Rig, RigConfig,
    schedules::{A, B, C, GHOST, MILLI, assert_written, evict_at_a, put},
};
use crate::{
    namespace::Namespace,
    wire::{
        client::{Condition, Status},
        peer::PeerMessage,
    },
};
use std::{cell::Cell, rc::Rc, time::Duration};

/// A breaker lets a probe through after a second.
const PROBED: Duration = Duration::from_millis(1_001);

/// A mesh with a namespace of one copy, a read of a key there, its owner, and another node whose link to the owner was lost
/// so long ago that the next request is the probe.
fn lost_owner() -> (Rig, Call, usize, usize) {
    let namespaces = vec![Namespace { n: 1, r: 1, w: 1, ..Namespace::new("one") }];
    let mut rig = Rig::new(RigConfig { namespaces, ..RigConfig::default() });
    let call = Call::get("k").within("one");
    // The first to stand in is the third node.
    let (owner, other) = (rig.owners(&call)[0], rig.owners(&call)[2]);
    rig.lose_link(other, owner);
    rig.run_for(PROBED);
    (rig, call, owner, other)
}

/// C is dead, and A's next request to B is the probe of its breaker.
fn two_left() -> Rig {
    let mut rig = Rig::three();
    rig.kill(C);
    rig.all_believe_down(C, true);
    rig.lose_link(A, B);
    rig.run_for(PROBED);
    rig
}

/// `who` takes `whom` for dead and then for alive again: its next request there is a probe.
fn back(rig: &mut Rig, who: usize, whom: usize) {
    rig.believe_down(who, whom, true);
    rig.believe_down(who, whom, false);
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

/// Simulator, seed 5001463 (L7).
#[test]
fn an_owner_that_is_believed_alive_again_is_asked_at_once() {
    let (mut rig, call, owner, other) = lost_owner();
    assert_eq!(rig.call(other, &call.clone().strict()).status, Status::NotFound);
    rig.believe_down(other, owner, true);
    assert!(matches!(rig.call(other, &call.clone().strict()).status, Status::Unavailable { .. }));
    rig.believe_down(other, owner, false);
    assert_eq!(rig.call(other, &call.strict()).status, Status::NotFound);
}

#[test]
fn a_request_that_only_one_node_can_serve_follows_the_probe_under_way() {
    let (mut rig, call, owner, other) = lost_owner();
    let probe = rig.ask(other, &call.clone().strict());
    let follower = rig.ask(other, &call.clone().strict());
    assert_eq!([probe, follower].map(|ticket| rig.wait(ticket).status), [Status::NotFound; 2]);
    assert_eq!(rig.stats(other).forwarded, 2);
    // A probe that is not answered is followed for a while only.
    rig.lose_link(other, owner);
    rig.run_for(PROBED);
    rig.cut(other, owner);
    rig.ask(other, &call.clone().strict());
    rig.run_for(MILLI * 200);
    assert!(matches!(rig.call(other, &call.clone().strict()).status, Status::Unavailable { .. }));
}

#[test]
fn a_sloppy_request_takes_a_stand_in_rather_than_follow() {
    let (mut rig, call, owner, other) = lost_owner();
    let third = 3 - owner - other;
    rig.believe_down(third, owner, true);
    let forwards = Rc::new(Cell::new([0; 3]));
    let seen = Rc::clone(&forwards);
    rig.set_fate(move |_, to, message| {
        let mut counted = seen.get();
        counted[to] += u32::from(matches!(message, PeerMessage::Forward { .. }));
        seen.set(counted);
        Fate::Deliver
    });
    rig.ask(other, &call);
    rig.ask(other, &call);
    rig.ask(other, &call.clone().strict());
    let counted = forwards.get();
    assert_eq!(
        (counted[owner], counted[third]),
        (2, 1),
        "the probe and the strict one, and the sloppy one: {counted:?}"
    );
}

#[test]
fn a_strict_write_follows_the_probe_of_the_owner_that_it_needs() {
    let mut rig = two_left();
    let probe = rig.ask(A, &put("v1"));
    let follower = rig.ask(A, &Call::put("other", "v2").strict());
    assert_written(&rig.wait(probe));
    assert_written(&rig.wait(follower));
}

/// Simulator, seed 7001268 (L8): W = all, and all nodes are owners.
#[test]
fn a_sloppy_write_for_which_nobody_can_stand_in_follows_the_probe() {
    let mut rig = Rig::three();
    rig.lose_link(A, B);
    assert!(matches!(rig.call(A, &Call::put("k", "v").w(3)).status, Status::Unavailable { .. }));
    rig.run_for(PROBED);
    let probe = rig.ask(A, &put("v1"));
    let follower = rig.ask(A, &Call::put("other", "v2").w(3));
    assert_written(&rig.wait(probe));
    assert_written(&rig.wait(follower));
}

/// Simulator, seed 6001140 (L8): a link that was silent for long is made anew, and the first answers come later than patience lasts.
#[test]
fn a_strict_write_follows_the_requests_that_opened_the_breaker() {
    let mut rig = Rig::three();
    rig.set_fate(|from, to, _| if (from, to) == (A, C) { Fate::Hold } else { Fate::Deliver });
    let first: Vec<_> = (0..6).map(|number| rig.ask(A, &Call::put(format!("k{number}"), "v").w(3).strict())).collect();
    rig.run_for(MILLI * 130);
    let late = rig.ask(A, &Call::put("late", "v").w(3).strict());
    rig.run_for(MILLI * 10);
    rig.set_fate(|_, _, _| Fate::Deliver);
    rig.release();
    assert_written(&rig.wait(late));
    first.into_iter().for_each(|asked| assert_written(&rig.wait(asked)));
    // Where nothing comes, they are followed for a while only.
    rig.cut(A, C);
    (0..6).for_each(|number| _ = rig.ask(A, &Call::put(format!("k{number}"), "w").w(3).strict()));
    rig.run_for(MILLI * 400);
    let asked = rig.now();
    assert!(matches!(rig.call(A, &Call::put("late", "w").w(3).strict()).status, Status::Unavailable { .. }));
    assert!(rig.now().since(asked) < MILLI * 130, "and nobody waits for the timeout");
}

#[test]
fn a_strict_read_follows_the_probe_of_the_owner_that_it_needs() {
    // R = 2 with the third owner dead; R = 3 with it alive: one is asked, and one that is probed is missing.
    for (dead, r) in [(true, 2), (false, 3)] {
        let mut rig = Rig::three();
        assert_written(&rig.call(A, &put("v").w(3)));
        if dead {
            rig.kill(C);
            rig.all_believe_down(C, true);
        }
        rig.lose_link(A, B);
        let get = Call::get("k").strict().r(r);
        assert!(matches!(rig.call(A, &get).status, Status::Unavailable { .. }));
        rig.run_for(PROBED);
        let (probe, follower) = (rig.ask(A, &get), rig.ask(A, &get));
        assert_eq!([probe, follower].map(|asked| rig.wait(asked).status), [Status::Ok; 2], "R = {r}");
    }
}

/// What would not be enough with it need not be waited for.
#[test]
fn a_strict_read_that_a_probed_owner_cannot_save_is_refused_at_once() {
    let mut rig = two_left();
    rig.cut(A, B);
    rig.ask(A, &Call::get("k").strict());
    let asked = rig.now();
    assert!(matches!(rig.call(A, &Call::get("k").strict().r(3)).status, Status::Unavailable { .. }));
    assert!(rig.now().since(asked) < MILLI);
}

/// Whoever was asked late counts as asked, though it is no stand-in.
#[test]
fn a_write_to_all_that_begins_before_the_probe_asks_its_owner_when_all_others_answered() {
    for strict in [false, true] {
        for answered in [false, true] {
            let mut rig = Rig::three();
            rig.lose_link(A, C);
            rig.set_fate(|from, to, message| match message {
                PeerMessage::Replicated { .. } if (from, to) == (B, A) => Fate::Hold,
                _ => Fate::Deliver,
            });
            let call = Call::put("k", "v").w(3);
            let waits = rig.ask(A, &if strict { call.strict() } else { call });
            rig.run_for(MILLI * 50);
            back(&mut rig, A, C);
            let probe = rig.ask(A, &Call::put("other", "v").w(2));
            rig.run_for(if answered { MILLI * 5 } else { Duration::ZERO });
            rig.clear_fate();
            rig.release();
            assert_written(&rig.wait(probe));
            let answer = rig.wait(waits);
            assert_written(&answer);
            assert_eq!((answer.worth.acks, answer.worth.fallbacks), (3, 0), "strict: {strict}, answered: {answered}");
        }
    }
}

#[test]
fn a_request_asks_whoever_is_back_when_its_patience_with_the_others_ends() {
    // The second time it looks after 120 ms, or 240.
    for (call, after) in [(Call::get("k").strict(), 10), (Call::get("k").strict(), 70), (put("w"), 10), (put("w"), 130)]
    {
        let mut rig = Rig::three();
        assert_written(&rig.call(A, &put("v").w(3)));
        rig.lose_link(A, C);
        rig.cut(A, B);
        let waits = rig.ask(A, &call);
        rig.run_for(MILLI * after);
        back(&mut rig, A, C);
        assert_eq!(rig.wait(waits).status, Status::Ok, "{call:?} after {after} ms");
    }
}

#[test]
fn a_sloppy_read_waits_for_no_probe_that_may_not_be_answered() {
    let mut rig = Rig::three();
    assert_written(&rig.call(A, &put("v").w(3)));
    rig.lose_link(A, C);
    rig.run_for(PROBED - MILLI * 10);
    rig.cut(A, C);
    rig.set_fate(|from, to, _| if (from, to) == (B, A) { Fate::Hold } else { Fate::Deliver });
    let read = rig.ask(A, &Call::get("k").r(3));
    rig.run_for(MILLI * 20);
    // Its answer is on the way when its patience ends, while a probe is under way.
    rig.ask(A, &Call::put("other", "v").w(3));
    rig.run_for(MILLI * 45);
    rig.clear_fate();
    rig.release();
    let released = rig.now();
    assert_eq!(rig.wait(read).status, Status::Ok);
    assert!(rig.now().since(released) < MILLI * 5, "after {:?}", rig.now().since(released));
}

#[test]
fn a_write_prefers_another_stand_in_to_the_probe_of_an_owner() {
    let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
    let call = Call::put("k", "v").w(3);
    let (owners, stand_ins) = (rig.owners(&call), rig.fallbacks(&call));
    rig.lose_link(owners[0], owners[2]);
    rig.run_for(MILLI * 950);
    for silent in [owners[1], owners[2], stand_ins[0]] {
        rig.cut(owners[0], silent);
    }
    let asked = rig.ask(owners[0], &call);
    rig.run_for(MILLI * 10);
    rig.lose_link(owners[0], stand_ins[0]);
    let began = rig.now();
    let answer = rig.wait(asked);
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (3, 2));
    assert!(rig.now().since(began) < MILLI * 120, "it waits for no probe: {:?}", rig.now().since(began));
}

#[test]
fn a_stand_in_that_falls_silent_is_stood_in_for_by_another() {
    // Asked at once, or when patience with the owners ended.
    for noticed in [true, false] {
        let mut rig = Rig::new(RigConfig { nodes: 6, ..RigConfig::default() });
        let call = Call::put("k", "v").w(3);
        let (owners, stand_ins) = (rig.owners(&call), rig.fallbacks(&call));
        for owner in &owners[1..] {
            rig.kill(*owner);
            if noticed {
                rig.all_believe_down(*owner, true);
            }
        }
        rig.cut(owners[0], stand_ins[0]);
        let answer = rig.call(owners[0], &call);
        assert_written(&answer);
        assert_eq!((answer.worth.acks, answer.worth.fallbacks), (3, 2), "noticed: {noticed}");
        rig.run_for(Duration::from_secs(1));
        assert!(stand_ins[1..].iter().all(|node| rig.stats(*node).hints == 1), "each for an owner of its own");
    }
}

#[test]
fn a_write_prefers_an_owner_that_answers_again_to_another_stand_in() {
    let mut rig = Rig::new(RigConfig { nodes: 5, ..RigConfig::default() });
    let call = Call::put("k", "v").w(3);
    let (owners, stand_ins) = (rig.owners(&call), rig.fallbacks(&call));
    let (a, b, c) = (owners[0], owners[1], owners[2]);
    rig.lose_link(a, c);
    rig.cut(a, stand_ins[0]);
    rig.set_fate(move |from, to, _| if (from, to) == (b, a) { Fate::Hold } else { Fate::Deliver });
    let asked = rig.ask(a, &call);
    rig.run_for(MILLI * 10);
    back(&mut rig, a, c);
    rig.ask(a, &Call::get("k").strict().r(3));
    rig.run_for(MILLI * 10);
    rig.lose_link(a, stand_ins[0]);
    rig.clear_fate();
    rig.release();
    let answer = rig.wait(asked);
    assert_written(&answer);
    assert_eq!((answer.worth.acks, answer.worth.fallbacks), (3, 0));
}

#[test]
fn one_request_alone_opens_no_breaker_however_often_it_looks() {
    for silent in [vec![Call::get("k").strict().r(3)], vec![put("v").w(3), put("w").w(3)]] {
        let mut rig = Rig::three();
        rig.cut(A, C);
        for call in &silent {
            assert_ne!(rig.call(A, call).status, Status::Ok);
        }
        rig.heal();
        assert_written(&rig.call(A, &Call::put("other", "v").w(3)));
    }
}

/// Its condition was read while its owners were away.
#[test]
fn a_guarded_write_at_a_stand_in_whose_owners_are_back_is_to_be_asked_again() {
    let mut rig = Rig::new(RigConfig { nodes: 5, ..RigConfig::default() });
    let call = Call::put("k", "v").when(Condition::IfAbsent).r(3);
    let (owners, stand_ins) = (rig.owners(&call), rig.fallbacks(&call));
    owners.iter().for_each(|owner| rig.lose_link(stand_ins[0], *owner));
    rig.set_fate(|_, _, _| Fate::Hold);
    let asked = rig.ask(stand_ins[0], &call);
    rig.run_for(MILLI * 10);
    owners.iter().for_each(|owner| back(&mut rig, stand_ins[0], *owner));
    rig.clear_fate();
    rig.release();
    assert_eq!(rig.wait(asked).status, Status::NotOwner);
}

#[test]
fn a_strict_read_of_what_one_owner_evicted_follows_the_probe_of_the_last() {
    let mut rig = Rig::new(RigConfig { memory: 2 << 20, ..RigConfig::default() });
    evict_at_a(&mut rig, GHOST);
    rig.lose_link(B, C);
    rig.run_for(PROBED);
    let get = Call::get("k").strict().r(3);
    let (probe, follower) = (rig.ask(B, &get), rig.ask(B, &get));
    assert_eq!([probe, follower].map(|asked| rig.wait(asked).status), [Status::NotFound; 2]);
}

/// Simulator, seed 200e4 (L8), after other draws: of three nodes two are left, and the other is no owner.
#[test]
fn a_sloppy_write_follows_the_probe_of_the_only_stand_in() {
    let mut rig = Rig::new(RigConfig { nodes: 4, ..RigConfig::default() });
    let call = Call::put("k", "v1");
    let (owners, stand_in) = (rig.owners(&call), rig.fallbacks(&call)[0]);
    for dead in &owners[1..] {
        rig.kill(*dead);
        rig.all_believe_down(*dead, true);
    }
    rig.lose_link(owners[0], stand_in);
    rig.run_for(PROBED);
    let (probe, follower) = (rig.ask(owners[0], &call), rig.ask(owners[0], &Call::put("k", "v2")));
    for asked in [probe, follower] {
        let answer = rig.wait(asked);
        assert_written(&answer);
        assert_eq!((answer.worth.acks, answer.worth.fallbacks), (2, 1));
    }
}
