//! Carries out what `View` says, on a `Kv`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use manifests::keys::Key;
use model::Millis;
use model::records::Cluster;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Answer, FirstRead, Step, Trust, UpdateSender, View, ViewInputs, ViewOptions, file, watched,
};
use crate::kv::{Kv, KvError, Range, Watch, WatchReply};

/// How often the view looks at the time while something is under way in it.
const TICK: Duration = Duration::from_millis(500);
/// Most replies of a stream that are taken in before the reader hears of them.
const AT_ONCE: usize = 64;
/// How often a changed view is saved.
const SAVE: Duration = Duration::from_secs(3);

/// Follows the watched range until `stop`, and gives each change to `out`; the saved view, if any, at once.
///
/// Spawns nothing that outlives it. At the end the view is saved once more.
pub async fn run_view(
    kv: Arc<dyn Kv>,
    mut options: ViewOptions,
    mut inputs: ViewInputs,
    out: UpdateSender,
    stop: CancellationToken,
) {
    if options.seed == 0 {
        options.seed = uuid::Uuid::new_v4().as_u64_pair().0;
    }
    let start = Instant::now();
    let now = || Millis(start.elapsed().as_millis() as u64);
    let mut driver = Driver {
        view: View::new(&options, now()),
        path: options.file.clone(),
        kv,
        out,
        stream: None,
        endpoint: 0,
        trust: Trust::Trusted,
        saved: options
            .saved
            .as_ref()
            .map_or((0, 0), |saved| (saved.cluster.epoch, saved.revision)),
        failing: false,
    };
    let mut save_at = start;
    inputs.seen.mark_changed();
    inputs.floor.mark_changed();
    loop {
        driver.publish().await;
        let step = driver.view.step();
        if step == Step::Follow {
            driver.failing = false;
            driver.out.fails(None);
            let unsaved = driver.is_unsaved();
            let Some(stream) = driver.stream.as_mut() else {
                driver.view.answer(Answer::Failed, now());
                continue;
            };
            if driver.view.take_progress_request() {
                // A full channel means that one is under way already.
                let _ = stream.progress.try_send(());
            }
            // A view at rest sets no timer but that of its next look at etcd.
            let tick = match driver.view.rests_until() {
                Some(at) => (start + (at - Millis(0))).max(Instant::now() + TICK),
                None => Instant::now() + TICK,
            };
            // Each arm only takes a message or nothing: dropped halfway, none is lost.
            tokio::select! {
                () = stop.cancelled() => break,
                reply = stream.replies.recv() => {
                    let reply = reply.unwrap_or_else(|| WatchReply::Closed("the watch ended".into()));
                    let (mut next, mut taken) = (Some(reply), 0);
                    // What waits behind it is taken in with it: one update costs less than one for each.
                    while let Some(reply) = next.take() {
                        if let WatchReply::Closed(reason) = &reply {
                            debug!(reason, "watch closed");
                        }
                        driver.view.answer(Answer::Reply(reply), now());
                        taken += 1;
                        if taken < AT_ONCE && driver.view.step() == Step::Follow {
                            next = stream.replies.try_recv().ok();
                        }
                    }
                }
                Ok(()) = inputs.seen.changed() => {
                    let seen = *inputs.seen.borrow_and_update();
                    driver.view.seen(seen, now());
                }
                Ok(()) = inputs.floor.changed() => {
                    let floor = *inputs.floor.borrow_and_update();
                    driver.view.floor(floor);
                }
                () = tokio::time::sleep_until(tick) => driver.view.tick(now()),
                () = tokio::time::sleep_until(save_at), if unsaved => {
                    driver.save().await;
                    save_at = Instant::now() + SAVE;
                }
            }
            continue;
        }
        let answer = tokio::select! {
            () = stop.cancelled() => break,
            answer = driver.carry_out(step) => answer,
        };
        driver.view.floor(*inputs.floor.borrow_and_update());
        driver.view.answer(answer, now());
    }
    driver.save().await;
}

struct Driver {
    view: View,
    /// Where the view is saved every few seconds when it has changed.
    path: Option<PathBuf>,
    kv: Arc<dyn Kv>,
    out: UpdateSender,
    stream: Option<Watch>,
    /// Where the first read of this connect went.
    endpoint: u64,
    /// What was logged last.
    trust: Trust,
    /// Epoch and revision of what is on disk.
    saved: (u64, i64),
    failing: bool,
}

impl Driver {
    async fn publish(&mut self) {
        let Some(update) = self.view.take_update() else {
            return;
        };
        if !update.trust.is_trusted() {
            // Whoever hears of a hold finds the view before it on disk: an older one may be part of a history that
            // this one is not part of.
            self.save().await;
        }
        if update.trust != self.trust {
            match &update.trust {
                Trust::Trusted => info!("etcd is the known one again"),
                Trust::Distrust(reason) => {
                    warn!(%reason, "etcd is not the one that is known: nothing is changed");
                }
            }
            self.trust = update.trust.clone();
        }
        if let Some(cluster) = &update.accepted {
            info!(
                epoch = cluster.epoch,
                "a restore was accepted: what this etcd has counts from now on"
            );
        }
        debug!(
            revision = update.snapshot.revision,
            containers = update.touched.containers.len(),
            hosts = update.touched.hosts.len(),
            resync = update.resync,
            complete = update.complete,
            stale = update.stale,
            "view"
        );
        self.out.send(update);
    }

    async fn carry_out(&mut self, step: Step) -> Answer {
        match self.ask(step).await {
            // What is proven of one etcd says nothing of another, whatever their own ids say: those that were set up
            // alike, or restored with the same token, have the same.
            Ok(_) if self.kv.stream_endpoint() != self.endpoint => {
                debug!("etcd's endpoint has changed on the way");
                Answer::Failed
            }
            // Nor does a proof say anything of a stream that has ended before it: that may be another etcd's.
            Ok(answer) => self.ended().map_or(answer, Answer::Reply),
            Err(KvError::Compacted) => Answer::Compacted,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let why = source
                    .as_ref()
                    .map_or_else(|| error.to_string(), Clone::clone);
                self.out.fails(Some(why));
                // Said once, however long it lasts.
                if std::mem::replace(&mut self.failing, true) {
                    debug!(%error, source, "etcd can't be followed");
                } else {
                    warn!(%error, source, "etcd can't be followed; trying again");
                }
                Answer::Failed
            }
        }
    }

    /// What the stream said at last, if it has ended; what it said before is not looked at.
    fn ended(&mut self) -> Option<WatchReply> {
        let stream = self.stream.as_mut().filter(|s| s.replies.is_closed())?;
        let mut last = WatchReply::Closed("the watch ended".into());
        while let Ok(reply) = stream.replies.try_recv() {
            last = reply;
        }
        Some(last)
    }

    async fn ask(&mut self, step: Step) -> Result<Answer, KvError> {
        match step {
            Step::Read { avoid } => {
                self.stream = None;
                tokio::time::sleep(self.view.pause()).await;
                if avoid {
                    self.kv.avoid_stream_endpoint();
                }
                self.endpoint = self.kv.stream_endpoint();
                let reply = self.kv.range_at_stream(Range::key(Key::Cluster)).await?;
                let cluster: Option<Cluster> = reply
                    .kvs
                    .first()
                    .and_then(|kv| serde_json::from_slice(&kv.value).ok());
                Ok(Answer::Read(FirstRead {
                    cluster,
                    revision: reply.revision,
                }))
            }
            Step::Range(range) => Ok(Answer::Page(self.kv.range_at_stream(range).await?)),
            Step::Watch { from } => {
                self.stream = Some(self.kv.watch(watched(), from, false).await?);
                Ok(Answer::Opened)
            }
            Step::Follow => Ok(Answer::Failed),
        }
    }

    /// What is on disk is another view.
    fn is_unsaved(&self) -> bool {
        let position = self.view.position();
        self.path.is_some() && position != self.saved && position.1 != 0
    }

    /// A view that can't be saved costs a list at the next start, nothing else: said, and tried again.
    async fn save(&mut self) {
        let Some(path) = self.path.clone().filter(|_| self.is_unsaved()) else {
            return;
        };
        let position = self.view.position();
        let saved = self.view.saved();
        let written = tokio::task::spawn_blocking(move || file::save(&saved, &path)).await;
        match written {
            Ok(Ok(())) => self.saved = position,
            Ok(Err(error)) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, source, "the view is not saved");
            }
            Err(error) => warn!(%error, "the view is not saved"),
        }
    }
}
