//! Lines of many sources, merged by time.
//!
//! A source reads one host and reconnects; `gate` decides when a line may be
//! sent; here the sources are started and merged. An unreachable host is a
//! notice among the lines, never their end.

mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use manifests::units;
use model::backoff::Exponential;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::reply::ApiFailure;

/// Buffer of one source; a slow client blocks the source here.
const LINES: usize = 1_024;
/// How long old lines wait for a slow source, following and not.
const PATIENCE_FOLLOWING: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval of checks for new sources.
const LOOK: Duration = Duration::from_secs(1);
/// An empty line is sent after this much silence.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The same notice is not repeated sooner.
const REPEAT: Duration = Duration::from_secs(10);
/// Time between two attempts of a source.
pub(super) const RETRY: Exponential =
    Exponential::new(Duration::from_millis(250), Duration::from_secs(5));

/// A set of sources.
pub(super) trait LineSources: Send + Sync + 'static {
    /// Key of a source; lines of equal time are sorted by it.
    type Key: Ord + Clone + Send + Sync + 'static;
    /// One line.
    type Line: Send + 'static;

    /// Sources to read now; none if unknown. Followed lines end when none is wanted and none is read.
    fn wanted(&self) -> Option<BTreeSet<Self::Key>>;

    /// Reads a source until its end, or until the client is gone.
    fn read(
        &self,
        source: Self::Key,
        out: SourceSink<Self::Line>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Time of a line.
    fn time(line: &Self::Line) -> Timestamp;
}

/// An item of the merged stream.
#[derive(Debug)]
pub(super) enum StreamItem<T> {
    /// A line of a source.
    Line(T),
    /// A notice about the answer itself.
    Notice(String),
}

/// A line and its time of arrival.
type Came<T> = (T, Instant);

/// Output of a source.
pub(super) struct SourceSink<T> {
    lines: mpsc::Sender<Came<T>>,
    notices: mpsc::Sender<String>,
    /// Last notice, which is not repeated while it holds.
    sent: Option<String>,
}

impl<T> SourceSink<T> {
    /// Sends a line; false if the client is gone.
    pub(super) async fn line(&self, line: T) -> bool {
        self.lines.send((line, Instant::now())).await.is_ok()
    }

    /// Sends a notice.
    pub(super) async fn notice(&mut self, text: String) {
        if self.sent.as_ref() != Some(&text) {
            self.sent = Some(text.clone());
            // The client may be gone.
            let _ = self.notices.send(text).await;
        }
    }

    /// The last notice no longer holds: a new one like it is sent.
    pub(super) fn over(&mut self) {
        self.sent = None;
    }

    /// Returns when the client is gone.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

/// Answer with the lines of all sources. `encode` encodes an item; none is a heartbeat.
pub(super) fn answer<S: LineSources>(
    sources: S,
    follow: bool,
    kind: &'static str,
    encode: impl Fn(Option<StreamItem<S::Line>>) -> Bytes + Send + 'static,
) -> Result<Response, ApiFailure> {
    // Short: the sources have buffers of their own.
    let (out, lines) = mpsc::channel(16);
    tokio::spawn(merge(sources, follow, out));
    let body = ReceiverStream::new(lines)
        .map(encode)
        // An empty chunk would end the body.
        .filter(|piece| std::future::ready(!piece.is_empty()))
        .map(Ok::<_, Infallible>);
    Response::builder()
        .header(CONTENT_TYPE, kind)
        .body(Body::from_stream(body))
        .map_err(|error| ApiFailure::bad(error.to_string()))
}

/// A value as a line of JSON; none is an empty line.
pub(super) fn ndjson(value: Option<impl Serialize>) -> Bytes {
    let line = value.map_or(Ok(b"\n".to_vec()), |value| crate::ndjson::line(&value));
    line.expect("lines always serialize").into()
}

/// A time, or how long ago: `10m`.
pub(super) fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || {
        format!(
            "since: `{text}` is not a time; expected 2026-01-31T12:00:00Z, or how long ago, such as 10m"
        )
    };
    let ago = units::parse_duration(text).map_err(|_| wrong())?;
    now.checked_sub(ago).map_err(|_| wrong())
}

/// The next line of a source.
type Awaited<K, T> =
    Pin<Box<dyn Future<Output = (K, mpsc::Receiver<Came<T>>, Option<Came<T>>)> + Send>>;

fn next<K: Send + 'static, T: Send + 'static>(
    source: K,
    mut lines: mpsc::Receiver<Came<T>>,
) -> Awaited<K, T> {
    Box::pin(async move {
        let line = lines.recv().await;
        (source, lines, line)
    })
}

/// A source with a buffered line.
struct AtHand<K, T> {
    source: K,
    line: T,
    time: Timestamp,
    came: Instant,
    rest: mpsc::Receiver<Came<T>>,
}

/// Merges all sources until they end or the client is gone.
async fn merge<S: LineSources>(
    sources: S,
    follow: bool,
    out: mpsc::Sender<Option<StreamItem<S::Line>>>,
) {
    let started = Timestamp::now();
    let (notices, mut notices_in) = mpsc::channel(16);
    let patience = if follow { PATIENCE_FOLLOWING } else { PATIENCE };
    let mut known = BTreeSet::new();
    let mut awaited: FuturesUnordered<Awaited<S::Key, S::Line>> = FuturesUnordered::new();
    // Sources without a buffered line, and those that have sent new output.
    let mut silent = BTreeMap::new();
    let mut caught_up = BTreeSet::new();
    let mut at_hand: Vec<AtHand<S::Key, S::Line>> = Vec::new();
    let start = |source: S::Key| {
        let (lines, rest) = mpsc::channel(LINES);
        let sent = None;
        let notices = notices.clone();
        tokio::spawn(sources.read(
            source.clone(),
            SourceSink {
                lines,
                notices,
                sent,
            },
        ));
        next(source, rest)
    };
    for source in sources.wanted().unwrap_or_default() {
        known.insert(source.clone());
        silent.insert(source.clone(), Instant::now());
        awaited.push(start(source));
    }
    // LineSources of one host have the same notices.
    let mut sent: BTreeMap<String, Instant> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    let mut last_sent = Instant::now();
    loop {
        let now = Instant::now();
        let oldest = at_hand
            .iter()
            .enumerate()
            .min_by_key(|(_, at_hand)| (at_hand.time, &at_hand.source))
            .map(|(at, _)| at);
        let wait = oldest.map(|at| {
            let head = gate::Head {
                is_old: at_hand[at].time <= started,
                held: now.duration_since(at_hand[at].came),
            };
            let silent = silent.iter().map(|(source, since)| gate::Silent {
                caught_up: caught_up.contains(source),
                silent: now.duration_since(*since),
            });
            gate::wait(head, silent, patience)
        });
        if let (Some(at), Some(None)) = (oldest, wait) {
            let AtHand {
                source,
                line,
                time,
                rest,
                ..
            } = at_hand.swap_remove(at);
            if time > started {
                caught_up.insert(source.clone());
            }
            silent.insert(source.clone(), Instant::now());
            awaited.push(next(source, rest));
            if out.send(Some(StreamItem::Line(line))).await.is_err() {
                return;
            }
            last_sent = now;
            continue;
        }
        if awaited.is_empty() && at_hand.is_empty() && !follow {
            break;
        }
        let wake = wait
            .flatten()
            .map_or(last_sent + HEARTBEAT, |left| now + left);
        tokio::select! {
            () = out.closed() => return,
            Some((source, rest, line)) = awaited.next() => {
                silent.remove(&source);
                if let Some((line, came)) = line {
                    let time = S::time(&line);
                    at_hand.push(AtHand { source, line, time, came, rest });
                } else {
                    // It is a new source if it comes back.
                    known.remove(&source);
                    caught_up.remove(&source);
                }
            }
            Some(notice) = notices_in.recv() => {
                sent.retain(|_, at| at.elapsed() < REPEAT);
                if sent.insert(notice.clone(), now).is_some() {
                    continue;
                }
                if out.send(Some(StreamItem::Notice(notice))).await.is_err() {
                    return;
                }
                last_sent = now;
            }
            _ = look.tick(), if follow => {
                let Some(wanted) = sources.wanted() else { continue };
                if wanted.is_empty() && known.is_empty() {
                    break;
                }
                for source in wanted {
                    if known.insert(source.clone()) {
                        silent.insert(source.clone(), Instant::now());
                        awaited.push(start(source));
                    }
                }
            }
            () = tokio::time::sleep_until(wake) => {
                if wait.is_none() {
                    if out.send(None).await.is_err() {
                        return;
                    }
                    last_sent = Instant::now();
                }
            }
        }
    }
    // Notices that the sources sent before they ended.
    while let Ok(notice) = notices_in.try_recv() {
        if sent.insert(notice.clone(), Instant::now()).is_some() {
            continue;
        }
        if out.send(Some(StreamItem::Notice(notice))).await.is_err() {
            return;
        }
    }
}
