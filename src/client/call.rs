//! One call, from validation to its last attempt: a future without an allocation of its own (INTERFACES §1).
//!
//! A state machine written by hand, because it is polled at millions a second: check, look whether the node in this process may
//! answer alone, else choose a link, submit, wait, judge, perhaps pause and choose again. Rules: nothing is sent that cannot be
//! valid; no attempt outlives the call's deadline;
//! what may have been applied is repeated only when repeating is harmless (reads and unconditional writes of registers,
//! which are last-writer-wins); dropping the future gives its slot back, and a late answer finds nobody.

use crate::{
    Error, ErrorKind,
    clock::millis,
    connection::{Connection, Refused},
    group::{self, Place},
    mesh::Inner,
    profile::{Deadline, Profile},
    router::Tried,
    slots::{Answer, Body, Failure, Ticket},
};
use bytes::{Bytes, BytesMut};
use meshwork_core::{
    id::{KeyHash, NamespaceId},
    limits::{DEADLINE_MAX, EXPIRES_MS_MAX, KEY_BYTES_MAX},
    value::Body as Value,
    wire::{
        Condition, Consistency, Op, Request, Status, Ttl,
        control::{self, ClientControl},
    },
};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Sleep;

/// Time for one control call of the client's own.
pub(crate) const CONTROL_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks for a first layout.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Deadlines shorter than this are taken from the precise clock; others may end a tick of the kernel's early.
const PRECISE_BELOW: Duration = Duration::from_millis(100);
/// No deadline.
const FOREVER: u64 = u64::MAX;

/// What a call asks.
pub(crate) enum Payload<V> {
    Get,
    Put { value: V, ttl: Ttl, condition: Condition },
    Delete { condition: Condition },
    Touch { ttl: Ttl },
    Inspect,
    Control(ClientControl),
}

impl<V> Payload<V> {
    fn is_write(&self) -> bool {
        match self {
            Self::Get | Self::Inspect => false,
            Self::Put { .. } | Self::Delete { .. } | Self::Touch { .. } => true,
            Self::Control(message) => matches!(
                message,
                ClientControl::NamespaceCreate(_)
                    | ClientControl::NamespaceFlush(_)
                    | ClientControl::NamespaceDelete(_)
                    | ClientControl::Change(_)
            ),
        }
    }

    /// Whether doing it twice is doing it once.
    fn is_idempotent(&self) -> bool {
        match self {
            Self::Get | Self::Touch { .. } | Self::Inspect | Self::Control(_) => true,
            Self::Put { condition, .. } | Self::Delete { condition } => match condition {
                Condition::Always => true,
                Condition::IfAbsent | Condition::IfVersion(_) => false,
            },
        }
    }
}

enum Stage {
    /// Not polled yet.
    New,
    /// The node in this process may answer alone.
    Here {
        shard: u16,
        link: Arc<Connection>,
        place: Option<Place>,
    },
    /// Another attempt is due.
    Next,
    Waiting {
        link: Arc<Connection>,
        ticket: Ticket,
    },
    Pausing(Pin<Box<Sleep>>),
    Over,
}

/// See the module. Resolves to the answer and the link it came by.
pub(crate) struct Call<'a, K, V> {
    mesh: &'a Inner,
    pub(crate) profile: &'a Profile,
    pub(crate) namespace: NamespaceId,
    pub(crate) consistency: Consistency,
    pub(crate) deadline: Option<Deadline>,
    /// The one link to use.
    pinned: Option<Arc<Connection>>,
    pub(crate) key: K,
    pub(crate) payload: Payload<V>,
    stage: Stage,
    tried: Tried,
    attempts: u32,
    retries: u32,
    /// When the call ends, in the mesh's milliseconds.
    end: u64,
    maybe_applied: bool,
    /// The time, when it was just read: reading it again would be a twentieth of a call's cost.
    now: Option<u64>,
    /// The key's, once routing computed it: a node in this process need not do so again, nor the next attempt.
    hash: Option<KeyHash>,
}

// Nothing in it is ever pinned in place.
impl<K, V> Unpin for Call<'_, K, V> {}

impl<'a, V> Call<'a, [u8; 0], V> {
    /// A call to one link, for control messages.
    pub(crate) fn to(mesh: &'a Inner, link: Arc<Connection>, payload: Payload<V>, limit: Duration) -> Self {
        let mut call = Self::new(mesh, NamespaceId(0), [], payload);
        call.pinned = Some(link);
        call.deadline = Some(Deadline::After(limit));
        call
    }
}

impl<'a, K, V> Call<'a, K, V> {
    /// Over this link only.
    pub(crate) fn over_link(mut self, link: Arc<Connection>) -> Self {
        self.pinned = Some(link);
        self
    }

    pub(crate) fn new(mesh: &'a Inner, namespace: NamespaceId, key: K, payload: Payload<V>) -> Self {
        Self {
            mesh,
            profile: &mesh.profile,
            namespace,
            consistency: Consistency::default(),
            deadline: None,
            pinned: None,
            key,
            payload,
            stage: Stage::New,
            tried: Tried::default(),
            attempts: 0,
            retries: 0,
            end: FOREVER,
            maybe_applied: false,
            now: None,
            hash: None,
        }
    }
}

impl<K, V> Drop for Call<'_, K, V> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New | Stage::Here { .. } | Stage::Over => {}
            Stage::Next | Stage::Pausing(_) => self.mesh.leave(),
            Stage::Waiting { link, ticket } => {
                link.abandon(ticket);
                self.mesh.leave();
            }
        }
    }
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> Future for Call<'_, K, V> {
    type Output = Result<(Answer, Arc<Connection>), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        loop {
            match &mut call.stage {
                Stage::New => {
                    call.check()?;
                    match call.here() {
                        Some((shard, link)) => call.stage = Stage::Here { shard, link, place: None },
                        None => call.enter()?,
                    }
                }
                Stage::Here { .. } => match ready!(call.look_here(context)) {
                    Some(answer) => {
                        let Stage::Here { link, .. } = std::mem::replace(&mut call.stage, Stage::Over) else {
                            unreachable!("matched above")
                        };
                        return Poll::Ready(Ok((answer, link)));
                    }
                    None => call.enter()?,
                },
                Stage::Next => match call.attempt(context) {
                    Ok(true) => return Poll::Pending,
                    Ok(false) => {}
                    Err(error) => return Poll::Ready(Err(call.over(error))),
                },
                Stage::Waiting { link, ticket } => {
                    let outcome = ready!(link.poll(*ticket, context));
                    let Stage::Waiting { link, .. } = std::mem::replace(&mut call.stage, Stage::Next) else {
                        unreachable!("matched above")
                    };
                    let (error, retry, pause) = match outcome {
                        Ok(answer) => match call.judge(answer, &link) {
                            Ok(answer) => {
                                call.stage = Stage::Over;
                                call.mesh.leave();
                                return Poll::Ready(Ok((answer, link)));
                            }
                            Err(verdict) => verdict,
                        },
                        Err(Failure::LinkUp) => {
                            call.attempts -= 1;
                            continue;
                        }
                        Err(failure) => call.failed(failure, &link),
                    };
                    if !retry || !call.may_retry() {
                        return Poll::Ready(Err(call.over(error)));
                    }
                    let profile = call.profile;
                    let jitter =
                        call.mesh.dialer.jitter.backoff(profile.backoff_min, profile.backoff_max, call.retries);
                    call.retries += 1;
                    call.stage = Stage::Pausing(Box::pin(tokio::time::sleep(jitter.max(pause))));
                }
                Stage::Pausing(sleep) => {
                    ready!(sleep.as_mut().poll(context));
                    call.stage = Stage::Next;
                }
                Stage::Over => panic!("a call was polled after it had ended"),
            }
        }
    }
}

/// An error, whether repeating is harmless, and how long to wait before.
type Verdict = (Error, bool, Duration);

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> Call<'_, K, V> {
    /// Refuses what cannot be valid, before anything is sent.
    fn check(&self) -> Result<(), Error> {
        let ttl = match &self.payload {
            Payload::Control(_) => return Ok(()),
            Payload::Get | Payload::Delete { .. } | Payload::Inspect => Ttl::Default,
            Payload::Put { value, ttl, .. } => {
                let (length, most) = (value.as_ref().len(), self.mesh.value_max.load(Ordering::Relaxed));
                if length > most {
                    let text = format!("the value has {length} bytes, the mesh takes at most {most}");
                    return Err(Error::new(ErrorKind::TooLarge, text).hinting("split it over several keys"));
                }
                *ttl
            }
            Payload::Touch { ttl } => *ttl,
        };
        match self.key.as_ref().len() {
            0 => return Err(Error::new(ErrorKind::Invalid, "the key is empty").hinting("a key has 1 to 1024 bytes")),
            length if length > KEY_BYTES_MAX => {
                let text = format!("the key has {length} bytes, at most {KEY_BYTES_MAX} are allowed");
                return Err(Error::new(ErrorKind::TooLarge, text).hinting("use a hash of it as the key"));
            }
            _ => {}
        }
        let Ttl::Millis(ttl) = ttl else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if ttl == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a ttl of zero: the value would be gone before it is stored")
                .hinting("give at least 1 ms, delete the key, or use no_expiry()"));
        }
        if millis(now).saturating_add(ttl) > EXPIRES_MS_MAX {
            return Err(Error::new(ErrorKind::Invalid, format!("a ttl of {ttl} ms ends after the year 2500"))
                .hinting("check its unit, or use no_expiry()"));
        }
        Ok(())
    }

    /// The shard of the node in this process that may answer alone, and the link that a request to it would take.
    fn here(&mut self) -> Option<(u16, Arc<Connection>)> {
        let mesh = self.mesh;
        if !matches!(self.payload, Payload::Get) || mesh.dialer.local.is_none() || self.pinned.is_some() {
            return None;
        }
        let table = mesh.table.load();
        let table = table.as_ref().as_ref().filter(|_| !mesh.is_closed())?;
        self.hash = table.hash(self.namespace, self.key.as_ref());
        let (shard, link) = table.here(self.hash?, mesh)?;
        Some((shard, link.clone()))
    }

    /// Reads what the node in this process may answer alone, on this thread: then nothing is sent and nobody is woken.
    fn look_here(&mut self, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let mesh = self.mesh;
        let (Stage::Here { shard, place, .. }, Some(node), Some(hash)) =
            (&mut self.stage, &mesh.dialer.local, self.hash)
        else {
            return Poll::Ready(None);
        };
        let mut turn = None;
        match *place {
            Some(place) => place.fetch(&**node),
            None if group::is_busy() => {
                *place = Some(group::join(mesh.number, &**node, *shard, hash));
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // A task that asks in a loop and never has to wait must give way to others all the same.
            None => match tokio::task::coop::poll_proceed(context) {
                Poll::Ready(proceeds) => turn = Some(proceeds),
                Poll::Pending => {
                    *place = Some(group::join(mesh.number, &**node, *shard, hash));
                    return Poll::Pending;
                }
            },
        }
        let mut found = None;
        node.hit(*shard, (self.namespace, hash), self.key.as_ref(), self.consistency, &mut |entry, worth| {
            if let Value::Value(value) = entry.body {
                let value = Bytes::copy_from_slice(value);
                let body = Body::Value { version: entry.version, expires_at: entry.expires_at, value };
                found = Some(Answer { status: Status::Ok, maybe_applied: false, worth, body });
            }
        });
        if let Some(answer) = &found {
            if let Some(turn) = turn {
                turn.made_progress();
            }
            mesh.hits_here.fetch_add(1, Ordering::Relaxed);
            mesh.heard_of(answer.worth.epoch);
        }
        Poll::Ready(found)
    }

    /// Is admitted, and has a deadline from now on.
    fn enter(&mut self) -> Result<(), Error> {
        self.mesh.enter(self.profile)?;
        let deadline = self.deadline.unwrap_or(self.profile.deadline);
        let clock = &self.mesh.dialer.clock;
        let now = match deadline {
            Deadline::After(after) if after < PRECISE_BELOW => clock.now(),
            Deadline::After(_) | Deadline::None => clock.roughly(),
        };
        self.now = Some(now);
        if let Deadline::After(after) = deadline {
            self.end = now.saturating_add(millis(after));
        }
        self.stage = Stage::Next;
        Ok(())
    }

    /// Makes one attempt: `true` when it is under way and the waker is kept.
    fn attempt(&mut self, context: &mut Context<'_>) -> Result<bool, Error> {
        let now = self.now.take().unwrap_or_else(|| self.mesh.dialer.clock.now());
        if now >= self.end {
            return Err(self.mesh.trouble(ErrorKind::Timeout, "the deadline passed before a node could be asked"));
        }
        let Some(link) = self.link()? else {
            self.stage = Stage::Pausing(Box::pin(tokio::time::sleep(LOOK_EVERY)));
            return Ok(false);
        };
        let limit = if self.payload.is_write() { self.profile.attempt_write } else { self.profile.attempt_read };
        let end = now.saturating_add(millis(limit)).min(self.end);
        let deadline_ms = u32::try_from((end - now).min(millis(DEADLINE_MAX))).unwrap_or(u32::MAX);
        let (namespace, consistency, key) = (self.namespace, self.consistency, self.key.as_ref());
        let payload = &self.payload;
        let bytes = key.len() + if let Payload::Put { value, .. } = payload { value.as_ref().len() } else { 0 };
        let encode = |out: &mut BytesMut, id: u64| {
            let op = match payload {
                Payload::Get => Op::Get,
                Payload::Put { value, ttl, condition } => {
                    Op::Put { value: value.as_ref(), ttl: *ttl, condition: *condition }
                }
                Payload::Delete { condition } => Op::Delete { condition: *condition },
                Payload::Touch { ttl } => Op::Touch { ttl: *ttl },
                Payload::Inspect => Op::Inspect,
                Payload::Control(message) => return control::encode(out, id, message),
            };
            Request { id, deadline_ms, sent: now.max(1), consistency, namespace, key, op }.encode(out);
        };
        match link.submit(now, end, bytes, self.hash, context.waker(), encode) {
            Ok(ticket) => {
                self.attempts += 1;
                self.stage = Stage::Waiting { link, ticket };
                Ok(true)
            }
            Err(Refused::Closed) => Err(Error::new(ErrorKind::Closed, "this program closed the mesh")),
            Err(Refused::Full) => {
                let text = "too many bytes wait to be sent to this node";
                Err(Error::new(ErrorKind::Overloaded, text).at(link.address))
            }
            Err(Refused::TooLarge(words)) => Err(Error::new(ErrorKind::TooLarge, words)),
        }
    }

    /// The link for this attempt; `None`: look again soon.
    fn link(&mut self) -> Result<Option<Arc<Connection>>, Error> {
        if let Some(link) = &self.pinned {
            return Ok(Some(link.clone()));
        }
        let table = self.mesh.table.load();
        if let Some(table) = &**table
            && !matches!(self.payload, Payload::Control(_))
        {
            self.hash = self.hash.or_else(|| table.hash(self.namespace, self.key.as_ref()));
            let chosen = table.choose(self.hash.unwrap_or_default(), &self.tried, self.mesh);
            return match chosen {
                Some((member, link)) => {
                    self.tried.add(member);
                    Ok(Some(link))
                }
                None => Err(Error::new(
                    ErrorKind::Unavailable { need: 0, have: 0 },
                    "the layout has no member that this client can address",
                )),
            };
        }
        // No layout yet, or a message any node can answer.
        let up = self.mesh.any_link_up(self.attempts as usize);
        match up {
            Some(link) => Ok(Some(link)),
            None if self.mesh.is_closed() => Err(Error::new(ErrorKind::Closed, "this program closed the mesh")),
            None => Ok(None),
        }
    }

    /// What a node's answer means.
    fn judge(&mut self, answer: Answer, link: &Connection) -> Result<Answer, Verdict> {
        self.mesh.heard_of(answer.worth.epoch);
        let maybe = answer.maybe_applied && self.payload.is_write();
        let safe = !maybe || self.payload.is_idempotent();
        let (kind, retry, words) = match answer.status {
            Status::Ok | Status::NotFound | Status::Conflict => return Ok(answer),
            Status::Unknown => {
                (ErrorKind::Unknown, self.payload.is_idempotent(), "too few replicas acknowledged in time")
            }
            Status::Overloaded { .. } => (ErrorKind::Overloaded, safe, "the node has too much in flight"),
            Status::Unavailable { need, have } => {
                (ErrorKind::Unavailable { need, have }, safe, "too few replicas can be reached")
            }
            Status::StaleEpoch => {
                (ErrorKind::Unavailable { need: 0, have: 0 }, safe, "the node's layout is older than its peers'")
            }
            Status::ClockSkew => (ErrorKind::ClockSkew, safe, "the node's clock disagrees with its peers'"),
            Status::TooLarge => (ErrorKind::TooLarge, false, "the key or value is too long for the namespace"),
            Status::OutOfMemory => (ErrorKind::OutOfMemory, false, "memory is full and nothing may be evicted"),
            Status::NotOwner => {
                (ErrorKind::Unavailable { need: 0, have: 0 }, safe, "the node does not hold this key's partition")
            }
            Status::Denied => (ErrorKind::Denied, false, "this certificate's role may not do that"),
            Status::WrongKind => (ErrorKind::WrongKind, false, "the namespace holds another kind of value"),
            Status::Unsupported => (ErrorKind::Unsupported, false, "the node does not know this request"),
            Status::NoSuchNamespace => (ErrorKind::NoSuchNamespace, false, "there is no such namespace"),
            Status::Invalid => (ErrorKind::Invalid, false, "the node found the request invalid"),
            Status::Timeout => (ErrorKind::Timeout, safe, "the request reached the node after its deadline"),
            Status::NotReady => {
                (ErrorKind::Unavailable { need: 0, have: 0 }, safe, "the node is not ready to serve, or is stopping")
            }
        };
        if matches!(answer.status, Status::StaleEpoch | Status::NotOwner | Status::NotReady) {
            self.mesh.dialer.news.stale();
        }
        self.maybe_applied |= maybe || (kind == ErrorKind::Unknown && self.payload.is_write());
        let text = match &answer.body {
            Body::Text(text) => text.to_string(),
            Body::Empty | Body::Value { .. } | Body::Written { .. } | Body::Control(_) => self.words(&kind, words),
        };
        let mut error = Error::new(kind, text).at(link.address);
        let mut pause = Duration::ZERO;
        if let Status::Overloaded { retry_after_ms } = answer.status {
            pause = Duration::from_millis(u64::from(retry_after_ms));
            error = error.later(pause);
        }
        Err((error, retry, pause))
    }

    fn words(&self, kind: &ErrorKind, words: &str) -> String {
        match kind {
            ErrorKind::Unavailable { need, have } if *need > 0 => {
                format!("{words}: {need} needed, {have} there")
            }
            _ => words.to_owned(),
        }
    }

    /// What the end of an attempt without an answer means.
    fn failed(&mut self, failure: Failure, link: &Connection) -> Verdict {
        let (sent, mut error) = match failure {
            Failure::LinkUp => unreachable!("handled by the caller"),
            Failure::Late { sent: true } => (true, Error::new(ErrorKind::Timeout, "the node did not answer in time")),
            Failure::Late { sent: false } => {
                let why = link.trouble().map_or_else(String::new, |why| format!(": {}", why.message()));
                let kind = if why.is_empty() { ErrorKind::Timeout } else { ErrorKind::Connect };
                (false, Error::new(kind, format!("no link to the node could be made in time{why}")))
            }
            Failure::Lost { sent, why } => (sent, (*why).clone()),
            Failure::Unsupported => {
                let text = "the node does not know this request";
                return (Error::new(ErrorKind::Unsupported, text).at(link.address), false, Duration::ZERO);
            }
        };
        let maybe = sent && self.payload.is_write();
        self.maybe_applied |= maybe;
        error = error.at(link.address);
        let closed = *error.kind() == ErrorKind::Closed;
        (error, !closed && (!maybe || self.payload.is_idempotent()), Duration::ZERO)
    }

    /// Whether another attempt is allowed; pays for it.
    fn may_retry(&self) -> bool {
        self.retries < self.profile.retries
            && self.mesh.dialer.clock.now() < self.end
            && self.mesh.budget.take(self.mesh.calls.load(Ordering::Relaxed))
            && {
                self.mesh.retries.fetch_add(1, Ordering::Relaxed);
                true
            }
    }

    /// Ends the call with an error.
    fn over(&mut self, error: Error) -> Error {
        self.stage = Stage::Over;
        self.mesh.leave();
        let error = if self.maybe_applied && matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connect) {
            let unknown = Error::new(ErrorKind::Unknown, error.message());
            match error.node() {
                Some(node) => unknown.at(node),
                None => unknown,
            }
        } else {
            error
        };
        error.applied_maybe(self.maybe_applied).after_attempts(self.attempts)
    }
}
