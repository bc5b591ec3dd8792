//! Listening sockets: binding, accepting with limits, and what holds a taken port.
//!
//! Every listener of the agent binds here, so that a taken port is reported in
//! the same words everywhere, with the process that holds it.

mod accept;
mod bind;
mod limiter;
mod log_throttle;
pub mod sockets;

pub use accept::{Accepted, Acceptor, WhenFull, reset, watch_peer};
pub use bind::{BIND_RETRY, Problem, Reason, bind_tcp, bind_udp, publish, tcp};
pub use limiter::{Busy, LimitReached, Limiter, Limits, Permit};
pub use log_throttle::LogThrottle;
pub use sockets::Process;
