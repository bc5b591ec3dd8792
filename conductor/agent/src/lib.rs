//! The agent of one host, without IO: what happens to it goes in, what it does comes out.

mod effect;
mod engine_cache;
pub mod events;
pub mod host;
mod input;
mod machine;
mod restore;
pub mod view;

pub use effect::{AgentLog, Counted, Effect, Probe, Saving, Seen, StateFile, Table};
pub use engine_cache::EngineCache;
pub use input::{EngineUpdate, Input, Inspection, Now, OpenConnections, ProbeResult, WriteAnswers};
pub use machine::{Agent, AgentOptions, Counts, Names};
pub use restore::OrphansNote;
