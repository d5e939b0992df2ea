//! `meshwork status` and `ring`: what the control plane knows, asked of any node.
//!
//! The objects are the wire's own (`NodeStatus`, `Owners`), so that the command line, the HTTP API and the
//! client speak of the same things by the same names.

use crate::{
    args::{ClientArgs, RingCommand},
    failure::{Exit, Failure},
    mesh,
    output::{self, Output},
    units,
};
use meshwork_client::{ClientControl, ControlReply, NodeStatus};
use meshwork_core::wire::control::DiskStatus;
use serde_json::json;

/// `meshwork status`.
pub(crate) async fn status(args: ClientArgs, output: Output) -> Result<(), Failure> {
    let status = fetch(&args).await?;
    output.data(&status, |status| text_of(status, output.is_wide()))
}

async fn fetch(args: &ClientArgs) -> Result<NodeStatus, Failure> {
    let mesh = mesh::connect(args).await?;
    status_of(mesh::control(&mesh, ClientControl::Status).await?)
}

/// The status in a reply.
pub(crate) fn status_of(reply: ControlReply) -> Result<NodeStatus, Failure> {
    match reply {
        ControlReply::Status(status) => Ok(*status),
        ControlReply::Routing(_)
        | ControlReply::Owners(_)
        | ControlReply::Created(_)
        | ControlReply::Plan(_)
        | ControlReply::Changed(_)
        | ControlReply::Namespaces(_)
        | ControlReply::Emptied(_)
        | ControlReply::Holds(_)
        | ControlReply::Refused { .. } => Err(mesh::strange()),
    }
}

/// The status, asked from outside any runtime.
pub(crate) fn ask_status(args: &ClientArgs) -> Result<NodeStatus, Failure> {
    crate::block_on(fetch(args))
}

fn text_of(status: &NodeStatus, wide: bool) -> String {
    let layout = status.layout.as_ref().map_or_else(|| "none yet".to_owned(), ToString::to_string);
    let agreed = if status.layout_agreed { "" } else { " (not yet agreed by all)" };
    let mut rows = vec![
        ("cluster", status.cluster.clone()),
        ("asked", format!("{} ({})", status.name, status.node)),
        ("state", status.state.clone()),
        ("layout", format!("{layout}{agreed}")),
    ];
    if !status.transition.is_empty() {
        rows.push(("change", status.transition.clone()));
    }
    if let Some(fenced) = &status.fenced {
        rows.push(("fenced", fenced.clone()));
    }
    if let Some(disk) = &status.disk {
        if let Some(trouble) = &disk.trouble {
            rows.push(("disk", trouble.clone()));
        } else if wide {
            let DiskStatus { restored, skipped, writes, disk_bytes, .. } = disk;
            let restored = format!("{restored} restored at the start, {skipped} skipped");
            rows.push(("disk", format!("{disk_bytes} bytes, {writes} records written, {restored}")));
        }
        if !disk.found.is_empty() {
            rows.push(("found", disk.found.clone()));
        }
    }
    if wide {
        rows.push(("entries", status.stats.entries.to_string()));
        rows.push((
            "memory",
            format!("{} of {}", units::bytes(status.stats.memory_bytes), units::bytes(status.stats.memory_limit_bytes)),
        ));
    }
    let mut columns = vec!["node", "health", "role", "replica", "partitions", "zone", "address"];
    if wide {
        columns.extend(["shards", "weight", "clock", "id"]);
    }
    let mut table = output::table(&columns);
    for member in &status.members {
        let mut row = vec![
            member.name.clone(),
            member.health.clone(),
            if member.drained { format!("{}, drained", member.role) } else { member.role.clone() },
            member.replica.clone(),
            member.partitions.to_string(),
            member.zone.clone(),
            member.address.to_string(),
        ];
        if wide {
            let clock = member.clock_offset_ms.map_or_else(String::new, |offset| format!("{offset:+} ms"));
            row.extend([member.shards.to_string(), member.weight.to_string(), clock, member.node.to_string()]);
        }
        table.add_row(row);
    }
    format!("{}\n\n{}", output::pairs(&rows), output::text(&table))
}

/// `meshwork ring`.
pub(crate) async fn ring(command: RingCommand, output: Output) -> Result<(), Failure> {
    match command {
        RingCommand::Show(args) => ring_show(&fetch(&args).await?, output),
        RingCommand::Owners(args) => {
            let mesh = mesh::connect(&args.client).await?;
            let question = ClientControl::Owners { namespace: args.namespace, key: args.key.into_bytes() };
            let ControlReply::Owners(owners) = mesh::control(&mesh, question).await? else {
                return Err(mesh::strange());
            };
            output.data(&owners, |owners| {
                output::pairs(&[
                    ("partition", owners.partition.to_string()),
                    ("hash", owners.hash.clone()),
                    ("layout", owners.layout.to_string()),
                    ("owners", owners.owners.join(", ")),
                    ("fallbacks", owners.fallbacks.join(", ")),
                ])
            })
        }
    }
}

fn ring_show(status: &NodeStatus, output: Output) -> Result<(), Failure> {
    let Some(layout) = &status.layout else {
        return Err(Failure::new(Exit::Failed, format!("there is no ring yet: {}", status.state)));
    };
    let members: Vec<_> = status.members.iter().filter(|member| member.partitions > 0).collect();
    let held: u32 = members.iter().map(|member| member.partitions).sum();
    let share = |partitions: u32| f64::from(partitions) / f64::from(held.max(1));
    let object = json!({
        "schema_version": 1, "layout": layout, "agreed": status.layout_agreed,
        "members": members.iter().map(|m| json!({
            "node": m.node.to_string(), "name": m.name, "zone": m.zone, "weight": m.weight, "shards": m.shards,
            "partitions": m.partitions, "share": share(m.partitions),
        })).collect::<Vec<_>>(),
    });
    output.data(&object, |_| {
        let mut table = output::table(&["node", "zone", "weight", "shards", "partitions", "share"]);
        for member in &members {
            table.add_row([
                member.name.clone(),
                member.zone.clone(),
                member.weight.to_string(),
                member.shards.to_string(),
                member.partitions.to_string(),
                format!("{:.1} %", share(member.partitions) * 100.0),
            ]);
        }
        output::text(&table)
    })
}
