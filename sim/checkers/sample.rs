//! Hand-written histories for the checkers' own tests: small words for the events in them.

use crate::{
    clock::EPOCH_MS,
    history::{Complete, Event, HISTORY_VERSION, Header, History, Invoke, SpaceRules},
};
use meshwork_core::{
    anti_entropy::Held,
    id::{ActorId, KeyHash, NamespaceId},
    namespace::Ack,
    time::Wall,
    value::{Hlc, Version},
};

/// A history of three copies, nothing evicted, with all promises standing.
pub fn history(events: Vec<Event>) -> History {
    let spaces = vec![SpaceRules { name: "a".to_owned(), n: 3, eviction: false, ttl_default_ms: None, ack: Ack::Mem }];
    History {
        header: Header {
            v: HISTORY_VERSION,
            source: "test".to_owned(),
            seed: "0".to_owned(),
            commit: String::new(),
            spaces,
            clocks: true,
            memories: true,
            identities: true,
            skew_max_ms: 50,
            epoch_ms: EPOCH_MS,
        },
        events,
    }
}

/// The version stamped at this many ms.
pub fn version(at: u64) -> Version {
    Version { hlc: Hlc::at(Wall(EPOCH_MS + at)), actor: ActorId(1) }
}

/// A value that lasts, held in this version; versions compare as their numbers.
pub fn held(version: u64) -> Held {
    Held {
        namespace: NamespaceId(1),
        hash: KeyHash(2),
        version: Version { hlc: Hlc(version), actor: ActorId(1) },
        ghost: false,
        tombstone: false,
        deleted_since: None,
        gone_at: Wall(u64::MAX),
        passing: false,
        evictable: false,
        floor: Version::ZERO,
    }
}

/// A strict request with R = W = 2, at `t` ms.
pub fn invoke(op: u64, t: u64, f: &str, key: &str) -> Event {
    let arg = (f == "put").then_some(op);
    Event::Invoke(Invoke {
        t: t * 1_000,
        op,
        f: f.to_owned(),
        ns: "a".to_owned(),
        key: key.to_owned(),
        arg,
        r: 2,
        w: 2,
        strict: true,
        deadline_ms: 1_000,
        ..Invoke::default()
    })
}

/// A put.
pub fn write(op: u64, t: u64, key: &str) -> Event {
    invoke(op, t, "put", key)
}

/// A get.
pub fn read(op: u64, t: u64, key: &str) -> Event {
    invoke(op, t, "get", key)
}

/// It was done, with the version stamped at `at`, and two acks.
pub fn ok(op: u64, t: u64, at: u64) -> Event {
    Event::Ok(Complete {
        t: t * 1_000,
        op,
        status: "ok".to_owned(),
        version: Some(version(at)),
        acks: 2,
        ..Complete::default()
    })
}

/// A read found what `writer` wrote at `at`.
pub fn found(op: u64, t: u64, writer: u64, at: u64) -> Event {
    let Event::Ok(complete) = ok(op, t, at) else { unreachable!("ok makes Ok") };
    Event::Ok(Complete { value: Some(writer), ..complete })
}

/// A read found nothing.
pub fn absent(op: u64, t: u64) -> Event {
    Event::Ok(Complete { t: t * 1_000, op, status: "not found".to_owned(), acks: 2, ..Complete::default() })
}

/// It was refused.
pub fn fail(op: u64, t: u64) -> Event {
    Event::Fail(Complete { t: t * 1_000, op, status: "unavailable".to_owned(), ..Complete::default() })
}

/// The namespace was flushed at `t`, up to what is stamped at `mark`.
pub fn flush(t: u64, mark: u64) -> Event {
    Event::Flush { t: t * 1_000, ns: "a".to_owned(), mark: version(mark).hlc }
}

/// Nobody knows.
pub fn maybe(op: u64, t: u64) -> Event {
    Event::Maybe(Complete { t: t * 1_000, op, status: "unknown".to_owned(), ..Complete::default() })
}
