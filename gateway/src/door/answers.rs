//! What answers under way may cost: memory for those that are whole, places for those that have no end.
//!
//! A whole answer stays in memory until its reader has taken it. Large ones
//! share a budget, and who finds none in time is refused; the memory is given
//! back when the last byte has gone to the kernel. A stream holds little, but
//! may last for ever: those leave a share of the places to others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use listen::{Busy, Permit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All large answers under way.
const BUDGET: usize = 64 << 20;
/// Smaller ones are not counted: a connection has one.
const SMALL: usize = 64 << 10;
/// So long a large answer waits for the others; so many wait.
const PATIENCE: Duration = Duration::from_secs(2);
const WAITING: usize = 4;

/// One connection, as its requests know it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) permit: Arc<Permit>,
    /// The answer under way is a stream, whose reader may rest.
    pub(super) streams: AtomicBool,
}

/// Why an answer is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooMuch {
    #[error("too many large answers are under way, or unread; try again")]
    Answers,
    #[error("too many requests wait for events here already; end some, or ask another host")]
    Waits,
}

/// The memory of answers under way.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// In bytes.
    memory: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            memory: Arc::new(Semaphore::new(BUDGET)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }
}

impl Answers {
    /// Admits an answer, if there is room for it; `busy` is kept until it has been written.
    pub(super) async fn admit(
        &self,
        response: Response,
        mut busy: Busy,
        connection: &Connection,
    ) -> Result<Response, TooMuch> {
        let whole = response.body().size_hint().exact();
        let streams = whole.is_none();
        connection.streams.store(streams, Ordering::Relaxed);
        if streams && !busy.set_waiting() {
            return Err(TooMuch::Waits);
        }
        let length = usize::try_from(whole.unwrap_or_default()).unwrap_or(usize::MAX);
        if length <= SMALL {
            return Ok(response.map(|body| Body::new(Kept { body, _busy: busy })));
        }
        let memory = self.memory(length).await.ok_or(TooMuch::Answers)?;
        let (parts, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => Body::from(Bytes::from_owner(Held {
                bytes: body.to_bytes(),
                _memory: memory,
                _busy: busy,
            })),
            // A body that can't be read is shown to be cut short.
            Err(error) => Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(error)])),
        };
        Ok(Response::from_parts(parts, body))
    }

    /// An answer larger than the whole budget takes all of it.
    async fn memory(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let length = u32::try_from(length.min(BUDGET)).ok()?;
        if let Ok(memory) = Arc::clone(&self.memory).try_acquire_many_owned(length) {
            return Some(memory);
        }
        // What waits has its memory already.
        let _waits = self.waiting.try_acquire().ok()?;
        let memory = Arc::clone(&self.memory).acquire_many_owned(length);
        tokio::time::timeout(PATIENCE, memory).await.ok()?.ok()
    }
}

/// A large answer, until it has been written.
struct Held {
    bytes: Bytes,
    _memory: OwnedSemaphorePermit,
    _busy: Busy,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that keeps its connection busy until its end.
struct Kept {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
