//! Load of the live hosts, and those of them that may take a container at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::manifest::Protocol;
use manifests::{ContainerId, HostName, Manifest, SlotId};
use model::records::{Availability, Data, HostRecord, HostState};
use model::snapshot::{ContainerView, HostView, Snapshot, unmet};

use crate::refusal::Refusal;

/// The placement rules that this code knows. All agents use the highest that every live host knows.
///
/// Version 2 spreads over the values of a label first, where a manifest asks for it.
pub const VERSIONS: &[u32] = &[1, 2];

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

/// Number of containers of a host: those that others have started there, and the slots that it has or is to have.
pub(super) fn containers(snapshot: &Snapshot, host: &HostName, record: &HostRecord) -> u32 {
    record.foreign + snapshot.held_by(host) as u32
}

/// Load of each live host, from one snapshot. A host is known by its position here.
pub(super) struct Load<'a> {
    /// The rules by which it is weighed.
    pub(super) version: u32,
    /// By name.
    pub(super) hosts: Vec<HostLoad<'a>>,
    /// So many slots have been added to it.
    added: usize,
    snapshot: &'a Snapshot,
    /// What slots take of their hosts is in it, beside their number.
    is_weighed: bool,
}

/// A host and its load.
pub(super) struct HostLoad<'a> {
    pub(super) name: &'a HostName,
    pub(super) view: &'a HostView,
    pub(super) record: &'a HostRecord,
    pub(super) labels: BTreeMap<&'a str, &'a str>,
    pub(super) containers: u32,
    pub(super) cpu_millis: u64,
    pub(super) memory: u64,
    pub(super) ports: BTreeMap<(u16, Protocol), SlotId>,
}

impl<'a> Load<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let live = |(name, view): (&'a HostName, &'a Arc<HostView>)| {
            let record = view.record.as_ref()?;
            Some(HostLoad {
                name,
                view,
                record,
                labels: view.labels(),
                containers: containers(snapshot, name, record),
                cpu_millis: 0,
                memory: 0,
                ports: BTreeMap::new(),
            })
        };
        Self {
            version: version(snapshot),
            hosts: snapshot.hosts.iter().filter_map(live).collect(),
            added: 0,
            snapshot,
            is_weighed: false,
        }
    }

    /// Takes in what slots take of their hosts. Only containers that ask for some of it need that; what was added
    /// before has none.
    fn weigh(&mut self) {
        if std::mem::replace(&mut self.is_weighed, true) {
            return;
        }
        let snapshot = self.snapshot;
        for host in &mut self.hosts {
            for (slot, container, view) in snapshot.known(snapshot.claimed_by(host.name)) {
                let claim = view.claim.as_ref();
                host.takes(
                    slot,
                    claim
                        .and_then(|claim| container.manifest_of(claim.version))
                        .map(AsRef::as_ref),
                );
            }
            for (slot, container, view) in snapshot.known(snapshot.coming_to(host.name)) {
                let next = view.next.as_ref();
                host.takes(
                    slot,
                    next.and_then(|next| container.manifest_of(next.version))
                        .map(AsRef::as_ref),
                );
            }
        }
    }

    pub(super) fn position(&self, host: &HostName) -> Option<usize> {
        self.hosts.binary_search_by(|one| one.name.cmp(host)).ok()
    }

    /// The machine with this data is drained, and what has it there goes without it.
    pub(super) fn leaves_behind(&self, data: &Data) -> bool {
        let mut hosts = self.hosts.iter();
        let machine = hosts.find(|host| host.record.id == data.host_id);
        machine.is_some_and(|host| host.view.availability() == Availability::DrainVolumes)
    }

    fn add(&mut self, host: usize, slot: &SlotId, manifest: Option<&Manifest>) {
        self.added += 1;
        let host = &mut self.hosts[host];
        host.containers += 1;
        host.takes(slot, manifest);
    }
}

impl HostLoad<'_> {
    fn takes(&mut self, slot: &SlotId, manifest: Option<&Manifest>) {
        let Some(manifest) = manifest else { return };
        self.cpu_millis += u64::from(manifest.cpu_millis.unwrap_or_default());
        self.memory += manifest.memory.unwrap_or_default();
        for service in manifest.services.values() {
            if let Some(port) = service.host_port {
                self.ports.insert((port, service.protocol), slot.clone());
            }
        }
    }
}

/// Rank of a host for a slot, before the hash: the least is the best.
#[derive(Clone, Copy)]
pub(super) struct Eligible {
    /// Of the container, where the host is, if it is to be spread.
    pub(super) group: u32,
    pub(super) all: u32,
    pub(super) same: u32,
    pub(super) host: usize,
}

impl Eligible {
    pub(super) fn rank(self) -> (u32, u32, u32) {
        (self.group, self.all, self.same)
    }
}

/// One container, on all live hosts.
pub(super) struct Group<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) container: &'a ContainerView,
    pub(super) wanted: Option<&'a Manifest>,
    /// Ports that it must have of its host.
    pub(super) ports: Vec<(u16, Protocol)>,
    /// Its load decides whether a host may take it.
    pub(super) is_choosy: bool,
    /// Reason for which each host gets none of it, whatever its load.
    pub(super) refused: Vec<Option<Refusal>>,
    /// Number of its slots on each host.
    pub(super) same: Vec<u32>,
    /// The hosts that are not refused, and how they stand with this load, if it is not spread.
    stands: Vec<Eligible>,
    /// So many slots had been added to the load then.
    as_of: usize,
}

impl<'a> Group<'a> {
    pub(super) fn of(
        load: &mut Load<'_>,
        id: &'a ContainerId,
        container: &'a ContainerView,
    ) -> Self {
        let wanted = container.wanted();
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
        let weighs = !ports.is_empty()
            || wanted.is_some_and(|wanted| wanted.cpu_millis.is_some() || wanted.memory.is_some());
        if weighs {
            load.weigh();
        }
        let counts = |wanted: &Manifest| wanted.placement.max_per_host.is_some();
        let mut group = Self {
            id,
            container,
            wanted,
            is_choosy: weighs || wanted.is_some_and(counts),
            ports,
            refused: load.hosts.iter().map(refused).collect(),
            same,
            stands: Vec::new(),
            as_of: load.added,
        };
        let hosts = (0..load.hosts.len()).filter(|host| group.refused[*host].is_none());
        group.stands = hosts.map(|host| group.stand(load, host)).collect();
        group
    }

    /// How a host stands, but for the spread.
    pub(super) fn stand(&self, load: &Load<'_>, host: usize) -> Eligible {
        Eligible {
            group: 0,
            all: load.hosts[host].containers,
            same: self.same[host],
            host,
        }
    }

    /// How the hosts stand that are not refused, but for the spread; none if the load has changed for other containers
    /// since.
    pub(super) fn stands(&self, load: &Load<'_>) -> Option<&[Eligible]> {
        (self.as_of == load.added).then_some(&self.stands[..])
    }

    /// A host gets one more of its slots.
    pub(super) fn place(&mut self, load: &mut Load<'_>, host: usize, slot: &SlotId) {
        let is_current = self.as_of == load.added;
        load.add(host, slot, self.wanted);
        self.same[host] += 1;
        if !is_current {
            return;
        }
        self.as_of = load.added;
        if let Ok(at) = self.stands.binary_search_by_key(&host, |one| one.host) {
            self.stands[at] = self.stand(load, host);
        }
    }

    /// One of its slots may go from one host to another without being spread less evenly.
    pub(super) fn may_leave(&self, load: &Load<'_>, from: usize, to: usize) -> bool {
        let label = self
            .wanted
            .and_then(|manifest| manifest.placement.spread.as_deref());
        label.is_none_or(|label| {
            let value = |host: usize| load.hosts[host].labels.get(label);
            let spread = self.spread(load, label);
            value(from) == value(to) || spread[to] < spread[from]
        })
    }

    /// Number of its slots at the label's value of each host; hosts without the label are one group.
    pub(super) fn spread(&self, load: &Load<'_>, label: &str) -> Vec<u32> {
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

/// Reason for which this live host gets none of a container, whatever its load; none if it may.
pub(super) fn unsuitable(
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
        Availability::Drain | Availability::DrainVolumes => return Some(Refusal::Drained),
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
