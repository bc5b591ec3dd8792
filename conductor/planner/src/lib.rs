//! Decides what one host does, from values alone: the snapshot of etcd, what
//! its engine shows, the memory of its own work and the time go in, a plan
//! comes out.
//!
//! Nothing here waits, reads a clock or touches the outside; `clippy.toml`
//! beside this crate makes that a rule. What cannot be done now is a value
//! with a reason, never an error.

pub mod disruption;
pub mod local;
pub mod placement;
pub mod plan;
pub mod refusal;
mod slot;
pub mod target;
mod turn;
pub mod waiting;

pub use local::Local;
pub use plan::{Inputs, Plan, plan};
pub use refusal::Refusal;
pub use waiting::Waiting;
