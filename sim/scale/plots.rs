//! Which numbers of a report are drawn, each drawing by its file name.
//!
//! A drawing without any point is left out: a report of one size still has curves, and a line of one point is a point. Goals of
//! SIMULATION §9 are dashed. Not here: how lines are drawn (`chart`).

use super::{
    chart::{Axis, Chart, Line, Steps},
    report::{BalanceRow, Quantiles, Report, SwimRow},
};

const NODES: Axis = Axis { label: "nodes", steps: Steps::Powers, from: None };

/// File names and what goes into them.
pub fn of(report: &Report) -> Vec<(&'static str, String)> {
    let mut drawings = vec![
        ("join-and-crash.svg", times(report)),
        ("verdict-spread.svg", spread(report)),
        ("bytes.svg", bytes(report)),
    ];
    drawings.push(("ring-balance.svg", balance(report)));
    drawings.push(("ring-movement.svg", movement(report)));
    let drawn = drawings.into_iter().filter(|(_, chart)| chart.lines.iter().any(|line| !line.points.is_empty()));
    drawn.map(|(name, chart)| (name, chart.svg())).collect()
}

/// A line over sizes; sizes without a value are left out.
fn over_sizes(report: &Report, name: &str, value: impl Fn(&SwimRow) -> Option<f64>) -> Line {
    let point = |row: &SwimRow| value(row).map(|value| (row.nodes as f64, value));
    Line { name: name.to_owned(), points: report.swim.iter().filter_map(point).collect(), goal: false }
}

fn times(report: &Report) -> Chart {
    let seconds = |times: Option<Quantiles>, which: fn(Quantiles) -> f64| times.map(|times| which(times) / 1_000.0);
    let mut lines = vec![
        over_sizes(report, "join: all others know (worst)", |row| seconds(row.join_all, |times| times.max)),
        over_sizes(report, "crash: first suspects (median)", |row| seconds(row.suspected, |times| times.p50)),
        over_sizes(report, "crash: a node routes round (median)", |row| seconds(row.crash, |times| times.p50)),
        over_sizes(report, "crash: a node routes round (p99)", |row| seconds(row.crash, |times| times.p99)),
    ];
    // The goal is given for 100 and 5,000 nodes.
    if report.swim.len() > 1 {
        lines.push(Line { name: "goal for p99".to_owned(), points: vec![(100.0, 12.0), (5_000.0, 25.0)], goal: true });
    }
    Chart {
        title: "Until others know of a join and of a crash",
        x: NODES,
        y: Axis { label: "seconds", steps: Steps::Even, from: None },
        lines,
    }
}

fn spread(report: &Report) -> Chart {
    let line = |row: &SwimRow| Line {
        name: format!("{} nodes", row.nodes),
        points: row.crash_curve.iter().enumerate().map(|(percent, ms)| (ms / 1_000.0, percent as f64)).collect(),
        goal: false,
    };
    Chart {
        title: "How the verdict on a crashed node spreads",
        x: Axis { label: "seconds after the first node declared it down", steps: Steps::Even, from: None },
        y: Axis { label: "% of nodes that route round it", steps: Steps::Even, from: None },
        lines: report.swim.iter().map(line).collect(),
    }
}

fn bytes(report: &Report) -> Chart {
    Chart {
        title: "Gossip that a node sends",
        x: NODES,
        y: Axis { label: "payload bytes a second", steps: Steps::Powers, from: Some(10.0) },
        lines: vec![
            over_sizes(report, "idle", |row| Some(row.idle_bytes as f64)),
            over_sizes(report, "busiest second after a join or crash", |row| Some(row.busiest_bytes as f64)),
        ],
    }
}

fn by_partitions(report: &Report, value: fn(&BalanceRow) -> Option<f64>, name: &str) -> Vec<Line> {
    let mut partitions: Vec<u16> = report.balance.iter().map(|row| row.partitions).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let line = |partitions: u16| {
        let rows = report.balance.iter().filter(move |row| row.partitions == partitions);
        let points = rows.filter_map(|row| value(row).map(|value| (row.members as f64, value))).collect();
        Line { name: format!("{name}, {partitions} partitions"), points, goal: false }
    };
    partitions.into_iter().map(line).collect()
}

fn balance(report: &Report) -> Chart {
    let mut lines = by_partitions(report, |row| row.max_to_median, "max / median");
    lines.extend(by_partitions(report, |row| Some(row.max_to_share), "max / share"));
    Chart {
        title: "The fullest member of the ring (3 copies, 3 zones)",
        x: NODES,
        y: Axis { label: "load, 1 is even", steps: Steps::Even, from: Some(1.0) },
        lines,
    }
}

fn movement(report: &Report) -> Chart {
    let mut lines = by_partitions(report, |row| row.join_to_least, "join");
    lines.extend(by_partitions(report, |row| row.leave_to_least, "leave"));
    Chart {
        title: "What moves when a member comes or goes",
        x: NODES,
        y: Axis { label: "times the least that must move", steps: Steps::Even, from: Some(1.0) },
        lines,
    }
}
