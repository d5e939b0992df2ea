//! Who starts empty because the layouts went on without it, and who does not (PROTOCOL §2; `node::settlement`): members that were given up
//! (`layout skip-dead`) while they were away, cut off, or in conflict with the others.

use super::transition_tests::{change, epoch, id, members, mesh, on, seconds};
use crate::{
    config::NodeConfig,
    input::NodeInput,
    outbox::ShardReport,
    testing::control_rig::ControlRig,
    wire::{
        control::{ControlReply, LayoutChange},
        peer::ReplicaState,
    },
};
use std::time::Duration;

/// Simulator, seed 22002005: what it had acknowledged since it came back, as the only owner, was gone.
#[test]
fn a_member_that_restarts_after_it_settled_is_not_taken_for_one_that_was_given_up() {
    let mut rig = ControlRig::new(44);
    let nodes = mesh(&mut rig, |_| {});
    rig.start(rig.config(4));
    let reads = |rig: &ControlRig, node| epoch(rig, node) == 2;
    assert!(rig.run_until(seconds(60), |rig| reads(rig, nodes[1])).is_some());
    // All but one settle; what the next process knows of that others tell it.
    rig.pause(nodes[0], seconds(60));
    rig.run(seconds(5));
    rig.kill(nodes[2]);
    let again = rig.start(NodeConfig { seeds: vec![ControlRig::address(2)], ..rig.config(3) });
    rig.run(seconds(20));
    assert!([nodes[1], again].iter().all(|node| reads(&rig, *node) && rig.view(*node).beside.is_some()));
    let complete = |rig: &ControlRig| [nodes[0], nodes[1], again].iter().all(|node| rig.view(*node).complete);
    assert!(rig.run_until(seconds(90), complete).is_some(), "{:#?}", rig.status(again));
    assert_eq!([nodes[0], nodes[1], again].map(|node| rig.view(node).lapses), [0; 3]);
}

/// By a review: what it acknowledges from when it is back is of now.
#[test]
fn a_member_that_comes_back_while_it_is_given_up_starts_empty_at_once_and_only_once() {
    let mut rig = ControlRig::new(45);
    let nodes = mesh(&mut rig, |_| {});
    let joiner = rig.start(rig.config(4));
    rig.set_moves(joiner, false);
    assert!(rig.run_until(seconds(60), |rig| rig.view(joiner).moving).is_some());
    rig.kill(nodes[2]);
    rig.run(seconds(20));
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::SkipDead), ControlReply::Changed(true));
    let back = rig.start(rig.config(3));
    rig.run(seconds(20));
    assert_eq!((rig.view(back).lapses, rig.view(back).beside.is_some()), (1, true), "the transition goes on");
    rig.set_moves(joiner, true);
    let all = [nodes[0], nodes[1], joiner, back];
    assert!(rig.run_until(seconds(60), |rig| on(rig, &all, 2)).is_some(), "{:#?}", rig.status(joiner));
    assert_eq!(all.map(|node| rig.view(node).lapses), [0, 0, 0, 1]);
}

#[test]
fn a_paused_member_that_was_skipped_is_emptied_when_it_goes_on() {
    // That it was given up is no word of its own, though its disk knows it for a member.
    for restarted in [false, true] {
        let mut rig = ControlRig::new(35);
        let mut nodes = mesh(&mut rig, |config| config.disk = true);
        if restarted {
            let config = rig.config_from_disk(nodes[2]);
            rig.kill(nodes[2]);
            rig.run(seconds(20));
            nodes[2] = rig.start(config);
            assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 1)).is_some());
        }
        let joiner = rig.start(rig.config(4));
        rig.set_moves(joiner, false);
        assert!(rig.run_until(seconds(60), |rig| rig.view(joiner).beside.is_some()).is_some());
        rig.pause(nodes[2], seconds(60));
        rig.run(seconds(20));
        rig.set_moves(joiner, true);
        change(&mut rig, nodes[0], LayoutChange::SkipDead);
        assert!(rig.run_until(seconds(30), |rig| on(rig, &[nodes[0], nodes[1], joiner], 2)).is_some());
        rig.run(seconds(60));
        let view = rig.view(nodes[2]);
        assert!(on(&rig, &[nodes[0], nodes[1], nodes[2], joiner], 2));
        assert_eq!((view.lapses, view.state), (1, ReplicaState::Warming));
        assert_eq!(rig.view(nodes[0]).lapses, 0);
    }
}

/// By a review: what it holds is of a layout of which others have forgotten all that they deleted since.
#[test]
fn a_member_that_was_skipped_and_hears_of_the_next_layout_only_is_emptied() {
    // It makes no layouts itself.
    let by_hand = |config: &mut NodeConfig| config.cluster.manual_layout = config.address == ControlRig::address(3);
    let begin = || {
        let mut rig = ControlRig::new(40);
        let nodes = mesh(&mut rig, by_hand);
        let joiner = rig.start(rig.config(4));
        rig.set_moves(joiner, false);
        (rig, nodes, joiner)
    };
    let (mut rig, nodes, _) = begin();
    let proposed = rig.run_until(seconds(60), |rig| nodes.iter().any(|node| rig.view(*node).beside.is_some()));
    let mut missed = 0;
    for early in (1..10u64).map(|step| Duration::from_millis(step * 100)) {
        let (mut rig, nodes, joiner) = begin();
        // It is taken for up when the layout is proposed, and does not hear of it.
        rig.run(proposed.expect("a transition begins") - early);
        [nodes[0], nodes[1], joiner].into_iter().for_each(|other| rig.cut(nodes[2], other));
        rig.run(seconds(20));
        if rig.view(nodes[2]).beside.is_some() || rig.view(nodes[0]).beside.is_none() {
            continue;
        }
        missed += 1;
        rig.set_moves(joiner, true);
        change(&mut rig, nodes[0], LayoutChange::SkipDead);
        assert!(rig.run_until(seconds(30), |rig| on(rig, &[nodes[0], nodes[1], joiner], 2)).is_some());
        rig.set_moves(joiner, false);
        assert_eq!(change(&mut rig, nodes[0], LayoutChange::Weight(id(4), 300)), ControlReply::Changed(true));
        rig.run(seconds(20));
        assert!(on(&rig, &[nodes[0], nodes[1], joiner], 2), "it waits for all to be up");
        rig.heal();
        assert!(rig.run_until(seconds(60), |rig| rig.view(nodes[2]).moving).is_some());
        assert_eq!(rig.view(nodes[2]).lapses, 1, "cut off {early:?} before");
    }
    assert!(missed > 0, "it heard of it each time, or was missed");
}

/// By a review: it has a layout of its own of that epoch, and which of the two names is the greater says nothing.
#[test]
fn a_member_that_was_skipped_with_another_layout_of_that_epoch_is_emptied() {
    let (mut lesser, mut greater) = (0, 0);
    for (own, others) in [(50, 70), (70, 50)] {
        let mut rig = ControlRig::new(41);
        let nodes = mesh(&mut rig, |config| config.cluster.manual_layout = true);
        nodes[..2].iter().for_each(|other| rig.cut(nodes[2], *other));
        for (node, weight) in [(nodes[2], own), (nodes[0], others)] {
            change(&mut rig, node, LayoutChange::Weight(id(2), weight));
            assert_eq!(change(&mut rig, node, LayoutChange::Commit(2)), ControlReply::Changed(true));
        }
        rig.run(seconds(20));
        let newest = |rig: &ControlRig, node| rig.view(node).beside.as_ref().map(|ring| ring.name());
        let (own, others) = (newest(&rig, nodes[2]).unwrap(), newest(&rig, nodes[0]).unwrap());
        assert_eq!((own.epoch, others.epoch), (2, 2));
        *if own < others { &mut lesser } else { &mut greater } += 1;
        change(&mut rig, nodes[0], LayoutChange::SkipDead);
        assert!(rig.run_until(seconds(30), |rig| on(rig, &nodes[..2], 2)).is_some());
        rig.run(seconds(30));
        rig.heal();
        assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 3)).is_some(), "{:#?}", rig.status(nodes[2]));
        assert_eq!([0, 1, 2].map(|at| rig.view(nodes[at]).lapses), [0, 0, 1], "{own:?} {others:?}");
    }
    assert!(lesser > 0 && greater > 0);
}

/// By a review: who gave it up was cut off before it heard that the older layout retired, and met it first.
#[test]
fn a_member_that_was_skipped_is_emptied_though_its_conflict_was_settled_beside_the_older_layout() {
    let begin = || {
        let mut rig = ControlRig::new(42);
        let nodes = mesh(&mut rig, |config| config.cluster.manual_layout = true);
        nodes[..2].iter().for_each(|other| rig.cut(nodes[2], *other));
        for (node, weight) in [(nodes[2], 50), (nodes[0], 70)] {
            change(&mut rig, node, LayoutChange::Weight(id(2), weight));
            assert_eq!(change(&mut rig, node, LayoutChange::Commit(2)), ControlReply::Changed(true));
        }
        rig.run(seconds(20));
        change(&mut rig, nodes[0], LayoutChange::SkipDead);
        (rig, nodes)
    };
    let active = |rig: &ControlRig, node| {
        let view = rig.view(node);
        let mut epochs: Vec<u64> = view.ring.iter().chain(&view.beside).map(|ring| ring.name().epoch).collect();
        epochs.sort_unstable();
        epochs
    };
    let (mut rig, nodes) = begin();
    let retires = |rig: &ControlRig| nodes.iter().any(|node| active(rig, *node) == [2]);
    let retired = rig.run_until(seconds(30), retires).expect("the others go on without it");
    let mut met = 0;
    for (early, restarted) in
        (1..30u64).flat_map(|step| [false, true].map(|restarted| (Duration::from_micros(step * 100), restarted)))
    {
        let (mut rig, nodes) = begin();
        rig.run(retired - early);
        rig.cut(nodes[0], nodes[1]);
        rig.run(seconds(20));
        let (knows, mut waits) = match [nodes[0], nodes[1]].map(|node| active(&rig, node).len()) {
            [1, 2] => (nodes[0], nodes[1]),
            [2, 1] => (nodes[1], nodes[0]),
            _ => continue,
        };
        met += 1;
        rig.heal();
        [waits, nodes[2]].into_iter().for_each(|other| rig.cut(knows, other));
        rig.run(seconds(60));
        assert_eq!([knows, waits, nodes[2]].map(|node| active(&rig, node)), [vec![2], vec![1, 3], vec![1, 3]]);
        assert_eq!([waits, nodes[2]].map(|node| rig.view(node).lapses), [0, 0], "nothing that they know of went by");
        if restarted {
            // It knows no more that it came to what lies below the newest for the other.
            let config = rig.config(u16::try_from(waits).unwrap() + 1);
            rig.kill(waits);
            waits = rig.start(NodeConfig { seeds: vec![ControlRig::address(3)], ..config });
            rig.cut(knows, waits);
            rig.run(seconds(60));
            assert_eq!(active(&rig, waits), [1, 3]);
        }
        // Its shards had all of the newest layout; once they were emptied that is no word of theirs any more.
        rig.set_moves(nodes[2], false);
        rig.run(seconds(1));
        let view = rig.view(nodes[2]);
        let (newest, read) = (view.newest().unwrap().name(), view.ring.as_ref().unwrap().name());
        for shard in 0..rig.config(3).shards {
            let (lapses, drained, missing, partitions, moved_bytes) = (0, true, 0, 0, 0);
            let report = ShardReport { shard, newest, read, lapses, drained, missing, partitions, moved_bytes };
            rig.input(nodes[2], NodeInput::Report(report));
        }
        rig.heal();
        rig.run(seconds(20));
        assert_eq!([knows, waits, nodes[2]].map(|node| epoch(&rig, node)), [2; 3], "nobody reads by what it has not");
        rig.set_moves(nodes[2], true);
        let all = [knows, waits, nodes[2]];
        assert!(rig.run_until(seconds(90), |rig| on(rig, &all, 3)).is_some(), "{:#?}", rig.status(nodes[2]));
        assert_eq!([knows, waits, nodes[2]].map(|node| rig.view(node).lapses), [0, 0, 1], "cut off {early:?} before");
    }
    assert!(met > 0, "both retired it each time, or neither");
}

/// Nothing is promised across two meshes, and nobody of either was given up.
#[test]
fn two_meshes_that_meet_half_way_through_a_transition_become_one_and_nobody_starts_empty() {
    let mut rig = ControlRig::new(43);
    let mut start = |number, seeds: &[u16]| {
        let mut config = rig.config(number);
        config.cluster.bootstrap_expect = 1;
        config.seeds = seeds.iter().map(|seed| ControlRig::address(*seed)).collect();
        let index = rig.start(config);
        rig.run(seconds(1));
        rig.set_moves(index, seeds.is_empty());
        rig.run(seconds(20));
        index
    };
    let meshes = [(start(1, &[]), start(2, &[1])), (start(3, &[]), start(4, &[3]))];
    let bases = meshes.map(|(founder, joiner)| {
        assert!([founder, joiner].iter().all(|node| rig.view(*node).beside.is_some()), "{:#?}", rig.status(joiner));
        rig.view(founder).oldest().expect("it has a layout").name()
    });
    assert!(bases[0] != bases[1] && bases[0].epoch == bases[1].epoch);
    let between = rig.start({
        let mut config = rig.config(5);
        config.seeds = vec![ControlRig::address(1), ControlRig::address(3)];
        config
    });
    rig.run(seconds(20));
    let mut all = vec![between];
    for (founder, joiner) in meshes {
        all.extend([founder, joiner]);
        rig.set_moves(joiner, true);
    }
    let agree = |rig: &ControlRig| {
        all.iter()
            .all(|node| rig.view(*node).agreed && rig.view(*node).beside.is_none() && members(rig, *node).len() == 5)
    };
    assert!(rig.run_until(seconds(120), agree).is_some(), "{:#?}", rig.status(between));
    assert!(all.iter().all(|node| rig.view(*node).lapses == 0));
}
