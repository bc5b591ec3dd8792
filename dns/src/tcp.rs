//! DNS over TCP. Pipelined queries are answered in order.
//!
//! Not hickory's, which does not limit connections and spins when no file
//! descriptor is left.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Header, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use listen::{Accepted, Acceptor, Limiter, Limits, Permit, WhenFull};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::debug;

use crate::handler::Handler;
use crate::message::{MAX_QUESTION, MAX_QUESTIONS, read_message, write_message};
use crate::response;

/// Limits of connections, for all addresses together.
pub(crate) const CONNECTIONS: Limits = Limits {
    all: 256,
    per_source: 32,
};
/// Time-out of reading or writing one message.
const IDLE: Duration = Duration::from_secs(5);

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, limiter: Limiter, handler: Handler) -> Infallible {
    let acceptor = Acceptor::new(listener, limiter, WhenFull::Refuse);
    let answer = |accepted| connection(accepted, handler.clone());
    acceptor.serve(pending(), answer).await;
    pending().await
}

async fn connection(accepted: Accepted, handler: Handler) {
    let Accepted {
        stream,
        peer,
        permit,
    } = accepted;
    let permit = Arc::new(permit);
    permit.set_idle(Instant::now());
    tokio::select! {
        ended = converse(stream, peer, &permit, &handler) => {
            if let Err(error) = ended {
                debug!(%peer, %error, "TCP connection closed");
            }
        }
        () = permit.evicted() => debug!(%peer, "idle TCP connection evicted"),
    }
}

async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    permit: &Arc<Permit>,
    handler: &Handler,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let message = timeout(IDLE, read_message(&mut stream, MAX_QUESTION)).await??;
        let busy = permit.set_busy();
        if let Some(answer) = answer(message, peer, handler).await {
            timeout(IDLE, write_message(&mut stream, &answer)).await??;
        }
        drop(busy);
    }
}

/// The answer; none to a message that is shorter than a header, or a response.
async fn answer(message: Vec<u8>, peer: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(&message)).ok()?;
    // The library allocates for as many questions as are announced.
    let request = (header.counts.queries <= MAX_QUESTIONS)
        .then(|| Request::from_bytes(message, peer, Protocol::Tcp).ok())
        .flatten();
    match request {
        None => response::bare(&header, ResponseCode::FormErr),
        Some(request) if request.metadata.message_type == MessageType::Response => None,
        Some(request) => handler.respond(&request).await.encode(&request),
    }
}
