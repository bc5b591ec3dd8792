//! The agent as its API sees it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use conductor::published::Published;
use conductor::reachability::Firewall;
use conductor::reachability::port::CheckPorts;
use engine::{Engine, EngineError, LogChunk, LogOptions as EngineLogs};
use futures_util::StreamExt;
use gateway::v1::agent::{AgentHandle, ClusterView, EventStream, HostError, LogRecord, LogStream};
use gateway::v1::types::{
    CheckPort, DnsServer, LeftOut, LinkFailure, LogOptions, NameReport, Reasons, Unreadable,
};
use manifests::{HostName, InstanceId, SlotId};
use model::Snapshot;
use model::directory::ServiceId;
use model::events::Wanted;
use model::observed::{ContainerState, Observed, ObservedContainer};
use model::records::Cluster;
use model::skydns::RecordError;
use model::snapshot::Owner;
use tokio::sync::watch;
use tokio::time::timeout;

use super::condition::Condition;

/// How long the engine may take to open an output: a peer that asks for it waits for 5 s.
const OPEN_LOGS: Duration = Duration::from_secs(4);

/// Parts of the agent that the API reads.
pub(crate) struct RunningAgent {
    pub(crate) host: HostName,
    pub(crate) published: Arc<Published>,
    pub(crate) kv: Arc<dyn store::Kv>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) failures: Arc<ambassador::Failures>,
    pub(crate) names: dns::Names,
    pub(crate) domain: String,
    pub(crate) dns: watch::Receiver<Vec<SocketAddr>>,
    pub(crate) condition: Arc<Condition>,
    pub(crate) check_ports: CheckPorts,
}

#[async_trait]
impl AgentHandle for RunningAgent {
    fn host(&self) -> HostName {
        self.host.clone()
    }

    fn view(&self) -> Option<ClusterView> {
        let seen = self.published.seen.load();
        let seen = seen.as_ref().as_ref()?;
        Some(ClusterView {
            snapshot: seen.snapshot.clone(),
            directory: self.published.directory.load().as_ref().clone(),
            stale: seen.stale,
            hold: seen.distrust.clone(),
            known_at: match self.published.fresh_at.load(Ordering::Relaxed) {
                0 => None,
                at => jiff::Timestamp::from_second(at).ok(),
            },
        })
    }

    fn problems(&self) -> Vec<String> {
        self.condition.problems()
    }

    fn kv(&self) -> Arc<dyn store::Kv> {
        self.kv.clone()
    }

    fn reasons(&self) -> Reasons {
        let callers = self.published.callers.borrow().clone();
        let links = callers
            .values()
            .flat_map(|caller| {
                caller
                    .links
                    .iter()
                    .map(move |(_, service)| (caller, service))
            })
            .filter_map(|(caller, service)| {
                let failure = self.failures.last(&caller.slot, service)?;
                let at = jiff::Timestamp::try_from(failure.at).ok()?;
                Some(LinkFailure {
                    caller: caller.slot.clone(),
                    service: service.to_string(),
                    host: self.host.clone(),
                    at: at.to_string(),
                    reason: failure.reason,
                })
            })
            .collect();
        Reasons {
            waiting: {
                let waiting = self.published.waiting.load();
                let reasons = waiting.iter();
                reasons
                    .map(|(slot, why)| (slot.clone(), why.to_string()))
                    .collect()
            },
            links,
        }
    }

    fn dns(&self) -> DnsServer {
        DnsServer {
            domain: self.domain.clone(),
            listen: self.dns.borrow().clone(),
            unreadable: unreadable(self.names.unreadable()),
        }
    }

    fn name(&self, name: &str) -> Option<NameReport> {
        let name = self.names.explain(name)?;
        let left_out = name.left_out.into_iter().map(|one| LeftOut {
            slot: one.slot,
            host: one.host,
            reason: one.reason.to_owned(),
        });
        let mut left_out: Vec<LeftOut> = left_out.collect();
        if let (Some(slots), Some(seen)) = (&name.slots, self.published.seen.load().as_ref()) {
            left_out.extend(starting(&seen.snapshot, |service, slot| {
                slots.has(service, slot)
            }));
        }
        Some(NameReport {
            name: name.name,
            meaning: name.meaning,
            records: name.records,
            left_out,
            hidden: name.hidden,
            unreadable: unreadable(name.unreadable),
            stale: name.unconfirmed,
            ..NameReport::default()
        })
    }

    fn cluster(&self) -> Option<Cluster> {
        let seen = self.published.seen.load();
        let cluster = seen.as_ref().as_ref()?.snapshot.cluster.as_ref()?;
        Some(cluster.value.clone())
    }

    fn observed(&self) -> Observed {
        self.published.observed.load().as_ref().clone()
    }

    async fn check_port(&self) -> CheckPort {
        let open = self.check_ports.open().await;
        let (at, token) = open.map_or((None, String::new()), |open| (Some(open.at), open.token));
        CheckPort {
            at,
            token,
            range: self.check_ports.range().to_string(),
            firewall: Firewall::of_this_machine().to_string(),
        }
    }

    async fn volume_names(&self) -> Result<BTreeSet<String>, HostError> {
        let volumes = self.engine.volumes().await;
        volumes
            .map(|volumes| volumes.into_keys().collect())
            .map_err(|error| HostError::Engine(error.to_string()))
    }

    async fn remove_volume(&self, name: &str) -> Result<(), HostError> {
        self.engine
            .remove_volume(name)
            .await
            .map_err(|error| match error {
                EngineError::Conflict(why) => HostError::InUse(why),
                error => HostError::Engine(error.to_string()),
            })
    }

    fn events(&self, wanted: Wanted) -> EventStream {
        Box::pin(self.published.events.read(wanted).map(Ok))
    }

    async fn local_logs(
        &self,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError> {
        let docker_id = {
            let observed = self.published.observed.load();
            let of_slot = observed.of_slot(slot).filter(|_| !options.before);
            let jobs = observed
                .jobs
                .values()
                .filter(|job| options.before && job.owner.slot.container == slot.container);
            let seen = self.published.seen.load();
            let view = seen
                .as_ref()
                .as_ref()
                .and_then(|seen| seen.snapshot.slot(slot));
            let claim = view.and_then(|view| view.claim.as_ref());
            let claimed = claim.map(|claim| &claim.instance);
            let read = to_read(of_slot.chain(jobs), claimed, options.previous);
            read.ok_or(HostError::NotFound)?.docker_id.clone()
        };
        let wanted = EngineLogs {
            follow: options.follow,
            tail: options.tail,
            since: options
                .since
                .and_then(|at| i64::try_from(at.as_nanosecond()).ok()),
        };
        let logs = timeout(OPEN_LOGS, self.engine.logs(&docker_id, wanted)).await;
        let logs =
            logs.map_err(|_| HostError::Engine(format!("no answer in {} s", OPEN_LOGS.as_secs())))?;
        let logs = logs.map_err(|error| HostError::Engine(error.to_string()))?;
        Ok(Box::pin(logs.map(|chunk| match chunk {
            Ok(chunk) => Ok(record(&chunk)),
            Err(error) => Err(HostError::Engine(error.to_string())),
        })))
    }
}

fn unreadable(keys: Vec<(String, RecordError)>) -> Unreadable {
    let keys = keys.into_iter();
    keys.map(|(key, error)| (key, error.to_string())).collect()
}

/// Slots that a name means and that have no instance to serve yet, in order.
fn starting(snapshot: &Snapshot, is_meant: impl Fn(&ServiceId, &SlotId) -> bool) -> Vec<LeftOut> {
    let mut found = Vec::new();
    for (id, container) in &snapshot.containers {
        for (number, view) in &container.slots {
            let Owner::Live(claim) = snapshot.owner(view) else {
                continue;
            };
            let manifest = container
                .manifest_of(claim.version)
                .map(|manifest| &**manifest);
            let Some(manifest) = manifest.or_else(|| container.wanted()) else {
                continue;
            };
            let slot = id.slot(*number);
            let is_meant = manifest.services.keys().any(|service| {
                let service = ServiceId {
                    app: id.app.clone(),
                    service: service.clone(),
                };
                is_meant(&service, &slot)
            });
            if is_meant && view.current_state().is_none() && container.is_wanted(*number) {
                found.push(LeftOut {
                    slot,
                    host: claim.host.clone(),
                    reason: "it is starting, and not served yet".to_owned(),
                });
            }
        }
    }
    found
}

/// The container whose output is read: that of the claimed instance, else the newest, those that run first. `previous` is
/// the next one in this order: what the claimed one has replaced, or what was to replace it.
fn to_read<'a>(
    containers: impl Iterator<Item = &'a ObservedContainer>,
    claimed: Option<&InstanceId>,
    previous: bool,
) -> Option<&'a ObservedContainer> {
    let is_started = |c: &&ObservedContainer| !matches!(c.state, ContainerState::Created { .. });
    let mut ours: Vec<&ObservedContainer> = containers.filter(is_started).collect();
    ours.sort_by_key(|c| {
        let is_claimed = claimed == Some(&c.owner.instance);
        Reverse((is_claimed, c.running().is_some(), c.created_at))
    });
    ours.get(usize::from(previous)).copied()
}

fn record(chunk: &LogChunk) -> LogRecord {
    let text = String::from_utf8_lossy(&chunk.bytes);
    LogRecord {
        time: jiff::Timestamp::from_nanosecond(i128::from(chunk.at)).unwrap_or_default(),
        source: chunk.stream,
        line: text.trim_end_matches(['\n', '\r']).to_owned(),
    }
}

#[cfg(test)]
mod tests;
