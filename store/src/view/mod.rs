//! The watched range of etcd, followed: carries out what the view machine (`agent::view`) asks for.

mod driver;
pub mod file;
mod updates;

use tokio::sync::watch;

pub use agent::view::*;
pub use driver::run_view;
pub use updates::{UpdateSender, Updates, updates};

/// What tells a view how far it should be.
#[derive(Debug, Clone)]
pub struct ViewInputs {
    /// Newest revision in keep-alive answers; 0 is none yet.
    pub seen: watch::Receiver<i64>,
    /// Revision of the own newest record: the view is not complete below it. 0 is none yet.
    pub floor: watch::Receiver<i64>,
}
