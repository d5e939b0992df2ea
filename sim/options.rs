//! The cluster of a plan, drawn by swarm: each seed turns some features off and leans on others (SIMULATION §2; Groce et
//! al., "Swarm Testing", ISSTA 2012).
//!
//! What is here is fixed for the run: sizes, quorums, networks, clocks, who belongs to the core that is healed at the end.
//! What happens at a time is a fault (`nemesis`) or an operation (`workload`).

use crate::{
    keyed::{Purpose, Stream},
    plan::Mix,
};
use meshwork_core::namespace::Ack;
use serde::{Deserialize, Serialize};

/// A cluster and its surroundings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Machines, one node each.
    pub nodes: u16,
    /// Zones they are spread over.
    pub zones: u16,
    /// Shards of each machine's node.
    pub shards: Vec<u16>,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Copies.
    pub n: u8,
    /// Nodes that the first layout waits for.
    pub bootstrap_expect: u16,
    /// Whether a restart keeps identity and clock bound. Memory is always lost.
    pub disks: bool,
    /// Whether it keeps what shards store, too: namespaces may ask for that.
    #[serde(default)]
    pub durable: bool,
    /// Whether a joiner takes the place of a down member of its name.
    pub replace_by_name: bool,
    /// Memory of one shard, bytes.
    pub memory: u64,
    /// How long a replica that lost its memory stays out of sloppy votes, ms.
    pub warming_max_ms: u64,
    /// Namespaces beside `default`.
    pub spaces: Vec<Space>,
    /// The network when nothing breaks it.
    pub network: Network,
    /// Each machine's clock.
    pub clocks: Vec<ClockOptions>,
    /// Sessions of clients.
    pub clients: u16,
    /// Keys in use in each namespace.
    pub keys: u32,
    /// Longest delay until a shard sees its node's snapshot, microseconds.
    pub view_delay_us: u64,
    /// Length of the chaos, ms.
    pub chaos_ms: u64,
    /// Length of the silence with which the run ends, ms; 0: there is none.
    #[serde(default)]
    pub silence_ms: u64,
    /// Machines healed at its end; the others stay as broken as they are then.
    pub core: Vec<u16>,
    /// Whether ties of events are broken by a keyed hash instead of first come first served.
    pub shuffle: bool,
    /// Weight of each class of fault, in the order of `nemesis::CLASSES`.
    pub weights: Vec<u32>,
    /// The mix this seed leans on.
    pub mix: Option<Mix>,
}

/// A namespace of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// Copies.
    pub n: u8,
    /// Read votes.
    pub r: u8,
    /// Write votes.
    pub w: u8,
    /// Whether only Ready owners vote.
    pub strict: bool,
    /// Whether entries may be evicted.
    pub eviction: bool,
    /// Expiry of writes that name none, ms.
    pub ttl_default_ms: Option<u64>,
    /// What a vote for a write means.
    #[serde(default)]
    pub ack: Ack,
}

/// A network, and how often it misbehaves (per million messages).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Least one-way delay, microseconds.
    pub delay_us: u64,
    /// Mean of the tail above it, microseconds.
    pub tail_us: u64,
    /// Messages that take a second hump of a hundred tails.
    pub hump_ppm: u32,
    /// Datagrams lost. Streams resend: there it is delay.
    pub loss_ppm: u32,
    /// Data messages delivered twice. Streams of one connection never do; retries over another might.
    pub duplicate_ppm: u32,
    /// Data messages of which a copy comes 31 to 200 seconds late.
    pub late_ppm: u32,
    /// Frames of a type that nobody knows.
    pub unknown_ppm: u32,
    /// Frames cut short or overwritten with noise.
    pub damage_ppm: u32,
    /// A connection that hears nothing for so long is lost, ms.
    pub idle_ms: u64,
}

/// One machine's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockOptions {
    /// Wall minus true time at the start, ms.
    pub skew_ms: i64,
    /// Wall's drift, parts per million.
    pub drift_ppm: i64,
    /// Drift of the monotonic clock.
    pub mono_ppm: i64,
}

/// Skew up to this and drift over a whole run together stay within the bound that every promise assumes: two such clocks
/// differ by less than the fence (200 ms), so that nobody fences itself.
pub const SKEW_WITHIN_MS: u64 = 45;
const DRIFT_WITHIN_PPM: u64 = 25;

/// The configuration of `seed`.
pub(crate) fn draw(seed: u64, mix: Option<Mix>) -> Config {
    let stream = &mut Stream::new(seed, Purpose::Config, 0);
    let leans = stream.chance(250);
    let drawn = stream.pick(&Mix::ALL);
    let mix = mix.or(leans.then_some(drawn));
    let size = stream.below(100);
    let nodes = match size {
        0..4 => 1,
        4..10 => 2,
        10..45 => 3,
        45..75 => stream.between(4, 6),
        75..97 => stream.between(7, 12),
        _ => stream.between(13, 30),
    } as u16;
    let n = stream.pick(&[1u8, 2, 3, 3, 3, 3, 3, 4, 5]);
    let zones = stream.pick(&[1u16, 1, 2, 3, 3, 5]).min(nodes);
    let shards = (0..nodes).map(|_| stream.pick(&[1u16, 1, 1, 2, 2, 3])).collect();
    let partitions = stream.pick(&[16u16, 16, 64, 64, 256]);
    let bootstrap_expect = stream.between(u64::from(nodes / 2 + 1), u64::from(nodes)) as u16;
    let disks = !stream.chance(250);
    let replace_by_name = !disks || stream.chance(300);
    let tiny = stream.chance(250) || mix == Some(Mix::F20) || mix == Some(Mix::F8);
    // Hints get a twentieth: to show beyond what a shard sets aside they need some room, and large values.
    let sizes: &[u64; 4] = if mix == Some(Mix::F8) { &[512, 1024, 4096, 8192] } else { &[384, 512, 768, 1024] };
    let memory = if tiny { stream.pick(sizes) << 10 } else { 16 << 20 };
    let spaces = (0..stream.between(1, 4)).map(|at| space(stream, at, n)).collect();
    let hostile = stream.chance(350) || mix == Some(Mix::F9);
    let slow = stream.chance(150);
    let delay_us = if slow { stream.between(2_000, 20_000) } else { stream.between(50, 1_500) };
    let some = |stream: &mut Stream, on: bool, most: u64| {
        if on && stream.chance(500) { stream.between(1, most) as u32 } else { 0 }
    };
    let network = Network {
        delay_us,
        tail_us: stream.between(10, delay_us),
        hump_ppm: some(stream, true, 20_000),
        loss_ppm: some(stream, true, 50_000),
        duplicate_ppm: if mix == Some(Mix::F9) { 100_000 } else { some(stream, hostile, 100_000) },
        late_ppm: if mix == Some(Mix::F9) { 20_000 } else { some(stream, hostile, 20_000) },
        unknown_ppm: some(stream, hostile, 2_000),
        damage_ppm: some(stream, hostile, 500),
        idle_ms: stream.pick(&[3_000u64, 8_000, 8_000]),
    };
    let beyond = stream.chance(120) || (mix == Some(Mix::F5) && stream.chance(400));
    let off = stream.below(u64::from(nodes)) as u16;
    let perfect = stream.chance(300) && !beyond;
    let clocks = (0..nodes).map(|machine| clock(stream, perfect, beyond && machine == off)).collect();
    let lasting = stream.below(100);
    let chaos_ms = match lasting {
        0..70 => stream.between(10_000, 40_000),
        70..95 => stream.between(40_000, 120_000),
        _ => stream.between(120_000, 600_000),
    };
    let whole = stream.chance(500) || nodes < 3;
    let lost = if whole { 0 } else { stream.between(1, u64::from((nodes - 1) / 2)) };
    let mut core: Vec<u16> = (0..nodes).collect();
    for _ in 0..lost {
        core.remove(stream.below(core.len() as u64) as usize);
    }
    let weights = weights(stream, mix);
    let mut config = Config {
        nodes,
        zones,
        shards,
        partitions,
        n,
        bootstrap_expect,
        disks,
        durable: false,
        replace_by_name,
        memory,
        warming_max_ms: stream.pick(&[3_000u64, 20_000, 600_000]),
        spaces,
        network,
        clocks,
        clients: stream.between(1, 8) as u16,
        keys: if mix == Some(Mix::F20) { 200 } else { stream.pick(&[1u32, 3, 10, 40, 200]) },
        view_delay_us: stream.pick(&[0u64, 500, 5_000, 50_000]),
        chaos_ms,
        silence_ms: 0,
        core,
        shuffle: stream.chance(250),
        weights,
        mix,
    };
    make_durable(seed, &mut config);
    shrink_core(seed, &mut config);
    config
}

/// Whether shards store, and what namespaces ask for: from a stream of its own, which moves no other draw.
fn make_durable(seed: u64, config: &mut Config) {
    let stream = &mut Stream::new(seed, Purpose::Durable, 0);
    let leans = config.mix == Some(Mix::F21);
    config.disks |= leans;
    config.durable = config.disks && (leans || stream.chance(300));
    if config.durable {
        for space in &mut config.spaces {
            space.ack = stream.pick(&[Ack::Mem, Ack::Log, Ack::Log, Ack::Fsync]);
        }
    }
}

/// Whether no more machines are healed than sloppy writes need (L8), so that most owners of a key stay dead and stand-ins far
/// along the walk must serve: from a stream of its own, which moves no other draw.
fn shrink_core(seed: u64, config: &mut Config) {
    let stream = &mut Stream::new(seed, Purpose::Core, 0);
    let chosen = stream.chance(if config.mix == Some(Mix::F7) { 400 } else { 20 });
    let votes = config.spaces.iter().map(|space| space.w).max().unwrap_or_default();
    let least = usize::from(votes.max(2));
    if !chosen || config.nodes < 5 {
        return;
    }
    while config.core.len() > least {
        config.core.remove(stream.below(config.core.len() as u64) as usize);
    }
}

fn space(stream: &mut Stream, at: u64, cluster_n: u8) -> Space {
    let n = stream.between(1, u64::from(cluster_n)) as u8;
    let n = if stream.chance(700) { cluster_n } else { n };
    let strict = stream.chance(500);
    // Half of the namespaces have quorums that meet; those make the strong promises.
    let (r, w) = if stream.chance(600) {
        let w = stream.between(u64::from(n / 2 + 1), u64::from(n)) as u8;
        (n + 1 - w.min(n), w)
    } else {
        (stream.between(1, u64::from(n)) as u8, stream.between(1, u64::from(n)) as u8)
    };
    Space {
        name: format!("s{at}"),
        n,
        r,
        w,
        strict,
        eviction: stream.chance(600),
        ttl_default_ms: stream.chance(150).then(|| stream.between(500, 60_000)),
        ack: Ack::Mem,
    }
}

fn clock(stream: &mut Stream, perfect: bool, beyond: bool) -> ClockOptions {
    let sign = |stream: &mut Stream, most: u64| {
        let size = stream.below(most + 1) as i64;
        if stream.chance(500) { -size } else { size }
    };
    let (skew_ms, drift_ppm) = match (perfect, beyond) {
        (true, _) => (0, 0),
        (false, false) => (sign(stream, SKEW_WITHIN_MS), sign(stream, DRIFT_WITHIN_PPM)),
        (false, true) => (sign(stream, 3_600_000), sign(stream, 5_000)),
    };
    ClockOptions { skew_ms, drift_ppm, mono_ppm: if perfect { 0 } else { sign(stream, 200) } }
}

fn weights(stream: &mut Stream, mix: Option<Mix>) -> Vec<u32> {
    use crate::nemesis::Class;
    let lean: &[Class] = match mix {
        None => &[],
        Some(Mix::F2) => &[Class::Crash],
        Some(Mix::F3) => &[Class::Clone, Class::CrashOld],
        Some(Mix::F4) => &[Class::Cut, Class::Isolate],
        Some(Mix::F5) => &[Class::ClockJump, Class::ClockFreeze],
        Some(Mix::F6) => &[Class::Weight, Class::Leave, Class::Remove],
        Some(Mix::F7 | Mix::F8) => &[Class::Isolate, Class::Crash, Class::Pause],
        Some(Mix::F9) => &[Class::Reset],
        Some(Mix::F11) => &[Class::OneWay, Class::Flap, Class::Pause],
        Some(Mix::F14) => &[Class::Slow, Class::Pause],
        Some(Mix::F15) => &[Class::Rolling],
        Some(Mix::F17) => &[Class::Isolate, Class::Pause],
        Some(Mix::F20) => &[Class::Cut],
        Some(Mix::F21) => &[Class::Crash, Class::DiskStall],
    };
    let classes = Class::ALL.into_iter();
    classes
        .map(|class| {
            let on = stream.chance(500);
            let weight = stream.between(1, 100) as u32;
            if lean.contains(&class) {
                300
            } else if on {
                weight
            } else {
                0
            }
        })
        .collect()
}

impl Config {
    /// Whether it can be run.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn check(&self) -> Result<(), String> {
        let nodes = usize::from(self.nodes);
        let bad = |what: &str| Err(format!("config: {what}"));
        if !(1..=64).contains(&nodes) {
            return bad("nodes must be 1 to 64");
        }
        if self.shards.len() != nodes || self.clocks.len() != nodes {
            return bad("shards and clocks need one item a node");
        }
        if self.shards.iter().any(|shards| !(1..=4).contains(shards)) {
            return bad("a node has 1 to 4 shards");
        }
        if !self.partitions.is_power_of_two() || self.partitions > 4096 {
            return bad("partitions must be a power of two up to 4096");
        }
        if self.n == 0 || self.n > 8 || self.zones == 0 || self.clients == 0 || self.keys == 0 {
            return bad("n is 1 to 8; zones, clients and keys are at least 1");
        }
        if self.bootstrap_expect == 0 || usize::from(self.bootstrap_expect) > nodes {
            return bad("bootstrap_expect is 1 to the number of nodes, or nothing ever starts");
        }
        if self.weights.len() != crate::nemesis::Class::ALL.len() {
            return bad("weights need one item a class of faults");
        }
        if self.core.is_empty() || self.core.iter().any(|machine| *machine >= self.nodes) {
            return bad("the core needs at least one machine that exists");
        }
        if self.durable && !self.disks {
            return bad("what is durable needs disks");
        }
        if self.memory < 256 << 10 {
            return bad("memory must be at least 256 KiB a shard");
        }
        match self.spaces.iter().find(|space| {
            space.n == 0 || space.n > self.n || space.r == 0 || space.r > space.n || space.w == 0 || space.w > space.n
        }) {
            Some(space) => Err(format!("config: quorums of namespace {:?} make no sense", space.name)),
            None if self.spaces.is_empty() => bad("there is no namespace"),
            None => Ok(()),
        }
    }

    /// Whether every clock starts and drifts within the bound that the promises assume.
    pub fn clocks_within(&self) -> bool {
        let run_s = ((self.chaos_ms + self.silence_ms) / 1000 + 900) as i64;
        self.clocks.iter().all(|clock| clock.skew_ms.abs() + clock.drift_ppm.abs() * run_s / 1000 < 95)
    }

    /// The largest distance of a wall from true time, ms, without jumps.
    pub fn skew_max_ms(&self) -> u64 {
        let run_s = ((self.chaos_ms + self.silence_ms) / 1000 + 900) as i64;
        let most = self.clocks.iter().map(|clock| clock.skew_ms.abs() + clock.drift_ppm.abs() * run_s / 1000 + 1);
        most.max().unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_of_no_more_than_w_machines_is_rare_but_in_f7() {
        let is_small = |config: &Config| {
            let votes = config.spaces.iter().map(|space| usize::from(space.w)).max();
            config.nodes >= 5 && config.core.len() <= votes.unwrap_or_default().max(2)
        };
        let small = |mix| (0..300).filter(|seed| is_small(&draw(*seed, mix))).count();
        let (general, leaning) = (small(None), small(Some(Mix::F7)));
        assert!((1..40).contains(&general) && leaning > 2 * general, "{general} and {leaning} of 300 seeds");
    }
}
