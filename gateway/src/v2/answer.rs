//! Answers of the v2 API.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use store::kv::Status;

use super::error::{ErrorCode, V2Error};
use super::state::V2;

pub(super) fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = answer(status, "text/plain; charset=utf-8", body);
    if !status.is_success() {
        let headers = response.headers_mut();
        headers.insert(
            "x-content-type-options",
            HeaderValue::from_static("nosniff"),
        );
    }
    response
}

pub(super) fn not_allowed(methods: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

pub(super) fn put_cluster_id(headers: &mut HeaderMap, status: &Status) {
    if let Ok(id) = HeaderValue::try_from(format!("{:x}", status.cluster_id)) {
        headers.insert("x-etcd-cluster-id", id);
    }
}

pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Of a read or a write, at this revision.
pub(super) async fn success(v2: &V2, body: impl Into<Body>, revision: i64) -> Response {
    let mut response = answer(StatusCode::OK, "application/json", body);
    let status = v2.status().await;
    put_headers(response.headers_mut(), status.as_deref(), revision, true);
    response
}

/// Of a request that failed.
pub(super) async fn failure(v2: &V2, error: &V2Error) -> Response {
    let mut response = answer(error.status(), "application/json", error.body());
    // No more requests if etcd does not answer.
    let status = match error.code {
        ErrorCode::RaftInternal | ErrorCode::LeaderElection => {
            v2.known_status().map(|(_, status)| status)
        }
        _ => v2.status().await,
    };
    put_headers(
        response.headers_mut(),
        status.as_deref(),
        error.index,
        false,
    );
    response
}

pub(super) fn put_headers(
    headers: &mut HeaderMap,
    status: Option<&Status>,
    index: i64,
    raft: bool,
) {
    headers.insert("x-etcd-index", HeaderValue::from(index));
    let Some(status) = status else { return };
    put_cluster_id(headers, status);
    if raft {
        headers.insert("x-raft-index", HeaderValue::from(status.raft_index));
        headers.insert("x-raft-term", HeaderValue::from(status.raft_term));
    }
}
