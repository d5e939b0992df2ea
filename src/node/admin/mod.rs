//! The admin endpoint: probes, metrics and status over HTTP, on loopback (INTERFACES §4, its first slice).
//!
//! It has a thread of its own, so that a scrape never waits for a shard nor a shard for a scrape, and reads only what
//! the shards show of themselves. There is no login yet, so it listens on loopback only, and answers only requests that
//! name loopback as their host: a web page whose name was pointed here (DNS rebinding) gets nothing.

mod health;
mod metrics;
mod status;

use crate::shared::Shared;
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::Metrics;
use std::{net::TcpListener, sync::Arc, thread, time::Duration};
use tokio::runtime::Builder;

/// How often the recorder tidies up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What handlers see.
#[derive(Clone)]
pub(crate) struct Admin {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// Starts the thread.
    pub(crate) fn spawn(shared: Arc<Shared>, listener: TcpListener) -> std::io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let admin = Self { shared: shared.clone(), metrics: Arc::new(Metrics::new()) };
        shared.thread_begins();
        let spawned = thread::Builder::new().name("meshwork-http".to_owned()).spawn(move || {
            let _subscriber = tracing::dispatcher::set_default(&subscriber);
            runtime.block_on(admin.run(listener));
            admin.shared.thread_ended();
        });
        if spawned.is_err() {
            shared.thread_ended();
        }
        spawned.map(drop)
    }

    async fn run(&self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the admin endpoint cannot serve");
                return;
            }
        };
        let routes = routes(self.clone());
        tokio::select! {
            // It ends only with an error of the listener, which tokio retries by itself.
            _ = axum::serve(listener, routes).into_future() => {}
            () = self.keep_up() => {}
            () = self.until_drained() => {}
        }
    }

    async fn keep_up(&self) {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            self.metrics.run_upkeep();
        }
    }

    /// Probes are answered while the node drains: they say that it is not ready any more.
    async fn until_drained(&self) {
        self.shared.stop_begun().await;
        while !self.shared.all_drained() && !self.shared.has_panicked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::scrape))
        .route("/v1/status", get(status::status))
        .layer(middleware::from_fn(check_host))
        .with_state(admin)
}

/// Whether a `Host` names this machine as itself.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn check_host(request: Request, next: Next) -> Response {
    let named = request.headers().get(header::HOST).map(|host| host.to_str().is_ok_and(is_loopback));
    let authority = request.uri().authority().map(|authority| is_loopback(authority.as_str()));
    // HTTP/1.0 names nobody; a browser always does.
    if named == Some(false) || authority == Some(false) {
        let words = "this endpoint answers requests for localhost only\n";
        return (StatusCode::MISDIRECTED_REQUEST, words).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_loopback_are_answered() {
        for good in ["localhost", "localhost:7480", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:7480", "[::1]:7480", "[::1]"]
        {
            assert!(is_loopback(good), "{good}");
        }
        for bad in
            ["", "evil.example", "evil.example:7480", "127.0.0.1.evil.example", "10.0.0.1:7480", "[::2]:1", "::1"]
        {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
