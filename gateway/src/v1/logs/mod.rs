//! `logs`: the output of a container's slots, from whichever host, merged by time.
//!
//! `source` reads one slot and goes on with it where it moves; `gate` says when
//! a line may be given out; here the sources are started and merged. A host
//! that is not reached is a notice among the lines, never the end of them.

mod gate;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use conductor_core::Snapshot;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use manifests::{AppName, ContainerId, ContainerName};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::reply::{Asked, Failure, Named};
use super::types::{LogEvent, LogLine, LogOptions};
use source::Source;

/// Lines of one source on their way; a slow reader holds the sources up here.
const LINES: usize = 1_024;
/// Time that old output waits for a slow source, following and not.
const PATIENCE_FOLLOWING: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// How often new slots are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// An empty line after this much silence tells the reader that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The same notice is not told again sooner.
const TELL_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    follow: bool,
    tail: Option<u32>,
    since: Option<String>,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    timestamps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A JSON object a line.
    #[default]
    Json,
    /// For people.
    Raw,
}

/// `GET logs/<app>/<container>`.
pub(super) async fn of_container(
    State(api): State<Api>,
    Named((app, container)): Named<(AppName, ContainerName)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    answer(api, ContainerId::new(app, container), None, query)
}

/// `GET logs/<app>/<container>/<slot>`.
pub(super) async fn of_slot(
    State(api): State<Api>,
    Named((app, container, slot)): Named<(AppName, ContainerName, u32)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    answer(api, ContainerId::new(app, container), Some(slot), query)
}

fn answer(
    api: Api,
    container: ContainerId,
    slot: Option<u32>,
    query: LogQuery,
) -> Result<Response, Failure> {
    let now = Timestamp::now();
    let options = LogOptions {
        follow: query.follow && !query.previous,
        tail: query.tail,
        since: query
            .since
            .as_deref()
            .map(|text| since(text, now))
            .transpose()
            .map_err(Failure::bad)?,
        previous: query.previous,
    };
    let seen = api.seen()?;
    let slots = slots(&seen.snapshot, &container, slot);
    if slots.is_empty() {
        return Err(match slot {
            Some(slot) => Failure::not_found(format!("there is no slot {container}/{slot}")),
            None if seen.snapshot.containers.get(&container).is_none() => {
                Failure::no_container(&container)
            }
            None => Failure::not_found(format!("{container} has no slots")),
        });
    }
    let request = Request {
        api,
        container,
        slot,
        options,
        started: now,
    };
    // A short channel: the sources' own hold what there is to hold.
    let (events, lines) = mpsc::channel(16);
    tokio::spawn(merge(request, slots, events));
    let body = ReceiverStream::new(lines)
        .map(move |event| encode(event, query.format, query.timestamps))
        // An empty piece would end a chunked body.
        .filter(|piece| std::future::ready(!piece.is_empty()))
        .map(Ok::<_, Infallible>);
    let kind = match query.format {
        Format::Json => "application/x-ndjson",
        Format::Raw => "text/plain; charset=utf-8",
    };
    Response::builder()
        .header(CONTENT_TYPE, kind)
        .body(Body::from_stream(body))
        .map_err(|error| Failure::bad(error.to_string()))
}

/// A time, or how long ago: `10m`.
fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || {
        format!(
            "since: `{text}` is not a time; expected 2026-01-31T12:00:00Z, or how long ago, such as 10m"
        )
    };
    let (number, unit) = text
        .find(|c: char| !c.is_ascii_digit())
        .map(|at| text.split_at(at))
        .ok_or_else(wrong)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok())
        .ok_or_else(wrong)
}

fn encode(event: Option<LogEvent>, format: Format, timestamps: bool) -> Bytes {
    let text = match (event, format) {
        (None, Format::Json) => "\n".to_owned(),
        (None, Format::Raw) => String::new(),
        (Some(event), Format::Json) => {
            let mut text = serde_json::to_string(&event).expect("log events always serialize");
            text.push('\n');
            text
        }
        (Some(LogEvent::Notice(notice)), Format::Raw) => format!("({notice})\n"),
        (Some(LogEvent::Line(line)), Format::Raw) => {
            let time = if timestamps {
                format!("{} ", line.time)
            } else {
                String::new()
            };
            format!("{time}{}/{} | {}\n", line.host, line.slot, line.line)
        }
    };
    Bytes::from(text)
}

/// What was asked for.
#[derive(Clone)]
struct Request {
    api: Api,
    container: ContainerId,
    slot: Option<u32>,
    options: LogOptions,
    started: Timestamp,
}

/// The slots that are or should be; only the one that was asked for.
fn slots(snapshot: &Snapshot, container: &ContainerId, only: Option<u32>) -> BTreeSet<u32> {
    let Some(view) = snapshot.containers.get(container) else {
        return BTreeSet::new();
    };
    let claimed = view
        .slots
        .iter()
        .filter(|(_, slot)| slot.claim.is_some())
        .map(|(number, _)| *number);
    (0..view.scale().unwrap_or_default())
        .chain(claimed)
        .filter(|number| only.is_none_or(|only| only == *number))
        .collect()
}

/// A line, and when it came.
type Came = (LogLine, Instant);

/// A source whose next line is awaited.
type Awaited = Pin<Box<dyn Future<Output = (u32, mpsc::Receiver<Came>, Option<Came>)> + Send>>;

fn next(slot: u32, mut lines: mpsc::Receiver<Came>) -> Awaited {
    Box::pin(async move {
        let line = lines.recv().await;
        (slot, lines, line)
    })
}

/// A source with a line at hand.
struct AtHand {
    slot: u32,
    line: LogLine,
    came: Instant,
    rest: mpsc::Receiver<Came>,
}

/// Reads all sources until they end or nobody reads any more.
async fn merge(request: Request, slots: BTreeSet<u32>, out: mpsc::Sender<Option<LogEvent>>) {
    let (notices, mut notices_in) = mpsc::channel(16);
    let patience = if request.options.follow {
        PATIENCE_FOLLOWING
    } else {
        PATIENCE
    };
    let mut known = BTreeSet::new();
    let mut awaited: FuturesUnordered<Awaited> = FuturesUnordered::new();
    // Silent sources by slot: since when, and whether they have caught up.
    let mut silent = BTreeMap::new();
    let mut caught_up = BTreeSet::new();
    let mut at_hand: Vec<AtHand> = Vec::new();
    let start = |slot: u32| {
        let (lines, rest) = mpsc::channel(LINES);
        let source = Source::new(request.clone(), slot, lines, notices.clone());
        tokio::spawn(source.run());
        next(slot, rest)
    };
    for slot in slots {
        known.insert(slot);
        silent.insert(slot, Instant::now());
        awaited.push(start(slot));
    }
    // Slots of one host tell the same: once is enough.
    let mut told: BTreeMap<String, Instant> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    let mut last_sent = Instant::now();
    loop {
        let now = Instant::now();
        let oldest = at_hand
            .iter()
            .enumerate()
            .min_by_key(|(_, at_hand)| (at_hand.line.time, at_hand.slot))
            .map(|(at, _)| at);
        let wait = oldest.map(|at| {
            let head = gate::Head {
                is_old: at_hand[at].line.time <= request.started,
                held: now.duration_since(at_hand[at].came),
            };
            let silent = silent.iter().map(|(slot, since)| gate::Silent {
                caught_up: caught_up.contains(slot),
                silent: now.duration_since(*since),
            });
            gate::wait(head, silent, patience)
        });
        if let (Some(at), Some(None)) = (oldest, wait) {
            let AtHand {
                slot, line, rest, ..
            } = at_hand.swap_remove(at);
            if line.time > request.started {
                caught_up.insert(slot);
            }
            silent.insert(slot, Instant::now());
            awaited.push(next(slot, rest));
            if out.send(Some(LogEvent::Line(line))).await.is_err() {
                return;
            }
            last_sent = now;
            continue;
        }
        if awaited.is_empty() && at_hand.is_empty() && !request.options.follow {
            break;
        }
        let wake = wait
            .flatten()
            .map_or(last_sent + HEARTBEAT, |left| now + left);
        tokio::select! {
            () = out.closed() => return,
            Some((slot, rest, line)) = awaited.next() => {
                silent.remove(&slot);
                if let Some((line, came)) = line {
                    at_hand.push(AtHand { slot, line, came, rest });
                } else {
                    // A slot that comes back later is a new source.
                    known.remove(&slot);
                    caught_up.remove(&slot);
                }
            }
            Some(notice) = notices_in.recv() => {
                told.retain(|_, at| at.elapsed() < TELL_AGAIN);
                if told.insert(notice.clone(), now).is_some() {
                    continue;
                }
                if out.send(Some(LogEvent::Notice(notice))).await.is_err() {
                    return;
                }
                last_sent = now;
            }
            _ = look.tick(), if request.options.follow => {
                let Some(seen) = request.api.facilities.snapshot() else { continue };
                let wanted = self::slots(&seen.snapshot, &request.container, request.slot);
                if wanted.is_empty() && known.is_empty() {
                    break;
                }
                for slot in wanted {
                    if known.insert(slot) {
                        silent.insert(slot, Instant::now());
                        awaited.push(start(slot));
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
        if out.send(Some(LogEvent::Notice(notice))).await.is_err() {
            return;
        }
    }
}
