//! How a command ends: the exit codes of INTERFACES §2 and the one error type every command returns.
//!
//! A `Failure` carries what a person needs: what was wrong, and what to do next. `main` prints it on stderr (or as a
//! JSON object on stderr under `-o json`) and exits with its code. The one exception to the codes is `check`, which
//! follows Nagios and decides its own (`check.rs`).

use std::fmt;

/// The table of exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Nothing was done, or it ended badly; also "there is no such key".
    Failed = 1,
    /// The command line or a file makes no sense.
    Usage = 2,
    /// Done, by a mesh that is not whole.
    Degraded = 3,
    /// No node could be reached.
    Unreachable = 4,
    /// A guard, a missing confirmation or missing rights.
    Refused = 5,
    /// A write that may have been applied.
    Unknown = 6,
    /// Time ran out; nothing is known to have changed.
    Deadline = 124,
}

/// An error on its way to a person.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The process's exit code.
    pub(crate) exit: Exit,
    /// What was wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) next: Option<String>,
}

impl Failure {
    /// A failure with nothing to recommend yet.
    pub(crate) fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, what: what.to_string(), next: None }
    }

    /// A usage error.
    pub(crate) fn usage(what: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, next: impl fmt::Display) -> Self {
        self.next = Some(next.to_string());
        self
    }

    /// A file or directory that could not be used.
    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(Exit::Failed, format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_wrong_and_what_to_do() {
        let failure = Failure::usage("--writes is 120").next("give a percentage from 0 to 100");
        assert_eq!(failure.to_string(), "--writes is 120\n  next: give a percentage from 0 to 100");
        assert_eq!(failure.exit as u8, 2);
    }
}
