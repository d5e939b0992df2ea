//! A plan: everything that will be done to a cluster, complete before the first event (SIMULATION §2 "Plan before play").
//!
//! `seed → Config + faults + operations`, all plain data that travels as JSON, so that a plan outlives the generator that
//! drew it. A run is a function of its plan and of the code alone. What is drawn *during* a run (the delay of a message)
//! is keyed by the plan's seed, see `keyed`. A plan of another version is refused with words.

use crate::{latecomer, nemesis, nemesis::Fault, options, options::Config, silence, workload, workload::Op};
use serde::{Deserialize, Serialize};

/// Of the format below; raised when the meaning of a field changes.
pub const PLAN_VERSION: u32 = 1;

/// The plan of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `PLAN_VERSION`.
    pub version: u32,
    /// What it is, for a person; of found bugs: what the bug was.
    #[serde(default)]
    pub note: String,
    /// Keys every draw made while it runs.
    pub seed: u64,
    /// The cluster.
    pub config: Config,
    /// What breaks, by time since the chaos began.
    pub faults: Vec<Fault>,
    /// What clients ask, by time since the chaos began.
    pub ops: Vec<Op>,
}

/// Leans a seed on a kind of trouble (SIMULATION §2 "Fault mixes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mix {
    /// F2: restarts that lose memory.
    F2,
    /// F3: one disk image running twice, restarts from an old one.
    F3,
    /// F4: deletes, cuts, expiry.
    F4,
    /// F5: clocks, with TTLs.
    F5,
    /// F6: joins, leaves, removals, weights.
    F6,
    /// F7: owners down, sloppy writes.
    F7,
    /// F8: hints beyond their bounds.
    F8,
    /// F9: duplicates, messages minutes late.
    F9,
    /// F11: one-way and flapping links, pauses.
    F11,
    /// F14: overload and retries.
    F14,
    /// F15: rolling restarts.
    F15,
    /// F17: flushes, deleted namespaces.
    F17,
    /// F20: memory for a handful of entries.
    F20,
    /// F21: disks that stall, fill up and lose power, and meshes that restart as a whole.
    F21,
}

impl Mix {
    /// Those that seeds lean on by themselves. F17 and F21 are not among them: flushes, and what disks store, are drawn apart.
    pub const ALL: [Self; 12] = [
        Self::F2,
        Self::F3,
        Self::F4,
        Self::F5,
        Self::F6,
        Self::F7,
        Self::F8,
        Self::F9,
        Self::F11,
        Self::F14,
        Self::F15,
        Self::F20,
    ];

    /// The mix of that name.
    ///
    /// # Errors
    /// There is none; the words name those there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let mixes = || Self::ALL.into_iter().chain([Self::F17, Self::F21]);
        let all: Vec<String> = mixes().map(|mix| format!("{mix:?}")).collect();
        let found = mixes().find(|mix| format!("{mix:?}").eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("there is no mix {name:?}: the mixes built so far are {}", all.join(" ")))
    }
}

impl Plan {
    /// The plan of `seed`; one in four leans on a mix unless one is given.
    pub fn of_seed(seed: u64, mix: Option<Mix>) -> Self {
        let mut config = options::draw(seed, mix);
        let mut faults = nemesis::draw(seed, &config);
        let mut ops = workload::draw(seed, &config);
        latecomer::append(seed, &mut config, &mut faults, &mut ops);
        config.silence_ms = silence::draw(seed, &config);
        Self { version: PLAN_VERSION, note: String::new(), seed, config, faults, ops }
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// Words for a person: not JSON, of another version, or with settings that make no sense.
    pub fn from_json(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let found: Versioned = serde_json::from_str(text)
            .map_err(|error| format!("this is no plan (a JSON object with a version): {error}"))?;
        if found.version != PLAN_VERSION {
            return Err(format!(
                "the plan has version {}, this simulator reads version {PLAN_VERSION}: check out the commit that wrote it",
                found.version
            ));
        }
        let plan: Self = serde_json::from_str(text).map_err(|error| format!("the plan cannot be read: {error}"))?;
        plan.check()?;
        Ok(plan)
    }

    /// Writes it, a fault and an operation a line.
    pub fn to_json(&self) -> String {
        let lines = |items: Vec<String>| {
            if items.is_empty() { String::new() } else { format!("\n    {}\n  ", items.join(",\n    ")) }
        };
        let json = |value: &dyn erased::Json| value.json();
        let faults = lines(self.faults.iter().map(|fault| json(fault)).collect());
        let ops = lines(self.ops.iter().map(|op| json(op)).collect());
        format!(
            "{{\n  \"version\": {},\n  \"note\": {},\n  \"seed\": {},\n  \"config\": {},\n  \"faults\": [{faults}],\n  \"ops\": [{ops}]\n}}\n",
            self.version,
            self.note.json(),
            self.seed,
            self.config.json(),
        )
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn check(&self) -> Result<(), String> {
        self.config.check()?;
        let nodes = self.config.nodes;
        if let Some(fault) = self.faults.iter().find(|fault| fault.kind.machines().any(|machine| machine >= nodes)) {
            return Err(format!("a fault names a machine beyond the {nodes} there are: {fault:?}"));
        }
        let spaces = self.config.spaces.len();
        match self.ops.iter().find(|op| usize::from(op.space) >= spaces || op.client >= self.config.clients) {
            Some(op) => Err(format!("an operation names a namespace or client that the plan lacks: {op:?}")),
            None => Ok(()),
        }
    }
}

use erased::Json as _;

mod erased {
    //! One line of JSON of anything that serde knows.

    pub(super) trait Json {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).expect("plans hold no map with keys that JSON lacks")
        }
    }
}

/// Seeds are written in hexadecimal, as `run` prints them; decimal with a leading `#`.
///
/// # Errors
/// Words for a person.
pub fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix('#') {
        Some(decimal) => decimal.parse().ok(),
        None => u64::from_str_radix(text.trim_start_matches("0x"), 16).ok().or_else(|| {
            // A commit hash serves as a seed: its first 16 digits.
            let hash = text.len() > 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            hash.then(|| u64::from_str_radix(&text[..16], 16).ok()).flatten()
        }),
    };
    parsed.ok_or_else(|| format!("{text:?} is no seed: give hexadecimal digits (5eed42), #decimal, or a commit hash"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_json() {
        for seed in 0..50 {
            let plan = Plan::of_seed(seed, None);
            assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan));
        }
    }

    #[test]
    fn a_plan_of_another_version_or_with_nonsense_is_refused_with_words() {
        let mut plan = Plan::of_seed(1, None);
        plan.version = 99;
        assert!(Plan::from_json(&plan.to_json()).unwrap_err().contains("version 99"));
        assert!(Plan::from_json("{}").unwrap_err().contains("no plan"));
        let mut plan = Plan::of_seed(1, None);
        plan.config.nodes = 0;
        assert!(Plan::from_json(&plan.to_json()).unwrap_err().contains("nodes"));
    }

    #[test]
    fn seeds_are_hexadecimal_decimal_or_a_commit() {
        assert_eq!(parse_seed("5eed42"), Ok(0x5e_ed42));
        assert_eq!(parse_seed("#42"), Ok(42));
        assert_eq!(parse_seed("968e1ac0968e1ac0968e1ac0968e1ac0968e1ac0"), Ok(0x968e_1ac0_968e_1ac0));
        assert!(parse_seed("seed").unwrap_err().contains("no seed"));
    }

    #[test]
    fn the_same_seed_draws_the_same_plan_and_another_seed_another() {
        assert_eq!(Plan::of_seed(7, None), Plan::of_seed(7, None));
        assert_ne!(Plan::of_seed(7, None), Plan::of_seed(8, None));
    }
}
