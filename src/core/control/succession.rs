//! Who is in the next layout (PROTOCOL §2: first layout, joining, replacement).
//!
//! The role map holds everybody; a layout holds whom data may rest on. A layout passes its positions (`token_id`s) on: a
//! position stays with its member while that is active, and goes to one that declares to replace it once it is removed.
//! Those who came since bring positions of their own (`wanted`); one that is down does not, since nobody could move data
//! to it, nor one that waits for the place of a member of its name. What settles a conflict (`due`) is a pure function of
//! layouts and roles, so that nodes which know the same decide the same:
//! - a position held in a layout beats any claim to it, and the older claim beats the younger: two joiners that claim
//!   one place at once agree who lost, and whoever has the place keeps it;
//! - where two layouts meet (two first layouts), the positions of both stay.

use crate::{
    id::NodeId,
    ring::{Layout, Role, RoleMap, RoleState},
    time::Mono,
    value::Version,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

/// A member of a joiner's name must be down for so long before its place is taken.
pub const REPLACE_AFTER: Duration = Duration::from_secs(10);

/// The roles that the layout after `layouts` is derived from: one active role per position.
pub fn due(layouts: &[&Layout], roles: &RoleMap) -> RoleMap {
    let positions: BTreeSet<NodeId> =
        layouts.iter().flat_map(|layout| &layout.members).map(|member| member.token_id).collect();
    let holds = |node: NodeId| layouts.iter().any(|layout| layout.member(node).is_some());
    let mut best: BTreeMap<NodeId, (bool, Version, NodeId)> = BTreeMap::new();
    for (node, role) in roles.iter().filter(|(_, role)| role.state == RoleState::Active) {
        let claims = !holds(node);
        if !positions.contains(&role.token_id) || (claims && role.replaces.is_none()) {
            continue;
        }
        let rank = (claims, roles.version(node).unwrap_or_default(), node);
        best.entry(role.token_id).and_modify(|known| *known = (*known).min(rank)).or_insert(rank);
    }
    roles.only(best.into_values().map(|(_, _, node)| node))
}

/// The roles that the layout after `layout` is made of: those `due`, and whoever else is active, up and has a position of
/// its own. With `by_name`, one of a member's name waits for that member's place instead.
pub fn wanted(layout: &Layout, roles: &RoleMap, is_up: impl Fn(NodeId) -> bool, by_name: bool) -> RoleMap {
    let mut wanted = due(&[layout], roles);
    let taken: BTreeSet<NodeId> = layout.members.iter().map(|member| member.token_id).collect();
    let names: BTreeSet<String> = wanted.iter().map(|(_, role)| role.name.clone()).collect();
    let joins = |(node, role): &(NodeId, &Role)| {
        role.state == RoleState::Active
            && layout.member(*node).is_none()
            && role.token_id == *node
            && !taken.contains(node)
            && is_up(*node)
            && !(by_name && names.contains(role.name.as_str()))
    };
    for (node, role) in roles.iter().filter(joins) {
        wanted.set(node, role.clone(), roles.version(node).unwrap_or_default());
    }
    wanted
}

/// Of `wanted`, what needs no commit where layouts are made by hand: who leaves, was removed or takes another's place.
/// Joiners wait, and members keep weight and zone.
pub fn uncommitted(layout: &Layout, wanted: &RoleMap) -> RoleMap {
    let mut held = RoleMap::new();
    for (node, role) in wanted.iter() {
        let role = match layout.member(node) {
            Some(member) => Role { zone: member.zone.clone(), weight: member.weight, ..role.clone() },
            None if role.replaces.is_some() => role.clone(),
            None => continue,
        };
        held.set(node, role, wanted.version(node).unwrap_or_default());
    }
    held
}

/// The roles of a first layout: those of the live, once there are `expect` of them.
pub fn first(roles: &RoleMap, is_live: impl Fn(NodeId) -> bool, expect: u16) -> Option<RoleMap> {
    let live = starters(roles, is_live);
    (live.len() >= usize::from(expect)).then(|| roles.only(live.into_iter()))
}

/// Live nodes with an active role: whom a first layout would have.
pub fn starters(roles: &RoleMap, is_live: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let active = roles.iter().filter(|(_, role)| role.state == RoleState::Active).map(|(node, _)| node);
    active.filter(|node| is_live(*node)).collect()
}

/// Since when each member of the layout has not answered.
#[derive(Debug, Default)]
pub struct Absences {
    since: BTreeMap<NodeId, Mono>,
}

impl Absences {
    /// Looks at who is up; call it at every change and now and then.
    pub fn observe(&mut self, layout: Option<&Layout>, is_up: impl Fn(NodeId) -> bool, now: Mono) {
        let absent = layout.iter().flat_map(|layout| &layout.members).map(|member| member.node);
        let absent: BTreeSet<NodeId> = absent.filter(|node| !is_up(*node)).collect();
        self.since.retain(|node, _| absent.contains(node));
        for node in absent {
            self.since.entry(node).or_insert(now);
        }
    }

    fn lasted(&self, node: NodeId, now: Mono) -> bool {
        self.since.get(&node).is_some_and(|since| now.since(*since) >= REPLACE_AFTER)
    }
}

/// The member whose place a joiner called `name` at `address` may take: of its name, and down for long enough or with
/// its very address, where two processes cannot listen.
pub fn replaceable(
    layout: &Layout,
    roles: &RoleMap,
    (name, address): (&str, SocketAddr),
    absences: &Absences,
    now: Mono,
) -> Option<NodeId> {
    let members = layout.members.iter().filter_map(|member| Some((member.node, roles.get(member.node)?)));
    let mut vacant = members.filter(|(node, role)| {
        role.name == name && role.state == RoleState::Active && (role.address == address || absences.lasted(*node, now))
    });
    vacant.next().map(|(node, _)| node)
}

/// The role of a joiner that takes the place of `node` with role `old`: position, zone and weight stay, so that no
/// other data moves; label and address are its own.
pub fn heir(node: NodeId, old: &Role, own: &Role) -> Role {
    Role {
        token_id: old.token_id,
        zone: old.zone.clone(),
        weight: old.weight,
        state: RoleState::Active,
        name: own.name.clone(),
        address: own.address,
        shards: own.shards,
        replaces: Some(node),
        drained: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::ActorId, value::Hlc};

    fn version(at: u64) -> Version {
        Version { hlc: Hlc(at), actor: ActorId(at) }
    }

    fn role(node: u128) -> Role {
        Role {
            token_id: NodeId(node),
            zone: "z".to_owned(),
            weight: 100,
            state: RoleState::Active,
            name: format!("n{node}"),
            address: SocketAddr::from(([10, 0, 0, 1], 7000 + u16::try_from(node).unwrap())),
            shards: 1,
            replaces: None,
            drained: false,
        }
    }

    fn map(nodes: impl IntoIterator<Item = u128>) -> RoleMap {
        let mut roles = RoleMap::new();
        for node in nodes {
            roles.set(NodeId(node), role(node), version(1));
        }
        roles
    }

    fn nodes(roles: &RoleMap) -> Vec<u128> {
        roles.iter().map(|(node, _)| node.0).collect()
    }

    fn claim(roles: &mut RoleMap, of: u128, by: u128, at: u64) {
        let old = roles.get(NodeId(of)).unwrap().clone();
        roles.set(NodeId(by), heir(NodeId(of), &old, &role(by)), version(at));
        roles.set(NodeId(of), Role { state: RoleState::Removed, ..old }, version(at));
    }

    #[test]
    fn a_joiner_is_wanted_once_it_is_up_unless_it_waits_for_a_place() {
        let layout = Layout::derive(1, 3, 64, &map([1, 2, 3])).unwrap();
        let mut roles = map([1, 2, 3, 4]);
        assert_eq!(nodes(&due(&[&layout], &roles)), [1, 2, 3], "a conflict lets nobody in");
        assert_eq!(nodes(&wanted(&layout, &roles, |_| true, false)), [1, 2, 3, 4]);
        assert_eq!(nodes(&wanted(&layout, &roles, |node| node != NodeId(4), false)), [1, 2, 3]);
        roles.set(NodeId(4), Role { name: "n3".to_owned(), ..role(4) }, version(2));
        assert_eq!(nodes(&wanted(&layout, &roles, |_| true, true)), [1, 2, 3]);
        assert_eq!(nodes(&wanted(&layout, &roles, |_| true, false)), [1, 2, 3, 4]);
        roles.set(NodeId(2), Role { state: RoleState::Leaving, ..role(2) }, version(2));
        assert_eq!(nodes(&wanted(&layout, &roles, |_| true, true)), [1, 3]);
        claim(&mut roles, 3, 8, 50);
        assert_eq!(
            nodes(&wanted(&layout, &roles, |_| true, true)),
            [1, 4, 8],
            "nobody of that name is left to wait for"
        );
    }

    #[test]
    fn of_two_claims_to_one_place_the_older_wins_whatever_the_order_and_a_held_place_is_kept() {
        let before = Layout::derive(1, 3, 64, &map([1, 2, 3])).unwrap();
        let (mut mine, mut theirs) = (map([1, 2, 3]), map([1, 2, 3]));
        claim(&mut mine, 3, 8, 50);
        claim(&mut theirs, 3, 9, 40);
        let (with_mine, with_theirs) = (mine.clone(), theirs.clone());
        mine.join(&with_theirs);
        theirs.join(&with_mine);
        assert_eq!(mine, theirs);
        assert_eq!(nodes(&due(&[&before], &mine)), [1, 2, 9]);
        let after = Layout::derive(2, 3, 64, &due(&[&before], &with_mine)).unwrap();
        assert_eq!(nodes(&due(&[&after], &mine)), [1, 2, 8], "8 has the place already");
    }

    #[test]
    fn where_two_first_layouts_meet_the_members_of_both_stay() {
        let (left, right) =
            (Layout::derive(1, 3, 64, &map([1, 2, 3])).unwrap(), Layout::derive(1, 3, 64, &map([1, 3, 4])).unwrap());
        assert_eq!(nodes(&due(&[&left, &right], &map([1, 2, 3, 4, 5]))), [1, 2, 3, 4]);
    }

    #[test]
    fn a_place_is_vacant_after_ten_seconds_or_at_once_for_the_same_address() {
        let roles = map([1, 2, 3]);
        let layout = Layout::derive(1, 3, 64, &roles).unwrap();
        let mut absences = Absences::default();
        let elsewhere = SocketAddr::from(([10, 0, 0, 9], 7000));
        let second = |second: u64| Mono(second * 1_000_000_000);
        absences.observe(Some(&layout), |node| node != NodeId(3), second(1));
        let vacant = |absences: &Absences, name, address, now| {
            replaceable(&layout, &roles, (name, address), absences, second(now))
        };
        assert_eq!(vacant(&absences, "n3", elsewhere, 10), None);
        assert_eq!(vacant(&absences, "n3", elsewhere, 11), Some(NodeId(3)));
        assert_eq!(vacant(&absences, "n4", elsewhere, 11), None);
        assert_eq!(vacant(&absences, "n3", role(3).address, 1), Some(NodeId(3)));
        absences.observe(Some(&layout), |_| true, second(12));
        absences.observe(Some(&layout), |node| node != NodeId(3), second(13));
        assert_eq!(vacant(&absences, "n3", elsewhere, 14), None, "coming back starts the wait again");
    }
}
