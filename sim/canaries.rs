//! The proof of the tester: each planted bug must be found (SIMULATION §4).
//!
//! Each is planted alone, on the thread of one seed after the other, until a run breaks the invariant that it is known to
//! break. A mix that leans towards its room comes first, as a person who suspects the room would do; then all seeds. One that is
//! not found is reported by name. That a run without any planted bug has the same trace in this build is checked too.

use crate::{
    checkers::Invariant,
    phases::Keep,
    plan::{Mix, Plan},
    runner,
};
use meshwork_core::canary::Canary;

/// Which invariants may tell of a planted bug, and what its seeds lean on.
pub fn expected(canary: Canary) -> (&'static [Invariant], Option<Mix>) {
    use Invariant::{
        L2, L3, L4, L5, L6, L8, S1, S2, S3, S4, S6, S7, S9, S13, S14, S15, S16, S18, S19, S20, S21, S22, S23, S24, S25,
    };
    match canary {
        Canary::K2 => (&[S6, S2], Some(Mix::F9)),
        Canary::K3 => (&[S6, S3, S9, S7, S2, S1], Some(Mix::F9)),
        Canary::K4 => (&[S4], Some(Mix::F21)),
        Canary::K6 => (&[S6], Some(Mix::F9)),
        Canary::K7 => (&[S7, S1], Some(Mix::F2)),
        Canary::K15 => (&[S13], Some(Mix::F5)),
        // S15 sees that it is gone too soon wherever somebody reads; what counts here is that a late hint brings back what it buried.
        Canary::K16 => (&[S14], Some(Mix::F4)),
        Canary::K17 => (&[S15], Some(Mix::F20)),
        Canary::K18 => (&[S16], Some(Mix::F17)),
        Canary::K20 => (&[S18], Some(Mix::F7)),
        Canary::K21 => (&[S19, S6, S7, S1], Some(Mix::F6)),
        Canary::K22 => (&[S20], None),
        Canary::K23 => (&[S21], Some(Mix::F6)),
        Canary::K24 => (&[S22], Some(Mix::F3)),
        Canary::K25 => (&[S23], Some(Mix::F8)),
        Canary::K26 => (&[S24], Some(Mix::F9)),
        Canary::K27 => (&[S15, S9, S1, S2], None),
        Canary::K28 => (&[L2], Some(Mix::F20)),
        Canary::K29 => (&[L4], Some(Mix::F6)),
        Canary::K30 => (&[L5], None),
        Canary::K31 => (&[L6], Some(Mix::F11)),
        Canary::K32 => (&[L8], Some(Mix::F7)),
        Canary::K33 => (&[S6, S7], Some(Mix::F7)),
        Canary::K34 => (&[S15], Some(Mix::F4)),
        Canary::K35 => (&[S23], Some(Mix::F8)),
        Canary::K36 => (&[S7, S1], Some(Mix::F2)),
        Canary::K37 => (&[S15], Some(Mix::F4)),
        Canary::K38 => (&[S19], Some(Mix::F6)),
        Canary::K39 => (&[S14], Some(Mix::F9)),
        Canary::K40 => (&[S6, S7], None),
        Canary::K41 => (&[S25], Some(Mix::F7)),
        Canary::K42 => (&[S25], Some(Mix::F7)),
        Canary::K43 => (&[L3], Some(Mix::F4)),
        Canary::K44 => (&[S1, S2, S4, S14], Some(Mix::F17)),
    }
}

/// How the search for one went.
#[derive(Debug)]
pub struct Hunt {
    /// Which.
    pub canary: Canary,
    /// Seeds run until it was found, and what broke; `None`: it was not.
    pub killed: Option<(u64, u64, Invariant)>,
    /// Seeds that broke something else first.
    pub otherwise: Vec<(u64, Invariant)>,
}

/// Looks for one, in at most `seeds_max` seeds from `from`.
pub fn hunt(canary: Canary, from: u64, seeds_max: u64) -> Hunt {
    let (invariants, mix) = expected(canary);
    let mut hunt = Hunt { canary, killed: None, otherwise: Vec::new() };
    for nth in 0..seeds_max {
        let plan = Plan::of_seed(from.wrapping_add(nth), mix);
        let Some(finding) = with(canary, || runner::first_finding(&plan)) else { continue };
        if invariants.contains(&finding.invariant) {
            hunt.killed = Some((nth + 1, plan.seed, finding.invariant));
            return hunt;
        }
        hunt.otherwise.push((plan.seed, finding.invariant));
    }
    hunt
}

/// Runs something on this thread with a bug planted.
#[cfg(feature = "canaries")]
pub fn with<T>(canary: Canary, what: impl FnOnce() -> T) -> T {
    meshwork_core::canary::plant(Some(canary));
    let done = what();
    meshwork_core::canary::plant(None);
    done
}

/// Runs something; in this build nothing can be planted.
#[cfg(not(feature = "canaries"))]
pub fn with<T>(_canary: Canary, what: impl FnOnce() -> T) -> T {
    what()
}

/// The trace of a plan with nothing planted: the same in a build with canaries and in one without.
pub fn trace(plan: &Plan) -> Option<u128> {
    runner::run_caught(plan, &Keep::default()).ok().map(|outcome| outcome.trace)
}
