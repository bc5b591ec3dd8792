//! The plan: what one host writes and does now, and why the rest waits.
//!
//! `plan` is total: it returns no error. Every write carries the revisions it
//! was decided on, so a plan that became stale fails in etcd and is made
//! again. Of each slot at most one step and one write are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use manifests::{ContainerId, HostName, InstanceId, Manifest, SlotId};
use uuid::Uuid;

use crate::local::{Local, Work};
use crate::observed::{EngineState, Observed, ObservedContainer, Surroundings};
use crate::placement::{self, local_volumes, why_waiting};
use crate::records::{Claim, Data, HostState, Rollout, SlotState, Status, Version};
use crate::slot;
use crate::snapshot::{SlotView, Snapshot};
use crate::target;
use crate::time::Millis;

/// The host that a plan is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name in claims.
    pub name: HostName,
    /// Which machine it is.
    pub id: Uuid,
    /// What it gives to its containers.
    pub surroundings: Surroundings,
}

/// How far the snapshot may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is fresh and complete.
    Full,
    /// It is old, or not complete yet: crashed containers are restarted, nothing else is done.
    RestartsOnly,
}

/// A write to etcd, with the revisions that its guards compare.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Claims a free slot: MOD(claim) = 0, MOD(manifest), `.next` absent (or void, and then deleted).
    Claim {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(manifest).
        manifest: i64,
        /// The slot's data, if it has local volumes and they are not noted so, and MOD(data); 0 if there is none.
        data: Option<(Data, i64)>,
    },
    /// Gives an own slot to another instance of this host: MOD(claim).
    NewInstance {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(claim).
        held: i64,
        /// As for a claim.
        data: Option<(Data, i64)>,
    },
    /// Gives an own slot up, with its state and status: MOD(claim).
    Release {
        /// The slot.
        slot: SlotId,
        /// MOD(claim).
        held: i64,
    },
    /// Says how far the own instance is: MOD(claim), MOD(state).
    State {
        /// The slot.
        slot: SlotId,
        /// What is written.
        state: SlotState,
        /// MOD(claim).
        held: i64,
        /// MOD(state); 0 if there is none.
        seen: i64,
    },
    /// Decides the image of a version: absent, MOD(manifest).
    Version {
        /// Whose.
        container: ContainerId,
        /// Its key, which is MOD(manifest).
        rev: i64,
        /// What is written.
        version: Version,
    },
    /// Notes that a version got ready: MOD(version).
    Good {
        /// Whose.
        container: ContainerId,
        /// Its key.
        rev: i64,
        /// What is written.
        version: Version,
        /// MOD(version).
        seen: i64,
    },
    /// Forgets versions that nobody needs: MOD of each.
    Prune {
        /// Whose.
        container: ContainerId,
        /// Their keys and MODs.
        versions: Vec<(i64, i64)>,
    },
    /// Gives an update up: MOD(manifest), MOD(rollout).
    Rollout {
        /// Whose.
        container: ContainerId,
        /// What is written.
        rollout: Rollout,
        /// MOD(manifest).
        manifest: i64,
        /// MOD(rollout); 0 if there is none.
        seen: i64,
    },
    /// Deletes what is left of a container without manifest and claims: both absent.
    Sweep {
        /// Whose.
        container: ContainerId,
    },
    /// Tells people how a slot is: MOD(claim).
    Status {
        /// The slot.
        slot: SlotId,
        /// What is written.
        status: Status,
        /// MOD(claim).
        held: i64,
    },
}

impl Write {
    /// Whose writes follow each other.
    pub fn work(&self) -> Work {
        match self {
            Self::Claim { slot, .. }
            | Self::NewInstance { slot, .. }
            | Self::Release { slot, .. }
            | Self::State { slot, .. }
            | Self::Status { slot, .. } => Work::Slot(slot.clone()),
            Self::Version { container, .. }
            | Self::Good { container, .. }
            | Self::Prune { container, .. }
            | Self::Rollout { container, .. }
            | Self::Sweep { container } => Work::Container(container.clone()),
        }
    }

    /// One word, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Claim { .. } => "claim",
            Self::NewInstance { .. } => "new-instance",
            Self::Release { .. } => "release",
            Self::State { .. } => "state",
            Self::Version { .. } => "version",
            Self::Good { .. } => "good",
            Self::Prune { .. } => "prune",
            Self::Rollout { .. } => "rollout",
            Self::Sweep { .. } => "sweep",
            Self::Status { .. } => "status",
        }
    }
}

/// A step on the engine. Each may be done twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Decide the image of a version.
    Resolve {
        /// Whose.
        container: ContainerId,
        /// The version's key.
        rev: i64,
        /// Its manifest.
        manifest: Arc<Manifest>,
        /// As it was written.
        json: Arc<serde_json::Value>,
    },
    /// Pull what lacks, and make the container; it is not started.
    Prepare {
        /// For which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// The version's key.
        rev: i64,
        /// Its manifest.
        manifest: Arc<Manifest>,
        /// Its decided image.
        image: String,
        /// Its hash, for the label.
        hash: String,
        /// Under `<name>.<instance>`, since another container of the slot is there.
        temporary_name: bool,
    },
    /// Start the process.
    Start {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
    },
    /// Signal (with the one it was made with), and kill after the time-out.
    Stop {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
        /// Time until SIGKILL.
        timeout: Duration,
    },
    /// Remove a container that does not run.
    Remove {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
    },
    /// Give it another name.
    Rename {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
        /// The name.
        name: String,
    },
}

impl Step {
    /// Whose steps follow each other.
    pub fn work(&self) -> Work {
        match self {
            Self::Resolve { container, .. } => Work::Container(container.clone()),
            Self::Prepare { slot, .. }
            | Self::Start { slot, .. }
            | Self::Stop { slot, .. }
            | Self::Remove { slot, .. }
            | Self::Rename { slot, .. } => Work::Slot(slot.clone()),
        }
    }

    /// One word, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Prepare { .. } => "prepare",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
            Self::Rename { .. } => "rename",
        }
    }
}

/// What is to be done now, in named buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be written to etcd.
    pub writes: Vec<Write>,
    /// To be done on the engine.
    pub steps: Vec<Step>,
    /// What waits, and why, for people.
    pub waiting: BTreeMap<SlotId, String>,
    /// Instances that take no new connections from now on at the latest.
    pub leaving: Vec<InstanceId>,
    /// Instances that are wanted (again).
    pub staying: Vec<InstanceId>,
    /// Slots that nobody has and some host may take.
    pub unclaimed: BTreeSet<SlotId>,
    /// How the slots of this host are, for people.
    pub statuses: BTreeMap<SlotId, Status>,
    /// When to plan again if nothing happens.
    pub requeue_at: Option<Millis>,
    /// Not everything was looked at: what is not named here is not forgotten.
    pub partial: bool,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.steps.is_empty()
    }

    /// It writes or does something for this slot.
    pub fn touches(&self, slot: &SlotId) -> bool {
        let work = Work::Slot(slot.clone());
        self.writes.iter().any(|w| w.work() == work) || self.steps.iter().any(|s| s.work() == work)
    }

    pub(crate) fn requeue(&mut self, at: Millis) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |before| before.min(at)));
    }
}

/// Counts by kind: `claim=2 start=1 waiting=1`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for kind in self
            .writes
            .iter()
            .map(Write::kind)
            .chain(self.steps.iter().map(Step::kind))
        {
            *counts.entry(kind).or_default() += 1;
        }
        if !self.waiting.is_empty() {
            counts.insert("waiting", self.waiting.len());
        }
        let texts: Vec<String> = counts.iter().map(|(k, n)| format!("{k}={n}")).collect();
        f.write_str(&texts.join(" "))
    }
}

/// All that a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// etcd.
    pub snapshot: &'a Snapshot,
    /// The engine.
    pub observed: &'a Observed,
    /// The own work.
    pub local: &'a Local,
    /// This host.
    pub host: &'a Host,
    /// How far the snapshot may be trusted.
    pub trust: Trust,
    /// The time.
    pub now: Millis,
}

/// Time in which the next host in order leaves a slot to those before it.
const TURN: Duration = Duration::from_secs(2);

/// What this host writes and does now. `fresh` gives a new instance at each call.
pub fn plan(inputs: Inputs<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Plan {
    let mut plan = Plan {
        partial: inputs.trust == Trust::RestartsOnly,
        ..Plan::default()
    };
    if let EngineState::Unresponsive(_) = inputs.observed.engine {
        plan.partial = true;
        return plan;
    }
    let mut here: BTreeMap<&SlotId, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in inputs.observed.containers.values() {
        here.entry(&container.owner.slot)
            .or_default()
            .push(container);
    }
    let none = Vec::new();
    for (id, container) in &inputs.snapshot.containers {
        for (number, view) in &container.slots {
            let Some(claim) = &view.claim else { continue };
            if claim.host != inputs.host.name {
                continue;
            }
            let slot = id.slot(*number);
            let containers = here.remove(&slot).unwrap_or_else(|| none.clone());
            slot::own(
                &inputs,
                slot::Own {
                    slot,
                    container,
                    view,
                    claim,
                    containers: &containers,
                },
                &mut plan,
                fresh,
            );
        }
        if inputs.trust == Trust::Full {
            share(&inputs, id, container, &mut plan);
        }
    }
    if inputs.trust == Trust::RestartsOnly {
        return plan;
    }
    for (slot, containers) in here {
        slot::not_own(&inputs, slot, &containers, &mut plan);
    }
    claim(&inputs, &mut plan, fresh);
    plan
}

/// What the slots of a container share: superfluous versions, remains.
fn share(
    inputs: &Inputs<'_>,
    id: &ContainerId,
    container: &crate::snapshot::ContainerView,
    plan: &mut Plan,
) {
    let work = Work::Container(id.clone());
    if inputs.local.writing.contains(&work)
        || inputs
            .local
            .is_ahead_of(&work, inputs.snapshot.revision, inputs.now)
        || plan.writes.iter().any(|w| w.work() == work)
    {
        return;
    }
    let lowest = container
        .slots
        .values()
        .find_map(|s| s.claim.as_ref().map(|c| &c.host));
    if container.manifest.is_none() && lowest.is_none() {
        let first = inputs
            .snapshot
            .live()
            .find(|(_, record)| record.state == HostState::Up)
            .map(|(name, _)| name);
        let remains = !container.versions.is_empty()
            || container.rollout.is_some()
            || container
                .slots
                .values()
                .any(|s| s.state.is_some() || s.next.is_some());
        if remains && first == Some(&inputs.host.name) {
            plan.writes.push(Write::Sweep {
                container: id.clone(),
            });
        }
    } else if lowest == Some(&inputs.host.name) {
        let versions = target::superfluous(container);
        if !versions.is_empty() {
            plan.writes.push(Write::Prune {
                container: id.clone(),
                versions,
            });
        }
    }
}

/// Claims this host's share of what nobody has.
fn claim(inputs: &Inputs<'_>, plan: &mut Plan, fresh: &mut dyn FnMut() -> InstanceId) {
    for placed in placement::unclaimed(inputs.snapshot) {
        if let Some(reason) = why_waiting(&placed) {
            plan.waiting.insert(placed.slot.clone(), reason);
            continue;
        }
        plan.unclaimed.insert(placed.slot.clone());
        let Some(turn) = placed.order.iter().position(|h| *h == inputs.host.name) else {
            continue;
        };
        let since = inputs
            .local
            .unclaimed
            .get(&placed.slot)
            .copied()
            .unwrap_or(inputs.now);
        let my_turn = since + TURN * turn as u32;
        if inputs.now < my_turn {
            plan.requeue(my_turn);
            continue;
        }
        let work = Work::Slot(placed.slot.clone());
        if inputs.local.writing.contains(&work)
            || inputs
                .local
                .is_ahead_of(&work, inputs.snapshot.revision, inputs.now)
            || plan.touches(&placed.slot)
        {
            continue;
        }
        let Some(container) = inputs.snapshot.containers.get(&placed.slot.container) else {
            continue;
        };
        let (Some(manifest), Some(target)) = (&container.manifest, target::placed_anew(container))
        else {
            plan.waiting.insert(
                placed.slot,
                "its manifest is not valid, and there is no earlier one".to_owned(),
            );
            continue;
        };
        let view = container.slots.get(&placed.slot.slot);
        if view.is_some_and(|v| v.next.is_some()) {
            continue;
        }
        plan.writes.push(Write::Claim {
            claim: Claim {
                host: inputs.host.name.clone(),
                instance: fresh(),
                manifest_rev: target.rev(),
            },
            manifest: manifest.modified,
            data: data(inputs.host, view, target.manifest()),
            slot: placed.slot,
        });
    }
}

/// What is to be noted about the slot's local volumes, and the revision of what is; none if it need not be noted.
pub(crate) fn data(
    host: &Host,
    view: Option<&SlotView>,
    manifest: &Manifest,
) -> Option<(Data, i64)> {
    let volumes = local_volumes(manifest);
    if volumes.is_empty() {
        return None;
    }
    let data = Data {
        host: host.name.clone(),
        host_id: host.id,
        volumes,
    };
    match view.and_then(|v| v.data.as_ref()) {
        Some(noted) if noted.value == data => None,
        noted => Some((data, noted.map_or(0, |n| n.modified))),
    }
}

#[cfg(test)]
mod tests;
