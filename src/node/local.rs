//! The node's side of the in-process link: batches of frames cross a mailbox to a shard's thread (INTERFACES §1).
//!
//! They are handled there like a client link's, and replies come back as one batch for each batch handled. No socket,
//! no encryption, no allocation or wake-up an operation. What the node's own copy answers alone crosses nothing at all: the
//! caller reads it under the shard's lock, where its thread is not at work (`lock`; `core::coordinator::hit` says what that is;
//! `client::group` when several have it fetched first).
//! The caller's role is that of an admin: it could call the node itself.

use crate::{letter::Letter, links::LinkName, mailbox::Returned, shared::Shared};
use bytes::Bytes;
use meshwork_core::{
    id::{KeyHash, NamespaceId, NodeId},
    shard::Shard,
    value::Entry,
    wire::{
        client::{Consistency, Worth},
        hello::Routing,
        local::{LocalLink, LocalSender, OnFrames},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Names local callers of all nodes in this process; wraps only after 2^32 of them.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node, as a client in its process sees it.
pub(crate) struct NodeLink {
    shared: Arc<Shared>,
}

impl NodeLink {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl LocalLink for NodeLink {
    fn shards(&self) -> u16 {
        self.shared.addresses.shards
    }

    fn routing(&self) -> Option<Routing> {
        self.shared.routing.load_full().map(|routing| (*routing).clone())
    }

    fn node(&self) -> NodeId {
        self.shared.hello.node
    }

    fn hit(
        &self,
        shard: u16,
        place: (NamespaceId, KeyHash),
        key: &[u8],
        consistency: Consistency,
        found: &mut dyn FnMut(&Entry<'_>, Worth),
    ) -> bool {
        let Some(lock) = self.shared.shards.get(usize::from(shard)).filter(|_| !self.shared.is_closed()) else {
            return false;
        };
        let mono = self.shared.clocks.roughly();
        let read = |shard: &mut Shard| {
            let (entry, worth) = shard.hit(mono, place, key, consistency)?;
            found(&entry, worth);
            Some(())
        };
        lock.try_with(&self.shared, read).is_some()
    }

    fn warm(&self, wanted: &[(u16, KeyHash)]) {
        for (at, (shard, _)) in wanted.iter().enumerate() {
            let is_first = wanted[..at].iter().all(|(before, _)| before != shard);
            if let Some(lock) = self.shared.shards.get(usize::from(*shard)).filter(|_| is_first) {
                let hashes = wanted.iter().filter(|(of, _)| of == shard).map(|(_, hash)| *hash);
                lock.try_with(&self.shared, |shard| {
                    shard.warm(hashes);
                    Some(())
                });
            }
        }
    }

    fn open(&self, shard: u16, on_frames: OnFrames) -> Box<dyn LocalSender> {
        // A shard that does not exist is the caller's mistake; shard 0 serves it, at the cost of a hop.
        let shard = if shard < self.shared.addresses.shards { shard } else { 0 };
        let link = LinkName::local(shard, NEXT.fetch_add(1, Ordering::Relaxed)).0;
        self.shared.tell(shard, Letter::LocalOpen { link, on_frames });
        Box::new(Sender { shared: self.shared.clone(), shard, link })
    }
}

struct Sender {
    shared: Arc<Shared>,
    shard: u16,
    link: u64,
}

impl LocalSender for Sender {
    fn send(&self, frames: Bytes) -> bool {
        let letter = Letter::Local { link: self.link, frames };
        match self.shared.mailboxes[usize::from(self.shard)].send(letter) {
            Ok(()) => true,
            Err(Returned::Closed(_)) => false,
            Err(Returned::Full(letter)) => {
                // The shard's thread answers Overloaded to each frame; it needs the frames for their ids only.
                let Letter::Local { link, frames } = letter else { unreachable!("the letter sent above") };
                self.shared.tell(self.shard, Letter::LocalRefused { link, ids: crate::batch::request_ids(&frames) });
                true
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.tell(self.shard, Letter::LocalClose { link: self.link });
    }
}
