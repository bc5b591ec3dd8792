//! Timeout of connections whose client does not read its answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::budget::ClientConnection;

/// A client must read `PROGRESS` bytes of a whole answer in each `TIME`.
const TIME: Duration = Duration::from_secs(30);
const PROGRESS: usize = 512 << 10;

pub(super) struct StallGuard {
    stream: TcpStream,
    connection: Arc<ClientConnection>,
    /// Runs while a write is pending.
    deadline: Option<Pin<Box<Sleep>>>,
    taken: usize,
    /// The kernel knows that the reader may pause.
    may_pause: bool,
}

impl StallGuard {
    pub(super) fn new(stream: TcpStream, connection: Arc<ClientConnection>) -> Self {
        Self {
            stream,
            connection,
            deadline: None,
            taken: 0,
            may_pause: false,
        }
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let streams = self.connection.streams.load(Ordering::Relaxed);
        if streams && !self.may_pause {
            self.may_pause = true;
            // It fails only on a connection that is closed.
            let _ = listen::let_pause(&self.stream);
        }
        if let Poll::Ready(Ok(length)) = &written {
            self.taken += length;
            if self.taken >= PROGRESS {
                self.deadline = None;
            }
        }
        if written.is_ready() {
            return written;
        }
        // A stream's client may pause: beside the socket's buffer it holds one event, whose text
        // it shares with others, or one line of a log.
        if streams {
            self.deadline = None;
            return Poll::Pending;
        }
        let taken = &mut self.taken;
        let deadline = self.deadline.get_or_insert_with(|| {
            *taken = 0;
            Box::pin(tokio::time::sleep(TIME))
        });
        ready!(deadline.poll_unpin(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read the answer",
        )))
    }
}

impl AsyncRead for StallGuard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for StallGuard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Everything has been written.
        self.deadline = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
