//! From flags to a connected mesh, and from the client's errors to exit codes.
//!
//! A command makes one mesh, asks it something and ends; no state is kept between commands but the context
//! (`context.rs`).

use crate::{
    args::ClientArgs,
    context,
    failure::{Exit, Failure},
};
use meshwork_client::{ClientControl, ControlReply, Error, ErrorKind, Mesh, Profile, Tls, Zone};

/// Connects to the mesh that `args` name, or says why not.
pub(crate) async fn connect(args: &ClientArgs) -> Result<Mesh, Failure> {
    builder(args)?.connect().await.map_err(failure)
}

/// The mesh that `args` name, not yet connected.
pub(crate) fn builder(args: &ClientArgs) -> Result<meshwork_client::Builder, Failure> {
    let context = context::resolve(args)?;
    let mut profile = Profile::default();
    if let Some(deadline) = args.deadline {
        profile = profile.deadline(deadline);
    }
    let mut builder =
        Mesh::builder().seeds(context.seeds).tls(Tls::files(context.ca, context.cert, context.key)).profile(profile);
    if let Some(zone) = &args.zone {
        builder = builder.zone(Zone::named(zone));
    }
    Ok(builder)
}

/// Asks any node, or says what it answered instead.
pub(crate) async fn control(mesh: &Mesh, message: ClientControl) -> Result<ControlReply, Failure> {
    match mesh.control(message).await.map_err(failure)? {
        ControlReply::Refused { reason, denied } => {
            let failure = Failure::new(if denied { Exit::Refused } else { Exit::Failed }, reason);
            Err(if denied {
                failure.next("use an administrator's certificate: `meshwork cert admin NAME`")
            } else {
                failure
            })
        }
        reply @ (ControlReply::Routing(_)
        | ControlReply::Status(_)
        | ControlReply::Owners(_)
        | ControlReply::Created(_)
        | ControlReply::Plan(_)
        | ControlReply::Changed(_)
        | ControlReply::Namespaces(_)
        | ControlReply::Emptied(_)
        | ControlReply::Holds(_)) => Ok(reply),
    }
}

/// An answer that does not fit its question.
pub(crate) fn strange() -> Failure {
    Failure::new(Exit::Failed, "the node's answer does not fit the question")
        .next("are its version and this one alike?")
}

/// The client's error with the exit code that fits.
pub(crate) fn failure(error: Error) -> Failure {
    let node = error.node().map(|node| format!(" (node {node})")).unwrap_or_default();
    let applied = if error.maybe_applied() { "; the write may have been applied" } else { "" };
    Failure::new(exit(&error), format!("{}{node}{applied}", error.message())).next(error.hint())
}

fn exit(error: &Error) -> Exit {
    if error.maybe_applied() {
        return Exit::Unknown;
    }
    match error.kind() {
        ErrorKind::Timeout => Exit::Deadline,
        ErrorKind::Unknown => Exit::Unknown,
        ErrorKind::Connect | ErrorKind::Unavailable { need: 0, .. } => Exit::Unreachable,
        ErrorKind::Unavailable { .. } => Exit::Degraded,
        ErrorKind::Tls | ErrorKind::Denied => Exit::Refused,
        ErrorKind::TooLarge | ErrorKind::Invalid | ErrorKind::Config => Exit::Usage,
        // The kinds may grow: whatever else there is, nothing was done.
        _ => Exit::Failed,
    }
}
