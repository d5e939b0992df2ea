//! All namespaces of a cluster, as every node keeps them: a state that joins (PROTOCOL §4 "Flush").
//!
//! A namespace has lives: it is created, perhaps deleted, perhaps created again. Of two creations in one life the older stays, since
//! kind, n and ack are fixed at creation; a later life, which names the deletion it follows, beats an earlier one. A flush and a
//! deletion raise the namespace's *mark*: nothing with a version at or below it is there any more, wherever it lies and whoever
//! comes back with it. A deleted name keeps its place in the table, or its data would return with the next node that has some.
//!
//! Each part is the larger of two in a total order, so the join is commutative, associative and idempotent (shown by
//! `tests::joined_in_any_order_and_grouping_tables_are_one`).

use super::{Namespace, NamespaceError};
use crate::{
    id::NamespaceId,
    limits::NAMESPACES_MAX,
    value::{Hlc, Version},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeMap};

/// What became of a name so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Past {
    /// The deletion that this life follows; zero: none.
    life: Hlc,
    /// The last deletion; zero: none.
    deleted: Hlc,
    /// The last flush; zero: none.
    flushed: Hlc,
}

impl Past {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One namespace with its stamps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamped {
    created: Version,
    namespace: Namespace,
    /// Last, and left out where there is none: as the table was before there were flushes.
    #[serde(default, skip_serializing_if = "Past::is_none")]
    past: Past,
}

impl Stamped {
    fn is_live(&self) -> bool {
        self.past.life >= self.past.deleted
    }

    fn mark(&self) -> Hlc {
        self.past.flushed.max(self.past.deleted)
    }

    /// Takes in what `theirs` knows; whether that was anything.
    fn join(&mut self, theirs: &Self) -> bool {
        let before = (self.created, self.past);
        let order = |it: &Self| (it.past.life, Reverse(it.created));
        if order(theirs) > order(self) {
            (self.created, self.namespace) = (theirs.created, theirs.namespace.clone());
            self.past.life = theirs.past.life;
        }
        self.past.deleted = self.past.deleted.max(theirs.past.deleted);
        self.past.flushed = self.past.flushed.max(theirs.past.flushed);
        before != (self.created, self.past)
    }
}

/// A namespace as the table has it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its id.
    pub id: NamespaceId,
    /// Its settings, the last ones if it is deleted.
    pub namespace: &'a Namespace,
    /// Whether it is there, and not deleted.
    pub live: bool,
    /// What has a version at or below this is gone; zero: nothing is.
    pub mark: Hlc,
}

/// All namespaces of the cluster, in id order. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceTable {
    by_id: BTreeMap<NamespaceId, Stamped>,
}

impl NamespaceTable {
    /// The table every cluster starts with: `default`, created at version zero so that all nodes agree.
    /// `n` is the cluster's N; quorums are clamped to it.
    pub fn with_default(n: u8) -> Self {
        let mut table = Self::default();
        let mut namespace = Namespace::new("default");
        namespace.n = n;
        namespace.r = n / 2 + 1;
        namespace.w = n / 2 + 1;
        table.by_id.insert(namespace.id(), Stamped { created: Version::ZERO, namespace, past: Past::default() });
        table
    }

    /// The namespace with this id, unless it is deleted.
    pub fn get(&self, id: NamespaceId) -> Option<&Namespace> {
        self.by_id.get(&id).filter(|stamped| stamped.is_live()).map(|stamped| &stamped.namespace)
    }

    /// Those that are there, in id order.
    pub fn iter(&self) -> impl Iterator<Item = (NamespaceId, &Namespace)> {
        self.all().filter(|known| known.live).map(|known| (known.id, known.namespace))
    }

    /// All of them in id order, deleted ones too.
    pub fn all(&self) -> impl Iterator<Item = Known<'_>> {
        self.by_id.iter().map(|(id, stamped)| Known {
            id: *id,
            namespace: &stamped.namespace,
            live: stamped.is_live(),
            mark: stamped.mark(),
        })
    }

    /// Those that `keep` names.
    pub(crate) fn only(&self, keep: impl Fn(NamespaceId, &Namespace) -> bool) -> Self {
        let kept = self.by_id.iter().filter(|(id, stamped)| keep(**id, &stamped.namespace));
        Self { by_id: kept.map(|(id, stamped)| (*id, stamped.clone())).collect() }
    }

    /// How many there are, deleted ones too.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Creates `namespace`. `Ok(false)` when exactly this one is there already (creating is idempotent).
    ///
    /// # Errors
    /// Settings that make no sense, a name taken with other settings, a full table.
    pub fn create(&mut self, namespace: Namespace, cluster_n: u8, version: Version) -> Result<bool, NamespaceError> {
        namespace.check(cluster_n)?;
        let id = namespace.id();
        if let Some(there) = self.get(id) {
            return if *there == namespace { Ok(false) } else { Err(NamespaceError::Exists(there.name.clone())) };
        }
        let past = self.by_id.get(&id).map(|before| Past { life: before.past.deleted, ..before.past });
        if past.is_none() && self.by_id.len() >= NAMESPACES_MAX {
            return Err(NamespaceError::TooMany);
        }
        self.by_id.insert(id, Stamped { created: version, namespace, past: past.unwrap_or_default() });
        Ok(true)
    }

    /// Empties the namespace of this name: what has a version up to `mark` is gone. Its mark now, which may be higher.
    ///
    /// # Errors
    /// There is no such namespace.
    pub fn flush(&mut self, name: &str, mark: Hlc) -> Result<Hlc, NamespaceError> {
        let stamped = self.live_mut(name)?;
        stamped.past.flushed = stamped.past.flushed.max(mark);
        Ok(stamped.mark())
    }

    /// Deletes the namespace of this name with all in it, as `flush` does. Its mark now. One that is deleted already gets a higher mark:
    /// gone is then, too, what nodes took that had not heard of the first.
    ///
    /// # Errors
    /// There never was such a namespace, or it is `default`.
    pub fn delete(&mut self, name: &str, mark: Hlc) -> Result<Hlc, NamespaceError> {
        let stamped = self.named_mut(name)?;
        if name == "default" {
            return Err(NamespaceError::Default);
        }
        // Above its own life, or it would go on.
        stamped.past.deleted = mark.max(stamped.past.life.next()).max(stamped.past.deleted);
        Ok(stamped.mark())
    }

    fn live_mut(&mut self, name: &str) -> Result<&mut Stamped, NamespaceError> {
        let found = self.named_mut(name)?;
        if found.is_live() { Ok(found) } else { Err(NamespaceError::Unknown(name.to_owned())) }
    }

    fn named_mut(&mut self, name: &str) -> Result<&mut Stamped, NamespaceError> {
        self.by_id.get_mut(&NamespaceId::of(name)).ok_or_else(|| NamespaceError::Unknown(name.to_owned()))
    }

    /// Learns what `other` knows; whether that changed anything.
    pub fn join(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (id, theirs) in &other.by_id {
            match self.by_id.get_mut(id) {
                Some(ours) => changed |= ours.join(theirs),
                None => {
                    self.by_id.insert(*id, theirs.clone());
                    changed = true;
                }
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ActorId;

    fn version(at: u64) -> Version {
        Version { hlc: Hlc(at), actor: ActorId(1) }
    }

    #[test]
    fn two_creations_of_one_name_agree_whatever_the_order() {
        let mut first = Namespace::new("users");
        first.r = 1;
        let (mut a, mut b) = (NamespaceTable::with_default(3), NamespaceTable::with_default(3));
        a.create(first.clone(), 3, version(5)).unwrap();
        b.create(Namespace::new("users"), 3, version(9)).unwrap();
        let (before_a, before_b) = (a.clone(), b.clone());
        a.join(&before_b);
        b.join(&before_a);
        assert_eq!(a, b);
        assert_eq!(a.get(NamespaceId::of("users")), Some(&first));
        assert!(!a.join(&before_b), "a join is idempotent");
    }

    #[test]
    fn creating_the_same_namespace_twice_is_no_error_and_another_one_is() {
        let mut table = NamespaceTable::with_default(3);
        assert_eq!(table.create(Namespace::new("x"), 3, version(1)), Ok(true));
        assert_eq!(table.create(Namespace::new("x"), 3, version(2)), Ok(false));
        let mut other = Namespace::new("x");
        other.r = 1;
        assert_eq!(table.create(other, 3, version(3)), Err(NamespaceError::Exists("x".to_owned())));
    }

    #[test]
    fn a_deleted_namespace_stays_deleted_until_it_is_created_again_and_then_without_its_past() {
        let (name, id) = ("x", NamespaceId::of("x"));
        let mut table = NamespaceTable::with_default(3);
        table.create(Namespace::new(name), 3, version(1)).unwrap();
        let before = table.clone();
        assert_eq!(table.flush(name, Hlc(5)), Ok(Hlc(5)));
        assert_eq!(table.flush(name, Hlc(3)), Ok(Hlc(5)), "a mark only rises");
        assert_eq!(table.delete(name, Hlc(9)), Ok(Hlc(9)));
        assert_eq!((table.get(id), table.iter().count(), table.len()), (None, 1, 2));
        assert!(!table.join(&before) && table.get(id).is_none(), "who was away does not bring it back");
        assert_eq!(table.flush(name, Hlc(10)), Err(NamespaceError::Unknown(name.to_owned())));
        let mut again = Namespace::new(name);
        again.w = 1;
        assert_eq!(table.create(again.clone(), 3, version(12)), Ok(true));
        assert!(!table.join(&before));
        assert_eq!(table.get(id), Some(&again));
        assert_eq!(table.all().find(|known| known.id == id).map(|known| known.mark), Some(Hlc(9)));
        table.delete(name, Hlc(2)).unwrap();
        assert_eq!(table.get(id), None, "by a slow clock, too");
        assert_eq!(table.delete(name, Hlc(20)), Ok(Hlc(20)), "what came after the first deletion goes with the second");
        assert_eq!((table.delete(name, Hlc(3)), table.get(id)), (Ok(Hlc(20)), None), "a mark only rises");
        assert_eq!(table.delete("y", Hlc(3)), Err(NamespaceError::Unknown("y".to_owned())));
        assert_eq!(table.delete("default", Hlc(3)), Err(NamespaceError::Default));
    }

    #[test]
    fn joined_in_any_order_and_grouping_tables_are_one() {
        // Every state of one name that lives, deletions and flushes at few times can make.
        let mut states = Vec::new();
        for (created, life, deleted, flushed) in
            (0..24).map(|nth| (nth % 2 + 1, nth / 2 % 2 * 3, nth / 4 % 2 * 3, nth / 8))
        {
            let past = Past { life: Hlc(life), deleted: Hlc(deleted), flushed: Hlc(flushed) };
            let mut namespace = Namespace::new("x");
            namespace.r = u8::try_from(created + life).unwrap();
            let stamped = Stamped { created: version(created + life), namespace, past };
            states.push(NamespaceTable { by_id: BTreeMap::from([(NamespaceId::of("x"), stamped)]) });
        }
        let joined = |a: &NamespaceTable, b: &NamespaceTable| {
            let mut joined = a.clone();
            assert_eq!(joined.join(b), joined != *a, "it says whether anything changed");
            assert!(!joined.join(b), "once is enough");
            joined
        };
        for a in &states {
            for b in &states {
                assert_eq!(joined(a, b), joined(b, a));
                for c in &states {
                    assert_eq!(joined(&joined(a, b), c), joined(a, &joined(b, c)));
                }
            }
        }
    }

    #[test]
    fn a_table_without_a_past_is_read_and_written_as_before() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            created: Version,
            namespace: Namespace,
        }
        let before = Before { created: version(3), namespace: Namespace::new("x") };
        let mut stamped: Stamped = rmp_serde::from_slice(&rmp_serde::to_vec(&before).unwrap()).unwrap();
        assert!(stamped.past.is_none());
        assert_eq!(rmp_serde::to_vec(&stamped).unwrap(), rmp_serde::to_vec(&before).unwrap());
        stamped.past.flushed = Hlc(7);
        let named = rmp_serde::to_vec_named(&stamped).unwrap();
        assert_eq!(rmp_serde::from_slice::<Stamped>(&named).unwrap(), stamped);
    }
}
