//! What the end-to-end tests share: meshes of real processes on loopback, and the means to ask them things.
//!
//! - `wait`: conditions with a limit, the only way to wait here.
//! - `process`: one running binary, its output, its signals; gone when its handle goes.
//! - `mesh`: ports, certificates, configurations and nodes of one mesh.
//! - `command`: a finished run of the command line.
//! - `raw`: a QUIC client without our transport, for well-formed and hostile bytes.
//! - `http`: one GET of a node's admin address.
//! - `forged`: certificates that our own authority would not issue.
//! - `relay`: what nodes send each other passes through it, and suffers as a test says.
//! - `netns`: a network of the kernel's own, a namespace for each node, with faults in it.
//! - `history`, `traffic`: what clients asked and were told while it was broken, written down and judged; `promises`: what all
//!   of them may rely on.
//!
//! No test here asserts how long something took; limits are only there so that a broken build ends.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod command;
pub(crate) mod forged;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod promises;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod traffic;
pub(crate) mod wait;
