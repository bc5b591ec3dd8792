//! `why`: one container explained, from what is known and what the hosts answered. Pure.

use std::sync::Arc;

use manifests::{ContainerId, Manifest, SlotId};
use model::Snapshot;
use model::directory::{Directory, ServiceId};
use model::records::Phase;
use model::snapshot::{ContainerView, Desired};
use planner::placement;
use planner::rollout::Target;

use super::containers::container_row;
use super::inputs::{Filter, RowInputs};
use super::rows::merge;
use super::types::{SlotRow, Why, WhyEndpoint, WhyHost, WhyLink, WhySlot};

/// Explanation of a container; none if there is no such container.
pub fn why(inputs: RowInputs<'_>, id: &ContainerId) -> Option<Why> {
    let view = inputs.snapshot.containers.get(id)?;
    let (rows, _) = merge(inputs, &Filter::only(id));
    let manifest = match view.manifest.as_ref().map(|m| &m.value) {
        Some(Desired::Valid { manifest, .. }) => Some(manifest.clone()),
        _ => Target::of(view).map(|target| target.manifest().clone()),
    };
    Some(Why {
        container: container_row(inputs, id, view),
        slots: rows
            .into_iter()
            .map(|row| WhySlot {
                hosts: hosts(inputs, id, &row),
                row,
            })
            .collect(),
        without: without(inputs, id, view),
        links: manifest.map_or_else(Vec::new, |m| links(inputs, id, &m)),
        stale: false,
        notices: Vec::new(),
    })
}

/// Hosts that have no slot of a global container.
fn without(inputs: RowInputs<'_>, id: &ContainerId, view: &ContainerView) -> Vec<WhyHost> {
    let found = placement::without_slot(inputs.snapshot, id).into_iter();
    let mut found: Vec<WhyHost> = found
        .map(|(host, why)| WhyHost {
            host,
            eligible: false,
            reason: why.to_string(),
        })
        .collect();
    if view.is_global() {
        let missing = missing(inputs.snapshot);
        found.extend(missing.filter(|one| !view.has_host(&one.host)));
        found.sort_by(|one, other| one.host.cmp(&other.host));
    }
    found
}

/// Members that are not live.
fn missing(snapshot: &Snapshot) -> impl Iterator<Item = WhyHost> {
    let hosts = snapshot.hosts.iter();
    let missing = hosts.filter(|(_, view)| view.record.is_none() && view.member.is_some());
    missing.map(|(host, _)| WhyHost {
        host: host.clone(),
        eligible: false,
        reason: "it is missing".to_owned(),
    })
}

/// Reasons of all hosts: the owner, then eligible hosts, best first, then the others.
fn hosts(inputs: RowInputs<'_>, id: &ContainerId, row: &SlotRow) -> Vec<WhyHost> {
    let Some(slot) = row.slot.map(|number| id.slot(number)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let reported = |host| {
        inputs
            .answers
            .get(host)
            .and_then(|reasons| reasons.waiting.get(&slot))
    };
    let owner = row.host.as_ref();
    let has_live_owner = owner.is_some_and(|owner| inputs.snapshot.is_live(owner));
    if let Some(owner) = owner {
        let verb = if has_live_owner { "runs" } else { "has" };
        let has = match pinned(inputs, &slot) {
            Some(volumes) => format!("{verb} it; its volumes ({volumes}) pin it here"),
            None => format!("{verb} it"),
        };
        found.push(WhyHost {
            host: owner.clone(),
            eligible: has_live_owner,
            reason: match reported(owner) {
                _ if !has_live_owner => format!("{has}, but is missing"),
                Some(why) => format!("{has}: {why}"),
                None => has,
            },
        });
    }
    let Some(placed) = placement::explain(inputs.snapshot, &slot) else {
        return found;
    };
    let eligible = placed.order.iter().filter(|host| Some(*host) != owner);
    for (at, host) in eligible.enumerate() {
        let reason = match (reported(host), has_live_owner, at) {
            (Some(why), ..) => why.clone(),
            (None, true, _) => "could take it".to_owned(),
            (None, false, 0) => "is to take it".to_owned(),
            (None, false, _) => "could take it; another comes first".to_owned(),
        };
        found.push(WhyHost {
            host: host.clone(),
            eligible: true,
            reason,
        });
    }
    for (host, reason) in &placed.refused {
        if Some(host) != owner {
            let reason = reason.to_string();
            let reason = match reported(host) {
                Some(why) if !why.contains(reason.as_str()) => format!("{reason}; {why}"),
                _ => reason,
            };
            found.push(WhyHost {
                host: host.clone(),
                eligible: false,
                reason,
            });
        }
    }
    // No other host has to do with a slot of a global container.
    let is_global = |view: &Arc<ContainerView>| view.is_global();
    if !inputs.snapshot.containers.get(id).is_some_and(is_global) {
        let missing = missing(inputs.snapshot);
        found.extend(missing.filter(|one| Some(&one.host) != owner));
    }
    found
}

/// Local volumes that pin the slot.
fn pinned(inputs: RowInputs<'_>, slot: &SlotId) -> Option<String> {
    let data = inputs.snapshot.slot(slot)?.data.as_ref()?;
    Some(data.volumes.join(", "))
}

fn links(inputs: RowInputs<'_>, id: &ContainerId, manifest: &Manifest) -> Vec<WhyLink> {
    let targets = manifests::env::link_targets(manifest, &id.app);
    manifest
        .links
        .iter()
        .zip(targets)
        .map(|(link, target)| {
            let service = ServiceId {
                app: target.app,
                service: target.service,
            };
            let name = service.to_string();
            WhyLink {
                variable: format!("SERVICE_{}_ADDR", manifests::env::link_variable_name(link)),
                port: target.port,
                endpoints: endpoints(inputs.directory, &service),
                failures: inputs
                    .answers
                    .values()
                    .flat_map(|reasons| &reasons.links)
                    .filter(|failure| failure.caller.container == *id && failure.service == name)
                    .cloned()
                    .collect(),
                service: name,
            }
        })
        .collect()
}

fn endpoints(directory: &Directory, service: &ServiceId) -> Vec<WhyEndpoint> {
    let serving = directory.serving(service);
    let Some(all) = directory.endpoints(service) else {
        return Vec::new();
    };
    all.values()
        .map(|endpoint| {
            let serves = serving.iter().any(|s| std::ptr::eq(*s, endpoint));
            let reason = match (endpoint.phase, endpoint.live, serves) {
                (Phase::Ready, true, _) => None,
                (Phase::Ready, false, true) => {
                    Some("its host is missing, but no other is left".to_owned())
                }
                (Phase::Ready, false, false) => Some("its host is missing".to_owned()),
                (Phase::Unready, ..) => Some("not ready".to_owned()),
                (Phase::Leaving, ..) => Some("leaving".to_owned()),
                (Phase::Stopped, ..) => Some("stopped".to_owned()),
            };
            WhyEndpoint {
                slot: ContainerId::new(service.app.clone(), endpoint.container.clone())
                    .slot(endpoint.slot),
                host: endpoint.host.clone(),
                addr: endpoint.addr,
                port: endpoint.port,
                serving: serves,
                reason,
            }
        })
        .collect()
}
