//! The links of one thread: who is at the other side, and how frames get there.

/// A link's name, unique in the process's node for a long time: it says the thread, and whether it is in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkName(pub(crate) u64);

const LOCAL: u64 = 1 << 55;

impl LinkName {
    /// A caller in this process.
    pub(crate) fn local(shard: u16, number: u32) -> Self {
        Self(u64::from(shard) << 56 | LOCAL | u64::from(number))
    }
}
