//! Handlers that show the agent's view: `slots`, `apps`, `hosts`, `status`, `why`, `dns`.

use axum::Json;
use axum::extract::State;
use manifests::{AppName, ContainerId, ContainerName};
use serde::Deserialize;

use super::api::{Api, row_inputs};
use super::inputs::Filter;
use super::reply::{ApiFailure, ApiResult, FilterParams, PathParams, QueryParams};
use super::rows;
use super::types::{Apps, ClusterStatus, DnsServer, Hosts, NameReport, Slots, Why};
use super::{overview, why};

/// `GET slots`.
pub(super) async fn slots(State(api): State<Api>, filter: FilterParams) -> ApiResult<Slots> {
    Ok(Json(api.slots(&api.view()?, &filter.0).await))
}

/// `GET apps`.
pub(super) async fn apps(State(api): State<Api>, filter: FilterParams) -> ApiResult<Apps> {
    let view = api.view()?;
    let rows = api.slots(&view, &filter.0).await;
    Ok(Json(Apps {
        apps: overview::apps(&view.snapshot, &rows.slots, &rows.containers),
        revision: rows.revision,
        stale: rows.stale,
        notices: rows.notices,
    }))
}

/// `GET hosts`.
pub(super) async fn hosts(State(api): State<Api>) -> ApiResult<Hosts> {
    let view = api.view()?;
    Ok(Json(Hosts {
        hosts: overview::hosts(&view.snapshot),
        revision: view.snapshot.revision,
        stale: view.stale,
        known_at: view.stale_since(),
        notices: api.notices(&view),
    }))
}

/// `GET status`.
pub(super) async fn status(State(api): State<Api>) -> ApiResult<ClusterStatus> {
    let view = api.view()?;
    let mut notices = Vec::new();
    let all = Filter::default();
    let statuses = api.statuses(&view, &all, &mut notices).await;
    let answers = api.own_reasons();
    let (slots, containers) = rows::merge(row_inputs(&view, &statuses, &answers), &all);
    let answering = overview::AnsweringAgent {
        host: api.agent.host(),
        etcd: if view.stale {
            api.etcd_answers().await
        } else {
            notices.is_empty()
        },
        age: view.age(),
        problems: api.agent.problems(),
        unreadable: api.agent.dns().unreadable,
    };
    let status = overview::status(&view, &slots, &containers, answering);
    Ok(Json(status))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct WhyQuery {
    slot: Option<u32>,
}

/// `GET why/<app>/<container>`.
pub(super) async fn explain(
    State(api): State<Api>,
    PathParams((app, container)): PathParams<(AppName, ContainerName)>,
    QueryParams(WhyQuery { slot }): QueryParams<WhyQuery>,
) -> ApiResult<Why> {
    let id = ContainerId::new(app, container);
    let view = api.view()?;
    let mut notices = api.notices(&view);
    let filter = Filter::only(&id);
    let statuses = api.statuses(&view, &filter, &mut notices).await;
    let answers = api.all_reasons(&view, &mut notices).await;
    let mut why = why::why(row_inputs(&view, &statuses, &answers), &id)
        .ok_or_else(|| ApiFailure::no_container(&id))?;
    let container = std::slice::from_mut(&mut why.container);
    api.expire(&view, &filter, container, &mut notices).await;
    if let Some(number) = slot {
        why.slots.retain(|slot| slot.row.slot == Some(number));
        why.without.clear();
        if why.slots.is_empty() {
            return Err(ApiFailure::no_slot(&id.slot(number)));
        }
    }
    Ok(Json(Why {
        stale: view.stale,
        notices,
        ..why
    }))
}

/// `GET dns`.
pub(super) async fn dns(State(api): State<Api>) -> Json<DnsServer> {
    Json(api.agent.dns())
}

/// `GET dns/<name>`.
pub(super) async fn name(
    State(api): State<Api>,
    PathParams(name): PathParams<String>,
) -> ApiResult<NameReport> {
    let view = api.view()?;
    let report = api.agent.name(&name);
    let report = report.ok_or_else(|| ApiFailure::bad(format!("`{name}` is not a domain name")))?;
    Ok(Json(NameReport {
        stale: view.stale,
        notices: api.notices(&view),
        ..report
    }))
}
