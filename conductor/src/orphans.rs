//! What an accepted restore left without a manifest, on disk: an agent that is killed in the middle of it stops nothing
//! when it is back.

use std::path::{Path, PathBuf};

use agent::OrphansNote;
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

/// The note of a state directory.
#[derive(Debug)]
pub struct Orphans {
    file: PathBuf,
    opened: OrphansNote,
}

impl Orphans {
    /// Reads what an earlier process noted.
    pub fn open(state_dir: &Path) -> Result<Self, OrphansError> {
        let file = state_dir.join(FILE);
        let opened = match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|source| OrphansError::Damaged(file.clone(), source))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => OrphansNote::default(),
            Err(error) => return Err(OrphansError::Io(file, error)),
        };
        Ok(Self { file, opened })
    }

    /// What was noted when it was opened.
    pub(crate) fn opened(&self) -> &OrphansNote {
        &self.opened
    }

    /// Notes this.
    pub(crate) fn save(&self, note: &OrphansNote) -> Result<(), OrphansError> {
        state_file::replace_json(&self.file, note)
            .map_err(|source| OrphansError::Io(self.file.clone(), source))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use planner::memory::Orphan;

    use super::*;

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let orphans = Orphans::open(dir.path()).unwrap();
        assert_eq!(*orphans.opened(), OrphansNote::default());
        let container: manifests::ContainerId = "shop/web".parse().unwrap();
        let orphan = Orphan {
            slot: container.slot(1),
            rev: model::VersionId(7),
            version: None,
            claimed: true,
        };
        let note = OrphansNote {
            accepted: true,
            kept: [("i-1".parse().unwrap(), orphan)].into(),
        };
        orphans.save(&note).unwrap();
        assert_eq!(*Orphans::open(dir.path()).unwrap().opened(), note);
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
