//! Sending a client's request on to an owner (PROTOCOL §4 "Coordinator").
//!
//! A client whose ring is fresh asks an owner by itself; this is for the others, and for thin clients with one
//! connection. A request is forwarded once: who receives a forwarded one coordinates it or says `NotOwner`.

use super::{Operation, OperationId, Origin, Phase, Refused, Subject, refused};
use crate::{
    id::NodeId,
    limits,
    outbox::ShardOutbox,
    shard::Shard,
    time::Now,
    view::View,
    wire::{
        client::{Op, Reply, Request, Status},
        peer::PeerMessage,
    },
};
use std::{sync::Arc, time::Duration};

impl Shard {
    #[expect(clippy::too_many_arguments, reason = "the facts of a request, each used once")]
    pub(super) fn forward(
        &mut self,
        now: Now,
        view: &Arc<View>,
        origin: Origin,
        subject: Subject,
        request: &Request<'_>,
        owners: &[u16],
        out: &mut dyn ShardOutbox,
    ) -> Result<(), Refused> {
        if matches!(origin, Origin::Peer(..)) {
            return Err(refused(Status::NotOwner, "this node does not own the key: the sender's layout is old"));
        }
        self.turn = self.turn.wrapping_add(1);
        let reach = |shard: &Self, owner: &u16| shard.reachable(now, view, *owner);
        let live: Vec<u16> = owners.iter().copied().filter(|owner| reach(self, owner)).collect();
        let near = live.iter().copied().find(|owner| view.members[usize::from(*owner)].near);
        let mut to = near.or_else(|| live.get(self.turn % live.len().max(1)).copied());
        if to.is_none() && !subject.strict {
            to = view.stand_ins(subject.partition, owners.len()).find(|member| reach(self, member));
        }
        to = to.or_else(|| owners.iter().copied().find(|owner| self.follows(now, view, *owner)));
        let Some(to) = to else {
            let need = subject.write;
            return Err(refused(Status::Unavailable { need, have: 0 }, "no owner of the key can be reached"));
        };
        let writes = !matches!(request.op, Op::Get);
        let limit = if writes { limits::WRITE_TIMEOUT } else { limits::READ_TIMEOUT };
        let deadline = now.mono + Duration::from_millis(u64::from(request.deadline_ms)).min(limit);
        self.peers.on_ask(to, now.mono);
        let peer = Self::shard_of(view, to, &subject);
        let hash = subject.hash;
        let operation =
            Operation { origin, subject, started: now.mono, deadline, phase: Phase::Forwarded { to, writes } };
        let id = self.park(now, operation);
        self.stats.forwarded += 1;
        let deadline_ms = u32::try_from(deadline.since(now.mono).as_millis()).unwrap_or(u32::MAX);
        let request = Request { deadline_ms, sent: now.mono.millis(), ..*request };
        out.send(peer, &PeerMessage::Forward { id: id.0, hash, request });
        Ok(())
    }

    pub(crate) fn on_forward_reply(&mut self, now: Now, from: NodeId, reply: &Reply<'_>, out: &mut dyn ShardOutbox) {
        let id = OperationId(reply.id);
        let asked = self.view.ring.as_ref().and_then(|ring| ring.index_of(from));
        let Some(operation) = self.in_flight.get_mut(id) else {
            self.stats.late_votes += 1;
            return;
        };
        let Phase::Forwarded { to, .. } = operation.phase else { return };
        if Some(to) != asked {
            return;
        }
        self.peers.on_answer(to, operation.started, now.mono);
        let origin = operation.origin;
        self.take(id);
        self.answer(origin, *reply, out);
    }

    pub(super) fn on_forward_timeout(&mut self, now: Now, id: OperationId, out: &mut dyn ShardOutbox) {
        let Some(operation) = self.in_flight.get_mut(id) else { return };
        if now.mono < operation.deadline {
            return;
        }
        let Phase::Forwarded { to, writes } = operation.phase else { return };
        let (origin, asked) = (operation.origin, operation.started);
        self.peers.on_timeout(to, asked, now.mono);
        self.take(id);
        let status = if writes { Status::Unknown } else { Status::Unavailable { need: 1, have: 0 } };
        self.answer_failure(origin, status, None, writes, out);
    }
}
