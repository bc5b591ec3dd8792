//! The watched range of etcd, followed: list, then watch from the next revision.
//!
//! `View` decides as a pure state machine; `store::view::run_view` carries it out.
//! A stream that closed and an agent that restarts resume at the view's
//! revision + 1, so that deletions come as events; a list follows only
//! compaction, the hourly heal, or a stream that stays behind. A view is always
//! exactly one revision, and nothing from an etcd that is not the one it knows
//! ever reaches it: what a stream says is used only after the proof, made when it
//! was open, that the view is part of its etcd's history. Without it the view
//! stands still and says `Distrust`.
//! `docs/design/view.md` has the whole of it.

mod machine;
mod saved;
mod trust;

use std::path::PathBuf;
use std::time::Duration;

use model::records::Cluster;
use model::rules::{Rule, Rules};
use model::snapshot::{Snapshot, Touched};

pub use machine::{Answer, Step, View, watched};
pub use saved::SavedView;
pub use trust::{
    FirstRead, Known, Reason, Trust, accepted, check, check_history, check_list, check_manifests,
};

/// What has changed since the update before.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewUpdate {
    /// The watched range at `snapshot.revision`.
    pub snapshot: Snapshot,
    /// What differs from the update before; after a resync too.
    pub touched: Touched,
    /// It came (also) from a list: build tables anew and swap once.
    pub resync: bool,
    /// The view has reached the first read after the last start or connect, and the own newest record.
    /// Until then nothing is planned but restarts of crashed containers.
    pub complete: bool,
    /// etcd is known to be further than the view, or can't be followed: claim nothing.
    pub stale: bool,
    /// Whether etcd is the one that the view knows. If not, the snapshot is the last trusted one: change nothing.
    pub trust: Trust,
    /// A restore was accepted: the cluster as it is from now on. The snapshot is what the restored etcd has.
    pub accepted: Option<Cluster>,
}

impl ViewUpdate {
    /// How far a plan may trust the snapshot: in hold, and while it is not complete or stale, only what crashed is
    /// started again.
    pub fn allows(&self, rules: Rules) -> model::Trust {
        let all = if self.trust.is_trusted() {
            self.complete && !self.stale
        } else {
            !rules.has(Rule::Hold)
        };
        if all {
            model::Trust::Full
        } else {
            model::Trust::RestartsOnly
        }
    }

    /// This update for a reader that has not read the one before it.
    #[must_use]
    pub fn after(mut self, before: Self) -> Self {
        let mut touched = before.touched;
        touched.extend(self.touched);
        self.touched = touched;
        self.resync |= before.resync;
        self.accepted = self.accepted.or(before.accepted);
        self
    }
}

/// What a view needs to know.
#[derive(Debug, Clone)]
pub struct ViewOptions {
    /// The cluster that this agent belongs to.
    pub cluster: Cluster,
    /// Where to resume; one of another cluster is not used, one of an earlier epoch is the view before an acceptance.
    pub saved: Option<SavedView>,
    /// The host was in hold when its agent ended: nothing is trusted before all checks are passed.
    pub held: bool,
    /// Where to save the view every few seconds when it changed.
    pub file: Option<PathBuf>,
    /// Time between two healing lists; each is put off by up to a tenth of it at random.
    pub heal_every: Duration,
    /// Time between two comparisons with etcd, where something was written.
    pub compare_every: Duration,
    /// Keys per page of a list.
    pub page: i64,
    /// Source of jitter; with 0 the driver draws one.
    pub seed: u64,
    /// The rules in force.
    pub rules: Rules,
}

impl ViewOptions {
    /// The usual: a heal each hour, a comparison each minute, pages of 1,000.
    pub fn new(cluster: Cluster, saved: Option<SavedView>, file: Option<PathBuf>) -> Self {
        Self {
            cluster,
            saved,
            held: false,
            file,
            heal_every: Duration::from_secs(60 * 60),
            compare_every: Duration::from_secs(60),
            page: 1_000,
            seed: 0,
            rules: Rules::default(),
        }
    }
}
