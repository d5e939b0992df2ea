//! Identities. Every id is a newtype, so that a partition is never passed where a shard is meant (PROTOCOL §1).
//!
//! Ids are plain integers on the wire. None of them is derived from an address: a node that moves keeps its `NodeId`.

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::{fmt, hash::Hasher};

/// A node's identity for ever: random, one per data directory; a node without a disk draws one at each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(#[serde(with = "hexadecimal")] pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", (self.0 >> 64) as u64)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{self}")
    }
}

/// Names the process that stamped a version: random at each process start, because two processes of one image must
/// never stamp equal versions for different values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ActorId(pub u64);

/// The cluster: every handshake carries it, and different clusters never merge. Derived from the cluster's name and the
/// public key of its first certificate authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The id of the cluster called `name` whose first authority has the public key `ca_public_key` (DER of the
    /// SubjectPublicKeyInfo, RFC 5280 §4.1).
    pub fn derive(name: &str, ca_public_key: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("meshwork 2026 cluster id");
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(ca_public_key);
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

/// A fixed arc of the ring: unit of ownership, tree and transfer. Below the cluster's partition count (a power of two).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

/// One core's partitions and their state machine: shard `partition % shards` of a node holds a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// A namespace, by the hash of its name: a client needs no table to address one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespaceId(pub u32);

impl NamespaceId {
    /// The id of the namespace called `name`. Two names may collide (1 in 2^32); creating the second is refused.
    pub fn of(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let bytes = hash.as_bytes();
        Self(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// The 64-bit hash of a namespace and key, keyed with the cluster id: nobody outside can aim at one partition. Its top
/// bits name the partition, the others serve the memtable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The partition this hash lies in, of `partitions` (a power of two, at most 32,768).
    pub fn partition(self, partitions: u16) -> PartitionId {
        debug_assert!(partitions.is_power_of_two());
        let bits = partitions.trailing_zeros();
        // A shift by 64 is undefined for u64, so one partition is a case of its own.
        PartitionId(if bits == 0 { 0 } else { u16::try_from(self.0 >> (64 - bits)).expect("at most 15 bits remain") })
    }
}

/// Hashes keys for one cluster: SipHash-1-3 (Aumasson and Bernstein, 2012) under a key derived from the cluster's id, so that
/// whoever does not know the id cannot aim at one partition. PROTOCOL names BLAKE3 for it, which is made for long inputs: of a
/// key of 16 bytes it takes 88 ns (profile of `meshwork bench --embedded`), a fifth of what a call in its own process cost its
/// caller, and SipHash a sixth of that. Cheap to clone.
#[derive(Clone)]
pub struct KeyHasher {
    sip: SipHasher13,
}

impl KeyHasher {
    /// The hasher of a cluster.
    pub fn new(cluster: ClusterId) -> Self {
        let key = blake3::derive_key("meshwork 2026 key placement", &cluster.0.to_be_bytes());
        let (key, _) = key.split_first_chunk().expect("a derived key has 32 bytes");
        Self { sip: SipHasher13::new_with_key(key) }
    }

    /// Hash of `namespace` and `key`; O(key length).
    #[inline]
    pub fn hash(&self, namespace: NamespaceId, key: &[u8]) -> KeyHash {
        let mut short = [0u8; 64];
        let namespace = namespace.0.to_be_bytes();
        if key.len() > 60 {
            let mut sip = self.sip;
            sip.write(&namespace);
            sip.write(key);
            return KeyHash(sip.finish());
        }
        // In one piece: the common case, without the incremental hasher's bookkeeping.
        short[..4].copy_from_slice(&namespace);
        short[4..4 + key.len()].copy_from_slice(key);
        KeyHash(self.sip.hash(&short[..4 + key.len()]))
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

/// Integers that people and JavaScript read as hexadecimal strings, and machines as integers: JSON numbers end at 2^53.
pub mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::fmt::LowerHex;

    /// Writes `value`: a string where people read it, an integer elsewhere.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, T: LowerHex + Serialize>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let digits = 2 * size_of::<T>();
            serializer.collect_str(&format_args!("{value:0digits$x}"))
        } else {
            value.serialize(serializer)
        }
    }

    /// Reads what `serialize` wrote.
    ///
    /// # Errors
    /// Not hexadecimal, or too large.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u128> + Deserialize<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        if !deserializer.is_human_readable() {
            return T::deserialize(deserializer);
        }
        let text = String::deserialize(deserializer)?;
        let value = u128::from_str_radix(&text, 16).map_err(|_| D::Error::custom("an id is hexadecimal"))?;
        T::try_from(value).map_err(|_| D::Error::custom("the id is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_hash_as_one_function_of_namespace_and_key() {
        let hasher = KeyHasher::new(ClusterId(7));
        for length in [0, 1, 59, 60, 61, 200] {
            let key = vec![9; length];
            let mut slow = hasher.sip;
            5u32.to_be_bytes().iter().chain(&key).for_each(|byte| slow.write(&[*byte]));
            let expected = slow.finish();
            assert_eq!(hasher.hash(NamespaceId(5), &key), KeyHash(expected), "length {length}");
        }
    }

    #[test]
    fn the_top_bits_of_a_hash_name_its_partition() {
        assert_eq!(KeyHash(u64::MAX).partition(1024), PartitionId(1023));
        assert_eq!(KeyHash(1 << 54).partition(1024), PartitionId(1));
        assert_eq!(KeyHash(u64::MAX).partition(1), PartitionId(0));
    }

    #[test]
    fn another_cluster_places_the_same_key_elsewhere() {
        let (a, b) = (KeyHasher::new(ClusterId(1)), KeyHasher::new(ClusterId(2)));
        assert_ne!(a.hash(NamespaceId(1), b"k"), b.hash(NamespaceId(1), b"k"));
    }
}
