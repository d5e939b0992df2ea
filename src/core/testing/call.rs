//! A client of the rig: a request with the defaults most tests want, and the reply it got, owned.

use super::rig::{Asked, Rig};
use crate::{
    id::NamespaceId,
    input::{Caller, ShardInput},
    limits,
    namespace::Mode,
    time::{Mono, Wall},
    value::{Body, Version},
    wire::{
        client::{Condition, Consistency, Op, Quorum, Reply, ReplyBody, Request, Status, Ttl, Worth},
        frame::{Decoder, FrameType},
    },
};
use bytes::BytesMut;
use std::time::Duration;

/// Names one request made through a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a client asks. Starts as a sloppy request of the namespace's default quorums with a second to go.
#[derive(Clone, Debug)]
pub struct Call {
    key: Vec<u8>,
    namespace: NamespaceId,
    consistency: Consistency,
    deadline_ms: u32,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Get,
    Put { value: Vec<u8>, ttl: Ttl, condition: Condition },
    Delete { condition: Condition },
    Touch { ttl: Ttl },
    Inspect,
}

impl Call {
    fn new(key: &[u8], change: Change) -> Self {
        let consistency = Consistency::default();
        Self { key: key.into(), namespace: NamespaceId::of("default"), consistency, deadline_ms: 1_000, change }
    }

    /// Reads.
    pub fn get(key: impl AsRef<[u8]>) -> Self {
        Self::new(key.as_ref(), Change::Get)
    }

    /// Writes, without expiry.
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        Self::new(key.as_ref(), Change::Put { value, ttl: Ttl::Default, condition: Condition::Always })
    }

    /// Deletes.
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Self::new(key.as_ref(), Change::Delete { condition: Condition::Always })
    }

    /// Gives a new expiry.
    pub fn touch(key: impl AsRef<[u8]>, ttl: Ttl) -> Self {
        Self::new(key.as_ref(), Change::Touch { ttl })
    }

    /// Asks the node what it holds itself.
    pub fn inspect(key: impl AsRef<[u8]>) -> Self {
        Self::new(key.as_ref(), Change::Inspect)
    }

    /// Only Ready owners vote.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.consistency.mode = Some(Mode::Strict);
        self
    }

    /// Asks for `count` read votes.
    #[must_use]
    pub fn r(mut self, count: u8) -> Self {
        self.consistency.read = Quorum::Exactly(count);
        self
    }

    /// Asks for `count` write votes.
    #[must_use]
    pub fn w(mut self, count: u8) -> Self {
        self.consistency.write = Quorum::Exactly(count);
        self
    }

    /// In another namespace than `default`.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = NamespaceId::of(namespace);
        self
    }

    /// Waits no longer than this.
    #[must_use]
    pub fn deadline_ms(mut self, millis: u32) -> Self {
        self.deadline_ms = millis;
        self
    }

    /// A put with this expiry; other calls stay as they are.
    #[must_use]
    pub fn ttl(mut self, new: Ttl) -> Self {
        if let Change::Put { ttl, .. } = &mut self.change {
            *ttl = new;
        }
        self
    }

    /// A put or delete under this condition; other calls stay as they are.
    #[must_use]
    pub fn when(mut self, new: Condition) -> Self {
        if let Change::Put { condition, .. } | Change::Delete { condition } = &mut self.change {
            *condition = new;
        }
        self
    }

    /// Namespace and key.
    pub fn place(&self) -> (NamespaceId, &[u8]) {
        (self.namespace, &self.key)
    }

    /// The request as it travels under the number `id`.
    pub fn request(&self, id: u64) -> Request<'_> {
        let op = match &self.change {
            Change::Get => Op::Get,
            Change::Put { value, ttl, condition } => Op::Put { value, ttl: *ttl, condition: *condition },
            Change::Delete { condition } => Op::Delete { condition: *condition },
            Change::Touch { ttl } => Op::Touch { ttl: *ttl },
            Change::Inspect => Op::Inspect,
        };
        let (deadline_ms, consistency) = (self.deadline_ms, self.consistency);
        Request { id, deadline_ms, sent: 0, consistency, namespace: self.namespace, key: &self.key, op }
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub status: Status,
    /// Whether a failed write may have been applied all the same.
    pub maybe_applied: bool,
    /// What the reply is worth.
    pub worth: Worth,
    /// The value read.
    pub value: Option<Vec<u8>>,
    /// The version read or written.
    pub version: Option<Version>,
    /// When the value read expires.
    pub expires_at: Option<Wall>,
    /// Words for a person.
    pub text: Option<String>,
}

impl From<&Reply<'_>> for Answer {
    fn from(reply: &Reply<'_>) -> Self {
        let Reply { status, maybe_applied, worth, .. } = *reply;
        let empty = Self { status, maybe_applied, worth, value: None, version: None, expires_at: None, text: None };
        match reply.body {
            ReplyBody::Empty => empty,
            ReplyBody::Value { version, expires_at, value } => {
                Self { value: Some(value.to_vec()), version: Some(version), expires_at, ..empty }
            }
            ReplyBody::Written { version } => Self { version: Some(version), ..empty },
            ReplyBody::Text(text) => Self { text: Some(text.to_owned()), ..empty },
        }
    }
}

impl Rig {
    /// Asks `node`; the reply is found under the ticket.
    ///
    /// # Panics
    /// If the node was killed.
    pub fn ask(&mut self, node: usize, call: &Call) -> Ticket {
        let ticket = Ticket(self.asked.len() as u64);
        self.asked.push(Asked::At(node));
        let mut frame = BytesMut::new();
        call.request(ticket.0).encode(&mut frame);
        let hasher = self.hasher.clone();
        self.input(node, &frame, |shard, now, out| {
            let (frame_type, id, mut decoder) = Decoder::start(&frame).expect("our own codec's frame");
            assert_eq!(frame_type, FrameType::Request);
            let request = Request::decode(id, &mut decoder).expect("our own codec's request");
            let hash = hasher.hash(request.namespace, request.key);
            shard.handle(now, ShardInput::Client { caller: Caller { link: 0, id }, hash, request }, out);
        });
        ticket
    }

    /// The value that `node`'s own copy answers alone, and its worth, to who reads a clock `behind` the rig's; `None`: ask.
    ///
    /// # Panics
    /// If the node was killed.
    pub fn hit(&mut self, node: usize, call: &Call, behind: Duration) -> Option<(Vec<u8>, Worth)> {
        let mut frame = BytesMut::new();
        call.request(0).encode(&mut frame);
        let (_, id, mut decoder) = Decoder::start(&frame).expect("our own codec's frame");
        let request = Request::decode(id, &mut decoder).expect("our own codec's request");
        let place = (request.namespace, self.hasher.hash(request.namespace, request.key));
        let mut found = None;
        self.input(node, &frame, |shard, now, _| {
            let behind = u64::try_from(behind.as_nanos()).expect("it is some milliseconds");
            let mono = Mono(now.mono.0.saturating_sub(behind));
            let hit = shard.hit(mono, place, request.key, request.consistency);
            found = hit.map(|(entry, worth)| match entry.body {
                Body::Value(value) => (value.to_vec(), worth),
                Body::Tombstone => panic!("a tombstone is no value"),
            });
        });
        found
    }

    /// The reply, if it has come.
    pub fn reply(&self, ticket: Ticket) -> Option<&Answer> {
        match &self.asked[usize::try_from(ticket.0).expect("tickets are small")] {
            Asked::Answered(answer) => Some(answer),
            Asked::At(_) | Asked::Gone => None,
        }
    }

    /// Whether the node that was asked died before it replied.
    pub fn is_gone(&self, ticket: Ticket) -> bool {
        matches!(self.asked[usize::try_from(ticket.0).expect("tickets are small")], Asked::Gone)
    }

    /// Asks and waits.
    ///
    /// # Panics
    /// If no reply comes within the longest deadline.
    pub fn call(&mut self, node: usize, call: &Call) -> Answer {
        let ticket = self.ask(node, call);
        self.wait(ticket)
    }

    /// Runs until the reply is there.
    ///
    /// # Panics
    /// If no reply comes within a second over the longest time a request may take.
    pub fn wait(&mut self, ticket: Ticket) -> Answer {
        let limit = self.now + limits::WRITE_TIMEOUT + Duration::from_secs(1);
        loop {
            if let Some(answer) = self.reply(ticket) {
                return answer.clone();
            }
            assert!(!self.is_gone(ticket), "the node that was asked was killed");
            assert!(self.step(limit), "a request was not answered within its time");
        }
    }
}
