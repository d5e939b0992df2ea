//! `meshwork get`, `set`, `del`, `touch`: one call on one key.
//!
//! As a table, `get` writes the bytes of the value and nothing else, so that pipes carry it unharmed; a missing key is
//! exit 1 with a line on stderr. As JSON, every command prints one object with the reply's worth.

use crate::{
    args::{GetArgs, KeyArgs, SetArgs, TouchArgs},
    failure::{Exit, Failure},
    mesh,
    output::Output,
};
use meshwork_client::{Entry, Error, ErrorKind, Namespace, SetOutcome, Worth};
use meshwork_core::limits::VALUE_BYTES_MAX;
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};

async fn open(args: &KeyArgs) -> Result<Namespace, Failure> {
    Ok(mesh::connect(&args.client).await?.namespace(&args.namespace))
}

/// `meshwork get`.
pub(crate) async fn get(args: GetArgs, output: Output) -> Result<(), Failure> {
    let args = args.key;
    let namespace = open(&args).await?;
    let entry = namespace.get_entry(&args.key).consistency(args.consistency.unwrap_or_default()).await;
    match entry.map_err(|error| failure(&args, error))? {
        Some(entry) if output.is_json() => output.data(&of_entry(&args, &entry), |_| String::new()),
        Some(entry) => output.bytes(&entry.value),
        None => {
            if output.is_json() {
                let object = json!({ "key": args.key, "namespace": args.namespace, "found": false });
                output.data(&object, |_| String::new())?;
            }
            Err(missing(&args))
        }
    }
}

/// The client's error; a node knows a namespace by its id only, so its name is said here.
fn failure(args: &KeyArgs, error: Error) -> Failure {
    if *error.kind() == ErrorKind::NoSuchNamespace {
        return Failure::new(Exit::Failed, format!("there is no namespace {:?}", args.namespace))
            .next("`meshwork namespace list` lists them, `meshwork namespace create` makes one");
    }
    mesh::failure(error)
}

fn missing(args: &KeyArgs) -> Failure {
    Failure::new(Exit::Failed, format!("there is no {:?} in {}", args.key, args.namespace))
}

fn of_entry(args: &KeyArgs, entry: &Entry) -> Value {
    let mut object = json!({
        "key": args.key, "namespace": args.namespace, "found": true,
        "version": entry.version.to_string(),
        "ttl_left": entry.ttl_left().map(|ttl| ttl.as_secs_f64()),
        "age": entry.age().as_secs_f64(),
        "node": entry.node.map(|node| node.to_string()),
        "worth": of_worth(entry.worth),
    });
    // JSON has no byte strings: what is not UTF-8 is shown in hexadecimal, under another name.
    match std::str::from_utf8(&entry.value) {
        Ok(text) => object["value"] = text.into(),
        Err(_) => object["value_hex"] = entry.value.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    object
}

/// `meshwork set`.
pub(crate) async fn set(args: SetArgs, output: Output) -> Result<(), Failure> {
    let value = match args.value.as_deref() {
        Some("-") | None => from_stdin()?,
        Some(value) => value.as_bytes().to_vec(),
    };
    let key = args.key;
    let namespace = open(&key).await?;
    let mut set = namespace.set(&key.key, &value).consistency(key.consistency.unwrap_or_default());
    if let Some(ttl) = args.ttl {
        set = set.ttl(ttl);
    }
    if args.if_absent {
        set = set.if_absent();
    }
    let outcome = set.await.map_err(|error| failure(&key, error))?;
    done(&key, &outcome, output)?;
    if outcome.applied {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, format!("{:?} was not written: it has a value already", key.key)))
}

/// A value from a pipe, bounded before it is held.
fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::usage("there is no value").next("give it after the key, or pipe it in"));
    }
    let mut value = Vec::new();
    let read = stdin.by_ref().take(u64::from(VALUE_BYTES_MAX) + 1).read_to_end(&mut value);
    read.map_err(|error| Failure::new(Exit::Failed, format!("stdin: {error}")))?;
    if value.len() > VALUE_BYTES_MAX as usize {
        return Err(Failure::usage(format!(
            "the value is longer than {VALUE_BYTES_MAX} bytes, which no namespace allows"
        )));
    }
    Ok(value)
}

/// `meshwork del`.
pub(crate) async fn delete(args: KeyArgs, output: Output) -> Result<(), Failure> {
    let namespace = open(&args).await?;
    let outcome = namespace.delete(&args.key).consistency(args.consistency.unwrap_or_default()).await;
    done(&args, &outcome.map_err(|error| failure(&args, error))?, output)
}

/// `meshwork touch`.
pub(crate) async fn touch(args: TouchArgs, output: Output) -> Result<(), Failure> {
    let key = args.key;
    let namespace = open(&key).await?;
    let touch = namespace.touch(&key.key, args.ttl).consistency(key.consistency.unwrap_or_default());
    let found = touch.await.map_err(|error| failure(&key, error))?;
    if output.is_json() {
        let object = json!({ "key": key.key, "namespace": key.namespace, "found": found });
        output.data(&object, |_| String::new())?;
    }
    if found { Ok(()) } else { Err(missing(&key)) }
}

fn done(args: &KeyArgs, outcome: &SetOutcome, output: Output) -> Result<(), Failure> {
    let object = json!({
        "key": args.key, "namespace": args.namespace, "applied": outcome.applied,
        "version": outcome.version.map(|version| version.to_string()), "current": outcome.current.map(|version| version.to_string()),
        "worth": of_worth(outcome.worth),
    });
    if output.is_json() {
        return output.data(&object, |_| String::new());
    }
    let worth = outcome.worth;
    if worth.fallbacks > 0 || worth.degraded {
        let (acks, fallbacks) = (worth.acks, worth.fallbacks);
        output.say(format!("held by {acks} replicas, {fallbacks} of them stand-ins: see `meshwork status`"));
    }
    Ok(())
}

fn of_worth(worth: Worth) -> Value {
    json!({
        "acks": worth.acks, "fallbacks": worth.fallbacks, "epoch": worth.epoch, "sloppy": worth.sloppy,
        "degraded": worth.degraded, "warming": worth.warming, "stale": worth.stale, "superseded": worth.superseded,
    })
}
