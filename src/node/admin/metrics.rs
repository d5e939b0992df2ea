//! `GET /metrics`: core's plain integers as Prometheus text (INTERFACES §7).
//!
//! The recorder is the node's own and not the process's: several nodes may live in one. Core counts for itself; a scrape
//! carries the figures over. Labels are bounded: members, and fixed words; never keys.

use super::Admin;
use crate::{
    shared::Shared,
    storage::{Disk, get},
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use meshwork_core::{stats::ShardStats, wire::control::NodeStatus};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::atomic::Ordering;

/// The node's recorder.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        Self { recorder, handle }
    }

    pub(super) fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn render(&self, shared: &Shared) -> String {
        metrics::with_local_recorder(&self.recorder, || {
            feed_stats(&shared.stats());
            feed_status(&shared.status());
            feed_host(shared);
            if let Some(store) = &shared.store {
                feed_store(&store.disk, store.waiting());
            }
        });
        self.handle.render()
    }
}

pub(super) async fn scrape(State(admin): State<Admin>) -> Response {
    let text = admin.metrics.render(&admin.shared);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn describe() {
    describe_counter!("meshwork_requests_total", "Requests coordinated here, by operation.");
    describe_counter!("meshwork_request_errors_total", "Requests answered with an error status.");
    describe_counter!("meshwork_lookups_total", "Gets, by whether they found a live value.");
    describe_counter!("meshwork_overloaded_total", "Requests refused because too much was in flight.");
    describe_counter!("meshwork_unavailable_total", "Requests that could not reach their quorum.");
    describe_counter!("meshwork_unknown_total", "Writes that may or may not have been applied.");
    describe_counter!("meshwork_forwarded_total", "Requests sent on to an owner.");
    describe_counter!("meshwork_hedges_total", "Reads that asked one more replica early.");
    describe_counter!("meshwork_superseded_total", "Writes answered Ok although something newer was there.");
    describe_counter!("meshwork_replica_writes_total", "Replica writes applied for other coordinators.");
    describe_counter!("meshwork_replica_reads_total", "Replica reads answered for other coordinators.");
    describe_counter!("meshwork_evictions_total", "Entries evicted for room.");
    describe_counter!("meshwork_expired_total", "Entries dropped after their expiry.");
    describe_counter!("meshwork_out_of_memory_total", "Writes refused for want of memory.");
    describe_counter!("meshwork_hints_dropped_total", "Hints dropped by age or bound.");
    describe_counter!("meshwork_clock_refusals_total", "Peer messages refused for their clock.");
    describe_gauge!("meshwork_in_flight", "Requests in flight.");
    describe_gauge!("meshwork_entries", "Entries held, tombstones included.");
    describe_gauge!("meshwork_tombstones", "Tombstones held.");
    describe_gauge!("meshwork_ghosts", "Ghosts of evicted entries held.");
    describe_gauge!("meshwork_memory_bytes", "Bytes accounted, by kind.");
    describe_gauge!("meshwork_memory_limit_bytes", "The hard limit.");
    describe_gauge!("meshwork_hints_pending", "Hints held for unreachable owners.");
    describe_counter!("meshwork_store_writes_total", "Records written to the log or removed from it.");
    describe_counter!("meshwork_store_bytes_total", "Bytes of records written to the log.");
    describe_counter!("meshwork_store_commits_total", "Batches of records written to the log.");
    describe_counter!("meshwork_store_syncs_total", "Syncs of the log, whether asked for or by time.");
    describe_gauge!("meshwork_store_busy_seconds", "Time spent writing and syncing the log, since the start.");
    describe_counter!("meshwork_store_failures_total", "Records not kept: the disk failed, or too much waited for it.");
    describe_counter!("meshwork_store_refused_total", "Writes refused because too much waited for the disk.");
    describe_counter!("meshwork_votes_not_stored_total", "Votes refused because the disk did not keep the write.");
    describe_gauge!("meshwork_partitions", "Copies of partitions here, by state.");
    describe_counter!("meshwork_store_reopened_total", "Times that the store was opened anew after a failure.");
    describe_gauge!("meshwork_store_restored_records", "Records restored from the store at the start.");
    describe_gauge!("meshwork_store_restored_bytes", "Bytes of records restored at the start.");
    describe_gauge!("meshwork_store_skipped_records", "Records found at the start that could not be used.");
    describe_gauge!("meshwork_store_set_aside", "Stores set aside since the start: damaged, or another node's.");
    describe_gauge!("meshwork_store_waiting_bytes", "Bytes that wait for the disk.");
    describe_gauge!("meshwork_store_disk_bytes", "Bytes of the store on disk.");
    describe_gauge!("meshwork_store_up", "Whether the store takes writes; without it durable votes are refused here.");
    describe_gauge!("meshwork_members", "Members known, by health.");
    describe_gauge!("meshwork_peer_up", "Whether a member answers.");
    describe_gauge!("meshwork_clock_offset_seconds", "A peer's clock against this node's.");
    describe_gauge!("meshwork_layout_epoch", "Epoch of the newest layout; 0: none.");
    describe_gauge!("meshwork_ready", "Whether clients are served here.");
    describe_gauge!("meshwork_udp_receive_buffer_bytes", "What the kernel granted a socket to receive.");
    describe_gauge!("meshwork_tls_cert_expiry_timestamp_seconds", "When the own certificate expires.");
    describe_gauge!("meshwork_build_info", "Always 1; the version is its label.");
    describe_gauge!("process_resident_memory_bytes", "Resident memory of the process.");
}

/// Gauges are floats: figures above 2^53 lose their last digits, which nobody reads.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

fn feed_stats(stats: &ShardStats) {
    for (op, count) in [("get", stats.gets), ("put", stats.puts), ("delete", stats.deletes), ("touch", stats.touches)] {
        counter!("meshwork_requests_total", "op" => op, "api" => "mesh").absolute(count);
    }
    counter!("meshwork_lookups_total", "result" => "hit").absolute(stats.hits);
    counter!("meshwork_lookups_total", "result" => "miss").absolute(stats.misses);
    counter!("meshwork_request_errors_total").absolute(stats.errors);
    counter!("meshwork_overloaded_total").absolute(stats.overloaded);
    counter!("meshwork_unavailable_total").absolute(stats.unavailable);
    counter!("meshwork_unknown_total").absolute(stats.unknown);
    counter!("meshwork_forwarded_total").absolute(stats.forwarded);
    counter!("meshwork_hedges_total").absolute(stats.hedges);
    counter!("meshwork_superseded_total").absolute(stats.superseded);
    counter!("meshwork_replica_writes_total").absolute(stats.replica_writes);
    counter!("meshwork_replica_reads_total").absolute(stats.replica_reads);
    counter!("meshwork_evictions_total").absolute(stats.evictions);
    counter!("meshwork_expired_total").absolute(stats.expired);
    counter!("meshwork_out_of_memory_total").absolute(stats.out_of_memory);
    counter!("meshwork_hints_dropped_total").absolute(stats.hints_dropped);
    counter!("meshwork_clock_refusals_total").absolute(stats.clock_refusals);
    gauge!("meshwork_in_flight").set(float(stats.in_flight));
    gauge!("meshwork_entries").set(float(stats.entries));
    gauge!("meshwork_tombstones").set(float(stats.tombstones));
    gauge!("meshwork_ghosts").set(float(stats.ghosts));
    gauge!("meshwork_memory_bytes", "kind" => "accounted").set(float(stats.memory_bytes));
    gauge!("meshwork_memory_bytes", "kind" => "hints").set(float(stats.hint_bytes));
    gauge!("meshwork_memory_limit_bytes").set(float(stats.memory_limit_bytes));
    gauge!("meshwork_hints_pending").set(float(stats.hints));
    counter!("meshwork_votes_not_stored_total").absolute(stats.votes_not_stored);
    for (state, count) in [
        ("ready", stats.partitions_ready),
        ("warming", stats.partitions_warming),
        ("missing", stats.partitions_missing),
        ("short", stats.partitions_short),
    ] {
        gauge!("meshwork_partitions", "state" => state).set(float(count));
    }
}

fn feed_status(status: &NodeStatus) {
    for health in ["alive", "suspect", "down"] {
        let count = status.members.iter().filter(|member| member.health == health).count();
        gauge!("meshwork_members", "state" => health).set(float(count as u64));
    }
    for member in status.members.iter().filter(|member| member.node != status.node) {
        let up = if member.health == "down" { 0.0 } else { 1.0 };
        gauge!("meshwork_peer_up", "peer" => member.name.clone()).set(up);
        if let Some(millis) = member.clock_offset_ms {
            #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
            gauge!("meshwork_clock_offset_seconds", "peer" => member.name.clone()).set(millis as f64 / 1000.0);
        }
    }
    gauge!("meshwork_layout_epoch").set(float(status.layout.map_or(0, |layout| layout.epoch)));
    gauge!("meshwork_ready").set(if status.ready { 1.0 } else { 0.0 });
}

fn feed_store(disk: &Disk, waiting: usize) {
    let figures = &disk.figures;
    for (name, figure) in [
        ("meshwork_store_writes_total", figures.writes()),
        ("meshwork_store_bytes_total", figures.bytes()),
        ("meshwork_store_commits_total", figures.commits()),
        ("meshwork_store_syncs_total", figures.syncs()),
        ("meshwork_store_failures_total", figures.failures()),
        ("meshwork_store_refused_total", figures.refused()),
        ("meshwork_store_reopened_total", figures.reopened()),
    ] {
        counter!(name).absolute(get(figure));
    }
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    gauge!("meshwork_store_busy_seconds").set(get(figures.busy_nanos()) as f64 / 1e9);
    for (name, figure) in [
        ("meshwork_store_restored_records", figures.restored()),
        ("meshwork_store_restored_bytes", figures.restored_bytes()),
        ("meshwork_store_skipped_records", figures.skipped()),
        ("meshwork_store_set_aside", figures.set_aside()),
        ("meshwork_store_disk_bytes", figures.disk_bytes()),
    ] {
        gauge!(name).set(float(get(figure)));
    }
    gauge!("meshwork_store_waiting_bytes").set(float(waiting as u64));
    gauge!("meshwork_store_up").set(if disk.trouble().is_none() { 1.0 } else { 0.0 });
}

fn feed_host(shared: &Shared) {
    gauge!("meshwork_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let load = |value: &std::sync::atomic::AtomicU64| float(value.load(Ordering::Relaxed));
    gauge!("meshwork_udp_receive_buffer_bytes").set(load(&shared.udp_receive_buffer));
    gauge!("meshwork_tls_cert_expiry_timestamp_seconds").set(load(&shared.certificate_expires));
    if let Some(resident) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(float(resident));
    }
}

/// Linux only.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
