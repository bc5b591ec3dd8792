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

use crate::records::{Availability, HostRecord, HostState};
use crate::snapshot::{ContainerView, Desired, Owner, Snapshot, Successor};

/// The placement rules that this code knows. All agents use the highest that every live host knows.
///
/// Version 2 spreads over the values of a label first, where a manifest asks for it.
pub const VERSIONS: &[u32] = &[1, 2];

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
    let mut load: Option<Load<'_>> = None;
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
#[derive(Default)]
struct Load<'a> {
    /// The rules by which it is weighed.
    version: u32,
    hosts: BTreeMap<HostName, HostLoad<'a>>,
    same: BTreeMap<(HostName, ContainerId), u32>,
    ports: BTreeMap<(HostName, u16, Protocol), SlotId>,
}

/// What one host has, and what it is.
#[derive(Default)]
struct HostLoad<'a> {
    containers: u32,
    cpu_millis: u64,
    memory: u64,
    labels: BTreeMap<&'a str, &'a str>,
}

impl<'a> Load<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut load = Self {
            version: version(snapshot),
            ..Self::default()
        };
        for (host, record) in snapshot.live() {
            let view = snapshot.hosts.get(host);
            load.hosts.insert(
                host.clone(),
                HostLoad {
                    containers: record.foreign,
                    labels: view.map(|view| view.labels()).unwrap_or_default(),
                    ..HostLoad::default()
                },
            );
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
        let of_host = self.hosts.entry(host.clone()).or_default();
        of_host.containers += 1;
        if let Some(manifest) = manifest {
            of_host.cpu_millis += u64::from(manifest.cpu_millis.unwrap_or_default());
            of_host.memory += manifest.memory.unwrap_or_default();
        }
        let same = (host.clone(), slot.container.clone());
        *self.same.entry(same).or_default() += 1;
        for service in manifest.into_iter().flat_map(|m| m.services.values()) {
            if let Some(port) = service.host_port {
                let at = (host.clone(), port, service.protocol);
                self.ports.insert(at, slot.clone());
            }
        }
    }

    fn same(&self, host: &HostName, id: &ContainerId) -> u32 {
        let key = (host.clone(), id.clone());
        self.same.get(&key).copied().unwrap_or_default()
    }

    fn label(&self, host: &HostName, label: &str) -> Option<&'a str> {
        self.hosts.get(host)?.labels.get(label).copied()
    }

    /// How many of the container are on hosts with each value of the label; hosts without it are one group.
    fn by_label(&self, id: &ContainerId, label: &str) -> BTreeMap<Option<&'a str>, u32> {
        let mut groups = BTreeMap::new();
        for host in self.hosts.keys() {
            *groups.entry(self.label(host, label)).or_default() += self.same(host, id);
        }
        groups
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
    load: &Load<'_>,
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
    let spread = wanted(container)
        .and_then(|m| m.placement.spread.as_deref())
        .filter(|_| load.version >= 2);
    let groups = spread.map(|label| (label, load.by_label(id, label)));
    eligible.sort_by_cached_key(|host| {
        let group = groups.as_ref().and_then(|(label, groups)| {
            let value = load.label(host, label);
            groups.get(&value).copied()
        });
        let all = load.hosts.get(host).map_or(0, |load| load.containers);
        (
            group,
            all,
            load.same(host, id),
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
    load: &Load<'_>,
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
    if record.disk_full {
        let used = record.disk.unwrap_or(100);
        return Some(format!("disk {used} %"));
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
    let wanted = wanted(container)?;
    if let Some(why) = unsuitable(load, record, wanted, &slot.container, host) {
        return Some(why);
    }
    for service in wanted.services.values() {
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

/// What the manifest asks for that this host does not have, or not any more.
fn unsuitable(
    load: &Load<'_>,
    record: &HostRecord,
    wanted: &Manifest,
    id: &ContainerId,
    host: &HostName,
) -> Option<String> {
    for constraint in &wanted.placement.constraints {
        let value = load.label(host, &constraint.label);
        if (value == Some(constraint.value.as_str())) != constraint.equal {
            let has = value.map_or_else(|| "is not set".to_owned(), |v| format!("is {v}"));
            return Some(format!(
                "{constraint} is asked for, and {} {has}",
                constraint.label
            ));
        }
    }
    if let Some(most) = wanted.placement.max_per_host
        && load.same(host, id) >= most
    {
        return Some(format!("it has {most} of it already (max_per_host)"));
    }
    let used = load.hosts.get(host);
    if let (Some(asks), total @ 1..) = (wanted.cpu_millis, record.capacity.cpu_millis) {
        let free = total.saturating_sub(used.map_or(0, |used| used.cpu_millis));
        if u64::from(asks) > free {
            return Some(format!(
                "{} of {} cpus are free, {} are asked for",
                cpus(free),
                cpus(total),
                cpus(u64::from(asks))
            ));
        }
    }
    if let (Some(asks), total @ 1..) = (wanted.memory, record.capacity.memory) {
        let free = total.saturating_sub(used.map_or(0, |used| used.memory));
        if asks > free {
            return Some(format!(
                "{} MiB of {} MiB memory are free, {} MiB are asked for",
                free >> 20,
                total >> 20,
                asks.div_ceil(1 << 20)
            ));
        }
    }
    None
}

fn cpus(millis: u64) -> f64 {
    millis as f64 / 1_000.0
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
