//! A door that is open for one test.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use gateway::door::{self, DoorConfig};
use gateway::v1::{self, Api};
use gateway::v2::{self, V2};
use store::kv::Kv;
use store::memory::MemKv;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;

/// An open door; closed when dropped.
pub(crate) struct House {
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<()>,
    _close: DropGuard,
}

impl House {
    /// Over a store in memory, which is given too.
    pub(crate) async fn in_memory() -> (Self, MemKv) {
        let kv = MemKv::new();
        (Self::over(Arc::new(kv.clone())).await, kv)
    }

    pub(crate) async fn over(kv: Arc<dyn Kv>) -> Self {
        Self::with(kv, DoorConfig::default()).await
    }

    pub(crate) async fn with(kv: Arc<dyn Kv>, config: DoorConfig) -> Self {
        Self::open("h1", kv, config, Router::new()).await
    }

    /// The API of the host of that name.
    pub(crate) async fn named(name: &str, kv: Arc<dyn Kv>) -> Self {
        Self::open(name, kv, DoorConfig::default(), Router::new()).await
    }

    /// With dokkaa's own API, too.
    pub(crate) async fn of(api: Api) -> Self {
        let kv = api.facilities.kv();
        Self::open("h1", kv, DoorConfig::default(), v1::router(api)).await
    }

    async fn open(name: &str, kv: Arc<dyn Kv>, config: DoorConfig, v1: Router) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listeners = door::bind(&[any]).await.expect("a port");
        let address = listeners[0].local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let v2 = V2::new(kv, name, shutdown.clone());
        let router = door::routes(v2::router(v2), v1);
        let served = tokio::spawn(door::serve(listeners, config, router, shutdown.clone()));
        Self {
            client: Client::new(address),
            address,
            _close: shutdown.clone().drop_guard(),
            shutdown,
            served,
        }
    }
}
