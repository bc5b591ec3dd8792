//! Decides what one host does, from values alone: the snapshot of etcd, what
//! its engine shows, the memory of its own work and the time go in, a plan
//! comes out.
//!
//! Nothing here waits, reads a clock or touches the outside; `clippy.toml`
//! beside this crate makes that a rule. What cannot be done now is a value
//! with a reason, never an error.

mod cleanup;
pub mod disruption;
mod gate;
mod handover;
pub mod image_policy;
mod inputs;
mod jobs;
mod lifecycle;
pub mod memory;
mod output;
mod ownership;
pub mod placement;
mod placing;
mod plan;
pub mod preview;
pub mod refusal;
mod retire;
pub mod rollout;
mod slot_state;
mod slots;
mod turn;
pub mod update;
pub mod waiting;

pub use inputs::Inputs;
pub use memory::AgentMemory;
pub use output::Plan;
pub use plan::plan;
pub use refusal::Refusal;
pub use waiting::Waiting;
