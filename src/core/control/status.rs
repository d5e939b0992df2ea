//! Answers for people and clients: status, routing, owners of a key.
//!
//! Everything here only reads. `Facts` is what `node` lends for one answer; the words of `state` are those that people
//! and scripts wait for, so they change only with a note in the changelog.

use super::{clock_watch::ClockWatch, replicated::Replicated, standing::Standing, succession};
use crate::{
    config::NodeConfig,
    id::{KeyHasher, NamespaceId, NodeId},
    membership::{Health, Membership},
    outbox::ShardReport,
    ring::{Ring, RoleState},
    stats::ShardStats,
    time::Mono,
    value::Hlc,
    view::Fence,
    wire::{
        control::{MemberStatus, NodeStatus, Owners},
        hello::{NodeHello, Place, Routing},
        peer::ReplicaState,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// What an answer is made of.
pub struct Facts<'a> {
    /// Settings.
    pub config: &'a NodeConfig,
    /// Who answers.
    pub membership: &'a Membership,
    /// What nodes said of themselves on links.
    pub hellos: &'a BTreeMap<NodeId, NodeHello>,
    /// Roles, layouts, namespaces.
    pub replicated: &'a Replicated,
    /// Owners, in the layout that is read.
    pub ring: Option<&'a Ring>,
    /// Owners in the newest layout.
    pub newest: Option<&'a Ring>,
    /// What each shard said last.
    pub reports: &'a BTreeMap<u16, ShardReport>,
    /// Whether the own copies vote.
    pub standing: &'a Standing,
    /// Offsets.
    pub watch: &'a ClockWatch,
    /// Why the node does not coordinate.
    pub fence: Option<Fence>,
    /// Why it cannot become a member, if a person has to do something.
    pub obstacle: Option<&'a str>,
    /// Why it does not serve yet, though it has a layout.
    pub held_back: Option<&'a str>,
}

impl Facts<'_> {
    /// Where shard 0 of `node` listens, and how many shards it has: as its running process says, else as its role does.
    pub fn address_of(&self, node: NodeId) -> Option<(SocketAddr, u16)> {
        if node == self.config.node {
            return Some((self.config.address, self.config.shards));
        }
        let gossiped = self.membership.identity(node).map(|it| (it.incarnation, it.address, it.shards));
        let said = self.hellos.get(&node).map(|it| (it.incarnation, it.address, it.shards));
        let running = gossiped.into_iter().chain(said).max().map(|(_, address, shards)| (address, shards));
        running.or_else(|| self.replicated.roles().get(node).map(|role| (role.address, role.shards)))
    }

    /// The label of `node`; its id when it has none.
    pub fn name_of(&self, node: NodeId) -> String {
        let role = self.replicated.roles().get(node).map(|role| &role.name);
        role.or_else(|| self.hellos.get(&node).map(|hello| &hello.name)).cloned().unwrap_or_else(|| node.to_string())
    }

    /// Whether `node` is up; oneself always is.
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.config.node || self.membership.is_up(node)
    }

    /// One line for a person.
    pub fn state(&self, now: Mono) -> String {
        let expect = self.config.cluster.bootstrap_expect;
        let obstacle = |text: String| match self.obstacle {
            Some(obstacle) => format!("{text}; {obstacle}"),
            None => text,
        };
        match (self.ring, self.fence) {
            (_, Some(fence @ (Fence::Superseded | Fence::Removed))) => format!("fenced: {fence}"),
            (None, _) => {
                let missing = usize::from(expect).saturating_sub(self.starters());
                obstacle(format!("waiting for {missing} more (bootstrap_expect = {expect})"))
            }
            (Some(_), Some(fence)) => format!("fenced: {fence}"),
            (Some(_), None) if self.held_back.is_some() => {
                format!("starting: {}", self.held_back.unwrap_or_default())
            }
            (Some(_), None) => match self.standing.state() {
                ReplicaState::Ready | ReplicaState::Settled if !self.reads_here() => self.arriving(),
                ReplicaState::Ready | ReplicaState::Settled if self.is_drained(self.config.node) => format!(
                    "drained: keeps its copies and votes, clients are sent to others until `meshwork node undrain {}`",
                    self.config.name
                ),
                ReplicaState::Ready | ReplicaState::Settled => "ready".to_owned(),
                ReplicaState::Warming => format!(
                    "warming: takes writes and compares itself with other owners; votes in sloppy requests in {} s at most",
                    self.standing.warming_left(now).as_secs() + 1
                ),
                ReplicaState::Fallback => obstacle(self.joining()),
            },
        }
    }

    /// `state`, and what an operator of this node can do for it.
    fn state_with(&self, stats: &ShardStats, now: Mono) -> String {
        let state = self.state(now);
        match stats.partitions_short {
            0 => state,
            short => format!(
                "{state}; memory had no room for all that the disk holds of {short} partitions: they vote in strict requests once \
                 whole owners have filled them; raise memory.limit and start again"
            ),
        }
    }

    /// Members that a first layout would have now.
    fn starters(&self) -> usize {
        succession::starters(self.replicated.roles(), |node| self.is_up(node)).len()
    }

    /// Whether this node is a member of the layout that is read.
    fn reads_here(&self) -> bool {
        let me = self.config.node;
        self.ring.is_some_and(|ring| ring.shares().iter().any(|(node, share)| *node == me && *share > 0))
    }

    /// Partitions of the newest layout that this node still lacks, of how many, and the bytes that came.
    pub(super) fn progress(&self) -> (u32, u32, u64) {
        self.reports.values().fold((0, 0, 0), |(missing, all, bytes), report| {
            (missing + report.missing, all + report.partitions, bytes + report.moved_bytes)
        })
    }

    fn arriving(&self) -> String {
        let (missing, all, bytes) = self.progress();
        if self
            .newest
            .is_some_and(|ring| ring.shares().iter().any(|(node, share)| *node == self.config.node && *share > 0))
        {
            format!("joining: has {} of {all} partitions ({bytes} bytes moved)", all.saturating_sub(missing))
        } else {
            self.joining()
        }
    }

    fn joining(&self) -> String {
        let own = self.replicated.roles().get(self.config.node).map(|role| role.state);
        if own == Some(RoleState::Leaving) {
            return "left: it owns nothing any more, stop it or remove it".to_owned();
        }
        let waits = self.waits();
        let next = if self.config.cluster.manual_layout { "`meshwork plan commit`" } else { "the next layout" };
        let waits = if waits.is_empty() { format!("waiting for {next}") } else { waits };
        if self.config.cluster.replace_by_name {
            format!(
                "joining: {waits}; as long as a member is called {:?}, for that to be down for 10 s",
                self.config.name
            )
        } else {
            format!("joining: {waits}")
        }
    }

    /// Whether clients are sent to others, because somebody wants that.
    fn is_drained(&self, node: NodeId) -> bool {
        self.replicated.roles().get(node).is_some_and(|role| role.drained)
    }

    /// Whether this node should be sent clients: it is a member that votes, may stamp, does not wait for its disk, and is not
    /// drained.
    pub fn is_ready(&self) -> bool {
        let votes = match self.standing.state() {
            ReplicaState::Ready | ReplicaState::Settled => true,
            ReplicaState::Warming | ReplicaState::Fallback => false,
        };
        let serves = self.fence.is_none() && self.held_back.is_none() && !self.is_drained(self.config.node);
        self.ring.is_some() && serves && votes && self.reads_here()
    }

    /// Everything, for `status`.
    pub fn status(&self, stats: ShardStats, incarnation: Hlc, now: Mono) -> NodeStatus {
        let layouts = self.replicated.layouts();
        NodeStatus {
            schema_version: 1,
            node: self.config.node,
            name: self.config.name.clone(),
            cluster: self.config.cluster.name.clone(),
            state: self.state_with(&stats, now),
            ready: self.is_ready(),
            layout: layouts.current_name(),
            layout_agreed: layouts.is_agreed(self.replicated.roles()),
            transition: self.transition(&stats),
            members: self.members(incarnation),
            fenced: self.fence.map(|fence| fence.to_string()),
            stats,
            disk: None,
        }
    }

    fn members(&self, incarnation: Hlc) -> Vec<MemberStatus> {
        let roles = self.replicated.roles();
        let shares: BTreeMap<NodeId, u32> =
            self.ring.map(|ring| ring.shares().into_iter().collect()).unwrap_or_default();
        let known: BTreeSet<NodeId> = roles.iter().map(|(node, _)| node).chain(self.membership.known()).collect();
        let status = |node: NodeId| {
            let (address, shards) = self.address_of(node)?;
            let role = roles.get(node);
            let hello = self.hellos.get(&node);
            let zone = role.map(|role| &role.zone).or(hello.map(|hello| &hello.zone)).cloned().unwrap_or_default();
            let mine = node == self.config.node;
            let gossiped = self.membership.identity(node).map(|identity| identity.incarnation);
            Some(MemberStatus {
                node,
                name: self.name_of(node),
                zone,
                weight: role.map_or(0, |role| role.weight),
                address,
                shards,
                role: self.role_word(node).to_owned(),
                health: self.health_word(node).to_owned(),
                replica: if mine { replica_word(self.standing.state()).to_owned() } else { String::new() },
                partitions: shares.get(&node).copied().unwrap_or(0),
                clock_offset_ms: self.watch.offset(node),
                incarnation: if mine { incarnation } else { gossiped.unwrap_or_default() },
                drained: self.is_drained(node),
            })
        };
        known.into_iter().filter_map(status).collect()
    }

    fn role_word(&self, node: NodeId) -> &'static str {
        let layouts = self.replicated.layouts();
        let in_layout = layouts.read(self.replicated.roles()).is_some_and(|layout| layout.member(node).is_some());
        match self.replicated.roles().get(node).map(|role| role.state) {
            Some(RoleState::Removed) => "removed",
            Some(RoleState::Leaving) => "leaving",
            Some(RoleState::Active) | None if in_layout => "member",
            Some(RoleState::Active) | None => "joining",
        }
    }

    fn health_word(&self, node: NodeId) -> &'static str {
        if node == self.config.node {
            return "alive";
        }
        match self.membership.health(node) {
            Some(Health::Alive) => "alive",
            Some(Health::Suspect) => "suspect",
            Some(Health::Down) | None => "down",
        }
    }

    /// What a client needs to route.
    pub fn routing(&self) -> Option<Routing> {
        let layout = self.replicated.layouts().read(self.replicated.roles())?;
        let place = |member: &crate::ring::LayoutMember| {
            let (address, shards) = self.address_of(member.node)?;
            let up = self.is_up(member.node) && !self.is_drained(member.node);
            Some((member.node, Place { address, shards, zone: member.zone.clone(), up }))
        };
        Some(Routing {
            cluster: self.config.cluster.id,
            layout: layout.clone(),
            members: layout.members.iter().filter_map(place).collect(),
        })
    }

    /// Who holds `key`.
    ///
    /// # Errors
    /// Words for a person: there is no layout, or no such namespace.
    pub fn owners(&self, hasher: &KeyHasher, namespace: &str, key: &[u8]) -> Result<Owners, String> {
        let ring = self.ring.ok_or("there is no layout yet: see the state of `status`")?;
        let id = NamespaceId::of(namespace);
        let known = self.replicated.namespaces().get(id).filter(|known| known.name == namespace);
        let known =
            known.ok_or_else(|| format!("there is no namespace {namespace:?}: create it, or check the name"))?;
        let hash = hasher.hash(id, key);
        let partition = hash.partition(ring.partitions());
        let name = |index: u16| self.name_of(ring.node(index));
        let owners = ring.owners(partition);
        // A namespace with fewer copies takes a prefix; owners behind it are the first to stand in.
        let copies = owners.len().min(usize::from(known.n));
        Ok(Owners {
            hash: format!("{:016x}", hash.0),
            partition: partition.0,
            layout: ring.name(),
            owners: owners[..copies].iter().copied().map(name).collect(),
            fallbacks: owners[copies..].iter().copied().chain(ring.fallbacks(partition)).map(name).collect(),
        })
    }
}

fn replica_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Ready => "ready",
        ReplicaState::Warming | ReplicaState::Settled => "warming",
        ReplicaState::Fallback => "",
    }
}
