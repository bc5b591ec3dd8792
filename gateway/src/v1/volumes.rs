//! Local volumes: listed, adopted, released, removed.
//!
//! A slot with a local volume is pinned to the machine in its `data` key.
//! `adopt` pins it to a host that has volumes of its name, whoever made them.
//! `release` deletes the pin and leaves the volumes; `remove` deletes the
//! volumes first. None touches the volumes of a container that exists.

use model::snapshot::mod_rev;
use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use manifests::keys::Key;
use manifests::{AppName, ContainerId, ContainerName, HostName, SlotId};
use model::Snapshot;
use model::records::Data;
use model::snapshot::{Rev, SlotView};
use serde::Deserialize;
use store::Compare;
use store::Op;
use uuid::Uuid;

use super::agent::{AgentHandle, HostError, Peers};
use super::api::{Api, ask_hosts};
use super::inputs::Filter;
use super::reply::{ApiFailure, ApiResult, FilterParams, PathParams, QueryParams};
use super::types::{PinReleased, Presence, VolumeRow, VolumeState, Volumes, VolumesAdopted};

/// Query of `adopt`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AdoptQuery {
    host: Option<HostName>,
}

type Name = PathParams<(AppName, ContainerName, u32)>;

fn id(PathParams((app, container, slot)): Name) -> SlotId {
    ContainerId::new(app, container).slot(slot)
}

/// `GET`: all local volumes.
pub(super) async fn list(
    State(api): State<Api>,
    FilterParams(filter): FilterParams,
) -> ApiResult<Volumes> {
    let view = api.view()?;
    let mut volumes = rows(&view.snapshot, &filter);
    let mut notices = Vec::new();
    let hosts: BTreeSet<HostName> = volumes
        .iter()
        .filter(|row| row.presence == Presence::Live)
        .map(|row| row.host.clone())
        .collect();
    let ask = async |host| {
        let names = api.volumes_on(&host).await;
        names.map_err(|error| error.to_string())
    };
    let found: BTreeMap<_, _> = ask_hosts(hosts, ask, &mut notices)
        .await
        .into_iter()
        .collect();
    for row in &mut volumes {
        row.state = match (found.get(&row.host), row.state) {
            (Some(names), _) if names.contains(&row.docker) => VolumeState::Present,
            (Some(_), state) => state,
            (None, _) => VolumeState::Unknown,
        };
    }
    Ok(Json(Volumes {
        volumes,
        revision: view.snapshot.revision,
        stale: view.stale,
        notices,
    }))
}

/// Local volumes in etcd, with their state if missing on the host. Pure.
fn rows(snapshot: &Snapshot, filter: &Filter) -> Vec<VolumeRow> {
    let mut rows = Vec::new();
    let containers = snapshot.containers.iter();
    for (id, container) in containers.filter(|(id, _)| filter.matches(id)) {
        for (number, slot) in &container.slots {
            let Some(data) = &slot.data else { continue };
            let (presence, host) = machine(snapshot, data.host_id);
            let mut volumes: Vec<&String> = data.volumes.iter().collect();
            volumes.sort();
            rows.extend(volumes.into_iter().map(|volume| VolumeRow {
                app: id.app.clone(),
                container: id.container.clone(),
                slot: *number,
                volume: volume.clone(),
                docker: id.slot(*number).volume_name(volume),
                host: host.unwrap_or(&data.host).clone(),
                host_id: data.host_id,
                presence,
                state: if data.existing.contains(volume) {
                    VolumeState::Lost
                } else {
                    VolumeState::NotCreated
                },
                wanted: container.is_wanted(*number),
                claimed_by: slot.claim.as_ref().map(|claim| claim.host.clone()),
            }));
        }
    }
    rows
}

/// Presence of a machine, and its present name.
fn machine(snapshot: &Snapshot, id: Uuid) -> (Presence, Option<&HostName>) {
    if let Some((host, _)) = snapshot.live().find(|(_, record)| record.id == id) {
        return (Presence::Live, Some(host));
    }
    let member = snapshot
        .hosts
        .iter()
        .find(|(_, view)| view.member.as_ref().is_some_and(|member| member.id == id));
    match member {
        Some((host, _)) => (Presence::Missing, Some(host)),
        None => (Presence::Gone, None),
    }
}

/// `DELETE pins/…`: the slot may run anywhere; its volumes stay behind.
pub(super) async fn release(State(api): State<Api>, name: Name) -> ApiResult<PinReleased> {
    let slot = id(name);
    let list = api.list().await?;
    let (view, data) = pinned(&list.snapshot, &slot)?;
    if let Some((host, why)) = held_there(&list.snapshot, &slot, view, data)
        && !api.has_lost(host, &slot, data).await
    {
        return Err(ApiFailure::conflict(why));
    }
    unpin(&api, &slot, view, data).await?;
    Ok(Json(released(slot, data, false)))
}

/// `DELETE volumes/…`: removes the volumes, unless a container of the slot exists, then the pin.
pub(super) async fn remove(State(api): State<Api>, name: Name) -> ApiResult<PinReleased> {
    let slot = id(name);
    let list = api.list().await?;
    let (view, data) = pinned(&list.snapshot, &slot)?;
    if let Some(claim) = &view.claim {
        return Err(ApiFailure::conflict(format!(
            "{} owns {slot}: its volumes can be removed only after it is removed or scaled down",
            claim.host
        )));
    }
    let host = match machine(&list.snapshot, data.host_id) {
        (Presence::Live, Some(host)) => host,
        (presence, host) => {
            return Err(ApiFailure::conflict(format!(
                "the data of {slot} is on {}, which is {presence}: it is removed when that host is back, or \
                 given up by `dokkaa volumes release {slot}`",
                host.unwrap_or(&data.host)
            )));
        }
    };
    for volume in &data.volumes {
        api.remove_volume(host, &slot, volume)
            .await
            .map_err(|error| {
                let text = format!("{host}: volume {}: {error}", slot.volume_name(volume));
                match error {
                    HostError::InUse(_) => ApiFailure::conflict(text),
                    _ => ApiFailure::gateway(text),
                }
            })?;
    }
    unpin(&api, &slot, view, data).await?;
    Ok(Json(released(slot, data, true)))
}

/// Removes a volume of a slot on this host, if no container of the slot exists here.
pub async fn remove_here(
    agent: &dyn AgentHandle,
    slot: &SlotId,
    volume: &str,
) -> Result<(), HostError> {
    if let Some(container) = agent.observed().of_slot(slot).next() {
        return Err(HostError::InUse(format!(
            "the container {} still exists",
            container.name
        )));
    }
    agent.remove_volume(&slot.volume_name(volume)).await
}

/// `PUT pins/…`: pins the slot to the host that has volumes of its name, whoever made them.
pub(super) async fn adopt(
    State(api): State<Api>,
    name: Name,
    QueryParams(AdoptQuery { host }): QueryParams<AdoptQuery>,
) -> ApiResult<VolumesAdopted> {
    let slot = id(name);
    let list = api.list().await?;
    let snapshot = &list.snapshot;
    let none = SlotView::default();
    let view = snapshot.slot(&slot).unwrap_or(&none);
    let pinned = view.data.as_ref();
    let there = pinned.and_then(|data| machine(snapshot, data.host_id).1);
    let Some(host) = host.as_ref().or(there) else {
        return Err(ApiFailure::bad(format!(
            "it is not known which host has the volumes of {slot}; name it (--host)"
        )));
    };
    if let Some(claim) = view.claim.as_ref().filter(|claim| claim.host != *host) {
        return Err(ApiFailure::conflict(format!("{} owns {slot}", claim.host)));
    }
    let Some((_, record)) = snapshot.live().find(|(live, _)| *live == host) else {
        return Err(ApiFailure::conflict(format!("host {host} is missing")));
    };
    let names = api.volumes_on(host).await;
    let names = names.map_err(|error| ApiFailure::gateway(format!("{host}: {error}")))?;
    let here = pinned.filter(|data| data.host_id == record.id);
    let data = adopted(&slot, host, record.id, here.map(|data| &data.value), &names);
    if data.existing.is_empty() {
        let name = slot.volume_name("…");
        return Err(ApiFailure::conflict(format!("{host} has no volume {name}")));
    }
    let key = Key::Data(slot.clone());
    let guards = vec![
        Compare::modified(&key, mod_rev(pinned)),
        Compare::modified(Key::Claim(slot.clone()), mod_rev(view.claim.as_ref())),
    ];
    api.write(guards, vec![Op::put_json(&key, &data)]).await?;
    Ok(Json(VolumesAdopted {
        slot,
        host: data.host,
        volumes: data.existing,
    }))
}

/// Pin to the volumes of the slot's name on a host. Volumes of an existing pin that are missing there stay lost.
fn adopted(
    slot: &SlotId,
    host: &HostName,
    host_id: Uuid,
    pinned: Option<&Data>,
    names: &BTreeSet<String>,
) -> Data {
    let prefix = slot.volume_name("");
    let found: Vec<String> = names
        .iter()
        .filter_map(|name| name.strip_prefix(&prefix))
        .map(ToOwned::to_owned)
        .collect();
    let Some(data) = pinned else {
        return Data {
            host: host.clone(),
            host_id,
            volumes: found.clone(),
            existing: found,
            driver: None,
        };
    };
    let exists = |name: &&String| data.existing.contains(name) || found.contains(name);
    Data {
        existing: data.volumes.iter().filter(exists).cloned().collect(),
        // Whatever was made there before has ended, says who adopts them.
        driver: None,
        ..data.clone()
    }
}

impl Api {
    /// Docker's names of the volumes on a host.
    async fn volumes_on(&self, host: &HostName) -> Result<BTreeSet<String>, HostError> {
        if *host == self.agent.host() {
            return self.agent.volume_names().await;
        }
        self.peers()?.volume_names(host).await
    }

    /// A volume of the slot is missing on the host.
    async fn has_lost(&self, host: &HostName, slot: &SlotId, data: &Data) -> bool {
        let names = self.volumes_on(host).await;
        names.is_ok_and(|names| {
            let mut existing = data.existing.iter();
            existing.any(|volume| !names.contains(&slot.volume_name(volume)))
        })
    }

    fn peers(&self) -> Result<&dyn Peers, HostError> {
        let none = || HostError::Unreachable("this agent has no peer listener".to_owned());
        self.peers.as_deref().ok_or_else(none)
    }

    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), HostError> {
        if *host == self.agent.host() {
            return remove_here(self.agent.as_ref(), slot, volume).await;
        }
        self.peers()?.remove_volume(host, slot, volume).await
    }
}

fn pinned<'a>(
    snapshot: &'a Snapshot,
    slot: &SlotId,
) -> Result<(&'a SlotView, &'a Rev<Data>), ApiFailure> {
    snapshot
        .slot(slot)
        .and_then(|view| Some((view, view.data.as_ref()?)))
        .ok_or_else(|| ApiFailure::not_found(format!("{slot} has no local volume anywhere")))
}

/// The host that would pin a released slot again at once, and why it is not released.
fn held_there<'a>(
    snapshot: &Snapshot,
    slot: &SlotId,
    view: &'a SlotView,
    data: &Data,
) -> Option<(&'a HostName, String)> {
    let host = &view.claim.as_ref()?.host;
    let host_view = snapshot.hosts.get(host)?;
    let record = host_view.record.as_ref()?;
    let stays = record.id == data.host_id && !host_view.availability().gives_away();
    stays.then(|| {
        let why = format!(
            "{slot} runs on {host} with this data and would stay there; it goes elsewhere after \
             `dokkaa leave {host}`, or with `dokkaa rm --volumes` and a new start"
        );
        (host, why)
    })
}

async fn unpin(
    api: &Api,
    slot: &SlotId,
    view: &SlotView,
    data: &Rev<Data>,
) -> Result<(), ApiFailure> {
    let key = Key::Data(slot.clone());
    let claim = mod_rev(view.claim.as_ref());
    let guards = vec![
        Compare::modified(&key, data.modified),
        Compare::modified(Key::Claim(slot.clone()), claim),
    ];
    api.write(guards, vec![Op::delete(&key)]).await
}

fn released(slot: SlotId, data: &Data, removed: bool) -> PinReleased {
    PinReleased {
        slot,
        host: data.host.clone(),
        volumes: data.volumes.clone(),
        removed,
    }
}
