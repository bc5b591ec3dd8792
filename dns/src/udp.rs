//! DNS over UDP: threads, each with a socket of its own at the same address.
//!
//! Not hickory's, which starts a task for each query and takes no answer in
//! octets; and not the runtime's, whose way to a socket takes as long as an
//! answer. What is answered at once, from the zone or the cache, is answered
//! by the thread that received it; the others are waited for in tasks, bounded
//! by the forwarder's limits.
//!
//! While there is something to do, a thread waits in `recvfrom`, which is the
//! shortest way. That can't be ended from outside, so after a moment it waits
//! in `poll`, which costs one call more.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hickory_server::net::xfer::Protocol;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SendFlags, sendto};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, dispatcher, warn};

use crate::handler::Handler;
use crate::message::MAX_QUESTION;
use crate::wire::SMALLEST;

/// How long a thread waits in `recvfrom`.
const MOMENT: Duration = Duration::from_millis(20);
/// Packets that a thread answers after the stop, at most.
const DRAINED: usize = 1_000;

/// An answer that takes a resolver.
type Later = BoxFuture<'static, Option<Vec<u8>>>;

/// Serves until the shutdown, or until a socket fails; then all threads have ended and, but for a kept copy of the first,
/// all sockets are closed.
pub(crate) async fn serve(
    sockets: Vec<UdpSocket>,
    handler: Handler,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let stop = Stop(Arc::new(Stopping::new()?));
    let (failed, mut ended) = mpsc::channel(sockets.len().max(1));
    for (index, socket) in sockets.into_iter().enumerate() {
        let is_first = index == 0;
        let thread = Thread::new(socket, is_first, handler.clone(), Arc::clone(&stop.0));
        match thread.and_then(|thread| start(thread, failed.clone())) {
            Ok(()) => {}
            // Its clients would wait for ever: its kept copy goes on to receive.
            Err(error) if is_first => return Err(error),
            Err(error) => warn!(%error, "a thread of DNS is left out"),
        }
    }
    drop(failed);
    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        failure = ended.recv() => Some(failure),
    };
    drop(stop);
    while ended.recv().await.is_some() {}
    failure.flatten().map_or(Ok(()), Err)
}

/// Starts a thread, which says why it has ended if it was not stopped.
fn start(thread: Thread, failed: mpsc::Sender<io::Error>) -> io::Result<()> {
    // The log is that of who started the server.
    let log = dispatcher::get_default(Clone::clone);
    let builder = thread::Builder::new().name("dns".into());
    builder.spawn(move || {
        let run = AssertUnwindSafe(|| thread.run());
        let ended = dispatcher::with_default(&log, || catch_unwind(run));
        let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        if let Err(error) = ended {
            let _ = failed.blocking_send(error);
        }
    })?;
    Ok(())
}

/// Ends the threads when it is dropped.
struct Stop(Arc<Stopping>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.begins();
    }
}

struct Stopping {
    has_begun: AtomicBool,
    /// Readable from then on.
    event: OwnedFd,
}

impl Stopping {
    fn new() -> io::Result<Self> {
        Ok(Self {
            has_begun: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn begins(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
        // It fails only where the counter is full.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

struct Thread {
    socket: Arc<UdpSocket>,
    /// Another process may take it over, and the packets that wait in it.
    is_first: bool,
    handler: Handler,
    stopping: Arc<Stopping>,
    runtime: Handle,
}

impl Thread {
    fn new(
        socket: UdpSocket,
        is_first: bool,
        handler: Handler,
        stopping: Arc<Stopping>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(MOMENT))?;
        Ok(Self {
            socket: Arc::new(socket),
            is_first,
            handler,
            stopping,
            runtime: Handle::current(),
        })
    }

    /// Answers until it is stopped.
    fn run(self) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let mut waiting = JoinSet::new();
        let mut packet = vec![0; MAX_QUESTION];
        let mut short = Vec::with_capacity(SMALLEST.into());
        while !self.stopping.has_begun.load(Ordering::Relaxed) {
            while waiting.try_join_next().is_some() {}
            let (length, client) = match self.socket.recv_from(&mut packet) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait()?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let message = packet.get(..length).unwrap_or_default();
            if let Some(later) = self.answer(message, client, &mut short) {
                let socket = Arc::downgrade(&self.socket);
                waiting.spawn(async move {
                    let answer = later.await;
                    // A thread that has ended closes it.
                    if let Some(socket) = socket.upgrade() {
                        send(&socket, client, answer.as_deref());
                    }
                });
            }
        }
        if !self.is_first {
            self.drain(&mut packet, &mut short)?;
        }
        Ok(())
    }

    /// Answers what waits in the socket, and would be lost with it. There is no time for resolvers.
    fn drain(&self, packet: &mut [u8], short: &mut Vec<u8>) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        for _ in 0..DRAINED {
            match self.socket.recv_from(packet) {
                Ok((length, client)) => {
                    let message = packet.get(..length).unwrap_or_default();
                    self.answer(message, client, short);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Answers a packet at once, or returns what is to be waited for. One that makes it panic costs nobody else an answer.
    fn answer(&self, message: &[u8], client: SocketAddr, short: &mut Vec<u8>) -> Option<Later> {
        let answer = AssertUnwindSafe(|| self.try_answer(message, client, short));
        catch_unwind(answer).unwrap_or_else(|_| {
            warn!(%client, "a packet made its thread panic; it is not answered");
            None
        })
    }

    fn try_answer(&self, message: &[u8], client: SocketAddr, short: &mut Vec<u8>) -> Option<Later> {
        if self.handler.short(message, client, short) {
            send(&self.socket, client, Some(short));
            return None;
        }
        let (message, handler) = (message.to_vec(), self.handler.clone());
        let mut later = async move { handler.answer(message, client, Protocol::Udp).await }.boxed();
        let Some(answer) = later.as_mut().now_or_never() else {
            return Some(later);
        };
        send(&self.socket, client, answer.as_deref());
        None
    }

    /// Waits for a packet, or the stop.
    fn wait(&self) -> io::Result<()> {
        let mut either = [
            PollFd::new(&*self.socket, PollFlags::IN),
            PollFd::new(&self.stopping.event, PollFlags::IN),
        ];
        match poll(&mut either, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Without room for it, the answer is lost as any datagram may be.
fn send(socket: &UdpSocket, client: SocketAddr, answer: Option<&[u8]>) {
    let Some(answer) = answer else { return };
    if let Err(error) = sendto(socket, answer, SendFlags::DONTWAIT, &client) {
        debug!(%client, %error, "answer not sent");
    }
}

#[cfg(test)]
mod tests;
