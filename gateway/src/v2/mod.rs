//! The etcd v2 keys API over etcd v3.
//!
//! A request becomes an operation (`request`, pure); a write becomes a
//! guarded transaction over a lookup (`lookup`, `plan`, pure); watch events of
//! v3 become v2's (`event`, `ring`, pure), and keep up the answers to GETs that
//! come often (`cache`, pure). `keys` and `write` carry them out,
//! `expiry` ends what has a TTL, `info` answers requests about the cluster.
//!
//! A v3 value is the raw v2 value, so `etcdctl put` and a v2 PUT write the same
//! key; the index is v3's revision. The rest of v2's state is in side keys
//! under `/v2meta`, which are not readable.

mod answer;
mod cache;
mod demand;
pub mod error;
pub mod event;
mod expiry;
mod feed;
pub mod form;
mod info;
mod json;
mod keys;
pub mod lookup;
mod members;
pub mod node;
pub mod path;
pub mod plan;
mod reads;
pub mod request;
pub mod ring;
mod schedule;
mod state;
mod stats;
pub mod tree;
pub mod ttl;
mod waiters;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use answer::text;
pub use state::V2;

/// Answers `/v2/…`, `/version` and `/health`; 404 for all else.
pub fn router(state: Arc<V2>) -> Router {
    Router::new().fallback(dispatch).with_state(state)
}

/// Paths are decoded and cleaned here, in place: a redirect would cost curl its body.
async fn dispatch(State(v2): State<Arc<V2>>, request: Request) -> Response {
    let path = path::decode(request.uri().path(), false)
        .ok()
        .and_then(|path| String::from_utf8(path).ok());
    let Some(path) = path else {
        return text(StatusCode::BAD_REQUEST, "the path is not UTF-8\n");
    };
    let path = path::clean(&path);
    match path.strip_prefix("/v2/keys") {
        Some(key) if key.is_empty() || key.starts_with('/') => keys::handle(v2, key, request).await,
        _ => Box::pin(info::handle(&v2, &path, request)).await,
    }
}
