//! Claim: deals the partitions of a layout out to its members (PROTOCOL §2).
//!
//! Each member puts tokens on the 64-bit ring; a partition walks clockwise from its arc's start and takes owners in four
//! passes: a new zone under its cap; a new zone; any under its cap; any. Caps follow from shares, shares from weights.
//! Invariants:
//! - the outcome depends on the layout's content only, and on `NodeId` only where two members have one `token_id`: a
//!   replacement changes no position;
//! - integers only: two machines never round differently;
//! - a partition never has one member twice, and never two members of one zone while zones ≥ n.
//!
//! Partitions are dealt in order, so the last ones meet full members. That bounds load at the price of some movement;
//! the tests measure both. Cost: O(tokens log tokens), then O(partitions × n × tokens walked until one fits).

use super::layout::{Layout, LayoutMember};
use crate::id::PartitionId;

/// Shares are counted in this many parts of a partition, as division leaves a remainder.
const PART: u128 = 1 << 32;

/// The members' tokens in clockwise order, and where each partition's arc starts among them.
pub(super) struct Walk {
    /// Member index per token.
    tokens: Box<[u16]>,
    /// Per partition, the first token at or after its start.
    starts: Box<[u32]>,
}

impl Walk {
    pub(super) fn new(layout: &Layout) -> Self {
        let order = placement_order(&layout.members);
        let mut tokens: Vec<(u64, u16, u16)> = Vec::new();
        for (rank, &index) in (0u16..).zip(&order) {
            let member = &layout.members[usize::from(index)];
            let mut hashes = blake3::Hasher::new_derive_key("meshwork 2026 ring token")
                .update(&member.token_id.0.to_be_bytes())
                .finalize_xof();
            // A stream, so that a larger weight adds tokens and leaves the others where they are.
            for _ in 0..token_count(member.weight) {
                let mut hash = [0; 8];
                hashes.fill(&mut hash);
                tokens.push((u64::from_be_bytes(hash), rank, index));
            }
        }
        tokens.sort_unstable();
        let bits = layout.partitions.trailing_zeros();
        let start_of = |partition: u16| {
            // A shift by 64 is undefined for u64, so one partition is a case of its own.
            let position = if bits == 0 { 0 } else { u64::from(partition) << (64 - bits) };
            let start = tokens.partition_point(|(hash, ..)| *hash < position);
            u32::try_from(start).expect("4,096 members have at most 2,560 tokens each")
        };
        let starts = (0..layout.partitions).map(start_of).collect();
        Self { tokens: tokens.into_iter().map(|(_, _, index)| index).collect(), starts }
    }

    /// Member indexes clockwise from the partition's start, once round; a member appears once per token.
    pub(super) fn from(&self, partition: PartitionId) -> impl Iterator<Item = u16> {
        let (before, after) = self.tokens.split_at(self.starts[usize::from(partition.0)] as usize);
        after.iter().chain(before).copied()
    }
}

/// 2.56 tokens per unit of weight, rounded to the nearest, at least one.
fn token_count(weight: u16) -> u32 {
    ((u32::from(weight) * 256 + 50) / 100).max(1)
}

/// Member indexes by `token_id`: what breaks ties must survive a replacement.
fn placement_order(members: &[LayoutMember]) -> Vec<u16> {
    let mut order: Vec<u16> = (0u16..).take(members.len()).collect();
    order.sort_by_key(|index| {
        let member = &members[usize::from(*index)];
        (member.token_id, member.node)
    });
    order
}

/// What one deal needs to know of a zone.
struct Zone {
    members: Vec<u16>,
    /// Members under their cap that do not hold the partition being dealt.
    open: u32,
    /// Whether the partition being dealt has an owner here.
    used: bool,
}

/// Owners of all partitions, `min(n, members)` member indexes each, the primary first.
pub(super) fn deal(layout: &Layout, walk: &Walk) -> Box<[u16]> {
    let members = &layout.members;
    let copies = members.len().min(usize::from(layout.n));
    let (zone_of, mut zones) = zones(members);
    let caps: Vec<u32> = shares(layout).into_iter().map(cap).collect();
    let mut load = vec![0u32; members.len()];
    for zone in &mut zones {
        zone.open = zone.members.iter().map(|index| u32::from(caps[usize::from(*index)] > 0)).sum();
    }
    let mut owners: Vec<u16> = Vec::with_capacity(copies * usize::from(layout.partitions));
    for partition in (0..layout.partitions).map(PartitionId) {
        let first = owners.len();
        for pass in [Pass::NewZoneUnderCap, Pass::NewZone, Pass::UnderCap, Pass::Any] {
            let mut tokens = walk.from(partition);
            while owners.len() - first < copies && pass.may_find(&zones) {
                let Some(index) = tokens.next() else { break };
                let (member, zone) = (usize::from(index), &mut zones[usize::from(zone_of[usize::from(index)])]);
                let under_cap = load[member] < caps[member];
                if !pass.takes(!zone.used, under_cap) || owners[first..].contains(&index) {
                    continue;
                }
                zone.used = true;
                zone.open -= u32::from(under_cap);
                load[member] += 1;
                owners.push(index);
            }
        }
        assert_eq!(owners.len() - first, copies, "the last pass takes anybody, and every member has a token");
        for &index in &owners[first..] {
            let zone = &mut zones[usize::from(zone_of[usize::from(index)])];
            zone.used = false;
            zone.open += u32::from(load[usize::from(index)] < caps[usize::from(index)]);
        }
    }
    owners.into_boxed_slice()
}

/// Which members a round of the walk may take.
#[derive(Clone, Copy)]
enum Pass {
    NewZoneUnderCap,
    NewZone,
    UnderCap,
    Any,
}

impl Pass {
    fn takes(self, new_zone: bool, under_cap: bool) -> bool {
        match self {
            Self::NewZoneUnderCap => new_zone && under_cap,
            Self::NewZone => new_zone,
            Self::UnderCap => under_cap,
            Self::Any => true,
        }
    }

    /// Whether anybody is left for this pass; without it a hopeless pass walks all tokens.
    fn may_find(self, zones: &[Zone]) -> bool {
        match self {
            Self::NewZoneUnderCap => zones.iter().any(|zone| !zone.used && zone.open > 0),
            Self::NewZone => zones.iter().any(|zone| !zone.used),
            Self::UnderCap => zones.iter().any(|zone| zone.open > 0),
            Self::Any => true,
        }
    }
}

/// Zone number per member, and the zones in order of their names.
fn zones(members: &[LayoutMember]) -> (Vec<u16>, Vec<Zone>) {
    let mut names: Vec<&str> = members.iter().map(|member| member.zone.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut zones: Vec<Zone> = names.iter().map(|_| Zone { members: Vec::new(), open: 0, used: false }).collect();
    let mut zone_of = Vec::with_capacity(members.len());
    for (index, member) in (0u16..).zip(members) {
        let zone = names.binary_search(&member.zone.as_str()).expect("collected from the same members");
        zones[zone].members.push(index);
        zone_of.push(u16::try_from(zone).expect("no more zones than members"));
    }
    (zone_of, zones)
}

/// A share and 5 %, in whole partitions, rounded up.
fn cap(share: u128) -> u32 {
    u32::try_from((share * 105).div_ceil(PART * 100)).expect("a share is at most 32,768 partitions")
}

/// Partitions each member should hold, in [`PART`]s, by member index. They sum to partitions × copies but for rounding.
///
/// A zone holds at most one copy of a partition when there are enough zones; when there are not, every zone holds at
/// least one, because a new zone goes before a cap.
pub(super) fn shares(layout: &Layout) -> Vec<u128> {
    let members = &layout.members;
    let (_, zones) = zones(members);
    let copies = members.len().min(usize::from(layout.n));
    let one_copy = u128::from(layout.partitions) * PART;
    let weight_of = |index: &u16| u128::from(members[usize::from(*index)].weight);
    let enough_zones = zones.len() >= copies;
    let zone_bounds: Vec<Bounds> = zones
        .iter()
        .map(|zone| Bounds {
            weight: zone.members.iter().map(weight_of).sum(),
            least: if enough_zones { 0 } else { one_copy },
            most: if enough_zones { one_copy } else { one_copy * zone.members.len() as u128 },
        })
        .collect();
    let mut shares = vec![0; members.len()];
    for (zone, share) in zones.iter().zip(fill(one_copy * copies as u128, &zone_bounds)) {
        let bounds: Vec<Bounds> =
            zone.members.iter().map(|index| Bounds { weight: weight_of(index), least: 0, most: one_copy }).collect();
        for (index, share) in zone.members.iter().zip(fill(share, &bounds)) {
            shares[usize::from(*index)] = share;
        }
    }
    shares
}

/// A claimant of a part of a total.
struct Bounds {
    weight: u128,
    least: u128,
    most: u128,
}

/// Splits `total` by weight within bounds: whoever the proportional part would push over a bound gets the bound, and
/// the rest is split again. Of both kinds of bound, the kind that weighs more is settled first (as in CSS Flexible Box
/// §9.7, "resolving flexible lengths"); each round settles at least one claimant.
fn fill(total: u128, claimants: &[Bounds]) -> Vec<u128> {
    let mut parts: Vec<Option<u128>> = vec![None; claimants.len()];
    loop {
        let open = || claimants.iter().zip(&parts).filter(|(_, part)| part.is_none()).map(|(claimant, _)| claimant);
        let weight: u128 = open().map(|claimant| claimant.weight).sum();
        if weight == 0 {
            return parts.into_iter().map(|part| part.expect("every claimant weighs at least one")).collect();
        }
        let left = total.saturating_sub(parts.iter().flatten().sum());
        let fair = |claimant: &Bounds| left * claimant.weight / weight;
        let lacking: u128 = open().map(|claimant| claimant.least.saturating_sub(fair(claimant))).sum();
        let excess: u128 = open().map(|claimant| fair(claimant).saturating_sub(claimant.most)).sum();
        for (claimant, part) in claimants.iter().zip(&mut parts) {
            let fair = fair(claimant);
            let settled = if lacking == excess {
                Some(fair.clamp(claimant.least, claimant.most))
            } else if lacking > excess {
                (fair < claimant.least).then_some(claimant.least)
            } else {
                (fair > claimant.most).then_some(claimant.most)
            };
            *part = part.or(settled);
        }
    }
}
