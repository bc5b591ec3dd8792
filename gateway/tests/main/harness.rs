//! An API listener for one test.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use gateway::listener::{self, ListenerConfig};
use gateway::v1::{self, Api};
use gateway::v2::{self, V2};
use store::kv::Kv;
use store::memory::MemKv;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;

/// A served API; closed when dropped.
pub(crate) struct TestServer {
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<()>,
    _close: DropGuard,
}

impl TestServer {
    /// Over a store in memory, which is given too.
    pub(crate) async fn in_memory() -> (Self, MemKv) {
        let kv = MemKv::new();
        (Self::over(Arc::new(kv.clone())).await, kv)
    }

    pub(crate) async fn over(kv: Arc<dyn Kv>) -> Self {
        Self::with(kv, ListenerConfig::default()).await
    }

    pub(crate) async fn with(kv: Arc<dyn Kv>, config: ListenerConfig) -> Self {
        Self::open("h1", kv, config, Router::new()).await
    }

    /// The API of the host of that name.
    pub(crate) async fn named(name: &str, kv: Arc<dyn Kv>) -> Self {
        Self::open(name, kv, ListenerConfig::default(), Router::new()).await
    }

    /// With dokkaa's own API, too.
    pub(crate) async fn of(api: Api) -> Self {
        let kv = api.agent.kv();
        Self::open("h1", kv, ListenerConfig::default(), v1::router(api)).await
    }

    async fn open(name: &str, kv: Arc<dyn Kv>, config: ListenerConfig, v1: Router) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listeners = listener::bind(&listen::Binder::default(), &[any])
            .await
            .expect("a port");
        let address = listeners[0].local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let v2 = V2::new(kv, name, shutdown.clone());
        let router = listener::routes(v2::router(v2), v1);
        let served = tokio::spawn(listener::serve(listeners, config, router, shutdown.clone()));
        Self {
            client: Client::new(address),
            address,
            _close: shutdown.clone().drop_guard(),
            shutdown,
            served,
        }
    }
}
