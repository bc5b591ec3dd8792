//! The HTTP doors of an agent.
//!
//! `door` is the listener that the control APIs share, with the checks that
//! keep strangers out; `v2` is the etcd v2 keys API over etcd v3; `access`
//! says what may be written through a door. A door has its agent's rights, so
//! what it lets through is decided in that one table.

pub mod access;
pub mod door;
pub mod ndjson;
pub mod peer;
pub mod v1;
pub mod v2;
