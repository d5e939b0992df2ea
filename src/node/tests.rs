//! Whole nodes in this process, on free loopback ports: they start, find each other, serve, refuse and stop.
//!
//! No sleeps that wait for luck: conditions, with a limit.

mod durable;
mod hits;

use crate::{Config, Node, NodeHandle, StartError, Stopped};
use bytes::{Bytes, BytesMut};
use meshwork_core::{
    id::NamespaceId,
    namespace::{Ack, Namespace},
    wire::{
        client::{Consistency, Op, Reply, ReplyBody, Request, Status, Ttl},
        control::{self, ClientControl, ControlReply},
        frame::{Decoder, FrameType},
        hello::{Hello, HelloReply, PROTOCOL},
        local::{self, LocalSender},
    },
};
use meshwork_transport::{Authority, Endpoint, Identity, Role, TlsFiles, TransportOptions};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster's certificates in a directory of their own.
struct Mint {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Mint {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("test").unwrap();
        authority.write(dir.path()).unwrap();
        authority.issue(Role::Node, "*", 1).unwrap().write(dir.path(), "node").unwrap();
        Self { dir, authority }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn client(&self, role: Role) -> Identity {
        let name = role.as_str();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = self.authority.issue(role, name, 1).unwrap().write(dir.path(), name).unwrap();
        Identity::load(&TlsFiles::new(self.path().join("ca.pem"), cert, key)).unwrap()
    }

    fn config(&self, name: &str, expect: u16, seeds: &[SocketAddr], more: &[&str]) -> Config {
        let file = |name: &str| self.path().join(name).display().to_string();
        let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let mut sets = vec![
            "cluster.name=test".to_owned(),
            format!("cluster.bootstrap_expect={expect}"),
            format!("node.name={name}"),
            "node.zone=z".to_owned(),
            "node.shards=1".to_owned(),
            "memory.limit=64MiB".to_owned(),
            "transport.listen=127.0.0.1:0".to_owned(),
            format!("transport.seeds={}", seeds.join(",")),
            "http.listen=127.0.0.1:0".to_owned(),
            format!("tls.ca={}", file("ca.pem")),
            format!("tls.cert={}", file("node.pem")),
            format!("tls.key={}", file("node.key")),
        ];
        sets.extend(more.iter().map(|set| (*set).to_owned()));
        Config::load(None, [], &sets).unwrap()
    }

    async fn start(&self, name: &str, expect: u16, seeds: &[SocketAddr], more: &[&str]) -> NodeHandle {
        Node::start(self.config(name, expect, seeds, more)).await.unwrap()
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A caller in this process that remembers its replies.
struct Caller {
    sender: Box<dyn LocalSender>,
    replies: Arc<(Mutex<BTreeMap<u64, Bytes>>, Notify)>,
    next: u64,
    namespace: NamespaceId,
}

impl Caller {
    fn open(node: &NodeHandle, shard: u16) -> Self {
        let replies = Arc::new((Mutex::new(BTreeMap::new()), Notify::new()));
        let queue = replies.clone();
        let on_frames = move |frames: Bytes| {
            let mut rest = &frames[..];
            while let Some(frame) = local::next(&mut rest) {
                let (_, id, _) = Decoder::start(frame).unwrap();
                queue.0.lock().unwrap().insert(id, Bytes::copy_from_slice(frame));
            }
            queue.1.notify_one();
        };
        let sender = node.link().open(shard, Arc::new(on_frames));
        Self { sender, replies, next: 1, namespace: NamespaceId::of("default") }
    }

    fn send(&mut self, requests: &[(&[u8], Op<'_>)]) -> Vec<u64> {
        let mut frames = BytesMut::new();
        let mut ids = Vec::new();
        for (key, op) in requests {
            let request = Request { namespace: self.namespace, ..request(self.next, key, *op) };
            local::append_request(&mut frames, None, |buffer| request.encode(buffer));
            ids.push(self.next);
            self.next += 1;
        }
        assert!(self.sender.send(frames.freeze()));
        ids
    }

    async fn reply(&self, id: u64) -> Bytes {
        within("a reply", async {
            loop {
                if let Some(frame) = self.replies.0.lock().unwrap().remove(&id) {
                    return frame;
                }
                self.replies.1.notified().await;
            }
        })
        .await
    }

    async fn call(&mut self, key: &[u8], op: Op<'_>) -> Bytes {
        let ids = self.send(&[(key, op)]);
        self.reply(ids[0]).await
    }
}

fn request<'a>(id: u64, key: &'a [u8], op: Op<'a>) -> Request<'a> {
    let namespace = NamespaceId::of("default");
    Request { id, deadline_ms: 5_000, sent: 0, consistency: Consistency::default(), namespace, key, op }
}

fn put(value: &[u8]) -> Op<'_> {
    Op::Put { value, ttl: Ttl::Default, condition: Default::default() }
}

fn parse(frame: &[u8]) -> Reply<'_> {
    let (frame_type, id, mut decoder) = Decoder::start(frame).unwrap();
    assert_eq!(frame_type, FrameType::Reply);
    Reply::decode(id, &mut decoder).unwrap()
}

#[tokio::test]
async fn one_node_serves_a_caller_in_its_process_and_stops() {
    let mint = Mint::new();
    let node = mint.start("a", 1, &[], &[]).await;
    within("ready", node.ready()).await.unwrap();
    let mut caller = Caller::open(&node, 0);
    assert_eq!(parse(&caller.call(b"k", put(b"v")).await).status, Status::Ok);
    let frame = caller.call(b"k", Op::Get).await;
    assert!(matches!(parse(&frame).body, ReplyBody::Value { value: b"v", .. }), "{:?}", parse(&frame));
    assert_eq!(parse(&caller.call(b"none", Op::Get).await).status, Status::NotFound);
    let routing = node.link().routing().unwrap();
    assert_eq!(routing.members[&node.node()].address, node.addresses().advertise);
    within("stop", node.stop()).await.unwrap();
    assert!(!caller.sender.send(Bytes::new()), "a stopped node takes nothing");
    assert_eq!(node.stopped().await, Stopped::Requested);
}

#[tokio::test]
async fn many_requests_in_one_batch_are_answered_over_several_shards() {
    let mint = Mint::new();
    let node = mint.start("a", 1, &[], &["node.shards=3", "memory.limit=128MiB"]).await;
    within("ready", node.ready()).await.unwrap();
    let mut caller = Caller::open(&node, 1);
    let keys: Vec<String> = (0..300).map(|key| format!("key-{key}")).collect();
    let puts: Vec<_> = keys.iter().map(|key| (key.as_bytes(), put(key.as_bytes()))).collect();
    // The other shards learn of the layout by letters that may arrive after the first request.
    for id in caller.send(&puts) {
        let frame = caller.reply(id).await;
        if parse(&frame).status != Status::Ok {
            let key = &keys[usize::try_from(id - 1).unwrap()];
            assert_eq!(parse(&frame).status, Status::NotReady);
            until("the shard's view", || node.status().ready).await;
            assert_eq!(parse(&caller.call(key.as_bytes(), put(key.as_bytes())).await).status, Status::Ok);
        }
    }
    let gets: Vec<_> = keys.iter().map(|key| (key.as_bytes(), Op::Get)).collect();
    for (id, key) in caller.send(&gets).into_iter().zip(&keys) {
        let frame = caller.reply(id).await;
        assert!(matches!(parse(&frame).body, ReplyBody::Value { value, .. } if value == key.as_bytes()));
    }
    within("stop", node.stop()).await.unwrap();
}

async fn three(mint: &Mint, more: &[&str]) -> Vec<NodeHandle> {
    let first = mint.start("a", 3, &[], more).await;
    let seeds = [first.addresses().listen];
    let second = mint.start("b", 3, &seeds, more).await;
    let third = mint.start("c", 3, &seeds, more).await;
    let nodes = vec![first, second, third];
    for node in &nodes {
        within("ready", node.ready()).await.unwrap();
    }
    nodes
}

#[tokio::test]
async fn three_nodes_form_a_mesh_and_any_of_them_reads_what_another_wrote() {
    let mint = Mint::new();
    let nodes = three(&mint, &[]).await;
    until("one layout", || {
        let layouts: Vec<_> = nodes.iter().map(|node| node.status().layout).collect();
        layouts[0].is_some() && layouts.iter().all(|layout| *layout == layouts[0])
    })
    .await;
    let mut writer = Caller::open(&nodes[0], 0);
    let keys: Vec<String> = (0..50).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        let frame = writer.call(key.as_bytes(), put(key.as_bytes())).await;
        assert_eq!(parse(&frame).status, Status::Ok, "{:?}", parse(&frame));
        assert!(parse(&frame).worth.acks >= 2);
    }
    for node in &nodes[1..] {
        let mut reader = Caller::open(node, 0);
        for key in &keys {
            let frame = reader.call(key.as_bytes(), Op::Get).await;
            assert!(matches!(parse(&frame).body, ReplyBody::Value { value, .. } if value == key.as_bytes()));
        }
    }
    // One leaves; the others go on with two of three.
    within("stop", nodes[2].stop()).await.unwrap();
    for key in &keys {
        let frame = writer.call(key.as_bytes(), put(b"new")).await;
        assert_eq!(parse(&frame).status, Status::Ok, "{:?}", parse(&frame));
    }
    until("the member is down", || {
        nodes[0].status().members.iter().any(|member| member.name == "c" && member.health == "down")
    })
    .await;
    for node in &nodes[..2] {
        within("stop", node.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_file_are_told_before_anything_runs() {
    let mint = Mint::new();
    // An address of its own: the port that it gives back could else be drawn by another test before it is taken again.
    let node = mint.start("a", 1, &[], &["transport.listen=127.0.0.2:0"]).await;
    let listen = node.addresses().listen;
    let taken = Node::start(mint.config("b", 1, &[], &[&format!("transport.listen={listen}")])).await.unwrap_err();
    assert!(taken.to_string().contains(&format!("UDP {listen} is in use")), "{taken}");
    let http = node.addresses().http.unwrap();
    let taken = Node::start(mint.config("b", 1, &[], &[&format!("http.listen={http}")])).await.unwrap_err();
    assert!(matches!(taken, StartError::Http { address, .. } if address == http), "{taken}");
    let bad = Node::start(mint.config("b", 1, &[], &["tls.key=/no/such/file"])).await.unwrap_err();
    assert!(bad.to_string().contains("/no/such/file"), "{bad}");
    let open = Node::start(mint.config("b", 1, &[], &["http.listen=0.0.0.0:0"])).await.unwrap_err();
    assert!(open.to_string().contains("not loopback"), "{open}");
    within("stop", node.stop()).await.unwrap();
    // The port is free again.
    let again = mint.start("b", 1, &[], &[&format!("transport.listen={listen}")]).await;
    within("stop", again.stop()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_waits_for_others_says_so_and_refuses_clients() {
    let mint = Mint::new();
    let node = mint.start("a", 3, &[], &[]).await;
    let mut caller = Caller::open(&node, 0);
    let frame = caller.call(b"k", put(b"v")).await;
    assert_eq!(parse(&frame).status, Status::NotReady, "{:?}", parse(&frame));
    until("words", || node.status().state.contains("waiting for 2 more (bootstrap_expect = 3)")).await;
    let (code, body) = http(&node, "/readyz", "localhost").await;
    assert_eq!(code, 503);
    assert!(body.contains("bootstrap_expect"), "{body}");
    within("stop", node.stop()).await.unwrap();
}

/// A GET over plain TCP: status code and body.
async fn http(node: &NodeHandle, path: &str, host: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = node.addresses().http.unwrap();
    within("an HTTP answer", async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    })
    .await
}

#[tokio::test]
async fn the_admin_endpoint_answers_loopback_names_only() {
    let mint = Mint::new();
    let node = mint.start("a", 1, &[], &[]).await;
    within("ready", node.ready()).await.unwrap();
    assert_eq!(http(&node, "/livez", "localhost").await, (200, "ok\n".to_owned()));
    assert_eq!(http(&node, "/readyz", "127.0.0.1:7480").await.0, 200);
    assert_eq!(http(&node, "/v1/status", "evil.example").await.0, 421);
    let mut caller = Caller::open(&node, 0);
    caller.call(b"k", put(b"v")).await;
    until("the shard's figures", || node.stats().puts == 1).await;
    let (code, metrics) = http(&node, "/metrics", "localhost").await;
    assert_eq!(code, 200);
    assert!(metrics.contains("meshwork_requests_total{op=\"put\",api=\"mesh\"} 1"), "{metrics}");
    assert!(metrics.contains("meshwork_memory_limit_bytes 67108864"), "{metrics}");
    let (code, status) = http(&node, "/v1/status", "localhost").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, &status["state"], &status["cluster"]), (200, &"ready".into(), &"test".into()));
    within("stop", node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_client_over_quic_is_served_and_one_who_breaks_the_rules_is_closed_with_a_reason() {
    let mint = Mint::new();
    let node = mint.start("a", 1, &[], &[]).await;
    within("ready", node.ready()).await.unwrap();
    let identity = mint.client(Role::Client);
    let client = Endpoint::client("127.0.0.1:0".parse().unwrap(), &identity, TransportOptions::default()).unwrap();
    let hello =
        Hello { protocol: PROTOCOL, cluster: identity.cluster_id(), wall: crate::clock::wall(), node: None, shard: 0 };
    let address = node.addresses().listen;
    let mut link = client.dial(address, &hello.to_bytes(), LIMIT).await.unwrap();
    let HelloReply::Welcome(welcome) = HelloReply::from_bytes(&link.hello).unwrap() else { panic!("refused") };
    assert!(welcome.routing.is_some());
    let big = vec![7; 200_000];
    link.link.frame(|buffer| request(1, b"k", put(&big)).encode(buffer)).unwrap();
    link.link.flush();
    let frame = within("a reply", link.small.one()).await.unwrap().unwrap();
    assert_eq!(parse(&frame).status, Status::Ok);
    link.link.frame(|buffer| request(2, b"k", Op::Get).encode(buffer)).unwrap();
    link.link.frame(|buffer| control::encode(buffer, 3, &ClientControl::NamespaceList)).unwrap();
    link.link.flush();
    let frame = within("a large reply", link.bulk.one()).await.unwrap().unwrap();
    assert!(matches!(parse(&frame).body, ReplyBody::Value { value, .. } if value == big));
    let frame = within("a control reply", link.small.one()).await.unwrap().unwrap();
    let (_, id, mut decoder) = Decoder::start(&frame).unwrap();
    let reply: ControlReply = control::decode(id, &mut decoder).unwrap();
    assert!(matches!(reply, ControlReply::Namespaces(all) if all[0].name == "default"));

    // What is no frame, and what only nodes may send.
    let replicated = |buffer: &mut BytesMut| {
        meshwork_core::wire::peer::PeerMessage::Unsupported { id: 1 }.encode(buffer);
        buffer.clear();
        meshwork_core::wire::frame::Encoder::start(buffer, FrameType::Replicated, 1, 0);
    };
    for (words, hostile) in [
        (
            "malformed frame",
            Box::new(|buffer: &mut BytesMut| buffer.extend_from_slice(b"nonsense")) as Box<dyn FnOnce(&mut BytesMut)>,
        ),
        (
            "certificate with the role node",
            Box::new(move |buffer: &mut BytesMut| {
                let mut frame = BytesMut::new();
                replicated(&mut frame);
                buffer.extend_from_slice(&frame);
            }),
        ),
    ] {
        let hostile_link = client.dial(address, &hello.to_bytes(), LIMIT).await.unwrap();
        hostile_link.link.frame(hostile).unwrap();
        hostile_link.link.flush();
        let why = within("the end of the link", hostile_link.link.closed()).await.to_string();
        assert!(why.contains(words), "{why}");
    }
    // A client that says it is a node, and one of another cluster.
    let liar = Hello { node: Some(crate_hello(&welcome.node)), ..hello.clone() };
    let stranger = Hello { cluster: meshwork_core::id::ClusterId(1), ..hello.clone() };
    for (words, hello) in [("certificate is", liar), ("another cluster", stranger)] {
        let refused = client.dial(address, &hello.to_bytes(), LIMIT).await.unwrap();
        let HelloReply::Refused { reason } = HelloReply::from_bytes(&refused.hello).unwrap() else {
            panic!("welcomed")
        };
        assert!(reason.contains(words), "{reason}");
    }
    // The well-behaved link is still served.
    link.link.frame(|buffer| request(9, b"other", Op::Get).encode(buffer)).unwrap();
    link.link.flush();
    let frame = within("a reply", link.small.one()).await.unwrap().unwrap();
    assert_eq!(parse(&frame).status, Status::NotFound);
    within("stop", node.stop()).await.unwrap();
    let why = within("the end of the link", link.link.closed()).await.to_string();
    assert!(why.contains("stopping"), "{why}");
}

fn crate_hello(hello: &meshwork_core::wire::hello::NodeHello) -> meshwork_core::wire::hello::NodeHello {
    let mut hello = hello.clone();
    hello.node = meshwork_core::id::NodeId(9);
    hello
}

#[tokio::test]
async fn a_node_with_a_data_directory_keeps_its_id_and_is_alone_in_it() {
    let mint = Mint::new();
    let home = format!("node.data_dir={}", mint.path().join("home").display());
    let node = mint.start("a", 1, &[], &[&home]).await;
    let id = node.node();
    within("ready", node.ready()).await.unwrap();
    let second = Node::start(mint.config("b", 1, &[], &[&home])).await.unwrap_err();
    assert!(second.to_string().contains("in use by another meshwork process"), "{second}");
    within("stop", node.stop()).await.unwrap();
    drop(node);
    let again = mint.start("a", 1, &[], &[&home]).await;
    assert_eq!(again.node(), id);
    within("stop", again.stop()).await.unwrap();
}

#[tokio::test]
async fn namespaces_of_the_configuration_are_created() {
    let mint = Mint::new();
    let mut config = mint.config("a", 1, &[], &[]);
    config.namespaces.push(meshwork_core::namespace::Namespace::new("users"));
    let node = Node::start(config).await.unwrap();
    within("ready", node.ready()).await.unwrap();
    let mut caller = Caller::open(&node, 0);
    let begun = Instant::now();
    loop {
        let mut frames = BytesMut::new();
        local::append_request(&mut frames, None, |buffer| {
            control::encode(buffer, caller.next, &ClientControl::NamespaceList)
        });
        assert!(caller.sender.send(frames.freeze()));
        let frame = caller.reply(caller.next).await;
        caller.next += 1;
        let (_, id, mut decoder) = Decoder::start(&frame).unwrap();
        let reply: ControlReply = control::decode(id, &mut decoder).unwrap();
        if matches!(&reply, ControlReply::Namespaces(all) if all.iter().any(|one| one.name == "users")) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{reply:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    within("stop", node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_thread_that_panics_stops_the_whole_node_and_its_handle_says_so() {
    let mint = Mint::new();
    let node = mint.start("a", 1, &[], &["node.shards=2"]).await;
    within("ready", node.ready()).await.unwrap();
    node.shared.tell(1, crate::letter::Letter::Panic);
    let why = within("the end", node.stopped()).await;
    assert!(matches!(&why, Stopped::Panicked { thread, .. } if thread == "shard 1"), "{why}");
    assert_eq!(node.stop().await, Err(why.clone()));
    assert_eq!(node.ready().await, Err(why));
}
