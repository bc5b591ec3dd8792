//! Agents.
mod agents;
