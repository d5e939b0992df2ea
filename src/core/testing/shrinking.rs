//! Meshes that become smaller than the copies a key should have: who is left must hold what was acknowledged without it.
//!
//! N = 3, R = W = 2; nodes A, B and C own every key at first.

use super::{
    Rig,
    schedules::{A, B, C, assert_written, get, no_exchange, put, value},
    transitions::six,
};
use std::time::Duration;

/// B and C hold what was acknowledged, A missed it, and nobody compares.
fn missed_by_a() -> Rig {
    let mut rig = six();
    rig.set_fate(no_exchange);
    rig.cut(A, B);
    rig.cut(A, C);
    assert_written(&rig.call(B, &put("v")));
    rig.run_for(Duration::from_secs(1));
    rig.heal();
    rig
}

#[test]
fn an_owner_that_is_left_alone_has_what_the_others_acknowledged_without_it() {
    let mut rig = missed_by_a();
    rig.transition(&[A]);
    assert_eq!(rig.stats(A).partitions_warming, 0, "it voted all the time");
    for node in [B, C] {
        rig.kill(node);
        rig.all_believe_down(node, true);
    }
    let answer = rig.call(A, &get());
    assert_eq!((value(&answer), answer.worth.degraded), (Some("v"), true), "one copy is all that can be asked");
}

/// Simulator, seed f003b3f (S1): of two owners that were three either was taken for one that holds what was acknowledged.
#[test]
fn of_owners_that_become_fewer_one_after_the_other_the_last_has_what_was_acknowledged_without_it() {
    let mut rig = missed_by_a();
    rig.transition(&[A, C]);
    rig.kill(B);
    rig.all_believe_down(B, true);
    rig.transition(&[A]);
    assert_eq!(value(&rig.call(A, &get())), Some("v"));
}
