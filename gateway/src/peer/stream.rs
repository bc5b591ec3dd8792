//! Streams between agents: a JSON object a line, and an empty line as heartbeat.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::table::PeerTable;
use crate::ndjson;

/// An empty line after this much silence; the caller gives up after three.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = HEARTBEAT.saturating_mul(3);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Frame<T> {
    Record(T),
    /// The stream of the other side failed.
    Error(String),
}

/// Why a stream ended early.
#[derive(Debug)]
pub(super) enum StreamError {
    /// Reported by the other side.
    Remote(String),
    /// The connection was lost.
    Disconnected(String),
}

/// Body of a streamed answer.
pub(super) fn encode<T, E>(
    records: Pin<Box<dyn Stream<Item = Result<T, E>> + Send>>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    stream::unfold(records, async |mut records| {
        let line = match tokio::time::timeout(HEARTBEAT, records.next()).await {
            Err(_) => b"\n".to_vec(),
            Ok(None) => return None,
            Ok(Some(record)) => {
                let frame = match record {
                    Ok(record) => Frame::Record(record),
                    Err(error) => Frame::Error(error.to_string()),
                };
                ndjson::line(&frame).expect("records always serialize")
            }
        };
        Some((Ok(Bytes::from(line)), records))
    })
}

/// Records of a streamed answer, until it ends or fails, or the other side's record is deleted.
pub(super) fn decode<T: DeserializeOwned + Send>(
    body: Incoming,
    connection: AbortOnDropHandle<()>,
    table: Arc<PeerTable>,
    fingerprint: String,
) -> impl Stream<Item = Result<T, StreamError>> + Send {
    let frames = Frames::<T> {
        body,
        reader: ndjson::Reader::default(),
        read: Vec::new().into_iter(),
        table,
        fingerprint,
        ended: false,
        _connection: connection,
    };
    stream::unfold(frames, async |mut frames| {
        if frames.ended {
            return None;
        }
        let record = match frames.next().await? {
            Ok(Frame::Record(record)) => Ok(record),
            Ok(Frame::Error(error)) => Err(StreamError::Remote(error)),
            Err(why) => Err(StreamError::Disconnected(why)),
        };
        frames.ended = record.is_err();
        Some((record, frames))
    })
}

struct Frames<T> {
    body: Incoming,
    reader: ndjson::Reader<Frame<T>>,
    read: std::vec::IntoIter<Frame<T>>,
    table: Arc<PeerTable>,
    fingerprint: String,
    ended: bool,
    _connection: AbortOnDropHandle<()>,
}

impl<T: DeserializeOwned> Frames<T> {
    async fn next(&mut self) -> Option<Result<Frame<T>, String>> {
        loop {
            if let Some(frame) = self.read.next() {
                return Some(Ok(frame));
            }
            let frame = tokio::select! {
                frame = tokio::time::timeout(SILENCE, self.body.frame()) => frame,
                () = self.table.removed(&self.fingerprint) => {
                    return Some(Err("its host record was deleted".to_owned()));
                }
            };
            let data = match frame {
                Err(_) => return Some(Err("no heartbeat".to_owned())),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(format!("connection lost: {error}"))),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            match self.reader.push(&data) {
                Ok(read) => self.read = read.into_iter(),
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }
}
