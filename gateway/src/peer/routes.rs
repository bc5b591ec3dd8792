//! HTTP routes between agents: slot reasons, hold reports, volumes, container logs, events and images of one host, and
//! checks of the way to it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use manifests::{AppName, ContainerId, ContainerName, HostName};
use model::events::Wanted;
use serde::Deserialize;

use super::failure::failure;
use super::images::{self, ImageServer};
use super::stream;
use crate::v1::types::{CheckPort, LogOptions, Reasons};
use crate::v1::{AgentHandle, Api, HostError, Peers, hold, volumes};

type Agent = State<Arc<dyn AgentHandle>>;

/// Routes of the peer listener. `peers` is whom the agent asks in its turn.
pub fn router(
    agent: Arc<dyn AgentHandle>,
    images: Arc<dyn ImageServer>,
    peers: Arc<dyn Peers>,
) -> Router {
    let checks = Router::new()
        .route("/peer/v1/check", post(check))
        .with_state(Api {
            agent: agent.clone(),
            peers: Some(peers),
        });
    Router::new()
        .route("/peer/v1/check-port", post(check_port))
        .route("/peer/v1/reasons", get(reasons))
        .route("/peer/v1/hold", get(hold_report))
        .route("/peer/v1/volumes", get(volume_names))
        .route("/peer/v1/logs/{app}/{container}/{slot}", get(logs))
        .route(
            "/peer/v1/volumes/{app}/{container}/{slot}/{volume}",
            delete(remove_volume),
        )
        .route("/peer/v1/events", get(events))
        .with_state(agent)
        .merge(images::routes(images))
        .merge(checks)
}

async fn check_port(State(agent): Agent) -> Json<CheckPort> {
    Json(agent.check_port().await)
}

async fn check(State(api): State<Api>, Query(CheckQuery { hosts }): Query<CheckQuery>) -> Response {
    let names: Result<Vec<HostName>, _> = hosts.split(',').map(str::parse).collect();
    match names {
        Ok(names) => Json(api.try_hosts(&names).await).into_response(),
        Err(error) => failure(StatusCode::BAD_REQUEST, format!("hosts: {error}")),
    }
}

#[derive(Deserialize)]
struct CheckQuery {
    hosts: String,
}

async fn reasons(State(agent): Agent) -> Json<Reasons> {
    Json(agent.reasons())
}

async fn hold_report(State(agent): Agent) -> Response {
    match hold::report(agent.as_ref()).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn volume_names(State(agent): Agent) -> Result<Response, HostError> {
    Ok(Json(agent.volume_names().await?).into_response())
}

async fn remove_volume(
    State(agent): Agent,
    Path((app, container, slot, volume)): Path<(AppName, ContainerName, u32, String)>,
) -> Result<StatusCode, HostError> {
    let slot = ContainerId::new(app, container).slot(slot);
    volumes::remove_here(agent.as_ref(), &slot, &volume).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn events(State(agent): Agent, Query(wanted): Query<Wanted>) -> Body {
    Body::from_stream(stream::encode(agent.events(wanted)))
}

async fn logs(
    State(agent): Agent,
    Path((app, container, slot)): Path<(AppName, ContainerName, u32)>,
    Query(options): Query<LogOptions>,
) -> Result<Body, HostError> {
    let slot = ContainerId::new(app, container).slot(slot);
    let lines = agent.local_logs(&slot, &options).await?;
    Ok(Body::from_stream(stream::encode(lines)))
}
