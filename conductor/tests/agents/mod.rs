//! Whole agents in one process: the real loop, steps, looks, view and host record on one etcd in memory, each agent
//! with an engine in memory.
//!
//! Everything lives on tokio's paused clock, so minutes cost milliseconds and
//! nothing depends on the machine. Every container that is started is checked
//! against all engines: a slot never runs twice, in whatever scenario.

mod changes;
mod cluster;
mod counts;
mod deploys;
mod docker;
mod hands;
mod history;
mod random;
mod restarts;
mod troubles;
mod wire;
