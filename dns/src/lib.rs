//! Answers names from the directory; relays the rest.
//!
//! Containers of a host ask the agent. Names of our zone are answered from a
//! table that others swap (this crate knows no etcd and no Docker); every
//! other question goes to the host's resolvers and back byte for byte. Our
//! own zone is never relayed, so that a name of ours that does not exist is
//! never asked of the world. Nothing is cached: the answers of others carry
//! their own lifetimes, and ours live one second.
//!
//! Sockets are served by a loop of our own with hickory's messages, not by
//! hickory's server: relaying needs the bytes as they came, which that server
//! has parsed and would build anew, and it spawns a task and copies for each
//! question, which costs a third more than answering in the loop.
//!
//! Nothing here is fatal: a port that is taken is a [`listen::Problem`] that
//! is shown and tried again.

mod message;
mod relay;
mod resolv_conf;
mod server;
pub mod zone;

pub use resolv_conf::Files;
pub use server::{Config, Counters, Dns, Handle};
pub use zone::{DomainError, Zone};

#[cfg(test)]
mod tests;
