//! Members, version, health and statistics, as v2 clients request them.
//!
//! Members are the agents' API listeners: at etcd's own addresses a client
//! would find no v2 API. Each is its own leader.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use store::kv::{KeyRange, Range};

use super::answer::{answer, not_allowed, put_cluster_id, text};
use super::event::OP_KEY;
use super::members;
use super::state::V2;

/// Paths, for GET and HEAD only.
const PATHS: [&str; 9] = [
    "/version",
    "/health",
    "/v2/machines",
    "/v2/members",
    "/v2/members/leader",
    "/v2/stats/self",
    "/v2/stats/leader",
    "/v2/stats/store",
    "/v2/auth/enable",
];

pub(super) async fn handle(v2: &V2, path: &str, request: Request) -> Response {
    let (request, _) = request.into_parts();
    if !PATHS.contains(&path) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return not_allowed("GET,HEAD");
    }
    let url = own_url(&request.headers);
    match path {
        "/version" => version(v2).await,
        "/health" => health(v2).await,
        "/v2/machines" => {
            let members = members::all(v2, &url).await;
            let urls = members.iter().flat_map(|member| &member.client_urls);
            let urls: Vec<&str> = urls.map(String::as_str).collect();
            text(StatusCode::OK, urls.join(", "))
        }
        "/v2/members" => {
            let members = members::all(v2, &url).await;
            of_cluster(v2, &json!({ "members": members })).await
        }
        "/v2/members/leader" => {
            let own = members::all(v2, &url).await.into_iter().next();
            of_cluster(v2, &json!(own)).await
        }
        "/v2/stats/self" => plain(&v2.stats.own(&v2.name, &members::id(&v2.name))),
        "/v2/stats/store" => plain(&v2.stats.store(v2.feed.waiting())),
        "/v2/stats/leader" => plain(&json!({ "leader": members::id(&v2.name), "followers": {} })),
        _ => of_cluster(v2, &json!({ "enabled": false })).await,
    }
}

/// etcd ends some of its answers with a new line and others not.
fn plain(value: &Value) -> Response {
    answer(StatusCode::OK, "application/json", value.to_string())
}

async fn of_cluster(v2: &V2, value: &Value) -> Response {
    let body = super::json::line(value);
    let mut response = answer(StatusCode::OK, "application/json", body);
    if let Some(status) = v2.status().await {
        put_cluster_id(response.headers_mut(), &status);
    }
    response
}

/// Address at which the client reached this API.
fn own_url(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("127.0.0.1:4001");
    format!("http://{host}")
}

async fn version(v2: &V2) -> Response {
    match v2.status().await {
        Some(status) => {
            // The cluster's version has no patch level of its own.
            let minor: Vec<&str> = status.version.split('.').take(2).collect();
            plain(&json!({
                "etcdserver": status.version,
                "etcdcluster": format!("{}.0", minor.join(".")),
            }))
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "etcd does not answer\n"),
    }
}

/// Healthy if etcd answers a linearizable read.
async fn health(v2: &V2) -> Response {
    let read = v2.kv.range(Range {
        limit: 1,
        ..Range::new(KeyRange::key(OP_KEY))
    });
    let healthy = read.await.is_ok();
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({ "health": healthy.to_string() });
    answer(status, "application/json", body.to_string())
}
