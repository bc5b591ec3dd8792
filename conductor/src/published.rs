//! What the conductor lets others of the agent read: immutable values whose root is swapped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub use agent::Seen;
use agent::{Counts, Table};
use arc_swap::ArcSwap;
use manifests::SlotId;
use model::Directory;
use model::directory::Callers;
use model::observed::Observed;
use planner::Waiting;
use store::Alarm;
use tokio::sync::watch;

use crate::events::Journal;

/// Everything that is published.
#[derive(Debug)]
pub struct Published {
    /// The cluster; none before the first view.
    pub seen: ArcSwap<Option<Seen>>,
    /// Services and endpoints.
    pub directory: Arc<ArcSwap<Directory>>,
    /// This engine.
    pub observed: ArcSwap<Observed>,
    /// Why slots wait, as far as this host knows.
    pub waiting: ArcSwap<BTreeMap<SlotId, Waiting>>,
    /// Revision of `seen` and whether it is stale, at each change.
    pub revision: watch::Sender<(i64, bool)>,
    /// Local instances that may use links.
    pub callers: watch::Sender<Arc<Callers>>,
    /// Link ports of local containers that are made and do not run.
    pub awaited_links: watch::Sender<BTreeSet<u16>>,
    /// Whole lists of the engine since the start: it was asked, and what it is may have changed.
    pub lists: watch::Sender<u64>,
    /// Link ports that this host's agent can't have, and who has them.
    pub held_links: watch::Sender<BTreeMap<u16, String>>,
    /// Containers on this engine that carry our labels and are not ours, for people.
    pub copies: watch::Sender<Vec<String>>,
    /// The alarm that makes etcd refuse writes.
    pub alarm: watch::Sender<Option<Alarm>>,
    /// When `seen` was known to be etcd's present state, in Unix seconds; 0 is not known.
    pub fresh_at: AtomicI64,
    /// Counters.
    pub counters: Counters,
    /// What happened.
    pub events: Journal,
}

impl Default for Published {
    /// With events that nobody keeps.
    fn default() -> Self {
        Self::new(Journal::in_memory().0)
    }
}

impl Published {
    /// Nothing is known yet.
    pub fn new(events: Journal) -> Self {
        Self {
            events,
            seen: ArcSwap::from_pointee(None),
            directory: Arc::new(ArcSwap::from_pointee(Directory::default())),
            observed: ArcSwap::from_pointee(Observed::default()),
            waiting: ArcSwap::from_pointee(BTreeMap::new()),
            revision: watch::Sender::new((0, true)),
            callers: watch::Sender::new(Arc::new(Callers::new())),
            awaited_links: watch::Sender::default(),
            lists: watch::Sender::new(0),
            held_links: watch::Sender::default(),
            copies: watch::Sender::new(Vec::new()),
            alarm: watch::Sender::new(None),
            fresh_at: AtomicI64::new(0),
            counters: Counters::default(),
        }
    }

    /// `seen` is etcd's state now.
    pub(crate) fn is_fresh(&self, wall: i64) {
        self.fresh_at.store(wall / 1_000, Ordering::Relaxed);
    }

    /// Others read this from now on.
    pub(crate) fn publish(&self, table: Table) {
        match table {
            Table::Seen(seen) => {
                let revision = (seen.snapshot.revision, seen.stale);
                self.seen.store(Arc::new(Some(*seen)));
                self.revision.send_replace(revision);
            }
            Table::Directory(directory) => self.directory.store(Arc::new(directory)),
            Table::Listed => self.lists.send_modify(|lists| *lists += 1),
            Table::Observed(observed) => self.observed.store(observed),
            Table::Copies(copies) => {
                self.copies.send_replace(copies);
            }
            Table::Waiting(waiting) => self.waiting.store(Arc::new(waiting)),
            Table::Callers(callers) => {
                self.callers.send_replace(callers);
            }
            Table::AwaitedLinks(ports) => {
                self.awaited_links.send_replace(ports);
            }
        }
    }

    pub(crate) fn count(&self, counts: Counts) {
        let counters = &self.counters;
        for (counter, count) in [
            (&counters.restarts, counts.restarts),
            (&counters.pull_failures, counts.pull_failures),
            (&counters.plans, counts.plans),
            (&counters.writes, counts.writes),
            (&counters.writes_lost, counts.writes_lost),
        ] {
            counter.store(count, Ordering::Relaxed);
        }
    }
}

/// What has happened so often since the agent's start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Ends of a container's process that were followed by a restart.
    pub restarts: AtomicU64,
    /// Images that could not be had.
    pub pull_failures: AtomicU64,
    /// Passes of the loop.
    pub plans: AtomicU64,
    /// Writes asked of etcd.
    pub writes: AtomicU64,
    /// Writes whose guards did not hold.
    pub writes_lost: AtomicU64,
}
