//! What commands print: data on stdout in the chosen form, talk on stderr.
//!
//! Every command builds one serializable object and one table of it; `-o` chooses. JSON is the object of the HTTP API
//! (snake_case, plain numbers). A reader that goes away (`| head`) ends the program quietly. Colour only on a terminal
//! and never under `NO_COLOR`; `--quiet` silences talk, not errors and not data.

use crate::failure::{Exit, Failure};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// The form of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Table,
    /// For people with wide terminals: more columns where there are more.
    Wide,
    /// One JSON object.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    form: Form,
    quiet: bool,
}

impl Output {
    /// Output in `form`; `quiet` silences talk.
    pub(crate) fn new(form: Form, quiet: bool) -> Self {
        Self { form, quiet }
    }

    /// Whether data is for a program.
    pub(crate) fn is_json(self) -> bool {
        match self.form {
            Form::Json | Form::Jsonl => true,
            Form::Table | Form::Wide => false,
        }
    }

    /// Whether a table may have its extra columns.
    pub(crate) fn is_wide(self) -> bool {
        self.form == Form::Wide
    }

    /// Whether talk is wanted and somebody watches: progress is drawn only then.
    pub(crate) fn is_watched(self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Prints one object: as JSON, or as what `human` makes of it.
    pub(crate) fn data<T: Serialize>(self, object: &T, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = match self.form {
            Form::Table | Form::Wide => human(object),
            Form::Json => serde_json::to_string_pretty(object).map_err(not_json)?,
            Form::Jsonl => serde_json::to_string(object).map_err(not_json)?,
        };
        line(&text)
    }

    /// Prints a list: `jsonl` gives a line each, `json` one array.
    pub(crate) fn list<T: Serialize>(self, objects: &[T], human: impl FnOnce(&[T]) -> String) -> Result<(), Failure> {
        match self.form {
            Form::Table | Form::Wide => line(&human(objects)),
            Form::Json => line(&serde_json::to_string_pretty(objects).map_err(not_json)?),
            Form::Jsonl => objects.iter().try_for_each(|o| line(&serde_json::to_string(o).map_err(not_json)?)),
        }
    }

    /// Writes bytes as they are: a value, for pipes. A newline follows only on a terminal.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let mut wrote = stdout.write_all(bytes);
        if wrote.is_ok() && stdout.is_terminal() {
            wrote = stdout.write_all(b"\n");
        }
        ended(wrote.and_then(|()| stdout.flush()))
    }

    /// Says something to a person.
    pub(crate) fn say(self, text: impl std::fmt::Display) {
        if !self.quiet {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints a failure; as an object when the data would have been one.
    pub(crate) fn failure(self, failure: &Failure) {
        let mut stderr = std::io::stderr();
        let _ = if self.is_json() {
            let object = serde_json::json!({
                "error": failure.what, "next": failure.next, "exit": failure.exit as u8,
            });
            writeln!(stderr, "{object}")
        } else {
            writeln!(stderr, "{}: {failure}", paint("meshwork", "31"))
        };
    }
}

/// `text` in the SGR colour `code`, when stderr is a terminal and `NO_COLOR` is unset or empty.
pub(crate) fn paint(text: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stderr().is_terminal() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// A borderless table with these column names.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|name| name.to_uppercase()));
    table
}

/// The text of a table without trailing blanks.
pub(crate) fn text(table: &Table) -> String {
    let text = table.to_string();
    text.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end())).collect::<Vec<_>>().join("\n")
}

/// A table of names and values.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    ended(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// A pipe whose reader has left is the end of the program's work, not an error.
fn ended(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot write to stdout: {error}"))),
    }
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot be said in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let mut made = table(&["node", "state"]);
        made.add_row(["a", "ready"]);
        made.add_row(["longer", "x"]);
        let text = text(&made);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.starts_with("NODE"), "{text:?}");
        assert_eq!(text.lines().count(), 3, "{text:?}");
    }

    #[test]
    fn pairs_line_up() {
        assert_eq!(pairs(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2");
    }
}
