//! Makes Docker match the plan: claims slots, executes plans, keeps the directory.
//!
//! `run` is the one loop: it holds the view of etcd, what the engine shows and
//! the memory of its own work; it asks the core for a plan and carries it out
//! without an opinion of its own. Everything else here is an edge: the engine,
//! the writes to etcd, the looks at whether instances are ready.
//!
//! Tasks and the ways between them:
//! - the loop (`run`), which owns all state; everything reaches it by one channel of `Event`s;
//! - one task per action under way (`actions`), at most one per slot;
//! - one task per batch of writes (`writes`);
//! - one task that follows the engine (`following`): events, looks at single containers, lists;
//! - one task per running instance that looks whether it is ready (`looks`);
//! - one task that keeps what happened (`events`).

pub mod actions;
pub mod allocation;
pub mod credentials;
pub mod events;
pub mod firewall;
mod following;
pub mod images;
pub mod instances;
mod looks;
pub mod observing;
pub mod orphans;
pub mod ports;
pub mod published;
pub mod reachability;
pub mod readiness;
mod run;
mod writes;

pub use published::{Published, Seen};
pub use run::{Setup, run};
