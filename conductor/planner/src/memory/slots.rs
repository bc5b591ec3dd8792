//! Memory of a slot.

use manifests::InstanceId;
use model::backoff::Backoff;
use model::records::Status;
use model::time::Millis;
use model::{ModRev, VersionId};

use super::trouble::Trouble;

/// Memory of one slot.
#[derive(Debug, Clone, Default)]
pub struct SlotMemory {
    /// Instance that this process claimed the slot for and has not made yet.
    pub pending_instance: Option<InstanceId>,
    /// Instance that was made for a replacement and is not claimed yet, and its version.
    pub replacement: Option<(InstanceId, VersionId)>,
    /// Failed creates and starts.
    pub trouble: Trouble,
    /// Failed stops and removals.
    pub(crate) retiring: Backoff,
    /// Failed renamings.
    pub(crate) renaming: Backoff,
    /// Status that was last written, and is there as long as the claim stays what it was.
    pub written_status: Option<Status>,
    /// MOD(claim) as it was last seen.
    claim: Option<ModRev>,
    /// Present status, and since when it is so.
    pub status: Option<(Status, Millis)>,
    /// Progress of a pull, for people.
    pub pull_progress: Option<String>,
    /// Restarts that earlier agents counted, and of which instance.
    pub earlier_restarts: Option<(InstanceId, u32)>,
    /// `stopped` was sent to etcd and not answered: another host may have read it.
    pub unconfirmed_stop: bool,
}

impl SlotMemory {
    /// When everything may be tried again.
    pub(super) fn next_try(&self) -> Millis {
        let retired = self.retiring.next_try().max(self.renaming.next_try());
        self.trouble.backoff.next_try().max(retired)
    }

    /// Takes in the slot's claim: whoever writes another one deletes the status with it.
    pub(super) fn see_claim(&mut self, claim: ModRev) {
        if self.claim.replace(claim).is_some_and(|seen| seen != claim) {
            self.written_status = None;
        }
    }

    pub(super) fn note_status(&mut self, status: &Status, now: Millis) {
        if self.status.as_ref().map(|(status, _)| status) != Some(status) {
            self.status = Some((status.clone(), now));
        }
    }
}
