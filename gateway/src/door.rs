//! The listener that all control APIs share: `/v2` and `/dokkaa/v1`.
//!
//! It binds, counts connections, limits what a request may cost, and refuses
//! web pages that reach for a door through their reader's browser: there are
//! no CORS headers, a foreign `Origin` is refused, and so is a `Host` that a
//! stranger's DNS could have made point here. It knows nothing of what the
//! requests mean.
//!
//! Invariant: no request reaches a router before all checks have passed.

mod body;
mod guard;
mod holder;

pub use body::TooSlow;
pub use guard::Stranger;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// More connections wait to be accepted: each wait of a v2 client holds one, and a
/// process may have 1,024 files open by default.
const MAX_CONNECTIONS: usize = 512;

/// The request line and all headers; a v2 client may put a short value into the query.
const MAX_HEADERS: usize = 64 << 10;

/// A request's headers arrive within this time; a connection without requests ends after it too.
const HEADER_TIME: Duration = Duration::from_secs(60);

/// What is still under way when the door closes has so long.
const DRAIN: Duration = Duration::from_millis(500);

/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a door lets in.
#[derive(Debug, Clone, Default)]
pub struct DoorConfig {
    /// Names that may stand in `Host`, beside IP addresses and `localhost`.
    pub allow_hosts: Vec<String>,
}

/// What guards a door that is reached from other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: loopback only.
    None,
    /// The operator said `--insecure`.
    Insecure,
}

/// Why a door may not be opened as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not loopback, and nobody said that this is wanted.
    #[error(
        "{0} is reached from other machines, and who can write a manifest is root on every host; listen on 127.0.0.1 or [::1] and use an ssh tunnel, or say --insecure"
    )]
    Exposed(SocketAddr),
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, by this process where that can be found.
    #[error("{address} is taken{}", .by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    Taken {
        /// The address.
        address: SocketAddr,
        /// `name (pid N)`.
        by: Option<String>,
    },
    /// Anything else.
    #[error("cannot listen on {address}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Whether a door may listen there.
pub fn check_exposure(listen: &[SocketAddr], protection: Protection) -> Result<(), ConfigError> {
    if protection == Protection::Insecure {
        return Ok(());
    }
    match listen.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) => Err(ConfigError::Exposed(*address)),
        None => Ok(()),
    }
}

/// Binds all addresses (port 0 takes any) or none; `local_addr` of each says what was bound.
pub async fn bind(listen: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::with_capacity(listen.len());
    for &address in listen {
        let listener = TcpListener::bind(address).await.map_err(|source| {
            if source.kind() == std::io::ErrorKind::AddrInUse {
                let by = holder::find(address);
                BindError::Taken { address, by }
            } else {
                BindError::Failed { address, source }
            }
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// One router for one listener: `/v2`, `/version`, `/health` by `v2`, and `v1` below `/dokkaa/v1`.
pub fn routes(v2: Router, v1: Router) -> Router {
    Router::new().nest("/dokkaa/v1", v1).fallback_service(v2)
}

/// Serves until `shutdown`; then answers what is under way and returns.
///
/// A handler finds its caller in the extension `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    config: DoorConfig,
    router: Router,
    shutdown: CancellationToken,
) {
    let router = router.layer(middleware::from_fn_with_state(Arc::new(config), admit));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut doors = JoinSet::new();
    for listener in listeners {
        doors.spawn(accept(
            listener,
            router.clone(),
            slots.clone(),
            shutdown.clone(),
        ));
    }
    doors.join_all().await;
}

async fn accept(
    listener: TcpListener,
    router: Router,
    slots: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
        };
        // The finished are let go, so that the set holds the living only.
        while connections.try_join_next().is_some() {}
        match accepted {
            (Ok(slot), Ok((stream, peer))) => {
                let connection = connection(stream, peer, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            (_, Err(error)) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // Nobody closes the semaphore.
            (Err(_), _) => break,
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(DRAIN, drained).await.ok();
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    // Answers are small: none waits for the next.
    stream.set_nodelay(true).ok();
    let router = router.layer(axum::Extension(ConnectInfo(peer)));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS);
    let mut connection = std::pin::pin!(
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%peer, %error, "a connection ended early");
    }
}

/// The checks, then the request, with a body that has an end.
async fn admit(State(config): State<Arc<DoorConfig>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| *peer);
    let response = match guard::check(request.uri(), request.headers(), &config.allow_hosts) {
        Err(stranger) => {
            warn!(?peer, %method, path, %stranger, "refused");
            let status = match stranger {
                Stranger::Host(_) => StatusCode::MISDIRECTED_REQUEST,
                Stranger::Origin(_) | Stranger::CrossSite => StatusCode::FORBIDDEN,
            };
            refuse(status, &stranger.to_string())
        }
        Ok(()) if announces_too_much(&request) => {
            // A client that asks first has sent nothing yet.
            if !request.headers().contains_key(header::EXPECT) {
                body::throw_away(request.into_body());
            }
            refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE)
        }
        Ok(()) => {
            next.run(request.map(|body| Body::new(body::Bounded::new(body))))
                .await
        }
    };
    let status = response.status().as_u16();
    debug!(?peer, %method, path, status, took = ?start.elapsed(), "request");
    response
}

const TOO_LARGE: &str = "the body is larger than 1 MiB";

fn announces_too_much(request: &Request) -> bool {
    request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .is_some_and(|length| length > body::MAX_BODY)
}

/// The answer to a request whose body could not be read.
pub fn refuse_body(error: &axum::Error) -> Response {
    if body::too_large(error) {
        refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE)
    } else if body::too_slow(error) {
        refuse(StatusCode::REQUEST_TIMEOUT, &TooSlow.to_string())
    } else {
        refuse(StatusCode::BAD_REQUEST, "the request's body cannot be read")
    }
}

/// An error of the door itself: one line of text, and the connection ends.
fn refuse(status: StatusCode, why: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, text);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_to_other_machines_needs_the_word() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let local = [address("127.0.0.1:4001"), address("[::1]:4001")];
        assert_eq!(check_exposure(&local, Protection::None), Ok(()));
        for open in ["0.0.0.0:4001", "10.1.2.3:4001", "[::]:4001"] {
            let listen = [local[0], address(open)];
            let error = check_exposure(&listen, Protection::None).expect_err("exposed");
            assert_eq!(error, ConfigError::Exposed(address(open)));
            assert!(error.to_string().contains("--insecure"));
            assert_eq!(check_exposure(&listen, Protection::Insecure), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_taken_address_names_who_has_it() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = bind(&[any]).await.expect("a port");
        let address = first[0].local_addr().expect("an address");
        assert_ne!(address.port(), 0);
        let error = bind(&[any, address]).await.expect_err("it is taken");
        let text = error.to_string();
        let holder = format!("(pid {})", std::process::id());
        assert!(
            text.starts_with(&format!("{address} is taken by ")),
            "{text}"
        );
        assert!(text.ends_with(&holder), "{text}");
    }
}
