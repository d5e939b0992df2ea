//! One GET of a node's admin address, by hand: a test of a server should not lean on that server's library.

use super::wait::LIMIT;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

/// Status and body, or why there is none.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    get_as(address, path, &address.to_string())
}

/// As `get`, with another `Host`.
pub(crate) fn get_as(address: SocketAddr, path: &str, host: &str) -> Result<(u16, String), String> {
    let answer =
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
    let answer = answer.map_err(|error| format!("http://{address}{path}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {answer:?}"))?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| format!("no HTTP: {head:?}"))?;
    Ok((status, body.to_owned()))
}

/// What comes back for these bytes until the other side closes.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    Ok(answer)
}

/// As `exchange`, after which nothing more is sent: a server that waits for more must give up.
pub(crate) fn exchange_closing(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    Ok(answer)
}
