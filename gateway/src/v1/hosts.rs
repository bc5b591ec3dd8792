//! Operations on hosts: availability, labels, removal.
//!
//! Each write is guarded by what it was decided on. A host that is to leave
//! hands its slots over itself.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use manifests::keys::{self, Key};
use manifests::{HostName, SlotId, placement};
use model::ModRev;
use model::Snapshot;
use model::records::{Availability, Labels, Moved};
use model::snapshot::mod_rev;
use model::snapshot::{HostView, Rev};
use serde::Deserialize;
use store::kv::{KeyRange, Relation, Target};
use store::{Compare, Op};

use super::api::Api;
use super::overview;
use super::reply::{ApiFailure, ApiResult, JsonBody, PathParams, QueryParams};
use super::types::{HostData, HostDetail, HostRemoved, HostSettings, HostSlot, WantedAvailability};

/// Operations in one transaction; etcd takes 128 by default.
const AT_ONCE: usize = 100;
/// Tries when others write labels of the same host.
const ATTEMPTS: usize = 5;

/// `GET`: the host, and what depends on it.
pub(super) async fn detail(
    State(api): State<Api>,
    PathParams(host): PathParams<HostName>,
) -> ApiResult<HostDetail> {
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    Ok(Json(describe(&list.snapshot, &host, view)))
}

/// `PUT availability`: `active` deletes the key. A drain notes which slots the host had.
pub(super) async fn availability(
    State(api): State<Api>,
    PathParams(host): PathParams<HostName>,
    JsonBody(wanted): JsonBody<WantedAvailability>,
) -> ApiResult<HostSettings> {
    if wanted.returns && wanted.availability != Availability::Active {
        return Err(ApiFailure::bad("\"return\" goes with \"active\" only"));
    }
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    let key = Key::Availability(host.clone());
    let mut ops = vec![match wanted.availability {
        Availability::Active => Op::delete(&key),
        other => Op::put_json(&key, &other),
    }];
    let here: BTreeSet<SlotId> = movable(&list.snapshot, &host);
    let mut returns = Vec::new();
    match wanted.availability {
        Availability::Active if wanted.returns => {
            let (back, away) = view
                .moved
                .keys()
                .cloned()
                .partition(|slot| here.contains(slot));
            ops.extend(keys_of(&host, back).map(Op::delete));
            returns = away;
        }
        Availability::Active => ops.push(Op::Delete(KeyRange::prefix(&keys::moved(&host)))),
        Availability::Drain | Availability::DrainVolumes => {
            let notes = keys_of(&host, here.into_iter().collect());
            ops.extend(notes.map(|key| Op::put_json(key, &Moved {})));
        }
        Availability::Pause | Availability::Leave => {}
    }
    // What is wanted comes first.
    for some in ops.chunks(AT_ONCE) {
        let guards = vec![still_known(&host, view)];
        api.write(guards, some.to_vec()).await?;
    }
    Ok(Json(HostSettings {
        availability: wanted.availability,
        labels: overview::labels(view),
        changed: view.availability() != wanted.availability || !returns.is_empty(),
        returns,
        host,
    }))
}

/// The slots of a host that other hosts may have.
fn movable(snapshot: &Snapshot, host: &HostName) -> BTreeSet<SlotId> {
    let claimed = snapshot.known(snapshot.claimed_by(host));
    let may_move = claimed
        .filter(|(slot, container, _)| container.is_wanted(slot.slot) && !container.is_global());
    may_move.map(|(slot, ..)| slot.clone()).collect()
}

fn keys_of(host: &HostName, slots: Vec<SlotId>) -> impl Iterator<Item = Key> {
    let key = |slot| Key::Moved(host.clone(), slot);
    slots.into_iter().map(key)
}

/// `PATCH labels`: a value sets a label, `null` removes it, also one that the agent was started with.
pub(super) async fn labels(
    State(api): State<Api>,
    PathParams(host): PathParams<HostName>,
    JsonBody(changes): JsonBody<Labels>,
) -> ApiResult<HostSettings> {
    check_labels(&changes).map_err(ApiFailure::bad)?;
    for _ in 0..ATTEMPTS {
        let list = api.list().await?;
        let view = known(&list.snapshot, &host)?;
        let mut after = view.clone();
        let labels = changed_labels(view, &changes);
        if labels.len() > placement::MAX_LABELS {
            return Err(ApiFailure::bad(too_many(labels.len())));
        }
        let key = Key::Labels(host.clone());
        let seen = mod_rev(view.labels.as_ref());
        let guards = vec![still_known(&host, view), Compare::modified(&key, seen)];
        let op = match &labels {
            labels if labels.is_empty() => Op::delete(&key),
            labels => Op::put_json(&key, labels),
        };
        if api.try_write(guards, vec![op]).await? {
            after.labels = Some(Rev {
                value: labels,
                modified: seen,
                created: seen,
            });
            return Ok(Json(HostSettings {
                availability: view.availability(),
                labels: overview::labels(&after),
                changed: overview::labels(&after) != overview::labels(view),
                returns: Vec::new(),
                host,
            }));
        }
    }
    Err(ApiFailure::changed())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RemoveQuery {
    /// Revision of the membership that was shown.
    member: Option<i64>,
}

/// `DELETE`: of a host that is not live. Others take over its slots by themselves.
pub(super) async fn remove(
    State(api): State<Api>,
    PathParams(host): PathParams<HostName>,
    QueryParams(query): QueryParams<RemoveQuery>,
) -> ApiResult<HostRemoved> {
    let list = api.list().await?;
    let view = known(&list.snapshot, &host)?;
    if view.record.is_some() {
        return Err(ApiFailure::conflict(format!(
            "{host} is live: `dokkaa leave {host}` takes it out of the cluster"
        )));
    }
    let member = mod_rev(view.member.as_ref());
    if query.member.is_some_and(|shown| ModRev(shown) != member) {
        return Err(ApiFailure::changed());
    }
    let gone = || {
        vec![
            Compare::absent(Key::HostRecord(host.clone())),
            Compare::modified(Key::Member(host.clone()), member),
        ]
    };
    let pins: Vec<(SlotId, ModRev, Vec<String>)> = pins_of(&list.snapshot, view);
    let (early, last) = pins.split_at(pins.len().saturating_sub(AT_ONCE));
    // Membership last: after a failure the removal can be repeated.
    for some in early.chunks(AT_ONCE) {
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
    pins: &[(SlotId, ModRev, Vec<String>)],
    mut ops: Vec<Op>,
) -> Result<(), ApiFailure> {
    for (slot, modified, _) in pins {
        let key = Key::Data(slot.clone());
        guards.push(Compare::modified(&key, *modified));
        ops.push(Op::delete(&key));
    }
    api.write(guards, ops).await
}

/// The host; or an error that names the others.
fn known<'a>(snapshot: &'a Snapshot, host: &HostName) -> Result<&'a HostView, ApiFailure> {
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
    Err(ApiFailure::not_found(if names.is_empty() {
        format!("there is no host {host}, and no other")
    } else {
        format!("there is no host {host}; there is {}", names.join(", "))
    }))
}

/// Guard of a setting: its host has not been removed meanwhile.
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

/// The operator's labels after `changes`, without those that change nothing.
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

/// Labels that are set must be usable in constraints; any label can be removed.
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

/// Slots with data on this machine, each with the data key's revision and volumes.
fn pins_of(snapshot: &Snapshot, view: &HostView) -> Vec<(SlotId, ModRev, Vec<String>)> {
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
                // One of a global container goes nowhere: it ends here.
                let wanted = container.is_wanted(*number) && !container.is_global();
                let slot = id.slot(*number);
                let stuck = wanted.then(|| stuck(snapshot, host, &slot)).flatten();
                slots.push(HostSlot {
                    slot,
                    stuck,
                    global: container.is_global(),
                });
            }
        }
    }
    HostDetail {
        row: overview::host(snapshot, host, view, Some(slots.len() as u32)),
        live: view.record.is_some(),
        member: mod_rev(view.member.as_ref()).0,
        data: pins_of(snapshot, view)
            .into_iter()
            .map(|(slot, _, volumes)| HostData { slot, volumes })
            .collect(),
        moved: view.moved.keys().cloned().collect(),
        slots,
    }
}

/// Why no host but this one could take the slot.
fn stuck(snapshot: &Snapshot, host: &HostName, slot: &SlotId) -> Option<String> {
    let stays = snapshot.availability(host) != Availability::DrainVolumes;
    let data = snapshot.slot(slot).and_then(|slot| slot.data.as_ref());
    if let Some(data) = data.filter(|_| stays) {
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
