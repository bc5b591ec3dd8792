//! What a cluster is made of, as values: records in etcd and the snapshot of
//! them, what an engine shows, actions on it and writes to etcd.
//!
//! Nothing here waits, reads a clock or touches the outside; `clippy.toml`
//! beside this crate makes that a rule.

pub mod action;
pub mod address;
pub mod backoff;
pub mod directory;
pub mod disk;
pub mod error;
pub mod events;
pub mod host;
pub mod identity;
pub mod images;
pub mod kv;
pub mod links;
pub mod logs;
pub mod manifest_text;
pub mod observed;
pub mod records;
pub mod revision;
pub mod rules;
pub mod scope;
pub mod skydns;
pub mod snapshot;
pub mod time;
pub mod volumes;
pub mod write;

pub use action::{Action, ActionReport, ActionResult, Fault, Prepare};
pub use directory::{Directory, Endpoint};
pub use host::{Host, Trust};
pub use observed::Observed;
pub use revision::{ModRev, VersionId};
pub use rules::{Rule, Rules};
pub use scope::{Extent, Scope};
pub use snapshot::Snapshot;
pub use time::Millis;
pub use write::{Write, WriteKind};
