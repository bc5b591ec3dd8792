//! Makes room on the disk of the Docker Engine, and tells how full it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::disk::{DiskLimits, DiskReport, DiskUsage, LocalImage, images_of, images_to_remove};
use tokio_util::sync::CancellationToken;

use super::{Images, record};
use crate::published::Published;
use engine::{Engine, EngineError};

/// How often the disk is looked at.
const EVERY: Duration = Duration::from_secs(30);

/// Looks at the disk until it is told to stop, and after each pull that found no room: from `limits.collect` on it
/// removes images, one after the other, as long as that helps. `tell` gets what the host's record should say of the disk,
/// whenever that changes; `told` is what it says already.
pub async fn run(
    images: Images,
    published: Arc<Published>,
    limits: DiskLimits,
    told: DiskReport,
    tell: impl Fn(DiskReport) + Send + Sync,
    stop: CancellationToken,
) {
    let mut collector = Collector {
        images,
        published,
        limits,
        tell,
        told,
        helpless: false,
    };
    let mut pull_failed = false;
    loop {
        if let Err(error) = collector.look(pull_failed).await {
            tracing::debug!(%error, "how full the disk is can't be seen");
        }
        pull_failed = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => false,
            () = collector.images.shared.no_room.notified() => true,
        };
    }
}

struct Collector<F> {
    images: Images,
    published: Arc<Published>,
    limits: DiskLimits,
    tell: F,
    /// What was told last.
    told: DiskReport,
    /// It was said that the disk is too full and nothing is left to remove.
    helpless: bool,
}

impl<F: Fn(DiskReport)> Collector<F> {
    fn engine(&self) -> &dyn Engine {
        self.images.shared.engine.as_ref()
    }

    /// One look, and what follows from it. A pull that found no room makes one image go even below the limit: what it
    /// had fetched is gone again, so that the disk looks emptier than it has to be.
    async fn look(&mut self, pull_failed: bool) -> Result<(), EngineError> {
        let usage = self.see().await?;
        if !pull_failed && !self.is_too_full(usage) {
            self.helpless = false;
            return Ok(());
        }
        let Some(wanted) = self.wanted() else {
            return Ok(());
        };
        let usage = self.make_room(usage, &wanted, pull_failed).await?;
        let helpless = self.is_too_full(usage);
        if helpless
            && !self.helpless
            && let Some(usage) = usage
        {
            tracing::warn!(
                percent = usage.percent(),
                "the disk of the Docker Engine is too full, and no image is left that this agent pulled and nobody \
                 needs; `docker system df` shows what takes the room"
            );
        }
        self.helpless = helpless;
        Ok(())
    }

    /// How full the disk is, told where that is worth it.
    async fn see(&mut self) -> Result<Option<DiskUsage>, EngineError> {
        let usage = self.engine().disk_usage().await?;
        let report = self.told.after(usage.map(DiskUsage::percent), self.limits);
        if report != self.told {
            self.told = report;
            (self.tell)(report);
        }
        Ok(usage)
    }

    fn is_too_full(&self, usage: Option<DiskUsage>) -> bool {
        usage.is_some_and(|usage| usage.percent() >= self.limits.collect)
    }

    /// Names and ids of the images that the cluster needs; none while that is not known.
    fn wanted(&self) -> Option<BTreeSet<String>> {
        let seen = self.published.seen.load();
        let seen = seen.as_ref().as_ref()?;
        seen.distrust.is_none().then(|| images_of(&seen.snapshot))
    }

    /// Removes images until the disk is not too full any more, and at least one if `one` says so.
    async fn make_room(
        &mut self,
        mut usage: Option<DiskUsage>,
        wanted: &BTreeSet<String>,
        mut one: bool,
    ) -> Result<Option<DiskUsage>, EngineError> {
        let here = self.engine().images().await?;
        self.images.shared.record.keep_only(&here);
        let pulled = self.images.shared.record.pulled();
        for image in images_to_remove(&here, &pulled, wanted, record::now()) {
            if !one && !self.is_too_full(usage) {
                break;
            }
            match self.engine().remove_image(image).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::debug!(image = name(image), "not removed: still in use");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(image = name(image), %error, "not removed, though room is needed");
                    if matches!(error, EngineError::Unresponsive(_)) {
                        break;
                    }
                    // Another one may go.
                    continue;
                }
            }
            one = false;
            let before = usage;
            usage = self.see().await?;
            let used = |usage: Option<DiskUsage>| usage.map_or(0, |usage| usage.used);
            tracing::info!(
                image = name(image),
                bytes = used(before).saturating_sub(used(usage)),
                percent = usage.map(DiskUsage::percent),
                "removed an image that nobody needs, to make room"
            );
        }
        Ok(usage)
    }
}

/// For people.
fn name(image: &LocalImage) -> &str {
    image.names.first().unwrap_or(&image.id)
}

#[cfg(test)]
mod tests;
