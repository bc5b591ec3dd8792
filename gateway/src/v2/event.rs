//! From watch events of v3 to those of v2. Pure.
//!
//! A v2 write also puts one fixed key, at the same revision, that describes
//! its event, so that a recursive delete is one event. Revisions without that
//! key were written by v3, or are a `set` that v3 can say as well: each of
//! their keys is an event.

use std::sync::Arc;

use manifests::keys::V2_META;
use serde::{Deserialize, Serialize};
use store::kv::{self, KeyValue};
use uuid::Uuid;

use super::lookup::{SideKey, meta_of};
use super::node::{Action, V2Event, V2Node};
use super::ttl::Ttl;

/// Key of the `OpRecord` of a revision. No v2 key has a double slash.
pub const OP_KEY: &str = "/v2meta//op";

/// A v2 write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRecord {
    /// What was done.
    pub action: Action,
    /// Its key.
    pub key: String,
    /// Created index of the node after it; none if that is its revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// The key is a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dir: bool,
    /// When the node after it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// The node before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Prev>,
    /// Waits are not told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// Of the request: no other has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
}

/// Of the node before a write, what the watch event does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prev {
    /// Its created index.
    pub created: i64,
    /// Its modified index.
    pub modified: i64,
    /// When it would have ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// It was a file; the node after it is a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub file: bool,
}

impl OpRecord {
    /// The event at a revision, with the new and the old value.
    pub fn event(&self, revision: i64, value: Option<&[u8]>, before: Option<&[u8]>) -> V2Event {
        let node = V2Node {
            key: self.key.clone(),
            value: value.filter(|_| !self.dir).map(Arc::from),
            dir: self.dir,
            ttl: self.ttl,
            nodes: Vec::new(),
            modified: revision,
            created: self.created.unwrap_or(revision),
        };
        let prev = |prev: Prev| {
            let dir = self.dir && !prev.file;
            let value = Arc::from(before.unwrap_or_default());
            V2Node {
                key: self.key.clone(),
                value: (!dir).then_some(value),
                dir,
                ttl: prev.ttl,
                nodes: Vec::new(),
                modified: prev.modified,
                created: prev.created,
            }
        };
        V2Event {
            action: self.action,
            node: Some(node),
            prev: self.prev.map(prev),
            silent: self.silent,
        }
    }
}

/// The v2 events of one watch reply, in order.
pub fn map(events: &[kv::Event]) -> Vec<V2Event> {
    events
        .chunk_by(|a, b| revision(a) == revision(b))
        .flat_map(map_revision)
        .collect()
}

/// The revision that an event is of.
pub fn revision(event: &kv::Event) -> i64 {
    match event {
        kv::Event::Put { now, .. } => now.modified,
        kv::Event::Delete { modified, .. } => *modified,
    }
}

fn key(event: &kv::Event) -> &str {
    match event {
        kv::Event::Put { now, .. } => &now.key,
        kv::Event::Delete { key, .. } => key,
    }
}

fn map_revision(events: &[kv::Event]) -> Vec<V2Event> {
    let record = events.iter().find_map(|event| match event {
        kv::Event::Put { now, .. } if now.key == OP_KEY => {
            serde_json::from_slice::<OpRecord>(&now.value).ok()
        }
        _ => None,
    });
    let Some(record) = record else {
        return events
            .iter()
            .filter(|event| !crate::access::hidden(key(event)))
            .map(|event| plain(event, events))
            .collect();
    };
    let at_key = events.iter().find(|event| key(event) == record.key);
    let (now, before) = match at_key {
        Some(kv::Event::Put { now, before }) => (Some(now), before.as_ref()),
        Some(kv::Event::Delete { before, .. }) => (None, before.as_ref()),
        None => (None, None),
    };
    let value = |kv: &KeyValue| kv.value.clone();
    let (now, before) = (now.map(value), before.map(value));
    let revision = events.first().map_or(0, revision);
    vec![record.event(revision, now.as_deref(), before.as_deref())]
}

/// An event of a v3 write, or of a lease's end, at a revision with these `events`.
fn plain(event: &kv::Event, events: &[kv::Event]) -> V2Event {
    match event {
        kv::Event::Put { now, before } => set(now, before.as_ref()),
        kv::Event::Delete {
            key,
            modified,
            before,
        } => {
            let leased = before.as_ref().is_some_and(|kv| kv.lease != 0);
            let prev = before.as_ref().map(|kv| {
                // The side key of a TTL ends with the same lease.
                let meta = meta_of(kv, side_before(key, events));
                V2Node {
                    created: meta.created.unwrap_or(kv.modified),
                    ttl: meta.expires.map(|end| Ttl::new(end, end)),
                    ..plain_node(kv)
                }
            });
            V2Event {
                action: if leased {
                    Action::Expire
                } else {
                    Action::Delete
                },
                node: Some(V2Node {
                    key: key.clone(),
                    modified: *modified,
                    created: prev.as_ref().map_or(*modified, |prev| prev.created),
                    ..V2Node::default()
                }),
                prev,
                silent: false,
            }
        }
    }
}

/// A PUT that says nothing that v3 does not.
pub fn set(now: &KeyValue, before: Option<&KeyValue>) -> V2Event {
    V2Event {
        action: Action::Set,
        node: Some(plain_node(now)),
        prev: before.map(plain_node),
        silent: false,
    }
}

fn plain_node(kv: &KeyValue) -> V2Node {
    V2Node {
        key: kv.key.clone(),
        value: Some(kv.value.as_slice().into()),
        modified: kv.modified,
        created: kv.modified,
        ..V2Node::default()
    }
}

fn side_before(key: &str, events: &[kv::Event]) -> Option<SideKey> {
    events.iter().find_map(|event| match event {
        kv::Event::Delete {
            key: side, before, ..
        } if side.strip_prefix(V2_META) == Some(key) => before.as_ref().map(SideKey::new),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            created: revision,
            modified: revision,
            version: 1,
            lease: 0,
        }
    }

    fn put(now: KeyValue, before: Option<KeyValue>) -> kv::Event {
        kv::Event::Put { now, before }
    }

    fn delete(before: KeyValue, revision: i64) -> kv::Event {
        kv::Event::Delete {
            key: before.key.clone(),
            modified: revision,
            before: Some(before),
        }
    }

    fn bodies(events: &[kv::Event]) -> Vec<String> {
        map(events)
            .iter()
            .map(|event| String::from_utf8(event.body()).expect("text"))
            .collect()
    }

    #[test]
    fn a_v2_write_is_one_event() {
        let record = OpRecord {
            action: Action::CompareAndSwap,
            key: "/a/b".into(),
            created: Some(3),
            dir: false,
            ttl: None,
            prev: Some(Prev {
                created: 3,
                modified: 5,
                ttl: None,
                file: false,
            }),
            silent: false,
            id: None,
        };
        let op = String::from_utf8(serde_json::to_vec(&record).expect("json")).expect("text");
        let events = [
            put(kv("/a/b", "new", 9), Some(kv("/a/b", "old", 5))),
            put(kv("/v2meta/a/b", r#"{"created":3}"#, 9), None),
            put(kv(OP_KEY, &op, 9), None),
        ];
        assert_eq!(
            bodies(&events),
            [concat!(
                r#"{"action":"compareAndSwap","node":{"key":"/a/b","value":"new","modifiedIndex":9,"#,
                r#""createdIndex":3},"prevNode":{"key":"/a/b","value":"old","modifiedIndex":5,"#,
                r#""createdIndex":3}}"#,
                "\n"
            )]
        );
    }

    #[test]
    fn a_recursive_delete_is_one_event_too() {
        let record = OpRecord {
            action: Action::Delete,
            key: "/a".into(),
            created: Some(2),
            dir: true,
            ttl: None,
            prev: Some(Prev {
                created: 2,
                modified: 2,
                ttl: None,
                file: false,
            }),
            silent: false,
            id: None,
        };
        let op = String::from_utf8(serde_json::to_vec(&record).expect("json")).expect("text");
        let events = [
            delete(kv("/a/x", "1", 3), 9),
            delete(kv("/a/y", "2", 4), 9),
            delete(kv("/v2meta/a", r#"{"dir":true}"#, 2), 9),
            put(kv(OP_KEY, &op, 9), None),
        ];
        assert_eq!(
            bodies(&events),
            [concat!(
                r#"{"action":"delete","node":{"key":"/a","dir":true,"modifiedIndex":9,"#,
                r#""createdIndex":2},"prevNode":{"key":"/a","dir":true,"modifiedIndex":2,"#,
                r#""createdIndex":2}}"#,
                "\n"
            )]
        );
    }

    #[test]
    fn v3_writes_are_an_event_for_each_key() {
        let leased = KeyValue {
            lease: 7,
            ..kv("/hosts/h/record", "{}", 4)
        };
        let events = [
            put(kv("/a", "1", 8), Some(kv("/a", "0", 6))),
            put(kv("/b", "2", 8), None),
            put(kv("/v2meta/b", "{}", 8), None),
            delete(kv("/c", "3", 7), 9),
            delete(leased, 10),
        ];
        let got: Vec<(Action, String, i64, bool)> = map(&events)
            .into_iter()
            .map(|e| (e.action, e.key().to_owned(), e.index(), e.prev.is_some()))
            .collect();
        assert_eq!(
            got,
            [
                (Action::Set, "/a".to_owned(), 8, true),
                (Action::Set, "/b".to_owned(), 8, false),
                (Action::Delete, "/c".to_owned(), 9, true),
                (Action::Expire, "/hosts/h/record".to_owned(), 10, true),
            ]
        );
    }

    #[test]
    fn a_lease_that_ends_tells_what_the_side_key_knew() {
        let expires: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let leased = |key: &str, value: &str| KeyValue {
            lease: 7,
            ..kv(key, value, 4)
        };
        let side = serde_json::json!({"created": 2, "expires": expires}).to_string();
        let events = [
            delete(leased("/a", "1"), 9),
            delete(leased("/v2meta/a", &side), 9),
        ];
        assert_eq!(
            bodies(&events),
            [concat!(
                r#"{"action":"expire","node":{"key":"/a","modifiedIndex":9,"createdIndex":2},"#,
                r#""prevNode":{"key":"/a","value":"1","expiration":"2026-01-02T03:04:05Z","#,
                r#""modifiedIndex":4,"createdIndex":2}}"#,
                "\n"
            )]
        );
    }

    #[test]
    fn a_file_that_becomes_a_directory_shows_both() {
        let record = OpRecord {
            action: Action::Set,
            key: "/a".into(),
            created: None,
            dir: true,
            ttl: None,
            prev: Some(Prev {
                created: 2,
                modified: 3,
                ttl: None,
                file: true,
            }),
            silent: false,
            id: None,
        };
        let op = serde_json::to_string(&record).expect("json");
        let events = [delete(kv("/a", "1", 3), 9), put(kv(OP_KEY, &op, 9), None)];
        assert_eq!(
            bodies(&events),
            [concat!(
                r#"{"action":"set","node":{"key":"/a","dir":true,"modifiedIndex":9,"#,
                r#""createdIndex":9},"prevNode":{"key":"/a","value":"1","modifiedIndex":3,"#,
                r#""createdIndex":2}}"#,
                "\n"
            )]
        );
    }
}
