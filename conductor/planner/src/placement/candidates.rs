//! Candidates for a slot.

use manifests::{HostName, SlotId};

use crate::refusal::Refusal;
use crate::turn::Turn;
use crate::waiting::Waiting;

/// The hosts that may take a slot, and those that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The slot.
    pub slot: SlotId,
    /// Eligible hosts, best first.
    pub order: Vec<HostName>,
    /// Every other live host and why not, by name.
    pub refused: Vec<(HostName, Refusal)>,
}

impl Candidates {
    /// The turn of a host; none if it may not take the slot.
    pub(crate) fn turn(&self, host: &HostName) -> Option<Turn> {
        let before = self.order.iter().position(|one| one == host)?;
        Some(Turn::in_placement(before))
    }

    /// Reason for which nobody takes the slot; none if some host may.
    pub fn why_waiting(&self) -> Option<Waiting> {
        if !self.order.is_empty() {
            return None;
        }
        if self.refused.is_empty() {
            return Some(Waiting::NoHost);
        }
        Some(Waiting::Unplaceable(self.refused.clone()))
    }
}
