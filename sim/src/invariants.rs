//! What must never be, checked at each write, each plan and each end: independent of how the core decides.

use std::collections::BTreeSet;
use std::time::Duration;

use agent::Agent;
use manifests::keys::Key;
use manifests::manifest::Scale;
use manifests::{ContainerId, HostName, InstanceId, SlotId};
use model::observed::{EngineState, ObservedContainer, Readiness};
use model::records::{Availability, HostState, Phase};
use model::snapshot::{Desired, SlotView, Snapshot, Successor};
use model::{Action, Millis, Scope, Trust, Write, WriteKind};
use planner::Plan;
use planner::rollout::Target;
use store::kv::Event as Told;

use crate::network::Asker;
use crate::newer_images;
use crate::trace::step_text;
use crate::world::{Machine, Truth, World};

/// An agent that sees that a running container is nobody's has begun to end it after this.
const NOTICES: Duration = Duration::from_secs(90);
/// A write that gives a slot to a host.
pub fn takes(write: &Write) -> bool {
    write.takes().is_some() || write.kind == WriteKind::Keep
}

// === plans ===

/// The container that a step is about.
fn docker_id(step: &Action) -> Option<&String> {
    match step {
        Action::Start { docker_id, .. }
        | Action::Stop { docker_id, .. }
        | Action::Remove { docker_id, .. }
        | Action::Rename { docker_id, .. } => Some(docker_id),
        Action::Resolve { .. } | Action::Prepare(_) => None,
    }
}

/// Judges what an agent is about to do.
pub fn planned(truth: &Truth, machine: &mut Machine, plan: &Plan, now: Millis) -> Option<String> {
    let name = &machine.host.name;
    let joined = machine.process.as_ref()?.agent.as_ref()?;
    let (agent, trust) = (&joined.agent, joined.agent.planned_under());
    let copies = &machine.engine.copies;
    let touches = |step: &Action| docker_id(step).is_some_and(|id| copies.contains(id));
    if let Some(step) = plan.actions.iter().find(|step| touches(step)) {
        return Some(format!(
            "{name} does {} to a container that somebody else made",
            step_text(step)
        ));
    }
    let view = agent.snapshot()?;
    if trust != Trust::Full {
        machine.witness.illegitimate.clear();
        if let Some(write) = plan.writes.first() {
            return Some(format!(
                "{name} writes {write} without a view to be trusted"
            ));
        }
        let ends = plan.actions.iter().find(|step| ends(step).is_some());
        return ends.map(|step| {
            format!(
                "{name} does {} without a view to be trusted",
                step_text(step)
            )
        });
    }
    if agent.distrusts()
        && (!plan.writes.is_empty() || plan.actions.iter().any(|step| ends(step).is_some()))
    {
        return Some(format!(
            "{name} changes something, though it distrusts etcd: {plan}"
        ));
    }
    let (first_read, restores) = joined.first_read;
    let read = truth.history.range(..=first_read).next_back();
    // A revision of a former history says nothing about this one.
    let read = read.filter(|_| restores == truth.former.len());
    // A restore may have a higher revision and the same content.
    let behind = read.is_some_and(|(revision, then)| {
        view.revision < *revision
            && (view.containers != then.containers || view.hosts != then.hosts)
    });
    if !plan.is_idle() && behind {
        return Some(format!(
            "{name} plans {plan} from a view at {}, and its first read was at {first_read}",
            view.revision
        ));
    }
    let works = plan
        .writes
        .iter()
        .map(|write| (write.scope.clone(), write.kind.into()));
    let works = works.chain(plan.actions.iter().map(|step| (step.scope(), step.kind())));
    for (work, kind) in works {
        let own = joined.answered.get(&work).copied();
        if matches!(work, Scope::Slot(_)) && own.is_some_and(|own| own > view.revision) {
            return Some(format!(
                "{name} plans {kind} from a view at {}, below its own last write on it",
                view.revision
            ));
        }
    }
    let witness = &machine.witness;
    let is_again = |step: &Action| matches!(step, Action::Stop { instance, .. } if witness.ending.contains(instance));
    for step in &plan.actions {
        let ends = || ends_what_is_better(view, agent, name, step).filter(|_| !is_again(step));
        if let Some(why) = starts_what_has_stopped(view, name, step).or_else(ends) {
            return Some(format!("{name} does {}, {why}", step_text(step)));
        }
    }
    let ended = |step: &Action| {
        (!is_again(step))
            .then(|| unfounded_end(truth, view, name, step, &|id| witness.lacks(id, now)))
            .flatten()
    };
    if let Some(harm) = plan.actions.iter().find_map(ended) {
        return Some(harm);
    }
    for step in &plan.actions {
        let ending = &mut machine.witness.ending;
        match step {
            Action::Stop { instance, .. } => ending.insert(instance.clone()),
            Action::Start { instance, .. } => ending.remove(instance),
            _ => continue,
        };
    }
    let held = view.in_hold();
    for write in &plan.writes {
        let moves = takes(write) || matches!(write.kind, WriteKind::Promote | WriteKind::Retake);
        if let Some(host) =
            held.filter(|_| moves && !runs_it(agent.observed().containers.values(), write))
        {
            return Some(format!("{name} writes {write} while {host} is in hold"));
        }
        if let Some(slot) = write.slot().filter(|_| write.kind == WriteKind::Promote)
            && (!is_wanted(view, slot) || view.availability(name) != Availability::Active)
        {
            return Some(format!(
                "{name} writes {write}, and the handover is not wanted any more"
            ));
        }
        // No engine here is silent, and no step under way, for so long that this alone would do.
        if let Some(slot) = write
            .slot()
            .filter(|_| write.kind == WriteKind::ReleaseUnfit)
            && !joined.failed.contains(&slot.container)
        {
            return Some(format!(
                "{name} writes {write}, and nothing has failed for it here"
            ));
        }
        if let Some(slot) = write.slot().filter(|_| takes(write))
            && let Some(other) = has_another(view, agent, name, write, slot)
        {
            return Some(format!(
                "{name} writes {write}, and has {other} of this global container"
            ));
        }
        if write.kind == WriteKind::TakeOver && machine.witness.is_paused(now) {
            return Some(format!(
                "{name} writes {write} while too many hosts are missing"
            ));
        }
    }
    let observed = agent.observed();
    if observed.engine != EngineState::Up {
        machine.witness.illegitimate.clear();
        return None;
    }
    let nobodys: BTreeSet<&InstanceId> = observed
        .containers
        .values()
        .filter(|c| c.running().is_some() && !named(view, &c.owner.slot, name, &c.owner.instance))
        .filter(|c| {
            view.slot(&c.owner.slot).is_some_and(|s| s.claim.is_some())
                || !is_wanted(view, &c.owner.slot)
        })
        .filter(|c| !agent.memory().orphans.contains_key(&c.owner.instance))
        // Nothing is moved while a host is in hold, and what runs may be all that there is of its slot.
        .filter(|c| held.is_none() || view.slot(&c.owner.slot).is_some_and(is_ready))
        .map(|c| &c.owner.instance)
        .collect();
    let remembered = &mut machine.witness.illegitimate;
    remembered.retain(|instance, _| nobodys.contains(instance));
    for instance in nobodys {
        let since = *remembered.entry(instance.clone()).or_insert(now);
        if now >= since + NOTICES {
            return Some(format!(
                "{name} has seen since {since} that {instance} is nobody's, and it still runs"
            ));
        }
    }
    None
}

/// Who has said that it has stopped starts again only after it has taken that back.
fn starts_what_has_stopped(
    view: &Snapshot,
    name: &HostName,
    step: &Action,
) -> Option<&'static str> {
    let Action::Start { slot, instance, .. } = step else {
        return None;
    };
    let slot = view.slot(slot)?;
    let own = slot
        .claim
        .as_ref()
        .is_some_and(|c| c.host == *name && c.instance == *instance);
    let stopped = slot
        .current_state()
        .is_some_and(|s| s.state == Phase::Stopped);
    (own && stopped).then_some("though it has said that it has stopped")
}

/// A copy that is ready is not ended for an owner's that is not.
fn ends_what_is_better(
    view: &Snapshot,
    agent: &Agent,
    name: &HostName,
    step: &Action,
) -> Option<&'static str> {
    let Action::Stop { slot, instance, .. } = step else {
        return None;
    };
    let container = view.containers.get(&slot.container)?;
    let owned = container.slots.get(&slot.slot)?;
    let other = owned
        .claim
        .as_ref()
        .filter(|c| c.host != *name && view.is_live(&c.host));
    let unready = owned
        .current_state()
        .is_some_and(|s| s.state != Phase::Ready);
    let observed = agent.observed();
    let copy = observed.containers.get(instance)?;
    let current = Target::of(container).is_some_and(|target| {
        let version = container.version_by_hash(&copy.owner.manifest_hash);
        version.is_some_and(|(rev, _)| !target.outdates(container, rev))
    });
    let better = current
        && other.is_some()
        && unready
        && owned.next.is_none()
        && container.is_wanted(slot.slot)
        && observed.readiness(instance) == &Readiness::Ready
        && !view.availability(name).gives_away();
    better.then_some("which is ready, and the owner's is not")
}

/// Another slot that this host has, or runs, of a global container: of that it has one.
fn has_another(
    view: &Snapshot,
    agent: &Agent,
    name: &HostName,
    write: &Write,
    slot: &SlotId,
) -> Option<SlotId> {
    let container = view.containers.get(&slot.container)?;
    let Desired::Valid { manifest, .. } = &container.manifest.as_ref()?.value else {
        return None;
    };
    if manifest.runs() != Scale::Global {
        return None;
    }
    if write.kind == WriteKind::TakeOver {
        return Some(slot.clone());
    }
    let observed = &agent.observed().containers;
    let mut running = observed.values();
    let runs = running.find(|c| {
        let other = &c.owner.slot;
        // Of what it runs already it may claim one.
        other.container == slot.container
            && other != slot
            && c.running().is_some()
            && !runs_it(observed.values(), write)
    });
    let mut claimed = container.slots.iter();
    let has = claimed.find(|(number, view)| {
        let claim = view.claim.as_ref();
        **number != slot.slot && claim.is_some_and(|claim| claim.host == *name)
    });
    let has = has.map(|(number, _)| slot.container.slot(*number));
    runs.map(|c| c.owner.slot.clone()).or(has)
}

/// A claim of what this host runs moves nothing.
fn runs_it<'a>(mut containers: impl Iterator<Item = &'a ObservedContainer>, write: &Write) -> bool {
    matches!(write.kind, WriteKind::Claim | WriteKind::Keep)
        && containers.any(|c| Some(&c.owner.instance) == write.instance())
}

/// The step ends a container.
fn ends(step: &Action) -> Option<(&SlotId, &InstanceId)> {
    match step {
        Action::Stop { slot, instance, .. } | Action::Remove { slot, instance, .. } => {
            Some((slot, instance))
        }
        Action::Resolve { .. }
        | Action::Prepare(_)
        | Action::Start { .. }
        | Action::Rename { .. } => None,
    }
}

/// The step ends what is the slot's, as its agent or as etcd has it.
///
/// A view that has lost an event is another than etcd was, and does no harm where etcd gave the same leave. Where it did
/// not, nobody could know it before the next comparison.
fn unfounded_end(
    truth: &Truth,
    view: &Snapshot,
    name: &HostName,
    step: &Action,
    lacks: &dyn Fn(&ContainerId) -> bool,
) -> Option<String> {
    let (slot, instance) = ends(step)?;
    let stops = matches!(step, Action::Stop { .. });
    let may = |then: &Snapshot| may_end(then, slot, name, instance, stops);
    if !truth.at(view.revision).any(may) && !lacks(&slot.container) {
        return Some(format!(
            "{name} does {}, and at {} etcd said that it is the slot's",
            step_text(step),
            view.revision
        ));
    }
    (!may(view)).then(|| format!("{name} does {}, though it is the slot's", step_text(step)))
}

/// The container is not the slot's, or is to make place.
fn may_end(
    snapshot: &Snapshot,
    slot: &SlotId,
    name: &HostName,
    instance: &InstanceId,
    stops: bool,
) -> bool {
    let is_the_slots = named(snapshot, slot, name, instance) && is_wanted(snapshot, slot);
    // Who leaves the cluster ends also what can't go elsewhere.
    !is_the_slots
        || snapshot.availability(name) == Availability::Leave
        || (stops && yields(snapshot, slot, name, instance))
}

fn is_ready(slot: &SlotView) -> bool {
    slot.current_state()
        .is_some_and(|state| state.state == Phase::Ready)
}

fn is_wanted(snapshot: &Snapshot, slot: &SlotId) -> bool {
    snapshot
        .containers
        .get(&slot.container)
        .is_some_and(|c| c.is_wanted(slot.slot))
}

/// Etcd names the instance: by the claim, or by a handover to a live host.
fn named(snapshot: &Snapshot, slot: &SlotId, host: &HostName, instance: &InstanceId) -> bool {
    let Some(view) = snapshot.slot(slot) else {
        return false;
    };
    let claimed = view
        .claim
        .as_ref()
        .is_some_and(|c| c.host == *host && c.instance == *instance);
    let next = matches!(snapshot.successor(view), Successor::Live(n) if n.host == *host && n.instance == *instance);
    claimed || next
}

/// The holder stops first, for another.
fn yields(snapshot: &Snapshot, slot: &SlotId, host: &HostName, instance: &InstanceId) -> bool {
    let Some(view) = snapshot.slot(slot) else {
        return false;
    };
    matches!(snapshot.successor(view), Successor::Live(n) if n.host != *host && n.instance != *instance)
}

// === writes ===

/// Judges what a machine's transaction has changed.
pub fn written(
    world: &mut World,
    machine: usize,
    asker: &Asker,
    before: &Snapshot,
    told: &[Told],
) -> Option<String> {
    let mut slots = BTreeSet::new();
    for event in told {
        match Key::parse(event.key()) {
            Some(Key::Claim(slot) | Key::State(slot) | Key::Next(slot)) => {
                slots.insert(slot);
            }
            Some(Key::HostRecord(name)) => {
                let harm = record_written(world, machine, before, &name);
                if harm.is_some() {
                    return harm;
                }
            }
            _ => {}
        }
    }
    let ours = before
        .cluster
        .as_ref()
        .is_some_and(|c| c.id == world.cluster.id);
    if !ours && matches!(asker, Asker::Writes { .. }) {
        return Some(format!(
            "{} writes to an etcd that is not its cluster's",
            world.machines[machine].host.name
        ));
    }
    if let Some(harm) = newer_images::found(before, &world.truth.now, told) {
        let name = &world.machines[machine].host.name;
        return Some(format!("{name}, {harm}"));
    }
    if let Some(harm) = updated(world, machine, before, &slots) {
        return Some(harm);
    }
    let none = SlotView::default();
    for slot in slots {
        let name = world.machines[machine].host.name.clone();
        let (was, is) = (
            before.slot(&slot).unwrap_or(&none),
            world.truth.now.slot(&slot).cloned(),
        );
        let change = Change {
            me: &name,
            before,
            was,
            is: &is.unwrap_or_default(),
        };
        let harm = change.harm();
        let retaken = change.is_retake();
        let holder = change.unready_over_live();
        if let Some(harm) = harm {
            return Some(format!("{name}, {slot}: {harm}"));
        }
        if let Some((host, instance)) = holder {
            let runs = world
                .machines
                .iter()
                .filter(|m| m.host.name == host)
                .any(|m| {
                    m.engine
                        .running(world.cluster.id)
                        .iter()
                        .any(|c| c.owner.instance == instance)
                });
            if runs {
                return Some(format!(
                    "{name}, {slot}: promoted before it is ready, while {instance} still runs on {host}, which is live"
                ));
            }
        }
        if retaken {
            let held = was.claim.as_ref().map(|c| c.modified);
            if was.state.is_none() && held.is_some() && world.retaken.get(&slot).copied() == held {
                return Some(format!(
                    "{name}, {slot}: retaken from a host that has just retaken it"
                ));
            }
            let now = world
                .truth
                .now
                .slot(&slot)
                .and_then(|s| Some(s.claim.as_ref()?.modified));
            if let Some(now) = now {
                world.retaken.insert(slot, now);
            }
        }
    }
    None
}

fn record_written(
    world: &World,
    machine: usize,
    before: &Snapshot,
    name: &HostName,
) -> Option<String> {
    let was = before.record(name)?;
    let at = &world.machines[machine];
    let own = at.witness.sessions.contains(&was.session);
    // A stopped agent's machine may have been moved, disk and all: nobody can tell.
    let moved = was.state == HostState::Restarting && at.disk.identity.id == was.id;
    (!own && !moved).then(|| {
        format!(
            "machine {machine} ({}) overwrites the record {name} of another machine",
            at.host.name
        )
    })
}

/// Never more slots of a container are down on purpose than its policy allows: those that were ready, and were taken down
/// by their owner for another version.
fn updated(
    world: &mut World,
    machine: usize,
    before: &Snapshot,
    slots: &BTreeSet<SlotId>,
) -> Option<String> {
    let running = world.machines[machine].engine.running(world.cluster.id);
    let runs = |instance: &InstanceId| running.iter().any(|c| c.owner.instance == *instance);
    let now = &world.truth.now;
    let is_down = |slot: &SlotId| {
        let view = now.slot(slot)?;
        let failed = now.containers.get(&slot.container)?.rollout.as_ref();
        let claim = view.claim.as_ref()?;
        let since = now.record(&claim.host)?.created;
        (is_wanted(now, slot)
            && !is_ready(view)
            && failed.is_none_or(|rollout| !rollout.failures.contains(&slot.slot)))
        .then_some((claim, since))
    };
    // What a lost host had is not counted, also when it is back.
    world
        .taken_down
        .retain(|slot, since| is_down(slot).is_some_and(|(_, now)| now == *since));
    let mut harm = None;
    for slot in slots {
        let was = before.slot(slot).filter(|was| is_ready(was));
        let was = was.and_then(|was| was.claim.as_ref());
        let (Some(was), Some((is, since))) = (was, is_down(slot)) else {
            continue;
        };
        if was.host != is.host
            || was.instance == is.instance
            || was.version == is.version
            || !runs(&was.instance)
        {
            continue;
        }
        world.taken_down.insert(slot.clone(), since);
        let id = &slot.container;
        let manifest = now.containers.get(id).and_then(|c| c.manifest.as_ref());
        let Some(Desired::Valid { manifest, .. }) = manifest.map(|m| &m.value) else {
            continue;
        };
        let scale = match manifest.scale {
            Scale::Count(count) => count,
            // At most; nobody compares the hosts when it begins.
            Scale::Global => now.hosts.size() as u32,
        };
        let most = manifest.update.parallelism.of(scale) as usize;
        let down = world.taken_down.keys().filter(|slot| slot.container == *id);
        let down: Vec<u32> = down.map(|slot| slot.slot).collect();
        if down.len() > most {
            harm = Some(format!(
                "slots {down:?} of {id} are down for an update, which may take {most}"
            ));
        }
    }
    harm
}

struct Change<'a> {
    me: &'a HostName,
    before: &'a Snapshot,
    was: &'a SlotView,
    is: &'a SlotView,
}

impl Change<'_> {
    /// The claim is another.
    fn changed(&self) -> bool {
        self.was.claim.as_ref().map(|c| c.modified) != self.is.claim.as_ref().map(|c| c.modified)
    }

    fn owner_is_live(&self) -> bool {
        self.was
            .claim
            .as_ref()
            .is_some_and(|c| self.before.is_live(&c.host))
    }

    fn is_mine(&self) -> bool {
        self.was.claim.as_ref().is_some_and(|c| c.host == *self.me)
    }

    /// This host's handover has come to its end.
    fn is_promotion(&self) -> bool {
        let next = self.was.next.as_ref().filter(|n| n.host == *self.me);
        self.changed()
            && next.is_some_and(|n| {
                self.is
                    .claim
                    .as_ref()
                    .is_some_and(|c| c.instance == n.instance)
            })
    }

    /// An instance that is ready takes the slot without a handover. The owner that it was decided against may have been
    /// lost meanwhile: the guards of a retake do not ask for it.
    fn is_of_a_ready_instance(&self) -> bool {
        self.changed()
            && self.is.claim.is_some()
            && !self.is_mine()
            && !self.is_promotion()
            && Self::says(Some(self.is), Phase::Ready)
    }

    /// A live host loses the slot to one that has no handover.
    fn is_retake(&self) -> bool {
        self.changed()
            && self.is.claim.is_some()
            && self.owner_is_live()
            && !self.is_mine()
            && !self.is_promotion()
    }

    fn says(state: Option<&SlotView>, phase: Phase) -> bool {
        state
            .and_then(SlotView::current_state)
            .is_some_and(|s| s.state == phase)
    }

    /// Whom a promotion of an unready instance ended, though it is live.
    fn unready_over_live(&self) -> Option<(HostName, InstanceId)> {
        let over =
            self.is_promotion() && self.owner_is_live() && !Self::says(Some(self.is), Phase::Ready);
        let claim = self.was.claim.as_ref().filter(|_| over)?;
        Some((claim.host.clone(), claim.instance.clone()))
    }

    /// What must not be.
    fn harm(&self) -> Option<&'static str> {
        let theirs = |host: &HostName| host != self.me;
        if self.changed() {
            match (&self.was.claim, &self.is.claim) {
                (_, Some(new)) if theirs(&new.host) => return Some("claims for another host"),
                (Some(_), None) if !self.is_mine() && self.owner_is_live() => {
                    return Some("deletes the claim of a live host");
                }
                (Some(_), Some(_)) if self.is_retake() => {
                    if Self::says(Some(self.was), Phase::Ready) {
                        return Some("takes the slot of a live host that is ready");
                    }
                    if !Self::says(Some(self.is), Phase::Ready) && !self.is_marked() {
                        return Some("retakes a slot and says nothing of its state");
                    }
                }
                (Some(_), Some(_))
                    if self.unready_over_live().is_some()
                        && !Self::says(Some(self.was), Phase::Stopped) =>
                {
                    return Some(
                        "is promoted before it is ready, over a live host that has not stopped",
                    );
                }
                _ => {}
            }
        } else if self.was.state.as_ref().map(|s| s.modified)
            != self.is.state.as_ref().map(|s| s.modified)
        {
            if !self.is_mine() {
                return Some("writes or deletes the state of another owner");
            }
            if self.is.state.is_some() && self.is.current_state().is_none() {
                return Some("writes the state of an instance that is not the claim's");
            }
        }
        let next = |view: &SlotView| view.next.as_ref().map(|n| n.modified);
        if next(self.was) != next(self.is)
            && let Successor::Live(was) = self.before.successor(self.was)
            && theirs(&was.host)
            && !self.is_retake()
            && !self.is_of_a_ready_instance()
        {
            return Some("overwrites or deletes the handover to a live host");
        }
        if self.changed()
            && self.is.next.is_some()
            && self.is.claim.is_some()
            && self.was.claim.as_ref().map(|c| &c.host) != self.is.claim.as_ref().map(|c| &c.host)
        {
            return Some("gives the slot another owner and leaves a handover from the former one");
        }
        None
    }

    /// Left to the check of two retakes in a row.
    fn is_marked(&self) -> bool {
        self.is.state.is_none()
    }
}

#[cfg(test)]
mod tests {
    use model::snapshot::Change;
    use store::memory::MemEtcd;

    use super::*;

    const MANIFEST: &str = "/apps/shop/web/manifest";

    fn put(key: &str, value: &str, modified: i64) -> Change {
        Change::Put {
            key: key.to_owned(),
            value: value.into(),
            modified,
            created: modified,
        }
    }

    fn of(changes: impl IntoIterator<Item = Change>, revision: i64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.apply(changes, revision);
        snapshot
    }

    fn claims(instance: &str, modified: i64) -> Change {
        let value = format!(r#"{{"host":"a","instance":"{instance}","version":2}}"#);
        put("/claims/shop/web/slots/0", &value, modified)
    }

    /// What is said of the end of `i1` where etcd was one thing and the view another.
    fn said(etcd: &Snapshot, view: &Snapshot) -> Option<String> {
        let mut truth = Truth::of(&mut MemEtcd::default());
        truth.history.insert(etcd.revision, etcd.clone());
        let container: ContainerId = "shop/web".parse().expect("an id");
        let step = Action::Remove {
            slot: container.slot(0),
            instance: "i1".parse().expect("an id"),
            docker_id: "d1".to_owned(),
        };
        let name = "a".parse().expect("a name");
        let harm = unfounded_end(&truth, view, &name, &step, &|_| false);
        let while_unknown = unfounded_end(&truth, view, &name, &step, &|_| true);
        assert!(while_unknown.is_none_or(|why| why.contains("though it is")));
        harm
    }

    #[test]
    fn an_end_needs_the_leave_of_etcd_and_of_the_view() {
        let manifest = || put(MANIFEST, r#"{"image":"good:1"}"#, 2);
        let owned = of([manifest(), claims("i1", 3)], 5);
        let replaced = of([manifest(), claims("i2", 5)], 5);
        let unwanted = of([claims("i1", 3)], 5);
        let unwanted_too = of([claims("i2", 5)], 5);
        let lost = |view| said(&owned, view).is_some_and(|why| why.contains("etcd said"));
        assert!(lost(&unwanted), "the manifest's event is lost");
        assert!(lost(&replaced));
        let wrong = |etcd| said(etcd, &owned).is_some_and(|why| why.contains("though it is"));
        assert!(wrong(&unwanted), "the view gives no leave");
        assert!(wrong(&replaced));
        // Another reason than the view's, or one more.
        for etcd in [&replaced, &unwanted, &unwanted_too] {
            for view in [&replaced, &unwanted, &unwanted_too] {
                assert_eq!(said(etcd, view), None);
            }
        }
    }
}
