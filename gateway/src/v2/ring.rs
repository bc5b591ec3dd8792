//! The last thousand events, for waits from an earlier index.
//!
//! Pure. Invariant: it has every event from `first` on, up to `seen`.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::node::V2Event;
use super::path::KeyPath;

/// As in etcd.
pub const CAPACITY: usize = 1000;

/// Limit for events with large values; the text of those that were told is as much again.
pub const MAX_BYTES: usize = 8 << 20;

/// An event, with its text once a wait was told of it.
#[derive(Debug, PartialEq, Eq)]
pub struct RingEvent {
    /// The event.
    pub event: V2Event,
    text: OnceLock<Bytes>,
}

impl RingEvent {
    fn new(event: V2Event) -> Self {
        Self {
            event,
            text: OnceLock::new(),
        }
    }

    /// The answer's body, shared by all waits: thousands may be told of one event.
    pub fn body(&self) -> Bytes {
        let encode = || Bytes::from(self.event.body());
        self.text.get_or_init(encode).clone()
    }
}

/// The ring.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Arc<RingEvent>>,
    bytes: usize,
    first: i64,
    seen: i64,
}

/// Result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventMatch {
    /// This event.
    Found(Arc<RingEvent>),
    /// Not yet; nothing before this needs to be looked at again.
    NotYet(Position),
    /// The index is too old; the oldest available one.
    Cleared(i64),
}

impl Ring {
    /// An empty ring that will have everything from `first` on.
    pub fn new(first: i64) -> Self {
        Self {
            first,
            seen: first - 1,
            ..Self::default()
        }
    }

    /// The revision up to which it has everything.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// The revision from which on it has everything.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// Adds all events up to a revision.
    pub fn extend(&mut self, events: Vec<V2Event>, seen: i64) {
        for event in events {
            self.bytes += event.size();
            self.events.push_back(Arc::new(RingEvent::new(event)));
        }
        self.seen = self.seen.max(seen);
        while self.events.len() > CAPACITY || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.event.size();
            // As etcd has it: the oldest kept, not the first that would be complete.
            self.first = self
                .events
                .front()
                .map_or(oldest.event.index() + 1, |oldest| oldest.event.index());
        }
    }

    /// The first event from `from` on that the wait is for. Up to `history` it is
    /// a look back, which also shows names that begin with `_`.
    pub fn find(&self, key: &KeyPath, recursive: bool, from: Position, history: i64) -> EventMatch {
        if from.index < self.first {
            return EventMatch::Cleared(self.first);
        }
        let start = self
            .events
            .partition_point(|at| at.event.index() < from.index);
        let own = |RingEvent { event, .. }: &RingEvent| {
            !event.silent
                && matches_key(event, key, recursive)
                && (event.index() <= history || !hidden_from(event, key))
        };
        let mut told = from.told;
        let events = self.events.iter().skip(start);
        let found = events.filter(|event| own(event)).find(|found| {
            let new = found.event.index() > from.index || told == 0;
            told = told.saturating_sub(1);
            new
        });
        match found {
            Some(found) => EventMatch::Found(found.clone()),
            None if self.seen < from.index => EventMatch::NotYet(from),
            None => EventMatch::NotYet(Position::at(self.seen + 1)),
        }
    }
}

/// Where a wait goes on. A write of v3 may be several events with one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From this index on.
    pub index: i64,
    /// So many events of this index have been told.
    told: usize,
}

impl Position {
    /// The first event of an index.
    pub fn at(index: i64) -> Self {
        Self { index, told: 0 }
    }

    /// After an event that was found from here.
    #[must_use]
    pub fn after(self, event: &V2Event) -> Self {
        let index = event.index();
        let told = if index == self.index { self.told } else { 0 };
        Self {
            index,
            told: told + 1,
        }
    }
}

fn matches_key(event: &V2Event, key: &KeyPath, recursive: bool) -> bool {
    let at = event.key();
    if at == key.as_str() {
        return true;
    }
    if recursive && at.starts_with(&key.below()) {
        return true;
    }
    // A directory that goes takes along what is in it.
    let was_dir = event.prev.as_ref().is_some_and(|prev| prev.dir);
    event.action.removes() && was_dir && key.as_str().starts_with(&format!("{at}/"))
}

/// A part of the event's key after the wait's begins with `_`.
fn hidden_from(event: &V2Event, key: &KeyPath) -> bool {
    event
        .key()
        .strip_prefix(key.as_str())
        .is_some_and(|rest| format!("/{rest}").contains("/_"))
}

#[cfg(test)]
mod tests {
    use super::super::node::{Action, V2Node};
    use super::*;

    fn event(action: Action, key: &str, index: i64, dir: bool) -> V2Event {
        let node = V2Node {
            key: key.to_owned(),
            dir,
            modified: index,
            created: index,
            ..V2Node::default()
        };
        V2Event {
            action,
            prev: action.removes().then(|| node.clone()),
            node: Some(node),
            silent: false,
        }
    }

    fn key(text: &str) -> KeyPath {
        KeyPath::new(text).expect("a key")
    }

    fn found(look: &EventMatch) -> Option<i64> {
        match look {
            EventMatch::Found(found) => Some(found.event.index()),
            _ => None,
        }
    }

    #[test]
    fn a_wait_gets_the_first_event_that_is_its_own() {
        let mut ring = Ring::new(1);
        ring.extend(
            vec![
                event(Action::Set, "/a", 2, false),
                event(Action::Set, "/a/b", 3, false),
                event(Action::Set, "/ab", 4, false),
                event(Action::Set, "/a", 5, false),
            ],
            6,
        );
        let find =
            |text: &str, recursive, since| ring.find(&key(text), recursive, Position::at(since), 6);
        assert_eq!(found(&find("/a", false, 1)), Some(2));
        assert_eq!(found(&find("/a", false, 3)), Some(5));
        assert_eq!(found(&find("/a", true, 3)), Some(3));
        assert_eq!(found(&find("/", true, 4)), Some(4));
        assert_eq!(find("/", false, 1), EventMatch::NotYet(Position::at(7)));
        assert_eq!(find("/a", true, 100), EventMatch::NotYet(Position::at(100)));
    }

    #[test]
    fn a_stream_is_told_each_event_of_an_index_once() {
        let mut ring = Ring::new(1);
        ring.extend(
            vec![
                event(Action::Set, "/a/x", 2, false),
                event(Action::Set, "/b", 2, false),
                event(Action::Set, "/a/y", 2, false),
                event(Action::Set, "/a/z", 3, false),
            ],
            3,
        );
        let mut position = Position::at(1);
        let mut told = Vec::new();
        let after = loop {
            match ring.find(&key("/a"), true, position, 0) {
                EventMatch::Found(found) => {
                    position = position.after(&found.event);
                    told.push(found.event.key().to_owned());
                }
                other => break other,
            }
        };
        assert_eq!(told, ["/a/x", "/a/y", "/a/z"]);
        assert_eq!(after, EventMatch::NotYet(Position::at(4)));
    }

    #[test]
    fn all_waits_share_the_text_of_an_event() {
        let mut ring = Ring::new(1);
        ring.extend(vec![event(Action::Set, "/a/b", 2, false)], 2);
        let body = |text: &str| match ring.find(&key(text), true, Position::at(1), 0) {
            EventMatch::Found(found) => found.body(),
            other => panic!("{other:?}"),
        };
        let [one, other] = ["/a", "/a/b"].map(body);
        assert!(one.starts_with(br#"{"action":"set""#));
        assert_eq!(one.as_ptr(), other.as_ptr());
    }

    #[test]
    fn a_refresh_is_kept_and_not_told() {
        let mut ring = Ring::new(1);
        let mut refresh = event(Action::Update, "/a", 2, false);
        refresh.silent = true;
        ring.extend(vec![refresh, event(Action::Set, "/a", 3, false)], 3);
        assert_eq!(
            found(&ring.find(&key("/a"), false, Position::at(1), 3)),
            Some(3)
        );
        assert_eq!(ring.events.len(), 2);
    }

    #[test]
    fn a_directory_that_goes_wakes_who_waits_below_it() {
        let mut ring = Ring::new(1);
        ring.extend(
            vec![
                event(Action::Delete, "/a", 2, true),
                event(Action::Delete, "/f", 3, false),
            ],
            3,
        );
        let find = |text: &str| ring.find(&key(text), false, Position::at(1), 3);
        assert_eq!(found(&find("/a/b/c")), Some(2));
        assert_eq!(find("/ab"), EventMatch::NotYet(Position::at(4)));
        assert_eq!(find("/f/x"), EventMatch::NotYet(Position::at(4)));
    }

    #[test]
    fn hidden_names_wake_only_who_waits_inside_but_are_in_history() {
        let mut ring = Ring::new(1);
        ring.extend(vec![event(Action::Set, "/a/_h/x", 2, false)], 2);
        let find = |text: &str, history| ring.find(&key(text), true, Position::at(2), history);
        assert_eq!(find("/a", 1), EventMatch::NotYet(Position::at(3)));
        assert_eq!(found(&find("/a", 2)), Some(2));
        assert_eq!(found(&find("/a/_h", 1)), Some(2));
        assert_eq!(found(&find("/a/_h/x", 1)), Some(2));
    }

    #[test]
    fn a_thousand_events_are_kept() {
        let mut ring = Ring::new(1);
        for index in 2..=1500 {
            ring.extend(vec![event(Action::Set, "/a", index, false)], index);
        }
        let oldest = 1500 - 1000 + 1;
        assert_eq!(
            ring.find(&key("/never"), false, Position::at(oldest - 1), 1500),
            EventMatch::Cleared(oldest)
        );
        assert_eq!(
            found(&ring.find(&key("/a"), false, Position::at(oldest), 1500)),
            Some(oldest)
        );
    }

    #[test]
    fn large_values_push_events_out() {
        let mut ring = Ring::new(1);
        for index in 2..=40 {
            let mut large = event(Action::Set, "/a", index, false);
            if let Some(node) = &mut large.node {
                node.value = Some(vec![0; 1 << 20].into());
            }
            ring.extend(vec![large], index);
        }
        assert!(ring.bytes <= MAX_BYTES);
        assert!(matches!(
            ring.find(&key("/a"), false, Position::at(2), 40),
            EventMatch::Cleared(_)
        ));
    }
}
