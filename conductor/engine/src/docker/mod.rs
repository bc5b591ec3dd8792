//! The Docker Engine behind a unix socket of this machine.

mod address;
mod archive;
mod client;
mod disk;
mod engine;
mod events;
mod exec;
mod import;
mod log;
mod network;
mod processes;
mod pull;
mod sockets;
mod translate;
mod version;

pub use address::{DEFAULT_SOCKET, NotHere, check, socket};
pub use client::DockerEngine;
pub use disk::usage_of;
pub use version::{ApiVersion, NEWEST, OLDEST, VersionError, choose};

#[cfg(test)]
mod tests;
