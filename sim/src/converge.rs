//! When the faults have ended: within a bounded time all is as wanted, and then nobody writes anything any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::manifest::Scale;
use manifests::update::OnFailure;
use manifests::{ContainerId, HostName, InstanceId, SlotId};
use model::observed::ObservedContainer;
use model::records::{Availability, HostState, Phase};
use model::snapshot::{ContainerView, Desired, HostView, SlotView, Snapshot};
use planner::placement;
use planner::rollout::Target;
use store::host::HostStatus;

use crate::kinds::{Fault, Kind};
use crate::scenario::Scenario;
use crate::world::{Machine, World};

/// All is as wanted within this virtual time.
const LONGEST: u64 = 900_000;
/// The operator looks after holds this often.
const OPERATOR: u64 = 180_000;
/// It has to be so for this long, in which the hosts settle and what waits for that is begun …
const STILL: u64 = 35_000;
/// … and then nothing is written for this long.
const QUIET: u64 = 20_000;

impl World {
    /// Runs on without faults until all is as wanted, and nobody writes any more.
    pub fn converge(&mut self) {
        self.heal();
        if self.machines.iter().all(|machine| machine.gone) {
            return;
        }
        let end = self.now + LONGEST;
        let mut looks_at = self.now + OPERATOR;
        let (mut asked_at, mut well_since) = (0, None);
        loop {
            if !self.step() {
                return;
            }
            if asked_at + 1_000 > self.now {
                continue;
            }
            asked_at = self.now;
            self.switch_off_doubles();
            if self.now >= looks_at {
                looks_at = self.now + OPERATOR;
                self.accept_what_was_lost();
                self.remove_gone();
            }
            let lacks = self.lacks();
            let well = *well_since.get_or_insert(self.now);
            if lacks.is_some() {
                well_since = None;
            } else if self.now >= well + STILL {
                break;
            }
            if self.now >= end {
                let lacks = lacks.unwrap_or_else(|| "it comes and goes".to_owned());
                self.forbid(format!("15 minutes after the last fault: {lacks}"));
                return;
            }
        }
        let changed_at = self.changed_at;
        let revision = self.etcd.revision();
        let until = self.now + QUIET;
        while self.now < until {
            if !self.step() {
                return;
            }
        }
        if self.changed_at != changed_at || self.etcd.revision() != revision {
            let more = self.etcd.revision() - revision;
            let lacks = self
                .lacks()
                .unwrap_or_else(|| "all is still as wanted".to_owned());
            self.forbid(format!(
                "all was as wanted, and yet something was done ({more} revisions more): {lacks}"
            ));
        }
        if self.scenario == Scenario::Calm {
            self.is_balanced();
        }
    }

    /// A stream that ended before it was found to have lost events leaves its host in hold: to it that is another
    /// history. The operator knows better.
    fn accept_what_was_lost(&mut self) {
        let lost = [Kind::EventsLost, Kind::DeletionLost];
        let agents = self.machines.iter().filter_map(|m| m.process.as_ref());
        let holds = agents
            .filter_map(|process| process.agent.as_ref())
            .any(|joined| joined.agent.distrusts());
        if holds && lost.iter().any(|kind| self.exercised.contains_key(kind)) {
            self.happens(Fault::Accept);
        }
    }

    /// Of two machines with one identity the operator switches off the one that says so.
    fn switch_off_doubles(&mut self) {
        let copies = self.machines.iter().any(|m| m.witness.copied);
        for machine in 0..self.machines.len() {
            let process = self.machines[machine].process.as_ref();
            if process.is_some_and(|p| matches!(p.host.status(), HostStatus::Foreign(_))) && copies
            {
                self.machines[machine].gone = true;
                self.power_off(machine);
            }
        }
    }

    fn orphans(&self) -> BTreeSet<InstanceId> {
        let agents = self
            .machines
            .iter()
            .filter_map(|m| m.process.as_ref()?.agent.as_ref());
        agents
            .flat_map(|joined| joined.agent.memory().orphans.keys().cloned())
            .collect()
    }

    fn is_wanted(&self, slot: &SlotId) -> bool {
        let container = self.truth.now.containers.get(&slot.container);
        container.is_some_and(|c| c.is_wanted(slot.slot))
    }

    /// What is not as wanted.
    fn lacks(&self) -> Option<String> {
        let truth = &self.truth.now;
        let mut running: BTreeMap<SlotId, Vec<(HostName, ObservedContainer)>> = BTreeMap::new();
        for (name, record) in truth.live() {
            let of = |m: &&Machine| m.witness.sessions.contains(&record.session);
            if self
                .machines
                .iter()
                .find(of)
                .is_none_or(|m| m.process.is_none())
            {
                return Some(format!("the record of {name} has not ended"));
            }
        }
        for (number, machine) in self.machines.iter().enumerate() {
            let name = &machine.host.name;
            if machine.gone {
                continue;
            }
            if let Some(left) = self.job_left(number) {
                return Some(left);
            }
            if truth
                .hosts
                .get(name)
                .is_some_and(|host| !host.unfit.is_empty())
            {
                return Some(format!("a mark of {name} is left"));
            }
            if machine.process.is_none() {
                return Some(format!("the agent of {name} does not run"));
            }
            let epoch = truth.cluster.as_ref().map(|c| c.epoch);
            let record = truth.record(name);
            if !record
                .is_some_and(|r| Some(r.epoch) == epoch && r.state == HostState::Up && r.engine)
            {
                return Some(format!(
                    "{name} has no record, or it does not say what it should"
                ));
            }
            if !machine.sees_all() {
                return Some(format!("{name} does not follow etcd"));
            }
            let agent = machine.process.as_ref().and_then(|p| p.agent.as_ref());
            let view = agent.and_then(|joined| joined.agent.snapshot());
            if let Some(what) = view.and_then(|view| differs(view, truth)) {
                return Some(format!("{name} believes what etcd does not say: {what}"));
            }
            for container in machine.engine.containers(self.cluster.id) {
                let slot = &container.owner.slot;
                let claim = truth.slot(slot).and_then(|s| s.claim.as_ref());
                let elsewhere = claim.map_or(!self.is_wanted(slot), |c| {
                    c.host != *name && truth.is_live(&c.host)
                });
                if container.running().is_none() && elsewhere {
                    return Some(format!("{} is left on {name}", container.owner.instance));
                }
            }
            for container in machine.engine.running(self.cluster.id) {
                let of = running.entry(container.owner.slot.clone()).or_default();
                of.push((name.clone(), container));
            }
        }
        // What an accepted restore left without a manifest is kept until somebody removes it.
        let orphans = self.orphans();
        running.retain(|_, here| {
            here.retain(|(_, container)| !orphans.contains(&container.owner.instance));
            !here.is_empty()
        });
        for (id, container) in &truth.containers {
            for (number, view) in &container.slots {
                let slot = id.slot(*number);
                let claim = view.claim.as_ref();
                // With what it was to replace.
                let is_kept = claim.is_some_and(|c| orphans.contains(&c.instance));
                if view.next.is_some() && !is_kept {
                    return Some(format!("a handover of {slot} is left"));
                }
                if claim.is_some_and(|c| !orphans.contains(&c.instance))
                    && !container.is_wanted(*number)
                {
                    return Some(format!("the claim of {slot} is left, which is not wanted"));
                }
            }
            let Some(Desired::Valid { manifest, .. }) =
                container.manifest.as_ref().map(|m| &m.value)
            else {
                continue;
            };
            if let Some(lacks) = self.lacks_image(id, container) {
                return Some(lacks);
            }
            // What failed is tried on, and the update goes on once it is ready; or it was taken back, or nobody is left to
            // try it.
            let mut failures = container.rollout.iter().flat_map(|mark| &mark.failures);
            let is_tried = failures.any(|number| container.is_wanted(*number));
            let barred = Self::barred(container);
            let stays =
                manifest.update.on_failure == OnFailure::Rollback || !is_tried || barred.is_some();
            let numbers: Vec<u32> = match manifest.runs() {
                Scale::Count(count) => (0..count).collect(),
                Scale::Global => {
                    if let Some(lacks) = global_lacks(truth, id, container) {
                        return Some(lacks);
                    }
                    let claimed = container.slots.iter().filter(|(_, s)| s.claim.is_some());
                    claimed.map(|(number, _)| *number).collect()
                }
            };
            for number in numbers {
                let slot = id.slot(number);
                let none = SlotView::default();
                let view = container.slots.get(&number).unwrap_or(&none);
                let here = running.remove(&slot).unwrap_or_default();
                // There is no older version to go on with.
                let claim = view.claim.as_ref();
                let is_held = claim.is_some_and(|claim| {
                    // What is left of a manifest that was deleted goes nowhere.
                    truth.is_live(&claim.host)
                        && (!here.is_empty() || !truth.availability(&claim.host).gives_away())
                });
                if is_held && Self::is_barred_for_good(container) {
                    continue;
                }
                if let Some(lacks) = slot_lacks(truth, &slot, view, &here) {
                    return Some(lacks);
                }
                let outdated = view.claim.as_ref().zip(Target::of(container)).is_some_and(
                    |(claim, target)| {
                        truth.is_live(&claim.host)
                            && target.outdates(container, claim.version)
                            && !(target.was_given_up(container) && stays)
                    },
                );
                // One whose host is lost for good, data and all, holds up those after it.
                let waits = container.slots.range(..number).any(|(_, lower)| {
                    let claim = lower.claim.as_ref();
                    claim.is_some_and(|c| !truth.is_live(&c.host))
                });
                if outdated && !waits {
                    return Some(format!("{slot} runs an old version"));
                }
            }
        }
        if let Some(uneven) = self.uneven() {
            return Some(uneven);
        }
        let (slot, extra) = running.into_iter().next()?;
        let (host, container) = extra.first()?;
        Some(format!(
            "{} of {slot} runs on {host}, and nobody wants it",
            container.owner.instance
        ))
    }

    /// A slot that nothing keeps where it is, and that another host would have with fewer containers.
    fn uneven(&self) -> Option<String> {
        let truth = &self.truth.now;
        let containers = |host: &HostName| {
            let foreign = truth
                .record(host)
                .map_or(0, |record| record.foreign as usize);
            let of_slots = truth.containers.values().flat_map(|c| c.slots.values());
            let here = of_slots.filter(|slot| slot.claim.as_ref().is_some_and(|c| c.host == *host));
            let slots = here.count();
            (foreign + slots, slots)
        };
        for (id, container) in &truth.containers {
            let Some(Desired::Valid { manifest, .. }) =
                container.manifest.as_ref().map(|m| &m.value)
            else {
                continue;
            };
            if manifest.volumes.iter().any(|volume| !volume.read_only)
                || container.rollout.is_some()
            {
                continue;
            }
            for (number, view) in &container.slots {
                let slot = id.slot(*number);
                let Some(claim) = view.claim.as_ref() else {
                    continue;
                };
                // A restore may have lost what it was made from.
                if !container.versions.contains_key(&claim.version) {
                    continue;
                }
                let from = &claim.host;
                let order = placement::explain(truth, &slot).map_or_else(Vec::new, |p| p.order);
                let has = containers(from);
                let is_better = |to: &HostName| {
                    let would_have = containers(to);
                    has.0 >= would_have.0 + 2 && has.1 >= would_have.1 + 2
                };
                let may = |to: &&HostName| is_better(to) && !self.could_not(to, id, container);
                let takes = order.iter().find(may);
                if let Some(to) = takes.filter(|_| order.first().is_some_and(is_better)) {
                    return Some(format!(
                        "{slot} is on {from}, and {to} has fewer containers"
                    ));
                }
            }
        }
        None
    }

    /// The host's agent remembers that it could not run the container as its manifest is.
    fn could_not(&self, host: &HostName, id: &ContainerId, container: &ContainerView) -> bool {
        let machines = self.machines.iter().filter(|m| m.host.name == *host);
        let mut agents = machines.filter_map(|m| m.process.as_ref()?.agent.as_ref());
        agents.any(|joined| {
            let mark = joined.agent.memory().unfit.get(id);
            let manifest = container.manifest.as_ref();
            mark.zip(manifest)
                .is_some_and(|(mark, manifest)| mark.is_about(manifest.modified))
        })
    }

    /// Equal containers that were placed in calm are spread evenly.
    fn is_balanced(&mut self) {
        let mut loads: BTreeMap<HostName, usize> = BTreeMap::new();
        for machine in &self.machines {
            loads.insert(
                machine.host.name.clone(),
                machine.engine.running(self.cluster.id).len(),
            );
        }
        let most = loads.values().max().copied().unwrap_or_default();
        let least = loads.values().min().copied().unwrap_or_default();
        if most > least + 1 {
            self.forbid(format!("placed in calm, and yet uneven: {loads:?}"));
        }
    }
}

/// In what a view shows something else than etcd has: what it has lost is found by its next comparison.
fn differs(view: &Snapshot, truth: &Snapshot) -> Option<String> {
    let containers = view.containers.keys().chain(truth.containers.keys());
    let container = containers
        .filter(|id| view.containers.get(*id) != truth.containers.get(*id))
        .map(ToString::to_string);
    let hosts = view.hosts.keys().chain(truth.hosts.keys());
    let host = hosts
        .filter(|name| view.hosts.get(*name) != truth.hosts.get(*name))
        .map(ToString::to_string);
    container.chain(host).next()
}

/// Each host that is live and active has one slot of a global container, and no host has two.
fn global_lacks(truth: &Snapshot, id: &ContainerId, container: &ContainerView) -> Option<String> {
    let mut had: BTreeMap<&HostName, usize> = BTreeMap::new();
    for claim in container.slots.values().filter_map(|s| s.claim.as_ref()) {
        *had.entry(&claim.host).or_default() += 1;
    }
    let gone = had.keys().find(|name| !truth.hosts.contains_key(**name));
    if let Some(name) = gone {
        return Some(format!("{name} has a slot of {id}, and is no host"));
    }
    let wrong = |(name, host): &(&HostName, &Arc<HostView>)| {
        let has = had.get(name).copied().unwrap_or_default();
        let may = match host.availability() {
            Availability::Active if host.record.is_some() => 1..=1,
            Availability::Active | Availability::Pause => 0..=1,
            Availability::Drain | Availability::DrainVolumes | Availability::Leave => 0..=0,
        };
        !may.contains(&has)
    };
    let (name, host) = truth.hosts.iter().find(wrong)?;
    let has = had.get(name).copied().unwrap_or_default();
    Some(format!(
        "{name} ({:?}) has {has} slots of {id}, of which each host has one",
        host.availability()
    ))
}

fn slot_lacks(
    truth: &Snapshot,
    slot: &SlotId,
    view: &SlotView,
    here: &[(HostName, ObservedContainer)],
) -> Option<String> {
    let able = placement::explain(truth, slot).is_some_and(|placed| !placed.order.is_empty());
    let Some(claim) = &view.claim else {
        return able.then(|| format!("{slot} is nobody's, and some host could take it"));
    };
    if !truth.is_live(&claim.host) {
        // What runs a slot may have it, also where nothing new is placed.
        return (able || !here.is_empty()).then(|| {
            format!(
                "{slot} is {}'s, which is not live, and some host could take it",
                claim.host
            )
        });
    }
    if truth.availability(&claim.host).gives_away() && able {
        return Some(format!(
            "{slot} is still on {}, which gives it away",
            claim.host
        ));
    }
    let [(host, container)] = here else {
        let where_: Vec<String> = here
            .iter()
            .map(|(host, c)| format!("{} on {host}", c.owner.instance))
            .collect();
        return Some(format!("of {slot} runs not one, but {where_:?}"));
    };
    if *host != claim.host || container.owner.instance != claim.instance {
        return Some(format!(
            "{} of {slot} runs on {host}, but it is not the claim's",
            container.owner.instance
        ));
    }
    let ready = view
        .current_state()
        .is_some_and(|s| s.state == Phase::Ready);
    (!ready).then(|| format!("{slot} is not ready"))
}
