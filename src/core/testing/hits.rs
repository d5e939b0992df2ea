//! What a copy answers alone, on whatever thread asks it (`coordinator::hit`), and what it leaves to a request.
//!
//! N = 3, R = W = 2, nodes A, B, C, which own every key; D owns nothing. Reads ask for R = 1.

use super::{
    Call, Rig, RigConfig,
    schedules::{A, B, C, MILLI, assert_written, put},
};
use crate::{
    namespace::Namespace,
    view::Fence,
    wire::{
        client::{Status, Ttl, Worth},
        peer::ReplicaState,
    },
};
use std::time::Duration;

const D: usize = 3;
const NOW: Duration = Duration::ZERO;

fn one(key: &str) -> Call {
    Call::get(key).r(1)
}

/// A, B and C hold "v" under "k".
fn written() -> Rig {
    let mut rig = Rig::new(RigConfig { nodes: 4, ..RigConfig::default() });
    rig.relayout(&[A, B, C]);
    rig.run_for(Duration::from_secs(10));
    assert_written(&rig.call(A, &put("v").w(3)));
    rig
}

fn hit(rig: &mut Rig, node: usize, call: &Call) -> Option<String> {
    rig.hit(node, call, NOW).map(|(value, _)| String::from_utf8(value).unwrap())
}

#[test]
fn an_owner_answers_alone_what_a_request_is_answered() {
    let mut rig = written();
    for node in [A, B, C] {
        for call in [one("k"), one("k").strict()] {
            let (value, worth) = rig.hit(node, &call, NOW).unwrap();
            let answer = rig.call(node, &call);
            assert_eq!((answer.status, answer.value, answer.worth), (Status::Ok, Some(value), worth));
            assert_eq!(worth, Worth { acks: 1, epoch: answer.worth.epoch, ..Worth::default() });
        }
    }
    let stats = rig.stats(A);
    assert_eq!((stats.gets, stats.hits), (4, 4), "both ways are counted");
}

#[test]
fn what_more_than_one_copy_must_say_is_asked() {
    let mut rig = written();
    assert_eq!(hit(&mut rig, A, &Call::get("k")), None, "R = 2");
    assert_eq!(hit(&mut rig, D, &one("k")), None, "no owner");
    assert_eq!(hit(&mut rig, A, &one("none")), None, "a miss may be a hit elsewhere");
    assert_eq!(hit(&mut rig, A, &one("k").within("unknown")), None);
    assert_eq!(hit(&mut rig, A, &Call::get("k").r(0)), None, "refused, in words");
    assert_eq!(hit(&mut rig, A, &Call::get("k").r(1).w(9)), None);
    rig.call(A, &Call::delete("k").strict());
    assert_eq!(hit(&mut rig, A, &one("k")), None);
}

#[test]
fn a_namespace_that_reads_one_copy_needs_no_word_of_it() {
    let mut quick = Namespace::new("quick");
    (quick.r, quick.w) = (1, 3);
    let mut rig = Rig::new(RigConfig { namespaces: vec![quick], ..RigConfig::default() });
    assert_written(&rig.call(A, &Call::put("k", "v").within("quick")));
    assert_eq!(hit(&mut rig, B, &Call::get("k").within("quick")).as_deref(), Some("v"));
}

#[test]
fn a_copy_that_does_not_vote_answers_nothing_alone() {
    let mut rig = written();
    rig.set_state(A, ReplicaState::Warming);
    assert_eq!(hit(&mut rig, A, &one("k")), None);
    rig.set_state(B, ReplicaState::Settled);
    assert_eq!(hit(&mut rig, B, &one("k").strict()), None);
    assert_eq!(hit(&mut rig, B, &one("k")).as_deref(), Some("v"));
    rig.set_agreed(false);
    assert_eq!(hit(&mut rig, C, &one("k").strict()), None);
    assert_eq!(hit(&mut rig, C, &one("k")).as_deref(), Some("v"));
    rig.set_fence(C, Some(Fence::Superseded));
    assert_eq!(hit(&mut rig, C, &one("k")), None);
}

#[test]
fn a_hint_for_another_owner_is_looked_at_by_a_request() {
    let mut rig = written();
    rig.kill(C);
    rig.all_believe_down(C, true);
    rig.cut(A, B);
    rig.believe_down(A, B, true);
    // A stands in for the others, and what it holds as a hint is as new as its copy.
    assert_eq!(rig.call(A, &Call::put("k", "new").w(1)).status, Status::Ok);
    assert!(rig.stats(A).hints > 0);
    assert_eq!(hit(&mut rig, A, &one("k")), None);
    assert_eq!(rig.call(A, &one("k")).value.as_deref(), Some(&b"new"[..]));
}

#[test]
fn an_entry_about_to_end_is_not_judged_by_a_clock_that_may_be_behind() {
    let mut rig = written();
    assert_written(&rig.call(A, &put("short").ttl(Ttl::Millis(1_000)).w(3)));
    for behind in [0, 1, 5, 10, 20] {
        assert_eq!(rig.hit(A, &one("k"), MILLI * behind).map(|(value, _)| value), Some(b"short".to_vec()));
    }
    let end = rig.now() + Duration::from_millis(1_000);
    rig.run_for(Duration::from_millis(960));
    while rig.now() < end + MILLI * 50 {
        for behind in [0, 1, 5, 10, 20] {
            let alone = rig.hit(A, &one("k"), MILLI * behind);
            assert!(alone.is_none() || rig.now() < end, "{behind} ms behind, at {:?} of {end:?}", rig.now());
        }
        rig.run_for(MILLI);
    }
}
