//! The sockets that the agent can't do without, and what they answer from the first moment on.
//!
//! They are bound before anything is promised and served at once: an agent
//! that waits for its engine, for etcd or for its name says so to whoever asks.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use gateway::OUTCOME_UNKNOWN;
use gateway::listener::{self, ListenerConfig};
use listen::Binder;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::condition::Condition;
use super::error::Misconfigured;
use super::parts::Tasks;
use crate::config::AgentConfig;
use crate::limits::Shares;
use crate::metrics::{self, Sources};

/// How long a read may wait for an etcd that is known to be away, …
const WITHOUT_ETCD: Duration = Duration::from_millis(900);

/// … and a write, which is sent again for as long: one that was given up here would go on all the same.
const WRITE_WITHOUT_ETCD: Duration = Duration::from_secs(10);

/// One of so many connections may be held by a write that waits so: the others stay free for what is answered at once.
const WRITES_SHARE: usize = 4;

/// A client of metrics asks at once, and again after a while.
const METRICS_HEADERS: Duration = Duration::from_secs(10);

/// What was bound, and is served.
pub(super) struct Listeners {
    pub(super) keys: Vec<SocketAddr>,
    pub(super) metrics: Vec<SocketAddr>,
    /// Served when there is a table of who may come in.
    pub(super) peer: Vec<TcpListener>,
    /// What the API answers; before it is there, that it is not.
    pub(super) routes: Arc<OnceLock<Router>>,
    /// What there is to count.
    pub(super) sources: Arc<OnceLock<Sources>>,
    pub(super) tasks: Tasks,
}

impl Listeners {
    /// Binds all, and begins to serve.
    pub(super) async fn open(
        config: &AgentConfig,
        binder: &Binder,
        shares: Shares,
        condition: &Arc<Condition>,
    ) -> anyhow::Result<Self> {
        let keys = bind(
            binder,
            &config.keys_listen,
            "--keys-listen (KEYS_LISTEN of make up)",
        )
        .await?;
        let peer = bind(binder, &config.peer_listen, "--peer-listen").await?;
        let metrics = bind(binder, &config.metrics_listen, "--metrics-listen").await?;
        let listeners = Self {
            keys: addresses(&keys),
            metrics: addresses(&metrics),
            peer,
            routes: Arc::default(),
            sources: Arc::default(),
            tasks: Tasks::default(),
        };
        Ok(listeners.serve(config, shares, condition, keys, metrics))
    }

    fn serve(
        mut self,
        config: &AgentConfig,
        shares: Shares,
        condition: &Arc<Condition>,
        keys: Vec<TcpListener>,
        metrics: Vec<TcpListener>,
    ) -> Self {
        let mut allow_hosts = config.allow_hosts.clone();
        let settings = ListenerConfig {
            allow_hosts: allow_hosts.clone(),
            limits: shares.api,
            waits: shares.waits,
            ..ListenerConfig::default()
        };
        let writes = (shares.api.all / WRITES_SHARE).max(1);
        let routes = api(self.routes.clone(), condition.clone(), writes);
        self.tasks
            .spawn(|stop| listener::serve(keys, settings, routes, stop));
        // A scrape names the host that it asks.
        allow_hosts.push(config.name.to_string());
        let settings = ListenerConfig {
            allow_hosts,
            limits: shares.metrics,
            waits: 0,
            header_time: METRICS_HEADERS,
        };
        let routes = metrics::router(self.sources.clone(), condition.clone());
        self.tasks
            .spawn(|stop| listener::serve(metrics, settings, routes, stop));
        self
    }
}

async fn bind(
    binder: &Binder,
    addresses: &[SocketAddr],
    flag: &str,
) -> anyhow::Result<Vec<TcpListener>> {
    listener::bind(binder, addresses).await.map_err(|problem| {
        Misconfigured(format!("{problem}; {flag} chooses another address")).into()
    })
}

pub(super) fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|l| l.local_addr().ok())
        .collect()
}

/// The API from the first moment on: what is missing until there is something to ask, and in time while etcd is away.
/// `writes` of them at most wait for it.
fn api(routes: Arc<OnceLock<Router>>, condition: Arc<Condition>, writes: usize) -> Router {
    let writes = Arc::new(Semaphore::new(writes));
    Router::new().fallback(async move |request: Request| {
        let Some(routes) = routes.get() else {
            let lacks = condition.lacks().join("; ");
            return unavailable(request.uri().path(), &format!("not ready yet: {lacks}"));
        };
        answer(routes.clone(), &condition, &writes, request).await
    })
}

async fn answer(
    routes: Router,
    condition: &Condition,
    writes: &Semaphore,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let answer = async {
        let Ok(answer) = routes.oneshot(request).await;
        answer
    };
    let Some(why) = condition.without_etcd().filter(|_| needs_etcd(&path)) else {
        return answer.await;
    };
    if reads {
        let answer = tokio::time::timeout(WITHOUT_ETCD, answer).await;
        return answer.unwrap_or_else(|_| unavailable(&path, &why));
    }
    // Before the request goes on: it is certain that nothing is written.
    let Ok(_place) = writes.try_acquire() else {
        let why = format!(
            "{why}; nothing was written, since too many writes wait for etcd already: send it again when etcd answers"
        );
        return unavailable(&path, &why);
    };
    let answer = tokio::time::timeout(WRITE_WITHOUT_ETCD, answer).await;
    answer.unwrap_or_else(|_| unavailable(&path, &format!("{why}; {OUTCOME_UNKNOWN}")))
}

/// The rest of dokkaa's own API shows what is known, or asks other hosts.
fn needs_etcd(path: &str) -> bool {
    !path.starts_with("/dokkaa/v1/") || path.starts_with("/dokkaa/v1/manifests/")
}

fn unavailable(path: &str, why: &str) -> Response {
    listener::refuse(path, StatusCode::SERVICE_UNAVAILABLE, why)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::{Body, to_bytes};
    use axum::routing::{any, put};
    use conductor::Published;
    use store::host::{HostStatus, Waiting};
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::*;

    async fn ask(api: &Router, method: &str, path: &str) -> (StatusCode, serde_json::Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let answer = api.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn every_path_is_answered_before_the_host_has_joined_and_while_etcd_is_away() {
        let waits = "/d.sock has not answered yet".to_owned();
        let condition = Arc::new(Condition::waiting("http://e:1".to_owned(), false, waits));
        let routes: Arc<OnceLock<Router>> = Arc::default();
        let api = api(routes.clone(), condition.clone(), 1);
        let (status, error) = ask(&api, "GET", "/v2/keys/apps").await;
        assert_eq!((status.as_u16(), &error["errorCode"]), (503, &300.into()));
        assert!(error["cause"].as_str().unwrap().contains("/d.sock"));
        let (status, error) = ask(&api, "GET", "/dokkaa/v1/slots").await;
        assert_eq!(status, 503);
        assert!(
            error["error"]
                .as_str()
                .unwrap()
                .starts_with("not ready yet: ")
        );

        let refused = HostStatus::Joining(Waiting::Etcd("refused".to_owned()));
        let (_sender, receiver) = watch::channel(refused);
        condition.engine(None);
        condition.joins(receiver);
        condition.works(Arc::new(Published::default()));
        // All of it waits for etcd, and one write until that is back.
        let waits = Router::new().fallback(async || std::future::pending::<()>().await);
        let back = async || tokio::time::sleep(Duration::from_secs(9)).await;
        routes.set(waits.route("/v2/keys/back", put(back))).unwrap();
        let request = Request::put("/v2/keys/back").body(Body::empty()).unwrap();
        assert_eq!(api.clone().oneshot(request).await.unwrap().status(), 200);
        let (status, error) = ask(&api, "GET", "/v2/keys/apps").await;
        assert_eq!(status, 503);
        let cause = error["cause"].as_str().unwrap();
        assert_eq!(cause.matches("http://e:1").count(), 1, "{cause}");
        assert!(cause.contains("refused"), "{cause}");
        let (_, error) = ask(&api, "PUT", "/dokkaa/v1/manifests/shop/web").await;
        let text = error["error"].as_str().unwrap();
        assert!(text.ends_with("look before you send it again"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_wait_for_etcd_leave_room_for_others() {
        let condition = Arc::new(Condition::waiting(
            "http://e:1".to_owned(),
            false,
            String::new(),
        ));
        condition.works(Arc::new(Published::default()));
        let routes: Arc<OnceLock<Router>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let asks = asked.clone();
        let waits = async move || {
            asks.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        let known = Router::new().route("/dokkaa/v1/slots", any(async || "{}"));
        routes.set(known.fallback(waits)).unwrap();
        let api = api(routes, condition, 3);
        let mut waiting = JoinSet::new();
        for _ in 0..3 {
            let api = api.clone();
            waiting.spawn(async move { ask(&api, "PUT", "/v2/keys/a").await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);

        let begin = tokio::time::Instant::now();
        for (path, field) in [
            ("/v2/keys/a", "cause"),
            ("/dokkaa/v1/manifests/shop/web", "error"),
        ] {
            let (status, error) = ask(&api, "PUT", path).await;
            assert_eq!(status, 503);
            let why = error[field].as_str().unwrap();
            assert!(
                why.contains("http://e:1") && why.contains("nothing was written"),
                "{why}"
            );
        }
        // What needs no etcd, and is no wait.
        assert_eq!(ask(&api, "GET", "/dokkaa/v1/slots").await.0, 200);
        assert_eq!(ask(&api, "PUT", "/dokkaa/v1/slots").await.0, 200);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(
            asked.load(Ordering::Relaxed),
            3,
            "refused before it was sent"
        );
        let (status, error) = ask(&api, "GET", "/v2/keys/a").await;
        assert_eq!((status.as_u16(), begin.elapsed()), (503, WITHOUT_ETCD));
        assert!(
            !error["cause"].as_str().unwrap().contains("written"),
            "{error}"
        );

        // The others have waited long enough, and others may.
        while let Some(answer) = waiting.join_next().await {
            let (status, error) = answer.unwrap();
            assert_eq!(status, 503);
            let why = error["cause"].as_str().unwrap();
            assert!(why.ends_with("look before you send it again"), "{why}");
        }
        let (_, error) = ask(&api, "PUT", "/v2/keys/a").await;
        let why = error["cause"].as_str().unwrap();
        assert!(why.ends_with("look before you send it again"), "{why}");
    }
}
