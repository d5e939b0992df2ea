//! Shrinking: deleting parts of a plan while the same invariant still breaks (SIMULATION §6).
//!
//! First everything after the finding, then faults, then operations, by ddmin (Zeller, Hildebrandt, "Simplifying and
//! Isolating Failure-Inducing Input", TSE 2002); then nodes from the end, the network's mischief, durations; then what
//! single operations ask for: keys, clients, sizes, expiries, quorums, retries. Keyed draws make it work: what stays in a
//! plan keeps its fate. The caller says when to stop.

use crate::{
    checkers::{Finding, Invariant},
    nemesis::FaultKind,
    options::Config,
    plan::Plan,
    runner,
    workload::{Act, Op},
};

/// A plan that is shrinking.
struct Shrinking<'a> {
    invariant: Invariant,
    best: Plan,
    finding: Finding,
    runs: u64,
    go_on: &'a mut dyn FnMut() -> bool,
}

/// The smallest plan found that still breaks the invariant which `plan` breaks first, what it then breaks, and how many runs
/// that took; `None`: it breaks none. `go_on` is asked before each run.
pub fn shrink(plan: &Plan, go_on: &mut dyn FnMut() -> bool) -> Option<(Plan, Finding, u64)> {
    let finding = runner::first_finding(plan)?;
    let invariant = finding.invariant;
    let mut shrinking = Shrinking { invariant, best: plan.clone(), finding, runs: 1, go_on };
    for _ in 0..2 {
        let before = size(&shrinking.best);
        shrinking.list(|plan| plan.faults.clone(), |plan, faults| plan.faults = faults);
        shrinking.list(|plan| plan.ops.clone(), |plan, ops| plan.ops = ops);
        shrinking.nodes();
        shrinking.settings();
        shrinking.durations();
        shrinking.operations();
        shrinking.leftovers();
        if size(&shrinking.best) == before {
            break;
        }
    }
    Some((shrinking.best, shrinking.finding, shrinking.runs))
}

fn size(plan: &Plan) -> (usize, usize, u16, u32) {
    (plan.faults.len(), plan.ops.len(), plan.config.nodes, plan.config.keys)
}

/// The least that a value can be and still name its operation.
const VALUE_LEAST: u32 = 12;
/// With more operations than this, each is not tried by itself.
const OPS_TRIED_ALONE: usize = 40;

/// What an operation may do with less of; each is tried on all operations at once, then on each alone.
const PLAINER: [fn(&mut Op); 8] = [
    |op| op.key = 0,
    |op| op.client = 0,
    |op| op.retries = 0,
    |op| op.smart = false,
    |op| (op.r, op.w, op.strict) = (None, None, None),
    |op| op.space = 0,
    |op| match &mut op.act {
        Act::Put { size, .. } | Act::Add { size } | Act::Swap { size } => *size = VALUE_LEAST.min(*size),
        Act::Get | Act::Delete | Act::Touch { .. } => {}
    },
    |op| match &mut op.act {
        Act::Put { ttl_ms, .. } | Act::Touch { ttl_ms } => *ttl_ms = 0,
        Act::Get | Act::Add { .. } | Act::Swap { .. } | Act::Delete => {}
    },
];

impl Shrinking<'_> {
    /// Whether a smaller plan still breaks the same; then it is the best so far.
    fn accept(&mut self, smaller: Plan) -> bool {
        if smaller == self.best || smaller.check().is_err() || !(self.go_on)() {
            return false;
        }
        self.runs += 1;
        match runner::first_finding(&smaller).filter(|finding| finding.invariant == self.invariant) {
            Some(finding) => {
                (self.best, self.finding) = (smaller, finding);
                true
            }
            None => false,
        }
    }

    /// ddmin over one of the plan's lists.
    fn list<T: Clone>(&mut self, of: impl Fn(&Plan) -> Vec<T>, put: impl Fn(&mut Plan, Vec<T>)) {
        let mut chunk = of(&self.best).len();
        while chunk > 0 {
            let mut at = 0;
            let mut removed = false;
            while at < of(&self.best).len() {
                let items = of(&self.best);
                let rest = items[..at].iter().chain(items.get(at + chunk..).unwrap_or_default()).cloned().collect();
                let mut smaller = self.best.clone();
                put(&mut smaller, rest);
                if self.accept(smaller) {
                    removed = true;
                } else {
                    at += chunk;
                }
            }
            chunk = if removed && chunk > 1 { chunk.min(of(&self.best).len()) / 2 } else { chunk / 2 };
        }
    }

    fn nodes(&mut self) {
        while self.best.config.nodes > 1 {
            let mut smaller = self.best.clone();
            let config = &mut smaller.config;
            config.nodes -= 1;
            config.shards.pop();
            config.clocks.pop();
            config.core.retain(|machine| *machine < config.nodes);
            config.bootstrap_expect = config.bootstrap_expect.min(config.nodes);
            if !self.accept(smaller) {
                break;
            }
        }
    }

    fn settings(&mut self) {
        let changes: [fn(&mut Config); 10] = [
            |config| config.shards.fill(1),
            |config| {
                let network = &mut config.network;
                (network.duplicate_ppm, network.late_ppm, network.unknown_ppm, network.damage_ppm) = (0, 0, 0, 0);
            },
            |config| (config.network.loss_ppm, config.network.hump_ppm) = (0, 0),
            |config| config.core = (0..config.nodes).collect(),
            |config| config.view_delay_us = 0,
            |config| config.shuffle = false,
            |config| config.zones = 1,
            |config| config.silence_ms = 0,
            |config| config.memory = 16 << 20,
            |config| {
                for clock in &mut config.clocks {
                    (clock.skew_ms, clock.drift_ppm, clock.mono_ppm) = (0, 0, 0);
                }
            },
        ];
        for change in changes {
            let mut smaller = self.best.clone();
            change(&mut smaller.config);
            self.accept(smaller);
        }
    }

    fn durations(&mut self) {
        let last_op = self.best.ops.iter().map(|op| op.at_ms).max().unwrap_or(0);
        let last_fault = self.best.faults.iter().map(|fault| fault.at_ms + fault.for_ms).max().unwrap_or(0);
        for end in [last_op + 1, last_op.max(last_fault) + 1] {
            let mut smaller = self.best.clone();
            smaller.config.chaos_ms = end.min(smaller.config.chaos_ms);
            self.accept(smaller);
        }
        for nth in 0..self.best.faults.len() {
            for _ in 0..6 {
                let mut smaller = self.best.clone();
                smaller.faults[nth].for_ms /= 2;
                if !self.accept(smaller) {
                    break;
                }
            }
        }
    }

    fn operations(&mut self) {
        for plainer in PLAINER {
            let mut smaller = self.best.clone();
            smaller.ops.iter_mut().for_each(plainer);
            if smaller == self.best || self.accept(smaller) || self.best.ops.len() > OPS_TRIED_ALONE {
                continue;
            }
            for nth in 0..self.best.ops.len() {
                let mut smaller = self.best.clone();
                plainer(&mut smaller.ops[nth]);
                self.accept(smaller);
            }
        }
    }

    /// Numbers keys, clients and namespaces anew, without those that nobody uses.
    fn leftovers(&mut self) {
        let mut smaller = self.best.clone();
        let mut keys: Vec<u32> = smaller.ops.iter().map(|op| op.key).collect();
        keys.sort_unstable();
        keys.dedup();
        for op in &mut smaller.ops {
            op.key = keys.binary_search(&op.key).expect("it is one of them") as u32;
        }
        smaller.config.keys = (keys.len() as u32).max(1);
        self.accept(smaller);
        let mut smaller = self.best.clone();
        let vanishes = smaller.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Vanish { client } => Some(client),
            _ => None,
        });
        let last = smaller.ops.iter().map(|op| op.client).chain(vanishes).max().unwrap_or(0);
        smaller.config.clients = last + 1;
        self.accept(smaller);
        let mut nth = 0;
        while nth < self.best.config.spaces.len() && self.best.config.spaces.len() > 1 {
            let mut smaller = self.best.clone();
            smaller.config.spaces.remove(nth);
            let unused = smaller.ops.iter().all(|op| usize::from(op.space) != nth);
            for op in smaller.ops.iter_mut().filter(|op| usize::from(op.space) > nth) {
                op.space -= 1;
            }
            if !unused || !self.accept(smaller) {
                nth += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plainer_operation_is_still_one_that_a_plan_may_hold() {
        let mut plan = Plan::of_seed(4, None);
        for plainer in PLAINER {
            plan.ops.iter_mut().for_each(plainer);
            assert_eq!(plan.check(), Ok(()));
        }
        let sizes = plan.ops.iter().filter_map(|op| match op.act {
            Act::Put { size, ttl_ms } => Some((size, ttl_ms)),
            Act::Get | Act::Add { .. } | Act::Swap { .. } | Act::Delete | Act::Touch { .. } => None,
        });
        assert!(sizes.into_iter().all(|(size, ttl)| size == VALUE_LEAST && ttl == 0));
    }
}
