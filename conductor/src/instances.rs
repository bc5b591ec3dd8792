//! The containers that this host has made, on disk: what of the engine is ours is known after a restart too.

use std::io;
use std::path::{Path, PathBuf};

use model::identity::Notes;
use store::state_file;

/// File of the state directory.
const FILE: &str = "instances.json";

/// The notes of a state directory.
#[derive(Debug)]
pub struct Instances {
    file: PathBuf,
    opened: Notes,
}

impl Instances {
    /// Reads what an earlier process noted. Without it, or with a damaged one, what is there is taken over by name.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let file = state_dir.join(FILE);
        let opened = match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "it is damaged: containers are taken over by their names");
                Notes::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Notes::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, opened })
    }

    /// What was noted when it was opened.
    pub fn notes(&self) -> &Notes {
        &self.opened
    }

    /// Notes this.
    pub(crate) fn save(&self, notes: &Notes) -> io::Result<()> {
        state_file::replace_json(&self.file, notes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instances::open(dir.path()).unwrap();
        let mut notes = first.notes().clone();
        assert_eq!(notes, Notes::default());
        notes.made(&"one".parse().unwrap(), "docker-one", 1);
        notes.intend(&"two".parse().unwrap(), 2);
        notes.adopted();
        first.save(&notes).unwrap();
        let again = Instances::open(dir.path()).unwrap();
        assert_eq!(*again.notes(), notes);

        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        let damaged = Instances::open(dir.path()).unwrap();
        assert_eq!(*damaged.notes(), Notes::default());
    }
}
