//! Join laws of histories over small enumerated states, and SIMULATION §11 schedule 6 at their level. What a join of
//! three histories may end in is said in the parent's header.

use super::{
    super::{
        role::Role,
        tests::{draw, role, shuffle},
    },
    *,
};
use crate::{
    id::ActorId,
    rng::Rng,
    value::{Hlc, Version},
};

fn at(time: u64) -> Version {
    Version { hlc: Hlc(time), actor: ActorId(1) }
}

fn roles(nodes: &[u128]) -> RoleMap {
    let mut map = RoleMap::new();
    for node in nodes {
        map.set(NodeId(*node), role(*node, "a", 100), at(1));
    }
    map
}

fn layout(epoch: u64, nodes: &[u128]) -> Layout {
    Layout::derive(epoch, 3, 8, &roles(nodes)).unwrap()
}

fn history(layout: Layout, acked_by: &[u128]) -> LayoutHistory {
    let (name, mut history) = (layout.name(), LayoutHistory::new());
    assert!(history.propose(layout));
    for node in acked_by {
        assert!(history.ack(NodeId(*node), name));
    }
    history
}

/// What nodes may hold at one time: nothing, two first layouts, a foreign and the derived second one, a third.
fn states() -> Vec<LayoutHistory> {
    vec![
        LayoutHistory::new(),
        history(layout(1, &[1, 2, 3]), &[]),
        history(layout(1, &[1, 2, 3]), &[1]),
        history(layout(1, &[1, 2, 3]), &[2, 3]),
        history(layout(1, &[1, 3, 4]), &[4]),
        history(layout(2, &[1, 2]), &[1, 2]),
        history(layout(2, &[1, 2, 3, 4]), &[3]),
        history(layout(2, &[1, 2, 3, 4]), &[1, 2, 4]),
        history(layout(3, &[2, 3]), &[2]),
    ]
}

fn joined(left: &LayoutHistory, right: &LayoutHistory, roles: &RoleMap) -> LayoutHistory {
    let mut out = left.clone();
    let changed = out.join(right, roles);
    assert_eq!(changed, out != *left, "join says whether something changed");
    out
}

#[test]
fn joins_of_histories_commute_and_repeat_without_effect() {
    let roles = roles(&[1, 2, 3, 4]);
    for left in &states() {
        assert_eq!(&joined(left, left, &roles), left);
        for right in &states() {
            let both = joined(left, right, &roles);
            assert_eq!(both, joined(right, left, &roles));
            assert_eq!(both, joined(&both, right, &roles));
            assert_eq!(both.digest(), joined(right, left, &roles).digest());
            assert!(both.current_name() >= left.current_name(), "a history only moves forward");
        }
    }
}

#[test]
fn joins_of_histories_without_a_conflict_associate() {
    let roles = roles(&[1, 2, 3, 4]);
    let lawful: Vec<LayoutHistory> = states().into_iter().filter(|state| conflicts(state) == 0).collect();
    assert_eq!(lawful.len(), 7);
    for a in &lawful {
        for b in &lawful {
            for c in &lawful {
                let left = joined(&joined(a, b, &roles), c, &roles);
                assert_eq!(left, joined(a, &joined(b, c, &roles), &roles));
            }
        }
    }

    fn conflicts(state: &LayoutHistory) -> usize {
        let foreign = [layout(1, &[1, 3, 4]).name(), layout(2, &[1, 2]).name()];
        foreign.iter().filter(|name| state.current_name() == Some(**name)).count()
    }
}

#[test]
fn any_three_histories_agree_after_two_rounds_of_gossip_in_any_order() {
    let roles = roles(&[1, 2, 3, 4]);
    let mut rng = Rng::fork(1, "gossip order");
    for a in &states() {
        for b in &states() {
            for c in &states() {
                let mut nodes = [a.clone(), b.clone(), c.clone()];
                for _round in 0..2 {
                    let mut pairs = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)];
                    shuffle(&mut pairs, &mut rng);
                    for (to, from) in pairs {
                        let other = nodes[from].clone();
                        nodes[to].join(&other, &roles);
                    }
                }
                assert_eq!(nodes[0], nodes[1], "from {a:?} {b:?} {c:?}");
                assert_eq!(nodes[1], nodes[2], "from {a:?} {b:?} {c:?}");
            }
        }
    }
}

/// SIMULATION §11, schedule 6, at the level of histories: four starters, `bootstrap_expect = 3`.
#[test]
fn two_first_layouts_become_one_second_layout_on_all_sides() {
    const EXPECT: usize = 3;
    let merged = layout(2, &[1, 2, 3, 4]);
    for seed in 0..200 {
        let mut rng = Rng::fork(seed, "two first layouts");
        let mut nodes =
            [&[1, 2, 3][..], &[2], &[3], &[1, 3, 4]].map(|seen: &[u128]| (roles(seen), LayoutHistory::new()));
        let mut complete: BTreeMap<u64, LayoutName> = BTreeMap::new();
        for _step in 0..120 {
            for (me, (roles, history)) in (1u128..).zip(&mut nodes) {
                if history.current().is_none() && roles.len() >= EXPECT {
                    history.propose(Layout::derive(1, 3, 8, roles).unwrap());
                }
                // A node may dawdle before it acks.
                if let Some(name) = history.current_name().filter(|_| rng.below(2) == 0) {
                    history.ack(NodeId(me), name);
                }
                if history.all_acked() {
                    let name = history.current_name().unwrap();
                    assert_eq!(*complete.entry(name.epoch).or_insert(name), name, "seed {seed}: both serve strictly");
                }
            }
            let (from, to) = (draw(&mut rng, 4), draw(&mut rng, 4));
            let (their_roles, their_history) = nodes[from].clone();
            nodes[to].0.join(&their_roles);
            let merged_roles = nodes[to].0.clone();
            nodes[to].1.join(&their_history, &merged_roles);
        }
        for (_, history) in &nodes {
            assert_eq!(history.current(), Some(&merged), "seed {seed}");
            assert!(history.all_acked(), "seed {seed}: {:?} missing", history.unacked().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_conflict_that_leaves_nobody_active_still_gets_a_new_epoch() {
    let (left, right) = (history(layout(1, &[1]), &[1]), history(layout(1, &[2]), &[2]));
    let settled = joined(&left, &right, &RoleMap::new());
    assert_eq!(settled, joined(&right, &left, &RoleMap::new()));
    assert_eq!(settled.current().unwrap().epoch, 2);
    assert!(!settled.all_acked());
}

#[test]
fn an_ack_counts_for_the_current_layout_and_its_members_only() {
    let (first, second) = (layout(1, &[1, 2]), layout(2, &[1, 2]));
    let mut history = history(first.clone(), &[]);
    assert!(!history.ack(NodeId(1), second.name()), "not adopted yet");
    assert!(!history.ack(NodeId(3), first.name()), "not a member");
    assert!(!history.ack(NodeId(1), LayoutName { hash: 0, ..first.name() }), "another hash");
    assert!(history.ack(NodeId(1), first.name()));
    assert!(!history.ack(NodeId(1), first.name()), "no news");
    assert!(!history.all_acked());
    assert!(history.ack(NodeId(2), first.name()));
    assert!(history.all_acked());
    assert!(history.propose(second.clone()));
    assert!(!history.all_acked(), "acks of epoch 1 say nothing of epoch 2");
    assert!(!history.ack(NodeId(1), first.name()), "the past");
    assert!(!history.propose(first), "an older layout is not adopted");
    assert!(!history.propose(layout(2, &[1, 2, 3])), "nor another one of the same epoch");
    assert_eq!(history.unacked().collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
}

#[test]
fn a_layout_holds_active_roles_only_and_is_due_when_they_change() {
    let mut map = roles(&[1, 2, 3, 4]);
    let all = layout(1, &[1, 2, 3, 4]);
    assert!(all.matches(&map));
    map.set(NodeId(2), Role { state: RoleState::Leaving, ..role(2, "a", 100) }, at(2));
    map.set(NodeId(3), Role { state: RoleState::Removed, ..role(3, "a", 100) }, at(2));
    assert!(!all.matches(&map));
    assert_eq!(Layout::derive(2, 3, 8, &map), Some(layout(2, &[1, 4])));
    assert_eq!(Layout::derive(1, 3, 8, &RoleMap::new()), None);
}

#[test]
fn a_history_survives_the_wire_without_acks_that_do_not_count() {
    let history = history(layout(7, &[1, 2, u128::MAX]), &[2]);
    let encoded = rmp_serde::to_vec(&history).unwrap();
    assert_eq!(rmp_serde::from_slice::<LayoutHistory>(&encoded).unwrap(), history);
    let name = history.name.unwrap();
    let acks = BTreeMap::from([(NodeId(1), LayoutName { epoch: 6, ..name }), (NodeId(2), name), (NodeId(9), name)]);
    let forged = rmp_serde::to_vec(&(history.current(), acks)).unwrap();
    assert_eq!(rmp_serde::from_slice::<LayoutHistory>(&forged).unwrap(), history);
}

#[test]
fn a_layout_that_breaks_an_invariant_is_refused_by_name() {
    let good = layout(1, &[1, 2]);
    let member = |node: u128, weight| LayoutMember { node: NodeId(node), weight, ..good.members[0].clone() };
    let with = |members| Layout { members, ..good.clone() };
    let cases = [
        (Layout { epoch: 0, ..good.clone() }, LayoutError::Epoch(0)),
        (Layout { epoch: u64::MAX, ..good.clone() }, LayoutError::Epoch(u64::MAX)),
        (Layout { n: 0, ..good.clone() }, LayoutError::N(0)),
        (Layout { n: 17, ..good.clone() }, LayoutError::N(17)),
        (Layout { partitions: 12, ..good.clone() }, LayoutError::Partitions(12)),
        (Layout { partitions: 0, ..good.clone() }, LayoutError::Partitions(0)),
        (with(vec![]), LayoutError::Members(0)),
        (with(vec![member(2, 1), member(1, 1)]), LayoutError::Order(NodeId(1))),
        (with(vec![member(2, 1), member(2, 1)]), LayoutError::Order(NodeId(2))),
        (with(vec![member(1, 0)]), LayoutError::Member(NodeId(1))),
        (with(vec![member(1, WEIGHT_MAX + 1)]), LayoutError::Member(NodeId(1))),
    ];
    for (layout, error) in cases {
        let encoded = rmp_serde::to_vec(&layout).unwrap();
        let refusal = rmp_serde::from_slice::<Layout>(&encoded).unwrap_err();
        assert!(refusal.to_string().contains(&error.to_string()), "{refusal}");
    }
}
