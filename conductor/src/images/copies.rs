//! Images that come from other hosts of the cluster, and go to them.
//!
//! A host that receives an image passes it on while it comes, and each serves
//! one other as long as there is one that serves nobody: the hosts become a
//! chain, and each link carries the image about once. What can't be passed on
//! that way (no room, an older agent) is served on when it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::{Archive, EngineError, HostFault, Image};
use futures_util::{FutureExt, StreamExt, TryFutureExt, stream};
use manifests::HostName;
use model::images::{OfferedImage, WantedArchive, WantedImage};
use tokio::time::{Instant, sleep};

use super::progress::Doing;
use super::serving::SERVED;
use super::{Images, Inner, part_of, relays};

/// Hosts that are asked at a time.
const ASKED: usize = 8;
/// First and longest pause before busy hosts are asked again: a new link of a chain is found after the first, divided by
/// those who look for it.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Who has come to this pause without another source takes one that serves others.
const CROWDED: Duration = Duration::from_secs(2);
/// Copies from one host that may break off while it receives the image itself: the fault is mostly another's.
const BREAKS: u32 = 3;

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

    /// An image as an archive; none while it serves as many others as it may.
    async fn archive(
        &self,
        host: &HostName,
        wanted: &WantedArchive,
    ) -> Result<Option<Archive>, String>;
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
    /// It can't be kept here to be passed on.
    Spool(std::io::Error),
    /// Something is wrong here.
    Here(EngineError),
}

impl Images {
    /// An image of this host that another one asks for.
    pub async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, EngineError> {
        let (serving, relays) = (&self.shared.serving, &self.shared.relays);
        let Some((image, _)) = self.shared.find(wanted).await? else {
            let relay = relays.of_image(wanted);
            return Ok(relay.map(|relay| OfferedImage {
                receiving: true,
                in_registry: false,
                busy: serving.is_full(),
                serving: serving.of(&relay.offer.content),
                ..relay.offer.clone()
            }));
        };
        let any = wanted.id.is_none() && wanted.content.is_none();
        let name = engine::parse_reference(&wanted.name)?;
        Ok(Some(OfferedImage {
            in_registry: any && self.shared.pin(&image, &name, None).await.is_some(),
            busy: serving.is_full(),
            receiving: false,
            serving: serving.of(&image.content),
            id: image.id,
            content: image.content,
            bytes: image.bytes,
            created: image.created,
        }))
    }

    /// An image of this host as an archive, for another host; none while enough others are served.
    pub async fn archive(&self, wanted: &WantedArchive) -> Result<Option<Archive>, EngineError> {
        let (shared, id) = (&self.shared, &wanted.id);
        let relay = shared.relays.of_id(id);
        let content = match &relay {
            Some(relay) => relay.offer.content.clone(),
            None => match shared.engine.image(id).await? {
                Some(image) => image.content,
                None => return Err(EngineError::NotFound(format!("no image {id} here"))),
            },
        };
        let beside = wanted.beside.unwrap_or(SERVED);
        let Some(served) = shared.serving.begin(&content, beside) else {
            return Ok(None);
        };
        let archive = match relay {
            Some(relay) => relay.spool.read(),
            None => shared.engine.save(id).await?,
        };
        Ok(Some(Box::pin(archive.inspect(move |_| {
            // Given back when the archive has ended or nobody wants it any more.
            let _held = &served;
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
        // It may be here already, under other names.
        match self.shared.find_by_id(&wanted).await? {
            Some(image) => Ok(Some(image)),
            None => self.copied(&wanted).await,
        }
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
    let since = Instant::now();
    let mut broken = Broken::default();
    let mut pause = PAUSE;
    let mut sources = 0;
    let mut pass_on = true;
    loop {
        let beside = if pause < CROWDED { 0 } else { SERVED - 1 };
        match who_has(others, wanted, &broken.given_up, beside).await {
            Asked::Nobody => return Ok(None),
            Asked::Busy(hosts) => {
                // Where another has begun to receive it, the next one may soon.
                if hosts.len() > sources {
                    pause = PAUSE;
                }
                sources = hosts.len();
                let waits = Doing::Waits { on: hosts, since };
                shared.progress.set(&wanted.name, waits);
            }
            Asked::Free(host, offer) => {
                let source = Source {
                    host,
                    offer,
                    beside,
                    pass_on,
                };
                match fetch(shared, others, wanted, &source).await {
                    Ok(image) => return Ok(Some(image)),
                    Err(Failed::Here(error)) => return Err(error),
                    Err(Failed::Spool(error)) => {
                        tracing::warn!(image = wanted.name, %error, "copied again, without passing it on");
                        pass_on = false;
                        continue;
                    }
                    Err(Failed::There(why)) => {
                        let host = &source.host;
                        tracing::warn!(image = wanted.name, %host, why, "not copied from this host");
                        broken.add(source);
                    }
                    // Another one was quicker, and will soon pass it on.
                    Err(Failed::Busy) => {}
                }
                pause = PAUSE;
            }
        }
        // Those who wait do not all ask at the same moment.
        sleep(pause / 2 + part_of(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Hosts from which copies broke off.
#[derive(Default)]
struct Broken {
    breaks: BTreeMap<HostName, u32>,
    given_up: BTreeSet<HostName>,
}

impl Broken {
    fn add(&mut self, source: Source) {
        let breaks = self.breaks.entry(source.host.clone()).or_default();
        *breaks += 1;
        if !source.offer.receiving || *breaks >= BREAKS {
            self.given_up.insert(source.host);
        }
    }
}

/// The first host that has it and serves nobody else, or the one that serves the fewest, at most `beside`; else all that
/// have it.
async fn who_has(
    others: &dyn OtherHosts,
    wanted: &WantedImage,
    without: &BTreeSet<HostName>,
    beside: u32,
) -> Asked {
    let mut taken = Vec::new();
    let mut offers = ask(others, wanted, without);
    while let Some((host, offer)) = offers.next().await {
        if !wanted.is(&offer.id, &offer.content) {
            continue;
        }
        if !offer.busy && offer.serving == 0 {
            return Asked::Free(host, offer);
        }
        taken.push((host, offer));
    }
    if taken.is_empty() {
        return Asked::Nobody;
    }
    let free = taken.iter().filter(|(_, offer)| !offer.busy);
    let least = free.min_by_key(|(_, offer)| offer.serving);
    match least.filter(|(_, offer)| offer.serving <= beside) {
        Some((host, offer)) => Asked::Free(host.clone(), offer.clone()),
        None => Asked::Busy(taken.into_iter().map(|(host, _)| host).collect()),
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

/// Whom an image is fetched from, and how.
struct Source {
    host: HostName,
    offer: OfferedImage,
    /// Only while it serves at most so many others.
    beside: u32,
    /// Others get it while it comes.
    pass_on: bool,
}

async fn fetch(
    shared: &Arc<Inner>,
    others: &dyn OtherHosts,
    wanted: &WantedImage,
    source: &Source,
) -> Result<Image, Failed> {
    let Source { host, offer, .. } = source;
    let _slot = shared.turn(&wanted.name).await.map_err(Failed::Here)?;
    let begins = Doing::Copies {
        from: host.clone(),
        done: 0,
        size: offer.bytes,
    };
    shared.progress.set(&wanted.name, begins);
    let asked = WantedArchive {
        id: offer.id.clone(),
        beside: Some(source.beside),
    };
    let archive = others.archive(host, &asked).await;
    let archive = archive.map_err(Failed::There)?.ok_or(Failed::Busy)?;
    let begun = Instant::now();
    tracing::info!(image = wanted.name, %host, "copying");
    let broken = Arc::new(Mutex::new(None));
    let archive = watched(shared, wanted, source, broken.clone(), archive);
    let received = receive(shared, source, archive).await;
    // The engine calls an archive that ends early its own failure.
    if let Some(why) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(Failed::There(why));
    }
    let (id, _relaying) = received?;
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

/// Tells how far it is, and notes in `broken` if it ends early.
fn watched(
    shared: &Arc<Inner>,
    wanted: &WantedImage,
    source: &Source,
    broken: Arc<Mutex<Option<String>>>,
    archive: Archive,
) -> Archive {
    let shared = shared.clone();
    let (name, host) = (wanted.name.clone(), source.host.clone());
    let size = source.offer.bytes;
    let mut done = 0;
    Box::pin(archive.inspect(move |chunk| match chunk {
        Ok(bytes) => {
            done += bytes.len() as u64;
            let from = host.clone();
            let doing = Doing::Copies { from, done, size };
            shared.progress.set(&name, doing);
        }
        Err(error) => {
            let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
            *broken = Some(error.to_string());
        }
    }))
}

/// Brings an archive into the engine; the image's id here, and what passes it on until that is dropped.
async fn receive(
    shared: &Inner,
    source: &Source,
    archive: Archive,
) -> Result<(String, Option<relays::Relaying>), Failed> {
    let failed = |error: EngineError| match error {
        EngineError::HostFault { .. } | EngineError::Unresponsive(_) => Failed::Here(error),
        error => Failed::There(format!("what it sent can't be loaded: {error}")),
    };
    let place = shared.settings.spool.as_ref();
    let spool = match place.filter(|_| source.pass_on) {
        Some(place) => relays::open(place, source.offer.bytes).await,
        None => Err(std::io::ErrorKind::Unsupported.into()),
    };
    let (writer, spool) = match spool {
        Ok(spool) => spool,
        Err(error) => {
            tracing::debug!(%error, "not passed on while it comes");
            let id = shared.engine.load(archive).await.map_err(failed)?;
            return Ok((id, None));
        }
    };
    let relaying = shared.relays.begin(source.offer.clone(), spool.clone());
    // The engine is one of those who read it: a slow one does not hold up the others.
    let filled = writer.fill(archive).map_err(Failed::Spool);
    let loaded = shared.engine.load(spool.read()).map_err(failed);
    let ((), id) = tokio::try_join!(filled, loaded)?;
    Ok((id, Some(relaying)))
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
