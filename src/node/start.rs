//! How a node begins: everything that can fail is done before anybody is promised anything.
//!
//! In order: check, certificate, identity, one thread a shard with its socket (so that a port in use is told at once),
//! the address others are told, the store on disk, the control plane, HTTP; then all threads go, first to be filled from
//! the store. Giving up before that lets go of every thread and socket. A store that cannot be used is no reason to.

use crate::{
    admin::Admin,
    clock::Clocks,
    config::{Config, Problem},
    control::ControlPlane,
    dial, discovery,
    handle::{Addresses, NodeHandle, Stopped},
    identity::{self, IdentityError, NodeIdentity},
    shared::Shared,
    shutdown,
    storage::{self, Fed, Feed, Found, MetaFile, Owner, Place, Recovery, Store, StoreOptions, Writer},
    telemetry,
    worker::{self, Worker},
};
use meshwork_core::{
    config::{ClusterConfig, NodeConfig, ShardConfig},
    id::ShardId,
    shard::Shard,
};
use meshwork_transport::{
    Endpoint, EndpointError, Identity, IdentityWatch, SocketReport, TlsFiles, TransportOptions, WATCH_EVERY,
};
use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

/// With port 0, how often a block of free ports is looked for.
const PORT_TRIES: usize = 16;
/// Parts of the store that wait for a shard while it is filled.
const PARTS_MAX: usize = 2;

/// Why a node did not start. Nothing is left running; mend what it names and start again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit this host.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// The data directory cannot be used. A store in it that is damaged is set aside instead.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Certificate(#[from] meshwork_transport::IdentityError),
    /// A UDP port cannot be opened.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The admin address cannot be opened.
    #[error(
        "cannot listen on TCP {address} for http.listen: {source}; stop whoever holds it, or choose another or \"off\""
    )]
    Http {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody could be told where this node is.
    #[error("cannot find out where others reach this node: {reason}; set transport.advertise to its host:port")]
    Advertise {
        /// What was tried.
        reason: String,
    },
    /// The system refused a thread, a runtime or a descriptor.
    #[error("the system refused a thread: {0}")]
    System(#[from] std::io::Error),
    /// A thread ended while starting; its panic message was logged.
    #[error("a thread of the node ended while starting: this is a bug")]
    Thread,
}

/// A node: start one with [`Node::start`].
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts a node with threads of its own; works inside any runtime or none. When it returns, its sockets are open and
    /// it looks for its mesh; [`NodeHandle::ready`] waits until it serves. Several nodes may live in one process.
    ///
    /// # Errors
    /// What keeps it from starting; then nothing is left running.
    pub async fn start(config: Config) -> Result<NodeHandle, StartError> {
        let (sender, receiver) = oneshot::channel();
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        // It reads files, resolves names and waits for threads: not on the caller's runtime.
        thread::Builder::new().name("meshwork-start".to_owned()).spawn(move || {
            // A caller that stopped waiting drops the handle, and so stops the node.
            let _ = tracing::dispatcher::with_default(&subscriber, || sender.send(start(config)));
        })?;
        receiver.await.unwrap_or(Err(StartError::Thread))
    }
}

/// What a shard's thread waits for once its socket is open.
struct Go {
    shared: Arc<Shared>,
    shard: ShardConfig,
    /// What the shard is filled from before it runs, and where it says what became of it.
    records: (mpsc::Receiver<Feed>, mpsc::Sender<Fed>),
    control: Option<ControlPlane>,
    seeds: (Vec<String>, Vec<SocketAddr>),
    tls: TlsFiles,
    drain: Duration,
}

/// A thread whose socket is open.
struct Opened {
    address: SocketAddr,
    sockets: SocketReport,
    go: oneshot::Sender<Go>,
}

fn start(config: Config) -> Result<NodeHandle, StartError> {
    let problems = config.check();
    if !problems.is_empty() {
        return Err(StartError::Config(problems));
    }
    let certificate = Identity::load(&config.tls.files)?;
    let cluster_id = certificate.cluster_id();
    let identity = Arc::new(NodeIdentity::open(config.node.data_dir.as_deref(), cluster_id)?);
    let (actor, seed) = (identity::draw_actor()?, identity::draw_seed()?);
    let http = match config.http {
        None => None,
        Some(address) => Some(listen_http(address).map_err(|source| StartError::Http { address, source })?),
    };
    let seeds = discovery::resolve(&config.transport.seeds);
    let opened = open_all(&config, &certificate)?;
    let listen = opened[0].address;
    let advertise = discovery::advertised(&config, listen, &seeds)?;

    let disk = open_disk(&config, Owner { cluster: cluster_id, node: identity.node })?;
    let cluster = ClusterConfig {
        id: cluster_id,
        name: config.cluster.name.clone(),
        partitions: config.cluster.partitions,
        n: config.cluster.n,
        bootstrap_expect: config.cluster.bootstrap_expect,
        replace_by_name: config.cluster.replace_by_name,
        manual_layout: config.cluster.manual_layout,
    };
    let node_config = NodeConfig {
        cluster: cluster.clone(),
        node: identity.node,
        known: identity.known,
        actor,
        name: config.node.name.clone(),
        zone: config.node.zone.clone(),
        weight: config.node.weight,
        address: advertise,
        shards: config.node.shards,
        seeds: seeds.clone(),
        clock_floor: identity.clock_bound,
        warming_max: config.node.warming_max,
        disk: disk.is_some(),
        restored: disk.as_ref().and_then(|disk| disk.restored.clone()),
        seed,
    };
    let clocks = Clocks::start();
    let now = clocks.now();
    let node = meshwork_core::node::Node::new(node_config, now);
    let addresses = Addresses {
        listen,
        advertise,
        shards: config.node.shards,
        http: http.as_ref().and_then(|http| http.local_addr().ok()),
    };
    let store = disk.as_ref().map(|disk| disk.store.clone());
    let status = node.status(now);
    let shared = Arc::new(Shared::new(cluster.id, cluster.name, node.hello(), addresses, clocks, status, store));
    let expires = certificate.expires_at().duration_since(UNIX_EPOCH).unwrap_or_default();
    shared.certificate_expires.store(expires.as_secs(), Ordering::Relaxed);
    let memory = config.memory.bytes();
    let warning = opened.iter().find_map(|opened| opened.sockets.warning());
    shared.udp_receive_buffer.store(opened[0].sockets.receive as u64, Ordering::Relaxed);

    // From here on nothing fails but the system's threads; dropping the handle then stops what runs.
    let handle = NodeHandle { shared: shared.clone() };
    if let Some(listener) = http {
        Admin::spawn(shared.clone(), listener)?;
    }
    let (meta, restoring) = disk.map_or((None, None), |disk| (Some(disk.meta), Some((disk.store, disk.recovery))));
    let mut control = Some(ControlPlane::new(node, identity.clone(), meta, config.namespaces.clone()));
    let (fed, told) = mpsc::channel();
    let mut feeds = Vec::new();
    for (number, opened) in (0u16..).zip(opened) {
        let shard = ShardConfig {
            node: identity.node,
            shard: ShardId(number),
            shards: config.node.shards,
            cluster: cluster.id,
            partitions: cluster.partitions,
            actor,
            memory: memory / u64::from(config.node.shards),
            clock_floor: identity.clock_bound,
            disk: restoring.is_some(),
            seed: seed.wrapping_add(u64::from(number) + 1),
        };
        let (feed, fill) = mpsc::sync_channel(PARTS_MAX);
        feeds.push(feed);
        let go = Go {
            shared: shared.clone(),
            shard,
            records: (fill, fed.clone()),
            control: control.take(),
            seeds: (config.transport.seeds.clone(), seeds.clone()),
            tls: config.tls.files.clone(),
            drain: config.node.drain,
        };
        opened.go.send(go).map_err(|_| StartError::Thread)?;
    }
    drop(fed);
    match restoring {
        Some((store, mut recovery)) => {
            recovery.restore(feeds, &told, cluster.partitions, &store.disk);
            Writer::spawn(&shared, &store, recovery)?;
        }
        // Nothing more comes: they run.
        None => drop(feeds),
    }
    telemetry::started(identity.node, &config.node.name, &config.node.zone, addresses, memory, warning);
    Ok(handle)
}

/// What a node with a disk has of it before its threads go.
struct Disk {
    store: Arc<Store>,
    recovery: Recovery,
    meta: MetaFile,
    /// What core wanted to find again.
    restored: Option<Vec<u8>>,
}

fn open_disk(config: &Config, owner: Owner) -> Result<Option<Disk>, StartError> {
    let Some(data_dir) = config.node.data_dir.clone() else { return Ok(None) };
    let path = data_dir.join("mesh.meta");
    let (meta, found) = MetaFile::open(&data_dir).map_err(|source| IdentityError::File { path, source })?;
    let options = StoreOptions {
        cache: config.storage.cache,
        queue: usize::try_from(config.storage.queue).expect("at most a gibibyte"),
        sync_every: config.storage.sync_every,
    };
    let store = Arc::new(Store::new(&options, config.node.shards));
    let (restored, distrust) = match found {
        // Nothing is stored before it is.
        Found::Nothing => (None, Some("mesh.meta beside it is missing".to_owned())),
        Found::Meta(bytes) => (Some(bytes), None),
        // It says which process wrote the store last, without which nobody knows how old the store is.
        Found::Damaged(reason) => (None, Some(format!("mesh.meta beside it is damaged: {reason}"))),
    };
    let place = Place { data_dir, options, owner };
    let recovery = Recovery::open(place, &store.disk, distrust.as_deref());
    Ok(Some(Disk { store, recovery, meta, restored }))
}

fn listen_http(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Opens one socket a shard, each on its thread. Port 0: any block of free ports.
fn open_all(config: &Config, certificate: &Identity) -> Result<Vec<Opened>, StartError> {
    let tries = if config.transport.listen.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = StartError::Thread;
    for _ in 0..tries {
        match open_block(config, certificate) {
            Ok(opened) => return Ok(opened),
            Err(error @ StartError::Endpoint(EndpointError::PortInUse(_))) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn open_block(config: &Config, certificate: &Identity) -> Result<Vec<Opened>, StartError> {
    let mut opened: Vec<Opened> = Vec::new();
    for number in 0..config.node.shards {
        let mut address = config.transport.listen;
        if let Some(first) = opened.first() {
            let port = first.address.port().checked_add(number);
            address.set_port(port.ok_or(EndpointError::PortInUse(first.address))?);
        }
        opened.push(open(config, certificate, number, address)?);
    }
    Ok(opened)
}

fn open(config: &Config, certificate: &Identity, number: u16, address: SocketAddr) -> Result<Opened, StartError> {
    let options = TransportOptions { post_quantum: config.tls.post_quantum, ..TransportOptions::default() };
    let certificate = certificate.clone();
    let (told, tells) = mpsc::channel();
    let (go, goes) = oneshot::channel();
    let subscriber = tracing::dispatcher::get_default(Clone::clone);
    thread::Builder::new().name(format!("meshwork-{number}")).spawn(move || {
        let _subscriber = tracing::dispatcher::set_default(&subscriber);
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The starter waits for exactly one word.
                let _ = told.send(Err(StartError::System(error)));
                return;
            }
        };
        let endpoint = {
            let _context = runtime.enter();
            Endpoint::server(address, &certificate, options)
        };
        let endpoint = match endpoint {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let _ = told.send(Err(error.into()));
                return;
            }
        };
        let _ = told.send(Ok((endpoint.local_address(), endpoint.sockets())));
        LocalSet::new().block_on(&runtime, async move {
            // Not sent: the start was given up.
            if let Ok(go) = goes.await {
                run(go, endpoint).await;
            }
        });
    })?;
    let (address, sockets) = tells.recv().unwrap_or(Err(StartError::Thread))?;
    Ok(Opened { address, sockets, go })
}

/// Ends a thread's part of the node, however it ends.
struct EndGuard {
    shared: Arc<Shared>,
    shard: u16,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            let message = "its message stands above in the log".to_owned();
            self.shared.stop(Stopped::Panicked { thread: format!("shard {}", self.shard), message });
            self.shared.panicked();
        }
        self.shared.mailboxes[usize::from(self.shard)].close();
        self.shared.shards[usize::from(self.shard)].close();
        if let Some(store) = &self.shared.store {
            store.shard_ended();
        }
        self.shared.thread_ended();
    }
}

/// The life of a shard's thread.
async fn run(go: Go, endpoint: Endpoint) {
    let Go { shared, shard: config, records: (records, fed), control, seeds, tls, drain } = go;
    let number = config.shard.0;
    let _end = EndGuard { shared: shared.clone(), shard: number };
    let first = control.is_some();
    let alive = |shard: &Shard| shared.tick(number, shared.clocks.mono(), shard.stats());
    let shard = storage::fill(&config, &records, &fed, || shared.clocks.now(), alive);
    drop(fed);
    let worker = Worker::new(shared.clone(), shard, number, config.partitions, endpoint.clone(), control);
    let seat = Rc::new(RefCell::new(worker));
    worker::spawn(&seat, worker::run_timer(seat.clone()));
    worker::spawn(&seat, worker::run_mailbox(seat.clone()));
    worker::spawn(&seat, dial::run_accept(seat.clone()));
    if first {
        worker::spawn(&seat, crate::control::run_stored(seat.clone()));
        worker::spawn(&seat, discovery::run(seat.clone(), seeds.0, seeds.1));
    }
    spawn_local(reload(shared, endpoint, tls));
    shutdown::run(seat, drain).await;
}

/// Uses new certificates as they come.
async fn reload(shared: Arc<Shared>, endpoint: Endpoint, tls: TlsFiles) {
    let mut watch = IdentityWatch::new(tls, WATCH_EVERY);
    loop {
        let identity = watch.changed().await;
        if identity.cluster_id() != shared.cluster {
            tracing::warn!(
                "the new certificate files are of another cluster; the old ones stay in use until a restart"
            );
            continue;
        }
        match endpoint.reload(&identity) {
            Ok(()) => {
                let expires = identity.expires_at().duration_since(UNIX_EPOCH).unwrap_or_default();
                shared.certificate_expires.store(expires.as_secs(), Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the new certificate files cannot be used; the old ones stay in use"),
        }
    }
}
