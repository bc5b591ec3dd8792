//! One battery of tests, run on the engine in memory and on the machine's own Docker, at the version that both agree
//! on and at the oldest that is supported: that is what keeps the twin honest.

#[path = "../agents/mod.rs"]
mod agents;
mod copies;
mod harness;
mod lifecycle;
mod output;
mod proxied;
mod proxy;
mod real;
mod registry;
mod troubles;
