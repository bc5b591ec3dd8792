//! Instances without a manifest that were kept when a restore was accepted.

use model::VersionId;
use std::collections::BTreeMap;

use manifests::{InstanceId, SlotId};
use model::observed::Observed;
use model::records::Version;
use model::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

/// Instances that run on though no manifest asks for them, until somebody removes them by name.
pub type Orphans = BTreeMap<InstanceId, Orphan>;

/// An instance without a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orphan {
    /// Its slot.
    pub slot: SlotId,
    /// Version that it runs: its key before the restore, negative.
    pub rev: VersionId,
    /// Content of that version, if it was known.
    pub version: Option<Version>,
    /// Its claim was seen: when that goes, somebody has removed it.
    pub claimed: bool,
}

/// Adds what runs here and has no manifest any more. `before` is the snapshot before the restore, for the versions.
pub(super) fn keep(
    orphans: &mut Orphans,
    before: &Snapshot,
    restored: &Snapshot,
    observed: &Observed,
) {
    for (instance, container) in &observed.containers {
        let slot = &container.owner.slot;
        let view = restored.containers.get(&slot.container);
        let has_manifest = view.is_some_and(|view| view.manifest.is_some());
        let had_it = before
            .slot(slot)
            .and_then(|view| view.claim.as_ref())
            .is_some_and(|claim| claim.instance == *instance);
        let another_runs = observed
            .of_slot(slot)
            .any(|other| other.owner.instance != *instance && other.running().is_some());
        let counts = container.running().is_some() || (had_it && !another_runs);
        if has_manifest || !counts {
            continue;
        }
        let view = before.containers.get(&slot.container);
        let made_from = view.and_then(|v| v.version_by_hash(&container.owner.manifest_hash));
        orphans.insert(
            instance.clone(),
            Orphan {
                slot: slot.clone(),
                // Revisions begin anew in a new etcd: one of the former history must not be taken for one of those.
                rev: made_from.map_or_else(VersionId::default, |(id, _)| id.orphaned()),
                version: made_from.map(|(_, version)| version.version.clone()),
                claimed: false,
            },
        );
    }
}

/// Notes claims, and forgets instances that have a manifest: they are like any other.
pub(super) fn see(orphans: &mut Orphans, snapshot: &Snapshot) {
    orphans.retain(|instance, orphan| {
        let container = snapshot.containers.get(&orphan.slot.container);
        orphan.claimed |= container
            .and_then(|c| c.slots.get(&orphan.slot.slot)?.claim.as_ref())
            .is_some_and(|claim| claim.instance == *instance);
        container.is_none_or(|c| c.manifest.is_none())
    });
}
