//! Answers of the API: JSON, and failures as JSON too.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use manifests::ContainerId;
use model::error::chain;
use serde::de::DeserializeOwned;
use store::KvError;

use super::types::ApiError;

/// An answer.
pub(super) type Reply<T> = Result<Json<T>, Failure>;

/// An answer that is not 2xx.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    body: ApiError,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ApiError {
                error: error.into(),
                problems: Vec::new(),
                revision: None,
            },
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

    /// It is not so, or not so any more, that this can be done.
    pub(super) fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// Somebody else wrote in between.
    pub(super) fn changed() -> Self {
        Self::conflict("it was changed by somebody else at the same time; look again")
    }

    /// Another part of the agent, or another host, could not do it.
    pub(super) fn gateway(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error)
    }

    pub(super) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this method is not for this path",
        )
    }

    pub(super) fn not_yet(lacks: &[String]) -> Self {
        let mut text = "this agent has not read etcd since it started".to_owned();
        for lack in lacks {
            text.push_str("; ");
            text.push_str(lack);
        }
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
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
        let text = chain(error);
        match error {
            KvError::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{text}; whether it was written is not known"),
            ),
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, text),
        }
    }
}

/// The names in a path; one that is no name is said in JSON.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

/// A query; one that can't be read is said in JSON.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

/// A JSON body, whatever its content type says; one that can't be read is said in JSON.
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Failure::bad(format!("the body: {error}")))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(Failure::new(rejection.status(), rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Failure::new(rejection.status(), rejection.body_text())),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
