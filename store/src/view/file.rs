//! The saved view on disk.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use agent::view::SavedView;

use crate::state_file;

/// Why a saved view can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedViewError {
    /// The file can't be read or written.
    #[error("the saved view {0} can't be read or written")]
    Io(PathBuf, #[source] std::io::Error),
    /// The file is torn or not ours.
    #[error("the saved view {0} is damaged")]
    Damaged(PathBuf),
}

/// Reads a saved view; none if there is none.
pub fn load(path: &Path) -> Result<Option<SavedView>, SavedViewError> {
    let io = |source| SavedViewError::Io(path.to_owned(), source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    match SavedView::read(&mut BufReader::new(file)) {
        Ok(Some(view)) => Ok(Some(view)),
        Ok(None) => Err(SavedViewError::Damaged(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(SavedViewError::Damaged(path.to_owned()))
        }
        Err(error) => Err(io(error)),
    }
}

/// Writes a view, so that after a crash of the machine the old file or the new one is there.
pub fn save(view: &SavedView, path: &Path) -> Result<(), SavedViewError> {
    state_file::replace_with(path, |file| view.write(file))
        .map_err(|source| SavedViewError::Io(path.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use agent::view::{View, ViewOptions};
    use model::Millis;
    use model::records::Cluster;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_file_reads_back_and_a_torn_one_is_damaged() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("view");
        assert_eq!(load(&path).expect("reads"), None);
        let cluster = Cluster {
            id: Uuid::new_v4(),
            epoch: 3,
        };
        let view = View::new(&ViewOptions::new(cluster, None, None), Millis(0)).saved();
        save(&view, &path).expect("saves");
        assert_eq!(load(&path).expect("reads"), Some(view));
        let whole = std::fs::read(&path).expect("reads");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("writes");
            let loaded = load(&path);
            assert!(
                matches!(loaded, Err(SavedViewError::Damaged(_))),
                "{length}"
            );
        }
    }
}
