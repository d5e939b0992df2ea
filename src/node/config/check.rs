//! What only this host can tell about a configuration: files, certificate, addresses, memory.
//!
//! `config check` prints all problems at once; `Node::start` refuses to start while there is one. Nothing is opened or
//! written.

use super::{Config, Origin, quantity};
use crate::storage::STORE_BYTES;
use meshwork_transport::{Identity, Role};
use rustix::fs::Access;
use std::{fmt, path::Path};

/// Least memory of a shard, bytes: below it segments and trees leave no room for entries.
const SHARD_BYTES_MIN: u64 = 16 << 20;

/// One thing that keeps a node from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which setting.
    pub name: &'static str,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.name, self.what)
    }
}

/// Why a node could not write there; what is missing is made at the start.
fn unusable(dir: &Path) -> Option<String> {
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Some(format!("{} is not a directory", there.display()));
    }
    let writable = rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK);
    let error = writable.err()?;
    Some(format!(
        "{} cannot be written by this user: {error}; the node keeps its identity and store there",
        there.display()
    ))
}

/// Why a limit of `memory` bytes, and the store if there is one, do not fit a host of `host` bytes: the kernel would end the
/// process some time after it was filled, which no test at the start shows.
pub(super) fn too_much(memory: u64, stores: bool, host: u64) -> Option<String> {
    let store = if stores { STORE_BYTES } else { 0 };
    (memory.saturating_add(store) > host).then(|| {
        let beside = if stores { format!(" and {}MiB for the store", store >> 20) } else { String::new() };
        let most = (host.saturating_sub(store) / 100 * 90) >> 20;
        let fix = if most == 0 { "give the node more memory".to_owned() } else { format!("take at most {most}MiB") };
        format!("{}MiB{beside} are more than the {}MiB that this process may use: {fix}", memory >> 20, host >> 20)
    })
}

impl Config {
    /// Everything that would keep a node with this configuration from starting on this host. Reads files, opens nothing.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |name: &'static str, what: String| {
            problems.push(Problem { name, origin: self.origin(name), what });
        };
        match Identity::load(&self.tls.files) {
            Err(error) => add("tls.cert", error.to_string()),
            Ok(identity) => {
                let own = identity.own();
                if own.role != Role::Node {
                    let what = format!("the certificate is for a {}; issue one with `meshwork cert node`", own.role);
                    add("tls.cert", what);
                }
                if own.cluster != self.cluster.name {
                    let what = format!(
                        "the certificate is of cluster {:?}: set cluster.name to it, or use that cluster's certificate",
                        own.cluster
                    );
                    add("cluster.name", what);
                }
                if own.role == Role::Node && !own.covers(&self.node.name) {
                    let what = format!(
                        "the certificate is for the node {:?}: set node.name to it, or issue one for {:?}",
                        own.name, self.node.name
                    );
                    add("node.name", what);
                }
            }
        }
        let shards = self.node.shards;
        let port = self.transport.listen.port();
        if port != 0 && port.checked_add(shards.saturating_sub(1)).is_none() {
            add("transport.listen", format!("{shards} shards need ports {port} and up: take a lower port"));
        }
        let memory = self.memory.bytes();
        if memory / u64::from(shards.max(1)) < SHARD_BYTES_MIN {
            let least = (u64::from(shards) * SHARD_BYTES_MIN) >> 20;
            let what =
                format!("{memory} bytes are too little for {shards} shards: give at least {least}MiB, or fewer shards");
            add("memory.limit", what);
        }
        let stores = self.node.data_dir.is_some();
        if let Some(what) = quantity::host_memory().and_then(|host| too_much(memory, stores, host)) {
            add("memory.limit", what);
        }
        if let Some(http) = self.http
            && !http.ip().is_loopback()
        {
            let what =
                format!("{http} is not loopback, and there is no login yet: take 127.0.0.1:{} or \"off\"", http.port());
            add("http.listen", what);
        }
        if let Some(dir) = &self.node.data_dir
            && let Some(what) = unusable(dir)
        {
            add("node.data_dir", what);
        }
        if self.transport.listen.ip().is_unspecified()
            && self.transport.advertise.is_none()
            && self.transport.seeds.is_empty()
        {
            let what = format!(
                "others cannot be told to reach this node at {}: set transport.advertise, name seeds, or listen on one address",
                self.transport.listen
            );
            add("transport.advertise", what);
        }
        problems
    }
}
