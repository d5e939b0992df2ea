//! Bytes of gossip packets: fixed-width big-endian fields, so that a packet's size is known before it is written.
//!
//! An identity takes 35 bytes (IPv4) or 47 (IPv6), a member 3 more; a packet of 1,100 bytes carries over 20 of them.
//! Reading is bounded and total: every field is checked against the bytes that are there, and values that nobody honest
//! sends (no shards, ports past 65,535) are refused. The codec also is the gate for one's own identity: a packet that
//! names a newer process of this very node is refused here, before SWIM would answer it by declaring that one down.

use super::identity::Identity;
use crate::{id::NodeId, limits::SHARDS_MAX, value::Hlc};
use bytes::{Buf, BufMut, TryGetError};
use foca::{Header, Member, Message, State};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why a packet cannot be used or written. Nothing changed; it is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("a gossip packet is cut off")]
    Short,
    #[error("a gossip packet holds an unknown tag {0}")]
    Tag(u8),
    #[error("a gossip packet names a node with {0} shards from port {1} on")]
    Shards(u16, u16),
    #[error("a gossip packet is full")]
    Full,
    #[error("a gossip packet names a newer process of this node")]
    Superseded,
}

impl From<TryGetError> for CodecError {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

/// Reads and writes for one process.
#[derive(Debug)]
pub(super) struct Codec {
    me: NodeId,
    incarnation: Hlc,
}

impl Codec {
    pub(super) fn new(me: &Identity) -> Self {
        Self { me: me.node, incarnation: me.incarnation }
    }

    fn identity(&self, buf: &mut impl Buf) -> Result<Identity, CodecError> {
        let node = NodeId(buf.try_get_u128()?);
        let incarnation = Hlc(buf.try_get_u64()?);
        let renewal = buf.try_get_u16()?;
        let ip = match buf.try_get_u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(buf.try_get_u32()?)),
            6 => IpAddr::V6(Ipv6Addr::from(buf.try_get_u128()?)),
            tag => return Err(CodecError::Tag(tag)),
        };
        let port = buf.try_get_u16()?;
        let shards = buf.try_get_u16()?;
        if shards == 0 || shards > SHARDS_MAX || port.checked_add(shards - 1).is_none() {
            return Err(CodecError::Shards(shards, port));
        }
        if node == self.me && incarnation > self.incarnation {
            return Err(CodecError::Superseded);
        }
        Ok(Identity { node, incarnation, renewal, address: SocketAddr::new(ip, port), shards })
    }
}

fn identity_len(identity: &Identity) -> usize {
    if identity.address.is_ipv4() { 35 } else { 47 }
}

fn put_identity(identity: &Identity, buf: &mut impl BufMut) {
    buf.put_u128(identity.node.0);
    buf.put_u64(identity.incarnation.0);
    buf.put_u16(identity.renewal);
    match identity.address.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(4);
            buf.put_u32(ip.into());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(6);
            buf.put_u128(ip.into());
        }
    }
    buf.put_u16(identity.address.port());
    buf.put_u16(identity.shards);
}

/// Tag, probe number and third identity of a message.
fn parts(message: &Message<Identity>) -> (u8, Option<u8>, Option<&Identity>) {
    match message {
        Message::Ping(number) => (1, Some(*number), None),
        Message::Ack(number) => (2, Some(*number), None),
        Message::PingReq { target, probe_number } => (3, Some(*probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (4, Some(*probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (5, Some(*probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(*probe_number), Some(origin)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    }
}

impl foca::Codec<Identity> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, mut buf: impl BufMut) -> Result<(), CodecError> {
        let (tag, number, third) = parts(&header.message);
        let length = identity_len(&header.src)
            + 2
            + identity_len(&header.dst)
            + 1
            + usize::from(number.is_some())
            + third.map_or(0, identity_len);
        if buf.remaining_mut() < length {
            return Err(CodecError::Full);
        }
        put_identity(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_identity(&header.dst, &mut buf);
        buf.put_u8(tag);
        if let Some(number) = number {
            buf.put_u8(number);
        }
        if let Some(third) = third {
            put_identity(third, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        let src = self.identity(&mut buf)?;
        let src_incarnation = buf.try_get_u16()?;
        let dst = self.identity(&mut buf)?;
        let message = match buf.try_get_u8()? {
            1 => Message::Ping(buf.try_get_u8()?),
            2 => Message::Ack(buf.try_get_u8()?),
            tag @ 3..=6 => {
                let probe_number = buf.try_get_u8()?;
                let third = self.identity(&mut buf)?;
                match tag {
                    3 => Message::PingReq { target: third, probe_number },
                    4 => Message::IndirectPing { origin: third, probe_number },
                    5 => Message::IndirectAck { target: third, probe_number },
                    _ => Message::ForwardedAck { origin: third, probe_number },
                }
            }
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            tag => return Err(CodecError::Tag(tag)),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut buf: impl BufMut) -> Result<(), CodecError> {
        if buf.remaining_mut() < identity_len(member.id()) + 3 {
            return Err(CodecError::Full);
        }
        put_identity(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 1,
            State::Suspect => 2,
            State::Down => 3,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        let identity = self.identity(&mut buf)?;
        let incarnation = buf.try_get_u16()?;
        let state = match buf.try_get_u8()? {
            1 => State::Alive,
            2 => State::Suspect,
            3 => State::Down,
            tag => return Err(CodecError::Tag(tag)),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;

    fn identity(node: u128, address: &str) -> Identity {
        let address = address.parse().unwrap();
        Identity { node: NodeId(node), incarnation: Hlc(77), renewal: 3, address, shards: 4 }
    }

    fn codec() -> Codec {
        Codec::new(&identity(9, "127.0.0.1:7000"))
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let third = identity(3, "[::1]:9000");
        let messages = [
            Message::Ping(1),
            Message::Ack(2),
            Message::PingReq { target: third, probe_number: 3 },
            Message::IndirectPing { origin: third, probe_number: 4 },
            Message::IndirectAck { target: third, probe_number: 5 },
            Message::ForwardedAck { origin: third, probe_number: 6 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let (src, dst) = (identity(1, "10.0.0.1:7000"), identity(2, "[fe80::2]:8000"));
            let header = Header { src, src_incarnation: 5, dst, message };
            let mut bytes = Vec::new();
            codec().encode_header(&header, &mut bytes).unwrap();
            assert_eq!(codec().decode_header(&bytes[..]), Ok(header.clone()));
            for cut in 0..bytes.len() {
                assert!(codec().decode_header(&bytes[..cut]).is_err(), "{header:?} cut to {cut} bytes");
            }
        }
    }

    #[test]
    fn a_member_that_does_not_fit_leaves_the_packet_untouched() {
        let member = Member::new(identity(1, "10.0.0.1:7000"), 5, State::Suspect);
        let mut bytes = Vec::new();
        assert_eq!(codec().encode_member(&member, (&mut bytes).limit(37)), Err(CodecError::Full));
        assert!(bytes.is_empty());
        codec().encode_member(&member, (&mut bytes).limit(38)).unwrap();
        assert_eq!(codec().decode_member(&bytes[..]), Ok(member));
    }

    #[test]
    fn a_newer_process_of_this_node_is_noticed_and_never_reaches_swim() {
        let mut newer = identity(9, "10.0.0.1:7000");
        newer.incarnation = Hlc(78);
        let mut bytes = Vec::new();
        codec().encode_member(&Member::alive(newer), &mut bytes).unwrap();
        assert_eq!(codec().decode_member(&bytes[..]), Err(CodecError::Superseded));
    }

    #[test]
    fn a_node_without_shards_or_with_ports_past_the_last_is_refused() {
        for (shards, port) in [(0, 7000), (65, 7000), (2, u16::MAX)] {
            let mut bad = identity(1, "10.0.0.1:7000");
            (bad.shards, bad.address) = (shards, SocketAddr::from(([10, 0, 0, 1], port)));
            let mut bytes = Vec::new();
            codec().encode_member(&Member::alive(bad), &mut bytes).unwrap();
            assert_eq!(codec().decode_member(&bytes[..]), Err(CodecError::Shards(shards, port)));
        }
    }
}
