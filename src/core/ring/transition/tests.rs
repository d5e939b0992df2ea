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
        assert!(history.advance(NodeId(*node), name, Stage::Acked));
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
                    history.advance(NodeId(me), name, Stage::Acked);
                }
                if history.is_agreed(roles) {
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
        for (roles, history) in &nodes {
            assert_eq!(history.active(), std::slice::from_ref(&merged), "seed {seed}");
            let missing = history.behind(Stage::Acked, roles);
            assert!(history.is_agreed(roles), "seed {seed}: {missing:?} missing");
        }
    }
}

#[test]
fn a_conflict_that_leaves_nobody_active_still_gets_a_new_epoch() {
    let (left, right) = (history(layout(1, &[1]), &[1]), history(layout(1, &[2]), &[2]));
    let settled = joined(&left, &right, &RoleMap::new());
    assert_eq!(settled, joined(&right, &left, &RoleMap::new()));
    assert_eq!(settled.current().unwrap().epoch, 2);
    assert!(!settled.is_agreed(&RoleMap::new()));
}

#[test]
fn a_stage_counts_for_the_newest_layout_and_for_members_only() {
    let (first, second, everybody) = (layout(1, &[1, 2]), layout(2, &[1, 2]), RoleMap::new());
    let mut history = history(first.clone(), &[]);
    let ack = |history: &mut LayoutHistory, node, name| history.advance(NodeId(node), name, Stage::Acked);
    assert!(!ack(&mut history, 1, second.name()), "not adopted yet");
    assert!(!ack(&mut history, 3, first.name()), "not a member");
    assert!(!ack(&mut history, 1, LayoutName { hash: 0, ..first.name() }), "another hash");
    assert!(ack(&mut history, 1, first.name()));
    assert!(!ack(&mut history, 1, first.name()), "no news");
    assert!(!history.is_agreed(&everybody));
    assert!(ack(&mut history, 2, first.name()));
    assert!(history.is_agreed(&everybody));
    assert!(history.propose(second.clone()));
    assert!(!history.all_at(Stage::Acked, &everybody), "acks of epoch 1 say nothing of epoch 2");
    assert!(!ack(&mut history, 1, first.name()), "the past");
    assert!(!history.propose(first), "an older layout is not adopted");
    assert!(!history.propose(layout(2, &[1, 2, 3])), "nor another one of the same epoch");
    assert_eq!(history.behind(Stage::Acked, &everybody), [NodeId(1), NodeId(2)]);
}

/// Two active layouts: 1 to 3, then 2 to 4, with everybody at `stage` but those `behind`.
fn in_transition(stage: Stage, behind: &[u128]) -> LayoutHistory {
    let mut history = history(layout(1, &[1, 2, 3]), &[1, 2, 3]);
    assert!(history.propose(layout(2, &[2, 3, 4])));
    let name = history.current_name().unwrap();
    for node in (1..=4).filter(|node| !behind.contains(node)) {
        assert!(history.advance(NodeId(node), name, stage));
    }
    history
}

#[test]
fn the_older_layout_is_read_until_all_have_synced_and_retires_once_all_read_the_newest() {
    let roles = roles(&[1, 2, 3, 4]);
    let read = |history: &LayoutHistory| history.read(&roles).unwrap().epoch;
    let acked = in_transition(Stage::Acked, &[]);
    assert_eq!((read(&acked), acked.is_agreed(&roles), acked.active().len()), (1, true, 2));
    assert_eq!(read(&in_transition(Stage::Synced, &[4])), 1);
    let mut synced = in_transition(Stage::Synced, &[]);
    assert_eq!((read(&synced), synced.retire(&roles)), (2, false));
    let mut settled = in_transition(Stage::Settled, &[1]);
    assert!(!settled.retire(&roles), "1 leaves, and may still read the older layout");
    assert!(settled.advance(NodeId(1), settled.current_name().unwrap(), Stage::Settled));
    assert!(settled.retire(&roles) && settled.is_complete(&roles));
    assert_eq!((settled.active(), settled.stage(NodeId(1))), (&[layout(2, &[2, 3, 4])][..], None));
    assert!(!history(layout(1, &[1, 2]), &[1, 2]).is_complete(&roles), "no transition led to a first layout");
}

#[test]
fn nobody_waits_for_a_removed_member_and_a_skipped_one_is_given_up() {
    let mut map = roles(&[1, 2, 3, 4]);
    let mut stuck = in_transition(Stage::Settled, &[1]);
    assert_eq!(stuck.behind(Stage::Synced, &map), [NodeId(1)]);
    map.set(NodeId(1), Role { state: RoleState::Removed, ..role(1, "a", 100) }, at(2));
    assert_eq!(stuck.read(&map).unwrap().epoch, 2);
    assert!(stuck.retire(&map));
    let mut skipped = in_transition(Stage::Settled, &[1]);
    assert!(skipped.skip(NodeId(1)) && !skipped.skip(NodeId(1)) && !skipped.skip(NodeId(9)));
    assert!(!skipped.skip(NodeId(2)) && !skipped.skipped().contains(&NodeId(2)), "it had come to the newest");
    assert!(skipped.retire(&roles(&[1, 2, 3, 4])) && skipped.skipped().is_empty());
}

#[test]
fn later_changes_wait_and_the_newest_of_two_gives_way_not_the_one_that_is_read() {
    let mut history = in_transition(Stage::Synced, &[2]);
    assert!(history.propose(layout(3, &[3, 4])));
    assert_eq!(history.active(), [layout(1, &[1, 2, 3]), layout(3, &[3, 4])]);
    assert_eq!(history.stage(NodeId(1)), None);
}

#[test]
fn joins_in_a_transition_commute_repeat_and_never_go_back_to_an_older_base() {
    let roles = roles(&[1, 2, 3, 4, 5]);
    let mut retired = in_transition(Stage::Settled, &[]);
    assert!(retired.retire(&roles));
    let mut next = retired.clone();
    assert!(next.propose(layout(3, &[2, 3, 4, 5])));
    let mut other = history(layout(1, &[1, 2, 3]), &[1, 2, 3]);
    assert!(other.propose(layout(2, &[1, 2, 3, 5])));
    let without = |node| {
        let mut skipped = in_transition(Stage::Settled, &[node]);
        assert!(skipped.skip(NodeId(node)) && skipped.retire(&roles));
        skipped
    };
    let mut states = states();
    states.extend([in_transition(Stage::Acked, &[1]), in_transition(Stage::Synced, &[]), retired.clone(), next, other]);
    states.extend([without(1), without(2)]);
    for left in &states {
        for right in &states {
            let both = joined(left, right, &roles);
            assert_eq!(both, joined(right, left, &roles), "{left:?} {right:?}");
            assert_eq!(both, joined(&both, right, &roles));
            assert!(both.current_name() >= left.current_name() && both.active().len() <= 2);
            assert!(both.names().windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
    let behind = joined(&in_transition(Stage::Synced, &[]), &retired, &roles);
    assert_eq!(behind.active(), retired.active(), "who retired knew that all are settled");
}

/// By a review: who it was is told with the layout that took over without it, whatever others made of it meanwhile.
#[test]
fn who_was_given_up_is_known_as_long_as_the_layout_that_took_over_is_the_oldest() {
    let roles = roles(&[1, 2, 3, 4, 5]);
    let given_up =
        |history: &LayoutHistory| (1..=5).filter(|node| history.is_given_up(NodeId(*node))).collect::<Vec<_>>();
    let mut retired = in_transition(Stage::Settled, &[3]);
    assert!(retired.skip(NodeId(3)) && given_up(&retired).is_empty());
    assert!(retired.retire(&roles));
    assert_eq!(given_up(&retired), [3]);
    // The one that was given up settled a conflict with another that does not know of that yet.
    let mut foreign = history(layout(1, &[1, 2, 3]), &[1, 2, 3]);
    assert!(foreign.propose(layout(2, &[1, 2, 3, 5])));
    let met = joined(&foreign, &in_transition(Stage::Settled, &[3]), &roles);
    assert_eq!((met.active()[0].epoch, met.active()[1].epoch, given_up(&met)), (1, 3, vec![]));
    let mut told = joined(&met, &retired, &roles);
    assert_eq!((told.active()[0].epoch, told.active()[1].epoch, given_up(&told)), (2, 3, vec![3]));
    assert_eq!(given_up(&joined(&told, &met, &roles)), [3], "who has not heard of it takes nothing back");
    let name = told.current_name().unwrap();
    for node in 1..=5 {
        told.advance(NodeId(node), name, Stage::Settled);
    }
    assert!(told.retire(&roles) && given_up(&told).is_empty());
    assert!(
        given_up(&joined(&told, &retired, &roles)).is_empty() && given_up(&joined(&retired, &told, &roles)).is_empty()
    );
}

#[test]
fn a_history_survives_the_wire_without_what_cannot_be() {
    let mut without = in_transition(Stage::Settled, &[3]);
    assert!(without.skip(NodeId(3)) && without.retire(&roles(&[1, 2, 3, 4])));
    let histories = [history(layout(7, &[1, 2, u128::MAX]), &[2]), in_transition(Stage::Synced, &[3]), without];
    for history in histories {
        let encoded = rmp_serde::to_vec(&history).unwrap();
        assert_eq!(rmp_serde::from_slice::<LayoutHistory>(&encoded).unwrap(), history);
    }
    let history = history(layout(7, &[1, 2, u128::MAX]), &[2]);
    let stages = BTreeMap::from([(NodeId(2), Stage::Acked), (NodeId(9), Stage::Settled)]);
    let forged = rmp_serde::to_vec(&(history.active(), stages, [NodeId(1)])).unwrap();
    assert_eq!(rmp_serde::from_slice::<LayoutHistory>(&forged).unwrap(), history);
    let many: Vec<Layout> = (1..9).map(|epoch| layout(epoch, &[1, 2])).collect();
    let forged = rmp_serde::to_vec(&(many, BTreeMap::<NodeId, Stage>::new(), [0u8; 0])).unwrap();
    assert_eq!(rmp_serde::from_slice::<LayoutHistory>(&forged).unwrap().active().len(), 2);
}
