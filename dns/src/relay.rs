//! Questions about others, carried to the host's resolvers as they came.
//!
//! Only the number of the question is changed, so that a guessed answer fits
//! neither number nor port. Resolvers are asked in their order; the next one
//! as soon as one fails, or does not answer for a while, and the first good
//! answer counts, as with the host's own programs. Holds a bounded number of
//! questions and keeps nothing of an answer.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::BuildHasher as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::resolv_conf::Upstreams;

/// Questions under way at once: each holds a socket. A loop through another resolver ends here too.
const OUTSTANDING: usize = 512;
/// How long a resolver is waited for before the next is asked too, and before a datagram is sent again.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client is kept waiting: after five seconds it asks again by itself.
const DEADLINE: Duration = Duration::from_millis(4500);
/// Largest datagram.
const DATAGRAM: usize = 65_535;

/// The way to the host's resolvers.
#[derive(Debug)]
pub(crate) struct Relay {
    upstreams: Upstreams,
    outstanding: Semaphore,
    /// Secret of this process; with a count, it gives numbers that can't be guessed.
    secret: RandomState,
    asked: AtomicU64,
}

/// A question under a number of our own.
struct Question {
    number: u16,
    query: Query,
    packet: Vec<u8>,
}

impl Relay {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            outstanding: Semaphore::new(OUTSTANDING),
            secret: RandomState::new(),
            asked: AtomicU64::new(0),
        }
    }

    /// The answer to the question of a packet; none if nobody has one that can be read.
    pub(crate) async fn ask(&self, packet: &[u8], query: &Query, by: Protocol) -> Option<Message> {
        let Ok(_permit) = self.outstanding.try_acquire() else {
            debug!("too many questions under way");
            return None;
        };
        let number = self.number();
        let mut packet = packet.to_vec();
        packet.get_mut(..2)?.copy_from_slice(&number.to_be_bytes());
        let query = query.clone();
        let question = Question {
            number,
            query,
            packet,
        };
        self.first_good(&Arc::new(question), by).await
    }

    async fn first_good(&self, question: &Arc<Question>, by: Protocol) -> Option<Message> {
        let upstreams = self.upstreams.current();
        let mut waiting = upstreams.iter();
        let mut asked = JoinSet::new();
        let mut bad = None;
        let mut deadline = pin!(sleep(DEADLINE));
        loop {
            if let Some(to) = waiting.next() {
                asked.spawn(exchange(*to, Arc::clone(question), by));
            }
            if asked.is_empty() {
                return bad;
            }
            tokio::select! {
                Some(Ok((from, answer))) = asked.join_next() => match answer {
                    Ok(answer) if is_good(&answer) => return Some(answer),
                    Ok(answer) => bad = Some(answer),
                    Err(error) => debug!(%from, %error, "resolver did not answer"),
                },
                () = sleep(PATIENCE), if !waiting.as_slice().is_empty() => {}
                () = &mut deadline => return bad,
            }
        }
    }

    fn number(&self) -> u16 {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
        self.secret.hash_one(count) as u16
    }
}

/// Another resolver is asked after SERVFAIL, NOTIMP and REFUSED, as the C library does.
fn is_good(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    )
}

async fn exchange(
    with: SocketAddr,
    question: Arc<Question>,
    by: Protocol,
) -> (SocketAddr, io::Result<Message>) {
    let answer = match by {
        Protocol::Udp => by_udp(with, &question).await,
        _ => by_tcp(with, &question).await,
    };
    (with, answer)
}

async fn by_udp(with: SocketAddr, question: &Question) -> io::Result<Message> {
    let any: IpAddr = match with {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question, and only this resolver is heard.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(with).await?;
    socket.send(&question.packet).await?;
    let mut sent_again = false;
    let mut packet = Vec::with_capacity(DATAGRAM);
    loop {
        packet.clear();
        if sent_again {
            socket.recv_buf(&mut packet).await?;
        } else if let Ok(received) = timeout(PATIENCE, socket.recv_buf(&mut packet)).await {
            received?;
        } else {
            socket.send(&question.packet).await?;
            sent_again = true;
        }
        if let Some(answer) = question.answer(&packet)? {
            return Ok(answer);
        }
    }
}

async fn by_tcp(with: SocketAddr, question: &Question) -> io::Result<Message> {
    let mut stream = TcpStream::connect(with).await?;
    write_message(&mut stream, &question.packet).await?;
    let answer = read_message(&mut stream).await?;
    question
        .answer(&answer)?
        .ok_or_else(|| invalid("the answer does not fit the question"))
}

impl Question {
    /// The answer in a packet, if it is one to this question; an error if it can't be read.
    fn answer(&self, packet: &[u8]) -> io::Result<Option<Message>> {
        if packet.first_chunk() != Some(&self.number.to_be_bytes()) {
            return Ok(None);
        }
        let message = Message::from_vec(packet).map_err(invalid)?;
        // Some leave the question out of an error.
        let is_bare_error =
            message.queries.is_empty() && message.metadata.response_code != ResponseCode::NoError;
        let is_answer = message.metadata.message_type == MessageType::Response
            && (is_bare_error || message.queries.as_slice() == slice::from_ref(&self.query));
        Ok(is_answer.then_some(message))
    }
}

fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads a message with its length in front.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length in front, in one piece.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(invalid)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
