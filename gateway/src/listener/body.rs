//! Limits of a request's body: size and time.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

/// Largest body, as in etcd. Encoded octets of a form count as one.
const MAX_BODY: usize = 3 << 19;

/// Largest body on the wire, with each octet encoded (`%2F`).
pub(super) const MAX_ENCODED: usize = 3 * MAX_BODY;

/// Time for a body to arrive.
const MAX_TIME: Duration = Duration::from_secs(30);

/// A body of a refused request is read up to here, for clients that send all
/// of it before they read the answer.
const MAX_DISCARDED: usize = 16 << 20;

/// Errors of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request's body did not arrive in time")]
    Timeout,
    #[error("the body is larger than 1.5 MiB")]
    TooLarge,
}

impl BodyError {
    /// The cause of an error, if it is one of these.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let own = error.downcast_ref().copied();
        own.or_else(|| Self::of(error.source()?))
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

pub(super) struct LimitedBody {
    inner: Body,
    /// Octets read, and the `%` among them.
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
            return Poll::Ready(Some(Err(Box::new(BodyError::Timeout))));
        }
        loop {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                None if self.is_too_large() => {
                    return Poll::Ready(Some(Err(Box::new(BodyError::TooLarge))));
                }
                end => return Poll::Ready(end.map(|end| end.map_err(Into::into))),
            };
            self.count(&frame);
            if self.read > MAX_ENCODED {
                return Poll::Ready(Some(Err(Box::new(BodyError::TooLarge))));
            }
            // The rest is discarded, for clients that send all of it before they read the answer.
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

/// Discards a body in the background, within limits.
pub(super) fn discard(body: Body) {
    tokio::spawn(tokio::time::timeout(
        MAX_TIME,
        Limited::new(body, MAX_DISCARDED).collect(),
    ));
}
