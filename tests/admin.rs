//! The admin address of a real node: health, metrics, status, and who may ask.
//!
//! Issue 2, item 11; names of INTERFACES §4 and §7.

mod support;

use meshwork_core::wire::client::Consistency;
use std::{collections::BTreeMap, sync::Arc};
use support::{
    command::finish,
    http,
    mesh::{Mesh, Plan, Shared},
    process::binary,
    raw,
    wait::{LIMIT, wait_for},
};

static ONE: Shared = Shared::new();

fn one() -> Arc<Mesh> {
    ONE.get(|| Mesh::start(Plan { nodes: 1, ..Plan::default() }))
}

/// The samples of a scrape, by name and labels.
fn scrape(mesh: &Mesh) -> BTreeMap<String, f64> {
    let (code, body) = http::get(mesh.nodes[0].http, "/metrics").unwrap();
    assert_eq!(code, 200, "{body}");
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
    };
    body.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect()
}

/// The sum over all labels of a metric.
fn sum(samples: &BTreeMap<String, f64>, name: &str) -> Option<f64> {
    let of = samples.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
    of.map(|(_, value)| *value).reduce(|a, b| a + b)
}

#[test]
fn a_ready_node_is_live_and_ready() {
    let mesh = one();
    assert_eq!(http::get(mesh.nodes[0].http, "/livez").unwrap().0, 200);
    assert_eq!(http::get(mesh.nodes[0].http, "/readyz").unwrap().0, 200);
    let at = mesh.nodes[0].http.to_string();
    for flags in [&["check", "--local", "--http", &at][..], &["check", "--local", "--live", "--http", &at]] {
        let mut command = binary(mesh.home());
        command.args(flags);
        finish(command, LIMIT).done();
    }
    mesh.cli(&["check"]).done();
}

#[test]
fn a_node_that_waits_for_others_is_live_and_says_why_it_is_not_ready() {
    let mut mesh = Mesh::planned(Plan { nodes: 2, ..Plan::default() });
    mesh.launch(0);
    mesh.nodes[0].becomes("waiting for 1 more");
    let (code, body) = http::get(mesh.nodes[0].http, "/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("waiting for 1 more (bootstrap_expect = 2)"), "{body}");
    assert_eq!(http::get(mesh.nodes[0].http, "/livez").unwrap().0, 200);
    let mut command = binary(mesh.home());
    command.args(["check", "--local", "--http", &mesh.nodes[0].http.to_string()]);
    let checked = finish(command, LIMIT).ended(2);
    assert!(checked.out.contains("CRITICAL") && checked.out.contains("waiting for 1 more"), "{checked:?}");
    // Clients are told the same, and not left to time out without words.
    let read = raw::get(mesh.nodes[0].address, &mesh.client, "k", Consistency::default());
    assert_eq!(read.status, meshwork_core::wire::client::Status::NotReady, "{read:?}");
}

#[test]
fn nobody_on_the_port_is_critical() {
    let home = tempfile::tempdir().unwrap();
    let at = format!("127.0.0.1:{}", support::mesh::tcp_port());
    let mut command = binary(home.path());
    command.args(["check", "--local", "--http", &at]);
    assert!(finish(command, LIMIT).ended(2).out.contains("CRITICAL"));
}

#[test]
fn metrics_are_named_as_ours_and_count_what_happened() {
    let mesh = one();
    mesh.cli(&["set", "counted", "v"]).done();
    // Shards show their figures twice a second.
    let before = wait_for(LIMIT, "the entry to be counted", || {
        let samples = scrape(&mesh);
        if sum(&samples, "meshwork_entries") > Some(0.0) { Ok(samples) } else { Err(format!("{samples:?}")) }
    });
    for (name, _) in before.iter().filter(|(name, _)| !name.starts_with("process_")) {
        assert!(name.starts_with("meshwork_"), "{name}");
    }
    for name in ["meshwork_entries", "meshwork_memory_bytes", "meshwork_memory_limit_bytes", "meshwork_layout_epoch"] {
        assert!(sum(&before, name).is_some_and(|value| value > 0.0), "{name}: {before:?}");
    }
    for _ in 0..5 {
        mesh.cli(&["get", "counted"]).done();
    }
    mesh.cli(&["get", "never-written"]).ended(1);
    wait_for(LIMIT, "the scrape to count", || {
        let after = scrape(&mesh);
        let risen = |name: &str| sum(&after, name).unwrap_or(0.0) - sum(&before, name).unwrap_or(0.0);
        let (requests, lookups) = (risen("meshwork_requests_total"), risen("meshwork_lookups_total"));
        if requests >= 6.0 && lookups >= 6.0 { Ok(()) } else { Err(format!("{requests} requests, {lookups} lookups")) }
    });
    let (_, text) = http::get(mesh.nodes[0].http, "/metrics").unwrap();
    assert!(text.contains("# TYPE meshwork_requests_total counter"), "typed for Prometheus");
    assert!(!text.contains("never-written"), "never keys");
}

#[test]
fn status_is_one_json_object_with_a_version() {
    let mesh = one();
    let status = mesh.nodes[0].status().unwrap();
    assert_eq!(status["schema_version"], 1);
    for key in ["node", "name", "cluster", "state", "ready", "layout", "layout_agreed", "members", "stats"] {
        assert!(status.get(key).is_some(), "{key} is missing: {status}");
    }
    assert_eq!(status["members"][0]["address"], mesh.nodes[0].address.to_string());
    wait_for(LIMIT, "the shards to show their figures", || {
        let stats = mesh.nodes[0].status()?["stats"].clone();
        if stats["memory_limit_bytes"].as_u64() >= Some(60 << 20) { Ok(()) } else { Err(stats.to_string()) }
    });
}

#[test]
fn a_page_of_a_stranger_in_a_browser_cannot_ask() {
    let mesh = one();
    let at = mesh.nodes[0].http;
    for host in ["evil.example", "evil.example:7480", "127.0.0.1.evil.example"] {
        let (code, body) = http::get_as(at, "/v1/status", host).unwrap();
        assert!([400, 403, 421].contains(&code), "{host}: {code} {body}");
        assert!(!body.contains("members"), "{host}: {body}");
    }
    for host in [format!("localhost:{}", at.port()), at.to_string()] {
        assert_eq!(http::get_as(at, "/v1/status", &host).unwrap().0, 200, "{host}");
    }
    assert_eq!(http::get(at, "/no/such/page").unwrap().0, 404);
}

#[test]
fn what_is_not_http_is_turned_away_and_the_node_stays_up() {
    let mesh = one();
    let at = mesh.nodes[0].http;
    for noise in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n", b"*1\r\n$4\r\nPING\r\n"]
    {
        // A reset instead of an answer is fine.
        let _ = http::exchange_closing(at, noise);
    }
    assert_eq!(http::get(at, "/livez").unwrap().0, 200);
}

#[test]
fn an_admin_address_beyond_loopback_is_refused_until_there_are_logins() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    let mut command = mesh.serve(0);
    command.args(["--set", "http.listen=0.0.0.0:7480"]);
    finish(command, LIMIT).ended(2).says(&["http.listen", "loopback", "127.0.0.1:7480"]);
}
