//! The binary `meshwork`: nodes, a mesh for development, clients, certificates, benchmarks (INTERFACES §2).
//!
//! `args` is the command line, `failure` how commands end, `output` what they print, `units` words with units. Then a
//! file a command: `dev` (a mesh in this process), `serve` (a node; `config`), `kv` (`get set del touch`), `cluster`
//! (`status ring namespace`), `cert`, `context`, `check`, `bench`. `mesh` turns flags into a client.
//!
//! Data goes to stdout, talk to stderr. A panic anywhere ends the process with 101: a shard that panicked must not
//! leave half a node behind (STYLE §5).
#![forbid(unsafe_code)]

mod args;
mod bench;
mod cert;
mod check;
mod cluster;
mod context;
mod dev;
mod explain;
mod failure;
mod kv;
mod layout;
mod mesh;
mod namespace;
mod output;
mod rollout;
mod serve;
mod units;

use args::{Cli, Command};
use clap::Parser;
use failure::{Exit, Failure};
use output::Output;
use std::process::ExitCode;

/// Replaces the system's allocator: nodes free on other threads than they allocate, and in many sizes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What Rust's own main thread exits with when it panics.
const PANICKED: i32 = 101;

/// No planted bug leaves this house: they exist in the simulator's builds only.
const _: () = assert!(!meshwork_core::canary::CANARIES);

fn main() -> ExitCode {
    let words = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        words(info);
        if !meshwork_node::contains_panics() {
            std::process::exit(PANICKED);
        }
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Nagios reads 2 as "critical"; a command line that cannot be read says nothing about the mesh.
            let says = |name: &str| std::env::args_os().any(|word| word == name);
            let is_check = says("check") && !says("config");
            return match (error.use_stderr(), is_check) {
                (false, _) => ExitCode::SUCCESS,
                (true, false) => ExitCode::from(Exit::Usage as u8),
                (true, true) => ExitCode::from(check::UNKNOWN),
            };
        }
    };
    let output = Output::new(cli.output, cli.quiet);
    match run(cli.command, output) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(command: Command, output: Output) -> Result<u8, Failure> {
    let done = match command {
        Command::Dev(args) => return block_on(dev::run(args, output)),
        Command::Check(args) => return check::run(&args, output),
        Command::Serve(args) => block_on(serve::run(args, output)),
        Command::Bench(args) => bench::run(&args, output),
        Command::Get(args) => block_on(kv::get(args, output)),
        Command::Set(args) => block_on(kv::set(args, output)),
        Command::Del(args) => block_on(kv::delete(args, output)),
        Command::Touch(args) => block_on(kv::touch(args, output)),
        Command::Explain(args) => block_on(explain::run(args, output)),
        Command::Status(args) => block_on(cluster::status(args, output)),
        Command::Ring(command) => block_on(cluster::ring(command, output)),
        Command::Plan(command) => block_on(layout::plan(command, output)),
        Command::Node(command) => block_on(layout::node(command, output)),
        Command::Layout(command) => block_on(layout::layout(command, output)),
        Command::Namespace(command) => block_on(namespace::run(command, output)),
        Command::Cert(command) => cert::run(command, output),
        Command::Config(command) => serve::config(command, output),
        Command::Context(command) => context::run(command, output),
        Command::Version => {
            let object = serde_json::json!({ "name": "meshwork", "version": env!("CARGO_PKG_VERSION") });
            output.data(&object, |_| format!("meshwork {}", env!("CARGO_PKG_VERSION")))
        }
    };
    done.map(|()| 0)
}

/// Runs a command's future on a runtime of this thread.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(command)
}

/// A runtime for the current thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
    made.map_err(|error| Failure::new(Exit::Failed, format!("the system refused a runtime: {error}")))
}
