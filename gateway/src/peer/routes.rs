//! What agents ask of each other: what only this host knows, and its containers' lines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use manifests::{AppName, ContainerId, ContainerName};
use serde::{Deserialize, Serialize};

use crate::ndjson;
use crate::v1::types::{ApiError, LogOptions, Reasons};
use crate::v1::{Facilities, LogRecord, LogStream, LogsError};

/// An empty line after this much silence; the caller gives up after three.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// One line of a log stream between agents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    /// A line of the container.
    Record(LogRecord),
    /// The engine broke off.
    Error(String),
}

/// What the peer door serves.
pub fn router(facilities: Arc<dyn Facilities>) -> Router {
    Router::new()
        .route("/peer/v1/reasons", get(reasons))
        .route("/peer/v1/logs/{app}/{container}/{slot}", get(logs))
        .with_state(facilities)
}

async fn reasons(State(facilities): State<Arc<dyn Facilities>>) -> Json<Reasons> {
    Json(facilities.reasons())
}

async fn logs(
    State(facilities): State<Arc<dyn Facilities>>,
    Path((app, container, slot)): Path<(AppName, ContainerName, u32)>,
    Query(options): Query<LogOptions>,
) -> Response {
    let slot = ContainerId::new(app, container).slot(slot);
    match facilities.local_logs(&slot, &options).await {
        Ok(lines) => Body::from_stream(encode(lines)).into_response(),
        Err(error) => {
            let status = match &error {
                LogsError::NotFound => StatusCode::NOT_FOUND,
                LogsError::Engine(_) | LogsError::Unreachable(_) => StatusCode::BAD_GATEWAY,
            };
            let error = match error {
                LogsError::Engine(why) => why,
                other => other.to_string(),
            };
            let body = ApiError {
                error,
                problems: Vec::new(),
                revision: None,
            };
            (status, Json(body)).into_response()
        }
    }
}

fn encode(lines: LogStream) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(lines, async |mut lines| {
        let line = match tokio::time::timeout(HEARTBEAT, lines.next()).await {
            Err(_) => b"\n".to_vec(),
            Ok(None) => return None,
            Ok(Some(record)) => {
                let said = match record {
                    Ok(record) => Said::Record(record),
                    Err(error) => Said::Error(error.to_string()),
                };
                ndjson::line(&said).expect("records always serialize")
            }
        };
        Some((Ok(Bytes::from(line)), lines))
    })
}
