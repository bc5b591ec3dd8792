//! Whether an etcd is the one that the agent knows: pure checks over what was known and what was read.
//!
//! A container is stopped only because of something seen in unbroken history;
//! a failed check means that history may be broken.

use conductor_core::records::Cluster;
use uuid::Uuid;

/// Whether etcd can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It is the one that is known, and goes on where it was.
    Trusted,
    /// It is not, or not certainly: change nothing.
    Distrust(Reason),
}

impl Trust {
    /// Etcd can be believed.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Trusted)
    }
}

/// Why etcd is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The cluster's key is gone.
    #[error("/dokkaa/cluster is missing; this host belongs to cluster {0}")]
    ClusterMissing(Uuid),
    /// Another cluster's etcd.
    #[error("etcd holds cluster {found}, but this host belongs to cluster {known}")]
    OtherCluster {
        /// On disk.
        known: Uuid,
        /// In etcd.
        found: Uuid,
    },
    /// The cluster's epoch is another than the known one.
    #[error("the cluster's epoch is {found}, but {known} is known here")]
    OtherEpoch {
        /// On disk.
        known: u64,
        /// In etcd.
        found: u64,
    },
    /// History went back: a restore, or an emptied etcd.
    #[error("etcd is at revision {found}, but {known} was seen before")]
    Rewound {
        /// Seen before.
        known: i64,
        /// Now.
        found: i64,
    },
    /// A key is older than what was known, and another one: not the history that was seen.
    #[error("{key} was last changed at revision {modified}, which is not what was seen before")]
    OtherHistory {
        /// The key.
        key: String,
        /// Its last change.
        modified: i64,
    },
}

/// What is known of the cluster before etcd is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which cluster this host belongs to.
    pub cluster: Cluster,
    /// The highest revision that the view has been at; 0 is none.
    pub revision: i64,
}

/// The linearizable read that comes before anything else at each start and connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstRead {
    /// `/dokkaa/cluster`, if it is there and can be read.
    pub cluster: Option<Cluster>,
    /// The header's revision.
    pub revision: i64,
}

/// Judges the first read.
pub fn check(known: &Known, read: &FirstRead) -> Trust {
    let Some(found) = &read.cluster else {
        return Trust::Distrust(Reason::ClusterMissing(known.cluster.id));
    };
    let reason = if found.id != known.cluster.id {
        Reason::OtherCluster {
            known: known.cluster.id,
            found: found.id,
        }
    } else if found.epoch != known.cluster.epoch {
        Reason::OtherEpoch {
            known: known.cluster.epoch,
            found: found.epoch,
        }
    } else if read.revision < known.revision {
        Reason::Rewound {
            known: known.revision,
            found: read.revision,
        }
    } else {
        return Trust::Trusted;
    };
    Trust::Distrust(reason)
}

/// Judges a list made when the view was at `revision`: each key has the revision that was seen, or one above.
pub fn check_list<'a>(
    revision: i64,
    seen: impl Fn(&str) -> Option<i64>,
    list: impl IntoIterator<Item = (&'a str, i64)>,
) -> Trust {
    for (key, modified) in list {
        if modified <= revision && seen(key) != Some(modified) {
            return Trust::Distrust(Reason::OtherHistory {
                key: key.to_owned(),
                modified,
            });
        }
    }
    Trust::Trusted
}
