//! Decides what one host does, from values alone: the snapshot of etcd, what
//! its engine shows, the memory of its own work and the time go in, a plan
//! comes out.
//!
//! Nothing here waits, reads a clock or touches the outside; `clippy.toml`
//! beside this crate makes that a rule. What cannot be done now is a value
//! with a reason, never an error.

pub mod disruption;
mod inputs;
pub mod memory;
mod output;
pub mod placement;
mod plan;
pub mod refusal;
mod slot;
pub mod target;
mod turn;
pub mod waiting;

pub use inputs::Inputs;
pub use memory::AgentMemory;
pub use output::Plan;
pub use plan::plan;
pub use refusal::Refusal;
pub use waiting::Waiting;
