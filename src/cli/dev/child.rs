//! `meshwork dev -- CMD ARGS…`: a command with the mesh's address and certificates in its environment.
//!
//! The command has this process's terminal. Ctrl-C reaches it from the terminal itself; SIGTERM is passed on. Its status
//! becomes ours: its code, or 128 + signal when a signal ended it, as shells say; 127 when there is no such command and
//! 126 when it cannot be run.

use crate::{
    context::Context,
    failure::{Exit, Failure},
    serve::Signals,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::ExitStatus,
};
use tokio::process::{Child, Command};

/// Runs the command to its end; gives the code to exit with.
pub(crate) async fn run(
    words: &[OsString],
    context: &Context,
    http: &[String],
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let (program, arguments) = words.split_first().expect("the command line has a command");
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.env("MESHWORK_SEEDS", context.seeds.join(","));
    command.env("MESHWORK_CA", &context.ca).env("MESHWORK_CERT", &context.cert).env("MESHWORK_KEY", &context.key);
    command.env("MESHWORK_HTTP", http.join(","));
    command.env_remove("MESHWORK_CONTEXT");
    if let Some(path) = path(std::env::current_exe().ok(), std::env::var_os("PATH")) {
        command.env("PATH", path);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Nothing ran, so the words are ours, and the code is the one that shells use.
            let failure = Failure::new(Exit::Failed, format!("cannot run {}: {error}", program.display()));
            crate::output::Output::new(crate::output::Form::Table, false).failure(&failure);
            return Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|error| Failure::new(Exit::Failed, format!("waiting for the command: {error}")))?;
                return Ok(code(status));
            }
            signal = signals.next() => pass_on(signal, &child),
        }
    }
}

/// A terminal sends SIGINT to the whole group, so the command has it already; SIGTERM came to this process alone.
fn pass_on(signal: &str, child: &Child) {
    if signal != "SIGTERM" {
        return;
    }
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended meanwhile: then there is nobody to tell.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// PATH with this program's folder first, so that the command finds the very `meshwork` that runs the mesh.
fn path(program: Option<PathBuf>, path: Option<OsString>) -> Option<OsString> {
    let folder = program?.parent()?.to_path_buf();
    let rest = path.unwrap_or_default();
    let rest = std::env::split_paths(&rest).filter(|entry| entry.as_os_str() != OsStr::new(""));
    std::env::join_paths(std::iter::once(folder).chain(rest)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_killed_command_is_what_shells_say() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
    }

    #[test]
    fn our_own_folder_comes_first_in_path() {
        let made = path(Some("/opt/bin/meshwork".into()), Some("/usr/bin:/bin".into())).unwrap();
        assert_eq!(made, "/opt/bin:/usr/bin:/bin");
        assert_eq!(path(Some("/opt/bin/meshwork".into()), None).unwrap(), "/opt/bin");
    }
}
