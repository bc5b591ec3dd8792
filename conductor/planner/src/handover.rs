//! A slot that goes from one live host to another: the incoming side.
//!
//! The incoming side says so by `.next`, starts, and takes the claim when its
//! instance is ready. Where two may never use the same data, the holder stops
//! first, and only then the new one starts.

use manifests::manifest::VolumeSource;
use model::VersionId;
use model::snapshot::mod_rev;

use crate::inputs::Inputs;
use crate::output::{Notes, Report};
use crate::rollout::{is_prepared, placed_anew};
use crate::slot_state::state;
use crate::slots::IncomingSlot;
use crate::waiting::{Failure, Waiting};
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::records::{Availability, Claim, Phase, Unfit};
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner};
use model::volumes;
use model::write::Over;
use model::{Action, Prepare, Write};

/// Slots that come here. Of the rows of the table the first that fits is done.
pub(crate) fn incoming(inputs: &Inputs<'_>, slots: &[IncomingSlot<'_>]) -> Report {
    let mut report = Report::default();
    let is_ordered = inputs.rules.has(Rule::HandoverOrder);
    for slot in slots {
        let mut write = None;
        match slot.drop(inputs) {
            Some(drop) if is_ordered => write = Some(drop),
            drop => {
                if inputs.snapshot.in_hold().is_none() {
                    write = slot.promotion(inputs);
                }
                if write.is_none() {
                    write = drop;
                    let action = slot.action(inputs, &mut report.notes, &mut write);
                    report.actions.extend(action);
                }
            }
        }
        report.writes.extend(write);
    }
    report
}

impl IncomingSlot<'_> {
    fn current(&self) -> Option<&ObservedContainer> {
        let ours =
            |c: &&&ObservedContainer| c.owner.instance == self.next.instance && !c.is_going();
        self.containers.iter().find(ours).copied()
    }

    /// The handover is not wanted any more, or can't be done here.
    fn drop(&self, inputs: &Inputs<'_>) -> Option<Write> {
        let changed = placed_anew(self.container)
            .is_none_or(|target| target.outdates(self.container, self.next.version));
        let version = self.container.versions.get(&self.next.version);
        let unprepared = version.is_some_and(|version| !is_prepared(version));
        let active = inputs.snapshot.availability(&inputs.host.name) == Availability::Active;
        let failed = self.failed(inputs);
        // Of a global container each host has its own.
        let wanted = self.container.is_wanted(self.slot.slot) && !self.container.is_global();
        if wanted && !changed && !unprepared && active && failed.is_none() {
            return None;
        }
        let unfit = failed.and_then(|reason| {
            let manifest_rev = self.container.manifest.as_ref()?.modified;
            let unfit = Unfit {
                manifest_rev,
                reason: reason.to_string(),
            };
            Some((inputs.host.name.clone(), unfit))
        });
        Some(Write::delete_next(
            self.slot.clone(),
            self.next.modified,
            unfit,
        ))
    }

    /// Failure of the incoming instance, if it can't get ready here.
    fn failed(&self, inputs: &Inputs<'_>) -> Option<Waiting> {
        let trouble = inputs.memory.slots.get(&self.slot).map(|m| &m.trouble);
        if let Some(trouble) = trouble.filter(|t| !t.may_pass()) {
            return Some(Waiting::Attempt(trouble.reason.clone()));
        }
        let container = self.current()?;
        let memory = inputs.memory.instances.get(&container.owner.instance)?;
        let ready = inputs.observed.readiness(&self.next.instance) == &Readiness::Ready;
        let manifest = self.container.manifest_of(self.next.version)?;
        let since = memory.running_since.unwrap_or(memory.first_seen);
        let started = memory.running_since.is_some() || memory.ends > 0;
        let late = started && !ready && inputs.now >= since + manifest.start_timeout;
        late.then_some(Waiting::Failed(Failure::NotReady(manifest.start_timeout)))
    }

    fn promotion(&self, inputs: &Inputs<'_>) -> Option<Write> {
        let manifest = self.container.manifest.as_ref()?;
        let container = self.current();
        let ready = container
            .filter(|c| c.running().is_some())
            .filter(|_| inputs.observed.readiness(&self.next.instance) == &Readiness::Ready);
        let rev = self.next.version;
        // One that is ready needs no other reason.
        let over = match (ready, inputs.snapshot.owner(self.view)) {
            (Some(ready), _) => {
                Over::Ready(state(inputs, self.container, rev, ready, Phase::Ready))
            }
            (None, Owner::Nobody) => Over::Nobody,
            (None, Owner::Lost(claim)) => Over::Lost(claim.host.clone()),
            (None, Owner::Live(claim)) => {
                let state = self.view.current_state();
                let stopped = state.filter(|state| state.state == Phase::Stopped)?;
                Over::Stopped(stopped.modified, claim.host.clone())
            }
        };
        let wants = self.container.manifest_of(rev)?;
        let promotion = Write::promote(
            self.slot.clone(),
            Claim {
                host: inputs.host.name.clone(),
                instance: self.next.instance.clone(),
                version: rev,
            },
            mod_rev(self.view.claim.as_ref()),
            manifest.modified,
            self.next.modified,
            over,
        );
        Some(promotion.with_data(volumes::pin(inputs.host, Some(self.view), wants)))
    }

    /// Towards an instance that is ready, or where the holder stops first, one that is made.
    fn action(
        &self,
        inputs: &Inputs<'_>,
        notes: &mut Notes,
        write: &mut Option<Write>,
    ) -> Option<Action> {
        let rev = self.next.version;
        let version = self.container.versions.get(&rev)?;
        let manifest = version.manifest.as_ref()?;
        let memory = inputs.memory.slots.get(&self.slot);
        if let Some(again) = memory.map(|m| m.trouble.backoff.next_try())
            && again > inputs.now
        {
            notes.requeue(again);
            return None;
        }
        let Some(container) = self.current() else {
            if memory.and_then(|m| m.pending_instance.as_ref()) != Some(&self.next.instance) {
                // An earlier process began it, or the engine has lost it: begun anew, under another instance.
                write.get_or_insert(Write::delete_next(
                    self.slot.clone(),
                    self.next.modified,
                    None,
                ));
                return None;
            }
            return Some(Action::Prepare(Prepare {
                slot: self.slot.clone(),
                instance: self.next.instance.clone(),
                rev,
                manifest: manifest.clone(),
                image: version.version.image.clone(),
                content: version.version.content.clone(),
                hash: version.hash.clone().unwrap_or_default(),
                temporary_name: !self.containers.is_empty(),
                existing: volumes::existing(inputs.host, Some(self.view)).to_vec(),
                driver: volumes::driver(inputs.host, Some(self.view)).map(ToOwned::to_owned),
                before: false,
            }));
        };
        if let Some(memory) = inputs.memory.instances.get(&container.owner.instance) {
            if let Some(since) = memory.running_since {
                notes.requeue(since + manifest.start_timeout);
            }
            let again = memory.backoff.next_try();
            if again > inputs.now {
                notes.requeue(again);
                return None;
            }
        }
        let startable = matches!(
            container.state,
            ContainerState::Created { .. } | ContainerState::Exited(_)
        );
        if !startable || stops_first(self.container, rev) {
            return None;
        }
        Some(Action::Start {
            slot: self.slot.clone(),
            instance: container.owner.instance.clone(),
            docker_id: container.docker_id.clone(),
        })
    }
}

/// The holder stops before the other host starts: one of both versions asks for it.
pub(crate) fn holder_stops_first(
    container: &ContainerView,
    held: VersionId,
    next: VersionId,
) -> bool {
    stops_first(container, held) || stops_first(container, next)
}

/// Two instances of this version may not run side by side, wherever they are: they would write to the same volumes.
pub(crate) fn stops_first(container: &ContainerView, rev: VersionId) -> bool {
    container.manifest_of(rev).is_some_and(|manifest| {
        manifest
            .volumes
            .iter()
            .any(|v| !v.read_only && !matches!(v.source, VolumeSource::HostPath(_)))
    })
}
