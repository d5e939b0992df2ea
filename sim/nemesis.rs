//! Faults: what breaks, when, for how long; and the ledger of which promises a plan suspends (SIMULATION §2).
//!
//! A fault is plain data of the plan. Each class has its own weight, zero in half of the seeds; each fault is drawn from its
//! own key, so that no fault's details depend on the others'. Messages' small misfortunes (loss, duplicates, damage) are
//! rates in `options::Network` instead.
//!
//! The ledger is deliberately short: what a checker cannot prove was still promised, it does not judge. S3, S6, S9, S23
//! and "no panic" are never suspended.

use crate::{
    keyed::{Purpose, Stream},
    options::Config,
    plan::Mix,
};
use serde::{Deserialize, Serialize};

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Milliseconds after the chaos began.
    pub at_ms: u64,
    /// How long it lasts; of a crash: until the restart.
    pub for_ms: u64,
    /// What.
    pub kind: FaultKind,
}

/// What breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing passes between two machines.
    Cut {
        /// One.
        a: u16,
        /// The other.
        b: u16,
    },
    /// Nothing passes one way.
    OneWay {
        /// Sender.
        from: u16,
        /// Receiver.
        to: u16,
    },
    /// A machine is cut off from all others.
    Isolate {
        /// Which.
        machine: u16,
    },
    /// Two sides that cannot see each other.
    Split {
        /// One side; everybody else is the other.
        side: Vec<u16>,
    },
    /// As `Split`, but one machine sees both.
    Bridge {
        /// One side.
        side: Vec<u16>,
        /// Who sees both.
        machine: u16,
    },
    /// A cut that comes and goes.
    Flap {
        /// One.
        a: u16,
        /// The other.
        b: u16,
        /// Half of its period.
        period_ms: u64,
    },
    /// All connections of a machine are reset; what is in flight on them is lost.
    Reset {
        /// Whose.
        machine: u16,
    },
    /// Every message from or to a machine takes longer.
    Slow {
        /// Which.
        machine: u16,
        /// By how much.
        extra_us: u64,
    },
    /// Datagrams are lost.
    Loss {
        /// How many per million.
        ppm: u32,
    },
    /// A process stands still and then goes on.
    Pause {
        /// Which.
        machine: u16,
    },
    /// A process dies and starts again on its disk, if there are disks.
    Crash {
        /// Which.
        machine: u16,
    },
    /// As `Crash`, on an empty disk.
    Wipe {
        /// Which.
        machine: u16,
    },
    /// As `Crash`, on the disk as it was when the chaos began.
    CrashOld {
        /// Which.
        machine: u16,
    },
    /// A second process starts from a copy of the disk, at an address of its own, and dies at the end.
    Clone {
        /// Whose disk.
        machine: u16,
    },
    /// Every node is restarted, one after the other.
    Rolling {
        /// Between two.
        each_ms: u64,
    },
    /// All machines of a zone die and start again.
    Zone {
        /// Which.
        zone: u16,
    },
    /// A wall jumps; it stays so.
    ClockJump {
        /// Whose.
        machine: u16,
        /// By how much.
        ms: i64,
    },
    /// A wall stands still, and then is right again.
    ClockFreeze {
        /// Whose.
        machine: u16,
    },
    /// Nothing written becomes durable.
    DiskStall {
        /// Whose disk.
        machine: u16,
    },
    /// As `Crash`, and what was not synced is lost, up to a point that is drawn.
    PowerLoss {
        /// Which.
        machine: u16,
    },
    /// Power is lost everywhere at once.
    PowerCut,
    /// All processes die at once, and start again on their disks.
    CrashAll,
    /// What shards store is not kept.
    DiskFull {
        /// Whose disk.
        machine: u16,
    },
    /// As `Crash`, and a record of the disk is damaged.
    Damage {
        /// Which.
        machine: u16,
    },
    /// An administrator gives a node another share of the ring: partitions move.
    Weight {
        /// Whose.
        machine: u16,
        /// The new one.
        weight: u16,
    },
    /// An administrator lets a node leave.
    Leave {
        /// Which.
        machine: u16,
    },
    /// A machine dies, an administrator removes its node, and at the end another node starts there.
    Remove {
        /// Which.
        machine: u16,
    },
    /// An administrator empties a namespace.
    Flush {
        /// Which, in the order of `Config::spaces`.
        space: u8,
    },
    /// An administrator deletes a namespace, and makes it again as it was in the end.
    Delete {
        /// Which, in the order of `Config::spaces`.
        space: u8,
    },
    /// A client's connections are gone, with what it asked on them.
    Vanish {
        /// Which client.
        client: u16,
    },
}

/// The classes of faults: those drawn with weights, and those of disks that store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the fault of its name, documented there")]
pub enum Class {
    Cut,
    OneWay,
    Isolate,
    Split,
    Bridge,
    Flap,
    Reset,
    Slow,
    Loss,
    Pause,
    Crash,
    Wipe,
    CrashOld,
    Clone,
    Rolling,
    Zone,
    ClockJump,
    ClockFreeze,
    DiskStall,
    Weight,
    Leave,
    Remove,
    Vanish,
    PowerLoss,
    PowerCut,
    CrashAll,
    DiskFull,
    Damage,
    Flush,
    Delete,
}

impl Class {
    /// All with weights, in the order of `Config::weights`.
    pub const ALL: [Self; 23] = [
        Self::Cut,
        Self::OneWay,
        Self::Isolate,
        Self::Split,
        Self::Bridge,
        Self::Flap,
        Self::Reset,
        Self::Slow,
        Self::Loss,
        Self::Pause,
        Self::Crash,
        Self::Wipe,
        Self::CrashOld,
        Self::Clone,
        Self::Rolling,
        Self::Zone,
        Self::ClockJump,
        Self::ClockFreeze,
        Self::DiskStall,
        Self::Weight,
        Self::Leave,
        Self::Remove,
        Self::Vanish,
    ];
}

impl FaultKind {
    /// Its class.
    pub fn class(&self) -> Class {
        match self {
            Self::Cut { .. } => Class::Cut,
            Self::OneWay { .. } => Class::OneWay,
            Self::Isolate { .. } => Class::Isolate,
            Self::Split { .. } => Class::Split,
            Self::Bridge { .. } => Class::Bridge,
            Self::Flap { .. } => Class::Flap,
            Self::Reset { .. } => Class::Reset,
            Self::Slow { .. } => Class::Slow,
            Self::Loss { .. } => Class::Loss,
            Self::Pause { .. } => Class::Pause,
            Self::Crash { .. } => Class::Crash,
            Self::Wipe { .. } => Class::Wipe,
            Self::CrashOld { .. } => Class::CrashOld,
            Self::Clone { .. } => Class::Clone,
            Self::Rolling { .. } => Class::Rolling,
            Self::Zone { .. } => Class::Zone,
            Self::ClockJump { .. } => Class::ClockJump,
            Self::ClockFreeze { .. } => Class::ClockFreeze,
            Self::DiskStall { .. } => Class::DiskStall,
            Self::Weight { .. } => Class::Weight,
            Self::Leave { .. } => Class::Leave,
            Self::Remove { .. } => Class::Remove,
            Self::Vanish { .. } => Class::Vanish,
            Self::PowerLoss { .. } => Class::PowerLoss,
            Self::PowerCut => Class::PowerCut,
            Self::CrashAll => Class::CrashAll,
            Self::DiskFull { .. } => Class::DiskFull,
            Self::Damage { .. } => Class::Damage,
            Self::Flush { .. } => Class::Flush,
            Self::Delete { .. } => Class::Delete,
        }
    }

    /// Machines it names.
    pub fn machines(&self) -> impl Iterator<Item = u16> + '_ {
        let (one, two, many): (Option<u16>, Option<u16>, &[u16]) = match self {
            Self::Cut { a, b } | Self::Flap { a, b, .. } => (Some(*a), Some(*b), &[]),
            Self::OneWay { from, to } => (Some(*from), Some(*to), &[]),
            Self::Bridge { side, machine } => (Some(*machine), None, side),
            Self::Split { side } => (None, None, side),
            Self::Isolate { machine }
            | Self::Reset { machine }
            | Self::Slow { machine, .. }
            | Self::Pause { machine }
            | Self::Crash { machine }
            | Self::Wipe { machine }
            | Self::CrashOld { machine }
            | Self::Clone { machine }
            | Self::ClockJump { machine, .. }
            | Self::ClockFreeze { machine }
            | Self::Weight { machine, .. }
            | Self::Leave { machine }
            | Self::Remove { machine }
            | Self::PowerLoss { machine }
            | Self::DiskFull { machine }
            | Self::Damage { machine }
            | Self::DiskStall { machine } => (Some(*machine), None, &[]),
            Self::Loss { .. }
            | Self::Rolling { .. }
            | Self::Zone { .. }
            | Self::PowerCut
            | Self::CrashAll
            | Self::Flush { .. }
            | Self::Delete { .. }
            | Self::Vanish { .. } => (None, None, &[]),
        };
        one.into_iter().chain(two).chain(many.iter().copied())
    }
}

/// The faults of `seed` for this cluster.
pub(crate) fn draw(seed: u64, config: &Config) -> Vec<Fault> {
    let mut faults = weighed(seed, config);
    if config.durable {
        faults.extend(of_disks(seed, config));
    }
    faults.extend(flushes(seed, config));
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

/// One to three flushes in one seed of ten: from a stream of its own, which moves no other draw.
fn flushes(seed: u64, config: &Config) -> Vec<Fault> {
    let stream = &mut Stream::new(seed, Purpose::Flush, 0);
    if !stream.chance(100) && config.mix != Some(Mix::F17) {
        return Vec::new();
    }
    let count = stream.between(1, 3);
    let one = |_| {
        let space = stream.below(config.spaces.len() as u64) as u8;
        Fault { at_ms: stream.below(config.chaos_ms), for_ms: 1, kind: FaultKind::Flush { space } }
    };
    (0..count).map(one).chain(deletion(seed, config)).collect()
}

/// A namespace deleted and made again in a part of the seeds that flush: from a stream of its own, too.
fn deletion(seed: u64, config: &Config) -> Option<Fault> {
    let stream = &mut Stream::new(seed, Purpose::Flush, 1);
    if !stream.chance(if config.mix == Some(Mix::F17) { 500 } else { 300 }) {
        return None;
    }
    // Made again before most have heard, once all have, and in some seeds not before the chaos is over, which is never.
    let for_ms = stream.pick(&[20u64, 300, 2_000, 15_000]);
    let space = stream.below(config.spaces.len() as u64) as u8;
    Some(Fault { at_ms: stream.below(config.chaos_ms), for_ms, kind: FaultKind::Delete { space } })
}

/// What happens to disks that store; at most a few of each.
fn of_disks(seed: u64, config: &Config) -> Vec<Fault> {
    let stream = &mut Stream::new(seed, Purpose::Durable, 1);
    let most = if config.mix == Some(Mix::F21) { 8 } else { 3 };
    let count = stream.below(most + 1);
    let storm = stream.chance(if config.mix == Some(Mix::F21) { 800 } else { 200 });
    let (at_ms, for_ms) = (stream.below(config.chaos_ms), stream.between(200, 3_000));
    // All disks stand still for a while, and then all processes die: what was acknowledged meanwhile was a lie.
    let stalls = (0..config.nodes).map(|machine| FaultKind::DiskStall { machine });
    let stalls = stalls.map(|kind| Fault { at_ms, for_ms: for_ms + 500, kind });
    let crash = Fault { at_ms: at_ms + for_ms, for_ms: 1_000, kind: FaultKind::CrashAll };
    let storm = stalls.chain([crash]).filter(|_| storm);
    let faults = (0..count).map(|_| {
        let machine = stream.below(u64::from(config.nodes)) as u16;
        let kind = match stream.below(8) {
            0..2 => FaultKind::PowerLoss { machine },
            2 => FaultKind::PowerCut,
            3..5 => FaultKind::CrashAll,
            5..7 => FaultKind::DiskFull { machine },
            _ => FaultKind::Damage { machine },
        };
        Fault { at_ms: stream.below(config.chaos_ms), for_ms: stream.between(10, 8_000), kind }
    });
    faults.chain(storm).collect()
}

fn weighed(seed: u64, config: &Config) -> Vec<Fault> {
    let total: u64 = config.weights.iter().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let count = {
        let stream = &mut Stream::new(seed, Purpose::Faults, 0);
        let per_minute = stream.pick(&[1u64, 4, 12, 30]);
        (1 + stream.below(1 + per_minute * config.chaos_ms / 60_000 * 2)).min(120)
    };
    let mut faults: Vec<Fault> = (1..=count)
        .map(|nth| {
            let stream = &mut Stream::new(seed, Purpose::Faults, nth);
            let mut at = stream.below(total);
            let chosen = config.weights.iter().position(|weight| {
                let hit = at < u64::from(*weight);
                at = at.saturating_sub(u64::from(*weight));
                hit
            });
            let class = Class::ALL[chosen.expect("the draw is below the sum")];
            one(stream, class, config)
        })
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn one(stream: &mut Stream, class: Class, config: &Config) -> Fault {
    let nodes = u64::from(config.nodes);
    let machine = stream.below(nodes) as u16;
    let other = if nodes > 1 { ((u64::from(machine) + 1 + stream.below(nodes - 1)) % nodes) as u16 } else { machine };
    let side: Vec<u16> = (0..config.nodes).filter(|_| stream.chance(500)).collect();
    // Around what decides: a hiccup, a patience, a probe, a suspicion, an idle timeout, and well beyond.
    let for_ms = match stream.below(6) {
        0 => stream.between(10, 200),
        1 => stream.between(200, 1_500),
        2 => stream.between(1_500, 4_000),
        3 => stream.between(4_000, 12_000),
        4 => stream.between(12_000, 45_000),
        _ => stream.between(45_000, 120_000),
    };
    let at_ms = stream.below(config.chaos_ms);
    let kind = match class {
        Class::Cut => FaultKind::Cut { a: machine, b: other },
        Class::OneWay => FaultKind::OneWay { from: machine, to: other },
        Class::Isolate => FaultKind::Isolate { machine },
        Class::Split => FaultKind::Split { side },
        Class::Bridge => FaultKind::Bridge { side, machine },
        Class::Flap => FaultKind::Flap { a: machine, b: other, period_ms: stream.between(50, 4_000) },
        Class::Reset => FaultKind::Reset { machine },
        Class::Slow => {
            FaultKind::Slow { machine, extra_us: stream.pick(&[5_000u64, 50_000, 150_000, 400_000, 2_000_000]) }
        }
        Class::Loss => FaultKind::Loss { ppm: stream.pick(&[50_000u32, 200_000, 500_000]) },
        Class::Pause => FaultKind::Pause { machine },
        Class::Crash => FaultKind::Crash { machine },
        Class::Wipe => FaultKind::Wipe { machine },
        Class::CrashOld => FaultKind::CrashOld { machine },
        Class::Clone => FaultKind::Clone { machine },
        Class::Rolling => FaultKind::Rolling { each_ms: stream.between(500, 15_000) },
        Class::Zone => FaultKind::Zone { zone: stream.below(u64::from(config.zones)) as u16 },
        Class::ClockJump => {
            let size = stream.pick(&[20i64, 90, 150, 300, 800, 5_000, 60_000, 3_600_000]);
            FaultKind::ClockJump { machine, ms: if stream.chance(500) { size } else { -size } }
        }
        Class::ClockFreeze => FaultKind::ClockFreeze { machine },
        Class::DiskStall => FaultKind::DiskStall { machine },
        Class::Weight => FaultKind::Weight { machine, weight: stream.pick(&[10u16, 50, 100, 200, 400]) },
        Class::Leave => FaultKind::Leave { machine },
        Class::Remove => FaultKind::Remove { machine },
        Class::Vanish => FaultKind::Vanish { client: stream.below(u64::from(config.clients)) as u16 },
        Class::PowerLoss | Class::PowerCut | Class::CrashAll | Class::DiskFull | Class::Damage => {
            unreachable!("those have no weights: see `of_disks`")
        }
        Class::Flush | Class::Delete => unreachable!("those have no weights: see `flushes` and `deletion`"),
    };
    Fault { at_ms, for_ms, kind }
}

/// What a plan lets the checkers assume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Walls stay within the bound: TTLs and clocks are judged against true time.
    pub clocks: bool,
    /// Nobody loses memory: sloppy writes without stand-ins are judged like strict ones.
    pub memories: bool,
    /// One process an identity at a time.
    pub identities: bool,
}

impl Ledger {
    /// What `faults` leave standing in `config`.
    pub fn of(config: &Config, faults: &[Fault]) -> Self {
        let (mut clocks, mut memories, mut identities) = (config.clocks_within(), true, true);
        for fault in faults {
            match fault.kind {
                FaultKind::ClockJump { .. } | FaultKind::ClockFreeze { .. } => clocks = false,
                FaultKind::Crash { .. }
                | FaultKind::Wipe { .. }
                | FaultKind::Remove { .. }
                | FaultKind::CrashOld { .. }
                | FaultKind::PowerLoss { .. }
                | FaultKind::PowerCut
                | FaultKind::CrashAll
                | FaultKind::Damage { .. }
                | FaultKind::Rolling { .. }
                | FaultKind::Zone { .. } => memories = false,
                FaultKind::Clone { .. } => (memories, identities) = (false, false),
                FaultKind::Cut { .. }
                | FaultKind::OneWay { .. }
                | FaultKind::Isolate { .. }
                | FaultKind::Split { .. }
                | FaultKind::Bridge { .. }
                | FaultKind::Flap { .. }
                | FaultKind::Reset { .. }
                | FaultKind::Slow { .. }
                | FaultKind::Loss { .. }
                | FaultKind::Pause { .. }
                | FaultKind::DiskStall { .. }
                | FaultKind::DiskFull { .. }
                | FaultKind::Weight { .. }
                | FaultKind::Leave { .. }
                | FaultKind::Flush { .. }
                | FaultKind::Delete { .. }
                | FaultKind::Vanish { .. } => {}
            }
        }
        Self { clocks, memories, identities }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_drawn_by_some_seed_and_off_in_about_half() {
        let mut drawn = std::collections::BTreeMap::new();
        for seed in 0..300 {
            let plan = crate::plan::Plan::of_seed(seed, None);
            let mut classes: Vec<Class> = plan.faults.iter().map(|fault| fault.kind.class()).collect();
            classes.sort_unstable();
            classes.dedup();
            for class in classes {
                *drawn.entry(class).or_insert(0) += 1;
            }
        }
        for class in Class::ALL {
            let seeds = drawn.get(&class).copied().unwrap_or(0);
            assert!((1..200).contains(&seeds), "{class:?} in {seeds} of 300 seeds");
        }
    }

    #[test]
    fn a_clone_suspends_more_than_a_cut() {
        let plan = crate::plan::Plan::of_seed(3, None);
        let fault = |kind| [Fault { at_ms: 0, for_ms: 1, kind }];
        let cut = Ledger::of(&plan.config, &fault(FaultKind::Cut { a: 0, b: 1 }));
        let clone = Ledger::of(&plan.config, &fault(FaultKind::Clone { machine: 0 }));
        assert!(cut.memories && cut.identities && !clone.identities && !clone.memories);
    }
}
