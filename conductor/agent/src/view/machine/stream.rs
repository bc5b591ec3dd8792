//! Events and progress of the stream.

use manifests::keys::Key;
use model::Millis;
use model::kv::{Event, WatchReply};
use model::records::Cluster;
use model::rules::Rule;

use super::View;
use crate::view::saved::Raw;
use crate::view::{FirstRead, Known, Reason, Trust, accepted, check};

impl View {
    /// The operator has accepted a restore: what this etcd has counts from now on.
    pub(super) fn accept(&mut self, restored: Cluster) {
        self.cluster = restored.clone();
        self.accepted = Some(restored);
    }

    pub(super) fn reply(&mut self, reply: WatchReply, now: Millis) {
        match reply {
            WatchReply::Events(events, _) => self.events(events, now),
            WatchReply::Progress(revision) => {
                self.connect.progress = self.connect.progress.max(revision);
                let all = self.connect.catch_up.as_ref();
                if !self.rules.has(Rule::ProgressOvertakes)
                    && all.is_some_and(|c| revision >= c.revision)
                {
                    self.reach();
                }
                if self.connect.reached {
                    self.retry.reset();
                }
            }
            WatchReply::Compacted(_) => self.compacted(now),
            WatchReply::Closed(_) => self.failed(now),
        }
    }

    pub(super) fn events(&mut self, mut events: Vec<Event>, now: Millis) {
        // What is known already is not news: etcd's streams have gone back in time (etcd#15271, #20221).
        let known = self.snapshot.revision;
        events.retain(|event| event.modified() > known || !self.rules.has(Rule::KnownEvents));
        let Some(revision) = events.last().map(Event::modified) else {
            return;
        };
        match self.cluster_after(&events) {
            Ok(cluster) if cluster == self.cluster => {}
            Ok(_) => {
                // The restore may have been one that no revision shows: a key written again since has the same one, and
                // another value. So values are read anew, and nothing of this is applied before.
                self.compacted(now);
                return;
            }
            Err(reason) => {
                self.distrust(reason, now);
                return;
            }
        }
        self.retry.reset();
        if self
            .connect
            .catch_up
            .as_ref()
            .is_some_and(|c| revision > c.revision)
        {
            // Events come in order: all up to the first read have been here, or are lost.
            self.next_compare = now;
            self.reach();
        }
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let modified = event.modified();
            match event {
                Event::Put { now: kv, .. } => {
                    if let Some(catch_up) = &mut self.connect.catch_up
                        && catch_up
                            .changed
                            .get(&kv.key)
                            .is_some_and(|m| *m <= modified)
                    {
                        catch_up.changed.remove(&kv.key);
                    }
                    let key = Key::parse(&kv.key);
                    let raw = Raw::under(key.as_ref(), &kv);
                    changes.extend(key.map(|key| (key, Some(raw.rev()))));
                    self.raw.insert_mut(kv.key, raw);
                }
                Event::Delete { key, .. } => {
                    self.raw.remove_mut(&key);
                    changes.extend(Key::parse(&key).map(|key| (key, None)));
                }
            }
        }
        let touched = self.snapshot.apply_read(changes, revision);
        self.catch_up_reached();
        self.emit(touched, false);
    }

    /// The cluster after these events. If one of them takes its key away or makes it another's, none of them counts:
    /// what else the same hand did is not what a user wanted.
    pub(super) fn cluster_after(&self, events: &[Event]) -> Result<Cluster, Reason> {
        let key = Key::Cluster.to_string();
        let mut cluster = self.cluster.clone();
        for event in events.iter().filter(|event| event.key() == key) {
            let found: Option<Cluster> = match event {
                Event::Put { now, .. } => serde_json::from_slice(&now.value).ok(),
                Event::Delete { .. } => None,
            };
            if let Some(restored) = accepted(&cluster, found.as_ref()) {
                cluster = restored.clone();
                continue;
            }
            let known = Known {
                cluster: cluster.clone(),
                revision: self.snapshot.revision,
            };
            let read = FirstRead {
                cluster: found,
                revision: event.modified(),
            };
            if let Trust::Distrust(reason) = check(&known, &read) {
                return Err(reason);
            }
        }
        Ok(cluster)
    }

    pub(super) fn catch_up_reached(&mut self) {
        // The same keys at the same revisions, and not one more: this is the state of the first read. Progress answers
        // prove nothing here: before etcd 3.4.25 they overtake events.
        if let Some(c) = &self.connect.catch_up
            && c.changed.is_empty()
            && self.raw.size() as i64 == c.count
        {
            self.reach();
        }
    }

    /// All checks are passed, and all that happened up to the first read has been seen.
    pub(super) fn reach(&mut self) {
        self.connect.reached = true;
        self.connect.catch_up = None;
        self.trust = Trust::Trusted;
    }
}
