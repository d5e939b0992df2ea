//! Every setting there is: name, type, default, and the words that `config init` writes above it (INTERFACES §3).
//!
//! One table drives reading, precedence, "did you mean", `config init` and `config show`, so that they cannot drift
//! apart. What a value means is not here: `mod.rs` turns values into types.

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string; numbers are taken for one too.
    Text,
    /// An integer.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of strings; in flags and environment separated by commas.
    Texts,
}

impl Kind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Text => "a string, like \"text\"",
            Self::Integer => "an integer",
            Self::Boolean => "true or false",
            Self::Texts => "a list of strings, like [\"a\", \"b\"]",
        }
    }
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `section.key`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As TOML; `None`: it has no default that can be written down.
    pub(crate) default: Option<&'static str>,
    /// What stands in the file that `config init` writes where there is no default.
    pub(crate) example: &'static str,
    /// For people: meaning, unit, trade-off.
    pub(crate) doc: &'static str,
}

impl Setting {
    pub(crate) fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    pub(crate) fn key(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, key)| key)
    }
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    example: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { name, kind, default, example, doc }
}

/// All of them, in the order of the file.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "cluster.name",
        Kind::Text,
        None,
        "\"prod\"",
        "Required; the same on every node. Must be the cluster in this node's certificate.",
    ),
    setting(
        "cluster.n",
        Kind::Integer,
        Some("3"),
        "",
        "Copies of a key, 1 to 8; the same on every node. Namespaces have at most as many.",
    ),
    setting(
        "cluster.partitions",
        Kind::Integer,
        Some("1024"),
        "",
        "Arcs of the ring: a power of two, 1 to 16384, fixed at creation; the same on every node.",
    ),
    setting(
        "cluster.bootstrap_expect",
        Kind::Integer,
        Some("3"),
        "",
        "Without any layout, wait for so many nodes, then derive the first. Set it above half of the initial nodes.",
    ),
    setting(
        "cluster.replace_by_name",
        Kind::Boolean,
        Some("false"),
        "",
        "Whether a new node takes the role of a down member of its name. Nodes without a disk need it to come back.",
    ),
    setting(
        "cluster.layout",
        Kind::Text,
        Some("\"auto\""),
        "",
        "auto: joins, weights and zones become a layout by themselves. manual: they wait for `plan commit`; set it on every node.",
    ),
    setting("node.name", Kind::Text, None, "\"mesh-0\"", "Label of this node. Default: the host's name."),
    setting(
        "node.zone",
        Kind::Text,
        None,
        "\"eu-1a\"",
        "Copies spread over zones. Default: $MESHWORK_ZONE, else /etc/podinfo/zone, else \"unknown\".",
    ),
    setting("node.weight", Kind::Integer, Some("100"), "", "Share of the ring, 1 to 1000; 100 is one share."),
    setting(
        "node.shards",
        Kind::Integer,
        None,
        "4",
        "Threads, each with its own UDP port and part of the memory, 1 to 64. Default: the cores.",
    ),
    setting(
        "node.data_dir",
        Kind::Text,
        None,
        "\"/var/lib/meshwork\"",
        "Keeps the node's identity and clock, and what namespaces with ack = log or fsync hold, over restarts. Absent: diskless.",
    ),
    setting(
        "node.warming_max",
        Kind::Text,
        Some("\"10m\""),
        "",
        "After this long a node that came back votes in sloppy requests, though it could not compare itself.",
    ),
    setting(
        "node.drain",
        Kind::Text,
        Some("\"30s\""),
        "",
        "How long a stopping node waits for requests in flight. They rarely need more than a second.",
    ),
    setting(
        "transport.listen",
        Kind::Text,
        Some("\"0.0.0.0:7400\""),
        "",
        "UDP address of shard 0; shard i listens on port + i.",
    ),
    setting(
        "transport.advertise",
        Kind::Text,
        None,
        "\"10.0.0.7:7400\"",
        "Where others reach shard 0. Default: the address listened on, else that of the route to the first seed.",
    ),
    setting(
        "transport.seeds",
        Kind::Texts,
        Some("[]"),
        "",
        "host:port of some nodes, to find the mesh by. Names may resolve to several addresses. One's own does no harm.",
    ),
    setting("tls.ca", Kind::Text, None, "\"ca.pem\"", "Required: PEM file of the cluster's authorities."),
    setting("tls.cert", Kind::Text, None, "\"node.pem\"", "Required: PEM file of this node's certificate."),
    setting("tls.key", Kind::Text, None, "\"node.key\"", "Required: PEM file of its private key."),
    setting(
        "tls.pq",
        Kind::Text,
        Some("\"preferred\""),
        "",
        "Post-quantum key exchange: \"preferred\", or \"required\" to refuse peers and clients without it.",
    ),
    setting(
        "memory.limit",
        Kind::Text,
        Some("\"75%\""),
        "",
        "Hard limit of all shards together: a size like \"256MiB\", or a share of the cgroup's limit or RAM. With node.data_dir the \
         store takes up to 128 MiB beside it: on less than 1.5 GiB take \"50%\".",
    ),
    setting(
        "memory.huge_pages",
        Kind::Boolean,
        Some("false"),
        "",
        "Whether the kernel may back memory with transparent huge pages: some more throughput on much memory, for a process that \
         stands still for milliseconds whenever a page is used first.",
    ),
    setting(
        "storage.sync_every",
        Kind::Text,
        Some("\"1s\""),
        "",
        "With node.data_dir: a loss of power may cost writes of ack = log this young; 200ms or more. ack = fsync waits for its own \
         syncs.",
    ),
    setting(
        "storage.queue",
        Kind::Text,
        Some("\"8MiB\""),
        "",
        "Writes that may wait for the disk, 1MiB to 1GiB; beyond half of it clients get Overloaded. Takes twice this memory.",
    ),
    setting(
        "storage.cache",
        Kind::Text,
        Some("\"4MiB\""),
        "",
        "Blocks of the store kept in memory. Count 128MiB for the whole store, beside memory.limit.",
    ),
    setting(
        "http.listen",
        Kind::Text,
        Some("\"127.0.0.1:7480\""),
        "",
        "Address of /livez, /readyz, /metrics and /v1/status. Only loopback for now; \"off\" for none.",
    ),
    setting(
        "log.level",
        Kind::Text,
        Some("\"info\""),
        "",
        "error, warn, info, debug, trace, or a filter like \"info,meshwork_transport=debug\".",
    ),
    setting(
        "log.format",
        Kind::Text,
        Some("\"auto\""),
        "",
        "\"text\", \"json\", or \"auto\": text on a terminal, else JSON.",
    ),
];

/// Keys of a `[[namespace]]` table.
pub(crate) const NAMESPACE_KEYS: &[&str] =
    &["name", "kind", "n", "r", "w", "mode", "ttl_default", "ttl_max", "value_max", "eviction", "ack"];

/// The setting called `section.key`.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// All sections, in order, each once.
pub(crate) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = Vec::new();
    for setting in SETTINGS {
        if sections.last() != Some(&setting.section()) {
            sections.push(setting.section());
        }
    }
    sections
}

/// The candidate most like `name`, if any is likely to be what was meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| edits(name.as_bytes(), candidate.as_bytes());
    let best = candidates.map(|candidate| (distance(candidate), candidate)).min()?;
    // More edits than a third of the name is another word.
    (best.0 <= name.len().max(best.1.len()).div_ceil(3)).then_some(best.1)
}

/// Levenshtein distance; names are short, so O(a·b) is nothing.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_strangers_are_not_suggested() {
        let names = || SETTINGS.iter().map(|setting| setting.name);
        assert_eq!(nearest("cluster.bootstrap_expct", names()), Some("cluster.bootstrap_expect"));
        assert_eq!(nearest("node.wieght", names()), Some("node.weight"));
        assert_eq!(nearest("zzzzzzzzzzzz", names()), None);
    }

    #[test]
    fn sections_stand_together_so_that_the_written_file_opens_each_once() {
        let sections = sections();
        let mut once = sections.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), sections.len());
    }
}
