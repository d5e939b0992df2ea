//! One UDP socket and the connections on it: dials, accepts, reloads certificates.
//!
//! A node opens one endpoint per shard, on that shard's runtime; a client one per runtime. Half-open connections are
//! bounded in number and time: above half the bound a peer must prove its address first (QUIC retry), above it it is
//! refused. A reload swaps what *new* handshakes use; links that exist keep theirs.

use crate::{
    error::{EndpointError, LinkError},
    identity::Identity,
    link::{Established, Link},
    options::TransportOptions,
    tls,
};
use quinn::{
    VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams a dialler may open: `small` and `bulk`.
const STREAMS: u8 = 2;

/// What the kernel granted for a socket's buffers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReport {
    /// Asked for each.
    pub asked: usize,
    /// Usable for receiving. (Linux reports twice what was asked, half of it is its own bookkeeping: halved here.)
    pub receive: usize,
    /// Usable for sending.
    pub send: usize,
}

impl SocketReport {
    /// A line for the log when the kernel granted less than asked; `None` when all is well.
    pub fn warning(&self) -> Option<String> {
        let mut short = vec![];
        if self.receive < self.asked {
            short.push(format!("{} bytes to receive (raise net.core.rmem_max)", self.receive));
        }
        if self.send < self.asked {
            short.push(format!("{} bytes to send (raise net.core.wmem_max)", self.send));
        }
        let asked = self.asked;
        (!short.is_empty()).then(|| {
            format!(
                "UDP socket buffers are short: asked for {asked} bytes, got {}; bursts may be lost",
                short.join(", ")
            )
        })
    }
}

/// One UDP socket with its connections. Cheap to clone; must be used on the runtime it was made on.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    quinn: quinn::Endpoint,
    dialling: Mutex<quinn::ClientConfig>,
    serves: bool,
    options: TransportOptions,
    handshakes: Arc<Semaphore>,
    sockets: SocketReport,
}

impl Endpoint {
    /// Opens `address` to accept and to dial. Must be called within a tokio runtime.
    pub fn server(address: SocketAddr, identity: &Identity, options: TransportOptions) -> Result<Self, EndpointError> {
        Self::open(address, identity, options, true)
    }

    /// Opens `address` (port 0: any free one) to dial only. Must be called within a tokio runtime.
    pub fn client(address: SocketAddr, identity: &Identity, options: TransportOptions) -> Result<Self, EndpointError> {
        Self::open(address, identity, options, false)
    }

    fn open(
        address: SocketAddr,
        identity: &Identity,
        options: TransportOptions,
        serves: bool,
    ) -> Result<Self, EndpointError> {
        let dialling = dialling_config(identity, &options)?;
        let accepting = serves.then(|| accepting_config(identity, &options)).transpose()?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => EndpointError::PortInUse(address),
            io::ErrorKind::AddrNotAvailable => EndpointError::AddressMissing(address),
            io::ErrorKind::PermissionDenied => EndpointError::Forbidden(address),
            _ => EndpointError::Socket { address, source },
        };
        let (socket, sockets) = bind(address, options.socket_buffer).map_err(failed)?;
        let mut config = quinn::EndpointConfig::default();
        config
            .max_udp_payload_size(options.mtu_max)
            .map_err(|_| EndpointError::Tls(format!("mtu_max {} is below 1,200", options.mtu_max)))?;
        let quinn = quinn::Endpoint::new(config, accepting, socket, Arc::new(quinn::TokioRuntime)).map_err(failed)?;
        let handshakes = Arc::new(Semaphore::new(options.handshakes_max));
        let dialling = Mutex::new(dialling);
        Ok(Self(Arc::new(Inner { quinn, dialling, serves, options, handshakes, sockets })))
    }

    /// Uses `identity` for every handshake from now on. Links that exist are not touched.
    pub fn reload(&self, identity: &Identity) -> Result<(), EndpointError> {
        // Both are made before either is used: no half reload.
        let dialling = dialling_config(identity, &self.0.options)?;
        if self.0.serves {
            self.0.quinn.set_server_config(Some(accepting_config(identity, &self.0.options)?));
        }
        *self.0.dialling.lock().unwrap_or_else(PoisonError::into_inner) = dialling;
        Ok(())
    }

    /// Dials `address`, shows the own certificate, says `hello` (any non-empty bytes), and waits for the answer, all
    /// within `within`. A certificate the node refuses shows here as `LinkError::RefusedByPeer`.
    pub async fn dial(&self, address: SocketAddr, hello: &[u8], within: Duration) -> Result<Established, LinkError> {
        let config = self.0.dialling.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The name is not checked and not sent: certificates are checked by cluster and role.
        let connecting = self
            .0
            .quinn
            .connect_with(config, address, "meshwork")
            .map_err(|error| LinkError::Dial { address, reason: error.to_string() })?;
        let opening = async {
            let connection = connecting.await.map_err(|lost| LinkError::of(lost, self.0.options.idle_timeout))?;
            Link::open(connection, hello, &self.0.options).await
        };
        tokio::time::timeout(within, opening).await.unwrap_or(Err(LinkError::TimedOut(within)))
    }

    /// Waits for the next one who dials; `None` once the endpoint is closed. Run `Incoming::establish` in a task of
    /// its own: this must go on meanwhile. Safe to cancel.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.0.quinn.accept().await?;
            let options = &self.0.options;
            let free = self.0.handshakes.available_permits();
            let full = self.0.quinn.open_connections() >= options.connections_max;
            let permit = self.0.handshakes.clone().try_acquire_owned().ok().filter(|_| !full);
            let Some(permit) = permit else {
                tracing::debug!(from = %incoming.remote_address(), "connection refused: too many are open or half open");
                incoming.refuse();
                continue;
            };
            if free <= options.handshakes_max / 2 && incoming.may_retry() {
                // Fails only where `may_retry` is false.
                let _ = incoming.retry();
                continue;
            }
            return Some(Incoming { incoming, permit, endpoint: self.clone() });
        }
    }

    /// The address that was opened, with its real port.
    pub fn local_address(&self) -> SocketAddr {
        self.0.quinn.local_addr().expect("the socket was bound when the endpoint was made")
    }

    /// What the kernel granted.
    pub fn sockets(&self) -> SocketReport {
        self.0.sockets
    }

    /// Connections that are open or half open.
    pub fn open_connections(&self) -> usize {
        self.0.quinn.open_connections()
    }

    /// Closes all links at once and accepts no more.
    pub fn close(&self, code: u32, reason: &str) {
        self.0.quinn.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until the other sides have been told (up to three round trips each). After `close`, before exit.
    pub async fn wait_idle(&self) {
        self.0.quinn.wait_idle().await;
    }
}

/// Someone who dials, before the handshake. Dropping it refuses.
pub struct Incoming {
    incoming: quinn::Incoming,
    permit: OwnedSemaphorePermit,
    endpoint: Endpoint,
}

impl Incoming {
    /// Where the packets come from; not proven yet.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Finishes the handshake and waits for the first frame, at most `handshake_timeout`. Answer with `Link::answer`.
    /// The error is what belongs into one log line with the address.
    pub async fn establish(self) -> Result<Established, LinkError> {
        let Self { incoming, permit, endpoint } = self;
        let options = &endpoint.0.options;
        let opening = async {
            let connection = incoming.await.map_err(|lost| LinkError::of(lost, options.idle_timeout))?;
            let opened = Link::take(connection.clone(), options).await;
            if let Err(error) = &opened {
                connection.close(VarInt::from_u32(OPENING_CODE), error.to_string().as_bytes());
            }
            opened
        };
        let opened = tokio::time::timeout(options.handshake_timeout, opening).await;
        drop(permit);
        opened.unwrap_or(Err(LinkError::TimedOut(options.handshake_timeout)))
    }
}

/// Close code of a peer that did not open its link properly.
pub const OPENING_CODE: u32 = 1;

fn dialling_config(identity: &Identity, options: &TransportOptions) -> Result<quinn::ClientConfig, EndpointError> {
    let tls = tls::client_config(identity, options.post_quantum.groups()).map_err(unusable)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(unusable)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(options.quinn(0));
    Ok(config)
}

fn accepting_config(identity: &Identity, options: &TransportOptions) -> Result<quinn::ServerConfig, EndpointError> {
    let tls = tls::server_config(identity, options.post_quantum.groups(), &options.roles).map_err(unusable)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(unusable)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(options.quinn(STREAMS));
    // Nodes have fixed addresses and clients redial from a fresh port: a moved address is not worth its attacks.
    config.migration(false);
    config.max_incoming(options.handshakes_max.max(1) * 4);
    config.incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(8 << 20);
    Ok(config)
}

fn unusable(error: impl std::fmt::Display) -> EndpointError {
    EndpointError::Tls(error.to_string())
}

fn bind(address: SocketAddr, buffer: usize) -> io::Result<(std::net::UdpSocket, SocketReport)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // One socket for both families on [::]; some systems refuse, then it is IPv6 only.
        let _ = socket.set_only_v6(false);
    }
    // The kernel caps silently, so what counts is what is read back.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    let bookkeeping = if cfg!(target_os = "linux") { 2 } else { 1 };
    let report = SocketReport {
        asked: buffer,
        receive: socket.recv_buffer_size()? / bookkeeping,
        send: socket.send_buffer_size()? / bookkeeping,
    };
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok((socket.into(), report))
}
