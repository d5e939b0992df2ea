//! What SWIM costs and how fast it is at one size: idle, joins, crashes, and silence that is none.
//!
//! One mesh a size, one line of time: it warms up, idles for a minute, and then, round after round, one node joins by three
//! seeds and another crashes, so that the size stays. At the end it goes on until enough node hours were watched for false
//! suspicions. Loss is there all the time. Times are those of the nodes that must learn: from the join, or from the crash.
//! Invariant: who did not learn in time is counted as missing, never left out of a maximum in silence.

use super::{
    Settings,
    mesh::{Belief, Mesh, News, STAGGER},
    report::{Quantiles, SwimRow},
};
use crate::{
    clock::{MS, Time},
    keyed::{Purpose, Stream},
};
use std::collections::BTreeSet;

const SECOND: Time = 1_000 * MS;
/// How long an idle mesh is measured.
const IDLE: Time = 60 * SECOND;
/// How long others are given to learn of a join.
const JOIN_MAX: Time = 60 * SECOND;
/// How long all are given to learn of a crash.
const CRASH_MAX: Time = 120 * SECOND;
/// Quiet after each round, so that the next one does not ride on its packets.
const SETTLE: Time = 10 * SECOND;
/// Seeds that a newcomer is told of.
const SEEDS: usize = 3;

/// How much is tried at a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Joins and crashes, at least.
    pub rounds_min: u32,
    /// At most; between the two, as many as make 20,000 learners.
    pub rounds_max: u32,
    /// Node hours watched for false suspicions, at least.
    pub node_hours: u32,
    /// Rings drawn of each kind, at most.
    pub rings_max: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { rounds_min: 5, rounds_max: 100, node_hours: 500, rings_max: 20 }
    }
}

impl Effort {
    fn rounds(self, size: usize) -> u32 {
        let wanted = u32::try_from(20_000 / size).unwrap_or(u32::MAX);
        wanted.clamp(self.rounds_min, self.rounds_max.max(self.rounds_min))
    }
}

/// One mesh and what was seen in it.
struct Trial {
    mesh: Mesh,
    /// Draws who joins where and who crashes.
    draws: Stream,
    crashed: BTreeSet<u32>,
    false_suspicions: u64,
    falsely_down: BTreeSet<u32>,
    row: SwimRow,
    join: Samples,
    crash: Samples,
    /// Until somebody's probes failed.
    suspected: Vec<Time>,
}

/// Times until one thing was learnt, ns.
#[derive(Default)]
pub(super) struct Samples {
    /// Of every learner in every round.
    pub(super) learners: Vec<Time>,
    /// Of each round's first.
    pub(super) first: Vec<Time>,
    /// Of every learner, since its round's first.
    pub(super) after_first: Vec<Time>,
    /// Of each round's last.
    pub(super) last: Vec<Time>,
    /// Who did not learn in time.
    pub(super) missing: u64,
}

/// Measures a mesh of `size`.
pub fn measure(size: usize, settings: &Settings, progress: &mut dyn FnMut(&str)) -> SwimRow {
    let mut told = 0;
    let mesh = Mesh::whole(size, settings.seed, settings.loss_ppm, &mut |made| {
        if made * 5 / size > told {
            told = made * 5 / size;
            progress(&format!("{size} nodes: {made} know all others"));
        }
    });
    let mut trial = Trial {
        mesh,
        draws: Stream::new(settings.seed, Purpose::Faults, size as u64),
        crashed: BTreeSet::new(),
        false_suspicions: 0,
        falsely_down: BTreeSet::new(),
        row: SwimRow { nodes: size, ..SwimRow::default() },
        join: Samples::default(),
        crash: Samples::default(),
        suspected: Vec::new(),
    };
    trial.pass(2 * STAGGER);
    let watched_from = trial.mesh.now();
    trial.idle();
    progress(&format!("{size} nodes: idle {} B/s a node", trial.row.idle_bytes));
    let rounds = settings.effort.rounds(size);
    for round in 1..=rounds {
        let joiner = trial.join();
        trial.pass(SETTLE);
        trial.crash(joiner);
        trial.pass(SETTLE);
        if round * 5 / rounds > (round - 1) * 5 / rounds {
            progress(&format!("{size} nodes: round {round} of {rounds}"));
        }
    }
    trial.row.rounds = rounds;
    let watch = Time::from(settings.effort.node_hours) * 3_600 * SECOND / size as u64;
    let left = (watched_from + watch).saturating_sub(trial.mesh.now());
    if left > 0 {
        progress(&format!("{size} nodes: watching for {} s of virtual time more", left / SECOND));
        trial.pass(left);
    }
    trial.ended(watched_from)
}

impl Trial {
    /// Time goes by; only false suspicions are of interest.
    fn pass(&mut self, time: Time) {
        self.watch(self.mesh.now() + time, &mut |_| {});
    }

    /// Goes on until `end`; `on_news` hears everything.
    fn watch(&mut self, end: Time, on_news: &mut dyn FnMut(&News)) {
        let (crashed, suspicions, down) = (&self.crashed, &mut self.false_suspicions, &mut self.falsely_down);
        self.mesh.run_until(end, &mut |news| {
            if !crashed.contains(&news.of) {
                match news.belief {
                    Belief::Suspected => *suspicions += 1,
                    Belief::Down => drop(down.insert(news.of)),
                    Belief::Up => {}
                }
            }
            on_news(news);
            false
        });
    }

    fn idle(&mut self) {
        let before = self.mesh.traffic.bytes;
        self.pass(IDLE);
        self.row.idle_bytes = (self.mesh.traffic.bytes - before) / (IDLE / SECOND) / self.mesh.live() as u64;
    }

    fn drawn(&mut self, but: u32) -> u32 {
        let living: Vec<u32> = self.mesh.living().filter(|node| *node != but).collect();
        self.draws.pick(&living)
    }

    /// A node joins; who learns of it and what it learns. Its index.
    fn join(&mut self) -> u32 {
        let start = self.mesh.now();
        let ignorant = self.mesh.living().collect();
        let joiner = self.mesh.add();
        let mut learning = Learning { start, ignorant, times: Vec::new() };
        for second in 1..=JOIN_MAX / SECOND {
            // As a node that dials its seeds until one answers.
            if self.mesh.known_to(joiner) == 0 {
                for _ in 0..SEEDS {
                    let seed = self.drawn(joiner);
                    self.mesh.announce(joiner, seed);
                }
            }
            self.watch(start + second * SECOND, &mut |news| {
                if news.of == joiner && news.belief == Belief::Up {
                    learning.hear(news.observer, news.at);
                }
            });
            if learning.ignorant.is_empty() {
                break;
            }
        }
        self.busiest(start);
        self.join.add(learning);
        self.mesh.introduce(joiner);
        joiner
    }

    /// A node other than `spared` crashes; who suspects it first, and who routes round it when.
    fn crash(&mut self, spared: u32) {
        let start = self.mesh.now();
        let victim = self.drawn(spared);
        let ignorant = self.mesh.living().filter(|node| *node != victim && self.mesh.is_up_at(*node, victim)).collect();
        let mut learning = Learning { start, ignorant, times: Vec::new() };
        self.crashed.insert(victim);
        self.mesh.crash(victim);
        let mut suspected = None;
        for second in 1..=CRASH_MAX / SECOND {
            self.watch(start + second * SECOND, &mut |news| {
                if news.of != victim {
                    return;
                }
                match news.belief {
                    Belief::Up => {}
                    Belief::Suspected => drop(suspected.get_or_insert(news.at - start)),
                    Belief::Down => learning.hear(news.observer, news.at),
                }
            });
            if learning.ignorant.is_empty() {
                break;
            }
        }
        self.busiest(start);
        self.suspected.extend(suspected);
        self.crash.add(learning);
    }

    /// Notes the busiest second since `start`.
    fn busiest(&mut self, start: Time) {
        let from = usize::try_from(start / SECOND).expect("virtual seconds fit");
        let bytes = self.mesh.by_second.iter().skip(from).max().copied().unwrap_or(0);
        self.row.busiest_bytes = self.row.busiest_bytes.max(bytes / self.mesh.live() as u64);
    }

    fn ended(mut self, watched_from: Time) -> SwimRow {
        let row = &mut self.row;
        row.join = Quantiles::of(&mut self.join.learners);
        row.join_all = Quantiles::of(&mut self.join.last);
        row.join_missing = self.join.missing;
        row.suspected = Quantiles::of(&mut self.suspected);
        row.down_first = Quantiles::of(&mut self.crash.first);
        row.crash = Quantiles::of(&mut self.crash.learners);
        row.crash_all = Quantiles::of(&mut self.crash.last);
        row.crash_missing = self.crash.missing;
        row.crash_curve = curve(&mut self.crash.after_first);
        row.largest_packet = self.mesh.traffic.largest;
        row.refused = self.mesh.refused();
        row.node_hours = (self.mesh.now() - watched_from) as f64 / (3_600 * SECOND) as f64 * row.nodes as f64;
        row.false_suspicions = self.false_suspicions;
        row.falsely_down = self.falsely_down.len() as u64;
        self.row
    }
}

/// Who learns one thing, and when.
pub(super) struct Learning {
    /// When it happened.
    pub(super) start: Time,
    /// Who does not know it yet.
    pub(super) ignorant: BTreeSet<u32>,
    /// How long the others took, rising.
    pub(super) times: Vec<Time>,
}

impl Learning {
    /// `observer` knows.
    pub(super) fn hear(&mut self, observer: u32, at: Time) {
        if self.ignorant.remove(&observer) {
            self.times.push(at - self.start);
        }
    }
}

impl Samples {
    /// One round more. One in which somebody did not learn in time has no last learner.
    pub(super) fn add(&mut self, learning: Learning) {
        self.missing += learning.ignorant.len() as u64;
        if let Some(first) = learning.times.first() {
            self.first.push(*first);
            self.after_first.extend(learning.times.iter().map(|time| time - first));
        }
        if learning.ignorant.is_empty() {
            self.last.extend(learning.times.last());
        }
        self.learners.extend(learning.times);
    }
}

/// The percentiles of `times` from 0 to 100, ms; they are sorted.
fn curve(times: &mut [Time]) -> Vec<f64> {
    let Some(last) = times.len().checked_sub(1) else { return Vec::new() };
    times.sort_unstable();
    (0..=100).map(|percent| times[last * percent / 100] as f64 / MS as f64).collect()
}
