//! Carries bytes between two connections until both directions have ended.
//!
//! Each direction ends by itself: an end of one side's data is passed on as an
//! end of data (half-close), and the other direction runs on. A reset on one
//! side becomes a reset on the other. Holds no memory for a connection that
//! moves nothing: buffers are large, because that is what makes a copy fast,
//! and belong to the thread. Never times out; keepalive finds dead peers.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes moved at once; with 8 KiB a stream reaches a third of the rate.
const CHUNK: usize = 256 * 1024;
/// Free buffers that a thread keeps.
const KEPT: usize = 4;
/// Chunks that one direction moves before others get their turn.
const TURN: u32 = 16;
/// Silence before the kernel asks whether the peer is still there, and between its questions.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Small packets go at once; a peer that vanished is noticed.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4)
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Ends when both sides have finished sending, or with the error that broke one of them.
pub(crate) async fn carry(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let mut up = pin!(pump(client, server));
    let mut down = pin!(pump(server, client));
    // Who has finished sending is read no more: only its error tells that it has gone altogether.
    tokio::select! {
        ended = &mut up => {
            ended?;
            tokio::select! {
                ended = &mut down => ended,
                error = broken(client) => Err(error),
            }
        }
        ended = &mut down => {
            ended?;
            tokio::select! {
                ended = &mut up => ended,
                error = broken(server) => Err(error),
            }
        }
    }
}

/// Ends when the connection has been reset, or given up by the kernel.
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
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut moved = 0;
    loop {
        from.readable().await?;
        let mut chunk = Chunk::take();
        match from.try_read(&mut chunk) {
            Ok(0) => return end(to),
            Ok(length) => send(&chunk[..length], from, to).await?,
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
}

/// Passes the end of data on.
fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // The peer has closed already: its own direction tells the rest.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

async fn send(mut data: &[u8], from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    while !data.is_empty() {
        match to.try_write(data) {
            Ok(length) => data = &data[length..],
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

/// A buffer that goes back to its thread.
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
        // A thread that ends has nowhere to keep it.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}
