//! A finished run of the command line: exit code, data, talk.

use super::{process::binary, wait::LIMIT, wait::wait_for};
use serde_json::Value;
use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The exit code; -1 after a signal.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Must have ended with 0.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        self.ended(0)
    }

    /// Must have ended with `code`.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// The error must contain all of these words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in stderr: {}\nstdout: {}", self.err, self.out);
        }
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\nstderr: {}", self.out, self.err))
    }
}

/// Runs `command` to its end, with nothing on stdin, for at most `limit`.
pub(crate) fn finish(command: Command, limit: Duration) -> Ran {
    finish_with(command, b"", limit)
}

/// As `finish`, with these bytes on stdin.
pub(crate) fn finish_with(mut command: Command, input: &[u8], limit: Duration) -> Ran {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A command that reads nothing closes the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |stream: &mut dyn Read| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    std::thread::scope(|scope| {
        let out = scope.spawn(move || read(&mut stdout));
        let err = scope.spawn(move || read(&mut stderr));
        let end = std::time::Instant::now() + limit;
        let status = wait_for(limit + LIMIT, &shown, || {
            if std::time::Instant::now() >= end {
                // So that its outputs close and its words can be shown.
                let _ = child.kill();
            }
            child.try_wait().expect("our own child").ok_or_else(|| "it runs".to_owned())
        });
        let ran = Ran { status, out: out.join().expect("reads"), err: err.join().expect("reads") };
        assert!(
            std::time::Instant::now() < end || ran.status.code().is_some(),
            "{shown}: not within {limit:?}: {ran:?}"
        );
        ran
    })
}

/// Runs the binary with these arguments in `home`, without a mesh.
pub(crate) fn alone(home: &Path, arguments: &[&str]) -> Ran {
    let mut command = binary(home);
    command.args(arguments);
    finish(command, LIMIT)
}
