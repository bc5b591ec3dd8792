//! Real hosts on one machine, for tests, benches and `make lab`.
//!
//! A [`lab::Lab`] is a switch and some hosts. Each is a set of namespaces of
//! its own (network, hostname, processes, mounts), so a host has its own
//! dockerd, its own agent, its own `/etc`, `/var`, `/run` and `/usr/local`,
//! and a cable to the switch that can be unplugged. Nothing of it is visible
//! on the machine itself: no interface, no packet filter rule, no mount.
//!
//! Invariant: all of it ends with the process that made it, however that
//! ends. Each namespace set lives as long as a pipe that only this process
//! holds, and a janitor of the same kind removes the files and cgroups.
//!
//! What a layer needs and the machine lacks is an error that names the
//! command to install it ([`needs`]), never a test that is silently skipped.

pub mod agent;
pub mod binary;
pub mod engine;
pub mod etcd;
pub mod host;
pub mod http;
pub mod images;
pub mod lab;
pub mod manager;
pub mod needs;
pub mod node;
pub mod process;
pub mod registry;
pub mod release;
pub mod resolver;
pub mod tls;
pub mod wait;

pub use lab::{Lab, LabOptions};
pub use wait::{try_wait_for, wait_for};
