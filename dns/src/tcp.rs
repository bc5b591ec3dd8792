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

use hickory_server::net::xfer::Protocol;
use listen::{Accepted, Acceptor, Limiter, Limits, Permit, WhenFull};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::debug;

use crate::handler::Handler;
use crate::message::{MAX_QUESTION, read_message, write_message};

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
        let answer = handler.answer(message, peer, Protocol::Tcp).await;
        if let Some(answer) = answer {
            timeout(IDLE, write_message(&mut stream, &answer)).await??;
        }
        drop(busy);
    }
}
