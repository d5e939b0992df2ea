//! `meshwork cert`: an authority for a cluster and the certificates it issues.
//!
//! `init` makes `ca.pem` and `ca.key`; `node`, `client` and `admin` read them and write `NAME.pem` and `NAME.key`
//! beside them, or under `--out`. Nothing is ever overwritten. Keys are mode 0600. The work is the transport's
//! (`meshwork_transport::Authority`).

use crate::{
    args::{CertCommand, CertIssue},
    failure::{Exit, Failure},
    output::{self, Output},
};
use meshwork_transport::{Authority, CertificateIssueError, Identity, Role, TlsFiles};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Written {
    identity: String,
    cert: PathBuf,
    key: PathBuf,
}

/// `meshwork cert`.
pub(crate) fn run(command: CertCommand, output: Output) -> Result<(), Failure> {
    match command {
        CertCommand::Init { cluster, place } => {
            std::fs::create_dir_all(&place.dir).map_err(|error| Failure::file(&place.dir, &error))?;
            let (cert, key) = Authority::new(&cluster).and_then(|made| made.write(&place.dir)).map_err(refusal)?;
            let written = Written { identity: format!("meshwork {cluster}"), cert, key };
            print(&written, output)?;
            output.say(format!("keep {} secret: whoever has it can join the cluster", written.key.display()));
            Ok(())
        }
        CertCommand::Node(issue) => self::issue(Role::Node, &issue, output),
        CertCommand::Client(issue) => self::issue(Role::Client, &issue, output),
        CertCommand::Admin(issue) => self::issue(Role::Admin, &issue, output),
        CertCommand::Show { cert, key, ca } => show(&cert, key, ca, output),
    }
}

fn issue(role: Role, issue: &CertIssue, output: Output) -> Result<(), Failure> {
    let authority = Authority::load(&issue.place.dir).map_err(refusal)?;
    let out = issue.out.as_ref().unwrap_or(&issue.place.dir);
    std::fs::create_dir_all(out).map_err(|error| Failure::file(out, &error))?;
    // A node that may bear any name is written as `node`: a star is no file name.
    let file = if issue.name == "*" { role.as_str() } else { &issue.name };
    let pair = authority.issue(role, &issue.name, issue.days).map_err(refusal)?;
    let (cert, key) = pair.write(out, file).map_err(refusal)?;
    let identity = format!("meshwork://{}/{role}/{}", authority.cluster(), issue.name);
    print(&Written { identity, cert, key }, output)
}

fn show(cert: &Path, key: Option<PathBuf>, ca: Option<PathBuf>, output: Output) -> Result<(), Failure> {
    let key = key.unwrap_or_else(|| cert.with_extension("key"));
    let ca = ca.unwrap_or_else(|| cert.with_file_name("ca.pem"));
    let identity = Identity::load(&TlsFiles::new(ca, cert, key)).map_err(|error| Failure::new(Exit::Failed, error))?;
    let own = identity.own();
    let left = identity.expires_at().duration_since(std::time::SystemTime::now()).unwrap_or_default();
    let object = serde_json::json!({
        "identity": own.to_string(), "cluster": own.cluster, "role": own.role.as_str(), "name": own.name,
        "days_left": left.as_secs() / 86_400,
    });
    output.data(&object, |_| {
        output::pairs(&[
            ("identity", own.to_string()),
            ("cluster", own.cluster.clone()),
            ("role", own.role.to_string()),
            ("name", own.name.clone()),
            ("days left", (left.as_secs() / 86_400).to_string()),
        ])
    })
}

fn print(written: &Written, output: Output) -> Result<(), Failure> {
    output.data(written, |written| {
        output::pairs(&[
            ("identity", written.identity.clone()),
            ("certificate", written.cert.display().to_string()),
            ("key", written.key.display().to_string()),
        ])
    })
}

/// The transport's words, with the code that fits.
pub(crate) fn refusal(error: CertificateIssueError) -> Failure {
    let exit = match &error {
        CertificateIssueError::Name(_) => Exit::Usage,
        CertificateIssueError::Exists { .. } => Exit::Refused,
        CertificateIssueError::File { .. }
        | CertificateIssueError::NotAnAuthority { .. }
        | CertificateIssueError::Library(_) => Exit::Failed,
    };
    let failure = Failure::new(exit, &error);
    match error {
        CertificateIssueError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            failure.next("make an authority with `meshwork cert init --cluster NAME`, or name its directory with --dir")
        }
        CertificateIssueError::File { .. }
        | CertificateIssueError::Name(_)
        | CertificateIssueError::Exists { .. }
        | CertificateIssueError::NotAnAuthority { .. }
        | CertificateIssueError::Library(_) => failure,
    }
}
