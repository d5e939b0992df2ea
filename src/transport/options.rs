//! What an endpoint may be told, and how that becomes quinn's settings (PERFORMANCE §3.3).
//!
//! Every buffer a peer can fill has a bound here. A connection may hold `receive_window` bytes we have not read and
//! `send_window` bytes it has not acknowledged; with `connections_max` that bounds the transport's memory.

use crate::{frames::FrameLimits, identity::Role, tls::PostQuantum};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, congestion::CubicConfig};
use std::{sync::Arc, time::Duration};

/// Settings of an endpoint. The default suits nodes and clients alike.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Key exchange; default preferred.
    pub post_quantum: PostQuantum,
    /// Roles that may dial this endpoint; default all three. What a role may *ask* is decided above.
    pub roles: Vec<Role>,
    /// Bytes asked of the kernel for each socket buffer; default 8 MiB. What was granted is in `SocketReport`.
    pub socket_buffer: usize,
    /// Silence after which a peer counts as gone; default 8 s.
    pub idle_timeout: Duration,
    /// How often an otherwise silent link is kept alive; default 2 s.
    pub keep_alive: Duration,
    /// Time from a peer's first packet to its first frame; default 5 s. Bounds half-open connections in time.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once; default 256. Above half of it, addresses are validated by a retry first; above
    /// it, refused. Bounds half-open connections in number.
    pub handshakes_max: usize,
    /// Connections open at once; default 4096. Above it, refused.
    pub connections_max: usize,
    /// Largest frames.
    pub frames: FrameLimits,
    /// Bytes a peer may have under way on one stream; default 4 MiB.
    pub stream_window: u32,
    /// Bytes a peer may have under way on one connection; default 8 MiB.
    pub receive_window: u32,
    /// Bytes we may have unacknowledged on one connection; default 8 MiB.
    pub send_window: u64,
    /// Congestion window at the start; default 1 MiB: links live in data centres and are often app-limited, where
    /// CUBIC does not grow from its 12,000.
    pub initial_window: u64,
    /// Largest UDP payload tried by path MTU discovery; default 6,500. Larger ones times a full GSO batch pass 64 KiB
    /// and are dropped silently by the kernel.
    pub mtu_max: u16,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            post_quantum: PostQuantum::Preferred,
            roles: vec![Role::Node, Role::Client, Role::Admin],
            socket_buffer: 8 << 20,
            idle_timeout: Duration::from_secs(8),
            keep_alive: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 256,
            connections_max: 4096,
            frames: FrameLimits::default(),
            stream_window: 4 << 20,
            receive_window: 8 << 20,
            send_window: 8 << 20,
            initial_window: 1 << 20,
            mtu_max: 6500,
        }
    }
}

impl TransportOptions {
    /// quinn's settings for one direction of dialling: `incoming_streams` is how many the peer may open.
    pub(crate) fn quinn(&self, incoming_streams: u8) -> Arc<TransportConfig> {
        let mut ack = AckFrequencyConfig::default();
        // By default two packets in one poll cost a datagram of acknowledgement, and a lost tail waits for 25 ms.
        ack.ack_eliciting_threshold(VarInt::from_u32(16)).max_ack_delay(Some(Duration::from_millis(2)));
        let mut cubic = CubicConfig::default();
        cubic.initial_window(self.initial_window);
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_max);
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or(IdleTimeout::from(VarInt::MAX));

        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(incoming_streams.into())
            .max_concurrent_uni_streams(0u8.into())
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.receive_window.into())
            .send_window(self.send_window)
            .send_fairness(false)
            .initial_rtt(Duration::from_millis(2))
            .ack_frequency_config(Some(ack))
            .congestion_controller_factory(Arc::new(cubic))
            .mtu_discovery_config(Some(discovery))
            .datagram_receive_buffer_size(Some(256 << 10))
            .datagram_send_buffer_size(256 << 10);
        Arc::new(config)
    }
}
