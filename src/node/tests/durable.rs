//! Nodes with a data directory: what one process stored, the next one finds, or is right not to read.

use super::*;

/// A node of its own with a disk, and a caller of a namespace that asks for it.
async fn durable(mint: &Mint, more: &[&str]) -> (NodeHandle, Caller) {
    let (node, mut caller) = start_durable(mint, more).await;
    takes_writes(&mut caller).await;
    (node, caller)
}

async fn takes_writes(caller: &mut Caller) {
    let begun = Instant::now();
    while parse_status(caller, b"first").await != Status::Ok {
        assert!(begun.elapsed() < LIMIT, "no write is taken");
    }
}

async fn start_durable(mint: &Mint, more: &[&str]) -> (NodeHandle, Caller) {
    let data = format!("node.data_dir={}", mint.path().join("data").display());
    let mut config = mint.config("a", 1, &[], &[&[&*data], more].concat());
    let mut namespace = Namespace::new("log");
    (namespace.n, namespace.r, namespace.w) = (1, 1, 1);
    namespace.ack = Ack::Log;
    config.namespaces.push(namespace);
    let node = Node::start(config).await.unwrap();
    within("ready", node.ready()).await.unwrap();
    let mut caller = Caller::open(&node, 0);
    caller.namespace = NamespaceId::of("log");
    (node, caller)
}

async fn parse_status(caller: &mut Caller, key: &[u8]) -> Status {
    parse(&caller.call(key, put(b"1")).await).status
}

#[tokio::test]
async fn more_than_waits_for_the_disk_is_refused_and_no_request_is_left_without_an_answer() {
    let mint = Mint::new();
    let (node, mut caller) = durable(&mint, &["storage.queue=1MiB"]).await;
    let store = node.shared.store.clone().unwrap();
    store.stalled.store(true, Ordering::Release);
    let value = vec![7; 100 << 10];
    let keys: Vec<String> = (0..40).map(|key| format!("key-{key}")).collect();
    let puts: Vec<_> = keys.iter().map(|key| (key.as_bytes(), put(&value))).collect();
    // The first letter passes the bound as one; what comes then does not even begin.
    let kept = caller.send(&puts[..20]);
    until("the first to wait for the disk", || store.waiting() > 1 << 20).await;
    let refused = caller.send(&puts[20..]);
    let in_memory = parse_status(&mut Caller::open(&node, 0), b"in memory").await;
    assert_eq!(in_memory, Status::Ok, "namespaces in memory go on");
    for id in refused {
        let status = parse(&caller.reply(id).await).status;
        assert!(matches!(status, Status::Overloaded { .. }), "{status:?}");
    }
    store.stalled.store(false, Ordering::Release);
    for id in kept {
        assert_eq!(parse(&caller.reply(id).await).status, Status::Ok);
    }
    // What was refused for want of room is no trouble of the disk, which takes the next write.
    assert_eq!(node.status().disk.as_ref().unwrap().trouble, None);
    let begun = Instant::now();
    while parse(&caller.call(b"later", put(b"1")).await).status != Status::Ok {
        assert!(begun.elapsed() < LIMIT, "nothing waits any more");
    }
    within("stop", node.stop()).await.unwrap();
    drop(node);

    let (node, mut caller) = durable(&mint, &[]).await;
    for key in keys[..20].iter().map(String::as_bytes).chain([&b"later"[..]]) {
        let frame = caller.call(key, Op::Get).await;
        assert!(matches!(parse(&frame).body, ReplyBody::Value { .. }), "{}", String::from_utf8_lossy(key));
    }
    within("stop", node.stop()).await.unwrap();
}

#[tokio::test]
async fn what_one_shard_stored_is_found_by_three() {
    let mint = Mint::new();
    let (node, mut caller) = durable(&mint, &[]).await;
    let keys: Vec<String> = (0..200).map(|key| format!("key-{key}")).collect();
    let puts: Vec<_> = keys.iter().map(|key| (key.as_bytes(), put(key.as_bytes()))).collect();
    for id in caller.send(&puts) {
        assert_eq!(parse(&caller.reply(id).await).status, Status::Ok);
    }
    within("stop", node.stop()).await.unwrap();
    drop(node);
    let (node, mut caller) = durable(&mint, &["node.shards=3", "memory.limit=128MiB"]).await;
    let gets: Vec<_> = keys.iter().map(|key| (key.as_bytes(), Op::Get)).collect();
    for (id, key) in caller.send(&gets).into_iter().zip(&keys) {
        let frame = caller.reply(id).await;
        let reply = parse(&frame);
        assert!(matches!(reply.body, ReplyBody::Value { value, .. } if value == key.as_bytes()), "{key}: {reply:?}");
    }
    within("stop", node.stop()).await.unwrap();
}

/// A node that was stopped with "old" in its store, which somebody else has now: as good as a disk that refuses.
async fn written_and_held() -> (Mint, fjall::Database) {
    let mint = Mint::new();
    let (node, mut caller) = durable(&mint, &[]).await;
    assert_eq!(parse_status(&mut caller, b"old").await, Status::Ok);
    within("stop", node.stop()).await.unwrap();
    drop(node);
    let held = fjall::Database::builder(mint.path().join("data/store")).open().unwrap();
    (mint, held)
}

#[tokio::test]
async fn a_store_that_could_not_be_read_at_the_start_is_never_read_later() {
    let (mint, held) = written_and_held().await;
    let (node, mut caller) = start_durable(&mint, &[]).await;
    until("the trouble to be told", || {
        let status = node.status();
        status.disk.as_ref().is_some_and(|disk| disk.trouble.as_ref().is_some_and(|words| words.contains("store")))
    })
    .await;
    assert_ne!(parse_status(&mut caller, b"refused").await, Status::Ok);
    assert_eq!(parse_status(&mut Caller::open(&node, 0), b"in memory").await, Status::Ok);
    drop(held);
    takes_writes(&mut caller).await;
    // Others may have deleted meanwhile what it holds: it must not come back with the next start.
    assert_eq!(parse(&caller.call(b"old", Op::Get).await).status, Status::NotFound);
    within("stop", node.stop()).await.unwrap();
    drop(node);
    let (node, mut caller) = durable(&mint, &[]).await;
    assert_eq!(parse(&caller.call(b"old", Op::Get).await).status, Status::NotFound);
    assert_eq!(parse(&caller.call(b"first", Op::Get).await).status, Status::Ok);
    within("stop", node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_an_earlier_start_could_not_read_is_not_read_either() {
    let (mint, held) = written_and_held().await;
    let (node, caller) = start_durable(&mint, &[]).await;
    within("stop", node.stop()).await.unwrap();
    drop((node, caller, held));
    let (node, mut caller) = start_durable(&mint, &[]).await;
    takes_writes(&mut caller).await;
    let found = node.status().disk.as_ref().map(|disk| disk.found.clone()).unwrap_or_default();
    assert!(found.contains("an earlier start could not read it"), "{found}");
    assert_eq!(parse(&caller.call(b"old", Op::Get).await).status, Status::NotFound);
    within("stop", node.stop()).await.unwrap();
}
