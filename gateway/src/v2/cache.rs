//! Answers to GETs of files, as one run of a watch keeps them up. Pure.
//!
//! Invariant: with all events up to `seen` and none after it, an answer read at `at` is the one that etcd would
//! give at the later of `seen` and `at`. An answer from before `seen` is not taken, since what has changed it may have
//! been seen already; events up to `at` change nothing.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use manifests::keys::V2_META;
use store::kv::{Event, KeyValue};

use super::node::V2Event;
use super::path::MAX_PARTS;
use super::tree;

/// Of both generations together.
const MAX_BYTES: usize = 8 << 20;

/// What an answer takes beside its text.
const ENTRY_BYTES: usize = 128;

/// Larger ones would push out many that are small.
const MAX_ENTRY: usize = MAX_BYTES / 32;

/// Answers by key.
#[derive(Debug)]
pub(super) struct Cache {
    /// What was asked for since the other generation was this one.
    young: Generation,
    old: Generation,
    /// All events up to this revision were told.
    seen: i64,
    newest: i64,
}

#[derive(Debug, Default)]
struct Generation {
    answers: HashMap<Box<str>, Answer>,
    bytes: usize,
}

#[derive(Debug)]
struct Answer {
    body: Bytes,
    /// The revision that it was read at, or that has changed it.
    at: i64,
}

impl Cache {
    /// Without answers; it will be told all events after `seen`.
    pub(super) fn new(seen: i64) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            seen,
            newest: seen,
        }
    }

    /// The newest revision that it has heard of: etcd is not before it.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// There is an answer, and events are not known to be late.
    pub(super) fn has(&self, key: &str) -> bool {
        let generations = [&self.young, &self.old];
        let is_kept = generations.iter().any(|one| one.answers.contains_key(key));
        is_kept && self.seen == self.newest
    }

    /// The answer of `revision` or a later one, and of which; `revision` was the newest a moment ago.
    pub(super) fn answer(&mut self, key: &str, revision: i64) -> Option<(Bytes, i64)> {
        self.newest = self.newest.max(revision);
        if self.seen < revision {
            return None;
        }
        if let Some((key, answer)) = self.old.take(key) {
            self.put(key, answer);
        }
        let answer = self.young.answers.get(key)?;
        (answer.at <= self.seen).then(|| (answer.body.clone(), self.seen))
    }

    /// Keeps an answer that was read at a revision: that of a file without a TTL.
    pub(super) fn keep(&mut self, key: &str, body: &[u8], revision: i64) {
        let known = self.young.at(key).max(self.old.at(key));
        if revision < self.seen || known.is_some_and(|at| at >= revision) {
            return;
        }
        self.newest = self.newest.max(revision);
        let answer = Answer::new(body, revision);
        self.old.take(key);
        self.young.take(key);
        if answer.bytes(key) <= MAX_ENTRY {
            self.put(key.into(), answer);
        }
    }

    /// All events of the next revisions that have any.
    pub(super) fn apply(&mut self, events: &[Event]) {
        for revision in events.chunk_by(|a, b| a.modified() == b.modified()) {
            // A file that is put together with its side key is more than its value.
            for event in revision {
                self.forget_what_changes(event);
            }
            for event in revision {
                if let Event::Put { now, .. } = event {
                    self.young.update(now);
                    self.old.update(now);
                }
            }
        }
        let last = events.last().map_or(0, Event::modified);
        self.seen = self.seen.max(last);
        self.newest = self.newest.max(last);
    }

    /// Unless the key's value alone is another one.
    fn forget_what_changes(&mut self, event: &Event) {
        let (key, revision) = (event.key(), event.modified());
        // Above it are directories now, or they were until now; deeper than what v2 can name nothing is kept.
        for (end, _) in key.match_indices('/').take(MAX_PARTS + 1) {
            self.forget(&key[..end], revision);
        }
        if let Some(key) = key.strip_prefix(V2_META) {
            self.forget(key, revision);
        }
        // The name of a key that is no text is told as that of another.
        let is_text = !key.contains(char::REPLACEMENT_CHARACTER);
        if !is_text || matches!(event, Event::Delete { .. }) {
            self.forget(key, revision);
        }
    }

    fn forget(&mut self, key: &str, revision: i64) {
        for generation in [&mut self.young, &mut self.old] {
            if generation.at(key).is_some_and(|at| at < revision) {
                generation.take(key);
            }
        }
    }

    fn put(&mut self, key: Box<str>, answer: Answer) {
        if self.young.bytes + answer.bytes(&key) > MAX_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += answer.bytes(&key);
        self.young.answers.insert(key, answer);
    }
}

impl Generation {
    fn at(&self, key: &str) -> Option<i64> {
        self.answers.get(key).map(|answer| answer.at)
    }

    fn take(&mut self, key: &str) -> Option<(Box<str>, Answer)> {
        let (key, answer) = self.answers.remove_entry(key)?;
        self.bytes -= answer.bytes(&key);
        Some((key, answer))
    }

    /// A file that is there was put without its side key, which says nothing of it any more.
    fn update(&mut self, now: &KeyValue) {
        let Some(answer) = self.answers.get_mut(now.key.as_str()) else {
            return;
        };
        if answer.at >= now.modified {
            return;
        }
        let node = tree::file_node(now.key.clone(), now, None, Timestamp::UNIX_EPOCH);
        let new = Answer::new(&V2Event::get(node).body(), now.modified);
        let (before, after) = (answer.bytes(&now.key), new.bytes(&now.key));
        *answer = new;
        self.bytes = self.bytes - before + after;
        if after > MAX_ENTRY || self.bytes > MAX_BYTES / 2 {
            self.take(&now.key);
        }
    }
}

impl Answer {
    /// In a place of its own, which is no larger than it.
    fn new(body: &[u8], at: i64) -> Self {
        let body = Bytes::copy_from_slice(body);
        Self { body, at }
    }

    fn bytes(&self, key: &str) -> usize {
        ENTRY_BYTES + key.len() + self.body.len()
    }
}

#[cfg(test)]
mod tests;
