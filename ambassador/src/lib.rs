//! The link proxy of a host: TCP from containers to the endpoints of their links.
//!
//! A container's links are ports of the bridge's gateway: 10000, 10001, … in
//! the order of its manifest. The source address identifies the caller, so one
//! port may be another service for each container; it never authorises. The
//! target is looked up per connection in tables that others swap; this crate
//! knows no etcd and no Docker.
//!
//! No failure is fatal: a port that is taken is a [`listen::Problem`], shown
//! and retried. There is no idle time-out. When the agent stops, its link
//! connections are handed over to the next one, or reset: no client takes half
//! an answer for a whole.

mod carry;
mod connection;
mod failing;
mod loads;
mod outcome;
mod proxy;
mod start;
pub mod table;

pub use connection::Connection;
pub use failing::{FailedConnects, WINDOW as FAILURES_COUNT};
pub use loads::Loads;
pub use outcome::{Counters, Failure, Failures};
pub use start::{Ambassador, Config, Handle, Ports};
pub use table::{Reason, Refusal, Route, Tables};

#[cfg(test)]
mod tests;
