//! The etcd v2 keys API over etcd v3.
//!
//! A request becomes an operation (`request`, pure); a write becomes a
//! guarded transaction over what was seen (`seen`, `plan`, pure); a watch's
//! events become v2's (`event`, `ring`, pure). `keys` carries them out, `info`
//! answers what clients ask of the cluster.
//!
//! A v3 value is the raw v2 value, so `etcdctl put` and a v2 PUT mean the same
//! key; the index is v3's revision. What v2 knows beyond that lies in side
//! keys under `/v2meta`, which are never shown.

pub mod error;
pub mod event;
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
pub mod request;
pub mod ring;
mod stats;
pub mod tree;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use store::kv::{Kv, Status};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use feed::Feed;
use stats::Stats;

/// What the headers say of Raft is at most this old.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// Directories that are read at a time: what is below one is in memory, more than once, while it is.
const LISTINGS: usize = 4;

/// What the v2 API works on.
pub struct V2 {
    kv: Arc<dyn Kv>,
    name: String,
    feed: Feed,
    stats: Stats,
    status: Mutex<Option<(Instant, Status)>>,
    /// Directories that are read at a time.
    listings: Semaphore,
    /// The revision of this door's last write: what it has answered is seen by what follows.
    written: AtomicI64,
}

impl V2 {
    /// Over this store, shown to clients as the member `name`; waits end with `shutdown`.
    pub fn new(kv: Arc<dyn Kv>, name: impl Into<String>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            kv,
            name: name.into(),
            feed: Feed::new(shutdown),
            stats: Stats::new(),
            status: Mutex::default(),
            listings: Semaphore::new(LISTINGS),
            written: AtomicI64::new(0),
        })
    }

    /// What etcd says of itself; what it said last if it does not answer now.
    async fn status(&self) -> Option<Status> {
        let known = self.known_status();
        if let Some((at, status)) = &known
            && at.elapsed() < STATUS_AGE
        {
            return Some(status.clone());
        }
        match self.kv.status().await {
            Ok(status) => {
                *self.status.lock().expect("nothing panics while it is held") =
                    Some((Instant::now(), status.clone()));
                Some(status)
            }
            Err(_) => known.map(|(_, status)| status),
        }
    }

    fn known_status(&self) -> Option<(Instant, Status)> {
        self.status
            .lock()
            .expect("nothing panics while it is held")
            .clone()
    }

    fn note_write(&self, revision: i64) {
        self.written.fetch_max(revision, Ordering::Relaxed);
    }
}

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
        _ => info::handle(&v2, &path, request).await,
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
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

fn not_allowed(methods: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn put_cluster_id(headers: &mut HeaderMap, status: &Status) {
    if let Ok(id) = HeaderValue::try_from(format!("{:x}", status.cluster_id)) {
        headers.insert("x-etcd-cluster-id", id);
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
