//! A stand-in that comes back late with hints for what was deleted meanwhile (SIMULATION §2 "Fault mixes", F4).
//!
//! An owner is away while clients write, and others keep hints for it. As it returns, one of those is cut off before it could
//! replay them; clients delete what they wrote and see that it is gone; minutes later the latecomer is back, and what its hints
//! bring is older than those deletes, which must not be collected yet. All of this follows the drawn chaos, which lasts longer
//! for it, and comes from a stream of its own: no other draw moves. The keys are its own, too, so that the delete is the last
//! that is done to each.

use crate::{
    keyed::{Purpose, Stream},
    nemesis::{Fault, FaultKind},
    options::Config,
    plan::Mix,
    workload::{Act, Op},
};

/// Its keys begin here: between those of the workload and those of the phases after the chaos.
const FIRST_KEY: u32 = 500_000;
/// So many: in a mesh of a dozen nodes few keys have both the owner and the stand-in that were chosen.
const KEYS: u32 = 24;

/// Appends it to a plan, where the seed has one.
pub(crate) fn append(seed: u64, config: &mut Config, faults: &mut Vec<Fault>, ops: &mut Vec<Op>) {
    let stream = &mut Stream::new(seed, Purpose::Latecomer, 0);
    let chosen = stream.chance(if config.mix == Some(Mix::F4) { 500 } else { 20 });
    // Who is no owner can stand in: there must be more nodes than copies.
    let spaces: Vec<u8> = (0u8..)
        .zip(&config.spaces)
        .filter(|(_, rules)| u16::from(rules.n) < config.nodes)
        .map(|(space, _)| space)
        .collect();
    if !chosen || spaces.is_empty() || config.core.len() < 2 {
        return;
    }
    let space = stream.pick(&spaces);
    let owner = stream.below(config.core.len() as u64) as usize;
    let other = (owner + 1 + stream.below(config.core.len() as u64 - 1) as usize) % config.core.len();
    let (owner, late) = (config.core[owner], config.core[other]);
    let away_at = config.chaos_ms + stream.between(5_000, 20_000);
    let away_ms = stream.between(5_000, 20_000);
    let away = match stream.below(5) {
        0..2 => FaultKind::Pause { machine: owner },
        2..4 => FaultKind::Isolate { machine: owner },
        _ => FaultKind::Crash { machine: owner },
    };
    let back_at = away_at + away_ms;
    let (late_at, late_ms) = (back_at + stream.below(6_000), stream.between(90_000, 240_000));
    faults.push(Fault { at_ms: away_at, for_ms: away_ms, kind: away });
    faults.push(Fault { at_ms: late_at, for_ms: late_ms, kind: FaultKind::Isolate { machine: late } });
    config.chaos_ms = late_at + late_ms;
    let copies = config.spaces[usize::from(space)].n;
    let from = ops.len();
    for key in FIRST_KEY..FIRST_KEY + KEYS {
        let mut op = |at_ms, act, strict, w| Op {
            at_ms,
            client: stream.below(u64::from(config.clients)) as u16,
            space,
            key,
            act,
            strict: Some(strict),
            r: None,
            w,
            deadline_ms: 5_000,
            target: stream.bits(),
            smart: false,
            retries: 3,
        };
        // W = N while one of N is away: a stand-in must take its place.
        let spread = u64::from(key - FIRST_KEY) * 60;
        ops.push(op(away_at + 1_000 + spread * away_ms / 4_000, Act::Put { size: 40, ttl_ms: 0 }, false, Some(copies)));
        ops.push(op(back_at + 15_000 + spread, Act::Delete, true, (key % 2 == 0).then_some(copies)));
        ops.push(op(back_at + 22_000 + spread, Act::Get, true, None));
    }
    ops[from..].sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nemesis, options, plan::Plan, workload};

    #[test]
    fn it_follows_the_chaos_and_moves_no_other_draw() {
        let mut with = 0;
        for seed in 0..400 {
            let mix = (seed % 4 == 0).then_some(Mix::F4);
            let (plan, config) = (Plan::of_seed(seed, mix), options::draw(seed, mix));
            let (faults, ops) = (nemesis::draw(seed, &config), workload::draw(seed, &config));
            assert_eq!(plan.faults[..faults.len()], faults);
            assert_eq!(plan.ops[..ops.len()], ops);
            if plan.faults.len() == faults.len() {
                assert_eq!((plan.ops.len(), plan.config.chaos_ms), (ops.len(), config.chaos_ms));
                continue;
            }
            with += 1;
            let appended = &plan.ops[ops.len()..];
            assert!(appended.iter().all(|op| op.at_ms >= config.chaos_ms && op.at_ms < plan.config.chaos_ms));
            assert!(appended.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
            assert_eq!(plan.check(), Ok(()));
        }
        assert!((10..100).contains(&with), "{with} of 400");
    }

    #[test]
    fn each_key_is_written_while_the_owner_is_away_and_deleted_last() {
        let plans = (0..40).map(|seed| Plan::of_seed(seed, Some(Mix::F4)));
        let late = plans.filter(|plan| plan.ops.iter().any(|op| op.key >= FIRST_KEY));
        for plan in late {
            let [away, late] = &plan.faults[plan.faults.len() - 2..] else { panic!("there are two") };
            let back_at = away.at_ms + away.for_ms;
            assert!(late.at_ms >= back_at && late.at_ms < back_at + 10_000, "before a hint may be replayed");
            for op in plan.ops.iter().filter(|op| op.key >= FIRST_KEY) {
                match op.act {
                    Act::Put { .. } => assert!((away.at_ms..back_at).contains(&op.at_ms)),
                    Act::Delete | Act::Get => assert!(op.at_ms > late.at_ms + 5_000),
                    Act::Add { .. } | Act::Swap { .. } | Act::Touch { .. } => panic!("{op:?}"),
                }
            }
        }
    }
}
