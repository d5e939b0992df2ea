//! The command `canaries`: hunting planted bugs by seeds, keeping the smallest plan of each, replaying the kept plans.
//!
//! Hunting proves the whole tester and takes minutes; replaying proves that nothing lost its sight and takes seconds, so that
//! is what runs before every merge. A kept plan must break the invariant its bug is known to break while the bug is planted,
//! and must be clean while it is not; a plan of a bug that was found (`bug-*.json`) must be clean.

use meshwork_core::canary::Canary;
use meshwork_sim::{canaries, phases::Keep, plan::Plan, runner, shrink};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Exit code of a planted bug that was not found: the tester is not to be trusted.
const BLIND: u8 = 13;
/// Exit code of a bad plan of a bug found earlier: it is back.
const BACK: u8 = 11;

/// Which bugs, and how long to look for each.
pub(crate) struct Hunting {
    pub(crate) only: Vec<String>,
    pub(crate) from: u64,
    pub(crate) seeds: u64,
    /// Where to write the smallest plan of each, and seconds to spend on shrinking it.
    pub(crate) write: Option<(PathBuf, u64)>,
}

fn chosen(only: &[String]) -> Result<Vec<Canary>, String> {
    if !meshwork_core::canary::CANARIES {
        return Err("this build cannot plant bugs: build with `--features canaries`".to_owned());
    }
    let named = |canary: &Canary| only.is_empty() || only.iter().any(|name| id(*canary).eq_ignore_ascii_case(name));
    let chosen: Vec<Canary> = Canary::ALL.iter().copied().filter(named).collect();
    let unknown = only.iter().find(|name| !Canary::ALL.iter().any(|canary| id(*canary).eq_ignore_ascii_case(name)));
    match unknown {
        Some(name) => Err(format!("there is no canary {name:?} among {:?}", Canary::ALL)),
        None => Ok(chosen),
    }
}

fn id(canary: Canary) -> String {
    format!("{canary:?}")
}

fn path_of(dir: &Path, canary: Canary) -> PathBuf {
    dir.join(format!("canary-{}.json", id(canary).to_lowercase()))
}

fn read(path: &Path) -> Result<Plan, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Plan::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Looks for each by seeds.
pub(crate) fn hunt(hunting: &Hunting) -> Result<u8, String> {
    let chosen = chosen(&hunting.only)?;
    let mut missed = 0;
    for canary in &chosen {
        let hunt = canaries::hunt(*canary, hunting.from, hunting.seeds);
        match hunt.killed {
            Some((seeds, seed, invariant)) => {
                println!("{canary:?} killed by {invariant} after {seeds} seeds (seed {seed:x}): {}", canary.words());
                if let Some((dir, seconds)) = &hunting.write {
                    keep(dir, *canary, seed, *seconds)?;
                }
            }
            None => {
                println!("{canary:?} NOT FOUND in {} seeds ({:?}): {}", hunting.seeds, hunt.otherwise, canary.words());
                missed += 1;
            }
        }
    }
    println!("{} of {} planted bugs found", chosen.len() - missed, chosen.len());
    Ok(if missed == 0 { 0 } else { BLIND })
}

/// Shrinks what found a planted bug and writes it.
#[expect(clippy::disallowed_methods, reason = "the budget of shrinking is real time; no run sees it")]
fn keep(dir: &Path, canary: Canary, seed: u64, seconds: u64) -> Result<(), String> {
    let plan = Plan::of_seed(seed, canaries::expected(canary).1);
    let started = Instant::now();
    let mut go_on = || started.elapsed() < Duration::from_secs(seconds);
    let shrunk = canaries::with(canary, || shrink::shrink(&plan, &mut go_on));
    let (mut small, finding, runs) =
        shrunk.ok_or("a seed that killed a canary is clean: runs are not deterministic")?;
    small.note = format!("{canary:?} {}: {}", canary.words(), finding.invariant);
    let path = path_of(dir, canary);
    fs::write(&path, small.to_json()).map_err(|error| format!("{}: {error}", path.display()))?;
    println!(
        "  {} faults + {} ops on {} nodes after {runs} runs: {}",
        small.faults.len(),
        small.ops.len(),
        small.config.nodes,
        path.display()
    );
    Ok(())
}

/// Replays the kept plans alone.
pub(crate) fn replay(dir: &Path, only: &[String]) -> Result<u8, String> {
    let chosen = chosen(only)?;
    let mut missed = 0;
    for canary in &chosen {
        let path = path_of(dir, *canary);
        if !path.exists() {
            println!("{canary:?} HAS NO PLAN ({}): {}", path.display(), canary.words());
            missed += 1;
            continue;
        }
        let plan = read(&path)?;
        if let Some(finding) = runner::first_finding(&plan) {
            println!("{canary:?}: its plan breaks {finding} with nothing planted");
            return Ok(finding.invariant.exit_code());
        }
        let found = canaries::with(*canary, || runner::first_finding(&plan));
        match found {
            Some(finding) if canaries::expected(*canary).0.contains(&finding.invariant) => {
                println!("{canary:?} killed by {}: {}", finding.invariant, canary.words());
            }
            other => {
                println!("{canary:?} NOT FOUND by {} ({other:?}): {}", path.display(), canary.words());
                missed += 1;
            }
        }
    }
    println!("{} of {} planted bugs found by their plans", chosen.len() - missed, chosen.len());
    let back = if only.is_empty() { bugs(dir)? } else { 0 };
    Ok(if back > 0 {
        back
    } else if missed > 0 {
        BLIND
    } else {
        0
    })
}

/// Replays the plans of bugs found earlier: none may be back.
fn bugs(dir: &Path) -> Result<u8, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("bug-") && name.ends_with(".json")
    });
    paths.sort();
    let mut code = 0;
    for path in &paths {
        let plan = read(path)?;
        match runner::run_caught(&plan, &Keep::default()) {
            Ok(outcome) if outcome.findings.is_empty() => {}
            Ok(outcome) => {
                println!("{} IS BACK: {}: {}", path.display(), plan.note, outcome.findings[0]);
                code = BACK;
            }
            Err(finding) => {
                println!("{} IS BACK: {}: {finding}", path.display(), plan.note);
                code = BACK;
            }
        }
    }
    println!("{} plans of bugs found earlier replayed", paths.len());
    Ok(code)
}
