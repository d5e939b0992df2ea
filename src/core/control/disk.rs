//! What the control plane keeps on disk, and what it makes of it after a restart (PROTOCOL §2 "stored before they are gossiped", §6).
//!
//! Stored: the replicated state and a *life stamp*, a reading of the clock that is renewed every few minutes. Peers are told a
//! stamp once it is stored, so a node whose disk has an older stamp than its peers remember came back with an older copy of
//! it: what it acknowledged since is missing, and what all owners agreed to forget since is not. It drops all that it
//! restored (the incarnation alone would not tell a copy from the same process' life). Nothing is served before that is decided and a first
//! store, with a layout in it, is confirmed; what others build on is on disk before they hear of it: a layout before its
//! ack, each stage before the next, a namespace that asks for a log before it is used.
//!
//! What it is not: entries, which shards store; the clock's bound, which is `clock_watch`'s.

use crate::{
    id::{NamespaceId, NodeId},
    limits::LIFE_STAMP_EVERY,
    namespace::NamespaceTable,
    ring::{LayoutName, Stage},
    time::Mono,
    value::Hlc,
    wire::control::Meta,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Not stored more often: a namespace that asks for a log, and each stage of a transition, waits for its store.
const STORE_EVERY: Duration = Duration::from_millis(100);
/// A store that nobody confirmed is made again after this.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A restored node that hears of nobody who remembers it goes on after this: all may have forgotten.
const JUDGED_AFTER: Duration = Duration::from_secs(30);
/// The format that is written.
const FORMAT: u8 = 1;
/// States given to the disk that it may still confirm.
const GIVEN_MAX: usize = 8;

/// What is on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u8,
    node: NodeId,
    life: Hlc,
    meta: Meta,
}

/// Whether what was restored may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Nobody who would know has been heard.
    Unjudged,
    /// It may, or there is nothing.
    Good,
    /// It is older than what peers saw: dropped.
    Dropped,
}

/// What a store contained, by which others' steps are judged once it is confirmed.
#[derive(Clone, Debug, Default)]
struct Content {
    life: Hlc,
    newest: Option<LayoutName>,
    stage: Option<Stage>,
    durable: BTreeSet<NamespaceId>,
    marks: BTreeMap<NamespaceId, Hlc>,
}

/// The control plane's disk.
#[derive(Debug)]
pub struct Disk {
    there: bool,
    started: Mono,
    trust: Trust,
    /// The stamp that was found on disk.
    found: Option<Hlc>,
    /// This process' first stamp.
    first: Option<Hlc>,
    number: u64,
    /// What is given and not confirmed, by number.
    given: BTreeMap<u64, Content>,
    confirmed: Option<Content>,
    /// When it was last given, with which digest and which stamp.
    last: Option<(Mono, u64, Hlc, Mono)>,
    /// A namespace table, and what of it is used.
    used: Option<(Arc<NamespaceTable>, Arc<NamespaceTable>)>,
}

impl Disk {
    /// A node's disk, if it has one, and the state that was restored from it. Bytes that cannot be read are as an older copy:
    /// what shards restored beside them is dropped.
    pub fn new(there: bool, restored: Option<&[u8]>, node: NodeId, now: Mono) -> (Self, Option<Meta>) {
        let read = restored.map(|bytes| rmp_serde::from_slice::<Stored>(bytes).ok());
        let found = read.map(|stored| stored.filter(|it| it.format == FORMAT && it.node == node));
        let (trust, life, meta) = match found {
            None => (Trust::Good, None, None),
            Some(None) => (Trust::Dropped, None, None),
            Some(Some(stored)) => (Trust::Unjudged, Some(stored.life), Some(stored.meta)),
        };
        let disk = Self {
            there,
            started: now,
            trust,
            found: life,
            first: None,
            number: 0,
            given: BTreeMap::new(),
            confirmed: None,
            last: None,
            used: None,
        };
        (disk, meta)
    }

    /// Whether what was restored is to be dropped from the start.
    pub fn is_unreadable(&self) -> bool {
        self.trust == Trust::Dropped
    }

    /// What was restored does not fit the configuration: it is as if it could not be read.
    pub fn refuse(&mut self) {
        self.trust = Trust::Dropped;
    }

    /// A peer remembers this stamp of this node, or nothing. `true`: the disk is older, which is news.
    pub fn on_remembered(&mut self, known: Option<Hlc>) -> bool {
        let (Some(found), Some(known)) = (self.found, known) else { return false };
        let own = self.first.is_some_and(|first| known >= first);
        if known > found && !own {
            let news = self.trust != Trust::Dropped;
            self.trust = Trust::Dropped;
            return news;
        }
        if self.trust == Trust::Unjudged {
            self.trust = Trust::Good;
        }
        false
    }

    /// Looks at time: alone in its layout, or after a while, a restored node goes on.
    pub fn observe(&mut self, alone: bool, now: Mono) {
        if self.trust == Trust::Unjudged && (alone || now.since(self.started) >= JUDGED_AFTER) {
            self.trust = Trust::Good;
        }
    }

    /// Whether the shards may be told of a layout.
    pub fn may_serve(&self) -> bool {
        !self.there
            || self.trust != Trust::Unjudged && self.confirmed.as_ref().is_some_and(|stored| stored.newest.is_some())
    }

    /// Whether this node may say that it came to `stage` towards `newest`: what that builds on is on disk.
    pub fn may_advance(&self, newest: LayoutName, stage: Stage) -> bool {
        let Some(stored) = self.confirmed.as_ref().filter(|it| it.newest == Some(newest)) else { return !self.there };
        match stage {
            Stage::Acked => true,
            Stage::Synced => stored.stage >= Some(Stage::Acked),
            Stage::Settled => stored.stage >= Some(Stage::Synced),
        }
    }

    /// The namespaces that may be used: those that ask for a log once they are on disk.
    pub fn usable(&mut self, known: &Arc<NamespaceTable>) -> Arc<NamespaceTable> {
        let stored = self.confirmed.as_ref().map(|stored| &stored.durable);
        let may = |id: NamespaceId| stored.is_some_and(|stored| stored.contains(&id));
        if !self.there || known.iter().all(|(id, namespace)| !namespace.ack.is_durable() || may(id)) {
            return Arc::clone(known);
        }
        if let Some((of, used)) = &self.used
            && Arc::ptr_eq(of, known)
        {
            return Arc::clone(used);
        }
        let used = Arc::new(known.only(|id, namespace| !namespace.ack.is_durable() || may(id)));
        self.used = Some((Arc::clone(known), Arc::clone(&used)));
        used
    }

    /// Whether a namespace's mark is on disk.
    pub fn holds(&self, id: NamespaceId, mark: Hlc) -> bool {
        self.confirmed.as_ref().and_then(|stored| stored.marks.get(&id)).is_some_and(|stored| *stored >= mark)
    }

    /// What to store now, if anything: number and bytes. `stamp` is a new reading of the clock; `digest` is of `meta`.
    pub fn due(
        &mut self,
        node: NodeId,
        digest: u64,
        meta: impl FnOnce() -> Meta,
        stamp: impl FnOnce() -> Hlc,
        now: Mono,
    ) -> Option<(u64, Vec<u8>)> {
        if !self.there || self.trust == Trust::Unjudged {
            return None;
        }
        let life = match self.last {
            None => None,
            Some((at, given, life, stamped)) => {
                let old = now.since(stamped) >= LIFE_STAMP_EVERY;
                let again = !self.given.is_empty() && now.since(at) >= STORE_AGAIN_AFTER;
                if now.since(at) < STORE_EVERY || given == digest && !old && !again {
                    return None;
                }
                (!old).then_some((life, stamped))
            }
        };
        let (life, stamped) = life.unwrap_or_else(|| (stamp().max(self.found.map_or(Hlc::default(), Hlc::next)), now));
        self.first.get_or_insert(life);
        self.last = Some((now, digest, life, stamped));
        self.number += 1;
        let meta = meta();
        let durable = meta.namespaces.all().filter(|it| it.namespace.ack.is_durable()).map(|it| it.id).collect();
        let (newest, stage) = (meta.layouts.current_name(), meta.layouts.stage(node));
        // While the disk fails they are given again and again.
        if self.given.len() >= GIVEN_MAX {
            self.given.pop_first();
        }
        let marks =
            meta.namespaces.all().filter(|known| known.mark > Hlc::default()).map(|known| (known.id, known.mark));
        let marks = marks.collect();
        self.given.insert(self.number, Content { life, newest, stage, durable, marks });
        let stored = Stored { format: FORMAT, node, life, meta };
        let bytes = rmp_serde::to_vec_named(&stored).expect("the state has no type that MessagePack lacks");
        Some((self.number, bytes))
    }

    /// What was given under `number` is on disk: the stamp that peers may be told.
    pub fn on_stored(&mut self, number: u64) -> Option<Hlc> {
        let later = self.given.split_off(&number.saturating_add(1));
        let stored = std::mem::replace(&mut self.given, later).remove(&number)?;
        let life = stored.life;
        (self.confirmed, self.used) = (Some(stored), None);
        Some(life)
    }

    /// Why this node holds back, for a person.
    pub fn obstacle(&self) -> Option<&'static str> {
        match self.trust {
            _ if !self.there || self.may_serve() => None,
            Trust::Unjudged => Some("waiting for a peer to say that its disk is no older copy"),
            Trust::Good | Trust::Dropped => {
                Some("waiting for its disk: if that lasts, its log says what mesh.meta lacks")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::NodeConfig,
        control::replicated::Replicated,
        id::{ActorId, ClusterId},
        namespace::{Ack, Namespace},
        value::Version,
    };
    use std::net::SocketAddr;

    const ME: NodeId = NodeId(1);

    fn state() -> Replicated {
        Replicated::new(&NodeConfig::new(ClusterId(1), ME, SocketAddr::from(([127, 0, 0, 1], 7000))).cluster)
    }

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn store(disk: &mut Disk, state: &Replicated, stamp: u64, now: u64) -> Option<(u64, Vec<u8>)> {
        disk.due(ME, state.digest(), || state.meta(), || Hlc(stamp), at(now))
    }

    #[test]
    fn it_is_stored_at_once_and_then_once_a_second_while_it_changes() {
        let (mut disk, restored) = Disk::new(true, None, ME, at(0));
        assert!(restored.is_none() && !disk.may_serve());
        let mut state = state();
        let (number, _) = store(&mut disk, &state, 10, 0).unwrap();
        assert_eq!(disk.on_stored(number), Some(Hlc(10)));
        assert!(store(&mut disk, &state, 20, 1).is_none(), "nothing changed");
        let version = Version { hlc: Hlc(1), actor: ActorId(1) };
        let namespace = Namespace { ack: Ack::Log, ..Namespace::new("kept") };
        state.update_namespaces(|table| table.create(namespace, 3, version)).unwrap();
        assert_eq!(disk.usable(state.namespaces()).len(), 1, "what it acknowledged would be lost with its name");
        let (number, _) = store(&mut disk, &state, 20, 1).unwrap();
        assert_eq!(disk.usable(state.namespaces()).len(), 1);
        assert_eq!(disk.on_stored(number), Some(Hlc(10)), "the stamp is not old yet");
        assert_eq!(disk.usable(state.namespaces()).len(), 2);
        assert_eq!(store(&mut disk, &state, 30, 300).and_then(|(number, _)| disk.on_stored(number)), Some(Hlc(30)));
    }

    #[test]
    fn what_is_not_confirmed_is_stored_again() {
        let (mut disk, state) = (Disk::new(true, None, ME, at(0)).0, state());
        assert!(store(&mut disk, &state, 10, 0).is_some());
        assert!(store(&mut disk, &state, 10, 4).is_none());
        let (number, _) = store(&mut disk, &state, 10, 5).unwrap();
        assert_eq!((number, disk.on_stored(number)), (2, Some(Hlc(10))));
        assert_eq!(disk.on_stored(1), None, "an older answer says nothing");
    }

    #[test]
    fn a_disk_older_than_what_a_peer_remembers_is_dropped_whenever_that_is_heard() {
        let state = state();
        let (mut first, _) = Disk::new(true, None, ME, at(0));
        let (_, old) = store(&mut first, &state, 10, 0).unwrap();
        let (mut same, meta) = Disk::new(true, Some(&old), ME, at(0));
        assert_eq!(meta.as_ref(), Some(&state.meta()));
        assert!(
            !same.may_serve() && store(&mut same, &state, 50, 0).is_none(),
            "it is not known yet whether it is old"
        );
        assert!(
            !same.on_remembered(None) && store(&mut same, &state, 50, 1).is_none(),
            "who knows nothing says nothing"
        );
        assert!(!same.on_remembered(Some(Hlc(10))));
        assert!(store(&mut same, &state, 50, 1).is_some());
        assert!(!same.on_remembered(Some(Hlc(50))), "its own");
        assert!(same.on_remembered(Some(Hlc(30))), "another process ran on a newer disk");
        assert!(!same.on_remembered(Some(Hlc(30))), "once is enough");

        let (mut older, _) = Disk::new(true, Some(&old), ME, at(0));
        assert!(older.on_remembered(Some(Hlc(11))));
        let (_, bytes) = store(&mut older, &state, 5, 0).unwrap();
        let (mut next, _) = Disk::new(true, Some(&bytes), ME, at(0));
        assert!(!next.on_remembered(Some(Hlc(11))), "stamps only rise");
    }

    #[test]
    fn who_is_alone_or_hears_of_nobody_who_remembers_goes_on() {
        let state = state();
        let (_, bytes) = store(&mut Disk::new(true, None, ME, at(0)).0, &state, 10, 0).unwrap();
        for (alone, after) in [(true, 0), (false, 30)] {
            let (mut disk, _) = Disk::new(true, Some(&bytes), ME, at(0));
            disk.observe(false, at(29));
            assert!(store(&mut disk, &state, 20, 29).is_none());
            disk.observe(alone, at(after));
            assert!(store(&mut disk, &state, 20, 30).is_some());
        }
    }

    #[test]
    fn bytes_that_nobody_wrote_restore_nothing() {
        for bytes in [&b""[..], b"\x81", &[0xc1; 40]] {
            let (disk, meta) = Disk::new(true, Some(bytes), ME, at(0));
            assert!(disk.is_unreadable() && meta.is_none());
        }
    }
}
