//! dokkaa's own API, `/dokkaa/v1/…`: what the CLI asks of any agent.
//!
//! It shows what its agent sees of the cluster, and writes manifests. It never
//! decides: what can be computed from a snapshot is computed by the core's pure
//! functions, and what only another host knows is asked of that host by the
//! peer door, where a host that does not answer is a notice and not an error.

pub mod facilities;
pub mod types;

pub use facilities::{Facilities, LogRecord, LogStream, LogsError, Seen};
