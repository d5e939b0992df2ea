//! What a scale run found: rows, and how they read as a table.
//!
//! Times are virtual milliseconds in the data and seconds in the table; bytes are payload of gossip packets sent. Absent is `null`
//! and "-": it was not measured or did not happen, never zero. JSON has the whole report, with the curves that the plots draw.

use super::Settings;
use crate::clock::{MS, Time};
use serde::Serialize;
use std::fmt::Write;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where every draw came from, hexadecimal.
    pub seed: String,
    /// Of which commit, where the build knew it.
    pub commit: &'static str,
    /// Datagrams lost, per million.
    pub loss_ppm: u32,
    /// Membership, by size.
    pub swim: Vec<SwimRow>,
    /// Whole control planes, by size, as far as they were measured.
    pub plane: Vec<PlaneRow>,
    /// The ring, by size and partitions.
    pub balance: Vec<BalanceRow>,
}

/// Of times, ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half took less.
    pub p50: f64,
    /// 99 in a hundred took less.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    /// Of nanoseconds, which are sorted; `None`: there were none.
    pub(super) fn of(times: &mut [Time]) -> Option<Self> {
        times.sort_unstable();
        let max = times.len().checked_sub(1)?;
        let at = |index: usize| times[index] as f64 / MS as f64;
        Some(Self { p50: at(max / 2), p99: at(max * 99 / 100), max: at(max) })
    }
}

/// Membership at one size.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SwimRow {
    /// Nodes at the start; each round one joins and one crashes.
    pub nodes: usize,
    /// Rounds.
    pub rounds: u32,
    /// From a join until another node knew of it, over all nodes and rounds.
    pub join: Option<Quantiles>,
    /// Until all others knew, over rounds.
    pub join_all: Option<Quantiles>,
    /// Nodes that did not know within a minute, over all rounds.
    pub join_missing: u64,
    /// From a crash until somebody's probes failed, over rounds.
    pub suspected: Option<Quantiles>,
    /// Until somebody declared it down and routed round it, over rounds.
    pub down_first: Option<Quantiles>,
    /// Until a node routed round it, over all nodes and rounds.
    pub crash: Option<Quantiles>,
    /// Until all did, over rounds.
    pub crash_all: Option<Quantiles>,
    /// Nodes that did not within two minutes, over all rounds.
    pub crash_missing: u64,
    /// From the first node that routes round it until a node does, over all nodes and rounds: percentiles 0 to 100, ms.
    pub crash_curve: Vec<f64>,
    /// Bytes a node sends a second while nothing happens, mean.
    pub idle_bytes: u64,
    /// In the busiest second after a join or crash, mean over nodes.
    pub busiest_bytes: u64,
    /// The largest packet, bytes.
    pub largest_packet: u64,
    /// Packets and timers nobody could use.
    pub refused: u64,
    /// Node hours watched.
    pub node_hours: f64,
    /// Times that a node suspected one that lived.
    pub false_suspicions: u64,
    /// Nodes that were declared down though they lived.
    pub falsely_down: u64,
}

/// The whole control plane at one size; a round is a join and a crash.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PlaneRow {
    /// Nodes at the start.
    pub nodes: usize,
    /// Rounds.
    pub rounds: u32,
    /// From the last start until all acknowledged one layout, ms; `None`: they did not in time.
    pub founded_ms: Option<u64>,
    /// Bytes of state that a node sent until then, mean.
    pub founding_bytes: u64,
    /// From a join until another node took the newcomer for up, over all nodes and rounds.
    pub join: Option<Quantiles>,
    /// Until all did, over rounds.
    pub join_all: Option<Quantiles>,
    /// Nodes that did not within a minute.
    pub join_missing: u64,
    /// Until the newcomer took all others for up, over rounds.
    pub newcomer: Option<Quantiles>,
    /// Rounds in which it did not within a minute.
    pub newcomer_missing: u32,
    /// From a crash until a node routed round it, over all nodes and rounds.
    pub crash: Option<Quantiles>,
    /// Until all did, over rounds.
    pub crash_all: Option<Quantiles>,
    /// Nodes that did not within two minutes.
    pub crash_missing: u64,
    /// Bytes of gossip that a node sends a second while nothing happens.
    pub idle_gossip_bytes: u64,
    /// Of pings, their answers and digests.
    pub idle_small_bytes: u64,
    /// Of whole states.
    pub idle_state_bytes: u64,
    /// Bytes of whole states that a node sends because of one join, mean.
    pub join_bytes: u64,
    /// Links that are made in the ten seconds after a join.
    pub join_links: u64,
}

/// The ring at one size and number of partitions; loads are the worst over draws, movement the mean.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BalanceRow {
    /// The size asked for.
    pub nodes: usize,
    /// Members measured: fewer where a layout holds no more.
    pub members: usize,
    /// Partitions.
    pub partitions: u16,
    /// Sets of ids drawn.
    pub draws: usize,
    /// The largest load over the middle one; `None`: half of the members hold nothing.
    pub max_to_median: Option<f64>,
    /// The largest load over its member's share, which a small zone makes larger than the mean.
    pub max_to_share: f64,
    /// Members that hold nothing, percent.
    pub empty_percent: f64,
    /// Copies that move when a member joins, percent of all.
    pub join_percent: f64,
    /// Over what the newcomer holds then; `None`: nothing.
    pub join_to_least: Option<f64>,
    /// Copies that move when a member leaves, percent of all.
    pub leave_percent: f64,
    /// Over what the leaver held; `None`: nothing.
    pub leave_to_least: Option<f64>,
}

impl Report {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            seed: format!("{:x}", settings.seed),
            commit: crate::commit(),
            loss_ppm: settings.loss_ppm,
            swim: Vec::new(),
            plane: Vec::new(),
            balance: Vec::new(),
        }
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report is plain data");
        text.push('\n');
        text
    }

    /// Tables in Markdown, readable as they are.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        let loss = f64::from(self.loss_ppm) / 10_000.0;
        let _ = writeln!(text, "seed {}, commit {}, {loss} % of datagrams lost", self.seed, self.commit);
        let join = |row: &SwimRow| {
            let missing = row.join_missing.to_string();
            vec![
                row.nodes.to_string(),
                row.rounds.to_string(),
                seconds(row.join, |times| times.p50),
                seconds(row.join, |times| times.p99),
                seconds(row.join_all, |times| times.max),
                missing,
            ]
        };
        let heads = ["nodes", "joins", "others know p50, s", "p99", "all know, worst", "never in 60 s"];
        table(&mut text, "A node joins", &heads, self.swim.iter().map(join));
        let crash = |row: &SwimRow| {
            vec![
                row.nodes.to_string(),
                row.rounds.to_string(),
                seconds(row.suspected, |times| times.p50),
                seconds(row.suspected, |times| times.max),
                seconds(row.down_first, |times| times.p50),
                seconds(row.crash, |times| times.p50),
                seconds(row.crash, |times| times.p99),
                seconds(row.crash_all, |times| times.max),
                row.crash_missing.to_string(),
            ]
        };
        let heads = [
            "nodes",
            "crashes",
            "first suspects p50, s",
            "worst",
            "first routes round p50, s",
            "a node routes round p50, s",
            "p99",
            "all do, worst",
            "never in 120 s",
        ];
        table(&mut text, "A node crashes", &heads, self.swim.iter().map(crash));
        let cost = |row: &SwimRow| {
            vec![
                row.nodes.to_string(),
                row.idle_bytes.to_string(),
                row.busiest_bytes.to_string(),
                row.largest_packet.to_string(),
                format!("{:.0}", row.node_hours),
                row.false_suspicions.to_string(),
                format!("{:.4}", row.false_suspicions as f64 / row.node_hours),
                row.falsely_down.to_string(),
                row.refused.to_string(),
            ]
        };
        let heads = [
            "nodes",
            "idle, B/s a node",
            "busiest second, B/s a node",
            "largest packet, B",
            "node hours",
            "false suspicions",
            "a node hour",
            "falsely down",
            "unusable packets",
        ];
        table(&mut text, "Gossip and false alarms", &heads, self.swim.iter().map(cost));
        let plane = |row: &PlaneRow| {
            vec![
                row.nodes.to_string(),
                row.founded_ms.map_or("-".to_owned(), |ms| format!("{:.1}", ms as f64 / 1_000.0)),
                seconds(row.join_all, |times| times.max),
                seconds(row.newcomer, |times| times.max),
                (row.join_missing + u64::from(row.newcomer_missing)).to_string(),
                seconds(row.crash, |times| times.p50),
                seconds(row.crash, |times| times.p99),
                seconds(row.crash_all, |times| times.max),
                row.crash_missing.to_string(),
                row.idle_gossip_bytes.to_string(),
                (row.idle_small_bytes + row.idle_state_bytes).to_string(),
                row.founding_bytes.to_string(),
                row.join_bytes.to_string(),
                row.join_links.to_string(),
            ]
        };
        let heads = [
            "nodes",
            "first layout agreed after, s",
            "join: all know, worst, s",
            "newcomer knows all, worst",
            "never in 60 s",
            "crash: routed round p50, s",
            "p99",
            "all do, worst",
            "never in 120 s",
            "idle gossip, B/s a node",
            "idle control, B/s a node",
            "state sent to found, B a node",
            "for a join, B a node",
            "links after a join",
        ];
        table(&mut text, "Whole control planes", &heads, self.plane.iter().map(plane));
        let balance = |row: &BalanceRow| {
            vec![
                if row.members == row.nodes {
                    row.nodes.to_string()
                } else {
                    format!("{} ({})", row.nodes, row.members)
                },
                row.partitions.to_string(),
                format!("{:.1}", f64::from(row.partitions) * 3.0 / row.members as f64),
                ratio(row.max_to_median),
                format!("{:.2}", row.max_to_share),
                format!("{:.1} %", row.empty_percent),
                format!("{:.3} %", row.join_percent),
                ratio(row.join_to_least),
                format!("{:.3} %", row.leave_percent),
                ratio(row.leave_to_least),
            ]
        };
        let heads = [
            "nodes",
            "partitions",
            "copies a node",
            "max / median",
            "max / share",
            "hold nothing",
            "moved by a join",
            "x least",
            "moved by a leave",
            "x least",
        ];
        table(&mut text, "Ring, 3 copies in 3 zones", &heads, self.balance.iter().map(balance));
        if let Some(row) = self.balance.iter().find(|row| row.members != row.nodes) {
            let (most, members) = (row.members + 1, row.members);
            let _ = writeln!(text, "\nA layout has at most {most} members: larger rings are measured at {members}.");
        }
        text
    }
}

fn seconds(times: Option<Quantiles>, which: impl Fn(Quantiles) -> f64) -> String {
    times.map_or("-".to_owned(), |times| format!("{:.2}", which(times) / 1_000.0))
}

fn ratio(of: Option<f64>) -> String {
    of.map_or("-".to_owned(), |of| format!("{of:.2}"))
}

/// A Markdown table with aligned columns.
fn table(text: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].len()).chain([heads[column].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let _ = writeln!(text, "\n{title}\n");
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&mut heads.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
}
