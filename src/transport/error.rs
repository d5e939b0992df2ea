//! What can go wrong with endpoints, links and frames, as one enum per boundary.
//!
//! All of these come from outside (the machine, the peer, the network), so none is a panic. A link that failed stays
//! failed: whoever owns it dials again.

use crate::{frames::FrameError, refusal::TlsRefusal};
use std::{net::SocketAddr, time::Duration};

/// Why an endpoint could not be opened or reloaded. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another process holds the port.
    #[error(
        "UDP {0} is in use by another process; stop that one or choose another port (transport.listen), and mind that a node takes one port per shard"
    )]
    PortInUse(SocketAddr),
    /// This machine does not have the address.
    #[error("UDP {0} is not an address of this machine; set transport.listen to one that is, or to 0.0.0.0")]
    AddressMissing(SocketAddr),
    /// The port may not be used by this user.
    #[error("UDP {0} may not be opened by this user; choose a port above 1023")]
    Forbidden(SocketAddr),
    /// The system refused otherwise.
    #[error("cannot open UDP {address}: {source}")]
    Socket {
        /// What was to be opened.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS cannot be set up from this identity.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why a link was not made or has ended. `Display` is one line for a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The address cannot be dialled at all.
    #[error("cannot dial {address}: {reason}")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered, or the peer went silent.
    #[error("no answer within {0:?}; is a node running there, and do firewalls let UDP through?")]
    TimedOut(Duration),
    /// We refused the other side's certificate or offer.
    #[error("refused the other side: {0}")]
    Refused(TlsRefusal),
    /// The other side refused our certificate or offer. Nothing we sent was read.
    #[error("the other side refused our certificate: {0}")]
    RefusedByPeer(TlsRefusal),
    /// The other side closed the link with a code of ours.
    #[error("closed by the other side (code {code}): {reason}")]
    ClosedByPeer {
        /// The number given to `Link::close` over there.
        code: u32,
        /// Its words, bounded and printable.
        reason: String,
    },
    /// The other side takes no more connections now.
    #[error("the other side takes no more connections now")]
    Busy,
    /// This side closed it.
    #[error("closed by this side")]
    Closed,
    /// The peer lost its state: it was restarted.
    #[error("the other side was restarted")]
    Reset,
    /// The peer broke the transport protocol or its QUIC gave up.
    #[error("transport error: {0}")]
    Transport(String),
    /// The peer sent what is not a frame.
    #[error("bad frame: {0}")]
    Frame(FrameError),
    /// The peer broke the order of the opening: streams, first frames.
    #[error("the other side did not open the link as meshwork/1 does: {0}")]
    Opening(&'static str),
}

impl LinkError {
    /// Reads quinn's error; `idle` is the time after which silence ends a connection.
    pub(crate) fn of(error: quinn::ConnectionError, idle: Duration) -> Self {
        use quinn::ConnectionError as Q;
        match error {
            Q::TimedOut => Self::TimedOut(idle),
            Q::LocallyClosed => Self::Closed,
            Q::Reset => Self::Reset,
            Q::ApplicationClosed(close) => Self::ClosedByPeer {
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                reason: printable(&close.reason),
            },
            Q::ConnectionClosed(close) => {
                let (code, text) = (u64::from(close.error_code), printable(&close.reason));
                if close.error_code == quinn_refused() {
                    return Self::Busy;
                }
                TlsRefusal::read(code, &text)
                    .map_or_else(|| Self::Transport(format!("{}: {text}", close.error_code)), Self::RefusedByPeer)
            }
            Q::TransportError(error) => TlsRefusal::read(error.code.into(), &error.reason)
                .map_or_else(|| Self::Transport(error.to_string()), Self::Refused),
            error @ (Q::VersionMismatch | Q::CidsExhausted) => Self::Transport(error.to_string()),
        }
    }
}

impl From<FrameError> for LinkError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Link(error) => *error,
            error @ (FrameError::Empty
            | FrameError::TooLarge { .. }
            | FrameError::Truncated
            | FrameError::StreamClosed(_)
            | FrameError::LinkClosed) => Self::Frame(error),
        }
    }
}

fn quinn_refused() -> quinn::TransportErrorCode {
    quinn::TransportErrorCode::CONNECTION_REFUSED
}

/// A peer's words, bounded and without control characters: they end in log lines.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(600).map(|c| if c.is_control() { '?' } else { c }).collect()
}
