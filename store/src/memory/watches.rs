//! Watches of the etcd in memory, as queues that their readers empty.

use std::collections::{BTreeMap, VecDeque};

use super::MemEtcd;
use crate::kv::{Event, KeyRange, WatchReply};

/// A watch of a `MemEtcd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(u64);

#[derive(Debug, Clone, Default)]
pub(super) struct Watches {
    next: u64,
    open: BTreeMap<WatchId, Queue>,
}

#[derive(Debug, Clone)]
struct Queue {
    keys: KeyRange,
    from: i64,
    previous: bool,
    ended: bool,
    waiting: VecDeque<WatchReply>,
}

impl Watches {
    pub(super) fn notify(&mut self, events: &[Event], revision: i64) {
        for queue in self.open.values_mut() {
            queue.notify(events, revision, revision);
        }
    }
}

impl Queue {
    /// `compacted` is not passed: a value before the change that is compacted was taken away by the caller.
    fn notify(&mut self, events: &[Event], at: i64, revision: i64) {
        if self.ended || at < self.from {
            return;
        }
        let mut wanted: Vec<Event> = events
            .iter()
            .filter(|event| self.keys.contains(event.key()))
            .cloned()
            .collect();
        if !self.previous {
            wanted.iter_mut().for_each(forget_before);
        }
        if !wanted.is_empty() {
            self.waiting.push_back(WatchReply::Events(wanted, revision));
        }
    }

    fn end(&mut self, reply: WatchReply) {
        self.ended = true;
        self.waiting.push_back(reply);
    }
}

fn forget_before(event: &mut Event) {
    match event {
        Event::Put { before, .. } | Event::Delete { before, .. } => *before = None,
    }
}

impl MemEtcd {
    /// Watches keys from a revision on (0: from now), with the values before each change if `previous`.
    pub fn watch(&mut self, keys: KeyRange, from: i64, previous: bool) -> WatchId {
        let from = if from == 0 { self.revision + 1 } else { from };
        let mut queue = Queue {
            keys,
            from,
            previous,
            ended: false,
            waiting: VecDeque::new(),
        };
        if from < self.compacted {
            queue.end(WatchReply::Compacted(self.compacted));
        }
        for (at, events) in self.log.range(from.min(self.revision + 1)..) {
            let mut events = events.clone();
            if *at <= self.compacted {
                // What was before is compacted.
                events.iter_mut().for_each(forget_before);
            }
            queue.notify(&events, *at, self.revision);
        }
        let id = WatchId(self.watches.next);
        self.watches.next += 1;
        self.watches.open.insert(id, queue);
        id
    }

    /// Takes the next reply of a watch.
    pub fn poll(&mut self, id: WatchId) -> Option<WatchReply> {
        self.watches.open.get_mut(&id)?.waiting.pop_front()
    }

    /// Takes the next reply, of a member that has applied no more than `applied`.
    pub fn poll_applied(&mut self, id: WatchId, applied: i64) -> Option<WatchReply> {
        let queue = self.watches.open.get_mut(&id)?;
        let event = match queue.waiting.front()? {
            WatchReply::Events(events, _) => events.last().map_or(0, Event::modified),
            _ => 0,
        };
        (event <= applied).then(|| queue.waiting.pop_front())?
    }

    /// Asks a watch for its progress.
    pub fn progress(&mut self, id: WatchId) {
        let revision = self.revision;
        if let Some(queue) = self.watches.open.get_mut(&id)
            && !queue.ended
        {
            queue.waiting.push_back(WatchReply::Progress(revision));
        }
    }

    /// etcd's fault that a watch says again what it has said, from a revision on.
    pub fn repeat(&mut self, id: WatchId, from: i64) {
        let from = from.max(self.compacted + 1);
        let Some(queue) = self.watches.open.get_mut(&id).filter(|q| !q.ended) else {
            return;
        };
        // What it has not said yet is not lost.
        let unsaid = queue.waiting.iter().find_map(|reply| match reply {
            WatchReply::Events(events, _) => events.first().map(Event::modified),
            _ => None,
        });
        let from = unsaid.map_or(from, |unsaid| from.min(unsaid));
        if from <= self.compacted {
            return;
        }
        queue.from = queue.from.min(from);
        queue.waiting.clear();
        for (at, events) in self.log.range(from.min(self.revision + 1)..) {
            queue.notify(events, *at, self.revision);
        }
    }

    /// etcd's fault that a compaction takes away the deletions of its revision which no watch has said yet.
    pub fn lose_deletions(&mut self, revision: i64) {
        let lost = |event: &Event| matches!(event, Event::Delete { modified, .. } if *modified == revision);
        for queue in self.watches.open.values_mut() {
            queue.waiting.retain_mut(|reply| {
                let WatchReply::Events(events, _) = reply else {
                    return true;
                };
                events.retain(|event| !lost(event));
                !events.is_empty()
            });
        }
    }

    /// Ends a watch.
    pub fn cancel(&mut self, id: WatchId) {
        self.watches.open.remove(&id);
    }

    /// Breaks all streams, as a restart does. What was on its way is lost.
    pub fn close_watches(&mut self, why: &str) {
        for queue in self.watches.open.values_mut().filter(|q| !q.ended) {
            queue.waiting.clear();
            queue.end(WatchReply::Closed(why.to_owned()));
        }
    }
}
