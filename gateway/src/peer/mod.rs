//! The door between agents: mutual TLS with certificates that the host records name.
//!
//! Each agent makes its key at its first start and publishes the certificate's
//! fingerprint in its host record. The listener takes exactly the certificates
//! of the records in the last view, a caller exactly that of the host it dials.
//! Names and dates in certificates are not looked at; that the other side has
//! the key is proved by the handshake's signature, which the provider's own
//! functions verify. Nothing here reads etcd: `PeerTable` is told what the view says.
//!
//! Invariant: no connection outlives its host's record, except while etcd is away.

mod client;
mod identity;
mod routes;
mod server;
mod stream;
mod table;
mod tls;

pub use client::PeerClient;
pub use identity::{Identity, IdentityError};
pub use routes::router;
pub use server::serve;
pub use table::PeerTable;

#[cfg(test)]
mod tests;
