//! What operators want of hosts: availability, labels, and that one is forgotten.
//!
//! Each write is guarded by what it was decided on. How a host that leaves
//! gives its slots away is its agent's business; here is only said that it is to.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use manifests::keys::{self, Key};
use manifests::{HostName, SlotId, placement};
use model::Snapshot;
use model::records::{Availability, Labels};
use model::snapshot::{HostView, Rev};
use serde::Deserialize;
use store::kv::{KeyRange, Relation, Target};
use store::{Compare, Op};

use super::reply::{Asked, Failure, Named, Reply, Sent};
use super::types::{HostData, HostDetail, HostRemoved, HostSettings, HostSlot, WantedAvailability};
use super::{Api, overview};

/// Deletions in one transaction; etcd takes 128 operations by default.
const DELETIONS: usize = 100;
/// Somebody else may be writing labels of the same host.
const ATTEMPTS: usize = 5;

/// `GET`: the host, and what depends on it.
pub(super) async fn detail(
    State(api): State<Api>,
    Named(host): Named<HostName>,
) -> Reply<HostDetail> {
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    Ok(Json(describe(&list.snapshot, &host, view)))
}

/// `PUT availability`: `active` takes the key away.
pub(super) async fn availability(
    State(api): State<Api>,
    Named(host): Named<HostName>,
    Sent(wanted): Sent<WantedAvailability>,
) -> Reply<HostSettings> {
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    let key = Key::Availability(host.clone());
    let op = match wanted.availability {
        Availability::Active => Op::delete(&key),
        other => Op::put_json(&key, &other),
    };
    let reply = api.write(vec![still_known(&host, view)], vec![op]).await?;
    if !reply {
        return Err(Failure::changed());
    }
    Ok(Json(HostSettings {
        availability: wanted.availability,
        labels: labels_of(view),
        changed: view.availability() != wanted.availability,
        host,
    }))
}

/// `PATCH labels`: a value sets a label, `null` takes it away, also one that the agent was started with.
pub(super) async fn labels(
    State(api): State<Api>,
    Named(host): Named<HostName>,
    Sent(changes): Sent<Labels>,
) -> Reply<HostSettings> {
    check_labels(&changes).map_err(Failure::bad)?;
    for _ in 0..ATTEMPTS {
        let list = api.list().await?;
        let view = known(&list.snapshot, &host)?;
        let mut after = view.clone();
        let labels = changed_labels(view, &changes);
        if labels.len() > placement::MAX_LABELS {
            return Err(Failure::bad(too_many(labels.len())));
        }
        let key = Key::Labels(host.clone());
        let seen = view.labels.as_ref().map_or(0, |labels| labels.modified);
        let guards = vec![still_known(&host, view), Compare::modified(&key, seen)];
        let op = match &labels {
            labels if labels.is_empty() => Op::delete(&key),
            labels => Op::put_json(&key, labels),
        };
        if api.write(guards, vec![op]).await? {
            after.labels = Some(Rev {
                value: labels,
                modified: seen,
                created: seen,
            });
            return Ok(Json(HostSettings {
                availability: view.availability(),
                labels: labels_of(&after),
                changed: labels_of(&after) != labels_of(view),
                host,
            }));
        }
    }
    Err(Failure::changed())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RemoveQuery {
    /// Revision of the membership that was shown.
    member: Option<i64>,
}

/// `DELETE`: of a host that is not live. What it claims others take over by themselves.
pub(super) async fn remove(
    State(api): State<Api>,
    Named(host): Named<HostName>,
    Asked(query): Asked<RemoveQuery>,
) -> Reply<HostRemoved> {
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    if view.record.is_some() {
        return Err(Failure::conflict(format!(
            "{host} is live: `dokkaa leave {host}` takes it out of the cluster"
        )));
    }
    let member = view.member.as_ref().map_or(0, |member| member.modified);
    if query.member.is_some_and(|shown| shown != member) {
        return Err(Failure::changed());
    }
    let gone = || {
        vec![
            Compare::absent(Key::HostRecord(host.clone())),
            Compare::modified(Key::Member(host.clone()), member),
        ]
    };
    let pins: Vec<(SlotId, i64, Vec<String>)> = pins_of(&list.snapshot, view);
    let (early, last) = pins.split_at(pins.len().saturating_sub(DELETIONS));
    // The membership goes last: what breaks off before can be done again.
    for some in early.chunks(DELETIONS) {
        forget(&api, gone(), some, Vec::new()).await?;
    }
    let rest = vec![
        Op::delete(Key::Member(host.clone())),
        Op::Delete(KeyRange::prefix(&keys::host(&host))),
    ];
    forget(&api, gone(), last, rest).await?;
    let data = pins
        .into_iter()
        .map(|(slot, _, volumes)| HostData { slot, volumes })
        .collect();
    Ok(Json(HostRemoved { host, data }))
}

async fn forget(
    api: &Api,
    mut guards: Vec<Compare>,
    pins: &[(SlotId, i64, Vec<String>)],
    mut ops: Vec<Op>,
) -> Result<(), Failure> {
    for (slot, modified, _) in pins {
        let key = Key::Data(slot.clone());
        guards.push(Compare::modified(&key, *modified));
        ops.push(Op::delete(&key));
    }
    if api.write(guards, ops).await? {
        Ok(())
    } else {
        Err(Failure::changed())
    }
}

/// The host, or who is there instead.
fn known<'a>(snapshot: &'a Snapshot, host: &HostName) -> Result<&'a HostView, Failure> {
    let is_known = |view: &HostView| view.record.is_some() || view.member.is_some();
    if let Some(view) = snapshot.hosts.get(host).filter(|view| is_known(view)) {
        return Ok(view);
    }
    let names: Vec<&str> = snapshot
        .hosts
        .iter()
        .filter(|(_, view)| is_known(view))
        .map(|(name, _)| name.as_str())
        .collect();
    Err(Failure::not_found(if names.is_empty() {
        format!("there is no host {host}, and no other")
    } else {
        format!("there is no host {host}; there is {}", names.join(", "))
    }))
}

/// A setting outlives no host that was forgotten meanwhile.
fn still_known(host: &HostName, view: &HostView) -> Compare {
    let key = match view.member {
        Some(_) => Key::Member(host.clone()),
        None => Key::HostRecord(host.clone()),
    };
    Compare::new(
        KeyRange::key(key.to_string()),
        Relation::Greater,
        Target::Version(0),
    )
}

fn labels_of(view: &HostView) -> BTreeMap<String, String> {
    view.labels()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The operator's labels after `changes`: what says nothing new is left out.
fn changed_labels(view: &HostView, changes: &Labels) -> Labels {
    let started_with = view.record.as_ref().map(|record| &record.labels);
    let mut labels = view
        .labels
        .as_ref()
        .map_or_else(Labels::new, |labels| labels.value.clone());
    for (name, value) in changes {
        let hides = started_with.is_none_or(|labels| labels.contains_key(name));
        if value.is_some() || hides {
            labels.insert(name.clone(), value.clone());
        } else {
            labels.remove(name);
        }
    }
    labels
}

/// What is set is what a constraint can name; whatever is there can be taken away.
pub(super) fn check_labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > placement::MAX_LABELS {
        return Err(too_many(labels.len()));
    }
    for (name, value) in labels {
        let Some(value) = value else { continue };
        placement::check_label(name).map_err(|error| format!("label {error}"))?;
        placement::check_label_value(value).map_err(|error| format!("label `{name}` {error}"))?;
    }
    Ok(())
}

fn too_many(labels: usize) -> String {
    format!(
        "{labels} labels; expected at most {}",
        placement::MAX_LABELS
    )
}

/// The slots whose data is on this machine, each with the revision of that.
fn pins_of(snapshot: &Snapshot, view: &HostView) -> Vec<(SlotId, i64, Vec<String>)> {
    let member = view.member.as_ref().map(|member| member.id);
    let Some(machine) = member.or_else(|| view.record.as_ref().map(|record| record.id)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (id, container) in &snapshot.containers {
        for (number, slot) in &container.slots {
            if let Some(data) = slot.data.as_ref().filter(|data| data.host_id == machine) {
                found.push((id.slot(*number), data.modified, data.volumes.clone()));
            }
        }
    }
    found
}

fn describe(snapshot: &Snapshot, host: &HostName, view: &HostView) -> HostDetail {
    let mut slots = Vec::new();
    for (id, container) in &snapshot.containers {
        for (number, slot) in &container.slots {
            if slot.claim.as_ref().is_some_and(|claim| claim.host == *host) {
                let wanted = container.is_wanted(*number);
                let slot = id.slot(*number);
                let stuck = wanted.then(|| stuck(snapshot, host, &slot)).flatten();
                slots.push(HostSlot { slot, stuck });
            }
        }
    }
    HostDetail {
        row: overview::host(snapshot, host, view, Some(slots.len() as u32)),
        live: view.record.is_some(),
        member: view.member.as_ref().map_or(0, |member| member.modified),
        data: pins_of(snapshot, view)
            .into_iter()
            .map(|(slot, _, volumes)| HostData { slot, volumes })
            .collect(),
        slots,
    }
}

/// Why no host but this one could take the slot.
fn stuck(snapshot: &Snapshot, host: &HostName, slot: &SlotId) -> Option<String> {
    if let Some(data) = snapshot.slot(slot).and_then(|slot| slot.data.as_ref()) {
        let volumes = data.volumes.join(", ");
        return Some(format!("its data is on {} ({volumes})", data.host));
    }
    let placed = planner::placement::explain(snapshot, slot)?;
    if placed.order.iter().any(|other| other != host) {
        return None;
    }
    let reasons: Vec<String> = placed
        .refused
        .iter()
        .filter(|(other, _)| other != host)
        .map(|(other, why)| format!("{other}: {why}"))
        .collect();
    Some(if reasons.is_empty() {
        "there is no other live host".to_owned()
    } else {
        format!("no other host can run it: {}", reasons.join("; "))
    })
}
