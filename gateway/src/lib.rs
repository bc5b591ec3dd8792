//! HTTP APIs of an agent.
//!
//! `listener` accepts connections, checks where requests come from and limits
//! what they cost; `v1` is dokkaa's own API, `v2` the etcd v2 keys API over
//! etcd v3, `peer` the API between agents; `access` decides which keys users
//! may write.

pub mod access;
pub mod listener;
pub mod ndjson;
pub mod peer;
pub mod v1;
pub mod v2;

/// What a client is told of a write that etcd has not answered.
pub const OUTCOME_UNKNOWN: &str =
    "whether it was written is not known: look before you send it again";
