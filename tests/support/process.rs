//! One running `meshwork` process: its words go to a file, signals go to its own pid, and it never outlives its handle.
//!
//! Dropped while a test panics, it shows the end of what it said. Nothing is ever signalled by name.

use super::wait::wait_for;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_meshwork");

/// A command that runs the binary without anything of this machine's user: settings, contexts, variables of ours.
pub(crate) fn binary(home: &Path) -> Command {
    clean(BINARY.as_ref(), home)
}

/// As `binary`, for another program.
pub(crate) fn clean(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MESHWORK_") {
            command.env_remove(name);
        }
    }
    command.env_remove("XDG_CONFIG_HOME").env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// A running process.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both its outputs are appended to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("the log's directory is ours");
        let other = file.try_clone().expect("a file handle");
        let child = command.stdout(other).stderr(file).spawn().expect("the binary was built with this test");
        Self { child, name: name.to_owned(), log }
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit, when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(limit, &what, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        self.child.wait().expect("our own child");
    }

    /// Sends it a signal.
    #[allow(unsafe_code, reason = "std sends no signal but SIGKILL")]
    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid is positive");
        // SAFETY: kill(2) takes two integers; the child was not waited for, so its pid is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to {} ({pid})", self.name);
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status("VmRSS") << 10
    }

    /// A number that the kernel tells of it (proc_pid_status(5)).
    pub(crate) fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs, on Linux");
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let words = lines.next().unwrap_or_else(|| panic!("{name} is not in the status of a live process"));
        words.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends stopped processes too.
        let ended = self.ended();
        self.kill();
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            eprintln!("--- {} (ended before: {ended:?}) said last:\n{tail}\n---", self.name);
        }
    }
}
