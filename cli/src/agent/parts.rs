//! Parts of the agent that others build on, and its tasks.

use std::sync::Arc;

use conductor::Published;
use engine::Engine;
use model::disk::DiskReport;
use store::Kv;
use store::host::{Host, StateDir};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::AgentConfig;
use crate::limits::Shares;

/// Parts that others build on.
pub(super) struct Parts {
    pub(super) config: AgentConfig,
    pub(super) shares: Shares,
    pub(super) dir: Arc<StateDir>,
    pub(super) cluster: Uuid,
    pub(super) host: Arc<Host>,
    pub(super) kv: Arc<dyn Kv>,
    pub(super) engine: Arc<dyn Engine>,
    /// What the host's record says of the disk at the start.
    pub(super) disk: DiskReport,
    pub(super) published: Arc<Published>,
}

/// Tasks that end together.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) running: JoinSet<()>,
    pub(super) stop: CancellationToken,
}

impl Tasks {
    /// Spawns a task that ends when the token is cancelled.
    pub(super) fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.spawn(task(self.stop.clone()));
    }

    /// As `spawn`, on another runtime than this one.
    pub(super) fn spawn_on<F>(
        &mut self,
        runtime: &Handle,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.spawn_on(task(self.stop.clone()), runtime);
    }
}
