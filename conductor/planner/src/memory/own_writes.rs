//! Answers to own writes that the view has to reach before more is planned from it.

use std::collections::BTreeMap;
use std::time::Duration;

use manifests::SlotId;
use model::rules::{Rule, Rules};
use model::time::Millis;
use model::{Scope, Snapshot};

/// A write whose guards did not hold is planned again from a newer view, or after this.
pub const RETRY_REJECTED: Duration = Duration::from_millis(250);

/// The last answers to own writes.
#[derive(Debug, Clone, Default)]
pub struct OwnWrites {
    /// Revision of the last one that succeeded.
    succeeded: BTreeMap<Scope, i64>,
    /// Revision of the last own claim: a view that is past it and shows an older one has lost it.
    claimed: BTreeMap<SlotId, i64>,
    /// The last one whose guards did not hold: the revision of the view that it was planned from, and when.
    rejected: BTreeMap<Scope, (i64, Millis)>,
}

impl OwnWrites {
    pub(super) fn succeeded(&mut self, scope: Scope, revision: i64) {
        let own = self.succeeded.entry(scope).or_default();
        *own = (*own).max(revision);
    }

    pub(super) fn rejected(&mut self, scope: Scope, planned_from: i64, now: Millis) {
        self.rejected.insert(scope, (planned_from, now));
    }

    pub(super) fn claimed(&mut self, slot: SlotId, revision: i64) {
        self.claimed.insert(slot, revision);
    }

    /// What the view shows now.
    pub(super) fn viewed(&mut self, snapshot: &Snapshot) {
        self.claimed
            .retain(|slot, own| *own > snapshot.revision || lacks(snapshot, slot, *own));
        self.succeeded.retain(|_, own| *own > snapshot.revision);
    }

    pub(super) fn forget_rejected(&mut self, now: Millis) {
        self.rejected
            .retain(|_, (_, at)| now < *at + RETRY_REJECTED);
    }

    /// Revisions of the former history say nothing about that of a restored etcd.
    pub(super) fn forget_revisions(&mut self) {
        *self = Self::default();
    }

    /// The last own write is not in that view yet, or its claim is lost to it, or one was rejected because of something newer.
    pub fn is_ahead_of(
        &self,
        scope: &Scope,
        snapshot: &Snapshot,
        now: Millis,
        rules: Rules,
    ) -> bool {
        let revision = snapshot.revision;
        let lacks = |slot: &SlotId| {
            let own = self.claimed.get(slot);
            own.is_some_and(|own| lacks(snapshot, slot, *own))
        };
        let lost = matches!(scope, Scope::Slot(slot) if lacks(slot));
        let ahead = lost || self.succeeded.get(scope).is_some_and(|own| *own > revision);
        (ahead && rules.has(Rule::ReadYourWrites))
            || self
                .rejected
                .get(scope)
                .is_some_and(|(from, at)| *from == revision && now < *at + RETRY_REJECTED)
    }
}

/// It shows a claim from before the own one.
fn lacks(snapshot: &Snapshot, slot: &SlotId, own: i64) -> bool {
    let claim = snapshot.slot(slot).and_then(|slot| slot.claim.as_ref());
    claim.is_some_and(|claim| claim.modified.0 < own)
}
