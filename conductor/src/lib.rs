//! Makes Docker match the plan: runs the agent, and carries out what it wants done.
//!
//! `run` is the one loop. It passes what happens on to the agent (crate `agent`),
//! which decides, and carries out the agent's effects; everything else here is an
//! edge.
//!
//! Tasks, each of which tells the loop by one channel of inputs:
//! - one per action under way (`actions`), at most one per slot;
//! - one per batch of writes (`writes`);
//! - one that follows the engine (`engine_watch`): events, single containers, lists;
//! - one per running instance that probes whether it is ready (`probes`);
//! - one per instance that leaves, while it has open connections (`drains`);
//! - one that keeps what happened (`events`).

pub mod actions;
pub mod allocation;
pub mod credentials;
mod drains;
mod engine_watch;
pub mod events;
pub mod firewall;
pub mod images;
pub mod instances;
mod log;
pub mod orphans;
pub mod ports;
mod probes;
pub mod published;
pub mod reachability;
pub mod readiness;
mod registry;
mod run;
mod writes;

pub use published::{Published, Seen};
pub use run::{Setup, run};
