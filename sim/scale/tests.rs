//! Small meshes: what is counted is counted, runs repeat themselves, and what was not measured says so.

use super::{
    Report, Settings, balance, plane, plots,
    report::BalanceRow,
    run,
    swim::{self, Effort},
};

const BRIEF: Effort = Effort { rounds_min: 2, rounds_max: 2, node_hours: 0, rings_max: 2 };

fn settings(sizes: &[usize], seed: u64, loss_ppm: u32) -> Settings {
    Settings::new(sizes.to_vec(), seed, loss_ppm, BRIEF).unwrap()
}

fn quiet(_: &str) {}

#[test]
fn a_report_is_a_function_of_its_settings() {
    let json = |seed| run(&settings(&[10], seed, 10_000), &mut quiet).to_json();
    assert_eq!(json(1), json(1));
    assert_ne!(json(1), json(2));
}

#[test]
fn all_learn_of_joins_and_crashes_and_a_crash_is_suspected_before_it_is_routed_round() {
    let row = swim::measure(30, &settings(&[30], 3, 10_000), &mut quiet);
    assert_eq!((row.join_missing, row.crash_missing, row.falsely_down, row.refused), (0, 0, 0, 0));
    let (join, crash, suspected) = (row.join.unwrap(), row.crash_all.unwrap(), row.suspected.unwrap());
    assert!(0.0 < join.p50 && join.p50 <= join.max);
    assert!(suspected.p50 < row.down_first.unwrap().p50 && row.down_first.unwrap().p50 <= crash.p50);
    assert_eq!(row.crash.unwrap().max, crash.max);
    assert!(row.crash_curve.len() == 101 && row.crash_curve.is_sorted());
    assert!(0 < row.idle_bytes && row.idle_bytes < row.busiest_bytes);
    assert!(row.largest_packet <= meshwork_core::limits::GOSSIP_BYTES_MAX as u64);
}

#[test]
fn heavy_loss_shows_as_false_suspicions_and_no_loss_as_none() {
    let suspicions = |loss_ppm| swim::measure(10, &settings(&[10], 4, loss_ppm), &mut quiet).false_suspicions;
    assert!(suspicions(400_000) > 0);
    assert_eq!(suspicions(0), 0);
}

#[test]
fn whole_nodes_found_a_mesh_and_greet_newcomers() {
    let row = plane::measure(6, &settings(&[6], 5, 10_000), &mut quiet);
    assert!(row.founded_ms.is_some() && row.founding_bytes > 0);
    assert_eq!((row.join_missing, row.newcomer_missing, row.crash_missing), (0, 0, 0));
    assert!(row.newcomer.is_some() && row.crash_all.is_some());
    assert!(row.idle_gossip_bytes > 0 && row.idle_small_bytes > 0 && row.join_bytes > 0);
    assert_eq!(row.join_links, 6, "the newcomer has a link with each");
}

#[test]
fn loads_and_movement_of_a_ring_are_within_what_placement_promises() {
    for row in balance::measure(12, &settings(&[12], 6, 0), &mut quiet) {
        // A member's cap is 1.05 of its share; copies move to the newcomer at least.
        assert!(row.max_to_share >= 1.0 && row.max_to_share < 1.06, "{row:?}");
        assert!(row.max_to_median.unwrap() >= 1.0 && row.empty_percent == 0.0, "{row:?}");
        assert!(row.join_to_least.unwrap() >= 1.0 && row.leave_to_least.unwrap() >= 1.0, "{row:?}");
        assert!((6.0..12.0).contains(&row.join_percent) && (6.0..12.0).contains(&row.leave_percent), "{row:?}");
    }
}

#[test]
fn sizes_are_sorted_and_nonsense_is_refused_with_what_to_do() {
    assert_eq!(settings(&[100, 10, 100], 0, 0).sizes, [10, 100]);
    let refused = |sizes: &[usize], loss_ppm| Settings::new(sizes.to_vec(), 0, loss_ppm, BRIEF).unwrap_err();
    assert!(refused(&[], 0).contains("--sizes 10,100"));
    assert!(refused(&[10, 1], 0).contains("a mesh of 1 ") && refused(&[20_000], 0).contains("2 to 10000"));
    assert!(refused(&[10], 500_000).contains("--loss"));
    assert!(settings(&[5_000], 0, 0).memory() > 25_000_000 * 100);
}

#[test]
fn what_was_not_measured_is_said_and_not_drawn() {
    let mut report = Report::new(&settings(&[10], 0, 0));
    assert_eq!(plots::of(&report), []);
    let row = BalanceRow { nodes: 5_000, members: 4_095, partitions: 1_024, ..BalanceRow::default() };
    report.balance.push(row);
    let table = report.to_table();
    assert!(table.contains("| 5000 (4095) |") && table.contains("A layout has at most 4096 members"), "{table}");
    assert!(table.contains("|            - |"), "no median without loads: {table}");
    // No ratio was measured, so only the load over the share has a point.
    let drawn: Vec<&str> = plots::of(&report).into_iter().map(|(name, _)| name).collect();
    assert_eq!(drawn, ["ring-balance.svg"]);
}
