//! A request's body with an end: at most so many bytes, at most so long.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

/// No body may be larger: etcd itself ends here. What a form encodes counts as what it stands for.
const MAX_BODY: usize = 3 << 19;

/// Nor may it be longer than if each octet of it were encoded (`%2F`).
pub(super) const MAX_ENCODED: usize = 3 * MAX_BODY;

/// No body may take longer to arrive.
const MAX_TIME: Duration = Duration::from_secs(30);

/// A body that has more than is read of it is thrown away up to here, so that
/// a client which sends all before it listens still gets its answer.
const MAX_THROWN_AWAY: usize = 16 << 20;

/// It took too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request's body did not arrive in time")]
pub struct BodyTimeout;

/// It is larger than what is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than 1.5 MiB")]
pub struct BodyTooLarge;

pub(super) struct LimitedBody {
    inner: Body,
    /// Octets so far, and how many of them begin an encoded one.
    read: usize,
    encoded: usize,
    deadline: Pin<Box<Sleep>>,
}

impl LimitedBody {
    pub(super) fn new(body: Body) -> Self {
        Self {
            inner: body,
            read: 0,
            encoded: 0,
            deadline: Box::pin(tokio::time::sleep(MAX_TIME)),
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.read += data.len();
            self.encoded += data.split(|octet| *octet == b'%').count() - 1;
        }
    }

    fn is_too_large(&self) -> bool {
        self.read.saturating_sub(2 * self.encoded) > MAX_BODY
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.deadline.poll_unpin(context).is_ready() {
            return Poll::Ready(Some(Err(Box::new(BodyTimeout))));
        }
        loop {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                None if self.is_too_large() => {
                    return Poll::Ready(Some(Err(Box::new(BodyTooLarge))));
                }
                end => return Poll::Ready(end.map(|end| end.map_err(Into::into))),
            };
            self.count(&frame);
            if self.read > MAX_ENCODED {
                return Poll::Ready(Some(Err(Box::new(BodyTooLarge))));
            }
            // Read on and forgotten: a client that sends all before it listens still gets its answer.
            if !self.is_too_large() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
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
    caused_by::<BodyTooLarge>(error)
}

/// The body was refused for its time.
pub(super) fn too_slow(error: &(dyn Error + 'static)) -> bool {
    caused_by::<BodyTimeout>(error)
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
