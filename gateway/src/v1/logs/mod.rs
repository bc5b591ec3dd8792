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
use super::inputs::Filter;
use super::merge::{self, LineSources, SourceSink, StreamItem};
use super::reply::{ApiFailure, PathParams, QueryParams};
use super::rows::slot_numbers;
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
    before: bool,
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

/// `GET logs/<app>[/<container>[/<slot>]]`.
pub(super) async fn logs(
    State(api): State<Api>,
    PathParams(slots): PathParams<SlotFilter>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiFailure> {
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
        before: query.before,
    };
    if options.before && (options.previous || slots.slot.is_some()) {
        let wrong = "what runs before a version belongs to the container: name no slot, and no previous instance";
        return Err(ApiFailure::bad(wrong));
    }
    let view = api.view()?;
    if options.before && slots.jobs(&view.snapshot).is_empty() {
        return Err(slots.nothing_before(&view.snapshot));
    }
    if !options.before && slots.matching(&view.snapshot).is_empty() {
        return Err(slots.not_found(&view.snapshot));
    }
    let is_app = slots.container.is_none();
    let follow = options.follow;
    let request = LogRequest {
        api,
        slots,
        options,
    };
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
    slots: SlotFilter,
    options: LogOptions,
}

/// Slots of an app, of a container, or one.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SlotFilter {
    app: AppName,
    container: Option<ContainerName>,
    slot: Option<u32>,
}

impl SlotFilter {
    fn containers<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a ContainerId, &'a ContainerView)> {
        let filter = Filter {
            app: Some(self.app.clone()),
            container: self.container.clone(),
        };
        let all = snapshot.containers.iter();
        all.filter(move |(id, _)| filter.matches(id))
            .map(|(id, view)| (id, view.as_ref()))
    }

    /// Matching slots that exist or are wanted.
    fn matching(&self, snapshot: &Snapshot) -> BTreeSet<SlotId> {
        let mut found = BTreeSet::new();
        for (id, view) in self.containers(snapshot) {
            let numbers = slot_numbers(view).into_iter();
            let numbers = numbers.filter(|number| self.slot.is_none_or(|only| *number == only));
            found.extend(numbers.map(|number| id.slot(number)));
        }
        found
    }

    /// Of matching containers that something was run before a version of, the first slot, which stands for it.
    fn jobs(&self, snapshot: &Snapshot) -> BTreeSet<SlotId> {
        let containers = self.containers(snapshot);
        containers
            .filter(|(_, view)| view.job.is_some())
            .map(|(id, _)| id.slot(0))
            .collect()
    }

    fn nothing_before(&self, snapshot: &Snapshot) -> ApiFailure {
        if self.containers(snapshot).next().is_none() {
            return self.not_found(snapshot);
        }
        let Self { app, .. } = self;
        let of = match &self.container {
            Some(container) => format!("{app}/{container}"),
            None => app.to_string(),
        };
        ApiFailure::not_found(format!("no `before` of {of} has run yet"))
    }

    fn not_found(&self, snapshot: &Snapshot) -> ApiFailure {
        let is_known = self.containers(snapshot).next().is_some();
        let Self { app, .. } = self;
        let id = self.container.clone();
        match (
            id.map(|name| ContainerId::new(app.clone(), name)),
            self.slot,
        ) {
            (Some(id), Some(slot)) => ApiFailure::no_slot(&id.slot(slot)),
            (Some(id), None) if is_known => ApiFailure::not_found(format!("{id} has no slots")),
            (Some(id), None) => ApiFailure::no_container(&id),
            (None, _) if is_known => ApiFailure::not_found(format!("{app} has no slots")),
            (None, _) => ApiFailure::not_found(format!("there is no app {app}")),
        }
    }
}

impl LineSources for LogRequest {
    type Key = SlotId;
    type Line = LogLine;

    fn wanted(&self) -> Option<BTreeSet<SlotId>> {
        let view = self.api.agent.view()?;
        Some(if self.options.before {
            self.slots.jobs(&view.snapshot)
        } else {
            self.slots.matching(&view.snapshot)
        })
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
