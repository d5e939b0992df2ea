//! Words of the command line that carry a unit: durations, sizes, consistency. Parsed once, here; the rest of the
//! program gets types. Every refusal says what was given and shows a form that works.

use meshwork_core::{
    limits::EXPIRES_MS_MAX,
    namespace::Mode,
    wire::client::{Consistency, Quorum},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A duration: `250ms`, `30s`, `5m`, `1.8h`, `14d`; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is not a duration: write a number and a unit, as 250ms, 30s, 5m, 1.5h or 14d");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

/// A time to live: a duration above zero that ends before the year 2500.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl < Duration::from_millis(1) {
        return Err("a ttl must be above zero: leave it out for the namespace's default".to_owned());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.saturating_add(ttl).as_millis() > u128::from(EXPIRES_MS_MAX) {
        return Err(format!("{text:?} ends after the year 2500: that is a mistaken unit; write seconds as 30s"));
    }
    Ok(ttl)
}

/// A span of time that must be above zero.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above zero".to_owned()),
        span => Ok(span),
    }
}

/// A size in bytes: `100`, `64KiB`, `256MiB`, `1GiB` (also `k`, `m`, `g`, which mean the same).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is not a size: write a number and a unit, as 100, 64KiB, 256MiB or 1GiB");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if !(0.0..=1e15).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// A number of bytes for people: `17 B`, `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

/// A consistency: `r=2,w=2`, each optional, `one`, `majority`, `all` or a number; with `strict` or `sloppy`.
pub(crate) fn consistency(text: &str) -> Result<Consistency, String> {
    let mut consistency = Consistency::default();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("r", value)) => consistency.read = quorum("r", value)?,
            Some(("w", value)) => consistency.write = quorum("w", value)?,
            None if part == "strict" => consistency.mode = Some(Mode::Strict),
            None if part == "sloppy" => consistency.mode = Some(Mode::Sloppy),
            Some(_) | None => {
                return Err(format!(
                    "{part:?} is no part of a consistency: write r=2,w=2 and, if wanted, ,strict or ,sloppy"
                ));
            }
        }
    }
    Ok(consistency)
}

/// A consistency in the form that `consistency` reads; what is left to the namespace is left out.
pub(crate) fn consistency_words(consistency: Consistency) -> String {
    let votes = |what: &str, quorum| match quorum {
        Quorum::Default => None,
        Quorum::Exactly(count) => Some(format!("{what}={count}")),
        Quorum::Majority => Some(format!("{what}=majority")),
        Quorum::All => Some(format!("{what}=all")),
    };
    let mode = consistency.mode.map(|mode| match mode {
        Mode::Sloppy => "sloppy".to_owned(),
        Mode::Strict => "strict".to_owned(),
    });
    let parts = [votes("r", consistency.read), votes("w", consistency.write), mode];
    parts.into_iter().flatten().collect::<Vec<_>>().join(",")
}

fn quorum(what: &str, text: &str) -> Result<Quorum, String> {
    match text {
        "one" => Ok(Quorum::Exactly(1)),
        "majority" => Ok(Quorum::Majority),
        "all" => Ok(Quorum::All),
        number => match number.parse::<u8>() {
            Ok(0) => Err(format!("{what}=0: at least one replica must answer; write {what}=1")),
            Ok(count) if usize::from(count) <= meshwork_core::limits::COPIES_MAX => Ok(Quorum::Exactly(count)),
            Ok(count) => Err(format!("{what}={count}: a key has at most {} copies", meshwork_core::limits::COPIES_MAX)),
            Err(_) => Err(format!("{what}={number}: write a number, one, majority or all")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_every_unit_of_the_trace_table() {
        assert_eq!(duration("240s").unwrap(), Duration::from_secs(240));
        assert_eq!(duration("1.8h").unwrap(), Duration::from_secs(6480));
        assert_eq!(duration("14d").unwrap(), Duration::from_secs(14 * 86_400));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("5").unwrap(), Duration::from_secs(5));
        for wrong in ["", "s", "5 parsecs", "-1s", "1e400s", "."] {
            assert!(duration(wrong).unwrap_err().contains("30s"), "{wrong}");
        }
    }

    #[test]
    fn a_ttl_of_zero_or_past_the_year_2500_is_refused_with_words() {
        assert!(ttl("0s").unwrap_err().contains("above zero"));
        assert!(ttl("200000d").unwrap_err().contains("2500"));
        assert_eq!(ttl("60s").unwrap(), Duration::from_secs(60));
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("256MiB").unwrap(), 256 << 20);
        assert_eq!(size("1.5k").unwrap(), 1536);
        assert_eq!(size("100").unwrap(), 100);
        assert!(size("lots").unwrap_err().contains("256MiB"));
        assert_eq!(
            (bytes(17), bytes(1536), bytes(256 << 20)),
            ("17 B".to_owned(), "1.5 KiB".to_owned(), "256.0 MiB".to_owned())
        );
    }

    #[test]
    fn a_consistency_names_votes_and_mode() {
        let parsed = consistency("r=2,w=all,strict").unwrap();
        assert_eq!((parsed.read, parsed.write, parsed.mode), (Quorum::Exactly(2), Quorum::All, Some(Mode::Strict)));
        assert_eq!(consistency_words(parsed), "r=2,w=all,strict");
        assert_eq!(consistency("w=majority").unwrap().read, Quorum::Default);
        assert!(consistency("r=0").unwrap_err().contains("r=1"));
        assert!(consistency("r=9").unwrap_err().contains("at most 8"));
        assert!(consistency("x=1").unwrap_err().contains("r=2,w=2"));
    }
}
