//! Turns: which of several hosts acts where any of them may.
//!
//! All compute the same order from the same snapshot. The first host acts at
//! once, and each one after it when those before it have left it undone for a
//! while: in health that never happens, and a host that lives and never acts
//! holds up nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use manifests::HostName;
use model::records::HostState;
use model::snapshot::{ContainerView, Snapshot};
use model::time::Millis;

/// Time after which the next host claims, takes over or clears away what the one before it has left undone.
const SHARE: Duration = Duration::from_secs(2);

/// Time after which the next owner of a slot does what the owner of a lower one has left undone.
const OWNERS: Duration = Duration::from_secs(1);

/// The place of a host in an order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Number of hosts that come first.
    before: u32,
    /// Time that each of them gets.
    time: Duration,
}

impl Turn {
    /// Of a host with so many before it in the order of placement.
    pub(crate) fn in_placement(before: usize) -> Self {
        Self {
            before: before as u32,
            time: SHARE,
        }
    }

    /// To clear away what is nobody's: hosts that are up, by name. None for one that is not.
    pub(crate) fn in_clean_up(snapshot: &Snapshot, host: &HostName) -> Option<Self> {
        snapshot
            .live()
            .filter(|(_, record)| record.state == HostState::Up)
            .position(|(name, _)| name == host)
            .map(Self::in_placement)
    }

    /// Among the live hosts that have slots of a container, by their lowest slot.
    pub(crate) fn among_owners(
        snapshot: &Snapshot,
        container: &ContainerView,
        host: &HostName,
    ) -> Self {
        let claims = container.slots.values().filter_map(|s| s.claim.as_ref());
        let before: BTreeSet<&HostName> = claims
            .map(|claim| &claim.host)
            .take_while(|owner| *owner != host)
            .filter(|owner| snapshot.is_live(owner))
            .collect();
        Self {
            before: before.len() as u32,
            time: OWNERS,
        }
    }

    /// At most so many hosts are waited for.
    pub(crate) fn at_most(self, before: u32) -> Self {
        let before = self.before.min(before);
        Self { before, ..self }
    }

    /// Nobody comes first.
    pub(crate) fn is_first(self) -> bool {
        self.before == 0
    }

    /// When the turn comes of what has been undone since then.
    pub(crate) fn comes(self, since: Millis) -> Millis {
        since + self.time * self.before
    }
}
