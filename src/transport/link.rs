//! One connection between two shards, or between a client and a shard.
//!
//! The dialler opens two bidirectional streams. `small` begins with its `Hello` frame, whose bytes mean nothing here;
//! the acceptor answers with the first frame of the other direction. `bulk` begins with a frame of one byte, because a
//! stream exists for the peer only once something was sent on it; it has the lower priority and takes every frame above
//! 64 KiB. Datagrams carry gossip (PROTOCOL §7). A link never redials and holds no requests: its owner does.
//!
//! `Link` is cheap to clone, `Send + Sync`, and closes its connection when the last clone goes. The two `FrameReader`s
//! are separate, for the tasks that read.

use crate::{
    activity::Activity,
    error::LinkError,
    frames::{FrameError, FrameLimits, FrameReader},
    identity::PeerIdentity,
    options::TransportOptions,
    outbox::Outbox,
};
use bytes::{Bytes, BytesMut};
use quinn::VarInt;
use rustls_pki_types::CertificateDer;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// Largest datagram on any link: what fits the first packets of every path (PROTOCOL §7).
pub const DATAGRAM_BYTES_MAX: usize = 1100;

/// First frame of `bulk`.
const BULK_OPENING: &[u8] = &[0];

/// A fresh link: its sending half, its readers, and the first frame of the other side.
pub struct Established {
    /// Sends, tells, closes.
    pub link: Link,
    /// What the other side said first: its `Hello`, or the answer to ours.
    pub hello: Bytes,
    /// Frames up to 64 KiB.
    pub small: FrameReader,
    /// Larger frames, streams, hints.
    pub bulk: FrameReader,
}

/// One connection. See the module.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    connection: quinn::Connection,
    peer: PeerIdentity,
    limits: FrameLimits,
    small: Arc<Outbox>,
    bulk: Arc<Outbox>,
    activity: Arc<Activity>,
    idle: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
        self.small.abandon();
        self.bulk.abandon();
    }
}

/// Counters of one link since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// UDP bytes sent.
    pub sent_bytes: u64,
    /// UDP bytes received.
    pub received_bytes: u64,
    /// Congestion window, bytes.
    pub congestion_window: u64,
    /// Path MTU, bytes of UDP payload.
    pub mtu: u16,
}

/// Why a datagram was not sent. Datagrams may also be lost without a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Above `DATAGRAM_BYTES_MAX`.
    #[error("a datagram of {0} bytes, the limit is {DATAGRAM_BYTES_MAX}")]
    TooLarge(usize),
    /// The peer takes no datagrams.
    #[error("the other side takes no datagrams")]
    Unsupported,
    /// The connection is over.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Link {
    /// Opens the streams of a connection we dialled, says `hello`, waits for the answer.
    pub(crate) async fn open(
        connection: quinn::Connection,
        hello: &[u8],
        options: &TransportOptions,
    ) -> Result<Established, LinkError> {
        let idle = options.idle_timeout;
        let lost = |error| LinkError::of(error, idle);
        let small = connection.open_bi().await.map_err(lost)?;
        let bulk = connection.open_bi().await.map_err(lost)?;
        let mut parts = Self::assemble(connection, small, bulk, options)?;
        parts.link.frame(|buffer| buffer.extend_from_slice(hello))?;
        parts.link.bulk_frame(|buffer| buffer.extend_from_slice(BULK_OPENING))?;
        parts.link.flush();
        parts.hello = parts.small.one().await?.ok_or(LinkError::Opening("it ended the stream instead of answering"))?;
        Ok(parts)
    }

    /// Takes the streams of a connection that was dialled by the other side, and its hello.
    pub(crate) async fn take(
        connection: quinn::Connection,
        options: &TransportOptions,
    ) -> Result<Established, LinkError> {
        let idle = options.idle_timeout;
        let lost = |error| LinkError::of(error, idle);
        let small = connection.accept_bi().await.map_err(lost)?;
        let bulk = connection.accept_bi().await.map_err(lost)?;
        let mut parts = Self::assemble(connection, small, bulk, options)?;
        parts.hello = parts.small.one().await?.ok_or(LinkError::Opening("it ended the stream without a hello"))?;
        match parts.bulk.one().await? {
            Some(frame) if frame == BULK_OPENING => Ok(parts),
            Some(_) | None => Err(LinkError::Opening("the second stream does not begin as bulk")),
        }
    }

    fn assemble(
        connection: quinn::Connection,
        small: (quinn::SendStream, quinn::RecvStream),
        bulk: (quinn::SendStream, quinn::RecvStream),
        options: &TransportOptions,
    ) -> Result<Established, LinkError> {
        let peer = connection
            .peer_identity()
            .and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok())
            .and_then(|chain| PeerIdentity::of(chain.first()?))
            .ok_or(LinkError::Opening("it showed no certificate"))?;
        // Fails only on a closed stream, which the first write reports.
        let _ = bulk.0.set_priority(-1);
        let (activity, limits, idle) = (Arc::new(Activity::new()), options.frames, options.idle_timeout);
        let reader = |stream, limit| FrameReader::new(stream, limit, activity.clone(), idle);
        let (small_reader, bulk_reader) = (reader(small.1, limits.small), reader(bulk.1, limits.bulk));
        let inner = Inner {
            connection,
            peer,
            limits,
            small: Outbox::start(small.0, activity.clone()),
            bulk: Outbox::start(bulk.0, activity.clone()),
            activity,
            idle,
        };
        let link = Self(Arc::new(inner));
        Ok(Established { link, hello: Bytes::new(), small: small_reader, bulk: bulk_reader })
    }

    /// Queues one frame: `encode` appends its payload to the buffer and nothing else. It goes to `small`, or to `bulk`
    /// when it came out larger than 64 KiB; order holds within a stream only. Nothing is sent before `flush`. A payload
    /// left empty is not a frame. Errors queue nothing.
    #[inline]
    pub fn frame(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), FrameError> {
        let overflow = Some((&*self.0.bulk, self.0.limits.bulk));
        self.0.small.frame(self.0.limits.small, overflow, encode)
    }

    /// Queues one frame on `bulk` whatever its size: streams, hints, anti-entropy.
    pub fn bulk_frame(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), FrameError> {
        self.0.bulk.frame(self.0.limits.bulk, None, encode)
    }

    /// Sends what is queued on both streams. Once per batch of frames: each call costs a task wake-up.
    #[inline]
    pub fn flush(&self) {
        self.0.small.flush();
        self.0.bulk.flush();
    }

    /// Queues and sends one frame: the answer to a hello.
    pub fn answer(&self, payload: &[u8]) -> Result<(), FrameError> {
        self.frame(|buffer| buffer.extend_from_slice(payload))?;
        self.flush();
        Ok(())
    }

    /// Bytes queued on both streams that the connection has not taken yet: above a bound of its own, the caller
    /// answers `Overloaded` instead of queueing more.
    pub fn queued_bytes(&self) -> usize {
        self.0.small.queued() + self.0.bulk.queued()
    }

    /// Waits until at most `bytes` are queued on `bulk`, or the link is over: paces senders of streams.
    pub async fn bulk_below(&self, bytes: usize) {
        self.0.bulk.drained(bytes).await;
    }

    /// Sends a datagram of at most `DATAGRAM_BYTES_MAX` bytes; older ones are dropped when the buffer is full.
    pub fn send_datagram(&self, payload: &[u8]) -> Result<(), DatagramError> {
        if payload.len() > DATAGRAM_BYTES_MAX {
            return Err(DatagramError::TooLarge(payload.len()));
        }
        self.0.connection.send_datagram(Bytes::copy_from_slice(payload)).map_err(|error| match error {
            quinn::SendDatagramError::UnsupportedByPeer | quinn::SendDatagramError::Disabled => {
                DatagramError::Unsupported
            }
            quinn::SendDatagramError::TooLarge => DatagramError::TooLarge(payload.len()),
            quinn::SendDatagramError::ConnectionLost(lost) => LinkError::of(lost, self.0.idle).into(),
        })
    }

    /// Waits for the next datagram. Safe to cancel.
    pub async fn read_datagram(&self) -> Result<Bytes, LinkError> {
        self.0.connection.read_datagram().await.map_err(|lost| LinkError::of(lost, self.0.idle))
    }

    /// Closes at once: queued frames are lost, the other side is told `code` and `reason` (cut to 200 bytes).
    pub fn close(&self, code: u32, reason: &str) {
        let shown = reason.as_bytes();
        self.0.connection.close(VarInt::from_u32(code.min(MAX_CODE)), &shown[..shown.len().min(200)]);
        self.0.small.abandon();
        self.0.bulk.abandon();
    }

    /// Takes no more frames, waits until the queued ones are acknowledged by the other side's QUIC (or `within` is
    /// over), then closes.
    pub async fn finish(&self, code: u32, reason: &str, within: Duration) {
        let both = async { tokio::join!(self.0.small.finish(), self.0.bulk.finish()) };
        // Out of time: closed all the same.
        let _ = tokio::time::timeout(within, both).await;
        self.close(code, reason);
    }

    /// Why the link is over; `None` while it lives.
    pub fn close_reason(&self) -> Option<LinkError> {
        self.0.connection.close_reason().map(|lost| LinkError::of(lost, self.0.idle))
    }

    /// Waits for the end of the link.
    pub async fn closed(&self) -> LinkError {
        LinkError::of(self.0.connection.closed().await, self.0.idle)
    }

    /// Time since the last frame in either direction; keep-alives and datagrams do not count.
    pub fn idle_for(&self) -> Duration {
        self.0.activity.idle_for()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Who is at the other side, by its verified certificate.
    pub fn peer(&self) -> &PeerIdentity {
        &self.0.peer
    }

    /// Where the other side is now.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Counters. Locks the connection: for scrapes, not for each request.
    pub fn stats(&self) -> LinkStats {
        let stats = self.0.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            congestion_window: stats.path.cwnd,
            mtu: stats.path.current_mtu,
        }
    }

    /// Whether both handles are of one link.
    #[inline]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} at {})", self.0.peer, self.remote_address())
    }
}

/// QUIC's varints hold 62 bits; ours are kept to 30 so that they take four bytes.
const MAX_CODE: u32 = (1 << 30) - 1;
