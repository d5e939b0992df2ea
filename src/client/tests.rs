//! The client against fake nodes over real links: deadlines, retries, faults, batching, and what errors say.

use crate::{
    Error, ErrorKind, Mesh, MeshState, Profile, Tls,
    fake::{FakeLocal, FakeMesh, Fault, until},
};
use meshwork_core::wire::{Status, control::ClientControl};
use meshwork_transport::{Authority, Role};
use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Patient enough for a busy machine; retries as by default.
fn patient() -> Profile {
    Profile::default().deadline(ms(20_000)).attempt(ms(10_000), ms(10_000)).dial(ms(10_000))
}

fn kind(result: Result<impl Sized, Error>) -> ErrorKind {
    result.err().expect("it failed").kind().clone()
}

fn occupied(mesh: &Mesh) -> usize {
    mesh.inner.connections().iter().map(|link| link.occupied()).sum()
}

#[tokio::test]
async fn what_was_set_is_read_back_with_its_version_and_worth() {
    let fake = FakeMesh::start(3).await;
    let mesh = fake.connect(patient()).await;
    assert_eq!(*mesh.state().borrow(), MeshState::Connected { epoch: 1, nodes: 3 });
    let first = mesh.set("k", "one").await.unwrap();
    assert!(first.applied && first.worth.acks == 1);
    let entry = mesh.get_entry("k").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], Some(entry.version)), (&b"one"[..], first.version));
    assert!(entry.node.is_some());
    let refused = mesh.set("k", "two").if_absent().await.unwrap();
    assert!(!refused.applied && refused.current == first.version);
    assert!(mesh.set("k", "two").if_version(entry.version).await.unwrap().applied);
    assert!(mesh.touch("k", ms(1000)).await.unwrap());
    assert!(mesh.delete("k").await.unwrap().applied);
    assert_eq!(mesh.get("k").await.unwrap(), None);
    assert!(!mesh.touch("k", ms(1000)).await.unwrap());
}

#[tokio::test]
async fn a_value_too_large_for_the_small_stream_comes_back_whole() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    let value = vec![7u8; 1 << 20];
    mesh.set("big", &value).await.unwrap();
    assert_eq!(mesh.get("big").await.unwrap().unwrap(), value);
}

#[tokio::test]
async fn what_cannot_be_valid_is_refused_before_anything_is_sent() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    assert_eq!(kind(mesh.get("").await), ErrorKind::Invalid);
    assert_eq!(kind(mesh.get(vec![1; 1025]).await), ErrorKind::TooLarge);
    assert_eq!(kind(mesh.set("k", vec![1; (1 << 20) + 1]).await), ErrorKind::TooLarge);
    assert_eq!(kind(mesh.set("k", "v").ttl(Duration::ZERO).await), ErrorKind::Invalid);
    assert_eq!(kind(mesh.set("k", "v").ttl(Duration::MAX).await), ErrorKind::Invalid);
    let error = mesh.touch("k", Duration::from_secs(600 * 365 * 86_400)).await.unwrap_err();
    assert!(error.to_string().contains("year 2500"), "{error}");
    assert_eq!((error.attempts(), fake.requests()), (0, 0));
}

#[tokio::test]
async fn calls_of_many_tasks_share_batches() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    mesh.get("warm").await.unwrap();
    let before = fake.nodes[0].batches.load(Ordering::SeqCst);
    let tasks: Vec<_> = (0..500u32)
        .map(|i| {
            let mesh = mesh.clone();
            tokio::spawn(async move { mesh.set(i.to_be_bytes(), "v").await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let batches = fake.nodes[0].batches.load(Ordering::SeqCst) - before;
    assert!(batches < 100, "500 requests came in {batches} batches");
    assert_eq!(fake.store.writes(), 500);
}

#[tokio::test]
async fn many_keys_are_read_in_order_each_on_its_own() {
    let fake = FakeMesh::start(3).await;
    let mesh = fake.connect(patient()).await;
    let mut batch = mesh.batch();
    for i in 0..3000u32 {
        batch = batch.set(i.to_be_bytes(), i.to_string());
    }
    assert!(batch.send().await.iter().all(Result::is_ok));
    let keys: Vec<_> = (0..3001u32).map(u32::to_be_bytes).chain([[0xff; 4]]).collect();
    let mut got = mesh.get_many(&keys).await;
    assert_eq!(got.pop().unwrap().unwrap(), None);
    assert_eq!(got.pop().unwrap().unwrap(), None);
    for (i, value) in got.into_iter().enumerate() {
        assert_eq!(value.unwrap().unwrap(), i.to_string());
    }
    assert!(fake.nodes.iter().all(|node| node.requests() > 1000), "keys spread over all nodes");
    assert_eq!(kind(mesh.get_many([""]).await.pop().unwrap()), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_silent_node_costs_a_write_its_deadline_and_the_error_says_it_may_be_applied() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(Profile::default().deadline(ms(60)).dial(ms(10_000))).await;
    fake.set_all(&Fault::Mute);
    let error = mesh.set("k", "v").await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Unknown && error.maybe_applied(), "{error}");
    let error = mesh.get("k").await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Timeout && !error.maybe_applied(), "{error}");
    assert_eq!(occupied(&mesh), 0);
    assert_eq!(mesh.stats().in_flight, 0);
}

#[tokio::test]
async fn calls_go_around_a_node_that_is_silent() {
    let fake = FakeMesh::start(3).await;
    let mesh = fake.connect(patient().attempt(ms(300), ms(300))).await;
    fake.nodes[1].set(Fault::Mute);
    for i in 0..200u32 {
        mesh.set(i.to_be_bytes(), "v").await.unwrap();
    }
    let asked = fake.nodes[1].requests();
    assert!(asked < 30, "the silent node was asked {asked} times");
    fake.nodes[1].set(Fault::None);
    let silent = || mesh.inner.connections().iter().any(|link| link.avoided());
    until("the node's probe is answered", || !silent()).await;
}

#[tokio::test]
async fn an_error_that_proves_nothing_was_applied_is_retried_even_for_conditional_writes() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    for status in [Status::NotOwner, Status::NotReady, Status::StaleEpoch, Status::Overloaded { retry_after_ms: 1 }] {
        fake.set_all(&Fault::First(2, status, false));
        let key = format!("{status:?}");
        assert!(mesh.set(&key, "v").if_absent().await.unwrap().applied, "{status:?}");
    }
    assert_eq!((mesh.stats().retries, mesh.stats().calls >= 4), (8, true));
}

#[tokio::test]
async fn a_conditional_write_is_not_repeated_once_it_may_be_applied() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    fake.set_all(&Fault::Always(Status::Unknown, true));
    let error = mesh.set("k", "v").if_absent().await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Unknown && error.maybe_applied() && error.attempts() == 1, "{error:?}");
    assert_eq!(fake.requests(), 1);
    let error = mesh.set("k", "v").await.unwrap_err();
    assert_eq!((error.attempts(), fake.requests()), (3, 4), "an unconditional one is");
}

#[tokio::test]
async fn retries_end_with_the_budget() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient().backoff(ms(0), ms(0))).await;
    fake.set_all(&Fault::Always(Status::NotReady, false));
    let tasks: Vec<_> = (0..1000u32)
        .map(|i| {
            let mesh = mesh.clone();
            tokio::spawn(async move { kind(mesh.get(i.to_be_bytes()).await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), ErrorKind::Unavailable { need: 0, have: 0 });
    }
    let retries = mesh.stats().retries;
    assert!((1024..=1024 + 100).contains(&retries), "{retries} retries of 1000 calls");
    assert_eq!(fake.requests(), 1000 + retries);
}

#[tokio::test]
async fn errors_that_repeating_cannot_mend_are_not_retried() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    let cases = [
        (Status::TooLarge, ErrorKind::TooLarge),
        (Status::OutOfMemory, ErrorKind::OutOfMemory),
        (Status::Denied, ErrorKind::Denied),
        (Status::WrongKind, ErrorKind::WrongKind),
        (Status::NoSuchNamespace, ErrorKind::NoSuchNamespace),
        (Status::Invalid, ErrorKind::Invalid),
        (Status::Unsupported, ErrorKind::Unsupported),
    ];
    for (status, expected) in cases {
        fake.set_all(&Fault::Always(status, false));
        let error = mesh.namespace("n").get("k").await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (&expected, 1));
        assert!(!error.is_retryable() && !error.hint().is_empty());
    }
    assert_eq!(fake.requests(), 7);
}

#[tokio::test]
async fn a_node_that_talks_garbage_loses_its_link_and_others_answer() {
    let fake = FakeMesh::start(3).await;
    let mesh = fake.connect(patient()).await;
    fake.nodes[0].set(Fault::Garbage);
    for i in 0..60u32 {
        mesh.set(i.to_be_bytes(), "v").await.unwrap();
    }
    assert!(mesh.stats().retries > 0);
}

#[tokio::test]
async fn a_lost_link_is_made_again_and_harmless_calls_survive_it() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    mesh.set("k", "v").await.unwrap();
    fake.nodes[0].drop_links();
    until("the link is made again", || mesh.stats().reconnects > 0).await;
    assert_eq!(mesh.get("k").await.unwrap().unwrap(), "v");
    fake.nodes[0].set(Fault::Close);
    let error = mesh.set("k", "w").if_absent().await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Unknown && error.maybe_applied(), "{error:?}");
}

#[tokio::test]
async fn a_stopped_node_is_gone_around() {
    let fake = FakeMesh::start(3).await;
    let mesh = fake.connect(patient()).await;
    fake.nodes[2].stop();
    for i in 0..100u32 {
        mesh.set(i.to_be_bytes(), "v").await.unwrap();
    }
    assert_eq!(fake.store.writes(), 100);
}

#[tokio::test]
async fn dropping_a_call_gives_its_slot_back() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    fake.set_all(&Fault::Mute);
    for _ in 0..100 {
        let call = mesh.get("k").into_future();
        tokio::select! {
            biased;
            _ = call => panic!("nobody answers"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!((occupied(&mesh), mesh.stats().in_flight), (0, 0));
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_at_once() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient().in_flight(10)).await;
    fake.set_all(&Fault::Mute);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { mesh.get("k").await.map(drop) })
        })
        .collect();
    until("ten are in flight", || mesh.stats().in_flight == 10).await;
    let error = mesh.get("k").await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Overloaded && error.attempts() == 0 && error.is_retryable());
    waiting.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn a_closed_mesh_says_so() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.connect(patient()).await;
    mesh.clone().close().await;
    assert_eq!(kind(mesh.get("k").await), ErrorKind::Closed);
    assert_eq!(*mesh.state().borrow(), MeshState::Closed);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_with_the_reason() {
    let fake = FakeMesh::start(1).await;
    let stranger = Authority::new("test").unwrap();
    let pair = stranger.issue(Role::Client, "stranger", 1).unwrap();
    let builder = fake.builder().tls(Tls::pem(stranger.pem(), pair.cert, pair.key)).profile(Profile::default());
    let error = builder.connect().await.map(drop).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("authority"), "{error}");
}

#[tokio::test]
async fn a_builder_without_seeds_certificates_or_ports_says_what_is_missing() {
    let fake = FakeMesh::start(1).await;
    let words = |result: Result<Mesh, Error>| result.expect_err("it failed").to_string();
    assert!(words(Mesh::builder().connect_lazy()).contains("MESHWORK_SEEDS"));
    assert!(words(Mesh::builder().seeds(["a:1"]).connect_lazy()).contains("MESHWORK_CERT"));
    for seed in ["a", "a:", ":1", "a:0", "a:x"] {
        assert!(words(fake.builder().seeds([seed]).connect_lazy()).contains("host:port"), "{seed}");
    }
    assert!(
        words(Mesh::builder().seeds(["a:1"]).tls(Tls::files("nowhere", "x", "y")).connect_lazy()).contains("nowhere")
    );
}

#[tokio::test]
async fn a_seed_that_is_down_does_not_matter_while_another_is_up() {
    let fake = FakeMesh::start(1).await;
    let mesh = fake.builder().seeds(["127.0.0.1:9"]).profile(patient()).connect().await.unwrap();
    mesh.set("k", "v").await.unwrap();
}

#[tokio::test]
async fn control_questions_are_answered_by_any_node_and_refusals_are_typed() {
    let fake = FakeMesh::start(2).await;
    let mesh = fake.connect(patient()).await;
    assert!(mesh.control(ClientControl::Routing).await.is_ok());
    assert!(mesh.control_at(fake.nodes[1].address, ClientControl::Routing).await.is_ok());
    let error = mesh.control(ClientControl::NamespaceList).await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Denied && error.to_string().contains("a fake node cannot"));
}

#[tokio::test]
async fn a_node_in_this_process_answers_without_sockets_and_in_batches() {
    let local = FakeLocal::new(false);
    let mesh = Mesh::builder().local(local.clone()).connect().await.unwrap();
    let tasks: Vec<_> = (0..256u32)
        .map(|i| {
            let mesh = mesh.clone();
            tokio::spawn(async move {
                mesh.set(i.to_be_bytes(), i.to_string()).await.unwrap();
                assert_eq!(mesh.get(i.to_be_bytes()).await.unwrap().unwrap(), i.to_string());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(local.batches() < 32, "512 requests went in {} batches", local.batches());
    let users = mesh.namespace("users").typed::<crate::MsgPack<(u32, String)>>();
    users.set("1", &(1, "Ada".to_owned())).unwrap().await.unwrap();
    assert_eq!(users.get("1").await.unwrap().unwrap().1, "Ada");
    assert_eq!(kind(mesh.namespace("users").typed::<crate::Json<u32>>().get("1").await), ErrorKind::Codec);
}

#[tokio::test]
async fn what_the_node_in_this_process_answers_alone_is_not_sent_and_gives_way_to_others() {
    let local = FakeLocal::new(true);
    let mesh = Mesh::builder().local(local.clone()).connect().await.unwrap();
    mesh.default_namespace().set("k", "v").await.unwrap();
    let (sent, turns) = (local.batches(), Arc::new(AtomicU64::new(0)));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..10_000 {
        assert_eq!(mesh.default_namespace().get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    }
    other.abort();
    assert_eq!((local.batches(), mesh.stats().hits_here), (sent, 10_000));
    assert!(turns.load(Ordering::Relaxed) > 10, "a task that never has to wait shares its thread");
    assert_eq!(mesh.default_namespace().get("none").await.unwrap(), None);
    assert_eq!(local.batches(), sent + 1, "what the node does not answer alone is asked");
    let copy = mesh.clone();
    mesh.close().await;
    assert!(copy.default_namespace().get("k").await.is_err(), "a closed mesh answers nothing");
}

/// A mesh on a node in this process that holds "v" under "k" and says so on the caller's thread.
async fn with_a_value_here() -> (Mesh, Arc<FakeLocal>) {
    let local = FakeLocal::new(true);
    let mesh = Mesh::builder().local(local.clone()).connect().await.unwrap();
    mesh.set("k", "v").await.unwrap();
    (mesh, local)
}

async fn read(mesh: &Mesh, times: usize) {
    for _ in 0..times {
        assert_eq!(mesh.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    }
}

/// So many tasks of one thread read so often each; what the node was told to fetch.
async fn read_side_by_side(mesh: &Mesh, local: &FakeLocal, tasks: usize, times: usize) -> Vec<usize> {
    let task = |_| {
        let mesh = mesh.clone();
        tokio::spawn(async move { read(&mesh, times).await })
    };
    for task in (0..tasks).map(task).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let warmed = std::mem::take(&mut *local.warmed.lock().unwrap());
    warmed.iter().map(Vec::len).collect()
}

#[tokio::test]
async fn calls_on_one_thread_are_fetched_together() {
    let (mesh, local) = with_a_value_here().await;
    let sent = local.batches();
    for (tasks, most) in [(8, 8), (200, 64)] {
        let groups = read_side_by_side(&mesh, &local, tasks, 1_000).await;
        let (calls, grouped) = (tasks * 1_000, groups.iter().sum::<usize>());
        assert!(grouped > calls / 2, "{grouped} of {calls}");
        assert!(groups.len() * most / 2 < grouped, "{} groups of {grouped} calls", groups.len());
        assert!(groups.iter().all(|group| (2..=most).contains(group)), "{groups:?}");
    }
    assert_eq!((local.batches(), mesh.stats().hits_here), (sent, 208_000), "none is sent, none counted twice");
}

#[tokio::test]
async fn a_call_alone_on_its_thread_waits_for_no_group() {
    let (mesh, local) = with_a_value_here().await;
    assert_eq!(read_side_by_side(&mesh, &local, 1, 1_000).await, [0; 0]);
    assert_ne!(read_side_by_side(&mesh, &local, 3, 1_000).await, [0; 0]);
    assert_eq!(read_side_by_side(&mesh, &local, 1, 1_000).await, [0; 0], "nor when the others are done");
    let second = FakeLocal::new(true);
    let other = Mesh::builder().local(second.clone()).connect().await.unwrap();
    other.set("k", "v").await.unwrap();
    tokio::join!(read(&mesh, 1_000), read(&other, 1_000));
    let (of_one, of_other) = (local.warmed.lock().unwrap().len(), second.warmed.lock().unwrap().len());
    assert_eq!((of_one, of_other), (0, 0), "calls to two nodes make no group");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_its_group_to_the_others() {
    let (mesh, local) = with_a_value_here().await;
    let stops = async {
        for _ in 0..1_000 {
            tokio::select! { biased; _ = mesh.get("k").into_future() => {}, () = std::future::ready(()) => {} }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(stops, read(&mesh, 1_000), read(&mesh, 1_000));
    assert!(!local.warmed.lock().unwrap().is_empty());
    assert_eq!(mesh.stats().in_flight, 0);
}
