//! `meshwork explain KEY`: who should hold a key, what each of them holds, and what mends the difference (INTERFACES §3).
//!
//! Every owner is asked for its own copy (`Op::Inspect`), and so are the next few stand-ins, since they may keep hints; each
//! answer is timed. The object of `-o json` holds all of it. Nothing is read by quorum and nothing is repaired by looking.
//! Shown by `tests/faults.rs`: while an owner is dead, and once it is back.

use crate::{
    args::KeyArgs,
    cluster,
    failure::{Exit, Failure},
    mesh,
    output::{self, Output},
};
use meshwork_client::{
    ClientControl, ControlReply, Held, Inspection, MemberStatus, Namespace, Owners, Standing, Version,
};
use serde::Serialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So many stand-ins are asked for hints: sloppy writes go to the first that can be reached.
const STAND_INS_ASKED: usize = 5;

/// One node's word.
#[derive(Debug, Serialize)]
struct Word {
    name: String,
    /// `false`: it would stand in.
    owner: bool,
    /// How long it took to answer, seconds.
    seconds: f64,
    /// `None`: it did not answer.
    copy: Option<Inspection>,
    /// Why it did not.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Explained {
    schema_version: u32,
    key: String,
    namespace: String,
    #[serde(flatten)]
    place: Owners,
    copies: Vec<Word>,
    /// What it comes to, a line each.
    verdict: Vec<String>,
}

/// `meshwork explain`.
pub(crate) async fn run(args: KeyArgs, output: Output) -> Result<(), Failure> {
    let mesh = mesh::connect(&args.client).await?;
    let status = cluster::status_of(mesh::control(&mesh, ClientControl::Status).await?)?;
    let question = ClientControl::Owners { namespace: args.namespace.clone(), key: args.key.clone().into_bytes() };
    let ControlReply::Owners(place) = mesh::control(&mesh, question).await? else { return Err(mesh::strange()) };
    let namespace = mesh.namespace(&args.namespace);
    let mut copies = Vec::new();
    let owners = place.owners.iter().map(|name| (name, true));
    for (name, owner) in owners.chain(place.fallbacks.iter().take(STAND_INS_ASKED).map(|name| (name, false))) {
        let member = status.members.iter().find(|member| member.name == *name && member.role == "member");
        let word = ask(&namespace, name, member, place.partition, args.key.as_bytes()).await;
        // A stand-in is of interest for what it keeps only.
        let keeps = word.copy.as_ref().is_some_and(|copy| copy.held != Held::Absent || !copy.hints.is_empty());
        if owner || keeps {
            copies.push(Word { owner, ..word });
        }
    }
    let verdict = judge(&copies, &|node| {
        let found = status.members.iter().find(|member| member.node == node);
        found.map_or_else(|| node.to_string(), |member| member.name.clone())
    });
    let explained = Explained { schema_version: 1, key: args.key, namespace: args.namespace, place, copies, verdict };
    output.data(&explained, text_of)?;
    if explained.copies.iter().all(|word| word.copy.is_none()) {
        return Err(Failure::new(Exit::Unreachable, "no owner of the key answered").next(
            "`meshwork status` says who is down; see that the nodes run and that this certificate is of their cluster",
        ));
    }
    Ok(())
}

async fn ask(namespace: &Namespace, name: &str, member: Option<&MemberStatus>, partition: u16, key: &[u8]) -> Word {
    let begun = Instant::now();
    let answer = match member {
        None => Err("this node's list of members lacks it".to_owned()),
        Some(member) => {
            let mut address = member.address;
            address.set_port(address.port().saturating_add(partition % member.shards.max(1)));
            namespace.inspect_at(address, key).await.map_err(|error| error.message().to_owned())
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let (copy, error) = match answer {
        Ok(copy) => (Some(copy), None),
        Err(error) => (None, Some(error)),
    };
    Word { name: name.to_owned(), owner: true, seconds, copy, error }
}

/// What the copies come to.
fn judge(words: &[Word], name_of: &dyn Fn(meshwork_client::NodeId) -> String) -> Vec<String> {
    let owners: Vec<&Word> = words.iter().filter(|word| word.owner).collect();
    let newest = owners.iter().filter_map(|word| word.copy.as_ref()?.version).max();
    let mut verdict = Vec::new();
    for word in &owners {
        let name = &word.name;
        let Some(copy) = &word.copy else {
            verdict.push(format!(
                "{name} does not answer: what it lacks comes by hint or comparison once it is back (`meshwork status`)"
            ));
            continue;
        };
        if copy.standing == Standing::Warming {
            verdict.push(format!("{name} warms: it takes writes, and votes again once it compared itself with others"));
        }
        let Some(newest) = newest else { continue };
        match copy.version {
            Some(version) if version == newest => {}
            Some(_) => {
                verdict.push(format!("{name} is behind: the next read repairs it, or the next comparison (every 10 s)"))
            }
            None if copy.forgotten >= newest => {
                verdict.push(format!("{name} forgot it for want of memory: it is not pushed back"));
            }
            None => verdict.push(format!("{name} lacks it: a hint brings it, or the next comparison (every 10 s)")),
        }
    }
    for word in words {
        let hints = word.copy.iter().flat_map(|copy| &copy.hints);
        verdict.extend(hints.map(|hint| format!("{} keeps a hint for {}", word.name, name_of(hint.target))));
    }
    if verdict.is_empty() {
        verdict.push(match newest {
            Some(_) => format!("all {} owners hold the same", owners.len()),
            None => format!("none of {} owners holds anything: it was never written, or is forgotten", owners.len()),
        });
    }
    verdict
}

fn text_of(explained: &Explained) -> String {
    let place = &explained.place;
    let head = output::pairs(&[
        ("key", format!("{} in {}", explained.key, explained.namespace)),
        ("hash", format!("{}, partition {}", place.hash, place.partition)),
        ("layout", place.layout.to_string()),
        ("owners", place.owners.join(", ")),
        ("stand-ins", place.fallbacks.join(", ")),
    ]);
    let mut table =
        output::table(&["node", "is", "copy", "holds", "version", "bytes", "age", "ttl left", "answered in"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for word in &explained.copies {
        let took = format!("{:.2} ms", word.seconds * 1_000.0);
        let role = if word.owner { "owner" } else { "stand-in" };
        let Some(copy) = &word.copy else {
            let why = word.error.clone().unwrap_or_default();
            table.add_row([
                word.name.clone(),
                role.to_owned(),
                "?".to_owned(),
                why,
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                took,
            ]);
            continue;
        };
        let left = |at: u64| seconds_of(Duration::from_millis(at).saturating_sub(now));
        let age = |version: Version| seconds_of(now.saturating_sub(Duration::from_millis(version.hlc.wall().0)));
        table.add_row([
            word.name.clone(),
            role.to_owned(),
            standing(copy.standing).to_owned(),
            held(copy).to_owned(),
            copy.version.map_or_else(String::new, |version| version.to_string()),
            if copy.held == Held::Value { copy.value_bytes.to_string() } else { String::new() },
            copy.version.map_or_else(String::new, age),
            copy.expires_at.map_or_else(String::new, left),
            took,
        ]);
    }
    format!("{head}\n\n{}\n\n{}", output::text(&table), explained.verdict.join("\n"))
}

fn seconds_of(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Ready => "votes",
        Standing::Warming => "warms",
        Standing::NoOwner => "-",
    }
}

fn held(copy: &Inspection) -> &'static str {
    match copy.held {
        Held::Absent if !copy.hints.is_empty() => "a hint",
        Held::Value => "the value",
        Held::Ended => "a value that is over",
        Held::Tombstone => "its deletion",
        Held::Ghost => "that it evicted it",
        Held::Absent => "nothing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_client::{HeldHint, NodeId};
    use meshwork_core::{id::ActorId, value::Hlc};

    fn version(ms: u64) -> Version {
        Version { hlc: Hlc(ms << 16), actor: ActorId(1) }
    }

    fn word(name: &str, owner: bool, version: Option<Version>) -> Word {
        let copy = Inspection {
            node: NodeId(1),
            layout: None,
            standing: if owner { Standing::Ready } else { Standing::NoOwner },
            held: if version.is_some() { Held::Value } else { Held::Absent },
            version,
            value_bytes: 3,
            expires_at: None,
            forgotten: Version::ZERO,
            hints: Vec::new(),
            urgent: false,
        };
        Word { name: name.to_owned(), owner, seconds: 0.001, copy: Some(copy), error: None }
    }

    fn judged(words: &[Word]) -> Vec<String> {
        judge(words, &|_| "c".to_owned())
    }

    #[test]
    fn equal_copies_are_said_to_be_equal_and_none_to_be_none() {
        let words = [word("a", true, Some(version(5))), word("b", true, Some(version(5)))];
        assert_eq!(judged(&words), ["all 2 owners hold the same"]);
        assert!(judged(&[word("a", true, None), word("b", true, None)])[0].starts_with("none of 2"));
    }

    #[test]
    fn each_difference_is_said_with_what_mends_it() {
        let mut dead = word("c", true, None);
        (dead.copy, dead.error) = (None, Some("no route".to_owned()));
        let mut keeper = word("d", false, None);
        keeper.copy.as_mut().unwrap().hints.push(HeldHint { target: NodeId(3), version: version(9) });
        let mut evicted = word("e", true, None);
        evicted.copy.as_mut().unwrap().forgotten = version(20);
        let mut warming = word("f", true, Some(version(9)));
        warming.copy.as_mut().unwrap().standing = Standing::Warming;
        let words = [
            word("a", true, Some(version(9))),
            word("b", true, Some(version(5))),
            word("g", true, None),
            dead,
            keeper,
            evicted,
            warming,
        ];
        let verdict = judged(&words).join("\n");
        for said in ["b is behind", "g lacks it", "c does not answer", "d keeps a hint for c", "e forgot it", "f warms"]
        {
            assert!(verdict.contains(said), "{said}: {verdict}");
        }
        assert!(!verdict.contains("a is"));
    }
}
