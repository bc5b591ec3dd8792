//! Carries link traffic to where a service lives now.
//!
//! A container's links are ports of the bridge's gateway: 10000, 10001, … in
//! the order of its manifest. Who calls is told by the source address, so two
//! containers may mean different services by one port. The target is looked
//! up per connection in tables that others swap; this crate knows no etcd and
//! no Docker, and never uses the address for authorisation.
//!
//! Nothing here is fatal: a port that is taken is a [`listen::Problem`] that
//! is shown and tried again. Idle connections are never cut. When the agent
//! ends, its link connections end with it, by a reset, so that no client
//! takes half an answer for a whole one.

mod carry;
mod loads;
mod outcome;
mod proxy;
mod start;
pub mod table;

pub use loads::Loads;
pub use outcome::{Counters, Failure, Failures};
pub use start::{Ambassador, Config, Handle, Ports};
pub use table::{Reason, Refusal, Route, Tables};

#[cfg(test)]
mod tests;
