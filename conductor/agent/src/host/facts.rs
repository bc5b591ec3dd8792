//! What a host keeps on its own disk, as values.

use model::records::{Cluster, Hold};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which machine this is, and the sessions of its processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which machine.
    pub id: Uuid,
    /// The boot in which the newest session was noted; empty before the first.
    #[serde(default)]
    pub boot_id: String,
    /// The newest session: noted before it is written to etcd.
    #[serde(default)]
    pub session: Option<Uuid>,
    /// The one before, until it is known that the newest one is in etcd.
    #[serde(default)]
    pub before: Option<Uuid>,
    /// The boot in which that one was noted.
    #[serde(default)]
    pub before_boot_id: String,
}

impl Disk {
    /// A machine on which nothing ran yet.
    pub fn new(id: Uuid) -> Self {
        Self {
            id,
            boot_id: String::new(),
            session: None,
            before: None,
            before_boot_id: String::new(),
        }
    }

    /// The session is one of this machine's processes.
    pub fn knows(&self, session: Uuid) -> bool {
        self.session == Some(session) || self.before == Some(session)
    }

    /// The session was noted in this boot of the machine. A copy of the disk in another machine knows the session too,
    /// but not the boot.
    pub fn is_of_boot(&self, session: Uuid, boot_id: &str) -> bool {
        (self.session == Some(session) && self.boot_id == boot_id)
            || (self.before == Some(session) && self.before_boot_id == boot_id)
    }

    /// Notes a session; the one that was there stays beside the new one.
    pub fn note_session(&mut self, session: Uuid, boot_id: &str) {
        if self.session != Some(session) {
            self.before = self.session.replace(session);
            self.before_boot_id = std::mem::take(&mut self.boot_id);
        }
        boot_id.clone_into(&mut self.boot_id);
    }
}

/// What a host notes on its disk, each before the write to etcd that it protects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// This process's session is about to be written to etcd.
    Session,
    /// It is in etcd: the one before does not count any more.
    SessionWritten,
    /// The cluster that this host belongs to.
    Cluster(Cluster),
    /// The host is in hold, or not any more.
    Hold(Option<Hold>),
}

/// What is known before etcd is asked: the disk's content, and which process this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which machine, and its sessions.
    pub disk: Disk,
    /// The cluster that this host belongs to.
    pub cluster: Option<Cluster>,
    /// Why it is in hold.
    pub hold: Option<Hold>,
    /// The boot that this process runs in.
    pub boot_id: String,
    /// This process.
    pub session: Uuid,
    /// What a cluster is called that this process makes.
    pub new_cluster: Uuid,
}

impl Facts {
    /// What the disk holds after this note.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Session => self.disk.note_session(self.session, &self.boot_id),
            Note::SessionWritten => self.disk.before = None,
            Note::Cluster(cluster) => self.cluster = Some(cluster.clone()),
            Note::Hold(hold) => self.hold.clone_from(hold),
        }
    }
}
