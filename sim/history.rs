//! Histories: what clients asked and were told, one JSON object a line (SIMULATION §5).
//!
//! The same from the simulator (virtual time) and from real processes (the test's monotonic clock), so that one set of
//! checkers judges both. The first line is the header: the namespaces' rules, and what may be assumed (the ledger). Every
//! written value is unique and named by its operation: `arg` of a write, `value` of a read. A completion is `ok`, `fail`
//! (certainly not applied) or `maybe` (applied at any later time, or never).

use crate::nemesis::Ledger;
use meshwork_core::{
    id::ActorId,
    namespace::Ack,
    value::{Hlc, Version},
    wire::client::{Reply, ReplyBody, Status},
};
use serde::{Deserialize, Serialize};

/// Of the lines below.
pub const HISTORY_VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// `HISTORY_VERSION`.
    pub v: u32,
    /// `sim`, or the name of the test.
    pub source: String,
    /// Of the run, hexadecimal.
    pub seed: String,
    /// Of the code.
    pub commit: String,
    /// Rules of the namespaces in it.
    pub spaces: Vec<SpaceRules>,
    /// Walls were within the bound.
    pub clocks: bool,
    /// Nobody lost memory.
    pub memories: bool,
    /// One process an identity at a time.
    pub identities: bool,
    /// Largest distance of a wall from true time, ms.
    pub skew_max_ms: u64,
    /// True wall time at `t` = 0, ms since 1970.
    pub epoch_ms: u64,
}

/// What a checker needs of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceRules {
    /// Its name.
    pub name: String,
    /// Copies, at most; fewer in a smaller layout.
    pub n: u8,
    /// Whether entries may be evicted.
    pub eviction: bool,
    /// Expiry of writes that name none, ms.
    pub ttl_default_ms: Option<u64>,
    /// What a vote for a write means.
    #[serde(default)]
    pub ack: Ack,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    /// A client asks.
    Invoke(Invoke),
    /// It was told that it was done.
    Ok(Complete),
    /// It was told that it was not, and certainly will not be.
    Fail(Complete),
    /// Nobody knows.
    Maybe(Complete),
    /// Something broke, or mended.
    Fault {
        /// Microseconds.
        t: u64,
        /// What.
        what: String,
    },
    /// A first layout was made where there had been one: everybody who met for it had lost the old one. What was
    /// acknowledged before may be gone, in strict mode too (PROTOCOL §2, "strict promises do not span that").
    Founded {
        /// Microseconds.
        t: u64,
    },
    /// A namespace was flushed, or deleted: what has a version at or below the mark may be gone from when that was asked for. What
    /// has a higher one is not touched. Who recorded it was told the mark, or takes one that cannot be lower.
    Flush {
        /// When it was asked for, microseconds.
        t: u64,
        /// The namespace.
        ns: String,
        /// Its mark.
        #[serde(with = "mark_words")]
        mark: Hlc,
    },
    /// A namespace that was deleted was made again: what was asked of it before belongs to an earlier life.
    Created {
        /// When it was asked for, microseconds.
        t: u64,
        /// The namespace.
        ns: String,
    },
    /// A phase begins.
    Phase {
        /// Microseconds.
        t: u64,
        /// Which.
        name: String,
    },
}

impl Event {
    /// When, microseconds.
    pub fn t(&self) -> u64 {
        match self {
            Self::Invoke(invoke) => invoke.t,
            Self::Ok(complete) | Self::Fail(complete) | Self::Maybe(complete) => complete.t,
            Self::Fault { t, .. } | Self::Founded { t } | Self::Phase { t, .. } => *t,
            Self::Flush { t, .. } | Self::Created { t, .. } => *t,
        }
    }
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// Microseconds.
    pub t: u64,
    /// Unique.
    pub op: u64,
    /// Of the client.
    pub session: u32,
    /// The node asked.
    pub node: u32,
    /// `get put add swap delete touch`.
    pub f: String,
    /// The namespace.
    pub ns: String,
    /// The key.
    pub key: String,
    /// Of a write with a value: the operation that its value names, which is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg: Option<u64>,
    /// Expiry asked for, ms; `None`: the namespace's default; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Read votes asked for.
    pub r: u8,
    /// Write votes asked for.
    pub w: u8,
    /// Whether only Ready owners vote.
    pub strict: bool,
    /// How long the client waits, ms.
    pub deadline_ms: u32,
    /// Whoever records knows that enough is alive for it: a write must be served (L8).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must: bool,
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// Microseconds.
    pub t: u64,
    /// Which.
    pub op: u64,
    /// The status, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Of a read that found a value: whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// A value came that names no operation whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
    /// The version read or written.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "version_words")]
    pub version: Option<Version>,
    /// When the value read expires, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// As the reply says.
    pub acks: u8,
    /// As the reply says.
    pub fallbacks: u8,
    /// The layout it was decided under.
    pub epoch: u64,
    /// Those set: `sloppy degraded warming stale superseded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

impl Complete {
    /// Whether the reply carries this flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|set| set == flag)
    }

    /// What a reply says; whoever records adds the time, the operation, and whose value it was.
    pub fn of(reply: &Reply<'_>) -> Self {
        let worth = reply.worth;
        let flags = [
            (worth.sloppy, "sloppy"),
            (worth.degraded, "degraded"),
            (worth.warming, "warming"),
            (worth.stale, "stale"),
            (worth.superseded, "superseded"),
        ];
        let (version, expires_at) = match reply.body {
            ReplyBody::Value { version, expires_at, .. } => (Some(version), expires_at.map(|at| at.0)),
            ReplyBody::Written { version } => (Some(version), None),
            ReplyBody::Empty | ReplyBody::Text(_) => (None, None),
        };
        Self {
            status: words(reply.status).to_owned(),
            version,
            expires_at,
            acks: worth.acks,
            fallbacks: worth.fallbacks,
            epoch: worth.epoch,
            flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()).collect(),
            ..Self::default()
        }
    }
}

/// A reply's status in words, as histories have them.
fn words(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::NotFound => "not found",
        Status::Conflict => "conflict",
        Status::Unknown => "unknown",
        Status::Overloaded { .. } => "overloaded",
        Status::Unavailable { .. } => "unavailable",
        Status::StaleEpoch => "stale epoch",
        Status::ClockSkew => "clock skew",
        Status::TooLarge => "too large",
        Status::OutOfMemory => "out of memory",
        Status::NotOwner => "not owner",
        Status::Denied => "denied",
        Status::WrongKind => "wrong kind",
        Status::Unsupported => "unsupported",
        Status::NoSuchNamespace => "no such namespace",
        Status::Invalid => "invalid",
        Status::Timeout => "timeout",
        Status::NotReady => "not ready",
    }
}

/// Which of the three ways of ending a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Certainly not.
    Fail,
    /// Nobody knows.
    Maybe,
}

impl Outcome {
    /// Of a request that was answered; `writes`: it was meant to change something.
    pub fn of(reply: &Reply<'_>, writes: bool) -> Self {
        match reply.status {
            Status::Ok => Self::Ok,
            Status::NotFound if !writes => Self::Ok,
            Status::Unknown if writes => Self::Maybe,
            Status::NotFound
            | Status::Conflict
            | Status::Unknown
            | Status::Overloaded { .. }
            | Status::Unavailable { .. }
            | Status::StaleEpoch
            | Status::ClockSkew
            | Status::TooLarge
            | Status::OutOfMemory
            | Status::NotOwner
            | Status::Denied
            | Status::WrongKind
            | Status::Unsupported
            | Status::NoSuchNamespace
            | Status::Invalid
            | Status::Timeout
            | Status::NotReady => Self::unanswered(writes && reply.maybe_applied),
        }
    }

    /// Of a request whose answer never came, or does not say: it may have changed something, if it `might` at all.
    pub fn unanswered(might: bool) -> Self {
        if might { Self::Maybe } else { Self::Fail }
    }

    /// As histories have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Maybe => "maybe",
        }
    }

    /// The event that says so.
    pub fn event(self, complete: Complete) -> Event {
        match self {
            Self::Ok => Event::Ok(complete),
            Self::Fail => Event::Fail(complete),
            Self::Maybe => Event::Maybe(complete),
        }
    }
}

/// `hlc.actor`, hexadecimal, as versions are shown to people.
mod version_words {
    use super::{ActorId, Hlc, Version};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(version: &Option<Version>, serializer: S) -> Result<S::Ok, S::Error> {
        match version {
            Some(version) => serializer.collect_str(version),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Version>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let number = |text: &str| {
            u64::from_str_radix(text, 16).map_err(|_| D::Error::custom("a version is HLC.ACTOR, hexadecimal"))
        };
        let (hlc, actor) = text.split_once('.').ok_or_else(|| D::Error::custom("a version is HLC.ACTOR"))?;
        Ok(Some(Version { hlc: Hlc(number(hlc)?), actor: ActorId(number(actor)?) }))
    }
}

/// Hexadecimal, as the readings in versions are.
mod mark_words {
    use super::Hlc;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(mark: &Hlc, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:x}", mark.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hlc, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Hlc).map_err(|_| D::Error::custom("a mark is hexadecimal"))
    }
}

/// All of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// The others, by time.
    pub events: Vec<Event>,
}

/// One request with its end.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    /// What was asked.
    pub invoke: &'a Invoke,
    /// How it ended; `None`: it did not.
    pub end: Option<End<'a>>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// Done.
    Ok(&'a Complete),
    /// Certainly not.
    Fail(&'a Complete),
    /// Nobody knows.
    Maybe(&'a Complete),
}

impl<'a> Op<'a> {
    /// The reply of a request that was done.
    pub fn ok(&self) -> Option<&'a Complete> {
        match self.end {
            Some(End::Ok(complete)) => Some(complete),
            Some(End::Fail(_) | End::Maybe(_)) | None => None,
        }
    }

    /// Whether it certainly changed nothing.
    pub fn refused(&self) -> bool {
        matches!(self.end, Some(End::Fail(_)))
    }

    /// Whether it was meant to change something.
    pub fn writes(&self) -> bool {
        self.invoke.f != "get"
    }
}

impl History {
    /// What may be assumed.
    pub fn ledger(&self) -> Ledger {
        Ledger { clocks: self.header.clocks, memories: self.header.memories, identities: self.header.identities }
    }

    /// The rules of the namespace called `name`.
    pub fn space(&self, name: &str) -> Option<&SpaceRules> {
        self.header.spaces.iter().find(|space| space.name == name)
    }

    /// All requests, in the order they were asked.
    pub fn ops(&self) -> Vec<Op<'_>> {
        let mut ops: Vec<Op<'_>> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        for event in &self.events {
            let (end, complete) = match event {
                Event::Invoke(invoke) => {
                    places.insert(invoke.op, ops.len());
                    ops.push(Op { invoke, end: None });
                    continue;
                }
                Event::Ok(complete) => (End::Ok(complete), complete),
                Event::Fail(complete) => (End::Fail(complete), complete),
                Event::Maybe(complete) => (End::Maybe(complete), complete),
                Event::Fault { .. } | Event::Founded { .. } | Event::Phase { .. } => continue,
                Event::Flush { .. } | Event::Created { .. } => continue,
            };
            if let Some(at) = places.get(&complete.op) {
                ops[*at].end = Some(end);
            }
        }
        ops
    }

    /// When the mesh was founded anew, microseconds, rising: no promise spans such a time.
    pub fn foundings(&self) -> Vec<u64> {
        let founded = |event: &Event| if let Event::Founded { t } = event { Some(*t) } else { None };
        self.events.iter().filter_map(founded).collect()
    }

    /// One line each.
    pub fn to_jsonl(&self) -> String {
        let line =
            |json: Result<String, serde_json::Error>| json.expect("histories hold nothing that JSON lacks") + "\n";
        let events = self.events.iter().map(|event| line(serde_json::to_string(event)));
        std::iter::once(line(serde_json::to_string(&self.header))).chain(events).collect()
    }

    /// Reads lines.
    ///
    /// # Errors
    /// Words for a person, with the line: no header, another version, no such event.
    pub fn from_jsonl(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, first) = lines.next().ok_or("the history is empty: not even a header")?;
        let header: Header =
            serde_json::from_str(first).map_err(|error| format!("line 1 is no header of a history: {error}"))?;
        if header.v != HISTORY_VERSION {
            return Err(format!("the history has version {}, this checker reads {HISTORY_VERSION}", header.v));
        }
        let events =
            lines.map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1)));
        Ok(Self { header, events: events.collect::<Result<_, String>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample::{flush, history, ok, read, write};

    #[test]
    fn a_history_survives_its_lines() {
        let mut sample = history(vec![write(1, 0, "k"), ok(1, 5, 7), read(2, 6, "k"), ok(2, 9, 7)]);
        sample.events.push(Event::Fault { t: 9, what: "cut 0 1".to_owned() });
        sample.events.extend([flush(10, 8), Event::Created { t: 11, ns: "a".to_owned() }]);
        assert_eq!(History::from_jsonl(&sample.to_jsonl()), Ok(sample));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        assert!(History::from_jsonl("").unwrap_err().contains("empty"));
        assert!(History::from_jsonl("{}").unwrap_err().contains("line 1"));
        let text = history(vec![]).to_jsonl() + "{\"type\":\"what\"}\n";
        assert!(History::from_jsonl(&text).unwrap_err().contains("line 2"));
    }
}
