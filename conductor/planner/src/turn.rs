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
    /// One more will come, that is not known yet.
    awaits: bool,
    /// Time that each of them gets.
    time: Duration,
}

impl Turn {
    /// Of a host with so many before it in the order of placement.
    pub(crate) fn in_placement(before: usize) -> Self {
        Self {
            before: before as u32,
            awaits: false,
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

    /// Among the live hosts that have slots of a container, by their lowest slot. Whoever claims a lower one that nobody
    /// has yet comes first, so hosts that see the claims in different order do not all begin.
    pub(crate) fn among_owners(
        snapshot: &Snapshot,
        container: &ContainerView,
        host: &HostName,
    ) -> Self {
        let mut before: BTreeSet<&HostName> = BTreeSet::new();
        let mut claimed = 0;
        let mut lowest = None;
        for (number, view) in &container.slots {
            let Some(claim) = &view.claim else { continue };
            if claim.host == *host {
                lowest = Some(*number);
                break;
            }
            if snapshot.is_live(&claim.host) {
                claimed += 1;
                before.insert(&claim.host);
            }
        }
        Self {
            before: before.len() as u32,
            awaits: lowest.is_some_and(|lowest| {
                if container.is_global() {
                    container.vacant().any(|(number, _)| number < lowest)
                } else {
                    claimed < lowest
                }
            }),
            time: OWNERS,
        }
    }

    /// At most so many hosts are waited for.
    pub(crate) fn at_most(self, before: u32) -> Self {
        Self {
            before: self.before.min(before),
            awaits: self.awaits && self.before < before,
            ..self
        }
    }

    /// Nobody comes first.
    pub(crate) fn is_first(self) -> bool {
        self.before == 0
    }

    /// When the turn comes of what has been undone since then.
    pub(crate) fn comes(self, since: Millis) -> Millis {
        since + self.time * (self.before + u32::from(self.awaits))
    }
}

#[cfg(test)]
mod tests {
    use model::snapshot::Change;

    use super::*;

    #[test]
    fn who_sees_its_own_claim_first_waits_for_the_owner_of_a_lower_slot() {
        let mut snapshot = Snapshot::default();
        let mut put = |key: &str, value: String| {
            let revision = snapshot.revision + 1;
            let change = Change::Put {
                key: key.to_owned(),
                value: value.into_bytes(),
                modified: revision,
                created: revision,
            };
            snapshot.apply([change], revision);
            snapshot.clone()
        };
        let claim = |host: &str| format!(r#"{{"host":"{host}","instance":"i","version":3}}"#);
        for host in ["h1", "h2"] {
            let record = r#"{"id":"00000000-0000-0000-0000-000000000001",
                "session":"00000000-0000-0000-0000-000000000001","epoch":0,"state":"up",
                "addr":"10.0.0.1","versions":{"agent":"","placement":[1]}}"#;
            put(&format!("/hosts/{host}/record"), record.to_owned());
        }
        let comes = |snapshot: &Snapshot, host: &str| {
            let web = "shop/web".parse().expect("an id");
            let container = snapshot.containers.get(&web).expect("the container");
            let host = host.parse().expect("a host");
            Turn::among_owners(snapshot, container, &host).comes(Millis(0))
        };
        let one = put("/claims/shop/web/slots/1", claim("h2"));
        assert_eq!(comes(&one, "h2"), Millis(1_000));
        let both = put("/claims/shop/web/slots/0", claim("h1"));
        assert_eq!(comes(&both, "h1"), Millis(0));
        assert_eq!(comes(&both, "h2"), Millis(1_000));
    }
}
