//! S6 `acks-honest`, S7 `warming-silent` and S19 `quorums-overlap`: whether a reply claims more than the votes behind it.
//!
//! Pure: what `sight` saw of one request goes in, what is wrong with its reply comes out.

use super::{
    Invariant,
    sight::{Ask, Seen},
};
use meshwork_core::{
    id::NodeId,
    view::View,
    wire::{
        client::{Reply, Status},
        peer::ReplicaState,
    },
};
use std::collections::BTreeMap;

/// Whether a strict write was acknowledged without its quorum in the newer of two active layouts.
pub(super) fn short_of_newer(
    ask: &Ask,
    reply: &Reply<'_>,
    applied: &BTreeMap<NodeId, ReplicaState>,
    me: NodeId,
    view: &View,
) -> Option<String> {
    let (epoch, owners) = ask.newer.as_ref()?;
    let same = view.beside.as_ref().is_some_and(|newer| newer.name().epoch == *epoch);
    if !same || !ask.strict || ask.kind == "get" || reply.status != Status::Ok || reply.worth.superseded {
        return None;
    }
    let have = owners.iter().filter(|owner| **owner == me || applied.contains_key(owner)).count();
    let need = usize::from(ask.w).min(owners.len());
    (have < need).then(|| format!("{have} of {need} owners in layout {epoch}: {applied:?}, owners {owners:?}"))
}

/// Whether a reply claims more than the votes behind it.
pub(super) fn judge(
    ask: &Ask,
    reply: &Reply<'_>,
    applied: &BTreeMap<NodeId, ReplicaState>,
    me: NodeId,
    view: &View,
    seen: &Seen,
) -> Option<(Invariant, String)> {
    let owner = |node: &NodeId| ask.owners.contains(node);
    let own = if ask.own_ready { ReplicaState::Ready } else { seen.standing.own_state(ask.tree, view) };
    let mine = owner(&me).then_some(own);
    let settled = |state: ReplicaState| state == ReplicaState::Ready || (state == ReplicaState::Settled && !ask.strict);
    let count = |answers: &BTreeMap<NodeId, ReplicaState>, states: &dyn Fn(ReplicaState) -> bool| {
        let others = answers.iter().filter(|(node, state)| **node != me && owner(node) && states(**state)).count();
        others + usize::from(mine.is_some_and(states))
    };
    let short = |what: &str, have: usize, need: u8, answers: &BTreeMap<NodeId, ReplicaState>| {
        let mut states = answers.values().copied().chain(mine);
        let warming = states.any(|state| matches!(state, ReplicaState::Warming | ReplicaState::Settled));
        let invariant = if warming { Invariant::S7 } else { Invariant::S6 };
        (invariant, format!("{have} eligible {what} of {need}: {answers:?}, own {mine:?}, owners {:?}", ask.owners))
    };
    let worth = reply.worth;
    let done = reply.status == Status::Ok;
    let reads = ask.kind == "get";
    if reads && (done || reply.status == Status::NotFound) {
        let have = count(&ask.reads, &settled);
        if (ask.strict || !worth.sloppy) && have < usize::from(ask.r) {
            return Some(short("read votes", have, ask.r, &ask.reads));
        }
        if usize::from(worth.acks) > ask.reads.len() + 1 {
            return Some((Invariant::S6, format!("{} acks from {:?} and itself", worth.acks, ask.reads)));
        }
    }
    if !reads && done {
        let holders = applied.keys().filter(|node| **node != me).count() + 1;
        if usize::from(worth.acks) > holders && !worth.superseded {
            return Some((Invariant::S6, format!("{} acks from {applied:?} and itself", worth.acks)));
        }
        if ask.strict && worth.fallbacks > 0 {
            return Some((Invariant::S6, format!("{} stand-ins in a strict write", worth.fallbacks)));
        }
        let have = count(applied, &settled);
        let need = usize::from(ask.w).saturating_sub(usize::from(worth.fallbacks));
        if !worth.superseded && have < need {
            return Some(short("write votes", have, need as u8, applied));
        }
        let guarded = matches!(ask.kind, "touch" | "guarded put");
        let have = count(&ask.reads, &settled);
        if guarded && ask.strict && have < usize::from(ask.r) {
            return Some(short("read votes before it", have, ask.r, &ask.reads));
        }
    }
    None
}
