//! Probes running instances: whether they take traffic, and what they said before they ended.
//!
//! One task per running process, as `readiness` says when. A task ends with its
//! process, and what it says counts only for that process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::{Input, Probe, ProbeResult};
use futures_util::StreamExt;
use manifests::InstanceId;
use model::observed::{ObservedContainer, Readiness};
use store::host::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::readiness::{Criterion, Watch, look};
use engine::{Engine, LogOptions};
use model::error::chain;

/// Lines of an ended instance that are kept to say why.
const LAST_LINES: u32 = 10;
/// Longest of those lines, in characters.
const LINE: usize = 400;
/// The engine itself says that a process has ended, and how. After so long without a word of it, it is known all the same.
const WORD: Duration = Duration::from_secs(2);

/// The probes under way.
pub(crate) struct Probes {
    engine: Arc<dyn Engine>,
    inputs: mpsc::Sender<Input>,
    clock: Clock,
    running: BTreeMap<InstanceId, Running>,
}

struct Running {
    started_at: i64,
    looked_at: watch::Sender<(ObservedContainer, Criterion)>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// None yet.
    pub(crate) fn new(engine: Arc<dyn Engine>, inputs: mpsc::Sender<Input>, clock: Clock) -> Self {
        Self {
            engine,
            inputs,
            clock,
            running: BTreeMap::new(),
        }
    }

    /// Probes an instance that runs; one that is probed already may have changed.
    pub(crate) fn probe(&mut self, probe: Probe) {
        let Probe {
            container,
            manifest,
        } = probe;
        let Some(process) = container.running() else {
            return;
        };
        let (instance, started_at) = (container.owner.instance.clone(), process.started_at);
        let criterion = Criterion::of(&container, &manifest);
        if let Some(running) = self.running.get(&instance)
            && running.started_at == started_at
        {
            // Docker's verdict on its health may be new, or what makes it ready another.
            running.looked_at.send_replace((container, criterion));
            return;
        }
        let watch = Watch::new(criterion.clone(), process, self.clock.now());
        let ended = Ended {
            instance: instance.clone(),
            started_at,
            pid: process.pid,
        };
        let (sender, receiver) = watch::channel((container, criterion));
        let looks = follow_one(
            self.engine.clone(),
            self.clock,
            watch,
            receiver,
            self.inputs.clone(),
        );
        let (engine, inputs) = (self.engine.clone(), self.inputs.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = looks => {}
                () = ended.seen(engine.as_ref(), &inputs) => {}
            }
        });
        let running = Running {
            started_at,
            looked_at: sender,
            task,
        };
        self.running.insert(instance, running);
    }

    /// Its process has ended.
    pub(crate) fn end(&mut self, instance: &InstanceId) {
        self.running.remove(instance);
    }
}

/// A process, the end of which the kernel tells: an engine that is away says nothing, and what it ran may be gone.
struct Ended {
    instance: InstanceId,
    started_at: i64,
    pid: u32,
}

impl Ended {
    /// Waits until the process has ended without a word from the engine, and says that it takes no traffic.
    async fn seen(self, engine: &dyn Engine, inputs: &mpsc::Sender<Input>) {
        if let Err(error) = engine.process_ended(self.pid).await {
            tracing::debug!(instance = %self.instance, error = %chain(&error), "its end is known from the engine alone");
            return std::future::pending().await;
        }
        tokio::time::sleep(WORD).await;
        let why = "its process has ended, and the Docker Engine has not said how".to_owned();
        let said = ProbeResult {
            instance: self.instance,
            started_at: self.started_at,
            readiness: Readiness::Unready(why.clone()),
            reason: Some(why),
        };
        // Without a loop there is nobody to tell.
        let _ = inputs.send(Input::Probed(said)).await;
    }
}

async fn follow_one(
    engine: Arc<dyn Engine>,
    clock: Clock,
    mut watch: Watch,
    mut looked_at: watch::Receiver<(ObservedContainer, Criterion)>,
    inputs: mpsc::Sender<Input>,
) {
    let mut told = None;
    loop {
        let (now, criterion) = looked_at.borrow_and_update().clone();
        watch.judge_by(criterion, clock.now());
        let Some(process) = now.running() else { return };
        if let Some(why) = now.cut_off() {
            // The loop sees that by itself; there is nothing to look at until it changes.
            watch.cut_off(why);
            told = None;
            if looked_at.changed().await.is_err() {
                return;
            }
            watch.look_now(clock.now());
            continue;
        }
        let wait = watch.next_look() - clock.now();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = looked_at.changed() => {
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
            let said = ProbeResult {
                instance: instance.clone(),
                started_at: process.started_at,
                readiness,
                reason,
            };
            told = Some(says);
            if inputs.send(Input::Probed(said)).await.is_err() {
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
    inputs: mpsc::Sender<Input>,
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
    let _ = inputs.send(Input::LastLines(instance, lines)).await;
}
