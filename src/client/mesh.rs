//! The handle: what every clone shares, and what can be asked of the mesh as a whole.
//!
//! `Inner` owns the links, the table of routes and the counters; its tasks hold it weakly, so that the last handle's
//! drop ends everything. Calls borrow it. Keys and values are asked for through [`Namespace`]; a `Mesh` derefs to
//! nothing, but answers for the namespace `default` itself.

use crate::{
    Builder, Error, ErrorKind, Namespace, Payload,
    call::Call,
    connection::Connection,
    dial::{Dialer, Target, keep},
    profile::{Deadline, Profile},
    retry::Budget,
    router::{Links, Table},
    slots::Body,
};
use arc_swap::ArcSwap;
use meshwork_core::wire::control::{ClientControl, ControlReply};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

/// The number of the next mesh.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A cache mesh. Cheap to clone; all clones share links, routes and budgets. See the crate's front page.
#[derive(Clone)]
pub struct Mesh {
    pub(crate) inner: Arc<Inner>,
    default: Namespace,
}

/// How a mesh is doing, as its handle sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeshState {
    /// No node has welcomed this client yet.
    Connecting,
    /// A node has, and there is no layout yet: writes are refused until enough nodes have met.
    NoLayout,
    /// Calls go straight to the owners of their keys.
    Connected {
        /// The layout's epoch.
        epoch: u64,
        /// Members of the layout.
        nodes: usize,
    },
    /// `close` was called.
    Closed,
}

/// Counters of one mesh handle and its clones since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshStats {
    /// Calls that were admitted, `hits_here` among them.
    pub calls: u64,
    /// Calls that the node in this process answered on the caller's own thread.
    pub hits_here: u64,
    /// Attempts beyond each call's first.
    pub retries: u64,
    /// Links made after the first to the same place.
    pub reconnects: u64,
    /// Calls that are not over.
    pub in_flight: usize,
    /// Times that a link's buffer was flushed: calls per batch say how well calls share packets.
    pub batches: u64,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) profile: Profile,
    pub(crate) seeds: Vec<String>,
    pub(crate) zone: Option<String>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) table: ArcSwap<Option<Table>>,
    /// Of the table; answers from a newer one cause a refresh.
    pub(crate) epoch: AtomicU64,
    pub(crate) seed_links: ArcSwap<Vec<Arc<Connection>>>,
    pub(crate) welcomed: AtomicBool,
    pub(crate) value_max: AtomicUsize,
    pub(crate) budget: Budget,
    pub(crate) calls: AtomicU64,
    pub(crate) hits_here: AtomicU64,
    /// Names it among all meshes of this process.
    pub(crate) number: u64,
    pub(crate) retries: AtomicU64,
    pub(crate) in_flight: AtomicUsize,
    /// The sweep is awake.
    pub(crate) swept: AtomicBool,
    closed: AtomicBool,
    state: watch::Sender<MeshState>,
    registry: Mutex<Registry>,
    runtime: Handle,
}

#[derive(Default)]
struct Registry {
    remote: HashMap<SocketAddr, Arc<Connection>>,
    local: HashMap<u16, Arc<Connection>>,
    tasks: Vec<AbortHandle>,
    trouble: Option<Error>,
}

impl Mesh {
    /// Starts describing a mesh.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        let default = Namespace::new(inner.clone(), "default");
        Self { inner, default }
    }

    /// A view of one namespace. Asks nothing of the mesh: an unknown name shows at the first call.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(self.inner.clone(), name)
    }

    /// The namespace `default`, which every mesh has.
    pub fn default_namespace(&self) -> &Namespace {
        &self.default
    }

    /// How the mesh is doing, now and at each change.
    pub fn state(&self) -> watch::Receiver<MeshState> {
        self.inner.state.subscribe()
    }

    /// Counters.
    pub fn stats(&self) -> MeshStats {
        let connections = self.inner.connections();
        let sum = |count: fn(&Connection) -> u64| connections.iter().map(|link| count(link)).sum();
        MeshStats {
            calls: self.inner.calls.load(Ordering::Relaxed) + self.inner.hits_here.load(Ordering::Relaxed),
            hits_here: self.inner.hits_here.load(Ordering::Relaxed),
            retries: self.inner.retries.load(Ordering::Relaxed),
            reconnects: sum(|link| link.links_made.load(Ordering::Relaxed).saturating_sub(1)),
            in_flight: self.inner.in_flight.load(Ordering::Relaxed),
            batches: sum(|link| link.batches.load(Ordering::Relaxed)),
        }
    }

    /// Asks any node a control question: status, routing, owners of a key, namespaces.
    ///
    /// # Errors
    /// No node answered; `Refused` replies of kind `Denied` or `Invalid`, in the node's words.
    pub async fn control(&self, message: ClientControl) -> Result<ControlReply, Error> {
        self.control_call(message, None).await
    }

    /// Asks the node whose shard 0 listens at `address`.
    ///
    /// # Errors
    /// As `control`.
    pub async fn control_at(&self, address: SocketAddr, message: ClientControl) -> Result<ControlReply, Error> {
        let link = self.inner.wanted(address);
        self.control_call(message, Some(link)).await
    }

    async fn control_call(&self, message: ClientControl, link: Option<Arc<Connection>>) -> Result<ControlReply, Error> {
        let limit = self.inner.profile.dial + self.inner.profile.attempt_write;
        let call: Call<'_, [u8; 0], [u8; 0]> = match link {
            Some(link) => Call::to(&self.inner, link, Payload::Control(message), limit),
            None => {
                let mut call = Call::new(&self.inner, meshwork_core::id::NamespaceId(0), [], Payload::Control(message));
                call.deadline = Some(Deadline::After(limit));
                call
            }
        };
        let (answer, link) = call.await?;
        match answer.body {
            Body::Control(reply) => match *reply {
                ControlReply::Refused { reason, denied } => {
                    let kind = if denied { ErrorKind::Denied } else { ErrorKind::Invalid };
                    Err(Error::new(kind, reason).at(link.address).after_attempts(1))
                }
                reply @ (ControlReply::Routing(_)
                | ControlReply::Status(_)
                | ControlReply::Owners(_)
                | ControlReply::Created(_)
                | ControlReply::Plan(_)
                | ControlReply::Changed(_)
                | ControlReply::Namespaces(_)
                | ControlReply::Emptied(_)
                | ControlReply::Holds(_)) => Ok(reply),
            },
            Body::Empty | Body::Value { .. } | Body::Written { .. } | Body::Text(_) => {
                Err(Error::new(ErrorKind::Unsupported, "the node answered something else").at(link.address))
            }
        }
    }

    /// Ends the mesh for all clones: takes no more calls, lets those in flight end (their deadlines bound it, and
    /// 5 s do), closes all links.
    pub async fn close(self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        let drained = async {
            while self.inner.in_flight.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // Out of time: closed all the same.
        let _ = tokio::time::timeout(Duration::from_secs(5), drained).await;
        self.inner.end();
        // quinn tells the other side from its own task: give it a turn.
        tokio::task::yield_now().await;
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("state", &*self.inner.state.borrow()).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(profile: Profile, seeds: Vec<String>, zone: Option<String>, dialer: Arc<Dialer>) -> Self {
        Self {
            profile,
            seeds,
            zone,
            dialer,
            table: ArcSwap::from_pointee(None),
            epoch: AtomicU64::new(0),
            seed_links: ArcSwap::from_pointee(Vec::new()),
            welcomed: AtomicBool::new(false),
            value_max: AtomicUsize::new(meshwork_core::limits::VALUE_BYTES_MAX as usize),
            budget: Budget::new(),
            calls: AtomicU64::new(0),
            hits_here: AtomicU64::new(0),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            retries: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            swept: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            state: watch::Sender::new(MeshState::Connecting),
            registry: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn owns(&self, task: AbortHandle) {
        self.registry().tasks.push(task);
    }

    pub(crate) fn tell(&self, state: MeshState) {
        self.state.send_if_modified(|now| {
            let news = *now != state && *now != MeshState::Closed;
            if news {
                *now = state;
            }
            news
        });
    }

    /// Admits a call.
    pub(crate) fn enter(&self, profile: &Profile) -> Result<(), Error> {
        if self.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "this program closed the mesh"));
        }
        if self.in_flight.fetch_add(1, Ordering::SeqCst) >= profile.in_flight {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            let text = format!("{} calls are in flight on this Mesh, the most its profile allows", profile.in_flight);
            return Err(Error::new(ErrorKind::Overloaded, text).hinting("await some before asking more"));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.swept.load(Ordering::SeqCst) && !self.swept.swap(true, Ordering::SeqCst) {
            self.dialer.news.busy.notify_one();
        }
        Ok(())
    }

    /// An answer came from a layout of this epoch: a newer one than the table's is asked for.
    pub(crate) fn heard_of(&self, epoch: u64) {
        if epoch > self.epoch.load(Ordering::Relaxed) {
            self.dialer.news.stale();
        }
    }

    /// A call is over.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// The link to `address`, dialled if it is not up.
    pub(crate) fn wanted(&self, address: SocketAddr) -> Arc<Connection> {
        let link = self.remote(address);
        link.want();
        link
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// All links there are.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        let registry = self.registry();
        registry.remote.values().chain(registry.local.values()).cloned().collect()
    }

    /// A link on which a message for any node can leave now.
    pub(crate) fn any_link_up(&self, turn: usize) -> Option<Arc<Connection>> {
        let mut up = self.connections();
        up.retain(|link| link.is_up());
        if up.iter().any(|link| !link.avoided()) {
            up.retain(|link| !link.avoided());
        }
        up.sort_by_key(|link| link.address);
        (!up.is_empty()).then(|| up[turn % up.len()].clone())
    }

    /// Remembers why no node can be reached.
    pub(crate) fn note(&self, error: Error) {
        self.registry().trouble = Some(error);
    }

    /// An error of this kind, or the better known reason why no node can be reached.
    pub(crate) fn trouble(&self, kind: ErrorKind, words: &str) -> Error {
        let connections = self.connections();
        if connections.iter().any(|link| link.is_up()) {
            return Error::new(kind, words);
        }
        let known = connections.iter().find_map(|link| link.trouble()).map(|why| (*why).clone());
        known
            .or_else(|| self.registry().trouble.clone())
            .unwrap_or_else(|| Error::new(ErrorKind::Connect, "no node could be reached yet"))
    }

    fn connect(&self, connection: Connection, target: Target) -> Arc<Connection> {
        let connection = Arc::new(connection);
        let task = self.runtime.spawn(keep(connection.clone(), target, self.dialer.clone()));
        connection.kept_by(task.abort_handle());
        connection
    }

    fn end(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.state.send_replace(MeshState::Closed);
        let registry = std::mem::take(&mut *self.registry());
        registry.remote.values().chain(registry.local.values()).for_each(|link| link.close());
        registry.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Links for Inner {
    fn remote(&self, address: SocketAddr) -> Arc<Connection> {
        let mut registry = self.registry();
        let made = || self.connect(Connection::new(address), Target::Remote);
        registry.remote.entry(address).or_insert_with(made).clone()
    }

    fn local(&self, shard: u16) -> Arc<Connection> {
        let mut registry = self.registry();
        // Port zero: nothing listens there, it only tells shards apart in messages.
        let address = SocketAddr::from(([127, 0, 0, 1], shard));
        let made = || self.connect(Connection::new(address), Target::Local(shard));
        registry.local.entry(shard).or_insert_with(made).clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}
