//! Why a configuration cannot be used: where it stands, what is wrong, what to do (INTERFACES, "Errors say").

use super::layers::Origin;
use std::path::PathBuf;

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(
        || "; `meshwork config init` writes every setting there is".to_owned(),
        |nearest| format!("; did you mean {nearest}?"),
    )
}

/// A configuration that cannot be used. Nothing was started; mend what it names and start again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or may not be read.
    #[error("cannot read {}: {source}; check the path, or write one with `meshwork config init`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{origin}: not TOML: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        message: String,
    },
    /// A key nobody knows.
    #[error("{origin}: unknown setting {name}{}", hint(nearest))]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// Its name.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A section nobody knows.
    #[error("{origin}: unknown section [{name}]{}", hint(nearest))]
    UnknownSection {
        /// Where.
        origin: Origin,
        /// Its name.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A value of another type.
    #[error("{origin}: {name} must be {expected}, not {got}")]
    WrongType {
        /// Where.
        origin: Origin,
        /// Which setting.
        name: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A value that makes no sense.
    #[error("{origin}: {name} = {value}: {reason}")]
    BadValue {
        /// Where.
        origin: Origin,
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what would do.
        reason: String,
    },
    /// A setting that has no default.
    #[error("{name} is not set: {fix}")]
    Missing {
        /// Which.
        name: &'static str,
        /// How to set it.
        fix: String,
    },
    /// A `--set` without an equals sign.
    #[error("--set {text}: write --set section.key=value")]
    BadSet {
        /// As given.
        text: String,
    },
    /// A `[[namespace]]` that cannot be read or makes no sense.
    #[error("{origin}: [[namespace]]: {message}")]
    Namespace {
        /// Where.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
}
