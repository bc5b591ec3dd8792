//! An accepted restore: what runs here and has no manifest any more is looked through once, and noted on disk, before
//! anything is planned by the restored etcd. Whoever does not know what was kept would stop it.

use std::collections::BTreeMap;

use manifests::InstanceId;
use model::Snapshot;
use planner::memory::Orphan;
use serde::{Deserialize, Serialize};

/// What is noted on disk of an accepted restore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrphansNote {
    /// A restore was accepted, and what runs here has not been looked through yet.
    pub accepted: bool,
    /// What it left without a manifest.
    pub kept: BTreeMap<InstanceId, Orphan>,
}

/// How far an accepted restore is.
#[derive(Debug, Default)]
pub(crate) struct Restore {
    on_disk: OrphansNote,
    /// What is on its way to the disk.
    saving: Option<OrphansNote>,
    /// What was known before, until what runs here has been looked through.
    before: Option<Snapshot>,
    /// The last note could not be written: tried again with the next plan.
    failed: bool,
}

impl Restore {
    pub(crate) fn new(on_disk: OrphansNote) -> Self {
        Self {
            on_disk,
            ..Self::default()
        }
    }

    /// A restore was accepted; `before` is what was known until then. What is to be noted at once.
    pub(crate) fn accepted(&mut self, before: Snapshot) -> OrphansNote {
        self.before.get_or_insert(before);
        let note = OrphansNote {
            accepted: true,
            kept: self.on_disk.kept.clone(),
        };
        self.saving = Some(note.clone());
        note
    }

    /// What runs here is still to be looked through: what was known before, if this process has seen it.
    pub(crate) fn pending(&self) -> Option<Snapshot> {
        let pending = self.on_disk.accepted || self.before.is_some();
        pending.then(|| self.before.clone().unwrap_or_default())
    }

    /// A note is on its way to the disk.
    pub(crate) fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// These are kept, and nothing is left to be looked through: what is to be noted, unless that is so on disk.
    pub(crate) fn keep(&mut self, kept: &BTreeMap<InstanceId, Orphan>) -> Option<OrphansNote> {
        if !self.on_disk.accepted && self.on_disk.kept == *kept {
            self.before = None;
            return None;
        }
        let note = OrphansNote {
            accepted: false,
            kept: kept.clone(),
        };
        self.saving = Some(note.clone());
        Some(note)
    }

    /// The note is on disk, or not.
    pub(crate) fn saved(&mut self, done: bool) {
        let Some(note) = self.saving.take() else {
            return;
        };
        self.failed = !done;
        if done {
            if !note.accepted {
                self.before = None;
            }
            self.on_disk = note;
        }
    }

    /// The last note could not be written. Asked once: the next plan tries again.
    pub(crate) fn take_failed(&mut self) -> bool {
        std::mem::take(&mut self.failed)
    }
}
