//! The host's record in etcd: carries out what the host machine (`agent::host`) asks for.

mod clock;
mod disk;
mod driver;
mod lease;
mod log;

use std::sync::Arc;

pub use agent::host::*;
pub use clock::Clock;
pub use disk::{StateDir, StateDirError};
pub use driver::Host;
pub use lease::{Gate, LeaseReport, boottime};
pub use log::log_status;

use crate::kv::Kv;

/// Makes a `Kv` whose connections live on the runtime that calls it.
pub type KvFactory = Arc<dyn Fn() -> Arc<dyn Kv> + Send + Sync>;
