//! `logs`: the output of a container's slots, from whichever host, merged by time.
//!
//! `source` reads one slot and goes on with it where it moves.

mod source;

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use conductor_core::Snapshot;
use jiff::Timestamp;
use manifests::{AppName, ContainerId, ContainerName};
use serde::Deserialize;

use super::Api;
use super::merge::{self, Out, Sources, Told};
use super::reply::{Asked, Failure, Named};
use super::types::{LogEvent, LogLine, LogOptions};
use source::Source;

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
            .map(|text| merge::since(text, now))
            .transpose()
            .map_err(Failure::bad)?,
        previous: query.previous,
    };
    let seen = api.seen()?;
    if slots(&seen.snapshot, &container, slot).is_empty() {
        return Err(match slot {
            Some(slot) => Failure::not_found(format!("there is no slot {container}/{slot}")),
            None if seen.snapshot.containers.get(&container).is_none() => {
                Failure::no_container(&container)
            }
            None => Failure::not_found(format!("{container} has no slots")),
        });
    }
    let follow = options.follow;
    let request = Request {
        api,
        container,
        slot,
        options,
    };
    let kind = match query.format {
        Format::Json => "application/x-ndjson",
        Format::Raw => "text/plain; charset=utf-8",
    };
    merge::answer(request, follow, kind, move |told| {
        encode(told, query.format, query.timestamps)
    })
}

fn encode(told: Option<Told<LogLine>>, format: Format, timestamps: bool) -> Bytes {
    let event = told.map(|told| match told {
        Told::Line(line) => LogEvent::Line(line),
        Told::Notice(notice) => LogEvent::Notice(notice),
    });
    let text = match (event, format) {
        (event, Format::Json) => return merge::ndjson(event),
        (None, Format::Raw) => String::new(),
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

impl Sources for Request {
    type Key = u32;
    type Line = LogLine;

    fn wanted(&self) -> Option<BTreeSet<u32>> {
        let seen = self.api.facilities.snapshot()?;
        Some(slots(&seen.snapshot, &self.container, self.slot))
    }

    fn read(&self, slot: u32, out: Out<LogLine>) -> impl Future<Output = ()> + Send + 'static {
        Source::new(self.clone(), slot, out).run()
    }

    fn time(line: &LogLine) -> Timestamp {
        line.time
    }
}
