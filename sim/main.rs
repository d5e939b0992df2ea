//! The simulator's command line (SIMULATION §7): run seeds, replay one, judge a history, prove determinism.
//!
//! Exit codes: 0 clean, 2 usage, 10 crash, 11 safety, 12 liveness, 13 unknown or missed class, 14 not deterministic.
#![forbid(unsafe_code)]

mod determinism;
mod failure;
mod growth;
mod planted;

use clap::{Parser, Subcommand};
use meshwork_sim::{
    checkers::{CHECKERS, Verdict},
    history::History,
    page,
    phases::Keep,
    plan::{Mix, Plan, parse_seed},
    runner::{self, Seeds},
};
use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

/// Every frame is a buffer of its own: the allocator decides a fifth of the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of bad input.
const USAGE: u8 = 2;
/// Exit code of a run that proves nothing.
const UNKNOWN: u8 = 13;
/// Seeds after which a run says how far it is.
const PROGRESS_EVERY: u64 = 500;

/// Deterministic simulator of meshwork clusters.
#[derive(Parser)]
#[command(name = "meshwork-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds.
    Run {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first: hexadecimal, #decimal, or a commit hash.
        #[arg(long, default_value = "0", value_parser = parse_seed)]
        from: u64,
        /// On so many threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Lean every seed on a mix of faults (F2, F4, ...).
        #[arg(long, value_parser = Mix::parse)]
        mix: Option<Mix>,
        /// Stop after so many failures.
        #[arg(long, default_value_t = 5)]
        failures: usize,
        /// Seconds to spend on shrinking the first failure; 0: none.
        #[arg(long, default_value_t = 60)]
        shrink: u64,
    },
    /// Run one seed or plan again, and show what happened.
    Replay {
        #[command(flatten)]
        of: Of,
        /// `full` prints every event, `ops` the history.
        #[arg(long)]
        log: Option<Log>,
        /// Write the history here, one JSON object a line.
        #[arg(long)]
        history: Option<PathBuf>,
        /// Write a page to look at here: nodes, messages, faults and operations over time.
        #[arg(long)]
        html: Option<PathBuf>,
    },
    /// Judge a history.
    Check {
        /// JSON lines, of the simulator or of real processes.
        history: PathBuf,
        /// Only by these checkers, which then must have something to judge.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Find the smallest plan that breaks the same.
    Shrink {
        #[command(flatten)]
        of: Of,
        /// Where to; the default is named after what breaks and the seed.
        #[arg(short)]
        output: Option<PathBuf>,
        /// Seconds to spend.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Prove that a run is a function of its plan: twice here, once in another process, and with another binary.
    Determinism {
        /// How many seeds.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value = "0", value_parser = parse_seed)]
        from: u64,
        /// Another build of this simulator, debug for instance.
        #[arg(long)]
        against: Option<PathBuf>,
    },
    /// Print the trace of seeds; what `determinism` compares.
    Trace {
        /// How many seeds.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value = "0", value_parser = parse_seed)]
        from: u64,
        /// Print the events from this one on, a checkpoint's worth.
        #[arg(long)]
        window: Option<u64>,
    },
    /// Plant each known bug and show that it is found (a build with `--features canaries`).
    Canaries {
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Replay the plan kept of each in this directory instead of hunting.
        #[arg(long, num_args = 0..=1, default_missing_value = "sim/plans", conflicts_with_all = ["seeds", "from", "write"])]
        plans: Option<PathBuf>,
        /// Write the smallest plan of each that is found into this directory.
        #[arg(long)]
        write: Option<PathBuf>,
        /// Seconds to spend on shrinking each.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Seeds to spend on each.
        #[arg(long, default_value_t = 2000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value = "0", value_parser = parse_seed)]
        from: u64,
    },
    /// Measure how membership and ring behave from 10 to 5,000 nodes; a table and plots.
    Scale(growth::Growth),
    /// Print or write the plan of a seed.
    Plan {
        #[command(flatten)]
        of: Of,
        /// Where to.
        #[arg(short)]
        output: Option<PathBuf>,
    },
}

/// Which run.
#[derive(clap::Args)]
struct Of {
    /// A seed: hexadecimal, #decimal, or a commit hash.
    #[arg(long, value_parser = parse_seed, required_unless_present = "plan", conflicts_with = "plan")]
    seed: Option<u64>,
    /// A file with a plan.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// The mix that the seed was leant on.
    #[arg(long, value_parser = Mix::parse, conflicts_with = "plan")]
    mix: Option<Mix>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Log {
    /// Every event.
    Full,
    /// Operations and faults.
    Ops,
    /// Faults, phases and what nodes tell their watchers.
    News,
}

impl Of {
    fn plan(&self) -> Result<Plan, String> {
        match (&self.seed, &self.plan) {
            (_, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Plan::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))
            }
            (Some(seed), None) => Ok(Plan::of_seed(*seed, self.mix)),
            (None, None) => Err("give --seed or --plan".to_owned()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run { seeds, from, jobs, mix, failures, shrink } => {
            run(Seeds { from, count: seeds, jobs, mix, failures_max: failures.max(1) }, shrink)
        }
        Command::Replay { of, log, history, html } => replay(&of, log, history.as_ref(), html.as_ref()),
        Command::Check { history, only } => check(&history, &only),
        Command::Shrink { of, output, seconds } => of.plan().and_then(|plan| failure::shrunk(&plan, output, seconds)),
        Command::Determinism { seeds, from, against } => determinism::prove(from, seeds, against.as_deref()),
        Command::Trace { seeds, from, window } => determinism::show(from, seeds, window),
        Command::Canaries { only, plans: Some(dir), .. } => planted::replay(&dir, &only),
        Command::Canaries { only, plans: None, seeds, from, write, seconds } => {
            let write = write.map(|dir| (dir, seconds));
            planted::hunt(&planted::Hunting { only, from, seeds, write })
        }
        Command::Scale(growth) => growth::scale(&growth),
        Command::Plan { of, output } => show_plan(&of, output.as_ref()),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(words) => {
            eprintln!("meshwork-sim: {words}");
            ExitCode::from(USAGE)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the runner around seeds measures real time; no seed sees it")]
fn run(seeds: Seeds, shrink_seconds: u64) -> Result<u8, String> {
    let started = Instant::now();
    let (mut done, mut failed) = (0, 0);
    let totals = runner::run(seeds, |seed, finding| {
        if let Some(finding) = finding {
            failure::tell(seed, seeds.mix, finding);
            failed += 1;
        }
        done += 1;
        if done % PROGRESS_EVERY == 0 && done < seeds.count {
            let (of, seconds) = (seeds.count, started.elapsed().as_secs());
            let left = seconds * (of - done) / done;
            eprintln!("{done} of {of} seeds, {failed} failed, {seconds} s; about {left} s to go");
        }
    });
    print!("{}", totals.report(started.elapsed(), seeds.jobs.max(1)));
    let code = totals.exit_code();
    if let Some((seed, _)) = totals.failures.first().filter(|_| shrink_seconds > 0) {
        failure::shrunk(&Plan::of_seed(*seed, seeds.mix), None, shrink_seconds)?;
    }
    match totals.missed(seeds.mix.is_some()) {
        Some(what) if code == 0 => {
            println!("UNKNOWN: {what}");
            Ok(UNKNOWN)
        }
        Some(_) | None => Ok(code),
    }
}

fn replay(of: &Of, log: Option<Log>, history: Option<&PathBuf>, html: Option<&PathBuf>) -> Result<u8, String> {
    let plan = of.plan()?;
    let window = if matches!(log, Some(Log::Full)) { 0..u64::MAX } else { 0..0 };
    let outcome = match runner::run_caught(&plan, &Keep { window, timeline: true }) {
        Ok(outcome) => outcome,
        Err(finding) => {
            failure::tell(plan.seed, of.mix, &finding);
            return Ok(finding.invariant.exit_code());
        }
    };
    for line in &outcome.log {
        println!("{line}");
    }
    if matches!(log, Some(Log::Ops)) {
        print!("{}", outcome.history.to_jsonl());
    }
    if let (Some(Log::News), Some(timeline)) = (log, &outcome.timeline) {
        for (at, machine, what) in &timeline.notes {
            let lane = machine.map_or(String::new(), |machine| format!("n{machine}"));
            println!("{} {lane:>4} {what}", meshwork_sim::timeline::clock(*at));
        }
    }
    if let Some(path) = history {
        fs::write(path, outcome.history.to_jsonl()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some((path, page)) = html.zip(page::of(&plan, &outcome)) {
        fs::write(path, page).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("look: {}", path.display());
    }
    println!(
        "seed {:x}: {} events, {} ms virtual, trace {:032x}, attempts {:?}",
        plan.seed, outcome.events, outcome.virtual_ms, outcome.trace, outcome.ended
    );
    for (checker, why) in &outcome.unknown {
        println!("unknown: {checker}: {why}");
    }
    if let Some(finding) = outcome.findings.first() {
        failure::tell(plan.seed, of.mix, finding);
    }
    // One seed may leave a checker idle; one in which nobody asked anything proves nothing at all.
    let idle = if outcome.ended.is_empty() { UNKNOWN } else { 0 };
    Ok(outcome.findings.first().map_or(idle, |finding| finding.invariant.exit_code()))
}

fn check(path: &PathBuf, only: &[String]) -> Result<u8, String> {
    if let Some(stranger) = only.iter().find(|name| CHECKERS.iter().all(|(known, _)| known != name)) {
        let known = CHECKERS.map(|(name, _)| name).join(", ");
        return Err(format!("there is no checker {stranger:?}; there are {known}"));
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let history = History::from_jsonl(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut code = 0;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    for (name, checker) in CHECKERS.into_iter().filter(|(name, _)| wanted(name)) {
        match checker(&history) {
            Verdict::Valid => println!("{name}: valid"),
            Verdict::Invalid(finding) => {
                println!("{name}: INVALID {finding}");
                code = finding.invariant.exit_code();
            }
            Verdict::Unknown(why) => {
                println!("{name}: UNKNOWN: {why}");
                code = if code == 0 { UNKNOWN } else { code };
            }
        }
    }
    Ok(code)
}

fn show_plan(of: &Of, output: Option<&PathBuf>) -> Result<u8, String> {
    let text = of.plan()?.to_json();
    match output {
        Some(path) => fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?,
        None => print!("{text}"),
    }
    Ok(0)
}
