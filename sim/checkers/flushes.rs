//! S16 `flush-final`: what was flushed is neither served nor held by whoever heard of it.
//!
//! - A request that arrives at a shard after it was told of a mark is answered with nothing at or below it.
//! - One that arrives after it was told that the namespace is deleted is refused, until it is told that there is one again.
//! - In the end nobody who was told holds, or remembers as evicted, anything at or below it, hints included.
//!
//! That a flush leaves alone what is above its mark the checkers of histories judge (`marks`); that the mark covers what was
//! acknowledged anywhere the rigs of core show.

use crate::{clock::Time, network::Site};
use meshwork_core::{
    id::NamespaceId,
    value::{Hlc, Version},
    view::View,
    wire::client::{Reply, ReplyBody, Status},
};
use std::collections::BTreeMap;

/// What a shard was told of a namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    mark: Hlc,
    /// When the mark rose.
    since: Time,
    /// It is deleted, since then.
    gone: Option<Time>,
}

/// Of each shard and namespace that has a mark: what it was told.
#[derive(Debug, Default)]
pub struct Flushes {
    told: BTreeMap<(Site, NamespaceId), Told>,
}

/// Whether a mark covers a version.
pub fn covers(mark: Hlc, version: Version) -> bool {
    mark > Hlc(0) && version.hlc <= mark
}

impl Flushes {
    /// A shard was given a snapshot; the marks that rose.
    pub fn on_view(&mut self, at: Time, site: Site, view: &View) -> Vec<(NamespaceId, Hlc)> {
        let mut risen = Vec::new();
        for known in view.namespaces.all().filter(|known| known.mark > Hlc(0)) {
            let told = self.told.entry((site, known.id)).or_default();
            told.gone = (!known.live).then(|| told.gone.unwrap_or(at));
            if known.mark > told.mark {
                (told.mark, told.since) = (known.mark, at);
                risen.push((known.id, known.mark));
            }
        }
        risen
    }

    /// A shard answers a request that arrived at `arrived`.
    pub fn on_reply(&self, site: Site, arrived: Time, namespace: NamespaceId, reply: &Reply<'_>) -> Option<String> {
        let Told { mark, since, gone } = *self.told.get(&(site, namespace))?;
        if gone.is_some_and(|gone| arrived > gone) && matches!(reply.status, Status::Ok | Status::NotFound) {
            return Some(format!("{site:?} served a request; it was told before that the namespace is deleted"));
        }
        let version = match reply.body {
            ReplyBody::Value { version, .. } | ReplyBody::Written { version } => version,
            ReplyBody::Empty | ReplyBody::Text(_) => return None,
        };
        let old = arrived > since && covers(mark, version);
        old.then(|| {
            format!("{site:?} answered with {version}; it was told before that all up to {:x} is flushed", mark.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::{
        id::{ActorId, NodeId},
        namespace::{Namespace, NamespaceTable},
    };
    use std::sync::Arc;

    #[test]
    fn an_answer_from_before_a_flush_is_refused_once_the_shard_was_told() {
        let site = Site { process: 0, shard: 1 };
        let (mut flushes, mut table) = (Flushes::default(), NamespaceTable::with_default(3));
        table.flush("default", Hlc(100)).unwrap();
        let view = View::empty(NodeId(1), Arc::new(table));
        assert_eq!(flushes.on_view(50, site, &view), [(NamespaceId::of("default"), Hlc(100))]);
        assert_eq!(flushes.on_view(90, site, &view), []);
        let reply = |hlc| {
            let version = Version { hlc: Hlc(hlc), actor: ActorId(1) };
            Reply { body: ReplyBody::Value { version, expires_at: None, value: b"v" }, ..Reply::status(1, Status::Ok) }
        };
        let space = NamespaceId::of("default");
        assert!(flushes.on_reply(site, 60, space, &reply(100)).is_some());
        assert_eq!(flushes.on_reply(site, 60, space, &reply(101)), None);
        assert_eq!(flushes.on_reply(site, 50, space, &reply(99)), None, "asked before it was told");
        assert_eq!(flushes.on_reply(Site { shard: 0, ..site }, 60, space, &reply(99)), None, "another has not heard");
        assert_eq!(flushes.on_reply(site, 60, NamespaceId::of("other"), &reply(99)), None);
    }

    #[test]
    fn a_deleted_namespace_is_served_by_nobody_who_was_told_until_there_is_one_again() {
        let (site, space) = (Site { process: 0, shard: 1 }, NamespaceId::of("x"));
        let (mut flushes, mut table) = (Flushes::default(), NamespaceTable::with_default(3));
        let mut told = |at: Time, table: &NamespaceTable, asked: Time, status: Status| {
            flushes.on_view(at, site, &View::empty(NodeId(1), Arc::new(table.clone())));
            flushes.on_reply(site, asked, space, &Reply::status(1, status)).is_some()
        };
        let version = |at: u64| Version { hlc: Hlc(at), actor: ActorId(1) };
        table.create(Namespace::new("x"), 3, version(1)).unwrap();
        table.delete("x", Hlc(100)).unwrap();
        assert!(!told(50, &table, 50, Status::Ok), "asked before it was told");
        assert!(told(60, &table, 51, Status::NotFound));
        assert!(!told(60, &table, 51, Status::NoSuchNamespace));
        table.create(Namespace::new("x"), 3, version(101)).unwrap();
        assert!(!told(70, &table, 71, Status::NotFound));
    }
}
