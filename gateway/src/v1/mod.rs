//! dokkaa's own API, `/dokkaa/v1/…`: what the CLI asks of any agent.
//!
//! It shows what its agent sees of the cluster, and writes what users and
//! operators want of it. It never decides: what can be computed from a snapshot is computed by the core's pure
//! functions, and what only another host knows is asked of that host by the
//! peer door, where a host that does not answer is a notice and not an error.
//! The endpoints are listed in `docs/api.md`.

pub mod backup;
mod events;
pub mod facilities;
pub mod hold;
mod hosts;
pub mod list;
mod logs;
mod manifest;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod merge;
pub mod overview;
mod reply;
pub mod rows;
pub mod types;
pub mod volumes;
pub mod why;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use futures_util::future::join_all;
use manifests::keys::Key;
use manifests::{AppName, ContainerId, ContainerName, HostName, SlotId};
use model::records::Status;
use serde::Deserialize;
use store::kv::{KeyRange, Range, Txn};
use store::{Compare, Op};

pub use facilities::{
    EventStream, Facilities, LogRecord, LogStream, LogsError, Peers, Seen, VolumeError,
};
use list::List;
use reply::{Asked, Failure, Named, Reply};
use rows::{Filter, Sources};
use types::{Apps, ClusterStatus, Hosts, Reasons, Slots, Why};

/// How long etcd may take to show that it answers.
const PATIENCE: Duration = Duration::from_secs(1);
/// Status keys read at once.
const PAGE: i64 = 1_000;

/// What the API works on.
#[derive(Clone)]
pub struct Api {
    /// The agent around it.
    pub facilities: Arc<dyn Facilities>,
    /// The other agents; none where there are none to be asked.
    pub peers: Option<Arc<dyn Peers>>,
}

/// The routes below `/dokkaa/v1`.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/slots", get(slots))
        .route("/apps", get(apps))
        .route("/hosts", get(hosts))
        .route("/hosts/{host}", get(hosts::detail).delete(hosts::remove))
        .route("/hosts/{host}/availability", put(hosts::availability))
        .route("/hosts/{host}/labels", patch(hosts::labels))
        .route("/volumes", get(volumes::list))
        .route("/volumes/{app}/{container}/{slot}", delete(volumes::remove))
        .route(
            "/pins/{app}/{container}/{slot}",
            put(volumes::adopt).delete(volumes::release),
        )
        .route("/backup", get(backup::backup))
        .route("/restore", post(backup::restore))
        .route("/hold", get(hold::own))
        .route("/accept", get(hold::look).post(hold::accept))
        .route("/status", get(status))
        .route("/why/{app}/{container}", get(explain))
        .route("/events", get(events::events))
        .route("/logs/{app}", get(logs::of_app))
        .route("/logs/{app}/{container}", get(logs::of_container))
        .route("/logs/{app}/{container}/{slot}", get(logs::of_slot))
        .route("/manifests/{app}", delete(manifest::delete_app))
        .route(
            "/manifests/{app}/{container}",
            get(manifest::read)
                .put(manifest::write)
                .delete(manifest::delete),
        )
        .layer(axum::extract::DefaultBodyLimit::max(manifest::MAX_BODY))
        .fallback(async |uri: Uri| Failure::not_found(format!("there is no {}", uri.path())))
        .method_not_allowed_fallback(async || Failure::method())
        .with_state(api)
}

#[derive(Debug, Default, Deserialize)]
struct SlotsQuery {
    app: Option<AppName>,
    container: Option<ContainerName>,
}

impl Asked<SlotsQuery> {
    fn filter(self) -> Result<Filter, Failure> {
        match (self.0.app, self.0.container) {
            (None, None) => Ok(Filter::All),
            (Some(app), None) => Ok(Filter::App(app)),
            (Some(app), Some(container)) => Ok(Filter::Container(ContainerId::new(app, container))),
            (None, Some(_)) => Err(Failure::bad("container: needs app too")),
        }
    }
}

async fn slots(State(api): State<Api>, query: Asked<SlotsQuery>) -> Reply<Slots> {
    let filter = query.filter()?;
    Ok(Json(api.slots(&api.seen()?, &filter).await))
}

async fn apps(State(api): State<Api>, query: Asked<SlotsQuery>) -> Reply<Apps> {
    let filter = query.filter()?;
    let seen = api.seen()?;
    let Slots {
        slots,
        containers,
        revision,
        stale,
        notices,
        ..
    } = api.slots(&seen, &filter).await;
    Ok(Json(Apps {
        apps: overview::apps(&seen.snapshot, &slots, &containers),
        revision,
        stale,
        notices,
    }))
}

async fn hosts(State(api): State<Api>) -> Reply<Hosts> {
    let seen = api.seen()?;
    Ok(Json(Hosts {
        hosts: overview::hosts(&seen.snapshot),
        revision: seen.snapshot.revision,
        stale: seen.stale,
        known_at: known_at(&seen),
        notices: api.notices(&seen),
    }))
}

async fn status(State(api): State<Api>) -> Reply<ClusterStatus> {
    let seen = api.seen()?;
    let mut notices = Vec::new();
    let statuses = api.statuses(&seen, &Filter::All, &mut notices).await;
    let answers = api.own_answer();
    let (slots, containers) = rows::merge(sources(&seen, &statuses, &answers), &Filter::All);
    let answering = overview::Answering {
        host: api.facilities.host(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        etcd: if seen.stale {
            api.etcd_answers().await
        } else {
            notices.is_empty()
        },
        hold: api.facilities.hold(),
        troubles: api.facilities.troubles(),
        stale: seen.stale,
    };
    Ok(Json(overview::status(
        &seen.snapshot,
        &slots,
        &containers,
        answering,
    )))
}

#[derive(Debug, Default, Deserialize)]
struct WhyQuery {
    slot: Option<u32>,
}

async fn explain(
    State(api): State<Api>,
    Named((app, container)): Named<(AppName, ContainerName)>,
    Asked(WhyQuery { slot }): Asked<WhyQuery>,
) -> Reply<Why> {
    let id = ContainerId::new(app, container);
    let seen = api.seen()?;
    let mut notices = api.notices(&seen);
    let filter = Filter::Container(id.clone());
    let statuses = api.statuses(&seen, &filter, &mut notices).await;
    let answers = api.all_answers(&seen, &mut notices).await;
    let mut why = why::why(sources(&seen, &statuses, &answers), &id)
        .ok_or_else(|| Failure::no_container(&id))?;
    if let Some(number) = slot {
        why.slots.retain(|slot| slot.row.slot == Some(number));
        if why.slots.is_empty() {
            return Err(Failure::not_found(format!(
                "there is no slot {id}/{number}"
            )));
        }
    }
    Ok(Json(Why {
        stale: seen.stale,
        notices,
        ..why
    }))
}

fn sources<'a>(
    seen: &'a Seen,
    statuses: &'a BTreeMap<SlotId, Status>,
    answers: &'a BTreeMap<HostName, Reasons>,
) -> Sources<'a> {
    Sources {
        snapshot: &seen.snapshot,
        directory: &seen.directory,
        statuses,
        answers,
        now: jiff::Timestamp::now().as_second(),
    }
}

/// When a stale view was etcd's present state.
fn known_at(seen: &Seen) -> Option<String> {
    let at = seen.known_at.filter(|_| seen.stale)?;
    Some(at.to_string())
}

impl Api {
    /// What to know before believing a list: what keeps this agent from its work, and how old its view is.
    fn notices(&self, seen: &Seen) -> Vec<String> {
        let mut notices = self.facilities.troubles();
        if seen.stale {
            let age = seen
                .known_at
                .map(|at| jiff::Timestamp::now().duration_since(at));
            notices.push(overview::last_known(
                &self.facilities.host(),
                self.facilities.hold().as_deref(),
                age.and_then(|age| age.as_secs().try_into().ok()),
            ));
        }
        notices
    }

    /// etcd answers now, whatever is believed of its answer.
    async fn etcd_answers(&self) -> bool {
        let kv = self.facilities.kv();
        let read = kv.range(Range::key(Key::Cluster));
        matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(_)))
    }

    fn seen(&self) -> Result<Seen, Failure> {
        self.facilities
            .snapshot()
            .ok_or_else(|| Failure::not_yet(&self.facilities.lacks()))
    }

    /// The rows of slots and containers.
    async fn slots(&self, seen: &Seen, filter: &Filter) -> Slots {
        let mut notices = self.notices(seen);
        let statuses = self.statuses(seen, filter, &mut notices).await;
        let answers = self.own_answer();
        let (slots, containers) = rows::merge(sources(seen, &statuses, &answers), filter);
        Slots {
            slots,
            containers,
            revision: seen.snapshot.revision,
            stale: seen.stale,
            known_at: known_at(seen),
            notices,
        }
    }

    /// How another host is asked; or why it can't be, for people.
    fn reach(&self, host: &HostName) -> Result<&dyn Peers, String> {
        let is_live = self
            .facilities
            .snapshot()
            .is_some_and(|seen| seen.snapshot.is_live(host));
        match &self.peers {
            Some(peers) if is_live => Ok(peers.as_ref()),
            Some(_) => Err("it is missing".to_owned()),
            None => Err("this agent has no peer door".to_owned()),
        }
    }

    /// etcd as it is now.
    async fn list(&self) -> Result<List, Failure> {
        List::read(self.facilities.kv().as_ref())
            .await
            .map_err(|error| Failure::etcd_read(&error))
    }

    /// Whether the guards held, and it was written.
    async fn write(&self, guards: Vec<Compare>, ops: Vec<Op>) -> Result<bool, Failure> {
        let reply = self.facilities.kv().txn(Txn::new(guards, ops)).await;
        reply
            .map(|reply| reply.succeeded)
            .map_err(|error| Failure::etcd_write(&error))
    }

    /// What this host knows: enough for a list.
    fn own_answer(&self) -> BTreeMap<HostName, Reasons> {
        BTreeMap::from([(self.facilities.host(), self.facilities.reasons())])
    }

    /// What every live host knows. One that does not answer is a notice.
    async fn all_answers(
        &self,
        seen: &Seen,
        notices: &mut Vec<String>,
    ) -> BTreeMap<HostName, Reasons> {
        let mut answers = self.own_answer();
        let Some(peers) = &self.peers else {
            return answers;
        };
        let own = self.facilities.host();
        let others: Vec<HostName> = seen
            .snapshot
            .live()
            .map(|(host, _)| host.clone())
            .filter(|host| *host != own)
            .collect();
        let asked = others.into_iter().map(|host| async move {
            let answer = peers.reasons(&host).await;
            (host, answer)
        });
        for (host, answer) in join_all(asked).await {
            match answer {
                Ok(reasons) => {
                    answers.insert(host, reasons);
                }
                Err(why) => notices.push(format!("host {host} does not answer: {why}")),
            }
        }
        answers
    }

    /// The status keys. They are for people: where etcd does not give them, the rows are poorer, and a notice says so.
    async fn statuses(
        &self,
        seen: &Seen,
        filter: &Filter,
        notices: &mut Vec<String>,
    ) -> BTreeMap<SlotId, Status> {
        let mut found = BTreeMap::new();
        if seen.stale {
            return found;
        }
        let kv = self.facilities.kv();
        let prefix = filter.status_prefix();
        let mut keys = KeyRange::prefix(&prefix);
        loop {
            let range = Range {
                limit: PAGE,
                serializable: true,
                ..Range::new(keys.clone())
            };
            let reply = match kv.range(range).await {
                Ok(reply) => reply,
                Err(error) => {
                    notices.push(format!("the status of slots could not be read: {error}"));
                    return found;
                }
            };
            let last = reply.kvs.last().map(|kv| kv.key.clone());
            for kv in reply.kvs {
                let Some(Key::Status(slot)) = Key::parse(&kv.key) else {
                    continue;
                };
                if let Ok(status) = serde_json::from_slice(&kv.value) {
                    found.insert(slot, status);
                }
            }
            match last {
                Some(last) if reply.more => {
                    let mut next = last.into_bytes();
                    next.push(0);
                    keys.start = next;
                }
                _ => return found,
            }
        }
    }
}

#[cfg(test)]
mod tests;
