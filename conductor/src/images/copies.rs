//! Images that come from other hosts of the cluster, and go to them.
//!
//! Bytes pass through from one engine to the other; nothing keeps them. A host
//! that has got an image serves it on, so that the more hosts have it, the more
//! can get it at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::{Archive, EngineError, HostFault, Image};
use futures_util::{FutureExt, StreamExt, stream};
use manifests::HostName;
use model::images::{OfferedImage, WantedImage};
use tokio::time::{Instant, sleep};

use super::progress::Doing;
use super::{Images, Inner, part_of};

/// Other hosts that may fetch images here at a time.
pub(super) const SERVED: usize = 4;
/// Hosts that are asked at a time.
const ASKED: usize = 8;
/// First and longest pause before busy hosts are asked again.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The other hosts of the cluster.
#[async_trait]
pub trait OtherHosts: Send + Sync + 'static {
    /// Those that can be asked; first those that run containers of the image.
    fn hosts(&self, image: &str) -> Vec<HostName>;

    /// Whether it has the image.
    async fn offer(
        &self,
        host: &HostName,
        wanted: &WantedImage,
    ) -> Result<Option<OfferedImage>, String>;

    /// An image by its id there, as an archive; none while it serves as many others as it may.
    async fn archive(&self, host: &HostName, image_id: &str) -> Result<Option<Archive>, String>;
}

/// What the other hosts say.
enum Asked {
    Free(HostName, OfferedImage),
    Busy(Vec<HostName>),
    Nobody,
}

/// Why an image did not come from a host.
enum Failed {
    /// It serves as many others as it may.
    Busy,
    /// Something is wrong there, or on the way; another host may do better.
    There(String),
    /// Something is wrong here.
    Here(EngineError),
}

impl Images {
    /// An image of this host that another one asks for.
    pub async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, EngineError> {
        let Some((image, _)) = self.shared.find(wanted).await? else {
            return Ok(None);
        };
        let any = wanted.id.is_none() && wanted.content.is_none();
        let name = engine::parse_reference(&wanted.name)?;
        Ok(Some(OfferedImage {
            in_registry: any && self.shared.pin(&image, &name, false).await.is_some(),
            busy: self.shared.serving.available_permits() == 0,
            id: image.id,
            content: image.content,
            bytes: image.bytes,
            created: image.created,
        }))
    }

    /// An image of this host as an archive, for another host; none while enough others are served.
    pub async fn archive(&self, image_id: &str) -> Result<Option<Archive>, EngineError> {
        let Ok(permit) = self.shared.serving.clone().try_acquire_owned() else {
            return Ok(None);
        };
        if self.shared.engine.image(image_id).await?.is_none() {
            return Err(EngineError::NotFound(format!("no image {image_id} here")));
        }
        let archive = self.shared.engine.save(image_id).await?;
        Ok(Some(Box::pin(archive.inspect(move |_| {
            // Given back when the archive has ended or nobody wants it any more.
            let _held = &permit;
        }))))
    }

    /// What another host knows by this name, brought here: the image that was made last. With `in_registry` also one
    /// that could be pulled.
    pub(super) async fn of_other_host(
        &self,
        name: &str,
        in_registry: bool,
    ) -> Result<Option<Image>, EngineError> {
        let Some(others) = self.shared.others.get() else {
            return Ok(None);
        };
        let any = WantedImage {
            name: name.to_owned(),
            ..WantedImage::default()
        };
        let offers = ask(others.as_ref(), &any, &BTreeSet::new()).collect::<Vec<_>>();
        let newest = offers
            .await
            .into_iter()
            .filter(|(_, offer)| in_registry || !offer.in_registry)
            .max_by(|(host, offer), (other, than)| {
                (offer.created, other).cmp(&(than.created, host))
            });
        let Some((_, offer)) = newest else {
            return Ok(None);
        };
        let wanted = WantedImage {
            id: Some(offer.id),
            content: Some(offer.content),
            ..any
        };
        self.copied(&wanted).await
    }

    /// Fetches an image from another host, once for all who wait for it; none if no host has it.
    pub(super) async fn copied(&self, wanted: &WantedImage) -> Result<Option<Image>, EngineError> {
        let Some(others) = self.shared.others.get().cloned() else {
            return Ok(None);
        };
        let key = wanted.content.as_ref().or(wanted.id.as_ref());
        let key = key.unwrap_or(&wanted.name);
        let begin = || copy(self.shared.clone(), others, wanted.clone()).boxed();
        self.shared.copies.join(key, begin).await
    }
}

async fn copy(
    shared: Arc<Inner>,
    others: Arc<dyn OtherHosts>,
    wanted: WantedImage,
) -> Result<Option<Image>, EngineError> {
    let copied = copy_from_any(&shared, others.as_ref(), &wanted).await;
    shared.progress.end(&wanted.name);
    if let Err(error) = &copied {
        shared.told(error);
    }
    copied
}

async fn copy_from_any(
    shared: &Arc<Inner>,
    others: &dyn OtherHosts,
    wanted: &WantedImage,
) -> Result<Option<Image>, EngineError> {
    let mut failed = BTreeSet::new();
    let mut pause = PAUSE;
    loop {
        match who_has(others, wanted, &failed).await {
            Asked::Nobody => return Ok(None),
            Asked::Busy(hosts) => shared.progress.set(&wanted.name, Doing::Waits(hosts)),
            Asked::Free(host, offer) => match fetch(shared, others, wanted, &host, offer).await {
                Ok(image) => return Ok(Some(image)),
                Err(Failed::Here(error)) => return Err(error),
                Err(Failed::There(why)) => {
                    tracing::warn!(image = wanted.name, %host, why, "not copied from this host");
                    failed.insert(host);
                    continue;
                }
                // Another one was quicker.
                Err(Failed::Busy) => {}
            },
        }
        // Those who wait do not all ask at the same moment.
        sleep(pause / 2 + part_of(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The first host that has it and is free, or all that are busy.
async fn who_has(
    others: &dyn OtherHosts,
    wanted: &WantedImage,
    without: &BTreeSet<HostName>,
) -> Asked {
    let mut busy = Vec::new();
    let mut offers = ask(others, wanted, without);
    while let Some((host, offer)) = offers.next().await {
        if !wanted.is(&offer.id, &offer.content) {
            continue;
        }
        if !offer.busy {
            return Asked::Free(host, offer);
        }
        busy.push(host);
    }
    if busy.is_empty() {
        Asked::Nobody
    } else {
        Asked::Busy(busy)
    }
}

/// Asks the other hosts, and gives the offers of those that have it as they come.
fn ask<'a>(
    others: &'a dyn OtherHosts,
    wanted: &'a WantedImage,
    without: &BTreeSet<HostName>,
) -> stream::BoxStream<'a, (HostName, OfferedImage)> {
    let mut hosts = others.hosts(&wanted.name);
    hosts.retain(|host| !without.contains(host));
    stream::iter(hosts)
        .map(async move |host| {
            let offer = others.offer(&host, wanted).await;
            if let Err(why) = &offer {
                tracing::debug!(%host, why, "it does not say which images it has");
            }
            offer.ok().flatten().map(|offer| (host, offer))
        })
        .buffer_unordered(ASKED)
        .filter_map(async |offer| offer)
        .boxed()
}

async fn fetch(
    shared: &Arc<Inner>,
    others: &dyn OtherHosts,
    wanted: &WantedImage,
    host: &HostName,
    offer: OfferedImage,
) -> Result<Image, Failed> {
    let _slot = shared.slots.acquire().await.map_err(|_| {
        let ends = "the agent ends".to_owned();
        Failed::Here(EngineError::Engine(ends))
    })?;
    let archive = others.archive(host, &offer.id).await;
    let archive = archive.map_err(Failed::There)?.ok_or(Failed::Busy)?;
    let begun = Instant::now();
    tracing::info!(image = wanted.name, %host, "copying");
    let broken = Arc::new(Mutex::new(None));
    let archive = {
        let (shared, broken) = (shared.clone(), broken.clone());
        let (name, host) = (wanted.name.clone(), host.clone());
        let mut done = 0;
        archive.inspect(move |chunk| match chunk {
            Ok(bytes) => {
                done += bytes.len() as u64;
                let from = host.clone();
                let size = offer.bytes;
                let doing = Doing::Copies { from, done, size };
                shared.progress.set(&name, doing);
            }
            Err(error) => {
                let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
                *broken = Some(error.to_string());
            }
        })
    };
    let loaded = shared.engine.load(Box::pin(archive)).await;
    // The engine calls an archive that ends early its own failure.
    if let Some(why) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(Failed::There(why));
    }
    let id = loaded.map_err(|error| match error {
        EngineError::HostFault { .. } | EngineError::Unresponsive(_) => Failed::Here(error),
        error => Failed::There(format!("what it sent can't be loaded: {error}")),
    })?;
    let image = shared.engine.image(&id).await.map_err(Failed::Here)?;
    let image = image
        .filter(|image| image.content == offer.content)
        .ok_or_else(|| Failed::There("it sent another image".to_owned()))?;
    shared.keep(wanted, &image).await.map_err(Failed::Here)?;
    tracing::info!(
        image = wanted.name,
        %host,
        id,
        seconds = begun.elapsed().as_secs_f32(),
        "copied"
    );
    Ok(image)
}

impl Inner {
    /// Gives an image that came from another host its name, unless that means another image here, and notes it as one
    /// that may be removed.
    async fn keep(&self, wanted: &WantedImage, image: &Image) -> Result<(), EngineError> {
        if !image.names.is_empty() {
            // It was here before, and is somebody else's.
            return Ok(());
        }
        let name = engine::parse_reference(&wanted.name)?;
        let is_free = name.digest.is_none() && self.engine.image(&wanted.name).await?.is_none();
        if is_free {
            self.engine.tag(&image.id, &wanted.name).await?;
        }
        let given = is_free.then(|| name.familiar());
        self.record.add_copy(image, given);
        Ok(())
    }

    /// A pull or a copy found no room.
    pub(super) fn told(&self, error: &EngineError) {
        if let EngineError::HostFault {
            fault: HostFault::NoSpace,
            ..
        } = error
        {
            self.no_room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
