//! Who may come in and who is where: the peer doors of the host records in the last view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::HostName;
use model::Snapshot;
use model::records::Peer;
use tokio::sync::watch;

/// The table. Told by the agent, read by both sides of the door.
#[derive(Debug)]
pub struct Table {
    known: watch::Sender<Option<Arc<Known>>>,
}

/// The table at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    hosts: BTreeMap<HostName, Peer>,
    fingerprints: BTreeSet<String>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(None),
        }
    }
}

impl Table {
    /// Follows the view. While etcd is away nothing is forgotten: a record that is gone may be an outage.
    pub fn update(&self, snapshot: &Snapshot, stale: bool) {
        self.known.send_if_modified(|known| {
            if stale && known.is_some() {
                return false;
            }
            let hosts: BTreeMap<HostName, Peer> = snapshot
                .live()
                .filter_map(|(host, record)| Some((host.clone(), record.peer.clone()?)))
                .collect();
            let new = Known {
                fingerprints: hosts
                    .values()
                    .map(|peer| peer.fingerprint.clone())
                    .collect(),
                hosts,
            };
            if known.as_deref() == Some(&new) {
                return false;
            }
            *known = Some(Arc::new(new));
            true
        });
    }

    /// The host's peer door.
    pub(super) fn door(&self, host: &HostName) -> Option<Peer> {
        self.known.borrow().as_ref()?.hosts.get(host).cloned()
    }

    /// A record names this certificate.
    pub(super) fn knows(&self, fingerprint: &str) -> bool {
        self.known
            .borrow()
            .as_ref()
            .is_some_and(|known| known.fingerprints.contains(fingerprint))
    }

    /// Returns when no record names this certificate any more.
    pub(super) async fn forgotten(&self, fingerprint: &str) {
        let mut changes = self.known.subscribe();
        let gone = changes
            .wait_for(|known| {
                !known
                    .as_ref()
                    .is_some_and(|known| known.fingerprints.contains(fingerprint))
            })
            .await;
        drop(gone);
    }
}
