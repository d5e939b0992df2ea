//! Whom this node keeps in touch with: who is worth a message, who is dialled, who is told that it is here (PROTOCOL §7).
//!
//! SWIM finds out who answers among those that it knows. Here is what makes them known: seeds and members while too few answer, nodes
//! that a link says are there, and nodes that are taken for down. Of the last foca announces itself to one in 20 s, any of all that were
//! down within a day. Two that take each other for down say nothing to each other meanwhile, and no word of others changes that, so
//! those with a role hear of this node more often.

use super::Node;
use crate::{
    control::{seeds::Company, spread},
    id::NodeId,
    membership::Identity,
    outbox::NodeOutbox,
    ring::RoleState,
    time::Now,
};
use std::{collections::BTreeSet, time::Duration};

/// Absent members dialed at once beside the seeds, and strangers announced to.
const DIALS_MAX: usize = 16;
/// Between two announcements to nodes that are down and have a role.
const RECALL_EVERY: Duration = Duration::from_secs(5);

impl Node {
    /// Peers worth a message: up, or linked and not known to be down.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        let up = self.membership.up().keys().copied();
        let linked = self.linked.iter().copied().filter(|node| self.membership.health(*node).is_none());
        up.chain(linked).collect::<BTreeSet<NodeId>>().into_iter().collect()
    }

    /// Announces to linked nodes that SWIM had not heard of a tick ago either: what followed their `Hello` are datagrams, and
    /// one was lost. A newcomer would take them for down until they probe it, which in a mesh of n takes about n seconds.
    pub(super) fn introduce(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        let is_stranger = |node: &&NodeId| !self.membership.is_up(**node) && self.membership.health(**node).is_none();
        let strangers: BTreeSet<NodeId> = self.linked.iter().filter(is_stranger).copied().collect();
        let lasting = strangers.intersection(&self.strangers).filter_map(|node| self.hellos.get(node));
        let lasting: Vec<Identity> = lasting.map(super::identity_of).take(DIALS_MAX).collect();
        self.strangers = strangers;
        for peer in lasting {
            let effects = self.membership.announce(peer, now.mono);
            self.apply(effects, now, out);
        }
    }

    /// Announces to a node that is taken for down though it was not removed, another one each time. If it lives it says so, and that this
    /// node is down to it, if it is (simulator, seed 13001945).
    pub(super) fn recall(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        if now.mono.since(self.recalled_at) < RECALL_EVERY {
            return;
        }
        self.recalled_at = now.mono;
        let roles = self.replicated.roles();
        let has_role = |node: &NodeId| roles.get(*node).is_some_and(|role| role.state != RoleState::Removed);
        let down: Vec<NodeId> = self.membership.known();
        let down: Vec<NodeId> =
            down.into_iter().filter(|node| !self.membership.is_up(*node) && has_role(node)).collect();
        let chosen = spread::pick(&down, &mut self.rng);
        if let Some(peer) = chosen.and_then(|node| self.membership.identity(node)).copied() {
            let effects = self.membership.announce(peer, now.mono);
            self.apply(effects, now, out);
        }
    }

    pub(super) fn dial(&mut self, now: Now, out: &mut dyn NodeOutbox) {
        let up = self.membership.up().len() + 1;
        let wanted = match self.replicated.layout() {
            Some(layout) => layout.members.len(),
            None => usize::from(self.config.cluster.bootstrap_expect),
        };
        let company = match up {
            1 => Company::Alone,
            some if some < wanted => Company::Sparse,
            _ => Company::Full,
        };
        let mut addresses = self.seeds.due(company, now.mono).to_vec();
        if company == Company::Alone && !addresses.is_empty() {
            // Seeds may have moved on while this node was cut off; members that it knew are as good.
            let roles = self.replicated.roles().iter();
            let known = roles.filter(|(node, role)| *node != self.config.node && role.state != RoleState::Removed);
            addresses.extend(known.map(|(_, role)| role.address).take(DIALS_MAX));
            addresses.sort_unstable();
            addresses.dedup();
        }
        for address in addresses {
            out.dial(address);
        }
    }
}
