//! Limits of answers under way: memory for whole ones, connections for streams.
//!
//! A whole answer stays in memory until its reader has taken it. Large ones
//! share a budget, and one that finds no room in time is refused; its memory is
//! released when the last byte has gone to the kernel. A stream holds little,
//! but may last for ever: its connection is counted apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use listen::{Busy, Permit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all large answers under way.
const BUDGET: usize = 64 << 20;
/// Smaller ones are not counted: a connection has one at a time.
const SMALL: usize = 64 << 10;
/// How long a large answer waits for room, and how many may.
const PATIENCE: Duration = Duration::from_secs(2);
const WAITING: usize = 4;

/// A connection, shared with its requests.
#[derive(Debug)]
pub(super) struct ClientConnection {
    pub(super) permit: Arc<Permit>,
    /// The answer under way is a stream, whose reader may pause.
    pub(super) streams: AtomicBool,
}

/// Why an answer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overloaded {
    #[error("too many large answers are under way, or unread; try again")]
    Memory,
    #[error("too many requests wait for events here already; end some, or ask another host")]
    Streams,
}

/// Memory of answers under way.
#[derive(Debug, Clone)]
pub(super) struct ResponseBudget {
    /// In bytes.
    memory: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for ResponseBudget {
    fn default() -> Self {
        Self {
            memory: Arc::new(Semaphore::new(BUDGET)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }
}

impl ResponseBudget {
    /// Passes an answer on if there is room; its connection is `busy` until it has been written.
    pub(super) async fn admit(
        &self,
        response: Response,
        mut busy: Busy,
        connection: &ClientConnection,
    ) -> Result<Response, Overloaded> {
        let whole = response.body().size_hint().exact();
        let streams = whole.is_none();
        connection.streams.store(streams, Ordering::Relaxed);
        if streams && !busy.set_waiting() {
            return Err(Overloaded::Streams);
        }
        let length = usize::try_from(whole.unwrap_or_default()).unwrap_or(usize::MAX);
        if length <= SMALL {
            return Ok(response.map(|body| {
                // The connection is busy until the body is dropped.
                Body::new(body.map_err(move |error| {
                    let _ = &busy;
                    error
                }))
            }));
        }
        let memory = self.memory(length).await.ok_or(Overloaded::Memory)?;
        let (parts, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => Body::from(Bytes::from_owner(BudgetedBytes {
                bytes: body.to_bytes(),
                _memory: memory,
                _busy: busy,
            })),
            // The reader sees that it is cut short.
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
        // Its own body is in memory already.
        let _waits = self.waiting.try_acquire().ok()?;
        let memory = Arc::clone(&self.memory).acquire_many_owned(length);
        tokio::time::timeout(PATIENCE, memory).await.ok()?.ok()
    }
}

/// A large answer until it has been written.
struct BudgetedBytes {
    bytes: Bytes,
    _memory: OwnedSemaphorePermit,
    _busy: Busy,
}

impl AsRef<[u8]> for BudgetedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
