//! Which roles a layout takes, when one is due, and what is refused.

use super::{
    super::{role::Role, tests::role},
    *,
};
use crate::{
    id::ActorId,
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
