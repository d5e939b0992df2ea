//! The control plane's disk in virtual time: what a mesh knows after all its processes died, and who is not believed.

use crate::{
    config::NodeConfig,
    namespace::{Ack, Namespace},
    outbox::NodeEvent,
    testing::control_rig::{ControlRig, Index},
    wire::{
        control::{ClientControl, ControlReply},
        peer::ReplicaState,
    },
};
use std::time::Duration;

const fn seconds(of: u64) -> Duration {
    Duration::from_secs(of)
}

fn agree(rig: &ControlRig, nodes: &[Index]) -> bool {
    let name = |index: Index| rig.view(index).ring.as_ref().map(|ring| ring.name());
    nodes.iter().all(|index| {
        let view = rig.view(*index);
        view.agreed && view.fence.is_none() && view.ring.is_some() && name(*index) == name(nodes[0])
    })
}

fn start(rig: &mut ControlRig, configs: Vec<NodeConfig>) -> Vec<Index> {
    let nodes: Vec<Index> = configs.into_iter().map(|config| rig.start(config)).collect();
    assert!(rig.run_until(seconds(30), |rig| agree(rig, &nodes)).is_some(), "{:#?}", rig.status(nodes[0]));
    nodes
}

fn mesh(rig: &mut ControlRig) -> Vec<Index> {
    let configs = (1..=3).map(|number| NodeConfig { disk: true, ..rig.config(number) }).collect();
    start(rig, configs)
}

fn dropped(rig: &ControlRig, node: Index) -> bool {
    rig.events(node).iter().any(|event| matches!(event, NodeEvent::RestoredTooOld { .. }))
}

fn create(rig: &mut ControlRig, node: Index, ack: Ack) -> ControlReply {
    let namespace = Namespace { ack, ..Namespace::new("kept") };
    rig.ask(node, true, ClientControl::NamespaceCreate(Box::new(namespace)))
}

#[test]
fn a_mesh_that_restarts_as_a_whole_knows_its_layout_and_namespaces_and_founds_nothing() {
    let mut rig = ControlRig::new(1);
    let nodes = mesh(&mut rig);
    let name = rig.view(nodes[0]).ring.as_ref().map(|ring| ring.name());
    assert_eq!(create(&mut rig, nodes[1], Ack::Log), ControlReply::Created(true));
    rig.run(seconds(5));
    let configs: Vec<NodeConfig> = nodes.iter().map(|node| rig.config_from_disk(*node)).collect();
    for node in &nodes {
        rig.kill(*node);
    }
    rig.run(seconds(20));
    let again = start(&mut rig, configs);
    for node in again {
        let view = rig.view(node);
        assert_eq!(view.ring.as_ref().map(|ring| ring.name()), name);
        assert_eq!((view.namespaces.len(), view.state, view.lapses), (2, ReplicaState::Warming, 0));
        assert!(!dropped(&rig, node));
    }
}

#[test]
fn a_node_serves_nothing_before_its_disk_said_that_it_has_its_state() {
    let mut rig = ControlRig::new(1);
    let configs: Vec<NodeConfig> = (1..=3).map(|number| NodeConfig { disk: true, ..rig.config(number) }).collect();
    let nodes: Vec<Index> = configs.into_iter().map(|config| rig.start(config)).collect();
    rig.set_keeps(nodes[2], false);
    rig.run(seconds(30));
    assert!(rig.view(nodes[2]).ring.is_none());
    assert!(rig.status(nodes[2]).state.starts_with("starting: waiting for its disk"), "{}", rig.status(nodes[2]).state);
    rig.set_keeps(nodes[2], true);
    assert!(rig.run_until(seconds(30), |rig| agree(rig, &nodes)).is_some());
}

#[test]
fn a_namespace_that_asks_for_a_log_is_used_once_it_is_on_disk() {
    let mut rig = ControlRig::new(1);
    let nodes = mesh(&mut rig);
    rig.run(seconds(3));
    rig.set_keeps(nodes[0], false);
    assert_eq!(create(&mut rig, nodes[0], Ack::Fsync), ControlReply::Created(true));
    rig.run(seconds(3));
    let known = |rig: &ControlRig, node: Index| rig.view(node).namespaces.len();
    assert_eq!((known(&rig, nodes[0]), known(&rig, nodes[1])), (1, 2));
    rig.set_keeps(nodes[0], true);
    assert!(rig.run_until(seconds(10), |rig| known(rig, nodes[0]) == 2).is_some());
}

#[test]
fn a_node_without_a_disk_creates_no_namespace_that_asks_for_one() {
    let mut rig = ControlRig::new(1);
    let configs = (1..=3).map(|number| rig.config(number)).collect();
    let nodes = start(&mut rig, configs);
    let ControlReply::Refused { reason, .. } = create(&mut rig, nodes[0], Ack::Log) else { panic!("it was created") };
    assert!(
        reason.starts_with("namespace kept wants ack=log, and node node-1 has no data_dir: set node.data_dir"),
        "{reason}"
    );
    assert_eq!(create(&mut rig, nodes[0], Ack::Mem), ControlReply::Created(true));
}

/// Of the same process: its incarnation tells nothing.
#[test]
fn an_older_copy_of_a_disk_is_dropped_and_the_newest_is_not() {
    let mut rig = ControlRig::new(1);
    let nodes = mesh(&mut rig);
    rig.run(seconds(10));
    let old = rig.meta(nodes[2]);
    rig.run(seconds(600));
    let newest = rig.config_from_disk(nodes[2]);
    rig.kill(nodes[2]);
    rig.run(seconds(20));
    let kept = rig.start(newest.clone());
    let all = [nodes[0], nodes[1], kept];
    assert!(rig.run_until(seconds(30), |rig| agree(rig, &all)).is_some(), "{:#?}", rig.status(kept));
    assert!(!dropped(&rig, kept) && rig.view(kept).lapses == 0);
    rig.run(seconds(10));
    rig.kill(kept);
    rig.run(seconds(20));
    let copy = rig.start(NodeConfig { restored: old, ..newest });
    let all = [nodes[0], nodes[1], copy];
    assert!(rig.run_until(seconds(30), |rig| agree(rig, &all)).is_some(), "{:#?}", rig.status(copy));
    assert!(dropped(&rig, copy));
    assert_eq!((rig.view(copy).lapses, rig.view(copy).state), (1, ReplicaState::Warming));
}

#[test]
fn a_transition_ends_although_every_step_of_it_waits_for_a_disk() {
    let mut rig = ControlRig::new(1);
    let nodes = mesh(&mut rig);
    let fourth = NodeConfig { disk: true, ..rig.config(4) };
    let joiner = rig.start(fourth);
    let all = [nodes[0], nodes[1], nodes[2], joiner];
    let over = |rig: &ControlRig| agree(rig, &all) && all.iter().all(|node| rig.view(*node).complete);
    assert!(rig.run_until(seconds(60), over).is_some(), "{:#?}", rig.status(joiner));
    let configs: Vec<NodeConfig> = all.iter().map(|node| rig.config_from_disk(*node)).collect();
    for node in all {
        rig.kill(node);
    }
    rig.run(seconds(20));
    let again = start(&mut rig, configs);
    rig.run(seconds(20));
    for node in again {
        assert_eq!((rig.view(node).members.len(), rig.view(node).lapses), (4, 0));
    }
}

#[test]
fn nodes_whose_state_does_not_fit_their_configuration_found_no_other_mesh_over_it() {
    let mut rig = ControlRig::new(3);
    let nodes = mesh(&mut rig);
    rig.run(seconds(5));
    for node in &nodes {
        rig.kill(*node);
    }
    let again: Vec<_> = nodes
        .iter()
        .map(|node| {
            let mut config = rig.config_from_disk(*node);
            config.cluster.n = 2;
            let kept = config.restored.clone();
            (rig.start(config), kept)
        })
        .collect();
    rig.run(seconds(60));
    for (node, kept) in again {
        assert!(rig.view(node).ring.is_none());
        assert!(rig.status(node).state.contains("the state on its disk: "), "{}", rig.status(node).state);
        assert_eq!(rig.config_from_disk(node).restored, kept, "the old state was written over");
    }
}

#[test]
fn a_node_whose_state_cannot_be_read_joins_its_mesh_and_founds_none() {
    let mut rig = ControlRig::new(1);
    let mut config = NodeConfig { disk: true, restored: Some(vec![7; 100]), ..rig.config(1) };
    config.cluster.bootstrap_expect = 1;
    let alone = rig.start(config);
    rig.run(seconds(30));
    assert!(rig.view(alone).ring.is_none());
    assert!(rig.status(alone).state.contains("cannot be read"), "{}", rig.status(alone).state);
    let kept = rig.config_from_disk(alone).restored;
    assert_eq!(kept, Some(vec![7; 100]), "what can be read must not take its place before it joined");

    let mut rig = ControlRig::new(2);
    let nodes = mesh(&mut rig);
    rig.run(seconds(5));
    rig.kill(nodes[2]);
    rig.run(seconds(20));
    let damaged = rig.start(NodeConfig { restored: Some(vec![7; 100]), ..rig.config_from_disk(nodes[2]) });
    let all = [nodes[0], nodes[1], damaged];
    assert!(rig.run_until(seconds(30), |rig| agree(rig, &all)).is_some(), "{:#?}", rig.status(damaged));
    assert_eq!((rig.view(damaged).lapses, rig.view(damaged).state), (1, ReplicaState::Warming));
}

/// Others were told that the joiner has all, and it died before its own disk was. By a review: the next process took for old what it held
/// and settled all the same, so that the older layout retired.
#[test]
fn a_node_that_died_before_its_disk_had_its_word_settles_with_what_it_said_it_had() {
    for hears_it in [true, false] {
        let mut rig = ControlRig::new(1);
        let nodes = mesh(&mut rig);
        let joiner = rig.start(NodeConfig { disk: true, ..rig.config(4) });
        rig.set_moves(joiner, false);
        assert!(rig.run_until(seconds(60), |rig| rig.view(joiner).moving).is_some());
        rig.run(seconds(5));
        rig.set_keeps(joiner, false);
        rig.set_moves(joiner, true);
        let reads = |rig: &ControlRig| rig.view(nodes[0]).ring.as_ref().map_or(0, |ring| ring.name().epoch);
        assert!(rig.run_until(seconds(10), |rig| reads(rig) == 2).is_some());
        rig.run(seconds(5));
        assert!(rig.view(nodes[0]).beside.is_some(), "it settles once it is on disk that it has all");
        let config = rig.config_from_disk(joiner);
        rig.kill(joiner);
        if !hears_it {
            nodes.iter().for_each(|node| rig.cut(*node, joiner + 1));
        }
        let back = rig.start(config);
        rig.set_moves(back, false);
        assert!(rig.run_until(seconds(60), |rig| rig.view(back).ring.is_some()).is_some());
        assert_eq!(rig.view(back).held.is_some(), hears_it);
        rig.heal();
        rig.run(seconds(60));
        // What its memory held and what its shards took for old is on its way again, and the former owners have it still.
        assert!(rig.view(nodes[0]).beside.is_some());
        rig.set_moves(back, true);
        assert!(rig.run_until(seconds(30), |rig| rig.view(nodes[0]).complete).is_some());
        assert_eq!(rig.view(back).lapses, 0);
    }
}
