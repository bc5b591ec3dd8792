//! What survives an agent: its machine's disk, as a value.

use agent::OrphansNote;
use model::identity::Notes;
use model::records::{Cluster, Hold};
use store::host::Disk as Identity;
use store::view::SavedView;
use uuid::Uuid;

/// A state directory.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Which machine it is, and the sessions of its processes.
    pub identity: Identity,
    /// The cluster that it belongs to.
    pub cluster: Option<Cluster>,
    /// Why it is in hold.
    pub hold: Option<Hold>,
    /// What an accepted restore left without a manifest.
    pub orphans: OrphansNote,
    /// The containers that its agents made.
    pub notes: Notes,
    /// The view that was saved last.
    pub view: Option<SavedView>,
    /// The one before: a machine that loses power may find that again.
    former_view: Option<SavedView>,
}

impl Disk {
    /// Of a machine that belongs to the cluster.
    pub fn new(id: Uuid, cluster: &Cluster) -> Self {
        Self {
            identity: Identity::new(id),
            cluster: Some(cluster.clone()),
            hold: None,
            orphans: OrphansNote::default(),
            notes: Notes::default(),
            view: None,
            former_view: None,
        }
    }

    /// Saves a view.
    pub fn save(&mut self, view: SavedView) {
        self.former_view = self.view.replace(view);
    }

    /// The last write of a view has not reached it.
    pub fn lose_last_view(&mut self) {
        self.view = self.former_view.take();
    }
}
