//! `meshwork bench`: a load generator with the client library of the mesh itself (PERFORMANCE §4).
//!
//! `plan` turns flags into a plan; `client` runs it on one thread a client, `pacer` times an open loop; `workload`, `zipf`
//! and `twitter` draw the operations; `ledger` judges what is read back; `report` sums up. Exit 0 means that no call failed
//! and nothing was lost. It measures the client too: on a small machine that may be the limit, so the report names the
//! machine.

mod client;
mod ledger;
mod pacer;
mod plan;
mod report;
mod twitter;
mod workload;
mod zipf;

use crate::{
    dev,
    failure::{Exit, Failure},
    mesh, namespace,
    output::Output,
};
use client::{Found, Shared};
use ledger::Findings;
use meshwork_client::{Builder, ClientControl, ControlReply, Mesh};
use meshwork_core::{id::NodeId, namespace::Namespace};
pub(crate) use plan::BenchArgs;
use plan::Plan;
use quanta::Instant;
use report::{LoadReport, Report, Tally};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Barrier;

/// `meshwork bench`.
pub(crate) fn run(args: &BenchArgs, output: Output) -> Result<(), Failure> {
    let plan = args.plan()?;
    let runtime = crate::runtime()?;
    if !args.embedded {
        let builder = mesh::builder(&args.client)?;
        return runtime.block_on(measure(plan, builder, false, output));
    }
    runtime.block_on(async {
        let shape = dev::nodes::Shape { nodes: 1, shards: args.shards, memory: args.memory };
        let mut node = dev::nodes::Nodes::start(shape, None).await?;
        let result = measure(plan, Mesh::builder().local(node.link()), true, output).await;
        node.stop().await;
        result
    })
}

async fn measure(plan: Plan, builder: Builder, embedded: bool, output: Output) -> Result<(), Failure> {
    let (report, sample) = find(plan, builder, embedded, output).await?;
    output.data(&report, Report::text)?;
    judge(&report, sample.as_deref())
}

/// Runs the plan; gives the report and one failed call's words.
async fn find(
    plan: Plan,
    builder: Builder,
    embedded: bool,
    output: Output,
) -> Result<(Report, Option<String>), Failure> {
    // One mesh of its own for questions; also the place where a wrong address or certificate shows first.
    let control = builder.clone().connect().await.map_err(mesh::failure)?;
    let namespace = namespace(&control, &plan).await?;
    let before = evictions(&control).await;
    let config = plan.describe(embedded);
    let shared = Arc::new(Shared {
        barrier: Barrier::new(usize::try_from(plan.clients).expect("clients are few")),
        interrupted: AtomicBool::new(false),
        progress: (0..plan.clients).map(|_| AtomicU64::new(0)).collect(),
        plan,
    });
    let begun = Instant::now();
    let all = all_clients(&builder, &shared, output).await?;
    let after = evictions(&control).await;
    // By node: one that died has taken its count with it.
    let evicted = after.iter().any(|(node, count)| *count > before.get(node).copied().unwrap_or(0));
    let report = sum(&shared.plan, &all, config, |findings| {
        let ttl = shared.plan.ttls.shortest().or(namespace.ttl_default.map(Duration::from_millis));
        findings.lost(evicted, ttl, begun)
    });
    let sample = all.iter().find_map(|found| found.tally.sample()).map(str::to_owned);
    Ok((report, sample))
}

/// Runs all clients to their end.
async fn all_clients(builder: &Builder, shared: &Arc<Shared>, output: Output) -> Result<Vec<Found>, Failure> {
    // Whoever fails first is heard first: the others may be waiting for it at the barrier.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..shared.plan.clients {
        let (builder, shared, tell) = (builder.clone(), shared.clone(), tell.clone());
        let thread = std::thread::Builder::new().name(format!("bench-{number}")).spawn(move || {
            // Nobody listens once another client has failed.
            let _ = tell.send(one_client(builder, number, shared));
        });
        thread.map_err(|error| Failure::new(Exit::Failed, format!("the system refused a thread: {error}")))?;
    }
    drop(tell);
    let progress = tokio::spawn(draw_progress(shared.clone(), output));
    let interrupt = tokio::spawn(stop_early(shared.clone(), output));
    let mut all = Vec::new();
    while let Some(found) = told.recv().await {
        all.push(found?);
    }
    interrupt.abort();
    progress.abort();
    // Waits until the bar is gone from the terminal.
    let _ = progress.await;
    Ok(all)
}

fn one_client(builder: Builder, number: u64, shared: Arc<Shared>) -> Result<Found, Failure> {
    crate::block_on(async {
        let mesh = builder.connect().await.map_err(mesh::failure)?;
        let found = client::run(mesh.clone(), number, shared).await;
        mesh.close().await;
        Ok(found)
    })
}

/// The first Ctrl-C ends the run early, with a report; a second one ends the process.
async fn stop_early(shared: Arc<Shared>, output: Output) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    shared.interrupted.store(true, Ordering::Relaxed);
    output.say("stopping; once more to end at once");
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(128 + 2);
    }
}

/// A bar on stderr while somebody watches.
async fn draw_progress(shared: Arc<Shared>, output: Output) {
    if !output.is_watched() {
        return;
    }
    let bar = indicatif::ProgressBar::new_spinner();
    bar.set_style(
        indicatif::ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}").expect("a template of ours"),
    );
    let mut last = 0u64;
    let mut before = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = Instant::now();
        let sum: u64 = shared.progress.iter().map(|place| place.load(Ordering::Relaxed)).sum();
        let rate = sum.saturating_sub(last) as f64 / (now - before).as_secs_f64();
        bar.set_message(format!("{sum} calls, {rate:.0} in the last second"));
        bar.tick();
        (last, before) = (sum, now);
    }
}

/// The namespace's settings, or a clear word when there is none or its values are too short for the plan's.
async fn namespace(control: &Mesh, plan: &Plan) -> Result<Namespace, Failure> {
    let all = namespace::all(control).await?;
    let found = all.into_iter().find(|namespace| namespace.name == plan.namespace).ok_or_else(|| {
        let name = &plan.namespace;
        Failure::new(Exit::Failed, format!("there is no namespace {name:?}"))
            .next(format!("`meshwork namespace create {name}`"))
    })?;
    if plan.value_size > found.value_max as usize {
        let what =
            format!("values of {} bytes are longer than the namespace allows ({})", plan.value_size, found.value_max);
        return Err(Failure::usage(what).next("give a smaller --value-size, or another --namespace"));
    }
    Ok(found)
}

/// Evictions counted so far by each node that can be asked.
async fn evictions(control: &Mesh) -> BTreeMap<NodeId, u64> {
    let Ok(ControlReply::Status(status)) = control.control(ClientControl::Status).await else { return BTreeMap::new() };
    let mut counts = BTreeMap::from([(status.node, status.stats.evictions)]);
    for member in status.members.iter().filter(|member| member.node != status.node && member.health == "alive") {
        if let Ok(ControlReply::Status(other)) = control.control_at(member.address, ClientControl::Status).await {
            counts.insert(other.node, other.stats.evictions);
        }
    }
    counts
}

fn sum(plan: &Plan, all: &[Found], config: serde_json::Value, lost: impl FnOnce(&Findings) -> u64) -> Report {
    let mut tally = Tally::default();
    let mut findings = Findings::default();
    for found in all {
        tally.add(&found.tally);
        findings.add(found.findings);
    }
    let longest = |of: fn(&Found) -> Duration| all.iter().map(of).max().unwrap_or_default();
    let retries = all.iter().map(|found| found.retries).sum();
    let mut report = Report::new(&tally, longest(|found| found.measured), retries, config);
    report.behind = all.iter().map(|found| found.behind).sum();
    if plan.load {
        let keys = all.iter().map(|found| found.loaded).sum();
        let seconds = longest(|found| found.loading).as_secs_f64();
        report.load = Some(LoadReport { keys, seconds, ops_per_s: (keys as f64 / seconds.max(1e-9)).round() });
    }
    if plan.verify {
        let lost = lost(&findings);
        report.verified = Some(findings.good);
        report.lost = Some(lost);
        report.gone = Some(findings.absent + findings.wrong - lost);
    }
    report
}

fn judge(report: &Report, sample: Option<&str>) -> Result<(), Failure> {
    if let Some(lost @ 1..) = report.lost {
        return Err(Failure::new(Exit::Failed, format!("{lost} acknowledged keys are lost")));
    }
    if report.errors > 0 {
        let sample = sample.unwrap_or_default();
        return Err(Failure::new(Exit::Failed, format!("{} calls failed, one of them: {sample}", report.errors)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Form;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    /// Runs a bench against a node in this process.
    fn embedded(line: &str) -> Report {
        let plan = Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().bench.plan().unwrap();
        crate::block_on(async {
            let shape = dev::nodes::Shape { nodes: 1, shards: 1, memory: 64 << 20 };
            let mut node = dev::nodes::Nodes::start(shape, None).await?;
            let output = Output::new(Form::Json, true);
            let (report, sample) = find(plan, Mesh::builder().local(node.link()), true, output).await?;
            node.stop().await;
            assert_eq!(report.errors, 0, "{sample:?}");
            Ok(report)
        })
        .unwrap()
    }

    #[test]
    fn a_verified_run_reads_back_every_key_it_wrote() {
        let report = embedded("--keys 500 --in-flight 20 --clients 2 --seconds 200ms --warmup 0 --writes 50 --verify");
        assert_eq!(report.load.map(|load| load.keys), Some(500));
        assert_eq!((report.verified, report.lost, report.gone), (Some(500), Some(0), Some(0)));
        assert!(report.ops > 0 && report.gets > 0 && report.gets < report.ops, "{report:?}");
        assert_eq!(report.hits, report.gets, "every key was loaded");
    }

    #[test]
    fn an_open_loop_accounts_for_every_call_that_was_due() {
        let report = embedded("--keys 100 --rate 2000 --seconds 250ms --warmup 0");
        assert_eq!(report.ops + report.behind, 500, "{report:?}");
    }

    #[test]
    fn a_cache_users_run_fills_what_it_misses() {
        let report = embedded("--like twitter:cluster52 --keys 200 --seconds 200ms --warmup 0");
        assert!(report.load.is_none() && report.fills > 0, "{report:?}");
        assert_eq!(report.misses, report.gets - report.hits);
        assert!(report.fills <= report.misses, "{report:?}");
    }
}
