//! One query to one resolver, and the matching answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_server::net::xfer::Protocol;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::message::{invalid, read_message, write_message};

/// Delay before a datagram is sent again; the next resolver is queried then, too.
pub(super) const RETRY: Duration = Duration::from_millis(1500);
/// Largest datagram.
const DATAGRAM: usize = 65_535;

/// A query with an id of our own.
pub(super) struct Question {
    id: u16,
    query: Query,
    packet: Vec<u8>,
}

/// Client of the resolvers. One buffer for datagrams: a waiting query holds none.
pub(super) struct Exchange {
    datagram: Mutex<Box<[u8]>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            datagram: Mutex::new(vec![0; DATAGRAM].into()),
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// The answer to a query, with the resolver.
    pub(super) async fn ask(
        self: Arc<Self>,
        with: SocketAddr,
        question: Arc<Question>,
        by: Protocol,
    ) -> (SocketAddr, io::Result<Message>) {
        let answer = match by {
            Protocol::Udp => self.by_udp(with, &question).await,
            _ => by_tcp(with, &question).await,
        };
        (with, answer)
    }

    async fn by_udp(&self, with: SocketAddr, question: &Question) -> io::Result<Message> {
        let any: IpAddr = match with {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A random port per query, connected so that only this resolver is heard.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(with).await?;
        socket.send(&question.packet).await?;
        if let Ok(answer) = timeout(RETRY, self.answer(&socket, question)).await {
            return answer;
        }
        // Query or answer may have been lost.
        socket.send(&question.packet).await?;
        self.answer(&socket, question).await
    }

    /// Receives datagrams until one is the answer.
    async fn answer(&self, socket: &UdpSocket, question: &Question) -> io::Result<Message> {
        loop {
            socket.readable().await?;
            let mut datagram = self.datagram.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = match socket.try_recv(&mut datagram) {
                Ok(length) => question.answer(datagram.get(..length).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => return Err(error),
            };
            drop(datagram);
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}

async fn by_tcp(with: SocketAddr, question: &Question) -> io::Result<Message> {
    let mut stream = TcpStream::connect(with).await?;
    write_message(&mut stream, &question.packet).await?;
    let answer = read_message(&mut stream, usize::MAX).await?;
    question
        .answer(&answer)?
        .ok_or_else(|| invalid("answer does not match the query"))
}

impl Question {
    /// The query of a packet, with another id.
    pub(super) fn new(packet: &[u8], id: u16, query: Query) -> Self {
        let mut packet = packet.to_vec();
        if let Some(own) = packet.first_chunk_mut() {
            *own = id.to_be_bytes();
        }
        Self { id, query, packet }
    }

    /// The answer in a packet, if it matches; an error if it is malformed.
    fn answer(&self, packet: &[u8]) -> io::Result<Option<Message>> {
        if packet.first_chunk() != Some(&self.id.to_be_bytes()) {
            return Ok(None);
        }
        let message = Message::from_vec(packet).map_err(invalid)?;
        // Some servers leave the question out of an error.
        let is_bare_error =
            message.queries.is_empty() && message.metadata.response_code != ResponseCode::NoError;
        let is_answer = message.metadata.message_type == MessageType::Response
            && (is_bare_error || message.queries.as_slice() == slice::from_ref(&self.query));
        Ok(is_answer.then_some(message))
    }
}
