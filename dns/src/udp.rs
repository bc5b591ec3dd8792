//! DNS over UDP.
//!
//! Not hickory's, which starts a task for each query and takes no answer in
//! octets. What is answered at once, from the zone or the cache, is answered
//! here; the others are waited for in tasks, bounded by the forwarder's limits.

use std::io;
use std::net::{self, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt as _;
use hickory_server::net::xfer::Protocol;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tracing::debug;

use crate::handler::Handler;
use crate::message::MAX_QUESTION;

/// Serves until the socket fails.
pub(crate) async fn serve(socket: UdpSocket, handler: Handler) -> io::Error {
    // Watched for what comes alone: else each answer that has left wakes a thread, too.
    #[expect(deprecated, reason = "a socket keeps its descriptor to the end")]
    let watched = |socket| AsyncFd::with_interest(socket, Interest::READABLE);
    let socket = match socket.into_std().and_then(watched) {
        Ok(socket) => Arc::new(socket),
        Err(error) => return error,
    };
    let mut waiting = JoinSet::new();
    let mut packet = vec![0; MAX_QUESTION];
    loop {
        while waiting.try_join_next().is_some() {}
        let receive = |socket: &net::UdpSocket| socket.recv_from(&mut packet);
        let received = socket.async_io(Interest::READABLE, receive).await;
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => return error,
        };
        let message = packet.get(..length).unwrap_or_default();
        if let Some(answer) = handler.short(message, client) {
            send(socket.get_ref(), client, Some(answer));
            continue;
        }
        let (message, handler) = (message.to_vec(), handler.clone());
        let mut answer =
            async move { handler.answer(message, client, Protocol::Udp).await }.boxed();
        if let Some(answer) = answer.as_mut().now_or_never() {
            send(socket.get_ref(), client, answer);
        } else {
            let socket = Arc::clone(&socket);
            waiting.spawn(async move { send(socket.get_ref(), client, answer.await) });
        }
    }
}

/// Without room for it, the answer is lost as any datagram may be.
fn send(socket: &net::UdpSocket, client: SocketAddr, answer: Option<Vec<u8>>) {
    let Some(answer) = answer else { return };
    if let Err(error) = socket.send_to(&answer, client) {
        debug!(%client, %error, "answer not sent");
    }
}
