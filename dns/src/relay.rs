//! Questions of others, carried to the host's resolvers and back as they are.
//!
//! Only the number of the question is changed, so that a guessed answer fits
//! neither number nor port. Resolvers are asked in their order; the next one
//! as soon as one fails, or does not answer for a while, and the first good
//! answer counts, as with the host's own programs. Holds a bounded number of
//! questions and keeps nothing of an answer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::Query;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::message::{self, Way};
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
    packet: Vec<u8>,
    query: Query,
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

    /// The answer to a question, under the number that it came with; none if nobody has one.
    pub(crate) async fn ask(&self, packet: &[u8], query: Query, way: Way) -> Option<Vec<u8>> {
        let Ok(_permit) = self.outstanding.try_acquire() else {
            debug!("too many questions under way");
            return None;
        };
        let mut packet = packet.to_vec();
        let number = *packet.first_chunk::<2>()?;
        packet[..2].copy_from_slice(&self.number());
        let question = Arc::new(Question { packet, query });
        let mut answer = self.first_good(&question, way).await?;
        answer[..2].copy_from_slice(&number);
        Some(answer)
    }

    async fn first_good(&self, question: &Arc<Question>, way: Way) -> Option<Vec<u8>> {
        let upstreams = self.upstreams.current();
        let mut waiting = upstreams.iter();
        let mut asked = JoinSet::new();
        let mut bad = None;
        let mut deadline = pin!(sleep(DEADLINE));
        loop {
            if let Some(to) = waiting.next() {
                asked.spawn(exchange(*to, Arc::clone(question), way));
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

    fn number(&self) -> [u8; 2] {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
        let [a, b, ..] = self.secret.hash_one(count).to_ne_bytes();
        [a, b]
    }
}

/// Another resolver is asked after SERVFAIL, NOTIMP and REFUSED, as the C library does.
fn is_good(answer: &[u8]) -> bool {
    !matches!(answer[3] & 0x0f, 2 | 4 | 5)
}

async fn exchange(
    with: SocketAddr,
    question: Arc<Question>,
    way: Way,
) -> (SocketAddr, io::Result<Vec<u8>>) {
    let answer = match way {
        Way::Udp => by_udp(with, &question).await,
        Way::Tcp => by_tcp(with, &question).await,
    };
    (with, answer)
}

async fn by_udp(with: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let any: IpAddr = match with {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question, and only this resolver is heard.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(with).await?;
    socket.send(&question.packet).await?;
    let mut sent_again = false;
    let mut answer = Vec::with_capacity(DATAGRAM);
    loop {
        answer.clear();
        if sent_again {
            socket.recv_buf(&mut answer).await?;
        } else if let Ok(received) = timeout(PATIENCE, socket.recv_buf(&mut answer)).await {
            received?;
        } else {
            socket.send(&question.packet).await?;
            sent_again = true;
        }
        if question.is_answered_by(&answer) {
            answer.shrink_to_fit();
            return Ok(answer);
        }
    }
}

async fn by_tcp(with: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(with).await?;
    write_message(&mut stream, &question.packet).await?;
    let answer = read_message(&mut stream).await?;
    if question.is_answered_by(&answer) {
        Ok(answer)
    } else {
        let text = "the answer does not fit the question";
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl Question {
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let Some(header) = answer.first_chunk::<12>() else {
            return false;
        };
        let is_response = header[2] & 0x80 != 0;
        // Some leave the question out of an error.
        let is_bare_error = header[4..6] == [0, 0] && header[3] & 0x0f != 0;
        header[..2] == self.packet[..2]
            && is_response
            && (is_bare_error || message::question(answer).as_ref() == Some(&self.query))
    }
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
    let length = u16::try_from(message.len())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
