//! Lines of many sources as one stream, in order of time.
//!
//! A source reads what one host has and opens again where a connection was
//! lost; `gate` says when a line may be given out; here the sources are started
//! and merged. A host that is not reached is a notice among the lines, never
//! the end of them.

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

/// Lines of one source on their way; a slow reader holds the sources up here.
const LINES: usize = 1_024;
/// Time that old output waits for a slow source, following and not.
const PATIENCE_FOLLOWING: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// How often new sources are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// An empty line after this much silence tells the reader that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The same notice is not told again sooner.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// Between two attempts of a source.
pub(super) const RETRY: Exponential =
    Exponential::new(Duration::from_millis(250), Duration::from_secs(5));

/// Where lines come from.
pub(super) trait LineSources: Send + Sync + 'static {
    /// What tells one source from another; of one moment's lines those of the lower come first.
    type Key: Ord + Clone + Send + Sync + 'static;
    /// One line.
    type Line: Send + 'static;

    /// Those that are to be read as it is now; none if that is not known. Lines end where none is wanted and none is
    /// read any more.
    fn wanted(&self) -> Option<BTreeSet<Self::Key>>;

    /// Reads one of them until it ends, or nobody reads any more.
    fn read(
        &self,
        source: Self::Key,
        out: SourceSink<Self::Line>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// When a line was written.
    fn time(line: &Self::Line) -> Timestamp;
}

/// What a reader is told.
#[derive(Debug)]
pub(super) enum StreamItem<T> {
    /// A line of a source.
    Line(T),
    /// Something about the answer itself.
    Notice(String),
}

/// A line, and when it came.
type Came<T> = (T, Instant);

/// Where a source puts its lines.
pub(super) struct SourceSink<T> {
    lines: mpsc::Sender<Came<T>>,
    notices: mpsc::Sender<String>,
    /// The last trouble that was told; the same is not told again while it lasts.
    told: Option<String>,
}

impl<T> SourceSink<T> {
    /// Gives a line; false if nobody reads any more.
    pub(super) async fn line(&self, line: T) -> bool {
        self.lines.send((line, Instant::now())).await.is_ok()
    }

    /// Says something about the answer itself.
    pub(super) async fn notice(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            self.told = Some(text.clone());
            // Nobody reads any more: nothing to tell.
            let _ = self.notices.send(text).await;
        }
    }

    /// What was told is over: the same is told again.
    pub(super) fn over(&mut self) {
        self.told = None;
    }

    /// Nobody reads any more.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

/// Answers with the lines of all sources that are wanted. `encode` spells what a reader is told; none says that the
/// connection lives.
pub(super) fn answer<S: LineSources>(
    sources: S,
    follow: bool,
    kind: &'static str,
    encode: impl Fn(Option<StreamItem<S::Line>>) -> Bytes + Send + 'static,
) -> Result<Response, ApiFailure> {
    // A short channel: the sources' own hold what there is to hold.
    let (out, lines) = mpsc::channel(16);
    tokio::spawn(merge(sources, follow, out));
    let body = ReceiverStream::new(lines)
        .map(encode)
        // An empty piece would end a chunked body.
        .filter(|piece| std::future::ready(!piece.is_empty()))
        .map(Ok::<_, Infallible>);
    Response::builder()
        .header(CONTENT_TYPE, kind)
        .body(Body::from_stream(body))
        .map_err(|error| ApiFailure::bad(error.to_string()))
}

/// A value as a line of JSON; an empty line says that the connection lives.
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

/// A source whose next line is awaited.
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

/// A source with a line at hand.
struct AtHand<K, T> {
    source: K,
    line: T,
    time: Timestamp,
    came: Instant,
    rest: mpsc::Receiver<Came<T>>,
}

/// Reads all sources until they end or nobody reads any more.
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
    // Silent sources: since when, and which have caught up.
    let mut silent = BTreeMap::new();
    let mut caught_up = BTreeSet::new();
    let mut at_hand: Vec<AtHand<S::Key, S::Line>> = Vec::new();
    let start = |source: S::Key| {
        let (lines, rest) = mpsc::channel(LINES);
        let told = None;
        let notices = notices.clone();
        tokio::spawn(sources.read(
            source.clone(),
            SourceSink {
                lines,
                notices,
                told,
            },
        ));
        next(source, rest)
    };
    for source in sources.wanted().unwrap_or_default() {
        known.insert(source.clone());
        silent.insert(source.clone(), Instant::now());
        awaited.push(start(source));
    }
    // LineSources of one host tell the same: once is enough.
    let mut told: BTreeMap<String, Instant> = BTreeMap::new();
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
                    // One that comes back later is a new source.
                    known.remove(&source);
                    caught_up.remove(&source);
                }
            }
            Some(notice) = notices_in.recv() => {
                told.retain(|_, at| at.elapsed() < TELL_AGAIN);
                if told.insert(notice.clone(), now).is_some() {
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
    // What the sources said last, before they ended.
    while let Ok(notice) = notices_in.try_recv() {
        if told.insert(notice.clone(), Instant::now()).is_some() {
            continue;
        }
        if out.send(Some(StreamItem::Notice(notice))).await.is_err() {
            return;
        }
    }
}
