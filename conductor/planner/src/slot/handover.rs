//! A slot that goes from one live host to another: the incoming side, and a holder that stops first.
//!
//! The incoming side says so by `.next`, starts, and takes the claim when its
//! instance is ready. Where two may never use the same data, the holder stops
//! first, and only then the new one starts.

use manifests::SlotId;
use manifests::manifest::VolumeSource;

use super::ctx::{Ctx, Out, state};
use super::leave::{has_left, stop_timeout};
use crate::inputs::Inputs;
use crate::output::Plan;
use crate::target;
use crate::waiting::{Failure, Waiting};
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::records::{Availability, Claim, Next, Phase, Progress, SlotState, Unfit};
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Rev, SlotView, Successor};
use model::volumes;
use model::write::Over;
use model::{Action, Prepare, Scope, Write};

/// A slot that another host has or had, and that this one is to have.
pub(crate) struct Incoming<'a> {
    /// Which.
    pub(crate) slot: &'a SlotId,
    /// Its container.
    pub(crate) container: &'a ContainerView,
    /// What etcd says of it.
    pub(crate) view: &'a SlotView,
    /// This host's `.next`.
    pub(crate) next: &'a Rev<Next>,
    /// What the engine has of it.
    pub(crate) containers: &'a [&'a ObservedContainer],
}

/// Plans a slot that is to come here. Of the rows of the table the first that fits is done.
pub(crate) fn incoming(inputs: &Inputs<'_>, incoming: &Incoming<'_>, plan: &mut Plan) {
    let work = Scope::Slot(incoming.slot.clone());
    if inputs.is_behind(&work) {
        return;
    }
    let mut write = None;
    let mut step = None;
    let drop = incoming.drop(inputs);
    let ordered = inputs.rules.has(Rule::HandoverOrder);
    match drop {
        Some(drop) if ordered => write = Some(drop),
        drop => {
            if inputs.snapshot.in_hold().is_none() {
                write = incoming.promotion(inputs);
            }
            if write.is_none() {
                write = drop;
                step = incoming.step(inputs, plan, &mut write);
            }
        }
    }
    if !inputs.memory.in_flight.is_writing(&work) {
        plan.writes.extend(write);
    }
    if !inputs.memory.in_flight.is_acting(&work) {
        plan.steps.extend(step);
    }
}

impl Incoming<'_> {
    fn current(&self) -> Option<&ObservedContainer> {
        let ours =
            |c: &&&ObservedContainer| c.owner.instance == self.next.instance && !c.is_going();
        self.containers.iter().find(ours).copied()
    }

    /// The handover is not wanted any more, or can't be done here.
    fn drop(&self, inputs: &Inputs<'_>) -> Option<Write> {
        let changed = target::placed_anew(self.container)
            .is_none_or(|target| target.outdates(self.container, self.next.manifest_rev));
        let active = inputs.snapshot.availability(&inputs.host.name) == Availability::Active;
        let failed = self.failed(inputs);
        if self.container.is_wanted(self.slot.slot) && !changed && active && failed.is_none() {
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

    /// Why it can't get ready here.
    fn failed(&self, inputs: &Inputs<'_>) -> Option<Waiting> {
        let trouble = inputs.memory.slots.get(self.slot).map(|m| &m.trouble);
        if let Some(trouble) = trouble.filter(|t| !t.may_pass()) {
            return Some(Waiting::Attempt(trouble.reason.clone()));
        }
        let container = self.current()?;
        let memory = inputs.memory.instances.get(&container.owner.instance)?;
        let ready = inputs.observed.readiness(&self.next.instance) == &Readiness::Ready;
        let manifest = self.container.manifest_of(self.next.manifest_rev)?;
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
        let rev = self.next.manifest_rev;
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
                manifest_rev: rev,
            },
            self.view.claim.as_ref().map_or(0, |claim| claim.modified),
            manifest.modified,
            self.next.modified,
            over,
        );
        Some(promotion.with_data(volumes::pin(inputs.host, Some(self.view), wants)))
    }

    /// Towards an instance that is ready, or where the holder stops first, one that is made.
    fn step(
        &self,
        inputs: &Inputs<'_>,
        plan: &mut Plan,
        write: &mut Option<Write>,
    ) -> Option<Action> {
        let rev = self.next.manifest_rev;
        let version = self.container.versions.get(&rev)?;
        let manifest = version.manifest.as_ref()?;
        let memory = inputs.memory.slots.get(self.slot);
        if let Some(again) = memory.map(|m| m.trouble.backoff.next_try())
            && again > inputs.now
        {
            plan.requeue(again);
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
                hash: version.hash.clone().unwrap_or_default(),
                temporary_name: !self.containers.is_empty(),
                existing: volumes::existing(inputs.host, Some(self.view)).to_vec(),
            }));
        };
        if let Some(memory) = inputs.memory.instances.get(&container.owner.instance) {
            if let Some(since) = memory.running_since {
                plan.requeue(since + manifest.start_timeout);
            }
            let again = memory.backoff.next_try();
            if again > inputs.now {
                plan.requeue(again);
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

/// Two instances of this version may not run side by side, wherever they are: they would write to the same volumes.
pub(super) fn stops_first(container: &ContainerView, rev: i64) -> bool {
    container.manifest_of(rev).is_some_and(|manifest| {
        manifest
            .volumes
            .iter()
            .any(|v| !v.read_only && !matches!(v.source, VolumeSource::HostPath(_)))
    })
}

/// The holder's side where it stops first: it leaves, stops, says so, and starts again only after it has taken that
/// back. None where the slot is not handed over so.
pub(super) fn yields(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    plan: &mut Plan,
) -> Option<Out> {
    let state = ctx.view.current_state()?;
    let handed_over = ctx.is_handed_over() && stops_first(ctx.container, ctx.claim.manifest_rev);
    if !handed_over {
        let said = state.state == Phase::Stopped || ctx.memory.is_some_and(|m| m.unconfirmed_stop);
        let back = said && ctx.inputs.rules.has(Rule::TakeBackStopped);
        return back.then(|| {
            Out::says(Progress::Starting, None).write(Write::take_back(
                ctx.slot.clone(),
                SlotState {
                    state: Phase::Unready,
                    ..state.value.clone()
                },
                ctx.claim.modified,
                state.modified,
                ctx.inputs.snapshot.successor(ctx.view).void(),
            ))
        });
    }
    let says = |phase: Phase| {
        ctx.state_write(SlotState {
            state: phase,
            ..state.value.clone()
        })
    };
    let out = Out::says(Progress::Leaving, Some(Waiting::HandedOver));
    let Some(running) = current.filter(|c| c.running().is_some()) else {
        // A start that is under way may have it running in a moment.
        let starting = ctx
            .inputs
            .memory
            .in_flight
            .is_acting(&Scope::Slot(ctx.slot.clone()));
        return Some(if starting || state.state == Phase::Stopped {
            out
        } else {
            out.write(says(Phase::Stopped))
        });
    };
    if state.state == Phase::Ready {
        return Some(out.write(says(Phase::Leaving)));
    }
    if !has_left(&ctx.inputs, running, plan) {
        return Some(out);
    }
    Some(out.step(Action::Stop {
        slot: ctx.slot.clone(),
        instance: running.owner.instance.clone(),
        docker_id: running.docker_id.clone(),
        timeout: stop_timeout(running, Some(ctx.container)),
    }))
}

/// Used by the table of who may be where.
pub(super) fn is_other_live(inputs: &Inputs<'_>, view: &SlotView) -> bool {
    matches!(inputs.snapshot.successor(view), Successor::Live(next) if next.host != inputs.host.name)
}
