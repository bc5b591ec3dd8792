//! Counts the open connections of instances that leave.
//!
//! One task per such instance; nothing is looked at where nothing leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::{Counted, Input, OpenConnections};
use engine::{Engine, EngineError};
use manifests::InstanceId;
use model::error::chain;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Between looks.
const PAUSE: Duration = Duration::from_millis(200);

/// The counts under way.
pub(crate) struct Drains {
    engine: Arc<dyn Engine>,
    inputs: mpsc::Sender<Input>,
    counting: BTreeMap<InstanceId, Counting>,
}

struct Counting {
    task: JoinHandle<()>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drains {
    /// None yet.
    pub(crate) fn new(engine: Arc<dyn Engine>, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            engine,
            inputs,
            counting: BTreeMap::new(),
        }
    }

    /// Counts the connections of an instance from now on.
    pub(crate) fn count(&mut self, counted: Counted) {
        let instance = counted.instance.clone();
        let task = tokio::spawn(follow_one(
            self.engine.clone(),
            counted,
            self.inputs.clone(),
        ));
        self.counting.insert(instance, Counting { task });
    }

    /// They are not waited for any more.
    pub(crate) fn end(&mut self, instance: &InstanceId) {
        self.counting.remove(instance);
    }
}

async fn follow_one(engine: Arc<dyn Engine>, counted: Counted, inputs: mpsc::Sender<Input>) {
    let Counted {
        instance,
        process,
        ports,
    } = counted;
    let mut told = None;
    let mut failed = false;
    loop {
        let open = match engine.connections(process.pid, &ports).await {
            Ok(open) => Some(open),
            // That it has ended is told by the engine.
            Err(EngineError::NotFound(_)) => None,
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%instance, error = %chain(&error), "its connections can't be counted: it stops after its drain_timeout");
                }
                None
            }
        };
        if told != open {
            told = open;
            let counted = OpenConnections {
                instance: instance.clone(),
                started_at: process.started_at,
                open,
            };
            if inputs.send(Input::Connections(counted)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
