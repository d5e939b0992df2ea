//! The control plane's half of shard 0's thread: `core::node::Node`, its inputs, and what follows from its effects.
//!
//! Effects are collected while `Node` runs and carried out after it, in order: they touch links and the shard, which
//! are borrowed elsewhere meanwhile. They are rare, so they may allocate. On other threads inputs of the control plane
//! become letters to this one.

use crate::{
    identity::NodeIdentity,
    letter::{AddressBook, Letter},
    links::LinkName,
    outbox::Target,
    shared::Shared,
    storage::MetaFile,
    worker::Worker,
};
use meshwork_core::{
    id::NodeId,
    input::{Caller, NodeInput, PeerShard},
    namespace::Namespace,
    node::Node,
    outbox::{NodeEvent, NodeOutbox, ShardReport},
    time::{Mono, Now, Wall},
    value::Hlc,
    view::View,
    wire::{
        control::{self, ClientControl, ControlReply, NodeStatus, PeerControl},
        hello::NodeHello,
    },
};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Id of control frames between nodes: no request has it, so an `Unsupported` for it concerns nobody.
const NO_REQUEST: u64 = u64::MAX;

/// What `Node` wants done.
enum Effect {
    Gossip(NodeId, SocketAddr, Vec<u8>),
    Control(NodeId, SocketAddr, PeerControl),
    Dial(SocketAddr),
    Reply(Caller, ControlReply),
    Publish(Arc<View>),
    StoreClock(Hlc),
    StoreMeta(u64, Vec<u8>),
}

/// What reached the disk.
pub(crate) enum Stored {
    Clock(Hlc),
    /// The number of what is there now.
    Meta(u64),
}

/// The control plane and what the driver keeps for it.
pub(crate) struct ControlPlane {
    node: Node,
    effects: Effects,
    /// The state is to be shown to the rest of the node.
    news: bool,
    identity: Arc<NodeIdentity>,
    /// Where core's meta is kept, on a node with a disk.
    meta: Option<Arc<MetaFile>>,
    /// To be created once there is a layout.
    namespaces: Vec<Namespace>,
    /// From the threads that wrote something.
    stored: (UnboundedSender<Stored>, Option<UnboundedReceiver<Stored>>),
}

#[derive(Default)]
struct Effects {
    list: Vec<Effect>,
    stop: Option<String>,
}

impl NodeOutbox for Effects {
    fn gossip(&mut self, to: NodeId, address: SocketAddr, packet: &[u8]) {
        self.list.push(Effect::Gossip(to, address, packet.to_vec()));
    }

    fn control(&mut self, to: NodeId, address: SocketAddr, message: &PeerControl) {
        self.list.push(Effect::Control(to, address, message.clone()));
    }

    fn dial(&mut self, address: SocketAddr) {
        self.list.push(Effect::Dial(address));
    }

    fn reply(&mut self, caller: Caller, reply: &ControlReply) {
        self.list.push(Effect::Reply(caller, reply.clone()));
    }

    fn publish(&mut self, view: Arc<View>) {
        self.list.push(Effect::Publish(view));
    }

    fn store_clock(&mut self, bound: Hlc) {
        self.list.push(Effect::StoreClock(bound));
    }

    fn store_meta(&mut self, number: u64, bytes: &[u8]) {
        self.list.push(Effect::StoreMeta(number, bytes.to_vec()));
    }

    fn event(&mut self, event: NodeEvent) {
        crate::telemetry::node_event(&event);
        if let NodeEvent::MustStop { reason } = event {
            self.stop = Some(reason);
        }
    }
}

impl ControlPlane {
    pub(crate) fn new(
        node: Node,
        identity: Arc<NodeIdentity>,
        meta: Option<MetaFile>,
        namespaces: Vec<Namespace>,
    ) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let meta = meta.map(Arc::new);
        Self {
            node,
            effects: Effects::default(),
            news: false,
            identity,
            meta,
            namespaces,
            stored: (sender, Some(receiver)),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        self.node.poll_timeout()
    }

    /// Where it is told what is on disk; once.
    pub(crate) fn take_stored(&mut self) -> Option<UnboundedReceiver<Stored>> {
        self.stored.1.take()
    }

    /// Feeds the shards' figures; the state is shown to the rest of the node once what follows is carried out.
    pub(crate) fn tick(&mut self, now: Now, shared: &Shared) {
        self.node.handle(now, NodeInput::Stats(shared.stats()), &mut self.effects);
        self.news = true;
        if shared.is_ready() {
            for namespace in std::mem::take(&mut self.namespaces) {
                let caller = Caller { link: LinkName::INTERNAL.0, id: 0 };
                let request = ClientControl::NamespaceCreate(Box::new(namespace));
                self.node.handle(now, NodeInput::Client { caller, admin: true, request }, &mut self.effects);
            }
        }
    }

    fn show(&self, now: Now, shared: &Shared) {
        shared.routing.store(self.node.routing().map(Arc::new));
        let disk = shared.store.as_ref().map(|store| store.status());
        shared.set_status(NodeStatus { disk, ..self.node.status(now) });
    }
}

impl Worker {
    fn on_control(&mut self, now: Now, input: NodeInput<'_>) {
        if let Some(control) = &mut self.control {
            control.node.handle(now, input, &mut control.effects);
        }
    }

    pub(crate) fn on_peer_control(&mut self, now: Now, from: NodeId, message: PeerControl) {
        self.on_control(now, NodeInput::Peer { from, message });
    }

    pub(crate) fn on_client_control(&mut self, now: Now, caller: Caller, admin: bool, request: ClientControl) {
        self.on_control(now, NodeInput::Client { caller, admin, request });
    }

    pub(crate) fn on_gossip(&mut self, now: Now, packet: &[u8]) {
        self.on_control(now, NodeInput::Gossip(packet));
    }

    pub(crate) fn on_peer_lost(&mut self, now: Now, node: NodeId) {
        self.on_control(now, NodeInput::PeerLost(node));
    }

    pub(crate) fn on_seeds(&mut self, now: Now, seeds: Vec<SocketAddr>) {
        self.on_control(now, NodeInput::Seeds(seeds));
    }

    pub(crate) fn on_control_stored(&mut self, now: Now, stored: &Stored) {
        match stored {
            Stored::Clock(bound) => self.on_control(now, NodeInput::ClockStored(*bound)),
            Stored::Meta(number) => self.on_control(now, NodeInput::MetaStored(*number)),
        }
    }

    pub(crate) fn on_report(&mut self, now: Now, report: ShardReport) {
        self.on_control(now, NodeInput::Report(report));
    }

    /// A link to a node was set up, on whichever thread.
    pub(crate) fn on_peer_hello(&mut self, now: Now, hello: NodeHello, wall: Wall) {
        if self.control.is_some() {
            self.on_control(now, NodeInput::PeerHello { hello, wall });
        } else {
            self.out.shared.tell(0, Letter::PeerHello { hello, wall });
        }
    }

    pub(crate) fn control_timeout(&mut self, now: Now) {
        if let Some(control) = &mut self.control {
            control.node.handle_timeout(now, &mut control.effects);
        }
    }

    /// Carries out what the control plane wants, until it wants nothing more.
    pub(crate) fn settle_control(&mut self, now: Now) {
        while let Some(control) = &mut self.control {
            if let Some(reason) = control.effects.stop.take() {
                self.out.shared.stop(crate::handle::Stopped::Refused { reason });
            }
            if control.effects.list.is_empty() {
                // Last: who is told that the node is ready finds the views that make it so before his requests in every
                // mailbox.
                if std::mem::take(&mut control.news) {
                    control.show(now, &self.out.shared);
                }
                return;
            }
            for effect in std::mem::take(&mut control.effects.list) {
                self.carry_out(now, effect);
            }
        }
    }

    fn carry_out(&mut self, now: Now, effect: Effect) {
        match effect {
            Effect::Gossip(to, address, packet) => self.out.packet(to, address, &packet),
            Effect::Control(to, address, message) => {
                let to = PeerShard { node: to, shard: 0 };
                self.out.tell_peer(to, Some(address), |buffer| control::encode(buffer, NO_REQUEST, &message));
            }
            Effect::Dial(address) => {
                self.out.dial(Target::Anyone(address), None);
            }
            Effect::Reply(caller, reply) if caller.link == LinkName::INTERNAL.0 => match reply {
                ControlReply::Created(true) => tracing::info!("a namespace of the configuration was created"),
                ControlReply::Refused { reason, .. } => {
                    tracing::warn!(%reason, "a namespace of the configuration could not be created");
                }
                ControlReply::Created(false)
                | ControlReply::Routing(_)
                | ControlReply::Status(_)
                | ControlReply::Owners(_)
                | ControlReply::Plan(_)
                | ControlReply::Changed(_)
                | ControlReply::Namespaces(_)
                | ControlReply::Emptied(_)
                | ControlReply::Holds(_) => {}
            },
            Effect::Reply(caller, mut reply) => {
                if let ControlReply::Status(status) = &mut reply {
                    status.disk = self.out.shared.store.as_ref().map(|store| store.status());
                }
                self.out.answer(caller.link, |buffer| control::encode(buffer, caller.id, &reply));
            }
            Effect::Publish(view) => self.publish(now, view),
            Effect::StoreClock(bound) => self.store_clock(now, bound),
            Effect::StoreMeta(number, bytes) => self.store_meta(number, bytes),
        }
    }

    fn publish(&mut self, now: Now, view: Arc<View>) {
        let Some(control) = &mut self.control else { return };
        let members = view.members.iter().map(|member| member.node);
        let addresses: AddressBook =
            members.filter_map(|node| control.node.address_of(node).map(|(address, _)| (node, address))).collect();
        let addresses = Arc::new(addresses);
        let shared = self.out.shared.clone();
        for shard in 1..shared.addresses.shards {
            shared.tell(shard, Letter::View(view.clone(), addresses.clone()));
        }
        self.out.addresses = addresses;
        self.on_view(now, view);
        if let Some(control) = &mut self.control {
            control.news = true;
        }
    }

    fn store_clock(&mut self, now: Now, bound: Hlc) {
        let Some(control) = &self.control else { return };
        if !control.identity.has_directory() {
            self.on_control_stored(now, &Stored::Clock(bound));
            return;
        }
        let (identity, stored) = (control.identity.clone(), control.stored.0.clone());
        // A sync may take long on a busy disk; the shard must not wait for it.
        tokio::task::spawn_blocking(move || match identity.store_clock(bound) {
            // Nobody listens only when the node has ended.
            Ok(()) => drop(stored.send(Stored::Clock(bound))),
            Err(error) => {
                tracing::error!(%error, "the clock bound could not be stored: this node will stop coordinating");
            }
        });
    }

    fn store_meta(&self, number: u64, bytes: Vec<u8>) {
        let Some(control) = &self.control else { return };
        let (meta, stored) = (control.meta.clone(), control.stored.0.clone());
        tokio::task::spawn_blocking(move || match meta.map_or(Ok(number), |meta| meta.store(number, &bytes)) {
            Ok(number) => drop(stored.send(Stored::Meta(number))),
            Err(error) => {
                tracing::error!(%error, "mesh.meta could not be stored: after a restart this node knows an older mesh");
            }
        });
    }
}

/// Tells the control plane what reached the disk.
pub(crate) async fn run_stored(seat: crate::worker::Seat) {
    let receiver = seat.borrow_mut().control.as_mut().and_then(ControlPlane::take_stored);
    let Some(mut receiver) = receiver else { return };
    while let Some(stored) = receiver.recv().await {
        let worker = &mut *seat.borrow_mut();
        let now = worker.begin();
        worker.on_control_stored(now, &stored);
        worker.finish(now, &seat);
    }
}
