//! Contexts: named meshes with their seeds and certificate paths, so that `meshwork get x` needs no settings.
//!
//! One TOML file under `$XDG_CONFIG_HOME/meshwork` (else `~/.config/meshwork`), replaced whole and atomically. It holds
//! paths, never keys. `dev` writes the context `dev` and makes it the current one unless another is; when it stops it
//! takes away what it wrote, unless a later `dev` has written it anew, and gives an earlier one that still runs its
//! place back.

use crate::{
    args::{ClientArgs, ContextCommand},
    failure::{Exit, Failure},
    output::{self, Output},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

/// How to reach one mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// Addresses as host:port.
    pub(crate) seeds: Vec<String>,
    /// The authority's certificate.
    pub(crate) ca: PathBuf,
    /// The client's certificate.
    pub(crate) cert: PathBuf,
    /// The client's private key.
    pub(crate) key: PathBuf,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl Contexts {
    fn load(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::file(path, &error)),
        };
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display())).next("mend the file, or remove it to start anew")
        })
    }

    /// Writes beside the file and renames over it: a reader sees the old or the new one, never half of it.
    fn store(&self, path: &Path) -> Result<(), Failure> {
        let directory = path.parent().expect("the path ends in a directory and a name");
        let text = toml::to_string(self).map_err(|error| Failure::new(Exit::Failed, error))?;
        let beside = directory.join(format!(".contexts.{}", std::process::id()));
        let write = || {
            std::fs::create_dir_all(directory)?;
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(&beside)?.write_all(text.as_bytes())?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|error| Failure::file(path, &error))
    }
}

/// Where the file is; `None` when the system names no home.
fn path() -> Option<PathBuf> {
    place(std::env::var_os("XDG_CONFIG_HOME"), std::env::home_dir())
}

fn place(xdg: Option<std::ffi::OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let base = match xdg.filter(|xdg| Path::new(xdg).is_absolute()) {
        Some(xdg) => PathBuf::from(xdg),
        None => home.filter(|home| !home.as_os_str().is_empty())?.join(".config"),
    };
    Some(base.join("meshwork").join("contexts.toml"))
}

fn known_path() -> Result<PathBuf, Failure> {
    path().ok_or_else(|| {
        Failure::usage("there is no place for contexts: neither XDG_CONFIG_HOME nor HOME is set")
            .next("set one of them, or give --seeds --ca --cert --key")
    })
}

/// The mesh that `args` name: each value from its flag or variable, else from the context.
pub(crate) fn resolve(args: &ClientArgs) -> Result<Context, Failure> {
    if let (false, Some(ca), Some(cert), Some(key)) = (args.seeds.is_empty(), &args.ca, &args.cert, &args.key) {
        return Ok(Context { seeds: args.seeds.clone(), ca: ca.clone(), cert: cert.clone(), key: key.clone() });
    }
    let contexts = path().map(|path| Contexts::load(&path)).transpose()?.unwrap_or_default();
    choose(args, &contexts)
}

fn choose(args: &ClientArgs, contexts: &Contexts) -> Result<Context, Failure> {
    let name = args.context.as_ref().or(contexts.current.as_ref());
    let context = name.and_then(|name| contexts.contexts.get(name));
    if let (Some(name), None) = (&args.context, context) {
        return Err(Failure::usage(format!("there is no context {name:?}")).next("`meshwork context ls` lists them"));
    }
    let file = |given: &Option<PathBuf>, of: fn(&Context) -> &PathBuf, flag: &str| {
        given.clone().or_else(|| context.map(|context| of(context).clone())).ok_or_else(|| {
            Failure::usage(format!("{flag} is not given, and there is no current context"))
                .next("start a mesh with `meshwork dev`, or give --seeds --ca --cert --key, or `meshwork context add`")
        })
    };
    let seeds = match (args.seeds.is_empty(), context) {
        (false, _) => args.seeds.clone(),
        (true, Some(context)) => context.seeds.clone(),
        (true, None) => {
            return Err(Failure::usage("no mesh is named: --seeds is not given, and there is no current context")
                .next(
                    "start a mesh with `meshwork dev`, or give --seeds --ca --cert --key, or `meshwork context add`",
                ));
        }
    };
    Ok(Context {
        seeds,
        ca: file(&args.ca, |context| &context.ca, "--ca")?,
        cert: file(&args.cert, |context| &context.cert, "--cert")?,
        key: file(&args.key, |context| &context.key, "--key")?,
    })
}

/// A context that goes when the mesh behind it stops.
pub(crate) struct Lent {
    path: PathBuf,
    context: Context,
    /// What it stands in front of: another `dev` that was started before.
    before: Option<Context>,
    /// Whether it became the current one.
    pub(crate) current: bool,
}

/// The name of `dev`'s context.
pub(crate) const DEV: &str = "dev";

/// Writes the context `dev`. `None`: there is no place for it.
pub(crate) fn lend(context: Context) -> Result<Option<Lent>, Failure> {
    path().map(|path| lend_at(path, context)).transpose()
}

fn lend_at(path: PathBuf, context: Context) -> Result<Lent, Failure> {
    let mut contexts = Contexts::load(&path)?;
    let before = contexts.contexts.insert(DEV.to_owned(), context.clone());
    let current = contexts.current.get_or_insert_with(|| DEV.to_owned()) == DEV;
    contexts.store(&path)?;
    Ok(Lent { path, context, before, current })
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Best effort: a stale context only costs its reader a clear "cannot reach".
        let Ok(mut contexts) = Contexts::load(&self.path) else { return };
        if contexts.contexts.get(DEV) == Some(&self.context) {
            contexts.contexts.remove(DEV);
            // A mesh whose certificates are gone has stopped meanwhile.
            match self.before.take().filter(|before| before.ca.exists()) {
                Some(before) => drop(contexts.contexts.insert(DEV.to_owned(), before)),
                None => contexts.current = contexts.current.filter(|current| current != DEV),
            }
            let _ = contexts.store(&self.path);
        }
    }
}

/// `meshwork context`.
pub(crate) fn run(command: ContextCommand, output: Output) -> Result<(), Failure> {
    let path = known_path()?;
    let mut contexts = Contexts::load(&path)?;
    match command {
        ContextCommand::Ls => {
            let rows: Vec<_> = contexts.contexts.iter().collect();
            let current = contexts.current.clone();
            let objects: Vec<_> = rows
                .iter()
                .map(|(name, c)| {
                    serde_json::json!({ "name": name, "current": current.as_ref() == Some(name),
                        "seeds": c.seeds, "ca": c.ca, "cert": c.cert, "key": c.key })
                })
                .collect();
            output.list(&objects, |_| {
                let mut table = output::table(&["", "name", "seeds", "certificate"]);
                for (name, context) in &rows {
                    let mark = if current.as_ref() == Some(name) { "*" } else { "" };
                    table.add_row([mark, name, &context.seeds.join(","), &context.cert.display().to_string()]);
                }
                output::text(&table)
            })
        }
        ContextCommand::Use { name } => {
            if !contexts.contexts.contains_key(&name) {
                let failure = Failure::usage(format!("there is no context {name:?}"));
                return Err(failure.next("`meshwork context ls` lists them, `meshwork context add` makes one"));
            }
            contexts.current = Some(name.clone());
            contexts.store(&path)?;
            output.say(format!("clients without settings now use {name}"));
            Ok(())
        }
        ContextCommand::Add { name, seeds, ca, cert, key } => {
            // A context is used from any directory.
            let whole = |file: PathBuf| std::fs::canonicalize(&file).map_err(|error| Failure::file(&file, &error));
            let context = Context { seeds, ca: whole(ca)?, cert: whole(cert)?, key: whole(key)? };
            contexts.contexts.insert(name.clone(), context);
            contexts.current.get_or_insert_with(|| name.clone());
            contexts.store(&path)?;
            output.say(format!("context {name} is kept in {}", path.display()));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(seed: &str) -> Context {
        Context {
            seeds: vec![seed.to_owned()],
            ca: "/c/ca.pem".into(),
            cert: "/c/me.pem".into(),
            key: "/c/me.key".into(),
        }
    }

    #[test]
    fn flags_go_before_the_context_and_the_context_fills_the_rest() {
        let contexts = Contexts { current: Some("a".into()), contexts: BTreeMap::from([("a".into(), context("a:1"))]) };
        let args = ClientArgs { seeds: vec!["b:2".into()], ..ClientArgs::default() };
        let chosen = choose(&args, &contexts).unwrap();
        assert_eq!((chosen.seeds, chosen.ca), (vec!["b:2".to_owned()], PathBuf::from("/c/ca.pem")));
        let other = ClientArgs { context: Some("zzz".into()), ..ClientArgs::default() };
        assert!(choose(&other, &contexts).unwrap_err().what.contains("zzz"));
        let none = choose(&ClientArgs::default(), &Contexts::default()).unwrap_err();
        assert!(none.to_string().contains("meshwork dev"), "{none}");
    }

    #[test]
    fn a_lent_context_is_taken_away_again_and_a_users_choice_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meshwork").join("contexts.toml");
        let lent = lend_at(path.clone(), context("a:1")).unwrap();
        assert!(lent.current);
        let later = lend_at(path.clone(), context("a:2")).unwrap();
        drop(lent);
        assert_eq!(Contexts::load(&path).unwrap().contexts[DEV], context("a:2"), "a later dev's context stays");
        drop(later);
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default(), "the first has stopped: it does not come back");

        let mut alive = context("a:3");
        alive.ca = directory.path().to_owned();
        let first = lend_at(path.clone(), alive.clone()).unwrap();
        drop(lend_at(path.clone(), context("a:4")).unwrap());
        assert_eq!(Contexts::load(&path).unwrap().contexts[DEV], alive, "the first goes on, and has its context back");
        drop(first);

        let mine =
            Contexts { current: Some("prod".into()), contexts: BTreeMap::from([("prod".into(), context("p:1"))]) };
        mine.store(&path).unwrap();
        let lent = lend_at(path.clone(), context("a:1")).unwrap();
        assert!(!lent.current, "the user's choice is not overridden");
        drop(lent);
        assert_eq!(Contexts::load(&path).unwrap(), mine);
    }

    #[test]
    fn without_a_home_there_is_no_place_and_a_relative_one_is_ignored() {
        assert_eq!(place(None, None), None);
        assert_eq!(place(Some("".into()), Some("/h".into())), Some("/h/.config/meshwork/contexts.toml".into()));
        assert_eq!(place(Some("/x".into()), None), Some("/x/meshwork/contexts.toml".into()));
    }
}
