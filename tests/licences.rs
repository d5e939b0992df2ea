//! What we build on, judged over `cargo metadata`: licences, sources, banned crates, one crypto provider, and `THIRD-PARTY`.
//!
//! - Every crate of the lock file, for every platform, has a licence we may ship under, and comes from crates.io.
//! - One crypto provider (aws-lc-rs) in what is built for the platforms we ship. `ring` stands in the lock file, because
//!   quinn-proto names it for browsers, and must never be built.
//! - The core draws no randomness of its own: `meshwork-core`, resolved alone, has no way to the system's generator.
//! - `THIRD-PARTY` is the lock file in words. After a change of dependencies: `BLESS=1 cargo test --test licences`.
//!
//! Not here: known vulnerabilities (they need a database; `cargo deny check` where it is installed, with `deny.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Licences anyone may ship under with no more than a notice. The same list stands in `deny.toml`.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crate, licence, why it is fine although the licence is not in `ALLOWED`, where its unmodified source is.
const EXCEPTIONS: &[(&str, &str, &str, &str)] = &[(
    "foca",
    "MPL-2.0",
    "file-level copyleft, used unmodified",
    "https://github.com/caio/foca and https://crates.io/crates/foca",
)];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Second crypto providers and system TLS. Unlike `ring`, these may not even stand in the lock file.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "boring", "boring-sys", "mbedtls", "schannel"];

const SHIPPED: &[&str] = &["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

#[test]
fn every_licence_is_one_we_may_ship() {
    let bad: Vec<String> =
        third_party(&metadata()).iter().filter_map(|found| licence_complaint(&found.name, &found.licence)).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_crate_comes_from_crates_io() {
    let bad: Vec<String> = third_party(&metadata())
        .iter()
        .filter(|found| found.source != CRATES_IO)
        .map(|found| format!("{} {} comes from {}", found.name, found.version, found.source))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn no_banned_crate_is_in_the_lock_file() {
    let bad: Vec<String> = third_party(&metadata())
        .into_iter()
        .filter(|found| BANNED.contains(&found.name.as_str()))
        .map(|found| format!("{} {}: one crypto provider, aws-lc-rs", found.name, found.version))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn one_crypto_provider_is_built() {
    for target in SHIPPED {
        let built = built_for(target);
        assert!(!built.contains_key("ring"), "ring is built for {target}: a second crypto provider");
        assert!(
            built.contains_key("aws-lc-rs"),
            "aws-lc-rs is not built for {target}: this test looks at the wrong graph"
        );
        for name in ["rustls", "rustls-webpki", "quinn", "quinn-proto", "rcgen"] {
            let Some(features) = built.get(name) else { continue };
            for feature in features {
                assert!(
                    !feature.contains("ring"),
                    "{name} has feature {feature} for {target}: a second crypto provider"
                );
            }
        }
    }
}

#[test]
fn the_core_cannot_reach_the_systems_randomness() {
    // Resolved alone, because a workspace build unifies features and would hide (or invent) a leak.
    let tree =
        cargo(&["tree", "-p", "meshwork-core", "-e", "normal", "--prefix", "none", "--format", "{p}|{f}", "--locked"]);
    assert!(tree.contains("foca v"), "not the core's tree:\n{tree}");
    for line in tree.lines() {
        let (package, features) = line.split_once('|').expect("the format has one bar");
        let name = package.split(' ').next().expect("split yields at least one part");
        assert!(!["getrandom", "fastrand", "rand_chacha"].contains(&name), "core depends on {package}");
        if name == "rand" || name == "rand_core" {
            let leak =
                features.split(',').find(|f| ["thread_rng", "os_rng", "std_rng", "sys_rng", "getrandom"].contains(f));
            assert!(leak.is_none(), "core has {package} with feature {leak:?}");
        }
    }
}

#[test]
fn third_party_is_the_lock_file_in_words() {
    let path = root().join("THIRD-PARTY");
    let want = render(&third_party(&metadata()));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &want).expect("THIRD-PARTY is writable");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (have_lines, want_lines) = (lines(&have), lines(&want));
    let missing: Vec<_> = want_lines.difference(&have_lines).collect();
    let stale: Vec<_> = have_lines.difference(&want_lines).collect();
    assert!(
        have == want,
        "THIRD-PARTY is out of date; run `BLESS=1 cargo test --test licences`.\nmissing: {missing:#?}\nstale: {stale:#?}"
    );
}

#[test]
fn a_planted_licence_is_refused() {
    assert!(licence_complaint("a", "MIT OR GPL-3.0").is_none(), "we choose MIT");
    assert!(licence_complaint("a", "MIT/Apache-2.0").is_none(), "the old spelling of OR");
    assert!(licence_complaint("a", "(MIT OR Apache-2.0) AND Unicode-3.0").is_none());
    assert!(licence_complaint("a", "Apache-2.0 WITH LLVM-exception OR GPL-2.0").is_none());
    assert!(licence_complaint("a", "MIT AND GPL-3.0").is_some(), "both bind");
    assert!(licence_complaint("a", "MIT AND (GPL-3.0 OR AGPL-3.0)").is_some());
    assert!(licence_complaint("a", "GPL-3.0 WITH LLVM-exception").is_some());
    assert!(licence_complaint("a", "").is_some(), "no licence is no permission");
    assert!(licence_complaint("a", "(MIT").is_some(), "an unreadable licence is no permission");
    assert!(licence_complaint("foca", "MPL-2.0").is_none());
    assert!(licence_complaint("bar", "MPL-2.0").is_some(), "the exception is foca's alone");
}

/// One crate that is not ours, as `cargo metadata` names it.
struct Found {
    name: String,
    version: String,
    licence: String,
    source: String,
    repository: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the package lies two folders below the root")
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo runs: it runs this test");
    assert!(out.status.success(), "cargo {}:\n{}", arguments.join(" "), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("cargo prints UTF-8")
}

/// `--locked`: a test must not change the lock file it judges.
fn metadata() -> Value {
    let printed = cargo(&["metadata", "--format-version", "1", "--locked"]);
    serde_json::from_str(&printed).expect("cargo metadata prints JSON")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All crates of the lock file but our own, by name and version.
fn third_party(metadata: &Value) -> Vec<Found> {
    let ours: BTreeSet<&str> =
        metadata["workspace_members"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let mut found: Vec<Found> = metadata["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|package| !ours.contains(package["id"].as_str().expect("each package has an id")))
        .map(|package| Found {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: text(&package["source"]),
            repository: text(&package["repository"]),
        })
        .collect();
    assert!(found.len() > 20, "cargo metadata named {} crates: this test looks at the wrong workspace", found.len());
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    found
}

/// Crates that are built for a platform, each with its features. From `cargo tree`: the graph in `cargo metadata` keeps
/// optional dependencies that only another platform asks for.
fn built_for(target: &str) -> BTreeMap<String, BTreeSet<String>> {
    let listing =
        cargo(&["tree", "--workspace", "--target", target, "--prefix", "none", "--format", "{p}|{f}", "--locked"]);
    let mut built: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in listing.lines() {
        let Some((package, features)) = line.split_once('|') else { continue };
        let name = package.split(' ').next().expect("split yields at least one part").to_owned();
        let features = features.split(',').map(|feature| feature.trim_end_matches(" (*)").to_owned());
        built.entry(name).or_default().extend(features);
    }
    built
}

fn licence_complaint(name: &str, licence: &str) -> Option<String> {
    if EXCEPTIONS.iter().any(|(crate_name, its_licence, ..)| *crate_name == name && *its_licence == licence) {
        return None;
    }
    match satisfiable(licence) {
        Some(true) => None,
        Some(false) => Some(format!("{name}: licence `{licence}` is not one we may ship")),
        None => Some(format!("{name}: cannot read its licence `{licence}`")),
    }
}

/// Whether an SPDX expression can be met with `ALLOWED` alone; `None` when it is no SPDX expression.
fn satisfiable(expression: &str) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at)?;
    (at == words.len()).then_some(met)
}

fn any_of(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut met = all_of(words, at)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at)?;
    }
    Some(met)
}

fn all_of(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut met = one(words, at)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at)?;
    }
    Some(met)
}

fn one(words: &[&str], at: &mut usize) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let met = any_of(words, at)?;
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return closed.then_some(met);
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1)?;
        *at += 2;
        return Some(ALLOWED.contains(&format!("{word} WITH {exception}").as_str()));
    }
    Some(ALLOWED.contains(&word))
}

fn render(crates: &[Found]) -> String {
    let mut out = String::from(
        "THIRD-PARTY: what meshwork is built with, and under which licence\n\n\
         Generated from Cargo.lock by tests/licences.rs (BLESS=1 cargo test --test licences); do not edit.\n\
         The list holds every crate of the lock file, for all platforms, those used only in tests and builds among them.\n\
         The source of each is https://crates.io/crates/NAME/VERSION; the last column is its project.\n\n",
    );
    for (name, licence, why, place) in EXCEPTIONS {
        out += &format!("{name} is under {licence} ({why}). Its source: {place}\n");
    }
    out.push('\n');
    let width = |column: fn(&Found) -> usize| crates.iter().map(column).max().unwrap_or(0);
    let (names, versions, licences) = (
        width(|found| found.name.len()),
        width(|found| found.version.len()),
        width(|found| found.licence.len().min(60)),
    );
    for Found { name, version, licence, repository, .. } in crates {
        let line = format!("{name:names$}  {version:versions$}  {licence:licences$}  {repository}");
        out += line.trim_end();
        out.push('\n');
    }
    out
}
