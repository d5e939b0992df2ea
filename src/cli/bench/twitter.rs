//! Shapes of Twitter's cache clusters (`data/twitter-2020mar.tsv`, CC BY 4.0; Yang, Yue, Rashmi, OSDI 2020).
//!
//! A row gives key and value sizes, the mix of memcached operations, the common times to live with their shares, and
//! the Zipf exponent. Sizes are means: every key and value of a run has that one size. Operations that meshwork lacks
//! are made of those it has: `add` is a set if absent, `cas` a set guarded by the version of a read, `incr` a read and a
//! set, `prepend` a set.

use super::workload::{Mix, Op, Ttls};
use crate::units;
use std::time::Duration;

const TABLE: &str = include_str!("../data/twitter-2020mar.tsv");

/// The shape of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Its name in the table.
    pub(crate) name: String,
    /// Mean length of keys, bytes.
    pub(crate) key_bytes: usize,
    /// Mean length of values, bytes.
    pub(crate) value_bytes: usize,
    /// Its operations.
    pub(crate) mix: Mix,
    /// Its times to live.
    pub(crate) ttls: Ttls,
    /// Its Zipf exponent; zero where the table has none.
    pub(crate) zipf: f64,
}

/// The shape called `twitter:NAME`; usable as a parser of the command line.
pub(crate) fn find(text: &str) -> Result<Shape, String> {
    let Some(name) = text.strip_prefix("twitter:") else {
        return Err("only twitter:CLUSTER is known, as twitter:cluster52".to_owned());
    };
    let row = TABLE.lines().skip(1).find(|row| row.split('\t').next() == Some(name));
    row.ok_or_else(|| {
        let names: Vec<_> = TABLE.lines().skip(1).filter_map(|row| row.split('\t').next()).collect();
        format!("there is no {name:?}; there are {}", names.join(", "))
    })
    .and_then(parse)
}

/// Columns of the table that are read.
const KEY_BYTES: usize = 3;
const VALUE_BYTES: usize = 4;
const TTLS: usize = 9;
const OPERATIONS: usize = 12;
const ZIPF: usize = 13;

fn parse(row: &str) -> Result<Shape, String> {
    let cells: Vec<&str> = row.split('\t').collect();
    let cell = |at: usize| cells.get(at).map(|cell| cell.trim()).ok_or_else(|| format!("the row has no column {at}"));
    let count = |at: usize| {
        let text = cell(at)?;
        text.parse::<usize>().map_err(|_| format!("{text:?} is not a number of bytes"))
    };
    let zipf = match cell(ZIPF)? {
        "NA" | "N/A" => 0.0,
        text => text.parse().map_err(|_| format!("{text:?} is not a Zipf exponent"))?,
    };
    Ok(Shape {
        name: cell(0)?.to_owned(),
        key_bytes: count(KEY_BYTES)?,
        value_bytes: count(VALUE_BYTES)?,
        mix: Mix::new(&operations(cell(OPERATIONS)?)?),
        ttls: Ttls::new(&ttls(cell(TTLS)?)?),
        zipf,
    })
}

/// `get:0.91 add:0.04`.
fn operations(text: &str) -> Result<Vec<(Op, f64)>, String> {
    let part = |part: &str| {
        let (name, share) = share(part)?;
        let op = match name {
            // A `gets` differs from a `get` in that it returns the version, which ours always does.
            "get" | "gets" => Op::Get,
            "set" | "prepend" | "append" | "replace" => Op::Set,
            "add" => Op::Add,
            "cas" => Op::Cas,
            "delete" => Op::Delete,
            "incr" | "decr" => Op::Increment,
            _ => return Err(format!("{name:?} is no operation of memcached's that is known here")),
        };
        Ok((op, share))
    };
    text.split_whitespace().map(part).collect()
}

/// `1d:0.65, 14d:0.27, 12h:0.07`, with a comma at the end or without.
fn ttls(text: &str) -> Result<Vec<(Duration, f64)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| share(part).and_then(|(ttl, share)| Ok((units::ttl(ttl)?, share)))).collect()
}

fn share(part: &str) -> Result<(&str, f64), String> {
    let (name, share) = part.split_once(':').ok_or_else(|| format!("{part:?} has no share"))?;
    share.parse().map(|share| (name, share)).map_err(|_| format!("{share:?} is not a share"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_understood() {
        let names: Vec<_> = TABLE.lines().skip(1).filter_map(|row| row.split('\t').next()).collect();
        assert_eq!(names.len(), 53);
        for name in names {
            let shape = find(&format!("twitter:{name}")).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(shape.key_bytes > 0 && shape.value_bytes > 0, "{name}");
        }
    }

    #[test]
    fn cluster52_has_its_published_shape() {
        let shape = find("twitter:cluster52").unwrap();
        assert_eq!((shape.key_bytes, shape.value_bytes, shape.zipf), (20, 273, 1.2117));
        let sum = 0.91 + 0.04 + 0.02 + 0.02;
        assert!((shape.mix.share(Op::Get) - 0.93 / sum).abs() < 1e-6, "get and gets are one");
        assert!((shape.mix.share(Op::Add) - 0.04 / sum).abs() < 1e-6);
        assert!((shape.mix.share(Op::Cas) - 0.02 / sum).abs() < 1e-6);
        assert_eq!(shape.ttls.longest(), Some(Duration::from_secs(14 * 86_400)));
    }

    #[test]
    fn an_unknown_cluster_is_answered_with_the_known_ones() {
        assert!(find("twitter:cluster5").unwrap_err().contains("cluster52"));
        assert!(find("cluster52").unwrap_err().contains("twitter:cluster52"));
    }
}
