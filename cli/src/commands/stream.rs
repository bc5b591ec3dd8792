//! Line streams of the API, reconnected after a lost connection.

use std::time::Duration;

use gateway::ndjson::Reader;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::error::CommandError;
use super::output;

/// Three heartbeats of the API.
const SILENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// Reader of a line stream.
pub(super) trait Reading {
    /// A line.
    type Line: DeserializeOwned;

    /// Path of the request; after a lost connection from where the last line was taken. Lines may come twice.
    fn path(&self) -> String;

    /// Takes a line.
    fn take(&mut self, line: Self::Line) -> Result<(), CommandError>;
}

/// How a stream ended.
enum Ended {
    /// End of the stream.
    Through,
    /// The connection was lost; why.
    Lost(String),
}

/// Reads to the end. With `follow` a lost connection is made again, for up to `within`.
pub(super) async fn read(
    client: &Client,
    follow: bool,
    within: Duration,
    reading: &mut impl Reading,
) -> Result<(), CommandError> {
    let mut body = client.stream(&reading.path()).await?;
    loop {
        match read_one(body, reading).await? {
            Ended::Through => return Ok(()),
            Ended::Lost(why) if !follow => {
                return Err(CommandError::Failed(format!("connection lost: {why}")));
            }
            Ended::Lost(why) => {
                output::note(&format!("connection lost ({why}); reconnecting"));
                body = again(client, within, reading).await?;
            }
        }
    }
}

async fn again(
    client: &Client,
    within: Duration,
    reading: &impl Reading,
) -> Result<Incoming, CommandError> {
    let end = Instant::now() + within;
    loop {
        sleep(RETRY).await;
        match client.stream(&reading.path()).await {
            Err(CommandError::Unreached { .. } | CommandError::Failed(_))
                if Instant::now() < end => {}
            other => return other,
        }
    }
}

async fn read_one<R: Reading>(mut body: Incoming, reading: &mut R) -> Result<Ended, CommandError> {
    let mut reader = Reader::<R::Line>::default();
    loop {
        let data = match timeout(SILENCE, body.frame()).await {
            Err(_) => return Ok(Ended::Lost("no heartbeat".to_owned())),
            Ok(None) => return Ok(Ended::Through),
            Ok(Some(Err(error))) => return Ok(Ended::Lost(error.to_string())),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        let lines = reader
            .push(&data)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        for line in lines {
            reading.take(line)?;
        }
    }
}

/// Escapes a time for a query.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
