//! Decides what one host does, from values alone: the snapshot of etcd, what
//! its engine shows, the memory of its own work and the time go in, a plan
//! comes out.
//!
//! Nothing here waits, reads a clock or touches the outside; `clippy.toml`
//! beside this crate makes that a rule. What cannot be done now is a value
//! with a reason, never an error.

pub mod address;
pub mod backoff;
pub mod calm;
pub mod directory;
pub mod disk;
pub mod events;
pub mod identity;
pub mod links;
pub mod local;
pub mod observed;
pub mod placement;
pub mod plan;
pub mod records;
pub mod rules;
mod slot;
pub mod snapshot;
pub mod target;
pub mod time;
pub mod volumes;
pub mod write;

pub use directory::{Directory, Endpoint};
pub use local::{Local, Outcome, Work};
pub use observed::Observed;
pub use plan::{Host, Inputs, Plan, Step, Trust, Write, plan};
pub use rules::{Rule, Rules};
pub use snapshot::Snapshot;
pub use time::Millis;
