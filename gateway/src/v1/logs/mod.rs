//! `logs`: the output of a container's slots, from whichever host, merged by time.
//!
//! `source` reads one slot and goes on with it where it moves.

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

/// `GET logs/<app>`.
pub(super) async fn of_app(
    State(api): State<Api>,
    Named(app): Named<AppName>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    answer(api, Of::App(app), query)
}

/// `GET logs/<app>/<container>`.
pub(super) async fn of_container(
    State(api): State<Api>,
    Named((app, container)): Named<(AppName, ContainerName)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    answer(api, Of::Container(ContainerId::new(app, container)), query)
}

/// `GET logs/<app>/<container>/<slot>`.
pub(super) async fn of_slot(
    State(api): State<Api>,
    Named((app, container, slot)): Named<(AppName, ContainerName, u32)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    answer(
        api,
        Of::Slot(ContainerId::new(app, container).slot(slot)),
        query,
    )
}

fn answer(api: Api, of: Of, query: LogQuery) -> Result<Response, Failure> {
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
    if of.slots(&seen.snapshot).is_empty() {
        let is_known = of.containers(&seen.snapshot).next().is_some();
        return Err(match &of {
            Of::Slot(slot) => Failure::not_found(format!("there is no slot {slot}")),
            Of::App(app) if is_known => Failure::not_found(format!("{app} has no slots")),
            Of::App(app) => Failure::not_found(format!("there is no app {app}")),
            Of::Container(id) if is_known => Failure::not_found(format!("{id} has no slots")),
            Of::Container(id) => Failure::no_container(id),
        });
    }
    let is_app = matches!(of, Of::App(_));
    let follow = options.follow;
    let request = Request { api, of, options };
    let kind = match query.format {
        Format::Json => "application/x-ndjson",
        Format::Raw => "text/plain; charset=utf-8",
    };
    merge::answer(request, follow, kind, move |told| {
        encode(told, query.format, query.timestamps, is_app)
    })
}

fn encode(told: Option<Told<LogLine>>, format: Format, timestamps: bool, is_app: bool) -> Bytes {
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
            let container = match &line.container {
                Some(container) if is_app => format!("{container}/"),
                _ => format!("{}/", line.host),
            };
            format!("{time}{container}{} | {}\n", line.slot, line.line)
        }
    };
    Bytes::from(text)
}

/// What was asked for.
#[derive(Clone)]
struct Request {
    api: Api,
    of: Of,
    options: LogOptions,
}

/// Whose lines.
#[derive(Debug, Clone)]
enum Of {
    /// Of all containers of an app.
    App(AppName),
    /// Of all slots of a container.
    Container(ContainerId),
    /// Of one slot.
    Slot(SlotId),
}

impl Of {
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

    /// The slots that are or should be.
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

impl Sources for Request {
    type Key = SlotId;
    type Line = LogLine;

    fn wanted(&self) -> Option<BTreeSet<SlotId>> {
        let seen = self.api.facilities.snapshot()?;
        Some(self.of.slots(&seen.snapshot))
    }

    fn read(&self, slot: SlotId, out: Out<LogLine>) -> impl Future<Output = ()> + Send + 'static {
        Source::new(self.clone(), slot, out).run()
    }

    fn time(line: &LogLine) -> Timestamp {
        line.time
    }
}
