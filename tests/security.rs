//! Who is let in: authorities, clusters, roles, validity, key exchange; and the log line that names why not.
//!
//! Issue 2, item 5: no plaintext, mutual TLS 1.3. The refused side learns a reason too, and nobody else is disturbed.
//! The transport's own tests cover each verifier; here the whole process refuses.

mod support;

use bytes::BytesMut;
use meshwork_core::{
    id::{ActorId, ClusterId, KeyHasher, NamespaceId, NodeId},
    value::{Body, Entry, Hlc, Version},
    wire::{
        client::Consistency,
        hello::NodeHello,
        peer::{Header, KeyRef, PeerMessage, ReplicationKind},
    },
};
use meshwork_transport::{Authority, Role};
use quinn::rustls::crypto::aws_lc_rs::kx_group::X25519;
use std::sync::Arc;
use support::{
    command::finish,
    forged,
    mesh::{CLUSTER, Mesh, Papers, Plan, Shared},
    raw::{self, Raw},
    wait::{LIMIT, run},
};

static ONE: Shared = Shared::new();

fn one() -> Arc<Mesh> {
    ONE.get(|| Mesh::start(Plan { nodes: 1, ..Plan::default() }))
}

/// Why the node refuses these papers, as the refused side learns it.
fn refused(mesh: &Mesh, papers: &Papers) -> String {
    run("a refusal", async {
        match raw::dial(mesh.nodes[0].address, papers).await {
            Ok((_endpoint, connection)) => raw::end_of(&connection).await,
            Err(error) => error,
        }
    })
}

/// The node still serves those who may.
fn serves(mesh: &Mesh) {
    mesh.cli(&["set", "still", "here"]).done();
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let mesh = one();
    let place = mesh.home().join("foreign");
    std::fs::create_dir_all(&place).unwrap();
    let foreign = Authority::new(CLUSTER).unwrap();
    foreign.write(&place).unwrap();
    let papers = Papers::write(&place, "app", &foreign.issue(Role::Client, "foreign-app", 30).unwrap());
    let told = refused(&mesh, &papers);
    assert!(told.contains("authority"), "{told}");
    mesh.nodes[0].says(&["refused", "unknown authority"]);
    // The other way round: a client does not talk to a node of an authority it does not have.
    let ran = finish(mesh.command(&mesh.seeds(), &papers, &["get", "x"]), LIMIT);
    assert!([4, 5].contains(&ran.code()), "{ran:?}");
    ran.says(&["authority"]);
    serves(&mesh);
}

#[test]
fn a_certificate_of_another_cluster_is_refused() {
    let mesh = one();
    let pair = forged::pair(&mesh.pki(), "elsewhere", Role::Client, "app");
    let told = refused(&mesh, &Papers::write(&mesh.pki(), "elsewhere", &pair));
    assert!(told.contains("elsewhere") && told.contains(CLUSTER), "{told}");
    mesh.nodes[0].says(&["refused", "is of cluster", "elsewhere"]);
    serves(&mesh);
}

#[test]
fn a_node_of_another_authority_or_cluster_does_not_join_and_both_sides_say_why() {
    let mut mesh = Mesh::start(Plan { nodes: 1, ..Plan::default() });
    mesh.cli(&["set", "k", "v"]).done();
    let before = mesh.nodes[0].status().unwrap();
    let place = mesh.home().join("theirs");
    std::fs::create_dir_all(&place).unwrap();
    // Of the same name: a second `cert init` where the first authority's files should have been copied.
    let theirs = Authority::new(CLUSTER).unwrap();
    theirs.write(&place).unwrap();
    let papers = Papers::write(&place, "node", &theirs.issue(Role::Node, "*", 30).unwrap());
    let stranger = mesh.add("stranger");
    let mut command = mesh.serve(stranger);
    command.args(["--set", "cluster.bootstrap_expect=2"]);
    for (name, file) in [("ca", &papers.ca), ("cert", &papers.cert), ("key", &papers.key)] {
        command.arg("--set").arg(format!("tls.{name}={}", file.display()));
    }
    mesh.launch_as(stranger, command);
    mesh.nodes[stranger].says(&["WARN", "authority"]);
    mesh.nodes[0].says(&["refused", "authority"]);
    assert_ne!(mesh.nodes[stranger].state().unwrap(), "ready", "it is alone and waits for those that it was told of");
    // Of our authority, and of another cluster: it does not even start.
    let elsewhere = Papers::write(&mesh.pki(), "other", &forged::pair(&mesh.pki(), "elsewhere", Role::Node, "*"));
    let mut command = mesh.serve(stranger);
    command.arg("--set").arg(format!("tls.cert={}", elsewhere.cert.display()));
    command.arg("--set").arg(format!("tls.key={}", elsewhere.key.display()));
    finish(command, LIMIT).ended(2).says(&["cluster.name", "elsewhere"]);
    let after = mesh.nodes[0].status().unwrap();
    assert_eq!((&after["members"], &after["layout"]), (&before["members"], &before["layout"]));
    assert_eq!(mesh.cli_at(0, &["get", "k"]).done().out.trim_end(), "v");
}

#[test]
fn an_expired_certificate_is_refused() {
    let mesh = one();
    let authority = Authority::load(&mesh.pki()).unwrap();
    let papers = Papers::write(&mesh.pki(), "late", &authority.issue(Role::Client, "late", -1).unwrap());
    let told = refused(&mesh, &papers);
    assert!(told.contains("expired"), "{told}");
    mesh.nodes[0].says(&["refused", "expired"]);
    // The command line does not even try.
    finish(mesh.command(&mesh.seeds(), &papers, &["get", "x"]), LIMIT).says(&["late.pem", "expired"]);
    serves(&mesh);
}

#[test]
fn a_clients_certificate_does_not_make_a_node() {
    let mesh = one();
    let mut hello = raw::hello(&mesh.client);
    hello.node = Some(NodeHello {
        node: NodeId(7),
        incarnation: Hlc(u64::MAX >> 1),
        name: "impostor".to_owned(),
        zone: "z".to_owned(),
        address: "127.0.0.1:9".parse().unwrap(),
        shards: 1,
    });
    let bytes = hello.to_bytes();
    let told = run("a refusal", async { Raw::open_saying(mesh.nodes[0].address, &mesh.client, &bytes).await.err() });
    let told = told.expect("an impostor is not welcome");
    assert!(told.contains("client") && told.contains("node"), "{told}");
    mesh.nodes[0].says(&["refused", "client"]);
    let status = mesh.nodes[0].status().unwrap().to_string();
    assert!(!status.contains("impostor"), "{status}");
    serves(&mesh);
}

#[test]
fn a_client_may_not_speak_as_a_node_and_writes_nothing_by_trying() {
    let mesh = one();
    mesh.cli(&["set", "guarded", "good"]).done();
    let told = run("a refusal", async {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.unwrap();
        let routing = link.welcome.routing.clone().expect("the node is ready");
        let namespace = NamespaceId::of("default");
        let hash = KeyHasher::new(routing.cluster).hash(namespace, b"guarded");
        // A version a little ahead of now, so that it would win if it were believed.
        let hlc = Hlc((link.welcome.wall.0 + 100) << 16);
        let version = Version { hlc, actor: ActorId(1) };
        let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(b"evil") };
        let header = Header { layout: routing.layout.name(), hlc, deadline_ms: 1000 };
        let key = KeyRef { namespace, hash, key: b"guarded" };
        let mut frame = BytesMut::new();
        let kind = ReplicationKind::Client;
        PeerMessage::Replicate { id: 5, header, key, entry, stands_for: None, kind }.encode(&mut frame);
        link.send(&frame).await.unwrap();
        // A refusing frame or a closed connection; never an answer to the read.
        match link.frame().await {
            Ok(frame) => format!("frame of type {}", frame[1]),
            Err(_) => raw::end_of(&link.connection).await,
        }
    });
    assert!(told != "frame of type 17", "a Replicated to a client");
    assert!(told.contains("node") || told.contains("client") || told.contains("type 63"), "{told}");
    assert_eq!(mesh.cli(&["get", "guarded"]).done().out.trim_end(), "good");
}

#[test]
fn a_client_may_not_change_the_cluster_but_an_admin_may() {
    let mesh = one();
    mesh.cli(&["namespace", "create", "mine"]).ended(5).says(&["admin"]);
    let listed = mesh.cli(&["namespace", "list", "-o", "json"]).done();
    assert!(!listed.out.contains("\"mine\""), "{}", listed.out);
    mesh.admin(&["namespace", "create", "ours"]).done();
    assert!(mesh.cli(&["namespace", "list", "-o", "json"]).done().out.contains("\"ours\""));
}

#[test]
fn a_hello_of_another_cluster_or_protocol_is_refused_with_words() {
    let mesh = one();
    let good = raw::hello(&mesh.client);
    let mut other = good.clone();
    other.cluster = ClusterId(good.cluster.0 ^ 1);
    let mut newer = good.clone();
    newer.protocol = 99;
    for (hello, word) in [(other, "cluster"), (newer, "99")] {
        let bytes = hello.to_bytes();
        let told =
            run("a refusal", async { Raw::open_saying(mesh.nodes[0].address, &mesh.client, &bytes).await.err() });
        let told = told.expect("not welcome");
        assert!(told.contains(word), "{told}");
    }
    serves(&mesh);
}

#[test]
fn post_quantum_required_means_no_link_without_it() {
    let sets = vec!["tls.pq=required"];
    let mesh = Mesh::start(Plan { nodes: 2, sets, ..Plan::default() });
    mesh.cli_at(0, &["set", "k", "v"]).done();
    assert_eq!(mesh.cli_at(1, &["get", "k"]).done().out.trim_end(), "v");
    let told = run("a refusal", async {
        match raw::dial_with(mesh.nodes[0].address, &mesh.client, &[X25519]).await {
            Ok((_endpoint, connection)) => raw::end_of(&connection).await,
            Err(error) => error,
        }
    });
    assert!(!told.is_empty());
    mesh.nodes[0].says(&["refused", "key exchange"]);
    let read = raw::get(mesh.nodes[0].address, &mesh.client, "k", Consistency::default());
    assert_eq!(read.value.as_deref(), Some(&b"v"[..]), "who offers X25519MLKEM768 is served");
}

#[test]
fn a_node_does_not_start_with_papers_that_cannot_work() {
    let mesh = Mesh::planned(Plan { nodes: 1, ..Plan::default() });
    let authority = Authority::load(&mesh.pki()).unwrap();
    let expired = Papers::write(&mesh.pki(), "old", &authority.issue(Role::Node, "*", -3).unwrap());
    let named = Papers::write(&mesh.pki(), "named", &authority.issue(Role::Node, "somebody", 30).unwrap());
    for (papers, words) in [
        (&expired, &["old.pem", "expired"][..]),
        (&mesh.client, &["client", "meshwork cert node"]),
        (&named, &["somebody", "node.name"]),
    ] {
        let mut command = mesh.serve(0);
        command.arg("--set").arg(format!("tls.cert={}", papers.cert.display()));
        command.arg("--set").arg(format!("tls.key={}", papers.key.display()));
        finish(command, LIMIT).ended(2).says(words);
    }
    let mut command = mesh.serve(0);
    command.arg("--set").arg(format!("tls.key={}", expired.key.display()));
    finish(command, LIMIT).ended(2).says(&["does not belong to the certificate"]);
}
