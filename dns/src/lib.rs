//! The DNS server of a host: authoritative for the cluster's zone, forwarding for all other names.
//!
//! The zone is answered from a directory that others swap; this crate knows no
//! etcd and no Docker. Names of the zone are never forwarded, also those that
//! do not exist. Nothing is cached: answers of the zone have a TTL of 1 s.
//!
//! UDP and the parsing of messages are hickory-server's; TCP is our own, for
//! its limits. In detail:
//!
//! - A forwarded answer is parsed and built again: sections, flags, code, EDNS
//!   and records of unknown types are kept. TSIG does not survive that, nor do
//!   compressed names in records of (obsolete) types unknown to the library.
//! - A malformed packet with a header gets FORMERR without its question, and
//!   is not counted.
//! - Messages shorter than a header are ignored; a TCP connection stays open.
//!   UDP packets that announce more than 255 questions are dropped by a filter
//!   in the kernel.
//! - At most 512 forwarded queries at once, 64 of one client; those above get
//!   SERVFAIL. Equal queries at the same time are forwarded once.
//! - At most 256 TCP connections at once, 32 of one address. The idle time-out
//!   is 5 s; at the limit the longest idle connection is evicted. Queries on
//!   one connection, up to 4,096 octets long, are answered in order.
//! - hickory logs each answer with INFO, and some packets with WARN: keep it
//!   at [`LOG_FILTER`].
//!
//! No failure is fatal: a port that is taken is a [`listen::Problem`], shown
//! and retried.

mod filter;
mod handler;
mod message;
mod relay;
mod resolv_conf;
mod response;
mod server;
mod tcp;
pub mod zone;

pub use handler::Counters;
pub use resolv_conf::Files;
pub use server::{Config, Dns, Handle};
pub use zone::{DomainError, Zone};

/// Start of an agent's log filter: the library logs packets, and no client may fill the log.
pub const LOG_FILTER: &str = "hickory_server=error,hickory_net=error,hickory_proto=error";

#[cfg(test)]
mod tests;
