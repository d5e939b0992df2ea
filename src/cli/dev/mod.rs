//! `meshwork dev`: a mesh in this process, for trying things and for tests.
//!
//! `nodes` starts and stops it, `child` runs a command against it. While it runs, the context `dev` leads clients in
//! other terminals to it; when it stops, context, certificates and data are gone. Not for data that matters.

mod child;
pub(crate) mod nodes;

use crate::{
    args::DevArgs,
    context::{self, Lent},
    failure::Failure,
    output::{Output, paint},
    serve::{self, Signals},
};
use meshwork_node::config::LogFormat;
use nodes::{Nodes, Shape};
use serde_json::json;

/// `meshwork dev`; gives the exit code.
pub(crate) async fn run(args: DevArgs, output: Output) -> Result<u8, Failure> {
    // What the nodes have to say is of interest only when something is wrong, unless asked for.
    let level = std::env::var("MESHWORK_LOG__LEVEL").unwrap_or_else(|_| "error".to_owned());
    serve::log(&level, LogFormat::Auto)?;
    serve::refuse_huge_pages();
    let mut signals = Signals::new()?;
    let shape = Shape { nodes: args.nodes, shards: args.shards, memory: args.memory };
    let started = tokio::select! {
        started = Nodes::start(shape, args.dir.as_deref()) => started,
        signal = signals.next() => {
            output.say(format!("{signal}: not started"));
            return Ok(0);
        }
    };
    let mut nodes = started?;
    let lent = if args.no_context { None } else { lend(&nodes, output) };
    let ended = if args.command.is_empty() {
        watch(&nodes, lent.as_ref(), &mut signals, output).await
    } else {
        let (context, http) = (nodes.context(), nodes.http());
        let run = child::run(&args.command, &context, &http, &mut signals);
        tokio::select! {
            status = run => status,
            failure = nodes.broken() => Err(failure),
        }
    };
    drop(lent);
    nodes.stop().await;
    ended
}

/// A mesh without a context is still a mesh: what keeps it from being written is only said.
fn lend(nodes: &Nodes, output: Output) -> Option<Lent> {
    context::lend(nodes.context()).unwrap_or_else(|failure| {
        output.say(format!("no context for other terminals: {failure}"));
        None
    })
}

async fn watch(nodes: &Nodes, lent: Option<&Lent>, signals: &mut Signals, output: Output) -> Result<u8, Failure> {
    let context = nodes.context();
    let object = json!({
        "seeds": context.seeds, "ca": context.ca, "cert": context.cert, "key": context.key, "http": nodes.http(),
    });
    output.data(&object, |_| {
        format!(
            "export MESHWORK_SEEDS={} MESHWORK_CA={} MESHWORK_CERT={} MESHWORK_KEY={}",
            context.seeds.join(","),
            context.ca.display(),
            context.cert.display(),
            context.key.display()
        )
    })?;
    let name = match lent {
        Some(lent) if lent.current => "meshwork",
        Some(_) => "meshwork --context dev",
        None => "meshwork",
    };
    let title = paint("meshwork dev", "1;32");
    let how = match lent {
        Some(_) => "In another terminal, no settings needed:",
        None => "In another terminal, after the line above:",
    };
    let http = nodes.http();
    output.say(format!(
        "\n  {title}: {} nodes are ready. {how}\n\n    {}\n    {}\n    {}\n\n  health and metrics: {}/readyz, /metrics\n  \
         Ctrl-C stops it; everything in it is then gone.\n",
        context.seeds.len(),
        command(name, "set greeting hello"),
        command(name, "get greeting"),
        command(name, "status"),
        http.first().map_or("", String::as_str),
    ));
    tokio::select! {
        signal = signals.next() => {
            output.say(format!("{signal}: stopping"));
            Ok(0)
        }
        failure = nodes.broken() => Err(failure),
    }
}

/// `meshwork --context dev get x`: the option of a client command stands behind the command's name.
fn command(name: &str, words: &str) -> String {
    match name.split_once(' ') {
        Some((program, options)) => format!("{program} {words} {options}"),
        None => format!("{name} {words}"),
    }
}
