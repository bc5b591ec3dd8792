//! The host's status in the log.

use std::net::IpAddr;

use agent::host::{HostStatus, Waiting};
use manifests::HostName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Logs each change of the host's status. `own` is its address, `etcd` where etcd is asked.
pub async fn log_status(
    mut status: watch::Receiver<HostStatus>,
    (name, own): (HostName, IpAddr),
    etcd: Vec<String>,
    stop: CancellationToken,
) {
    loop {
        match &*status.borrow_and_update() {
            // A failure ends the agent, which says so.
            HostStatus::Joining(Waiting::Begun) | HostStatus::Failed(_) => {}
            HostStatus::Joining(Waiting::Etcd(error)) => warn!(
                ?etcd,
                error,
                "waiting for etcd; is --etcd right, and does it run? Containers here are looked after meanwhile"
            ),
            HostStatus::Joining(why @ Waiting::Record(_)) => info!("{why}"),
            HostStatus::Joining(why @ Waiting::NameTaken(_)) => error!(%name, %own, "{why}"),
            HostStatus::Joining(why) => error!(
                error = %why,
                "cannot join the cluster; nothing is changed, retrying"
            ),
            HostStatus::Live(revision) => info!(revision, "host registered in etcd"),
            HostStatus::Lost => {
                warn!("host lease lost or etcd unreachable; re-registering");
            }
            HostStatus::Held(reason) => error!(
                reason,
                "host in hold: nothing is stopped, claimed or moved; crashed containers are restarted"
            ),
            HostStatus::Distrusted => error!("etcd belongs to another cluster; nothing is written"),
            HostStatus::Foreign(session) => error!(
                %session,
                "another process writes this host's record: its identity runs twice. This agent writes nothing any more; stop one of them"
            ),
            HostStatus::Left => info!("host has left the cluster"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
