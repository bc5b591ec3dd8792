//! The states of the view.

use std::collections::BTreeMap;

use manifests::keys::WATCH_START;
use model::Millis;
use model::records::Cluster;
use rpds::RedBlackTreeMapSync;

use crate::view::Trust;
use crate::view::saved::Raw;

/// What is still to be seen before the view stands at the first read's revision.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// Keys that changed since the view, and not seen so yet.
    pub(super) changed: BTreeMap<String, i64>,
    /// Number of all keys then.
    pub(super) count: i64,
    /// The first read's revision.
    pub(super) revision: i64,
    pub(super) since: Millis,
}

#[derive(Debug)]
pub(super) enum Phase {
    Reading,
    /// All keys: at the revision of the first page.
    Listing {
        at: i64,
        found: RedBlackTreeMapSync<String, Raw>,
        next: String,
    },
    Opening,
    /// Which keys have changed between the view and the first read, and how many there are.
    Asking,
    /// Whether the stream's etcd had these keys, page by page and without values.
    Proving {
        what: Proof,
        next: String,
    },
    /// What has changed between the last comparison and this revision, as etcd says; the stream waits.
    Comparing {
        at: i64,
    },
    /// All keys that etcd had at a revision, page by page and without values; the stream waits.
    Collecting {
        found: Certain,
        next: String,
    },
    Following,
}

impl Phase {
    pub(super) fn listing() -> Self {
        Self::Listing {
            at: 0,
            found: RedBlackTreeMapSync::new_sync(),
            next: WATCH_START.to_owned(),
        }
    }

    pub(super) fn proving(what: Proof) -> Self {
        Self::Proving {
            what,
            next: WATCH_START.to_owned(),
        }
    }
}

/// The keys that an etcd had at a revision, without values.
#[derive(Debug, Clone, Default)]
pub(super) struct Certain {
    pub(super) keys: RedBlackTreeMapSync<String, Raw>,
    pub(super) at: i64,
}

/// Keys that are not what the stream has said, and since when that is known. They are certain when the stream still
/// says something after a while: an etcd that is replaced ends it.
#[derive(Debug)]
pub(super) struct Suspicion {
    pub(super) found: Certain,
    pub(super) since: Millis,
}

/// What is to be part of the stream's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    View,
    List,
}

/// A list that is still to be proven.
#[derive(Debug)]
pub(super) struct List {
    pub(super) keys: RedBlackTreeMapSync<String, Raw>,
    pub(super) at: i64,
    /// The cluster in it, if that is the known one after an accepted restore.
    pub(super) restored: Option<Cluster>,
    /// Unbroken history leads from the view to it.
    pub(super) leads: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Freshness {
    #[default]
    Fine,
    Behind {
        since: Millis,
    },
    Asked {
        at: Millis,
        wanted: i64,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flags {
    pub(super) complete: bool,
    pub(super) stale: bool,
    pub(super) trust: Trust,
}

/// Knowledge of one connect, gone with its stream.
#[derive(Debug, Default)]
pub(super) struct Connect {
    /// Revision of the first read.
    pub(super) read: i64,
    pub(super) list: Option<List>,
    pub(super) catch_up: Option<CatchUp>,
    /// All up to the first read has been seen.
    pub(super) reached: bool,
    /// Newest revision of a progress answer.
    pub(super) progress: i64,
    pub(super) freshness: Freshness,
    pub(super) suspicion: Option<Suspicion>,
}
