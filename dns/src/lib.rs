//! Answers names from the directory; relays the rest.
//!
//! Containers of a host ask the agent. Names of our zone are answered from a
//! table that others swap (this crate knows no etcd and no Docker); every
//! other question goes to the host's resolvers, and their answer back with
//! all that is in it. Our own zone is never relayed, so that a name of ours
//! that does not exist is never asked of the world. Nothing is cached: the
//! answers of others carry their own lifetimes, and ours live one second.
//!
//! Sockets, messages and their limits are hickory-server's. What that means:
//!
//! - An answer of others is taken apart and built anew: sections, flags, code,
//!   EDNS and records of unknown types are kept, its octets are not. A
//!   transaction signature does not survive that, nor do compressed names in
//!   records of types unknown to the library, which are obsolete.
//! - A packet that has a header but can't be read gets FORMERR without its
//!   question, also where others would understand it, and is not counted.
//! - What is shorter than a header is passed over; by TCP, too, the next
//!   message is answered.
//! - TCP clients are limited by how long they may be silent, not in number;
//!   with no file descriptors left, accepting them keeps a core busy.
//! - It logs each answer with INFO: keep the target `hickory_server` at WARN.
//!
//! Nothing here is fatal: a port that is taken is a [`listen::Problem`] that
//! is shown and tried again.

mod handler;
mod relay;
mod resolv_conf;
mod response;
mod server;
pub mod zone;

pub use handler::Counters;
pub use resolv_conf::Files;
pub use server::{Config, Dns, Handle};
pub use zone::{DomainError, Zone};

#[cfg(test)]
mod tests;
