//! A host that can't run what it has claimed: the slot is released, and the host marked as unfit for it.

use model::records::{Progress, Unfit};
use model::time::Millis;
use model::{Fault, Scope, Write};

use super::ctx::{Ctx, Decision};
use crate::memory::{STALLED, Trouble};
use crate::output::Notes;
use crate::placement;
use crate::rollout::Target;
use crate::waiting::{Stalled, Waiting};

impl Ctx<'_> {
    /// Releases the slot if this host can't pull its image or make its container, and another may.
    pub(super) fn release_unfit(&self, target: &Target<'_>) -> Option<Decision> {
        let prepare = self.memory.map(|m| &m.trouble);
        let image = self.inputs.memory.images.get(&self.slot.container);
        let trouble = [prepare, image]
            .into_iter()
            .flatten()
            .find(|t| t.rev == target.rev() && self.is_hosts(t))?;
        self.release_as_unfit(Waiting::Attempt(trouble.reason.clone()))
    }

    /// Releases the slot if its container was made and does not start here, and another host may do better.
    pub(super) fn release_unstartable(&self) -> Option<Decision> {
        let trouble = &self.memory?.trouble;
        if !self.is_hosts(trouble) {
            return None;
        }
        self.release_as_unfit(Waiting::Attempt(trouble.reason.clone()))
    }

    /// Another host may do better. Whether an unclassified error is this host's, trying elsewhere shows.
    fn is_hosts(&self, trouble: &Trouble) -> bool {
        match trouble.fault {
            Fault::Host => true,
            Fault::Unknown => !trouble.may_pass() && self.another_may_take_it(),
            Fault::Passing | Fault::Manifest | Fault::Data => false,
        }
    }

    fn another_may_take_it(&self) -> bool {
        let placed = placement::explain(self.inputs.snapshot, self.slot);
        placed.is_some_and(|placed| placed.order.iter().any(|h| *h != self.inputs.host.name))
    }

    /// Releases the slot if the pull or create that was begun for it does not end.
    pub(super) fn release_stuck(&self, target: &Target<'_>, notes: &mut Notes) -> Option<Decision> {
        let (scope, what) = match target {
            Target::Undecided { .. } => {
                (Scope::Container(self.slot.container.clone()), Stalled::Pull)
            }
            Target::Decided { .. } => (Scope::Slot(self.slot.clone()), Stalled::Create),
        };
        let since = self.inputs.memory.in_flight.acting_since(&scope)?;
        self.release_stalled(since, what, notes)
    }

    /// Releases the slot if something has made no progress for too long.
    pub(super) fn release_stalled(
        &self,
        since: Millis,
        what: Stalled,
        notes: &mut Notes,
    ) -> Option<Decision> {
        let at = since + STALLED;
        if self.inputs.now < at {
            notes.requeue(at);
            return None;
        }
        self.release_as_unfit(Waiting::Stalled(what, STALLED))
    }

    /// Marks this host as unfit, unless something of the slot runs or its data is here.
    fn release_as_unfit(&self, reason: Waiting) -> Option<Decision> {
        let runs = self.containers.iter().any(|c| c.running().is_some());
        if runs || self.has_data_here() {
            return None;
        }
        let manifest = self.container.manifest.as_ref()?;
        let unfit = Unfit {
            manifest_rev: manifest.modified,
            reason: reason.to_string(),
        };
        let host = self.inputs.host.name.clone();
        let write = Write::release_unfit(self.slot.clone(), self.claim.modified, host, unfit);
        Some(Decision::new(Progress::Failed, Some(reason)).write(write))
    }
}
