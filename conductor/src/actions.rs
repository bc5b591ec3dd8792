//! Carries out the plan's actions on the engine and reports their results.
//!
//! Each action may be done twice: what is already so is success. Decided here is
//! only what the engine alone can tell: which port is free, who holds a name,
//! whether an image is here.

mod container;
mod prepare;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::Input;
use engine::{Engine, EngineError};
use manifests::manifest::Pull;
use manifests::{InstanceId, SlotId};
use model::images::ImageQuestion;
use model::observed::Surroundings;
use model::{Action, ActionReport, ActionResult, Host, Scope};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::allocation::Allocation;
use crate::images::{Images, reference};

/// Creates and starts at a time: more make each of them slower and none of them sooner.
const AT_ONCE: usize = 4;
/// How often the progress of a pull is reported.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Carries out actions. Cheap to clone.
#[derive(Clone)]
pub struct Actions {
    engine: Arc<dyn Engine>,
    images: Images,
    ports: Arc<Allocation>,
    host: Host,
    cluster: Uuid,
    starts: Arc<Semaphore>,
    /// Instances whose creation was asked for and not answered: it may have happened, or be under way.
    unanswered: Arc<Mutex<BTreeSet<InstanceId>>>,
}

impl Actions {
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
            unanswered: Arc::default(),
        }
    }

    /// Containers are made with these from now on.
    pub(crate) fn surround(&mut self, surroundings: Surroundings) {
        self.host.surroundings = surroundings;
    }

    /// Asks a registry, and reports to the loop.
    pub(crate) async fn ask(self, question: ImageQuestion, inputs: mpsc::Sender<Input>) {
        let answer = self.images.newer(question).await;
        // The loop has ended.
        let _ = inputs.send(Input::ImageAnswer(answer)).await;
    }

    /// Carries an action out and reports to the loop.
    pub(crate) async fn run(self, action: Action, inputs: mpsc::Sender<Input>) {
        let kind = action.kind();
        let scope = match action.scope() {
            Scope::Slot(slot) => slot.to_string(),
            Scope::Container(container) => container.to_string(),
        };
        let begun = Instant::now();
        let report = self.carry_out(action, &inputs).await;
        let ms = begun.elapsed().as_millis();
        match &report.result {
            ActionResult::NotResolved { reason, .. }
            | ActionResult::NotPrepared { reason, .. }
            | ActionResult::NotStarted { reason, .. }
            | ActionResult::Failed { reason, .. }
            | ActionResult::NotRenamed { reason, .. } => {
                tracing::warn!(action = kind, of = scope, ms, reason, "action failed");
            }
            ActionResult::Resolved { .. }
            | ActionResult::Prepared { .. }
            | ActionResult::Done { .. } => {
                tracing::info!(action = kind, of = scope, ms, "action done");
            }
        }
        // The loop has ended.
        let _ = inputs.send(Input::Done(report)).await;
    }

    async fn carry_out(&self, action: Action, inputs: &mpsc::Sender<Input>) -> ActionReport {
        match action {
            Action::Resolve {
                container,
                rev,
                manifest,
                found,
                ..
            } => {
                let scope = Scope::Container(container.clone());
                let image = match &found {
                    Some(found) => reference(&found.image, &found.digest),
                    None => Ok(manifest.image.clone()),
                };
                let pull = match manifest.pull {
                    // What the host has of a tag that is followed may be old.
                    Pull::Missing if manifest.image_policy.is_some() => Pull::Always,
                    pull => pull,
                };
                let decided = match &image {
                    Ok(image) => {
                        let decide = self.images.decide(image, pull);
                        self.with_progress(image, scope, inputs, decide).await
                    }
                    Err(error) => Err(error.clone()),
                };
                let name = found.map_or_else(|| manifest.image.clone(), |found| found.image);
                let result = match decided {
                    Ok(decided) => {
                        if let Some(note) = decided.note {
                            tracing::warn!(%container, "{note}");
                        }
                        ActionResult::Resolved {
                            container,
                            rev,
                            image: decided.image,
                            content: decided.content,
                            volumes: decided.volumes,
                        }
                    }
                    Err(error) => ActionResult::NotResolved {
                        container,
                        rev,
                        reason: about(&name, &error),
                        fault: error.fault(),
                    },
                };
                result.into()
            }
            Action::Prepare(wanted) => self.prepare(wanted, inputs).await,
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
                self.inspect(slot, &docker_id, stopped).await
            }
            Action::Remove {
                slot, docker_id, ..
            } => self.remove(slot, &docker_id).await,
            Action::Rename {
                slot,
                docker_id,
                name,
                ..
            } => self.rename(slot, &docker_id, &name).await,
        }
    }

    /// The container as an action on it left it.
    async fn inspect(
        &self,
        slot: SlotId,
        docker_id: &str,
        result: Result<(), EngineError>,
    ) -> ActionReport {
        let container = match result {
            Ok(()) => self.engine.inspect(docker_id).await,
            Err(error) => Err(error),
        };
        match container {
            Ok(container) => ActionReport::with(ActionResult::Done { slot }, docker_id, container),
            Err(error) => ActionResult::Failed {
                slot,
                reason: error.to_string(),
            }
            .into(),
        }
    }

    /// Runs a job that may bring `reference` here, and reports how far that is.
    async fn with_progress<T>(
        &self,
        reference: &str,
        scope: Scope,
        inputs: &mpsc::Sender<Input>,
        job: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(job);
        let mut reported = false;
        loop {
            tokio::select! {
                done = &mut job => {
                    if reported {
                        let _ = inputs.send(Input::Progress(scope, None)).await;
                    }
                    return done;
                }
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    if let Some(text) = self.images.progress(reference) {
                        reported = true;
                        let _ = inputs.send(Input::Progress(scope.clone(), Some(text))).await;
                    }
                }
            }
        }
    }
}

fn name_is_taken(name: &str) -> String {
    format!(
        "the name {name} is held by a container that dokkaa did not start; `docker rename` or `docker rm` it"
    )
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
