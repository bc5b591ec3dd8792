//! Rows of containers. Pure.

use manifests::ContainerId;
use manifests::manifest::Scale;
use manifests::parse::Problem;
use model::records::{FoundImage, Rollout};
use model::snapshot::{ContainerView, Desired};
use model::{links, volumes};
use planner::rollout::{self, Target};
use planner::update;

use super::inputs::RowInputs;
use super::types::{ContainerRow, FoundRow, GaveUp, SkippedRow, UpdateRow};

/// Row of a container.
pub(super) fn container_row(
    inputs: RowInputs<'_>,
    id: &ContainerId,
    view: &ContainerView,
) -> ContainerRow {
    let (wanted, errors, warnings) = match view.manifest.as_ref().map(|m| &m.value) {
        Some(Desired::Valid {
            manifest, warnings, ..
        }) => {
            let links = links::warnings(inputs.snapshot, inputs.directory, id, manifest);
            let links = links.iter().map(ToString::to_string);
            // Who reads this may have written the manifest in another form, or not at all: no line and column.
            let own = warnings.iter().map(Problem::without_place);
            let warnings = own.chain(links).collect();
            (Some(manifest), Vec::new(), warnings)
        }
        Some(Desired::Invalid(errors)) if errors.is_empty() => {
            (None, vec!["it can't be read".to_owned()], Vec::new())
        }
        Some(Desired::Invalid(errors)) => (None, errors.clone(), Vec::new()),
        None => (None, Vec::new(), Vec::new()),
    };
    let target = Target::of(view);
    let version = target.as_ref().map(|target| target.rev().0);
    let unnamed_volumes = match &target {
        Some(Target::Decided {
            version, manifest, ..
        }) => volumes::unnamed(&version.version.volumes, manifest),
        _ => Vec::new(),
    };
    let unnamed_volumes = unnamed_volumes.into_iter().map(str::to_owned).collect();
    let gave_up = target
        .filter(|target| target.was_given_up(view))
        .and(view.rollout.as_ref())
        .map(|rollout| GaveUp {
            slot: (!rollout.before).then_some(rollout.slot),
            reason: rollout.reason.clone(),
        });
    let scale = view.scale().filter(|_| wanted.is_some());
    let image = wanted.map(|manifest| manifest.image.clone());
    ContainerRow {
        app: id.app.clone(),
        container: id.container.clone(),
        revision: view.manifest.as_ref().map(|m| m.modified.0),
        scale,
        global: wanted.is_some_and(|manifest| manifest.scale == Scale::Global),
        image,
        errors,
        warnings,
        unnamed_volumes,
        stopped: wanted.is_some_and(|manifest| manifest.stopped),
        expires: None,
        version,
        found: view.found().map(|found| found_row(&found.value)),
        update: update::rollout(view).and_then(|rollout| update_row(view, rollout)),
        gave_up,
    }
}

/// Row of the image that is run in place of the manifest's.
pub(super) fn found_row(found: &FoundImage) -> FoundRow {
    let skipped = found.skipped.iter().map(|one| SkippedRow {
        image: one.image.clone(),
        digest: one.digest.clone(),
        why: one.why.clone(),
    });
    FoundRow {
        image: found.image.clone(),
        digest: found.digest.clone(),
        since: found.since,
        back_from: found.back_from.clone(),
        skipped: skipped.collect(),
    }
}

/// Row of an update; none if there is nothing to say.
pub(super) fn update_row(view: &ContainerView, mut rollout: Rollout) -> Option<UpdateRow> {
    // What nobody has, or wants, any more is not updated either; its owner may not have said so.
    let has_owner = |slot: &u32| view.slots.get(slot).is_some_and(|s| s.claim.is_some());
    let is_there = |slot: &u32| view.is_wanted(*slot) && has_owner(slot);
    rollout.updating.retain(is_there);
    rollout.failures.retain(|slot| view.is_wanted(*slot));
    rollout
        .restart
        .retain(|slot, _| update::is_restarting(view, *slot));
    (!rollout.is_over()).then(|| UpdateRow {
        version: rollout.version.0,
        updating: rollout.updating.into_iter().collect(),
        failures: rollout.failures.into_iter().collect(),
        restart: rollout.restart.into_keys().collect(),
        halted: rollout.failed,
        before: rollout.before,
        paused: rollout.paused,
        slot: rollout.slot,
        reason: rollout.reason,
        back_to: rollout::back_to(view).map(|version| version.0),
    })
}
