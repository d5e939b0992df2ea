//! A caller with good papers and bad manners: whatever bytes it sends, it hurts only its own connection.
//!
//! Issue 2, item 10 and "Bad input, everywhere": malformed, oversized, truncated, unknown and endless frames, half-open
//! links, requests that make no sense. After each the node runs, serves somebody else on a link that was there before,
//! and has not grown beyond a generous bound.

mod support;

use bytes::BytesMut;
use meshwork_core::{
    id::NamespaceId,
    limits,
    rng::Rng,
    wire::{
        client::{Condition, Consistency, Op, Quorum, Request, Status, Ttl},
        frame::{Decoder, FrameType},
    },
};
use std::{net::UdpSocket, sync::Arc};
use support::{
    mesh::{Mesh, Plan, Shared},
    raw::{self, Raw, framed},
    wait::{run, soon},
};

static ONE: Shared = Shared::new();

/// Bytes by which hostile callers may make a node grow for good: buffers that are kept for the next connection.
const GROWTH_MAX: u64 = 96 << 20;

fn one() -> Arc<Mesh> {
    ONE.get(|| Mesh::start(Plan { nodes: 1, memory: "32MiB", ..Plan::default() }))
}

/// Something hostile is done to the node while a bystander is there, who must then be served as before; what comes out of
/// `done` is held open until then.
fn beside_a_bystander<T>(what: &str, done: impl AsyncFnOnce(&Mesh, &mut Bystander) -> T) {
    let mesh = one();
    run(what, async {
        let mut bystander = Bystander::arrive(&mesh).await;
        let held = done(&mesh, &mut bystander).await;
        bystander.is_served(&mesh).await;
        drop(held);
    });
}

/// A request's frame.
fn request(id: u64, deadline_ms: u32, key: &[u8], op: Op<'_>) -> BytesMut {
    let (consistency, namespace) = (Consistency::default(), NamespaceId::of("default"));
    let mut frame = BytesMut::new();
    Request { id, deadline_ms, sent: 0, consistency, namespace, key, op }.encode(&mut frame);
    frame
}

/// Somebody well-behaved, who was there before.
struct Bystander {
    link: Raw,
    resident: u64,
}

impl Bystander {
    async fn arrive(mesh: &Mesh) -> Self {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        let put = Op::Put { value: b"here", ttl: Ttl::Default, condition: Condition::Always };
        let answer = link.ask(b"bystander", put, Consistency::default()).await.expect("an answer");
        assert_eq!(answer.status, Status::Ok, "{answer:?}");
        Self { link, resident: mesh.nodes[0].process().resident_bytes() }
    }

    /// Is still served on its old link, and so is somebody new; the node has not grown.
    async fn is_served(&mut self, mesh: &Mesh) {
        let answer = self.link.ask(b"bystander", Op::Get, Consistency::default()).await.expect("the old link lives");
        assert_eq!(answer.value.as_deref(), Some(&b"here"[..]), "{answer:?}");
        let mut fresh = soon("a new link", async {
            // A node that was flooded may refuse newcomers until the half-open ones have timed out.
            loop {
                if let Ok(link) = Raw::open(mesh.nodes[0].address, &mesh.client).await {
                    break link;
                }
            }
        })
        .await;
        let answer = fresh.ask(b"bystander", Op::Get, Consistency::default()).await.expect("new links are served");
        assert_eq!(answer.value.as_deref(), Some(&b"here"[..]), "{answer:?}");
        let resident = mesh.nodes[0].process().resident_bytes();
        let growth = resident.saturating_sub(self.resident);
        assert!(growth < GROWTH_MAX, "grew by {} MiB to {} MiB", growth >> 20, resident >> 20);
    }
}

/// Sends these bytes after a proper opening; how the connection ends.
async fn ends_after(mesh: &Mesh, bytes: &[u8], finish: bool) -> String {
    let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
    // The node may close before it has read all.
    let _ = link.send_bytes(bytes).await;
    if finish {
        let _ = link.small.0.finish();
    }
    raw::end_of(&link.connection).await
}

#[test]
fn frames_that_are_none_end_their_connection_with_a_reason() {
    beside_a_bystander("hostile frames", async |mesh, _| {
        let op = Op::Put { value: &[7; 300], ttl: Ttl::Default, condition: Condition::Always };
        let request = request(1, 100, b"k", op);
        let cut_inside = framed(&request[..request.len() - 100]);
        for (what, bytes, finish) in [
            ("no array", framed(b"hello there"), false),
            ("an empty array", framed(&[0x90]), false),
            ("a cut request in a whole frame", cut_inside, false),
            ("a length of zero", vec![0, 0, 0, 0], false),
            ("the largest length there is", vec![0xff; 64], false),
            ("a length just above the limit", (65_537u32).to_be_bytes().to_vec(), false),
            ("a frame cut off by the end of the stream", framed(&request)[..50].to_vec(), true),
            ("a header cut off by the end of the stream", vec![0, 0], true),
        ] {
            let why = ends_after(mesh, &bytes, finish).await;
            assert!(why.contains("closed by peer"), "{what}: {why}");
            assert!(why.to_lowercase().contains("frame"), "{what}: the reason is said: {why}");
        }
    });
}

#[test]
fn noise_of_any_kind_never_stops_the_node() {
    beside_a_bystander("noise", async |mesh, _| {
        let mut rng = Rng::new(20_261_121);
        for round in 0..60 {
            let noise: Vec<u8> = (0..1 + rng.below(3000)).map(|_| (rng.next() & 0xff) as u8).collect();
            let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
            // Raw noise, noise in frames, and a good frame with flipped bits.
            let bytes = match round % 3 {
                0 => noise,
                1 => noise.chunks(70).flat_map(framed).collect(),
                _ => {
                    let op = Op::Put { value: &noise, ttl: Ttl::Millis(9), condition: Condition::IfAbsent };
                    let request = request(9, 9, b"n", op);
                    let mut bytes = framed(&request);
                    for _ in 0..5 {
                        let at = 4 + rng.below(bytes.len() as u64 - 4) as usize;
                        bytes[at] ^= (1 + rng.below(255)) as u8;
                    }
                    bytes
                }
            };
            let _ = link.send_bytes(&bytes).await;
            let _ = link.bulk.0.write_all(&bytes).await;
            let _ = link.small.0.finish();
            // Datagrams are gossip; a client's mean nothing.
            let _ = link.connection.send_datagram(bytes[..bytes.len().min(1000)].to_vec().into());
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for length in [0usize, 1, 20, 1200, 9000] {
            let noise: Vec<u8> = (0..length).map(|_| (rng.next() & 0xff) as u8).collect();
            for _ in 0..50 {
                let _ = udp.send_to(&noise, mesh.nodes[0].address);
            }
        }
    });
}

#[test]
fn a_message_of_a_newer_version_is_answered_unsupported_and_the_link_lives() {
    let mesh = one();
    run("a newer caller", async {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        // [99, 7, "x"]: a type that nobody knows; and a get whose operation is another that nobody knows.
        let mut request = request(7, 1000, b"k", Op::Get);
        assert_eq!(request[..4], [request[0], FrameType::Request as u8, 7, 1], "array, type, id, operation");
        request[3] = 99;
        for unknown in [&[0x93, 99, 7, 0xa1, b'x'][..], &request] {
            link.send(unknown).await.unwrap();
            let frame = match link.frame().await {
                Ok(frame) => frame,
                Err(error) => panic!("{unknown:?}: {error}: {}", raw::end_of(&link.connection).await),
            };
            let (frame_type, id, _) = Decoder::start(&frame).unwrap();
            assert_eq!((frame_type, id), (FrameType::Unsupported, 7));
        }
        let answer = link.ask(b"anything", Op::Get, Consistency::default()).await.expect("the link lives");
        assert_eq!(answer.status, Status::NotFound, "{answer:?}");
    });
}

#[test]
fn requests_that_make_no_sense_get_a_status_and_words_and_the_link_lives() {
    let mesh = one();
    run("senseless requests", async {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        let usual = Consistency::default();
        let put = |ttl| Op::Put { value: b"v", ttl, condition: Condition::Always };
        let wide = Consistency { write: Quorum::Exactly(7), ..usual };
        let long = vec![b'k'; limits::KEY_BYTES_MAX + 1];
        for (what, namespace, key, op, consistency, status, words) in [
            ("an empty key", "default", &b""[..], Op::Get, usual, Status::Invalid, "key"),
            ("an oversized key", "default", &long, put(Ttl::Default), usual, Status::TooLarge, "1024"),
            ("a ttl of zero", "default", b"k", put(Ttl::Millis(0)), usual, Status::Invalid, "ttl"),
            ("a ttl past 2500", "default", b"k", put(Ttl::Millis(1 << 50)), usual, Status::Invalid, "2500"),
            ("W > N", "default", b"k", put(Ttl::Default), wide, Status::Invalid, "7"),
            ("an unknown namespace", "nowhere", b"k", Op::Get, usual, Status::NoSuchNamespace, "namespace"),
        ] {
            let answer = link.ask_in(namespace, key, op, consistency).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert!(answer.text.to_lowercase().contains(words), "{what}: {:?} lacks {words:?}", answer.text);
        }
        let answer = link.ask(b"k", Op::Get, usual).await.expect("the link lives");
        assert_eq!(answer.status, Status::NotFound, "nothing was written: {answer:?}");
    });
}

#[test]
fn a_value_above_the_namespaces_limit_is_refused_with_words() {
    let mesh = one();
    run("a large value", async {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        let value = vec![7; (1 << 20) + 1];
        let op = Op::Put { value: &value, ttl: Ttl::Default, condition: Condition::Always };
        let request = request(3, 5000, b"k", op);
        link.bulk.0.write_all(&framed(&request)).await.unwrap();
        let frame = link.frame().await.expect("the link lives");
        let (frame_type, id, mut decoder) = Decoder::start(&frame).unwrap();
        assert_eq!((frame_type, id), (FrameType::Reply, 3));
        let reply = meshwork_core::wire::client::Reply::decode(id, &mut decoder).unwrap();
        assert_eq!(reply.status, Status::TooLarge, "{reply:?}");
        let answer = link.ask(b"k", Op::Get, Consistency::default()).await.expect("the link lives");
        assert_eq!(answer.status, Status::NotFound, "{answer:?}");
    });
}

#[test]
fn a_flood_of_half_open_links_costs_nobody_else_his_link() {
    beside_a_bystander("half-open links", async |mesh, bystander| {
        let mut open = Vec::new();
        for number in 0..120 {
            let Ok((endpoint, connection)) = raw::dial(mesh.nodes[0].address, &mesh.client).await else { continue };
            // Every second one opens a stream with the first byte of a hello that never comes.
            let mut stream = if number % 2 == 0 { connection.open_bi().await.ok() } else { None };
            if let Some((send, _receive)) = &mut stream {
                let _ = send.write_all(&[0]).await;
            }
            open.push((endpoint, connection, stream));
        }
        assert!(open.len() > 50, "only {} got that far", open.len());
        let answer = bystander.link.ask(b"bystander", Op::Get, Consistency::default()).await.expect("served meanwhile");
        assert_eq!(answer.value.as_deref(), Some(&b"here"[..]));
        for (_endpoint, connection, _stream) in &open {
            raw::end_of(connection).await;
        }
        open
    });
}

#[test]
fn a_caller_may_open_no_more_streams_than_a_link_has() {
    beside_a_bystander("streams", async |mesh, _| {
        let link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        let limit = std::time::Duration::from_millis(300);
        let third = tokio::time::timeout(limit, link.connection.open_bi()).await;
        assert!(third.is_err(), "a third stream was granted");
        let one_way = tokio::time::timeout(limit, link.connection.open_uni()).await;
        assert!(one_way.is_err(), "a one-way stream was granted");
        link
    });
}

#[test]
fn announced_lengths_allocate_nothing() {
    beside_a_bystander("announcements", async |mesh, _| {
        let mut held = Vec::new();
        for _ in 0..60 {
            let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
            // Eight mebibytes announced on the bulk stream, one byte sent: 480 MiB if they were believed.
            link.bulk.0.write_all(&(8u32 << 20).to_be_bytes()).await.unwrap();
            link.bulk.0.write_all(&[0x9c]).await.unwrap();
            held.push(link);
        }
        held
    });
}

#[test]
fn a_caller_that_asks_and_never_reads_is_held_back_and_not_buffered_for() {
    beside_a_bystander("a caller that never reads", async |mesh, _| {
        let mut link = Raw::open(mesh.nodes[0].address, &mesh.client).await.expect("welcome");
        let value = vec![7; 60_000];
        let op = Op::Put { value: &value, ttl: Ttl::Default, condition: Condition::Always };
        let answer = link.ask_in("default", b"big", op, Consistency::default()).await.expect("an answer");
        assert_eq!(answer.status, Status::Ok, "{answer:?}");
        // Up to 30,000 answers of 60 kB: 1.8 GB, if the node kept them for us.
        let asking = async {
            for id in 0..30_000 {
                let request = request(id, 1000, b"big", Op::Get);
                if link.send(&request).await.is_err() {
                    break;
                }
            }
        };
        // Held back by flow control, refused, or closed: all are fine, buffering is not.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(4), asking).await;
        link
    });
}
