//! Whether an etcd is the one that the agent knows: pure checks over what was known and what was read.
//!
//! A container is stopped only because of something seen in unbroken history;
//! a failed check means that history may be broken.

use model::records::Cluster;
use uuid::Uuid;

/// Fewer manifests than that may go unseen.
const MANY: usize = 5;

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

    /// And the next check, if this one was passed.
    #[must_use]
    pub fn and(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Trusted => next(),
            Self::Distrust(_) => self,
        }
    }
}

/// What to do about a hold.
const ADVICE: &str = "point --etcd at the right etcd, or, if this one is to count from now on, look with `dokkaa restore \
                      --accept` at what would stop";

/// Why etcd is not believed: what was seen, what it means, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The cluster's key is gone.
    #[error(
        "/dokkaa/cluster is missing, but this host belongs to cluster {0}: etcd was emptied, or is another one; {advice}",
        advice = ADVICE
    )]
    ClusterMissing(Uuid),
    /// Another cluster's etcd.
    #[error(
        "etcd holds cluster {found}, but this host belongs to cluster {known}: it is another one; point --etcd at the \
         right etcd"
    )]
    OtherCluster {
        /// On disk.
        known: Uuid,
        /// In etcd.
        found: Uuid,
    },
    /// The cluster's epoch is another than the known one.
    #[error(
        "the cluster's epoch is {found}, but {known} is known here: a restore was accepted on one side only; {advice}",
        advice = ADVICE
    )]
    OtherEpoch {
        /// On disk.
        known: u64,
        /// In etcd.
        found: u64,
    },
    /// History went back: a restore, or an emptied etcd.
    #[error(
        "etcd is at revision {found}, but this host has seen {known}: it was restored from a backup, or is another \
         one; {advice}",
        advice = ADVICE
    )]
    Rewound {
        /// Seen before.
        known: i64,
        /// Now.
        found: i64,
    },
    /// A key was not what was seen: another history than the one that was followed.
    #[error(
        "{key} was {}, but etcd says that it was {}: it was restored from a backup, or is another one; {advice}",
        at(*.known),
        at(*.found),
        advice = ADVICE
    )]
    OtherHistory {
        /// The key.
        key: String,
        /// Its last change as it was seen; 0 if it was not there.
        known: i64,
        /// Its last change by etcd's account; 0 if it was not there.
        found: i64,
    },
    /// Most manifests are gone, and their deletions can't be seen any more.
    #[error(
        "{left} of {known} manifests are left, and when the others went can't be seen any more, because etcd has \
         compacted its history: if it is as it should be, look with `dokkaa restore --accept` at what would stop; \
         else put the manifests back"
    )]
    ManifestsGone {
        /// So many were known.
        known: usize,
        /// So many of them are left.
        left: usize,
    },
    /// The host was in hold when its agent ended, and etcd has not passed the checks yet.
    #[error(
        "this host was in hold before its agent was started again, and etcd has not shown since that it is the known \
         one; {advice}",
        advice = ADVICE
    )]
    Held,
}

impl Reason {
    /// It may be so for all hosts: while one is in hold for it, none claims or takes over.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::ManifestsGone { .. })
    }
}

/// A key's last change, for people.
fn at(modified: i64) -> String {
    match modified {
        0 => "not there".to_owned(),
        modified => format!("last changed at revision {modified}"),
    }
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

/// The cluster as it was found, if that is the known one after an accepted restore: the same id, a higher epoch.
pub fn accepted<'a>(known: &Cluster, found: Option<&'a Cluster>) -> Option<&'a Cluster> {
    found.filter(|found| found.id == known.id && found.epoch > known.epoch)
}

/// Judges what etcd says it had at the view's revision: exactly the keys that the view has. Both are in order of key.
///
/// A restored etcd that has overtaken the view's revision is told by this alone.
pub fn check_history<'a>(
    seen: impl IntoIterator<Item = (&'a str, i64)>,
    history: impl IntoIterator<Item = (&'a str, i64)>,
) -> Trust {
    let (mut seen, mut history) = (seen.into_iter(), history.into_iter());
    loop {
        let (was, is) = (seen.next(), history.next());
        // Of two keys the lower one is there on its side only.
        let key = match (was, is) {
            (None, None) => return Trust::Trusted,
            _ if was == is => continue,
            (Some((was, _)), Some((is, _))) => was.min(is),
            (Some((key, _)), None) | (None, Some((key, _))) => key,
        };
        let modified = |entry: Option<(&str, i64)>| {
            entry
                .filter(|(name, _)| *name == key)
                .map_or(0, |(_, modified)| modified)
        };
        return Trust::Distrust(Reason::OtherHistory {
            key: key.to_owned(),
            known: modified(was),
            found: modified(is),
        });
    }
}

/// Judges a list made when the view was at `revision`: each key has the revision that was seen, or one above.
pub fn check_list<'a>(
    revision: i64,
    seen: impl Fn(&str) -> Option<i64>,
    list: impl IntoIterator<Item = (&'a str, i64)>,
) -> Trust {
    for (key, modified) in list {
        let known = seen(key);
        if modified <= revision && known != Some(modified) {
            return Trust::Distrust(Reason::OtherHistory {
                key: key.to_owned(),
                known: known.unwrap_or_default(),
                found: modified,
            });
        }
    }
    Trust::Trusted
}

/// Judges a list to which no history leads any more: how many manifests were known, and how many of them are in it.
pub fn check_manifests(known: usize, left: usize) -> Trust {
    let gone = known - left;
    if gone >= MANY && 2 * gone > known {
        return Trust::Distrust(Reason::ManifestsGone { known, left });
    }
    Trust::Trusted
}

#[cfg(test)]
mod tests;
