//! `meshwork check rollout`: may the next node go down? (INTERFACES §3; PROTOCOL §6 "Readiness")
//!
//! Every member of the layout is asked for its own status, since only a node knows which of its copies vote. It is safe to
//! take one down when all answered, all are members of one agreed layout that sees everybody alive, no copy warms, no hint
//! waits for its owner and no partition waits to be compared: then each acknowledged write is with all its owners, and the
//! next one to go takes nothing with it that nobody else has. What one absence does to namespaces with few copies or large
//! quorums is no reason to wait, since waiting does not change it: those are warnings. Exits as `check` does: 0 safe, 1 safe
//! with warnings, 2 not now, 3 cannot tell. `--wait` asks again until it is safe.
//!
//! Not promised: that it stays so until the node is down. Shown by `tests/faults.rs` (a node killed, and the same when it is back)
//! and by `tests/histories.rs` (a rolling restart that waits for it before each node keeps all that was acknowledged).

use crate::{cluster, failure::Failure, mesh, namespace};
use meshwork_client::{ClientControl, ControlReply, Mesh, NodeStatus};
use meshwork_core::namespace::Namespace;
use serde::Serialize;
use std::time::Duration;

/// Between two questions while `--wait` waits.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(500);

/// The object of `check rollout -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rollout {
    /// Whether one node may go down now.
    pub(crate) safe: bool,
    /// What must pass first, a line each.
    pub(crate) blocking: Vec<String>,
    /// What one absence costs even so, a line each.
    pub(crate) warnings: Vec<String>,
    /// Members of the layout.
    pub(crate) members: usize,
}

/// Asks every member.
///
/// # Errors
/// No node could be asked who the members are.
pub(crate) async fn ask(mesh: &Mesh) -> Result<Rollout, Failure> {
    let first = cluster::status_of(mesh::control(mesh, ClientControl::Status).await?)?;
    let namespaces = namespace::all(mesh).await?;
    let mut said = Vec::new();
    for member in first.members.iter().filter(|member| member.role == "member") {
        let answer = match mesh.control_at(member.address, ClientControl::Status).await {
            Ok(ControlReply::Status(status)) if status.node == member.node => Ok(*status),
            Ok(ControlReply::Status(other)) => Err(format!("{} answers at {}", other.name, member.address)),
            Ok(
                ControlReply::Routing(_)
                | ControlReply::Owners(_)
                | ControlReply::Created(_)
                | ControlReply::Plan(_)
                | ControlReply::Changed(_)
                | ControlReply::Namespaces(_)
                | ControlReply::Emptied(_)
                | ControlReply::Holds(_)
                | ControlReply::Refused { .. },
            ) => Err("its answer does not fit the question".to_owned()),
            Err(error) => Err(error.message().to_owned()),
        };
        said.push((member.name.clone(), answer));
    }
    Ok(judge(&first, &said, &namespaces))
}

/// What the members' own words come to. `first`: of the node that was asked who they are.
fn judge(first: &NodeStatus, said: &[(String, Result<NodeStatus, String>)], namespaces: &[Namespace]) -> Rollout {
    let mut blocking = Vec::new();
    if said.is_empty() {
        blocking.push(format!("there is no layout yet: {}: {}", first.name, first.state));
    }
    for (name, answer) in said {
        match answer {
            Ok(status) => blocks(first, status, &mut blocking),
            Err(why) => blocking.push(format!("{name} does not answer: {why}")),
        }
    }
    let warnings = namespaces.iter().filter_map(|namespace| cost(namespace, said.len())).collect();
    Rollout { safe: blocking.is_empty(), blocking, warnings, members: said.len() }
}

/// What one member has against it.
fn blocks(first: &NodeStatus, status: &NodeStatus, blocking: &mut Vec<String>) {
    let name = &status.name;
    // Drained, it is not ready for clients, and its copies vote all the same.
    let drained = status.members.iter().any(|member| member.node == status.node && member.drained);
    if !(status.ready || drained) || status.fenced.is_some() {
        blocking.push(format!("{name} is not ready: {}", status.state));
    }
    if status.layout != first.layout || !status.layout_agreed {
        blocking.push(format!("{name} has not seen all members agree on the layout"));
    }
    if !status.transition.is_empty() {
        blocking.push(format!("{name} sees partitions move: {}", status.transition));
    }
    for other in status.members.iter().filter(|other| other.role == "member" && other.health != "alive") {
        blocking.push(format!("{name} sees {} {}", other.name, other.health));
    }
    for other in status.members.iter().filter(|other| other.role == "joining" || other.role == "leaving") {
        blocking.push(format!("{name} sees {} {}", other.name, other.role));
    }
    let stats = &status.stats;
    for (count, what) in [
        (stats.partitions_warming, "copies that have not compared themselves with others yet"),
        (stats.hints, "hints that wait for their owners"),
        (stats.partitions_urgent, "partitions to compare first: a write of theirs may lack at an owner"),
    ] {
        if count > 0 {
            blocking.push(format!("{name} has {count} {what}"));
        }
    }
}

/// What one absence costs a namespace, if anything.
fn cost(namespace: &Namespace, members: usize) -> Option<String> {
    let copies = usize::from(namespace.n).min(members);
    let left = copies.saturating_sub(1);
    if left == 0 {
        return Some(format!("{} keeps one copy: what the node held of it is gone with its memory", namespace.name));
    }
    let need = usize::from(namespace.w.max(namespace.r)).min(copies);
    (need > left).then(|| {
        format!(
            "{} asks for {need} votes of {copies}: strict requests for what the node owned fail until it is back",
            namespace.name
        )
    })
}

impl Rollout {
    /// One line for a person.
    pub(crate) fn words(&self) -> String {
        let why = if self.safe {
            vec![format!("{} members are whole: one may go down", self.members)]
        } else {
            self.blocking.clone()
        };
        [why, self.warnings.clone()].concat().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::{id::NodeId, ring::LayoutName, stats::ShardStats, value::Hlc, wire::control::MemberStatus};

    fn member(node: u128, role: &str, health: &str) -> MemberStatus {
        MemberStatus {
            node: NodeId(node),
            name: format!("node-{node}"),
            zone: "a".to_owned(),
            weight: 100,
            address: "127.0.0.1:1".parse().unwrap(),
            shards: 1,
            role: role.to_owned(),
            health: health.to_owned(),
            replica: "ready".to_owned(),
            partitions: 8,
            clock_offset_ms: None,
            incarnation: Hlc(1),
            drained: false,
        }
    }

    fn whole(node: u128) -> NodeStatus {
        NodeStatus {
            schema_version: 1,
            node: NodeId(node),
            name: format!("node-{node}"),
            cluster: "c".to_owned(),
            state: "ready".to_owned(),
            ready: true,
            layout: Some(LayoutName { epoch: 1, hash: 7 }),
            layout_agreed: true,
            transition: String::new(),
            members: (1..=3).map(|node| member(node, "member", "alive")).collect(),
            fenced: None,
            stats: ShardStats::default(),
            disk: None,
        }
    }

    fn judged(change: impl FnOnce(&mut NodeStatus)) -> Rollout {
        let mut said: Vec<_> = (1..=3).map(|node| (format!("node-{node}"), Ok(whole(node)))).collect();
        change(said[1].1.as_mut().unwrap());
        judge(&whole(1), &said, &[Namespace::new("default")])
    }

    #[test]
    fn a_whole_mesh_may_lose_a_node_and_each_thing_that_is_amiss_says_why_not() {
        assert!(judged(|_| {}).safe);
        type Change = fn(&mut NodeStatus);
        let amiss: [(Change, &str); 9] = [
            (|status| status.ready = false, "node-2 is not ready"),
            (|status| status.layout_agreed = false, "agree on the layout"),
            (|status| status.layout = Some(LayoutName { epoch: 2, hash: 7 }), "agree on the layout"),
            (|status| status.members[2].health = "suspect".to_owned(), "node-2 sees node-3 suspect"),
            (|status| status.members.push(member(4, "joining", "alive")), "node-4 joining"),
            (|status| status.stats.partitions_warming = 5, "5 copies"),
            (|status| status.transition = "2 of 9".to_owned(), "partitions move: 2 of 9"),
            (|status| status.stats.hints = 2, "2 hints"),
            (|status| status.stats.partitions_urgent = 1, "1 partitions"),
        ];
        for (change, words) in amiss {
            let rollout = judged(change);
            assert!(!rollout.safe && rollout.words().contains(words), "{words}: {rollout:?}");
        }
    }

    #[test]
    fn a_member_that_does_not_answer_and_a_mesh_without_a_layout_block() {
        let said = [("node-1".to_owned(), Ok(whole(1))), ("node-2".to_owned(), Err("no route".to_owned()))];
        assert_eq!(judge(&whole(1), &said, &[]).blocking, ["node-2 does not answer: no route"]);
        assert!(!judge(&whole(1), &[], &[]).safe);
    }

    #[test]
    fn what_an_absence_costs_is_warned_of_and_blocks_nothing() {
        let said: Vec<_> = (1..=3).map(|node| (format!("node-{node}"), Ok(whole(node)))).collect();
        let (mut one, mut all) = (Namespace::new("one"), Namespace::new("all"));
        (one.n, one.r, one.w) = (1, 1, 1);
        all.w = 3;
        let rollout = judge(&whole(1), &said, &[one, all, Namespace::new("default")]);
        assert!(rollout.safe);
        assert_eq!(rollout.warnings.len(), 2, "{rollout:?}");
        assert!(
            rollout.warnings[0].starts_with("one keeps one copy") && rollout.warnings[1].starts_with("all asks for 3")
        );
    }
}
