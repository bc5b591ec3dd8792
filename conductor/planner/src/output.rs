//! A plan: what one host writes and does now, and why the rest waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use manifests::{InstanceId, SlotId};
use model::records::Status;
use model::time::Millis;
use model::{Action, Scope, Write};

use crate::waiting::Waiting;

/// What is to be done now, in named buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be written to etcd.
    pub writes: Vec<Write>,
    /// Actions on the engine.
    pub steps: Vec<Action>,
    /// Slots that wait, and why.
    pub waiting: BTreeMap<SlotId, Waiting>,
    /// Instances that take no new connections from now on at the latest.
    pub leaving: Vec<InstanceId>,
    /// Instances that are wanted (again).
    pub staying: Vec<InstanceId>,
    /// What any of several hosts may do, and none has done yet.
    pub left_undone: BTreeSet<Scope>,
    /// How the slots of this host are, for people.
    pub statuses: BTreeMap<SlotId, Status>,
    /// When to plan again if nothing happens.
    pub requeue_at: Option<Millis>,
    /// Not everything was looked at: what is not named here is not forgotten.
    pub partial: bool,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.steps.is_empty()
    }

    /// It writes or does something for this slot.
    pub fn touches(&self, slot: &SlotId) -> bool {
        let scope = Scope::Slot(slot.clone());
        self.writes.iter().any(|w| w.scope == scope) || self.steps.iter().any(|s| s.work() == scope)
    }

    pub(crate) fn requeue_with(&mut self, at: Option<Millis>) {
        if let Some(at) = at {
            self.requeue(at);
        }
    }

    pub(crate) fn requeue(&mut self, at: Millis) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Counts by kind: `claim=2 start=1 waiting=1`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for kind in self
            .writes
            .iter()
            .map(|write| write.kind.into())
            .chain(self.steps.iter().map(Action::kind))
        {
            *counts.entry(kind).or_default() += 1;
        }
        if !self.waiting.is_empty() {
            counts.insert("waiting", self.waiting.len());
        }
        let texts: Vec<String> = counts.iter().map(|(k, n)| format!("{k}={n}")).collect();
        f.write_str(&texts.join(" "))
    }
}
