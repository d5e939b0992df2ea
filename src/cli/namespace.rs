//! `meshwork namespace`: what kinds of data there are, made, listed, emptied and deleted.
//!
//! A flush or deletion is done once every member that is up holds to it (its shards were told, and its disk if it has one has it): only then
//! does the command say so. A member that is down hears of it before it serves again.

use crate::{
    args::{ClientArgs, NamespaceCommand, NamespaceCreateArgs},
    cluster,
    failure::{Exit, Failure},
    mesh,
    output::{self, Output},
};
use meshwork_client::{ClientControl, ControlReply, Mesh};
use meshwork_core::{
    namespace::{Ack, Eviction, Mode, Namespace},
    value::Hlc,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// Members that are up hear of a flush within seconds; one with a slow disk takes longer.
const HELD_WITHIN: Duration = Duration::from_secs(30);
/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// `meshwork namespace`.
pub(crate) async fn run(command: NamespaceCommand, output: Output) -> Result<(), Failure> {
    match command {
        NamespaceCommand::Create(args) => create(args, output).await,
        NamespaceCommand::Flush { name, client } => {
            empty(&client, output, name, "flushed", ClientControl::NamespaceFlush).await
        }
        NamespaceCommand::Delete { name, client } => {
            empty(&client, output, name, "deleted", ClientControl::NamespaceDelete).await
        }
        NamespaceCommand::List(client) => {
            let all = all(&mesh::connect(&client).await?).await?;
            output.list(&all.iter().map(object).collect::<Vec<_>>(), |_| table_of(&all))
        }
        NamespaceCommand::Show { name, client } => {
            let all = all(&mesh::connect(&client).await?).await?;
            let found = all.into_iter().find(|namespace| namespace.name == name).ok_or_else(|| {
                Failure::new(Exit::Failed, format!("there is no namespace {name:?}"))
                    .next("`meshwork namespace list` lists them")
            })?;
            output.data(&object(&found), |_| table_of(std::slice::from_ref(&found)))
        }
    }
}

/// All namespaces of a mesh.
pub(crate) async fn all(mesh: &Mesh) -> Result<Vec<Namespace>, Failure> {
    match mesh::control(mesh, ClientControl::NamespaceList).await? {
        ControlReply::Namespaces(all) => Ok(all),
        ControlReply::Routing(_)
        | ControlReply::Status(_)
        | ControlReply::Owners(_)
        | ControlReply::Created(_)
        | ControlReply::Plan(_)
        | ControlReply::Changed(_)
        | ControlReply::Emptied(_)
        | ControlReply::Holds(_)
        | ControlReply::Refused { .. } => Err(mesh::strange()),
    }
}

/// Empties a namespace, or deletes it, and waits until every member that is up holds to it.
async fn empty(
    client: &ClientArgs,
    output: Output,
    name: String,
    done: &str,
    request: impl FnOnce(String) -> ClientControl,
) -> Result<(), Failure> {
    let mesh = mesh::connect(client).await?;
    let ControlReply::Emptied(mark) = mesh::control(&mesh, request(name.clone())).await? else {
        return Err(mesh::strange());
    };
    let begun = Instant::now();
    let (holding, down) = loop {
        let (holding, lacking, down) = who_holds(&mesh, &name, mark).await?;
        if lacking.is_empty() {
            break (holding, down);
        }
        if begun.elapsed() > HELD_WITHIN {
            let text =
                format!("{name} is {done}, but not yet on {} after {} s", lacking.join(", "), HELD_WITHIN.as_secs());
            return Err(Failure::new(Exit::Failed, text).next(
                "they follow when they hear of it: look at `meshwork status`, and run this once more to be sure",
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    };
    if output.is_json() {
        // As versions have it: what `explain` shows of a key lies at or below the mark, or above it.
        let mark = format!("{:x}", mark.0);
        let found = json!({ "namespace": name, "done": done, "mark": mark, "holding": holding, "down": down });
        return output.data(&found, |_| String::new());
    }
    let later = if down.is_empty() { String::new() } else { format!("; {} will be when back", down.join(", ")) };
    output.say(format!("{done} {name} on {}{later}", holding.join(", ")));
    Ok(())
}

/// Which members hold to a mark, which do not yet, and which are down.
async fn who_holds(mesh: &Mesh, name: &str, mark: Hlc) -> Result<(Vec<String>, Vec<String>, Vec<String>), Failure> {
    let status = cluster::status_of(mesh::control(mesh, ClientControl::Status).await?)?;
    let (mut holding, mut lacking, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for member in status.members.iter().filter(|member| member.role != "removed") {
        let asked = ClientControl::NamespaceHolds { name: name.to_owned(), mark };
        let to = match mesh.control_at(member.address, asked).await {
            Ok(ControlReply::Holds(true)) => &mut holding,
            _ if member.health == "down" => &mut down,
            _ => &mut lacking,
        };
        to.push(member.name.clone());
    }
    for names in [&mut holding, &mut lacking, &mut down] {
        names.sort();
    }
    Ok((holding, lacking, down))
}

async fn create(args: NamespaceCreateArgs, output: Output) -> Result<(), Failure> {
    let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let mut namespace = Namespace::new(&args.name);
    namespace.n = args.n;
    namespace.r = args.r;
    namespace.w = args.w;
    namespace.mode = if args.mode == "strict" { Mode::Strict } else { Mode::Sloppy };
    namespace.ttl_default = args.ttl_default.map(millis);
    namespace.ttl_max = args.ttl_max.map(millis);
    namespace.value_max = u32::try_from(args.value_max).unwrap_or(u32::MAX);
    namespace.eviction = if args.eviction == "none" { Eviction::None } else { Eviction::On };
    namespace.ack = match args.ack.as_str() {
        "fsync" => Ack::Fsync,
        "log" => Ack::Log,
        _ => Ack::Mem,
    };
    // What makes no sense anywhere is refused here; what the cluster's own N forbids, by the node.
    namespace.check(u8::MAX).map_err(Failure::usage)?;
    let mesh = mesh::connect(&args.client).await?;
    let ControlReply::Created(created) =
        mesh::control(&mesh, ClientControl::NamespaceCreate(Box::new(namespace.clone()))).await?
    else {
        return Err(mesh::strange());
    };
    if output.is_json() {
        return output.data(&json!({ "created": created, "namespace": object(&namespace) }), |_| String::new());
    }
    output.say(if created {
        format!("created {}", args.name)
    } else {
        format!("{} was there already, just so", args.name)
    });
    Ok(())
}

/// The wire leaves `ack` out where it is `mem`; people get it always.
fn object(namespace: &Namespace) -> serde_json::Value {
    let mut fields = json!(namespace);
    fields["ack"] = namespace.ack.name().into();
    fields
}

fn table_of(all: &[Namespace]) -> String {
    let mut table = output::table(&[
        "name",
        "kind",
        "n",
        "r",
        "w",
        "mode",
        "ttl default",
        "ttl max",
        "value max",
        "eviction",
        "ack",
    ]);
    let millis = |ttl: Option<u64>| ttl.map_or_else(|| "never".to_owned(), |ms| format!("{} s", ms as f64 / 1000.0));
    for namespace in all {
        table.add_row([
            namespace.name.clone(),
            format!("{:?}", namespace.kind).to_lowercase(),
            namespace.n.to_string(),
            namespace.r.to_string(),
            namespace.w.to_string(),
            format!("{:?}", namespace.mode).to_lowercase(),
            millis(namespace.ttl_default),
            millis(namespace.ttl_max),
            namespace.value_max.to_string(),
            format!("{:?}", namespace.eviction).to_lowercase(),
            namespace.ack.name().to_owned(),
        ]);
    }
    output::text(&table)
}
