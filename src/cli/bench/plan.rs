//! The flags of `bench`, and the plan they make: presets first, then what is given on top.
//!
//! A preset (`--workload`, `--like`) only fills in what no flag says. Everything that cannot work is refused here, so
//! that a run that begins is a run that ends.

use super::{
    twitter::{self, Shape},
    workload::{Mix, STAMP_BYTES, Ttls, key_bytes_min},
};
use crate::{args::ClientArgs, failure::Failure, units};
use meshwork_core::{limits, wire::client::Consistency};
use std::time::Duration;

/// The flags.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Calls in flight in all, spread over the clients (closed loop: each waits for its answer)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    in_flight: Option<u32>,
    /// Open loop: so many calls begin each second, and latency counts from the intended begin
    #[arg(long, value_parser = rate, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Part of writes, in percent
    #[arg(long, value_parser = percent, value_name = "PERCENT")]
    writes: Option<f64>,
    /// How many keys there are
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 40), value_name = "N")]
    keys: Option<u64>,
    /// Length of a key
    #[arg(long, value_parser = units::size, value_name = "SIZE")]
    key_size: Option<u64>,
    /// Length of a value
    #[arg(long, value_parser = units::size, value_name = "SIZE")]
    value_size: Option<u64>,
    /// Zipf exponent of the keys' popularity; 0 is uniform
    #[arg(long, value_parser = exponent, value_name = "S")]
    zipf: Option<f64>,
    /// Time to live of every write
    #[arg(long, value_parser = units::ttl, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// Length of the measured phase
    #[arg(long, default_value = "10", value_parser = units::span, value_name = "SECONDS")]
    seconds: Duration,
    /// Length of the phase before it that is not measured
    #[arg(long, default_value = "1", value_parser = units::duration, value_name = "SECONDS")]
    warmup: Duration,
    /// Clients: threads, each with a runtime and a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256), value_name = "K")]
    clients: u32,
    /// How many replicas must answer, as r=2,w=2[,strict|,sloppy]; default: the namespace's
    #[arg(long, value_parser = units::consistency, value_name = "R,W")]
    consistency: Option<Consistency>,
    /// The namespace
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// A YCSB core workload: a (half writes), b (5 % writes), c (reads only); Zipf 0.99, values of 1000 bytes
    #[arg(long, value_parser = ["a", "b", "c"], conflicts_with = "like", value_name = "NAME")]
    workload: Option<String>,
    /// The shape of one of Twitter's cache clusters, as twitter:cluster52
    #[arg(long, value_parser = twitter::find, value_name = "twitter:CLUSTER")]
    like: Option<Shape>,
    /// Only write each key once
    #[arg(long, conflicts_with = "no_load")]
    load_only: bool,
    /// Do not write each key once before (--like does not: it fills on a miss)
    #[arg(long)]
    no_load: bool,
    /// Write what a read missed, as a cache's user does (always with --like)
    #[arg(long)]
    fill: bool,
    /// At the end, read back every acknowledged key and count what is lost
    #[arg(long)]
    verify: bool,
    /// Measure a node inside this process, through its local link: no sockets; the mesh that flags name is not asked
    #[arg(long)]
    pub(crate) embedded: bool,
    /// Memory limit of the embedded node
    #[arg(long, default_value = "1GiB", value_parser = units::size, value_name = "SIZE")]
    pub(crate) memory: u64,
    /// Shards (threads) of the embedded node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "K")]
    pub(crate) shards: u16,
    /// Seed of every draw
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| (0.0..=100.0).contains(p)).ok_or_else(|| "give a percentage from 0 to 100".to_owned())
}

fn exponent(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.0..=10.0).contains(s)).ok_or_else(|| "give an exponent from 0 to 10".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = "give calls a second, above 0 and at most 1e8".to_owned();
    text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1e8).ok_or(wrong)
}

/// What will be run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Operations.
    pub(crate) mix: Mix,
    /// Popularity of keys.
    pub(crate) zipf: f64,
    /// Times to live; none: the namespace's default.
    pub(crate) ttls: Ttls,
    /// How many keys.
    pub(crate) keys: u64,
    /// Their length.
    pub(crate) key_size: usize,
    /// The values' length.
    pub(crate) value_size: usize,
    /// Client threads.
    pub(crate) clients: u64,
    /// Calls in flight in all, at least one a client.
    pub(crate) in_flight: u64,
    /// Calls a second in an open loop.
    pub(crate) rate: Option<f64>,
    /// Measured phase; zero: only load.
    pub(crate) measure: Duration,
    /// Phase before it.
    pub(crate) warmup: Duration,
    /// Per request.
    pub(crate) consistency: Consistency,
    /// Where.
    pub(crate) namespace: String,
    /// Whether a miss is filled.
    pub(crate) fill: bool,
    /// Whether every key is written first.
    pub(crate) load: bool,
    /// Whether everything is read back.
    pub(crate) verify: bool,
    /// Of every draw.
    pub(crate) seed: u64,
    /// The name of what it looks like, for the report.
    shape: Option<String>,
}

/// Calls in flight of a closed loop that names none.
const IN_FLIGHT: u32 = 64;
/// Calls in flight of an open loop that names none: enough that the rate, not the slots, decides.
const IN_FLIGHT_OPEN: u32 = 2048;
/// Keys of a run that names none.
const KEYS: u64 = 100_000;
/// Keys of a run that is like a cluster: its working set is far larger than what a run touches.
const KEYS_LIKE: u64 = 1_000_000;

impl BenchArgs {
    /// The plan.
    ///
    /// # Errors
    /// Flags that do not fit each other.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        let ycsb = self.workload.as_deref();
        let like = self.like.as_ref();
        let keys = self.keys.unwrap_or(if like.is_some() { KEYS_LIKE } else { KEYS });
        let least = key_bytes_min(keys);
        let key_size = match (self.key_size, like) {
            (Some(size), _) => usize::try_from(size).unwrap_or(usize::MAX),
            (None, Some(shape)) => shape.key_bytes.max(least),
            (None, None) => 16.max(least),
        };
        if key_size < least || key_size > limits::KEY_BYTES_MAX {
            let max = limits::KEY_BYTES_MAX;
            return Err(Failure::usage(format!("--key-size {key_size} cannot number {keys} keys"))
                .next(format!("give {least} to {max} bytes, or other --keys")));
        }
        let value_size = match (self.value_size, like, ycsb) {
            (Some(size), ..) => size,
            (None, Some(shape), _) => shape.value_bytes as u64,
            (None, None, Some(_)) => 1000,
            (None, None, None) => 100,
        };
        if value_size > u64::from(limits::VALUE_BYTES_MAX) {
            return Err(Failure::usage(format!("--value-size {value_size} is more than any namespace allows"))
                .next(format!("give at most {} bytes", limits::VALUE_BYTES_MAX)));
        }
        // A stamped value needs room for its stamp; a cluster's one-byte values are then a little longer.
        let value_size = usize::try_from(value_size).unwrap_or(usize::MAX);
        let value_size = if self.verify { value_size.max(STAMP_BYTES) } else { value_size };
        let mix = match (self.writes, like, ycsb) {
            (Some(percent), ..) => Mix::of_writes(percent),
            (None, Some(shape), _) => shape.mix.clone(),
            (None, None, Some("a")) => Mix::of_writes(50.0),
            (None, None, Some("b")) => Mix::of_writes(5.0),
            (None, None, Some(_)) => Mix::of_writes(0.0),
            (None, None, None) => Mix::of_writes(10.0),
        };
        let ttls = match (self.ttl, like) {
            (Some(ttl), _) => Ttls::new(&[(ttl, 1.0)]),
            (None, Some(shape)) => shape.ttls.clone(),
            (None, None) => Ttls::new(&[]),
        };
        let default = if self.rate.is_some() { IN_FLIGHT_OPEN } else { IN_FLIGHT };
        let in_flight = u64::from(self.in_flight.unwrap_or(default.max(self.clients)));
        let clients = u64::from(self.clients);
        if in_flight < clients {
            return Err(Failure::usage(format!(
                "--in-flight {in_flight} leaves some of {clients} clients without a call"
            ))
            .next(format!("give --in-flight {clients} or more, or fewer --clients")));
        }
        if in_flight.div_ceil(clients) > 4096 {
            return Err(Failure::usage(format!(
                "--in-flight {in_flight} is above 4096 a client, which a client refuses"
            ))
            .next(format!("give --clients {} or more", in_flight.div_ceil(4096))));
        }
        if self.verify && keys < in_flight {
            return Err(Failure::usage(format!("--verify gives each of {in_flight} calls in flight keys of its own"))
                .next(format!("give --keys {in_flight} or more")));
        }
        Ok(Plan {
            mix,
            zipf: self.zipf.unwrap_or_else(|| like.map_or(if ycsb.is_some() { 0.99 } else { 0.0 }, |shape| shape.zipf)),
            ttls,
            keys,
            key_size,
            value_size,
            clients,
            in_flight,
            rate: self.rate,
            measure: if self.load_only { Duration::ZERO } else { self.seconds },
            warmup: if self.load_only { Duration::ZERO } else { self.warmup },
            consistency: self.consistency.unwrap_or_default(),
            namespace: self.namespace.clone(),
            fill: self.fill || like.is_some(),
            load: self.load_only || !(self.no_load || like.is_some()),
            verify: self.verify,
            seed: self.seed,
            shape: like.map(|shape| format!("twitter:{}", shape.name)).or(ycsb.map(|name| format!("ycsb:{name}"))),
        })
    }
}

impl Plan {
    /// Calls in flight of one client.
    pub(crate) fn slots(&self, client: u64) -> u64 {
        self.in_flight / self.clients + u64::from(client < self.in_flight % self.clients)
    }

    /// The number of a client's first slot among all.
    pub(crate) fn first_slot(&self, client: u64) -> u64 {
        (0..client).map(|before| self.slots(before)).sum()
    }

    /// The plan as the report shows it.
    pub(crate) fn describe(&self, embedded: bool) -> serde_json::Value {
        use super::workload::Op;
        let share = |op| (self.mix.share(op) * 10_000.0).round() / 100.0;
        serde_json::json!({
            "like": self.shape, "embedded": embedded, "namespace": self.namespace,
            "clients": self.clients, "in_flight": self.in_flight, "rate": self.rate,
            "seconds": self.measure.as_secs_f64(), "warmup": self.warmup.as_secs_f64(),
            "keys": self.keys, "key_size": self.key_size, "value_size": self.value_size, "zipf": self.zipf,
            "percent": {
                "get": share(Op::Get), "set": share(Op::Set), "add": share(Op::Add), "cas": share(Op::Cas),
                "delete": share(Op::Delete), "increment": share(Op::Increment),
            },
            "ttl_max": self.ttls.longest().map(|ttl| ttl.as_secs_f64()),
            "consistency": units::consistency_words(self.consistency), "fill": self.fill, "load": self.load,
            "verify": self.verify, "seed": self.seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Op;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(line: &str) -> Result<Plan, Failure> {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).unwrap().bench.plan()
    }

    #[test]
    fn a_preset_fills_in_what_no_flag_says() {
        let like = plan("--like twitter:cluster52 --value-size 50 --seconds 3").unwrap();
        assert_eq!((like.key_size, like.value_size, like.zipf), (20, 50, 1.2117));
        assert!(like.fill && !like.load);
        let a = plan("--workload a --zipf 0.5").unwrap();
        assert_eq!((a.value_size, a.zipf, a.mix.share(Op::Set)), (1000, 0.5, 0.5));
        assert!(a.load && !a.fill);
    }

    #[test]
    fn calls_in_flight_are_spread_over_all_clients() {
        let plan = plan("--in-flight 10 --clients 4").unwrap();
        assert_eq!((0..4).map(|client| plan.slots(client)).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!((0..4).map(|client| plan.first_slot(client)).collect::<Vec<_>>(), [0, 3, 6, 8]);
    }

    #[test]
    fn flags_that_do_not_fit_each_other_are_refused_with_what_would() {
        assert!(plan("--keys 1000000 --key-size 3").unwrap_err().to_string().contains("5 to 1024"));
        assert!(plan("--in-flight 2 --clients 4").unwrap_err().to_string().contains("--in-flight 4"));
        assert!(plan("--in-flight 9000").unwrap_err().to_string().contains("--clients 3"));
        assert!(plan("--verify --keys 10").unwrap_err().to_string().contains("--keys 64"));
        assert!(plan("--value-size 9MiB").unwrap_err().to_string().contains("8388608"));
    }
}
