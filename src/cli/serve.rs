//! `meshwork serve` and `meshwork config`: a node as a process, and the settings it would run with.
//!
//! The node is `meshwork_node`'s; here are only the process's parts: which file, the log, signals, the exit code. The
//! first SIGINT or SIGTERM stops gracefully, a second one ends at once.

use crate::{
    args::{ConfigCommand, NodeArgs},
    failure::{Exit, Failure},
    output::{self, Output},
};
use meshwork_node::{Config, Node, StartError, Stopped, config::LogFormat};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

/// Where a configuration is looked for when none is named.
const PLACES: [&str; 2] = ["meshwork.toml", "/etc/meshwork/meshwork.toml"];

fn load(args: &NodeArgs) -> Result<Config, Failure> {
    let path: Option<PathBuf> =
        args.config.clone().or_else(|| PLACES.iter().map(PathBuf::from).find(|path| Path::new(path).exists()));
    // A variable that is not Unicode cannot be a setting of ours, whose values all are.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(path.as_deref(), environment, &args.sets).map_err(|error| Failure::new(Exit::Usage, error))
}

/// `meshwork serve`.
pub(crate) async fn run(args: NodeArgs, output: Output) -> Result<(), Failure> {
    let config = load(&args)?;
    log(&config.log.level, config.log.format)?;
    if !config.huge_pages {
        refuse_huge_pages();
    }
    let node = Node::start(config).await.map_err(start_failure)?;
    let addresses = node.addresses();
    let mut signals = Signals::new()?;
    let http = addresses.http.map_or_else(String::new, |http| format!(", http://{http}"));
    output.say(format!("listening on {} ({} shards){http}; waiting for the mesh", addresses.listen, addresses.shards));
    let ended = tokio::select! {
        why = node.stopped() => why,
        signal = signals.next() => {
            output.say(format!("{signal}: stopping"));
            tokio::select! {
                stopped = node.stop() => stopped.err().unwrap_or(Stopped::Requested),
                signal = signals.next() => return Err(Failure::new(Exit::Failed, format!("{signal} again: ended at once"))),
            }
        }
    };
    match ended {
        Stopped::Requested => Ok(()),
        Stopped::Refused { .. } => Err(Failure::new(Exit::Refused, ended)),
        Stopped::Panicked { .. } => Err(Failure::new(Exit::Failed, ended)),
    }
}

/// From now on this process gets no transparent huge pages (prctl(2), `PR_SET_THP_DISABLE`), as Redis does. The first use of one
/// clears 2 MiB: 3 ms on a virtual machine that does not have the memory yet, in which no call is answered. While a fourth node
/// took over 1 M entries on two cores, p99 was 4.7-5.9 ms with them and 2.8-5.1 ms without; throughput on 3 M entries was 2 % less.
pub(crate) fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::warn!(
            "transparent huge pages stay on ({error}): expect some calls of several milliseconds while memory fills"
        );
    }
}

/// Why a node did not start, with the code that fits.
pub(crate) fn start_failure(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Config(_) | StartError::Certificate(_) | StartError::Advertise { .. } => Exit::Usage,
        StartError::Identity(_)
        | StartError::Endpoint(_)
        | StartError::Http { .. }
        | StartError::System(_)
        | StartError::Thread => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("the node did not start: {error}"));
    match error {
        StartError::Config(_) => failure.next("`meshwork config check` lists every problem"),
        StartError::Identity(_)
        | StartError::Certificate(_)
        | StartError::Endpoint(_)
        | StartError::Http { .. }
        | StartError::Advertise { .. }
        | StartError::System(_)
        | StartError::Thread => failure,
    }
}

/// Sends log lines to stderr: text on a terminal, else JSON.
pub(crate) fn log(level: &str, format: LogFormat) -> Result<(), Failure> {
    // The store's library tells of its every step; who wants that says so, and the later word wins.
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("fjall=warn,lsm_tree=warn,{level}")).map_err(|error| {
            Failure::usage(format!("log.level = {level:?}: {error}")).next("take error, warn, info, debug or trace")
        })?;
    let text = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let set = if text { subscriber.try_init() } else { subscriber.json().flatten_event(true).try_init() };
    set.map_err(|error| Failure::new(Exit::Failed, error))
}

/// The signals that ask a process to end.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub(crate) fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// `meshwork config`.
pub(crate) fn config(command: ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Init => {
            let text = Config::render_default();
            output.data(&serde_json::json!({ "toml": text }), |_| text.trim_end().to_owned())
        }
        ConfigCommand::Check(args) => {
            let problems = load(&args)?.check();
            if problems.is_empty() {
                return output.data(&serde_json::json!({ "problems": [] }), |_| "the configuration is fine".to_owned());
            }
            let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            Err(Failure::new(Exit::Usage, all).next("mend these, then run `meshwork config check` again"))
        }
        ConfigCommand::Show { node, origin } => {
            let shown = load(&node)?.show();
            let objects: Vec<_> = shown
                .iter()
                .map(|s| serde_json::json!({ "name": s.name, "value": s.value, "origin": s.origin.to_string() }))
                .collect();
            output.list(&objects, |_| {
                let mut table = output::table(if origin { &["name", "value", "origin"] } else { &["name", "value"] });
                for setting in &shown {
                    let mut row = vec![setting.name.to_owned(), setting.value.clone()];
                    if origin {
                        row.push(setting.origin.to_string());
                    }
                    table.add_row(row);
                }
                output::text(&table)
            })
        }
    }
}
