//! The client of a meshwork cache mesh: one handle, cloned freely, used from any task.
//!
//! ```no_run
//! use meshwork_client::{Mesh, Tls};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), meshwork_client::Error> {
//! let mesh = Mesh::builder()
//!     .seeds(["mesh-0.mesh:7400", "mesh.example:7400"]) // any node; all resolved addresses
//!     .tls(Tls::files("ca.pem", "me.pem", "me.key"))
//!     .connect()
//!     .await?;
//! let users = mesh.namespace("users");
//! users.set("42", "Ada").ttl(Duration::from_secs(300)).await?;
//! assert_eq!(users.get("42").await?.as_deref(), Some(&b"Ada"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! - sends each key straight to the shard that owns it, by the ring it derives from the mesh's layout, as nodes do;
//! - batches by itself: what a program's tasks ask in one turn of the runtime shares packets;
//! - gives every call a deadline, retries what is harmless to repeat under a budget, and goes around dead nodes;
//! - reconnects by itself, for ever; there is no pool to size and nothing to rebuild;
//! - says what an answer is worth ([`Worth`]) and, in every [`Error`], whether a write may have been applied.
//!
//! # What it is not
//!
//! Conditions (`if_absent`, `if_version`) are best effort and no lock. A batch is not atomic. Values come back as they
//! were stored; the mesh may forget any of them.
//!
//! # Map
//!
//! `builder` describes a [`Mesh`] (`mesh`); `namespace`, `operations`, `batch` and `codec` are its calls, `entry` their
//! answers; `profile` is patience. Inside: `call` is the state machine of one call, `group` what calls to a node in
//! this process do together, `router` picks a link, `connection` and `slots` are a link and what waits on it, `dial` makes links, `keeper` keeps routes fresh and ends
//! late attempts, `news` is how links talk to it, `retry` the budget. Start reading at `call`.
#![forbid(unsafe_code)]

mod batch;
mod builder;
mod call;
mod clock;
mod codec;
mod connection;
mod dial;
mod entry;
mod error;
#[cfg(test)]
mod fake;
mod group;
mod keeper;
mod mesh;
mod namespace;
mod news;
mod operations;
mod profile;
mod retry;
mod router;
mod slots;
#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchAnswer};
pub use builder::{Builder, Tls, Zone};
pub use codec::{Codec, Json, MsgPack, Raw, Typed};
pub use entry::{DeleteOutcome, Entry, SetOutcome};
pub use error::{Error, ErrorKind};
pub use mesh::{Mesh, MeshState, MeshStats};
pub use namespace::Namespace;
pub use operations::{Delete, Get, GetEntry, OpFuture, Set, Touch};
pub use profile::{Deadline, Profile};

/// Words of the mesh that calls take and give, from `meshwork_core`.
pub use meshwork_core::{
    id::{NamespaceId, NodeId},
    namespace::{Eviction, Mode, Namespace as NamespaceSettings},
    value::Version,
    wire::{
        Consistency, LocalLink, Quorum, Worth,
        control::{ClientControl, ControlReply, MemberStatus, NodeStatus, Owners},
        inspect::{Held, HeldHint, Inspection, Standing},
    },
};

pub(crate) use call::Payload;
