//! Manifests, names, links with their environment, and the keys in etcd.
//!
//! Pure: reads no clock, file or socket.

pub mod canonical;
pub mod changes;
pub mod env;
pub mod fields;
pub mod image;
pub mod image_policy;
pub mod keys;
mod links;
pub mod manifest;
pub mod names;
pub mod parse;
pub mod placement;
pub mod schema;
pub mod signals;
pub mod units;
pub mod update;
pub mod words;

pub use links::LinkError;
pub use manifest::Manifest;
pub use names::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName, SlotId};
