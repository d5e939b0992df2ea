//! Determinism, tested: the same seed twice in one process, in another process, and in another build (SIMULATION §2).
//!
//! Another process has other addresses and other keys of std's hash maps; another build has other optimisations. Traces are
//! compared whole; a mismatch is narrowed by checkpoints to the first differing event, printed from both sides.

use meshwork_sim::{
    phases::Keep,
    plan::Plan,
    runner,
    trace::{CHECKPOINT_EVERY, first_difference},
};
use std::{ops::Range, path::Path, process::Command};

/// Exit code of a difference.
const DIFFERENT: u8 = 14;

/// What a run leaves: checkpoints, hash, events in words.
struct Left {
    checkpoints: Vec<u128>,
    hash: u128,
    log: Vec<String>,
}

fn here(seed: u64, window: Range<u64>) -> Result<Left, String> {
    let keep = Keep { window, timeline: false };
    let outcome = runner::run_caught(&Plan::of_seed(seed, None), &keep).map_err(|finding| finding.to_string())?;
    Ok(Left { checkpoints: outcome.checkpoints, hash: outcome.trace, log: outcome.log })
}

fn elsewhere(binary: &Path, seed: u64, window: Option<u64>) -> Result<Left, String> {
    let mut command = Command::new(binary);
    command.args(["trace", "--from", &format!("{seed:x}")]);
    if let Some(window) = window {
        command.args(["--window", &window.to_string()]);
    }
    let output = command.output().map_err(|error| format!("{}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let mut words = head.split(' ').skip(1).map(|word| u128::from_str_radix(word, 16));
    let hash =
        words.next().and_then(Result::ok).ok_or_else(|| format!("{} printed no trace: {head}", binary.display()))?;
    let checkpoints = words.map_while(Result::ok).collect();
    Ok(Left { checkpoints, hash, log: lines.map(str::to_owned).collect() })
}

/// Runs each seed in all ways and compares.
pub(crate) fn prove(from: u64, seeds: u64, against: Option<&Path>) -> Result<u8, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program's own file: {error}"))?;
    let others = [Some(own.as_path()), against];
    for nth in 0..seeds {
        let seed = from.wrapping_add(nth);
        let first = here(seed, 0..0)?;
        let second = here(seed, 0..0)?;
        if let Some(window) = first_difference((&first.checkpoints, first.hash), (&second.checkpoints, second.hash)) {
            let (a, b) = (here(seed, window.clone())?, here(seed, window)?);
            return Ok(differ(seed, "in one process", &a.log, &b.log));
        }
        for other in others.into_iter().flatten() {
            let there = elsewhere(other, seed, None)?;
            if let Some(window) = first_difference((&first.checkpoints, first.hash), (&there.checkpoints, there.hash)) {
                let (a, b) = (here(seed, window.clone())?, elsewhere(other, seed, Some(window.start))?);
                return Ok(differ(seed, &format!("in {}", other.display()), &a.log, &b.log));
            }
        }
    }
    println!(
        "{seeds} seeds: the same trace twice here, in another process{}",
        if against.is_some() { ", and in the other build" } else { "" }
    );
    Ok(0)
}

fn differ(seed: u64, whose: &str, a: &[String], b: &[String]) -> u8 {
    println!("NOT DETERMINISTIC seed {seed:x}: {whose} it ran otherwise");
    let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    println!("  here:  {}", a.get(at).map_or("nothing more", String::as_str));
    println!("  there: {}", b.get(at).map_or("nothing more", String::as_str));
    DIFFERENT
}

/// Prints traces: the seed, the hash, its checkpoints; then the events of a window.
pub(crate) fn show(from: u64, seeds: u64, window: Option<u64>) -> Result<u8, String> {
    for nth in 0..seeds {
        let seed = from.wrapping_add(nth);
        let range = window.map_or(0..0, |start| start..start + CHECKPOINT_EVERY);
        let left = here(seed, range)?;
        let checkpoints: Vec<String> = left.checkpoints.iter().map(|checkpoint| format!("{checkpoint:x}")).collect();
        println!("{seed:x} {:x} {}", left.hash, checkpoints.join(" "));
        for line in left.log {
            println!("{line}");
        }
    }
    Ok(0)
}
