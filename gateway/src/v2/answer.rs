//! Answers of the v2 API.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use store::kv::Status;

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
