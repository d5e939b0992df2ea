//! The command `scale`: what it is told, its progress, its table and its plots (`meshwork_sim::scale` measures).
//!
//! The table goes to stdout, progress to stderr, plots into a directory. Memory is looked at before the work begins: a run that
//! would be killed half way answers nothing. What it is not: no part of a measurement; those are functions of their settings.

use clap::{Args, ValueEnum};
use meshwork_sim::{
    plan::parse_seed,
    scale::{self, Settings, plots, swim::Effort},
};
use std::{fs, path::PathBuf, time::Instant};

/// What `scale` is told.
#[derive(Args)]
pub(crate) struct Growth {
    /// Sizes of meshes.
    #[arg(long, visible_alias = "nodes", value_delimiter = ',', default_value = "10,100,1000,5000")]
    sizes: Vec<usize>,
    /// Every draw comes from here: hexadecimal, #decimal, or a commit hash.
    #[arg(long, default_value = "0", value_parser = parse_seed)]
    seed: u64,
    /// Percent of datagrams lost.
    #[arg(long, default_value_t = 1.0)]
    loss: f64,
    /// Node hours to watch each mesh for false suspicions, at least.
    #[arg(long, default_value_t = Effort::default().node_hours)]
    node_hours: u32,
    /// Where the plots go; made if it is not there.
    #[arg(long, visible_alias = "plots", default_value = "target/scale")]
    out: PathBuf,
    /// How the answer is printed.
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people, in Markdown.
    Table,
    /// One object, with the curves of the plots.
    Json,
}

/// Measures, prints and draws.
#[expect(clippy::disallowed_methods, reason = "progress shows real time; no measurement sees it")]
pub(crate) fn scale(growth: &Growth) -> Result<u8, String> {
    if !(0.0..100.0).contains(&growth.loss) {
        return Err(format!("--loss {} is no percentage: give 0 to 49.9", growth.loss));
    }
    let effort = Effort { node_hours: growth.node_hours, ..Effort::default() };
    let settings = Settings::new(growth.sizes.clone(), growth.seed, (growth.loss * 10_000.0) as u32, effort)?;
    fits(settings.memory(), available())?;
    // Found out now and not after the minutes of work.
    fs::create_dir_all(&growth.out).map_err(|error| unwritable(&growth.out, &error))?;
    let started = Instant::now();
    let report = scale::run(&settings, &mut |line| eprintln!("{:>6.1} s  {line}", started.elapsed().as_secs_f64()));
    match growth.output {
        Output::Table => print!("{}", report.to_table()),
        Output::Json => print!("{}", report.to_json()),
    }
    for (name, drawing) in plots::of(&report) {
        let path = growth.out.join(name);
        fs::write(&path, drawing).map_err(|error| unwritable(&path, &error))?;
        eprintln!("{:>6.1} s  look: {}", started.elapsed().as_secs_f64(), path.display());
    }
    Ok(0)
}

fn unwritable(path: &std::path::Path, error: &std::io::Error) -> String {
    format!("{}: {error}: give another directory with --out", path.display())
}

/// Whether `needed` bytes are there, where that is known.
fn fits(needed: u64, available: Option<u64>) -> Result<(), String> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match available {
        Some(available) if needed > available => Err(format!(
            "the largest size needs about {:.1} GiB of memory and {:.1} GiB are free: leave it out of --sizes",
            gib(needed),
            gib(available)
        )),
        Some(_) | None => Ok(()),
    }
}

/// Free memory, bytes; `None` where the kernel does not say.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_that_does_not_fit_is_refused_before_the_work() {
        let refused = fits(30 << 30, Some(4 << 30)).unwrap_err();
        assert!(
            refused.contains("30.0 GiB") && refused.contains("4.0 GiB") && refused.contains("--sizes"),
            "{refused}"
        );
        assert_eq!(fits(1 << 20, Some(4 << 30)), Ok(()));
        assert_eq!(fits(30 << 30, None), Ok(()));
    }
}
