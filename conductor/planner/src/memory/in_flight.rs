//! Actions and writes under way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::{ContainerId, SlotId};
use model::Scope;
use model::time::Millis;

/// A host on which a pull or create for a slot has been under way for so long without progress, or whose engine has not
/// answered for so long, gives the slot up.
pub const STALLED: Duration = Duration::from_secs(600);

/// Actions and writes under way.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    /// When each action was begun, or has last made progress.
    actions: BTreeMap<Scope, Millis>,
    writes: BTreeSet<Scope>,
    /// Slots that this process takes by the order of placement, until the view shows it, and the revision of the write,
    /// once that is known.
    placements: BTreeMap<SlotId, Option<i64>>,
    /// Revision of the view.
    viewed: i64,
}

impl InFlight {
    pub(super) fn begin_action(&mut self, scope: Scope, now: Millis) {
        self.actions.insert(scope, now);
    }

    pub(super) fn end_action(&mut self, scope: &Scope) {
        self.actions.remove(scope);
    }

    pub(super) fn progressed(&mut self, scope: &Scope, now: Millis) {
        if let Some(since) = self.actions.get_mut(scope) {
            *since = now;
        }
    }

    /// An action is under way.
    pub(crate) fn is_acting(&self, scope: &Scope) -> bool {
        self.actions.contains_key(scope)
    }

    /// Begin of the action that is under way, or its last progress.
    pub(crate) fn acting_since(&self, scope: &Scope) -> Option<Millis> {
        self.actions.get(scope).copied()
    }

    /// An action for this container has made no progress for too long.
    pub(crate) fn is_stalled(&self, container: &ContainerId, now: Millis) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|(scope, since)| scope.container() == container && now >= *since + STALLED)
    }

    pub(super) fn begin_write(&mut self, scope: Scope) {
        self.writes.insert(scope);
    }

    pub(super) fn end_write(&mut self, scope: &Scope) {
        self.writes.remove(scope);
    }

    /// A write is under way.
    pub(crate) fn is_writing(&self, scope: &Scope) -> bool {
        self.writes.contains(scope)
    }

    /// A write on this container or a slot of it is under way.
    pub(crate) fn is_writing_of(&self, container: &ContainerId) -> bool {
        let mut writes = self.writes.iter();
        writes.any(|scope| scope.container() == container)
    }

    pub(super) fn begin_placement(&mut self, slot: &SlotId) {
        self.placements.insert(slot.clone(), None);
    }

    /// The write that takes the slot was answered: with its revision, if it succeeded. The view may be past it by then,
    /// and nothing may come after.
    pub(super) fn end_placement(&mut self, slot: &SlotId, revision: Option<i64>) {
        self.placements.remove(slot);
        if revision.is_some_and(|own| own > self.viewed) {
            self.placements.insert(slot.clone(), revision);
        }
    }

    /// A slot was taken that the view does not show yet. Its weight is on no host there, so no other is taken meanwhile.
    pub fn is_placing(&self) -> bool {
        !self.placements.is_empty()
    }

    /// The view has reached this revision.
    pub(super) fn viewed(&mut self, revision: i64) {
        self.viewed = revision;
        self.placements
            .retain(|_, own| own.is_none_or(|own| own > revision));
    }

    /// Revisions of the former history say nothing about that of a restored etcd.
    pub(super) fn forget_revisions(&mut self) {
        self.viewed = 0;
        self.placements.retain(|_, own| own.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotId {
        let web: ContainerId = "shop/web".parse().expect("an id");
        web.slot(0)
    }

    #[test]
    fn a_slot_is_taken_until_answer_and_view_are_there_whichever_comes_first() {
        let slot = slot();
        for [first, second] in [["answer", "view"], ["view", "answer"]] {
            let mut in_flight = InFlight::default();
            in_flight.begin_placement(&slot);
            for what in [first, second] {
                assert!(in_flight.is_placing(), "before {what}");
                match what {
                    "answer" => in_flight.end_placement(&slot, Some(40)),
                    _ => in_flight.viewed(43),
                }
            }
            assert!(!in_flight.is_placing(), "{first}, {second}");
        }
    }

    #[test]
    fn a_view_of_a_former_history_says_nothing_of_a_later_one() {
        let slot = slot();
        let mut in_flight = InFlight::default();
        in_flight.viewed(100);
        in_flight.forget_revisions();
        in_flight.begin_placement(&slot);
        in_flight.end_placement(&slot, Some(40));
        assert!(in_flight.is_placing());
    }
}
