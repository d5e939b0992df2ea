//! What clients may rely on while and after a mesh of three was broken, asserted over their history and the mesh.
//!
//! The checkers of histories judge most of it; here is what they cannot know: which writes had to be served, and that what
//! was acknowledged can be read at the end. Also the mesh of those tests, and when it is whole again.

use super::{
    mesh::{Mesh, Plan},
    raw,
    traffic::{TABLES, Traffic},
    wait::wait_until,
};
use meshwork_core::{
    namespace::Mode,
    wire::client::{Consistency, Quorum, Status},
};
use meshwork_sim::history::{Event, History};
use std::collections::BTreeSet;

/// What every test here must have given the checkers to judge. `overload` wants a burst, which is none of these.
pub(crate) const ASKED: [&str; 8] =
    ["quorum", "durability", "last-writer", "expiry", "deadline", "resurrection", "writable", "worth"];

pub(crate) const ALL: [usize; 3] = [0, 1, 2];

/// Keys that are written once, before anything is broken.
pub(crate) const COLD: u64 = 300;

/// Needs everybody.
const ALL_VOTES: Consistency = Consistency { read: Quorum::All, write: Quorum::All, mode: Some(Mode::Strict) };

/// Three nodes whose memory is all they have; their directories keep who they are.
pub(crate) fn plan() -> Plan {
    Plan { kept: true, sets: vec!["node.warming_max=1s"], tables: TABLES, ..Plan::default() }
}

pub(crate) fn others(number: usize) -> Vec<usize> {
    ALL.into_iter().filter(|other| *other != number).collect()
}

/// Both modes.
pub(crate) fn must_serve(traffic: &Traffic, nodes: &[usize]) {
    traffic.must_serve(Mode::Strict, nodes);
    traffic.must_serve(Mode::Sloppy, nodes);
}

/// Waits until every node gets every other's vote.
pub(crate) fn all_reach_all(mesh: &Mesh) {
    for node in &mesh.nodes {
        let put = || raw::put(node.address, &mesh.client, "unjudged", "x", ALL_VOTES).status;
        wait_until(&format!("{} to reach all", node.name), || put() == Status::Ok);
    }
}

/// Of the keys that nobody deletes and that do not expire: how many had a write acknowledged, and how many of those a sloppy
/// read at the end found.
pub(crate) fn readable(history: &History) -> (usize, usize) {
    let ops = history.ops();
    let lasting = |key: &str| key.starts_with("cold") || key.starts_with("kept");
    let done = ops.iter().filter(|op| lasting(&op.invoke.key) && op.ok().is_some());
    let written: BTreeSet<&str> = done.clone().filter(|op| op.writes()).map(|op| op.invoke.key.as_str()).collect();
    let read = done.filter(|op| op.invoke.session == 0 && !op.invoke.strict);
    let found = read.filter(|op| op.ok().is_some_and(|end| end.value.is_some()));
    let found: BTreeSet<&str> = found.map(|op| op.invoke.key.as_str()).collect();
    (written.len(), written.intersection(&found).count())
}

/// Where no memory was lost, everything acknowledged is there.
pub(crate) fn all_is_readable(history: &History) {
    let (written, found) = readable(history);
    assert!(written > 0 && found == written, "{found} of {written} acknowledged keys can be read");
}

/// No write gave up for want of nodes where enough of them lived and the test said so. The checker `writable` sees writes
/// that certainly changed nothing; a coordinator that owns the key has written its own copy first, and says `maybe`.
pub(crate) fn all_are_served(history: &History) {
    let given_up = |event: &Event| match event {
        Event::Maybe(end) if end.status == "unavailable" => Some(end.op),
        Event::Maybe(_) | Event::Ok(_) | Event::Fail(_) | Event::Invoke(_) => None,
        Event::Fault { .. } | Event::Founded { .. } | Event::Phase { .. } => None,
        Event::Flush { .. } | Event::Created { .. } => None,
    };
    let given_up: BTreeSet<u64> = history.events.iter().filter_map(given_up).collect();
    let broken = history.ops().into_iter().find(|op| op.invoke.must && given_up.contains(&op.invoke.op));
    assert!(broken.is_none(), "it had to be served: {broken:?}");
}
