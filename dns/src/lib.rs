//! The DNS server of a host: authoritative for the cluster's zone, forwarding for all other names.
//!
//! The zone is answered from a directory that others swap; this crate knows no
//! etcd and no Docker. Names of the zone are never forwarded, also those that
//! do not exist. Answers of the zone have a TTL of 1 s; those of others are
//! kept by their TTL.
//!
//! The parsing of queries and the zone's answers are hickory's, but for those of
//! this host for addresses of the zone, which are the commonest; the sockets are
//! our own, for their limits. In detail:
//!
//! - A forwarded answer is passed on as the octets that came, with another id,
//!   the client's case of the name, TTLs counted down, and EDNS of our own.
//! - A malformed packet with a header gets FORMERR without its question, and
//!   is not counted.
//! - Over UDP each address has as many threads as there are processors, four at
//!   most, each with a socket of its own; no task is between it and the answer.
//! - Messages shorter than a header are ignored; a TCP connection stays open.
//! - The search of a container's resolver is finished for it: a name below its
//!   app's that does not exist is answered as an alias of the one that does.
//! - Names of others are forwarded for this host, its containers and who is
//!   allowed; other clients get REFUSED. Networks other than this host's get 100
//!   answers a second over UDP; above, they are told to come by TCP. Who shows a
//!   cookie of ours (RFC 7873) is spared.
//! - At most 512 forwarded queries at once, 64 of one client; those above get
//!   SERVFAIL. Equal queries at the same time are forwarded once.
//! - At most 256 TCP connections at once, 32 of one address. The idle time-out
//!   is 5 s; at the limit the longest idle connection is evicted. Queries on
//!   one connection, up to 4,096 octets long, are answered in order.
//! - hickory logs some packets with WARN: keep it at [`LOG_FILTER`].
//!
//! No failure is fatal: a port that is taken is a [`listen::Problem`], shown
//! and retried.

mod clients;
mod cookies;
mod counters;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod message;
mod rate;
mod relay;
mod resolv_conf;
mod response;
mod server;
mod short;
mod tcp;
mod udp;
mod upstreams;
mod wire;
pub mod zone;

pub use clients::{Network, NetworkError};
pub use counters::{Counters, Histogram, Source};
pub use resolv_conf::Files;
pub use server::{Config, Dns, Handle, Names};
pub use upstreams::{Forwarding, Stub};
pub use zone::{DomainError, Explanation, LeftOut, Slots, Zone};

/// Start of an agent's log filter: the library logs packets, and no client may fill the log.
pub const LOG_FILTER: &str = "hickory_server=error,hickory_net=error,hickory_proto=error";

#[cfg(test)]
mod tests;
