//! Laws of the codec over drawn messages: what is encoded is what is decoded; damage is an error and nothing worse; what
//! a newer version adds is skipped (PROTOCOL §9, SIMULATION S24).

use super::{
    client::{Condition, Consistency, Op, Quorum, Reply, ReplyBody, Request, Status, Ttl, Worth},
    control,
    exchange::{Exchange, FloorItem, GcItem, KeyItem, Packed, PullItem, RootItem, Verdict, pack},
    frame::{DecodeError, Decoder, Encoder, FrameType},
    hello::{Hello, HelloReply, PROTOCOL},
    peer::{Found, Header, KeyRef, PeerMessage, Refusal, ReplicaState, Replicated, ReplicationKind},
};
use crate::{
    id::{ActorId, ClusterId, KeyHash, NamespaceId, NodeId, PartitionId},
    namespace::Mode,
    ring::LayoutName,
    rng::Rng,
    time::Wall,
    value::{Body, Entry, Hlc, Version},
};
use bytes::BytesMut;

/// Draws messages; borrows their bytes from two buffers.
struct Draw<'a> {
    rng: &'a mut Rng,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Draw<'a> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.rng.below(from.len() as u64)).unwrap()]
    }

    /// Small numbers, large ones, and those at the edges of MessagePack's widths.
    fn number(&mut self) -> u64 {
        let edges = [0, 1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX];
        let (edge, any) = (self.pick(&edges), self.rng.next());
        self.pick(&[edge, any, any >> 40])
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap()
    }

    fn version(&mut self) -> Version {
        Version { hlc: Hlc(self.number()), actor: ActorId(self.number()) }
    }

    fn time(&mut self) -> Option<Wall> {
        let at = Wall(self.number());
        self.pick(&[None, Some(at)])
    }

    fn entry(&mut self) -> Entry<'a> {
        let body = Body::Value(self.value);
        let body = self.pick(&[body, Body::Tombstone, Body::Value(&[])]);
        Entry { version: self.version(), expires_at: self.time(), hold_until: self.time(), body }
    }

    fn request(&mut self) -> Request<'a> {
        let quorums = [Quorum::Default, Quorum::Majority, Quorum::All, Quorum::Exactly(1), Quorum::Exactly(253)];
        let consistency = Consistency {
            read: self.pick(&quorums),
            write: self.pick(&quorums),
            mode: self.pick(&[None, Some(Mode::Sloppy), Some(Mode::Strict)]),
        };
        let millis = Ttl::Millis(self.number() >> 1);
        let ttl = self.pick(&[Ttl::Default, Ttl::Never, Ttl::Keep, millis]);
        let version = self.version();
        let condition = self.pick(&[Condition::Always, Condition::IfAbsent, Condition::IfVersion(version)]);
        let put = Op::Put { value: self.value, ttl, condition };
        let op = self.pick(&[Op::Get, put, Op::Delete { condition }, Op::Touch { ttl }, Op::Inspect]);
        let (id, namespace) = (self.number(), NamespaceId(self.small()));
        Request { id, deadline_ms: self.small(), sent: self.number(), consistency, namespace, key: self.key, op }
    }

    fn reply(&mut self) -> Reply<'a> {
        let (need, have) = (3, 2);
        let retry_after_ms = self.small();
        let statuses = [
            Status::Ok,
            Status::NotFound,
            Status::Conflict,
            Status::Unknown,
            Status::Overloaded { retry_after_ms },
            Status::Unavailable { need, have },
            Status::StaleEpoch,
            Status::ClockSkew,
            Status::TooLarge,
            Status::OutOfMemory,
            Status::NotOwner,
            Status::Denied,
            Status::WrongKind,
            Status::Unsupported,
            Status::NoSuchNamespace,
            Status::Invalid,
            Status::Timeout,
            Status::NotReady,
        ];
        let mut flag = || self.rng.below(2) == 1;
        let worth = Worth {
            acks: 3,
            fallbacks: 1,
            epoch: 0,
            sloppy: flag(),
            degraded: flag(),
            warming: flag(),
            stale: flag(),
            superseded: flag(),
        };
        let worth = Worth { epoch: self.number(), ..worth };
        let version = self.version();
        let bodies = [
            ReplyBody::Empty,
            ReplyBody::Value { version, expires_at: self.time(), value: self.value },
            ReplyBody::Written { version },
            ReplyBody::Text("what was wrong, and what to do: ümläut"),
        ];
        let maybe_applied = self.rng.below(2) == 1;
        Reply { id: self.number(), status: self.pick(&statuses), maybe_applied, worth, body: self.pick(&bodies) }
    }

    fn exchange(&mut self, state: ReplicaState) -> Exchange<'a> {
        let (at, from, until, sum) = (self.number(), self.number(), self.number(), self.number());
        let (partition, copies) = (PartitionId(7), 3);
        let verdict = self.pick(&[Verdict::Equal, Verdict::Different, Verdict::Later]);
        let (items, leaves) = (self.value, self.key);
        let exchanges = [
            Exchange::Roots { hash_version: 1, at, sum, full: at % 2 == 0 },
            Exchange::RootsAre { verdict, roots: items },
            Exchange::Leaves { at, copies, partition, from, leaves },
            Exchange::Keys { copies, partition, state, from, until, leaves, floors: items, items },
            Exchange::Pull { partition, items },
            Exchange::Pulled { partition },
            Exchange::Later,
            Exchange::Prepare { partition, items },
            Exchange::Prepared { partition, items },
            Exchange::Commit { partition, items },
        ];
        self.pick(&exchanges)
    }

    fn peer(&mut self) -> PeerMessage<'a> {
        let (id, hlc) = (self.number(), Hlc(self.number()));
        let layout = LayoutName { epoch: self.number(), hash: self.number() };
        let header = Header { layout, hlc, deadline_ms: self.small() };
        let hash = KeyHash(self.number());
        let key = KeyRef { namespace: NamespaceId(self.small()), hash, key: self.key };
        let states = [ReplicaState::Ready, ReplicaState::Warming, ReplicaState::Settled, ReplicaState::Fallback];
        let state = self.pick(&states);
        let refusal = self.pick(&Refusal::ALL);
        let superseded = Replicated::Superseded { version: self.version(), hold_until: self.time() };
        let outcome = self.pick(&[Replicated::Applied, superseded, Replicated::Refused(refusal)]);
        let (entry, version) = (self.entry(), self.version());
        let absent = Found::Absent { forgotten: version };
        let found = self.pick(&[Found::Entry(entry), Found::Digest { version }, absent, Found::Refused(refusal)]);
        let node = NodeId(u128::from(self.number()) << 64 | u128::from(self.number()));
        let stands_for = self.pick(&[None, Some(node)]);
        let (full, kind) = (self.rng.below(2) == 1, self.pick(&ReplicationKind::ALL));
        let partition = crate::id::PartitionId(u16::try_from(self.rng.below(1 << 15)).unwrap());
        let (after, last, epoch) = (self.time().map(|it| it.0), self.time().map(|it| it.0), self.number());
        let body = self.key;
        let messages = [
            PeerMessage::Replicate { id, header, key, entry, stands_for, kind },
            PeerMessage::Replicated { id, hlc, state, outcome },
            PeerMessage::Read { id, header, key, full },
            PeerMessage::ReadReply { id, hlc, state, found },
            PeerMessage::Forward { id, hash, request: self.request() },
            PeerMessage::ForwardReply(self.reply()),
            PeerMessage::Exchange { id, header: Header { deadline_ms: 0, ..header }, exchange: self.exchange(state) },
            PeerMessage::StreamPull { id, header, partition, after, leaves: body },
            PeerMessage::StreamChunk { id, hlc, state, epoch, partition, after, last, body },
            PeerMessage::StreamRefused { id, refusal },
            PeerMessage::Unsupported { id },
        ];
        self.pick(&messages)
    }
}

/// Runs `judge` with many drawn messages' frames: each of the three kinds in turn.
fn for_frames(rounds: u64, mut judge: impl FnMut(&[u8])) {
    let mut rng = Rng::new(24);
    for round in 0..rounds {
        let length = |rng: &mut Rng| usize::try_from(rng.below(3) * rng.below(200)).unwrap();
        let (key, value) = (vec![7; length(&mut rng)], vec![9; length(&mut rng)]);
        let mut draw = Draw { rng: &mut rng, key: &key, value: &value };
        let mut frame = BytesMut::new();
        match round % 3 {
            0 => draw.request().encode(&mut frame),
            1 => draw.reply().encode(&mut frame),
            _ => draw.peer().encode(&mut frame),
        }
        judge(&frame);
    }
}

/// Decodes a frame as whatever it says it is.
fn decode(frame: &[u8]) -> Result<(), DecodeError> {
    let (frame_type, id, mut decoder) = Decoder::start(frame)?;
    match frame_type {
        FrameType::Request => Request::decode(id, &mut decoder).map(|_| ()),
        FrameType::Reply => Reply::decode(id, &mut decoder).map(|_| ()),
        FrameType::Control => {
            let mut again = decoder.clone();
            control::decode::<control::PeerControl>(id, &mut decoder).map(|_| ())?;
            control::decode::<control::ControlReply>(id, &mut again).map(|_| ())
        }
        FrameType::Replicate
        | FrameType::Replicated
        | FrameType::Read
        | FrameType::ReadReply
        | FrameType::Forward
        | FrameType::ForwardReply
        | FrameType::Exchange
        | FrameType::StreamPull
        | FrameType::StreamChunk
        | FrameType::Unsupported => PeerMessage::decode(frame_type, id, &mut decoder).map(|_| ()),
    }
}

#[test]
fn what_is_encoded_is_what_is_decoded() {
    let mut rng = Rng::new(1);
    for round in 0..6_000usize {
        let (key, value) = (vec![1; round % 300], vec![2; round % 700]);
        let mut draw = Draw { rng: &mut rng, key: &key, value: &value };
        let mut frame = BytesMut::new();
        let request = draw.request();
        request.encode(&mut frame);
        let (frame_type, id, mut decoder) = Decoder::start(&frame).unwrap();
        assert_eq!((frame_type, Request::decode(id, &mut decoder)), (FrameType::Request, Ok(request)));
        assert!(!decoder.has_more(), "the array's length is that of the fields: {request:?}");
        let reply = draw.reply();
        let mut frame = BytesMut::new();
        reply.encode(&mut frame);
        let (frame_type, id, mut decoder) = Decoder::start(&frame).unwrap();
        assert_eq!((frame_type, Reply::decode(id, &mut decoder)), (FrameType::Reply, Ok(reply)));
        assert!(!decoder.has_more(), "{reply:?}");
        let message = draw.peer();
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        let (frame_type, id, mut decoder) = Decoder::start(&frame).unwrap();
        assert_eq!(PeerMessage::decode(frame_type, id, &mut decoder), Ok(Some(message)));
        assert!(!decoder.has_more(), "{message:?}");
    }
}

#[test]
fn a_replication_says_what_kind_it_is_and_one_of_an_older_version_is_a_clients() {
    let header = Header { layout: LayoutName { epoch: 1, hash: 2 }, hlc: Hlc(3), deadline_ms: 4 };
    let key = KeyRef { namespace: NamespaceId(5), hash: KeyHash(6), key: b"k" };
    let version = Version { hlc: Hlc(7), actor: ActorId(8) };
    let entry = Entry { version, expires_at: None, hold_until: None, body: Body::Value(b"v") };
    for (code, sent) in (0u8..).zip(ReplicationKind::ALL) {
        let message = PeerMessage::Replicate { id: 9, header, key, entry, stands_for: None, kind: sent };
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        assert_eq!((frame[0], frame.last()), (0xdc, Some(&code)), "the last of more than 15 fields");
        let kind_of = |frame: &[u8]| {
            let (frame_type, id, mut decoder) = Decoder::start(frame).unwrap();
            match PeerMessage::decode(frame_type, id, &mut decoder) {
                Ok(Some(PeerMessage::Replicate { kind, .. })) => kind,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(kind_of(&frame), sent);
        let mut newer = frame.clone();
        *newer.last_mut().unwrap() = 99;
        assert_eq!(kind_of(&newer), ReplicationKind::REPAIR, "the careful rule");
        // Without the last field, and with the count one less: as it was before there were kinds.
        let mut older = frame[..frame.len() - 1].to_vec();
        older[2] -= 1;
        assert_eq!(kind_of(&older), ReplicationKind::Client);
    }
}

#[test]
fn packed_lists_come_out_as_they_went_in_and_what_is_cut_off_is_left_out() {
    let (namespace, hash) = (NamespaceId(5), KeyHash(6));
    let version = Version { hlc: Hlc(7), actor: ActorId(8) };
    let root = RootItem { copies: 3, partition: PartitionId(900), state: ReplicaState::Settled, root: 11, shed: true };
    let key = KeyItem { namespace, hash, version, entry_hash: 9, ghost: true, gone: false, gone_at: Wall(7) };
    let floor = FloorItem { namespace, evicted: version, tombstone: Version::ZERO };
    let gc = GcItem { namespace, hash, entry_hash: 9 };
    let pull = PullItem { namespace, hash };
    let other = KeyItem { ghost: false, gone: true, gone_at: Wall(u64::MAX), ..key };
    assert_eq!(RootItem::list(&pack(&[root])).collect::<Vec<_>>(), [root]);
    assert_eq!(FloorItem::list(&pack(&[floor, floor])).collect::<Vec<_>>(), [floor, floor]);
    assert_eq!(GcItem::list(&pack(&[gc])).collect::<Vec<_>>(), [gc]);
    assert_eq!(PullItem::list(&pack(&[pull])).collect::<Vec<_>>(), [pull]);
    let packed = pack(&[key, other]);
    assert_eq!(KeyItem::list(&packed).collect::<Vec<_>>(), [key, other]);
    assert_eq!(KeyItem::list(&packed[..packed.len() - 1]).collect::<Vec<_>>(), [key]);
}

#[test]
fn every_truncation_is_an_error() {
    for_frames(600, |frame| {
        assert_eq!(decode(frame), Ok(()));
        for length in 0..frame.len() {
            assert!(matches!(decode(&frame[..length]), Err(DecodeError::Malformed(_))), "{length} of {frame:?}");
        }
    });
}

#[test]
fn unknown_trailing_fields_are_skipped() {
    for_frames(600, |frame| {
        let mut fields = frame;
        let count = rmp::decode::read_array_len(&mut fields).unwrap();
        let mut longer = Vec::new();
        rmp::encode::write_array_len(&mut longer, count + 2).unwrap();
        longer.extend_from_slice(fields);
        rmp::encode::write_str(&mut longer, "a field of a newer version").unwrap();
        rmp::encode::write_array_len(&mut longer, 0).unwrap();
        assert_eq!(decode(&longer), Ok(()), "{frame:?}");
    });
}

#[test]
fn an_unknown_type_is_known_by_its_id() {
    let mut frame = Vec::new();
    rmp::encode::write_array_len(&mut frame, 3).unwrap();
    for number in [200, 77, 5] {
        rmp::encode::write_uint(&mut frame, number).unwrap();
    }
    assert_eq!(decode(&frame), Err(DecodeError::Unknown { frame_type: 200, id: 77 }));
    let mut unsupported = BytesMut::new();
    super::frame::encode_unsupported(&mut unsupported, 77);
    let (frame_type, id, mut decoder) = Decoder::start(&unsupported).unwrap();
    let message = PeerMessage::decode(frame_type, id, &mut decoder);
    assert_eq!(message, Ok(Some(PeerMessage::Unsupported { id: 77 })));
}

#[test]
fn an_unknown_operation_is_answered_and_closes_no_link() {
    let mut frame = BytesMut::new();
    Encoder::start(&mut frame, FrameType::Request, 5, 6).uint(99).uint(10).uint(0).uint(0).uint(1).bytes(b"k");
    let unknown = DecodeError::Unknown { frame_type: FrameType::Request as u8, id: 5 };
    assert_eq!(decode(&frame), Err(unknown));
}

#[test]
fn noise_never_panics_nor_allocates_what_is_not_there() {
    let mut rng = Rng::new(9);
    for _ in 0..60_000 {
        let length = usize::try_from(rng.below(64)).unwrap();
        let mut noise: Vec<u8> = (0..length).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
        // Half of them begin like a frame, so that more than the first byte is looked at.
        if rng.below(2) == 0 && length > 3 {
            noise[0] = 0x90 | u8::try_from(rng.below(16)).unwrap();
            noise[1] = [1, 2, 16, 17, 18, 19, 20, 21, 22, 32, 63][usize::try_from(rng.below(11)).unwrap()];
        }
        let _: Result<(), DecodeError> = decode(&noise);
        assert!(Hello::from_bytes(&noise).is_err() || !noise.is_empty());
        let _: Result<HelloReply, String> = HelloReply::from_bytes(&noise);
    }
}

#[test]
fn every_damaged_byte_is_an_error_or_another_message() {
    let mut rng = Rng::new(3);
    for_frames(300, |frame| {
        for at in 0..frame.len().min(80) {
            let mut damaged = frame.to_vec();
            damaged[at] ^= 1 << rng.below(8);
            let _: Result<(), DecodeError> = decode(&damaged);
        }
    });
}

#[test]
fn a_length_beyond_the_frame_is_malformed() {
    let claims: [&[u8]; 4] = [
        &[0x93, 1, 1, 0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 32, 1, 0xc6, 0x7f, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 16, 1],
        &[0x93, 32, 1, 0xc4, 5, 0xdf, 0xff, 0xff, 0xff, 0xff],
    ];
    for claim in claims {
        assert!(decode(claim).is_err(), "{claim:?}");
    }
}

#[test]
fn a_hello_survives_the_wire_and_its_truncations_are_refused() {
    let hello = Hello { protocol: PROTOCOL, cluster: ClusterId(7), wall: Wall(1), node: None, shard: 3 };
    let bytes = hello.to_bytes();
    assert_eq!(Hello::from_bytes(&bytes), Ok(hello));
    for length in 0..bytes.len() {
        assert!(Hello::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    let refused = HelloReply::Refused { reason: "another cluster".to_owned() };
    assert_eq!(HelloReply::from_bytes(&refused.to_bytes()), Ok(refused));
}
