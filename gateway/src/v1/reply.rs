//! Extractors and answers of the API: JSON, errors too.

use std::iter;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use manifests::{ContainerId, SlotId};
use model::error::chain;
use serde::de::DeserializeOwned;
use store::KvError;

use super::inputs::Filter;
use super::types::ApiError;
use crate::OUTCOME_UNKNOWN;

pub(super) type ApiResult<T> = Result<Json<T>, ApiFailure>;

/// An answer that is not 2xx.
#[derive(Debug)]
pub(super) struct ApiFailure {
    status: StatusCode,
    body: ApiError,
}

impl ApiFailure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ApiError::new(error),
        }
    }

    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn no_container(id: &ContainerId) -> Self {
        Self::not_found(format!("there is no container {id}"))
    }

    pub(super) fn no_slot(slot: &SlotId) -> Self {
        Self::not_found(format!("there is no slot {slot}"))
    }

    pub(super) fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    pub(super) fn changed() -> Self {
        Self::conflict("it was changed at the same time by another client; try again")
    }

    pub(super) fn gateway(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error)
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }

    pub(super) fn not_ready(problems: &[String]) -> Self {
        let text = "this agent has not read etcd since it started".to_owned();
        let text: Vec<String> = iter::once(text).chain(problems.iter().cloned()).collect();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text.join("; "))
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit} bytes"),
        )
    }

    pub(super) fn invalid(problems: Vec<String>) -> Self {
        let mut failure = Self::bad("invalid manifest");
        failure.body.problems = problems;
        failure
    }

    pub(super) fn precondition(revision: i64) -> Self {
        let text = match revision {
            0 => "the manifest is not there".to_owned(),
            revision => format!("the manifest is at revision {revision}"),
        };
        let mut failure = Self::new(StatusCode::PRECONDITION_FAILED, text);
        failure.body.revision = Some(revision);
        failure
    }

    pub(super) fn etcd_read(error: &KvError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, chain(error))
    }

    pub(super) fn etcd_write(error: &KvError) -> Self {
        let mut failure = Self::etcd_read(error);
        if matches!(error, KvError::Unavailable(_)) {
            failure.body.error.push_str("; ");
            failure.body.error.push_str(OUTCOME_UNKNOWN);
        }
        failure
    }
}

/// Names in the path; an error is answered in JSON.
#[derive(Debug)]
pub(super) struct PathParams<T>(pub(super) T);

/// The query; an error is answered in JSON.
#[derive(Debug)]
pub(super) struct QueryParams<T>(pub(super) T);

/// A filter in the query; its container needs its app.
#[derive(Debug)]
pub(super) struct FilterParams(pub(super) Filter);

/// A JSON body, whatever its content type; an error is answered in JSON.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiFailure> {
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|error| ApiFailure::new(error.status(), error.body_text()))?;
        let value = serde_json::from_slice(&body);
        Ok(Self(value.map_err(|error| {
            ApiFailure::bad(format!("the body: {error}"))
        })?))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(names)| Self(names))
            .map_err(|error| ApiFailure::new(error.status(), error.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| ApiFailure::new(error.status(), error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FilterParams {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        let QueryParams(filter) = QueryParams::<Filter>::from_request_parts(parts, state).await?;
        if filter.container.is_some() && filter.app.is_none() {
            return Err(ApiFailure::bad("container: needs app too"));
        }
        Ok(Self(filter))
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
