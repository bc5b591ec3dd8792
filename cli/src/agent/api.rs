//! The API: of clients, of other hosts, and of what watches the agent.

use std::sync::{Arc, OnceLock};

use axum::Router;
use conductor::Published;
use conductor::images::Images;
use conductor::reachability::port::CheckPorts;
use gateway::{listener, peer, v1, v2};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::condition::Condition;
use super::dataplane::Dataplane;
use super::handle::RunningAgent;
use super::images::{PeerImages, ServedImages};
use super::parts::{Parts, Tasks};
use crate::metrics::Sources;

/// Listeners that were bound, and where their answers are put.
pub(super) struct Served {
    pub(super) peer: Vec<TcpListener>,
    pub(super) routes: Arc<OnceLock<Router>>,
    pub(super) sources: Arc<OnceLock<Sources>>,
}

/// From now on the listeners answer.
pub(super) fn start(
    parts: &Parts,
    images: &Images,
    dataplane: &Dataplane,
    served: Served,
    identity: Option<Arc<peer::Identity>>,
    condition: Arc<Condition>,
    tasks: &mut Tasks,
) {
    let check_ports = CheckPorts::new(
        parts.published.clone(),
        dataplane.surroundings.clone(),
        parts.config.port_range.clone(),
    );
    let handle: Arc<dyn v1::AgentHandle> = Arc::new(RunningAgent {
        host: parts.host.name().clone(),
        published: parts.published.clone(),
        kv: parts.kv.clone(),
        engine: parts.engine.clone(),
        failures: dataplane.link_failures.clone(),
        names: dataplane.names.clone(),
        domain: parts.config.domain.clone(),
        dns: dataplane.dns_now.clone(),
        condition,
        check_ports,
    });
    let mut peers: Option<Arc<dyn v1::Peers>> = None;
    if let Some(identity) = identity {
        let table = Arc::new(peer::PeerTable::default());
        let (published, following) = (parts.published.clone(), table.clone());
        tasks.spawn(|stop| follow_peers(published, following, stop));
        let client = Arc::new(peer::PeerClient::new(identity.clone(), table.clone()));
        images.meet(Arc::new(PeerImages {
            host: parts.host.name().clone(),
            client: client.clone(),
            published: parts.published.clone(),
        }));
        let for_others = Arc::new(ServedImages(images.clone()));
        let router = peer::router(handle.clone(), for_others, client.clone());
        peers = Some(client);
        let (limits, listeners) = (parts.shares.peers, served.peer);
        tasks.spawn(|stop| async move {
            if let Err(error) = peer::serve(listeners, identity, table, router, limits, stop).await
            {
                error!(error = %model::error::chain(&error), "peer listener failed to start");
            }
        });
    }
    let name = parts.host.name().to_string();
    let keys = v2::V2::new(parts.kv.clone(), name, tasks.stop.clone());
    let api = v1::Api {
        agent: handle,
        peers,
    };
    // Nobody else sets them.
    let _ = served
        .routes
        .set(listener::routes(v2::router(keys), v1::router(api)));
    let _ = served.sources.set(Sources {
        published: parts.published.clone(),
        links: dataplane.link_counters.clone(),
        dns: dataplane.dns_counters.clone(),
    });
}

async fn follow_peers(
    published: Arc<Published>,
    table: Arc<peer::PeerTable>,
    stop: CancellationToken,
) {
    let mut revision = published.revision.subscribe();
    loop {
        if let Some(seen) = published.seen.load().as_ref() {
            table.update(&seen.snapshot, seen.stale);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}
