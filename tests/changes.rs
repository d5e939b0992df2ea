//! The set of members changes under traffic: real processes join, leave, die and are given up, as an operator would do it.
//!
//! Issue 4, item 6. What clients were told meanwhile goes through the simulator's checkers of histories, and every key
//! with an acknowledged write is read at the end.

mod support;

use meshwork_core::namespace::Mode;
use serde_json::Value;
use std::process::Stdio;
use support::{
    command::finish,
    history::judge,
    mesh::{Mesh, Plan},
    promises::{COLD, all_is_readable, plan},
    traffic::Traffic,
    wait::{LIMIT, wait_until},
};

/// What the checkers must have had to judge.
const ASKED: [&str; 7] = ["quorum", "durability", "last-writer", "expiry", "deadline", "resurrection", "worth"];

/// Partitions that a member owns, as a node says.
fn partitions(status: &Value, name: &str) -> u64 {
    let members = status["members"].as_array().cloned().unwrap_or_default();
    members.iter().find(|member| member["name"] == name).and_then(|own| own["partitions"].as_u64()).unwrap_or(0)
}

/// Waits until this node owns partitions and no change is under way.
fn takes_its_share(mesh: &Mesh, number: usize) {
    let node = &mesh.nodes[number];
    wait_until(&format!("{} to own partitions in a layout that stands", node.name), || {
        let status = node.status().unwrap_or_default();
        partitions(&status, &node.name) > 0 && status["ready"] == true && status["transition"] == ""
    });
}

#[test]
fn nodes_join_leave_and_are_given_up_under_traffic_and_nothing_acknowledged_is_lost() {
    let mut mesh = Mesh::start(plan());
    let traffic = Traffic::start(&mesh, "changes", 0x5eed_0006, true, COLD);
    traffic.must_serve(Mode::Sloppy, &[0, 1, 2]);
    traffic.goes_on(300);

    traffic.recorder().fault("late joins");
    let late = mesh.add("late");
    mesh.launch(late);
    takes_its_share(&mesh, late);
    traffic.goes_on(300);

    traffic.recorder().fault("node-1 leaves");
    mesh.admin(&["node", "leave", "node-1", "--wait"])
        .done()
        .says(&["it owns nothing any more", "nothing depends on it any more: stop it"]);
    assert_eq!(partitions(&mesh.nodes[0].status().unwrap(), "node-1"), 0);
    traffic.goes_on(300);

    traffic.recorder().fault("kill -9 of late");
    mesh.kill(late);
    mesh.admin(&["node", "remove", "late", "--wait"]).done().says(&["others hold its copies"]);
    traffic.goes_on(300);

    let history = judge(&traffic.end(), &ASKED);
    all_is_readable(&history);
}

/// Requests of clients that this node has coordinated.
fn asked(mesh: &Mesh, number: usize) -> u64 {
    let status = mesh.nodes[number].status().unwrap();
    ["gets", "puts", "deletes", "touches"].iter().map(|kind| status["stats"][kind].as_u64().unwrap()).sum()
}

#[test]
fn clients_leave_a_drained_node_and_come_back() {
    let mesh = Mesh::start(plan());
    let load = ["bench", "--clients", "1", "--in-flight", "4", "--keys", "200", "--seconds", "60", "-o", "json"];
    let mut bench = mesh.command(&mesh.seeds(), &mesh.client, &load);
    let mut bench = bench.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the load to reach every node", || (0..3).all(|number| asked(&mesh, number) > 100));

    mesh.admin(&["node", "drain", "node-1", "--wait"]).done().says(&["no client asks node-1 any more"]);
    let (others, drained) = (asked(&mesh, 0), asked(&mesh, 1));
    let status = mesh.nodes[1].status().unwrap();
    assert_eq!((&status["ready"], partitions(&status, "node-1") > 0), (&Value::Bool(false), true), "{status}");
    assert!(status["state"].as_str().unwrap().contains("meshwork node undrain node-1"), "{status}");
    assert!(mesh.cli(&["status"]).done().out.contains("member, drained"));
    wait_until("the others to go on", || asked(&mesh, 0) > others + 100);
    assert_eq!(asked(&mesh, 1), drained, "it was asked after all");

    mesh.admin(&["node", "undrain", "node-1"]).done();
    wait_until("clients to come back", || asked(&mesh, 1) > drained + 100);
    assert_eq!(mesh.nodes[1].status().unwrap()["ready"], true);
    let ended_early = bench.try_wait().unwrap();
    assert!(ended_early.is_none(), "the load ended before it was looked at: {ended_early:?}");
    bench.kill().unwrap();
    bench.wait().unwrap();
}

#[test]
fn a_node_takes_the_place_of_a_dead_one_and_a_weight_moves_a_share() {
    let mut mesh = Mesh::start(plan());
    for key in 0..30 {
        mesh.cli(&["set", &format!("k{key}"), "v"]).done();
    }
    mesh.kill(2);
    let heir = mesh.add("heir");
    mesh.launch(heir);
    wait_until("the heir to be known", || {
        let status = mesh.nodes[0].status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|member| member["name"] == "heir" && member["health"] == "alive")
    });
    mesh.admin(&["node", "replace", "node-2", "heir", "--wait"]).done().says(&["the new node holds its copies"]);
    takes_its_share(&mesh, heir);
    let status = mesh.nodes[0].status().unwrap();
    assert_eq!(partitions(&status, "node-2"), 0, "{status}");
    for key in 0..30 {
        let key = format!("k{key}");
        assert_eq!(mesh.cli_at(heir, &["get", &key]).done().out.trim_end(), "v", "{key}");
    }
    let stale = mesh.admin(&["plan", "commit", "--version", "1"]);
    assert_ne!(stale.code(), 0);
    stale.says(&["so a commit makes"]);
    // The primary share follows the weight; with three nodes and N = 3 each holds every partition all the same.
    mesh.admin(&["plan", "weight", "heir", "200"]).done();
    mesh.cli(&["plan", "show"]).done();
    wait_until("a layout of the new weight", || {
        let shown = mesh.cli(&["plan", "show", "-o", "json"]).json();
        shown["active"].as_array().is_some_and(|active| active.len() == 1) && shown["waits"] == "" && {
            let ring = mesh.cli(&["ring", "show", "-o", "json"]).json();
            ring["members"].as_array().is_some_and(|all| all.iter().any(|m| m["name"] == "heir" && m["weight"] == 200))
        }
    });
    mesh.admin(&["plan", "weight", "heir", "0"]).ended(2).says(&["0 is not in 1..=1000"]);
}

/// How many layouts are active, and what the change waits for, as a node says.
fn change(mesh: &Mesh) -> (usize, String) {
    let shown = mesh.cli(&["plan", "show", "-o", "json"]).json();
    (shown["active"].as_array().map_or(0, Vec::len), shown["waits"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_change_that_waits_for_the_dead_goes_on_without_them_when_told_to_and_nothing_old_comes_back_with_them() {
    let mut mesh = Mesh::start(Plan { sets: vec!["node.warming_max=1s", "cluster.layout=manual"], ..plan() });
    for key in 0..30 {
        mesh.cli(&["set", &format!("k{key}"), "old"]).done();
    }
    let skip = ["layout", "skip-dead", "--accept-data-loss"];
    mesh.admin(&skip).ended(2).says(&["there is nothing to skip"]);

    let staged = || mesh.cli(&["plan", "show", "-o", "json"]).json()["staged"].as_u64();
    mesh.admin(&["plan", "weight", "node-0", "250"]).done();
    wait_until("a change to be staged", || staged().is_some());
    mesh.admin(&["plan", "clear"]).done();
    wait_until("it to be taken back", || staged().is_none());

    // No change begins while a member is down; this one stands still before anybody knows.
    mesh.admin(&["plan", "weight", "node-0", "300"]).done();
    wait_until("the change to be staged", || staged().is_some());
    let version = staged().unwrap().to_string();
    mesh.nodes[2].process().signal(libc::SIGSTOP);
    let commit =
        mesh.command(&mesh.nodes[0].address.to_string(), &mesh.admin, &["plan", "commit", "--version", &version]);
    finish(commit, LIMIT).done();
    mesh.kill(2);
    wait_until("the change to wait for the dead", || matches!(change(&mesh), (2, waits) if waits.contains("node-2")));
    for key in 0..30 {
        let key = format!("k{key}");
        assert_eq!(mesh.cli_at(0, &["get", &key]).done().out.trim_end(), "old", "{key} while the change waits");
    }
    mesh.cli(&["set", "k1", "new"]).done();
    mesh.cli(&["del", "k2"]).done();

    mesh.admin(&["layout", "skip-dead"]).ended(2).says(&["--accept-data-loss"]);
    assert_eq!(change(&mesh).0, 2);
    mesh.admin(&skip).done();
    wait_until("the change to end", || change(&mesh).0 == 1);

    mesh.revive(2);
    for key in 0..30 {
        let name = format!("k{key}");
        let got = mesh.cli_at(2, &["get", &name]);
        match key {
            2 => assert_ne!(got.code(), 0, "what was deleted meanwhile came back: {}", got.out),
            1 => assert_eq!(got.done().out.trim_end(), "new"),
            _ => assert_eq!(got.done().out.trim_end(), "old", "{name}"),
        }
    }
}
