//! Starts, removes and renames containers.

use engine::{EngineError, HostFault, Named};
use manifests::{InstanceId, SlotId};
use model::observed::ObservedContainer;
use model::{ActionReport, ActionResult};

use super::{Actions, name_is_taken};

impl Actions {
    pub(super) async fn start(
        &self,
        slot: SlotId,
        instance: InstanceId,
        docker_id: &str,
    ) -> ActionReport {
        let started = {
            let Ok(_permit) = self.starts.acquire().await else {
                return ActionResult::Done { slot }.into();
            };
            self.engine.start(docker_id).await
        };
        let error = match started {
            Ok(()) => return self.inspect(slot, docker_id, Ok(())).await,
            // Somebody removed it (`docker system prune` takes what does not run): another one is made.
            Err(EngineError::NotFound(_)) => {
                return ActionReport::with(ActionResult::Done { slot }, docker_id, None);
            }
            Err(error) => error,
        };
        // Docker notes a failed start on the container; the loop is to see that too.
        let container = self.engine.inspect(docker_id).await.ok().flatten();
        ActionReport {
            result: ActionResult::NotStarted {
                slot,
                instance,
                reason: error.to_string(),
                fault: error.fault(),
                must_recreate: self.needs_other_ports(&error, container.as_ref()),
            },
            container: container.map(Box::new),
            gone: None,
        }
    }

    /// Its address is gone, or a port of the agent's own range is taken: another instance gets other ones.
    fn needs_other_ports(
        &self,
        error: &EngineError,
        container: Option<&ObservedContainer>,
    ) -> bool {
        match error {
            EngineError::HostFault {
                fault: HostFault::AddressMissing,
                ..
            } => true,
            EngineError::HostFault {
                fault: HostFault::PortTaken,
                message,
            } => container.is_some_and(|container| {
                container
                    .ports
                    .values()
                    .filter(|at| self.ports.chooses(at.port()))
                    .any(|at| message.contains(&format!(":{}", at.port())))
            }),
            _ => false,
        }
    }

    pub(super) async fn remove(&self, slot: SlotId, docker_id: &str) -> ActionReport {
        let removed = async {
            let container = self.engine.inspect(docker_id).await?;
            self.engine.remove(docker_id, false).await?;
            Ok::<_, EngineError>(container)
        };
        match removed.await {
            Ok(container) => {
                if let Some(container) = container {
                    self.ports.rest(&container.ports);
                }
                ActionReport::with(ActionResult::Done { slot }, docker_id, None)
            }
            Err(error) => ActionResult::Failed {
                slot,
                reason: format!("Docker does not remove its container: {error}"),
            }
            .into(),
        }
    }

    pub(super) async fn rename(&self, slot: SlotId, docker_id: &str, name: &str) -> ActionReport {
        match self.engine.rename(docker_id, name).await {
            Ok(Named::Done(())) => self.inspect(slot, docker_id, Ok(())).await,
            Ok(Named::Taken(_)) => ActionResult::NotRenamed {
                slot,
                reason: name_is_taken(name),
            }
            .into(),
            Err(error) => ActionResult::NotRenamed {
                slot,
                reason: error.to_string(),
            }
            .into(),
        }
    }
}
