//! What a caller in the node's process reads on its own thread (`lock`, `local`), and when it does not.

use super::{Caller, LIMIT, Mint, put, within};
use crate::{NodeHandle, Stopped};
use meshwork_core::{
    id::{KeyHash, KeyHasher, NamespaceId},
    wire::{client::Consistency, local::LocalLink},
};
use std::{sync::Arc, time::Instant};

/// A node that holds "v" under "k", its link, and the place of the key.
async fn node_with_a_value(mint: &Mint) -> (NodeHandle, Arc<dyn LocalLink>, (NamespaceId, KeyHash)) {
    let node = mint.start("a", 1, &[], &[]).await;
    within("ready", node.ready()).await.unwrap();
    Caller::open(&node, 0).call(b"k", put(b"v")).await;
    let (link, namespace) = (node.link(), NamespaceId::of("default"));
    let place = (namespace, KeyHasher::new(node.shared.cluster).hash(namespace, b"k"));
    (node, link, place)
}

fn hit(link: &dyn LocalLink, place: (NamespaceId, KeyHash)) -> Option<Vec<u8>> {
    let mut seen = None;
    let found = link.hit(0, place, b"k", Consistency::default(), &mut |entry, worth| {
        assert_eq!(worth.acks, 1);
        seen = Some(match entry.body {
            meshwork_core::value::Body::Value(value) => value.to_vec(),
            meshwork_core::value::Body::Tombstone => panic!("a tombstone is no value"),
        });
    });
    assert_eq!(found, seen.is_some());
    seen
}

/// The shard's thread may be at work: not for long.
fn hit_soon(link: &dyn LocalLink, place: (NamespaceId, KeyHash)) -> Option<Vec<u8>> {
    let begun = Instant::now();
    loop {
        let found = hit(link, place);
        if found.is_some() || begun.elapsed() > LIMIT {
            return found;
        }
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_this_node_holds_is_read_on_the_callers_thread_until_it_stops() {
    let mint = Mint::new();
    let (node, link, place) = node_with_a_value(&mint).await;
    assert_eq!(hit_soon(&*link, place).as_deref(), Some(&b"v"[..]));
    assert_eq!(hit(&*link, (place.0, KeyHash(7))), None, "a miss is asked for");
    assert!(!link.hit(9, place, b"k", Consistency::default(), &mut |_, _| panic!("there is no such shard")));
    link.warm(&[(0, place.1), (9, place.1), (0, KeyHash(7))]);
    assert_eq!(hit_soon(&*link, place).as_deref(), Some(&b"v"[..]), "what was fetched is what is read");
    node.shared.stop(Stopped::Requested);
    assert_eq!(hit(&*link, place), None, "it admits nothing any more");
    within("stop", node.stopped()).await;
    link.warm(&[(0, place.1)]);
    let kept = node.shared.shards[0].try_with(&node.shared, |_| Some(()));
    assert_eq!(kept, None, "its memory is given back while somebody holds its link");
}

#[tokio::test]
async fn a_shard_at_work_is_asked_by_a_request() {
    let mint = Mint::new();
    let (node, link, place) = node_with_a_value(&mint).await;
    assert!(hit_soon(&*link, place).is_some());
    let begun = Instant::now();
    let busy = || node.shared.shards[0].try_with(&node.shared, |_| Some(hit(&*link, place)));
    let seen = std::iter::repeat_with(busy).find(|seen| seen.is_some() || begun.elapsed() > LIMIT).flatten();
    assert_eq!(seen, Some(None), "whoever finds it taken does not wait");
    within("stop", node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_panics_in_a_shard_stops_the_node() {
    let mint = Mint::new();
    let (node, link, place) = node_with_a_value(&mint).await;
    assert!(hit_soon(&*link, place).is_some());
    let begun = Instant::now();
    let thread = std::thread::spawn(move || {
        while begun.elapsed() < LIMIT {
            link.hit(0, place, b"k", Consistency::default(), &mut |_, _| panic!("as a bug would"));
        }
    });
    assert!(thread.join().is_err());
    let why = within("the end", node.stopped()).await;
    assert!(matches!(&why, Stopped::Panicked { thread, .. } if thread == "of a caller"), "{why}");
}
