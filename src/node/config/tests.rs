//! Precedence, typos, line numbers: what a person gets to read.

use super::{check::too_much, *};
use std::io::Write;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

const GOOD: &str =
    "[cluster]\nname = \"prod\"\n[node]\nname = \"a\"\nweight = 50\n[tls]\nca = \"c\"\ncert = \"d\"\nkey = \"e\"\n";

fn load(text: &str) -> Result<Config, String> {
    let file = file(text);
    let name = file.path().display().to_string();
    Config::load(Some(file.path()), [], &[]).map_err(|error| error.to_string().replace(&name, "FILE"))
}

fn strings(sets: &[&str]) -> Vec<String> {
    sets.iter().map(|set| (*set).to_owned()).collect()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = file(GOOD);
    let environment = || [("MESHWORK_NODE__WEIGHT".to_owned(), "60".to_owned())];
    let weight = |config: &Config| (config.node.weight, config.origin("node.weight").to_string());
    let from_file = Config::load(Some(file.path()), [], &[]).unwrap();
    assert_eq!(weight(&from_file), (50, format!("{}:5", file.path().display())));
    let from_environment = Config::load(Some(file.path()), environment(), &[]).unwrap();
    assert_eq!(weight(&from_environment), (60, "MESHWORK_NODE__WEIGHT".to_owned()));
    let from_flag = Config::load(Some(file.path()), environment(), &strings(&["node.weight=70"])).unwrap();
    assert_eq!(weight(&from_flag), (70, "--set".to_owned()));
    assert_eq!((from_flag.cluster.n, from_flag.origin("cluster.n")), (3, Origin::Default));
}

#[test]
fn a_typo_is_named_with_its_line_and_the_nearest_setting() {
    assert_eq!(
        load("[cluster]\nname = \"x\"\nbootstrap_expct = 3\n").unwrap_err(),
        "FILE:3: unknown setting cluster.bootstrap_expct; did you mean cluster.bootstrap_expect?"
    );
    assert_eq!(
        load("[clustr]\n").unwrap_err(),
        "FILE:1: unknown section [clustr]; did you mean [cluster]?".replace("[cluster]?", "cluster?")
    );
    let wrong = Config::load(None, [("MESHWORK_NODE__WIEGHT".to_owned(), "1".to_owned())], &[]).unwrap_err();
    assert_eq!(wrong.to_string(), "MESHWORK_NODE__WIEGHT: unknown setting node.wieght; did you mean node.weight?");
    let wrong = Config::load(None, [], &strings(&["node.shard=2"])).unwrap_err();
    assert_eq!(wrong.to_string(), "--set: unknown setting node.shard; did you mean node.shards?");
    assert!(Config::load(None, [], &strings(&["node.shards"])).unwrap_err().to_string().contains("section.key=value"));
}

#[test]
fn a_bad_value_is_named_with_its_line_and_what_would_do() {
    for (line, words) in [
        ("[node]\nweight = 0", "FILE:2: node.weight = 0: take 1 to 1000"),
        ("[node]\nshards = 65", "FILE:2: node.shards = 65: take 1 to 64"),
        ("[cluster]\npartitions = 1000", "FILE:2: cluster.partitions = 1000: take a power of two: 512 or 1024"),
        ("[cluster]\nn = 9", "FILE:2: cluster.n = 9: take 1 to 8"),
        ("[cluster]\nn = \"three\"", "FILE:2: cluster.n must be an integer, not string"),
        ("[cluster]\nname = \"a b\"", "FILE:2: cluster.name = \"a b\": take 1 to 64 letters, digits, '.', '-', '_'"),
        ("[memory]\nlimit = \"lots\"", "FILE:2: memory.limit = \"lots\": write a size like 256MiB or 2GiB"),
        (
            "[transport]\nseeds = \"a:1\"",
            "FILE:2: transport.seeds must be a list of strings, like [\"a\", \"b\"], not string",
        ),
        (
            "[transport]\nlisten = \"7400\"",
            "FILE:2: transport.listen = \"7400\": write an IP address and a port, like 0.0.0.0:7400 or [::]:7400",
        ),
        ("[storage]\nqueue = \"1KiB\"", "FILE:2: storage.queue = \"1KiB\": take 1MiB to 1GiB"),
        ("[storage]\ncache = \"much\"", "FILE:2: storage.cache = \"much\": write a size like 256MiB or 2GiB"),
        ("[tls]\npq = \"yes\"", "FILE:2: tls.pq = \"yes\": take \"preferred\" or \"required\""),
    ] {
        let mut text = GOOD.to_owned();
        // Sections stand once in TOML: the probed one goes first and its twin below is dropped.
        let (section, _) = line.split_once('\n').unwrap();
        let key = line.split_once('\n').unwrap().1.split(' ').next().unwrap();
        let rest = text.split('[').filter(|part| !part.is_empty()).map(|part| format!("[{part}"));
        let mut first = format!("{line}\n");
        let mut others = String::new();
        for part in rest {
            if let Some(body) = part.strip_prefix(&format!("{section}\n")) {
                for kept in body.lines().filter(|kept| !kept.starts_with(&format!("{key} "))) {
                    first.push_str(kept);
                    first.push('\n');
                }
            } else {
                others.push_str(&part);
            }
        }
        text = format!("{first}{others}");
        assert_eq!(load(&text).unwrap_err(), words);
    }
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    let error = load("[cluster]\nname = prod\n").unwrap_err();
    assert!(error.starts_with("FILE:2: not TOML: "), "{error}");
}

#[test]
fn a_namespace_that_cannot_be_is_named_with_its_line() {
    let ok = load(&format!("{GOOD}[[namespace]]\nname = \"users\"\nr = 1\n")).unwrap();
    assert_eq!((ok.namespaces[0].name.as_str(), ok.namespaces[0].r, ok.namespaces[0].w), ("users", 1, 2));
    let wide = load(&format!("{GOOD}[[namespace]]\nname = \"users\"\nw = 4\n")).unwrap_err();
    assert!(wide.starts_with("FILE:10: [[namespace]]: w = 4 is not between 1 and 3"), "{wide}");
    let typo = load(&format!("{GOOD}[[namespace]]\nname = \"users\"\nmod = \"strict\"\n")).unwrap_err();
    assert_eq!(typo, "FILE:12: unknown setting namespace.mod; did you mean namespace.mode?");
    let mode = load(&format!("{GOOD}[[namespace]]\nname = \"users\"\nmode = \"strickt\"\n")).unwrap_err();
    assert!(mode.starts_with("FILE:12: [[namespace]]: ") && mode.contains("strict"), "{mode}");
    let diskless = load(&format!("{GOOD}[[namespace]]\nname = \"users\"\nack = \"log\"\n")).unwrap_err();
    assert!(diskless.starts_with("FILE:10: [[namespace]]: ") && diskless.contains("set node.data_dir"), "{diskless}");
    let disk = GOOD.replace("weight = 50", "data_dir = \"d\"");
    let kept = load(&format!("{disk}[[namespace]]\nname = \"users\"\nack = \"fsync\"\n")).unwrap();
    assert_eq!(kept.namespaces[0].ack.name(), "fsync");
}

#[test]
fn what_init_writes_can_be_read_and_gives_the_defaults() {
    let config = load(&Config::render_default()).unwrap();
    assert_eq!(config.cluster.name, "prod");
    assert_eq!((config.cluster.n, config.node.weight), (3, 100));
    assert_eq!((config.memory, config.huge_pages), (MemoryLimit::Percent(75), false));
    assert_eq!(config.show().len(), SETTINGS.len());
}

#[test]
fn settings_without_a_default_say_how_to_set_them() {
    let error = Config::load(None, [], &strings(&["cluster.name=x"])).unwrap_err().to_string();
    assert!(error.starts_with("tls.ca is not set: ") && error.contains("meshwork cert"), "{error}");
}

#[test]
fn flags_may_quote_and_list() {
    let sets = strings(&[
        "cluster.name=\"x\"",
        "tls.ca=a",
        "tls.cert=b",
        "tls.key=c",
        "transport.seeds=a:1, b:2",
        "http.listen=off",
        "memory.limit=64MiB",
    ]);
    let config = Config::load(None, [], &sets).unwrap();
    assert_eq!(config.transport.seeds, ["a:1", "b:2"]);
    assert_eq!((config.cluster.name.as_str(), config.http), ("x", None));
    let zone = Config::load(None, [("MESHWORK_ZONE".to_owned(), "z1".to_owned())], &sets).unwrap();
    assert_eq!(zone.node.zone, "z1");
}

#[test]
fn a_limit_that_the_host_has_not_got_is_a_problem() {
    const MIB: u64 = 1 << 20;
    assert_eq!(too_much(1_024 * MIB, false, 1_024 * MIB), None, "a limit of all there is, is the operator's to set");
    assert_eq!(too_much(768 * MIB, true, 1_024 * MIB), None);
    let told = too_much(1_000 * MIB, true, 1_024 * MIB).unwrap();
    assert!(told.starts_with("1000MiB and 128MiB for the store are more than the 1024MiB"), "{told}");
    assert!(told.ends_with("take at most 806MiB"), "{told}");
    assert!(too_much(64 * MIB, true, 128 * MIB).unwrap().ends_with("give the node more memory"));
    let mut config = load(GOOD).unwrap();
    config.memory = MemoryLimit::Bytes(1 << 50);
    let problems = config.check();
    assert!(problems.iter().any(|problem| problem.name == "memory.limit"), "{problems:?}");
}

#[test]
fn problems_of_this_host_are_all_told_at_once() {
    let mut config = load(GOOD).unwrap();
    config.http = Some("0.0.0.0:7480".parse().unwrap());
    config.memory = MemoryLimit::Bytes(1 << 20);
    let file = file("no directory");
    config.node.data_dir = Some(file.path().join("data"));
    let problems = config.check();
    let of = |name: &str| problems.iter().find(|problem| problem.name == name).map(ToString::to_string);
    assert!(of("tls.cert").unwrap().contains("cannot read c"), "{problems:?}");
    assert!(of("http.listen").unwrap().contains("127.0.0.1:7480"), "{problems:?}");
    assert!(of("memory.limit").unwrap().contains("MiB"), "{problems:?}");
    assert!(of("node.data_dir").unwrap().contains("is not a directory"), "{problems:?}");
    assert!(of("transport.advertise").unwrap().contains("0.0.0.0:7400"), "{problems:?}");
}
