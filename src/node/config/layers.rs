//! Reads settings from a file, the environment and flags, and lays them over the defaults.
//!
//! Precedence: `--set section.key=value` over `MESHWORK_SECTION__KEY` over the file over the default. Each value keeps
//! where it came from, with the line, so that every later complaint can name it. Nothing is ignored: an unknown key is
//! an error wherever it stands, with the nearest name there is.

use super::{
    error::ConfigError,
    schema::{self, Kind, SETTINGS, Setting},
};
use meshwork_core::namespace::Namespace;
use serde::{Deserialize, de::IntoDeserializer};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--set`.
    Flag,
    /// This environment variable.
    Environment(String),
    /// This line of this file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
    /// Found out on this host, from what is named here.
    Host(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("--set"),
            Self::Environment(variable) => f.write_str(variable),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Host(what) => write!(f, "from {what}"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Texts(Vec<String>),
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Texts(texts) => {
                write!(f, "{}", toml::Value::Array(texts.iter().cloned().map(toml::Value::String).collect()))
            }
        }
    }
}

/// Values by setting, highest precedence only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    pub(crate) values: BTreeMap<&'static str, (Value, Origin)>,
    pub(crate) namespaces: Vec<(Namespace, Origin)>,
}

impl Layers {
    pub(crate) fn read(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                let value = from_words(setting, default).expect("the table's defaults fit their kinds");
                layers.values.insert(setting.name, (value, Origin::Default));
            }
        }
        if let Some(path) = path {
            layers.read_file(path)?;
        }
        layers.read_environment(environment)?;
        layers.read_sets(sets)?;
        Ok(layers)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let at = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(&text, offset) };
        let document = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
            origin: at(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        for (section, content) in document.get_ref() {
            let name = section.get_ref().as_ref();
            let origin = at(section.span().start);
            if name == "namespace" {
                self.read_namespaces(content.get_ref(), &origin, &at)?;
                continue;
            }
            if !schema::sections().contains(&name) {
                let nearest = schema::nearest(name, schema::sections().into_iter().chain(["namespace"]));
                return Err(ConfigError::UnknownSection {
                    origin,
                    name: name.to_owned(),
                    nearest: nearest.map(str::to_owned),
                });
            }
            let DeValue::Table(table) = content.get_ref() else {
                return Err(ConfigError::WrongType {
                    origin,
                    name: name.to_owned(),
                    expected: "a section, like [node]",
                    got: content.get_ref().type_str().to_owned(),
                });
            };
            for (key, value) in table {
                let origin = at(key.span().start);
                let setting = known(&format!("{name}.{}", key.get_ref()), &origin)?;
                let value = from_toml(setting, value.get_ref(), &origin)?;
                self.values.insert(setting.name, (value, origin));
            }
        }
        Ok(())
    }

    fn read_namespaces(
        &mut self,
        content: &DeValue<'_>,
        origin: &Origin,
        at: &dyn Fn(usize) -> Origin,
    ) -> Result<(), ConfigError> {
        let DeValue::Array(tables) = content else {
            return Err(ConfigError::WrongType {
                origin: origin.clone(),
                name: "namespace".to_owned(),
                expected: "written with two brackets, [[namespace]]",
                got: content.type_str().to_owned(),
            });
        };
        for entry in tables {
            let DeValue::Table(table) = entry.get_ref() else {
                return Err(ConfigError::WrongType {
                    origin: origin.clone(),
                    name: "namespace".to_owned(),
                    expected: "a table",
                    got: entry.get_ref().type_str().to_owned(),
                });
            };
            for key in table.keys() {
                let name = key.get_ref().as_ref();
                if !schema::NAMESPACE_KEYS.contains(&name) {
                    let nearest = schema::nearest(name, schema::NAMESPACE_KEYS.iter().copied());
                    return Err(ConfigError::UnknownKey {
                        origin: at(key.span().start),
                        name: format!("namespace.{name}"),
                        nearest: nearest.map(|nearest| format!("namespace.{nearest}")),
                    });
                }
            }
            let begin = at(entry.span().start);
            let deserializer: toml::de::ValueDeserializer<'_> = entry.clone().into_deserializer();
            let namespace = Namespace::deserialize(deserializer).map_err(|error| ConfigError::Namespace {
                origin: error.span().map_or_else(|| begin.clone(), |span| at(span.start)),
                message: error.message().to_owned(),
            })?;
            self.namespaces.push((namespace, begin));
        }
        Ok(())
    }

    fn read_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (variable, text) in variables {
            // One underscore: a client's setting (MESHWORK_SEEDS), none of ours.
            let Some((section, key)) = variable.strip_prefix("MESHWORK_").and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let name = format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase());
            let origin = Origin::Environment(variable.clone());
            let setting = known(&name, &origin)?;
            let value = from_words(setting, &text).ok_or_else(|| wrong_words(setting, &origin, &text))?;
            self.values.insert(setting.name, (value, origin));
        }
        Ok(())
    }

    fn read_sets(&mut self, sets: &[String]) -> Result<(), ConfigError> {
        for set in sets {
            let Some((name, text)) = set.split_once('=') else {
                return Err(ConfigError::BadSet { text: set.clone() });
            };
            let setting = known(name.trim(), &Origin::Flag)?;
            let value = from_words(setting, text).ok_or_else(|| wrong_words(setting, &Origin::Flag, text))?;
            self.values.insert(setting.name, (value, Origin::Flag));
        }
        Ok(())
    }
}

fn known(name: &str, origin: &Origin) -> Result<&'static Setting, ConfigError> {
    schema::find(name).ok_or_else(|| ConfigError::UnknownKey {
        origin: origin.clone(),
        name: name.to_owned(),
        nearest: schema::nearest(name, SETTINGS.iter().map(|setting| setting.name)).map(str::to_owned),
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn wrong_words(setting: &Setting, origin: &Origin, text: &str) -> ConfigError {
    ConfigError::WrongType {
        origin: origin.clone(),
        name: setting.name.to_owned(),
        expected: setting.kind.words(),
        got: format!("{text:?}"),
    }
}

/// A value as a flag or variable spells it: quotes are optional, lists may be separated by commas.
fn from_words(setting: &Setting, words: &str) -> Option<Value> {
    let words = words.trim();
    let quoted = |text: &str| match DeValue::parse(text).map(toml::Spanned::into_inner) {
        Ok(DeValue::String(inner)) => inner.into_owned(),
        Ok(_) | Err(_) => text.to_owned(),
    };
    match setting.kind {
        Kind::Text => Some(Value::Text(quoted(words))),
        Kind::Integer => words.parse().ok().map(Value::Integer),
        Kind::Boolean => words.parse().ok().map(Value::Boolean),
        Kind::Texts => {
            let inner = words.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(words);
            let items = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Texts(items.map(quoted).collect()))
        }
    }
}

fn from_toml(setting: &Setting, value: &DeValue<'_>, origin: &Origin) -> Result<Value, ConfigError> {
    let wrong = || ConfigError::WrongType {
        origin: origin.clone(),
        name: setting.name.to_owned(),
        expected: setting.kind.words(),
        got: value.type_str().to_owned(),
    };
    let integer = |value: &DeValue<'_>| {
        value.as_integer().and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok())
    };
    match setting.kind {
        Kind::Text => match (value.as_str(), integer(value)) {
            (Some(text), _) => Ok(Value::Text(text.to_owned())),
            (None, Some(number)) => Ok(Value::Text(number.to_string())),
            (None, None) => Err(wrong()),
        },
        Kind::Integer => integer(value).map(Value::Integer).ok_or_else(wrong),
        Kind::Boolean => value.as_bool().map(Value::Boolean).ok_or_else(wrong),
        Kind::Texts => {
            let items = value.as_array().ok_or_else(wrong)?;
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map(Value::Texts).ok_or_else(wrong)
        }
    }
}
