//! Probes from time to time, from inside a container, whether containers reach the agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::EngineFacts;
use manifests::env::LAST_LINK_PORT;
use model::observed::Surroundings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{Firewall, Target, gateway_of, probe_from, problem};
use crate::published::Published;

/// Port of DNS.
const DNS_PORT: u16 = 53;
/// Time between two tries.
const EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for a container to try from.
const LOOK: Duration = Duration::from_secs(5);

/// Probes what containers use to reach the agent.
pub struct Probe {
    /// Where a container to probe from is found.
    pub published: Arc<Published>,
    /// The network that containers are on.
    pub engine: watch::Receiver<EngineFacts>,
    /// Where containers reach the agent.
    pub surroundings: watch::Receiver<Surroundings>,
    /// What is in the way, for people.
    pub problem: watch::Sender<Option<String>>,
}

impl Probe {
    /// Runs until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let pause = if self.try_once().await { EVERY } else { LOOK };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// False if there is no container to try from.
    async fn try_once(&self) -> bool {
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
                debug!(error = %model::error::chain(&error), "cannot probe from inside a container");
                return false;
            }
        };
        let interface = self.engine.borrow().bridge.interface.clone();
        let firewall = Firewall::of_this_machine();
        let found = problem(&tried, gateway_of(pid), firewall, &interface, now.gateway);
        self.problem.send_if_modified(|before| {
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
