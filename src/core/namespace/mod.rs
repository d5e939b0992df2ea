//! Namespaces: what kind of value their keys hold, how many replicas answer, what is kept (PROTOCOL §3, §4, §10).
//!
//! Here are the settings of one; `table` is all of them, replicated.

mod table;

use crate::{
    id::NamespaceId,
    limits::{COPIES_MAX, NAME_BYTES_MAX, NAMESPACES_MAX, VALUE_BYTES_DEFAULT, VALUE_BYTES_MAX},
};
use serde::{Deserialize, Serialize};
pub use table::{Known, NamespaceTable};

/// The kind of values in a namespace. Others move in with their rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Last writer wins.
    Register,
}

/// Whose votes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Fallbacks may stand in for unreachable owners: always writable.
    #[default]
    Sloppy,
    /// Only Ready owners vote: a read after an acknowledged write sees it while R + W > N.
    Strict,
}

/// What happens to a namespace's entries when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// The least useful entries go.
    #[default]
    On,
    /// Nothing goes; writes are refused with `OutOfMemory`.
    None,
}

/// What a vote for a write means (ARCHITECTURE §1): where the replica that gives it holds the write by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// In its memory.
    #[default]
    Mem,
    /// In its log too: a crash of the process does not lose it.
    Log,
    /// In its log, and synced: a loss of power does not lose it.
    Fsync,
}

impl Ack {
    /// Whether a vote asks for a disk.
    pub fn is_durable(self) -> bool {
        match self {
            Self::Mem => false,
            Self::Log | Self::Fsync => true,
        }
    }

    /// Whether it asks for none.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_mem(&self) -> bool {
        !self.is_durable()
    }

    /// As the command line and the configuration write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mem => "mem",
            Self::Log => "log",
            Self::Fsync => "fsync",
        }
    }
}

/// Settings of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name: 1 to 128 bytes.
    pub name: String,
    /// What its keys hold; fixed.
    #[serde(default = "register")]
    pub kind: Kind,
    /// Copies; fixed; at most the cluster's N.
    #[serde(default = "three")]
    pub n: u8,
    /// Read votes.
    #[serde(default = "two")]
    pub r: u8,
    /// Write votes.
    #[serde(default = "two")]
    pub w: u8,
    /// Whose votes count unless a request says otherwise.
    #[serde(default)]
    pub mode: Mode,
    /// Expiry of writes that name none, milliseconds; `None`: never.
    #[serde(default)]
    pub ttl_default: Option<u64>,
    /// Longest expiry, milliseconds; longer ones are refused.
    #[serde(default)]
    pub ttl_max: Option<u64>,
    /// Longest value, bytes.
    #[serde(default = "value_default")]
    pub value_max: u32,
    /// What goes when memory runs out.
    #[serde(default)]
    pub eviction: Eviction,
    /// What a vote for a write means; fixed. Nodes that know no such setting still understand a namespace of `mem`.
    #[serde(default, skip_serializing_if = "Ack::is_mem")]
    pub ack: Ack,
}

fn register() -> Kind {
    Kind::Register
}
fn three() -> u8 {
    3
}
fn two() -> u8 {
    2
}
fn value_default() -> u32 {
    VALUE_BYTES_DEFAULT
}

/// Why a namespace cannot be as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NamespaceError {
    /// The name is empty or too long.
    #[error("a namespace name has 1 to {NAME_BYTES_MAX} bytes, this one {0}: choose another")]
    Name(usize),
    /// A quorum that cannot be met or means nothing.
    #[error("{what} = {got} is not between 1 and {max}: {hint}")]
    Quorum {
        /// Which setting.
        what: String,
        /// Its value.
        got: u8,
        /// The largest that would do.
        max: u8,
        /// What to do.
        hint: String,
    },
    /// The value limit is beyond what frames carry.
    #[error("value_max = {0} is not between 1 and {VALUE_BYTES_MAX} bytes")]
    ValueMax(u32),
    /// A default expiry of zero, or above the longest.
    #[error("ttl_default must be above zero and at most ttl_max: leave it out for no expiry")]
    Ttl,
    /// A namespace of this name, or one whose name hashes equally, is there with other settings.
    #[error("the namespace {0:?} exists already with other settings: choose another name")]
    Exists(String),
    /// The table is full.
    #[error("there are {NAMESPACES_MAX} namespaces already, deleted ones among them: that is the most")]
    TooMany,
    /// There is none of this name.
    #[error("there is no namespace {0:?}: `meshwork namespace list` lists them")]
    Unknown(String),
    /// `default` is always there.
    #[error("the namespace \"default\" cannot be deleted: flush it instead")]
    Default,
}

impl Namespace {
    /// Why `node` gives no vote in this namespace, and what to do: it keeps nothing on a disk.
    pub fn diskless(&self, node: &str) -> String {
        format!(
            "namespace {} wants ack={}, and node {node} has no data_dir: set node.data_dir there, or use a namespace with ack=mem",
            self.name,
            self.ack.name()
        )
    }

    /// A namespace with the defaults of PROTOCOL §10.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Register,
            n: 3,
            r: 2,
            w: 2,
            mode: Mode::Sloppy,
            ttl_default: None,
            ttl_max: None,
            value_max: VALUE_BYTES_DEFAULT,
            eviction: Eviction::On,
            ack: Ack::Mem,
        }
    }

    /// Its id.
    pub fn id(&self) -> NamespaceId {
        NamespaceId::of(&self.name)
    }

    /// Whether it makes sense in a cluster of `cluster_n` copies.
    pub fn check(&self, cluster_n: u8) -> Result<(), NamespaceError> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(NamespaceError::Name(self.name.len()));
        }
        let quorum = |what: &str, got: u8, max: u8, hint: &str| {
            if got >= 1 && got <= max {
                return Ok(());
            }
            Err(NamespaceError::Quorum { what: what.to_owned(), got, max, hint: hint.to_owned() })
        };
        let copies = u8::try_from(COPIES_MAX).expect("copies fit");
        quorum("n", self.n, cluster_n.min(copies), "a namespace has at most the copies of its cluster (cluster.n)")?;
        quorum("r", self.r, self.n, "read votes come from the n copies")?;
        quorum("w", self.w, self.n, "write votes come from the n copies")?;
        if self.value_max == 0 || self.value_max > VALUE_BYTES_MAX {
            return Err(NamespaceError::ValueMax(self.value_max));
        }
        if self.ttl_default == Some(0) || self.ttl_max == Some(0) {
            return Err(NamespaceError::Ttl);
        }
        if let (Some(default), Some(max)) = (self.ttl_default, self.ttl_max)
            && default > max
        {
            return Err(NamespaceError::Ttl);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_that_cannot_be_met_are_refused_and_say_what_to_do() {
        let mut namespace = Namespace::new("x");
        namespace.w = 4;
        let error = namespace.check(3).unwrap_err();
        assert_eq!(error.to_string(), "w = 4 is not between 1 and 3: write votes come from the n copies");
        namespace.w = 1;
        namespace.r = 0;
        assert!(namespace.check(3).unwrap_err().to_string().starts_with("r = 0"));
        namespace.r = 1;
        namespace.n = 5;
        assert!(namespace.check(3).unwrap_err().to_string().contains("cluster.n"));
    }
}
