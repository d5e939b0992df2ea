//! The command line: every command, flag and environment twin (INTERFACES §2). Only shapes and words; what a command
//! does is in the file of its name.
//!
//! Client flags (`--seeds --ca --cert --key`) fall back to `MESHWORK_*`, then to the context (`context.rs`). Values with
//! units are parsed here, so that no command meets a nonsense value.

use crate::{output::Form, units};
use clap::{Args, Parser, Subcommand};
use meshwork_core::wire::client::Consistency;
use std::{path::PathBuf, time::Duration};

/// A leaderless, encrypted, eventually consistent cache mesh.
#[derive(Debug, Parser)]
#[command(name = "meshwork", version, propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Form of the data on stdout.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Form,
    /// No talk on stderr; errors are still said.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a mesh of several nodes in this process, with throwaway certificates; optionally run a command against it
    Dev(DevArgs),
    /// Run a node
    Serve(NodeArgs),
    /// Ask whether a node or the mesh is well; exits as Nagios plug-ins do (0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN)
    Check(CheckArgs),
    /// Measure throughput, latency and hit ratio
    Bench(Box<crate::bench::BenchArgs>),
    /// Read a value
    Get(GetArgs),
    /// Write a value
    Set(SetArgs),
    /// Delete a value
    Del(KeyArgs),
    /// Give a value a new expiry
    Touch(TouchArgs),
    /// Who should hold a key, what each of them holds, and what mends the difference
    Explain(KeyArgs),
    /// What a node knows of the mesh and of itself
    Status(ClientArgs),
    /// The ring: members, shares, owners
    #[command(subcommand)]
    Ring(RingCommand),
    /// Who owns what: where a change stands, and changes of weight and zone
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Nodes that leave, are gone, or take another's place
    #[command(subcommand)]
    Node(NodeCommand),
    /// A change of layouts that cannot complete
    #[command(subcommand)]
    Layout(LayoutCommand),
    /// Namespaces
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    /// Certificates: an authority, and what it issues
    #[command(subcommand)]
    Cert(CertCommand),
    /// A node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Named meshes that clients without settings use
    #[command(subcommand)]
    Context(ContextCommand),
    /// The version of this binary
    Version,
}

/// How a client reaches a mesh.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Mesh")]
pub(crate) struct ClientArgs {
    /// Addresses to find the mesh by, as host:port, separated by commas
    #[arg(long, env = "MESHWORK_SEEDS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub(crate) seeds: Vec<String>,
    /// The authority's certificate (PEM)
    #[arg(long, env = "MESHWORK_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The client's certificate (PEM)
    #[arg(long, env = "MESHWORK_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// The client's private key (PEM)
    // An id of its own: the data commands have a positional `key`.
    #[arg(id = "private_key", long = "key", env = "MESHWORK_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The context to use for what is not given
    #[arg(long, env = "MESHWORK_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The client's zone: nodes of it are asked first
    #[arg(long, env = "MESHWORK_ZONE", value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// How long a request for a key may take [default: 1s]; with `check --local`, the whole answer
    #[arg(long, value_parser = units::span, value_name = "DURATION")]
    pub(crate) deadline: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16), value_name = "K")]
    pub(crate) nodes: u16,
    /// Shards (threads and UDP ports) of each node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8), value_name = "K")]
    pub(crate) shards: u16,
    /// Memory limit of each node
    #[arg(long, default_value = "256MiB", value_parser = units::size, value_name = "SIZE")]
    pub(crate) memory: u64,
    /// Keep certificates, node identities and what namespaces with --ack log or fsync hold here, for the next time
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Do not write a context for other terminals
    #[arg(long)]
    pub(crate) no_context: bool,
    /// A command to run against the mesh; its status becomes this one's
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NodeArgs {
    /// The configuration file; without it ./meshwork.toml, then /etc/meshwork/meshwork.toml
    #[arg(long, env = "MESHWORK_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override a setting; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// What `check` can be asked beside whether the mesh is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CheckWhat {
    /// May the next node go down?
    Rollout,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// What to ask; nothing: is the mesh well?
    #[arg(value_enum, conflicts_with = "local")]
    pub(crate) what: Option<CheckWhat>,
    /// With rollout: ask again until it is safe, or for so long
    #[arg(long, requires = "what", value_parser = units::span, value_name = "DURATION")]
    pub(crate) wait: Option<Duration>,
    /// Ask the node on this machine over its HTTP address: is it ready?
    #[arg(long)]
    pub(crate) local: bool,
    /// With --local: is it alive (whether ready or not)?
    #[arg(long, requires = "local")]
    pub(crate) live: bool,
    /// HTTP address of the local node
    #[arg(long, env = "MESHWORK_HTTP__LISTEN", default_value = "127.0.0.1:7480", value_name = "IP:PORT")]
    pub(crate) http: std::net::SocketAddr,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Which key, where.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key
    pub(crate) key: String,
    /// The namespace
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(crate) namespace: String,
    /// How many replicas must answer, as r=2,w=2 or r=2,w=2,strict
    #[arg(long, value_parser = units::consistency, value_name = "R,W")]
    pub(crate) consistency: Option<Consistency>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The value; without it, or as -, it is read from stdin
    pub(crate) value: Option<String>,
    /// Time to live, as 30s, 5m, 1h, 14d
    #[arg(long, value_parser = units::ttl, value_name = "DURATION")]
    pub(crate) ttl: Option<Duration>,
    /// Write only if there is no value
    #[arg(long)]
    pub(crate) if_absent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TouchArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Time to live from now, as 30s, 5m, 1h, 14d
    #[arg(value_parser = units::ttl, value_name = "DURATION")]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RingCommand {
    /// Members and their shares
    Show(ClientArgs),
    /// Who holds a key
    Owners(KeyArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Active and staged layout, shares, copies and bytes to move, warnings, and what the change waits for
    Show(ClientArgs),
    /// Make what is staged the next layout
    ///
    /// Joins, weights and zones do so by themselves after five quiet seconds, unless the nodes are configured with
    /// cluster.layout = "manual".
    #[command(disable_version_flag = true)]
    Commit {
        /// The version it becomes, as `plan show` says: another change that came first is not overrun
        #[arg(long, value_name = "N", id = "layout_version")]
        version: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take back staged weights, zones and departures
    ///
    /// Nodes that join go on asking for a place, a removal is for ever, and a change under way ends first.
    Clear(ClientArgs),
    /// Give a node another share of the ring; 100 is one share
    Weight {
        /// Its name or id
        node: String,
        /// The share
        #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
        weight: u16,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put a node in another zone
    Zone {
        /// Its name or id
        node: String,
        /// The zone
        #[arg(value_name = "NEW_ZONE", id = "new_zone")]
        zone: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Let a node give its partitions away; it runs on and owns nothing
    Leave {
        /// Its name or id
        node: String,
        /// Wait until it owns nothing any more, and holds no write for nodes that were away
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Send clients to other nodes, before it is worked on; it keeps its copies and its vote
    Drain {
        /// Its name or id
        node: String,
        /// Wait until no client asks it any more
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let clients come back to a node that was drained
    Undrain {
        /// Its name or id
        node: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Say that a node is gone for good; its identity never returns
    Remove {
        /// Its name or id
        node: String,
        /// Wait until others hold its copies
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put a new node in the place of one that is down for good
    Replace {
        /// The name or id of the one that is down
        old: String,
        /// The name or id of the new one
        new: String,
        /// Wait until the new one holds the copies
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LayoutCommand {
    /// Complete the running change without its members that are down
    SkipDead {
        /// What only they held is lost
        #[arg(long)]
        accept_data_loss: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Create a namespace; the same settings again are no error
    Create(NamespaceCreateArgs),
    /// All namespaces
    List(ClientArgs),
    /// Empty a namespace of everything written so far, on every member
    Flush {
        /// Its name
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a namespace with all that is in it; again, to take what nodes still got that had not heard of it
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// One namespace
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NamespaceCreateArgs {
    /// Its name
    pub(crate) name: String,
    /// Copies
    #[arg(short, long, default_value_t = 3)]
    pub(crate) n: u8,
    /// Read votes
    #[arg(short, long, default_value_t = 2)]
    pub(crate) r: u8,
    /// Write votes
    #[arg(short, long, default_value_t = 2)]
    pub(crate) w: u8,
    /// Whether only owners vote, or stand-ins too
    #[arg(long, value_parser = ["sloppy", "strict"], default_value = "sloppy")]
    pub(crate) mode: String,
    /// Expiry of writes that name none
    #[arg(long, value_parser = units::ttl, value_name = "DURATION")]
    pub(crate) ttl_default: Option<Duration>,
    /// Longest expiry
    #[arg(long, value_parser = units::ttl, value_name = "DURATION")]
    pub(crate) ttl_max: Option<Duration>,
    /// Longest value
    #[arg(long, value_parser = units::size, default_value = "1MiB", value_name = "SIZE")]
    pub(crate) value_max: u64,
    /// What goes when memory runs out: the least useful entries, or nothing (writes are refused)
    #[arg(long, value_parser = ["on", "none"], default_value = "on")]
    pub(crate) eviction: String,
    /// When a write is acknowledged: in the memory of w nodes, in their logs too, or in their logs and synced
    #[arg(long, value_parser = ["mem", "log", "fsync"], default_value = "mem")]
    pub(crate) ack: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make an authority for a new cluster
    Init {
        /// The cluster's name
        #[arg(long, value_name = "NAME")]
        cluster: String,
        #[command(flatten)]
        place: CertPlace,
    },
    /// Issue a node's certificate
    Node(CertIssue),
    /// Issue a client's certificate: reads and writes data
    Client(CertIssue),
    /// Issue an administrator's certificate: a client that may also change the cluster
    Admin(CertIssue),
    /// Say who a certificate belongs to and until when it is valid
    Show {
        /// The certificate (PEM)
        cert: PathBuf,
        /// Its private key; default: the same path ending in .key
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The authority; default: ca.pem beside the certificate
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CertPlace {
    /// The directory with ca.pem and ca.key; certificates are written there too
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CertIssue {
    /// The holder's name; for nodes * stands for any name
    pub(crate) name: String,
    /// Days of validity
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(i64).range(1..=3650))]
    pub(crate) days: i64,
    /// Where to write NAME.pem and NAME.key; default: --dir
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: CertPlace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a configuration with every setting, its default and its meaning
    Init,
    /// Run every check that a start runs; names the line and the fix
    Check(NodeArgs),
    /// Print the settings in force
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// All contexts; the current one is marked
    Ls,
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Add a context, or replace it
    Add {
        /// Its name
        name: String,
        /// Addresses to find the mesh by
        #[arg(long, value_delimiter = ',', required = true, value_name = "HOST:PORT")]
        seeds: Vec<String>,
        /// The authority's certificate
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// The client's certificate
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// The client's private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn refused(line: &str) -> String {
        let words = std::iter::once("meshwork").chain(line.split_whitespace());
        Cli::try_parse_from(words).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_words_are_refused_with_what_was_wrong_and_a_form_that_works() {
        assert!(refused("set k v --ttl 0s").contains("above zero"));
        assert!(refused("set k v --ttl 900000d").contains("2500"));
        assert!(refused("get k --consistency r=0").contains("r=1"));
        assert!(refused("dev --memory lots").contains("256MiB"));
        assert!(refused("dev --nodes 0").contains("1..=16"));
        assert!(refused("stauts").contains("status"));
        assert!(refused("bench --writes 101").contains("100"));
        assert!(refused("bench --rate 10 --in-flight 0").contains("0"));
        assert!(refused("bench --like twitter:cluster5").contains("cluster52"));
        assert!(refused("bench --workload z").contains("a, b, c"));
    }

    #[test]
    fn a_command_after_two_dashes_keeps_its_own_flags() {
        let cli =
            Cli::try_parse_from("meshwork dev --nodes 2 -- meshwork bench -o json --seconds 1".split(' ')).unwrap();
        let Command::Dev(dev) = cli.command else { panic!("parsed another command") };
        assert_eq!(dev.nodes, 2);
        assert_eq!(dev.command.len(), 6);
        assert_eq!(cli.output, Form::Table);
    }

    #[test]
    fn the_form_may_stand_before_or_after_the_command() {
        for line in ["meshwork -o json version", "meshwork version -o json"] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap().output, Form::Json);
        }
    }
}
