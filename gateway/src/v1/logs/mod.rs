//! `logs`: output of slots on any host, merged by time.
//!
//! `source` reads one slot and follows it to other hosts.

mod source;

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use manifests::{AppName, ContainerId, ContainerName, SlotId};
use model::Snapshot;
use model::snapshot::ContainerView;
use serde::Deserialize;

use super::api::Api;
use super::merge::{self, LineSources, SourceSink, StreamItem};
use super::reply::{ApiFailure, PathParams, QueryParams};
use super::types::{LogEvent, LogLine, LogOptions};
use source::SlotLogReader;

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

/// `GET logs/<app>`.
pub(super) async fn of_app(
    State(api): State<Api>,
    PathParams(app): PathParams<AppName>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiFailure> {
    answer(api, LogTarget::App(app), query)
}

/// `GET logs/<app>/<container>`.
pub(super) async fn of_container(
    State(api): State<Api>,
    PathParams((app, container)): PathParams<(AppName, ContainerName)>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiFailure> {
    answer(
        api,
        LogTarget::Container(ContainerId::new(app, container)),
        query,
    )
}

/// `GET logs/<app>/<container>/<slot>`.
pub(super) async fn of_slot(
    State(api): State<Api>,
    PathParams((app, container, slot)): PathParams<(AppName, ContainerName, u32)>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiFailure> {
    answer(
        api,
        LogTarget::Slot(ContainerId::new(app, container).slot(slot)),
        query,
    )
}

fn answer(api: Api, of: LogTarget, query: LogQuery) -> Result<Response, ApiFailure> {
    let now = Timestamp::now();
    let options = LogOptions {
        follow: query.follow && !query.previous,
        tail: query.tail,
        since: query
            .since
            .as_deref()
            .map(|text| merge::since(text, now))
            .transpose()
            .map_err(ApiFailure::bad)?,
        previous: query.previous,
    };
    let view = api.view()?;
    if of.slots(&view.snapshot).is_empty() {
        let is_known = of.containers(&view.snapshot).next().is_some();
        return Err(match &of {
            LogTarget::Slot(slot) => ApiFailure::not_found(format!("there is no slot {slot}")),
            LogTarget::App(app) if is_known => ApiFailure::not_found(format!("{app} has no slots")),
            LogTarget::App(app) => ApiFailure::not_found(format!("there is no app {app}")),
            LogTarget::Container(id) if is_known => {
                ApiFailure::not_found(format!("{id} has no slots"))
            }
            LogTarget::Container(id) => ApiFailure::no_container(id),
        });
    }
    let is_app = matches!(of, LogTarget::App(_));
    let follow = options.follow;
    let request = LogRequest { api, of, options };
    let kind = match query.format {
        Format::Json => "application/x-ndjson",
        Format::Raw => "text/plain; charset=utf-8",
    };
    merge::answer(request, follow, kind, move |item| {
        encode(item, query.format, query.timestamps, is_app)
    })
}

fn encode(
    item: Option<StreamItem<LogLine>>,
    format: Format,
    timestamps: bool,
    is_app: bool,
) -> Bytes {
    let event = item.map(|item| match item {
        StreamItem::Line(line) => LogEvent::Line(line),
        StreamItem::Notice(notice) => LogEvent::Notice(notice),
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
            let container = match &line.container {
                Some(container) if is_app => format!("{container}/"),
                _ => format!("{}/", line.host),
            };
            format!("{time}{container}{} | {}\n", line.slot, line.line)
        }
    };
    Bytes::from(text)
}

/// Logs of a request.
struct LogRequest {
    api: Api,
    of: LogTarget,
    options: LogOptions,
}

/// Slots of a request.
#[derive(Debug, Clone)]
enum LogTarget {
    /// All containers of an app.
    App(AppName),
    /// All slots of a container.
    Container(ContainerId),
    /// One slot.
    Slot(SlotId),
}

impl LogTarget {
    fn takes(&self, id: &ContainerId) -> bool {
        match self {
            Self::App(app) => id.app == *app,
            Self::Container(only) => id == only,
            Self::Slot(slot) => *id == slot.container,
        }
    }

    fn containers<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a ContainerId, &'a ContainerView)> {
        let all = snapshot.containers.iter();
        all.filter(|(id, _)| self.takes(id))
            .map(|(id, view)| (id, view.as_ref()))
    }

    /// Slots that exist or are wanted.
    fn slots(&self, snapshot: &Snapshot) -> BTreeSet<SlotId> {
        let mut found = BTreeSet::new();
        for (id, view) in self.containers(snapshot) {
            let claimed = view.slots.iter().filter(|(_, slot)| slot.claim.is_some());
            let numbers = (0..view.scale().unwrap_or_default()).chain(claimed.map(|(n, _)| *n));
            found.extend(numbers.map(|number| id.slot(number)));
        }
        if let Self::Slot(only) = self {
            found.retain(|slot| slot == only);
        }
        found
    }
}

impl LineSources for LogRequest {
    type Key = SlotId;
    type Line = LogLine;

    fn wanted(&self) -> Option<BTreeSet<SlotId>> {
        let view = self.api.agent.view()?;
        Some(self.of.slots(&view.snapshot))
    }

    fn read(
        &self,
        slot: SlotId,
        out: SourceSink<LogLine>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let reader = SlotLogReader {
            api: self.api.clone(),
            options: self.options.clone(),
            slot,
            out,
        };
        reader.run()
    }

    fn time(line: &LogLine) -> Timestamp {
        line.time
    }
}
