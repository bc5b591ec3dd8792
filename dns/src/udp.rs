//! DNS over UDP.
//!
//! Not hickory's, which starts a task for each query and takes no answer in
//! octets. What is answered at once, from the zone or the cache, is answered
//! here; the others are waited for in tasks, bounded by the forwarder's limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use hickory_server::net::xfer::Protocol;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tracing::debug;

use crate::handler::Handler;
use crate::message::MAX_QUESTION;

/// Serves until the socket fails.
pub(crate) async fn serve(socket: UdpSocket, handler: Handler) -> io::Error {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut packet = vec![0; MAX_QUESTION];
    loop {
        while waiting.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(error) => return error,
        };
        let message = packet.get(..length).unwrap_or_default();
        if let Some(answer) = handler.short(message, client) {
            send(&socket, client, Some(answer)).await;
            continue;
        }
        let (message, handler) = (message.to_vec(), handler.clone());
        let mut answer =
            async move { handler.answer(message, client, Protocol::Udp).await }.boxed();
        if let Some(answer) = answer.as_mut().now_or_never() {
            send(&socket, client, answer).await;
        } else {
            let socket = Arc::clone(&socket);
            waiting.spawn(async move { send(&socket, client, answer.await).await });
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, answer: Option<Vec<u8>>) {
    let Some(answer) = answer else { return };
    if let Err(error) = socket.send_to(&answer, client).await {
        debug!(%client, %error, "answer not sent");
    }
}
