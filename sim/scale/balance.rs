//! How evenly core's ring spreads partitions at one size, and what moves when a member comes or goes.
//!
//! Three copies, three zones of equal members, drawn ids. What must move at least is what the newcomer holds afterwards, or what the
//! leaver held; what moves is every copy that a member did not hold before. A layout has a largest size: above it the largest
//! that can be joined is measured, and the row says so. Not here: weights, and uneven zones (core's own tests have those).

use super::{Settings, report::BalanceRow};
use crate::keyed::{Purpose, Stream};
use meshwork_core::{
    id::{NodeId, PartitionId},
    ring::{Layout, LayoutMember, Ring, layout::MEMBERS_MAX},
};

const COPIES: u8 = 3;
const ZONES: usize = 3;
/// The default, and the most that a configuration may ask for.
const PARTITIONS: [u16; 2] = [1_024, meshwork_core::limits::PARTITIONS_MAX];
/// Copies dealt to draws of one row, about: small meshes are drawn often.
const DRAWS_OF: usize = 2_000;

/// The rows of one size.
pub fn measure(size: usize, settings: &Settings, progress: &mut dyn FnMut(&str)) -> Vec<BalanceRow> {
    PARTITIONS
        .into_iter()
        .map(|partitions| {
            progress(&format!("{size} nodes: ring of {partitions} partitions"));
            row(size, partitions, settings)
        })
        .collect()
}

fn row(size: usize, partitions: u16, settings: &Settings) -> BalanceRow {
    let members = size.min(MEMBERS_MAX - 1);
    let draws = (DRAWS_OF / members).clamp(2, settings.effort.rings_max.max(2));
    let mut row = BalanceRow { nodes: size, members, partitions, draws, ..BalanceRow::default() };
    // Copies moved, and that had to move, by join and leave.
    let mut moves = [(0.0, 0.0); 2];
    for draw in 0..draws {
        let mut ids = Stream::new(settings.seed, Purpose::Config, (size * 64 + draw) as u64);
        let all: Vec<LayoutMember> = (0..=members).map(|index| member(&mut ids, index)).collect();
        let before = ring(&all[..members], partitions);
        let loads = before.shares();
        let copies = loads.iter().map(|(_, load)| f64::from(*load)).sum::<f64>();
        // Three copies in three zones: each zone holds one of everything, shared by its members.
        let mut zones = [0; ZONES];
        all[..members].iter().enumerate().for_each(|(index, _)| zones[index % ZONES] += 1);
        for (index, member) in all[..members].iter().enumerate() {
            let share = f64::from(partitions) / f64::from(zones[index % ZONES]);
            row.max_to_share = row.max_to_share.max(load_of(&loads, member.node) / share);
        }
        let mut sorted: Vec<u32> = loads.iter().map(|(_, load)| *load).collect();
        sorted.sort_unstable();
        let (most, median) = (f64::from(sorted[members - 1]), f64::from(sorted[members / 2]));
        if median > 0.0 {
            row.max_to_median = Some(row.max_to_median.unwrap_or(0.0).max(most / median));
        }
        let empty = sorted.iter().take_while(|load| **load == 0).count();
        row.empty_percent = row.empty_percent.max(empty as f64 / members as f64 * 100.0);
        let (joined, left) = (ring(&all, partitions), ring(&all[1..members], partitions));
        let (came, went) = (moved(&before, &joined), moved(&before, &left));
        row.join_percent += came / copies * 100.0 / draws as f64;
        row.leave_percent += went / copies * 100.0 / draws as f64;
        moves[0].0 += came;
        moves[0].1 += load_of(&joined.shares(), all[members].node);
        moves[1].0 += went;
        moves[1].1 += load_of(&loads, all[0].node);
    }
    let ratio = |(moved, least): (f64, f64)| (least > 0.0).then_some(moved / least);
    (row.join_to_least, row.leave_to_least) = (ratio(moves[0]), ratio(moves[1]));
    row
}

fn load_of(loads: &[(NodeId, u32)], node: NodeId) -> f64 {
    loads.binary_search_by_key(&node, |(other, _)| *other).map_or(0.0, |index| f64::from(loads[index].1))
}

fn member(ids: &mut Stream, index: usize) -> LayoutMember {
    let node = NodeId(u128::from(ids.bits()) << 64 | u128::from(ids.bits()));
    LayoutMember { node, token_id: node, zone: format!("zone-{}", index % ZONES), weight: 100 }
}

fn ring(members: &[LayoutMember], partitions: u16) -> Ring {
    let mut members = members.to_vec();
    members.sort_unstable_by_key(|member| member.node);
    Ring::derive(&Layout { epoch: 1, n: COPIES, partitions, members })
}

/// Copies that somebody holds now and did not before.
fn moved(before: &Ring, after: &Ring) -> f64 {
    let owners = |ring: &Ring, partition| -> Vec<NodeId> {
        ring.owners(PartitionId(partition)).iter().map(|index| ring.node(*index)).collect()
    };
    let moved = |partition| {
        let old = owners(before, partition);
        owners(after, partition).iter().filter(|node| !old.contains(node)).count()
    };
    (0..before.partitions()).map(moved).sum::<usize>() as f64
}
