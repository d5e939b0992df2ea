//! Links over loopback: frames, hostile streams, refusals with their reasons, reload.
//!
//! Everything waits for conditions under one limit (`soon`); no test depends on how long something takes.

use super::*;
use crate::{
    certificate::Authority,
    identity::{Identity, TlsFiles},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs::kx_group};
use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

const LIMIT: Duration = Duration::from_secs(30);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {LIMIT:?}"))
}

/// An identity issued by `authority`, valid for `days`, checked as of a day on which it was valid.
fn issued(authority: &Authority, role: Role, name: &str, days: i64) -> Identity {
    let pair = authority.issue(role, name, days).unwrap();
    let names = TlsFiles::new("ca.pem", "me.pem", "me.key");
    let then = if days > 0 { SystemTime::now() } else { SystemTime::now() - Duration::from_secs(2 * 86_400) };
    Identity::from_pem(&names, authority.pem().as_bytes(), pair.cert.as_bytes(), pair.key.as_bytes(), then).unwrap()
}

fn node(authority: &Authority) -> Identity {
    issued(authority, Role::Node, "mesh-0", 30)
}

fn client(authority: &Authority) -> Identity {
    issued(authority, Role::Client, "app", 30)
}

fn server(identity: &Identity, options: TransportOptions) -> Endpoint {
    Endpoint::server(ANY, identity, options).unwrap()
}

fn dialler(identity: &Identity, options: TransportOptions) -> Endpoint {
    Endpoint::client(ANY, identity, options).unwrap()
}

/// Dials and accepts once; what each side got.
async fn meet(from: &Endpoint, to: &Endpoint) -> (Result<Established, LinkError>, Result<Established, LinkError>) {
    let accepting = async {
        let accepted = to.accept().await.expect("the endpoint is open").establish().await;
        if let Ok(established) = &accepted {
            established.link.answer(b"welcome").unwrap();
        }
        accepted
    };
    let dialling = from.dial(to.local_address(), b"hello", LIMIT);
    soon("meeting", async { tokio::join!(dialling, accepting) }).await
}

async fn linked() -> (Established, Established, Endpoint, Endpoint) {
    let authority = Authority::new("prod").unwrap();
    let options = TransportOptions::default();
    let (to, from) = (server(&node(&authority), options.clone()), dialler(&client(&authority), options));
    let (dialled, accepted) = meet(&from, &to).await;
    (dialled.unwrap(), accepted.unwrap(), from, to)
}

fn refusals(result: (Result<Established, LinkError>, Result<Established, LinkError>)) -> (TlsRefusal, TlsRefusal) {
    let refusal = |side: Result<Established, LinkError>| match side.err().expect("refused") {
        LinkError::Refused(refusal) | LinkError::RefusedByPeer(refusal) => refusal,
        other => panic!("not a refusal: {other}"),
    };
    (refusal(result.0), refusal(result.1))
}

#[tokio::test]
async fn hellos_and_identities_are_exchanged() {
    let (dialled, accepted, _from, _to) = linked().await;
    assert_eq!(&dialled.hello[..], b"welcome");
    assert_eq!(&accepted.hello[..], b"hello");
    assert_eq!(dialled.link.peer().to_string(), "meshwork://prod/node/mesh-0");
    assert_eq!(accepted.link.peer().to_string(), "meshwork://prod/client/app");
    assert!(dialled.link.idle_for() < LIMIT);
    assert!(dialled.link.stats().sent_packets > 0);
}

#[tokio::test]
async fn frames_of_all_sizes_arrive_whole_and_in_order_both_ways() {
    let (dialled, accepted, _from, _to) = linked().await;
    let sizes: Vec<usize> = [1, 3, 4, 5, 1000, 1400, 6500, 40_000, 65_535, 65_536].repeat(20);
    let send = |link: Link, sizes: Vec<usize>| async move {
        for (index, size) in sizes.iter().enumerate() {
            link.frame(|buffer| buffer.resize(buffer.len() + size, index as u8)).unwrap();
            if index % 3 == 0 {
                link.flush();
            }
        }
        link.flush();
    };
    let receive = |mut reader: FrameReader, sizes: Vec<usize>| async move {
        let mut index = 0;
        while index < sizes.len() {
            let mut frames = reader.batch().await.unwrap().expect("the stream goes on");
            while let Some(frame) = frames.next() {
                assert_eq!(frame.len(), sizes[index]);
                assert!(frame.iter().all(|byte| *byte == index as u8));
                index += 1;
            }
        }
    };
    let all = async {
        tokio::join!(
            send(dialled.link.clone(), sizes.clone()),
            send(accepted.link.clone(), sizes.clone()),
            receive(dialled.small, sizes.clone()),
            receive(accepted.small, sizes.clone()),
        )
    };
    soon("all frames", all).await;
}

#[tokio::test]
async fn eight_mebibytes_go_over_bulk_while_small_answers() {
    let (mut dialled, mut accepted, _from, _to) = linked().await;
    let big = 8 << 20;
    for _ in 0..3 {
        dialled.link.frame(|buffer| buffer.resize(buffer.len() + big, 7)).unwrap();
    }
    dialled.link.flush();
    assert!(dialled.link.queued_bytes() >= 2 * big, "three frames do not fit the send window");
    let echo = {
        let link = accepted.link.clone();
        tokio::spawn(async move {
            while let Ok(Some(mut frames)) = accepted.small.batch().await {
                while let Some(frame) = frames.next() {
                    link.frame(|buffer| buffer.extend_from_slice(frame)).unwrap();
                }
                link.flush();
            }
        })
    };
    // Nobody reads bulk yet, so its window is full: small must still answer, in order.
    for round in 0..100u32 {
        dialled.link.answer(&round.to_be_bytes()).unwrap();
        let answer = soon("an answer on small", dialled.small.one()).await.unwrap().unwrap();
        assert_eq!(&answer[..], &round.to_be_bytes());
    }
    for _ in 0..3 {
        let frame = soon("a large frame", accepted.bulk.one()).await.unwrap().unwrap();
        assert_eq!(frame.len(), big);
        assert!(frame.iter().all(|byte| *byte == 7));
    }
    soon("an empty queue", dialled.link.bulk_below(0)).await;
    dialled.link.close(9, "done");
    let reason = soon("the close", accepted.link.closed()).await;
    assert_eq!(reason, LinkError::ClosedByPeer { code: 9, reason: "done".to_owned() });
    soon("the echo's end", echo).await.unwrap();
}

#[tokio::test]
async fn a_frame_above_the_largest_limit_is_refused_and_leaves_no_trace() {
    let (dialled, mut accepted, _from, _to) = linked().await;
    let limit = FrameLimits::default().bulk;
    let error = dialled.link.frame(|buffer| buffer.resize(buffer.len() + limit + 1, 1)).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { length: limit + 1, limit });
    dialled.link.frame(|_| ()).unwrap();
    assert_eq!(dialled.link.queued_bytes(), 0);
    dialled.link.answer(b"next").unwrap();
    assert_eq!(&soon("the next frame", accepted.small.one()).await.unwrap().unwrap()[..], b"next");
}

#[tokio::test]
async fn finishing_delivers_everything_queued_first() {
    let (dialled, mut accepted, _from, _to) = linked().await;
    for _ in 0..1000 {
        dialled.link.frame(|buffer| buffer.extend_from_slice(&[5; 1000])).unwrap();
    }
    let count = async {
        let mut count = 0;
        while let Ok(Some(mut frames)) = accepted.small.batch().await {
            while frames.next().is_some() {
                count += 1;
            }
        }
        count
    };
    let (count, ()) =
        soon("all frames", async { tokio::join!(count, dialled.link.finish(0, "stopping", LIMIT)) }).await;
    assert_eq!(count, 1000);
    assert_eq!(dialled.link.frame(|buffer| buffer.extend_from_slice(b"late")), Err(FrameError::LinkClosed));
}

#[tokio::test]
async fn datagrams_arrive_and_oversized_ones_are_refused() {
    let (dialled, accepted, _from, _to) = linked().await;
    let full = vec![3; DATAGRAM_BYTES_MAX];
    dialled.link.send_datagram(&full).unwrap();
    assert_eq!(soon("a datagram", accepted.link.read_datagram()).await.unwrap(), full);
    accepted.link.send_datagram(b"back").unwrap();
    assert_eq!(&soon("a datagram", dialled.link.read_datagram()).await.unwrap()[..], b"back");
    let larger = vec![3; DATAGRAM_BYTES_MAX + 1];
    assert_eq!(dialled.link.send_datagram(&larger), Err(DatagramError::TooLarge(DATAGRAM_BYTES_MAX + 1)));
}

/// A client of the right cluster that speaks QUIC by hand.
async fn raw(
    identity: &Identity,
    to: SocketAddr,
    groups: Vec<&'static dyn SupportedKxGroup>,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let crypto = QuicClientConfig::try_from(tls::client_config(identity, groups).unwrap()).unwrap();
    let endpoint = quinn::Endpoint::client(ANY).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connection = endpoint.connect_with(config, to, "meshwork").unwrap().await?;
    Ok((endpoint, connection))
}

#[tokio::test]
async fn hostile_lengths_and_cut_streams_are_typed_errors() {
    let authority = Authority::new("prod").unwrap();
    let to = server(&node(&authority), TransportOptions::default());
    let limit = FrameLimits::default().small;
    let truncated = [&8u32.to_be_bytes()[..], b"half"].concat();
    for (bytes, expected) in [
        (vec![0; 4], FrameError::Empty),
        (vec![255; 4], FrameError::TooLarge { length: u32::MAX as usize, limit }),
        (truncated, FrameError::Truncated),
    ] {
        let accepting = async {
            let mut accepted = to.accept().await.unwrap().establish().await.unwrap();
            accepted.small.for_each_batch(|mut frames| while frames.next().is_some() {}).await
        };
        let attacking = async {
            let (endpoint, connection) =
                raw(&client(&authority), to.local_address(), PostQuantum::Preferred.groups()).await.unwrap();
            let (mut small, _answers) = connection.open_bi().await.unwrap();
            let (mut bulk, _more) = connection.open_bi().await.unwrap();
            small.write_all(b"\0\0\0\x05hello").await.unwrap();
            bulk.write_all(b"\0\0\0\x01\0").await.unwrap();
            small.write_all(&bytes).await.unwrap();
            small.finish().unwrap();
            connection.closed().await;
            drop(endpoint);
        };
        let (got, ()) = soon("the error", async { tokio::join!(accepting, attacking) }).await;
        assert_eq!(got, Err(expected));
    }
}

#[tokio::test]
async fn a_peer_that_never_says_hello_is_dropped_and_others_are_served() {
    let authority = Authority::new("prod").unwrap();
    let options = TransportOptions { handshake_timeout: Duration::from_millis(200), ..TransportOptions::default() };
    let to = server(&node(&authority), options.clone());
    let silent = async {
        let (_endpoint, connection) =
            raw(&client(&authority), to.local_address(), PostQuantum::Preferred.groups()).await.unwrap();
        connection.closed().await
    };
    let accepting = async { to.accept().await.unwrap().establish().await.err() };
    let (_, error) = soon("the timeout", async { tokio::join!(silent, accepting) }).await;
    assert_eq!(error, Some(LinkError::TimedOut(options.handshake_timeout)));
    let from = dialler(&client(&authority), TransportOptions::default());
    let (dialled, accepted) = meet(&from, &to).await;
    assert!(dialled.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn another_authority_is_refused_by_name() {
    let (ours, theirs) = (Authority::new("prod").unwrap(), Authority::new("prod").unwrap());
    let options = TransportOptions::default();
    let (dialled, accepted) =
        refusals(meet(&dialler(&client(&theirs), options.clone()), &server(&node(&ours), options)).await);
    assert_eq!(dialled.reason, RefusalReason::UnknownAuthority);
    assert!(dialled.text.contains("wrong CA") && dialled.text.contains("meshwork://prod/node/mesh-0"), "{dialled}");
    assert_eq!(accepted, dialled, "the other side learns the same reason");
}

/// An identity of another cluster that the same authority signed.
fn twin(of: &Authority, cluster: &str) -> Identity {
    // Signed by the right authority, named for another cluster: only the name check can refuse it.
    let pair = of.issue_for(cluster, Role::Client, "app", 30).unwrap();
    let names = TlsFiles::new("ca.pem", "me.pem", "me.key");
    let (ca, now) = (of.pem().as_bytes(), SystemTime::now());
    Identity::from_pem(&names, ca, pair.cert.as_bytes(), pair.key.as_bytes(), now).unwrap()
}

#[tokio::test]
async fn another_cluster_is_refused_by_name() {
    let authority = Authority::new("prod").unwrap();
    let options = TransportOptions::default();
    let from = dialler(&twin(&authority, "test"), options.clone());
    let (dialled, accepted) = refusals(meet(&from, &server(&node(&authority), options)).await);
    assert_eq!(dialled.reason, RefusalReason::WrongCluster);
    // The dialler checks first, so it is the one that refuses.
    assert_eq!(dialled.text, "the certificate is of cluster \"prod\", expected \"test\"");
    assert_eq!(accepted, dialled);
}

#[tokio::test]
async fn a_client_that_poses_as_a_node_is_refused() {
    let authority = Authority::new("prod").unwrap();
    let options = TransportOptions::default();
    let (posing, from) = (server(&client(&authority), options.clone()), dialler(&client(&authority), options));
    let (dialled, accepted) = refusals(meet(&from, &posing).await);
    assert_eq!(dialled.reason, RefusalReason::WrongRole);
    assert_eq!(dialled.text, "the certificate of \"app\" has the role client, expected node");
    assert_eq!(accepted, dialled);
}

#[tokio::test]
async fn a_role_the_endpoint_does_not_take_is_refused_and_the_dialler_is_told() {
    let authority = Authority::new("prod").unwrap();
    let nodes_only = TransportOptions { roles: vec![Role::Node], ..TransportOptions::default() };
    let to = server(&node(&authority), nodes_only);
    let from = dialler(&client(&authority), TransportOptions::default());
    let (dialled, accepted) = meet(&from, &to).await;
    let expected = "the certificate of \"app\" has the role client, expected node";
    assert_eq!(accepted.err().unwrap().to_string(), format!("refused the other side: {expected}"));
    let told = dialled.err().unwrap();
    assert_eq!(told.to_string(), format!("the other side refused our certificate: {expected}"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_date_on_both_sides() {
    let authority = Authority::new("prod").unwrap();
    let expired = issued(&authority, Role::Client, "app", -1);
    let to = server(&node(&authority), TransportOptions::default());
    let from = dialler(&expired, TransportOptions::default());
    let (dialled, accepted) = refusals(meet(&from, &to).await);
    let date = refusal::rfc3339(expired.expires_at());
    assert_eq!(accepted.reason, RefusalReason::Expired);
    assert_eq!(accepted.text, format!("the certificate meshwork://prod/client/app expired at {date}"));
    assert_eq!(dialled, accepted);
}

#[tokio::test]
async fn required_post_quantum_refuses_a_peer_that_offers_only_x25519() {
    let authority = Authority::new("prod").unwrap();
    let classic: Vec<&'static dyn SupportedKxGroup> = vec![kx_group::X25519];
    for (required, taken) in [(PostQuantum::Required, false), (PostQuantum::Preferred, true)] {
        let options = TransportOptions { post_quantum: required, ..TransportOptions::default() };
        let to = server(&node(&authority), options.clone());
        // As acceptor.
        let identity = client(&authority);
        let accepting = async {
            let incoming = to.accept().await.unwrap();
            let remote = incoming.establish();
            tokio::time::timeout(Duration::from_secs(if taken { 1 } else { 30 }), remote).await
        };
        let (dialled, accepted) =
            soon("both ends", async { tokio::join!(raw(&identity, to.local_address(), classic.clone()), accepting) })
                .await;
        assert_eq!(dialled.is_ok(), taken);
        if !taken {
            let Ok(Err(LinkError::Refused(refusal))) = accepted else { panic!("refused on the accepting side") };
            assert_eq!(refusal.reason, RefusalReason::NoPostQuantum);
        }
        // As dialler.
        let crypto = tls::server_config(&node(&authority), classic.clone(), &[Role::Client]).unwrap();
        let crypto = QuicServerConfig::try_from(crypto).unwrap();
        let old = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), ANY).unwrap();
        let from = dialler(&client(&authority), options);
        let accepting = async { old.accept().await.unwrap().await };
        let address = old.local_addr().unwrap();
        let within = if taken { Duration::from_secs(1) } else { LIMIT };
        let (dialled, accepted) =
            soon("both ends", async { tokio::join!(from.dial(address, b"hello", within), accepting) }).await;
        assert_eq!(accepted.is_ok(), taken);
        if !taken {
            let Some(LinkError::RefusedByPeer(refusal)) = dialled.err() else { panic!("refused by the old node") };
            assert_eq!(refusal.reason, RefusalReason::NoPostQuantum);
        }
    }
}

#[tokio::test]
async fn preferred_and_required_meet() {
    let authority = Authority::new("prod").unwrap();
    let with = |post_quantum| TransportOptions { post_quantum, ..TransportOptions::default() };
    for (a, b) in [
        (PostQuantum::Preferred, PostQuantum::Required),
        (PostQuantum::Required, PostQuantum::Preferred),
        (PostQuantum::Required, PostQuantum::Required),
    ] {
        let (dialled, accepted) =
            meet(&dialler(&client(&authority), with(a)), &server(&node(&authority), with(b))).await;
        assert!(dialled.is_ok() && accepted.is_ok());
    }
}

#[tokio::test]
async fn a_reload_uses_the_new_certificate_and_keeps_the_old_link() {
    let authority = Authority::new("prod").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let files = TlsFiles::new(path("ca.pem"), path("me.pem"), path("me.key"));
    let put = |pair: &PemPair| {
        std::fs::write(&files.cert, &pair.cert).unwrap();
        std::fs::write(&files.key, &pair.key).unwrap();
    };
    std::fs::write(&files.ca, authority.pem()).unwrap();
    put(&authority.issue(Role::Node, "old", 30).unwrap());
    let mut watch = IdentityWatch::new(files.clone(), Duration::from_millis(5));
    let to = server(&Identity::load(&files).unwrap(), TransportOptions::default());
    let from = dialler(&client(&authority), TransportOptions::default());
    let (before, accepted) = meet(&from, &to).await;
    let (mut before, accepted) = (before.unwrap(), accepted.unwrap());
    assert_eq!(before.link.peer().name, "old");

    let new = authority.issue(Role::Node, "new-name", 30).unwrap();
    std::fs::write(&files.cert, &new.cert).unwrap();
    assert!(watch.look().is_none(), "certificate and key do not match yet");
    put(&new);
    let identity = soon("the change", watch.changed()).await;
    assert_eq!(identity.own().name, "new-name");
    to.reload(&identity).unwrap();

    let (after, _accepted) = meet(&from, &to).await;
    assert_eq!(after.unwrap().link.peer().name, "new-name");
    accepted.link.answer(b"still here").unwrap();
    assert_eq!(&soon("a frame on the old link", before.small.one()).await.unwrap().unwrap()[..], b"still here");
    assert_eq!(before.link.close_reason(), None);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let authority = Authority::new("prod").unwrap();
    let first = server(&node(&authority), TransportOptions::default());
    let taken = first.local_address();
    let error = Endpoint::server(taken, &node(&authority), TransportOptions::default()).err().unwrap();
    assert!(matches!(error, EndpointError::PortInUse(address) if address == taken));
    assert!(error.to_string().starts_with(&format!("UDP {taken} is in use")), "{error}");
}

#[test]
fn short_socket_buffers_warn_with_the_setting_to_raise() {
    let short = SocketReport { asked: 8 << 20, receive: 212_992, send: 8 << 20 };
    let warning = short.warning().unwrap();
    assert!(warning.contains("net.core.rmem_max") && !warning.contains("wmem_max"), "{warning}");
    assert_eq!(SocketReport { receive: 8 << 20, ..short }.warning(), None);
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (ours, theirs) = (Authority::new("prod").unwrap(), Authority::new("prod").unwrap());
    ours.write(directory.path()).unwrap();
    ours.issue(Role::Node, "a", 30).unwrap().write(directory.path(), "a").unwrap();
    ours.issue(Role::Client, "b", 30).unwrap().write(directory.path(), "b").unwrap();
    ours.issue(Role::Client, "old", 0).unwrap().write(directory.path(), "old").unwrap();
    theirs.issue(Role::Client, "x", 30).unwrap().write(directory.path(), "x").unwrap();
    std::fs::write(path("text"), "hello").unwrap();
    let load = |ca: &str, cert: &str, key: &str| Identity::load(&TlsFiles::new(path(ca), path(cert), path(key)));

    let good = load("ca.pem", "a.pem", "a.key").unwrap();
    assert_eq!(good.own().to_string(), "meshwork://prod/node/a");
    assert_eq!(good.cluster_id(), load("ca.pem", "b.pem", "b.key").unwrap().cluster_id());
    let left = good.expires_at().duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((29 * 86_400..=30 * 86_400).contains(&left), "{left}");

    assert!(matches!(load("none", "a.pem", "a.key"), Err(IdentityError::Unreadable { .. })));
    assert!(matches!(load("text", "a.pem", "a.key"), Err(IdentityError::NotPem { .. })));
    assert!(matches!(load("ca.pem", "a.pem", "a.pem"), Err(IdentityError::NotPem { .. })));
    assert!(matches!(load("ca.pem", "a.pem", "b.key"), Err(IdentityError::KeyMismatch { .. })));
    assert!(matches!(load("ca.pem", "x.pem", "x.key"), Err(IdentityError::UnknownAuthority { .. })));
    assert!(matches!(load("ca.pem", "old.pem", "old.key"), Err(IdentityError::Expired { .. })));
    assert!(matches!(load("ca.pem", "ca.pem", "ca.key"), Err(IdentityError::NoName { .. })));
}

#[test]
fn an_authority_reads_back_and_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let made = Authority::new("prod-1.eu").unwrap();
    let (_, key) = made.write(directory.path()).unwrap();
    assert!(matches!(made.write(directory.path()), Err(CertificateIssueError::Exists { .. })));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let read = Authority::load(directory.path()).unwrap();
    assert_eq!(read.cluster(), "prod-1.eu");
    let names = TlsFiles::new("ca", "cert", "key");
    let pair = read.issue(Role::Admin, "ops", 1).unwrap();
    let identity =
        Identity::from_pem(&names, made.pem().as_bytes(), pair.cert.as_bytes(), pair.key.as_bytes(), SystemTime::now());
    assert_eq!(identity.unwrap().own().to_string(), "meshwork://prod-1.eu/admin/ops");
    assert!(made.issue(Role::Client, "a/b", 1).is_err());
    assert!(Authority::new("").is_err());
}
