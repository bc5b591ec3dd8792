//! Acceptance of etcd by an operator, which ends a hold, and its effect on each host beforehand.
//!
//! Agents that distrust their etcd change nothing. The cluster key with a
//! higher epoch ends that; it is the only key written here. What a host would
//! stop it computes itself, from etcd as it is and from its own containers.

use model::ModRev;
use model::snapshot::mod_rev;
use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use manifests::HostName;
use manifests::keys::Key;
use model::Snapshot;
use model::observed::Observed;
use model::records::{Claim, Cluster, HostRecord, HostState};
use model::snapshot::Desired;
use serde::Deserialize;
use store::{Compare, KvError, Op};
use uuid::Uuid;

use super::agent::AgentHandle;
use super::api::{Api, ask_hosts};
use super::list::List;
use super::reply::{ApiFailure, ApiResult, QueryParams};
use super::types::{Acceptance, HoldReport, HostHold, WouldStop};

/// Effect of etcd as it is now on the running containers of a host.
///
/// A container whose manifest is there stops if its slot is not wanted or
/// belongs to another instance; one without a manifest is kept as an orphan;
/// the rest stays. `held` and `epoch` are filled in by the agent.
pub fn hold_report(list: &Snapshot, observed: &Observed, host: &HostName) -> HoldReport {
    let mut report = HoldReport::default();
    let running = observed
        .containers
        .values()
        .filter(|c| c.running().is_some());
    for container in running {
        let owner = &container.owner;
        let view = list.containers.get(&owner.slot.container);
        let Some((view, manifest)) = view.and_then(|v| Some((v, v.manifest.as_ref()?))) else {
            report.orphans.push(owner.slot.clone());
            continue;
        };
        let slot = view.slots.get(&owner.slot.slot);
        let next = slot.and_then(|slot| slot.next.as_ref());
        let claim = slot.and_then(|slot| slot.claim.as_ref());
        let ours = |claim: &Claim| claim.host == *host && claim.instance == owner.instance;
        let why = match (&manifest.value, claim) {
            (Desired::Valid { .. }, _) if !view.is_global() && !view.is_wanted(owner.slot.slot) => {
                let wanted = view.scale().unwrap_or_default();
                format!("the manifest wants {wanted} slots only")
            }
            (_, Some(claim)) if !ours(claim) && !next.is_some_and(|next| ours(next)) => {
                if claim.host == *host {
                    "etcd assigns the slot to another instance on this host".to_owned()
                } else {
                    format!("etcd assigns the slot to {}", claim.host)
                }
            }
            (Desired::Valid { .. }, _) if !view.may_have(owner.slot.slot, host) => {
                "the host is to have none of it, or has another one".to_owned()
            }
            _ => continue,
        };
        report.would_stop.push(WouldStop {
            slot: owner.slot.clone(),
            why,
        });
    }
    report.would_stop.sort();
    report.orphans.sort();
    report.orphans.dedup();
    report
}

/// Report of this agent.
pub async fn report(agent: &dyn AgentHandle) -> Result<HoldReport, KvError> {
    let list = List::read(agent.kv().as_ref()).await?;
    Ok(HoldReport {
        held: agent.view().and_then(|view| view.hold),
        epoch: agent.cluster().map_or(0, |cluster| cluster.epoch),
        ..hold_report(&list.snapshot, &agent.observed(), &agent.host())
    })
}

/// `GET hold`.
pub(super) async fn own(State(api): State<Api>) -> ApiResult<HoldReport> {
    report(api.agent.as_ref())
        .await
        .map(Json)
        .map_err(|error| ApiFailure::etcd_read(&error))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct AcceptQuery {
    /// Revision of the cluster key that was shown; 0 is none.
    revision: i64,
}

/// `GET accept`: the effect of accepting, host by host.
pub(super) async fn look(State(api): State<Api>) -> ApiResult<Acceptance> {
    api.acceptance().await.map(Json)
}

/// `POST accept?revision=N`: raises the epoch, if the cluster key is still the one that was shown.
pub(super) async fn accept(
    State(api): State<Api>,
    QueryParams(query): QueryParams<AcceptQuery>,
) -> ApiResult<Acceptance> {
    let mut acceptance = api.acceptance().await?;
    if acceptance.revision != query.revision {
        return Err(ApiFailure::changed());
    }
    let guards = vec![Compare::modified(Key::Cluster, ModRev(query.revision))];
    let op = Op::put_json(Key::Cluster, &acceptance.cluster);
    api.write(guards, vec![op]).await?;
    acceptance.accepted = true;
    Ok(Json(acceptance))
}

impl Api {
    async fn acceptance(&self) -> Result<Acceptance, ApiFailure> {
        let list = self.list().await?;
        let now = list.snapshot.cluster.as_ref();
        let id = cluster_id(now.map(|now| &now.value), self.agent.cluster().as_ref())?;
        let mut notices = Vec::new();
        let hosts = self.hold_reports(&list.snapshot, &mut notices).await;
        let says_hold = |record: &HostRecord| record.state == HostState::Hold;
        let held = hosts.iter().any(|host| host.report.held.is_some())
            || list
                .snapshot
                .live()
                .any(|(_, record)| says_hold(&record.value));
        if !held {
            return Err(ApiFailure::conflict(
                "no host is in hold: there is nothing to accept",
            ));
        }
        let reported = hosts.iter().map(|host| host.report.epoch);
        let epoch = reported
            .chain(epochs(&list.snapshot))
            .max()
            .unwrap_or_default();
        Ok(Acceptance {
            cluster: Cluster {
                id,
                epoch: epoch + 1,
            },
            revision: mod_rev(now).0,
            hosts,
            notices,
            accepted: false,
        })
    }

    /// Reports of every host that is live in etcd now, or was in this agent's last view.
    async fn hold_reports(&self, now: &Snapshot, notices: &mut Vec<String>) -> Vec<HostHold> {
        let own = self.agent.host();
        let before = self.agent.view().map(|view| view.snapshot);
        let live = now.live().chain(before.iter().flat_map(Snapshot::live));
        let mut hosts: BTreeSet<HostName> = live.map(|(host, _)| host.clone()).collect();
        hosts.insert(own.clone());
        let report = async |host: HostName| {
            if host == own {
                let report = report(self.agent.as_ref()).await;
                return report.map_err(|error| error.to_string());
            }
            match &self.peers {
                Some(peers) => peers.hold(&host).await,
                None => Err("this agent has no peer listener".to_owned()),
            }
        };
        let reports = ask_hosts(hosts, report, notices).await.into_iter();
        reports
            .map(|(host, report)| HostHold { host, report })
            .collect()
    }
}

/// Epochs of the cluster key and of live hosts.
pub(super) fn epochs(snapshot: &Snapshot) -> impl Iterator<Item = u64> {
    let records = snapshot.live().map(|(_, record)| record.epoch);
    let cluster = snapshot.cluster.iter().map(|cluster| cluster.epoch);
    records.chain(cluster)
}

/// Id of the cluster to accept.
fn cluster_id(now: Option<&Cluster>, own: Option<&Cluster>) -> Result<Uuid, ApiFailure> {
    match (now, own) {
        (Some(now), Some(own)) if now.id != own.id => Err(ApiFailure::conflict(format!(
            "etcd is of another cluster ({}) than this agent ({}): give the agent its own etcd back",
            now.id, own.id
        ))),
        (Some(cluster), _) | (None, Some(cluster)) => Ok(cluster.id),
        (None, None) => Err(ApiFailure::conflict(
            "neither etcd nor this agent knows which cluster it is; ask the agent of another host",
        )),
    }
}
