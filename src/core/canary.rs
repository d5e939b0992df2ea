//! Planted bugs that prove the tester (SIMULATION §4): `if canary!(K7)`, where a person would make the mistake.
//!
//! Without the cargo feature `canary`, which only the simulator's `canaries` build turns on, the macro is the constant
//! `false` and the planted code is gone. With it, it reads a thread-local that the simulator sets for each seed: joins are
//! pure functions and have no configuration to carry a switch. At most one is planted at a time.

/// Whether bugs can be planted in this build; the binary asserts that they cannot.
pub const CANARIES: bool = cfg!(feature = "canary");

macro_rules! canaries {
    ($($name:ident $words:literal,)+) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Canary { $(#[doc = $words] $name,)+ }

        impl Canary {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What the bug is.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }
        }
    };
}

canaries! {
    K2 "Superseded counted as an acknowledgement",
    K3 "a late reply matched to a reused request id",
    K4 "acknowledged before the disk has it",
    K6 "two answers of one node are two votes",
    K7 "a Warming replica votes",
    K15 "the clock follows a backward jump",
    K16 "a tombstone collected while a hint may live",
    K17 "the accept rule ignores what was forgotten",
    K18 "what is older than a flush is taken back",
    K20 "TTL restarted by a hint",
    K21 "W met in the newest layout only",
    K22 "owners depend on the order in which peers were met",
    K23 "a range dropped before the old layout retires",
    K24 "an older incarnation goes on",
    K25 "hints without a bound",
    K26 "an unknown message closes the link",
    K27 "equal HLCs not ordered by actor",
    K28 "anti-entropy pushes evicted entries back",
    K29 "trackers wait for removed nodes",
    K30 "served past the deadline",
    K31 "a process declared down does not renew its identity",
    K32 "the search for stand-ins stops at N+1 nodes",
    K33 "stand-ins counted in strict mode",
    K34 "what ended leaves its tree when the sweep meets it, not a minute later",
    K35 "memory not charged for hints",
    K36 "a Warming replica does not compare before it is Ready",
    K37 "hold_until dropped when a shorter TTL replaces a longer",
    K38 "a partition is moved before all members acked its layout",
    K39 "a minutes-old peer message accepted",
    K40 "a touch re-stamps the local copy without a quorum read",
    K41 "a hint dropped when it is sent, before it is acknowledged",
    K42 "a refused hint dropped as if it were taken",
    K43 "a collection never completes",
    K44 "a flush takes what was written after it",
}

#[cfg(feature = "canary")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Canary>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(feature = "canary")]
pub fn plant(canary: Option<Canary>) {
    PLANTED.set(canary);
}

/// Whether this bug is planted on this thread.
#[cfg(feature = "canary")]
#[inline]
pub fn is_planted(canary: Canary) -> bool {
    PLANTED.get() == Some(canary)
}

/// Nothing is ever planted in this build.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub const fn is_planted(_canary: Canary) -> bool {
    false
}

/// Whether the bug called so is planted.
macro_rules! canary {
    ($name:ident) => {
        $crate::canary::is_planted($crate::canary::Canary::$name)
    };
}
pub(crate) use canary;
