//! The listener that all HTTP APIs of an agent share: `/v2` and `/dokkaa/v1`, and the metrics.
//!
//! It binds, limits what connections, requests and answers may cost, and refuses
//! web pages that reach for an API through their reader's browser: there are
//! no CORS headers, a foreign `Origin` is refused, and so is a `Host` that a
//! error's DNS could have made point here. It knows nothing of what the
//! requests mean.
//!
//! Invariant: no request reaches a router before all checks have passed.

mod body;
mod budget;
mod origin;
mod slow_reader;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use listen::{Accepted, Acceptor, Binder, Limiter, Limits, Problem, WhenFull};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::v1::types::ApiError;
use crate::v2::error::{ErrorCode, V2Error};
use body::BodyError;
use budget::{ClientConnection, ResponseBudget};

/// Limits of connections whose requests do not wait.
const LIMITS: Limits = Limits {
    all: 512,
    per_source: 256,
};

/// Connections that wait for events or follow logs, besides; half of them may be of one source. A wait of a v2 client
/// holds one, and 20 kB beside the text of the event, which all that are told of it share.
const WAITS: usize = 6_144;

/// Request line and headers; a v2 client may put a short value into the query.
const MAX_HEADERS: usize = 64 << 10;

/// Time for a request's headers; also the longest idle time of a connection.
const HEADER_TIME: Duration = Duration::from_secs(60);

/// Time for requests under way at shutdown.
const DRAIN: Duration = Duration::from_millis(500);

/// Configuration of a listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Names allowed in `Host`, beside IP addresses and `localhost`.
    pub allow_hosts: Vec<String>,
    /// Concurrent connections whose requests do not wait.
    pub limits: Limits,
    /// Those that wait, besides.
    pub waits: usize,
    /// Time for a request's headers, and longest idle time of a connection.
    pub header_time: Duration,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            allow_hosts: Vec::new(),
            limits: LIMITS,
            waits: WAITS,
            header_time: HEADER_TIME,
        }
    }
}

/// Binds all addresses or none.
pub async fn bind(binder: &Binder, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Problem> {
    let mut bound = Vec::new();
    for &address in addresses {
        bound.push(binder.tcp(address).await?);
    }
    Ok(bound)
}

/// Router of one listener: `v1` below `/dokkaa/v1`, and `v2` for the rest.
pub fn routes(v2: Router, v1: Router) -> Router {
    Router::new().nest("/dokkaa/v1", v1).fallback_service(v2)
}

/// Serves until `shutdown`, then drains requests under way.
///
/// Handlers get the client's address from the extension `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    config: ListenerConfig,
    router: Router,
    shutdown: CancellationToken,
) {
    let limiter = Limiter::new(config.limits).with_waiting(config.waits);
    let header_time = config.header_time;
    let admission = Admission {
        allow_hosts: config.allow_hosts.into(),
        budget: ResponseBudget::default(),
    };
    let serving = Serving {
        router: router.layer(middleware::from_fn_with_state(admission, admit)),
        header_time,
        shutdown,
    };
    let mut listening = JoinSet::new();
    for listener in listeners {
        let acceptor = Acceptor::new(listener, limiter.clone(), WhenFull::Wait);
        listening.spawn(serving.clone().accept(acceptor));
    }
    listening.join_all().await;
}

/// State shared by all connections.
#[derive(Clone)]
struct Serving {
    router: Router,
    header_time: Duration,
    shutdown: CancellationToken,
}

impl Serving {
    async fn accept(self, acceptor: Acceptor) {
        let stop = self.shutdown.clone();
        let serve = |accepted| self.clone().connection(accepted);
        let connections = acceptor.serve(stop.cancelled(), serve).await;
        let drained = connections.join_all();
        tokio::time::timeout(DRAIN, drained).await.ok();
    }

    async fn connection(self, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            permit,
        } = accepted;
        if let Err(error) = listen::watch_peer(&stream) {
            debug!(%peer, %error, "client disconnected");
            return;
        }
        let permit = Arc::new(permit);
        permit.set_idle(Instant::now());
        let connection = Arc::new(ClientConnection {
            permit: Arc::clone(&permit),
            streams: AtomicBool::new(false),
        });
        let stream = slow_reader::StallGuard::new(stream, Arc::clone(&connection));
        let router = TowerToHyperService::new(self.router);
        // Layers would make a router of its own for each connection.
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(peer));
            extensions.insert(Arc::clone(&connection));
            router.call(request)
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time)
            .max_buf_size(MAX_HEADERS);
        let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = served.as_mut() => result,
            () = permit.evicted() => {
                debug!(%peer, "idle connection evicted");
                return;
            }
            () = self.shutdown.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = result {
            debug!(%peer, %error, "connection lost");
        }
    }
}

/// State of `admit`.
#[derive(Clone)]
struct Admission {
    allow_hosts: Arc<[String]>,
    budget: ResponseBudget,
}

/// Checks a request, limits its body, and admits its answer.
async fn admit(
    State(admission): State<Admission>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(connection): Extension<Arc<ClientConnection>>,
    request: Request,
    next: Next,
) -> Response {
    let busy = connection.permit.set_busy();
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = match origin::check(request.uri(), request.headers(), &admission.allow_hosts) {
        Err(error) => {
            warn!(%peer, %method, path, %error, "refused");
            refuse(&path, error.status(), &error.to_string())
        }
        Ok(()) if announces_too_much(&request) => {
            // A client that sends `Expect: 100-continue` has sent no body yet.
            if !request.headers().contains_key(header::EXPECT) {
                body::discard(request.into_body());
            }
            let error = BodyError::TooLarge;
            refuse(&path, error.status(), &error.to_string())
        }
        // Nothing is to come.
        Ok(()) if request.body().is_end_stream() => next.run(request).await,
        Ok(()) => {
            next.run(request.map(|body| Body::new(body::LimitedBody::new(body))))
                .await
        }
    };
    let admitted = admission.budget.admit(response, busy, &connection).await;
    let response = admitted.unwrap_or_else(|why| {
        warn!(%peer, %method, path, %why, "refused");
        refuse(&path, StatusCode::SERVICE_UNAVAILABLE, &why.to_string())
    });
    let status = response.status().as_u16();
    debug!(%peer, %method, path, status, took = ?start.elapsed(), "request");
    response
}

fn announces_too_much(request: &Request) -> bool {
    request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .is_some_and(|length| length > body::MAX_ENCODED)
}

/// Error of a request whose body could not be read.
pub fn refuse_body(path: &str, error: &axum::Error) -> Response {
    if let Some(error) = BodyError::of(error) {
        return refuse(path, error.status(), &error.to_string());
    }
    let why = "the request's body cannot be read";
    refuse(path, StatusCode::BAD_REQUEST, why)
}

/// An error of the listener itself, in the format of the path's API; closes the connection.
pub fn refuse(path: &str, status: StatusCode, why: &str) -> Response {
    let (kind, body) = if path.starts_with("/v2/") {
        let code = match status {
            StatusCode::MISDIRECTED_REQUEST | StatusCode::FORBIDDEN => ErrorCode::Unauthorized,
            StatusCode::SERVICE_UNAVAILABLE => ErrorCode::RaftInternal,
            _ => ErrorCode::InvalidForm,
        };
        ("application/json", V2Error::request(code, why).body())
    } else if path.starts_with("/dokkaa/") {
        let error = ApiError {
            error: why.to_owned(),
            problems: Vec::new(),
            revision: None,
        };
        (
            "application/json",
            crate::ndjson::line(&error).expect("text always serializes"),
        )
    } else {
        ("text/plain; charset=utf-8", format!("{why}\n").into_bytes())
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_names_who_has_it() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = bind(&Binder::default(), &[any]).await.expect("a port");
        let address = first[0].local_addr().expect("an address");
        assert_ne!(address.port(), 0);
        let error = bind(&Binder::default(), &[any, address])
            .await
            .expect_err("it is taken");
        let text = error.to_string();
        let holder = format!("(pid {})", std::process::id());
        assert!(
            text.starts_with(&format!("{address}/tcp is taken by ")),
            "{text}"
        );
        assert!(text.ends_with(&holder), "{text}");
    }
}
