//! Whom to dial while nobody answers (PROTOCOL §7: "a node alone reseeds").
//!
//! Seeds are addresses, not identities: a dial ends in a `Hello`, and that names the node. Dials are repeated with a growing
//! pause, as long as the node misses somebody. One's own address among them is left out; should a name lead back
//! here all the same, the `Hello` of oneself is ignored by `node`.

use crate::time::Mono;
use std::{net::SocketAddr, time::Duration};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause while somebody is up and others are missing.
const PAUSE_SPARSE: Duration = Duration::from_secs(30);

/// How much company a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Nobody else is up.
    Alone,
    /// Somebody, and fewer than there should be.
    Sparse,
    /// Enough.
    Full,
}

/// The seeds, and when to dial them next.
#[derive(Debug)]
pub struct Seeds {
    own: SocketAddr,
    addresses: Vec<SocketAddr>,
    dialed: Option<Mono>,
    pause: Duration,
}

impl Seeds {
    /// Nothing was dialed yet.
    pub fn new(own: SocketAddr, addresses: Vec<SocketAddr>) -> Self {
        let mut seeds = Self { own, addresses: Vec::new(), dialed: None, pause: PAUSE_MIN };
        seeds.replace(addresses);
        seeds
    }

    /// The names were resolved again. New addresses are dialed at the next look.
    pub fn replace(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.retain(|address| *address != self.own);
        addresses.sort_unstable();
        addresses.dedup();
        if addresses != self.addresses {
            (self.addresses, self.dialed, self.pause) = (addresses, None, PAUSE_MIN);
        }
    }

    /// Whether there is anybody but oneself to dial.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Addresses to dial now.
    pub fn due(&mut self, company: Company, now: Mono) -> &[SocketAddr] {
        let pause = match company {
            Company::Full => {
                self.pause = PAUSE_MIN;
                return &[];
            }
            Company::Sparse => PAUSE_SPARSE,
            Company::Alone => self.pause,
        };
        if self.dialed.is_some_and(|at| now.since(at) < pause) {
            return &[];
        }
        if self.dialed.is_some() {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        self.dialed = Some(now);
        &self.addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn a_lone_node_dials_with_growing_pauses_and_never_itself() {
        let mut seeds = Seeds::new(at(1), vec![at(1), at(2), at(2)]);
        let dials: Vec<u64> =
            (0..20u64).filter(|second| !seeds.due(Company::Alone, Mono(second * 1_000_000_000)).is_empty()).collect();
        assert_eq!(dials, [0, 1, 3, 7, 12, 17]);
        assert_eq!(seeds.due(Company::Alone, Mono(60_000_000_000)), [at(2)]);
    }

    #[test]
    fn in_full_company_nobody_is_dialed_and_new_addresses_are_dialed_at_once() {
        let mut seeds = Seeds::new(at(1), vec![at(2)]);
        assert!(seeds.due(Company::Full, Mono(0)).is_empty());
        assert_eq!(seeds.due(Company::Alone, Mono(1)), [at(2)]);
        seeds.replace(vec![at(3)]);
        assert_eq!(seeds.due(Company::Alone, Mono(2)), [at(3)]);
    }
}
