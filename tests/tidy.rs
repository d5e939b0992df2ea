//! The mechanical part of the house style, judged over the tree: sizes, headers, names, places, links, unfinished words.
//!
//! - Each rule is a function from files to complaints. One test runs all rules on this tree; each rule also has a test
//!   with a planted fault, because a rule that never complains proves nothing.
//! - An exception stands in `EXCEPTIONS` with its reason, and falls away by itself: one that is not needed is a complaint.
//! - Only files git would commit count; where there is no git (a source archive), all files outside build folders.
//!
//! Not here: what rustc, clippy and rustfmt already check, and anything that needs judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rule, file, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "sleep",
        "tests/support/wait.rs",
        "the bounded poll inside `wait_for`: it waits for a condition of another process",
    ),
    ("sleep", "src/node/tests.rs", "bounded polls for a condition of another thread"),
];

/// ARCHITECTURE section 2: these folders and no others.
const FOLDERS: &[&str] = &["src", "sim", "tests", "examples", "k8s", ".ci"];

const ROOT_FILES: &[&str] = &[
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "THIRD-PARTY",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] =
    &["util", "utils", "common", "manager", "helper", "helpers", "supervisor", "misc", "leader"];

const LINES_MAX: usize = 600;

/// A file of the tree: path from the root with `/`, and its text (empty where it is not UTF-8).
struct Source {
    path: String,
    text: String,
}

/// One broken rule: which, where, and what to do.
#[derive(Debug)]
struct Complaint {
    rule: &'static str,
    path: String,
    what: String,
}

type Rule = fn(&[Source]) -> Vec<Complaint>;

const RULES: &[Rule] =
    &[size, header, unfinished, sleeps, names, flat_crates, top_level, links, allow_reasons, unsafe_is_forbidden];

#[test]
fn the_tree_is_tidy() {
    let tree = tree();
    assert!(tree.iter().any(|file| file.path == "src/core/lib.rs"), "found {} files, and not the core", tree.len());
    let complaints = judge(&tree, EXCEPTIONS);
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn judge(tree: &[Source], exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let mut needed = BTreeSet::new();
    let mut said = Vec::new();
    for complaint in RULES.iter().flat_map(|rule| rule(tree)) {
        let Complaint { rule, path, what } = complaint;
        match exceptions.iter().position(|(of, file, _)| *of == rule && *file == path) {
            Some(at) => {
                needed.insert(at);
            }
            None => said.push(format!("{path}: {what} [{rule}]")),
        }
    }
    for (at, (rule, file, _)) in exceptions.iter().enumerate() {
        if !needed.contains(&at) && tree.iter().any(|source| source.path == *file) {
            said.push(format!("{file}: needs its exception from [{rule}] no more; remove the line in tests/tidy.rs"));
        }
    }
    said
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the package lies two folders below the root")
}

fn tree() -> Vec<Source> {
    let root = root();
    let paths = git_files(&root).unwrap_or_else(|| {
        let mut paths = Vec::new();
        walk(&root, &root, &mut paths);
        paths
    });
    paths
        .into_iter()
        .filter(|path| root.join(path).is_file())
        .map(|path| {
            let bytes = std::fs::read(root.join(&path)).expect("a listed file is readable");
            Source { path, text: String::from_utf8(bytes).unwrap_or_default() }
        })
        .collect()
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    let listing = String::from_utf8(out.stdout).ok()?;
    let paths: Vec<String> = listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    (out.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(root: &Path, folder: &Path, paths: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the tree is readable") {
        let path = entry.expect("an entry of a folder is readable").path();
        let name = path.file_name().expect("read_dir yields names").to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "out"].contains(&name.as_str()) {
                walk(root, &path, paths);
            }
        } else {
            let below = path.strip_prefix(root).expect("walked down from the root");
            paths.push(below.to_string_lossy().replace('\\', "/"));
        }
    }
}

fn rust(tree: &[Source]) -> impl Iterator<Item = &Source> {
    tree.iter().filter(|file| file.path.ends_with(".rs"))
}

fn complaint(rule: &'static str, file: &Source, what: String) -> Complaint {
    Complaint { rule, path: file.path.clone(), what }
}

/// A giant is one struct that owns everything and also decides everything: a part is missing a name.
fn size(tree: &[Source]) -> Vec<Complaint> {
    rust(tree)
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| {
            complaint("size", file, format!("{lines} lines, at most {LINES_MAX}: find the noun to take out"))
        })
        .collect()
}

fn header(tree: &[Source]) -> Vec<Complaint> {
    rust(tree)
        .filter(|file| !file.text.trim_start().starts_with("//!"))
        .map(|file| {
            complaint("header", file, "does not open with a `//!` header: purpose, invariants, what it is not".into())
        })
        .collect()
}

fn unfinished(tree: &[Source]) -> Vec<Complaint> {
    // Spelled in halves, so that this file does not name them.
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    let mut said = Vec::new();
    for file in rust(tree) {
        for (at, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                said.push(complaint("unfinished", file, format!("line {}: `{word}..)` is unfinished work", at + 1)));
            }
        }
    }
    said
}

/// A sleep in a test waits for luck: too long here, too short on the next machine.
fn sleeps(tree: &[Source]) -> Vec<Complaint> {
    let word = concat!("sleep", "(");
    let mut said = Vec::new();
    for file in rust(tree) {
        // Benchmarks are no tests: open-loop load waits by design.
        let all_test = (file.path.starts_with("tests/") && !file.path.starts_with("tests/bench/"))
            || file.path.starts_with("sim/")
            || file.path.ends_with("/tests.rs");
        let mut in_tests = all_test;
        for (at, line) in file.text.lines().enumerate() {
            in_tests |= line.trim() == "mod tests {";
            if in_tests && line.contains(word) && !line.trim_start().starts_with("//") {
                said.push(complaint("sleep", file, format!("line {}: wait for a condition, with a limit", at + 1)));
            }
        }
    }
    said
}

fn names(tree: &[Source]) -> Vec<Complaint> {
    tree.iter()
        .filter_map(|file| {
            let mut parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
            let part = parts.find(|part| BANNED_NAMES.contains(part))?;
            Some(complaint("names", file, format!("`{part}` says nothing; name what is inside")))
        })
        .collect()
}

/// `src/core/ring/partition.rs`, never a `src` folder inside a crate.
fn flat_crates(tree: &[Source]) -> Vec<Complaint> {
    rust(tree)
        .filter(|file| file.path.split('/').skip(1).any(|part| part == "src"))
        .map(|file| complaint("flat_crates", file, "crates keep their files flat in their own folder".into()))
        .collect()
}

fn top_level(tree: &[Source]) -> Vec<Complaint> {
    tree.iter()
        .filter(|file| match file.path.split_once('/') {
            Some((folder, _)) => !FOLDERS.contains(&folder),
            None => !ROOT_FILES.contains(&file.path.as_str()) && !file.path.ends_with(".svg"),
        })
        .map(|file| {
            complaint("top_level", file, "the top level has the rooms of the architecture and root files only".into())
        })
        .collect()
}

/// In Markdown: relative links lead to a file (and to a heading of it), and paths in backticks exist.
fn links(tree: &[Source]) -> Vec<Complaint> {
    let mut places: BTreeSet<String> = BTreeSet::new();
    for file in tree {
        for (at, _) in file.path.match_indices('/') {
            places.insert(file.path[..at].to_owned());
        }
        places.insert(file.path.clone());
    }
    let headings: BTreeMap<&str, BTreeSet<String>> =
        markdown(tree).map(|file| (file.path.as_str(), anchors(&file.text))).collect();
    let mut said = Vec::new();
    for file in markdown(tree) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let prose = without_code_blocks(&file.text);
        for target in link_targets(&prose) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (place, anchor) = target.split_once('#').unwrap_or((target, ""));
            let place = if place.is_empty() { file.path.clone() } else { normal(folder, place) };
            if !places.contains(&place) {
                said.push(complaint("links", file, format!("link to `{target}`: there is no {place}")));
            } else if !anchor.is_empty() && headings.get(place.as_str()).is_some_and(|known| !known.contains(anchor)) {
                said.push(complaint("links", file, format!("link to `{target}`: {place} has no such heading")));
            }
        }
        for word in prose.split('`').skip(1).step_by(2) {
            let path = word.trim_end_matches('/');
            let ours = path.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
            if ours && !path.contains(|c: char| c.is_whitespace() || "*{}<>$…".contains(c)) && !places.contains(path)
            {
                said.push(complaint("links", file, format!("names `{word}`, which is not there")));
            }
        }
    }
    said
}

fn markdown(tree: &[Source]) -> impl Iterator<Item = &Source> {
    tree.iter().filter(|file| file.path.ends_with(".md"))
}

fn without_code_blocks(text: &str) -> String {
    let mut prose = String::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

fn link_targets(prose: &str) -> Vec<&str> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let attributes = ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|start| prose.split(start).skip(1))
        .filter_map(|rest| rest.split('"').next());
    inline.chain(attributes).filter(|target| !target.is_empty()).collect()
}

/// The headings' anchors as forges make them: lower case, spaces to dashes, punctuation dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    without_code_blocks(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

fn normal(folder: &str, place: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in place.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn allow_reasons(tree: &[Source]) -> Vec<Complaint> {
    let starts = [concat!("#[", "allow("), concat!("#![", "allow("), concat!("#[", "expect("), concat!("#[", "ignore")];
    let mut said = Vec::new();
    for file in rust(tree) {
        for (start, at) in
            starts.iter().flat_map(|start| file.text.match_indices(start).map(move |(at, _)| (start, at)))
        {
            let attribute = file.text[at..].split_once(']').map_or("", |(attribute, _)| attribute);
            // `ignore = ".."` carries its reason by itself.
            if !attribute.contains("reason") && !attribute.contains("ignore = \"") {
                let line = file.text[..at].lines().count().max(1);
                said.push(complaint("allow_reasons", file, format!("near line {line}: `{start}..` without a reason")));
            }
        }
    }
    said
}

/// All crates but the node, which asks the kernel about sockets, memory and threads.
fn unsafe_is_forbidden(tree: &[Source]) -> Vec<Complaint> {
    let fronts = ["src/core/lib.rs", "src/transport/lib.rs", "src/client/lib.rs", "src/cli/main.rs", "sim/lib.rs"];
    rust(tree)
        .filter(|file| fronts.contains(&file.path.as_str()) && !file.text.contains("#![forbid(unsafe_code)]"))
        .map(|file| complaint("unsafe_is_forbidden", file, "lacks `#![forbid(unsafe_code)]`".into()))
        .collect()
}

fn planted(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn a_file_past_the_limit_is_found() {
    assert!(size(&planted("src/core/a.rs", &"x\n".repeat(LINES_MAX))).is_empty());
    assert_eq!(size(&planted("src/core/a.rs", &"x\n".repeat(LINES_MAX + 1))).len(), 1);
}

#[test]
fn a_file_without_header_is_found() {
    assert!(header(&planted("src/core/a.rs", "//! What it is.\n")).is_empty());
    assert_eq!(header(&planted("src/core/a.rs", "// A plain comment.\nuse a;\n")).len(), 1);
}

#[test]
fn unfinished_work_is_found() {
    assert_eq!(unfinished(&planted("src/core/a.rs", concat!("fn a() { to", "do!() }"))).len(), 1);
    assert_eq!(unfinished(&planted("src/core/a.rs", concat!("let b = d", "bg!(a);"))).len(), 1);
}

#[test]
fn a_sleep_is_found_in_tests_only() {
    let line = concat!("std::thread::sle", "ep(SECOND);\n");
    assert_eq!(sleeps(&planted("tests/cluster.rs", line)).len(), 1);
    assert_eq!(sleeps(&planted("src/core/ring/tests.rs", line)).len(), 1);
    assert_eq!(sleeps(&planted("src/client/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{line}}}\n"))).len(), 1);
    assert!(sleeps(&planted("src/client/a.rs", line)).is_empty());
    assert!(sleeps(&planted("tests/cluster.rs", &format!("// {line}"))).is_empty());
}

#[test]
fn an_empty_name_is_found() {
    assert_eq!(names(&planted("src/core/util.rs", "")).len(), 1);
    assert_eq!(names(&planted("src/core/common/ring.rs", "")).len(), 1);
    assert!(names(&planted("src/core/utility_of_a_node.rs", "")).is_empty());
}

#[test]
fn a_stray_folder_or_root_file_is_found() {
    assert_eq!(top_level(&planted("docs/a.md", "")).len(), 1);
    assert_eq!(top_level(&planted("notes.txt", "")).len(), 1);
    assert!(top_level(&planted("src/core/a.rs", "")).is_empty());
    assert_eq!(flat_crates(&planted("src/core/src/a.rs", "")).len(), 1);
}

#[test]
fn a_dead_link_or_path_is_found() {
    assert_eq!(links(&planted("README.md", "See [this](src/gone.rs).")).len(), 1);
    assert_eq!(links(&planted("README.md", "<img src=\"gone.svg\">")).len(), 1);
    assert_eq!(links(&planted("README.md", "`src/gone.rs` has it")).len(), 1);
    assert_eq!(links(&planted("README.md", "# One\n[two](#two)")).len(), 1);
    assert!(
        links(&planted("README.md", "# One thing\n[x](#one-thing) [y](https://example.com/z) `README.md`")).is_empty()
    );
    assert!(links(&planted("README.md", "```\n[x](gone)\n```\n`src/*/gone.rs`")).is_empty());
    assert!(links(&planted("k8s/README.md", "[up](../k8s/README.md)")).is_empty());
}

#[test]
fn an_allow_without_reason_is_found() {
    assert_eq!(allow_reasons(&planted("src/core/a.rs", concat!("#[all", "ow(dead_code)]"))).len(), 1);
    assert_eq!(allow_reasons(&planted("src/core/a.rs", concat!("#[ign", "ore]"))).len(), 1);
    let good = concat!("#[all", "ow(\n    dead_code,\n    reason = \"read by the sibling\"\n)]");
    assert!(allow_reasons(&planted("src/core/a.rs", good)).is_empty());
}

#[test]
fn a_crate_that_may_use_unsafe_is_found() {
    assert_eq!(unsafe_is_forbidden(&planted("src/client/lib.rs", "//! A.\n")).len(), 1);
}

#[test]
fn an_exception_silences_its_rule_and_falls_away_when_unneeded() {
    let exceptions = &[("header", "src/core/a.rs", "a test")];
    assert!(judge(&planted("src/core/a.rs", "use a;\n"), exceptions).is_empty());
    assert_eq!(judge(&planted("src/core/a.rs", "//! A.\n"), exceptions).len(), 1);
    assert!(judge(&planted("src/core/b.rs", "//! A.\n"), exceptions).is_empty());
}
