//! A request's body with an end: at most so many bytes, at most so long.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

/// No body may be larger. A manifest has a few kilobytes; etcd itself ends at 1.5 MiB.
pub(super) const MAX_BODY: usize = 1 << 20;

/// No body may take longer to arrive.
const MAX_TIME: Duration = Duration::from_secs(30);

/// A body that has more than is read of it is thrown away up to here, so that
/// a client which sends all before it listens still gets its answer.
const MAX_THROWN_AWAY: usize = 16 << 20;

/// It took too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request's body did not arrive in time")]
pub struct TooSlow;

pub(super) struct Bounded {
    inner: Limited<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl Bounded {
    pub(super) fn new(body: Body) -> Self {
        Self {
            inner: Limited::new(body, MAX_BODY),
            deadline: Box::pin(tokio::time::sleep(MAX_TIME)),
        }
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.deadline.poll_unpin(context).is_ready() {
            return Poll::Ready(Some(Err(Box::new(TooSlow))));
        }
        Poll::Ready(ready!(Pin::new(&mut self.inner).poll_frame(context)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads on in the background, within bounds, and forgets what it reads.
pub(super) fn throw_away(body: Body) {
    tokio::spawn(tokio::time::timeout(
        MAX_TIME,
        Limited::new(body, MAX_THROWN_AWAY).collect(),
    ));
}

/// The body was refused for its size.
pub(super) fn too_large(error: &(dyn Error + 'static)) -> bool {
    caused_by::<LengthLimitError>(error)
}

/// The body was refused for its time.
pub(super) fn too_slow(error: &(dyn Error + 'static)) -> bool {
    caused_by::<TooSlow>(error)
}

fn caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}
