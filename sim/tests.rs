//! Whole runs: seeds that once broke something stay clean, runs repeat themselves, and something happens in them.

use crate::{
    checkers::CHECKERS,
    nemesis::FaultKind,
    phases::{Keep, run},
    plan::Plan,
    runner::{self, Seeds},
    shrink,
};
use meshwork_core::canary::Canary;
use std::path::Path;

/// Seeds that found a bug in core, with what it was.
const FOUND: [(u64, &str); 55] = [
    (0x1, "S15: what a put with a TTL over a delete had buried came back after its end"),
    (0x74, "S1: a value whose holder could not be asked was called missing, in strict reads too"),
    (0xa7, "L5: a read decided by its timeout asked for the body and waited for ever"),
    (0x49, "S6: a miss without the votes for it was not flagged sloppy"),
    (0x11e2, "S1: a digest that came twice made a strict read call the value missing"),
    (0x10110, "S23: the books of a replay passed the memory limit when nothing could be evicted"),
    (0x10150, "S23: what a comparison keeps in mind was asked for by length and held by capacity"),
    (0x20040, "S23: a step of the account, of 16 KiB, went over the limit that the bytes themselves kept"),
    (0x102d0, "S23: so did partitions that warm, listed when nobody can be asked for room"),
    (0x200e4, "L8: a breaker opened in a split let one request a round trip through, a minute after"),
    (0xb236e, "S6: a miss after the body went meanwhile did not say how few votes were behind it"),
    (0xf6062, "L7: the checker took a memory that a burst had filled for an overload"),
    (0x5159_6c2f_c733_da34, "L4: a machine that came back in the end still had a full disk"),
    (0xba046b, "S15: the checker took what was over and travelled without its value for a delete"),
    (0xba0780, "L2: a hint that came for who owns its key no more waited for the next layout"),
    (0xd4049, "L4: the simulator let a shard's report overtake another of the same moment"),
    (0xe002f5, "S1: of three owners one was left, and it was none of the two that had acknowledged"),
    (0xe033c0, "S3: a write that was stamped again and refused had been read under its first stamp"),
    (0xe0068b, "S7: the first mend of that took a vote back that had been given"),
    (0xe000a3, "S7: the second counted an owner that lost nothing among those that did"),
    (0xe013e7, "S15: the checker owed what a replica's own write had replaced, evicted before"),
    (0x200_04d4, "S15: the checker owed the end of what a flush had taken"),
    (0x100_3908, "S23: a hint was given the room that its own request had been let in with"),
    (0x4dc2_512d_7ddc_e05c, "L1: the checker compared owners a second after a read had brought one what a hint kept"),
    (0xc402bc, "S1: of what one owner evicted and another lost an older version was served"),
    (0xa10179, "S15: the checker owed what a replica's own write had brought and what was over"),
    (0xa1055d, "L8: a write to an only owner was refused while a probe of its breaker was under way"),
    (0xf6175, "S15: the checker owed what was over beside an older one that came later"),
    (0xd42fe, "L2: one hint for who owns its key no more held back all others for that node"),
    (0xf91acb3588ce5f8c, "S7: a copy that a lapse had emptied still voted for a write that it had taken"),
    (0xaac7, "S23: what a read that a write follows came to wait for had found its room taken"),
    (0xe5062, "S23: the same, seen first"),
    (0xe51d7, "S4: what a disk held found no room in memory, and the node voted all the same"),
    (0x9a103, "S15: the checker owed what a replica had told of after its disk had it, evicted and over"),
    (0x500_1463, "L7: who was believed dead for a moment was not asked for a second"),
    (0x600_1140, "L8: five requests that waited for a handshake opened a breaker, and the next was refused"),
    (0x700_1268, "L8: a sloppy write to all, for whom nobody can stand in, did not follow the probe under way"),
    (0x700_27e5, "L8: the same, among three"),
    (0x800_32af, "L1: a hint filled the ghost of its own version, and nobody compared that tree again"),
    (0x900_04e1, "S1: a strict write with W = 1 was not known to the owner that a change of layouts left alone"),
    (0x900_0b87, "S16: what was stamped below a mark ahead of the clock's bound was told to be superseded"),
    (0x900_148e, "S6: a write whose place a later one took was acknowledged by who holds the later one"),
    (0xc00_42fb, "S3: a write was told to be certainly refused when the layout of all who held it retired"),
    (0xd00_086e, "L8: there was room for four stand-ins, and all of five owners were dead"),
    (
        0xf00_1501,
        "L2: asked to stand in for itself, under the identity of its former process, an owner kept a hint for itself",
    ),
    (0xf00_2ec8, "S7: of the checker: what warmed before a view came was judged by that view"),
    (0xf00_3b3f, "S1: three owners became two, and then the one that had missed what the two others acknowledged"),
    (0x1000_0b68, "S23: what a disk is told of partitions that are dropped together had no room"),
    (0x1700_4db1, "S15: the checker took a delete for older data where what was evicted had ended long ago"),
    (0x2300_2079, "L7: the checker took writes that another node's full memory refused for overload"),
    (0x2200_1118, "S25: the checker missed a hint that was over while its answer was on the way"),
    (0x2200_135e, "S15: the checker took a delete for older data where a newer write of its own had ended long ago"),
    (
        0x2200_2005,
        "S1: a member that restarted after it had settled started empty once more when the transition was over",
    ),
    (0x1300_1945, "L6: two nodes that took each other for down said nothing to each other, and others saw both"),
    (0x591, "L6: nobody probed anybody any more after all had renewed their identity"),
];

#[test]
fn seeds_that_found_a_bug_stay_clean() {
    for (seed, what) in FOUND {
        let outcome = run(&Plan::of_seed(seed, None), &Keep::default());
        assert_eq!(outcome.findings, [], "{seed:x} {what}");
        assert!(outcome.events > 1_000 && outcome.history.events.len() > 100, "{seed:x}");
    }
}

/// Plans outlive the generator that drew them: of bugs found, and of each planted one (`canaries --plans` plants them).
#[test]
fn kept_plans_can_be_read_and_are_clean_while_nothing_is_planted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut names = Vec::new();
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let plan = Plan::from_json(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(!plan.note.is_empty(), "{} does not say what it is", path.display());
        assert_eq!(runner::first_finding(&plan), None, "{}", path.display());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    for canary in Canary::ALL {
        let name = format!("canary-{canary:?}.json").to_lowercase();
        assert!(names.contains(&name), "there is no sim/plans/{name}: `canaries --only {canary:?} --write sim/plans`");
    }
    assert!(names.iter().any(|name| name.starts_with("bug-")));
}

#[test]
fn the_same_seed_runs_the_same_twice_and_another_differently() {
    let trace = |seed| run(&Plan::of_seed(seed, None), &Keep::default()).trace;
    assert_eq!(trace(2), trace(2));
    assert_ne!(trace(2), trace(3));
}

#[test]
fn watching_a_run_does_not_change_it() {
    let plan = Plan::of_seed(5, None);
    let plain = run(&plan, &Keep::default());
    let watched = run(&plan, &Keep { window: 0..u64::MAX, timeline: true });
    assert_eq!(plain.trace, watched.trace);
    assert_eq!(watched.log.len() as u64, watched.events);
    assert!(watched.timeline.is_some_and(|timeline| !timeline.messages.is_empty()));
}

#[test]
fn a_plan_without_operations_leaves_the_checkers_with_nothing_to_judge() {
    let mut plan = Plan::of_seed(3, None);
    plan.ops.clear();
    let outcome = run(&plan, &Keep::default());
    assert_eq!(outcome.findings, []);
    let idle: Vec<&str> = outcome.unknown.iter().map(|(name, _)| *name).collect();
    assert_eq!(idle, CHECKERS.map(|(name, _)| name));
}

#[test]
fn leaving_out_a_fault_leaves_the_rest_of_the_plan_as_it_was() {
    let plan = Plan::of_seed(8, None);
    let mut smaller = plan.clone();
    smaller.faults.retain(|fault| !matches!(fault.kind, FaultKind::Pause { .. }));
    assert!(smaller.faults.len() < plan.faults.len());
    assert_eq!(Plan::from_json(&smaller.to_json()), Ok(smaller.clone()));
    assert_eq!(smaller.ops, plan.ops);
}

#[test]
fn several_threads_report_seeds_in_order_and_add_up_the_same() {
    let seeds = |jobs| Seeds { from: 20, count: 6, jobs, mix: None, failures_max: 9 };
    let mut told = Vec::new();
    let two = runner::run(seeds(2), |seed, _| told.push(seed));
    let one = runner::run(seeds(1), |_, _| {});
    assert_eq!(told, [20, 21, 22, 23, 24, 25]);
    assert_eq!((one.events, one.virtual_ms, &one.ended), (two.events, two.virtual_ms, &two.ended));
    assert_eq!((one.exit_code(), two.seeds), (0, 6));
}

#[test]
fn a_clean_plan_has_nothing_to_shrink() {
    assert!(shrink::shrink(&Plan::of_seed(2, None), &mut || true).is_none());
}
