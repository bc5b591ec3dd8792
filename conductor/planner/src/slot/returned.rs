//! What this host runs of slots that are not its own: claimed if nobody has them, taken back, or ended in order.

use manifests::{SlotId, canonical};

use super::ctx::{ADOPT, state};
use super::handover::is_other_live;
use super::leave::{manifest_of, retire_all};
use crate::inputs::Inputs;
use crate::output::Plan;
use crate::plan::take;
use crate::target::Target;
use crate::waiting::Waiting;
use model::Scope;
use model::Write;
use model::observed::{ObservedContainer, Readiness};
use model::records::{Claim, Phase, Version};
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Rev, SlotView};
use model::volumes;

/// Whether placement still has a word in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It may be given to a host, this one too.
    Open,
    /// What is to be done was said.
    Settled,
}

/// Plans what the engine has of a slot that this host does not have.
pub(crate) fn not_own(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    containers: &[&ObservedContainer],
    plan: &mut Plan,
) -> Rest {
    let work = Scope::Slot(slot.clone());
    if inputs.is_behind(&work) {
        return Rest::Settled;
    }
    let container = inputs.snapshot.containers.get(&slot.container);
    if let Some(container) = container
        && container.is_wanted(slot.slot)
    {
        let none = SlotView::default();
        let returned = Returned {
            inputs,
            slot,
            container,
            view: container.slots.get(&slot.slot).unwrap_or(&none),
            runs: containers.iter().copied().find(|c| c.running().is_some()),
        };
        match returned.decide(plan) {
            Verdict::Write(write) => {
                if !inputs.memory.in_flight.is_writing(&work) {
                    plan.writes.retain(|w| w.scope != work);
                    plan.writes.push(*write);
                }
                return Rest::Settled;
            }
            Verdict::Stays => return Rest::Settled,
            Verdict::Open => return Rest::Open,
            Verdict::Goes => {}
        }
    } else if let Some(write) = keeps_orphan(inputs, slot, container.map(|c| &**c), containers) {
        if !inputs.memory.in_flight.is_writing(&work) {
            plan.writes.push(write);
        }
        return Rest::Settled;
    }
    if !inputs.memory.in_flight.is_acting(&work) {
        let step = retire_all(inputs, slot, containers, container.map(|c| &**c), plan);
        plan.steps.extend(step);
    }
    Rest::Settled
}

/// What becomes of it.
enum Verdict {
    /// It becomes this host's.
    Write(Box<Write>),
    /// It runs on, and nothing is written.
    Stays,
    /// Nothing runs that could be claimed: placement decides.
    Open,
    /// It leaves, and is stopped and removed.
    Goes,
}

struct Returned<'a> {
    inputs: &'a Inputs<'a>,
    slot: &'a SlotId,
    container: &'a ContainerView,
    view: &'a SlotView,
    runs: Option<&'a ObservedContainer>,
}

impl Returned<'_> {
    fn decide(&self, plan: &mut Plan) -> Verdict {
        match self.inputs.snapshot.owner(self.view) {
            Owner::Live(claim) => self.beside(claim, plan),
            owner @ (Owner::Nobody | Owner::Lost(_)) => self.alone(owner, plan),
        }
    }

    /// Nobody who is live has the slot: who runs it has it.
    fn alone(&self, owner: Owner<'_>, plan: &mut Plan) -> Verdict {
        let inputs = self.inputs;
        let Some((runs, manifest)) = self.runs.zip(self.container.manifest.as_ref()) else {
            return Verdict::Open;
        };
        if is_other_live(inputs, self.view) {
            return Verdict::Stays;
        }
        // What has no owner at all may be claimed while slots are not placed yet: nothing moves by it.
        let may = match owner {
            Owner::Nobody if inputs.snapshot.in_hold().is_none() => Ok(()),
            owner => inputs.may_place(owner),
        };
        if let Err(pause) = may {
            plan.requeue_with(inputs.memory.disruption.next_change(inputs.now));
            plan.waiting
                .insert(self.slot.clone(), Waiting::Paused(pause));
            return Verdict::Stays;
        }
        let rev = self.version_of(runs);
        if rev.is_none()
            && let Some(write) = self.recovers_version(runs)
        {
            let scope = &write.scope;
            if !inputs.is_writing(scope) && plan.writes.iter().all(|w| w.scope != *scope) {
                plan.writes.push(write);
            }
            return Verdict::Stays;
        }
        let rev = rev.unwrap_or_default();
        let claim = Claim {
            host: inputs.host.name.clone(),
            instance: runs.owner.instance.clone(),
            manifest_rev: rev,
        };
        let data = manifest_of(runs, Some(self.container))
            .and_then(|m| volumes::pin(inputs.host, Some(self.view), m));
        let slot = self.slot.clone();
        match take(inputs, slot, self.view, claim, manifest.modified) {
            Some(write) => Verdict::Write(Box::new(write.with_data(data))),
            None => Verdict::Stays,
        }
    }

    /// A live host has the slot. An instance that is ready here is better than one that is not ready there.
    fn beside(&self, claim: &Rev<Claim>, plan: &mut Plan) -> Verdict {
        let inputs = self.inputs;
        let Some(runs) = self.runs else {
            return Verdict::Goes;
        };
        let owners = self.view.current_state();
        let may_retake = match owners {
            None => true,
            Some(state) => state.state != Phase::Ready && inputs.rules.has(Rule::RetakeUnready),
        };
        let gives_away = inputs.snapshot.availability(&inputs.host.name).gives_away();
        let rev = self.version_of(runs).filter(|rev| {
            Target::of(self.container).is_some_and(|target| !target.outdates(self.container, *rev))
        });
        let Some(rev) = rev.filter(|_| may_retake && !gives_away) else {
            return Verdict::Goes;
        };
        match inputs.observed.readiness(&runs.owner.instance) {
            Readiness::Ready => {}
            Readiness::Unready(_) => return Verdict::Goes,
            Readiness::Starting => {
                let memory = inputs.memory.instances.get(&runs.owner.instance);
                let looked_at = memory.map_or(inputs.now, |m| m.first_seen) + ADOPT;
                if inputs.now >= looked_at {
                    return Verdict::Goes;
                }
                plan.requeue(looked_at);
                return Verdict::Stays;
            }
        }
        if inputs.snapshot.in_hold().is_some() {
            return Verdict::Stays;
        }
        Verdict::Write(Box::new(Write::retake(
            self.slot.clone(),
            Claim {
                host: inputs.host.name.clone(),
                instance: runs.owner.instance.clone(),
                manifest_rev: rev,
            },
            state(inputs, self.container, rev, runs, Phase::Ready),
            claim.modified,
            self.view.state.as_ref().map_or(0, |s| s.modified),
            self.view.next.as_ref().map_or(0, |n| n.modified),
        )))
    }

    /// Its version is not in etcd, which may have been lost. Where the manifest and the image that it was made from are
    /// what its label says, the image is decided by it, so that nothing is replaced.
    fn recovers_version(&self, runs: &ObservedContainer) -> Option<Write> {
        let Target::Undecided {
            rev,
            manifest,
            json,
        } = Target::of(self.container)?
        else {
            return None;
        };
        let digest = runs
            .image
            .split_once('@')
            .map(|(_, digest)| digest.to_owned());
        let local = format!("local:{}", runs.image_id);
        let image = digest
            .into_iter()
            .chain([local])
            .find(|image| canonical::hash(manifest, image) == runs.owner.manifest_hash)?;
        let version = Version {
            manifest: json.as_ref().clone(),
            image,
            good: true,
            volumes: Vec::new(),
        };
        Some(Write::version(self.slot.container.clone(), rev, version))
    }

    /// Key of the version that it was made from.
    fn version_of(&self, runs: &ObservedContainer) -> Option<i64> {
        let version = self.container.version_by_hash(&runs.owner.manifest_hash);
        version.map(|(rev, _)| rev)
    }
}

/// An instance that was kept without a manifest when a restore was accepted gets the slot that nobody has; once it has
/// had it, the end of its claim is its end.
fn keeps_orphan(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    container: Option<&ContainerView>,
    containers: &[&ObservedContainer],
) -> Option<Write> {
    if container.is_some_and(|c| c.manifest.is_some()) {
        return None;
    }
    let view = container.and_then(|c| c.slots.get(&slot.slot));
    if view.is_some_and(|view| view.claim.is_some()) {
        return None;
    }
    let (kept, orphan) = containers.iter().find_map(|c| {
        let orphan = inputs.memory.orphans.get(&c.owner.instance)?;
        (!orphan.claimed).then_some((c, orphan))
    })?;
    let known = container.is_some_and(|c| c.versions.contains_key(&orphan.rev));
    Some(Write::keep(
        slot.clone(),
        Claim {
            host: inputs.host.name.clone(),
            instance: kept.owner.instance.clone(),
            manifest_rev: orphan.rev,
        },
        orphan.version.clone().filter(|_| !known),
        inputs.snapshot.cluster.as_ref()?.value.clone(),
    ))
}
