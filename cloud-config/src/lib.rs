//! Host setup: the agent's systemd unit, and user data for a new machine.
//!
//! Pure functions from options to text. Values that could break out of a line,
//! a quote or YAML are refused.

mod cloud_init;
mod coreos;
mod files;
mod options;
mod unit;

pub use cloud_init::cloud_init;
pub use coreos::coreos;
pub use options::{Binary, ConfigError, Etcd, Options, Tls};
pub use unit::{Command, Unit, unit};
