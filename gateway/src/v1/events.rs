//! `events`: what happened on every host, merged by time.
//!
//! Each host keeps its own events; this door asks the others by the peer door.
//! Invariant: of one host no event is given out twice, also after a lost
//! connection: reading goes on behind the last id.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use jiff::Timestamp;
use manifests::{AppName, ContainerName, HostName};
use model::events::{Event, Wanted};
use serde::Deserialize;

use super::agent::EventStream;
use super::api::Api;
use super::merge::{self, LineSources, RETRY, SourceSink, StreamItem};
use super::reply::{ApiFailure, QueryParams};
use super::types::{EventLine, HostEvent};

#[derive(Debug, Default, Deserialize)]
pub(super) struct EventsQuery {
    app: Option<AppName>,
    container: Option<ContainerName>,
    since: Option<String>,
    #[serde(default)]
    follow: bool,
    /// Only those of this host.
    #[serde(default)]
    local: bool,
}

/// `GET events`.
pub(super) async fn events(
    State(api): State<Api>,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Response, ApiFailure> {
    if query.container.is_some() && query.app.is_none() {
        return Err(ApiFailure::bad("container: needs app too"));
    }
    let since = query.since.as_deref();
    let since = since.map(|text| merge::since(text, Timestamp::now()));
    let since = since.transpose().map_err(ApiFailure::bad)?;
    let request = EventRequest {
        api,
        local: query.local,
        wanted: Wanted {
            app: query.app,
            container: query.container,
            // Ids are near the time, and the time itself is wanted too.
            after: since.map(|since| since.as_millisecond() - 1),
            follow: query.follow,
        },
    };
    merge::answer(request, query.follow, "application/x-ndjson", |told| {
        merge::ndjson(told.map(|told| match told {
            StreamItem::Line(event) => EventLine::Event(event),
            StreamItem::Notice(notice) => EventLine::Notice(notice),
        }))
    })
}

/// What was asked for.
#[derive(Clone)]
struct EventRequest {
    api: Api,
    local: bool,
    wanted: Wanted,
}

impl LineSources for EventRequest {
    type Key = HostName;
    type Line = HostEvent;

    /// This host, all live ones, and the members that should be.
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

/// Reads one host.
struct HostEventReader {
    api: Api,
    /// Behind which event, as far as it was read.
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

    /// Until the stream ends, or nobody reads any more.
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
