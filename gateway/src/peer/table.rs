//! Peer listeners and certificate fingerprints of the host records in the last view.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::HostName;
use model::Snapshot;
use model::records::Peer;
use tokio::sync::watch;

type PeersByHost = BTreeMap<HostName, Peer>;

/// Peers by host; none before the first view. Updated by the agent, read by client and server.
#[derive(Debug)]
pub struct PeerTable {
    peers: watch::Sender<Option<Arc<PeersByHost>>>,
}

impl Default for PeerTable {
    fn default() -> Self {
        Self {
            peers: watch::Sender::new(None),
        }
    }
}

impl PeerTable {
    /// Follows the view. A stale one removes nothing: a missing record may be an outage of etcd.
    pub fn update(&self, snapshot: &Snapshot, stale: bool) {
        self.peers.send_if_modified(|peers| {
            if stale && peers.is_some() {
                return false;
            }
            let new: PeersByHost = snapshot
                .live()
                .filter_map(|(host, record)| Some((host.clone(), record.peer.clone()?)))
                .collect();
            if peers.as_deref() == Some(&new) {
                return false;
            }
            *peers = Some(Arc::new(new));
            true
        });
    }

    pub(super) fn get(&self, host: &HostName) -> Option<Peer> {
        self.peers.borrow().as_ref()?.get(host).cloned()
    }

    /// A host record names this certificate.
    pub(super) fn contains(&self, fingerprint: &str) -> bool {
        contains(self.peers.borrow().as_deref(), fingerprint)
    }

    /// Returns when no host record names this certificate any more.
    pub(super) async fn removed(&self, fingerprint: &str) {
        let mut changes = self.peers.subscribe();
        let removed = changes.wait_for(|peers| !contains(peers.as_deref(), fingerprint));
        drop(removed.await);
    }
}

fn contains(peers: Option<&PeersByHost>, fingerprint: &str) -> bool {
    peers.is_some_and(|peers| peers.values().any(|peer| peer.fingerprint == fingerprint))
}
