//! What a host keeps on its own disk: which machine it is, its sessions, its cluster, whether it is in hold, its last
//! view.
//!
//! One process at a time: `StateDir` holds a lock. Every file is replaced as a
//! whole (`state_file`). Nothing here is read by another host. `agent::host::Facts` is
//! the content as a value, and `Note` a change of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use model::records::{Cluster, Hold};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Disk, Facts, Note};
use crate::state_file;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process has it.
    #[error("{0} is in use by another process of dokkaa")]
    Locked(PathBuf),
    /// It can't be read or written.
    #[error("{0} can't be read or written")]
    Io(PathBuf, #[source] std::io::Error),
    /// A file in it is not what it should be.
    #[error("{0} is damaged; {help}", help = help(.0))]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// The machine's identity and its sessions.
const HOST: &str = "host.json";

/// What helps where a file is damaged.
fn help(file: &Path) -> &'static str {
    if file.ends_with(HOST) {
        "with `dokkaa reset-id` this machine gets a new identity"
    } else {
        "without it the agent starts, and learns it from etcd again: move it away"
    }
}

/// The locked state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    boot_id: String,
    same_boot: bool,
    session: Uuid,
    disk: Mutex<Disk>,
    cluster: Mutex<Option<Cluster>>,
    hold: Mutex<Option<Hold>>,
    _lock: File,
}

impl StateDir {
    /// Opens and locks it, and makes what is missing: the directory itself (mode 0700) and the machine's UUID.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let boot_id = std::fs::read_to_string(BOOT_ID)
            .map_err(|source| StateDirError::Io(BOOT_ID.into(), source))?;
        Self::open_in_boot(path, boot_id.trim())
    }

    /// As `open`, in a boot of the machine that the caller names.
    pub fn open_in_boot(path: &Path, boot_id: &str) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io(path.to_owned(), source);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        // Not put right here: it may be a directory that is others' too.
        if let Some(mode) = state_file::open_to_others(path).map_err(io)? {
            tracing::warn!(
                directory = %path.display(),
                mode = %format_args!("{mode:04o}"),
                "the state directory is open to other users; its files are not, but close it: chmod 700"
            );
        }
        let lock = locked(path)?;
        let disk = if let Some(disk) = read(&path.join(HOST))? {
            disk
        } else {
            let disk = Disk::new(Uuid::new_v4());
            write(&path.join(HOST), &disk)?;
            disk
        };
        Ok(Self {
            cluster: Mutex::new(read(&path.join("cluster.json"))?),
            hold: Mutex::new(read(&path.join("hold.json"))?),
            path: path.to_owned(),
            same_boot: disk.boot_id == boot_id,
            boot_id: boot_id.to_owned(),
            session: Uuid::new_v4(),
            disk: Mutex::new(disk),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the view is saved.
    pub fn view_file(&self) -> PathBuf {
        self.path.join("view")
    }

    /// Where the records under `/skydns` are saved.
    pub fn skydns_file(&self) -> PathBuf {
        self.path.join("skydns")
    }

    /// Which machine this is.
    pub fn machine(&self) -> Uuid {
        self.disk().id
    }

    /// The boot that this process runs in.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// When it was opened, the last session was of this boot of the machine: others can't have its slots for long.
    pub fn same_boot(&self) -> bool {
        self.same_boot
    }

    /// What is noted now.
    pub fn disk(&self) -> Disk {
        lock(&self.disk).clone()
    }

    /// The cluster that this host belongs to.
    pub fn cluster(&self) -> Option<Cluster> {
        lock(&self.cluster).clone()
    }

    /// Notes the cluster.
    pub fn note_cluster(&self, cluster: &Cluster) -> Result<(), StateDirError> {
        write(&self.path.join("cluster.json"), cluster)?;
        *lock(&self.cluster) = Some(cluster.clone());
        Ok(())
    }

    /// Why this host is in hold; none if it is not.
    pub fn hold(&self) -> Option<Hold> {
        lock(&self.hold).clone()
    }

    /// Notes that this host is in hold, or is not any more.
    pub fn note_hold(&self, hold: Option<&Hold>) -> Result<(), StateDirError> {
        let path = self.path.join("hold.json");
        match hold {
            Some(hold) => write(&path, hold)?,
            None => remove(&path)?,
        }
        *lock(&self.hold) = hold.cloned();
        Ok(())
    }

    /// What is known before etcd is asked.
    pub fn facts(&self) -> Facts {
        Facts {
            disk: self.disk(),
            cluster: self.cluster(),
            hold: self.hold(),
            boot_id: self.boot_id.clone(),
            session: self.session,
            new_cluster: Uuid::new_v4(),
        }
    }

    /// Carries out a note.
    pub fn note(&self, note: &Note) -> Result<(), StateDirError> {
        match note {
            Note::Session => self.note_session(),
            Note::SessionWritten => self.session_is_written(),
            Note::Cluster(cluster) => self.note_cluster(cluster),
            Note::Hold(hold) => self.note_hold(hold.as_ref()),
        }
    }

    /// This process.
    pub fn session(&self) -> Uuid {
        self.session
    }

    /// Notes this process's session, before it is written to etcd; the one that was there stays beside it.
    pub fn note_session(&self) -> Result<(), StateDirError> {
        self.change(|disk, boot_id| disk.note_session(self.session, boot_id))
    }

    /// The newest session is in etcd: the one before does not count any more.
    pub fn session_is_written(&self) -> Result<(), StateDirError> {
        if self.disk().before.is_none() {
            return Ok(());
        }
        self.change(|disk, _| disk.before = None)
    }

    /// Makes the machine of this directory another than it was: for a copied disk. What it was need not be readable.
    pub fn reset_id(path: &Path) -> Result<Uuid, StateDirError> {
        let file = path.join(HOST);
        // Not in a directory that was never an agent's.
        std::fs::metadata(&file).map_err(|source| StateDirError::Io(file.clone(), source))?;
        let _lock = locked(path)?;
        let disk = Disk::new(Uuid::new_v4());
        write(&file, &disk)?;
        Ok(disk.id)
    }

    fn change(&self, change: impl FnOnce(&mut Disk, &str)) -> Result<(), StateDirError> {
        let mut disk = lock(&self.disk);
        let mut new = disk.clone();
        change(&mut new, &self.boot_id);
        write(&self.path.join(HOST), &new)?;
        *disk = new;
        Ok(())
    }
}

/// The lock of the directory, for one process at a time.
fn locked(path: &Path) -> Result<File, StateDirError> {
    let io = |source| StateDirError::Io(path.to_owned(), source);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(state_file::PRIVATE)
        .open(path.join("lock"))
        .map_err(io)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::Locked(path.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateDirError> {
    match std::fs::read(path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|source| StateDirError::Damaged(path.to_owned(), source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateDirError::Io(path.to_owned(), error)),
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateDirError> {
    state_file::replace_json(path, value)
        .map_err(|source| StateDirError::Io(path.to_owned(), source))
}

fn remove(path: &Path) -> Result<(), StateDirError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StateDirError::Io(path.to_owned(), error))
        }
        _ => Ok(()),
    }
}
