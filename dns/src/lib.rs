//! Answers names from the directory; relays the rest.
//!
//! Containers of a host ask the agent. Names of our zone are answered from a
//! table that others swap (this crate knows no etcd and no Docker); every
//! other question goes to the host's resolvers, and their answer back with
//! all that is in it. Our own zone is never relayed, so that a name of ours
//! that does not exist is never asked of the world. Nothing is cached: the
//! answers of others carry their own lifetimes, and ours live one second.
//!
//! UDP and the reading of messages are hickory-server's; TCP is our own, for
//! the sake of its limits. What that means:
//!
//! - An answer of others is taken apart and built anew: sections, flags, code,
//!   EDNS and records of unknown types are kept, its octets are not. A
//!   transaction signature does not survive that, nor do compressed names in
//!   records of types unknown to the library, which are obsolete.
//! - A packet that has a header but can't be read gets FORMERR without its
//!   question, also where others would understand it, and is not counted.
//! - What is shorter than a header is passed over, by TCP, too, where the next
//!   message is answered. A UDP packet that announces more than 255 questions
//!   is dropped by the kernel.
//! - 512 questions about other names are under way at once, at most 64 of one
//!   client; what is above that is SERVFAIL at once. The same question is
//!   relayed once for all who ask it at the same time.
//! - 256 TCP clients at once, at most 32 of one address. One that is silent for
//!   5 seconds is closed; when there is no place, the one that has been idle
//!   for longest is. Questions on one connection are answered in their order,
//!   up to 4,096 octets long.
//! - hickory logs each answer with INFO, and some packets with WARN: keep it
//!   at [`LOG_FILTER`].
//!
//! Nothing here is fatal: a port that is taken is a [`listen::Problem`] that
//! is shown and tried again.

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

/// What an agent's log filter begins with, so that no client can fill the log: packets make the library write lines.
pub const LOG_FILTER: &str = "hickory_server=error,hickory_net=error,hickory_proto=error";

/// Most octets of a question: what hickory takes by UDP.
const MAX_QUESTION: usize = 4096;
/// Most questions that a packet may announce. All but one are FORMERR.
const MAX_QUESTIONS: u16 = 255;

#[cfg(test)]
mod tests;
