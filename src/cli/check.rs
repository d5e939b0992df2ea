//! `meshwork check`: one question, one line, Nagios exits (0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN).
//!
//! `--local` asks the node on this machine over its loopback HTTP address: `/readyz`, or `/livez` with `--live`. That is
//! what container probes run, so it needs no certificate, no runtime and no library: one HTTP/1.1 GET over a socket, the
//! answer bounded in bytes and time. Without `--local` a client asks the mesh for its status; `check rollout` asks every
//! member whether the next one may go down (`rollout.rs`).

use crate::{
    args::{CheckArgs, CheckWhat},
    cluster,
    failure::{Exit, Failure},
    mesh,
    output::Output,
    rollout::{self, Rollout},
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Longest answer that is read, bytes: probes answer in a line.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Longest wait for the whole answer, when no `--deadline` is given.
const PATIENCE: Duration = Duration::from_secs(4);

/// The exit for "cannot tell".
pub(crate) const UNKNOWN: u8 = Verdict::Unknown as u8;

/// Nagios's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

/// `meshwork check`; gives the exit code.
pub(crate) fn run(args: &CheckArgs, output: Output) -> Result<u8, Failure> {
    if args.what == Some(CheckWhat::Rollout) {
        return rollout(args, output);
    }
    let (verdict, words) = if args.local {
        local(args.http, if args.live { "/livez" } else { "/readyz" }, args.client.deadline.unwrap_or(PATIENCE))
    } else {
        whole(args)
    };
    let name = verdict.name();
    let object = serde_json::json!({ "verdict": name, "why": words });
    output.data(&object, |_| format!("{name}: {words}"))?;
    Ok(verdict as u8)
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// For want of an answer.
    fn of(failure: &Failure) -> Self {
        match failure.exit {
            Exit::Usage | Exit::Refused => Self::Unknown,
            Exit::Failed | Exit::Degraded | Exit::Unreachable | Exit::Unknown | Exit::Deadline => Self::Critical,
        }
    }
}

/// `meshwork check rollout`.
fn rollout(args: &CheckArgs, output: Output) -> Result<u8, Failure> {
    let end = Instant::now() + args.wait.unwrap_or_default();
    let asked = crate::block_on(async {
        let mut told = String::new();
        loop {
            let asked = match mesh::connect(&args.client).await {
                Ok(mesh) => rollout::ask(&mesh).await,
                Err(failure) => Err(failure),
            };
            // Whom it asked may be the very node that restarts: no answer is a reason to wait, bad flags are none.
            let words = match &asked {
                Ok(rollout) if rollout.safe => return asked,
                Ok(rollout) => rollout.words(),
                Err(failure) if Verdict::of(failure) == Verdict::Unknown => return asked,
                Err(failure) => failure.what.clone(),
            };
            if Instant::now() >= end {
                return asked;
            }
            if words != told {
                output.say(format!("not yet: {words}"));
                told = words;
            }
            tokio::time::sleep(rollout::ASK_EVERY).await;
        }
    });
    let (verdict, rollout) = match asked {
        Ok(rollout) if !rollout.safe => (Verdict::Critical, rollout),
        Ok(rollout) if !rollout.warnings.is_empty() => (Verdict::Warning, rollout),
        Ok(rollout) => (Verdict::Ok, rollout),
        Err(failure) => {
            let blocking = std::iter::once(failure.what.clone()).chain(failure.next.clone()).collect();
            (Verdict::of(&failure), Rollout { blocking, ..Rollout::default() })
        }
    };
    output.data(&rollout, |rollout| format!("{}: {}", verdict.name(), rollout.words()))?;
    Ok(verdict as u8)
}

fn local(address: SocketAddr, path: &str, patience: Duration) -> (Verdict, String) {
    match get(address, path, patience) {
        Ok((200, body)) => (Verdict::Ok, said(&body, "200")),
        Ok((status @ 503, body)) => (Verdict::Critical, said(&body, &status.to_string())),
        Ok((status, body)) => (Verdict::Unknown, format!("HTTP {status}: {}", said(&body, "no words"))),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            (Verdict::Unknown, format!("http://{address}{path}: {error}"))
        }
        Err(error) => (Verdict::Critical, format!("http://{address}{path}: {error}")),
    }
}

/// The first line of a body, or `otherwise`.
fn said(body: &str, otherwise: &str) -> String {
    body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(otherwise).to_owned()
}

/// Status and body of one GET.
fn get(address: SocketAddr, path: &str, patience: Duration) -> std::io::Result<(u16, String)> {
    let end = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: text/plain\r\n\r\n");
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // A server that drips bytes must not hold a probe longer than one that is silent.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no whole answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no whole answer in time"));
            }
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            break;
        }
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> std::io::Result<(u16, String)> {
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidData, "what answers there does not speak HTTP");
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(wrong());
    }
    let status = words.next().and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
    Ok((status, body.to_owned()))
}

fn whole(args: &CheckArgs) -> (Verdict, String) {
    let status = match cluster::ask_status(&args.client) {
        Ok(status) => status,
        Err(failure) => {
            let verdict = Verdict::of(&failure);
            return (verdict, failure.what);
        }
    };
    let members = status.members.iter().filter(|member| member.role == "member").count();
    let down: Vec<_> =
        status.members.iter().filter(|m| m.role == "member" && m.health != "alive").map(|m| m.name.as_str()).collect();
    let drained: Vec<_> = status.members.iter().filter(|member| member.drained).map(|m| m.name.as_str()).collect();
    if !status.ready && !drained.contains(&status.name.as_str()) {
        return (Verdict::Critical, format!("{}: {}", status.name, status.state));
    }
    if !down.is_empty() {
        return (Verdict::Warning, format!("{} of {members} members are not alive: {}", down.len(), down.join(", ")));
    }
    if !status.layout_agreed {
        return (Verdict::Warning, "the members have not yet agreed on the layout".to_owned());
    }
    let drained = if drained.is_empty() { String::new() } else { format!("; drained: {}", drained.join(", ")) };
    (Verdict::Ok, format!("{members} members, all alive{drained}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        (address, thread)
    }

    #[test]
    fn a_ready_node_is_ok_and_one_that_waits_is_critical_with_its_own_words() {
        let (address, thread) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
        assert_eq!(local(address, "/readyz", PATIENCE), (Verdict::Ok, "ready".to_owned()));
        thread.join().unwrap();
        let (address, thread) = server(b"HTTP/1.1 503 Service Unavailable\r\n\r\nwaiting for 2 more");
        assert_eq!(local(address, "/readyz", PATIENCE), (Verdict::Critical, "waiting for 2 more".to_owned()));
        thread.join().unwrap();
    }

    #[test]
    fn something_else_on_the_port_is_unknown_and_nobody_is_critical() {
        let (address, thread) = server(b"SSH-2.0-x\r\n");
        assert_eq!(local(address, "/readyz", PATIENCE).0, Verdict::Unknown);
        thread.join().unwrap();
        assert_eq!(local(address, "/readyz", PATIENCE).0, Verdict::Critical, "the listener is gone");
    }
}
