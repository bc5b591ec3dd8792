//! What agents ask of each other: what only this host knows, and its containers' lines, and what happened there.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use manifests::{AppName, ContainerId, ContainerName};
use model::events::Wanted;

use super::stream;
use crate::v1::types::{ApiError, LogOptions, Reasons};
use crate::v1::{Facilities, LogsError, VolumeError, hold, volumes};

/// What the peer door serves.
pub fn router(facilities: Arc<dyn Facilities>) -> Router {
    Router::new()
        .route("/peer/v1/reasons", get(reasons))
        .route("/peer/v1/hold", get(held))
        .route("/peer/v1/volumes", get(volume_names))
        .route("/peer/v1/logs/{app}/{container}/{slot}", get(logs))
        .route(
            "/peer/v1/volumes/{app}/{container}/{slot}/{volume}",
            delete(remove_volume),
        )
        .route("/peer/v1/events", get(events))
        .with_state(facilities)
}

async fn reasons(State(facilities): State<Arc<dyn Facilities>>) -> Json<Reasons> {
    Json(facilities.reasons())
}

async fn held(State(facilities): State<Arc<dyn Facilities>>) -> Response {
    match hold::report(facilities.as_ref()).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn volume_names(State(facilities): State<Arc<dyn Facilities>>) -> Response {
    match facilities.volume_names().await {
        Ok(names) => Json(names).into_response(),
        Err(error) => volume_failure(error),
    }
}

async fn remove_volume(
    State(facilities): State<Arc<dyn Facilities>>,
    Path((app, container, slot, volume)): Path<(AppName, ContainerName, u32, String)>,
) -> Response {
    let slot = ContainerId::new(app, container).slot(slot);
    match volumes::remove_here(facilities.as_ref(), &slot, &volume).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => volume_failure(error),
    }
}

fn volume_failure(error: VolumeError) -> Response {
    match error {
        VolumeError::InUse(why) => failure(StatusCode::CONFLICT, why),
        VolumeError::Engine(why) | VolumeError::Unreachable(why) => {
            failure(StatusCode::BAD_GATEWAY, why)
        }
    }
}

fn failure(status: StatusCode, error: String) -> Response {
    let body = ApiError {
        error,
        problems: Vec::new(),
        revision: None,
    };
    (status, Json(body)).into_response()
}

async fn events(
    State(facilities): State<Arc<dyn Facilities>>,
    Query(wanted): Query<Wanted>,
) -> Response {
    Body::from_stream(stream::encode(facilities.events(wanted))).into_response()
}

async fn logs(
    State(facilities): State<Arc<dyn Facilities>>,
    Path((app, container, slot)): Path<(AppName, ContainerName, u32)>,
    Query(options): Query<LogOptions>,
) -> Response {
    let slot = ContainerId::new(app, container).slot(slot);
    match facilities.local_logs(&slot, &options).await {
        Ok(lines) => Body::from_stream(stream::encode(lines)).into_response(),
        Err(error) => {
            let status = match &error {
                LogsError::NotFound => StatusCode::NOT_FOUND,
                LogsError::Engine(_) | LogsError::Unreachable(_) => StatusCode::BAD_GATEWAY,
            };
            let error = match error {
                LogsError::Engine(why) => why,
                other => other.to_string(),
            };
            failure(status, error)
        }
    }
}
