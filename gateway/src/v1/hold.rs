//! The end of a hold: what each host would do if etcd as it is now were accepted, and the acceptance.
//!
//! Agents that distrust their etcd change nothing. The same cluster id with a
//! higher epoch tells them that an operator has looked; that key is all that
//! is written here. What a host would stop, that host computes itself, from
//! etcd as it is and from what its engine shows.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use manifests::HostName;
use manifests::keys::Key;
use model::Snapshot;
use model::observed::Observed;
use model::records::{Claim, Cluster, HostRecord, HostState};
use model::snapshot::Desired;
use serde::Deserialize;
use store::{Compare, KvError, Op};
use uuid::Uuid;

use super::Api;
use super::facilities::Facilities;
use super::list::List;
use super::reply::{Asked, Failure, Reply};
use super::types::{Acceptance, HoldReport, HostHold, WouldStop};

/// What this host would do with its running containers under etcd as it is now.
///
/// A container whose manifest is there stops if its slot is not wanted or
/// belongs to another instance; one without a manifest is kept as an orphan;
/// the rest stays. `held` and `epoch` are the agent's to say.
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
            (Desired::Valid { manifest, .. }, _) if owner.slot.slot >= manifest.scale => {
                format!("the manifest wants {} slots only", manifest.scale)
            }
            (_, Some(claim)) if !ours(claim) && !next.is_some_and(|next| ours(next)) => {
                if claim.host == *host {
                    "etcd gives the slot to another instance on this host".to_owned()
                } else {
                    format!("etcd gives the slot to {}", claim.host)
                }
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

/// The report of this agent.
pub async fn report(facilities: &dyn Facilities) -> Result<HoldReport, KvError> {
    let list = List::read(facilities.kv().as_ref()).await?;
    Ok(HoldReport {
        held: facilities.hold(),
        epoch: facilities.cluster().map_or(0, |cluster| cluster.epoch),
        ..hold_report(&list.snapshot, &facilities.observed(), &facilities.host())
    })
}

/// `GET hold`.
pub(super) async fn own(State(api): State<Api>) -> Reply<HoldReport> {
    report(api.facilities.as_ref())
        .await
        .map(Json)
        .map_err(|error| Failure::etcd_read(&error))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct AcceptQuery {
    /// Revision of the cluster key that was shown; 0 is none.
    revision: i64,
}

/// `GET accept`: what accepting would mean, host by host.
pub(super) async fn look(State(api): State<Api>) -> Reply<Acceptance> {
    api.acceptance().await.map(Json)
}

/// `POST accept?revision=N`: the epoch rises, if the cluster key is still what was shown.
pub(super) async fn accept(
    State(api): State<Api>,
    Asked(query): Asked<AcceptQuery>,
) -> Reply<Acceptance> {
    let acceptance = api.acceptance().await?;
    let guards = vec![Compare::modified(Key::Cluster, query.revision)];
    let op = Op::put_json(Key::Cluster, &acceptance.cluster);
    if acceptance.revision != query.revision || !api.write(guards, vec![op]).await? {
        return Err(Failure::changed());
    }
    Ok(Json(Acceptance {
        accepted: true,
        ..acceptance
    }))
}

impl Api {
    async fn acceptance(&self) -> Result<Acceptance, Failure> {
        let list = self.list().await?;
        let now = list.snapshot.cluster.as_ref();
        let id = cluster_id(
            now.map(|now| &now.value),
            self.facilities.cluster().as_ref(),
        )?;
        let mut notices = Vec::new();
        let hosts = self.hold_reports(&list.snapshot, &mut notices).await;
        let says_hold = |record: &HostRecord| record.state == HostState::Hold;
        let held = hosts.iter().any(|host| host.report.held.is_some())
            || list
                .snapshot
                .live()
                .any(|(_, record)| says_hold(&record.value));
        if !held {
            return Err(Failure::conflict(
                "no host is in hold: there is nothing to accept",
            ));
        }
        let epochs = hosts.iter().map(|host| host.report.epoch);
        let epoch = epochs
            .chain(highest_epoch(&list.snapshot))
            .max()
            .unwrap_or_default();
        Ok(Acceptance {
            cluster: Cluster {
                id,
                epoch: epoch + 1,
            },
            revision: now.map_or(0, |now| now.modified),
            hosts,
            notices,
            accepted: false,
        })
    }

    /// What every host says that is live in etcd as it is or was when this agent last believed it.
    async fn hold_reports(&self, now: &Snapshot, notices: &mut Vec<String>) -> Vec<HostHold> {
        let own = self.facilities.host();
        let before = self.facilities.snapshot().map(|seen| seen.snapshot);
        let mut names: BTreeSet<HostName> = now.live().map(|(host, _)| host.clone()).collect();
        if let Some(snapshot) = &before {
            names.extend(snapshot.live().map(|(host, _)| host.clone()));
        }
        names.insert(own.clone());
        let asked = names.into_iter().map(|host| {
            let own = &own;
            async move {
                let answer = match &self.peers {
                    _ if host == *own => report(self.facilities.as_ref())
                        .await
                        .map_err(|error| error.to_string()),
                    Some(peers) => peers.hold(&host).await,
                    None => Err("this agent has no peer door".to_owned()),
                };
                (host, answer)
            }
        });
        let mut hosts = Vec::new();
        for (host, answer) in join_all(asked).await {
            match answer {
                Ok(report) => hosts.push(HostHold { host, report }),
                Err(why) => notices.push(format!("host {host} does not answer: {why}")),
            }
        }
        hosts
    }
}

/// The highest epoch that etcd speaks of.
pub(super) fn highest_epoch(snapshot: &Snapshot) -> impl Iterator<Item = u64> {
    let records = snapshot.live().map(|(_, record)| record.epoch);
    let cluster = snapshot.cluster.iter().map(|cluster| cluster.epoch);
    records.chain(cluster)
}

/// The id of the cluster that etcd is to be of.
fn cluster_id(now: Option<&Cluster>, own: Option<&Cluster>) -> Result<Uuid, Failure> {
    match (now, own) {
        (Some(now), Some(own)) if now.id != own.id => Err(Failure::conflict(format!(
            "etcd is of another cluster ({}) than this agent ({}): give the agent its own etcd back",
            now.id, own.id
        ))),
        (Some(cluster), _) | (None, Some(cluster)) => Ok(cluster.id),
        (None, None) => Err(Failure::conflict(
            "neither etcd nor this agent knows which cluster it is; ask the agent of another host",
        )),
    }
}
