//! Which keys end when. Pure.
//!
//! Invariant: a key is here once, with the newest of its revisions that were told.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::path::KeyPath;

/// Keys with a TTL.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    by_key: BTreeMap<KeyPath, Entry>,
    by_time: BTreeSet<(Instant, KeyPath)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    at: Instant,
    modified: i64,
}

/// A key whose time has come, if it is still as it was at this revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: KeyPath,
    pub(super) modified: i64,
}

impl Schedule {
    /// The key as it is at `modified` ends at this time, or earlier if that was said before.
    pub(super) fn put(&mut self, due: Due, at: Instant) {
        let Due { key, modified } = due;
        let known = self.by_key.get(&key).copied();
        let at = match known {
            Some(known) if known.modified > modified => return,
            Some(known) if known.modified == modified => at.min(known.at),
            _ => at,
        };
        if let Some(known) = known {
            self.by_time.remove(&(known.at, key.clone()));
        }
        self.by_time.insert((at, key.clone()));
        self.by_key.insert(key, Entry { at, modified });
    }

    /// What the key was before this revision does not end any more.
    pub(super) fn forget(&mut self, key: &KeyPath, revision: i64) {
        let known = self.by_key.get(key).copied();
        if let Some(known) = known.filter(|known| known.modified < revision) {
            self.by_key.remove(key);
            self.by_time.remove(&(known.at, key.clone()));
        }
    }

    /// What the key was after this revision is none of its past any more: etcd was restored.
    pub(super) fn forget_after(&mut self, revision: i64) {
        let by_time = &mut self.by_time;
        self.by_key.retain(|key, entry| {
            let stays = entry.modified <= revision;
            if !stays {
                by_time.remove(&(entry.at, key.clone()));
            }
            stays
        });
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes what is due, in order.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some((at, key)) = self.by_time.pop_first() {
            if at > now {
                self.by_time.insert((at, key));
                break;
            }
            if let Some(Entry { modified, .. }) = self.by_key.remove(&key) {
                due.push(Due { key, modified });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(key: &str, modified: i64) -> Due {
        let key = KeyPath::new(key).expect("a key");
        Due { key, modified }
    }

    #[test]
    fn keys_are_due_in_order_and_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut schedule = Schedule::default();
        schedule.put(due("/b", 2), at(2));
        schedule.put(due("/a", 3), at(3));
        schedule.put(due("/c", 4), at(1));
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.take(start), []);
        assert_eq!(schedule.take(at(2)), [due("/c", 4), due("/b", 2)]);
        assert_eq!(schedule.take(at(9)), [due("/a", 3)]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn the_newest_revision_counts_and_of_one_the_earliest_time() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut schedule = Schedule::default();
        schedule.put(due("/a", 5), at(5));
        schedule.put(due("/a", 5), at(8));
        schedule.put(due("/a", 4), at(1));
        assert_eq!(schedule.next(), Some(at(5)));
        schedule.put(due("/a", 6), at(9));
        assert_eq!(schedule.next(), Some(at(9)));
        let key = KeyPath::new("/a").expect("a key");
        schedule.forget(&key, 6);
        assert_eq!(schedule.next(), Some(at(9)));
        schedule.forget(&key, 7);
        assert_eq!(schedule.take(at(10)), []);
    }

    #[test]
    fn what_a_restored_etcd_never_had_is_forgotten() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut schedule = Schedule::default();
        schedule.put(due("/a", 5), at(5));
        schedule.put(due("/b", 9), at(90));
        schedule.forget_after(5);
        schedule.put(due("/b", 6), at(6));
        assert_eq!(schedule.take(at(99)), [due("/a", 5), due("/b", 6)]);
    }
}
