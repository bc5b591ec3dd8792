//! Files that a host keeps for itself: replaced as a whole, readable by their owner only.
//!
//! They may hold passwords, since manifests do. After a crash of the machine
//! the old file is there or the new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Of a file that only its owner reads and writes.
pub const PRIVATE: u32 = 0o600;

/// Replaces the file's content.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(content))
}

/// Replaces the file's content with a value as JSON.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

/// Replaces the file's content with what `write` writes. Two at a time on one path are the caller's to prevent.
pub fn replace_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let new = beside(path)?;
    // One that a crash has left may have another mode, or be a link to somewhere else.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&new)?;
    let mut file = BufWriter::new(file);
    write(&mut file)?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    fs::rename(&new, path)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Opens a file to be read and appended to, and makes it if it is not there. A lax mode is put right.
pub fn append(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .open(path)?;
    if mode(&file.metadata()?) != PRIVATE {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
    }
    Ok(file)
}

/// The mode of a directory that users other than its owner may list or enter; none if they may not.
pub fn open_to_others(folder: &Path) -> io::Result<Option<u32>> {
    let mode = mode(&fs::metadata(folder)?);
    Ok((mode & 0o077 != 0).then_some(mode))
}

fn mode(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

/// `<path>.new`
fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?
        .to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        mode(&fs::metadata(path).unwrap())
    }

    #[test]
    fn a_replaced_file_is_its_owners_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        for left in [&path, &dir.path().join("view.new")] {
            fs::write(left, "old").unwrap();
            fs::set_permissions(left, fs::Permissions::from_mode(0o644)).unwrap();
        }
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path), PRIVATE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_fails_halfway_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        replace(&path, b"old").unwrap();
        let failed = replace_with(&path, |file| {
            file.write_all(b"ne")?;
            Err(io::Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_link_that_lies_in_wait_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("view"), dir.path().join("other"));
        fs::write(&other, "not ours").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("view.new")).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"not ours");
    }

    #[test]
    fn an_appended_file_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        append(&path).unwrap().write_all(b"one\n").unwrap();
        assert_eq!(mode_of(&path), PRIVATE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        append(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(mode_of(&path), PRIVATE);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_directory_that_others_enter_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, told) in [(0o700, None), (0o755, Some(0o755)), (0o710, Some(0o710))] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_others(dir.path()).unwrap(), told);
        }
    }
}
