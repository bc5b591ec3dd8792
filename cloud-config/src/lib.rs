//! What sets a host up: the agent's systemd unit and user data for a new machine.
//!
//! Pure functions from options to text. Nothing is read, fetched or run, and no
//! value can break out of the place it is written to: what would is refused.
//! The YAML is written by a serializer, never by putting text together.

mod cloud_init;
mod coreos;
mod files;
mod options;
mod unit;

pub use cloud_init::cloud_init;
pub use coreos::coreos;
pub use options::{Binary, ConfigError, Etcd, Options, Tls};
pub use unit::{Command, Unit, unit};
