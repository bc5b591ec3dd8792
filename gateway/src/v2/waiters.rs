//! Who waits for which key.
//!
//! An event wakes who may be told of it, and nobody else: with thousands of
//! waits, each write would wake them all. Who is woken looks into the ring.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

use super::node::V2Event;
use super::path::{KeyPath, MAX_PARTS};

/// All who wait at present, by key.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_key: BTreeMap<(String, u64), Arc<Waiter>>,
    next: u64,
}

/// One who waits.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    woken: Notify,
    /// The index of the first event that it was woken for; 0 is none. Nothing before was for it.
    first: AtomicI64,
}

impl Waiter {
    /// Returns when it was woken.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// From where it has to look, if there is anything to be seen.
    pub(super) fn take_first(&self) -> i64 {
        self.first.swap(0, Ordering::Relaxed)
    }

    fn wake(&self, index: i64) {
        let keep_first = |first| (first == 0).then_some(index);
        let ordering = Ordering::Relaxed;
        self.first.fetch_update(ordering, ordering, keep_first).ok();
        self.woken.notify_one();
    }
}

impl Waiters {
    /// One more, with its number.
    pub(super) fn add(&mut self, key: &KeyPath) -> (u64, Arc<Waiter>) {
        self.next += 1;
        let waiter = Arc::<Waiter>::default();
        let at = (key.as_str().to_owned(), self.next);
        self.by_key.insert(at, waiter.clone());
        (self.next, waiter)
    }

    /// The one with this number does not wait any more.
    pub(super) fn remove(&mut self, key: &KeyPath, number: u64) {
        self.by_key.remove(&(key.as_str().to_owned(), number));
    }

    /// Wakes those who may be told of the event: at its key, at the directories above, and, if it takes a directory
    /// away, at all that was below.
    pub(super) fn wake(&self, event: &V2Event) {
        let key = event.key();
        for above in above(key) {
            let from = (above.to_owned(), 0);
            let own = self.by_key.range(from..);
            for (_, waiter) in own.take_while(|((at, _), _)| at == above) {
                waiter.wake(event.index());
            }
        }
        if event.action.removes() {
            let below = format!("{key}/");
            let from = (below.clone(), 0);
            let own = self.by_key.range(from..);
            for (_, waiter) in own.take_while(|((at, _), _)| at.starts_with(&below)) {
                waiter.wake(event.index());
            }
        }
    }

    /// Wakes all: what they have waited for may have been missed.
    pub(super) fn wake_all(&self) {
        for waiter in self.by_key.values() {
            waiter.woken.notify_one();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// The key and all above it, up to the root, as far as v2 can name them.
fn above(key: &str) -> impl Iterator<Item = &str> {
    let ends = key
        .char_indices()
        .skip(1)
        .filter(|(_, c)| *c == '/')
        .take(MAX_PARTS);
    let dirs = ends.map(|(at, _)| &key[..at]);
    std::iter::once("/")
        .chain(dirs)
        .chain(Some(key).filter(|key| *key != "/"))
}

#[cfg(test)]
mod tests {
    use super::super::node::{Action, V2Node};
    use super::*;

    fn event(action: Action, key: &str, index: i64) -> V2Event {
        V2Event {
            action,
            node: Some(V2Node {
                key: key.to_owned(),
                modified: index,
                ..V2Node::default()
            }),
            prev: None,
            silent: false,
        }
    }

    #[test]
    fn an_event_wakes_who_waits_at_its_key_and_above() {
        let mut waiters = Waiters::default();
        let keys = ["/", "/a", "/a/b", "/a/b", "/a/b/c", "/a/bc", "/ab", "/b"];
        let added = keys.map(|key| waiters.add(&KeyPath::new(key).expect("a key")));
        let woken = |waiters: &Waiters, event: V2Event| {
            waiters.wake(&event);
            added.each_ref().map(|(_, waiter)| waiter.take_first())
        };
        let set = event(Action::Set, "/a/b", 5);
        assert_eq!(woken(&waiters, set.clone()), [5, 5, 5, 5, 0, 0, 0, 0]);
        let delete = event(Action::Delete, "/a/b", 6);
        assert_eq!(woken(&waiters, delete), [6, 6, 6, 6, 6, 0, 0, 0]);
        waiters.remove(&KeyPath::new("/a/b").expect("a key"), added[2].0);
        assert_eq!(woken(&waiters, set), [5, 5, 0, 5, 0, 0, 0, 0]);
        assert_eq!(waiters.len(), keys.len() - 1);
    }

    #[test]
    fn who_is_woken_twice_looks_from_the_first() {
        let mut waiters = Waiters::default();
        let (_, waiter) = waiters.add(&KeyPath::new("/a").expect("a key"));
        waiters.wake(&event(Action::Set, "/a/x", 3));
        waiters.wake(&event(Action::Set, "/a", 4));
        assert_eq!((waiter.take_first(), waiter.take_first()), (3, 0));
    }
}
