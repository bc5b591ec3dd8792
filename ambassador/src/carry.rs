//! Copying bytes between two connections until both directions have ended.
//!
//! Half-close and reset are passed on. Buffers are large, for throughput, and
//! belong to the thread: an idle connection holds none. There is no time-out but
//! for dead peers: keepalive detects them while no data is under way, and
//! [`listen::gone`] in the same time while it is. Copying may be given up at
//! any moment and go on from there, in another process too: what was read and not
//! sent is kept.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes copied at once; with 8 KiB a stream reaches a third of the rate.
const CHUNK: usize = 256 * 1024;
/// Free buffers kept by a thread.
const KEPT: usize = 4;
/// Chunks that one direction copies before it yields.
const TURN: u32 = 16;
/// Idle time before the first keepalive probe; the others take as long together.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Unanswered probes before a peer counts as gone.
const PROBES: u32 = 4;
/// Time after which keepalive has found that a peer is gone.
const GONE: Duration = KEEPALIVE.saturating_mul(2);

/// Disables Nagle's algorithm and enables keepalive.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / PROBES)
        .with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// How far both directions are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Flows {
    /// From the client to the server.
    pub(crate) up: Flow,
    /// From the server to the client.
    pub(crate) down: Flow,
}

/// How far one direction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Bytes that were read and are to be sent.
    Open(Vec<u8>),
    /// Its end was passed on.
    Ended,
}

impl Default for Flow {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

/// Ends when both sides have finished sending, or with the error that broke one of them.
///
/// When it is dropped, `flows` says where to go on.
pub(crate) async fn carry(
    client: &TcpStream,
    server: &TcpStream,
    flows: &mut Flows,
) -> io::Result<()> {
    let mut up = pin!(pump(client, server, &mut flows.up));
    let mut down = pin!(pump(server, client, &mut flows.down));
    let both = [client, server];
    let mut gone = pin!(listen::gone(&both, GONE));
    // A side that has finished sending is not read any more: only an error shows that it is gone.
    tokio::select! {
        ended = &mut up => {
            ended?;
            tokio::select! {
                ended = &mut down => ended,
                error = broken(client) => Err(error),
                error = &mut gone => Err(error),
            }
        }
        ended = &mut down => {
            ended?;
            tokio::select! {
                ended = &mut up => ended,
                error = broken(server) => Err(error),
                error = &mut gone => Err(error),
            }
        }
        error = &mut gone => Err(error),
    }
}

/// Waits until the connection is reset, or given up by the kernel.
pub(crate) async fn broken(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => match stream.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}

/// One direction, to its end of data.
async fn pump(from: &TcpStream, to: &TcpStream, flow: &mut Flow) -> io::Result<()> {
    let Flow::Open(unsent) = flow else {
        return Ok(());
    };
    if !unsent.is_empty() {
        let first = std::mem::take(unsent);
        send(&first, from, to, unsent).await?;
    }
    let mut moved = 0;
    loop {
        from.readable().await?;
        let mut chunk = Chunk::take();
        match from.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => send(&chunk[..length], from, to, unsent).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                moved = 0;
                continue;
            }
            Err(error) => return Err(error),
        }
        drop(chunk);
        moved += 1;
        if moved == TURN {
            moved = 0;
            tokio::task::yield_now().await;
        }
    }
    end(to)?;
    *flow = Flow::Ended;
    Ok(())
}

/// Passes a half-close on.
fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // The peer has closed already; the other direction reports it.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// Sends all of it; dropped before, it leaves the rest in `unsent`.
async fn send(
    data: &[u8],
    from: &TcpStream,
    to: &TcpStream,
    unsent: &mut Vec<u8>,
) -> io::Result<()> {
    let mut rest = Rest { data, unsent };
    while !rest.data.is_empty() {
        match to.try_write(rest.data) {
            Ok(length) => rest.data = &rest.data[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    writable = to.writable() => writable?,
                    error = broken(from) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is still to be sent of a chunk.
struct Rest<'a> {
    data: &'a [u8],
    unsent: &'a mut Vec<u8>,
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.unsent.extend_from_slice(self.data);
    }
}

/// A buffer that returns to its thread when dropped.
struct Chunk(Box<[u8]>);

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

impl Chunk {
    fn take() -> Self {
        let free = FREE.with_borrow_mut(Vec::pop);
        Self(free.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()))
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // It fails while the thread ends.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}
