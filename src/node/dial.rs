//! Links begin: who dials, who is welcomed, who is refused and in which words (PROTOCOL §1, §9).
//!
//! TLS has judged cluster and role already; here the `Hello`s meet: protocol, cluster id, the name the certificate
//! covers, and whether this is the newest process of its identity. A refusal is told to the other side in its
//! `HelloReply`, and here in the log, each reason at most once in ten seconds.

use crate::{
    links::{Kind, LinkName},
    outbox::{Dialling, Target},
    worker::{OFFENCE_CODE, STOP_CODE, Seat, Worker, read, read_gossip, spawn, spawn_guarded, watch},
};
use meshwork_core::{
    input::{PeerShard, ShardInput},
    limits::VALUE_BYTES_MAX,
    time::{Now, Wall},
    wire::{
        hello::{Hello, HelloReply, NodeHello, PROTOCOL, Welcome},
        local,
    },
};
use meshwork_transport::{Established, Incoming, Link, LinkError, Role};
use std::{net::SocketAddr, time::Duration};

/// How long a dial may take, handshake and `Hello` together.
const DIAL_WITHIN: Duration = Duration::from_secs(2);
/// How long a refused side may take to read why.
const REFUSAL_WITHIN: Duration = Duration::from_secs(1);

/// Dials in a task of its own; the worker is borrowed.
pub(crate) fn spawn_dial(worker: &Worker, seat: &Seat, target: Target, address: SocketAddr) {
    let guard = crate::shutdown::PanicGuard::new(worker.shared().clone(), worker.out.shard);
    spawn_guarded(guard, dial(seat.clone(), target, address));
}

async fn dial(seat: Seat, target: Target, address: SocketAddr) {
    let (endpoint, hello) = {
        let worker = seat.borrow();
        let shared = worker.shared();
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: shared.cluster,
            wall: crate::clock::wall(),
            node: Some(shared.hello.clone()),
            shard: worker.out.shard,
        };
        (worker.endpoint.clone(), hello.to_bytes())
    };
    let outcome = endpoint.dial(address, &hello, DIAL_WITHIN).await;
    let worker = &mut *seat.borrow_mut();
    let now = worker.begin();
    let linked = match outcome {
        Ok(established) => worker.on_answer(now, &seat, established),
        Err(error) => Err(error.to_string()),
    };
    let jitter = now.mono.0 / 1000;
    match linked {
        Ok((name, peer)) => {
            // Whoever answered there may be somebody else: what waited was not for them, and the next try waits a while.
            let meant = match target {
                Target::Peer(meant) => meant == peer,
                Target::Anyone(_) => true,
            };
            if let Some(waiting) = worker.out.dialled(target, meant, now.mono, jitter) {
                worker.send_waiting(name, &waiting);
            }
            if !meant {
                worker.give_up(now, target);
            }
        }
        Err(reason) => {
            worker.out.dialled(target, false, now.mono, jitter);
            worker.give_up(now, target);
            worker.refusals.tell(now.mono, (address, &reason), |suppressed| {
                tracing::warn!(%address, %reason, suppressed, "cannot reach a node");
            });
        }
    }
    worker.finish(now, &seat);
}

impl Worker {
    /// What waited for a dial was asked and will not be answered.
    fn give_up(&mut self, now: Now, target: Target) {
        if let Target::Peer(peer) = target
            && !self.out.links.reaches(peer.node)
        {
            self.shard.handle(now, ShardInput::PeerLost(peer.node), &mut self.out);
        }
    }

    fn send_waiting(&mut self, name: LinkName, waiting: &Dialling) {
        let mut rest = &waiting.frames[..];
        while let Some(frame) = local::next(&mut rest) {
            self.out.frame(name, 1, |buffer| buffer.extend_from_slice(frame));
        }
        if let Some(entry) = self.out.links.get(name) {
            for packet in &waiting.packets {
                // Gossip may be lost.
                let _ = entry.link.send_datagram(packet);
            }
        }
    }

    /// The other side answered our `Hello`.
    fn on_answer(&mut self, now: Now, seat: &Seat, established: Established) -> Result<(LinkName, PeerShard), String> {
        let welcome = match HelloReply::from_bytes(&established.hello) {
            Ok(HelloReply::Welcome(welcome)) => *welcome,
            Ok(HelloReply::Refused { reason }) => {
                established.link.close(OFFENCE_CODE, "refused");
                return Err(format!("it refused this node: {reason}"));
            }
            Err(reason) => {
                established.link.close(OFFENCE_CODE, &reason);
                return Err(reason);
            }
        };
        if let Err(reason) = self.judge_node(&welcome.node, &established) {
            established.link.close(OFFENCE_CODE, &reason);
            return Err(reason);
        }
        self.link_node(now, seat, established, welcome.node, welcome.shard, welcome.wall)
    }

    /// Whether a node may be what it says.
    fn judge_node(&self, hello: &NodeHello, established: &Established) -> Result<(), String> {
        let certificate = established.link.peer();
        if certificate.role != Role::Node || !certificate.covers(&hello.name) {
            return Err(format!(
                "it calls itself node {:?}, and its certificate is {certificate}: issue one for that name",
                hello.name
            ));
        }
        if hello.shards == 0 || hello.shards > meshwork_core::limits::SHARDS_MAX {
            return Err(format!("it says it has {} shards", hello.shards));
        }
        Ok(())
    }

    /// Enters a node's link, in the place of links to older processes of its identity.
    fn link_node(
        &mut self,
        now: Now,
        seat: &Seat,
        established: Established,
        hello: NodeHello,
        shard: u16,
        wall: Wall,
    ) -> Result<(LinkName, PeerShard), String> {
        let (me, node, incarnation) = (self.shared().hello.clone(), hello.node, hello.incarnation);
        self.on_peer_hello(now, hello, wall);
        if node == me.node {
            established.link.close(STOP_CODE, "that is this node itself");
            if incarnation == me.incarnation {
                // One's own address among the seeds: nothing to complain about.
                return Ok((LinkName::INTERNAL, PeerShard { node, shard }));
            }
            return Err("another process has this node's identity".to_owned());
        }
        if self.out.links.of_node(node).any(|(_, other)| other > incarnation) {
            established.link.close(OFFENCE_CODE, "a newer process of this identity is known");
            return Err(format!("a newer process of node {node} is known"));
        }
        let older: Vec<LinkName> = (self.out.links.of_node(node))
            .filter(|(_, other)| *other < incarnation)
            .map(|(entry, _)| {
                entry.link.close(OFFENCE_CODE, "a newer process of this identity is known");
                entry.name
            })
            .collect();
        let peer = PeerShard { node, shard };
        let gossips = self.control.is_some();
        let name = self.enter(seat, established, Kind::Node { peer, incarnation }, gossips);
        // After the new one is in its place: the node was not lost, and nothing more is sent to its dead process.
        older.into_iter().for_each(|name| self.on_link_lost(now, name));
        Ok((name, peer))
    }

    /// Enters a link and starts its tasks.
    fn enter(&mut self, seat: &Seat, established: Established, kind: Kind, gossips: bool) -> LinkName {
        let Established { link, hello: _, small, bulk } = established;
        let name = self.out.links.insert(link.clone(), kind);
        let pauses = matches!(kind, Kind::Client { .. });
        let guard = || crate::shutdown::PanicGuard::new(self.shared().clone(), self.out.shard);
        spawn_guarded(guard(), read(seat.clone(), name, link.clone(), small, pauses));
        spawn_guarded(guard(), read(seat.clone(), name, link.clone(), bulk, pauses));
        if gossips {
            spawn_guarded(guard(), read_gossip(seat.clone(), link.clone()));
        }
        spawn_guarded(guard(), watch(seat.clone(), name, link));
        name
    }

    /// Somebody dialled and said `Hello`.
    fn on_dialled(&mut self, now: Now, seat: &Seat, established: Established) -> Result<(), (Link, String)> {
        let refuse = |established: Established, reason: String| Err((established.link, reason));
        if self.stopping {
            return refuse(established, "this node is stopping: use another".to_owned());
        }
        let hello = match Hello::from_bytes(&established.hello) {
            Ok(hello) => hello,
            Err(reason) => return refuse(established, reason),
        };
        let shared = self.shared().clone();
        if hello.protocol != PROTOCOL {
            let reason = format!("protocol {} is not spoken here, {PROTOCOL} is: use the same version", hello.protocol);
            return refuse(established, reason);
        }
        if hello.cluster != shared.cluster {
            let reason = format!(
                "another cluster: this one is {:?} with the authority of its own certificate; compare name and CA file",
                shared.cluster_name
            );
            return refuse(established, reason);
        }
        if let Some(node) = &hello.node
            && let Err(reason) = self.judge_node(node, &established)
        {
            return refuse(established, reason);
        }
        let welcome = Welcome {
            protocol: PROTOCOL,
            node: shared.hello.clone(),
            shard: self.out.shard,
            wall: now.wall,
            value_max: VALUE_BYTES_MAX,
            routing: shared.routing.load_full().map(|routing| (*routing).clone()),
        };
        // Fails only on a link that is over already, which its tasks will find.
        let _ = established.link.answer(&HelloReply::Welcome(Box::new(welcome)).to_bytes());
        match hello.node {
            Some(node) => {
                if let Err(reason) = self.link_node(now, seat, established, node, hello.shard, hello.wall) {
                    self.refusals.tell(now.mono, &reason, |suppressed| {
                        tracing::warn!(%reason, suppressed, "a node's link was closed");
                    });
                }
            }
            None => {
                let admin = match established.link.peer().role {
                    Role::Admin | Role::Node => true,
                    Role::Client => false,
                };
                self.enter(seat, established, Kind::Client { admin }, false);
            }
        }
        Ok(())
    }

    fn log_refusal(&mut self, now: Now, address: SocketAddr, reason: &str) {
        self.refusals.tell(now.mono, reason, |suppressed| {
            tracing::warn!(%address, %reason, suppressed, "refused who dialled");
        });
    }
}

/// Accepts whoever dials, until the endpoint closes.
pub(crate) async fn run_accept(seat: Seat) {
    let endpoint = seat.borrow().endpoint.clone();
    while let Some(incoming) = endpoint.accept().await {
        spawn(&seat, greet(seat.clone(), incoming));
    }
}

async fn greet(seat: Seat, incoming: Incoming) {
    let address = incoming.remote_address();
    let established = incoming.establish().await;
    let refused = {
        let worker = &mut *seat.borrow_mut();
        let now = worker.begin();
        match established {
            Ok(established) => match worker.on_dialled(now, &seat, established) {
                Ok(()) => {
                    worker.finish(now, &seat);
                    return;
                }
                Err((link, reason)) => {
                    worker.log_refusal(now, address, &reason);
                    worker.finish(now, &seat);
                    (link, reason)
                }
            },
            Err(error) => {
                // Scanners and dying clients; a peer's refusal of our certificate belongs into the log.
                if !matches!(error, LinkError::ClosedByPeer { .. } | LinkError::Reset | LinkError::Closed) {
                    worker.log_refusal(now, address, &error.to_string());
                }
                worker.finish(now, &seat);
                return;
            }
        }
    };
    let (link, reason) = refused;
    // Fails only on a link that is over.
    let _ = link.answer(&HelloReply::Refused { reason: reason.clone() }.to_bytes());
    link.finish(OFFENCE_CODE, &reason, REFUSAL_WITHIN).await;
}
