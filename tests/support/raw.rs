//! A client made of quinn alone: it speaks the protocol when asked to, and anything else too.
//!
//! `Raw::open` behaves (streams, `Hello`, requests one at a time) and asks exactly the node it dialled, where the real
//! client would go to an owner. `dial` gives the bare connection for those who misbehave. Servers' certificates are not
//! checked here: that the real client does is tested where it lives.

use super::{
    mesh::Papers,
    wait::{LIMIT, soon},
};
use bytes::BytesMut;
use meshwork_core::{
    id::{ClusterId, NamespaceId},
    time::Wall,
    wire::{
        client::{Consistency, Op, Reply, ReplyBody, Request, Status, Worth},
        control::{self, ClientControl, ControlReply},
        frame::{Decoder, FrameType},
        hello::{Hello, HelloReply, PROTOCOL, Welcome},
    },
};
use meshwork_transport::{ALPN, Identity, TlsFiles};
use quinn::{
    crypto::rustls::QuicClientConfig,
    rustls::{
        self,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) text: String,
    pub(crate) worth: Worth,
}

/// An open connection with the two streams of a link.
pub(crate) struct Raw {
    endpoint: quinn::Endpoint,
    pub(crate) connection: quinn::Connection,
    pub(crate) small: (quinn::SendStream, quinn::RecvStream),
    pub(crate) bulk: (quinn::SendStream, quinn::RecvStream),
    pub(crate) welcome: Welcome,
    next: u64,
}

/// Connects with these papers. A server that refuses them may say so only after this succeeded.
pub(crate) async fn dial(address: SocketAddr, papers: &Papers) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    dial_with(address, papers, aws_lc_rs::DEFAULT_KX_GROUPS).await
}

/// As `dial`, with these key exchanges only.
pub(crate) async fn dial_with(
    address: SocketAddr,
    papers: &Papers,
    groups: &[&'static dyn SupportedKxGroup],
) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
    let provider = Arc::new(provider);
    let chain = CertificateDer::pem_file_iter(&papers.cert).expect("readable").map(|cert| cert.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&papers.key).expect("a key");
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(chain, key)
        .expect("a pair");
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("has the initial suite")));
    let from = if address.ip().is_loopback() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let endpoint = quinn::Endpoint::client((from, 0).into()).expect("a UDP socket");
    let connecting = endpoint.connect_with(config, address, "meshwork").expect("a valid address");
    match soon("dialling", connecting).await {
        Ok(connection) => Ok((endpoint, connection)),
        Err(error) => Err(error.to_string()),
    }
}

/// Why the other side ended a connection.
pub(crate) async fn end_of(connection: &quinn::Connection) -> String {
    soon("the end of the connection", connection.closed()).await.to_string()
}

/// A frame of a stream: length and payload.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// The first frame of a client with these papers.
pub(crate) fn hello(papers: &Papers) -> Hello {
    let files = TlsFiles::new(&papers.ca, &papers.cert, &papers.key);
    let cluster = Identity::load(&files).expect("papers of our authority").cluster_id();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Hello {
        protocol: PROTOCOL,
        cluster: ClusterId(cluster.0),
        wall: Wall(u64::try_from(wall.as_millis()).expect("fits")),
        node: None,
        shard: 0,
    }
}

impl Raw {
    /// Connects, opens the streams, says hello and is welcomed.
    pub(crate) async fn open(address: SocketAddr, papers: &Papers) -> Result<Self, String> {
        Self::open_saying(address, papers, &hello(papers).to_bytes()).await
    }

    /// As `open`, with these bytes for a hello.
    pub(crate) async fn open_saying(address: SocketAddr, papers: &Papers, hello: &[u8]) -> Result<Self, String> {
        let (endpoint, connection) = dial(address, papers).await?;
        let mut small = connection.open_bi().await.map_err(|error| error.to_string())?;
        let mut bulk = connection.open_bi().await.map_err(|error| error.to_string())?;
        small.0.write_all(&framed(hello)).await.map_err(|error| error.to_string())?;
        bulk.0.write_all(&framed(&[0])).await.map_err(|error| error.to_string())?;
        let answer = match soon("an answer to the hello", frame(&mut small.1)).await {
            Ok(answer) => answer,
            // The reason is in the close, which may come after the stream's end.
            Err(error) => return Err(format!("{error}; {}", end_of(&connection).await)),
        };
        match HelloReply::from_bytes(&answer)? {
            HelloReply::Welcome(welcome) => Ok(Self { endpoint, connection, small, bulk, welcome: *welcome, next: 1 }),
            HelloReply::Refused { reason } => Err(reason),
        }
    }

    /// Sends these bytes as one frame.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        self.send_bytes(&framed(payload)).await
    }

    /// Sends these bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.small.0.write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// The next frame of the small stream.
    pub(crate) async fn frame(&mut self) -> Result<Vec<u8>, String> {
        soon("a frame", frame(&mut self.small.1)).await
    }

    /// Asks the node that was dialled, and waits for its reply.
    pub(crate) async fn ask(&mut self, key: &[u8], op: Op<'_>, consistency: Consistency) -> Result<Answer, String> {
        self.ask_in("default", key, op, consistency).await
    }

    /// As `ask`, in a namespace.
    pub(crate) async fn ask_in(
        &mut self,
        namespace: &str,
        key: &[u8],
        op: Op<'_>,
        consistency: Consistency,
    ) -> Result<Answer, String> {
        let frame = self.reply_to(2000, namespace, key, op, consistency).await?;
        let reply = reply_in(&frame)?;
        let (value, text) = match reply.body {
            ReplyBody::Value { value, .. } => (Some(value.to_vec()), String::new()),
            ReplyBody::Text(text) => (None, text.to_owned()),
            ReplyBody::Empty | ReplyBody::Written { .. } => (None, String::new()),
        };
        Ok(Answer { status: reply.status, value, text, worth: reply.worth })
    }

    /// As `ask_in`, with a deadline; the reply's frame, for `reply_in`.
    pub(crate) async fn reply_to(
        &mut self,
        deadline_ms: u32,
        namespace: &str,
        key: &[u8],
        op: Op<'_>,
        consistency: Consistency,
    ) -> Result<Vec<u8>, String> {
        let id = self.next_id();
        let mut payload = BytesMut::new();
        let namespace = NamespaceId::of(namespace);
        Request { id, deadline_ms, sent: 0, consistency, namespace, key, op }.encode(&mut payload);
        self.send(&payload).await?;
        let frame = self.frame().await?;
        let (frame_type, of, _) = Decoder::start(&frame).map_err(|error| error.to_string())?;
        assert_eq!((frame_type, of), (FrameType::Reply, id), "the reply to our only request");
        Ok(frame)
    }

    /// Sends a control message and waits for its reply.
    pub(crate) async fn control(&mut self, message: &ClientControl) -> Result<ControlReply, String> {
        let id = self.next_id();
        let mut payload = BytesMut::new();
        control::encode(&mut payload, id, message);
        self.send(&payload).await?;
        let frame = self.frame().await?;
        let (frame_type, of, mut decoder) = Decoder::start(&frame).map_err(|error| error.to_string())?;
        assert_eq!((frame_type, of), (FrameType::Control, id), "the reply to our only message");
        control::decode(of, &mut decoder).map_err(|error| error.to_string())
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"done");
    }
}

/// The reply in a frame.
pub(crate) fn reply_in(frame: &[u8]) -> Result<Reply<'_>, String> {
    let (_, id, mut decoder) = Decoder::start(frame).map_err(|error| error.to_string())?;
    Reply::decode(id, &mut decoder).map_err(|error| error.to_string())
}

async fn frame(stream: &mut quinn::RecvStream) -> Result<Vec<u8>, String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|error| error.to_string())?;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("32 bits fit")];
    stream.read_exact(&mut payload).await.map_err(|error| error.to_string())?;
    Ok(payload)
}

/// Writes a value through the node at `address`: must be acknowledged.
pub(crate) fn put(address: SocketAddr, papers: &Papers, key: &str, value: &str, consistency: Consistency) -> Answer {
    let op = Op::Put { value: value.as_bytes(), ttl: Default::default(), condition: Default::default() };
    ask(address, papers, key, op, consistency)
}

/// Reads a value through the node at `address`.
pub(crate) fn get(address: SocketAddr, papers: &Papers, key: &str, consistency: Consistency) -> Answer {
    ask(address, papers, key, Op::Get, consistency)
}

fn ask(address: SocketAddr, papers: &Papers, key: &str, op: Op<'_>, consistency: Consistency) -> Answer {
    super::wait::run(&format!("{key} at {address} within {LIMIT:?}"), async {
        let mut raw = Raw::open(address, papers).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        raw.ask(key.as_bytes(), op, consistency).await.unwrap_or_else(|error| panic!("{address}: {error}"))
    })
}

/// Takes any server for the one that was dialled.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
