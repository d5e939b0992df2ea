//! Real processes under traffic while they are killed, stopped, cut off: what clients were told goes through the
//! simulator's checkers of histories.
//!
//! Issue 3, item 3, and the real processes of issue 4. Each test breaks one mesh of three, waits for what it broke to be
//! noticed, mends it, reads every key from every node and lets the checkers judge all of it. The last tests show that the
//! checkers would have seen it: the same history, altered in one place, is refused by name.

mod support;

use meshwork_core::{
    id::ActorId,
    namespace::Mode,
    value::{Hlc, Version},
};
use meshwork_sim::history::{Complete, Event, History, Invoke, Op};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    history::{Judgement, Recorder, judge},
    mesh::{Mesh, Plan},
    promises::{ALL, ASKED, COLD, all_are_served, all_is_readable, all_reach_all, must_serve, others, plan, readable},
    relay::{Relay, Weather},
    traffic::Traffic,
    wait::wait_until,
};

#[test]
fn at_rest_clients_are_told_the_truth_and_a_lie_among_it_would_be_found() {
    let mesh = Mesh::start(plan());
    let traffic = Traffic::start(&mesh, "at-rest", 0x5eed_0001, true, COLD);
    must_serve(&traffic, &ALL);
    traffic.goes_on(2500);
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    all_is_readable(&history);
    lies_are_found(&history);
}

#[test]
fn killed_and_started_again_in_turn_nodes_tell_nothing_that_was_not_so() {
    let mut mesh = Mesh::start(plan());
    let traffic = Traffic::start(&mesh, "rolling-kills", 0x5eed_0002, false, COLD);
    must_serve(&traffic, &ALL);
    traffic.goes_on(400);
    for number in ALL {
        traffic.recorder().fault(format!("kill -9 of node-{number}"));
        traffic.must_serve(Mode::Sloppy, &others(number));
        traffic.must_serve(Mode::Strict, &others(number));
        mesh.kill(number);
        traffic.goes_on(200);
        let process = ALL.len() + number;
        traffic.recorder().fault(format!("start of p{process} on machine {number} as node-{number}"));
        mesh.revive(number);
        // As the README has it: the next one goes down when the mesh says that it may.
        mesh.cli_at(number, &["check", "rollout", "--wait", "60s"]).done();
        traffic.recorder().fault(format!("ready is p{process}"));
        traffic.must_serve(Mode::Strict, &ALL);
        traffic.must_serve(Mode::Sloppy, &ALL);
        traffic.goes_on(200);
    }
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    let (written, found) = readable(&history);
    println!("{found} of {written} acknowledged keys can be read after all nodes were killed in turn");
    assert_eq!(found, written, "each waited for the one before it to compare itself");
}

#[test]
fn a_node_that_was_stopped_for_half_a_minute_tells_nothing_old_when_it_goes_on() {
    let mesh = Mesh::start(plan());
    let traffic = Traffic::start(&mesh, "stopped", 0x5eed_0003, true, COLD);
    must_serve(&traffic, &ALL);
    traffic.goes_on(400);
    traffic.recorder().fault("SIGSTOP of node-1");
    must_serve(&traffic, &others(1));
    mesh.nodes[1].process().signal(libc::SIGSTOP);
    let since = Instant::now();
    mesh.see_down(1);
    traffic.goes_on(400);
    // Longer than every deadline, and than any message between nodes may be old.
    wait_until("half a minute to pass", || since.elapsed() >= Duration::from_secs(30));
    traffic.recorder().fault("SIGCONT of node-1");
    mesh.nodes[1].process().signal(libc::SIGCONT);
    others(1).into_iter().for_each(|other| mesh.nodes[other].sees("node-1", "alive"));
    mesh.nodes[1].becomes("ready");
    // It takes itself for ready all along, and learns only by and by that its links are gone.
    traffic.goes_on(200);
    all_reach_all(&mesh);
    must_serve(&traffic, &ALL);
    traffic.goes_on(200);
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    all_is_readable(&history);
}

#[test]
fn a_mesh_cut_one_way_and_in_two_in_bad_weather_tells_nothing_that_was_not_so() {
    let mut mesh = Mesh::start(Plan { relayed: true, ..plan() });
    let traffic = Traffic::start(&mesh, "cut", 0x5eed_0004, true, COLD);
    let relay = |mesh: &Mesh, what: &str| -> Arc<Relay> {
        traffic.recorder().fault(what);
        Arc::clone(mesh.relay.as_ref().expect("the plan wants one"))
    };
    must_serve(&traffic, &ALL);
    traffic.goes_on(200);
    let weather = Weather { delay_max: Duration::from_millis(8), lost: 10, doubled: 10 };
    relay(&mesh, "bad weather").weather(weather);
    traffic.goes_on(300);
    relay(&mesh, "nothing passes from node-0 to node-2").cut(0, 2);
    traffic.goes_on(300);
    must_serve(&traffic, &others(2));
    relay(&mesh, "node-2 is cut off").isolate(2);
    mesh.see_down(2);
    others(2).iter().for_each(|other| mesh.nodes[2].sees(&format!("node-{other}"), "down"));
    traffic.goes_on(300);
    // The two sides held each other for dead. Until all have heard otherwise, a node may hold another for dead that it reached
    // all along, because one from the other side says so.
    must_serve(&traffic, &[]);
    relay(&mesh, "healed").heal();
    mesh.settle();
    all_reach_all(&mesh);
    must_serve(&traffic, &ALL);
    traffic.goes_on(300);
    let tally = relay(&mesh, "end").tally();
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    println!("the relay: {tally:?}");
    let all = [tally.passed, tally.reordered, tally.doubled, tally.lost, tally.cut];
    assert!(all.iter().all(|count| *count > 0), "the relay broke nothing: {tally:?}");
    all_is_readable(&history);
}

/// A node that was stopped meanwhile learns of the flush when it goes on.
#[test]
fn what_is_flushed_under_traffic_is_gone_and_what_was_written_since_is_owed() {
    let mut mesh = Mesh::start(plan());
    let traffic = Traffic::start(&mesh, "flushed", 0x5eed_0005, true, COLD);
    must_serve(&traffic, &ALL);
    traffic.goes_on(400);
    traffic.recorder().fault("SIGSTOP of node-2");
    must_serve(&traffic, &others(2));
    mesh.nodes[2].process().signal(libc::SIGSTOP);
    mesh.see_down(2);
    let (mark, heard) = flush(&mesh, &traffic, "lasting", &["node-0", "node-1"]);
    traffic.goes_on(400);
    traffic.recorder().fault("SIGCONT of node-2");
    mesh.nodes[2].process().signal(libc::SIGCONT);
    others(2).into_iter().for_each(|other| mesh.nodes[other].sees("node-2", "alive"));
    mesh.nodes[2].becomes("ready");
    all_reach_all(&mesh);
    // By now the one who was away knows of the mark.
    mesh.settle();
    let again = traffic.recorder().now();
    must_serve(&traffic, &ALL);
    traffic.goes_on(300);
    flush(&mesh, &traffic, "brief", &["node-0", "node-1", "node-2"]);
    traffic.goes_on(200);
    let history = judge(&traffic.end(), &ASKED);
    all_are_served(&history);
    let ops = history.ops();
    let old = |op: &Op<'_>| {
        let knows = if op.invoke.node == 2 { again } else { heard };
        let version = op.ok().and_then(|end| end.version);
        op.invoke.ns == "lasting" && op.invoke.t > knows && version.is_some_and(|version| version.hlc <= mark)
    };
    assert!(!ops.iter().any(old), "whoever heard of the flush serves nothing older");
    let read = |family: &'static str| {
        let last = ops.iter().filter(move |op| op.invoke.session == 0 && op.invoke.key.starts_with(family));
        last.filter(|op| op.invoke.f == "get" && op.ok().is_some_and(|end| end.value.is_some())).count()
    };
    assert_eq!(
        (read("cold"), read("kept") > 0),
        (0, true),
        "what was written once before it, and what is all the time"
    );
    // Without the flush, and with one that took less, the same history is refused: the checkers owe what was there.
    for (what, mark) in [("no flush", None), ("a lower mark", Some(Hlc(1)))] {
        let mut lie = history.clone();
        lie.events.retain_mut(|event| match (event, mark) {
            (Event::Flush { .. }, None) => false,
            (Event::Flush { mark: told, .. }, Some(mark)) => {
                *told = mark;
                true
            }
            (_, _) => true,
        });
        let named: Vec<&str> = Judgement::of(&lie).findings.iter().map(|(name, _)| *name).collect();
        assert!(named.contains(&"quorum"), "{what}: {named:?}");
    }
}

/// Flushes a namespace, as an administrator does; its mark, and when the command said that these hold to it.
fn flush(mesh: &Mesh, traffic: &Traffic, name: &str, holding: &[&str]) -> (Hlc, u64) {
    let mark = traffic.recorder().flush(name, || {
        let told = mesh.admin(&["namespace", "flush", name, "-o", "json"]).done().json();
        assert_eq!(told["holding"], serde_json::json!(holding), "{told}");
        Hlc(u64::from_str_radix(told["mark"].as_str().expect("a mark"), 16).expect("hexadecimal"))
    });
    (mark, traffic.recorder().now())
}

#[test]
fn a_history_in_which_nothing_happened_is_not_green() {
    let recorder = Recorder::new("nothing", 0, Vec::new(), true);
    recorder.fault("a fault, and nobody asked anything");
    let judgement = Judgement::of(&recorder.history());
    assert!(judgement.findings.is_empty() && judgement.content.is_empty(), "{judgement:?}");
    let words = judgement.stands(&ASKED).unwrap_err();
    assert!(ASKED.iter().all(|name| words.contains(&format!("{name}: UNKNOWN"))), "{words}");
}

/// A lie: an event with the request that it belongs to; whether it was changed.
type Lie = fn(&mut Event, &Invoke) -> bool;

/// Changes the last event that `lie` wants to change.
fn altered(history: &History, lie: Lie) -> History {
    let mut history = history.clone();
    let asked =
        |event: &Event| if let Event::Invoke(invoke) = event { Some((invoke.op, invoke.clone())) } else { None };
    let asked: BTreeMap<u64, Invoke> = history.events.iter().filter_map(asked).collect();
    let changed = history.events.iter_mut().rev().any(|event| match event {
        Event::Ok(complete) | Event::Fail(complete) | Event::Maybe(complete) => {
            let invoke = &asked[&complete.op];
            lie(event, invoke)
        }
        Event::Invoke(_) | Event::Fault { .. } | Event::Founded { .. } => false,
        Event::Flush { .. } | Event::Created { .. } | Event::Phase { .. } => false,
    });
    assert!(changed, "there was nothing to lie about");
    history
}

/// Changes a reply that the lie is about: one to `f`, of which `fits` is true.
fn reply<'a>(
    event: &'a mut Event,
    invoke: &Invoke,
    f: &str,
    fits: impl Fn(&Complete) -> bool,
) -> Option<&'a mut Complete> {
    match event {
        Event::Ok(complete) if invoke.f == f && fits(complete) => Some(complete),
        Event::Ok(_) | Event::Fail(_) | Event::Maybe(_) => None,
        Event::Invoke(_) | Event::Fault { .. } | Event::Founded { .. } => None,
        Event::Flush { .. } | Event::Created { .. } | Event::Phase { .. } => None,
    }
}

/// The checkers that accepted a history refuse it after one reply in it was changed.
fn lies_are_found(history: &History) {
    let lies: [(&str, &str, Lie); 9] = [
        ("quorum", "a strict read finds nothing where an acknowledged write is", |event, invoke| {
            let wanted = invoke.strict && invoke.r == 2 && invoke.key.starts_with("kept");
            let found = reply(event, invoke, "get", |end| wanted && end.value.is_some());
            found.map(|end| (end.value, end.version) = (None, None)).is_some()
        }),
        ("last-writer", "an acknowledged write has a version that a later one does not beat", |event, invoke| {
            let wanted = invoke.strict && invoke.w == 2 && invoke.key.starts_with("kept-0") && invoke.t < 3_000_000;
            let future = Version { hlc: Hlc(u64::MAX), actor: ActorId(1) };
            reply(event, invoke, "put", |_| wanted).map(|end| end.version = Some(future)).is_some()
        }),
        ("durability", "a read returns what nobody wrote", |event, invoke| {
            let found = reply(event, invoke, "get", |end| end.value.is_some());
            found.map(|end| end.value = Some(u64::MAX)).is_some()
        }),
        ("durability", "a value is not whole", |event, invoke| {
            let found = reply(event, invoke, "get", |end| end.value.is_some());
            found.map(|end| (end.value, end.torn) = (None, true)).is_some()
        }),
        ("expiry", "an expiry was begun again", |event, invoke| {
            let found = reply(event, invoke, "get", |end| end.value.is_some() && end.expires_at.is_some());
            found.map(|end| end.expires_at = end.expires_at.map(|at| at + 250)).is_some()
        }),
        ("deadline", "a request ends for the second time", |event, invoke| {
            reply(event, invoke, "get", |end| end.op > 1).map(|end| end.op = 1).is_some()
        }),
        ("resurrection", "what was deleted, and seen to be gone, is back", |event, invoke| {
            let wanted = invoke.strict && invoke.r == 2 && invoke.key.starts_with("gone");
            let found = reply(event, invoke, "get", |end| wanted && end.value.is_some());
            found.map(|end| end.version = Some(Version { hlc: Hlc(1), actor: ActorId(1) })).is_some()
        }),
        ("worth", "a write that was done has an acknowledgement too few", |event, invoke| {
            let done = reply(event, invoke, "put", |end| invoke.w == 2 && end.acks == 2 && end.flags.is_empty());
            done.map(|end| end.acks = 1).is_some()
        }),
        ("writable", "a write is refused while all nodes live", |event, invoke| {
            let refused = Complete { status: "unavailable".to_owned(), ..Complete::default() };
            let wanted = reply(event, invoke, "put", |_| invoke.must).map(|end| (end.t, end.op));
            wanted.map(|(t, op)| *event = Event::Fail(Complete { t, op, ..refused })).is_some()
        }),
    ];
    for (checker, what, lie) in lies {
        let judgement = Judgement::of(&altered(history, lie));
        let named = judgement.findings.iter().any(|(name, _)| *name == checker);
        assert!(named, "{what}: {checker} does not say so: {:?}", judgement.findings);
    }
}
