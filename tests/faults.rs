//! One of three nodes dies, stalls, is stopped, comes back: the other two go on with R = W = 2, and nothing
//! acknowledged is lost.
//!
//! Issue 2, item 10 and "Done means". Errors are counted by the command line's own clients, as a user would meet them.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::{
    command::finish,
    mesh::{Mesh, Plan},
    wait::{LIMIT, wait_until},
};

const RW2: &str = "r=2,w=2,sloppy";

/// Writes and reads a few keys with R = W = 2 through each of these nodes; none may fail.
fn goes_on(mesh: &Mesh, through: &[usize], round: &str) {
    for node in through {
        for key in 0..4 {
            let (key, value) = (format!("{round}-{node}-{key}"), format!("value of {round} {key}"));
            mesh.cli_at(*node, &["set", &key, &value, "--consistency", RW2]).done();
            assert_eq!(mesh.cli_at(*node, &["get", &key, "--consistency", RW2]).done().out.trim_end(), value);
        }
    }
}

fn plan() -> Plan {
    Plan { kept: true, sets: vec!["node.warming_max=1s"], ..Plan::default() }
}

#[test]
fn after_kill_9_the_other_two_go_on_and_the_dead_one_returns() {
    let mut mesh = Mesh::start(plan());
    goes_on(&mesh, &[0], "before");
    mesh.nodes[2].process.as_mut().unwrap().kill();
    // At once, before anybody has noticed, and after everybody has.
    goes_on(&mesh, &[0, 1], "unnoticed");
    mesh.see_down(2);
    goes_on(&mesh, &[0, 1], "noticed");
    // Each of the two keeps hints, and nobody may go down now.
    let rollout = mesh.cli_at(0, &["check", "rollout"]).ended(2);
    assert!(rollout.out.contains("CRITICAL") && rollout.out.contains("sees node-2 down"), "{rollout:?}");
    let explained = mesh.cli_at(0, &["explain", "noticed-0-0", "-o", "json"]).done().json();
    let copy =
        |node: &str| explained["copies"].as_array().unwrap().iter().find(|copy| copy["name"] == node).unwrap().clone();
    assert!(copy("node-2")["copy"].is_null() && copy("node-2")["error"].is_string(), "{explained}");
    let hinted = copy("node-0")["copy"]["hints"].as_array().unwrap().len()
        + copy("node-1")["copy"]["hints"].as_array().unwrap().len();
    assert!(copy("node-0")["copy"]["held"] == "value" && hinted >= 1, "{explained}");
    let owners = mesh.cli_at(0, &["ring", "owners", "x", "-o", "json"]).done().json();
    let named = owners["owners"].as_array().unwrap().iter().any(|name| name == "node-2");
    assert!(named, "ownership does not move because of a death: {owners}");
    mesh.revive(2);
    goes_on(&mesh, &[0, 1, 2], "returned");
    let rollout = mesh.cli_at(0, &["check", "rollout", "--wait", "60s", "-o", "json"]).done().json();
    assert!(rollout["safe"] == true && rollout["members"] == 3, "{rollout}");
    let explained = mesh.cli_at(0, &["explain", "noticed-0-0"]).done();
    assert!(explained.out.contains("all 3 owners hold the same"), "{explained:?}");
}

#[test]
fn a_stalled_node_is_passed_by_and_taken_back_when_it_goes_on() {
    let mesh = Mesh::start(plan());
    mesh.nodes[1].process().signal(libc::SIGSTOP);
    goes_on(&mesh, &[0, 2], "stalled");
    mesh.see_down(1);
    goes_on(&mesh, &[0, 2], "noticed");
    mesh.nodes[1].process().signal(libc::SIGCONT);
    mesh.nodes[0].sees("node-1", "alive");
    mesh.nodes[2].sees("node-1", "alive");
    mesh.nodes[1].becomes("ready");
    goes_on(&mesh, &[0, 1, 2], "back");
}

#[test]
fn sigterm_stops_a_node_cleanly_and_its_clients_go_elsewhere() {
    let mut mesh = Mesh::start(plan());
    let load = ["bench", "--seconds", "3", "--warmup", "0", "--keys", "500", "--in-flight", "8", "-o", "json"];
    let bench = mesh.command(&mesh.seeds(), &mesh.client, &load);
    let bench = std::thread::spawn(move || finish(bench, LIMIT));
    wait_until("the load to arrive", || stats(&mesh, 0, "puts") > 500);
    mesh.nodes[2].process().signal(libc::SIGTERM);
    let status = mesh.nodes[2].process.as_mut().unwrap().wait(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", mesh.nodes[2].said());
    let report = bench.join().unwrap().done().json();
    assert_eq!(report["errors"], 0, "{report}");
    mesh.nodes[0].sees("node-2", "down");
}

fn stats(mesh: &Mesh, node: usize, name: &str) -> u64 {
    mesh.nodes[node].status().ok().and_then(|status| status["stats"][name].as_u64()).unwrap_or(0)
}

/// "Done means": three processes, load with R = W = 2 sloppy, kill -9 half-way.
#[test]
fn a_kill_half_way_through_a_bench_costs_no_error_and_no_acknowledged_write() {
    let mut mesh = Mesh::start(plan());
    let load = [
        "bench",
        "--verify",
        "--seconds",
        "10",
        "--warmup",
        "0",
        "--keys",
        "2000",
        "--writes",
        "50",
        "--in-flight",
        "32",
        "--consistency",
        RW2,
        "-o",
        "json",
    ];
    let bench = mesh.command(&mesh.seeds(), &mesh.client, &load);
    let bench = std::thread::spawn(move || finish(bench, Duration::from_secs(90)));
    // Half-way: the loading is over and seconds of mixed load have passed.
    wait_until("half of the load", || stats(&mesh, 0, "gets") + stats(&mesh, 1, "gets") > 5000);
    mesh.nodes[2].process.as_mut().unwrap().kill();
    let report = bench.join().unwrap().done().json();
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["lost"], 0, "{report}");
    assert!(report["retries"].is_u64(), "{report}");
    let verified = report["verified"].as_u64().unwrap();
    let gone = report["gone"].as_u64().unwrap();
    assert_eq!(verified + gone, 2000, "every key was loaded, so every key was acknowledged: {report}");
    assert_eq!(gone, 0, "nothing expires here, and 2,000 small values fit: {report}");
    let ops = report["ops"].as_u64().unwrap();
    assert!(ops > 1000, "the load went on: {report}");
    mesh.nodes[0].sees("node-2", "down");
    let after: Value = mesh.nodes[0].status().unwrap();
    assert_eq!(after["state"], "ready", "{after}");
}
