//! A mesh of `serve` processes on loopback: its authority, its configurations, its nodes by number.
//!
//! Ports are searched below the range from which the system deals its own, and handed out once in a test process. A
//! node is configured by a file, as an operator would; what a test varies comes on top as `--set`.

use super::{
    command::{Ran, finish},
    http,
    netns::{Network, Space},
    process::{Process, binary},
    relay::Relay,
    wait::{LIMIT, wait_for},
};
use meshwork_transport::{Authority, PemPair, Role};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// The cluster of every mesh here.
pub(crate) const CLUSTER: &str = "e2e";

/// Files with which somebody shows who he is.
#[derive(Clone, Debug)]
pub(crate) struct Papers {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Papers {
    /// Writes a pair as `name` beside the authority in `directory`.
    pub(crate) fn write(directory: &Path, name: &str, pair: &PemPair) -> Self {
        let (cert, key) = pair.write(directory, name).expect("our own directory");
        Self { ca: directory.join("ca.pem"), cert, key }
    }
}

/// What a mesh looks like.
pub(crate) struct Plan {
    /// Nodes to start; also `bootstrap_expect`.
    pub(crate) nodes: usize,
    /// Shards of each.
    pub(crate) shards: u16,
    /// Memory of each.
    pub(crate) memory: &'static str,
    /// Whether nodes have a data directory.
    pub(crate) kept: bool,
    /// Further settings of all, as `section.key=value`.
    pub(crate) sets: Vec<&'static str>,
    /// Further lines of every configuration file, such as `[[namespace]]` tables.
    pub(crate) tables: &'static str,
    /// Whether nodes reach each other through a relay; then each has one shard, and only those planned take part.
    pub(crate) relayed: bool,
    /// Where nodes live apart, each in a network namespace of its own; clients must be in the network's.
    pub(crate) network: Option<Arc<Network>>,
}

impl Default for Plan {
    fn default() -> Self {
        let (sets, tables) = (Vec::new(), "");
        Self { nodes: 3, shards: 1, memory: "64MiB", kept: false, sets, tables, relayed: false, network: None }
    }
}

/// One node: where it is, how it is started, its process when it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Where other nodes reach it: its address, or the relay's for it.
    pub(crate) reached: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) config: PathBuf,
    pub(crate) process: Option<Process>,
    /// Where it lives, if apart; its HTTP address is there.
    space: Option<Arc<Space>>,
}

impl Node {
    /// Its process; it must run.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("the test started it")
    }

    /// Everything it said.
    pub(crate) fn said(&self) -> String {
        self.process().said()
    }

    /// Waits until its log has a line with all of these words; the line.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        wait_for(LIMIT, &format!("{} to log {words:?}", self.name), || {
            let said = self.said();
            let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or_else(|| said.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
        })
    }

    /// `/v1/status`.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let get = || http::get(self.http, "/v1/status");
        match self.space.as_ref().map_or_else(get, |space| space.within(get))? {
            (200, body) => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
            (code, body) => Err(format!("{code}: {body}")),
        }
    }

    /// The state that it says of itself.
    pub(crate) fn state(&self) -> Result<String, String> {
        let status = self.status()?;
        status["state"].as_str().map(str::to_owned).ok_or_else(|| format!("no state: {status}"))
    }

    /// Waits until its state begins with `words`.
    pub(crate) fn becomes(&self, words: &str) {
        wait_for(LIMIT, &format!("{} to be {words:?}", self.name), || {
            let state = self.state()?;
            if state.starts_with(words) { Ok(()) } else { Err(state) }
        });
    }

    /// Waits until it sees `name` as `health`: alive, suspect or down.
    pub(crate) fn sees(&self, name: &str, health: &str) {
        wait_for(LIMIT, &format!("{} to see {name} {health}", self.name), || {
            let status = self.status()?;
            let fits = |m: &&Value| m["name"] == name && m["role"] == "member" && m["health"] == health;
            status["members"].as_array().and_then(|all| all.iter().find(fits)).map(|_| ()).ok_or(status.to_string())
        });
    }
}

/// A mesh.
pub(crate) struct Mesh {
    // Before `home`: fields are dropped in order, and processes write there.
    pub(crate) nodes: Vec<Node>,
    /// What passes on what they send each other, where the plan wants it.
    pub(crate) relay: Option<Arc<Relay>>,
    plan: Plan,
    /// Of a user.
    pub(crate) client: Papers,
    /// Of an operator.
    pub(crate) admin: Papers,
    /// Of any node.
    pub(crate) node: Papers,
    home: tempfile::TempDir,
}

impl Mesh {
    /// Certificates and configurations; no process.
    pub(crate) fn planned(plan: Plan) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let pki = home.path().join("pki");
        std::fs::create_dir(&pki).expect("our own directory");
        let authority = Authority::new(CLUSTER).expect("an authority");
        authority.write(&pki).expect("our own directory");
        let issue = |role, name: &str, file: &str| {
            Papers::write(&pki, file, &authority.issue(role, name, 30).expect("a certificate"))
        };
        let (client, admin, node) =
            (issue(Role::Client, "app", "client"), issue(Role::Admin, "ops", "admin"), issue(Role::Node, "*", "node"));
        let mut mesh = Self { nodes: Vec::new(), relay: None, client, admin, node, home, plan };
        for number in 0..mesh.plan.nodes {
            mesh.add(&format!("node-{number}"));
        }
        if mesh.plan.relayed {
            assert_eq!(mesh.plan.shards, 1, "the relay has one address a node");
            let relay = Relay::start(mesh.nodes.iter().map(|node| node.address).collect());
            for (number, node) in mesh.nodes.iter_mut().enumerate() {
                node.reached = relay.front(number);
            }
            mesh.relay = Some(Arc::new(relay));
        }
        mesh
    }

    /// A mesh whose nodes are all ready and agree.
    pub(crate) fn start(plan: Plan) -> Self {
        let mut mesh = Self::planned(plan);
        for number in 0..mesh.nodes.len() {
            mesh.launch(number);
        }
        mesh.settle();
        mesh
    }

    /// The directory of everything; also where commands run.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The directory with `ca.pem` and `ca.key`.
    pub(crate) fn pki(&self) -> PathBuf {
        self.home().join("pki")
    }

    /// Adds a node that is not started; its number.
    pub(crate) fn add(&mut self, name: &str) -> usize {
        let number = self.nodes.len();
        let apart = self.plan.network.as_ref();
        let space = apart.map(|network| network.space(number));
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let address = apart.map_or_else(|| here(udp_block(self.plan.shards)), |network| network.address(number));
        let http = here(if apart.is_some() { 7480 } else { tcp_port() });
        let config = self.home().join(format!("{name}-{number}.toml"));
        self.nodes.push(Node { name: name.to_owned(), address, reached: address, http, config, process: None, space });
        number
    }

    fn write_config(&self, number: usize) {
        let node = &self.nodes[number];
        let seeds: Vec<_> = self.nodes.iter().map(|node| format!("{:?}", node.reached.to_string())).collect();
        let (ca, cert, key) = (&self.node.ca, &self.node.cert, &self.node.key);
        let data_dir = self.home().join(format!("data-{}", node.name));
        let kept = if self.plan.kept { format!("data_dir = {data_dir:?}\n") } else { String::new() };
        let elsewhere = node.reached != node.address;
        let advertise = if elsewhere { format!("advertise = \"{}\"\n", node.reached) } else { String::new() };
        let text = format!(
            "[cluster]\nname = \"{CLUSTER}\"\nbootstrap_expect = {}\n\
             [node]\nname = {:?}\nzone = \"z\"\nshards = {}\ndrain = \"5s\"\n{kept}\
             [transport]\nlisten = \"{}\"\n{advertise}seeds = [{}]\n\
             [tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n\
             [memory]\nlimit = {:?}\n[http]\nlisten = \"{}\"\n[log]\nlevel = \"info\"\nformat = \"json\"\n{}",
            self.plan.nodes,
            node.name,
            self.plan.shards,
            node.address,
            seeds.join(", "),
            self.plan.memory,
            node.http,
            self.plan.tables,
        );
        std::fs::write(&node.config, text).expect("our own directory");
    }

    /// `meshwork serve` for a node, with the plan's settings.
    pub(crate) fn serve(&self, number: usize) -> Command {
        self.write_config(number);
        let mut command = binary(self.home());
        command.arg("serve").arg("--config").arg(&self.nodes[number].config);
        for set in &self.plan.sets {
            command.arg("--set").arg(set);
        }
        command
    }

    /// Starts a node (again).
    pub(crate) fn launch(&mut self, number: usize) {
        let command = self.serve(number);
        self.launch_as(number, command);
    }

    /// Starts a node by this command.
    pub(crate) fn launch_as(&mut self, number: usize, command: Command) {
        let log = self.home().join(format!("{}.log", self.nodes[number].name));
        let node = &mut self.nodes[number];
        let start = || Process::start(&node.name, command, log);
        node.process = Some(match &node.space {
            Some(space) => space.within(start),
            None => start(),
        });
    }

    /// Kills a node as `kill -9` does; the others that run have seen it.
    pub(crate) fn kill(&mut self, number: usize) {
        self.nodes[number].process.as_mut().expect("the test started it").kill();
        self.nodes[number].process = None;
        self.see_down(number);
    }

    /// Waits until all others that run see a node down.
    pub(crate) fn see_down(&self, number: usize) {
        let others = self.nodes.iter().enumerate().filter(|(at, node)| *at != number && node.process.is_some());
        others.for_each(|(_, other)| other.sees(&self.nodes[number].name, "down"));
    }

    /// Starts a killed node again, until all are ready and agree.
    pub(crate) fn revive(&mut self, number: usize) {
        self.launch(number);
        self.settle();
    }

    /// Waits until every running node is ready and sees all of them alive in one layout that all have acknowledged.
    pub(crate) fn settle(&mut self) {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                let ended = process.ended();
                assert!(ended.is_none(), "{} ended: {ended:?}: {}", node.name, process.said());
            }
        }
        let running: Vec<_> = self.nodes.iter().filter(|node| node.process.is_some()).collect();
        for node in &running {
            wait_for(LIMIT, &format!("{} to be ready", node.name), || {
                let status = node.status()?;
                let members = status["members"].as_array().cloned().unwrap_or_default();
                let alive = |name: &str| {
                    let fits = |m: &&Value| m["name"] == name && m["role"] == "member" && m["health"] == "alive";
                    members.iter().any(|member| fits(&member))
                };
                let whole = running.iter().all(|other| alive(&other.name));
                if status["ready"] == true && status["layout_agreed"] == true && whole {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            });
        }
    }

    /// All addresses, for clients.
    pub(crate) fn seeds(&self) -> String {
        self.nodes.iter().map(|node| node.address.to_string()).collect::<Vec<_>>().join(",")
    }

    /// A command of a client that knows these seeds and shows these papers.
    pub(crate) fn command(&self, seeds: &str, papers: &Papers, arguments: &[&str]) -> Command {
        let mut command = binary(self.home());
        command.args(arguments).env("MESHWORK_SEEDS", seeds).env("MESHWORK_CA", &papers.ca);
        command.env("MESHWORK_CERT", &papers.cert).env("MESHWORK_KEY", &papers.key);
        command
    }

    /// Runs a user's command against the mesh.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Ran {
        finish(self.command(&self.seeds(), &self.client, arguments), LIMIT)
    }

    /// Runs a user's command that knows only one node.
    pub(crate) fn cli_at(&self, number: usize, arguments: &[&str]) -> Ran {
        finish(self.command(&self.nodes[number].address.to_string(), &self.client, arguments), LIMIT)
    }

    /// Runs an operator's command.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Ran {
        finish(self.command(&self.seeds(), &self.admin, arguments), LIMIT)
    }
}

/// Ports are handed out in blocks of ten from a place that differs between test processes.
fn next_block() -> u16 {
    const FIRST: u16 = 18_000;
    const BLOCKS: u16 = 1_400;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos();
    let draw = (u64::from(std::process::id()) * 7919 + u64::from(now)) % u64::from(BLOCKS);
    let start = u16::try_from(draw).expect("below BLOCKS");
    // The first caller fixes the start.
    let _ = NEXT.compare_exchange(0, start + 1, Ordering::Relaxed, Ordering::Relaxed);
    FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS * 10
}

/// The first of `count` neighbouring UDP ports that nobody uses.
pub(crate) fn udp_block(count: u16) -> u16 {
    assert!(count <= 10, "a block has ten ports");
    let free = |first: u16| (first..first + count).all(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    (0..1000).map(|_| next_block()).find(|first| free(*first)).expect("a machine with free ports")
}

/// A TCP port that nobody uses.
pub(crate) fn tcp_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..1000).map(|_| next_block()).find(free).expect("a machine with free ports")
}

/// A mesh that the tests of a file share while any of them uses it; the last one to let go ends it.
pub(crate) struct Shared(std::sync::Mutex<std::sync::Weak<Mesh>>);

impl Shared {
    /// Nothing is started yet.
    pub(crate) const fn new() -> Self {
        Self(std::sync::Mutex::new(std::sync::Weak::new()))
    }

    /// The mesh, started by `start` when there is none.
    pub(crate) fn get(&self, start: impl FnOnce() -> Mesh) -> Arc<Mesh> {
        // A test that failed while it started the mesh leaves nothing behind.
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let mesh = Arc::new(start());
            *shared = Arc::downgrade(&mesh);
            mesh
        })
    }
}
