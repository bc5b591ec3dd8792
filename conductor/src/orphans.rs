//! What an accepted restore left without a manifest, on disk: an agent that is killed in the middle of it stops nothing
//! when it is back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use manifests::InstanceId;
use planner::memory::Orphan;
use serde::{Deserialize, Serialize};
use store::state_file;

/// File of the state directory.
const FILE: &str = "orphans.json";

/// Why the note can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OrphansError {
    /// The file can't be read or written.
    #[error("{0} can't be read or written")]
    Io(PathBuf, #[source] std::io::Error),
    /// It is not what it should be.
    #[error(
        "{0} is damaged; without it containers that an accepted restore kept would be stopped, so move it away only if there are none"
    )]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// What was kept.
#[derive(Debug)]
pub struct Orphans {
    file: PathBuf,
    noted: Noted,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Noted {
    /// A restore was accepted, and what runs here has not been looked through yet.
    accepted: bool,
    kept: BTreeMap<InstanceId, Orphan>,
}

impl Orphans {
    /// Reads what an earlier process noted.
    pub fn open(state_dir: &Path) -> Result<Self, OrphansError> {
        let file = state_dir.join(FILE);
        let noted = match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|source| OrphansError::Damaged(file.clone(), source))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Noted::default(),
            Err(error) => return Err(OrphansError::Io(file, error)),
        };
        Ok(Self { file, noted })
    }

    /// A restore was accepted, and what runs here has not been looked through yet.
    pub(crate) fn is_accepted(&self) -> bool {
        self.noted.accepted
    }

    pub(crate) fn kept(&self) -> &BTreeMap<InstanceId, Orphan> {
        &self.noted.kept
    }

    /// Notes that a restore was accepted, before anything is planned by it.
    pub(crate) fn accepted(&mut self) -> Result<(), OrphansError> {
        self.note(Noted {
            accepted: true,
            kept: self.noted.kept.clone(),
        })
    }

    /// Notes what is kept, if it is not noted so.
    pub(crate) fn keep(&mut self, kept: &BTreeMap<InstanceId, Orphan>) -> Result<(), OrphansError> {
        self.note(Noted {
            accepted: false,
            kept: kept.clone(),
        })
    }

    fn note(&mut self, new: Noted) -> Result<(), OrphansError> {
        if new == self.noted {
            return Ok(());
        }
        state_file::replace_json(&self.file, &new)
            .map_err(|source| OrphansError::Io(self.file.clone(), source))?;
        self.noted = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn orphan() -> (InstanceId, Orphan) {
        let container: manifests::ContainerId = "shop/web".parse().unwrap();
        let orphan = Orphan {
            slot: container.slot(1),
            rev: model::VersionId(7),
            version: None,
            claimed: true,
        };
        ("i-1".parse().unwrap(), orphan)
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut orphans = Orphans::open(dir.path()).unwrap();
        assert!(!orphans.is_accepted() && orphans.kept().is_empty());
        orphans.accepted().unwrap();
        let mut orphans = Orphans::open(dir.path()).unwrap();
        assert!(orphans.is_accepted());
        let kept = BTreeMap::from([orphan()]);
        orphans.keep(&kept).unwrap();
        let again = Orphans::open(dir.path()).unwrap();
        assert!(!again.is_accepted());
        assert_eq!(*again.kept(), kept);
    }

    #[test]
    fn a_damaged_note_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(
            Orphans::open(dir.path()),
            Err(OrphansError::Damaged(..))
        ));
    }
}
