//! A network of the kernel's own for one test: a namespace for each node, one for clients, and faults between them.
//!
//! Every node has one link, a pair of virtual interfaces, to a bridge in the clients' namespace. Namespaces have no names:
//! they live as long as something holds them open, so the kernel removes all of it when the test ends, however it ends, and
//! nothing of it is ever seen in the machine's own network. nftables lose and cut, always where packets arrive, so that a
//! sender learns nothing; tbf makes a link slow. A node's own loopback is never touched: its HTTP address can be asked from
//! inside while nothing else reaches it.
//!
//! Needs root, iproute2 (`ip`, `tc`) and `nft`, and a kernel with veth, bridge, nf_tables and tbf. `Network::new` says what
//! is missing. No netem: delay and reordering are `relay`'s.

use serde_json::Value;
use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    sync::Arc,
};

/// The interface of a node, inside its namespace.
const LINK: &str = "wire";
/// The bridge in the clients' namespace.
const BRIDGE: &str = "hub";

/// What `ip`, `tc`, `nft` and the kernel call a thing that this machine cannot do. Any other complaint is a fault of ours.
const CANNOT: [&str; 6] = [
    "Operation not permitted",
    "Permission denied",
    "not supported",
    "Unknown device type",
    "kind is unknown",
    "No such file or directory",
];

/// One network namespace, for as long as this or a process in it lives.
#[derive(Debug)]
pub(crate) struct Space(File);

impl Space {
    #[allow(unsafe_code, reason = "std knows no namespaces")]
    fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            // SAFETY: unshare(2) takes an integer; it moves this thread alone, which ends at once.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net").map(Self)
        });
        made.join().expect("it does not panic")
    }

    /// Does `work` on a thread inside. What it starts, threads and processes, is inside too.
    #[allow(unsafe_code, reason = "std knows no namespaces")]
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let descriptor = self.0.as_raw_fd();
        let inside = move || {
            // SAFETY: setns(2) takes two integers; the file is open while `self` is borrowed.
            let moved = unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "setns: {}", io::Error::last_os_error());
            work()
        };
        let done = std::thread::scope(|scope| {
            let name = std::thread::current().name().unwrap_or("inside").to_owned();
            std::thread::Builder::new().name(name).spawn_scoped(scope, inside).expect("a thread").join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a line of words inside; its output, or why this machine cannot.
    fn try_run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a line has a program"));
        command.args(words).stdin(Stdio::null());
        let ran = self.within(move || command.output()).map_err(|error| format!("{line}: {error}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if ran.status.success() {
            return Ok(text(ran.stdout));
        }
        let complaint = format!("`{line}`: {}", text(ran.stderr));
        assert!(CANNOT.iter().any(|words| complaint.contains(words)), "{complaint}");
        Err(complaint)
    }

    /// As `try_run`; it worked when the network was made, so it works.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Our table: what may be cut and lost here, and how much of it was.
    fn prepare(&self) -> Result<(), String> {
        for line in [
            "ip link set lo up",
            "nft add table inet faults",
            "nft add counter inet faults hit",
            "nft add chain inet faults arriving { type filter hook input priority 0 ; }",
        ] {
            self.try_run(line)?;
        }
        Ok(())
    }

    /// Drops what comes from others and fits, from now on.
    fn drop_arriving(&self, fits: &str) {
        self.run(&format!("nft add rule inet faults arriving iifname != lo {fits} counter name hit drop"));
    }
}

/// The network of one mesh.
#[derive(Debug)]
pub(crate) struct Network {
    hub: Space,
    nodes: Vec<Arc<Space>>,
}

impl Network {
    /// A network for so many nodes.
    ///
    /// # Errors
    /// What this machine lacks, in words for whoever runs the tests.
    pub(crate) fn new(nodes: u8) -> Result<Self, String> {
        for (program, package) in [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")] {
            if let Err(error) = Command::new(program).arg("-V").stdin(Stdio::null()).output() {
                return Err(format!("no {program}: {error} (apt-get install {package})"));
            }
        }
        let space = || Space::new().map_err(|error| format!("no network namespaces: {error} (run as root)"));
        let network =
            Self { hub: space()?, nodes: (0..nodes).map(|_| space().map(Arc::new)).collect::<Result<_, _>>()? };
        network.hub.prepare()?;
        network.hub.try_run(&format!("ip link add {BRIDGE} type bridge"))?;
        let clients = Self::host(0);
        network.hub.try_run(&format!("ip addr add {clients}/24 dev {BRIDGE}"))?;
        network.hub.try_run(&format!("ip link set {BRIDGE} up"))?;
        for (number, node) in (0..nodes).zip(&network.nodes) {
            node.prepare()?;
            let (port, process, file) = (Self::port(usize::from(number)), std::process::id(), node.0.as_raw_fd());
            let link = format!("ip link add {port} type veth peer name {LINK} netns /proc/{process}/fd/{file}");
            network.hub.try_run(&link)?;
            network.hub.try_run(&format!("ip link set {port} master {BRIDGE} up"))?;
            node.try_run(&format!("ip addr add {}/24 dev {LINK}", Self::host(number + 1)))?;
            node.try_run(&format!("ip link set {LINK} up"))?;
        }
        // Whatever a test may want later is wanted once now.
        for line in ["arriving numgen random mod 100 < 1 drop", "arriving ip saddr 10.0.0.0 counter name hit drop"] {
            network.hub.try_run(&format!("nft add rule inet faults {line}"))?;
        }
        network.hub.try_run(&format!("tc qdisc add dev {BRIDGE} root tbf rate 1mbit burst 16kb latency 1s"))?;
        network.hub.try_run(&format!("tc qdisc del dev {BRIDGE} root"))?;
        network.heal();
        Ok(network)
    }

    /// The address with that number; 0 is the clients'.
    fn host(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number + 1)
    }

    fn ip(node: usize) -> Ipv4Addr {
        Self::host(u8::try_from(node + 1).expect("few"))
    }

    /// The bridge's end of a node's link.
    fn port(node: usize) -> String {
        format!("node{node}")
    }

    /// Where a node listens for others.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        assert!(node < self.nodes.len(), "the network was made for {}", self.nodes.len());
        SocketAddr::from((Self::ip(node), 7400))
    }

    /// A node's namespace.
    pub(crate) fn space(&self, node: usize) -> Arc<Space> {
        Arc::clone(&self.nodes[node])
    }

    /// The clients' namespace.
    pub(crate) fn clients(&self) -> &Space {
        &self.hub
    }

    fn everywhere(&self) -> impl Iterator<Item = &Space> {
        std::iter::once(&self.hub).chain(self.nodes.iter().map(AsRef::as_ref))
    }

    /// So many of a hundred packets that arrive anywhere are lost, clients' included.
    pub(crate) fn lose(&self, percent: u8) {
        self.everywhere().for_each(|space| space.drop_arriving(&format!("numgen random mod 100 < {percent}")));
    }

    /// Nothing arrives at `to` that node `from` sent; the other direction goes on.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        assert_ne!(from, to, "a way leads from one node to another");
        self.nodes[to].drop_arriving(&format!("ip saddr {}", Self::ip(from)));
    }

    /// Nothing passes between a node and all other nodes; clients still reach it.
    pub(crate) fn isolate(&self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Nothing passes between a node and clients.
    pub(crate) fn hide(&self, node: usize) {
        self.nodes[node].drop_arriving(&format!("ip saddr {}", Self::host(0)));
        self.hub.drop_arriving(&format!("ip saddr {}", Self::ip(node)));
    }

    /// A node's link carries so many kbit/s, each way, and holds back what waits for up to 200 ms.
    pub(crate) fn slow(&self, node: usize, kbit: u32) {
        let shape = format!("root tbf rate {kbit}kbit burst 16kb latency 200ms");
        self.nodes[node].run(&format!("tc qdisc replace dev {LINK} {shape}"));
        self.hub.run(&format!("tc qdisc replace dev {} {shape}", Self::port(node)));
    }

    /// How often a slow link made a packet wait or dropped it, so far.
    pub(crate) fn slowed(&self, node: usize) -> u64 {
        let count = |space: &Space, link: &str| -> u64 {
            let said = space.run(&format!("tc -s -j qdisc show dev {link}"));
            let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            said[0]["overlimits"].as_u64().expect("tbf counts")
        };
        count(&self.nodes[node], LINK) + count(&self.hub, &Self::port(node))
    }

    /// A slow link is as fast as the others again.
    pub(crate) fn quicken(&self, node: usize) {
        self.nodes[node].run(&format!("tc qdisc del dev {LINK} root"));
        self.hub.run(&format!("tc qdisc del dev {} root", Self::port(node)));
    }

    /// Nothing is lost or cut any more.
    pub(crate) fn heal(&self) {
        self.everywhere().for_each(|space| drop(space.run("nft flush chain inet faults arriving")));
    }

    /// Packets lost and cut so far.
    pub(crate) fn lost(&self) -> u64 {
        let lost = |space: &Space| -> u64 {
            let said = space.run("nft -j list counter inet faults hit");
            let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            let all = said["nftables"].as_array().expect("a list");
            all.iter().find_map(|part| part["counter"]["packets"].as_u64()).expect("the counter is there")
        };
        self.everywhere().map(lost).sum()
    }
}
