//! The calls on keys: builders that end in `.await` (INTERFACES §1).
//!
//! Each is a [`Call`] with a way to read its answer. Nothing happens before the first poll, nothing is allocated for the
//! call itself, and dropping it half-way gives everything back; whether a dropped write was applied is then unknown.

use crate::{
    DeleteOutcome, Entry, Error, ErrorKind, SetOutcome,
    call::{Call, Payload},
    connection::Connection,
    profile::{Deadline, Profile},
    slots::{Answer, Body},
};
use bytes::Bytes;
use meshwork_core::{
    value::Version,
    wire::{Condition, Consistency, Status, Ttl, inspect::Inspection},
};
use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// No value: of calls that carry none.
pub(crate) type NoValue = [u8; 0];

/// Reads a call's answer.
pub(crate) type Finish<T> = fn(Answer, Arc<Connection>) -> Result<T, Error>;

/// A call under way. Made by awaiting a builder, or by its `into_future`.
#[must_use = "futures do nothing unless awaited"]
pub struct OpFuture<'a, K, V, T> {
    pub(crate) call: Call<'a, K, V>,
    pub(crate) finish: Finish<T>,
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>, T> Future for OpFuture<'_, K, V, T> {
    type Output = Result<T, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (answer, link) = ready!(Pin::new(&mut self.call).poll(context))?;
        Poll::Ready((self.finish)(answer, link))
    }
}

macro_rules! operation {
    ($(#[$doc:meta])* $name:ident<$value:ident> -> $output:ty, $finish:path) => {
        $(#[$doc])*
        #[must_use = "calls do nothing unless awaited"]
        pub struct $name<'a, K, V = NoValue> {
            pub(crate) call: Call<'a, K, V>,
        }

        impl<'a, K, V> $name<'a, K, V> {
            /// How many replicas must answer, instead of what the namespace says.
            pub fn consistency(mut self, consistency: Consistency) -> Self {
                self.call.consistency = consistency;
                self
            }

            /// How long the call may last, instead of what the profile says.
            pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
                self.call.deadline = Some(deadline.into());
                self
            }

            /// Another patience than the mesh's.
            pub fn profile(mut self, profile: &'a Profile) -> Self {
                self.call.profile = profile;
                self
            }
        }

        impl<'a, K: AsRef<[u8]>, V: AsRef<[u8]>> IntoFuture for $name<'a, K, V> {
            type Output = Result<$output, Error>;
            type IntoFuture = OpFuture<'a, K, V, $output>;

            fn into_future(self) -> Self::IntoFuture {
                OpFuture { call: self.call, finish: $finish }
            }
        }
    };
}

operation! {
    /// Reads a value; `None`: there is none. See [`Namespace::get`](crate::Namespace::get).
    Get<NoValue> -> Option<Bytes>, value
}
operation! {
    /// Reads a value with what is known about it. See [`Namespace::get_entry`](crate::Namespace::get_entry).
    GetEntry<NoValue> -> Option<Entry>, entry
}
operation! {
    /// Writes a value. See [`Namespace::set`](crate::Namespace::set).
    Set<V> -> SetOutcome, written
}
operation! {
    /// Deletes a value. See [`Namespace::delete`](crate::Namespace::delete).
    Delete<NoValue> -> DeleteOutcome, written
}
operation! {
    /// Gives a value a new expiry; whether there was one. See [`Namespace::touch`](crate::Namespace::touch).
    Touch<NoValue> -> bool, touched
}

impl<K, V> Set<'_, K, V> {
    fn with(mut self, new_ttl: Option<Ttl>, new_condition: Option<Condition>) -> Self {
        if let Payload::Put { ttl, condition, .. } = &mut self.call.payload {
            *ttl = new_ttl.unwrap_or(*ttl);
            *condition = new_condition.unwrap_or(*condition);
        }
        self
    }

    /// Expires after this long; at least 1 ms, at latest in the year 2500.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(Some(millis(ttl)), None)
    }

    /// Never expires, whatever the namespace's default is.
    pub fn no_expiry(self) -> Self {
        self.with(Some(Ttl::Never), None)
    }

    /// Expires when the value it replaces would have.
    pub fn keep_ttl(self) -> Self {
        self.with(Some(Ttl::Keep), None)
    }

    /// Only if there is no value. Best effort, not a lock: two writers may both see none.
    pub fn if_absent(self) -> Self {
        self.with(None, Some(Condition::IfAbsent))
    }

    /// Only if the value there is of this version. Best effort, not a lock.
    pub fn if_version(self, version: Version) -> Self {
        self.with(None, Some(Condition::IfVersion(version)))
    }
}

impl<K, V> Delete<'_, K, V> {
    /// Only if the value there is of this version. Best effort, not a lock.
    pub fn if_version(mut self, version: Version) -> Self {
        if let Payload::Delete { condition } = &mut self.call.payload {
            *condition = Condition::IfVersion(version);
        }
        self
    }
}

/// A duration as a wire expiry: rounded up to whole milliseconds, so that nothing above zero becomes zero.
pub(crate) fn millis(ttl: Duration) -> Ttl {
    Ttl::Millis(u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 2))
}

fn strange(link: &Connection) -> Error {
    Error::new(ErrorKind::Unsupported, "the node's answer does not fit the request").at(link.address)
}

pub(crate) fn value(answer: Answer, link: Arc<Connection>) -> Result<Option<Bytes>, Error> {
    match answer.body {
        Body::Value { value, .. } => Ok(Some(value)),
        Body::Empty | Body::Written { .. } | Body::Text(_) if answer.status == Status::NotFound => Ok(None),
        Body::Empty | Body::Written { .. } | Body::Text(_) | Body::Control(_) => Err(strange(&link)),
    }
}

pub(crate) fn entry(answer: Answer, link: Arc<Connection>) -> Result<Option<Entry>, Error> {
    match answer.body {
        Body::Value { version, expires_at, value } => {
            Ok(Some(Entry { value, version, expires_at, node: link.node(), worth: answer.worth }))
        }
        Body::Empty | Body::Written { .. } | Body::Text(_) if answer.status == Status::NotFound => Ok(None),
        Body::Empty | Body::Written { .. } | Body::Text(_) | Body::Control(_) => Err(strange(&link)),
    }
}

pub(crate) fn written(answer: Answer, link: Arc<Connection>) -> Result<SetOutcome, Error> {
    let found = match answer.body {
        Body::Written { version } | Body::Value { version, .. } => Some(version),
        Body::Empty | Body::Text(_) => None,
        Body::Control(_) => return Err(strange(&link)),
    };
    // Nothing to delete, or nothing of the version asked for: `NotFound` says that nothing changed.
    let applied = answer.status == Status::Ok;
    let (version, current) = if applied { (found, None) } else { (None, found) };
    Ok(SetOutcome { applied, version, current, worth: answer.worth })
}

pub(crate) fn inspection(answer: Answer, link: &Connection) -> Result<Inspection, Error> {
    match answer.body {
        Body::Value { value, .. } => Inspection::decode(&value).map_err(|_| strange(link)),
        Body::Empty | Body::Written { .. } | Body::Text(_) | Body::Control(_) => Err(strange(link)),
    }
}

pub(crate) fn touched(answer: Answer, _: Arc<Connection>) -> Result<bool, Error> {
    Ok(answer.status == Status::Ok)
}
