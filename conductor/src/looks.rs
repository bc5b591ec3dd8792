//! Looks at running instances: whether they take traffic, and what they said before they ended.
//!
//! One task per running process, as `readiness` says when. A task ends with its
//! process, and what it says counts only for that process.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use manifests::{InstanceId, Manifest};
use model::observed::ObservedContainer;
use store::host::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::readiness::{Criterion, Watch, look};
use crate::run::Event;
use engine::{Engine, LogOptions};
use model::error::chain;

/// Lines of an ended instance that are kept to say why.
const LAST_LINES: u32 = 10;
/// Longest of those lines, in characters.
const LINE: usize = 400;

/// The looks under way.
pub(crate) struct Looks {
    engine: Arc<dyn Engine>,
    events: mpsc::Sender<Event>,
    clock: Clock,
    running: BTreeMap<InstanceId, Running>,
}

struct Running {
    started_at: i64,
    container: watch::Sender<ObservedContainer>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Looks {
    /// None yet.
    pub(crate) fn new(engine: Arc<dyn Engine>, events: mpsc::Sender<Event>, clock: Clock) -> Self {
        Self {
            engine,
            events,
            clock,
            running: BTreeMap::new(),
        }
    }

    /// These run now, each made from that manifest.
    pub(crate) fn follow(&mut self, now: BTreeMap<InstanceId, (ObservedContainer, Arc<Manifest>)>) {
        self.running.retain(|instance, running| {
            now.get(instance)
                .and_then(|(container, _)| container.running())
                .is_some_and(|process| process.started_at == running.started_at)
        });
        for (instance, (container, manifest)) in now {
            let Some(process) = container.running() else {
                continue;
            };
            if let Some(running) = self.running.get(&instance) {
                // Docker's verdict on its health may be new.
                running.container.send_if_modified(|before| {
                    let changed = *before != container;
                    if changed {
                        *before = container;
                    }
                    changed
                });
                continue;
            }
            let now = self.clock.now();
            let watch = Watch::new(Criterion::of(&container, &manifest), process, now);
            let started_at = process.started_at;
            let (sender, receiver) = watch::channel(container);
            let task = tokio::spawn(follow_one(
                self.engine.clone(),
                self.clock,
                watch,
                receiver,
                self.events.clone(),
            ));
            self.running.insert(
                instance,
                Running {
                    started_at,
                    container: sender,
                    task,
                },
            );
        }
    }
}

async fn follow_one(
    engine: Arc<dyn Engine>,
    clock: Clock,
    mut watch: Watch,
    mut container: watch::Receiver<ObservedContainer>,
    events: mpsc::Sender<Event>,
) {
    let mut told = None;
    loop {
        let now = container.borrow_and_update().clone();
        let Some(process) = now.running() else { return };
        if let Some(why) = now.cut_off() {
            // The loop sees that by itself; there is nothing to look at until it changes.
            watch.cut_off(why);
            told = None;
            if container.changed().await.is_err() {
                return;
            }
            watch.look_now(clock.now());
            continue;
        }
        let wait = watch.next_look() - clock.now();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = container.changed() => {
                if changed.is_err() {
                    return;
                }
                watch.look_now(clock.now());
                continue;
            }
        }
        let instance = &now.owner.instance;
        match look(engine.as_ref(), &now, watch.criterion(), clock.wall()).await {
            Ok(seen) => {
                watch.looked(seen, clock.now());
            }
            Err(error) => {
                let why = chain(&error);
                if watch.failed(why.clone(), clock.now()) {
                    tracing::warn!(%instance, slot = %now.owner.slot, error = why, "it can't be looked at: what is known of its readiness stays");
                }
            }
        }
        let says = (watch.readiness().clone(), watch.reason().map(str::to_owned));
        if told.as_ref() != Some(&says) {
            let (readiness, reason) = says.clone();
            let said = Event::Look {
                instance: instance.clone(),
                started_at: process.started_at,
                readiness,
                reason,
            };
            told = Some(says);
            if events.send(said).await.is_err() {
                return;
            }
        }
    }
}

/// What an ended instance wrote last.
pub(crate) async fn last_lines(
    engine: Arc<dyn Engine>,
    instance: InstanceId,
    docker_id: String,
    events: mpsc::Sender<Event>,
) {
    let options = LogOptions {
        tail: Some(LAST_LINES),
        ..LogOptions::default()
    };
    let mut lines = Vec::new();
    match engine.logs(&docker_id, options).await {
        Ok(mut chunks) => {
            while let Some(Ok(chunk)) = chunks.next().await {
                let text = String::from_utf8_lossy(&chunk.bytes);
                lines.extend(text.lines().map(|line| line.chars().take(LINE).collect()));
            }
        }
        Err(error) => {
            tracing::debug!(%instance, error = %chain(&error), "its last lines can't be read");
            return;
        }
    }
    // Without a loop there is nobody to tell.
    let _ = events.send(Event::Log(instance, lines)).await;
}
