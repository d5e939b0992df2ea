//! What calls answer: values with their facts, and how writes went (INTERFACES §1, "Replies say their worth").

use bytes::Bytes;
use meshwork_core::{id::NodeId, time::Wall, value::Version, wire::Worth};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A value with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The bytes.
    pub value: Bytes,
    /// Which write it is: pass it to `if_version` to replace this very value.
    pub version: Version,
    /// When it expires, by the mesh's clock; `None`: never.
    pub expires_at: Option<Wall>,
    /// The node that coordinated the read.
    pub node: Option<NodeId>,
    /// What the read is worth.
    pub worth: Worth,
}

impl Entry {
    /// Time until it expires, by this machine's clock; `None`: never.
    pub fn ttl_left(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.expires_at.map(|at| Duration::from_millis(at.0).saturating_sub(now))
    }

    /// Time since it was written, by this machine's clock against the writer's.
    pub fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.version.hlc.wall().0))
    }
}

/// How a `set` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetOutcome {
    /// Whether the value was written; `false`: its condition was not met.
    pub applied: bool,
    /// The version written, when it was.
    pub version: Option<Version>,
    /// The version that is there instead, when the condition was not met and something is there.
    pub current: Option<Version>,
    /// What the acknowledgement is worth.
    pub worth: Worth,
}

/// How a `delete` went. Deleting what is not there is done as well.
pub type DeleteOutcome = SetOutcome;
