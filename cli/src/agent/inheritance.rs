//! What this agent takes over from the one before and leaves to the next: sockets and open link connections.
//!
//! The service manager's store holds them meanwhile ([`listen::FdStore`]).
//! Without one the agent binds its sockets, and resets its connections at its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ambassador::Connection;
use listen::{Binder, Entry, FdStore, Parcel};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Connections that are left to the next agent; those above are reset.
const MOST: usize = 4_096;
/// Bytes of them that were read and not sent yet, which wait in memory.
const MOST_BYTES: usize = 64 << 20;
/// Sockets that no part of the agent has asked for by then are closed.
const UNUSED: Duration = Duration::from_secs(30);

/// The store, and what the agent before has left in it.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    store: Option<FdStore>,
    /// Binds sockets, or takes them over.
    pub(super) binder: Binder,
    /// Ends of parcels with connections.
    parcels: Vec<OwnedFd>,
}

impl Inheritance {
    /// Called once, before other processes are started.
    pub(crate) fn take() -> Self {
        let Some(store) = FdStore::of_manager() else {
            return Self::default();
        };
        let (mut sockets, mut parcels) = (Vec::new(), Vec::new());
        for (name, fd) in listen::received() {
            match Entry::of(&name) {
                Some(Entry::Socket(protocol, addr)) => sockets.push((addr, protocol, fd)),
                Some(Entry::Connections) => parcels.push(fd),
                // Of another version, say.
                None => {
                    warn!(
                        name,
                        "unknown descriptor in the service manager's store; closed"
                    );
                    remove(&store, &name);
                }
            }
        }
        if !sockets.is_empty() {
            info!(sockets = sockets.len(), "took over the agent's sockets");
        }
        Self {
            binder: Binder::new(Some(store.clone()), sockets),
            store: Some(store),
            parcels,
        }
    }

    /// Open connections of the agent before. Until then they stay in the store.
    pub(super) async fn connections(&mut self) -> Vec<Connection> {
        let parcels = std::mem::take(&mut self.parcels);
        let Some(store) = self.store.clone().filter(|_| !parcels.is_empty()) else {
            return Vec::new();
        };
        let unpacked = tokio::task::spawn_blocking(move || {
            let items = listen::unpack(parcels);
            remove(&store, &Entry::Connections.name());
            items
        });
        let items = unpacked.await.unwrap_or_default();
        let all = items.len();
        let read = items.into_iter();
        let read = read.filter_map(|(text, fds)| Connection::from_parts(&text, fds));
        let connections: Vec<Connection> = read.collect();
        info!(
            all,
            resumed = connections.len(),
            "took over open link connections"
        );
        connections
    }

    /// Closes what was taken over and is not wanted any more, such as a link's port that no container here has.
    pub(super) async fn close_unused(binder: Binder, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(UNUSED) => binder.release_unused().await,
        }
    }

    /// Leaves the open link connections to the next agent.
    pub(super) async fn leave(&self, links: &ambassador::Handle) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let (left, reset) = within_limits(links.hand_over().await);
        let count = left.len();
        let stored = tokio::task::spawn_blocking(move || {
            let items = left.into_iter().map(Connection::into_parts);
            let parcel = Parcel::pack(items.collect())?;
            let [one, other] = &parcel.ends;
            store.keep(&Entry::Connections.name(), &[one.as_fd(), other.as_fd()])
        });
        match stored.await {
            Ok(Ok(())) => info!(
                connections = count,
                reset, "left open link connections to the next agent"
            ),
            Ok(Err(error)) => warn!(%error, "open link connections not stored; reset"),
            Err(error) => warn!(%error, "open link connections not stored; reset"),
        }
    }
}

fn remove(store: &FdStore, name: &str) {
    if let Err(error) = store.remove(name) {
        warn!(name, %error, "descriptor not removed from the service manager's store");
    }
}

/// Those that are left, and the number of those that are too many.
fn within_limits(connections: Vec<Connection>) -> (Vec<Connection>, usize) {
    let (all, mut bytes) = (connections.len(), 0);
    let mut left = connections;
    left.retain(|connection| {
        bytes += connection.unsent();
        bytes <= MOST_BYTES
    });
    left.truncate(MOST);
    let reset = all - left.len();
    (left, reset)
}
