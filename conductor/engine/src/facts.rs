//! What an agent takes from its engine, and must follow: a restart of the engine may change all of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Bridge, Engine, EngineError, EngineInfo};

/// The engine and the network of this host's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// What it says of itself.
    pub info: EngineInfo,
    /// Its network for our containers.
    pub bridge: Bridge,
    /// Subnets of all networks of this machine's own, as [`Engine::subnets`] says.
    pub subnets: BTreeSet<String>,
}

impl EngineFacts {
    /// Asks for them.
    pub async fn read(engine: &dyn Engine, network: &str) -> Result<Self, EngineError> {
        Ok(Self {
            info: engine.info().await?,
            bridge: engine.bridge(network).await?,
            subnets: engine.subnets().await?,
        })
    }
}

/// Reads them again after each whole list of the engine, which comes when it has been away, and tells them: also where
/// nothing is new, since a restarted engine may have set its firewall rules anew. `problem` is what its network lacks.
pub async fn follow(
    engine: Arc<dyn Engine>,
    facts: watch::Sender<EngineFacts>,
    problem: watch::Sender<Option<String>>,
    mut lists: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let network = facts.borrow().bridge.network.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = lists.changed() => if changed.is_err() { return },
        }
        let lacks = match EngineFacts::read(engine.as_ref(), &network).await {
            Ok(now) => {
                let Bridge {
                    interface, gateway, ..
                } = &now.bridge;
                if now != *facts.borrow() {
                    let EngineInfo {
                        docker, data_root, ..
                    } = &now.info;
                    let (engine, store) = (&docker.version, &docker.store);
                    let networks = now.subnets.len();
                    info!(network, interface, %gateway, networks, data_root, engine, %store, firewall = docker.firewall, "the Docker Engine has changed");
                }
                facts.send_replace(now);
                None
            }
            Err(EngineError::HostFault { message, .. }) => Some(format!("engine: {message}")),
            // Whether it answers is told by who asked for the list.
            Err(error) => {
                debug!(error = %model::error::chain(&error), "the engine's facts can't be read");
                continue;
            }
        };
        problem.send_if_modified(|before| {
            let is_new = *before != lacks;
            if let Some(lacks) = lacks.as_ref().filter(|_| is_new) {
                warn!("{lacks}");
            }
            *before = lacks;
            is_new
        });
    }
}
