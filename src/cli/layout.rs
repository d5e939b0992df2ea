//! `meshwork plan`, `node` and `layout`: who owns what, changed while the mesh serves (PROTOCOL §2 "Transition").
//!
//! A change is one question to any node, by an administrator; the mesh does the rest by itself. `--wait` looks until it is
//! done, and says what it waits for. Nodes are named by their label or, where two have one, by their id.

use crate::{
    args::{ClientArgs, LayoutCommand, NodeCommand, PlanCommand},
    cluster,
    failure::{Exit, Failure},
    mesh,
    output::{self, Output},
    units,
};
use meshwork_client::{ClientControl, ControlReply, Mesh, NodeStatus};
use meshwork_core::{
    id::NodeId,
    wire::control::{LayoutChange, Plan},
};
use serde_json::json;
use std::time::Duration;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks without a request between them after which nobody asks a drained node any more: longer than the 10 s within which
/// clients look who is drained.
const QUIET_LOOKS: u32 = 24;

/// `meshwork plan`.
pub(crate) async fn plan(command: PlanCommand, output: Output) -> Result<(), Failure> {
    match command {
        PlanCommand::Show(client) => {
            let plan = ask_plan(&mesh::connect(&client).await?).await?;
            output.data(&plan, text_of)
        }
        PlanCommand::Commit { version, client } => {
            send(&mesh::connect(&client).await?, LayoutChange::Commit(version), output).await
        }
        PlanCommand::Clear(client) => {
            let mesh = mesh::connect(&client).await?;
            send_saying(&mesh, LayoutChange::Clear, "`meshwork plan show` says what is still staged", output).await
        }
        PlanCommand::Weight { node, weight, client } => {
            change(&client, &node, |node| LayoutChange::Weight(node, weight), None, output).await
        }
        PlanCommand::Zone { node, zone, client } => {
            change(&client, &node, |node| LayoutChange::Zone(node, zone), None, output).await
        }
    }
}

/// `meshwork node`.
pub(crate) async fn node(command: NodeCommand, output: Output) -> Result<(), Failure> {
    match command {
        NodeCommand::Leave { node, wait, client } => {
            let mesh = mesh::connect(&client).await?;
            let status = ask_status(&mesh).await?;
            let node = find(&status, &node)?;
            send(&mesh, LayoutChange::Leave(node), output).await?;
            if wait {
                wait_until_gone(&mesh, node, "it owns nothing any more", output).await?;
                wait_for_hints(&mesh, &status, node, output).await?;
                output.say("nothing depends on it any more: stop it".to_owned());
            }
            Ok(())
        }
        NodeCommand::Remove { node, wait, client } => {
            change(&client, &node, LayoutChange::Remove, wait.then_some("others hold its copies"), output).await
        }
        NodeCommand::Drain { node, wait, client } => {
            let mesh = mesh::connect(&client).await?;
            let status = ask_status(&mesh).await?;
            let node = find(&status, &node)?;
            let sent = send_saying(&mesh, LayoutChange::Drain(node, true), "clients learn of it within 10 s", output);
            sent.await?;
            if wait { wait_until_quiet(&mesh, &status, node, output).await } else { Ok(()) }
        }
        NodeCommand::Undrain { node, client } => {
            let mesh = mesh::connect(&client).await?;
            let node = find(&ask_status(&mesh).await?, &node)?;
            send_saying(&mesh, LayoutChange::Drain(node, false), "clients learn of it within 10 s", output).await
        }
        NodeCommand::Replace { old, new, wait, client } => {
            let mesh = mesh::connect(&client).await?;
            let status = ask_status(&mesh).await?;
            let (old, new) = (find(&status, &old)?, find(&status, &new)?);
            send(&mesh, LayoutChange::Replace { old, new }, output).await?;
            if wait {
                wait_until_gone(&mesh, old, "the new node holds its copies", output).await?;
            }
            Ok(())
        }
    }
}

/// `meshwork layout`.
pub(crate) async fn layout(command: LayoutCommand, output: Output) -> Result<(), Failure> {
    let LayoutCommand::SkipDead { accept_data_loss, client } = command;
    if !accept_data_loss {
        return Err(Failure::new(Exit::Usage, "what only the dead nodes held is lost with this").next(
            "`meshwork plan show` says for whom the change waits; give --accept-data-loss to go on without them",
        ));
    }
    send(&mesh::connect(&client).await?, LayoutChange::SkipDead, output).await
}

async fn change(
    client: &ClientArgs,
    node: &str,
    change: impl FnOnce(NodeId) -> LayoutChange,
    wait: Option<&str>,
    output: Output,
) -> Result<(), Failure> {
    let mesh = mesh::connect(client).await?;
    let node = find(&ask_status(&mesh).await?, node)?;
    send(&mesh, change(node), output).await?;
    if let Some(end) = wait {
        wait_until_gone(&mesh, node, end, output).await?;
    }
    Ok(())
}

async fn send(mesh: &Mesh, change: LayoutChange, output: Output) -> Result<(), Failure> {
    send_saying(mesh, change, "`meshwork plan show` says how far it is", output).await
}

/// Asks for `change`; `then`: what comes after it.
async fn send_saying(mesh: &Mesh, change: LayoutChange, then: &str, output: Output) -> Result<(), Failure> {
    let ControlReply::Changed(changed) = mesh::control(mesh, ClientControl::Change(change)).await? else {
        return Err(mesh::strange());
    };
    if output.is_json() {
        return output.data(&json!({ "changed": changed }), |_| String::new());
    }
    output.say(if changed { format!("done; {then}") } else { "it was so already".to_owned() });
    Ok(())
}

/// Waits until a node owns nothing in any active layout, and says `end` then.
async fn wait_until_gone(mesh: &Mesh, node: NodeId, end: &str, output: Output) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let asked = match ask_status(mesh).await {
            Ok(status) => ask_plan(mesh).await.map(|plan| (status, plan)),
            Err(failure) => Err(failure),
        };
        let (status, plan) = match asked {
            Ok(answers) => answers,
            Err(failure) if matches!(failure.exit, Exit::Usage | Exit::Refused) => return Err(failure),
            // The change goes on without whoever asks.
            Err(failure) => {
                if failure.what != told {
                    output.say(failure.what.clone());
                    told = failure.what;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        let owns = status.members.iter().any(|member| member.node == node && member.partitions > 0);
        if plan.active.len() == 1 && !owns {
            output.say(end.to_owned());
            return Ok(());
        }
        if plan.waits != told {
            output.say(plan.waits.clone());
            told = plan.waits;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until `node` holds no write for another one: with its memory that would go. A hint ends by itself after ten minutes.
async fn wait_for_hints(mesh: &Mesh, status: &NodeStatus, node: NodeId, output: Output) -> Result<(), Failure> {
    let member = status.members.iter().find(|member| member.node == node).ok_or_else(mesh::strange)?;
    let mut told = 0;
    // One that does not answer has been stopped already.
    while let Ok(reply) = mesh.control_at(member.address, ClientControl::Status).await {
        let hints = cluster::status_of(reply)?.stats.hints;
        if hints == 0 {
            break;
        }
        if told != hints {
            output.say(format!("{} holds {hints} writes for nodes that were away", member.name));
            told = hints;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until no client has asked `node` anything for a while.
async fn wait_until_quiet(mesh: &Mesh, status: &NodeStatus, node: NodeId, output: Output) -> Result<(), Failure> {
    let member = status.members.iter().find(|member| member.node == node).ok_or_else(mesh::strange)?;
    let (mut before, mut looks) = (None, 0);
    while looks < QUIET_LOOKS {
        match mesh.control_at(member.address, ClientControl::Status).await {
            Ok(reply) => {
                let stats = cluster::status_of(reply)?.stats;
                let asked = Some(stats.gets + stats.puts + stats.deletes + stats.touches);
                looks = if before == asked { looks + 1 } else { 0 };
                before = asked;
            }
            // Down, nobody asks it. That it did not answer once says nothing.
            Err(error) => {
                let members = ask_status(mesh).await?.members;
                if members.iter().any(|known| known.node == node && known.health == "down") {
                    break;
                }
                if looks > 0 {
                    output.say(format!("{} did not answer: {}", member.name, error.message()));
                }
                looks = 0;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    output.say(format!("no client asks {} any more", member.name));
    Ok(())
}

async fn ask_status(mesh: &Mesh) -> Result<NodeStatus, Failure> {
    let ControlReply::Status(status) = mesh::control(mesh, ClientControl::Status).await? else {
        return Err(mesh::strange());
    };
    Ok(*status)
}

async fn ask_plan(mesh: &Mesh) -> Result<Plan, Failure> {
    let ControlReply::Plan(plan) = mesh::control(mesh, ClientControl::Plan).await? else {
        return Err(mesh::strange());
    };
    Ok(*plan)
}

/// The node of that name or id, removed ones left out.
fn find(status: &NodeStatus, wanted: &str) -> Result<NodeId, Failure> {
    let known = status.members.iter().filter(|member| member.role != "removed");
    let found: Vec<NodeId> = known
        .filter(|member| member.name == wanted || member.node.to_string() == wanted)
        .map(|member| member.node)
        .collect();
    match found[..] {
        [node] => Ok(node),
        [] => {
            Err(Failure::new(Exit::Failed, format!("there is no node {wanted:?}")).next("`meshwork status` lists them"))
        }
        _ => Err(Failure::new(Exit::Failed, format!("{} nodes are called {wanted:?}", found.len()))
            .next("name it by its id: `meshwork status -o wide`")),
    }
}

fn text_of(plan: &Plan) -> String {
    let or = |text: String, empty: &str| if text.is_empty() { empty.to_owned() } else { text };
    let layouts: Vec<String> = plan.active.iter().map(ToString::to_string).collect();
    let (missing, all) = plan.missing;
    let moving = plan.active.len() > 1;
    let next = match plan.staged {
        Some(version) => format!("version {version}, by itself or by `meshwork plan commit --version {version}`"),
        None if moving => "under way".to_owned(),
        None => "nothing".to_owned(),
    };
    let bytes = plan
        .move_bytes
        .map_or_else(|| "unknown from here".to_owned(), |count| format!("about {}", units::bytes(count)));
    let mut text = output::pairs(&[
        ("active layouts", or(layouts.join(" -> "), "none yet")),
        ("read by", plan.read.map_or_else(String::new, |name| name.to_string())),
        ("staged", next),
        ("joining", or(plan.joins.join(", "), "nobody")),
        ("leaving", or(plan.leaves.join(", "), "nobody")),
        ("to move", if plan.moves == 0 { "nothing".to_owned() } else { format!("{} copies, {bytes}", plan.moves) }),
        ("waits", or(plan.waits.clone(), "for nothing")),
        ("partitions here", format!("{} of {all}", all.saturating_sub(missing))),
        ("moved here", units::bytes(plan.moved_bytes)),
        ("warnings", or(plan.warnings.join("; "), "none")),
    ]);
    if plan.staged.is_some() || moving {
        let mut table = output::table(&["node", "zone", "weight", "partitions", "next", "change"]);
        for share in &plan.shares {
            table.add_row([
                share.name.clone(),
                share.zone.clone(),
                share.weight.to_string(),
                share.partitions.to_string(),
                share.next.to_string(),
                format!("{:+}", i64::from(share.next) - i64::from(share.partitions)),
            ]);
        }
        text.push_str(&output::text(&table));
    }
    text
}
