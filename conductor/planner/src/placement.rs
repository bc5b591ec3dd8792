//! Which host gets an unclaimed slot: a pure function of the snapshot.
//!
//! Every agent computes the same answer from the same revision and claims its
//! own share at once. Fewest containers first, then fewest of the same
//! container, then rendezvous hash; its test vectors are fixed for ever,
//! because agents of different releases must agree.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::manifest::{Constraint, Protocol};
use manifests::{ContainerId, HostName, Manifest, SlotId};
use xxhash_rust::xxh3::xxh3_64;

use crate::refusal::{Cpus, Refusal};
use crate::turn::Turn;
use crate::waiting::Waiting;

use model::records::{Availability, Data, HostRecord, HostState};
use model::snapshot::{ContainerView, Desired, HostView, Owner, Snapshot, Successor};

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
    /// Every other live host and why not, by name.
    pub refused: Vec<(HostName, Refusal)>,
}

impl Unclaimed {
    /// The turn of a host; none if it may not take the slot.
    pub(crate) fn turn(&self, host: &HostName) -> Option<Turn> {
        let before = self.order.iter().position(|one| one == host)?;
        Some(Turn::in_placement(before))
    }
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
    each_unclaimed(snapshot, |placed| found.push(placed.unclaimed()));
    found
}

/// As `unclaimed`, for who asks each slot for little.
pub(crate) fn each_unclaimed(snapshot: &Snapshot, mut visit: impl FnMut(&Placed<'_>)) {
    let mut load: Option<Load<'_>> = None;
    for (id, container) in &snapshot.containers {
        let Some(scale) = container.scale() else {
            continue;
        };
        let mut group: Option<Group<'_>> = None;
        for number in 0..scale {
            if !snapshot.is_unclaimed(container.slots.get(&number)) {
                continue;
            }
            let load = load.get_or_insert_with(|| Load::of(snapshot));
            let group = group.get_or_insert_with(|| Group::of(load, id, container));
            let placed = Placed::of(load, group, number);
            visit(&placed);
            if let Some(host) = placed.first() {
                let slot = placed.slot;
                load.add(host, &slot, group.wanted);
                group.same[host] += 1;
            }
        }
    }
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
    let mut groups: BTreeMap<&ContainerId, Group<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for (_, slots) in slots.into_iter().filter(|(host, _)| !busy.contains(host)) {
        for (id, container, number) in slots {
            let group = groups
                .entry(id)
                .or_insert_with(|| Group::of(&load, id, container));
            let placed = Placed::of(&load, group, number);
            let Some(host) = placed.first() else { continue };
            let placed = placed.unclaimed();
            load.add(host, &placed.slot, group.wanted);
            group.same[host] += 1;
            found.push(placed);
            break;
        }
    }
    found
}

/// Where one slot could go, as if nobody had it: for `why`.
pub fn explain(snapshot: &Snapshot, slot: &SlotId) -> Option<Unclaimed> {
    let container = snapshot.containers.get(&slot.container)?;
    let load = Load::of(snapshot);
    let group = Group::of(&load, &slot.container, container);
    Some(Placed::of(&load, &group, slot.slot).unclaimed())
}

/// Why a slot that nobody has stays so; none if some host may take it.
pub fn why_waiting(placed: &Unclaimed) -> Option<Waiting> {
    if !placed.order.is_empty() {
        return None;
    }
    if placed.refused.is_empty() {
        return Some(Waiting::NoHost);
    }
    Some(Waiting::Unplaceable(placed.refused.clone()))
}

/// How much each live host has, from one snapshot. A host is known by its position here.
struct Load<'a> {
    /// The rules by which it is weighed.
    version: u32,
    /// By name.
    hosts: Vec<HostLoad<'a>>,
}

/// What one host has, and what it is.
struct HostLoad<'a> {
    name: &'a HostName,
    view: &'a HostView,
    record: &'a HostRecord,
    labels: BTreeMap<&'a str, &'a str>,
    containers: u32,
    cpu_millis: u64,
    memory: u64,
    ports: BTreeMap<(u16, Protocol), SlotId>,
}

impl<'a> Load<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let live = |(name, view): (&'a HostName, &'a Arc<HostView>)| {
            let record = view.record.as_ref()?;
            Some(HostLoad {
                name,
                view,
                record,
                labels: view.labels(),
                containers: record.foreign,
                cpu_millis: 0,
                memory: 0,
                ports: BTreeMap::new(),
            })
        };
        let mut load = Self {
            version: version(snapshot),
            hosts: snapshot.hosts.iter().filter_map(live).collect(),
        };
        for (id, container) in &snapshot.containers {
            for (number, slot) in &container.slots {
                for claim in [&slot.claim, &slot.next].into_iter().flatten() {
                    // What a lost host has is nobody's load.
                    if let Some(host) = load.position(&claim.host) {
                        let manifest = container.manifest_of(claim.manifest_rev);
                        load.add(host, &id.slot(*number), manifest.map(AsRef::as_ref));
                    }
                }
            }
        }
        load
    }

    fn position(&self, host: &HostName) -> Option<usize> {
        self.hosts.binary_search_by(|one| one.name.cmp(host)).ok()
    }

    fn add(&mut self, host: usize, slot: &SlotId, manifest: Option<&Manifest>) {
        let host = &mut self.hosts[host];
        host.containers += 1;
        let Some(manifest) = manifest else { return };
        host.cpu_millis += u64::from(manifest.cpu_millis.unwrap_or_default());
        host.memory += manifest.memory.unwrap_or_default();
        for service in manifest.services.values() {
            if let Some(port) = service.host_port {
                host.ports.insert((port, service.protocol), slot.clone());
            }
        }
    }
}

/// One container, on all live hosts.
struct Group<'a> {
    id: &'a ContainerId,
    container: &'a ContainerView,
    wanted: Option<&'a Manifest>,
    /// Ports that it must have of its host.
    ports: Vec<(u16, Protocol)>,
    /// Whether a host may take it depends on what it has.
    is_choosy: bool,
    /// Why a host gets none of it, whatever it has.
    refused: Vec<Option<Refusal>>,
    /// How many of it each host has.
    same: Vec<u32>,
}

impl<'a> Group<'a> {
    fn of(load: &Load<'_>, id: &'a ContainerId, container: &'a ContainerView) -> Self {
        let wanted = wanted(container);
        let mut same = vec![0; load.hosts.len()];
        for slot in container.slots.values() {
            for claim in [&slot.claim, &slot.next].into_iter().flatten() {
                if let Some(host) = load.position(&claim.host) {
                    same[host] += 1;
                }
            }
        }
        let refused = |host| unsuitable(host, id, container, wanted);
        let ports: Vec<(u16, Protocol)> = wanted
            .into_iter()
            .flat_map(|manifest| manifest.services.values())
            .filter_map(|service| Some((service.host_port?, service.protocol)))
            .collect();
        let counts = |wanted: &Manifest| {
            wanted.placement.max_per_host.is_some()
                || wanted.cpu_millis.is_some()
                || wanted.memory.is_some()
        };
        Self {
            id,
            container,
            wanted,
            is_choosy: wanted.is_some_and(counts) || !ports.is_empty(),
            ports,
            refused: load.hosts.iter().map(refused).collect(),
            same,
        }
    }

    /// How many of it are where each host is, by the label's value; hosts without it are one group.
    fn spread(&self, load: &Load<'_>, label: &str) -> Vec<u32> {
        let mut groups: BTreeMap<Option<&str>, u32> = BTreeMap::new();
        let values: Vec<Option<&str>> = load
            .hosts
            .iter()
            .map(|host| host.labels.get(label).copied())
            .collect();
        for (value, same) in values.iter().zip(&self.same) {
            *groups.entry(*value).or_default() += same;
        }
        values.iter().map(|value| groups[value]).collect()
    }
}

/// A slot, and who may take it. What costs more is computed when it is asked for.
pub(crate) struct Placed<'p> {
    pub(crate) slot: SlotId,
    load: &'p Load<'p>,
    group: &'p Group<'p>,
    data: Option<&'p Data>,
    /// For the hash.
    key: String,
    eligible: Vec<Eligible>,
}

/// How good a host is for a slot, before the hash: the least is the best.
#[derive(Clone, Copy)]
struct Eligible {
    /// Of the container, where the host is, if it is to be spread.
    group: u32,
    all: u32,
    same: u32,
    host: usize,
}

impl Eligible {
    fn rank(self) -> (u32, u32, u32) {
        (self.group, self.all, self.same)
    }
}

impl<'p> Placed<'p> {
    fn of(load: &'p Load<'p>, group: &'p Group<'p>, number: u32) -> Self {
        let slot = group.id.slot(number);
        let view = group.container.slots.get(&number);
        let mut placed = Self {
            key: slot.to_string(),
            slot,
            load,
            group,
            data: view.and_then(|view| view.data.as_ref()).map(|d| &d.value),
            eligible: Vec::with_capacity(load.hosts.len()),
        };
        let spread = group
            .wanted
            .and_then(|manifest| manifest.placement.spread.as_deref())
            .filter(|_| load.version >= 2)
            .map(|label| group.spread(load, label));
        for (host, of_host) in load.hosts.iter().enumerate() {
            let depends = group.is_choosy || placed.data.is_some();
            if group.refused[host].is_none() && !(depends && placed.refusal(host).is_some()) {
                placed.eligible.push(Eligible {
                    group: spread.as_ref().map_or(0, |spread| spread[host]),
                    all: of_host.containers,
                    same: group.same[host],
                    host,
                });
            }
        }
        placed
    }

    /// Who should have it.
    fn first(&self) -> Option<usize> {
        let best = self.eligible.iter().map(|one| one.rank()).min()?;
        let best = |one: &&Eligible| one.rank() == best;
        let mut best = self.eligible.iter().filter(best).map(|one| one.host);
        let (first, second) = (best.next()?, best.next());
        if second.is_none() {
            return Some(first);
        }
        let others = second.into_iter().chain(best);
        std::iter::once(first)
            .chain(others)
            .min_by_key(|host| (Reverse(self.hash(*host)), *host))
    }

    /// The turn of a host; none if it may not take the slot.
    pub(crate) fn turn(&self, host: &HostName) -> Option<Turn> {
        let host = self.load.position(host)?;
        let own = self.eligible.iter().find(|one| one.host == host)?;
        let mut hash = None;
        let before = |one: &&Eligible| match one.rank().cmp(&own.rank()) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal if one.host == host => false,
            Ordering::Equal => {
                let own = *hash.get_or_insert_with(|| self.hash(host));
                (Reverse(self.hash(one.host)), one.host) < (Reverse(own), host)
            }
        };
        let before = self.eligible.iter().filter(before).count();
        Some(Turn::in_placement(before))
    }

    /// Why it stays as it is; none if some host may take it.
    pub(crate) fn why_waiting(&self) -> Option<Waiting> {
        if self.eligible.is_empty() {
            why_waiting(&self.unclaimed())
        } else {
            None
        }
    }

    /// All that can be said of it.
    fn unclaimed(&self) -> Unclaimed {
        let mut order = self.eligible.clone();
        order.sort_by_cached_key(|one| (one.rank(), Reverse(self.hash(one.host)), one.host));
        let name = |host: usize| self.load.hosts[host].name.clone();
        let refused = |host: usize| {
            let why = self.group.refused[host].clone();
            Some((name(host), why.or_else(|| self.refusal(host))?))
        };
        Unclaimed {
            slot: self.slot.clone(),
            order: order.into_iter().map(|one| name(one.host)).collect(),
            refused: (0..self.load.hosts.len()).filter_map(refused).collect(),
        }
    }

    fn hash(&self, host: usize) -> u64 {
        rendezvous(&self.key, self.load.hosts[host].name.as_str())
    }

    /// Why this host can't take this slot with what it has now.
    fn refusal(&self, host: usize) -> Option<Refusal> {
        let same = self.group.same[host];
        let host = &self.load.hosts[host];
        if let Some(data) = self.data
            && data.host_id != host.record.id
        {
            return Some(if data.host == *host.name {
                Refusal::DataOnFormerMachine(data.host.clone())
            } else {
                Refusal::DataOn(data.host.clone())
            });
        }
        let wanted = self.group.wanted?;
        if let Some(most) = wanted.placement.max_per_host
            && same >= most
        {
            return Some(Refusal::MaxPerHost(most));
        }
        let capacity = &host.record.capacity;
        if let (Some(asks), total @ 1..) = (wanted.cpu_millis, capacity.cpu_millis) {
            let free = total.saturating_sub(host.cpu_millis);
            if u64::from(asks) > free {
                return Some(Refusal::Cpus {
                    free: Cpus(free),
                    total: Cpus(total),
                    asked: Cpus(u64::from(asks)),
                });
            }
        }
        if let (Some(asks), total @ 1..) = (wanted.memory, capacity.memory) {
            let free = total.saturating_sub(host.memory);
            if asks > free {
                return Some(Refusal::Memory {
                    free: free >> 20,
                    total: total >> 20,
                    asked: asks.div_ceil(1 << 20),
                });
            }
        }
        for (port, protocol) in &self.group.ports {
            let holder = host.ports.get(&(*port, *protocol));
            if let Some(holder) = holder.filter(|holder| **holder != self.slot) {
                return Some(Refusal::HostPort(*port, holder.clone()));
            }
        }
        None
    }
}

/// The manifest that a slot placed now will run.
fn wanted(container: &ContainerView) -> Option<&Manifest> {
    match &container.manifest.as_ref()?.value {
        Desired::Valid { manifest, .. } => Some(manifest),
        Desired::Invalid { .. } => None,
    }
}

/// XXH3-64 of `<app>/<container>/<slot>\0<host>`: the highest wins.
pub fn rendezvous(slot: &str, host: &str) -> u64 {
    // No slot and no host is longer; one that were would only cost an allocation.
    let mut text = [0; 512];
    let (slot, host) = (slot.as_bytes(), host.as_bytes());
    let length = slot.len() + 1 + host.len();
    match text.get_mut(..length) {
        Some(text) => {
            text[..slot.len()].copy_from_slice(slot);
            text[slot.len() + 1..].copy_from_slice(host);
            xxh3_64(text)
        }
        None => xxh3_64(&[slot, &[0], host].concat()),
    }
}

/// Why this live host gets none of a container, whatever it has; none if it may.
fn unsuitable(
    host: &HostLoad<'_>,
    id: &ContainerId,
    container: &ContainerView,
    wanted: Option<&Manifest>,
) -> Option<Refusal> {
    match host.record.state {
        HostState::Up => {}
        HostState::Restarting => return Some(Refusal::Restarting),
        HostState::Hold => return Some(Refusal::Hold),
    }
    match host.view.availability() {
        Availability::Active => {}
        Availability::Pause => return Some(Refusal::Paused),
        Availability::Drain => return Some(Refusal::Drained),
        Availability::Leave => return Some(Refusal::Leaving),
    }
    if !host.record.engine {
        return Some(Refusal::EngineDown);
    }
    if host.record.disk_full {
        let used = host.record.disk.unwrap_or(100);
        return Some(Refusal::DiskFull(used));
    }
    let manifest = container.manifest.as_ref()?;
    if let Some(unfit) = host.view.unfit.get(id)
        && unfit.manifest_rev == manifest.modified
    {
        return Some(Refusal::Unfit(unfit.reason.clone()));
    }
    let constraint = unmet(&host.labels, wanted?)?;
    let (label, constraint) = (constraint.label.clone(), constraint.to_string());
    Some(match host.labels.get(label.as_str()) {
        None => Refusal::LabelMissing { constraint, label },
        Some(value) => Refusal::LabelDiffers {
            constraint,
            label,
            value: (*value).to_owned(),
        },
    })
}

/// The first constraint of a manifest that does not hold on a host with these labels.
pub(crate) fn unmet<'m>(
    labels: &BTreeMap<&str, &str>,
    manifest: &'m Manifest,
) -> Option<&'m Constraint> {
    manifest.placement.constraints.iter().find(|constraint| {
        let value = labels.get(constraint.label.as_str());
        (value == Some(&constraint.value.as_str())) != constraint.equal
    })
}

/// What a container asks for that does not hold any more on a host that runs it; it stays there all the same.
pub fn outlived(snapshot: &Snapshot, container: &ContainerView, host: &HostName) -> Option<String> {
    let labels = snapshot.hosts.get(host)?.labels();
    unmet(&labels, wanted(container)?).map(ToString::to_string)
}

#[cfg(test)]
mod tests;
