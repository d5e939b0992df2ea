//! All state that the control plane replicates: roles, layouts with their acks, namespaces, life stamps (PROTOCOL §2, §4).
//!
//! Three joins make a join, with one order that matters: roles first, because a conflict of two layouts is settled
//! from the merged roles (`ring::layout`), and only from those that may be in a layout (`succession::due`): a joiner's role is
//! in the map long before its data could be moved. The digest is kept, since it is compared every second. Settings that
//! must agree travel along; a state made under others is refused whole.

use super::succession;
use crate::{
    config::ClusterConfig,
    id::NodeId,
    limits::NAMESPACES_MAX,
    namespace::{Known, NamespaceTable},
    ring::{Layout, LayoutHistory, RoleMap, layout::EPOCH_MAX},
    value::Hlc,
    wire::control::Meta,
};
use std::{collections::BTreeMap, sync::Arc};

/// The state, with its digest.
#[derive(Debug)]
pub struct Replicated {
    roles: RoleMap,
    layouts: LayoutHistory,
    namespaces: Arc<NamespaceTable>,
    n: u8,
    partitions: u16,
    lives: BTreeMap<NodeId, Hlc>,
    digest: u64,
}

impl Replicated {
    /// What every node of a cluster starts with: no role, no layout, the namespace `default`.
    pub fn new(cluster: &ClusterConfig) -> Self {
        let mut state = Self {
            roles: RoleMap::new(),
            layouts: LayoutHistory::new(),
            namespaces: Arc::new(NamespaceTable::with_default(cluster.n)),
            n: cluster.n,
            partitions: cluster.partitions,
            lives: BTreeMap::new(),
            digest: 0,
        };
        state.redigest();
        state
    }

    /// Declared roles.
    pub fn roles(&self) -> &RoleMap {
        &self.roles
    }

    /// Layouts and acks.
    pub fn layouts(&self) -> &LayoutHistory {
        &self.layouts
    }

    /// The newest layout.
    pub fn layout(&self) -> Option<&Layout> {
        self.layouts.current()
    }

    /// Namespaces; the same `Arc` as long as nothing in them changed.
    pub fn namespaces(&self) -> &Arc<NamespaceTable> {
        &self.namespaces
    }

    /// Equal states have equal digests.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The state as it travels.
    pub fn meta(&self) -> Meta {
        Meta {
            roles: self.roles.clone(),
            layouts: self.layouts.clone(),
            namespaces: (*self.namespaces).clone(),
            n: self.n,
            partitions: self.partitions,
            lives: self.lives.clone(),
        }
    }

    /// Up to when the disk of `node` goes, as far as is known.
    pub fn life(&self, node: NodeId) -> Option<Hlc> {
        self.lives.get(&node).copied()
    }

    /// Notes that the disk of `node` goes up to `life`; says whether that is news.
    pub fn live(&mut self, node: NodeId, life: Hlc) -> bool {
        let known = self.lives.entry(node).or_default();
        let news = life > *known;
        if news {
            *known = life;
            self.redigest();
        }
        news
    }

    /// Changes the state by `change`, which says whether it did.
    pub fn update(&mut self, change: impl FnOnce(&mut RoleMap, &mut LayoutHistory) -> bool) -> bool {
        let changed = change(&mut self.roles, &mut self.layouts);
        if changed {
            self.redigest();
        }
        changed
    }

    /// Changes the namespaces by `change`; its result tells what happened, `Ok(true)` that they changed.
    pub fn update_namespaces<E>(
        &mut self,
        change: impl FnOnce(&mut NamespaceTable) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut table = (*self.namespaces).clone();
        let changed = change(&mut table)?;
        if changed {
            self.namespaces = Arc::new(table);
            self.redigest();
        }
        Ok(changed)
    }

    /// Takes in a peer's state; says whether something changed.
    ///
    /// # Errors
    /// Words for a person: a setting that must agree does not. Nothing was changed.
    pub fn join(&mut self, theirs: &Meta) -> Result<bool, String> {
        self.agrees_with(theirs)?;
        let mut changed = self.roles.join(&theirs.roles);
        let layouts: Vec<&Layout> = self.layouts.current().into_iter().chain(theirs.layouts.current()).collect();
        let due = succession::due(&layouts, &self.roles);
        changed |= self.layouts.join(&theirs.layouts, &due);
        let mut namespaces = (*self.namespaces).clone();
        if namespaces.join(&theirs.namespaces) {
            self.namespaces = Arc::new(namespaces);
            changed = true;
        }
        let roles = &self.roles;
        self.lives.retain(|node, _| roles.get(*node).is_some());
        for (node, life) in &theirs.lives {
            // Of nodes without a role nothing is kept: the map is bounded as the roles are.
            if self.roles.get(*node).is_some() && self.lives.get(node) < Some(life) {
                self.lives.insert(*node, *life);
                changed = true;
            }
        }
        if changed {
            self.redigest();
        }
        Ok(changed)
    }

    fn agrees_with(&self, theirs: &Meta) -> Result<(), String> {
        let layouts = theirs.layouts.active().iter().map(|layout| (layout.n, layout.partitions));
        if theirs.layouts.current().is_some_and(|layout| layout.epoch > EPOCH_MAX / 2) {
            return Err("its layout's epoch is beyond what any mesh reaches: it is refused".to_owned());
        }
        for (n, partitions) in layouts.chain([(theirs.n, theirs.partitions)]) {
            if n != self.n {
                return Err(differs("cluster.n", u16::from(self.n), u16::from(n)));
            }
            if partitions != self.partitions {
                return Err(differs("cluster.partitions", self.partitions, partitions));
            }
        }
        if theirs.namespaces.len() > NAMESPACES_MAX {
            return Err(format!("it has {} namespaces, the most is {NAMESPACES_MAX}", theirs.namespaces.len()));
        }
        for Known { id, namespace, .. } in theirs.namespaces.all() {
            if id != namespace.id() {
                return Err(format!("its namespace {:?} has the id of another name", namespace.name));
            }
            namespace.check(self.n).map_err(|error| format!("its namespace {:?}: {error}", namespace.name))?;
        }
        Ok(())
    }

    /// The digest of a peer's state.
    pub fn digest_of(meta: &Meta) -> u64 {
        digest(&meta.roles, &meta.layouts, &meta.namespaces, &meta.lives)
    }

    fn redigest(&mut self) {
        self.digest = digest(&self.roles, &self.layouts, &self.namespaces, &self.lives);
    }
}

fn digest(roles: &RoleMap, layouts: &LayoutHistory, namespaces: &NamespaceTable, lives: &BTreeMap<NodeId, Hlc>) -> u64 {
    let namespaces = rmp_serde::to_vec(namespaces).expect("a namespace has no type that MessagePack lacks");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&roles.digest().to_be_bytes()).update(&layouts.digest().to_be_bytes()).update(&namespaces);
    for (node, life) in lives {
        hasher.update(&node.0.to_be_bytes()).update(&life.0.to_be_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

fn differs(key: &str, here: u16, there: u16) -> String {
    format!("{key} is {here} here and {there} there: it must be equal on all nodes of a cluster, change one side")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::NodeConfig,
        id::{ActorId, ClusterId, NodeId},
        namespace::Namespace,
        value::{Hlc, Version},
    };
    use std::net::SocketAddr;

    fn cluster() -> ClusterConfig {
        NodeConfig::new(ClusterId(1), NodeId(1), SocketAddr::from(([127, 0, 0, 1], 7000))).cluster
    }

    #[test]
    fn settings_that_differ_are_named_and_nothing_is_taken_in() {
        let mut mine = Replicated::new(&cluster());
        let mut theirs = Replicated::new(&ClusterConfig { partitions: 64, ..cluster() });
        let version = Version { hlc: Hlc(1), actor: ActorId(1) };
        theirs.update_namespaces(|table| table.create(Namespace::new("x"), 3, version)).unwrap();
        let (before, error) = (mine.digest(), mine.join(&theirs.meta()).unwrap_err());
        assert!(error.starts_with("cluster.partitions is 1024 here and 64 there"), "{error}");
        assert_eq!(mine.digest(), before);
    }

    #[test]
    fn a_namespace_that_no_honest_node_made_is_refused() {
        let mut mine = Replicated::new(&cluster());
        let mut bad = Replicated::new(&cluster());
        let mut namespace = Namespace::new("x");
        namespace.n = 5;
        let version = Version { hlc: Hlc(1), actor: ActorId(1) };
        bad.update_namespaces(|table| table.create(namespace, 5, version)).unwrap();
        assert!(mine.join(&bad.meta()).unwrap_err().contains("cluster.n"));
    }

    #[test]
    fn joined_states_have_one_digest_whatever_the_order() {
        let (mut a, mut b) = (Replicated::new(&cluster()), Replicated::new(&cluster()));
        let version = |at| Version { hlc: Hlc(at), actor: ActorId(at) };
        a.update_namespaces(|table| table.create(Namespace::new("x"), 3, version(1))).unwrap();
        b.update_namespaces(|table| table.create(Namespace::new("y"), 3, version(2))).unwrap();
        let (before_a, before_b) = (a.meta(), b.meta());
        assert_ne!(a.digest(), b.digest());
        assert_eq!((a.join(&before_b), b.join(&before_a)), (Ok(true), Ok(true)));
        assert_eq!((a.digest(), Replicated::digest_of(&a.meta())), (b.digest(), a.digest()));
        assert_eq!(a.join(&before_b), Ok(false));
    }
}
