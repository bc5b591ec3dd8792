//! The manifest: what a user wants, and how it is spelt.
//!
//! This crate is pure: it reads no clock, no file and no socket. It holds the
//! names, the manifest and its rules, the links and the environment they turn
//! into, and the one place where keys in etcd are spelt.

pub mod canonical;
pub mod env;
pub mod fields;
pub mod image;
pub mod keys;
mod links;
pub mod manifest;
pub mod names;
pub mod parse;
pub mod placement;
pub mod schema;
pub mod signals;
pub mod units;
pub mod words;

pub use links::LinkError;
pub use manifest::Manifest;
pub use names::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName, SlotId};
