//! What whoever started a node holds: its link, its state, and the way to stop it.
//!
//! Futures here need no particular runtime. Dropping the handle stops the node as `stop` does, without waiting. A thread
//! of the node that panics stops the whole node: nothing repairs half a one (STYLE §5).

use crate::{local::NodeLink, shared::Shared};
use meshwork_core::{
    id::NodeId,
    stats::ShardStats,
    wire::{control::NodeStatus, local::LocalLink},
};
use std::{net::SocketAddr, sync::Arc};

/// Why a node is not running any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Somebody called `stop` or dropped the handle.
    #[error("the node was stopped")]
    Requested,
    /// The mesh does not want this process: its identity was taken by a newer one, or its role removed.
    #[error("the node stopped itself: {reason}")]
    Refused {
        /// What is wrong and what to do.
        reason: String,
    },
    /// A bug: one of its threads panicked. A process should exit with an error and be started again.
    #[error("the thread {thread} of the node panicked: {message}; this is a bug")]
    Panicked {
        /// Which thread.
        thread: String,
        /// What it said.
        message: String,
    },
}

/// Where a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// UDP address that shard 0 listens on; shard i on port + i.
    pub listen: SocketAddr,
    /// What others are told.
    pub advertise: SocketAddr,
    /// How many shards there are.
    pub shards: u16,
    /// The admin endpoint.
    pub http: Option<SocketAddr>,
}

/// A running node.
#[derive(Debug)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
}

impl NodeHandle {
    /// The link for a client in this process: no socket lies between.
    pub fn link(&self) -> Arc<dyn LocalLink> {
        Arc::new(NodeLink::new(self.shared.clone()))
    }

    /// Waits until clients are served here: joined, with a layout, its clock confirmed.
    ///
    /// # Errors
    /// The node stopped first.
    pub async fn ready(&self) -> Result<(), Stopped> {
        self.shared.ready().await
    }

    /// What the node knows of the mesh and of itself, its disk too, as of at most half a second ago.
    pub fn status(&self) -> Arc<NodeStatus> {
        self.shared.status()
    }

    /// The sum of its shards' figures, as of at most half a second ago.
    pub fn stats(&self) -> ShardStats {
        self.shared.stats()
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Addresses {
        self.shared.addresses
    }

    /// Its id.
    pub fn node(&self) -> NodeId {
        self.shared.hello.node
    }

    /// Stops gracefully: admits nothing new, finishes what is in flight (at most `node.drain`), tells the other sides,
    /// and waits until all threads have ended. Calling it again, or from several tasks, only waits.
    ///
    /// # Errors
    /// The node ended for another reason first.
    pub async fn stop(&self) -> Result<(), Stopped> {
        self.shared.stop(Stopped::Requested);
        match self.stopped().await {
            Stopped::Requested => Ok(()),
            why @ (Stopped::Refused { .. } | Stopped::Panicked { .. }) => Err(why),
        }
    }

    /// Waits until the node has ended, for whatever reason.
    pub async fn stopped(&self) -> Stopped {
        self.shared.ended().await
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.shared.stop(Stopped::Requested);
    }
}
