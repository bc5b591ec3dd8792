//! One slot of this host, and the decision on it.

use model::VersionId;
use model::snapshot::mod_rev;
use std::time::Duration;

use manifests::{InstanceId, SlotId};

use crate::inputs::Inputs;
use crate::memory::{InstanceMemory, SlotMemory, Trouble};
use crate::output::Notes;
use crate::placement;
use crate::rollout;
use crate::rollout::Target;
use crate::slot_state;
use crate::slot_state::ADOPT;
use crate::turn::Turn;
use crate::update;
use crate::update::Failed;
use crate::waiting::{Failure, Waiting};
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::records::{Availability, Claim, Phase, Progress, SlotState, Status};
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Rev, SlotView, Successor};
use model::volumes;
use model::{Action, Scope, Write};

/// Time after which an instance that runs and is not ready is written as unready: a second, and the time of a probe.
const UNREADY_AFTER: Duration = Duration::from_millis(1_200);

/// A slot that this host has.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) slot: &'a SlotId,
    pub(super) container: &'a ContainerView,
    pub(super) view: &'a SlotView,
    pub(super) claim: &'a Rev<Claim>,
    /// Its containers on the engine.
    pub(super) containers: &'a [&'a ObservedContainer],
    pub(super) memory: Option<&'a SlotMemory>,
}

/// Decision on one slot: at most one action and one write.
pub(super) struct Decision {
    pub(super) action: Option<Action>,
    pub(super) write: Option<Write>,
    /// A write on what the slots of the container share.
    pub(super) shared: Option<Write>,
    /// The image is to be decided, for all slots of the container.
    pub(super) resolve: Option<Action>,
    pub(super) progress: Progress,
    pub(super) reason: Option<Waiting>,
    /// Version that this is about, if it is not the claim's.
    pub(super) about: Option<VersionId>,
    /// Instance that this is about, if it is not the claim's.
    pub(super) instance: Option<InstanceId>,
}

impl Decision {
    pub(super) fn new(progress: Progress, reason: Option<Waiting>) -> Self {
        Self {
            action: None,
            write: None,
            shared: None,
            resolve: None,
            progress,
            reason,
            about: None,
            instance: None,
        }
    }

    pub(super) fn about(mut self, rev: VersionId) -> Self {
        self.about = Some(rev);
        self
    }

    pub(super) fn action(mut self, action: Action) -> Self {
        self.action.get_or_insert(action);
        self
    }

    pub(super) fn write(mut self, write: Write) -> Self {
        self.write.get_or_insert(write);
        self
    }
}

impl<'a> Ctx<'a> {
    pub(super) fn instance(&self, container: &ObservedContainer) -> Option<&'a InstanceMemory> {
        self.inputs.memory.instances.get(&container.owner.instance)
    }

    /// It runs, and was asked to stop. What was leaving already when this process began may have been, by an earlier one:
    /// nothing else says so, neither etcd nor the engine.
    pub(super) fn is_ending(&self, container: &ObservedContainer) -> bool {
        let left_before = &self.inputs.memory.left_before;
        let is_asked = |memory: &InstanceMemory| {
            memory.stop_requested
                || (memory.adopted && left_before.contains(&container.owner.instance))
        };
        container.running().is_some() && self.instance(container).is_some_and(is_asked)
    }

    /// Its address or port is taken: only another instance gets another one.
    pub(super) fn must_recreate(&self, container: &ObservedContainer) -> bool {
        self.instance(container).is_some_and(|m| m.must_recreate)
    }

    /// Containers made now would get another address, DNS server or network than this one has.
    pub(super) fn surroundings_changed(&self, container: &ObservedContainer) -> bool {
        let surroundings = &self.inputs.host.surroundings;
        container.has_lost_network()
            || surroundings.hash(&container.ports) != container.owner.host_hash
    }

    /// When the container of the claimed instance was made, by Docker's clock.
    pub(super) fn made_at(&self) -> Option<i64> {
        let mut all = self.containers.iter();
        let claimed = all.find(|c| c.owner.instance == self.claim.instance);
        claimed.map(|claimed| claimed.created_at)
    }

    /// It was made before the claimed one.
    pub(super) fn is_former(&self, container: &ObservedContainer) -> bool {
        let made_at = self.made_at();
        made_at.is_some_and(|at| container.created_at < at)
    }

    /// State to be written; none while that is not clear yet.
    pub(super) fn phase(&self, current: &ObservedContainer, notes: &mut Notes) -> Option<Phase> {
        match self.inputs.observed.readiness(&current.owner.instance) {
            Readiness::Ready => return Some(Phase::Ready),
            Readiness::Unready(_) => return Some(Phase::Unready),
            Readiness::Starting => {}
        }
        let now = self.inputs.now;
        let memory = self.instance(current);
        let adopted = self
            .view
            .current_state()
            .is_some_and(|s| s.state == Phase::Ready);
        let tell_at = if adopted {
            memory.map_or(now, |m| m.first_seen) + ADOPT
        } else {
            memory.and_then(|m| m.running_since).unwrap_or(now) + UNREADY_AFTER
        };
        if now < tell_at {
            notes.requeue(tell_at);
            return None;
        }
        Some(Phase::Unready)
    }

    /// Writes the state if etcd has another one.
    pub(super) fn with_state(
        &self,
        current: &ObservedContainer,
        phase: Phase,
        decision: Decision,
    ) -> Decision {
        let state = self.state(current, phase);
        let written = self.view.current_state();
        if written.is_some_and(|written| written.value == state) {
            return decision;
        }
        decision.write(self.state_write(state))
    }

    pub(super) fn release(&self) -> Write {
        Write::release(self.slot.clone(), self.claim.modified)
    }

    /// Its local volumes are on an earlier machine of this name: this host has its claim.
    pub(super) fn has_data_elsewhere(&self) -> bool {
        let data = self.view.data.as_ref();
        data.is_some_and(|data| data.host_id != self.inputs.host.id)
    }

    /// Notes that the local volumes of a container that was made here exist: one that is missing later is lost, not new.
    pub(super) fn with_volumes(
        &self,
        current: Option<&ObservedContainer>,
        decision: Decision,
    ) -> Decision {
        let there = current.filter(|c| c.state != ContainerState::Removing);
        let manifest = self.container.manifest_of(self.claim.version);
        let Some((manifest, there)) = manifest.zip(there) else {
            return decision;
        };
        match volumes::made(self.inputs.host, self.view, manifest, there) {
            None => decision,
            Some(data) => decision.write(Write::data(self.slot.clone(), data, self.claim.modified)),
        }
    }

    /// Nothing of it is here, and a constraint does not hold here: one of the manifest that is wanted, by which a slot is
    /// placed, too, whichever version it gets.
    pub(super) fn lost_its_place(&self) -> bool {
        let Some(wanted) = self.container.wanted() else {
            return false;
        };
        self.containers.iter().all(|c| c.is_going())
            && !self.has_data_here()
            && self
                .inputs
                .snapshot
                .hosts
                .get(&self.inputs.host.name)
                .is_some_and(|host| host.unmet(wanted).is_some())
    }

    /// It was claimed for a manifest that was deleted, and the one that was written since has a constraint that does not
    /// hold here.
    pub(super) fn was_written_elsewhere(&self) -> Option<String> {
        placement::was_written_elsewhere(self.inputs.snapshot, self.container, self.view)
    }

    /// This host gives away what it has.
    pub(super) fn gives_away(&self) -> bool {
        let me = &self.inputs.host.name;
        self.inputs.snapshot.availability(me).gives_away()
    }

    /// Its local volumes are on this machine.
    pub(super) fn has_data_here(&self) -> bool {
        let data = self.view.data.as_ref();
        data.is_some_and(|data| data.host_id == self.inputs.host.id)
    }

    /// This host leaves the cluster, and all slots that are left here have their data here: they end with the host.
    pub(super) fn is_last_here(&self) -> bool {
        let inputs = &self.inputs;
        let me = &inputs.host.name;
        inputs.snapshot.availability(me) == Availability::Leave
            && self.has_data_here()
            && inputs
                .snapshot
                .known(inputs.snapshot.claimed_by(me))
                .all(|(_, _, slot)| {
                    let data = slot.data.as_ref();
                    data.is_some_and(|data| data.host_id == inputs.host.id)
                })
    }

    /// This host's turn among those with a slot of this container.
    pub(super) fn turn(&self) -> Turn {
        Turn::among_owners(self.inputs.snapshot, self.container, &self.inputs.host.name)
    }

    /// Deletes a void `.next`: the host that it names is not live.
    pub(super) fn without_void_next(&self, decision: Decision) -> Decision {
        match self.inputs.snapshot.successor(self.view) {
            Successor::Void(next) if self.inputs.rules.has(Rule::VoidDelete) => {
                decision.write(Write::delete_void_next(self.slot.clone(), next.void()))
            }
            _ => decision,
        }
    }

    /// A handover to another live host is under way: nothing is replaced here meanwhile.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(
            self.inputs.snapshot.successor(self.view),
            Successor::Live(next) if next.host != self.inputs.host.name
        )
    }

    /// Another instance takes the place of the claimed one: of another version, or the slot is restarted.
    pub(super) fn is_outdated(&self, target: &Target<'_>) -> bool {
        target.outdates(self.container, self.claim.version) || self.is_restarting()
    }

    pub(super) fn is_restarting(&self) -> bool {
        update::is_restarting(self.container, self.slot.slot)
    }

    pub(super) fn others_ready(&self) -> bool {
        self.container
            .slots
            .iter()
            .filter(|(number, slot)| {
                **number != self.slot.slot
                    && matches!(self.inputs.snapshot.owner(slot), Owner::Live(_))
                    && self.container.is_wanted(**number)
            })
            .all(|(_, slot)| {
                slot.current_state()
                    .is_some_and(|s| s.state == Phase::Ready)
            })
    }

    /// Notes that an instance of the version `rev` failed in the update to `target`.
    pub(super) fn failed(
        &self,
        container: &ObservedContainer,
        rev: VersionId,
        target: &Target<'_>,
        failure: Failure,
    ) -> Option<Write> {
        let failed = Failed {
            slot: self.slot,
            version: rev,
            instance: Some(self.instance(container)?),
            failure,
        };
        update::failed(self.inputs.snapshot, self.container, target, failed)
    }

    /// Notes that no instance of `target` could be made in the update to it.
    pub(super) fn not_made(
        &self,
        target: &Target<'_>,
        trouble: &Trouble,
        notes: &mut Notes,
    ) -> Option<Write> {
        let at = trouble.fails_at(target.manifest().start_timeout)?;
        if self.inputs.now < at {
            notes.requeue(at);
            return None;
        }
        let failed = Failed {
            slot: self.slot,
            version: target.rev(),
            instance: None,
            failure: Failure::NotMade(trouble.reason.clone()),
        };
        update::failed(self.inputs.snapshot, self.container, target, failed)
    }

    /// What follows once an instance has been ready for long enough: its slot's update is over, and its version good.
    pub(super) fn settled(
        &self,
        current: &ObservedContainer,
        outdated: bool,
        notes: &mut Notes,
    ) -> Option<Write> {
        let now = self.inputs.now;
        let since = self.instance(current)?.ready_since?;
        let (snapshot, container) = (self.inputs.snapshot, self.container);
        if !outdated
            && let Some(over) = update::settled(snapshot, container, self.slot, (since, now), notes)
        {
            return Some(over);
        }
        let id = &self.slot.container;
        let good = rollout::good(container, id, self.claim.version)?;
        let proven = since + rollout::policy(container).monitor;
        if now < proven {
            notes.requeue(proven);
            return None;
        }
        let scope = Scope::Container(id.clone());
        let is_my_turn = self.inputs.is_my_turn(notes, &scope, Some(self.turn()));
        is_my_turn.then_some(good)
    }

    /// Another instance for a slot whose claimed one was never started or is gone.
    pub(super) fn new_instance(
        &self,
        target: &Target<'_>,
        fresh: &mut dyn FnMut() -> InstanceId,
    ) -> Decision {
        let claim = Claim {
            host: self.inputs.host.name.clone(),
            instance: fresh(),
            version: target.rev(),
        };
        let pin = volumes::pin(self.inputs.host, Some(self.view), target.manifest());
        let write = Write::new_instance(self.slot.clone(), claim, self.claim.modified);
        Decision::new(Progress::Starting, None).write(write.with_data(pin))
    }

    pub(super) fn state(&self, container: &ObservedContainer, phase: Phase) -> SlotState {
        self.state_of(self.claim.version, container, phase)
    }

    /// State of an instance of the version `rev`.
    pub(super) fn state_of(
        &self,
        rev: VersionId,
        container: &ObservedContainer,
        phase: Phase,
    ) -> SlotState {
        slot_state::state(&self.inputs, self.container, rev, container, phase)
    }

    pub(super) fn state_write(&self, state: SlotState) -> Write {
        Write::state(
            self.slot.clone(),
            state,
            self.claim.modified,
            mod_rev(self.view.state.as_ref()),
        )
    }

    /// Restarts of the instance that earlier agents counted.
    pub(super) fn earlier_restarts(&self) -> u32 {
        self.memory
            .and_then(|m| m.earlier_restarts.as_ref())
            .filter(|(instance, _)| *instance == self.claim.instance)
            .map_or(0, |(_, restarts)| *restarts)
    }

    /// The status for people.
    pub(super) fn status(
        &self,
        current: Option<&ObservedContainer>,
        decision: &Decision,
    ) -> Status {
        let memory = current.and_then(|c| self.instance(c));
        let running = current.and_then(ObservedContainer::running);
        Status {
            instance: self.claim.instance.clone(),
            host: self.inputs.host.name.clone(),
            progress: decision.progress,
            version: decision.about.unwrap_or(self.claim.version),
            reason: decision.reason.as_ref().map(ToString::to_string),
            container_id: current.map(|c| c.docker_id.clone()),
            restarts: memory.map_or(0, |m| m.ends) + self.earlier_restarts(),
            started_at: running.map(|r| r.started_at / 1000),
            log: if decision.progress == Progress::Failed {
                let other = decision.instance.as_ref();
                let other = other.and_then(|instance| self.inputs.memory.instances.get(instance));
                let failed = other.or(memory);
                failed.map(|m| m.log.clone()).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }
}
