//! Layouts in motion, as the control plane sees them: joining, leaving, removing, and what holds a transition up (PROTOCOL
//! §2). Shards are the control rig's: they report what theirs would.

use crate::{
    config::NodeConfig,
    id::NodeId,
    outbox::NodeEvent,
    testing::control_rig::{ControlRig, Index},
    view::Fence,
    wire::{
        control::{ClientControl, ControlReply, LayoutChange, Plan},
        peer::ReplicaState,
    },
};
use std::time::Duration;

pub(super) const fn seconds(of: u64) -> Duration {
    Duration::from_secs(of)
}

pub(super) fn id(number: u128) -> NodeId {
    NodeId(number << 64)
}

pub(super) fn epoch(rig: &ControlRig, index: Index) -> u64 {
    rig.view(index).ring.as_ref().map_or(0, |ring| ring.name().epoch)
}

pub(super) fn members(rig: &ControlRig, index: Index) -> Vec<u128> {
    rig.view(index).members.iter().map(|member| member.node.0 >> 64).collect()
}

/// Whether all of them have one active layout, of this epoch.
pub(super) fn on(rig: &ControlRig, nodes: &[Index], epoch: u64) -> bool {
    nodes.iter().all(|index| {
        let view = rig.view(*index);
        view.agreed && view.fence.is_none() && view.beside.is_none() && self::epoch(rig, *index) == epoch
    })
}

pub(super) fn mesh(rig: &mut ControlRig, change: impl Fn(&mut NodeConfig)) -> Vec<Index> {
    let start = |number| {
        let mut config = rig.config(number);
        change(&mut config);
        rig.start(config)
    };
    let nodes: Vec<Index> = (1..=3).map(start).collect();
    assert!(rig.run_until(seconds(20), |rig| on(rig, &nodes, 1)).is_some(), "{:#?}", rig.status(0));
    nodes
}

pub(super) fn change(rig: &mut ControlRig, index: Index, change: LayoutChange) -> ControlReply {
    rig.ask(index, true, ClientControl::Change(change))
}

fn plan(rig: &mut ControlRig, index: Index) -> Plan {
    match rig.ask(index, false, ClientControl::Plan) {
        ControlReply::Plan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_joiner_becomes_a_member_by_itself_once_its_partitions_are_moved() {
    let mut rig = ControlRig::new(31);
    let nodes = mesh(&mut rig, |_| {});
    let joiner = rig.start(rig.config(4));
    rig.set_moves(joiner, false);
    let begun = |rig: &ControlRig| rig.view(joiner).moving;
    let took = rig.run_until(seconds(60), begun).expect("a transition begins");
    assert!(took >= seconds(5), "a change of roles waits for others of its kind: {took:?}");
    rig.run(seconds(30));
    for index in [nodes[0], nodes[1], nodes[2], joiner] {
        let view = rig.view(index);
        assert_eq!((epoch(&rig, index), view.beside.as_ref().map(|ring| ring.name().epoch)), (1, Some(2)));
        assert!(view.moving && view.agreed && !view.complete, "strict requests are served all the while");
        assert_eq!(members(&rig, index), [1, 2, 3, 4]);
        assert_eq!(rig.node(index).routing().unwrap().layout.epoch, 1, "clients go on as before");
    }
    let status = rig.status(joiner);
    assert!(status.state.starts_with("joining: has 0 of ") && !status.ready, "{}", status.state);
    assert!(rig.status(nodes[0]).transition.contains("waiting for node-4 to have its partitions"));
    let seen = plan(&mut rig, nodes[0]);
    assert_eq!((seen.active.len(), seen.joins, seen.leaves), (2, vec!["node-4".to_owned()], vec![]));
    rig.set_moves(joiner, true);
    let all = [nodes[0], nodes[1], nodes[2], joiner];
    assert!(rig.run_until(seconds(20), |rig| on(rig, &all, 2)).is_some(), "{:#?}", rig.status(joiner));
    assert!(all.iter().all(|index| rig.view(*index).complete && rig.view(*index).state == ReplicaState::Ready));
    let status = rig.status(joiner);
    assert_eq!((status.state.as_str(), status.ready, status.transition.as_str()), ("ready", true, ""));
    assert!(rig.events(nodes[0]).contains(&NodeEvent::LayoutRetired { epoch: 1 }));
    rig.run(seconds(60));
    assert!(on(&rig, &all, 2), "and nothing more happens");
}

#[test]
fn a_member_that_leaves_hands_its_partitions_over_and_is_in_no_layout_then() {
    let mut rig = ControlRig::new(32);
    let mut nodes = mesh(&mut rig, |_| {});
    nodes.push(rig.start(rig.config(4)));
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 2)).is_some());
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Leave(id(3))), ControlReply::Changed(true));
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Leave(id(3))), ControlReply::Changed(false));
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 3)).is_some());
    assert_eq!(members(&rig, nodes[0]), [1, 2, 4]);
    let left = rig.status(nodes[2]);
    assert!(left.state.starts_with("left: ") && !left.ready, "{}", left.state);
    assert_eq!(rig.view(nodes[2]).state, ReplicaState::Fallback);
    let denied = rig.ask(nodes[0], false, ClientControl::Change(LayoutChange::Leave(id(1))));
    assert!(matches!(denied, ControlReply::Refused { denied: true, .. }));
    let unknown = change(&mut rig, nodes[0], LayoutChange::Leave(id(77)));
    assert!(matches!(unknown, ControlReply::Refused { denied: false, .. }));
}

#[test]
fn a_drained_member_keeps_its_place_and_tells_clients_to_go_elsewhere() {
    let mut rig = ControlRig::new(36);
    let nodes = mesh(&mut rig, |_| {});
    let up = |rig: &mut ControlRig, node| {
        let ControlReply::Routing(Some(routing)) = rig.ask(node, false, ClientControl::Routing) else {
            panic!("there is a layout");
        };
        routing.members.values().map(|place| place.up).collect::<Vec<_>>()
    };
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Drain(id(3), true)), ControlReply::Changed(true));
    rig.run(seconds(10));
    let drained = rig.status(nodes[2]);
    assert!(drained.state.contains("meshwork node undrain node-3") && !drained.ready, "{}", drained.state);
    for node in &nodes {
        assert_eq!(up(&mut rig, *node), [true, true, false], "also itself says so");
        assert_eq!((epoch(&rig, *node), members(&rig, *node)), (1, vec![1, 2, 3]), "nothing moves");
    }
    assert_eq!(rig.view(nodes[2]).state, ReplicaState::Ready, "it votes");
    // Whoever runs it may start it anew: that does not bring clients back.
    rig.kill(nodes[2]);
    rig.run(seconds(10));
    let again = rig.start(rig.config(3));
    rig.run(seconds(30));
    for node in [nodes[0], nodes[1], again] {
        assert_eq!(up(&mut rig, node), [true, true, false]);
    }
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Drain(id(3), false)), ControlReply::Changed(true));
    rig.run(seconds(10));
    for node in [nodes[0], nodes[1], again] {
        assert_eq!(up(&mut rig, node), [true, true, true]);
    }
}

#[test]
fn a_dead_member_holds_a_join_up_until_it_is_removed_and_never_comes_back() {
    let mut rig = ControlRig::new(33);
    let nodes = mesh(&mut rig, |_| {});
    rig.kill(nodes[2]);
    rig.run(seconds(10));
    let joiner = rig.start(rig.config(4));
    rig.run(seconds(60));
    assert_eq!((epoch(&rig, nodes[0]), rig.view(nodes[0]).beside.is_some()), (1, false), "no half-way transition");
    let state = rig.status(joiner).state;
    assert!(state.contains("waiting for node-3 to be up") && state.contains("node remove"), "{state}");
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Remove(id(3))), ControlReply::Changed(true));
    let live = [nodes[0], nodes[1], joiner];
    assert!(rig.run_until(seconds(60), |rig| on(rig, &live, 2)).is_some(), "{:#?}", rig.status(joiner));
    assert_eq!(members(&rig, nodes[0]), [1, 2, 4]);
    let dead = rig.start(rig.config_from_disk(nodes[2]));
    let stops = |rig: &ControlRig| rig.events(dead).iter().any(|event| matches!(event, NodeEvent::MustStop { .. }));
    assert!(rig.run_until(seconds(60), stops).is_some());
    assert_eq!(rig.view(dead).fence, Some(Fence::Removed));
    rig.run(seconds(30));
    assert_eq!(members(&rig, nodes[0]), [1, 2, 4]);
}

#[test]
fn a_member_that_dies_half_way_is_given_up_by_removal_or_skipped_and_then_starts_empty() {
    for skips in [false, true] {
        let mut rig = ControlRig::new(34);
        let nodes = mesh(&mut rig, |_| {});
        let joiner = rig.start(rig.config(4));
        rig.set_moves(nodes[2], false);
        assert!(rig.run_until(seconds(60), |rig| rig.view(joiner).moving).is_some());
        rig.kill(nodes[2]);
        rig.run(seconds(60));
        assert!(rig.view(nodes[0]).beside.is_some() && epoch(&rig, nodes[0]) == 1, "it waits");
        let asked = if skips { LayoutChange::SkipDead } else { LayoutChange::Remove(id(3)) };
        assert_eq!(change(&mut rig, nodes[0], asked), ControlReply::Changed(true));
        let live = [nodes[0], nodes[1], joiner];
        let done = |rig: &ControlRig| on(rig, &live, if skips { 2 } else { 3 });
        assert!(rig.run_until(seconds(60), done).is_some(), "{:#?}", rig.status(nodes[0]));
        if skips {
            let back = rig.start(rig.config_from_disk(nodes[2]));
            assert!(rig.run_until(seconds(60), |rig| on(rig, &[nodes[0], nodes[1], joiner, back], 2)).is_some());
            assert_eq!(rig.view(back).state, ReplicaState::Warming, "others went on without it");
        }
    }
}

#[test]
fn changes_during_a_transition_wait_and_become_one() {
    let mut rig = ControlRig::new(36);
    let mut nodes = mesh(&mut rig, |_| {});
    nodes.push(rig.start(rig.config(4)));
    rig.set_moves(nodes[3], false);
    assert!(rig.run_until(seconds(60), |rig| rig.view(nodes[3]).moving).is_some());
    nodes.push(rig.start(rig.config(5)));
    nodes.push(rig.start(rig.config(6)));
    rig.run(seconds(10));
    assert_eq!(change(&mut rig, nodes[1], LayoutChange::Weight(id(2), 200)), ControlReply::Changed(true));
    assert_eq!(change(&mut rig, nodes[1], LayoutChange::Zone(id(1), "z9".to_owned())), ControlReply::Changed(true));
    let refused = change(&mut rig, nodes[1], LayoutChange::Weight(id(2), 0));
    assert!(matches!(refused, ControlReply::Refused { denied: false, .. }), "{refused:?}");
    rig.run(seconds(20));
    assert_eq!(members(&rig, nodes[0]), [1, 2, 3, 4], "they wait");
    rig.set_moves(nodes[3], true);
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 3)).is_some(), "{:#?}", rig.status(nodes[0]));
    assert_eq!(members(&rig, nodes[5]), [1, 2, 3, 4, 5, 6]);
    let layout = rig.node(nodes[0]).routing().unwrap().layout;
    assert_eq!((layout.member(id(2)).unwrap().weight, layout.member(id(1)).unwrap().zone.as_str()), (200, "z9"));
    rig.run(seconds(30));
    assert!(on(&rig, &nodes, 3), "one layout for all of them");
}

#[test]
fn by_hand_joins_and_weights_wait_for_a_commit_of_the_next_version_and_leaving_does_not() {
    let mut rig = ControlRig::new(38);
    let by_hand = |config: &mut NodeConfig| config.cluster.manual_layout = true;
    let mut nodes = mesh(&mut rig, by_hand);
    let commit = |version| LayoutChange::Commit(version);
    let nothing = change(&mut rig, nodes[0], commit(2));
    assert!(matches!(nothing, ControlReply::Refused { .. }), "nothing is staged: {nothing:?}");
    let mut config = rig.config(4);
    by_hand(&mut config);
    nodes.push(rig.start(config));
    assert_eq!(change(&mut rig, nodes[1], LayoutChange::Weight(id(2), 50)), ControlReply::Changed(true));
    rig.run(seconds(30));
    assert!(on(&rig, &nodes[..3], 1), "it waits: {:#?}", rig.status(nodes[0]));
    assert!(rig.status(nodes[3]).state.contains("plan commit"), "{}", rig.status(nodes[3]).state);

    let shown = plan(&mut rig, nodes[0]);
    assert_eq!((shown.staged, shown.joins.as_slice()), (Some(2), &["node-4".to_owned()][..]));
    let (had, gets) = shown.shares.iter().fold((0, 0), |(had, gets), it| (had + it.partitions, gets + it.next));
    assert_eq!((had, gets), (3 * 64, 3 * 64), "all copies before and after");
    let joins = shown.shares.iter().find(|share| share.node == id(4)).expect("the joiner is listed");
    assert!(joins.partitions == 0 && joins.next > 0 && shown.moves >= joins.next, "{shown:?}");

    for stale in [1, 3] {
        let refused = change(&mut rig, nodes[0], commit(stale));
        assert!(matches!(refused, ControlReply::Refused { denied: false, .. }), "{refused:?}");
    }
    assert_eq!(change(&mut rig, nodes[0], commit(2)), ControlReply::Changed(true));
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 2)).is_some(), "{:#?}", rig.status(nodes[0]));
    assert_eq!(members(&rig, nodes[0]), [1, 2, 3, 4]);
    assert_eq!(rig.node(nodes[0]).routing().unwrap().layout.member(id(2)).unwrap().weight, 50);
    assert_eq!((plan(&mut rig, nodes[0]).staged, plan(&mut rig, nodes[0]).moves), (None, 0));

    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Leave(id(2))), ControlReply::Changed(true));
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 3)).is_some(), "leaving needs no commit");
    assert_eq!(members(&rig, nodes[0]), [1, 3, 4]);
}

#[test]
fn what_is_staged_of_members_is_taken_back_and_joins_and_a_running_change_are_not() {
    let mut rig = ControlRig::new(40);
    let by_hand = |config: &mut NodeConfig| config.cluster.manual_layout = true;
    let nodes = mesh(&mut rig, by_hand);
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Clear), ControlReply::Changed(false));
    change(&mut rig, nodes[0], LayoutChange::Weight(id(2), 50));
    change(&mut rig, nodes[1], LayoutChange::Zone(id(1), "z9".to_owned()));
    rig.run(seconds(20));
    assert_eq!(plan(&mut rig, nodes[2]).staged, Some(2));
    assert_eq!(change(&mut rig, nodes[2], LayoutChange::Clear), ControlReply::Changed(true));
    rig.run(seconds(20));
    for node in &nodes {
        assert_eq!((plan(&mut rig, *node).staged, epoch(&rig, *node)), (None, 1));
    }
    let mut config = rig.config(4);
    by_hand(&mut config);
    rig.start(config);
    rig.run(seconds(20));
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Clear), ControlReply::Changed(false));
    assert_eq!(plan(&mut rig, nodes[0]).joins, ["node-4"], "it goes on asking");
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Commit(2)), ControlReply::Changed(true));
    let ControlReply::Refused { reason, .. } = change(&mut rig, nodes[0], LayoutChange::Clear) else {
        panic!("a change is under way")
    };
    assert!(reason.contains("under way") && reason.contains("the opposite"), "{reason}");
}

#[test]
fn a_commit_waits_for_no_quiet_and_is_refused_where_it_would_stop_half_way() {
    let mut rig = ControlRig::new(39);
    let nodes = mesh(&mut rig, |_| {});
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Weight(id(2), 50)), ControlReply::Changed(true));
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Commit(2)), ControlReply::Changed(true));
    assert!(rig.run_until(seconds(4), |rig| rig.view(nodes[0]).beside.is_some()).is_some(), "at once");
    let busy = change(&mut rig, nodes[0], LayoutChange::Commit(3));
    assert!(matches!(busy, ControlReply::Refused { .. }), "{busy:?}");
    assert!(rig.run_until(seconds(60), |rig| on(rig, &nodes, 2)).is_some());
    rig.kill(nodes[2]);
    rig.run(seconds(15));
    assert_eq!(change(&mut rig, nodes[0], LayoutChange::Weight(id(2), 70)), ControlReply::Changed(true));
    let ControlReply::Refused { reason, .. } = change(&mut rig, nodes[0], LayoutChange::Commit(3)) else {
        panic!("a member is down")
    };
    assert!(reason.contains("node-3") && reason.contains("node remove"), "{reason}");
}

#[test]
fn an_administrator_puts_a_new_node_in_a_dead_ones_place() {
    let mut rig = ControlRig::new(37);
    let nodes = mesh(&mut rig, |_| {});
    let up = change(&mut rig, nodes[0], LayoutChange::Replace { old: id(3), new: id(2) });
    assert!(matches!(up, ControlReply::Refused { .. }), "{up:?}");
    rig.kill(nodes[2]);
    rig.run(seconds(10));
    let heir = rig.start(rig.config(8));
    rig.run(seconds(10));
    let replaced = change(&mut rig, nodes[0], LayoutChange::Replace { old: id(3), new: id(8) });
    assert_eq!(replaced, ControlReply::Changed(true));
    assert!(rig.run_until(seconds(30), |rig| on(rig, &[nodes[0], nodes[1], heir], 2)).is_some());
    assert_eq!(members(&rig, nodes[0]), [1, 2, 8]);
    assert_eq!(rig.node(heir).routing().unwrap().layout.member(id(8)).unwrap().token_id, id(3), "no position moved");
}

#[test]
fn joins_leaves_and_restarts_at_random_end_in_one_layout() {
    for seed in 0..15 {
        let mut rig = ControlRig::new(seed);
        let mut draw = crate::rng::Rng::fork(seed, "churn");
        let mut nodes = mesh(&mut rig, |_| {});
        for number in 4..=7u16 {
            let mut config = rig.config(number);
            config.seeds = (1..=3).map(ControlRig::address).collect();
            nodes.push(rig.start(config));
            rig.run(Duration::from_millis(draw.below(12_000)));
            let at = usize::try_from(draw.below(nodes.len() as u64)).unwrap();
            match draw.below(3) {
                0 => {
                    rig.kill(nodes[at]);
                    rig.run(Duration::from_millis(draw.below(8_000)));
                    nodes[at] = rig.start(rig.config_from_disk(nodes[at]));
                }
                1 => {
                    let (other, time) = (nodes[(at + 1) % nodes.len()], draw.below(9_000));
                    rig.cut(nodes[at], other);
                    rig.run(Duration::from_millis(time));
                    rig.heal();
                }
                _ => {}
            }
        }
        change(&mut rig, nodes[0], LayoutChange::Leave(id(2)));
        let settled = |rig: &ControlRig| {
            let last = epoch(rig, nodes[0]);
            on(rig, &nodes, last) && members(rig, nodes[0]) == [1, 3, 4, 5, 6, 7]
        };
        assert!(rig.run_until(seconds(240), settled).is_some(), "seed {seed}: {:#?}", rig.status(nodes[0]));
    }
}
