//! The command line as people and scripts meet it: exit codes, JSON, files, words for what was wrong.
//!
//! Issue 2, items 7 and 8, "Bad input, everywhere", "Done means"; exit codes of INTERFACES §2. What needs no mesh comes
//! first, then what shares one, then `dev`.

mod support;

use serde_json::Value;
use std::{net::UdpSocket, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use support::{
    command::{Ran, alone, finish, finish_with},
    mesh::{Mesh, Plan, Shared},
    process::{Process, binary},
    wait::{LIMIT, wait_for},
};

static ONE: Shared = Shared::new();

fn one() -> Arc<Mesh> {
    ONE.get(|| Mesh::start(Plan { nodes: 1, ..Plan::default() }))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn usage_errors_exit_2_and_help_and_version_exit_0() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    alone(home, &["--help"]).done();
    let version = alone(home, &["version", "-o", "json"]).done().json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
    alone(home, &["stauts"]).ended(2).says(&["status"]);
    alone(home, &["bench", "--writes", "101"]).ended(2).says(&["100"]);
    alone(home, &["bench", "--like", "twitter:cluster5"]).ended(2).says(&["cluster52"]);
    alone(home, &["get", "k", "--consistency", "r=0"]).ended(2).says(&["r=1"]);
    alone(home, &["set", "k", "v", "--ttl", "0s"]).ended(2).says(&["above zero"]);
    alone(home, &["set", "k", "v", "--ttl", "900000d"]).ended(2).says(&["2500"]);
    alone(home, &["get", "k"]).ended(2).says(&["--seeds", "meshwork dev"]);
}

#[test]
fn certificates_are_made_with_modes_that_keep_secrets_and_never_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    alone(home, &["cert", "init", "--cluster", "prod", "--dir", "pki"]).done();
    alone(home, &["cert", "node", "*", "--dir", "pki"]).done();
    alone(home, &["cert", "node", "mesh-0", "--dir", "pki"]).done();
    let made = alone(home, &["cert", "client", "app", "--dir", "pki", "--out", "app", "-o", "json"]).done().json();
    assert_eq!(made["identity"], "meshwork://prod/client/app", "{made}");
    for secret in ["pki/ca.key", "pki/node.key", "pki/mesh-0.key", "app/app.key"] {
        assert_eq!(mode(&home.join(secret)), 0o600, "{secret}");
    }
    for public in ["pki/ca.pem", "pki/node.pem", "pki/mesh-0.pem", "app/app.pem"] {
        assert_eq!(mode(&home.join(public)) & 0o444, 0o444 & mode(&home.join(public)), "{public}");
        assert!(std::fs::read_to_string(home.join(public)).unwrap().starts_with("-----BEGIN CERTIFICATE"), "{public}");
    }
    let shown = alone(home, &["cert", "show", "pki/mesh-0.pem", "-o", "json"]).done().json();
    assert_eq!((&shown["role"], &shown["name"]), (&"node".into(), &"mesh-0".into()), "{shown}");
    let key = std::fs::read(home.join("pki/ca.key")).unwrap();
    alone(home, &["cert", "init", "--cluster", "prod", "--dir", "pki"]).ended(5).says(&["exists", "ca.key"]);
    alone(home, &["cert", "node", "mesh-0", "--dir", "pki"]).ended(5).says(&["exists"]);
    assert_eq!(std::fs::read(home.join("pki/ca.key")).unwrap(), key);
    alone(home, &["cert", "client", "bad name", "--dir", "pki"]).ended(2).says(&["letters"]);
    alone(home, &["cert", "client", "app", "--dir", "nowhere"]).ended(1).says(&["nowhere", "cert init"]);
}

#[test]
fn a_configuration_with_a_typo_is_named_with_line_and_nearest_name() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    drop(mesh.serve(0));
    let good = std::fs::read_to_string(&mesh.nodes[0].config).unwrap();
    let check = |text: &str| {
        std::fs::write(mesh.home().join("probe.toml"), text).unwrap();
        alone(mesh.home(), &["config", "check", "--config", "probe.toml"])
    };
    check(&good).done();
    let line = 1 + good.lines().position(|line| line.starts_with("bootstrap_expect")).unwrap();
    let typo = good.replace("bootstrap_expect", "bootstrap_expct");
    check(&typo).ended(2).says(&[
        &format!("probe.toml:{line}"),
        "bootstrap_expct",
        "did you mean cluster.bootstrap_expect",
    ]);
    check(&good.replace("[memory]", "[memry]")).ended(2).says(&["memry", "memory"]);
    check(&good.replace("shards = 1", "shards = 0")).ended(2).says(&["node.shards = 0", "1 to 64"]);
    check(&good.replace("shards = 1", "weight = 0")).ended(2).says(&["node.weight = 0", "1 to 1000"]);
    check(&good.replace("limit = \"64MiB\"", "limit = \"lots\"")).ended(2).says(&["memory.limit", "256MiB"]);
    check(&good.replace("limit = \"64MiB\"", "limit = \"1MiB\"")).ended(2).says(&["memory.limit", "16MiB"]);
    check(&good.replace("name = \"e2e\"", "name = \"other\"")).ended(2).says(&["cluster.name", "e2e"]);
    check(&good.replace("ca.pem", "missing.pem")).ended(2).says(&["missing.pem"]);
    check(&good.replace("listen = \"127.0.0.1:", "listen = \"somewhere:")).ended(2).says(&["listen", "IP address"]);
    check(&format!("{good}[[namespace]]\nname = \"users\"\nw = 4\n")).ended(2).says(&["w = 4", "between 1 and 3"]);
    check(&format!("{good}[[namespace]]\nname = \"users\"\nr = 0\n")).ended(2).says(&["r = 0"]);
    check("[cluster\n").ended(2).says(&["probe.toml:1", "TOML"]);
    // The same words from the program that would have to run with it.
    let serve = alone(mesh.home(), &["serve", "--config", "probe.toml"]);
    serve.ended(2).says(&["probe.toml:1", "TOML"]);
    alone(mesh.home(), &["serve", "--config", "none.toml"]).ended(2).says(&["none.toml"]);
}

#[test]
fn settings_come_from_flag_then_environment_then_file_then_default_and_say_so() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    drop(mesh.serve(0));
    let mut command = binary(mesh.home());
    command.env("MESHWORK_NODE__WEIGHT", "70").env("MESHWORK_MEMORY__LIMIT", "48MiB");
    command.args(["config", "show", "--origin", "-o", "json", "--set", "memory.limit=32MiB", "--config"]);
    command.arg(&mesh.nodes[0].config);
    let shown = finish(command, LIMIT).done().json();
    let of = |name: &str| {
        let all = shown.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {shown}")).clone()
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    assert!(text(&of("memory.limit")["value"]).contains("32MiB") && of("memory.limit")["origin"] == "--set");
    assert!(text(&of("node.weight")["value"]).contains("70") && of("node.weight")["origin"] == "MESHWORK_NODE__WEIGHT");
    assert!(of("node.name")["origin"].as_str().unwrap().contains(".toml:"), "{shown}");
    assert_eq!(of("cluster.partitions")["origin"], "default");
    let init = alone(mesh.home(), &["config", "init"]).done().out;
    assert!(init.contains("[cluster]") && init.contains("bootstrap_expect"), "{init}");
}

#[test]
fn a_port_in_use_ends_serve_with_the_address_and_what_to_do() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    let holder = UdpSocket::bind(mesh.nodes[0].address).unwrap();
    let ran = finish(mesh.serve(0), LIMIT).ended(1);
    ran.says(&[&mesh.nodes[0].address.to_string(), "in use", "transport.listen"]);
    drop(holder);
    let holder = std::net::TcpListener::bind(mesh.nodes[0].http).unwrap();
    finish(mesh.serve(0), LIMIT).ended(1).says(&[&mesh.nodes[0].http.to_string(), "http.listen"]);
    drop(holder);
}

#[test]
fn two_processes_cannot_share_a_data_directory() {
    let mut mesh = Mesh::planned(Plan { nodes: 1, kept: true, ..Plan::default() });
    mesh.launch(0);
    mesh.settle();
    let twin = mesh.add("node-0");
    finish(mesh.serve(twin), LIMIT).ended(1).says(&["in use", "data_dir"]);
}

#[test]
fn a_mesh_that_is_not_there_is_unreachable_within_the_deadline() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    mesh.cli(&["get", "k", "--deadline", "1s"]).ended(4).says(&[&mesh.nodes[0].address.to_string()]);
    mesh.cli(&["status", "--deadline", "1s", "-o", "json"]).ended(4);
    let dns = mesh.command("no-such-host.invalid:7400", &mesh.client, &["get", "k", "--deadline", "1s"]);
    finish(dns, LIMIT).ended(4).says(&["no-such-host.invalid"]);
}

#[test]
fn values_go_in_and_out_unchanged_and_a_missing_one_exits_1() {
    let mesh = one();
    mesh.cli(&["set", "word", "hello"]).done();
    assert_eq!(mesh.cli(&["get", "word"]).done().out, "hello", "off a terminal nothing is added");
    let raw: Vec<u8> = (0u8..=127).cycle().take(70_000).collect();
    let set = mesh.command(&mesh.seeds(), &mesh.client, &["set", "bytes", "-"]);
    finish_with(set, &raw, LIMIT).done();
    assert_eq!(mesh.cli(&["get", "bytes"]).done().out.as_bytes(), raw);
    let json = mesh.cli(&["get", "word", "-o", "json"]).done().json();
    assert_eq!(json["value"], "hello", "{json}");
    mesh.cli(&["get", "missing"]).ended(1);
    mesh.cli(&["set", "word", "other", "--if-absent"]).ended(5).says(&["has a value already"]);
    assert_eq!(mesh.cli(&["get", "word"]).done().out, "hello");
    mesh.cli(&["touch", "word", "1h"]).done();
    mesh.cli(&["touch", "missing", "1h"]).ended(1);
    mesh.cli(&["del", "word"]).done();
    mesh.cli(&["get", "word"]).ended(1);
    mesh.cli(&["set", "brief", "v", "--ttl", "300ms"]).done();
    wait_for(LIMIT, "the entry to expire", || match mesh.cli(&["get", "brief"]).code() {
        1 => Ok(()),
        code => Err(format!("exit {code}")),
    });
}

#[test]
fn bad_input_is_refused_with_what_was_wrong_and_changes_nothing() {
    let mesh = one();
    let refused = |arguments: &[&str], words: &[&str]| {
        let ran: Ran = mesh.cli(arguments);
        assert!([1, 2, 5].contains(&ran.code()), "{arguments:?}: {ran:?}");
        ran.says(words);
    };
    refused(&["set", "", "v"], &["key", "1024"]);
    refused(&["get", &"k".repeat(1025)], &["key", "1024"]);
    let set = mesh.command(&mesh.seeds(), &mesh.client, &["set", "large", "-"]);
    let ran = finish_with(set, &vec![b'x'; (1 << 20) + 1], LIMIT);
    assert!(ran.code() != 0, "{ran:?}");
    ran.says(&["1048576"]);
    refused(&["set", "k", "v", "--consistency", "w=7"], &["7"]);
    refused(&["set", "k", "v", "-n", "nowhere"], &["nowhere"]);
    refused(&["get", "k", "-n", "nowhere"], &["nowhere"]);
    let narrow = mesh.admin(&["namespace", "create", "bad", "-n", "2", "-w", "3"]);
    assert!(narrow.code() != 0, "{narrow:?}");
    narrow.says(&["w"]);
    let zero = mesh.admin(&["namespace", "create", "bad", "-r", "0"]);
    assert!(zero.code() != 0, "{zero:?}");
    mesh.cli(&["namespace", "show", "bad"]).ended(1);
    mesh.admin(&["namespace", "flush", "nowhere"]).ended(2).says(&["nowhere", "namespace list"]);
    mesh.admin(&["namespace", "delete", "default"]).ended(2).says(&["default", "flush it"]);
    let denied = mesh.cli(&["namespace", "flush", "default"]);
    assert!(denied.code() != 0, "{denied:?}");
    denied.says(&["admin", "meshwork cert"]);
    for key in ["large", "k"] {
        mesh.cli(&["get", key]).ended(1);
    }
}

#[test]
fn every_answer_for_a_program_is_json() {
    let mesh = one();
    mesh.cli(&["set", "k", "v"]).done();
    for line in [
        "status",
        "ring show",
        "ring owners k",
        "namespace list",
        "namespace show default",
        "get k",
        "set k v",
        "del k",
        "check",
        "version",
        "config init",
        "context ls",
    ] {
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend(["-o", "json"]);
        let ran = mesh.cli(&arguments).done();
        assert!(ran.json().is_object() || ran.json().is_array(), "{line}");
        assert!(ran.out.ends_with('\n'), "{line}: ends its line");
        // For people: something, and no JSON.
        let human = mesh.cli(&line.split(' ').collect::<Vec<_>>());
        assert!(!human.out.starts_with('{'), "{line}: {}", human.out);
    }
    let failed = mesh.cli(&["get", "k", "-n", "nowhere", "-o", "json"]);
    let error: Value = serde_json::from_str(failed.err.trim()).unwrap_or_else(|e| panic!("{e}: {failed:?}"));
    assert!(error["error"].as_str().unwrap().contains("nowhere"), "{error}");
}

#[test]
fn a_report_has_the_keys_that_scripts_read() {
    let mesh = one();
    let run = |extra: &[&str]| {
        let mut arguments = vec!["bench", "--seconds", "1", "--warmup", "0", "--keys", "500", "-o", "json"];
        arguments.extend(extra);
        mesh.cli(&arguments).done().json()
    };
    let keys =
        ["ops_per_s", "p50_us", "p99_us", "p999_us", "max_us", "hit_ratio", "errors", "errors_by_kind", "retries"];
    let closed = run(&["--in-flight", "8", "--zipf", "1.1", "--value-size", "50", "--ttl", "1m"]);
    let open = run(&["--rate", "300", "--workload", "b"]);
    let two = run(&["--clients", "2", "--workload", "a", "--consistency", "r=1,w=1"]);
    for report in [&closed, &open, &two] {
        for key in keys {
            assert!(report.get(key).is_some(), "{key} is missing: {report}");
        }
        assert_eq!(report["errors"], 0, "{report}");
        assert!(report["errors"].is_u64() && report["errors_by_kind"].is_object() && report["retries"].is_u64());
        assert!(report["ops_per_s"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["p50_us"].as_f64().unwrap() <= report["max_us"].as_f64().unwrap(), "{report}");
        let hits = report["hit_ratio"].as_f64().unwrap();
        assert!((0.99..=1.0).contains(&hits), "all keys were loaded: {report}");
    }
}

#[test]
fn dev_runs_a_command_against_a_mesh_and_ends_with_its_status() {
    let home = tempfile::tempdir().unwrap();
    let dev = |command: &[&str]| {
        let mut all = vec!["dev", "--no-context", "--memory", "32MiB", "--"];
        all.extend(command);
        let mut dev = binary(home.path());
        dev.args(all);
        finish(dev, LIMIT)
    };
    let script = "echo \"seeds=$MESHWORK_SEEDS\"; test -r \"$MESHWORK_CA\" && test -r \"$MESHWORK_CERT\" && \
                  test -r \"$MESHWORK_KEY\" && meshwork set x from-dev && meshwork get x && exit 7";
    let ran = dev(&["sh", "-c", script]).ended(7);
    let (seeds, value) = ran.out.split_once('\n').expect("two lines");
    assert_eq!(seeds.strip_prefix("seeds=").unwrap().split(',').count(), 3, "three nodes: {seeds}");
    assert!(value.ends_with("from-dev"), "only the command speaks on stdout: {ran:?}");
    dev(&["sh", "-c", "kill -9 $$"]).ended(128 + 9);
    dev(&["no-such-program"]).ended(127).says(&["no-such-program"]);
    assert!(!home.path().join(".config").exists(), "--no-context leaves nothing behind");
}

/// "Done means", shortened.
#[test]
fn dev_with_a_twitter_load_ends_without_errors() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = binary(home.path());
    dev.args([
        "dev",
        "--no-context",
        "--",
        "meshwork",
        "bench",
        "--like",
        "twitter:cluster52",
        "--seconds",
        "3",
        "-o",
        "json",
    ]);
    let report = finish(dev, Duration::from_secs(90)).done().json();
    assert_eq!(report["errors"], 0, "{report}");
    let ratio = report["hit_ratio"].as_f64().unwrap();
    assert!(ratio > 0.0 && ratio < 1.0, "a cache that is filled on a miss has both: {report}");
    assert!(report["fills"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_second_terminal_needs_no_settings_while_dev_runs() {
    let home = tempfile::tempdir().unwrap();
    let mut command = binary(home.path());
    command.args(["dev", "--memory", "32MiB", "--nodes", "2"]);
    let mut dev = Process::start("dev", command, home.path().join("dev.log"));
    wait_for(LIMIT, "dev to be ready", || {
        assert!(dev.ended().is_none(), "{}", dev.said());
        let ran = alone(home.path(), &["set", "x", "y", "--deadline", "1s"]);
        if ran.code() == 0 { Ok(()) } else { Err(ran.err) }
    });
    assert_eq!(alone(home.path(), &["get", "x"]).done().out, "y");
    let listed = alone(home.path(), &["context", "ls", "-o", "json"]).done().json();
    assert!(listed.as_array().unwrap().iter().any(|one| one["name"] == "dev" && one["current"] == true), "{listed}");
    let contexts = home.path().join(".config/meshwork/contexts.toml");
    assert_eq!(mode(&contexts), 0o600);
    dev.signal(libc::SIGTERM);
    let status = dev.wait(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", dev.said());
    alone(home.path(), &["get", "x"]).ended(2).says(&["meshwork dev"]);
}
