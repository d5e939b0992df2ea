//! A mesh for tests: fake nodes that speak the real protocol over real links and keep entries in one map, with faults
//! that a test turns on per node. Not a node: no quorums, no versions beyond a counter, no expiry.

use crate::{Builder, Mesh, Profile, Tls};
use bytes::{Bytes, BytesMut};
use meshwork_core::{
    id::{ActorId, KeyHash, NamespaceId, NodeId},
    ring::{Layout, LayoutMember},
    time::Wall,
    value::{Body as Value, Entry, Hlc, Version},
    wire::{
        Condition, Consistency, FrameType, Op, Reply, ReplyBody, Request, Status, Worth,
        control::{self, ClientControl, ControlReply},
        frame::Decoder,
        hello::{Hello, HelloReply, NodeHello, PROTOCOL, Place, Routing, Welcome},
        local::{self, LocalLink, LocalSender, OnFrames},
    },
};
use meshwork_transport::{Authority, Endpoint, Established, Identity, Link, PemPair, Role, TlsFiles, TransportOptions};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// What a fake node does wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Takes requests and applies them, and never answers.
    Mute,
    /// Answers every request with this.
    Always(Status, bool),
    /// Answers so many requests with this, then behaves.
    First(u32, Status, bool),
    /// Sends bytes that are no frame.
    Garbage,
    /// Applies, then closes the link instead of answering.
    Close,
}

/// What all nodes of a fake mesh share.
pub(crate) struct Store {
    entries: Mutex<HashMap<Vec<u8>, (Version, Bytes)>>,
    writes: AtomicU64,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), writes: AtomicU64::new(0) })
    }

    /// Writes that were applied.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn serve(&self, request: &Request<'_>, out: &mut BytesMut) {
        let mut entries = self.entries.lock().unwrap();
        let found = entries.get(request.key).cloned();
        let worth = Worth { acks: 1, epoch: 1, ..Worth::default() };
        let mut reply = |status, body| Reply { id: request.id, status, maybe_applied: false, worth, body }.encode(out);
        let met = |condition| match (condition, &found) {
            (Condition::Always, _) | (Condition::IfAbsent, None) => true,
            (Condition::IfVersion(version), Some((there, _))) => version == *there,
            (Condition::IfAbsent, Some(_)) | (Condition::IfVersion(_), None) => false,
        };
        let mut conflict = || match &found {
            Some((version, _)) => reply(Status::Conflict, ReplyBody::Written { version: *version }),
            None => reply(Status::Conflict, ReplyBody::Empty),
        };
        match request.op {
            Op::Get => match &found {
                Some((version, value)) => {
                    reply(Status::Ok, ReplyBody::Value { version: *version, expires_at: None, value })
                }
                None => reply(Status::NotFound, ReplyBody::Empty),
            },
            Op::Put { condition, .. } | Op::Delete { condition } if !met(condition) => conflict(),
            Op::Put { value, .. } => {
                let version = Version { hlc: Hlc(self.writes.fetch_add(1, Ordering::SeqCst) + 1), actor: ActorId(1) };
                entries.insert(request.key.to_vec(), (version, Bytes::copy_from_slice(value)));
                reply(Status::Ok, ReplyBody::Written { version });
            }
            Op::Delete { .. } => {
                entries.remove(request.key);
                reply(Status::Ok, ReplyBody::Empty);
            }
            Op::Inspect => reply(Status::Unsupported, ReplyBody::Empty),
            Op::Touch { .. } => {
                reply(if found.is_some() { Status::Ok } else { Status::NotFound }, ReplyBody::Empty);
            }
        }
    }
}

/// One fake node of one shard.
pub(crate) struct FakeNode {
    pub(crate) address: SocketAddr,
    fault: Mutex<Fault>,
    pub(crate) requests: AtomicU64,
    /// Batches in which requests came.
    pub(crate) batches: AtomicU64,
    links: Mutex<Vec<Link>>,
    endpoint: Endpoint,
}

impl FakeNode {
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Ends all links, as a node that stops does.
    pub(crate) fn drop_links(&self) {
        self.links.lock().unwrap().drain(..).for_each(|link| link.close(9, "the test says so"));
    }

    /// Closes the node's socket for good.
    pub(crate) fn stop(&self) {
        self.drop_links();
        self.endpoint.close(9, "stopped");
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Fake nodes with one store, and what a client needs to reach them.
pub(crate) struct FakeMesh {
    pub(crate) nodes: Vec<Arc<FakeNode>>,
    pub(crate) store: Arc<Store>,
    pub(crate) authority: Authority,
}

pub(crate) fn identity(authority: &Authority, pair: &PemPair) -> Identity {
    let names = TlsFiles::new("ca", "cert", "key");
    let (ca, cert, key) = (authority.pem(), &pair.cert, &pair.key);
    Identity::from_pem(&names, ca.as_bytes(), cert.as_bytes(), key.as_bytes(), SystemTime::now()).unwrap()
}

fn routing(cluster: meshwork_core::id::ClusterId, addresses: &[SocketAddr]) -> Routing {
    let node = |index: usize| NodeId(index as u128 + 1);
    let members = (0..addresses.len())
        .map(|index| LayoutMember { node: node(index), token_id: node(index), zone: "z".to_owned(), weight: 100 })
        .collect();
    let layout = Layout { epoch: 1, n: 3, partitions: 64, members };
    let place = |(index, address): (usize, &SocketAddr)| {
        (node(index), Place { address: *address, shards: 1, zone: "z".to_owned(), up: true })
    };
    Routing { cluster, layout, members: addresses.iter().enumerate().map(place).collect::<BTreeMap<_, _>>() }
}

impl FakeMesh {
    /// Starts `count` nodes on loopback.
    pub(crate) async fn start(count: usize) -> Self {
        let authority = Authority::new("test").unwrap();
        let identity = identity(&authority, &authority.issue(Role::Node, "*", 1).unwrap());
        let endpoints: Vec<Endpoint> = (0..count)
            .map(|_| Endpoint::server(([127, 0, 0, 1], 0).into(), &identity, TransportOptions::default()).unwrap())
            .collect();
        let addresses: Vec<_> = endpoints.iter().map(Endpoint::local_address).collect();
        let routing = routing(identity.cluster_id(), &addresses);
        let store = Store::new();
        let start = |(index, endpoint): (usize, Endpoint)| {
            let node = Arc::new(FakeNode {
                address: addresses[index],
                fault: Mutex::new(Fault::None),
                requests: AtomicU64::new(0),
                batches: AtomicU64::new(0),
                links: Mutex::default(),
                endpoint: endpoint.clone(),
            });
            tokio::spawn(accept(endpoint, node.clone(), index, routing.clone(), store.clone()));
            node
        };
        let nodes = endpoints.into_iter().enumerate().map(start).collect();
        Self { nodes, store, authority }
    }

    /// A client's settings, with a certificate of this mesh.
    pub(crate) fn builder(&self) -> Builder {
        let pair = self.authority.issue(Role::Client, "tester", 1).unwrap();
        Mesh::builder().seeds(self.nodes.iter().map(|node| node.address.to_string())).tls(Tls::pem(
            self.authority.pem(),
            pair.cert,
            pair.key,
        ))
    }

    pub(crate) async fn connect(&self, profile: Profile) -> Mesh {
        self.builder().profile(profile).connect().await.unwrap()
    }

    /// Requests that reached any node.
    pub(crate) fn requests(&self) -> u64 {
        self.nodes.iter().map(|node| node.requests()).sum()
    }

    pub(crate) fn set_all(&self, fault: &Fault) {
        self.nodes.iter().for_each(|node| node.set(fault.clone()));
    }
}

async fn accept(endpoint: Endpoint, node: Arc<FakeNode>, index: usize, routing: Routing, store: Arc<Store>) {
    while let Some(incoming) = endpoint.accept().await {
        let (node, routing, store) = (node.clone(), routing.clone(), store.clone());
        tokio::spawn(async move {
            let Ok(parts) = incoming.establish().await else { return };
            let hello = Hello::from_bytes(&parts.hello).unwrap();
            assert_eq!(hello.cluster, routing.cluster);
            let welcome = Welcome {
                protocol: PROTOCOL,
                node: NodeHello {
                    node: NodeId(index as u128 + 1),
                    incarnation: Hlc(1),
                    name: format!("fake-{index}"),
                    zone: "z".to_owned(),
                    address: node.address,
                    shards: 1,
                },
                shard: 0,
                wall: Wall(0),
                value_max: 1 << 20,
                routing: Some(routing.clone()),
            };
            parts.link.answer(&HelloReply::Welcome(Box::new(welcome)).to_bytes()).unwrap();
            node.links.lock().unwrap().push(parts.link.clone());
            serve(parts, &node, &routing, &store).await;
        });
    }
}

async fn serve(parts: Established, node: &FakeNode, routing: &Routing, store: &Store) {
    let Established { link, mut small, mut bulk, .. } = parts;
    let each = |mut frames: meshwork_transport::Frames<'_>| {
        node.batches.fetch_add(1, Ordering::SeqCst);
        while let Some(frame) = frames.next() {
            answer(frame, &link, node, routing, store);
        }
        link.flush();
    };
    // Either stream's end is the link's.
    let _ = tokio::join!(small.for_each_batch(each), bulk.for_each_batch(each));
}

fn answer(frame: &[u8], link: &Link, node: &FakeNode, routing: &Routing, store: &Store) {
    let (frame_type, id, mut decoder) = Decoder::start(frame).unwrap();
    if frame_type == FrameType::Control {
        let message: ClientControl = control::decode(id, &mut decoder).unwrap();
        let reply = match message {
            ClientControl::Routing => ControlReply::Routing(Some(Box::new(routing.clone()))),
            _ => ControlReply::Refused { reason: "a fake node cannot".to_owned(), denied: true },
        };
        if *node.fault.lock().unwrap() != Fault::Mute {
            link.frame(|out| control::encode(out, id, &reply)).unwrap();
        }
        return;
    }
    assert_eq!(frame_type, FrameType::Request);
    let request = Request::decode(id, &mut decoder).unwrap();
    node.requests.fetch_add(1, Ordering::SeqCst);
    let mut fault = node.fault.lock().unwrap();
    let refuse = |status, maybe_applied| {
        let reply = Reply { maybe_applied, ..Reply::status(id, status) };
        link.frame(|out| reply.encode(out)).unwrap();
    };
    match &mut *fault {
        Fault::None => link.frame(|out| store.serve(&request, out)).unwrap(),
        Fault::Mute => store.serve(&request, &mut BytesMut::new()),
        Fault::Always(status, maybe) => refuse(*status, *maybe),
        Fault::First(left, status, maybe) if *left > 0 => {
            *left -= 1;
            refuse(*status, *maybe);
        }
        Fault::First(..) => link.frame(|out| store.serve(&request, out)).unwrap(),
        Fault::Garbage => link.frame(|out| out.extend_from_slice(b"this is no frame")).unwrap(),
        Fault::Close => {
            store.serve(&request, &mut BytesMut::new());
            link.close(9, "the test says so");
        }
    }
}

/// A node in this process that answers within the call: what is left is the client's own cost.
pub(crate) struct FakeLocal {
    store: Arc<Store>,
    batches: Arc<AtomicU64>,
    /// It answers what it holds on the caller's thread.
    alone: bool,
    /// What it was told to fetch, each time.
    pub(crate) warmed: Mutex<Vec<Vec<(u16, KeyHash)>>>,
}

impl FakeLocal {
    pub(crate) fn new(alone: bool) -> Arc<Self> {
        Arc::new(Self { store: Store::new(), batches: Arc::default(), alone, warmed: Mutex::default() })
    }

    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::SeqCst)
    }
}

impl LocalLink for FakeLocal {
    fn shards(&self) -> u16 {
        1
    }

    fn routing(&self) -> Option<Routing> {
        Some(routing(meshwork_core::id::ClusterId(7), &[([127, 0, 0, 1], 9).into()]))
    }

    fn node(&self) -> NodeId {
        NodeId(1)
    }

    fn hit(
        &self,
        _: u16,
        _: (NamespaceId, KeyHash),
        key: &[u8],
        _: Consistency,
        found: &mut dyn FnMut(&Entry<'_>, Worth),
    ) -> bool {
        let entries = self.store.entries.lock().unwrap();
        let Some((version, value)) = entries.get(key).filter(|_| self.alone) else { return false };
        let entry = Entry { version: *version, expires_at: None, hold_until: None, body: Value::Value(value) };
        found(&entry, Worth { acks: 1, epoch: 1, ..Worth::default() });
        true
    }

    fn warm(&self, wanted: &[(u16, KeyHash)]) {
        self.warmed.lock().unwrap().push(wanted.to_vec());
    }

    fn open(&self, _: u16, on_frames: OnFrames) -> Box<dyn LocalSender> {
        Box::new(FakeSender { store: self.store.clone(), batches: self.batches.clone(), on_frames })
    }
}

struct FakeSender {
    store: Arc<Store>,
    batches: Arc<AtomicU64>,
    on_frames: OnFrames,
}

impl LocalSender for FakeSender {
    fn send(&self, frames: Bytes) -> bool {
        self.batches.fetch_add(1, Ordering::SeqCst);
        let (mut rest, mut out) = (&frames[..], BytesMut::with_capacity(frames.len() * 3));
        while let Some((_, frame)) = local::next_request(&mut rest) {
            let (_, id, mut decoder) = Decoder::start(frame).unwrap();
            let request = Request::decode(id, &mut decoder).unwrap();
            local::append(&mut out, |out| self.store.serve(&request, out));
        }
        (self.on_frames)(out.freeze());
        true
    }
}

/// Waits for a condition, for at most 20 s.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let mut waited = 0;
    while !reached() {
        assert!(waited < 4000, "waited 20 s for: {what}");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
