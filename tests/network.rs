//! Real processes on networks of the kernel's own that lose, cut and crawl: what clients were told goes through the
//! simulator's checkers of histories.
//!
//! Issue 4, "How it is shown". `histories.rs` breaks processes, and ways between them by a relay in user space; here each
//! node has a network namespace, so that clients and gossip suffer with the rest and the kernel's own queues, losses and
//! socket errors are met. Each test breaks a mesh of three, goes on asking, mends it, waits until it is whole and lets the
//! checkers judge all of it: nothing acknowledged is lost, nothing strict is stale, and who could serve did.
//!
//! Needs root, `ip`, `tc` and `nft`; without them each test says on stderr what is missing, and passes. One at a time: each
//! keeps four processes busy.

mod support;

use meshwork_sim::history::{Event, History};
use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
};
use support::{
    history::judge,
    mesh::{Mesh, Plan},
    netns::Network,
    promises::{ALL, ASKED, COLD, all_are_served, all_is_readable, all_reach_all, must_serve, others, plan},
    traffic::Traffic,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Does `test` among the clients of a network for three, or says why it cannot be.
fn on_a_network(test: impl FnOnce(&Arc<Network>) + Send) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match Network::new(3) {
        Ok(network) => {
            let network = Arc::new(network);
            network.clients().within(|| test(&network));
        }
        // Not by a macro: those are shown only of tests that fail.
        Err(missing) => writeln!(std::io::stderr(), "SKIPPED: network: {missing}").expect("stderr is open"),
    }
}

/// A mesh on it, and clients at work that every node has to serve.
fn at_work(network: &Arc<Network>, name: &str, seed: u64) -> (Mesh, Traffic) {
    let mesh = Mesh::start(Plan { network: Some(Arc::clone(network)), ..plan() });
    let traffic = Traffic::start(&mesh, name, seed, true, COLD);
    must_serve(&traffic, &ALL);
    traffic.goes_on(200);
    (mesh, traffic)
}

/// Once the network is mended: waits until the mesh is whole, goes on for a while, reads everything, judges.
fn ends_well(mut mesh: Mesh, traffic: Traffic) -> History {
    mesh.settle();
    all_reach_all(&mesh);
    must_serve(&traffic, &ALL);
    traffic.goes_on(300);
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    all_is_readable(&history);
    history
}

#[test]
fn when_two_packets_of_a_hundred_are_lost_everywhere_all_is_served() {
    on_a_network(|network| {
        let (mesh, traffic) = at_work(network, "lossy", 0x5eed_0101);
        traffic.recorder().fault("2 % of all packets are lost");
        network.lose(2);
        traffic.goes_on(1500);
        assert!(network.lost() > 50, "{} packets were lost", network.lost());
        traffic.recorder().fault("healed");
        network.heal();
        ends_well(mesh, traffic);
    });
}

#[test]
fn a_node_that_does_not_hear_one_other_is_still_served_by_and_serves() {
    on_a_network(|network| {
        let (mesh, traffic) = at_work(network, "one-way", 0x5eed_0102);
        traffic.recorder().fault("nothing passes from node-0 to node-2");
        network.cut(0, 2);
        traffic.goes_on(1000);
        assert!(network.lost() > 0, "nothing was cut");
        traffic.recorder().fault("healed");
        network.heal();
        ends_well(mesh, traffic);
    });
}

#[test]
fn a_node_cut_off_from_all_others_tells_nothing_stale_and_the_others_serve() {
    on_a_network(|network| {
        let (mesh, traffic) = at_work(network, "isolated", 0x5eed_0103);
        must_serve(&traffic, &others(2));
        traffic.recorder().fault("node-2 is cut off from the other nodes");
        network.isolate(2);
        traffic.goes_on(200);
        mesh.see_down(2);
        others(2).iter().for_each(|other| mesh.nodes[2].sees(&format!("node-{other}"), "down"));
        traffic.goes_on(300);
        traffic.recorder().fault("node-2 is cut off from clients too");
        network.hide(2);
        traffic.goes_on(300);
        assert!(network.lost() > 0, "nothing was cut");
        // Until all have heard otherwise, one side may hold nodes for dead because the other side did.
        must_serve(&traffic, &[]);
        traffic.recorder().fault("healed");
        network.heal();
        ends_well(mesh, traffic);
    });
}

/// Requests to these nodes that were asked in the time of `history` between two faults, and how many of them were done.
fn done_between(history: &History, from: &str, to: &str, nodes: &[usize]) -> (usize, usize) {
    let at = |words: &str| {
        let mut faults = history.events.iter().filter_map(|event| match event {
            Event::Fault { t, what } => Some((*t, what)),
            Event::Invoke(_) | Event::Ok(_) | Event::Fail(_) | Event::Maybe(_) => None,
            Event::Founded { .. } | Event::Phase { .. } => None,
            Event::Flush { .. } | Event::Created { .. } => None,
        });
        faults.find(|(_, what)| *what == words).expect("it was written down").0
    };
    let (from, to) = (at(from), at(to));
    // Of three owners one is hardly there: W = 3 may fail.
    let asked = history.ops().into_iter().filter(|op| (from..to).contains(&op.invoke.t) && op.invoke.w <= 2);
    let asked = asked.filter(|op| nodes.contains(&usize::try_from(op.invoke.node).expect("few")));
    asked.fold((0, 0), |(asked, done), op| (asked + 1, done + usize::from(op.ok().is_some())))
}

#[test]
fn a_node_behind_a_slow_link_does_not_stop_requests_through_the_others() {
    on_a_network(|network| {
        let (mesh, traffic) = at_work(network, "slow-link", 0x5eed_0104);
        must_serve(&traffic, &others(2));
        traffic.recorder().fault("node-2 has 1 Mbit/s");
        network.slow(2, 1000);
        traffic.goes_on(1500);
        assert!(network.slowed(2) > 0, "the link was wide enough");
        traffic.recorder().fault("healed");
        network.quicken(2);
        let history = ends_well(mesh, traffic);
        let (asked, done) = done_between(&history, "node-2 has 1 Mbit/s", "healed", &others(2));
        println!("{done} of {asked} requests through the others were served");
        assert!(asked > 100 && done == asked, "{done} of {asked} requests through the others were served");
    });
}
