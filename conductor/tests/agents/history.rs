//! What was written to etcd, revision by revision.

use std::collections::BTreeMap;

use manifests::keys::Key;
use manifests::{ContainerId, SlotId};
use model::records::{Claim, Phase, SlotState, Unfit};
use store::kv::{Event, KeyRange, WatchReply};
use store::memory::MemKv;

/// The events of a time, in order.
pub(crate) struct History(Vec<Event>);

impl History {
    /// Everything after `revision`.
    pub(crate) fn since(kv: &MemKv, revision: i64) -> Self {
        let all = KeyRange::prefix("/");
        let mut events = Vec::new();
        kv.with(|etcd| {
            let watch = etcd.watch(all, revision + 1, true);
            while let Some(reply) = etcd.poll(watch) {
                match reply {
                    WatchReply::Events(more, _) => events.extend(more),
                    WatchReply::Progress(_) => {}
                    odd => panic!("no history: {odd:?}"),
                }
            }
            etcd.cancel(watch);
        });
        Self(events)
    }

    /// Changes of keys of ours, without host records and manifests.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.0
            .iter()
            .filter_map(|event| Key::parse(event.key()))
            .filter(|key| !matches!(key, Key::HostRecord(_) | Key::Manifest(_)))
            .collect()
    }

    /// How many revisions of the store they are, without host records and manifests.
    pub(crate) fn transactions(&self) -> usize {
        self.transactions_of(|key| !matches!(key, Key::HostRecord(_) | Key::Manifest(_)))
    }

    /// How many revisions of the store changed such a key.
    pub(crate) fn transactions_of(&self, is_such: impl Fn(&Key) -> bool) -> usize {
        let is_such = |event: &&Event| Key::parse(event.key()).as_ref().is_some_and(&is_such);
        let mut revisions: Vec<i64> = self.0.iter().filter(is_such).map(Event::modified).collect();
        revisions.dedup();
        revisions.len()
    }

    /// Claims as they were put, in order; none is a release.
    pub(crate) fn claims(&self, slot: &SlotId) -> Vec<Option<Claim>> {
        let key = Key::Claim(slot.clone()).to_string();
        self.0
            .iter()
            .filter(|event| event.key() == key)
            .map(|event| match event {
                Event::Put { now, .. } => serde_json::from_slice(&now.value).ok(),
                Event::Delete { .. } => None,
            })
            .collect()
    }

    /// Marks of hosts that they can't run something.
    pub(crate) fn unfit(&self) -> Vec<Unfit> {
        let marks = self.0.iter().filter_map(|event| match event {
            Event::Put { now, .. } if matches!(Key::parse(&now.key), Some(Key::Unfit(..))) => {
                serde_json::from_slice(&now.value).ok()
            }
            _ => None,
        });
        marks.collect()
    }

    /// The fewest slots of a container that were ready at once, beginning with `ready` of them.
    pub(crate) fn fewest_ready(&self, id: &ContainerId, ready: &[u32]) -> usize {
        let mut now: BTreeMap<u32, bool> = ready.iter().map(|slot| (*slot, true)).collect();
        let mut fewest = now.len();
        for event in &self.0 {
            match Key::parse(event.key()) {
                Some(Key::State(slot)) if slot.container == *id => {
                    let phase = match event {
                        Event::Put { now, .. } => serde_json::from_slice::<SlotState>(&now.value)
                            .map(|s| s.state)
                            .ok(),
                        Event::Delete { .. } => None,
                    };
                    now.insert(slot.slot, phase == Some(Phase::Ready));
                }
                _ => continue,
            }
            fewest = fewest.min(now.values().filter(|ready| **ready).count());
        }
        fewest
    }
}
