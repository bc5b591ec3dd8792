//! `events`: events of all hosts, merged by time.
//!
//! Each host keeps its own events; the others' are read over the peer API.
//! Invariant: no event of a host is sent twice, also after a lost connection:
//! reading resumes after the last id.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use jiff::Timestamp;
use manifests::HostName;
use model::events::{Event, Wanted};
use serde::Deserialize;

use super::agent::EventStream;
use super::api::Api;
use super::merge::{self, LineSources, RETRY, SourceSink, StreamItem};
use super::reply::{ApiFailure, FilterParams, QueryParams};
use super::types::{EventLine, HostEvent};

#[derive(Debug, Default, Deserialize)]
pub(super) struct EventsQuery {
    since: Option<String>,
    #[serde(default)]
    follow: bool,
    /// Only of this host.
    #[serde(default)]
    local: bool,
}

/// `GET events`.
pub(super) async fn events(
    State(api): State<Api>,
    FilterParams(filter): FilterParams,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Response, ApiFailure> {
    let since = query.since.as_deref();
    let since = since.map(|text| merge::since(text, Timestamp::now()));
    let since = since.transpose().map_err(ApiFailure::bad)?;
    let request = EventRequest {
        api,
        local: query.local,
        wanted: Wanted {
            app: filter.app,
            container: filter.container,
            // Ids are near the time, and the time itself is wanted too.
            after: since.map(|since| since.as_millisecond() - 1),
            follow: query.follow,
        },
    };
    merge::answer(request, query.follow, "application/x-ndjson", |item| {
        merge::ndjson(item.map(|item| match item {
            StreamItem::Line(event) => EventLine::Event(event),
            StreamItem::Notice(notice) => EventLine::Notice(notice),
        }))
    })
}

/// Events of a request.
struct EventRequest {
    api: Api,
    local: bool,
    wanted: Wanted,
}

impl LineSources for EventRequest {
    type Key = HostName;
    type Line = HostEvent;

    /// This host, live hosts and members.
    fn wanted(&self) -> Option<BTreeSet<HostName>> {
        let mut hosts = BTreeSet::from([self.api.agent.host()]);
        if !self.local
            && let Some(view) = self.api.agent.view()
        {
            let there = view.snapshot.hosts.iter();
            let there = there.filter(|(_, host)| host.record.is_some() || host.member.is_some());
            hosts.extend(there.map(|(name, _)| name.clone()));
        }
        Some(hosts)
    }

    fn read(
        &self,
        host: HostName,
        out: SourceSink<HostEvent>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let source = HostEventReader {
            api: self.api.clone(),
            wanted: self.wanted.clone(),
            host,
            out,
        };
        source.run()
    }

    fn time(event: &HostEvent) -> Timestamp {
        event.time
    }
}

/// Reader of one host's events.
struct HostEventReader {
    api: Api,
    /// `after` is the last event read.
    wanted: Wanted,
    host: HostName,
    out: SourceSink<HostEvent>,
}

impl HostEventReader {
    async fn run(mut self) {
        let mut retry = RETRY;
        loop {
            let before = self.wanted.after;
            let ended = match self.open().await {
                Ok(events) => self.pass_on(events).await,
                Err(why) => Err(why),
            };
            if self.wanted.after != before {
                retry.reset();
                self.out.over();
            }
            if let Err(why) = ended {
                let text = format!("host {} unreachable: {why}", self.host);
                self.out.notice(text).await;
            }
            if !self.wanted.follow {
                return;
            }
            tokio::select! {
                () = self.out.closed() => return,
                () = tokio::time::sleep(retry.next_wait()) => {}
            }
        }
    }

    async fn open(&self) -> Result<EventStream, String> {
        if self.host == self.api.agent.host() {
            return Ok(self.api.agent.events(self.wanted.clone()));
        }
        self.api
            .peer(&self.host)?
            .events(&self.host, &self.wanted)
            .await
    }

    /// Returns at the end of the stream, or when the client is gone.
    async fn pass_on(&mut self, mut events: EventStream) -> Result<(), String> {
        loop {
            let event = tokio::select! {
                () = self.out.closed() => return Ok(()),
                event = events.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            let Event {
                id,
                at,
                times,
                what,
            } = event?;
            self.wanted.after = Some(id);
            let event = HostEvent {
                time: Timestamp::from_millisecond(at).unwrap_or_default(),
                id,
                host: self.host.clone(),
                times,
                what,
            };
            if !self.out.line(event).await {
                return Ok(());
            }
        }
    }
}
