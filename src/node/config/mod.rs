//! A node's configuration: read, checked, printed (INTERFACES §3).
//!
//! `Config::load` gives types, so that later code needs no checks of its own; `Config::check` does what needs this host
//! (files, addresses, memory). Errors name the place, what is wrong and what would do. Live reload is not here.

mod check;
mod error;
mod layers;
mod quantity;
mod schema;

pub use check::Problem;
pub use error::ConfigError;
pub use layers::Origin;
pub use quantity::MemoryLimit;
pub(crate) use quantity::bytes_for_people;

use layers::{Layers, Value};
use meshwork_core::{
    limits,
    namespace::Namespace,
    ring::role::{WEIGHT_MAX, ZONE_BYTES_MAX},
};
use meshwork_transport::{PostQuantum, TlsFiles};
use schema::SETTINGS;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `[cluster]`: must agree on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSection {
    /// The cluster's name.
    pub name: String,
    /// Copies of a key.
    pub n: u8,
    /// Arcs of the ring.
    pub partitions: u16,
    /// How many nodes make the first layout.
    pub bootstrap_expect: u16,
    /// Whether a newcomer takes the role of a down member of its name.
    pub replace_by_name: bool,
    /// `cluster.layout = "manual"`: joins, weights and zones wait for `plan commit`.
    pub manual_layout: bool,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSection {
    /// Label.
    pub name: String,
    /// Failure domain.
    pub zone: String,
    /// Share of the ring.
    pub weight: u16,
    /// Threads.
    pub shards: u16,
    /// Where identity, clock bound and the store are kept; `None`: diskless.
    pub data_dir: Option<PathBuf>,
    /// When a replica that could not compare itself votes in sloppy requests.
    pub warming_max: Duration,
    /// How long a stopping node waits for requests in flight.
    pub drain: Duration,
}

/// `[transport]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSection {
    /// UDP address of shard 0. Port 0: free ports, one after the other.
    pub listen: SocketAddr,
    /// Where others reach shard 0; `None`: found out at start.
    pub advertise: Option<String>,
    /// `host:port` of some nodes.
    pub seeds: Vec<String>,
}

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSection {
    /// The three PEM files.
    pub files: TlsFiles,
    /// Key exchange.
    pub post_quantum: PostQuantum,
}

/// `[storage]`: how the disk is used, where there is a `node.data_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageSection {
    /// Longest time that a stored write stays unsynced.
    pub sync_every: Duration,
    /// Most bytes that wait for the disk.
    pub queue: u64,
    /// Bytes of blocks kept in memory.
    pub cache: u64,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSection {
    /// A filter of `tracing-subscriber`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// Everything a node is told. Fields may be changed between `load` and `Node::start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What must agree.
    pub cluster: ClusterSection,
    /// This node.
    pub node: NodeSection,
    /// Sockets.
    pub transport: TransportSection,
    /// Certificates.
    pub tls: TlsSection,
    /// Hard limit of all shards together.
    pub memory: MemoryLimit,
    /// Whether transparent huge pages are welcome. The process's matter: a node inside another leaves it alone.
    pub huge_pages: bool,
    /// How the disk is used.
    pub storage: StorageSection,
    /// Address of the admin endpoint; `None`: there is none. Port 0: any free one.
    pub http: Option<SocketAddr>,
    /// Logging, for the binary.
    pub log: LogSection,
    /// Namespaces to create where they are missing.
    pub namespaces: Vec<Namespace>,
    sources: BTreeMap<&'static str, Source>,
}

/// One effective value, for `config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    value: String,
    origin: Origin,
}

/// One line of `config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// `section.key`.
    pub name: &'static str,
    /// The effective value, as TOML; empty when there is none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// Reads the file (if there is one), `MESHWORK_SECTION__KEY` of `environment`, and `sets` (`section.key=value`), the
    /// later over the earlier. `environment` is `std::env::vars()` for a process, and empty for a test.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would do.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let zone = environment.iter().find(|(name, _)| name == "MESHWORK_ZONE").map(|(_, zone)| zone.clone());
        let mut layers = Layers::read(path, environment, sets)?;
        fill_from_host(&mut layers, zone);
        Self::from_layers(&layers)
    }

    fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let read = Reader { layers };
        let n = read.within("cluster.n", 1..=i64::try_from(limits::COPIES_MAX).expect("copies are few"))?;
        let partitions: u16 = read.within("cluster.partitions", 1..=i64::from(limits::PARTITIONS_MAX))?;
        if !partitions.is_power_of_two() {
            let below = 1u16 << partitions.ilog2();
            return Err(read.bad("cluster.partitions", format!("take a power of two: {below} or {}", below * 2)));
        }
        let mut config = Self {
            cluster: ClusterSection {
                name: read.name("cluster.name", "set cluster.name to the cluster in this node's certificate")?,
                n,
                partitions,
                bootstrap_expect: read.within("cluster.bootstrap_expect", 1..=1024)?,
                replace_by_name: read.boolean("cluster.replace_by_name"),
                manual_layout: match read.text("cluster.layout").as_deref() {
                    Some("manual") => true,
                    Some("auto") | None => false,
                    Some(_) => return Err(read.bad("cluster.layout", "take \"auto\" or \"manual\"".to_owned())),
                },
            },
            node: NodeSection {
                name: read.name("node.name", "this host has no name to take: set node.name")?,
                zone: read.bounded("node.zone", ZONE_BYTES_MAX)?,
                weight: read.within("node.weight", 1..=i64::from(WEIGHT_MAX))?,
                shards: read.within("node.shards", 1..=i64::from(limits::SHARDS_MAX))?,
                data_dir: read.text("node.data_dir").filter(|dir| !dir.is_empty()).map(PathBuf::from),
                warming_max: read.parsed("node.warming_max", quantity::parse_duration)?,
                drain: read.parsed("node.drain", quantity::parse_duration)?,
            },
            transport: TransportSection {
                listen: read.parsed("transport.listen", address)?,
                advertise: match read.text("transport.advertise") {
                    Some(_) => Some(read.parsed("transport.advertise", host_and_port)?),
                    None => None,
                },
                seeds: read.seeds()?,
            },
            tls: TlsSection {
                files: TlsFiles::new(
                    read.required("tls.ca", TLS_FIX)?,
                    read.required("tls.cert", TLS_FIX)?,
                    read.required("tls.key", TLS_FIX)?,
                ),
                post_quantum: read.parsed("tls.pq", |text| match text {
                    "preferred" => Ok(PostQuantum::Preferred),
                    "required" => Ok(PostQuantum::Required),
                    _ => Err("take \"preferred\" or \"required\"".to_owned()),
                })?,
            },
            memory: read.parsed("memory.limit", MemoryLimit::parse)?,
            huge_pages: read.boolean("memory.huge_pages"),
            storage: StorageSection {
                sync_every: read.parsed("storage.sync_every", |text| match quantity::parse_duration(text)? {
                    every if every < crate::storage::LOOK_EVERY => {
                        Err("take 200ms or more; ack = fsync waits for each write".to_owned())
                    }
                    every => Ok(every),
                })?,
                queue: read.parsed("storage.queue", |text| size_within(text, QUEUE_BYTES))?,
                cache: read.parsed("storage.cache", |text| size_within(text, CACHE_BYTES))?,
            },
            http: read.parsed("http.listen", |text| match text {
                "off" => Ok(None),
                text => address(text).map(Some),
            })?,
            log: LogSection {
                level: read.text("log.level").unwrap_or_default(),
                format: read.parsed("log.format", |text| match text {
                    "auto" => Ok(LogFormat::Auto),
                    "text" => Ok(LogFormat::Text),
                    "json" => Ok(LogFormat::Json),
                    _ => Err("take \"auto\", \"text\" or \"json\"".to_owned()),
                })?,
            },
            namespaces: Vec::new(),
            sources: BTreeMap::new(),
        };
        for (namespace, origin) in &layers.namespaces {
            let refuse = |message: String| ConfigError::Namespace { origin: origin.clone(), message };
            namespace.check(config.cluster.n).map_err(|error| refuse(error.to_string()))?;
            if namespace.ack.is_durable() && config.node.data_dir.is_none() {
                let ack = namespace.ack.name();
                return Err(refuse(format!(
                    "{:?} has ack = \"{ack}\", and this node has no disk: set node.data_dir, or take ack = \"mem\"",
                    namespace.name
                )));
            }
            if config.namespaces.iter().any(|other| other.name == namespace.name) {
                return Err(refuse(format!("{:?} stands here twice; remove one", namespace.name)));
            }
            config.namespaces.push(namespace.clone());
        }
        config.sources = (layers.values.iter())
            .map(|(name, (value, origin))| (*name, Source { value: value.to_string(), origin: origin.clone() }))
            .collect();
        Ok(config)
    }

    /// Every setting with its effective value and origin, in the order of the file.
    pub fn show(&self) -> Vec<Shown> {
        let none = Source { value: String::new(), origin: Origin::Default };
        SETTINGS
            .iter()
            .map(|setting| {
                let source = self.sources.get(setting.name).unwrap_or(&none);
                Shown { name: setting.name, value: source.value.clone(), origin: source.origin.clone() }
            })
            .collect()
    }

    /// Where a setting came from, for complaints found after loading.
    pub(crate) fn origin(&self, name: &str) -> Origin {
        self.sources.get(name).map_or(Origin::Default, |source| source.origin.clone())
    }

    /// A file with every setting, its default and what it means: what `config init` writes.
    pub fn render_default() -> String {
        let mut text = String::from(
            "# A meshwork node. Each value may also come from MESHWORK_SECTION__KEY or --set section.key=value.\n",
        );
        let mut section = "";
        for setting in SETTINGS {
            if setting.section() != section {
                section = setting.section();
                let _ = write!(text, "\n[{section}]\n");
            }
            let _ = writeln!(text, "# {}", setting.doc);
            // What must be set stands uncommented, so that the file works once its names are right.
            let _ = match setting.default {
                Some(default) => writeln!(text, "{} = {default}", setting.key()),
                None if setting.doc.starts_with("Required") => {
                    writeln!(text, "{} = {}", setting.key(), setting.example)
                }
                None => writeln!(text, "# {} = {}", setting.key(), setting.example),
            };
        }
        text.push_str(
            "\n# Namespaces to create where they are missing; \"default\" is always there.\n# [[namespace]]\n\
             # name = \"users\"\n# n = 3\n# r = 2\n# w = 2\n# mode = \"sloppy\"       # strict\n\
             # ttl_default = 3600000  # milliseconds; absent: never\n# value_max = 1048576   # bytes\n\
             # eviction = \"on\"       # none: OutOfMemory instead\n\
             # ack = \"mem\"           # log: acknowledged when in the logs of w nodes too; fsync: and synced there\n",
        );
        text
    }
}

/// Bounds of `storage.queue` and `storage.cache`.
const QUEUE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;
const CACHE_BYTES: RangeInclusive<u64> = 1 << 20..=16 << 30;

const TLS_FIX: &str = "every link is encrypted; `meshwork cert init` and `meshwork cert node` write the three files";

fn size_within(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let size = quantity::parse_bytes(text)?;
    let bounds = (bytes_for_people(*range.start()), bytes_for_people(*range.end()));
    if range.contains(&size) { Ok(size) } else { Err(format!("take {} to {}", bounds.0, bounds.1)) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, like 0.0.0.0:7400 or [::]:7400".to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| text.to_owned()).ok_or_else(|| format!("{text:?} is no host:port, like mesh-0.mesh:7400"))
}

/// What is not written anywhere and can be found out here.
fn fill_from_host(layers: &mut Layers, zone: Option<String>) {
    let mut fill = |name: &'static str, value: Option<Value>, what: &'static str| {
        if let (None, Some(value)) = (layers.values.get(name), value) {
            layers.values.insert(name, (value, Origin::Host(what)));
        }
    };
    let file = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(Value::Text(text))
    };
    fill("node.name", file("/proc/sys/kernel/hostname").or_else(|| file("/etc/hostname")), "the host's name");
    fill("node.zone", zone.filter(|zone| !zone.is_empty()).map(Value::Text), "MESHWORK_ZONE");
    fill("node.zone", file("/etc/podinfo/zone"), "/etc/podinfo/zone");
    fill("node.zone", Some(Value::Text("unknown".to_owned())), "nothing: copies cannot spread over zones");
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(usize::from(limits::SHARDS_MAX)));
    fill("node.shards", i64::try_from(cores).ok().map(Value::Integer), "the cores");
}

/// Turns values into types; each complaint names the value's origin.
struct Reader<'a> {
    layers: &'a Layers,
}

impl Reader<'_> {
    fn bad(&self, name: &'static str, reason: String) -> ConfigError {
        let (value, origin) = &self.layers.values[name];
        ConfigError::BadValue { origin: origin.clone(), name, value: value.to_string(), reason }
    }

    fn text(&self, name: &'static str) -> Option<String> {
        match self.layers.values.get(name).map(|(value, _)| value) {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Integer(_) | Value::Boolean(_) | Value::Texts(_)) | None => None,
        }
    }

    fn required(&self, name: &'static str, fix: &str) -> Result<String, ConfigError> {
        self.text(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| ConfigError::Missing { name, fix: fix.to_owned() })
    }

    /// A name that can stand in a certificate's URI.
    fn name(&self, name: &'static str, fix: &str) -> Result<String, ConfigError> {
        let text = self.required(name, fix)?;
        let plain = text.len() <= meshwork_transport::NAME_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if plain { Ok(text) } else { Err(self.bad(name, "take 1 to 64 letters, digits, '.', '-', '_'".to_owned())) }
    }

    fn bounded(&self, name: &'static str, most: usize) -> Result<String, ConfigError> {
        let text = self.text(name).unwrap_or_default();
        if text.len() <= most { Ok(text) } else { Err(self.bad(name, format!("take at most {most} bytes"))) }
    }

    fn boolean(&self, name: &'static str) -> bool {
        matches!(self.layers.values.get(name), Some((Value::Boolean(true), _)))
    }

    fn within<T: TryFrom<i64>>(&self, name: &'static str, range: RangeInclusive<i64>) -> Result<T, ConfigError> {
        let integer = match &self.layers.values[name].0 {
            Value::Integer(integer) => *integer,
            Value::Text(_) | Value::Boolean(_) | Value::Texts(_) => unreachable!("{name} was read as an integer"),
        };
        let fitting = range.contains(&integer).then(|| T::try_from(integer).ok()).flatten();
        fitting.ok_or_else(|| self.bad(name, format!("take {} to {}", range.start(), range.end())))
    }

    fn parsed<T>(&self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(&self.text(name).unwrap_or_default()).map_err(|reason| self.bad(name, reason))
    }

    fn seeds(&self) -> Result<Vec<String>, ConfigError> {
        let texts = match &self.layers.values["transport.seeds"].0 {
            Value::Texts(texts) => texts.clone(),
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) => Vec::new(),
        };
        for text in &texts {
            host_and_port(text).map_err(|reason| self.bad("transport.seeds", reason))?;
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests;
