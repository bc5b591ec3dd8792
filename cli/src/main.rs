//! `dokkaa`: the agent and its command line in one binary.

mod args;
mod config;

fn main() {}
