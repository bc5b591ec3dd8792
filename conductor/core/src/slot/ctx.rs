//! What is known of one slot of this host, and what comes out for it.

use manifests::{InstanceId, SlotId};

use crate::local::{InstanceMemory, SlotMemory};
use crate::observed::{ContainerPort, ObservedContainer};
use crate::plan::{Inputs, Step, Write, data};
use crate::records::{Claim, Phase, SlotState, Status};
use crate::snapshot::{ContainerView, Desired, Rev, SlotView};
use crate::target::{Target, placed_anew};

/// A slot that this host has.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) slot: &'a SlotId,
    pub(super) container: &'a ContainerView,
    pub(super) view: &'a SlotView,
    pub(super) claim: &'a Rev<Claim>,
    pub(super) memory: Option<&'a SlotMemory>,
}

/// What comes out for one slot: at most one step and one write.
#[derive(Default)]
pub(super) struct Out {
    pub(super) step: Option<Step>,
    pub(super) write: Option<Write>,
    pub(super) shared: Option<Write>,
    pub(super) progress: &'static str,
    pub(super) reason: Option<String>,
    /// The version that this is about, where it is not the claim's.
    pub(super) about: Option<i64>,
}

impl Out {
    pub(super) fn says(progress: &'static str, reason: Option<String>) -> Self {
        Self {
            progress,
            reason,
            ..Self::default()
        }
    }

    pub(super) fn about(mut self, rev: i64) -> Self {
        self.about = Some(rev);
        self
    }

    pub(super) fn step(mut self, step: Step) -> Self {
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
        self.inputs.local.instances.get(&container.owner.instance)
    }

    /// Its address or port is not to be had.
    pub(super) fn is_doomed(&self, container: &ObservedContainer) -> bool {
        self.instance(container).is_some_and(|m| m.doomed)
    }

    /// The host gives something else to its containers than it gave to this one.
    pub(super) fn surroundings_changed(&self, container: &ObservedContainer) -> bool {
        let surroundings = &self.inputs.host.surroundings;
        surroundings.hash(&container.ports) != container.owner.host_hash
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
    pub(super) fn my_turn(&self, target: &Target<'_>) -> Result<(), String> {
        for (number, slot) in self.container.slots.range(..self.slot.slot) {
            let Some(claim) = &slot.claim else { continue };
            if !self.container.is_wanted(*number) {
                continue;
            }
            let ready = slot
                .current_state()
                .is_some_and(|s| s.state == Phase::Ready);
            if !ready || target.outdates(self.container, claim.manifest_rev) {
                return Err(format!(
                    "waits until slot {number} is ready on the new version"
                ));
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
                    && slot.claim.is_some()
                    && self.container.is_wanted(**number)
            })
            .all(|(_, slot)| {
                slot.current_state()
                    .is_some_and(|s| s.state == Phase::Ready)
            })
    }

    /// Another instance for a slot whose claimed one was never started or is gone.
    pub(super) fn remint(&self, target: &Target<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Out {
        Out::says("starting", None).write(Write::NewInstance {
            slot: self.slot.clone(),
            claim: Claim {
                host: self.inputs.host.name.clone(),
                instance: fresh(),
                manifest_rev: target.rev(),
            },
            held: self.claim.modified,
            data: data(self.inputs.host, Some(self.view), target.manifest()),
        })
    }

    pub(super) fn state(&self, container: &ObservedContainer, phase: Phase) -> SlotState {
        let manifest = self.container.manifest_of(self.claim.manifest_rev);
        let ports = manifest
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
            addr: self.inputs.host.surroundings.host_ip,
            ports,
        }
    }

    pub(super) fn state_write(&self, state: SlotState) -> Write {
        Write::State {
            slot: self.slot.clone(),
            state,
            held: self.claim.modified,
            seen: self.view.state.as_ref().map_or(0, |s| s.modified),
        }
    }

    pub(super) fn good(&self) -> Option<Write> {
        let version = self.container.versions.get(&self.claim.manifest_rev)?;
        if version.version.good {
            return None;
        }
        Some(Write::Good {
            container: self.slot.container.clone(),
            rev: self.claim.manifest_rev,
            version: crate::records::Version {
                good: true,
                ..version.version.clone()
            },
            seen: version.modified,
        })
    }

    /// Restarts of the instance that earlier agents counted.
    pub(super) fn restarts_before(&self) -> u32 {
        self.memory
            .and_then(|m| m.before.as_ref())
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
            progress: out.progress.to_owned(),
            manifest_rev: out.about.unwrap_or(self.claim.manifest_rev),
            reason: out.reason.clone(),
            container_id: current.map(|c| c.docker_id.clone()),
            restarts: memory.map_or(0, |m| m.ends) + self.restarts_before(),
            started_at: running.map(|r| r.started_at / 1000),
            log: if out.progress == "failed" {
                memory.map(|m| m.log.clone()).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }
}
