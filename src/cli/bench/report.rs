//! What a run found: counts and latencies of each client thread, their sum, and the printed report.
//!
//! Latencies are nanoseconds in HDR histograms (three significant figures) and printed in microseconds. The keys
//! `ops_per_s p50_us p99_us p999_us max_us hit_ratio errors errors_by_kind retries` are a contract with scripts; more
//! keys may stand beside them.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// Longest latency that is told apart, ns: a minute; longer ones count as that.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Counts of one client thread.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Latency of every call that was measured, ns.
    latency: Histogram<u64>,
    /// Reads that were answered.
    pub(crate) gets: u64,
    /// Reads that found a value.
    pub(crate) hits: u64,
    /// Writes after a miss.
    pub(crate) fills: u64,
    /// Guarded writes whose condition was not met.
    pub(crate) unmet: u64,
    /// Failed calls by kind; a handful, so a list.
    errors: Vec<(&'static str, u64)>,
    /// One failed call's words, for people.
    sample: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds make sense");
        Self { latency, gets: 0, hits: 0, fills: 0, unmet: 0, errors: Vec::new(), sample: None }
    }
}

impl Tally {
    /// Counts a call that was answered after so long.
    pub(crate) fn answered(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// Counts a call that failed.
    pub(crate) fn failed(&mut self, kind: &'static str, words: impl FnOnce() -> String) {
        match self.errors.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, count)) => *count += 1,
            None => self.errors.push((kind, 1)),
        }
        self.sample.get_or_insert_with(words);
    }

    /// Calls answered.
    pub(crate) fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// Calls failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.iter().map(|(_, count)| count).sum()
    }

    /// One failed call's words.
    pub(crate) fn sample(&self) -> Option<&str> {
        self.sample.as_deref()
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.gets += other.gets;
        self.hits += other.hits;
        self.fills += other.fills;
        self.unmet += other.unmet;
        for (kind, count) in &other.errors {
            match self.errors.iter_mut().find(|(name, _)| name == kind) {
                Some((_, sum)) => *sum += count,
                None => self.errors.push((kind, *count)),
            }
        }
        if self.sample.is_none() {
            self.sample.clone_from(&other.sample);
        }
    }

    /// Forgets everything counted so far but the failures: the end of a warm-up.
    pub(crate) fn restart(&mut self) {
        let (errors, sample) = (std::mem::take(&mut self.errors), self.sample.take());
        *self = Self { errors, sample, ..Self::default() };
    }

    /// The latency below which this part (0 to 1) of the calls were answered, µs; 0 without calls.
    fn quantile_us(&self, part: f64) -> f64 {
        if self.latency.is_empty() { 0.0 } else { micros(self.latency.value_at_quantile(part)) }
    }
}

/// Microseconds with one decimal: the histogram knows no finer.
fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}

/// The report of one run, as printed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// 1.
    pub(crate) schema_version: u32,
    /// Calls answered in a second.
    pub(crate) ops_per_s: f64,
    /// Median latency, µs.
    pub(crate) p50_us: f64,
    /// Latency of 99 in 100, µs.
    pub(crate) p99_us: f64,
    /// Latency of 999 in 1,000, µs.
    pub(crate) p999_us: f64,
    /// The longest, µs.
    pub(crate) max_us: f64,
    /// Mean, µs.
    pub(crate) mean_us: f64,
    /// Reads that found a value; `None`: nothing was read.
    pub(crate) hit_ratio: Option<f64>,
    /// Calls that failed after all retries, in every phase.
    pub(crate) errors: u64,
    /// The same by kind.
    pub(crate) errors_by_kind: BTreeMap<String, u64>,
    /// Attempts beyond the first, made by the client library.
    pub(crate) retries: u64,
    /// Length of the measured phase.
    pub(crate) seconds: f64,
    /// Calls answered in it.
    pub(crate) ops: u64,
    /// Reads answered in it.
    pub(crate) gets: u64,
    /// Reads that found a value.
    pub(crate) hits: u64,
    /// Reads that found none.
    pub(crate) misses: u64,
    /// Writes after a miss.
    pub(crate) fills: u64,
    /// Guarded writes whose condition was not met.
    pub(crate) unmet: u64,
    /// Open loop: calls that were due and never begun; zero in a closed loop.
    pub(crate) behind: u64,
    /// The loading before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load: Option<LoadReport>,
    /// With `--verify`: keys that hold what was acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<u64>,
    /// With `--verify`: keys that do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<u64>,
    /// With `--verify`: keys that were evicted or expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gone: Option<u64>,
    /// What was run.
    pub(crate) config: serde_json::Value,
    /// Where.
    pub(crate) machine: Machine,
}

/// The loading of keys before a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LoadReport {
    /// Keys written.
    pub(crate) keys: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Keys written in a second.
    pub(crate) ops_per_s: f64,
}

/// The machine the load generator ran on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// The processor's name, where the system tells.
    pub(crate) cpu: Option<String>,
    /// Operating system and architecture.
    pub(crate) system: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn here() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

impl Report {
    /// The report of `tally`, measured for so long.
    pub(crate) fn new(tally: &Tally, elapsed: Duration, retries: u64, config: serde_json::Value) -> Self {
        let seconds = elapsed.as_secs_f64();
        let ops = tally.answers();
        Self {
            schema_version: 1,
            ops_per_s: if seconds > 0.0 { (ops as f64 / seconds).round() } else { 0.0 },
            p50_us: tally.quantile_us(0.5),
            p99_us: tally.quantile_us(0.99),
            p999_us: tally.quantile_us(0.999),
            max_us: micros(tally.latency.max()),
            mean_us: (tally.latency.mean() / 100.0).round() / 10.0,
            hit_ratio: (tally.gets > 0).then(|| tally.hits as f64 / tally.gets as f64),
            errors: tally.errors(),
            errors_by_kind: tally.errors.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            retries,
            seconds,
            ops,
            gets: tally.gets,
            hits: tally.hits,
            misses: tally.gets - tally.hits,
            fills: tally.fills,
            unmet: tally.unmet,
            behind: 0,
            load: None,
            verified: None,
            lost: None,
            gone: None,
            config,
            machine: Machine::here(),
        }
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut rows = vec![
            ("throughput", format!("{} ops/s", thousands(self.ops_per_s as u64))),
            ("latency p50", format!("{} µs", self.p50_us)),
            ("latency p99", format!("{} µs", self.p99_us)),
            ("latency p99.9", format!("{} µs", self.p999_us)),
            ("latency max", format!("{} µs", self.max_us)),
        ];
        if let Some(ratio) = self.hit_ratio {
            rows.push(("hit ratio", format!("{:.2} %", ratio * 100.0)));
        }
        let kinds: Vec<_> = self.errors_by_kind.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        rows.push(("errors", format!("{}{kinds}", thousands(self.errors))));
        rows.push(("retries", thousands(self.retries)));
        rows.push(("calls", format!("{} in {:.1} s", thousands(self.ops), self.seconds)));
        if self.fills > 0 {
            rows.push(("fills", thousands(self.fills)));
        }
        if self.behind > 0 {
            rows.push(("behind", format!("{} calls were due and never begun", thousands(self.behind))));
        }
        if let Some(load) = self.load {
            let rate = thousands(load.ops_per_s as u64);
            rows.push(("loaded", format!("{} keys in {:.1} s ({rate}/s)", thousands(load.keys), load.seconds)));
        }
        if let (Some(verified), Some(lost), Some(gone)) = (self.verified, self.lost, self.gone) {
            let (verified, lost, gone) = (thousands(verified), thousands(lost), thousands(gone));
            rows.push(("verified", format!("{verified} keys, {lost} lost, {gone} evicted or expired")));
        }
        let cpu = self.machine.cpu.as_deref().unwrap_or("unknown processor");
        rows.push(("machine", format!("{} cores, {cpu}, {}", self.machine.cores, self.machine.system)));
        crate::output::pairs(&rows)
    }
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_scripts_read_are_all_there() {
        let mut tally = Tally { gets: 4, hits: 3, ..Tally::default() };
        tally.answered(Duration::from_micros(100));
        tally.failed("timeout", || "words".to_owned());
        let report = Report::new(&tally, Duration::from_secs(1), 7, serde_json::json!({}));
        let json = serde_json::to_value(&report).unwrap();
        let keys =
            ["ops_per_s", "p50_us", "p99_us", "p999_us", "max_us", "hit_ratio", "errors", "errors_by_kind", "retries"];
        for key in keys {
            assert!(json.get(key).is_some(), "{key} is missing: {json}");
        }
        assert_eq!(json["errors"], 1);
        assert_eq!(json["errors_by_kind"]["timeout"], 1);
        assert_eq!(json["hit_ratio"], 0.75);
        assert_eq!(json["retries"], 7);
        assert!((json["p50_us"].as_f64().unwrap() - 100.0).abs() < 0.2, "{json}");
        assert!(json.get("lost").is_none(), "only with --verify");
    }

    #[test]
    fn threads_add_up_and_a_warm_up_keeps_only_failures() {
        let (mut a, mut b) = (Tally::default(), Tally::default());
        a.answered(Duration::from_micros(1));
        b.answered(Duration::from_micros(3));
        b.failed("overloaded", String::new);
        a.failed("overloaded", String::new);
        a.add(&b);
        assert_eq!((a.answers(), a.errors()), (2, 2));
        a.restart();
        assert_eq!((a.answers(), a.errors()), (0, 2));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
