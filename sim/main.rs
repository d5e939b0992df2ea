//! The simulator's command line (SIMULATION §7): run seeds, replay one, judge a history, prove determinism.
//!
//! Exit codes: 0 clean, 2 usage, 10 crash, 11 safety, 12 liveness, 13 unknown or missed class, 14 not deterministic.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use meshwork_core::canary::Canary;
use meshwork_sim::{
    canaries,
    checkers::{CHECKERS, Finding, Verdict},
    history::History,
    phases::Keep,
    plan::{Mix, Plan, parse_seed},
    runner::{self, Seeds},
};
use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

/// Exit code of bad input.
const USAGE: u8 = 2;
/// Exit code of a run that proves nothing.
const UNKNOWN: u8 = 13;

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
    },
    /// Judge a history.
    Check {
        /// JSON lines, of the simulator or of real processes.
        history: PathBuf,
    },
    /// Plant each known bug and show that it is found (a build with `--features canaries`).
    Canaries {
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Seeds to spend on each.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value = "0", value_parser = parse_seed)]
        from: u64,
    },
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
#[group(required = true, multiple = false)]
struct Of {
    /// A seed: hexadecimal, #decimal, or a commit hash.
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// A file with a plan.
    #[arg(long)]
    plan: Option<PathBuf>,
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
            (Some(seed), None) => Ok(Plan::of_seed(*seed, None)),
            (None, None) => Err("give --seed or --plan".to_owned()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run { seeds, from, jobs, mix, failures } => {
            run(Seeds { from, count: seeds, jobs, mix, failures_max: failures.max(1) })
        }
        Command::Replay { of, log, history } => replay(&of, log, history.as_ref()),
        Command::Check { history } => check(&history),
        Command::Canaries { only, seeds, from } => hunt(&only, seeds, from),
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

fn fail(seed: u64, finding: &Finding) {
    println!("FAIL {finding}   seed {seed:x}   commit {}", meshwork_sim::commit());
    println!("  repro: cargo run --release -p meshwork-sim -- replay --seed {seed:x}");
}

#[expect(clippy::disallowed_methods, reason = "the runner around seeds measures real time; no seed sees it")]
fn run(seeds: Seeds) -> Result<u8, String> {
    let started = Instant::now();
    let totals = runner::run(seeds, |seed, finding| {
        if let Some(finding) = finding {
            fail(seed, finding);
        }
    });
    print!("{}", totals.report(started.elapsed(), seeds.jobs.max(1)));
    let code = totals.exit_code();
    match totals.missed() {
        Some(what) if code == 0 => {
            println!("UNKNOWN: {what}");
            Ok(UNKNOWN)
        }
        Some(_) | None => Ok(code),
    }
}

fn replay(of: &Of, log: Option<Log>, history: Option<&PathBuf>) -> Result<u8, String> {
    let plan = of.plan()?;
    let window = if matches!(log, Some(Log::Full)) { 0..u64::MAX } else { 0..0 };
    let outcome = match runner::run_caught(&plan, &Keep { window, timeline: true }) {
        Ok(outcome) => outcome,
        Err(finding) => {
            fail(plan.seed, &finding);
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
    println!(
        "seed {:x}: {} events, {} ms virtual, trace {:032x}, attempts {:?}, nothing to judge for {:?}",
        plan.seed, outcome.events, outcome.virtual_ms, outcome.trace, outcome.ended, outcome.unknown
    );
    for finding in &outcome.findings {
        println!("FAIL {finding}");
    }
    Ok(outcome.findings.first().map_or(0, |finding| finding.invariant.exit_code()))
}

fn check(path: &PathBuf) -> Result<u8, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let history = History::from_jsonl(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut code = 0;
    for (name, checker) in CHECKERS {
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

/// Exit code of a planted bug that was not found: the tester is not to be trusted.
const BLIND: u8 = 13;

fn hunt(only: &[String], seeds: u64, from: u64) -> Result<u8, String> {
    if !meshwork_core::canary::CANARIES {
        return Err("this build cannot plant bugs: build with `--features canaries`".to_owned());
    }
    let all: Vec<Canary> = Canary::ALL.to_vec();
    let chosen: Vec<Canary> =
        all.into_iter().filter(|canary| only.is_empty() || only.iter().any(|name| format!("{canary:?}").eq_ignore_ascii_case(name))).collect();
    if chosen.is_empty() {
        return Err(format!("there is no such canary among {:?}", Canary::ALL));
    }
    let mut missed = Vec::new();
    for canary in &chosen {
        let hunt = canaries::hunt(*canary, from, seeds);
        match hunt.killed {
            Some((seeds, seed, invariant)) => println!("{canary:?} killed by {invariant} after {seeds} seeds (seed {seed:x}): {}", canary.words()),
            None => {
                println!("{canary:?} NOT FOUND in {seeds} seeds ({:?}): {}", hunt.otherwise, canary.words());
                missed.push(*canary);
            }
        }
    }
    println!("{} of {} planted bugs found", chosen.len() - missed.len(), chosen.len());
    Ok(if missed.is_empty() { 0 } else { BLIND })
}

fn show_plan(of: &Of, output: Option<&PathBuf>) -> Result<u8, String> {
    let text = of.plan()?.to_json();
    match output {
        Some(path) => fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?,
        None => print!("{text}"),
    }
    Ok(0)
}
