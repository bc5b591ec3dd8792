//! Listening sockets: binding, accepting with limits, what holds a taken port, and what outlives the process.
//!
//! Every listener of the agent binds here, so that a taken port is reported in
//! the same words everywhere, with the process that holds it.

mod accept;
mod bind;
mod binder;
mod limiter;
mod log_throttle;
mod parcel;
mod silence;
pub mod sockets;
mod store;

pub use accept::{Accepted, Acceptor, WhenFull, let_pause, reset, watch_peer};
pub use bind::{BIND_RETRY, Problem, Reason, publish, tcp};
pub use binder::Binder;
pub use limiter::{Busy, LimitReached, Limiter, Limits, Permit};
pub use log_throttle::LogThrottle;
pub use parcel::{Item, Parcel, unpack};
pub use silence::gone;
pub use sockets::Process;
pub use store::{Entry, FdStore, received};
