//! Real processes form a mesh: one layout, values and namespaces that all of them know, and members that come back.
//!
//! Issue 2, items 2 and 10. What a kill or a stopped process does to requests is in `faults.rs`.

mod support;

use meshwork_core::{
    id::NodeId,
    wire::{
        client::{Consistency, Quorum, Status},
        control::{ClientControl, ControlReply, LayoutChange},
    },
};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use support::{
    mesh::{Mesh, Plan, Shared},
    raw::{self, Raw},
    wait::{LIMIT, run, wait_for, wait_until},
};

static THREE: Shared = Shared::new();

fn three() -> Arc<Mesh> {
    THREE.get(|| Mesh::start(Plan::default()))
}

/// R = W = 2 of 3, stand-ins allowed.
fn quorum() -> Consistency {
    Consistency { read: Quorum::Exactly(2), write: Quorum::Exactly(2), mode: None }
}

fn members(status: &Value) -> BTreeSet<(String, String)> {
    let all = status["members"].as_array().expect("members are a list");
    let of = |member: &Value| (member["name"].as_str().unwrap().to_owned(), member["node"].to_string());
    all.iter().filter(|member| member["role"] == "member").map(of).collect()
}

#[test]
fn three_processes_agree_on_one_layout() {
    let mesh = three();
    let all: Vec<Value> = (0..3).map(|number| mesh.cli_at(number, &["status", "-o", "json"]).done().json()).collect();
    for (number, status) in all.iter().enumerate() {
        assert_eq!(status["name"], format!("node-{number}"), "the seed that was named answers: {status}");
        assert_eq!(status["state"], "ready");
        assert_eq!(status["cluster"], "e2e");
        assert_eq!(status["layout"], all[0]["layout"]);
        assert_eq!(status["layout_agreed"], true);
        assert_eq!(members(status), members(&all[0]));
    }
    let names: Vec<String> = members(&all[0]).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"]);
    assert!(all[0]["layout"].is_object() || all[0]["layout"].is_string(), "there is a layout: {}", all[0]);
}

#[test]
fn a_value_written_at_one_node_is_read_through_every_node() {
    let mesh = three();
    mesh.cli_at(0, &["set", "greeting", "hello"]).done();
    for node in 0..3 {
        assert_eq!(mesh.cli_at(node, &["get", "greeting"]).done().out.trim_end(), "hello");
        let answer = raw::get(mesh.nodes[node].address, &mesh.client, "greeting", quorum());
        assert_eq!((answer.status, answer.value.as_deref()), (Status::Ok, Some(&b"hello"[..])));
        assert!(answer.worth.acks >= 2, "{:?}", answer.worth);
    }
    for node in 0..3 {
        let (key, value) = (format!("from-{node}"), format!("value {node}"));
        let put = raw::put(mesh.nodes[node].address, &mesh.client, &key, &value, quorum());
        assert_eq!(put.status, Status::Ok, "{put:?}");
        let read = raw::get(mesh.nodes[(node + 1) % 3].address, &mesh.client, &key, quorum());
        assert_eq!(read.value.as_deref(), Some(value.as_bytes()));
    }
    mesh.cli_at(1, &["del", "greeting"]).done();
    for node in &mesh.nodes {
        assert_eq!(raw::get(node.address, &mesh.client, "greeting", quorum()).status, Status::NotFound);
    }
}

#[test]
fn the_owners_of_a_key_are_the_same_everywhere() {
    let mesh = three();
    for key in ["a", "b", "some/longer key"] {
        let said: Vec<Value> =
            (0..3).map(|node| mesh.cli_at(node, &["ring", "owners", key, "-o", "json"]).done().json()).collect();
        assert!(said.iter().all(|owners| *owners == said[0]), "{said:?}");
        let owners: BTreeSet<&str> = said[0]["owners"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(owners.len(), 3, "n = 3 on three nodes: {}", said[0]);
    }
}

#[test]
fn a_namespace_created_at_one_node_is_known_at_all() {
    let mesh = three();
    mesh.admin(&["namespace", "create", "users", "-r", "1", "-w", "3"]).done();
    for node in 0..3 {
        wait_for(LIMIT, "the namespace to spread", || {
            let shown = mesh.cli_at(node, &["namespace", "show", "users", "-o", "json"]);
            if shown.code() != 0 {
                return Err(shown.err);
            }
            let shown = shown.json();
            assert_eq!((&shown["name"], &shown["r"], &shown["w"]), (&"users".into(), &1.into(), &3.into()), "{shown}");
            Ok(())
        });
    }
    let listed = mesh.cli(&["namespace", "list", "-o", "json"]).done().json();
    let names: BTreeSet<&str> = listed.as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains("users") && names.contains("default"), "{listed}");
    mesh.cli_at(2, &["set", "-n", "users", "u1", "Ada"]).done();
    assert_eq!(mesh.cli_at(1, &["get", "-n", "users", "u1"]).done().out.trim_end(), "Ada");
    assert_eq!(mesh.cli(&["get", "u1"]).ended(1).out, "", "namespaces do not share keys");
}

#[test]
fn a_late_node_takes_its_share_and_what_was_written_before_can_be_read_through_it() {
    let mut mesh = Mesh::start(Plan { nodes: 2, ..Plan::default() });
    for key in 0..20 {
        mesh.cli_at(key % 2, &["set", &format!("k{key}"), "v"]).done();
    }
    let before = mesh.nodes[0].status().unwrap()["layout"].clone();
    let late = mesh.add("late");
    mesh.launch(late);
    wait_until("the late node to own partitions, and all to agree", || {
        let status = mesh.nodes[late].status().unwrap_or_default();
        let own = status["members"].as_array().and_then(|all| all.iter().find(|member| member["name"] == "late"));
        own.is_some_and(|own| own["partitions"].as_u64() > Some(0))
            && status["ready"] == true
            && status["transition"] == ""
            && status["layout_agreed"] == true
    });
    assert_ne!(mesh.nodes[late].status().unwrap()["layout"], before);
    for key in 0..20 {
        assert_eq!(mesh.cli_at(late, &["get", &format!("k{key}")]).done().out.trim_end(), "v");
    }
}

#[test]
fn a_seed_that_is_down_at_first_and_named_by_dns_is_found_when_it_comes() {
    let mut mesh = Mesh::planned(Plan { nodes: 2, ..Plan::default() });
    let seed = format!("transport.seeds=localhost:{}", mesh.nodes[1].address.port());
    let mut command = mesh.serve(0);
    command.arg("--set").arg(&seed);
    mesh.launch_as(0, command);
    mesh.nodes[0].becomes("waiting for 1 more (bootstrap_expect = 2)");
    // The other knows nobody: it can only be found.
    let mut command = mesh.serve(1);
    command.args(["--set", "transport.seeds="]);
    mesh.launch_as(1, command);
    mesh.settle();
    mesh.cli_at(0, &["set", "k", "v"]).done();
    assert_eq!(mesh.cli_at(1, &["get", "k"]).done().out.trim_end(), "v");
}

#[test]
fn a_node_with_a_data_directory_comes_back_as_itself() {
    let mut mesh = Mesh::start(Plan { kept: true, sets: vec!["node.warming_max=1s"], ..Plan::default() });
    let before = members(&mesh.nodes[0].status().unwrap());
    mesh.cli(&["set", "k", "v"]).done();
    mesh.kill(2);
    mesh.revive(2);
    assert_eq!(members(&mesh.nodes[0].status().unwrap()), before, "same ids, same members");
    assert_eq!(members(&mesh.nodes[2].status().unwrap()), before);
    let read = raw::get(mesh.nodes[2].address, &mesh.client, "k", quorum());
    assert_eq!(read.value.as_deref(), Some(&b"v"[..]), "{read:?}");
}

#[test]
fn a_diskless_node_takes_the_place_of_its_dead_namesake() {
    let sets = vec!["cluster.replace_by_name=true", "node.warming_max=1s"];
    let mut mesh = Mesh::start(Plan { sets, ..Plan::default() });
    let before = members(&mesh.nodes[0].status().unwrap());
    mesh.cli(&["set", "k", "v"]).done();
    mesh.kill(2);
    mesh.revive(2);
    let after = members(&mesh.nodes[0].status().unwrap());
    assert_eq!(after.len(), 3, "the old one is out, the new one is in: {after:?}");
    assert_eq!(before.intersection(&after).count(), 2, "two stayed: {before:?} {after:?}");
    for node in 0..3 {
        let read = raw::get(mesh.nodes[node].address, &mesh.client, "k", quorum());
        assert_eq!(read.value.as_deref(), Some(&b"v"[..]), "through node {node}: {read:?}");
    }
    let put = raw::put(mesh.nodes[2].address, &mesh.client, "k2", "v2", quorum());
    assert_eq!(put.status, Status::Ok, "{put:?}");
}

/// Writes so many keys, through all nodes that run.
fn written(mesh: &Mesh, keys: usize) {
    for key in 0..keys {
        let put = raw::put(mesh.nodes[key % 2].address, &mesh.client, &format!("k{key}"), "v", quorum());
        assert_eq!(put.status, Status::Ok, "{put:?}");
    }
}

/// All of them can be read through each of these nodes.
fn readable(mesh: &Mesh, keys: usize, through: &[usize]) {
    for node in through {
        for key in 0..keys {
            let read = raw::get(mesh.nodes[*node].address, &mesh.client, &format!("k{key}"), quorum());
            assert_eq!(read.value.as_deref(), Some(&b"v"[..]), "k{key} through node {node}: {read:?}");
        }
    }
}

#[test]
fn of_two_processes_with_one_data_directory_or_its_copy_one_goes_on_and_nothing_is_lost() {
    let mut mesh = Mesh::start(Plan { kept: true, sets: vec!["node.warming_max=1s"], ..Plan::default() });
    written(&mesh, 30);
    let before = members(&mesh.nodes[0].status().unwrap());
    let (original, copy) = (mesh.home().join("data-node-2"), mesh.home().join("data-copy"));
    let number = mesh.add("copy");
    let mut command = mesh.serve(number);
    command.arg("--set").arg(format!("node.data_dir={}", original.display()));
    let refused = support::command::finish(command, LIMIT);
    assert_ne!(refused.code(), 0, "{refused:?}");
    refused.says(&["data-node-2", "in use by another meshwork process"]);
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(original.join("node.json"), copy.join("node.json")).unwrap();
    mesh.launch(number);
    let status = mesh.nodes[2].process.as_mut().unwrap().wait(LIMIT);
    assert_ne!(status.code(), Some(0), "the older one stops, and not as if it had been asked to");
    mesh.nodes[2].says(&["a newer process with this node's identity is running: stop one of them"]);
    mesh.nodes[2].process = None;
    let ids = |all: BTreeSet<(String, String)>| -> BTreeSet<String> { all.into_iter().map(|(_, id)| id).collect() };
    wait_until("the copy to serve as the member that it was copied from", || {
        let status = mesh.nodes[number].status().unwrap_or_default();
        status["ready"] == true && ids(members(&status)) == ids(before.clone())
    });
    readable(&mesh, 30, &[0, 1, number]);
}

#[test]
fn a_removed_node_that_comes_back_is_told_so_and_changes_nothing() {
    let mut mesh = Mesh::start(Plan { kept: true, sets: vec!["node.warming_max=1s"], ..Plan::default() });
    written(&mesh, 30);
    mesh.kill(2);
    mesh.admin(&["node", "remove", "node-2"]).done();
    let two = |mesh: &Mesh| {
        mesh.nodes[..2].iter().all(|node| {
            let status = node.status().unwrap_or_default();
            status["transition"] == "" && status["layout_agreed"] == true && members(&status).len() == 2
        })
    };
    wait_until("a layout of two", || two(&mesh));
    // What it deleted meanwhile must not come back with it.
    mesh.cli_at(0, &["del", "k0"]).done();
    mesh.launch(2);
    let status = mesh.nodes[2].process.as_mut().unwrap().wait(LIMIT);
    assert_ne!(status.code(), Some(0), "{}", mesh.nodes[2].said());
    mesh.nodes[2].says(&["this node was removed from the mesh: start it with a new identity to rejoin"]);
    mesh.nodes[2].process = None;
    assert!(two(&mesh), "{}", mesh.nodes[0].status().unwrap());
    let read = raw::get(mesh.nodes[1].address, &mesh.client, "k0", quorum());
    assert_eq!(read.status, Status::NotFound, "{read:?}");
    written(&mesh, 1);
    readable(&mesh, 30, &[0, 1]);
    // As it was told.
    std::fs::remove_dir_all(mesh.home().join("data-node-2")).unwrap();
    mesh.launch(2);
    wait_until("it to be a new member", || {
        let status = mesh.nodes[2].status().unwrap_or_default();
        status["ready"] == true && status["transition"] == "" && members(&status).len() == 3
    });
    readable(&mesh, 30, &[2]);
}

#[test]
fn a_weight_of_zero_is_refused_wherever_it_comes_from() {
    let mesh = three();
    mesh.admin(&["plan", "weight", "node-0", "0"]).ended(2).says(&["1..=1000"]);
    let before = mesh.nodes[0].status().unwrap();
    let node = u128::from_str_radix(before["node"].as_str().unwrap(), 16).unwrap();
    let told = run("an answer", async {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.admin).await.unwrap();
        let change = ClientControl::Change(LayoutChange::Weight(NodeId(node), 0));
        link.control(&change).await.unwrap()
    });
    let ControlReply::Refused { reason, .. } = told else { panic!("{told:?}") };
    assert!(reason.contains("weight"), "{reason}");
    assert_eq!(mesh.nodes[0].status().unwrap()["layout"], before["layout"]);
}

#[test]
fn where_there_are_fewer_nodes_than_copies_all_of_them_hold_it_and_replies_say_so() {
    let sets = vec!["cluster.n=5"];
    let tables = "[[namespace]]\nname = \"wide\"\nn = 5\nr = 3\nw = 3\n";
    let mesh = Mesh::start(Plan { nodes: 2, sets, tables, ..Plan::default() });
    wait_until("the namespace", || mesh.cli(&["namespace", "show", "wide"]).code() == 0);
    mesh.cli_at(0, &["set", "-n", "wide", "k", "v"]).done();
    assert_eq!(mesh.cli_at(1, &["get", "-n", "wide", "k"]).done().out.trim_end(), "v");
    let asked = Consistency { read: Quorum::All, write: Quorum::All, mode: None };
    let put = raw::put(mesh.nodes[0].address, &mesh.client, "k", "v", asked);
    assert_eq!((put.status, put.worth.acks, put.worth.degraded), (Status::Ok, 2, true), "{put:?}");
    // More copies than the cluster ever makes are refused with the number that it makes.
    mesh.admin(&["namespace", "create", "wider", "-n", "6"]).ended(2).says(&["n = 6", "between 1 and 5", "cluster.n"]);
    mesh.cli(&["set", "k", "v", "--consistency", "r=9,w=9"]).ended(2).says(&["9"]);
}
