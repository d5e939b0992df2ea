//! Sizes and times as people write them: `256MiB`, `75%`, `10m`.

use std::{fmt, path::Path, time::Duration};

/// How much memory a node may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the cgroup's limit, or of RAM where there is none.
    Percent(u8),
}

impl MemoryLimit {
    /// Reads `256MiB`, `1GB`, `1048576` or `75%`. The error says what would do.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse::<u8>() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                Ok(_) | Err(_) => Err("a share is between 1% and 100%".to_owned()),
            };
        }
        parse_bytes(text).map(Self::Bytes)
    }

    /// Bytes on this host, now.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => host_memory().unwrap_or(HOST_BYTES_GUESSED) / 100 * u64::from(percent),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&bytes_for_people(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Reads a size; plain numbers are bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 11] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim())).map(|(_, factor)| *factor);
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| "write a size like 256MiB or 2GiB".to_owned())
}

/// A size in the largest binary unit that divides it well.
pub(crate) fn bytes_for_people(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size * 10 || (bytes >= size && bytes.is_multiple_of(size)) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// Reads `250ms`, `30s`, `10m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a time with its unit, like 250ms, 30s, 10m or 1h".to_owned())
}

/// Not Linux, or /proc is hidden: a size that fits every machine of the last ten years.
const HOST_BYTES_GUESSED: u64 = 4 << 30;

/// What this process may use: the smallest limit of its cgroup and the groups above it, else all of RAM. `None`: unknown.
pub(super) fn host_memory() -> Option<u64> {
    let ram = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    cgroup_limit().into_iter().chain(ram.map(|kib| kib * 1024)).min()
}

fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut smallest: Option<u64> = None;
    let mut read = |path: &Path| {
        if let Some(limit) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            smallest = Some(smallest.map_or(limit, |least| least.min(limit)));
        }
    };
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let root = Path::new(root);
        let own = root.join(group.trim_start_matches('/'));
        // Inside a container the group named here may not be visible: the root then is the container's own.
        for path in own.ancestors().take_while(|path| path.starts_with(root)) {
            read(&path.join(file));
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(MemoryLimit::parse("256MiB"), Ok(MemoryLimit::Bytes(256 << 20)));
        assert_eq!(MemoryLimit::parse("1 GB"), Ok(MemoryLimit::Bytes(1_000_000_000)));
        assert_eq!(MemoryLimit::parse("4096"), Ok(MemoryLimit::Bytes(4096)));
        assert_eq!(MemoryLimit::parse("75%"), Ok(MemoryLimit::Percent(75)));
        for bad in ["", "MiB", "0%", "101%", "1.5GiB", "-1", "3 apples", "99999999999999999999", "20000000TiB"] {
            assert!(MemoryLimit::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(MemoryLimit::Bytes(256 << 20).to_string(), "256MiB");
    }

    #[test]
    fn times_need_their_unit() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["10", "m", "1.5s", "10 weeks"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_of_something() {
        assert!(MemoryLimit::Percent(50).bytes() > 0);
        assert!(MemoryLimit::Percent(50).bytes() <= MemoryLimit::Percent(100).bytes());
    }
}
