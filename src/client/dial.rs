//! Makes links and keeps them: dial, say `Hello`, read answers, flush requests, dial again (PROTOCOL §9).
//!
//! One task per connection, started when the connection is made and asleep until somebody wants the link. A lost link
//! is dialled again for ever, each time from a fresh local port (a broken path in the network is often broken for one
//! pair of ports only), with pauses that double from 50 ms to 5 s, drawn with full jitter. Links into this process are
//! opened the same way, without sockets.

use crate::{
    Error, ErrorKind,
    clock::Clock,
    connection::{Connection, LocalBatch, Wire},
    news::News,
    retry::Jitter,
};
use bytes::Bytes;
use meshwork_core::{
    id::ClusterId,
    time::Wall,
    wire::{
        hello::{Hello, HelloReply, PROTOCOL, Welcome},
        local::LocalLink,
    },
};
use meshwork_transport::{Endpoint, Established, FrameError, FrameReader, Identity, Link, LinkError, TransportOptions};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::RuntimeFlavor, sync::Notify};

const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(5);

/// What dialing needs; shared by all connections of a mesh.
pub(crate) struct Dialer {
    /// Replaced when the certificate files change; `None`: a mesh that only uses the node in its own process.
    pub(crate) identity: RwLock<Option<Identity>>,
    pub(crate) local: Option<Arc<dyn LocalLink>>,
    pub(crate) within: Duration,
    pub(crate) clock: Clock,
    pub(crate) jitter: Jitter,
    pub(crate) news: Arc<News>,
    /// Whether tasks run on several threads: then the flusher lets others run first, or every request would leave alone.
    pub(crate) flavor: RuntimeFlavor,
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Remote,
    /// The shard with this number, in this process.
    Local(u16),
}

/// Keeps one connection; never ends by itself.
pub(crate) async fn keep(connection: Arc<Connection>, target: Target, dialer: Arc<Dialer>) {
    connection.wanted.notified().await;
    let mut failures = 0;
    loop {
        let lost = match target {
            Target::Local(shard) => serve_local(&connection, shard, &dialer, &mut failures).await,
            Target::Remote => match dialer.dial(connection.address).await {
                Ok((parts, welcome)) => {
                    failures = 0;
                    serve_remote(&connection, parts, *welcome, &dialer).await
                }
                Err(error) => error,
            },
        };
        tracing::debug!(address = %connection.address, error = %lost, "no link");
        connection.lose(lost);
        dialer.news.link_lost();
        tokio::time::sleep(dialer.jitter.backoff(REDIAL_MIN, REDIAL_MAX, failures)).await;
        failures += 1;
    }
}

impl Dialer {
    async fn dial(&self, address: SocketAddr) -> Result<(Established, Box<Welcome>), Error> {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(identity) = identity else {
            let text = format!("no certificate to reach {address} with");
            return Err(Error::new(ErrorKind::Tls, text).hinting("give the builder .tls(..) for nodes elsewhere"));
        };
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(any, &identity, TransportOptions::default())
            .map_err(|error| Error::new(ErrorKind::Connect, error.to_string()))?;
        let hello = self.hello(identity.cluster_id());
        let parts = endpoint
            .dial(address, &hello.to_bytes(), self.within)
            .await
            .map_err(|error| link_error(&error).at(address))?;
        match HelloReply::from_bytes(&parts.hello) {
            Ok(HelloReply::Welcome(welcome)) if welcome.protocol == PROTOCOL => Ok((parts, welcome)),
            Ok(HelloReply::Welcome(welcome)) => {
                let text = format!("the node speaks protocol {}, this client {PROTOCOL}", welcome.protocol);
                Err(Error::new(ErrorKind::Unsupported, text).at(address).hinting("upgrade the older side"))
            }
            Ok(HelloReply::Refused { reason }) => {
                Err(Error::new(ErrorKind::Connect, format!("the node refused this client: {reason}")).at(address))
            }
            Err(words) => Err(Error::new(ErrorKind::Connect, words).at(address)),
        }
    }

    fn hello(&self, cluster: ClusterId) -> Hello {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Hello { protocol: PROTOCOL, cluster, wall, node: None, shard: 0 }
    }
}

/// A link's end as an error of ours.
fn link_error(error: &LinkError) -> Error {
    let kind = match error {
        LinkError::Refused(_) | LinkError::RefusedByPeer(_) => ErrorKind::Tls,
        LinkError::Dial { .. }
        | LinkError::TimedOut(_)
        | LinkError::ClosedByPeer { .. }
        | LinkError::Busy
        | LinkError::Closed
        | LinkError::Reset
        | LinkError::Transport(_)
        | LinkError::Frame(_)
        | LinkError::Opening(_) => ErrorKind::Connect,
    };
    Error::new(kind, error.to_string())
}

async fn serve_remote(connection: &Arc<Connection>, parts: Established, welcome: Welcome, dialer: &Dialer) -> Error {
    let Established { link, mut small, mut bulk, .. } = parts;
    connection.establish(Wire::Quic(link.clone()), welcome.node.node, dialer.clock.now());
    dialer.news.welcomed(&welcome);
    let (small, bulk) = (read(connection, &mut small, dialer), read(connection, &mut bulk, dialer));
    tokio::select! {
        error = small => ended(&link, error),
        error = bulk => ended(&link, error),
        error = flush(connection, dialer) => error,
    }
}

/// Why reading ended, in the link's words where it has some; closes it.
fn ended(link: &Link, error: Result<(), Error>) -> Error {
    let known = link.close_reason();
    let error = match (error, known) {
        (_, Some(reason)) => link_error(&reason),
        (Err(error), None) => error,
        (Ok(()), None) => Error::new(ErrorKind::Connect, "the node ended the link"),
    };
    link.close(2, error.message());
    error.at(link.remote_address())
}

async fn read(connection: &Connection, reader: &mut FrameReader, dialer: &Dialer) -> Result<(), Error> {
    let mut wakers = Vec::new();
    loop {
        let frames =
            reader.batch().await.map_err(|error: FrameError| Error::new(ErrorKind::Connect, error.to_string()))?;
        let Some(mut frames) = frames else { return Ok(()) };
        connection.receive(dialer.clock.now(), &mut frames, &mut wakers).map_err(|error| {
            Error::new(ErrorKind::Connect, format!("the node sent what no client can read: {error}"))
        })?;
    }
}

/// Sends batches for ever; ends when the other side takes none.
async fn flush(connection: &Connection, dialer: &Dialer) -> Error {
    loop {
        connection.flush.notified().await;
        if dialer.flavor != RuntimeFlavor::CurrentThread {
            // Woken ahead of the others that have something to say: let them say it first.
            tokio::task::yield_now().await;
        }
        if !connection.flush_now() {
            return Error::new(ErrorKind::Connect, "the node in this process has stopped");
        }
    }
}

/// What a local node has answered, until this side's task takes it.
#[derive(Default)]
struct Inbox {
    batches: Mutex<Vec<Bytes>>,
    filled: Notify,
}

async fn serve_local(connection: &Arc<Connection>, shard: u16, dialer: &Dialer, failures: &mut u32) -> Error {
    let Some(local) = &dialer.local else {
        return Error::new(ErrorKind::Config, "there is no node in this process");
    };
    let inbox = Arc::new(Inbox::default());
    let filling = inbox.clone();
    let sender = local.open(
        shard,
        Arc::new(move |frames: Bytes| {
            let mut batches = filling.batches.lock().unwrap_or_else(PoisonError::into_inner);
            let first = batches.is_empty();
            batches.push(frames);
            drop(batches);
            if first {
                filling.filled.notify_one();
            }
        }),
    );
    connection.establish(Wire::Local { sender, buffer: Default::default() }, local.node(), dialer.clock.now());
    *failures = 0;
    let reading = async {
        let (mut taken, mut wakers) = (Vec::new(), Vec::new());
        loop {
            inbox.filled.notified().await;
            std::mem::swap(&mut taken, &mut *inbox.batches.lock().unwrap_or_else(PoisonError::into_inner));
            let now = dialer.clock.now();
            for bytes in taken.drain(..) {
                let mut batch = LocalBatch { bytes, at: 0 };
                if let Err(error) = connection.receive(now, &mut batch, &mut wakers) {
                    let text = format!("the node in this process sent what no client can read: {error}");
                    return Error::new(ErrorKind::Connect, text);
                }
            }
        }
    };
    tokio::select! {
        error = reading => error,
        error = flush(connection, dialer) => error,
    }
}
