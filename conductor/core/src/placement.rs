//! Which host gets an unclaimed slot: a pure function of the snapshot.
//!
//! Every agent computes the same answer from the same revision and claims its
//! own share at once. Fewest containers first, then fewest of the same
//! container, then rendezvous hash; its test vectors are fixed for ever,
//! because agents of different releases must agree.

use std::collections::{BTreeMap, BTreeSet};

use manifests::manifest::{Protocol, VolumeSource};
use manifests::{ContainerId, HostName, Manifest, SlotId};
use xxhash_rust::xxh3::xxh3_64;

use crate::records::{Availability, HostState};
use crate::snapshot::{ContainerView, Desired, Owner, Snapshot, Successor};

/// The placement rules that this code knows. All agents use the highest that every live host knows.
pub const VERSIONS: &[u32] = &[1];

/// A slot that nobody has, and who should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclaimed {
    /// The slot.
    pub slot: SlotId,
    /// Eligible hosts, best first.
    pub order: Vec<HostName>,
    /// Every other host and why not, by name.
    pub refused: Vec<(HostName, String)>,
}

/// The rules by which all agents place: the highest version that every live host knows, this one included.
pub fn version(snapshot: &Snapshot) -> u32 {
    VERSIONS
        .iter()
        .rev()
        .find(|version| {
            snapshot
                .live()
                .all(|(_, record)| record.versions.placement.contains(version))
        })
        .or(VERSIONS.first())
        .copied()
        .unwrap_or_default()
}

/// Places every unclaimed slot of the snapshot, in order of container and number, each on top of those before.
pub fn unclaimed(snapshot: &Snapshot) -> Vec<Unclaimed> {
    let mut found = Vec::new();
    let mut load: Option<Load> = None;
    for (id, container) in &snapshot.containers {
        let Some(scale) = container.scale() else {
            continue;
        };
        for number in 0..scale {
            if !snapshot.is_unclaimed(container.slots.get(&number)) {
                continue;
            }
            let load = load.get_or_insert_with(|| Load::of(snapshot));
            let placed = place(snapshot, load, id, container, number);
            if let Some(host) = placed.order.first() {
                load.add(host, &placed.slot, wanted(container));
            }
            found.push(placed);
        }
    }
    found
}

/// The next slot of each host that gives away what it has, and who should have it. One at a time and host: the next
/// one when the one before is ready where it goes. Slots that nobody can take stay for last.
pub fn handovers(snapshot: &Snapshot) -> Vec<Unclaimed> {
    let giving: BTreeSet<&HostName> = snapshot
        .live()
        .map(|(host, _)| host)
        .filter(|host| snapshot.availability(host).gives_away())
        .collect();
    if giving.is_empty() {
        return Vec::new();
    }
    let mut busy = BTreeSet::new();
    let mut slots: BTreeMap<&HostName, Vec<(&ContainerId, &ContainerView, u32)>> = BTreeMap::new();
    for (id, container) in &snapshot.containers {
        for (number, slot) in &container.slots {
            let Owner::Live(claim) = snapshot.owner(slot) else {
                continue;
            };
            if !giving.contains(&claim.host) || !container.is_wanted(*number) {
                continue;
            }
            if matches!(snapshot.successor(slot), Successor::Live(_)) {
                busy.insert(&claim.host);
            } else {
                let of_host = slots.entry(&claim.host).or_default();
                of_host.push((id, container, *number));
            }
        }
    }
    let mut load = Load::of(snapshot);
    let mut found = Vec::new();
    for (_, slots) in slots.into_iter().filter(|(host, _)| !busy.contains(host)) {
        let placed = slots
            .into_iter()
            .map(|(id, container, number)| {
                let placed = place(snapshot, &load, id, container, number);
                (placed, wanted(container))
            })
            .find(|(placed, _)| !placed.order.is_empty());
        if let Some((placed, manifest)) = placed {
            if let Some(host) = placed.order.first() {
                load.add(host, &placed.slot, manifest);
            }
            found.push(placed);
        }
    }
    found
}

/// Where one slot could go, as if nobody had it: for `why`.
pub fn explain(snapshot: &Snapshot, slot: &SlotId) -> Option<Unclaimed> {
    let container = snapshot.containers.get(&slot.container)?;
    Some(place(
        snapshot,
        &Load::of(snapshot),
        &slot.container,
        container,
        slot.slot,
    ))
}

/// Why a slot that nobody has stays so, in one line; none if some host may take it.
pub fn why_waiting(placed: &Unclaimed) -> Option<String> {
    if !placed.order.is_empty() {
        return None;
    }
    if placed.refused.is_empty() {
        return Some("no host is live".to_owned());
    }
    let reasons: Vec<String> = placed
        .refused
        .iter()
        .map(|(host, why)| format!("{host}: {why}"))
        .collect();
    Some(format!("no host is eligible: {}", reasons.join("; ")))
}

/// How much each host has, from one snapshot.
struct Load {
    all: BTreeMap<HostName, u32>,
    same: BTreeMap<(HostName, ContainerId), u32>,
    ports: BTreeMap<(HostName, u16, Protocol), SlotId>,
}

impl Load {
    fn of(snapshot: &Snapshot) -> Self {
        let mut load = Self {
            all: BTreeMap::new(),
            same: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        for (host, record) in snapshot.live() {
            load.all.insert(host.clone(), record.foreign);
        }
        for (id, container) in &snapshot.containers {
            for (number, slot) in &container.slots {
                // What a lost host has is nobody's load.
                let both = [&slot.claim, &slot.next].into_iter().flatten();
                for claim in both.filter(|claim| snapshot.is_live(&claim.host)) {
                    let manifest = container.manifest_of(claim.manifest_rev);
                    load.add(&claim.host, &id.slot(*number), manifest.map(AsRef::as_ref));
                }
            }
        }
        load
    }

    fn add(&mut self, host: &HostName, slot: &SlotId, manifest: Option<&Manifest>) {
        *self.all.entry(host.clone()).or_default() += 1;
        let same = (host.clone(), slot.container.clone());
        *self.same.entry(same).or_default() += 1;
        for service in manifest.into_iter().flat_map(|m| m.services.values()) {
            if let Some(port) = service.host_port {
                let at = (host.clone(), port, service.protocol);
                self.ports.insert(at, slot.clone());
            }
        }
    }
}

/// The manifest that a slot placed now will run.
fn wanted(container: &ContainerView) -> Option<&Manifest> {
    match &container.manifest.as_ref()?.value {
        Desired::Valid { manifest, .. } => Some(manifest),
        Desired::Invalid { .. } => None,
    }
}

fn place(
    snapshot: &Snapshot,
    load: &Load,
    id: &ContainerId,
    container: &ContainerView,
    number: u32,
) -> Unclaimed {
    let slot = id.slot(number);
    let mut eligible = Vec::new();
    let mut refused = Vec::new();
    for (host, _) in snapshot.live() {
        match refusal(snapshot, load, &slot, container, host) {
            None => eligible.push(host.clone()),
            Some(why) => refused.push((host.clone(), why)),
        }
    }
    let key = slot.to_string();
    eligible.sort_by_cached_key(|host| {
        let all = load.all.get(host).copied().unwrap_or_default();
        let same = load
            .same
            .get(&(host.clone(), id.clone()))
            .copied()
            .unwrap_or_default();
        (
            all,
            same,
            std::cmp::Reverse(rendezvous(&key, host.as_str())),
            host.clone(),
        )
    });
    Unclaimed {
        slot,
        order: eligible,
        refused,
    }
}

/// XXH3-64 of `<app>/<container>/<slot>\0<host>`: the highest wins.
pub fn rendezvous(slot: &str, host: &str) -> u64 {
    let mut text = Vec::with_capacity(slot.len() + 1 + host.len());
    text.extend_from_slice(slot.as_bytes());
    text.push(0);
    text.extend_from_slice(host.as_bytes());
    xxh3_64(&text)
}

/// Why this live host can't take the slot; none if it can.
fn refusal(
    snapshot: &Snapshot,
    load: &Load,
    slot: &SlotId,
    container: &ContainerView,
    host: &HostName,
) -> Option<String> {
    let view = snapshot.hosts.get(host)?;
    let record = view.record.as_ref()?;
    match record.state {
        HostState::Up => {}
        HostState::Restarting => return Some("its agent restarts".to_owned()),
        HostState::Hold => return Some("it is in hold: it distrusts its etcd".to_owned()),
    }
    match view.availability() {
        Availability::Active => {}
        Availability::Pause => return Some("it is paused".to_owned()),
        Availability::Drain => return Some("it is drained".to_owned()),
        Availability::Leave => return Some("it leaves the cluster".to_owned()),
    }
    if !record.engine {
        return Some("its Docker Engine does not answer".to_owned());
    }
    let manifest = container.manifest.as_ref()?;
    if let Some(unfit) = view.unfit.get(&slot.container)
        && unfit.manifest_rev == manifest.modified
    {
        return Some(format!("unfit: {}", unfit.reason));
    }
    if let Some(data) = container
        .slots
        .get(&slot.slot)
        .and_then(|s| s.data.as_ref())
        && data.host_id != record.id
    {
        return Some(format!("the slot's data is on {}", data.host));
    }
    for service in wanted(container)?.services.values() {
        let Some(port) = service.host_port else {
            continue;
        };
        let holder = load.ports.get(&(host.clone(), port, service.protocol));
        if let Some(holder) = holder.filter(|holder| *holder != slot) {
            return Some(format!("host port {port} is taken by {holder}"));
        }
    }
    None
}

/// The manifest has volumes that pin its slots to a host.
pub fn local_volumes(manifest: &Manifest) -> Vec<String> {
    manifest
        .volumes
        .iter()
        .filter_map(|v| match &v.source {
            VolumeSource::Named(name) => Some(name.clone()),
            VolumeSource::HostPath(_) | VolumeSource::External(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
