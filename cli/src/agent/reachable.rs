//! Tries, from inside a container, whether containers reach the agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conductor::Published;
use conductor::reachability::{Firewall, Target, gateway_of, probe_from, problem};
use engine::EngineFacts;
use manifests::env::LAST_LINK_PORT;
use model::observed::Surroundings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::config::DNS_PORT;

/// Time between two tries.
const EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for a container to try from.
const LOOK: Duration = Duration::from_secs(5);

/// What containers use to reach the agent.
pub(super) struct Way {
    pub(super) published: Arc<Published>,
    pub(super) engine: watch::Receiver<EngineFacts>,
    pub(super) surroundings: watch::Receiver<Surroundings>,
}

/// Tries from time to time, and tells what is in the way.
pub(super) async fn watch(
    way: Way,
    blocked: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    loop {
        let pause = if way.try_once(&blocked).await {
            EVERY
        } else {
            LOOK
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Way {
    /// False if there is no container to try from.
    async fn try_once(&self, blocked: &watch::Sender<Option<String>>) -> bool {
        let pid = {
            let observed = self.published.observed.load();
            observed
                .containers
                .values()
                .filter(|container| container.addr.is_some())
                .find_map(|container| Some(container.running()?.pid))
        };
        let Some(pid) = pid else { return false };
        // The last link port is hardly ever in use: a refusal by this machine shows that the way is free, and nothing
        // is connected to a service.
        let now = self.surroundings.borrow().clone();
        let mut targets = vec![Target::Tcp(SocketAddr::new(now.gateway, LAST_LINK_PORT))];
        targets.extend(now.dns.map(|ip| Target::Dns {
            at: SocketAddr::new(ip, DNS_PORT),
            zone: now.domain,
        }));
        let tried = match probe_from(pid, targets).await {
            Ok(tried) => tried,
            Err(error) => {
                debug!(error = %model::error::chain(&error), "could not try from inside a container");
                return false;
            }
        };
        let interface = self.engine.borrow().bridge.interface.clone();
        let firewall = Firewall::of_this_machine();
        let found = problem(&tried, gateway_of(pid), firewall, &interface, now.gateway);
        blocked.send_if_modified(|before| {
            if *before == found {
                return false;
            }
            if let Some(problem) = &found {
                error!("{problem}");
            } else {
                info!("containers reach the agent again");
            }
            *before = found;
            true
        });
        true
    }
}
