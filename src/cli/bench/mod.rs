//! `meshwork bench`: a load generator with the client library of the mesh itself (PERFORMANCE §4).
//!
//! `plan` turns flags into a plan; `client` runs it on one thread a client; `workload`, `zipf` and `twitter` draw the
//! operations; `ledger` judges what is read back; `report` sums up. Exit 0 means that no call failed and nothing was
//! lost. It measures the client too: on a small machine that may be the limit, so the report names the machine.

mod client;
mod ledger;
mod plan;
mod report;
mod twitter;
mod workload;
mod zipf;

use crate::{
    cluster, dev,
    failure::{Exit, Failure},
    mesh,
    output::Output,
};
use client::{Found, Shared};
use ledger::Findings;
use meshwork_client::{Builder, ClientControl, ControlReply, Mesh};
use meshwork_core::namespace::Namespace;
pub(crate) use plan::BenchArgs;
use plan::Plan;
use report::{LoadReport, Report, Tally};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Barrier;

/// `meshwork bench`.
pub(crate) fn run(args: &BenchArgs, output: Output) -> Result<(), Failure> {
    let plan = args.plan()?;
    let runtime = crate::runtime()?;
    if !args.embedded {
        let builder = mesh::builder(&args.client)?;
        return runtime.block_on(measure(plan, builder, None, output));
    }
    runtime.block_on(async {
        let shape = dev::nodes::Shape { nodes: 1, shards: args.shards, memory: args.memory };
        let mut node = dev::nodes::Nodes::start(shape, None).await?;
        let result = measure(plan, Mesh::builder().local(node.link()), Some(()), output).await;
        node.stop().await;
        result
    })
}

async fn measure(plan: Plan, builder: Builder, embedded: Option<()>, output: Output) -> Result<(), Failure> {
    // One mesh of its own for questions; also the place where a wrong address or certificate shows first.
    let control = builder.clone().connect().await.map_err(mesh::failure)?;
    let namespace = namespace(&control, &plan).await?;
    let evicted_before = evictions(&control).await;
    let config = plan.describe(embedded.is_some());
    let shared = Arc::new(Shared {
        barrier: Barrier::new(usize::try_from(plan.clients).expect("clients are few")),
        interrupted: AtomicBool::new(false),
        progress: (0..plan.clients).map(|_| AtomicU64::new(0)).collect(),
        plan,
    });
    let begun = Instant::now();
    let all = all_clients(&builder, &shared, output).await?;
    let evicted = evictions(&control).await > evicted_before;
    let report = sum(&shared.plan, &all, config, |findings| {
        let ttl = shared.plan.ttls.shortest().or(namespace.ttl_default.map(Duration::from_millis));
        findings.lost(evicted, ttl, begun)
    });
    output.data(&report, Report::text)?;
    judge(&report, &all)
}

/// Runs all clients to their end.
async fn all_clients(builder: &Builder, shared: &Arc<Shared>, output: Output) -> Result<Vec<Found>, Failure> {
    let mut threads = Vec::new();
    for number in 0..shared.plan.clients {
        let (builder, shared) = (builder.clone(), shared.clone());
        let (told, answer) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("bench-{number}")).spawn(move || {
            let _ = told.send(one_client(builder, number, shared));
        });
        thread.map_err(|error| Failure::new(Exit::Failed, format!("the system refused a thread: {error}")))?;
        threads.push(answer);
    }
    let progress = tokio::spawn(draw_progress(shared.clone(), output));
    let interrupt = tokio::spawn(stop_early(shared.clone(), output));
    let mut all = Vec::new();
    for thread in threads {
        all.push(thread.await.expect("a client that panics ends the process")?);
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
    let all = cluster::namespaces(control).await?;
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

/// Evictions counted by all nodes that can be asked.
async fn evictions(control: &Mesh) -> u64 {
    let Ok(ControlReply::Status(status)) = control.control(ClientControl::Status).await else { return 0 };
    let mut sum = status.stats.evictions;
    for member in status.members.iter().filter(|member| member.node != status.node && member.health == "alive") {
        if let Ok(ControlReply::Status(other)) = control.control_at(member.address, ClientControl::Status).await {
            sum += other.stats.evictions;
        }
    }
    sum
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

fn judge(report: &Report, all: &[Found]) -> Result<(), Failure> {
    if let Some(lost @ 1..) = report.lost {
        return Err(Failure::new(Exit::Failed, format!("{lost} acknowledged keys are lost")));
    }
    if report.errors > 0 {
        let sample = all.iter().find_map(|found| found.tally.sample()).unwrap_or_default();
        return Err(Failure::new(Exit::Failed, format!("{} calls failed, one of them: {sample}", report.errors)));
    }
    Ok(())
}
