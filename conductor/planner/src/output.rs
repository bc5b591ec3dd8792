//! A plan: what one host writes and does now, and why the rest waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use manifests::{ContainerId, InstanceId, SlotId};
use model::images::ImageQuestion;
use model::records::Status;
use model::time::Millis;
use model::{Action, Scope, Write};

use crate::waiting::Waiting;

/// Decisions of one host, in named buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be written to etcd.
    pub writes: Vec<Write>,
    /// Registries are to be asked.
    pub asks: Vec<ImageQuestion>,
    /// Containers for whose newer images this host asks.
    pub followed: BTreeSet<ContainerId>,
    /// Actions on the engine.
    pub actions: Vec<Action>,
    /// Slots that wait, and why.
    pub waiting: BTreeMap<SlotId, Waiting>,
    /// Instances that take no new connections from now on at the latest.
    pub leaving: Vec<InstanceId>,
    /// Instances that are wanted (again).
    pub staying: Vec<InstanceId>,
    /// Instances whose open connections are waited for.
    pub draining: BTreeSet<InstanceId>,
    /// Instances that run and were not ready in time.
    pub late: BTreeSet<InstanceId>,
    /// Scopes in which any of several hosts may act, and this one has or waits for its turn.
    pub turns: BTreeSet<Scope>,
    /// Statuses of this host's slots, for people.
    pub statuses: BTreeMap<SlotId, Status>,
    /// When to plan again if nothing happens.
    pub requeue_at: Option<Millis>,
    /// When to plan the whole again if nothing happens.
    pub requeue_whole_at: Option<Millis>,
    /// Not everything was looked at: what is not named here is not forgotten.
    pub partial: bool,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.actions.is_empty()
    }

    /// It writes or does something for this slot.
    pub fn touches(&self, slot: &SlotId) -> bool {
        let scope = Scope::Slot(slot.clone());
        self.writes.iter().any(|write| write.scope == scope)
            || self.actions.iter().any(|action| action.scope() == scope)
    }
}

/// Report of one rule, before the gate.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Writes to etcd.
    pub(crate) writes: Vec<Write>,
    /// Questions to registries.
    pub(crate) asks: Vec<ImageQuestion>,
    /// Actions on the engine.
    pub(crate) actions: Vec<Action>,
    /// Slots that wait, and why.
    pub(crate) waiting: BTreeMap<SlotId, Waiting>,
    /// Statuses of this host's slots.
    pub(crate) statuses: BTreeMap<SlotId, Status>,
    /// Notes for the next plan.
    pub(crate) notes: Notes,
}

/// Notes that decisions leave for the next plan.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Instances that take no new connections from now on.
    pub(crate) leaving: Vec<InstanceId>,
    /// Instances that are wanted (again).
    pub(crate) staying: Vec<InstanceId>,
    /// Instances whose open connections are waited for.
    pub(crate) draining: BTreeSet<InstanceId>,
    /// Instances that run and were not ready in time.
    pub(crate) late: BTreeSet<InstanceId>,
    /// Scopes in which any of several hosts may act, and this one has or waits for its turn.
    pub(crate) turns: Vec<Scope>,
    /// Containers for whose newer images this host asks.
    pub(crate) followed: BTreeSet<ContainerId>,
    /// When to decide again.
    pub(crate) requeue_at: Option<Millis>,
}

impl Notes {
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
            .chain(self.actions.iter().map(Action::kind))
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
