//! A connection between two agents: what the one hands over and the other resumes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;

use crate::carry::{Flow, Flows};

/// A link connection that is not carried at the moment. It is reset when dropped, also in another process.
#[derive(Debug)]
pub struct Connection {
    pub(crate) client: TcpStream,
    pub(crate) port: u16,
    /// None if no endpoint was reached yet.
    pub(crate) server: Option<Server>,
}

/// The endpoint's side of a connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: TcpStream,
    pub(crate) target: SocketAddr,
    pub(crate) flows: Flows,
}

impl Connection {
    /// Takes the connection from the runtime.
    pub(crate) fn new(
        client: tokio::net::TcpStream,
        port: u16,
        server: Option<(tokio::net::TcpStream, SocketAddr, Flows)>,
    ) -> io::Result<Self> {
        let client = park(client)?;
        let server = match server {
            Some((stream, target, flows)) => Some(Server {
                stream: park(stream)?,
                target,
                flows,
            }),
            None => None,
        };
        Ok(Self {
            client,
            port,
            server,
        })
    }

    /// Bytes that were read from one side and not yet sent to the other.
    pub fn unsent(&self) -> usize {
        let Some(Server { flows, .. }) = &self.server else {
            return 0;
        };
        flows.up.unsent().len() + flows.down.unsent().len()
    }

    /// What [`Self::from_parts`] makes the connection of.
    pub fn into_parts(self) -> (Vec<u8>, Vec<OwnedFd>) {
        let Self {
            client,
            port,
            server,
        } = self;
        let Some(Server {
            stream,
            target,
            flows,
        }) = server
        else {
            return (head(port, None), vec![client.into()]);
        };
        let mut text = head(port, Some((target, &flows)));
        text.extend_from_slice(flows.up.unsent());
        text.extend_from_slice(flows.down.unsent());
        (text, vec![client.into(), stream.into()])
    }

    /// None if it can't be read; its descriptors are closed then.
    pub fn from_parts(text: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let (port, server) = parse(text)?;
        let mut streams = fds.into_iter().map(TcpStream::from);
        Some(Self {
            client: streams.next()?,
            port,
            server: match server {
                Some((target, flows)) => Some(Server {
                    stream: streams.next()?,
                    target,
                    flows,
                }),
                None => None,
            },
        })
    }
}

/// Whoever drops it last resets it: no client takes half an answer for a whole.
fn park(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_zero_linger()?;
    stream.into_std()
}

/// The opposite of [`park`].
pub(crate) fn unpark(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    SockRef::from(&stream).set_linger(None::<Duration>)?;
    tokio::net::TcpStream::from_std(stream)
}

/// A line of text: `10000`, or `10000 10.0.0.1:20000 open:12 ended`. The unsent bytes follow.
fn head(port: u16, server: Option<(SocketAddr, &Flows)>) -> Vec<u8> {
    let line = match server {
        None => format!("{port}\n"),
        Some((target, flows)) => {
            let (up, down) = (flows.up.word(), flows.down.word());
            format!("{port} {target} {up} {down}\n")
        }
    };
    line.into_bytes()
}

type Read = (u16, Option<(SocketAddr, Flows)>);

fn parse(text: &[u8]) -> Option<Read> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let mut words = std::str::from_utf8(&text[..end]).ok()?.split(' ');
    let mut bytes = &text[end + 1..];
    let port = words.next()?.parse().ok()?;
    let server = match words.next() {
        None => None,
        Some(target) => {
            let target = target.parse().ok()?;
            let up = Flow::read(words.next()?, &mut bytes)?;
            let down = Flow::read(words.next()?, &mut bytes)?;
            Some((target, Flows { up, down }))
        }
    };
    (bytes.is_empty() && words.next().is_none()).then_some((port, server))
}

impl Flow {
    fn unsent(&self) -> &[u8] {
        match self {
            Self::Open(unsent) => unsent,
            Self::Ended => &[],
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Open(unsent) => format!("open:{}", unsent.len()),
            Self::Ended => "ended".to_owned(),
        }
    }

    /// Its unsent bytes are cut from the front of `bytes`.
    fn read(word: &str, bytes: &mut &[u8]) -> Option<Self> {
        if word == "ended" {
            return Some(Self::Ended);
        }
        let length = word.strip_prefix("open:")?.parse().ok()?;
        let (unsent, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(Self::Open(unsent.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SocketAddr {
        "10.0.0.1:20000".parse().expect("an address")
    }

    fn flows(up: Flow, down: Flow) -> Flows {
        Flows { up, down }
    }

    fn text(flows: &Flows) -> Vec<u8> {
        let mut text = head(10_000, Some((target(), flows)));
        text.extend_from_slice(flows.up.unsent());
        text.extend_from_slice(flows.down.unsent());
        text
    }

    #[test]
    fn what_is_written_is_read() {
        let open = |bytes: &[u8]| Flow::Open(bytes.to_vec());
        assert_eq!(parse(&head(10_007, None)), Some((10_007, None)));
        for flows in [
            Flows::default(),
            flows(open(b"one\ntwo"), open(b"three")),
            flows(Flow::Ended, open(b"\n")),
            flows(open(b""), Flow::Ended),
            flows(Flow::Ended, Flow::Ended),
        ] {
            let read = parse(&text(&flows));
            assert_eq!(read, Some((10_000, Some((target(), flows)))));
        }
        let flows = flows(open(b"abc"), Flow::Ended);
        let line = b"10000 10.0.0.1:20000 open:3 ended\nabc";
        assert_eq!(text(&flows), line);
    }

    #[test]
    fn anything_else_is_not_read() {
        for text in [
            "",
            "10000",
            "70000\n",
            "10000 \n",
            "10000\nmore",
            "10000 10.0.0.1:20000 open:0\n",
            "10000 10.0.0.1:20000 open:4 ended\nabc",
            "10000 10.0.0.1:20000 open:3 ended\nabcd",
            "10000 10.0.0.1:20000 open:0 ended more\n",
            "10000 10.0.0.1:20000 closed ended\n",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
