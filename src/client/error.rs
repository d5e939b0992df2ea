//! What a call may end with, for programs (`kind`) and for people (`Display`): INTERFACES §1.
//!
//! Every kind answers three questions: did state change (`maybe_applied`), whose fault is it (the kind's doc), does
//! repeating help (`is_retryable`). An error is cheap to clone: its parts sit behind one `Arc`, so that a success
//! costs one word. What is not an error: a missing key, an unmet condition of a write.

use std::{fmt, sync::Arc, time::Duration};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer before the deadline, and nothing was changed: a read, or a write that never left. Nobody's fault or
    /// the mesh is slow; retry later.
    Timeout,
    /// A write whose outcome is not known: it left, and no answer came, or too few replicas acknowledged it. It may
    /// be applied; read before repeating what is not idempotent.
    Unknown,
    /// Too much in flight, here or there. Nothing changed; retry after `retry_after()`.
    Overloaded,
    /// Too few replicas, or no node at all, could be reached.
    Unavailable {
        /// Votes needed; zero when no node answered at all.
        need: u8,
        /// Votes there were.
        have: u8,
    },
    /// The namespace holds another kind of value. The caller's fault; nothing changed.
    WrongKind,
    /// Key, value or expiry out of bounds. The caller's fault; nothing changed.
    TooLarge,
    /// The request makes no sense: empty key, expiry of zero. The caller's fault; nothing changed.
    Invalid,
    /// The nodes' memory is full and nothing may be evicted. Nothing changed.
    OutOfMemory,
    /// The coordinator's clock disagrees with its peers', or must not pass the mark of a flush for a moment. Nothing changed, unless
    /// `maybe_applied`; where it lasts, an operator's work.
    ClockSkew,
    /// There is no such namespace. Create it first.
    NoSuchNamespace,
    /// The certificate's role may not do that.
    Denied,
    /// No link to any node could be made. Nothing changed.
    Connect,
    /// Certificates or keys: own files unusable, or refused by the other side. Nothing changed.
    Tls,
    /// A value could not be encoded or decoded.
    Codec,
    /// A loader failed.
    Load,
    /// The node does not know this request: its version is older.
    Unsupported,
    /// The mesh was closed by this program.
    Closed,
    /// The settings given to the builder cannot work. Nothing was tried.
    Config,
}

impl ErrorKind {
    /// One lower-case word, for counting errors by kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
            Self::Unavailable { .. } => "unavailable",
            Self::WrongKind => "wrong_kind",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::OutOfMemory => "out_of_memory",
            Self::ClockSkew => "clock_skew",
            Self::NoSuchNamespace => "no_such_namespace",
            Self::Denied => "denied",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Codec => "codec",
            Self::Load => "load",
            Self::Unsupported => "unsupported",
            Self::Closed => "closed",
            Self::Config => "config",
        }
    }

    /// What a person could do next, when the error itself has nothing better to say.
    fn advice(&self) -> &'static str {
        match self {
            Self::Timeout => "retry, or allow a longer deadline",
            Self::Unknown => "read the key before repeating what is not idempotent",
            Self::Overloaded => "send less at once, or retry later",
            Self::Unavailable { .. } => "look at `meshwork status`: are enough nodes up?",
            Self::WrongKind => "use the view that fits the namespace's kind",
            Self::TooLarge => "store less under one key, or raise the namespace's value_max",
            Self::Invalid => "correct the call",
            Self::OutOfMemory => "raise memory.limit, or let the namespace evict",
            Self::ClockSkew => "retry; if it lasts, check NTP on the nodes",
            Self::NoSuchNamespace => "create it: `meshwork namespace create NAME`",
            Self::Denied => "use a certificate of another role: `meshwork cert`",
            Self::Connect => "check seeds, firewall (UDP) and `meshwork status`",
            Self::Tls => "check ca, cert and key: `meshwork cert show FILE`",
            Self::Codec => "read it with the codec it was written with",
            Self::Load => "see the loader's own error",
            Self::Unsupported => "upgrade the nodes",
            Self::Closed => "build a new Mesh",
            Self::Config => "correct the builder's settings",
        }
    }
}

/// A failed call. `Display` says what failed, whether state may have changed, and what to do next.
#[derive(Clone)]
pub struct Error(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    kind: ErrorKind,
    text: String,
    hint: Option<String>,
    maybe_applied: bool,
    node: Option<String>,
    attempts: u32,
    retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self(Arc::new(Parts {
            kind,
            text,
            hint: None,
            maybe_applied: false,
            node: None,
            attempts: 0,
            retry_after: None,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub(crate) fn applied_maybe(self, maybe: bool) -> Self {
        self.with(|parts| parts.maybe_applied |= maybe)
    }

    pub(crate) fn at(self, node: impl fmt::Display) -> Self {
        self.with(|parts| parts.node = Some(node.to_string()))
    }

    pub(crate) fn after_attempts(self, attempts: u32) -> Self {
        self.with(|parts| parts.attempts = attempts)
    }

    pub(crate) fn later(self, delay: Duration) -> Self {
        self.with(|parts| parts.retry_after = Some(delay))
    }

    pub(crate) fn hinting(self, hint: impl Into<String>) -> Self {
        self.with(|parts| parts.hint = Some(hint.into()))
    }

    /// Why, for programs.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Timeout
            | ErrorKind::Unknown
            | ErrorKind::Overloaded
            | ErrorKind::Unavailable { .. }
            | ErrorKind::ClockSkew
            | ErrorKind::Connect => true,
            ErrorKind::WrongKind
            | ErrorKind::TooLarge
            | ErrorKind::Invalid
            | ErrorKind::OutOfMemory
            | ErrorKind::NoSuchNamespace
            | ErrorKind::Denied
            | ErrorKind::Tls
            | ErrorKind::Codec
            | ErrorKind::Load
            | ErrorKind::Unsupported
            | ErrorKind::Closed
            | ErrorKind::Config => false,
        }
    }

    /// Whether the write may have been applied all the same, by any of the attempts.
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied
    }

    /// The node that answered last or was asked last: its id or address.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// How often it was tried; zero: refused before anything was sent.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// How long to wait before trying again, where somebody said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What to do next, for a person.
    pub fn hint(&self) -> &str {
        self.0.hint.as_deref().unwrap_or_else(|| self.0.kind.advice())
    }

    /// What failed, without the hint.
    pub fn message(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        if let Some(node) = &self.0.node {
            write!(f, " (node {node}")?;
            if self.0.attempts > 1 {
                write!(f, ", attempt {}", self.0.attempts)?;
            }
            f.write_str(")")?;
        }
        if self.0.maybe_applied {
            f.write_str("; the write may have been applied")?;
        }
        write!(f, "; {}", self.hint())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.text)
            .field("maybe_applied", &self.0.maybe_applied)
            .field("node", &self.0.node)
            .field("attempts", &self.0.attempts)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_failed_whether_state_may_have_changed_and_what_to_do() {
        let error = Error::new(ErrorKind::Unknown, "no answer within 550 ms")
            .applied_maybe(true)
            .at("127.0.0.1:7400")
            .after_attempts(2);
        assert_eq!(
            error.to_string(),
            "no answer within 550 ms (node 127.0.0.1:7400, attempt 2); the write may have been applied; \
             read the key before repeating what is not idempotent"
        );
        assert!(error.is_retryable() && error.maybe_applied());
    }

    #[test]
    fn a_success_carries_an_error_of_one_word() {
        assert_eq!(size_of::<Result<(), Error>>(), size_of::<usize>());
    }
}
