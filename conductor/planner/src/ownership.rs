//! Containers here of slots that this host does not have: claimed if nobody has them, taken back, or ended in order.

use manifests::{HostName, SlotId, canonical};
use model::VersionId;
use model::snapshot::mod_rev;

use crate::inputs::Inputs;
use crate::output::{Notes, Report};
use crate::retire::{draining, manifest_of, retire_all};
use crate::rollout::{Target, decided_write};
use crate::slot_state::{ADOPT, state};
use crate::slots::StraySlot;
use crate::waiting::Waiting;
use model::Write;
use model::observed::{ObservedContainer, Readiness};
use model::records::{Claim, Phase, Version};
use model::revision::ModRev;
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Rev, SlotView, Successor};
use model::volumes;

/// Claims, takes back or ends containers of slots that this host does not have.
pub(crate) fn strays(inputs: &Inputs<'_>, slots: &[StraySlot<'_>]) -> Report {
    let mut report = Report::default();
    for stray in slots {
        match verdict(inputs, stray, slots, &mut report) {
            Verdict::Write(write) => report.writes.push(*write),
            Verdict::Stays => {}
            Verdict::Goes => {
                report.actions.extend(retire_all(
                    inputs,
                    &stray.slot,
                    &stray.containers,
                    stray.container,
                    &mut report.notes,
                ));
                if let Some(waits) = draining(inputs, &stray.containers, &report.notes) {
                    report.waiting.insert(stray.slot.clone(), waits);
                }
            }
        }
    }
    report
}

fn verdict(
    inputs: &Inputs<'_>,
    stray: &StraySlot<'_>,
    all: &[StraySlot<'_>],
    report: &mut Report,
) -> Verdict {
    let slot = &stray.slot;
    let me = &inputs.host.name;
    let Some(container) = stray.container.filter(|c| c.may_have(slot.slot, me)) else {
        let orphan = keeps_orphan(inputs, stray);
        return orphan.map_or(Verdict::Goes, |write| Verdict::Write(Box::new(write)));
    };
    let none = SlotView::default();
    let mut containers = stray.containers.iter().copied();
    let Some(runs) = containers.find(|c| c.running().is_some()) else {
        return Verdict::Goes;
    };
    let returned = Returned {
        inputs,
        slot,
        container,
        view: container.slots.get(&slot.slot).unwrap_or(&none),
        runs,
    };
    match inputs.snapshot.owner(returned.view) {
        Owner::Live(claim) => returned.beside(claim, &mut report.notes),
        // Of several that could be claimed the first is.
        _ if inputs.rules.has(Rule::OnePerHost) && has_one_before(stray, container, me, all) => {
            Verdict::Stays
        }
        owner @ (Owner::Nobody | Owner::Lost(_)) => returned.alone(owner, report),
    }
}

/// Another slot of this global container runs here, and comes first.
fn has_one_before(
    stray: &StraySlot<'_>,
    container: &ContainerView,
    me: &HostName,
    all: &[StraySlot<'_>],
) -> bool {
    let comes_before = |other: &StraySlot<'_>| {
        other.slot.container == stray.slot.container
            && other.slot.slot < stray.slot.slot
            && container.may_have(other.slot.slot, me)
            && other.containers.iter().any(|c| c.running().is_some())
    };
    container.is_global() && all.iter().any(comes_before)
}

/// Decision on a stray slot.
enum Verdict {
    /// It becomes this host's.
    Write(Box<Write>),
    /// It runs on, and nothing is written.
    Stays,
    /// It leaves, and is stopped and removed.
    Goes,
}

struct Returned<'a> {
    inputs: &'a Inputs<'a>,
    slot: &'a SlotId,
    container: &'a ContainerView,
    view: &'a SlotView,
    runs: &'a ObservedContainer,
}

impl Returned<'_> {
    /// No live host has the slot: the one that runs it claims it.
    fn alone(&self, owner: Owner<'_>, report: &mut Report) -> Verdict {
        let (inputs, runs) = (self.inputs, self.runs);
        let Some(manifest) = &self.container.manifest else {
            return Verdict::Goes;
        };
        let successor = inputs.snapshot.successor(self.view);
        if matches!(successor, Successor::Live(next) if next.host != inputs.host.name) {
            return Verdict::Stays;
        }
        // A slot without any owner may be claimed even while nothing is placed: nothing moves by that.
        let may = match owner {
            Owner::Nobody if inputs.snapshot.in_hold().is_none() => Ok(()),
            owner => inputs.may_place(owner),
        };
        if let Err(pause) = may {
            let change = inputs.memory.disruption.next_change(inputs.now);
            change.inspect(|at| report.notes.requeue(*at));
            report
                .waiting
                .insert(self.slot.clone(), Waiting::Paused(pause));
            return Verdict::Stays;
        }
        let rev = self.version_of(runs);
        if rev.is_none()
            && let Some(write) = self.recovers_version(runs)
        {
            report.writes.push(write);
            return Verdict::Stays;
        }
        let rev = rev.unwrap_or_default();
        let claim = Claim {
            host: inputs.host.name.clone(),
            instance: runs.owner.instance.clone(),
            version: rev,
        };
        let data = manifest_of(runs, Some(self.container))
            .and_then(|m| volumes::pin(inputs.host, Some(self.view), m));
        let slot = self.slot.clone();
        match take(inputs, slot, self.view, claim, manifest.modified) {
            Some(write) => Verdict::Write(Box::new(write.with_data(data))),
            None => Verdict::Stays,
        }
    }

    /// A live host has the slot. It is taken back if it is not ready there and is here.
    fn beside(&self, claim: &Rev<Claim>, notes: &mut Notes) -> Verdict {
        let (inputs, runs) = (self.inputs, self.runs);
        let memory = inputs.memory.instances.get(&runs.owner.instance);
        // Clients would be sent to what ends in a moment. Where the engine gave its stop up, it is asked again.
        if memory.is_some_and(|memory| memory.stop_requested) {
            return Verdict::Goes;
        }
        let may_retake = match self.view.current_state() {
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
                let probed_by = memory.map_or(inputs.now, |m| m.first_seen) + ADOPT;
                if inputs.now >= probed_by {
                    return Verdict::Goes;
                }
                notes.requeue(probed_by);
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
                version: rev,
            },
            state(inputs, self.container, rev, runs, Phase::Ready),
            claim.modified,
            mod_rev(self.view.state.as_ref()),
            mod_rev(self.view.next.as_ref()),
        )))
    }

    /// Its version is not in etcd, which may have been lost. If its label is the hash of the manifest and of its image, that
    /// image is decided, so that nothing is replaced.
    fn recovers_version(&self, runs: &ObservedContainer) -> Option<Write> {
        let Target::Undecided {
            rev,
            manifest,
            text,
            found,
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
            .filter(|image| found.is_none_or(|found| found.digest == *image))
            .find(|image| canonical::hash(manifest, image) == runs.owner.manifest_hash)?;
        let version = Version {
            manifest: text.clone(),
            image,
            content: None,
            good: true,
            // It runs.
            prepared: true,
            volumes: Vec::new(),
            found: None,
        };
        let id = &self.slot.container;
        Some(decided_write(id, self.container, (rev, version), found))
    }

    /// Key of the version that it was made from.
    fn version_of(&self, runs: &ObservedContainer) -> Option<VersionId> {
        let version = self.container.version_by_hash(&runs.owner.manifest_hash);
        version.map(|(rev, _)| rev)
    }
}

/// Claims a free slot for an orphan. Once it has been claimed, the end of its claim is its end.
fn keeps_orphan(inputs: &Inputs<'_>, stray: &StraySlot<'_>) -> Option<Write> {
    let (slot, container) = (&stray.slot, stray.container);
    if container.is_some_and(|c| c.manifest.is_some()) {
        return None;
    }
    let view = container.and_then(|c| c.slots.get(&slot.slot));
    if view.is_some_and(|view| view.claim.is_some()) {
        return None;
    }
    let (kept, orphan) = stray.containers.iter().find_map(|c| {
        let orphan = inputs.memory.orphans.get(&c.owner.instance)?;
        (!orphan.claimed).then_some((c, orphan))
    })?;
    let is_known = container.is_some_and(|c| c.versions.contains_key(&orphan.rev));
    Some(Write::keep(
        slot.clone(),
        Claim {
            host: inputs.host.name.clone(),
            instance: kept.owner.instance.clone(),
            version: orphan.rev,
        },
        orphan.version.clone().filter(|_| !is_known),
        inputs.snapshot.cluster.as_ref()?.value.clone(),
    ))
}

/// Claims a slot that nobody has, or takes it over from a lost host; none from a live one.
pub(crate) fn take(
    inputs: &Inputs<'_>,
    slot: SlotId,
    view: &SlotView,
    claim: Claim,
    manifest_rev: ModRev,
) -> Option<Write> {
    let next = inputs.snapshot.successor(view).void();
    match inputs.snapshot.owner(view) {
        Owner::Live(_) => None,
        Owner::Nobody => Some(Write::claim(slot, claim, manifest_rev, next)),
        Owner::Lost(lost) => {
            let from = (lost.modified, lost.host.clone());
            Some(Write::take_over(slot, claim, from, manifest_rev, next))
        }
    }
}
