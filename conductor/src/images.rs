//! Images: which one a version means, and how it comes to this host.
//!
//! What a name means is decided once for all hosts: a digest, or (where the
//! image is in no registry) `local:` and an id (`pins`). A `local` image that
//! this host lacks comes from a host that has it (`copies`) and is passed on to
//! others while it comes (`relays`), any other comes from its registry. An image comes once at a time, few images at a time, with this
//! host's credentials as they are at that moment. What came is remembered, and
//! removed (`collect`) when the disk is too full and nobody needs it.

pub mod collect;
mod copies;
mod flights;
mod newer;
mod pins;
mod progress;
mod record;
mod relays;
mod serving;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use manifests::image::Reference;
use manifests::manifest::Pull;
use model::disk::DiskLimits;
use model::images::WantedImage;
use model::records::LOCAL;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use crate::credentials;
pub use copies::OtherHosts;
use engine::{Engine, EngineError, HostFault, Image, PullProgress};
use flights::Flights;
use pins::Answers;
use progress::{Doing, Progresses};
use record::Record;
use relays::Relays;
use serving::Serving;

/// Progress of a pull is logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// File of the state directory that keeps which images were pulled.
pub const RECORD: &str = "images.json";

/// A registry that wants us to come back later and does not say when is left alone for so long.
const PAUSE: Duration = Duration::from_secs(30);
/// So long what a decision has seen of an image is not looked at again: containerd's store takes 10 ms for a look.
const JUST_SEEN: Duration = Duration::from_millis(100);
/// So many questions to registries at a time.
const QUESTIONS: usize = 4;
/// No registry is left alone for longer, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How images come to this host.
#[derive(Debug, Clone)]
pub struct PullSettings {
    /// Docker's client configuration: a directory with `config.json`, or that file.
    pub docker_config: PathBuf,
    /// Pulls at a time.
    pub at_once: usize,
    /// A pull of an image that was decided on elsewhere begins after a random part of this: the other hosts begin
    /// theirs at the same moment.
    pub jitter: Duration,
    /// The file that keeps which images were pulled; without one that is forgotten with the process.
    pub record: Option<PathBuf>,
    /// Where an image that comes from another host is kept until it is here, to be passed on meanwhile; without one it
    /// is passed on only when it is whole.
    pub spool: Option<SpoolPlace>,
}

/// Where archives are kept while they come, and up to where that may fill its disk.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// The folder; the files in it have no names.
    pub folder: PathBuf,
    /// A spool never makes an image go.
    pub limits: DiskLimits,
}

/// What a version's image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// For the version: a digest, or `local:<image id>`.
    pub image: String,
    /// What a `local` image is made of.
    pub content: Option<String>,
    /// Paths at which it declares volumes.
    pub volumes: Vec<String>,
    /// What is odd about it, for people.
    pub note: Option<String>,
}

/// What a container is made from on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// For the engine.
    pub reference: String,
    /// The names of the image's labels.
    pub labels: Vec<String>,
    /// What is odd about it, for people.
    pub note: Option<String>,
}

/// The images of this host's engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    settings: PullSettings,
    /// The other hosts, where there is a way to them.
    others: OnceLock<Arc<dyn OtherHosts>>,
    slots: Semaphore,
    /// Questions to registries at a time.
    questions: Semaphore,
    pulls: Flights<Result<Option<String>, EngineError>>,
    copies: Flights<Result<Option<Image>, EngineError>>,
    /// What comes from other hosts and is passed on.
    relays: Relays,
    /// Other hosts that fetch images here.
    serving: Serving,
    progress: Progresses,
    /// What registries said of digests.
    answers: Answers,
    /// Registries that want us to come back later, and when.
    paused: Mutex<BTreeMap<String, Instant>>,
    record: Record,
    /// What was decided on last, by which name, and when.
    decided: Mutex<Option<(String, Image, Instant)>>,
    /// Told when a pull finds no room on the disk.
    no_room: Notify,
}

impl Images {
    /// The images of `engine`.
    pub fn new(engine: Arc<dyn Engine>, settings: PullSettings) -> Self {
        Self {
            shared: Arc::new(Inner {
                slots: Semaphore::new(settings.at_once.max(1)),
                questions: Semaphore::new(QUESTIONS),
                record: Record::open(settings.record.clone()),
                engine,
                settings,
                others: OnceLock::new(),
                pulls: Flights::default(),
                copies: Flights::default(),
                relays: Relays::default(),
                serving: Serving::default(),
                progress: Progresses::default(),
                answers: Answers::default(),
                paused: Mutex::default(),
                decided: Mutex::default(),
                no_room: Notify::new(),
            }),
        }
    }

    /// From now on images come from these, too.
    pub fn meet(&self, others: Arc<dyn OtherHosts>) {
        // There is one way to them.
        let _ = self.shared.others.set(others);
    }

    /// Decides what `name` means from now on. Asks the registry as `pull` says, and leaves the image on this host.
    pub async fn decide(&self, name: &str, pull: Pull) -> Result<Decided, EngineError> {
        let parsed = engine::parse_reference(name)?;
        let here = self.shared.engine.image(name).await?;
        let mut note = None;
        let mut pulled = None;
        let image = match (pull, here) {
            (Pull::Never | Pull::Missing, Some(image)) => image,
            (Pull::Never, None) => self.of_other_host(name, true).await?.ok_or_else(|| {
                EngineError::NotFound(format!(
                    "no image `{name}` on this host or another one, and `pull` is `never`"
                ))
            })?,
            (Pull::Missing, None) => {
                let copied = self.of_other_host(name, false).await?;
                match copied {
                    Some(image) => image,
                    None => pulled.insert(self.pulled(name).await?).image.clone(),
                }
            }
            (Pull::Always, here) => match (self.pulled(name).await, here) {
                (Ok(now), _) => pulled.insert(now).image.clone(),
                (Err(error), Some(image)) if is_away(&error) => {
                    note = Some(format!(
                        "the registry of `{name}` was not reached ({error}); the image that this host had is used"
                    ));
                    image
                }
                (Err(error), Some(_)) => return Err(error),
                (Err(error), None) => match self.of_other_host(name, true).await? {
                    Some(image) => {
                        note = Some(format!(
                            "`{name}` was not pulled ({error}); the image of another host is used"
                        ));
                        image
                    }
                    None => return Err(error),
                },
            },
        };
        self.shared.record.use_now(&image.id);
        let digest = match pull {
            Pull::Never => None,
            Pull::Missing | Pull::Always => self.shared.pin(&image, &parsed, pulled.as_ref()).await,
        };
        // One that came from another host may have been here under other names only.
        if image.names.contains(&parsed.familiar()) {
            self.shared.decided_on(name, &image);
        }
        Ok(Decided {
            content: digest.is_none().then_some(image.content),
            image: digest.unwrap_or_else(|| format!("{LOCAL}{}", image.id)),
            volumes: image.volumes,
            note,
        })
    }

    /// Sees to it that what was decided for `name` is on this host. `content`: what a `local` image is made of.
    pub async fn ensure(
        &self,
        name: &str,
        decided: &str,
        content: Option<&str>,
        pull: Pull,
    ) -> Result<Source, EngineError> {
        let Some(id) = decided.strip_prefix(LOCAL) else {
            let reference = reference(name, decided)?;
            let image = if let Some(image) = self.shared.engine.image(&reference).await? {
                self.shared.record.use_now(&image.id);
                image
            } else {
                sleep(part_of(self.shared.settings.jitter)).await;
                self.pulled(&reference).await?.image
            };
            return Ok(Source {
                reference,
                labels: image.labels,
                note: None,
            });
        };
        let wanted = WantedImage {
            name: name.to_owned(),
            id: Some(id.to_owned()),
            content: content.map(str::to_owned),
        };
        if let Some(source) = self.source(&wanted).await? {
            return Ok(source);
        }
        let named = self.shared.engine.image(name).await?;
        // Whether an image of that name is another one can't be said without its content.
        let is_known_to_differ = content.is_some() || named.is_none();
        if is_known_to_differ
            && self.copied(&wanted).await?.is_some()
            && let Some(source) = self.source(&wanted).await?
        {
            return Ok(source);
        }
        let here = match named {
            Some(image) => image,
            None if pull == Pull::Never => {
                return Err(missing(name, "no other host has it, and `pull` is `never`"));
            }
            None => {
                let pulled = self.pulled(name).await.map_err(|error| match error {
                    EngineError::Unresponsive(_) | EngineError::RateLimited { .. } => error,
                    error => missing(name, &error.to_string()),
                })?;
                pulled.image
            }
        };
        self.shared.record.use_now(&here.id);
        let note = (!wanted.is(&here.id, &here.content)).then(|| {
            let differs = format!(
                "`{name}` is {} here and was {id} where the version was made",
                here.id
            );
            match content {
                Some(_) => format!("{differs}, and no host has that one any more"),
                None => format!(
                    "{differs}, which can't be compared if the engines keep images in different stores"
                ),
            }
        });
        Ok(Source {
            reference: name.to_owned(),
            labels: here.labels,
            note,
        })
    }

    /// What a container is made from, if the image is here: its name, or its id where the name means another one.
    async fn source(&self, wanted: &WantedImage) -> Result<Option<Source>, EngineError> {
        let Some((image, by_name)) = self.shared.find(wanted).await? else {
            return Ok(None);
        };
        self.shared.record.use_now(&image.id);
        let name = &wanted.name;
        let note = (!by_name).then(|| {
            format!(
                "`{name}` means another image on this host, or none; the one of the version is used by its id, {}",
                image.id
            )
        });
        Ok(Some(Source {
            reference: if by_name { name.clone() } else { image.id },
            labels: image.labels,
            note,
        }))
    }

    /// What is done to get this reference here, and how far that is, if anything is done.
    pub fn progress(&self, reference: &str) -> Option<String> {
        self.shared.progress.text(reference)
    }

    async fn pulled(&self, name: &str) -> Result<Pulled, EngineError> {
        let begin = || pull_once(self.shared.clone(), name.to_owned()).boxed();
        let digest = self.shared.pulls.join(name, begin).await?;
        let here = self.shared.engine.image(name).await?;
        let image = here.ok_or_else(|| {
            EngineError::Engine(format!("`{name}` was pulled and is not on this host"))
        })?;
        Ok(Pulled { image, digest })
    }
}

/// An image that has just come from its registry.
struct Pulled {
    image: Image,
    /// The digest that its name has there.
    digest: Option<String>,
}

async fn pull_once(shared: Arc<Inner>, reference: String) -> Result<Option<String>, EngineError> {
    let _slot = shared.turn(&reference).await?;
    let config = &shared.settings.docker_config;
    let name = engine::parse_reference(&reference)?;
    let registry = name.registry().to_owned();
    shared.heed_pause(&registry)?;
    let before = shared.engine.image(&reference).await?;
    let credentials = credentials::lookup(config, &registry)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(
                registry,
                error = %error.chain(),
                "pulling without credentials, because they can't be read"
            );
            None
        });
    let begun = Instant::now();
    tracing::info!(image = reference, login = credentials.is_some(), "pulling");
    let logged = Mutex::new(begun);
    let report = |progress: PullProgress| {
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.elapsed() >= LOG_EVERY {
            *logged = Instant::now();
            tracing::info!(image = reference, %progress, "pulling");
        }
        shared.progress.set(&reference, Doing::Pulls(progress));
    };
    let result = shared
        .engine
        .pull(&reference, credentials.as_ref(), &report)
        .await;
    shared.progress.end(&reference);
    match &result {
        Ok(_) => {
            tracing::info!(
                image = reference,
                seconds = begun.elapsed().as_secs_f32(),
                "pulled"
            );
            shared.remember(&name, before).await;
        }
        Err(error) => {
            tracing::warn!(image = reference, %error, "not pulled");
            shared.learn(registry, error);
        }
    }
    result
}

impl Inner {
    /// Waits for one of the places in which images come here.
    async fn turn(&self, image: &str) -> Result<SemaphorePermit<'_>, EngineError> {
        if let Ok(turn) = self.slots.try_acquire() {
            return Ok(turn);
        }
        let since = Instant::now();
        self.progress.set(image, Doing::Queues { since });
        let turn = self.slots.acquire().await;
        self.progress.end(image);
        turn.map_err(|_| EngineError::Engine("the agent ends".to_owned()))
    }

    /// Refuses in the registry's place while it wants to be left alone.
    fn heed_pause(&self, registry: &str) -> Result<(), EngineError> {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        paused.retain(|_, until| *until > now);
        match paused.get(registry) {
            None => Ok(()),
            Some(until) => {
                let left = *until - now;
                Err(EngineError::RateLimited {
                    retry_after: Some(left),
                    message: format!(
                        "{registry} has had too many requests; it is asked again in {:.0} s",
                        left.as_secs_f64().ceil()
                    ),
                })
            }
        }
    }

    /// What a failed pull says about those to come.
    fn learn(&self, registry: String, error: &EngineError) {
        match error {
            EngineError::RateLimited { retry_after, .. } => {
                let pause = retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE);
                let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
                paused.insert(registry, Instant::now() + pause);
            }
            error => self.told(error),
        }
    }

    /// The container of a decision is made at once, as a rule.
    fn decided_on(&self, name: &str, image: &Image) {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        *decided = Some((name.to_owned(), image.clone(), Instant::now()));
    }

    /// The image of that name, if it was decided on a moment ago; once.
    fn just_seen(&self, name: &str) -> Option<Image> {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, image, at) = decided.take()?;
        (of == name && at.elapsed() < JUST_SEEN).then_some(image)
    }

    /// An image of this host, and whether its name means it.
    async fn find(&self, wanted: &WantedImage) -> Result<Option<(Image, bool)>, EngineError> {
        let is_it = |image: &Image| wanted.is(&image.id, &image.content);
        let named = match self.just_seen(&wanted.name) {
            Some(image) => Some(image),
            None => self.engine.image(&wanted.name).await?,
        };
        if let Some(image) = named.filter(is_it) {
            return Ok(Some((image, true)));
        }
        let by_id = self.find_by_id(wanted).await?;
        Ok(by_id.map(|image| (image, false)))
    }

    /// As `find`, whatever names it has here.
    async fn find_by_id(&self, wanted: &WantedImage) -> Result<Option<Image>, EngineError> {
        let is_it = |image: &Image| wanted.is(&image.id, &image.content);
        let content = wanted.content.as_deref();
        let copied = content.and_then(|content| self.record.copied(content));
        for id in wanted.id.iter().chain(&copied) {
            if let Some(image) = self.engine.image(id).await?.filter(is_it) {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Notes what was pulled, unless it is an image that was here before and is somebody else's.
    async fn remember(&self, name: &Reference, before: Option<Image>) {
        // Without an answer it is not noted, and stays for ever.
        let Ok(Some(image)) = self.engine.image(&name.familiar()).await else {
            return;
        };
        let is_new = before.is_none_or(|before| before.id != image.id);
        if is_new || self.record.is_known(&image.id) {
            self.record.add(image.id, name.familiar());
        }
    }
}

/// What the engine is asked for once `decided` is decided for `name`: the one digest of its repository, or the name.
pub fn reference(name: &str, decided: &str) -> Result<String, EngineError> {
    if decided.starts_with(LOCAL) {
        return Ok(name.to_owned());
    }
    let repository = engine::parse_reference(name)?.familiar_repository();
    Ok(format!("{repository}@{decided}"))
}

/// The registry gave no answer that counts.
fn is_away(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::RateLimited { .. }
            | EngineError::HostFault {
                fault: HostFault::RegistryUnreachable,
                ..
            }
    )
}

fn missing(name: &str, why: &str) -> EngineError {
    EngineError::HostFault {
        fault: HostFault::ImageMissing,
        message: format!("no image `{name}` on this host: {why}"),
    }
}

/// A random part of a time: the random bits of a version-4 UUID are the randomness at hand.
fn part_of(whole: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u16;
    whole.mul_f64(f64::from(random) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests;
