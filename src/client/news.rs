//! What links and calls tell the keeper of the mesh: layouts learned, links lost, answers from a newer layout.
//!
//! Plain facts under one lock and one wake-up; the keeper (`keeper.rs`) decides what to do about them. It exists so that
//! connections hold nothing of the mesh: the mesh owns them, and not the other way round.

use meshwork_core::wire::hello::{Routing, Welcome};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Facts that nobody has acted upon yet.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The newest routing that a link brought.
    pub(crate) routing: Option<Routing>,
    /// A node has welcomed this client.
    pub(crate) welcomed: bool,
    /// Longest value that the node which spoke last takes, bytes.
    pub(crate) value_max: Option<u32>,
    /// What is known of the layout is too old.
    pub(crate) stale: bool,
}

/// The board.
#[derive(Debug, Default)]
pub(crate) struct News {
    facts: Mutex<Facts>,
    pub(crate) changed: Notify,
    /// Calls began after a while without any: attempts need sweeping again.
    pub(crate) busy: Notify,
}

impl News {
    fn tell(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    pub(crate) fn welcomed(&self, welcome: &Welcome) {
        self.tell(|facts| {
            facts.welcomed = true;
            facts.value_max = Some(welcome.value_max);
            let newer = |routing: &Routing| {
                facts.routing.as_ref().is_none_or(|known| known.layout.epoch < routing.layout.epoch)
            };
            if let Some(routing) = welcome.routing.as_ref().filter(|routing| newer(routing)) {
                facts.routing = Some(routing.clone());
            }
        });
    }

    pub(crate) fn link_lost(&self) {
        self.stale();
    }

    pub(crate) fn stale(&self) {
        self.tell(|facts| facts.stale = true);
    }

    /// Takes all facts off the board.
    pub(crate) fn take(&self) -> Facts {
        std::mem::take(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
