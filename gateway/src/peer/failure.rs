//! Answers between agents that say why something can't be had.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::v1::HostError;
use crate::v1::types::ApiError;

impl IntoResponse for HostError {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => failure(StatusCode::NOT_FOUND, self.to_string()),
            Self::InUse(why) => failure(StatusCode::CONFLICT, why),
            Self::Engine(why) | Self::Unreachable(why) => failure(StatusCode::BAD_GATEWAY, why),
        }
    }
}

pub(super) fn failure(status: StatusCode, error: String) -> Response {
    (status, Json(ApiError::new(error))).into_response()
}
