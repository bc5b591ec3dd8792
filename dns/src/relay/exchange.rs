//! One query to one resolver, and the matching answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use hickory_proto::op::ResponseCode;
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Answer;
use super::asked::Sent;
use crate::message::{invalid, read_message, write_message};

/// Delay before a datagram is sent again.
const RETRY: Duration = Duration::from_millis(1500);
/// Largest datagram.
const DATAGRAM: usize = 65_535;

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
    /// A resolver's answer to a query. One that is too long for a datagram is asked for again by TCP.
    pub(super) async fn ask(
        self: Arc<Self>,
        with: SocketAddr,
        sent: Arc<Sent>,
    ) -> io::Result<Answer> {
        if !sent.by_udp {
            return by_tcp(with, &sent).await;
        }
        let answer = self.by_udp(with, &sent, &sent.packet).await?;
        let knows_no_edns = answer.code() == ResponseCode::FormErr && !answer.has_edns();
        if sent.has_own_edns && knows_no_edns {
            return self.by_udp(with, &sent, &sent.without_edns()).await;
        }
        if answer.is_truncated() {
            return Ok(by_tcp(with, &sent).await.unwrap_or(answer));
        }
        Ok(answer)
    }

    async fn by_udp(&self, with: SocketAddr, sent: &Sent, packet: &[u8]) -> io::Result<Answer> {
        let any: IpAddr = match with {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A random port per query, connected so that only this resolver is heard.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(with).await?;
        socket.send(packet).await?;
        if let Ok(answer) = timeout(RETRY, self.answer(&socket, sent)).await {
            return answer;
        }
        // Query or answer may have been lost.
        socket.send(packet).await?;
        self.answer(&socket, sent).await
    }

    /// Receives datagrams until one is the answer.
    async fn answer(&self, socket: &UdpSocket, sent: &Sent) -> io::Result<Answer> {
        // A refusal is an error and nothing to read.
        let interest = Interest::READABLE | Interest::ERROR;
        let receive = || {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            let mut datagram = self.datagram.lock().unwrap_or_else(PoisonError::into_inner);
            let length = socket.try_recv(&mut datagram)?;
            let packet = datagram.get(..length).unwrap_or_default();
            Answer::read(packet, sent.id, &sent.question)
        };
        loop {
            if let Some(answer) = socket.async_io(interest, receive).await? {
                return Ok(answer);
            }
        }
    }
}

async fn by_tcp(with: SocketAddr, sent: &Sent) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(with).await?;
    write_message(&mut stream, &sent.packet).await?;
    let answer = read_message(&mut stream, usize::MAX).await?;
    Answer::read(&answer, sent.id, &sent.question)?
        .ok_or_else(|| invalid("answer does not match the query"))
}
