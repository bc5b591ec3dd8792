//! Carries out the plan's steps on the engine, and reports what came of them.
//!
//! Each step may be done twice: what is already so is success. A step decides
//! nothing but what only the engine can tell: which port is free, who holds a
//! name, whether an image is here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use manifests::{InstanceId, Manifest, SlotId};
use model::identity::oldest_by_name;
use model::observed::{ObservedContainer, Surroundings, name_beside};
use model::{Action, Host, Scope, volumes};
use model::{ActionResult, Fault};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::allocation::Allocation;
use crate::images::{Images, reference};
use crate::run::Event;
use engine::{CreateSpec, SpecInput, spec};
use engine::{Engine, EngineError, HostFault, Named};

/// Creates and starts at a time: more make each of them slower and none of them sooner.
const AT_ONCE: usize = 4;
/// How often the progress of a pull is looked at.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Carries out steps. Cheap to clone.
#[derive(Clone)]
pub struct Steps {
    engine: Arc<dyn Engine>,
    images: Images,
    ports: Arc<Allocation>,
    host: Host,
    cluster: Uuid,
    starts: Arc<Semaphore>,
    /// Instances whose creation was asked for and not answered: it may have happened, or be under way.
    unsure: Arc<Mutex<BTreeSet<InstanceId>>>,
}

/// What a step left behind.
struct Report {
    outcome: ActionResult,
    container: Option<ObservedContainer>,
    gone: Option<String>,
}

impl From<ActionResult> for Report {
    fn from(outcome: ActionResult) -> Self {
        Self {
            outcome,
            container: None,
            gone: None,
        }
    }
}

/// A container to be made.
struct Prepare {
    slot: SlotId,
    instance: InstanceId,
    manifest: Arc<Manifest>,
    image: String,
    hash: String,
    temporary_name: bool,
    existing: Vec<String>,
}

impl Steps {
    /// For this host of this cluster.
    pub fn new(
        engine: Arc<dyn Engine>,
        images: Images,
        ports: Arc<Allocation>,
        host: Host,
        cluster: Uuid,
    ) -> Self {
        Self {
            engine,
            images,
            ports,
            host,
            cluster,
            starts: Arc::new(Semaphore::new(AT_ONCE)),
            unsure: Arc::default(),
        }
    }

    /// What containers are made with from now on.
    pub(crate) fn surround(&mut self, surroundings: Surroundings) {
        self.host.surroundings = surroundings;
    }

    /// Carries one out; the loop is told what came of it.
    pub(crate) async fn run(self, step: Action, events: mpsc::Sender<Event>) {
        let kind = step.kind();
        let work = step.work();
        let begun = std::time::Instant::now();
        let report = self.carry_out(step, &events).await;
        let ms = begun.elapsed().as_millis();
        match failure(&report.outcome) {
            None => tracing::info!(step = kind, of = %name(&work), ms, "done"),
            Some(reason) => tracing::warn!(step = kind, of = %name(&work), ms, reason, "failed"),
        }
        let Report {
            outcome,
            container,
            gone,
        } = report;
        let container = container.map(Box::new);
        // Without a loop there is nobody to tell.
        let _ = events
            .send(Event::Stepped {
                outcome,
                container,
                gone,
            })
            .await;
    }

    async fn carry_out(&self, step: Action, events: &mpsc::Sender<Event>) -> Report {
        match step {
            Action::Resolve {
                container,
                rev,
                manifest,
                ..
            } => {
                let decide = self.images.decide(&manifest.image, manifest.pull);
                let work = Scope::Container(container.clone());
                let decided = self
                    .with_progress(&manifest.image, work, events, decide)
                    .await;
                match decided {
                    Ok(decided) => {
                        if let Some(note) = decided.note {
                            tracing::warn!(%container, "{note}");
                        }
                        ActionResult::Resolved {
                            container,
                            rev,
                            image: decided.image,
                            volumes: decided.volumes,
                        }
                    }
                    Err(error) => ActionResult::NotResolved {
                        container,
                        rev,
                        reason: about(&manifest.image, &error),
                        fault: error.fault(),
                    },
                }
                .into()
            }
            Action::Prepare {
                slot,
                instance,
                rev,
                manifest,
                image,
                hash,
                temporary_name,
                existing,
            } => {
                let wanted = Prepare {
                    slot,
                    instance,
                    manifest,
                    image,
                    hash,
                    temporary_name,
                    existing,
                };
                match self.prepare(&wanted, events).await {
                    Ok(container) => Report {
                        outcome: ActionResult::Prepared {
                            slot: wanted.slot,
                            instance: wanted.instance,
                            rev,
                        },
                        container,
                        gone: None,
                    },
                    Err(Failed { reason, fault }) => ActionResult::NotPrepared {
                        slot: wanted.slot,
                        rev,
                        reason,
                        fault,
                    }
                    .into(),
                }
            }
            Action::Start {
                slot,
                instance,
                docker_id,
            } => self.start(slot, instance, &docker_id).await,
            Action::Stop {
                slot,
                docker_id,
                timeout,
                ..
            } => {
                let stopped = self.engine.stop(&docker_id, timeout).await;
                self.look(slot, &docker_id, stopped).await
            }
            Action::Remove {
                slot, docker_id, ..
            } => match self.remove(&docker_id).await {
                Ok(()) => Report {
                    outcome: ActionResult::Done { slot },
                    container: None,
                    gone: Some(docker_id),
                },
                Err(error) => ActionResult::Failed {
                    slot,
                    reason: format!("Docker does not remove its container: {error}"),
                }
                .into(),
            },
            Action::Rename {
                slot,
                docker_id,
                name,
                ..
            } => match self.engine.rename(&docker_id, &name).await {
                Ok(Named::Done(())) => self.look(slot, &docker_id, Ok(())).await,
                Ok(Named::Taken(_)) => ActionResult::Failed {
                    slot,
                    reason: taken(&name),
                }
                .into(),
                Err(error) => self.look(slot, &docker_id, Err(error)).await,
            },
        }
    }

    async fn remove(&self, docker_id: &str) -> Result<(), EngineError> {
        let container = self.engine.inspect(docker_id).await?;
        self.engine.remove(docker_id, false).await?;
        if let Some(container) = container {
            self.ports.rest(&container.ports);
        }
        Ok(())
    }

    /// What the container is now, after a step on it.
    async fn look(&self, slot: SlotId, docker_id: &str, result: Result<(), EngineError>) -> Report {
        if let Err(error) = result {
            return ActionResult::Failed {
                slot,
                reason: error.to_string(),
            }
            .into();
        }
        match self.engine.inspect(docker_id).await {
            Ok(Some(container)) => Report {
                outcome: ActionResult::Done { slot },
                container: Some(container),
                gone: None,
            },
            Ok(None) => Report {
                outcome: ActionResult::Done { slot },
                container: None,
                gone: Some(docker_id.to_owned()),
            },
            Err(error) => ActionResult::Failed {
                slot,
                reason: error.to_string(),
            }
            .into(),
        }
    }

    async fn start(&self, slot: SlotId, instance: InstanceId, docker_id: &str) -> Report {
        let started = {
            let Ok(_turn) = self.starts.acquire().await else {
                return ActionResult::Done { slot }.into();
            };
            self.engine.start(docker_id).await
        };
        let Err(error) = started else {
            return self.look(slot, docker_id, Ok(())).await;
        };
        if let EngineError::NotFound(_) = error {
            // Somebody removed it (`docker system prune` takes what does not run): another one is made.
            return Report {
                outcome: ActionResult::Done { slot },
                container: None,
                gone: Some(docker_id.to_owned()),
            };
        }
        // Docker notes a failed start on the container; the loop is to see that too.
        let container = self.engine.inspect(docker_id).await.ok().flatten();
        Report {
            outcome: ActionResult::NotStarted {
                slot,
                instance,
                reason: error.to_string(),
                fault: error.fault(),
                doomed: self.is_doomed(&error, container.as_ref()),
            },
            container,
            gone: None,
        }
    }

    /// An address or a port of our own range is not to be had: another instance gets another one.
    fn is_doomed(&self, error: &EngineError, container: Option<&ObservedContainer>) -> bool {
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

    async fn prepare(
        &self,
        wanted: &Prepare,
        events: &mpsc::Sender<Event>,
    ) -> Result<Option<ObservedContainer>, Failed> {
        let manifest = &wanted.manifest;
        let ensure = self
            .images
            .ensure(&manifest.image, &wanted.image, manifest.pull);
        let pulled =
            reference(&manifest.image, &wanted.image).unwrap_or_else(|_| manifest.image.clone());
        let work = Scope::Slot(wanted.slot.clone());
        let source = self
            .with_progress(&pulled, work, events, ensure)
            .await
            .map_err(|error| Failed {
                reason: about(&manifest.image, &error),
                fault: error.fault(),
            })?;
        if let Some(note) = source.note {
            tracing::warn!(slot = %wanted.slot, "{note}");
        }
        if let Some(made) = self.made_before(&wanted.instance).await? {
            return Ok(Some(made));
        }
        self.look_at_volumes(wanted).await?;
        let ports = self
            .ports
            .take(manifest, &self.host.surroundings)
            .map_err(|error| Failed {
                reason: error.to_string(),
                fault: Fault::Host,
            })?;
        let Ok(_turn) = self.starts.acquire().await else {
            return Err(Failed::passing("the agent ends"));
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
        });
        self.unsure().insert(wanted.instance.clone());
        let docker_id = self.create(&mut spec, wanted).await?;
        let made = self.engine.inspect(&docker_id).await;
        let made = made?;
        self.unsure().remove(&wanted.instance);
        Ok(made)
    }

    /// Its local volumes are the slot's own, and all that it had are there.
    async fn look_at_volumes(&self, wanted: &Prepare) -> Result<(), Failed> {
        let names = volumes::local(&wanted.manifest);
        if names.is_empty() {
            return Ok(());
        }
        let here = self.engine.volumes().await?;
        let refused: Vec<String> = names
            .iter()
            .filter_map(|name| {
                let exists = wanted.existing.contains(name);
                let found = here.get(&wanted.slot.volume_name(name));
                volumes::refusal(&wanted.slot, name, exists, found, self.cluster)
            })
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(Failed {
            reason: refused.join("; "),
            fault: Fault::Data,
        })
    }

    /// What an earlier try left behind that was not answered. A second container of one instance would run beside it.
    async fn made_before(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<ObservedContainer>, EngineError> {
        if !self.unsure().contains(instance) {
            return Ok(None);
        }
        let there = self.engine.list(Some(self.cluster)).await?.labelled;
        let made = oldest_by_name(instance, &there).cloned();
        if made.is_some() {
            self.unsure().remove(instance);
        }
        Ok(made)
    }

    fn unsure(&self) -> std::sync::MutexGuard<'_, BTreeSet<InstanceId>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
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
            return Err(Failed::passing(&taken(&spec.name)));
        };
        if owner.instance == wanted.instance {
            // An earlier try has come through after all.
            return Ok(docker_id);
        }
        // One of ours that is on its way out still has the name.
        spec.name = name_beside(&wanted.slot, &wanted.instance);
        match self.engine.create(spec).await? {
            Named::Done(id) => Ok(id),
            Named::Taken(_) => Err(Failed::passing(&taken(&spec.name))),
        }
    }

    /// Runs something that may pull `reference`, and tells how far the pull is.
    async fn with_progress<T>(
        &self,
        reference: &str,
        work: Scope,
        events: &mpsc::Sender<Event>,
        job: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(job);
        let mut told = false;
        loop {
            tokio::select! {
                done = &mut job => {
                    if told {
                        let _ = events.send(Event::Progress(work, None)).await;
                    }
                    return done;
                }
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    if let Some(progress) = self.images.progress(reference) {
                        told = true;
                        let text = Some(format!("pulling {reference}: {progress}"));
                        let _ = events.send(Event::Progress(work.clone(), text)).await;
                    }
                }
            }
        }
    }
}

/// Why a container was not made, and who has to change something.
struct Failed {
    reason: String,
    fault: Fault,
}

impl Failed {
    fn passing(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            fault: Fault::Passing,
        }
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

fn taken(name: &str) -> String {
    format!(
        "the name {name} is held by a container that dokkaa did not start; `docker rename` or `docker rm` it"
    )
}

fn failure(outcome: &ActionResult) -> Option<&str> {
    match outcome {
        ActionResult::NotResolved { reason, .. }
        | ActionResult::NotPrepared { reason, .. }
        | ActionResult::NotStarted { reason, .. }
        | ActionResult::Failed { reason, .. } => Some(reason),
        ActionResult::Resolved { .. }
        | ActionResult::Prepared { .. }
        | ActionResult::Done { .. } => None,
    }
}

/// Names the image, which the engine does not do when it reaches no registry.
fn about(image: &str, error: &EngineError) -> String {
    let text = error.to_string();
    if text.contains(image) {
        text
    } else {
        format!("image {image}: {text}")
    }
}

fn name(work: &Scope) -> String {
    match work {
        Scope::Slot(slot) => slot.to_string(),
        Scope::Container(container) => container.to_string(),
    }
}
