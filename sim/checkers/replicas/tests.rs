//! What replicas must keep: bad sequences of messages that are refused, good ones that are accepted.

use super::*;
use meshwork_core::{
    ring::LayoutName,
    wire::peer::{Header, KeyRef, ReplicaState, ReplicationKind},
};

const SITE: Site = Site { process: 0, shard: 0 };
const FROM: PeerShard = PeerShard { node: NodeId(2), shard: 0 };

fn replicas() -> Replicas {
    let mut replicas = Replicas::new(Ledger { clocks: true, memories: true, identities: true }, 50, BTreeSet::new());
    replicas.on_start(NodeId(1), ActorId(1), Hlc(0), false);
    replicas
}

fn at(ms: u64) -> Hlc {
    Hlc::at(Wall(EPOCH_MS + ms))
}

fn version(ms: u64) -> Version {
    Version { hlc: at(ms), actor: ActorId(9) }
}

const KEY: KeyRef<'_> = KeyRef { namespace: NamespaceId(1), hash: KeyHash(1), key: b"k" };

fn replicate(id: u64, ms: u64, expires: Option<u64>) -> PeerMessage<'static> {
    let header = Header { layout: LayoutName { epoch: 1, hash: 0 }, hlc: at(ms), deadline_ms: 100 };
    let expires_at = expires.map(|at| Wall(EPOCH_MS + at));
    let entry = Entry { version: version(ms), expires_at, hold_until: None, body: Body::Value(b"v") };
    PeerMessage::Replicate { id, header, key: KEY, entry, stands_for: None, kind: ReplicationKind::Client }
}

fn read(id: u64, ms: u64) -> PeerMessage<'static> {
    let header = Header { layout: LayoutName { epoch: 1, hash: 0 }, hlc: at(ms), deadline_ms: 100 };
    PeerMessage::Read { id, header, key: KEY, full: true }
}

fn took(replicas: &mut Replicas, ms: u64, now: u64, expires: Option<u64>) -> Option<(Invariant, String)> {
    took_of(replicas, &replicate(1, ms, expires), now)
}

/// What was stamped at `ms` comes in a message of now.
fn took_late(replicas: &mut Replicas, ms: u64, now: u64, expires: Option<u64>) -> Option<(Invariant, String)> {
    let mut message = replicate(1, ms, expires);
    if let PeerMessage::Replicate { header, .. } = &mut message {
        header.hlc = at(now);
    }
    took_of(replicas, &message, now)
}

fn took_of(replicas: &mut Replicas, message: &PeerMessage<'_>, now: u64) -> Option<(Invariant, String)> {
    replicas.before(Wall(EPOCH_MS + now), FROM, message);
    let done =
        PeerMessage::Replicated { id: 1, hlc: at(now), state: ReplicaState::Ready, outcome: Replicated::Applied };
    replicas.on_sent(now * MS, SITE, &done)
}

fn says(replicas: &mut Replicas, now: u64, found: Found<'_>) -> Option<(Invariant, String)> {
    replicas.before(Wall(EPOCH_MS + now), FROM, &read(2, now));
    replicas.on_sent(now * MS, SITE, &PeerMessage::ReadReply { id: 2, hlc: at(now), state: ReplicaState::Ready, found })
}

#[test]
fn a_replica_that_loses_what_it_took_is_refused_unless_it_says_so_or_it_expired() {
    let mut replicas = replicas();
    assert_eq!(took(&mut replicas, 10, 11, Some(1_000)), None);
    assert_eq!(says(&mut replicas, 20, Found::Digest { version: version(10) }), None);
    assert_eq!(says(&mut replicas, 20, Found::Absent { forgotten: version(10) }), None);
    assert!(says(&mut replicas, 20, Found::Absent { forgotten: Version::ZERO }).is_some());
    assert!(says(&mut replicas, 21, Found::Digest { version: version(9) }).is_some());
    assert_eq!(says(&mut replicas, 61_000, Found::Absent { forgotten: Version::ZERO }), None);
}

#[test]
fn what_is_over_and_comes_without_its_value_is_owed_until_its_end() {
    let mut replicas = replicas();
    let mut over = replicate(1, 10, Some(1_000));
    if let PeerMessage::Replicate { entry, .. } = &mut over {
        entry.body = Body::Tombstone;
    }
    assert_eq!(took_of(&mut replicas, &over, 2_000), None);
    assert!(says(&mut replicas, 3_000, Found::Absent { forgotten: Version::ZERO }).is_some());
    assert_eq!(says(&mut replicas, 61_500, Found::Absent { forgotten: Version::ZERO }), None);
}

#[test]
fn an_older_one_that_comes_after_the_end_of_what_was_held_is_owed_alone() {
    let mut replicas = replicas();
    assert_eq!(took(&mut replicas, 10, 11, Some(1_000)), None);
    assert_eq!(took_late(&mut replicas, 9, 62_000, None), None);
    assert_eq!(says(&mut replicas, 63_000, Found::Digest { version: version(9) }), None);
    assert!(says(&mut replicas, 63_000, Found::Absent { forgotten: version(8) }).is_some());
    assert_eq!(took_late(&mut replicas, 20, 64_000, Some(70_000)), None);
    assert_eq!(took_late(&mut replicas, 19, 65_000, None), None);
    assert!(says(&mut replicas, 66_000, Found::Digest { version: version(19) }).is_some(), "not over yet");
}

#[test]
fn of_what_its_own_write_replaced_where_memory_is_taken_no_more_than_that_writes_end_is_owed() {
    let own = |ms, expires| {
        let mut write = replicate(1, ms, Some(expires));
        if let PeerMessage::Replicate { entry, .. } = &mut write {
            entry.version.actor = ActorId(7);
        }
        write
    };
    for evictable in [true, false] {
        let mut replicas = replicas();
        replicas.nodes[0].1 = ActorId(7);
        if evictable {
            replicas.evictable.insert(NamespaceId(1));
        }
        assert_eq!(took(&mut replicas, 10, 11, None), None);
        assert_eq!(replicas.on_sent(20 * MS, SITE, &own(15, 5_000)), None);
        assert!(says(&mut replicas, 3_000, Found::Absent { forgotten: Version::ZERO }).is_some(), "not over yet");
        let after = says(&mut replicas, 6_000, Found::Absent { forgotten: Version::ZERO });
        assert_eq!(after.is_none(), evictable, "{after:?}");
    }
}

#[test]
fn what_was_forgotten_is_not_taken_again() {
    let mut replicas = replicas();
    assert_eq!(says(&mut replicas, 20, Found::Absent { forgotten: version(15) }), None);
    assert_eq!(took(&mut replicas, 16, 21, None), None);
    assert_eq!(says(&mut replicas, 22, Found::Absent { forgotten: version(30) }), None);
    assert!(took(&mut replicas, 25, 23, None).is_some());
    assert_eq!(says(&mut replicas, 60, Found::Absent { forgotten: version(40) }), None);
    assert!(took(&mut replicas, 39, 61, Some(60)).is_some());
    assert_eq!(took(&mut replicas, 40, 62, Some(60)), None, "it is over, as was said");
    replicas.evictable.insert(NamespaceId(1));
    replicas.on_expired(SITE);
    assert_eq!(replicas.on_sent(70 * MS, SITE, &replicate(3, 65, Some(5_000))), None);
    assert_eq!(says(&mut replicas, 71, Found::Absent { forgotten: version(65) }), None);
    assert!(took(&mut replicas, 60, 72, None).is_some());
    assert_eq!(took_late(&mut replicas, 61, 6_000, None), None, "what it forgot is over");
}

/// A delete of `ms`, without an end.
fn delete(ms: u64) -> PeerMessage<'static> {
    let mut delete = replicate(1, ms, None);
    if let PeerMessage::Replicate { entry, .. } = &mut delete {
        entry.body = Body::Tombstone;
    }
    delete
}

#[test]
fn what_a_delete_buried_is_not_taken_again() {
    let mut replicas = replicas();
    assert_eq!(took(&mut replicas, 10, 11, None), None);
    assert_eq!(took_of(&mut replicas, &delete(20), 21), None);
    assert_eq!(took(&mut replicas, 30, 31, None), None, "it is newer");
    assert!(matches!(took_late(&mut replicas, 10, 120_000, None), Some((Invariant::S14, _))));
}

#[test]
fn a_tombstone_is_owed_until_it_is_old_and_its_shard_collects() {
    let absent = Found::Absent { forgotten: Version::ZERO };
    let aged = 20 + limits::TOMBSTONE_AGE_MIN.as_millis() as u64;
    for collects in [false, true] {
        let mut replicas = replicas();
        assert_eq!(took_of(&mut replicas, &delete(20), 21), None);
        if collects {
            replicas.on_collected(SITE);
        }
        assert!(says(&mut replicas, aged / 2, absent).is_some(), "too soon");
        assert_eq!(says(&mut replicas, aged, absent).is_none(), collects);
    }
}

#[test]
fn a_minutes_old_message_that_is_taken_is_refused() {
    assert!(matches!(took(&mut replicas(), 10, 31_000, None), Some((Invariant::S14, _))));
}

#[test]
fn a_clock_that_falls_or_runs_ahead_is_refused() {
    let mut replicas = replicas();
    assert_eq!(replicas.on_sent(20 * MS, SITE, &read(1, 20)), None);
    assert!(matches!(replicas.on_sent(21 * MS, SITE, &read(1, 19)), Some((Invariant::S13, _))));
    assert!(matches!(replicas.on_sent(22 * MS, SITE, &read(1, 2_000)), Some((Invariant::S13, _))));
}

#[test]
fn what_ended_may_be_met_before_its_value_and_settles_none() {
    let mut replicas = replicas();
    let mut meet = |body| replicas.dot((NamespaceId(1), KeyHash(1)), version(10), body, Some(Wall(5)));
    assert_eq!(meet(Body::Tombstone), None, "at a node whose clock is ahead");
    assert_eq!(meet(Body::Value(b"v")), None);
    assert_eq!(meet(Body::Tombstone), None);
    assert!(matches!(meet(Body::Value(b"w")), Some((Invariant::S9, _))));
    let mut deleted = |body| replicas.dot((NamespaceId(1), KeyHash(2)), version(11), body, None);
    assert_eq!(deleted(Body::Tombstone), None);
    assert!(matches!(deleted(Body::Value(b"v")), Some((Invariant::S9, _))), "a delete is no ended value");
}

#[test]
fn a_version_with_two_values_or_two_expiries_is_refused() {
    let mut replicas = replicas();
    let value = |value, expires| ReplyBody::Value { version: version(10), expires_at: Some(Wall(expires)), value };
    let reply = |body| Reply { body, ..Reply::status(0, meshwork_core::wire::Status::Ok) };
    assert_eq!(replicas.on_reply((NamespaceId(1), KeyHash(1)), &reply(value(b"v", 5))), None);
    assert_eq!(replicas.on_reply((NamespaceId(1), KeyHash(1)), &reply(value(b"v", 5))), None);
    assert!(matches!(
        replicas.on_reply((NamespaceId(1), KeyHash(1)), &reply(value(b"w", 5))),
        Some((Invariant::S9, _))
    ));
    assert!(matches!(
        replicas.on_reply((NamespaceId(1), KeyHash(1)), &reply(value(b"v", 6))),
        Some((Invariant::S18, _))
    ));
}
