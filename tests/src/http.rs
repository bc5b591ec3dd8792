//! A few lines of HTTP/1.0, for the harness to ask an engine's socket or a
//! API inside a node without starting a program each time.
//!
//! Never for what a user would type: the tests run real curl for that.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::node::Node;

/// No answer here takes longer, except the loading of images.
const CAP: Duration = Duration::from_secs(60);

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum Target<'a> {
    /// A server on a unix socket.
    Unix(PathBuf),
    /// A server on the machine's own network.
    Machine(SocketAddr),
    /// A server as it is reached from inside a node.
    Inside(&'a Node, SocketAddr),
}

/// What a server said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }

    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Itself if the status is 2xx, else an error with the body.
    pub fn ok(self) -> anyhow::Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        bail!("status {}: {}", self.status, self.body.trim());
    }
}

/// Asks once.
pub fn request(
    target: &Target<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    let context = || format!("{method} {path}");
    match target {
        Target::Unix(socket) => {
            let stream = UnixStream::connect(socket).with_context(context)?;
            stream.set_read_timeout(Some(CAP))?;
            exchange(stream, method, path, "docker", headers, body)
        }
        Target::Machine(address) => {
            let stream =
                std::net::TcpStream::connect_timeout(address, CAP).with_context(context)?;
            stream.set_read_timeout(Some(CAP))?;
            exchange(stream, method, path, &address.to_string(), headers, body)
        }
        Target::Inside(node, address) => {
            let stream = node.connect(*address, CAP).with_context(context)?;
            stream.set_read_timeout(Some(CAP))?;
            exchange(stream, method, path, &address.to_string(), headers, body)
        }
    }
    .with_context(context)
}

/// `text` as it may stand in a path or a form.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    use std::fmt::Write as _;
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses a body early may close before it has read it.
    stream.write_all(body).ok();
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    if let Some(answer) = parse(&bytes) {
        return Ok(answer);
    }
    read?;
    bail!("not an HTTP answer: {:?}", String::from_utf8_lossy(&bytes));
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let raw = &bytes[end + 4..];
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { dechunk(raw) } else { raw.to_vec() };
    Some(Answer {
        status,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Some servers answer HTTP/1.0 in chunks all the same.
fn dechunk(mut raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(line_end) = raw.windows(2).position(|two| two == b"\r\n") {
        let size = String::from_utf8_lossy(&raw[..line_end]);
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let start = line_end + 2;
        if size == 0 || raw.len() < start + size {
            break;
        }
        out.extend_from_slice(&raw[start..start + size]);
        raw = raw.get(start + size + 2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer =
            parse(b"HTTP/1.1 201 Created\r\nX-Etcd-Index: 7\r\n\r\n{\"a\":1}").expect("an answer");
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("x-etcd-index"), Some("7"));
        assert_eq!(answer.json().expect("json")["a"], 1);
    }

    #[test]
    fn chunks_are_joined() {
        let answer = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .expect("an answer");
        assert_eq!(answer.body, "abcde");
    }

    #[test]
    fn escaping_keeps_what_is_plain() {
        assert_eq!(escape("a/b=c d\"é"), "a/b%3Dc%20d%22%C3%A9");
    }
}
