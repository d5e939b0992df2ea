//! Many seeds: each on one thread, several threads, panics caught, figures added up (SIMULATION §7).
//!
//! The one place of the simulator that measures real time and starts threads; what a seed does depends on neither. Results
//! are handed on in the order of seeds, whatever order they end in. A run in which a listed kind of fault, outcome or probe
//! never happened is reported as such: green and empty is not green.

use crate::{
    checkers::{Finding, Invariant},
    nemesis::Class,
    phases::{self, Keep, Outcome},
    plan::{Mix, Plan},
    probes::{self, MUST_HIT, SEEDS_FOR_PROBES},
};
use meshwork_core::stats::ShardStats;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

/// Runs a plan; a panic in it is a finding.
///
/// # Errors
/// The finding: which assertion broke.
pub fn run_caught(plan: &Plan, keep: &Keep) -> Result<Outcome, Finding> {
    catch_unwind(AssertUnwindSafe(|| phases::run(plan, keep))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Finding {
            invariant: Invariant::Panic,
            t: 0,
            what: words.unwrap_or_else(|| "a panic without words".to_owned()),
            ops: Vec::new(),
        }
    })
}

/// The first thing that broke in a plan, if anything does.
pub fn first_finding(plan: &Plan) -> Option<Finding> {
    match run_caught(plan, &Keep::default()) {
        Ok(outcome) => outcome.findings.into_iter().next(),
        Err(finding) => Some(finding),
    }
}

/// What a run of many seeds added up to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Seeds run.
    pub seeds: u64,
    /// Events.
    pub events: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Node-milliseconds of it.
    pub node_ms: u64,
    /// Of faults, how many by class.
    pub faults: BTreeMap<Class, u64>,
    /// Of probes, how often, and in how many seeds.
    pub probes: BTreeMap<&'static str, (u64, u64)>,
    /// Core's counters.
    pub stats: ShardStats,
    /// How clients' attempts ended.
    pub ended: BTreeMap<&'static str, u64>,
    /// Seeds in which a checker had nothing to judge.
    pub unknown: BTreeMap<&'static str, u64>,
    /// What broke: seed, first finding.
    pub failures: Vec<(u64, Finding)>,
}

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// On so many threads.
    pub jobs: usize,
    /// Lean all of them on this.
    pub mix: Option<Mix>,
    /// Stop after so many failures.
    pub failures_max: usize,
}

/// Runs them; `told` hears of each seed in order, with how it went.
pub fn run(seeds: Seeds, mut told: impl FnMut(u64, Option<&Finding>)) -> Totals {
    let next = AtomicU64::new(0);
    let stop = Mutex::new(false);
    let (sender, receiver) = mpsc::channel();
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        for _ in 0..seeds.jobs.max(1) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= seeds.count || *stop.lock().expect("nobody panics while holding it") {
                        return;
                    }
                    let plan = Plan::of_seed(seeds.from.wrapping_add(nth), seeds.mix);
                    let outcome = run_caught(&plan, &Keep::default()).map(|mut outcome| {
                        outcome.history.events = Vec::new();
                        outcome
                    });
                    if sender.send((nth, plan, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut due = 0;
        for (nth, plan, outcome) in receiver {
            early.insert(nth, (plan, outcome));
            while let Some((plan, outcome)) = early.remove(&due) {
                due += 1;
                let finding = totals.add(&plan, outcome);
                told(plan.seed, finding.as_ref());
                if let Some(finding) = finding {
                    totals.failures.push((plan.seed, finding));
                }
                if totals.failures.len() >= seeds.failures_max {
                    *stop.lock().expect("nobody panics while holding it") = true;
                }
            }
        }
    });
    totals
}

impl Totals {
    fn add(&mut self, plan: &Plan, outcome: Result<Outcome, Finding>) -> Option<Finding> {
        self.seeds += 1;
        for fault in &plan.faults {
            *self.faults.entry(fault.kind.class()).or_insert(0) += 1;
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(finding) => return Some(finding),
        };
        self.events += outcome.events;
        self.virtual_ms += outcome.virtual_ms;
        self.node_ms += outcome.virtual_ms * u64::from(plan.config.nodes);
        self.stats.add(&outcome.totals);
        for (name, count) in outcome.probes {
            let probe = self.probes.entry(name).or_insert((0, 0));
            (probe.0, probe.1) = (probe.0 + count, probe.1 + 1);
        }
        for (name, count) in outcome.totals.each().filter(|(_, count)| *count > 0) {
            let probe = self.probes.entry(name).or_insert((0, 0));
            (probe.0, probe.1) = (probe.0 + count, probe.1 + 1);
        }
        for (name, count) in outcome.ended {
            *self.ended.entry(name).or_insert(0) += count;
        }
        for (name, _) in outcome.unknown {
            *self.unknown.entry(name).or_insert(0) += 1;
        }
        outcome.findings.into_iter().next()
    }

    /// Exit code: the worst of what broke.
    pub fn exit_code(&self) -> u8 {
        self.failures.iter().map(|(_, finding)| finding.invariant.exit_code()).min().unwrap_or(0)
    }

    /// Figures for a person.
    pub fn report(&self, took: Duration, jobs: usize) -> String {
        let seconds = took.as_secs_f64().max(0.001);
        let mut text = format!(
            "{} seeds, {} failed; {} events, {:.0} events/s ({:.0} a core); {:.1} h virtual ({:.0}x real, {:.1} node-days); {:.0} seeds/h\n",
            self.seeds,
            self.failures.len(),
            self.events,
            self.events as f64 / seconds,
            self.events as f64 / seconds / jobs as f64,
            self.virtual_ms as f64 / 3_600_000.0,
            self.virtual_ms as f64 / 1000.0 / seconds,
            self.node_ms as f64 / 86_400_000.0,
            self.seeds as f64 * 3600.0 / seconds,
        );
        let list = |items: Vec<String>| items.join(", ");
        text += &format!(
            "attempts: {}\n",
            list(self.ended.iter().map(|(name, count)| format!("{name} {count}")).collect())
        );
        text += &format!(
            "faults: {}\n",
            list(self.faults.iter().map(|(class, count)| format!("{class:?} {count}")).collect())
        );
        text += &format!(
            "probes ({}): {}\n",
            self.probes.len(),
            list(self.probes.iter().map(|(name, (count, seeds))| format!("{name} {count} in {seeds}")).collect())
        );
        if !self.unknown.is_empty() {
            text += &format!(
                "seeds with nothing to judge: {}\n",
                list(self.unknown.iter().map(|(name, seeds)| format!("{name} {seeds}")).collect())
            );
        }
        let missing = probes::never(&self.probes);
        text += &format!("probes that must be hit: {} of {}", MUST_HIT.len() - missing.len(), MUST_HIT.len());
        text += &if missing.is_empty() { "\n".to_owned() } else { format!("; not {}\n", missing.join(", ")) };
        let never: Vec<String> = Class::ALL
            .iter()
            .filter(|class| !self.faults.contains_key(class))
            .map(|class| format!("{class:?}"))
            .collect();
        if !never.is_empty() {
            text += &format!("faults never drawn: {}\n", list(never));
        }
        text
    }

    /// What never happened in a run large enough that it should have: `None`, or words. A seed in which a checker had
    /// nothing to judge is no failure (swarm draws such seeds on purpose); a run in which no seed gave it anything is, unless
    /// it is `leant` on a mix, which leaves some trouble out for good.
    pub fn missed(&self, leant: bool) -> Option<String> {
        if self.seeds == 0 || self.ended.is_empty() {
            return Some("nothing ran".to_owned());
        }
        if leant || self.seeds < SEEDS_FOR_CLASSES {
            return None;
        }
        let never = Class::ALL.iter().find(|class| !self.faults.contains_key(class));
        let blind = self.unknown.iter().find(|(_, seeds)| **seeds + self.failures.len() as u64 >= self.seeds);
        match (never, blind) {
            (Some(class), _) => Some(format!("no fault of class {class:?} was drawn in {} seeds", self.seeds)),
            (None, Some((name, _))) => {
                Some(format!("the checker {name} never had anything to judge in {} seeds", self.seeds))
            }
            (None, None) if self.seeds >= SEEDS_FOR_PROBES => {
                let never = probes::never(&self.probes);
                (!never.is_empty()).then(|| format!("{} seeds never reached: {}", self.seeds, never.join(", ")))
            }
            (None, None) => None,
        }
    }
}

/// From so many seeds on, every class of fault must have been drawn and every checker have had something to judge.
const SEEDS_FOR_CLASSES: u64 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(seeds: u64, idle: u64) -> Totals {
        Totals {
            seeds,
            faults: Class::ALL.map(|class| (class, 1)).into(),
            ended: [("ok", 1)].into(),
            unknown: [("quorum", idle)].into(),
            ..Totals::default()
        }
    }

    #[test]
    fn idle_seeds_fail_no_run_unless_all_of_a_large_one_were_idle() {
        assert_eq!(totals(1_000, 999).missed(false), None);
        assert_eq!(totals(199, 199).missed(false), None);
        assert!(totals(200, 200).missed(false).is_some_and(|what| what.contains("quorum")));
        assert_eq!(totals(200, 200).missed(true), None);
    }

    #[test]
    fn ten_thousand_seeds_must_reach_every_probe() {
        let mut many = totals(SEEDS_FOR_PROBES, 0);
        many.probes = MUST_HIT.into_iter().map(|name| (name, (1, 1))).collect();
        assert_eq!(many.missed(false), None);
        many.probes.remove("restamps");
        assert!(many.missed(false).is_some_and(|what| what.contains("restamps")));
        many.seeds -= 1;
        assert_eq!(many.missed(false), None);
    }

    #[test]
    fn a_class_never_drawn_or_an_empty_run_is_told() {
        let mut few = totals(200, 0);
        few.faults.remove(&Class::Pause);
        assert!(few.missed(false).is_some_and(|what| what.contains("Pause")));
        few.seeds = 100;
        assert_eq!(few.missed(false), None);
        assert!(Totals { ended: BTreeMap::new(), ..totals(10, 0) }.missed(false).is_some());
    }
}
