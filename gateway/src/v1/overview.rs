//! `hosts` and `status`: the snapshot in a few rows. Pure.

use model::VersionId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manifests::HostName;
use model::records::{Availability, HostRecord, HostState};
use model::snapshot::{HostView, Snapshot};

use super::agent::ClusterView;
use super::types::{
    AppContainer, AppRow, ClusterStatus, ContainerRow, HostRow, SlotRow, SlotStatus, Unreadable,
};

/// Keys that are no records, and are each a line of `status`.
const MOST_UNREADABLE: usize = 3;

/// Live hosts and members, by name.
pub fn hosts(snapshot: &Snapshot) -> Vec<HostRow> {
    let mut slots: BTreeMap<&HostName, u32> = BTreeMap::new();
    for view in snapshot.containers.values() {
        for claim in view.slots.values().filter_map(|s| s.claim.as_ref()) {
            *slots.entry(&claim.host).or_default() += 1;
        }
    }
    snapshot
        .hosts
        .iter()
        .filter(|(_, view)| view.record.is_some() || view.member.is_some())
        .map(|(name, view)| host(snapshot, name, view, slots.get(name).copied()))
        .collect()
}

pub(super) fn host(
    snapshot: &Snapshot,
    name: &HostName,
    view: &HostView,
    slots: Option<u32>,
) -> HostRow {
    let record = view.record.as_ref();
    let state = record.map(|record| record.state.to_string());
    HostRow {
        host: name.clone(),
        state: state.unwrap_or_else(|| "missing".to_owned()),
        availability: view.availability().to_string(),
        addr: record.map_or_else(|| last_addr(snapshot, name), |record| Some(record.addr)),
        slots: slots.unwrap_or_default(),
        foreign: record.map_or(0, |record| record.foreign),
        cpu_millis: record.map_or(0, |record| record.capacity.cpu_millis),
        memory: record.map_or(0, |record| record.capacity.memory),
        disk: record.and_then(|record| record.disk),
        engine: record.map(|record| record.engine),
        docker: record.and_then(|record| record.docker.clone()),
        agent: record.map(|record| record.versions.agent.clone()),
        labels: labels(view),
        problems: host_problems(snapshot, view),
    }
}

/// Where a missing host was: what its instances said goes on with its claims.
fn last_addr(snapshot: &Snapshot, name: &HostName) -> Option<IpAddr> {
    let mut slots = snapshot.known(snapshot.claimed_by(name));
    slots.find_map(|(_, _, slot)| Some(slot.current_state()?.addr))
}

fn host_problems(snapshot: &Snapshot, view: &HostView) -> Vec<String> {
    let Some(record) = &view.record else {
        return vec!["no sign of its agent; its containers may still run there".to_owned()];
    };
    let mut problems = Vec::new();
    if record.state == HostState::Hold {
        problems.push(match &record.hold {
            Some(hold) => format!("in hold, it changes nothing: {}", hold.reason),
            None => "it distrusts its etcd and changes nothing".to_owned(),
        });
    }
    if !record.engine {
        problems.push("its Docker Engine does not answer".to_owned());
    }
    problems.extend(record.problems.iter().cloned());
    problems.extend(hidden_slots(snapshot, record));
    for (id, unfit) in &view.unfit {
        let container = snapshot.containers.get(id);
        let manifest = container.and_then(|container| container.manifest.as_ref());
        if manifest.is_some_and(|m| m.modified == unfit.manifest_rev) {
            problems.push(format!("unfit for {id}: {}", unfit.reason));
        }
    }
    problems
}

/// Slots that wait because Docker hides what may still run on their volumes.
fn hidden_slots(snapshot: &Snapshot, record: &HostRecord) -> Option<String> {
    let driver = &record.docker.as_ref()?.store.driver;
    let mut former = "";
    let mut waiting = Vec::new();
    for (id, container) in &snapshot.containers {
        for (number, slot) in container
            .slots
            .iter()
            .filter(|(n, _)| container.is_wanted(**n))
        {
            let data = slot.data.as_ref().filter(|d| d.host_id == record.id);
            let made_with = data.and_then(|data| data.driver.as_deref());
            if let Some(made_with) = made_with.filter(|made_with| made_with != driver) {
                former = made_with;
                waiting.push(id.slot(*number).to_string());
            }
        }
    }
    (!waiting.is_empty()).then(|| {
        format!(
            "Docker's storage driver has changed from {former} to {driver}: containers made before are hidden, and may still \
             run; with local volumes, until `dokkaa volumes adopt`, wait {}",
            waiting.join(", ")
        )
    })
}

/// Labels of a host: its agent's, overridden by the operator's.
pub(super) fn labels(view: &HostView) -> BTreeMap<String, String> {
    let labels = view.labels().into_iter();
    labels
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Notice of a stale view.
pub fn last_known(host: &HostName, hold: Option<&str>, seconds: Option<u64>) -> String {
    let age = seconds.map(ago).unwrap_or_default();
    match hold {
        Some(why) => format!("this is the last known state{age}: {host} is in hold: {why}"),
        None => format!("this is the last known state{age}: {host} can't follow etcd"),
    }
}

fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        172_800.. => (seconds / 86_400, "days"),
    };
    format!(", from {number} {unit} ago")
}

/// The agent that answers `status`, beside its view.
#[derive(Debug, Clone)]
pub struct AnsweringAgent {
    /// Its host.
    pub host: HostName,
    /// etcd answers it.
    pub etcd: bool,
    /// Age of a stale view in seconds.
    pub age: Option<u64>,
    /// Problems, beside a hold.
    pub problems: Vec<String>,
    /// Keys that are no records for its DNS.
    pub unreadable: Unreadable,
}

/// The cluster in a few lines.
pub fn status(
    view: &ClusterView,
    slots: &[SlotRow],
    containers: &[ContainerRow],
    answering: AnsweringAgent,
) -> ClusterStatus {
    let snapshot = &view.snapshot;
    let hosts = hosts(snapshot);
    let mut problems = answering.problems;
    if !answering.etcd {
        let age = answering.age.map(ago).unwrap_or_default();
        problems.push(format!(
            "etcd does not answer this agent; running containers keep running; this is the last known state{age}"
        ));
    } else if view.stale && view.hold.is_none() && problems.is_empty() {
        problems.push(format!(
            "{} does not follow etcd at the moment: this is the last known state{}",
            answering.host,
            answering.age.map(ago).unwrap_or_default()
        ));
    }
    if let Some(why) = &view.hold {
        problems.push(format!("{} is in hold: {why}", answering.host));
    }
    if snapshot.live().next().is_none() {
        problems.push("no host is live".to_owned());
    }
    for row in &hosts {
        problems.extend(row.problems.iter().map(|p| format!("{}: {p}", row.host)));
    }
    for row in slots {
        if let Some(reason) = trouble(snapshot, row) {
            let slot = row.slot.map(|n| format!("/{n}")).unwrap_or_default();
            problems.push(format!("{}{slot}: {reason}", row.id()));
        }
    }
    for row in containers {
        problems.extend(row.warnings.iter().map(|w| format!("{}: {w}", row.id())));
    }
    problems.extend(answering.unreadable.sentences(MOST_UNREADABLE));
    ClusterStatus {
        cluster: snapshot.cluster.as_ref().map(|c| c.id.to_string()),
        host: answering.host,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        etcd: answering.etcd,
        hold: view.hold.clone(),
        revision: snapshot.revision,
        stale: view.stale,
        known_at: view.stale_since(),
        hosts: count(hosts.iter().map(|row| row.state.clone())),
        availability: count(
            hosts
                .iter()
                .map(|row| row.availability.clone())
                .filter(|availability| *availability != Availability::Active.to_string()),
        ),
        slots: count(
            slots
                .iter()
                .filter(|row| row.slot.is_some())
                .map(|row| row.status.to_string()),
        ),
        apps: containers
            .iter()
            .map(|row| &row.app)
            .collect::<BTreeSet<_>>()
            .len() as u32,
        containers: containers.len() as u32,
        problems,
    }
}

/// Unready for longer than `start_timeout`.
fn is_late(snapshot: &Snapshot, row: &SlotRow) -> bool {
    let manifest = row.version.and_then(|version| {
        let container = snapshot.containers.get(&row.id())?;
        container.manifest_of(VersionId(version))
    });
    let late = manifest.map(|manifest| manifest.start_timeout.as_secs());
    row.status == SlotStatus::Unready
        && late
            .zip(row.age_seconds)
            .is_some_and(|(late, age)| age >= late)
}

/// Reason of a slot that needs attention.
fn trouble<'a>(snapshot: &Snapshot, row: &'a SlotRow) -> Option<&'a str> {
    let bad = matches!(
        row.status,
        SlotStatus::Failed | SlotStatus::Invalid | SlotStatus::Lost
    ) || (row.status == SlotStatus::Waiting && row.host.is_none())
        || is_late(snapshot, row);
    row.reason.as_deref().filter(|_| bad || row.failed)
}

/// Every container, by app; `slots` and `containers` as `merge` gives them.
pub fn apps(snapshot: &Snapshot, slots: &[SlotRow], containers: &[ContainerRow]) -> Vec<AppRow> {
    let mut apps: Vec<AppRow> = Vec::new();
    for row in containers {
        let own = slots.iter().filter(|slot| slot.id() == row.id());
        let ready = |slot: &&SlotRow| slot.status == SlotStatus::Ready && !slot.surplus;
        let mut problems: Vec<String> = own
            .clone()
            .filter_map(|slot| {
                let why = trouble(snapshot, slot)?;
                let number = slot.slot.map(|n| format!("slot {n}: "));
                Some(format!("{}{why}", number.unwrap_or_default()))
            })
            .collect();
        if let (true, Some(gave_up)) = (problems.is_empty(), &row.gave_up) {
            problems.push(match gave_up.slot {
                Some(slot) => format!("the update failed at slot {slot}: {}", gave_up.reason),
                None => format!("the update is halted: `before` failed: {}", gave_up.reason),
            });
        }
        problems.extend(row.warnings.iter().cloned());
        let container = AppContainer {
            container: row.container.clone(),
            scale: row.scale,
            global: row.global,
            stopped: row.stopped,
            ready: own.filter(ready).count() as u32,
            image: row.image.clone(),
            expires: row.expires,
            problems,
        };
        match apps.last_mut() {
            Some(app) if app.app == row.app => app.containers.push(container),
            _ => apps.push(AppRow {
                app: row.app.clone(),
                containers: vec![container],
            }),
        }
    }
    apps
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}
