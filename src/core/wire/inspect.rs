//! What one node says of its own copy of a key: the answer to `Op::Inspect`, which `meshwork explain` asks of every owner.
//!
//! Rare and for people, so a serde struct with named fields (as the control plane's messages are), inside the value of an
//! ordinary reply. It is what this shard holds now and nothing else: no other node is asked, and nothing changes.

use crate::{id::NodeId, ring::LayoutName, value::Version};
use serde::{Deserialize, Serialize};

/// What a shard has under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// A value.
    Value,
    /// A value whose time is over; it goes with the next sweep.
    Ended,
    /// That it was deleted.
    Tombstone,
    /// That it had that version, and evicted it.
    Ghost,
    /// Nothing.
    Absent,
}

/// What the copy is worth to a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It votes.
    Ready,
    /// It takes writes, and does not vote where it matters until it has compared itself with other owners.
    Warming,
    /// The node is no owner.
    NoOwner,
}

/// A hint kept here for an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldHint {
    /// For whom.
    pub target: NodeId,
    /// Which write.
    pub version: Version,
}

/// One node's word on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Who says so.
    pub node: NodeId,
    /// Its layout; `None`: it has none.
    pub layout: Option<LayoutName>,
    /// Of its copy.
    pub standing: Standing,
    /// What is there.
    pub held: Held,
    /// Of what is held; `None`: nothing is.
    pub version: Option<Version>,
    /// Of the value, bytes.
    pub value_bytes: u64,
    /// When it ends, milliseconds since 1970; `None`: not by itself.
    pub expires_at: Option<u64>,
    /// At or below this the node forgot what it may have held of the namespace in this partition; zero: nothing yet.
    pub forgotten: Version,
    /// Hints for others.
    pub hints: Vec<HeldHint>,
    /// The partition is compared first: a write of it may lack at an owner.
    pub urgent: bool,
}

impl Inspection {
    /// As bytes of a reply's value.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("an inspection has no type that MessagePack lacks")
    }

    /// From a reply's value.
    ///
    /// # Errors
    /// These bytes are no inspection: the node is of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        rmp_serde::from_slice(bytes)
    }
}
