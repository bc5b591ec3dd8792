//! Images: which one a version means, and how it comes to this host.
//!
//! What a name means is decided once for all hosts: a digest, or (where the
//! image is in no registry) `local:` and an id. A pull of one image happens
//! once at a time, few images at a time, with this host's credentials as they
//! are at that moment. What was pulled is remembered, and removed (`collect`)
//! when the disk is too full and nobody needs it.

pub mod collect;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use manifests::image::Reference;
use manifests::manifest::Pull;
use model::records::LOCAL;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

use crate::credentials;
use engine::{Engine, EngineError, HostFault, Image, PullProgress};
use record::Record;

/// Progress of a pull is logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// File of the state directory that keeps which images were pulled.
pub const RECORD: &str = "images.json";

/// A registry that wants us to come back later and does not say when is left alone for so long.
const PAUSE: Duration = Duration::from_secs(30);
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
}

/// What a version's image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// For the version: a digest, or `local:<image id>`.
    pub image: String,
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

type Running = Shared<BoxFuture<'static, Result<(), EngineError>>>;

/// The images of this host's engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    settings: PullSettings,
    slots: Semaphore,
    running: Mutex<BTreeMap<String, Running>>,
    progress: Mutex<BTreeMap<String, PullProgress>>,
    /// Registries that want us to come back later, and when.
    paused: Mutex<BTreeMap<String, Instant>>,
    record: Record,
    /// Told when a pull finds no room on the disk.
    no_room: Notify,
}

impl Images {
    /// The images of `engine`.
    pub fn new(engine: Arc<dyn Engine>, settings: PullSettings) -> Self {
        Self {
            shared: Arc::new(Inner {
                slots: Semaphore::new(settings.at_once.max(1)),
                record: Record::open(settings.record.clone()),
                engine,
                settings,
                running: Mutex::default(),
                progress: Mutex::default(),
                paused: Mutex::default(),
                no_room: Notify::new(),
            }),
        }
    }

    /// Decides what `name` means from now on. Asks the registry as `pull` says, and leaves the image on this host.
    pub async fn decide(&self, name: &str, pull: Pull) -> Result<Decided, EngineError> {
        let parsed = engine::parse_reference(name)?;
        let here = self.shared.engine.image(name).await?;
        let mut note = None;
        let image = match (pull, here) {
            (Pull::Never | Pull::Missing, Some(image)) => image,
            (Pull::Never, None) => {
                return Err(EngineError::NotFound(format!(
                    "no image `{name}` on this host, and `pull` is `never`"
                )));
            }
            (Pull::Missing, None) => self.pulled(name).await?,
            (Pull::Always, here) => match (self.pulled(name).await, here) {
                (Ok(image), _) => image,
                (Err(error), Some(image)) if is_away(&error) => {
                    note = Some(format!(
                        "the registry of `{name}` was not reached ({error}); the image that this host had is used"
                    ));
                    image
                }
                (Err(error), _) => return Err(error),
            },
        };
        self.shared.record.use_now(&image.id);
        let digest = match pull {
            Pull::Never => None,
            Pull::Missing | Pull::Always => digest(&image, &parsed),
        };
        Ok(Decided {
            image: digest.unwrap_or_else(|| format!("{LOCAL}{}", image.id)),
            volumes: image.volumes,
            note,
        })
    }

    /// Sees to it that what was decided for `name` is on this host.
    pub async fn ensure(
        &self,
        name: &str,
        decided: &str,
        pull: Pull,
    ) -> Result<Source, EngineError> {
        let Some(id) = decided.strip_prefix(LOCAL) else {
            let reference = reference(name, decided)?;
            let image = if let Some(image) = self.shared.engine.image(&reference).await? {
                self.shared.record.use_now(&image.id);
                image
            } else {
                sleep(part_of(self.shared.settings.jitter)).await;
                self.pulled(&reference).await?
            };
            return Ok(Source {
                reference,
                labels: image.labels,
                note: None,
            });
        };
        let here = match self.shared.engine.image(name).await? {
            Some(image) => image,
            None if pull == Pull::Never => return Err(missing(name, "`pull` is `never`")),
            None => self.pulled(name).await.map_err(|error| match error {
                EngineError::Unresponsive(_) | EngineError::RateLimited { .. } => error,
                error => missing(name, &error.to_string()),
            })?,
        };
        self.shared.record.use_now(&here.id);
        Ok(Source {
            reference: name.to_owned(),
            labels: here.labels,
            note: (here.id != id).then(|| {
                format!(
                    "`{name}` is {} here and was {id} where the version was made",
                    here.id
                )
            }),
        })
    }

    /// How far the pull of this reference is, if there is one.
    pub fn progress(&self, reference: &str) -> Option<PullProgress> {
        let progress = self.shared.progress.lock();
        let progress = progress.unwrap_or_else(PoisonError::into_inner);
        progress.get(reference).cloned()
    }

    async fn pulled(&self, name: &str) -> Result<Image, EngineError> {
        self.pull(name).await?;
        let here = self.shared.engine.image(name).await?;
        here.ok_or_else(|| {
            EngineError::Engine(format!("`{name}` was pulled and is not on this host"))
        })
    }

    /// One pull of this reference for all who wait for it. It goes on while any of them waits.
    async fn pull(&self, reference: &str) -> Result<(), EngineError> {
        let pull = {
            let running = self.shared.running.lock();
            let mut running = running.unwrap_or_else(PoisonError::into_inner);
            // One whose waiters have all gone is not polled any more, and is begun anew.
            running.retain(|_, pull| pull.strong_count().is_some_and(|count| count > 1));
            let begin = || {
                pull_once(self.shared.clone(), reference.to_owned())
                    .boxed()
                    .shared()
            };
            running
                .entry(reference.to_owned())
                .or_insert_with(begin)
                .clone()
        };
        let result = pull.clone().await;
        let running = self.shared.running.lock();
        let mut running = running.unwrap_or_else(PoisonError::into_inner);
        if running
            .get(reference)
            .is_some_and(|other| other.ptr_eq(&pull))
        {
            running.remove(reference);
        }
        result
    }
}

async fn pull_once(shared: Arc<Inner>, reference: String) -> Result<(), EngineError> {
    let _slot = shared
        .slots
        .acquire()
        .await
        .map_err(|_| EngineError::Engine("the agent ends".to_owned()))?;
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
        let all = shared.progress.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        all.insert(reference.clone(), progress);
    };
    let result = shared
        .engine
        .pull(&reference, credentials.as_ref(), &report)
        .await;
    let all = shared.progress.lock();
    all.unwrap_or_else(PoisonError::into_inner)
        .remove(&reference);
    match &result {
        Ok(()) => {
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
            EngineError::HostFault {
                fault: HostFault::NoSpace,
                ..
            } => self.no_room.notify_one(),
            _ => {}
        }
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

/// The digest under which the image is known in the repository of its name.
fn digest(image: &Image, name: &Reference) -> Option<String> {
    let repository = name.familiar_repository();
    let mut digests: Vec<&str> = image
        .repo_digests
        .iter()
        .filter_map(|full| full.split_once('@'))
        .filter(|(of, _)| *of == repository)
        .map(|(_, digest)| digest)
        .collect();
    // It may have several; the one that the manifest names is it.
    digests.sort_unstable();
    let named = digests
        .iter()
        .find(|digest| name.digest.as_deref() == Some(**digest));
    named.or(digests.first()).map(|digest| (*digest).to_owned())
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
