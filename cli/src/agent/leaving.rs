//! Finds that a host which is to leave has nothing left.

use std::sync::Arc;
use std::time::Duration;

use conductor::published::{Published, Seen};
use engine::Engine;
use manifests::HostName;
use model::Snapshot;
use model::observed::ObservedContainer;
use model::records::Availability;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

/// Time between two looks while the host is to leave.
const LOOK: Duration = Duration::from_secs(1);

/// The host that may have to leave.
pub(super) struct Leaving {
    pub(super) host: Arc<store::host::Host>,
    pub(super) published: Arc<Published>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cluster: Uuid,
}

impl Leaving {
    /// Waits until the operator wants the host to leave and it has nothing left, and takes it out of the cluster.
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut revision = self.published.revision.subscribe();
        let mut said = false;
        loop {
            let wanted = self.is_wanted();
            if wanted && !std::mem::replace(&mut said, true) {
                info!("this host is to leave: its slots go to others first");
            }
            said &= wanted;
            if wanted && self.is_empty().await {
                self.host.leave();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = revision.changed(), if !wanted => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK), if wanted => {}
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.trusted(|snapshot, host| snapshot.availability(host) == Availability::Leave)
    }

    /// Nothing in etcd names the host, and the engine, asked anew, runs nothing of the cluster.
    async fn is_empty(&self) -> bool {
        if !self.trusted(|snapshot, host| !is_named(snapshot, host)) {
            return false;
        }
        match self.engine.list(Some(self.cluster)).await {
            Ok(listing) => {
                let observed = self.published.observed.load();
                let is_copy = |c: &ObservedContainer| observed.copies.contains_key(&c.docker_id);
                let mut labelled = listing.labelled.iter();
                labelled.all(|c| c.running().is_none() || is_copy(c))
            }
            Err(error) => {
                warn!(error = %model::error::chain(&error), "the engine does not say whether anything runs; this host can't leave yet");
                false
            }
        }
    }

    /// Asks the snapshot, if it is fresh and of the known etcd.
    fn trusted(&self, ask: impl FnOnce(&Snapshot, &HostName) -> bool) -> bool {
        match self.published.seen.load().as_ref() {
            Some(Seen {
                snapshot,
                stale: false,
                distrust: None,
            }) => ask(snapshot, self.host.name()),
            _ => false,
        }
    }
}

/// Some claim or handover names the host.
fn is_named(snapshot: &Snapshot, host: &HostName) -> bool {
    snapshot
        .containers
        .iter()
        .flat_map(|(_, container)| container.slots.values())
        .any(|slot| {
            let claim = slot.claim.as_ref().map(|claim| &claim.host);
            let next = slot.next.as_ref().map(|next| &next.host);
            claim == Some(host) || next == Some(host)
        })
}

#[cfg(test)]
mod tests {
    use model::snapshot::Change;

    use super::*;

    #[test]
    fn a_host_is_named_by_claims_and_handovers() {
        let put = |key: &str, host: &str| Change::Put {
            key: key.to_owned(),
            value: format!(r#"{{"host": "{host}", "instance": "i", "version": 1}}"#).into_bytes(),
            modified: 2,
            created: 2,
        };
        let mut snapshot = Snapshot::default();
        let is_named = |snapshot: &Snapshot| {
            ["a", "b", "c"].map(|host| is_named(snapshot, &host.parse().expect("a name")))
        };
        assert_eq!(is_named(&snapshot), [false, false, false]);
        snapshot.apply([put("/claims/shop/web/slots/1", "a")], 2);
        assert_eq!(is_named(&snapshot), [true, false, false]);
        snapshot.apply([put("/claims/shop/web/slots/1.next", "b")], 3);
        assert_eq!(is_named(&snapshot), [true, true, false]);
    }
}
