//! What one request costs in a shard, without network: decode, hash, handle, encode. One node, one copy, 16-byte keys,
//! 100-byte values, keys drawn uniformly. Prints nanoseconds an operation; run it with
//! `cargo bench -p meshwork-core --bench shard`.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark measures")]

use bytes::BytesMut;
use meshwork_core::{
    config::ShardConfig,
    id::{ActorId, ClusterId, KeyHasher, NamespaceId, NodeId, ShardId},
    input::{Caller, PeerShard, ShardInput},
    namespace::NamespaceTable,
    outbox::ShardOutbox,
    ring::{Layout, LayoutMember, Ring},
    rng::Rng,
    shard::Shard,
    time::{Mono, Now, Wall},
    value::Hlc,
    view::{MemberView, View},
    wire::{Condition, Consistency, Op, PeerMessage, Reply, Request, Ttl, frame::Decoder, peer::ReplicaState},
};
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Encodes replies into one buffer, as a link does.
struct Sink(BytesMut);

impl ShardOutbox for Sink {
    fn send(&mut self, _: PeerShard, message: &PeerMessage<'_>) {
        message.encode(&mut self.0);
    }

    fn reply(&mut self, _: Caller, reply: &Reply<'_>) {
        reply.encode(&mut self.0);
    }

    fn report(&mut self, _: meshwork_core::outbox::ShardReport) {}

    fn store(&mut self, _: &meshwork_core::outbox::StoreWrite<'_>) {}
}

fn main() {
    let keys: u64 = 1_000_000;
    let (cluster, me) = (ClusterId(1), NodeId(1));
    let config = ShardConfig {
        node: me,
        shard: ShardId(0),
        shards: 1,
        cluster,
        partitions: 1024,
        actor: ActorId(7),
        memory: 1 << 30,
        clock_floor: Hlc::default(),
        disk: false,
        seed: 1,
    };
    let members = vec![LayoutMember { node: me, token_id: me, zone: "z".to_owned(), weight: 100 }];
    let ring = Ring::derive(&Layout { epoch: 1, n: 1, partitions: 1024, members });
    let view = View {
        ring: Some(Arc::new(ring)),
        members: vec![MemberView { node: me, shards: 1, up: true, near: true }],
        agreed: true,
        state: ReplicaState::Ready,
        ..View::empty(me, Arc::new(NamespaceTable::with_default(1)))
    };
    let (mut shard, mut sink) = (Shard::new(config), Sink(BytesMut::new()));
    let now = Now { mono: Mono(1), wall: Wall(1_800_000_000_000) };
    shard.handle(now, ShardInput::View(Arc::new(view)), &mut sink);
    let (hasher, namespace) = (KeyHasher::new(cluster), NamespaceId::of("default"));
    let mut rng = Rng::new(SystemTime::now().elapsed().map_or(1, |spent| spent.subsec_nanos().into()));
    let value = [7u8; 100];
    let put = Op::Put { value: &value, ttl: Ttl::Millis(3_600_000), condition: Condition::Always };
    let mut frame = BytesMut::new();
    let mut run = |what: &str, op: Op<'_>, count: u64, key_of: &mut dyn FnMut(u64) -> u64| {
        let start = Instant::now();
        let mut spent_encoding = 0;
        for number in 0..count {
            let key = format_key(key_of(number));
            let encoding = Instant::now();
            frame.clear();
            Request {
                id: number,
                deadline_ms: 300,
                sent: 0,
                consistency: Consistency::default(),
                namespace,
                key: &key,
                op,
            }
            .encode(&mut frame);
            spent_encoding += encoding.elapsed().as_nanos();
            let (_, id, mut decoder) = Decoder::start(&frame).expect("our own frame");
            let request = Request::decode(id, &mut decoder).expect("our own request");
            let hash = hasher.hash(namespace, request.key);
            let caller = Caller { link: 1, id };
            shard.handle(now, ShardInput::Client { caller, hash, request }, &mut sink);
            if sink.0.len() > 1 << 16 {
                sink.0.clear();
            }
        }
        let all = start.elapsed().as_nanos() - spent_encoding;
        println!("{what}: {} ns/op", all / u128::from(count));
    };
    run("put, new keys", put, keys, &mut |number| number);
    run("put, overwriting", put, keys, &mut |_| rng.below(keys));
    run("get, hits", Op::Get, 2 * keys, &mut |_| rng.below(keys));
    run("get, misses", Op::Get, keys, &mut |_| keys + rng.below(keys));
    let stats = shard.stats();
    assert_eq!((stats.hits, stats.errors), (2 * keys, 0), "the bench measured something else than it says");
    println!("accounted: {} B an item", stats.memory_bytes / keys);
}

fn format_key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}
