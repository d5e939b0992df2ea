//! Many calls at once: answers in the order of the calls, each on its own (INTERFACES §1). Not atomic.
//!
//! Every call is routed to its own owner and shares links and packets with all others, so a batch saves no messages over
//! calls made by many tasks; it saves the tasks. At most 1,024 calls of a batch, or 4 MiB of values, are in flight at once.

use crate::{
    Entry, Error, Namespace, SetOutcome,
    call::{Call, Payload},
    operations::{self, OpFuture},
    profile::Deadline,
};
use bytes::Bytes;
use meshwork_core::wire::{Condition, Consistency, Ttl};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// Calls of a batch in flight at once.
const WINDOW_CALLS: usize = 1024;
/// Bytes of values of a batch in flight at once.
const WINDOW_BYTES: usize = 4 << 20;

/// What one call of a batch answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchAnswer {
    /// Of a get.
    Entry(Option<Entry>),
    /// Of a set or delete.
    Written(SetOutcome),
    /// Of a touch.
    Touched(bool),
}

enum Operation {
    Get,
    Set { value: Bytes, ttl: Ttl },
    Delete,
    Touch { ttl: Ttl },
}

/// Calls to be sent together. See [`Namespace::batch`].
#[must_use = "a batch does nothing unless sent"]
pub struct Batch<'a> {
    namespace: &'a Namespace,
    operations: Vec<(Bytes, Operation)>,
    consistency: Consistency,
    deadline: Option<Deadline>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(namespace: &'a Namespace) -> Self {
        Self { namespace, operations: Vec::new(), consistency: Consistency::default(), deadline: None }
    }

    fn add(mut self, key: impl AsRef<[u8]>, operation: Operation) -> Self {
        self.operations.push((Bytes::copy_from_slice(key.as_ref()), operation));
        self
    }

    /// Reads a value.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.add(key, Operation::Get)
    }

    /// Writes a value that expires as the namespace says.
    pub fn set(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.add(key, Operation::Set { value: value.into(), ttl: Ttl::Default })
    }

    /// Writes a value that expires after `ttl`.
    pub fn set_ttl(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, ttl: Duration) -> Self {
        self.add(key, Operation::Set { value: value.into(), ttl: operations::millis(ttl) })
    }

    /// Deletes a value.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.add(key, Operation::Delete)
    }

    /// Gives a value a new expiry.
    pub fn touch(self, key: impl AsRef<[u8]>, ttl: Duration) -> Self {
        self.add(key, Operation::Touch { ttl: operations::millis(ttl) })
    }

    /// How many replicas must answer each call.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// How long each call may last from when it is sent.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = Some(deadline.into());
        self
    }

    /// Sends all; the answers in the calls' order.
    pub async fn send(self) -> Vec<Result<BatchAnswer, Error>> {
        let calls = self.operations.into_iter().map(|(key, operation)| {
            let (payload, finish): (Payload<Bytes>, operations::Finish<BatchAnswer>) = match operation {
                Operation::Get => {
                    (Payload::Get, |answer, link| operations::entry(answer, link).map(BatchAnswer::Entry))
                }
                Operation::Set { value, ttl } => {
                    (Payload::Put { value, ttl, condition: Condition::Always }, |answer, link| {
                        operations::written(answer, link).map(BatchAnswer::Written)
                    })
                }
                Operation::Delete => (Payload::Delete { condition: Condition::Always }, |answer, link| {
                    operations::written(answer, link).map(BatchAnswer::Written)
                }),
                Operation::Touch { ttl } => {
                    (Payload::Touch { ttl }, |answer, link| operations::touched(answer, link).map(BatchAnswer::Touched))
                }
            };
            let mut call = Call::new(&self.namespace.inner, self.namespace.id, key, payload);
            (call.consistency, call.deadline) = (self.consistency, self.deadline);
            OpFuture { call, finish }
        });
        all(calls).await
    }
}

/// Awaits all calls, a window at a time, and gives their answers in order.
pub(crate) async fn all<'a, K: AsRef<[u8]>, V: AsRef<[u8]>, T>(
    calls: impl Iterator<Item = OpFuture<'a, K, V, T>>,
) -> Vec<Result<T, Error>> {
    let mut calls = calls.peekable();
    let mut answers = Vec::with_capacity(calls.size_hint().0);
    while calls.peek().is_some() {
        let (mut window, mut bytes) = (Vec::new(), 0);
        while window.len() < WINDOW_CALLS
            && bytes < WINDOW_BYTES
            && let Some(future) = calls.next()
        {
            if let Payload::Put { value, .. } = &future.call.payload {
                bytes += value.as_ref().len();
            }
            window.push(future);
        }
        Join::new(window).await.into_iter().for_each(|answer| answers.push(answer));
    }
    answers
}

/// Polls what is not done yet at each wake-up: answers arrive in batches, so wake-ups are few.
struct Join<F, T> {
    open: Vec<(usize, F)>,
    answers: Vec<Option<T>>,
}

impl<F, T> Join<F, T> {
    fn new(futures: Vec<F>) -> Self {
        let answers = futures.iter().map(|_| None).collect();
        Self { open: futures.into_iter().enumerate().collect(), answers }
    }
}

impl<F: Unpin, T> Unpin for Join<F, T> {}

impl<F: Future<Output = T> + Unpin, T> Future for Join<F, T> {
    type Output = Vec<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<T>> {
        let Self { open, answers } = &mut *self;
        open.retain_mut(|(index, future)| match Pin::new(future).poll(context) {
            Poll::Ready(answer) => {
                answers[*index] = Some(answer);
                false
            }
            Poll::Pending => true,
        });
        if !open.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(answers.drain(..).map(|answer| answer.expect("no future is open any more")).collect())
    }
}
