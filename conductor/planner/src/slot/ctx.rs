//! What is known of one slot of this host, and what comes out for it.

use std::time::Duration;

use manifests::{InstanceId, SlotId};

use crate::inputs::Inputs;
use crate::memory::{InstanceMemory, STALLED, SlotMemory, Trouble};
use crate::output::Plan;
use crate::placement;
use crate::target::{Target, placed_anew};
use crate::turn::Turn;
use crate::waiting::{Stalled, Waiting};
use model::observed::{ContainerPort, ContainerState, ObservedContainer, Readiness};
use model::records::{Availability, Claim, Phase, Progress, SlotState, Status, Unfit};
use model::rules::Rule;
use model::snapshot::{ContainerView, Desired, Owner, Rev, SlotView, Successor};
use model::time::Millis;
use model::volumes;
use model::{Action, Write};
use model::{Fault, Scope};

/// Running this long without being ready is told to others: a second, and the time that a look at it takes.
const UNREADY_AFTER: Duration = Duration::from_millis(1_200);

/// An adopted instance that others know as ready is looked at this long before that is taken back.
pub(super) const ADOPT: Duration = Duration::from_secs(5);

/// A slot that this host has.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) slot: &'a SlotId,
    pub(super) container: &'a ContainerView,
    pub(super) view: &'a SlotView,
    pub(super) claim: &'a Rev<Claim>,
    /// What the engine has of it.
    pub(super) containers: &'a [&'a ObservedContainer],
    pub(super) memory: Option<&'a SlotMemory>,
}

/// What comes out for one slot: at most one step and one write.
pub(super) struct Out {
    pub(super) step: Option<Action>,
    pub(super) write: Option<Write>,
    pub(super) shared: Option<Write>,
    pub(super) progress: Progress,
    pub(super) reason: Option<Waiting>,
    /// The version that this is about, where it is not the claim's.
    pub(super) about: Option<i64>,
}

impl Out {
    pub(super) fn says(progress: Progress, reason: Option<Waiting>) -> Self {
        Self {
            step: None,
            write: None,
            shared: None,
            progress,
            reason,
            about: None,
        }
    }

    pub(super) fn about(mut self, rev: i64) -> Self {
        self.about = Some(rev);
        self
    }

    pub(super) fn step(mut self, step: Action) -> Self {
        self.step.get_or_insert(step);
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

    /// Its address or port is not to be had.
    pub(super) fn must_recreate(&self, container: &ObservedContainer) -> bool {
        self.instance(container).is_some_and(|m| m.must_recreate)
    }

    /// The host gives something else to its containers than it gave to this one.
    pub(super) fn surroundings_changed(&self, container: &ObservedContainer) -> bool {
        let surroundings = &self.inputs.host.surroundings;
        container.has_lost_network()
            || surroundings.hash(&container.ports) != container.owner.host_hash
    }

    /// Whether it takes traffic, as far as others are to know; none while that is not clear yet.
    pub(super) fn phase(&self, current: &ObservedContainer, plan: &mut Plan) -> Option<Phase> {
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
            plan.requeue(tell_at);
            return None;
        }
        Some(Phase::Unready)
    }

    /// Writes the state if others know another one.
    pub(super) fn tells(&self, current: &ObservedContainer, phase: Phase, out: Out) -> Out {
        let state = self.state(current, phase);
        let known = self.view.current_state();
        if known.is_some_and(|known| known.value == state) {
            return out;
        }
        out.write(self.state_write(state))
    }

    /// Gives the slot up where this host can't run it and another may: nothing of it runs here, and its data is not
    /// here.
    pub(super) fn gives_up_unfit(&self, target: &Target<'_>) -> Option<Out> {
        let local = self.inputs.memory;
        let prepare = self.memory.map(|m| &m.trouble);
        let image = local.images.get(&self.slot.container);
        let trouble = [prepare, image]
            .into_iter()
            .flatten()
            .find(|t| t.rev == target.rev() && self.is_hosts(t))?;
        self.releases_unfit(Waiting::Attempt(trouble.reason.clone()))
    }

    /// As `gives_up_unfit`, for an instance that was made and does not start here.
    pub(super) fn gives_up_start(&self) -> Option<Out> {
        let trouble = &self.memory?.trouble;
        if !self.is_hosts(trouble) {
            return None;
        }
        self.releases_unfit(Waiting::Attempt(trouble.reason.clone()))
    }

    /// Another host may do better. Of what is not known that is found out by trying, if there is another one.
    fn is_hosts(&self, trouble: &Trouble) -> bool {
        match trouble.fault {
            Fault::Host => true,
            Fault::Unknown => !trouble.may_pass() && self.another_may_take_it(),
            Fault::Passing | Fault::Manifest | Fault::Data => false,
        }
    }

    fn another_may_take_it(&self) -> bool {
        let placed = placement::explain(self.inputs.snapshot, self.slot);
        placed.is_some_and(|placed| placed.order.iter().any(|h| *h != self.inputs.host.name))
    }

    /// Gives the slot up where the pull or create that was begun for it does not end.
    pub(super) fn gives_up_stuck(&self, target: &Target<'_>, plan: &mut Plan) -> Option<Out> {
        let (work, what) = match target {
            Target::Undecided { .. } => {
                (Scope::Container(self.slot.container.clone()), Stalled::Pull)
            }
            Target::Decided { .. } => (Scope::Slot(self.slot.clone()), Stalled::Create),
        };
        let since = self.inputs.memory.in_flight.acting_since(&work)?;
        self.gives_up_stalled(since, what, plan)
    }

    /// Gives the slot up where it is so since long.
    pub(super) fn gives_up_stalled(
        &self,
        since: Millis,
        what: Stalled,
        plan: &mut Plan,
    ) -> Option<Out> {
        let at = since + STALLED;
        if self.inputs.now < at {
            plan.requeue(at);
            return None;
        }
        self.releases_unfit(Waiting::Stalled(what, STALLED))
    }

    fn releases_unfit(&self, reason: Waiting) -> Option<Out> {
        let runs = self.containers.iter().any(|c| c.running().is_some());
        if runs || self.has_data_here() {
            return None;
        }
        let manifest = self.container.manifest.as_ref()?;
        let unfit = Unfit {
            manifest_rev: manifest.modified,
            reason: reason.to_string(),
        };
        Some(
            Out::says(Progress::Failed, Some(reason)).write(Write::release_unfit(
                self.slot.clone(),
                self.claim.modified,
                self.inputs.host.name.clone(),
                unfit,
            )),
        )
    }

    pub(super) fn release(&self) -> Write {
        Write::release(self.slot.clone(), self.claim.modified)
    }

    /// Its local volumes are on another machine: one that had this host's name, or its pin would not be with this claim.
    pub(super) fn has_data_elsewhere(&self) -> bool {
        let data = self.view.data.as_ref();
        data.is_some_and(|data| data.host_id != self.inputs.host.id)
    }

    /// Notes that the local volumes of what was made here exist: one that is missing later is lost, not new.
    pub(super) fn notes_volumes(&self, current: Option<&ObservedContainer>, out: Out) -> Out {
        let there = current.is_some_and(|c| c.state != ContainerState::Removing);
        let manifest = self.container.manifest_of(self.claim.manifest_rev);
        let Some(manifest) = manifest.filter(|_| there) else {
            return out;
        };
        match volumes::made(self.inputs.host, self.view, manifest) {
            None => out,
            Some(data) => out.write(Write::data(self.slot.clone(), data, self.claim.modified)),
        }
    }

    /// Nothing of it is here, and its manifest asks for another host.
    pub(super) fn lost_its_place(&self, target: &Target<'_>) -> bool {
        self.containers.iter().all(|c| c.is_going())
            && !self.has_data_here()
            && self
                .inputs
                .snapshot
                .hosts
                .get(&self.inputs.host.name)
                .is_some_and(|host| placement::unmet(&host.labels(), target.manifest()).is_some())
    }

    /// Its local volumes are on this machine.
    fn has_data_here(&self) -> bool {
        let data = self.view.data.as_ref();
        data.is_some_and(|data| data.host_id == self.inputs.host.id)
    }

    /// Its data holds it here, this host leaves, and nothing else is left here: it ends with the host.
    pub(super) fn is_last_here(&self) -> bool {
        let inputs = &self.inputs;
        let me = &inputs.host.name;
        inputs.snapshot.availability(me) == Availability::Leave
            && self.has_data_here()
            && inputs.snapshot.containers.iter().all(|(_, container)| {
                container.slots.values().all(|slot| {
                    let ours = slot.claim.as_ref().is_some_and(|claim| claim.host == *me);
                    !ours
                        || slot
                            .data
                            .as_ref()
                            .is_some_and(|data| data.host_id == inputs.host.id)
                })
            })
    }

    /// This host's turn to do what every host with a slot of this container would do.
    pub(super) fn turn(&self) -> Turn {
        Turn::among_owners(self.inputs.snapshot, self.container, &self.inputs.host.name)
    }

    /// A handover to a host that is not live any more is void: its `.next` goes.
    pub(super) fn drops_void_next(&self, out: Out) -> Out {
        match self.inputs.snapshot.successor(self.view) {
            Successor::Void(next) if self.inputs.rules.has(Rule::VoidDelete) => {
                out.write(Write::delete_void_next(self.slot.clone(), next.void()))
            }
            _ => out,
        }
    }

    /// Another live host is about to take it: nothing is replaced here meanwhile.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(
            self.inputs.snapshot.successor(self.view),
            Successor::Live(next) if next.host != self.inputs.host.name
        )
    }

    /// What this slot should run. Where an update was given up, or the manifest can't be read, each slot stays with
    /// what it has; only the slot that failed goes on being tried.
    pub(super) fn target(&self) -> Option<Target<'a>> {
        let target = Target::of(self.container)?;
        let halted = target.was_given_up(self.container)
            || self
                .container
                .manifest
                .as_ref()
                .is_some_and(|m| matches!(m.value, Desired::Invalid(_)));
        if halted && self.claim.manifest_rev != target.rev() {
            let keeps = placed_anew(self.container)?;
            return Some(
                match self.container.versions.get(&self.claim.manifest_rev) {
                    Some(version) => match &version.manifest {
                        Some(manifest) => Target::Decided {
                            rev: self.claim.manifest_rev,
                            version,
                            manifest,
                        },
                        None => keeps,
                    },
                    None => keeps,
                },
            );
        }
        Some(target)
    }

    /// One slot at a time, in order of number: every lower slot is ready on the new version, or not placed.
    pub(super) fn my_turn(&self, target: &Target<'_>) -> Result<(), Waiting> {
        for (number, slot) in self.container.slots.range(..self.slot.slot) {
            // What a lost host has is not placed.
            let Owner::Live(claim) = self.inputs.snapshot.owner(slot) else {
                continue;
            };
            if !self.container.is_wanted(*number) {
                continue;
            }
            let ready = slot
                .current_state()
                .is_some_and(|s| s.state == Phase::Ready);
            if !ready || target.outdates(self.container, claim.manifest_rev) {
                return Err(Waiting::LowerSlot(*number));
            }
        }
        Ok(())
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

    /// Another instance for a slot whose claimed one was never started or is gone.
    pub(super) fn remint(&self, target: &Target<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Out {
        let claim = Claim {
            host: self.inputs.host.name.clone(),
            instance: fresh(),
            manifest_rev: target.rev(),
        };
        let pin = volumes::pin(self.inputs.host, Some(self.view), target.manifest());
        Out::says(Progress::Starting, None).write(
            Write::new_instance(self.slot.clone(), claim, self.claim.modified).with_data(pin),
        )
    }

    pub(super) fn state(&self, container: &ObservedContainer, phase: Phase) -> SlotState {
        state(
            &self.inputs,
            self.container,
            self.claim.manifest_rev,
            container,
            phase,
        )
    }

    pub(super) fn state_write(&self, state: SlotState) -> Write {
        Write::state(
            self.slot.clone(),
            state,
            self.claim.modified,
            self.view.state.as_ref().map_or(0, |s| s.modified),
        )
    }

    pub(super) fn good(&self, plan: &mut Plan) -> Option<Write> {
        let version = self.container.versions.get(&self.claim.manifest_rev)?;
        let work = Scope::Container(self.slot.container.clone());
        if version.version.good || !self.inputs.is_my_turn(plan, &work, Some(self.turn())) {
            return None;
        }
        Some(Write::good(
            self.slot.container.clone(),
            self.claim.manifest_rev,
            version.version.clone(),
            version.modified,
        ))
    }

    /// Restarts of the instance that earlier agents counted.
    pub(super) fn restarts_before(&self) -> u32 {
        self.memory
            .and_then(|m| m.earlier_restarts.as_ref())
            .filter(|(instance, _)| *instance == self.claim.instance)
            .map_or(0, |(_, restarts)| *restarts)
    }

    /// What people read of this slot.
    pub(super) fn status(&self, current: Option<&ObservedContainer>, out: &Out) -> Status {
        let memory = current.and_then(|c| self.instance(c));
        let running = current.and_then(ObservedContainer::running);
        Status {
            instance: self.claim.instance.clone(),
            host: self.inputs.host.name.clone(),
            progress: out.progress,
            manifest_rev: out.about.unwrap_or(self.claim.manifest_rev),
            reason: out.reason.as_ref().map(ToString::to_string),
            container_id: current.map(|c| c.docker_id.clone()),
            restarts: memory.map_or(0, |m| m.ends) + self.restarts_before(),
            started_at: running.map(|r| r.started_at / 1000),
            log: if out.progress == Progress::Failed {
                memory.map(|m| m.log.clone()).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }
}

/// What others are told of an instance of the version `rev` on this host.
pub(super) fn state(
    inputs: &Inputs<'_>,
    view: &ContainerView,
    rev: i64,
    container: &ObservedContainer,
    phase: Phase,
) -> SlotState {
    let ports = view
        .manifest_of(rev)
        .into_iter()
        .flat_map(|m| &m.services)
        .filter_map(|(name, service)| {
            let inside = ContainerPort {
                port: service.port,
                protocol: service.protocol,
            };
            Some((name.clone(), container.ports.get(&inside)?.port()))
        })
        .collect();
    SlotState {
        instance: container.owner.instance.clone(),
        state: phase,
        addr: inputs.host.surroundings.host_ip,
        ports,
    }
}
