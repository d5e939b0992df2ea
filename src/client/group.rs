//! Look-ups in the node of this process that are fetched together.
//!
//! A look-up waits some 0.2 µs for the memory its entry lies in, unless the processor fetches several at once. So a call on a
//! thread where others ask too joins their group and gives way; who of a group is polled again first tells the node what all of
//! them want, and each then looks up for itself. That costs a turn of the scheduler, in which others get theirs. Who asks alone
//! looks up at once: only a task that has to give way anyway (it never waits, and tokio's budget is used up) joins a group, and
//! so learns whether there are others.
//!
//! What it promises: groups change when memory is fetched and tasks are polled, never what is answered. A call whose group is
//! another's by now (it moved to another thread, or another mesh's calls came between) looks up unfetched. Shown by
//! `tests::calls_on_one_thread_are_fetched_together` and its neighbour; what it is worth by T7 of `tests/bench`.

use meshwork_core::{id::KeyHash, wire::local::LocalLink};
use std::cell::RefCell;

/// Most look-ups of one group: 64 entries of a few hundred bytes are in the processor's caches still when they are looked up.
const MOST: usize = 64;

/// The group of this thread that is not fetched yet.
struct Open {
    number: u64,
    /// Whose calls they are.
    mesh: u64,
    wanted: [(u16, KeyHash); MOST],
    count: usize,
    /// The last group was of several.
    busy: bool,
}

thread_local! {
    static OPEN: RefCell<Open> = const {
        RefCell::new(Open { number: 0, mesh: 0, wanted: [(0, KeyHash(0)); MOST], count: 0, busy: false })
    };
}

/// A call's place in a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    number: u64,
}

/// Whether others ask on this thread.
#[inline]
pub(crate) fn is_busy() -> bool {
    OPEN.with_borrow(|open| open.busy)
}

/// Joins the open group of this thread: the key of this hash, in this shard of `node`, by the mesh of this number.
#[inline]
pub(crate) fn join(mesh: u64, node: &dyn LocalLink, shard: u16, hash: KeyHash) -> Place {
    OPEN.with_borrow_mut(|open| {
        if open.mesh != mesh {
            (open.mesh, open.count) = (mesh, 0);
            open.number += 1;
        }
        let place = Place { number: open.number };
        open.wanted[open.count] = (shard, hash);
        open.count += 1;
        if open.count == MOST {
            open.fetch(node);
        }
        place
    })
}

impl Place {
    /// Has the group fetched, if nobody did.
    #[inline]
    pub(crate) fn fetch(self, node: &dyn LocalLink) {
        OPEN.with_borrow_mut(|open| {
            if open.number == self.number {
                open.fetch(node);
            }
        });
    }
}

impl Open {
    fn fetch(&mut self, node: &dyn LocalLink) {
        self.busy = self.count > 1;
        if self.busy {
            node.warm(&self.wanted[..self.count]);
        }
        self.count = 0;
        self.number += 1;
    }
}
