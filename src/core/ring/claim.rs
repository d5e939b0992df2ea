//! Claim: deals the partitions of a layout out to its members (PROTOCOL §2).
//!
//! Each member puts tokens on the 64-bit ring; a partition walks clockwise from its arc's start and takes owners in
//! passes: a new zone under its cap; a new zone; any under its cap; any. Caps follow from shares, shares from weights.
//! Caps alone overflow late where a zone or member should be in nearly every list but was skipped early, so the passes
//! are refined: zones and members that missed more than their share leaves out go first, and with fewer zones than
//! copies a zone's further copies are bounded too.
//! Invariants:
//! - the outcome depends on the layout's content only, and on `NodeId` only where two members have one `token_id`: a
//!   replacement changes no position;
//! - integers only: two machines never round differently;
//! - a partition never has one member twice, nor two members of one zone while zones ≥ n.
//!
//! Partitions are dealt in order, so the last ones meet full members. That bounds load at the price of some movement;
//! the tests measure both. Cost: O(tokens log tokens), then O(partitions × tokens walked until n fit).

use super::layout::{Layout, LayoutMember};
use crate::id::PartitionId;

/// Shares are counted in this many parts of a partition, as division leaves a remainder.
const PART: u128 = 1 << 32;
/// What a member may hold, of its share.
const LOAD_PERCENT: u128 = 105;
/// What a member or zone may miss, of what its share leaves out. Nothing if the share is everything; else loose, because
/// a tighter bound moves more partitions when a member joins (1.34 × minimal in five zones with 105 instead of 125).
const MISSED_PERCENT: u128 = 125;

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

    /// Gives every member the index that `places` has for it.
    pub(super) fn renumber(&mut self, places: &[u16]) {
        for token in &mut self.tokens {
            *token = places[usize::from(*token)];
        }
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
#[derive(Default)]
struct Zone {
    members: Vec<u16>,
    /// Partitions without an owner here so far, and how many may be: see [`Claimant::missed_max`].
    missed: u32,
    missed_max: u32,
    /// Copies beyond the first of a partition, and how many may be: 1.05 × its share beyond one copy of everything.
    extra: u32,
    extra_max: u32,
    /// Members under their cap that do not hold the partition being dealt.
    open: u32,
    /// Members that are owed the partition being dealt and do not hold it yet.
    owed: u32,
    /// Whether the partition being dealt has an owner here.
    used: bool,
}

/// What one deal needs to know of a member.
struct Claimant {
    zone: u16,
    /// Partitions held so far.
    load: u32,
    /// Its cap: 1.05 × its share, rounded up.
    load_max: u32,
    /// 1.25 × what its share leaves out, rounded up: whoever was passed over so often is owed the next partition.
    missed_max: u32,
    /// Whether it is owed the partition being dealt.
    owed: bool,
}

impl Claimant {
    fn is_open(&self) -> bool {
        self.load < self.load_max
    }
}

/// Owners of all partitions: `min(n, members)` distinct member indexes each, in walk order, so the primary comes first.
pub(super) fn deal(layout: &Layout, walk: &Walk) -> Box<[u16]> {
    let copies = layout.members.len().min(usize::from(layout.n));
    let (mut zones, mut claimants) = claimants(layout);
    // Only a share above a fifth of the partitions can fall behind: at most 5 × n members, however many there are.
    let heavy: Vec<u16> = (0u16..)
        .zip(&claimants)
        .filter(|(_, claimant)| claimant.missed_max < u32::from(layout.partitions))
        .map(|(index, _)| index)
        .collect();
    let mut owners: Vec<u16> = Vec::with_capacity(copies * usize::from(layout.partitions));
    let mut taken: Vec<(usize, u16)> = Vec::with_capacity(copies);
    for partition in 0..layout.partitions {
        for &index in &heavy {
            let claimant = &mut claimants[usize::from(index)];
            claimant.owed = u32::from(partition) - claimant.load >= claimant.missed_max;
            zones[usize::from(claimant.zone)].owed += u32::from(claimant.owed);
        }
        taken.clear();
        for pass in PASSES {
            let mut tokens = walk.from(PartitionId(partition)).enumerate();
            while taken.len() < copies && pass.may_find(&zones) {
                let Some((place, index)) = tokens.next() else { break };
                let claimant = &mut claimants[usize::from(index)];
                let zone = &mut zones[usize::from(claimant.zone)];
                if !pass.takes(zone, claimant) || taken.iter().any(|(_, other)| *other == index) {
                    continue;
                }
                zone.extra += u32::from(zone.used);
                zone.used = true;
                zone.open -= u32::from(claimant.is_open());
                zone.owed -= u32::from(claimant.owed);
                claimant.load += 1;
                taken.push((place, index));
            }
        }
        assert_eq!(taken.len(), copies, "the last pass takes anybody, and every member has a token");
        taken.sort_unstable();
        owners.extend(taken.iter().map(|(_, index)| *index));
        for (_, index) in &taken {
            let claimant = &claimants[usize::from(*index)];
            zones[usize::from(claimant.zone)].open += u32::from(claimant.is_open());
        }
        for zone in &mut zones {
            zone.missed += u32::from(!zone.used);
            (zone.used, zone.owed) = (false, 0);
        }
    }
    owners.into_boxed_slice()
}

/// Which members one round of the walk may take.
#[derive(Clone, Copy)]
struct Pass {
    zone: ZoneRule,
    member: MemberRule,
}

#[derive(Clone, Copy)]
enum ZoneRule {
    /// New, and owed.
    Owed,
    /// Without an owner of this partition.
    New,
    /// May hold one more copy beyond the first.
    Spare,
    Any,
}

#[derive(Clone, Copy)]
enum MemberRule {
    Owed,
    UnderCap,
    Any,
}

/// Zones go before members, and what is owed before the rest.
const PASSES: [Pass; 12] = [
    Pass { zone: ZoneRule::Owed, member: MemberRule::Owed },
    Pass { zone: ZoneRule::Owed, member: MemberRule::UnderCap },
    Pass { zone: ZoneRule::Owed, member: MemberRule::Any },
    Pass { zone: ZoneRule::New, member: MemberRule::Owed },
    Pass { zone: ZoneRule::New, member: MemberRule::UnderCap },
    Pass { zone: ZoneRule::New, member: MemberRule::Any },
    Pass { zone: ZoneRule::Spare, member: MemberRule::Owed },
    Pass { zone: ZoneRule::Spare, member: MemberRule::UnderCap },
    Pass { zone: ZoneRule::Spare, member: MemberRule::Any },
    Pass { zone: ZoneRule::Any, member: MemberRule::Owed },
    Pass { zone: ZoneRule::Any, member: MemberRule::UnderCap },
    Pass { zone: ZoneRule::Any, member: MemberRule::Any },
];

impl ZoneRule {
    fn takes(self, zone: &Zone) -> bool {
        match self {
            Self::Owed => !zone.used && zone.missed >= zone.missed_max,
            Self::New => !zone.used,
            Self::Spare => zone.extra < zone.extra_max,
            Self::Any => true,
        }
    }
}

impl Pass {
    fn takes(self, zone: &Zone, claimant: &Claimant) -> bool {
        let member = match self.member {
            MemberRule::Owed => claimant.owed,
            MemberRule::UnderCap => claimant.is_open(),
            MemberRule::Any => true,
        };
        member && self.zone.takes(zone)
    }

    /// Whether anybody may be left for this pass; without it a hopeless pass walks all tokens.
    fn may_find(self, zones: &[Zone]) -> bool {
        zones.iter().any(|zone| {
            let members = match self.member {
                MemberRule::Owed => zone.owed > 0,
                MemberRule::UnderCap => zone.open > 0,
                MemberRule::Any => true,
            };
            members && self.zone.takes(zone)
        })
    }
}

/// The zones and members before anything is dealt.
fn claimants(layout: &Layout) -> (Vec<Zone>, Vec<Claimant>) {
    let (zone_of, mut zones) = zones(&layout.members);
    let all = u128::from(layout.partitions) * PART;
    let shares = shares(layout);
    for zone in &mut zones {
        let share: u128 = zone.members.iter().map(|index| shares[usize::from(*index)]).sum();
        zone.missed_max = with_slack(all.saturating_sub(share), MISSED_PERCENT);
        zone.extra_max = with_slack(share.saturating_sub(all), LOAD_PERCENT);
    }
    let bounded = |(zone, share): (u16, u128)| {
        let load_max = with_slack(share, LOAD_PERCENT);
        zones[usize::from(zone)].open += u32::from(load_max > 0);
        Claimant { zone, load: 0, load_max, missed_max: with_slack(all - share, MISSED_PERCENT), owed: false }
    };
    let claimants = zone_of.into_iter().zip(shares).map(bounded).collect();
    (zones, claimants)
}

/// Zone number per member, and the zones in order of their names.
fn zones(members: &[LayoutMember]) -> (Vec<u16>, Vec<Zone>) {
    let mut names: Vec<&str> = members.iter().map(|member| member.zone.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut zones: Vec<Zone> = names.iter().map(|_| Zone::default()).collect();
    let mut zone_of = Vec::with_capacity(members.len());
    for (index, member) in (0u16..).zip(members) {
        let zone = names.binary_search(&member.zone.as_str()).expect("collected from the same members");
        zones[zone].members.push(index);
        zone_of.push(u16::try_from(zone).expect("no more zones than members"));
    }
    (zone_of, zones)
}

/// `percent` of `parts`, in whole partitions, rounded up.
fn with_slack(parts: u128, percent: u128) -> u32 {
    u32::try_from((parts * percent).div_ceil(PART * 100)).expect("4,096 members hold at most 2^27 partitions")
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
