//! Who a process is to SWIM (PROTOCOL §7): the node, its incarnation, how often it had to rejoin, and where it listens.
//!
//! `addr()`, what SWIM keeps one identity of, is the `NodeId`: an address may change, a node stays one member. Of two
//! identities of one node the larger (incarnation, renewal) wins: a newer process beats an older one, and a process that
//! was declared down comes back at once with a larger renewal. Name and zone are not in it: packets are small, and
//! roles carry those.

use crate::{canary::canary, id::NodeId, value::Hlc};
use std::net::SocketAddr;

/// One process of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its clock when the process started.
    pub incarnation: Hlc,
    /// How often it rejoined after it was declared down.
    pub renewal: u16,
    /// Where its shard 0 listens.
    pub address: SocketAddr,
    /// How many shards it has: ports from `address` on.
    pub shards: u16,
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        if canary!(K31) {
            return None;
        }
        self.renewal.checked_add(1).map(|renewal| Self { renewal, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // Equal rank with another address is not an honest state; the order must still be total, or two nodes would
        // keep different winners for ever.
        let rank = |identity: &Self| (identity.incarnation, identity.renewal, identity.address, identity.shards);
        rank(self) > rank(adversary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    fn identity(incarnation: u64, renewal: u16) -> Identity {
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        Identity { node: NodeId(1), incarnation: Hlc(incarnation), renewal, address, shards: 1 }
    }

    #[test]
    fn a_newer_process_beats_an_older_one_however_often_that_rejoined() {
        assert!(identity(2, 0).win_addr_conflict(&identity(1, 9)));
        assert!(!identity(1, 9).win_addr_conflict(&identity(2, 0)));
    }

    #[test]
    fn a_renewed_identity_beats_the_one_declared_down_until_renewals_run_out() {
        let old = identity(1, 0);
        assert!(old.renew().unwrap().win_addr_conflict(&old));
        assert_eq!(identity(1, u16::MAX).renew(), None);
    }
}
