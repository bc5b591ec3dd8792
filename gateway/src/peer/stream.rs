//! What one agent gives another line by line, and that it lives while there is nothing to give.

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

use super::client::Connection;
use super::table::Table;
use crate::ndjson;

/// An empty line after this much silence; the caller gives up after three.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = HEARTBEAT.saturating_mul(3);

/// One line between agents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said<T> {
    /// What was asked for.
    Record(T),
    /// The other side broke off; why.
    Error(String),
}

/// Why there is no more.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side says so.
    There(String),
    /// It is not reached any more.
    Lost(String),
}

/// What the door sends.
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
                let said = match record {
                    Ok(record) => Said::Record(record),
                    Err(error) => Said::Error(error.to_string()),
                };
                ndjson::line(&said).expect("records always serialize")
            }
        };
        Some((Ok(Bytes::from(line)), records))
    })
}

/// What a caller gets, until the stream ends, breaks, or the other side's record has gone.
pub(super) fn decode<T: DeserializeOwned + Send>(
    body: Incoming,
    connection: Connection,
    table: Arc<Table>,
    fingerprint: String,
) -> impl Stream<Item = Result<T, Broken>> + Send {
    let lines = Lines::<T> {
        body,
        reader: ndjson::Reader::default(),
        read: Vec::new().into_iter(),
        table,
        fingerprint,
        ended: false,
        _connection: connection,
    };
    stream::unfold(lines, async |mut lines| {
        if lines.ended {
            return None;
        }
        let record = match lines.next().await? {
            Ok(Said::Record(record)) => Ok(record),
            Ok(Said::Error(error)) => Err(Broken::There(error)),
            Err(why) => Err(Broken::Lost(why)),
        };
        lines.ended = record.is_err();
        Some((record, lines))
    })
}

struct Lines<T> {
    body: Incoming,
    reader: ndjson::Reader<Said<T>>,
    read: std::vec::IntoIter<Said<T>>,
    table: Arc<Table>,
    fingerprint: String,
    ended: bool,
    _connection: Connection,
}

impl<T: DeserializeOwned> Lines<T> {
    async fn next(&mut self) -> Option<Result<Said<T>, String>> {
        loop {
            if let Some(said) = self.read.next() {
                return Some(Ok(said));
            }
            let frame = tokio::select! {
                frame = tokio::time::timeout(SILENCE, self.body.frame()) => frame,
                () = self.table.forgotten(&self.fingerprint) => {
                    return Some(Err("its record has gone".to_owned()));
                }
            };
            let data = match frame {
                Err(_) => return Some(Err("it has fallen silent".to_owned())),
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
