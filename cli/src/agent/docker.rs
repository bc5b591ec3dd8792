//! Waits for the Docker Engine at the start.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{Bridge, Engine, EngineError, EngineInfo};
use model::disk::{DiskReport, DiskUsage};
use tracing::{info, warn};
use uuid::Uuid;

use super::error::Misconfigured;
use crate::config::AgentConfig;
use crate::up::SOON;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// First answers of the engine.
pub(super) struct DockerStart {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) info: EngineInfo,
    pub(super) bridge: Bridge,
    pub(super) labelled: bool,
    pub(super) foreign: u32,
    pub(super) disk: DiskReport,
}

/// Asks until the engine answers: it may be started after us.
pub(super) async fn connect(
    engine: Arc<dyn Engine>,
    config: &AgentConfig,
    known: Option<Uuid>,
    waits: impl Fn(&str),
) -> anyhow::Result<DockerStart> {
    let mut said = String::new();
    let mut say = |what: String| {
        if said != what {
            warn!("waiting for {what}");
            waits(&what);
            said = what;
        }
    };
    let socket = config.docker.display();
    loop {
        let mut answer = std::pin::pin!(ask_once(&engine, config, known));
        let answer = if let Ok(answer) = tokio::time::timeout(SOON, &mut answer).await {
            answer
        } else {
            say(format!(
                "the Docker Engine at {socket}: it takes connections, but does not answer"
            ));
            answer.await
        };
        match answer {
            Ok(start) => {
                engine::check(&start.info).map_err(Misconfigured::by)?;
                info!(
                    engine = %start.info.docker.version,
                    api = %start.info.docker.api,
                    store = %start.info.docker.store,
                    firewall = %start.info.docker.firewall,
                    bridge = %start.bridge.interface,
                    gateway = %start.bridge.gateway,
                    "connected to the Docker Engine"
                );
                return Ok(start);
            }
            Err(error) => {
                say(lack(&config.docker, &error).await);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What an agent lacks that got this error from its engine, and what to do.
async fn lack(socket: &Path, error: &EngineError) -> String {
    let at = socket.display();
    if let EngineError::HostFault { .. } = error {
        return format!("the network of its containers: {error}");
    }
    let start = "start it (systemctl start docker, or service docker start), or name its socket with --docker";
    match tokio::net::UnixStream::connect(socket).await {
        Ok(_) => format!("the Docker Engine at {at}: {error}"),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => {
                format!("the Docker Engine: there is no socket {at}; {start}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("the Docker Engine: no permission to use {at}; run dokkaa as root")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("the Docker Engine: nobody listens on {at}; {start}")
            }
            _ => format!("the Docker Engine at {at}: {error}"),
        },
    }
}

async fn ask_once(
    engine: &Arc<dyn Engine>,
    config: &AgentConfig,
    known: Option<Uuid>,
) -> Result<DockerStart, engine::EngineError> {
    let info = engine.info().await?;
    let bridge = engine.bridge(&config.bridge).await?;
    let listing = engine.list(known).await?;
    let used = engine.disk_usage().await?.map(DiskUsage::percent);
    Ok(DockerStart {
        engine: engine.clone(),
        info,
        bridge,
        labelled: !listing.clusters.is_empty(),
        // Of no cluster yet, it is not known whose they are.
        foreign: known.map_or(0, |_| listing.foreign),
        disk: DiskReport::default().after(used, config.disk_limits),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_start_waits_for_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("docker.sock");
        let silent = EngineError::Unresponsive("no answer".to_owned());
        let absent = lack(&socket, &silent).await;
        assert!(absent.contains("there is no socket"), "{absent}");

        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let answers_badly = lack(&socket, &silent).await;
        assert!(answers_badly.contains("does not answer"), "{answers_badly}");
        drop(listener);
        let left = lack(&socket, &silent).await;
        assert!(left.contains("nobody listens"), "{left}");

        // Whatever the socket is now, the engine answered that.
        let network = EngineError::HostFault {
            fault: engine::HostFault::Network,
            message: "there is no interface `docker0`".to_owned(),
        };
        let network = lack(&socket, &network).await;
        assert!(
            network.starts_with("the network of its containers: "),
            "{network}"
        );
    }
}
