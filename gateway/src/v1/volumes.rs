//! Local volumes: where they are, and how a slot gets rid of them.
//!
//! A slot with a local volume runs on the machine that its `data` key names,
//! and nowhere else. `release` forgets that and leaves the data; `remove`
//! deletes the data first. Neither touches the data of a container that exists.

use axum::Json;
use axum::extract::State;
use conductor_core::Snapshot;
use conductor_core::records::Data;
use conductor_core::snapshot::{Rev, SlotView};
use manifests::keys::Key;
use manifests::{AppName, ContainerId, ContainerName, HostName, SlotId};
use store::Compare;
use store::Op;
use uuid::Uuid;

use super::facilities::{Facilities, VolumeError};
use super::reply::{Asked, Failure, Named, Reply};
use super::rows::Filter;
use super::types::{PinReleased, Presence, VolumeRow, Volumes};
use super::{Api, SlotsQuery};

type Name = Named<(AppName, ContainerName, u32)>;

fn id(Named((app, container, slot)): Name) -> SlotId {
    ContainerId::new(app, container).slot(slot)
}

/// `GET`: every volume that pins a slot.
pub(super) async fn list(State(api): State<Api>, query: Asked<SlotsQuery>) -> Reply<Volumes> {
    let filter = query.filter()?;
    let seen = api.seen()?;
    Ok(Json(Volumes {
        volumes: rows(&seen.snapshot, &filter),
        revision: seen.snapshot.revision,
        stale: seen.stale,
    }))
}

/// Every local volume that etcd knows. Pure.
pub fn rows(snapshot: &Snapshot, filter: &Filter) -> Vec<VolumeRow> {
    let mut rows = Vec::new();
    let containers = snapshot.containers.iter();
    for (id, container) in containers.filter(|(id, _)| filter.takes(id)) {
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
                wanted: container.is_wanted(*number),
                claimed_by: slot.claim.as_ref().map(|claim| claim.host.clone()),
            }));
        }
    }
    rows
}

/// Whether the machine is there, and its present name.
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

/// `DELETE pins/…`: the slot may run anywhere; what is in the volumes stays behind.
pub(super) async fn release(State(api): State<Api>, name: Name) -> Reply<PinReleased> {
    let slot = id(name);
    let list = api.list().await?;
    let (view, data) = pinned(&list.snapshot, &slot)?;
    if let Some(why) = held_there(&list.snapshot, &slot, view, data) {
        return Err(Failure::conflict(why));
    }
    unpin(&api, &slot, view, data).await?;
    Ok(Json(released(slot, data, false)))
}

/// `DELETE volumes/…`: the data itself goes, where no container of the slot exists; then the pin.
pub(super) async fn remove(State(api): State<Api>, name: Name) -> Reply<PinReleased> {
    let slot = id(name);
    let list = api.list().await?;
    let (view, data) = pinned(&list.snapshot, &slot)?;
    if let Some(claim) = &view.claim {
        return Err(Failure::conflict(format!(
            "{} has {slot}: its volumes go only when it is removed or scaled down",
            claim.host
        )));
    }
    let host = match machine(&list.snapshot, data.host_id) {
        (Presence::Live, Some(host)) => host,
        (presence, host) => {
            return Err(Failure::conflict(format!(
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
                    VolumeError::InUse(_) => Failure::conflict(text),
                    VolumeError::Engine(_) | VolumeError::Unreachable(_) => Failure::gateway(text),
                }
            })?;
    }
    unpin(&api, &slot, view, data).await?;
    Ok(Json(released(slot, data, true)))
}

/// Removes a volume of a slot on this host, if no container of the slot exists here.
pub async fn remove_here(
    facilities: &dyn Facilities,
    slot: &SlotId,
    volume: &str,
) -> Result<(), VolumeError> {
    if let Some(container) = facilities.observed().of_slot(slot).next() {
        return Err(VolumeError::InUse(format!(
            "the container {} still exists",
            container.name
        )));
    }
    facilities.remove_volume(&slot.volume_name(volume)).await
}

impl Api {
    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), VolumeError> {
        if *host == self.facilities.host() {
            return remove_here(self.facilities.as_ref(), slot, volume).await;
        }
        match &self.peers {
            Some(peers) => peers.remove_volume(host, slot, volume).await,
            None => Err(VolumeError::Unreachable(
                "this agent has no peer door".to_owned(),
            )),
        }
    }
}

fn pinned<'a>(
    snapshot: &'a Snapshot,
    slot: &SlotId,
) -> Result<(&'a SlotView, &'a Rev<Data>), Failure> {
    snapshot
        .slot(slot)
        .and_then(|view| Some((view, view.data.as_ref()?)))
        .ok_or_else(|| Failure::not_found(format!("{slot} has no local volume anywhere")))
}

/// Why a released slot would be pinned to the same machine again at once.
fn held_there(snapshot: &Snapshot, slot: &SlotId, view: &SlotView, data: &Data) -> Option<String> {
    let host = &view.claim.as_ref()?.host;
    let host_view = snapshot.hosts.get(host)?;
    let record = host_view.record.as_ref()?;
    let stays = record.id == data.host_id && !host_view.availability().gives_away();
    stays.then(|| {
        format!(
            "{slot} runs on {host} with this data and would stay there; it goes elsewhere after \
             `dokkaa leave {host}`, or with `dokkaa rm --volumes` and a new start"
        )
    })
}

async fn unpin(api: &Api, slot: &SlotId, view: &SlotView, data: &Rev<Data>) -> Result<(), Failure> {
    let key = Key::Data(slot.clone());
    let claim = view.claim.as_ref().map_or(0, |claim| claim.modified);
    let guards = vec![
        Compare::modified(&key, data.modified),
        Compare::modified(Key::Claim(slot.clone()), claim),
    ];
    if api.write(guards, vec![Op::delete(&key)]).await? {
        Ok(())
    } else {
        Err(Failure::changed())
    }
}

fn released(slot: SlotId, data: &Data, removed: bool) -> PinReleased {
    PinReleased {
        slot,
        host: data.host.clone(),
        volumes: data.volumes.clone(),
        removed,
    }
}
