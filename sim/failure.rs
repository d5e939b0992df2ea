//! What a failure prints (SIMULATION §7): what broke, how to run it again, the smallest plan that breaks the same, a page
//! to look at, and one line of what happened.

use meshwork_sim::{
    checkers::Finding,
    history::{Event, History},
    page,
    phases::{Keep, Outcome},
    plan::{Mix, Plan},
    runner, shrink,
    timeline::clock,
};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Things that happened in the line, at most.
const STEPS_MAX: usize = 16;

/// What broke, and how to run it again.
pub(crate) fn tell(seed: u64, mix: Option<Mix>, finding: &Finding) {
    let commit = meshwork_sim::commit();
    println!("FAIL {}   seed {seed:x}   commit {commit}   00:{}", finding.invariant, clock(finding.t * 1_000));
    println!("  {}", finding.what);
    let mix = mix.map_or(String::new(), |mix| format!(" --mix {mix:?}"));
    println!("  repro: cargo run --release -p meshwork-sim -- replay --seed {seed:x}{mix}");
}

/// Shrinks a plan, writes the smallest with its page, and prints both; the exit code is that of what breaks.
///
/// # Errors
/// A file cannot be written.
#[expect(clippy::disallowed_methods, reason = "the budget of shrinking is real time; no run sees it")]
pub(crate) fn shrunk(plan: &Plan, output: Option<PathBuf>, seconds: u64) -> Result<u8, String> {
    let started = Instant::now();
    let mut go_on = || started.elapsed() < Duration::from_secs(seconds);
    let Some((mut small, finding, runs)) = shrink::shrink(plan, &mut go_on) else {
        println!("nothing breaks: there is nothing to shrink");
        return Ok(0);
    };
    let id = finding.invariant.words().split(' ').next().unwrap_or("x").to_lowercase();
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{id}-{:x}.json", plan.seed)));
    small.note = format!("{finding}");
    fs::write(&path, small.to_json()).map_err(|error| format!("{}: {error}", path.display()))?;
    let outcome = runner::run_caught(&small, &Keep { window: 0..0, timeline: true }).ok();
    let look = match outcome.as_ref().and_then(|outcome| page::of(&small, outcome)) {
        Some(page) => {
            let path = path.with_extension("html");
            fs::write(&path, page).map_err(|error| format!("{}: {error}", path.display()))?;
            format!(", look: {}", path.display())
        }
        // A panic leaves nothing to draw.
        None => String::new(),
    };
    println!(
        "  plan:  {} faults + {} ops on {} nodes -> {} faults + {} ops on {} after {runs} runs ({}){look}",
        plan.faults.len(),
        plan.ops.len(),
        plan.config.nodes,
        small.faults.len(),
        small.ops.len(),
        small.config.nodes,
        path.display()
    );
    println!("  {finding}");
    if let Some(outcome) = &outcome {
        println!("  {}", steps(outcome, &finding));
    }
    Ok(finding.invariant.exit_code())
}

/// One line of what happened: faults, and the operations that matter.
fn steps(outcome: &Outcome, finding: &Finding) -> String {
    let History { events, .. } = &outcome.history;
    let matters = |op: u64| finding.ops.is_empty() || finding.ops.contains(&op);
    let step = |event: &Event| match event {
        Event::Invoke(asked) if matters(asked.op) => {
            Some((asked.t, format!("{} {}/{} n{}", asked.f, asked.ns, asked.key, asked.node)))
        }
        Event::Fault { t, what } => what.strip_prefix("begin ").map(|what| (*t, what.to_owned())),
        Event::Founded { t } => Some((*t, "founded anew".to_owned())),
        // The fault that asked for it is told.
        Event::Flush { .. } | Event::Created { .. } => None,
        Event::Invoke(_) | Event::Ok(_) | Event::Fail(_) | Event::Maybe(_) | Event::Phase { .. } => None,
    };
    let all: Vec<(u64, String)> = events.iter().filter_map(step).collect();
    let last = all.len().saturating_sub(STEPS_MAX);
    let told = all[last..].iter().map(|(t, what)| format!("{} {what}", clock(t * 1_000)));
    let before = if last > 0 { format!("({last} before) ") } else { String::new() };
    before + &told.collect::<Vec<_>>().join(" | ")
}
