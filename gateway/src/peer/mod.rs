//! API between agents: mutual TLS with certificates pinned by the host records.
//!
//! Each agent generates its key at its first start and publishes the
//! certificate's fingerprint in its host record. The listener accepts exactly
//! the certificates of the records in the last view, a client exactly that of
//! the host it connects to. Names and dates in certificates are not checked;
//! possession of the key is proved by the handshake's signature, which the
//! provider's own functions verify. Nothing here reads etcd: the agent updates
//! `PeerTable` from its view.
//!
//! Invariant: no connection outlives its host's record, except while etcd is away.

mod client;
mod failure;
mod identity;
mod images;
mod routes;
mod server;
mod stream;
mod table;
mod tls;

pub use client::PeerClient;
pub use identity::{Identity, IdentityError};
pub use images::{Archive, ImageServer};
pub use routes::router;
pub use server::serve;
pub use table::PeerTable;

#[cfg(test)]
mod tests;
