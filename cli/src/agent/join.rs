//! Joins the cluster and learns how the host's membership ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gateway::peer;
use model::Rules;
use model::error::chain;
use model::records::{Cluster, HostRecord, HostState, Peer, Versions};
use store::Kv;
use store::etcd::{EtcdKv, EtcdOptions, etcd_thread};
use store::host::{HostOptions, HostStatus, KvFactory, StateDir, Waiting};
use store::view::{Known, SavedView};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::warn;

use super::docker::DockerStart;
use super::error::Misconfigured;
use super::listeners::{Listeners, addresses};
use super::network::capacity;
use super::reached::reached_at;
use super::signals::Signal;
use crate::config::AgentConfig;

/// How long etcd may take to say whether the host may use its name, and to be read, before the agent is ready without.
const JOINS: Duration = Duration::from_secs(6);

/// What ends an agent.
pub(super) enum Ended {
    /// Somebody stops it.
    Signal(Signal),
    /// The host is no member any more, as the operator wanted.
    Left,
    /// The host can't be in the cluster.
    Failed(Misconfigured),
}

/// Waits until it is known whether the host may use its name, and until there is a view (its revision is not 0): none
/// then, or if etcd does not say, since an agent that knows its cluster works without etcd.
pub(super) async fn joins(
    status: &mut watch::Receiver<HostStatus>,
    mut view: watch::Receiver<(i64, bool)>,
) -> Option<Ended> {
    let silent = tokio::time::sleep(JOINS);
    tokio::pin!(silent);
    loop {
        let waits = match &*status.borrow_and_update() {
            HostStatus::Failed(error) => {
                return Some(Ended::Failed(Misconfigured(chain(error))));
            }
            HostStatus::Left => return Some(Ended::Left),
            HostStatus::Joining(Waiting::Begun) => false,
            HostStatus::Joining(Waiting::NameTaken(_) | Waiting::Record(_)) => true,
            _ => break,
        };
        tokio::select! {
            () = &mut silent, if !waits => return None,
            changed = status.changed() => if changed.is_err() { return None },
        }
    }
    // Whoever waited for the agent asks it at once.
    tokio::select! {
        () = silent => {}
        _ = view.wait_for(|(revision, _)| *revision > 0) => {}
    }
    None
}

/// Waits until the host has ended by itself.
pub(super) async fn ended(status: &mut watch::Receiver<HostStatus>) -> Ended {
    loop {
        match &*status.borrow_and_update() {
            HostStatus::Left => return Ended::Left,
            HostStatus::Failed(error) => {
                return Ended::Failed(Misconfigured(chain(error)));
            }
            _ => {}
        }
        if status.changed().await.is_err() {
            // It is stopped by us alone.
            std::future::pending::<()>().await;
        }
    }
}

/// A host that begins to join, and what the rest of the start needs.
pub(super) struct Join {
    pub(super) host: store::host::Host,
    pub(super) kv: Arc<dyn Kv>,
    /// Where its connections live.
    pub(super) etcd_thread: Handle,
    pub(super) identity: Option<Arc<peer::Identity>>,
    pub(super) saved: Option<SavedView>,
}

impl Join {
    /// The cluster that the host belongs to: known from an earlier start, or met.
    pub(super) async fn cluster(&mut self) -> Result<Cluster, Misconfigured> {
        let (mut cluster, mut status) = (self.host.cluster(), self.host.status());
        tokio::select! {
            Ok(known) = cluster.wait_for(Option::is_some) => {
                if let Some(known) = known.clone() {
                    return Ok(known);
                }
            }
            ended = ended(&mut status) => {
                if let Ended::Failed(error) = ended {
                    return Err(error);
                }
            }
        }
        Err(Misconfigured(
            "the host has ended before it has met a cluster".to_owned(),
        ))
    }
}

pub(super) fn begin(
    config: &AgentConfig,
    dir: &Arc<StateDir>,
    docker: &DockerStart,
    listeners: &Listeners,
) -> anyhow::Result<Join> {
    let identity = match addresses(&listeners.peer).first() {
        None => None,
        Some(_) => Some(Arc::new(
            peer::Identity::load_or_create(dir.path()).map_err(Misconfigured::by)?,
        )),
    };
    let options = config.etcd.options(config.lease_ttl);
    let etcd_thread = etcd_thread().context("no thread for etcd")?;
    let options = EtcdOptions {
        runs_on: Some(etcd_thread.clone()),
        ..options.map_err(Misconfigured::by)?
    };
    let kv: Arc<dyn Kv> = Arc::new(EtcdKv::new(&options).map_err(Misconfigured::by)?);
    let connect: KvFactory = {
        // A lease is renewed at a steady pace, on a thread of its own.
        let options = EtcdOptions {
            pings: false,
            runs_on: None,
            ..options
        };
        // What can be wrong with the options was found by the first client.
        Arc::new(move || {
            Arc::new(EtcdKv::new(&options).expect("options that were used before")) as Arc<dyn Kv>
        })
    };
    let saved = store::view::file::load(&dir.view_file()).unwrap_or_else(|error| {
        warn!(error = %chain(&error), "cannot read the saved view; listing etcd");
        None
    });
    let record = HostRecord {
        id: dir.machine(),
        session: dir.session(),
        epoch: 0,
        state: HostState::Up,
        addr: config.host_ip,
        peer: identity.as_ref().and_then(|identity| {
            Some(Peer {
                addr: *addresses(&listeners.peer).first()?,
                fingerprint: identity.fingerprint().to_owned(),
            })
        }),
        api: reached_at(&listeners.keys, config.host_ip),
        labels: config.labels.clone(),
        capacity: capacity(&docker.info),
        versions: Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            placement: planner::placement::VERSIONS.to_vec(),
        },
        // What the first looks will say, so that a restart writes the record once.
        foreign: docker.foreign,
        engine: true,
        docker: Some(docker.info.docker.clone()),
        disk: docker.disk.percent,
        disk_full: docker.disk.full,
        hold: None,
        problems: Vec::new(),
    };
    let options = HostOptions {
        name: config.name.clone(),
        ttl: config.lease_ttl,
        restart_grace: config.restart_grace,
        labelled_containers: docker.labelled && !config.own_etcd,
        saved: saved.as_ref().map(|saved| Known {
            cluster: saved.cluster.clone(),
            revision: saved.revision,
        }),
        rules: Rules::default(),
    };
    let host = store::host::Host::start(kv.clone(), connect, dir.clone(), options, record)
        .context("no thread for the lease")?;
    Ok(Join {
        host,
        kv,
        etcd_thread,
        identity,
        saved,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// Whether the agent counts as ready, all that can be done at this moment done.
    async fn is_ready<T>(task: &tokio::task::JoinHandle<T>) -> bool {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        task.is_finished()
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_ready_as_a_member_with_a_view() {
        let (host, mut status) = watch::channel(HostStatus::Joining(Waiting::Begun));
        let (published, view) = watch::channel((0, true));
        let ready = tokio::spawn(async move { joins(&mut status, view).await.is_none() });
        assert!(!is_ready(&ready).await);
        host.send_replace(HostStatus::Live(1));
        assert!(!is_ready(&ready).await, "it has no view");
        published.send_replace((7, false));
        assert!(ready.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_etcd_that_does_not_answer_is_waited_for_once() {
        let (_host, mut status) = watch::channel(HostStatus::Joining(Waiting::Begun));
        let (_published, view) = watch::channel((0, true));
        let begun = tokio::time::Instant::now();
        assert!(joins(&mut status, view).await.is_none());
        assert_eq!(begun.elapsed().as_secs(), JOINS.as_secs());
    }
}
