//! Makes a container: its image, volumes and ports, then the container itself.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use agent::Input;
use engine::{CreateSpec, EngineError, Named, SpecInput, spec};
use manifests::InstanceId;
use model::identity::oldest_by_name;
use model::observed::{ObservedContainer, PublishedPorts, name_beside};
use model::{ActionReport, ActionResult, Fault, Prepare, Scope, volumes};
use tokio::sync::mpsc;

use super::{Actions, about, name_is_taken};
use crate::images::reference;

/// Why a container was not made, and who has to change something.
struct Failed {
    reason: String,
    fault: Fault,
}

/// What a container is made from.
struct Image {
    name: String,
    /// A digest, or `local:<image id>`.
    decided: String,
    content: Option<String>,
}

impl Failed {
    fn passing(reason: String) -> Self {
        let fault = Fault::Passing;
        Self { reason, fault }
    }
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self {
            reason: error.to_string(),
            fault: error.fault(),
        }
    }
}

impl Actions {
    pub(super) async fn prepare(
        &self,
        wanted: Prepare,
        inputs: &mpsc::Sender<Input>,
    ) -> ActionReport {
        let made = self.make(&wanted, inputs).await;
        let Prepare {
            slot,
            instance,
            rev,
            before,
            ..
        } = wanted;
        match made {
            Ok(container) => ActionReport {
                result: ActionResult::Prepared {
                    slot,
                    instance,
                    rev,
                    before,
                },
                container: container.map(Box::new),
                gone: None,
            },
            Err(Failed { reason, fault }) => ActionResult::NotPrepared {
                slot,
                rev,
                reason,
                fault,
            }
            .into(),
        }
    }

    async fn make(
        &self,
        wanted: &Prepare,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Option<ObservedContainer>, Failed> {
        let manifest = &wanted.manifest;
        let Image {
            name,
            decided,
            content,
        } = self.image(wanted).await?;
        let ensure = self
            .images
            .ensure(&name, &decided, content.as_deref(), manifest.pull);
        let pulled = reference(&name, &decided).unwrap_or_else(|_| name.clone());
        let scope = Scope::Slot(wanted.slot.clone());
        let source = self
            .with_progress(&pulled, scope, inputs, ensure)
            .await
            .map_err(|error| Failed {
                reason: about(&name, &error),
                fault: error.fault(),
            })?;
        if let Some(note) = source.note {
            tracing::warn!(slot = %wanted.slot, "{note}");
        }
        if let Some(made) = self.made_before(&wanted.instance).await? {
            return Ok(Some(made));
        }
        let ports = if wanted.before {
            PublishedPorts::new()
        } else {
            self.check_volumes(wanted).await?;
            let ports = self.ports.take(manifest, &self.host.surroundings);
            ports.map_err(|error| Failed {
                reason: error.to_string(),
                fault: Fault::Host,
            })?
        };
        let Ok(_permit) = self.starts.acquire().await else {
            return Err(Failed::passing("the agent ends".to_owned()));
        };
        let mut spec = spec(SpecInput {
            manifest,
            image: &source.reference,
            image_labels: &source.labels,
            cluster: self.cluster,
            slot: &wanted.slot,
            instance: &wanted.instance,
            manifest_hash: &wanted.hash,
            host: &self.host.name,
            surroundings: &self.host.surroundings,
            ports,
            beside: wanted.temporary_name,
            before: wanted.before.then_some(wanted.rev),
        });
        self.unanswered().insert(wanted.instance.clone());
        let docker_id = self.create(&mut spec, wanted).await?;
        let made = self.engine.inspect(&docker_id).await?;
        self.unanswered().remove(&wanted.instance);
        Ok(made)
    }

    /// The image as it was decided for the version; another one of what runs before it is decided here, where it runs.
    async fn image(&self, wanted: &Prepare) -> Result<Image, Failed> {
        let manifest = &wanted.manifest;
        let before = manifest.before.as_ref().filter(|_| wanted.before);
        let Some(name) = before.and_then(|before| before.image.clone()) else {
            return Ok(Image {
                name: manifest.image.clone(),
                decided: wanted.image.clone(),
                content: wanted.content.clone(),
            });
        };
        let decided = self.images.decide(&name, manifest.pull).await;
        let decided = decided.map_err(|error| Failed {
            reason: about(&name, &error),
            fault: error.fault(),
        })?;
        Ok(Image {
            name,
            decided: decided.image,
            content: decided.content,
        })
    }

    /// Its local volumes are the slot's own, and all that it had are there.
    async fn check_volumes(&self, wanted: &Prepare) -> Result<(), Failed> {
        let names = volumes::local(&wanted.manifest);
        if names.is_empty() {
            return Ok(());
        }
        let here = self.engine.volumes().await?;
        let mut refused: Vec<String> = names
            .iter()
            .filter_map(|name| {
                let exists = wanted.existing.contains(name);
                let found = here.get(&wanted.slot.volume_name(name));
                volumes::refusal(&wanted.slot, name, exists, found, self.cluster)
            })
            .collect();
        if wanted.driver.is_some() {
            let driver = self.engine.info().await?.docker.store.driver;
            refused.extend(volumes::hidden(
                &wanted.slot,
                wanted.driver.as_deref(),
                &driver,
            ));
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(Failed {
            reason: refused.join("; "),
            fault: Fault::Data,
        })
    }

    /// The container of an earlier, unanswered create. A second one of this instance would run beside it.
    async fn made_before(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<ObservedContainer>, EngineError> {
        if !self.unanswered().contains(instance) {
            return Ok(None);
        }
        let there = self.engine.list(Some(self.cluster)).await?;
        let mut unseen = there.unseen.values();
        if let Some(unseen) = unseen.find(|unseen| unseen.instance == *instance) {
            return Err(EngineError::Unresponsive(unseen.why.clone()));
        }
        let made = oldest_by_name(instance, &there.labelled).cloned();
        if made.is_some() {
            self.unanswered().remove(instance);
        }
        Ok(made)
    }

    fn unanswered(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(&self, spec: &mut CreateSpec, wanted: &Prepare) -> Result<String, Failed> {
        let holder = match self.engine.create(spec).await? {
            Named::Done(id) => return Ok(id),
            Named::Taken(holder) => holder,
        };
        let ours = holder
            .and_then(|holder| Some((holder.docker_id, holder.owner?)))
            .filter(|(_, owner)| owner.cluster == self.cluster);
        let Some((docker_id, owner)) = ours else {
            return Err(Failed::passing(name_is_taken(&spec.name)));
        };
        if owner.instance == wanted.instance {
            // An earlier try has come through after all.
            return Ok(docker_id);
        }
        // One of ours that is on its way out still has the name.
        spec.name = name_beside(&wanted.slot, &wanted.instance);
        match self.engine.create(spec).await? {
            Named::Done(id) => Ok(id),
            Named::Taken(_) => Err(Failed::passing(name_is_taken(&spec.name))),
        }
    }
}
