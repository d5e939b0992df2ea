//! Waiting for another process: a condition is asked again and again until it holds, or a limit ends the test.
//!
//! The limit is generous and says nothing about how long a thing may take. A condition that does not hold yet says why,
//! so that a test that ends by its limit shows the last reason.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// For everything that a healthy build does within seconds, on a machine that is busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Asks `condition` until it is `Ok`, at most for `limit`; what it gives. Panics with its last words.
pub(crate) fn wait_for<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < end, "{what}: not within {limit:?}; last: {why}"),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Waits until `condition` is true.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(LIMIT, what, || if condition() { Ok(()) } else { Err("not so".to_owned()) });
}

/// Runs a future on a runtime of its own, at most for `LIMIT`.
pub(crate) fn run<T>(what: &str, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { soon(what, future).await })
}

/// Awaits `future`, at most for `LIMIT`.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}
