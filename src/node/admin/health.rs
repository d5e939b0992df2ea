//! The two probes: is it alive, does it serve.
//!
//! They differ on purpose. A node that waits for its mesh is alive: killing it helps nobody. Lost peers never make a
//! ready node unready, or one failure would take the others out of service.

use super::Admin;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use meshwork_core::time::Mono;
use std::time::Duration;

/// A shard that has not ticked for so long hangs.
const TICK_AGE_MAX: Duration = Duration::from_secs(10);

/// The shards that hang, by their last ticks.
pub(super) fn hanging(ticks: impl Iterator<Item = Mono>, now: Mono) -> Vec<usize> {
    ticks.enumerate().filter(|(_, tick)| now.since(*tick) > TICK_AGE_MAX).map(|(shard, _)| shard).collect()
}

pub(super) async fn live(State(admin): State<Admin>) -> Response {
    let shared = &admin.shared;
    let hanging = hanging(shared.pulses().map(|(tick, _)| tick), shared.clocks.mono());
    if hanging.is_empty() {
        return "ok\n".into_response();
    }
    let words = format!("shards {hanging:?} have not ticked for {} s\n", TICK_AGE_MAX.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
}

pub(super) async fn ready(State(admin): State<Admin>) -> Response {
    let shared = &admin.shared;
    if shared.is_ready() {
        // A bad disk costs durable votes and not readiness: what is in memory is served.
        let trouble = shared.store.as_ref().and_then(|store| store.disk.trouble());
        return trouble.map_or_else(|| "ok\n".to_owned(), |trouble| format!("ok, but: {trouble}\n")).into_response();
    }
    let words = match shared.stopping() {
        Some(why) => format!("stopping: {why}\n"),
        None => format!("{}\n", shared.status().state),
    };
    (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_does_not_tick_is_named() {
        let second = |s: u64| Mono(s * 1_000_000_000);
        assert!(hanging([second(0), second(5)].into_iter(), second(10)).is_empty());
        assert_eq!(hanging([second(20), second(5)].into_iter(), second(16)), [1]);
    }
}
