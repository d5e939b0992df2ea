//! The nodes of `dev`: files, ports, starting, stopping.
//!
//! Certificates are made for this mesh alone. Without `--dir` everything lies in a new directory that only this user can
//! read and that goes with the mesh. Ports are one block: UDP from 7400, eight a node, and HTTP from 7480; when anything
//! of it is taken, the next block. Probing and binding are two steps, so a start that still meets a taken port tries
//! the next block as well.

use crate::{
    cert,
    context::Context,
    failure::{Exit, Failure},
    serve,
};
use meshwork_node::{Config, Node, NodeHandle, StartError, config::MemoryLimit};
use meshwork_transport::{Authority, Role, TlsFiles};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The cluster's name.
const CLUSTER: &str = "dev";
/// First UDP port of the first block.
const UDP: u16 = 7400;
/// UDP ports that a node may use: the next node begins so much higher.
const UDP_PER_NODE: u16 = 8;
/// First HTTP port of the first block.
const HTTP: u16 = 7480;
/// From one block to the next; more than a block is wide.
const BLOCK: u16 = 200;
/// How many blocks are tried.
const BLOCKS: u16 = 40;
/// How long a mesh on one machine may take to become ready.
const READY: Duration = Duration::from_secs(60);
/// Validity of the throwaway certificates, days.
const DAYS: i64 = 30;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many nodes.
    pub(crate) nodes: u16,
    /// Shards of each.
    pub(crate) shards: u16,
    /// Memory of each, bytes.
    pub(crate) memory: u64,
}

/// A directory that goes when this goes, unless the user named it.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    /// The user's directory, or a new one for this mesh.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named {
            std::fs::create_dir_all(path).map_err(|error| Failure::file(path, &error))?;
            let path = std::fs::canonicalize(path).map_err(|error| Failure::file(path, &error))?;
            return Ok(Self { path, keep: true });
        }
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = std::env::temp_dir().join(format!("meshwork-dev-{}-{unique:x}", std::process::id()));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Fails when something of that name is there: nobody can prepare it for us.
        builder.create(&path).map_err(|error| Failure::file(&path, &error))?;
        Ok(Self { path, keep: false })
    }

    /// Certificates: those that are there, or new ones.
    fn certificates(&self) -> Result<(), Failure> {
        let authority = if self.path.join("ca.pem").exists() {
            Authority::load(&self.path)
        } else {
            Authority::new(CLUSTER).and_then(|made| made.write(&self.path).map(|_| made))
        };
        let authority = authority.map_err(cert::refusal)?;
        if authority.cluster() != CLUSTER {
            let what = format!("{} has the authority of {:?}", self.path.display(), authority.cluster());
            return Err(Failure::usage(what).next("give --dir a directory of its own"));
        }
        // The client's is an administrator's: it is a mesh to play with.
        for (role, name, file) in [(Role::Node, "*", "node"), (Role::Admin, "dev", "me")] {
            if !self.path.join(format!("{file}.pem")).exists() {
                let written = authority.issue(role, name, DAYS).and_then(|pair| pair.write(&self.path, file));
                written.map_err(cert::refusal)?;
            }
        }
        Ok(())
    }

    fn tls(&self, name: &str) -> TlsFiles {
        let file = |suffix: &str| self.path.join(format!("{name}.{suffix}"));
        TlsFiles::new(self.path.join("ca.pem"), file("pem"), file("key"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort: what is left are keys of a mesh that is gone.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A running mesh.
#[derive(Debug)]
pub(crate) struct Nodes {
    handles: Vec<NodeHandle>,
    // Last, so that it outlives the nodes.
    directory: Directory,
}

impl Nodes {
    /// Starts a mesh and waits until all its nodes serve.
    pub(crate) async fn start(shape: Shape, named: Option<&Path>) -> Result<Self, Failure> {
        let mut directory = Directory::open(named)?;
        directory.certificates()?;
        for block in (0..BLOCKS).map(|block| block * BLOCK) {
            if !is_free(block, shape) {
                continue;
            }
            let mut mesh = Self { handles: Vec::new(), directory };
            match mesh.start_at(block, shape).await {
                Ok(()) => {
                    mesh.ready().await?;
                    return Ok(mesh);
                }
                // Somebody took a port after it was probed.
                Err(Start::Taken) => {
                    mesh.stop().await;
                    directory = mesh.directory;
                }
                Err(Start::Failed(failure)) => return Err(failure),
            }
        }
        Err(Failure::new(Exit::Failed, format!("no free block of ports from {UDP} (UDP) and {HTTP} (TCP) upwards"))
            .next("stop what holds them: `ss -ulnp`, `ss -tlnp`"))
    }

    async fn start_at(&mut self, block: u16, shape: Shape) -> Result<(), Start> {
        for node in 0..shape.nodes {
            let config = self.config(node, block, shape).map_err(Start::Failed)?;
            match Node::start(config).await {
                Ok(handle) => self.handles.push(handle),
                Err(StartError::Endpoint(_) | StartError::Http { .. }) => return Err(Start::Taken),
                Err(
                    error @ (StartError::Config(_)
                    | StartError::Identity(_)
                    | StartError::Certificate(_)
                    | StartError::Advertise { .. }
                    | StartError::System(_)
                    | StartError::Thread),
                ) => return Err(Start::Failed(serve::start_failure(error))),
            }
        }
        Ok(())
    }

    fn config(&self, node: u16, block: u16, shape: Shape) -> Result<Config, Failure> {
        let files = self.directory.tls("node");
        let name = format!("dev-{}", node + 1);
        let sets = [
            format!("cluster.name={CLUSTER}"),
            format!("cluster.n={}", shape.nodes.min(3)),
            format!("cluster.bootstrap_expect={}", shape.nodes),
            "cluster.replace_by_name=true".to_owned(),
            format!("node.name={name}"),
            "node.zone=dev".to_owned(),
            format!("node.shards={}", shape.shards),
            format!("transport.listen={}", udp(block, node, 0)),
            format!("tls.ca={}", files.ca.display()),
            format!("tls.cert={}", files.cert.display()),
            format!("tls.key={}", files.key.display()),
            format!("http.listen={}", http(block, node)),
        ];
        // No environment: a dev mesh is the same in every shell.
        let mut config = Config::load(None, [], &sets).map_err(|error| Failure::new(Exit::Failed, error))?;
        config.tls.files = files;
        config.memory = MemoryLimit::Bytes(shape.memory);
        config.transport.seeds = (0..shape.nodes).map(|other| udp(block, other, 0).to_string()).collect();
        // Always with a disk, so that namespaces which ask for one can be tried.
        config.node.data_dir = Some(self.directory.path.join(&name));
        Ok(config)
    }

    async fn ready(&self) -> Result<(), Failure> {
        let all = async {
            for handle in &self.handles {
                handle.ready().await.map_err(|stopped| Failure::new(Exit::Failed, stopped))?;
            }
            Ok(())
        };
        tokio::time::timeout(READY, all).await.unwrap_or_else(|_| {
            let states: Vec<_> = self.handles.iter().map(|handle| handle.status().state.clone()).collect();
            Err(Failure::new(Exit::Deadline, format!("not ready within {READY:?}: {}", states.join("; "))))
        })
    }

    /// How a client reaches it.
    pub(crate) fn context(&self) -> Context {
        let files = self.directory.tls("me");
        let seeds = self.handles.iter().map(|handle| handle.addresses().listen.to_string()).collect();
        Context { seeds, ca: files.ca, cert: files.cert, key: files.key }
    }

    /// Addresses of the nodes' HTTP endpoints.
    pub(crate) fn http(&self) -> Vec<String> {
        let all = self.handles.iter().filter_map(|handle| handle.addresses().http);
        all.map(|address| format!("http://{address}")).collect()
    }

    /// The link of the first node.
    pub(crate) fn link(&self) -> std::sync::Arc<dyn meshwork_client::LocalLink> {
        self.handles.first().expect("a mesh has a node").link()
    }

    /// Waits until any node has stopped by itself, and says why.
    pub(crate) async fn broken(&self) -> Failure {
        let mut all: Vec<_> = self.handles.iter().map(|handle| Box::pin(handle.stopped())).collect();
        std::future::poll_fn(|context| {
            for stopped in &mut all {
                if let std::task::Poll::Ready(why) = stopped.as_mut().poll(context) {
                    return std::task::Poll::Ready(Failure::new(Exit::Failed, why));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Stops all nodes, at once so that none waits for another.
    pub(crate) async fn stop(&mut self) {
        let mut all: Vec<_> = self.handles.iter().map(|handle| Some(Box::pin(handle.stop()))).collect();
        std::future::poll_fn(|context| {
            for stopping in &mut all {
                if stopping.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready()) {
                    *stopping = None;
                }
            }
            if all.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        drop(all);
        self.handles.clear();
    }
}

enum Start {
    Taken,
    Failed(Failure),
}

fn udp(block: u16, node: u16, shard: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, UDP + block + node * UDP_PER_NODE + shard).into()
}

fn http(block: u16, node: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, HTTP + block + node).into()
}

fn is_free(block: u16, shape: Shape) -> bool {
    (0..shape.nodes).all(|node| {
        TcpListener::bind(http(block, node)).is_ok()
            && (0..shape.shards).all(|shard| UdpSocket::bind(udp(block, node, shard)).is_ok())
    })
}

// A node's ports stay below the next node's, and a block of 16 nodes below the next block.
const _: () = assert!(16 * UDP_PER_NODE <= BLOCK && UDP + BLOCKS * BLOCK < 32_768);

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { nodes: 2, shards: 2, memory: 64 << 20 };

    #[test]
    fn a_block_with_a_taken_port_is_not_free() {
        // A block far up that no other test uses.
        let block = BLOCK * 30;
        assert!(is_free(block, SHAPE));
        let udp = UdpSocket::bind(udp(block, 1, 1)).unwrap();
        assert!(!is_free(block, SHAPE));
        drop(udp);
        let _tcp = TcpListener::bind(http(block, 0)).unwrap();
        assert!(!is_free(block, SHAPE));
    }

    #[test]
    fn a_throwaway_directory_is_private_and_goes_with_its_certificates() {
        let directory = Directory::open(None).unwrap();
        let path = directory.path.clone();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        directory.certificates().unwrap();
        let identity = meshwork_transport::Identity::load(&directory.tls("me")).unwrap();
        assert_eq!((identity.own().role, identity.own().cluster.as_str()), (Role::Admin, CLUSTER));
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_directory_is_kept_and_its_certificates_are_used_again() {
        let named = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            Directory::open(Some(named.path())).unwrap().certificates().unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(named.path()).unwrap().collect();
        assert_eq!(files.len(), 6, "an authority and two pairs");
    }
}
