//! QUIC links between meshwork nodes, and from clients to nodes: mutual TLS with roles, framed streams, datagrams.
//!
//! Where to start: `Identity::load` reads the certificate files, `Endpoint::server` or `Endpoint::client` opens a UDP
//! socket, `Endpoint::dial` and `Incoming::establish` give an `Established` link with its two readers. Then
//! `Link::frame` as often as there is something to say and `Link::flush` once per batch; `FrameReader::batch` for what
//! the other side says. There is no plaintext mode.
//!
//! - who: `identity` (names, files), `certificate` (issuing), `reload` (watching)
//! - trust: `tls` (verifiers, key exchange), `refusal` (why not, on both sides)
//! - bytes: `endpoint` (sockets), `link` (connections), `frames` (reading), `outbox` (writing)
//!
//! Payloads mean nothing here; the messages are `meshwork_core`'s. Nothing is retried or redialled here either.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod activity;
mod certificate;
mod endpoint;
mod error;
mod frames;
mod identity;
mod link;
mod options;
mod outbox;
mod refusal;
mod reload;
#[cfg(test)]
mod tests;
mod tls;

pub use certificate::{AUTHORITY_DAYS, Authority, CertificateIssueError, PemPair};
pub use endpoint::{Endpoint, Incoming, OPENING_CODE, SocketReport};
pub use error::{EndpointError, LinkError};
pub use frames::{FrameError, FrameLimits, FrameReader, Frames};
pub use identity::{BadName, Identity, IdentityError, NAME_BYTES_MAX, PeerIdentity, Role, TlsFiles};
pub use link::{DATAGRAM_BYTES_MAX, DatagramError, Established, Link, LinkStats};
pub use options::TransportOptions;
pub use refusal::{RefusalReason, TlsRefusal};
pub use reload::{IdentityWatch, WATCH_EVERY};
pub use tls::{ALPN, PostQuantum};
