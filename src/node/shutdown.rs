//! How a node ends: together, and with words for those it served.
//!
//! Graceful: nothing new is admitted, what is in flight is answered, then every link is closed with a reason once its
//! frames are acknowledged. Threads wait for each other before they close, since one may still work for another's
//! caller. A panic skips the waiting: half a node is worse than none.

use crate::{
    handle::Stopped,
    shared::Shared,
    worker::{STOP_CODE, Seat},
};
use std::{sync::Arc, time::Duration};

/// How long links may take to hand over their last frames.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// How often the rest in flight is looked at while draining.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Held by every task of a node's threads: dropped by a panic, it stops the node.
pub(crate) struct PanicGuard {
    shared: Arc<Shared>,
    shard: u16,
}

impl PanicGuard {
    pub(crate) fn new(shared: Arc<Shared>, shard: u16) -> Self {
        Self { shared, shard }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "its message stands above in the log".to_owned();
            self.shared.stop(Stopped::Panicked { thread: format!("shard {}", self.shard), message });
            self.shared.panicked();
        }
    }
}

/// Waits until this node should end and nothing is left to answer, at most for `drain`; then closes all links.
pub(crate) async fn run(seat: Seat, drain: Duration) {
    let shared = seat.borrow().shared().clone();
    let why = shared.stop_begun().await;
    if matches!(why, Stopped::Panicked { .. }) {
        // The worker may be half changed: it is not touched again.
        return;
    }
    seat.borrow_mut().stopping = true;
    let until = tokio::time::Instant::now() + drain;
    // Twice: what is in flight here, then whether the other threads are done with theirs.
    while tokio::time::Instant::now() < until && !shared.has_panicked() {
        let busy = {
            let worker = &mut *seat.borrow_mut();
            worker.shard.take();
            let waiting = worker.shard.stats().in_flight as usize;
            worker.shard.give_back();
            waiting + worker.out.links.in_flight()
        };
        if busy == 0 {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    shared.drained();
    while tokio::time::Instant::now() < until && !shared.all_drained() && !shared.has_panicked() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (endpoint, links) = {
        let worker = seat.borrow();
        let links: Vec<_> = worker.out.links.iter().map(|entry| entry.link.clone()).collect();
        (worker.endpoint.clone(), links)
    };
    let finishing: Vec<_> = links
        .into_iter()
        .map(|link| {
            tokio::task::spawn_local(
                async move { link.finish(STOP_CODE, "this node is stopping", FINISH_WITHIN).await },
            )
        })
        .collect();
    for task in finishing {
        // A link that panics while closing is closed all the same.
        let _ = task.await;
    }
    endpoint.close(STOP_CODE, "this node is stopping");
    // The other sides find out by themselves when they cannot be told in time.
    let _ = tokio::time::timeout(FINISH_WITHIN, endpoint.wait_idle()).await;
}
