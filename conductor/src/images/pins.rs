//! Which digest of an image counts: one that hosts can pull it by.
//!
//! An engine that keeps images in containerd shows a digest for every tag, also
//! of an image that was built here and is in no registry.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{EngineError, Image};
use manifests::image::Reference;
use tokio::time::{Instant, timeout};

use super::{Inner, Pulled};
use crate::credentials;

/// How long a registry may take to say whether it has an image: a slot waits.
const ASK: Duration = Duration::from_secs(3);
/// One that did not answer is not asked again for so long, nor about the same image if it did.
const REMEMBERED: Duration = Duration::from_secs(300);

impl Inner {
    /// The digest by which other hosts can pull this image of this host. `pulled`: it has just come from the registry, under
    /// this digest, as far as the engine says.
    pub(super) async fn pin(
        &self,
        image: &Image,
        name: &Reference,
        pulled: Option<&Pulled>,
    ) -> Option<String> {
        let digest = digest(
            image,
            name,
            pulled.and_then(|pulled| pulled.digest.as_deref()),
        )?;
        let repository = name.familiar_repository();
        let known = pulled.is_some()
            // Only containerd's store has it for an id, and then for every tag.
            || digest != image.id
            || self.record.is_pulled_from(&image.id, &repository)
            || image.pulled_from.iter().any(|from| *from == without_port(name));
        if known
            || self
                .is_in_registry(&format!("{repository}@{digest}"), name)
                .await
        {
            Some(digest)
        } else {
            None
        }
    }

    /// Whether its registry says that it has it, as far as that is known soon.
    async fn is_in_registry(&self, reference: &str, name: &Reference) -> bool {
        let registry = name.registry();
        if let Some(answer) = self.answers.get(reference).or(self.answers.get(registry)) {
            return answer;
        }
        if self.heed_pause(registry).is_err() {
            return false;
        }
        let asked = timeout(ASK, async {
            let config = &self.settings.docker_config;
            let credentials = credentials::lookup(config, registry)
                .await
                .unwrap_or_default();
            let ask = self.engine.is_in_registry(reference, credentials.as_ref());
            ask.await
        });
        let (about, answer) = match asked.await {
            Ok(Ok(answer)) => (reference, answer),
            // It knows no such repository, or not for this host.
            Ok(Err(EngineError::Auth(_) | EngineError::BadRequest(_))) => (reference, false),
            Ok(Err(error)) => {
                tracing::debug!(registry, %error, "the registry does not say what it has");
                self.learn(registry.to_owned(), &error);
                (registry, false)
            }
            Err(_) => (registry, false),
        };
        self.answers.keep(about, answer);
        answer
    }
}

/// The digest under which the image is known in the repository of its name.
fn digest(image: &Image, name: &Reference, pulled: Option<&str>) -> Option<String> {
    let repository = name.familiar_repository();
    let mut digests: Vec<&str> = image
        .repo_digests
        .iter()
        .filter_map(|full| full.split_once('@'))
        .filter(|(of, _)| *of == repository)
        .map(|(_, digest)| digest)
        .collect();
    // It may have several, where the same image was pushed again with another index; the one that the manifest names is
    // it, or the one that was just pulled.
    digests.sort_unstable();
    let is_there = |wanted: &str| digests.contains(&wanted);
    let named = name.digest.as_deref().filter(|digest| is_there(digest));
    let pulled = pulled.filter(|digest| is_there(digest));
    let digest = named.or(pulled).or(digests.first().copied());
    digest.map(str::to_owned)
}

/// The repository as an engine notes it: without the port of its registry.
fn without_port(name: &Reference) -> String {
    let registry = name.registry();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    name.repository().replacen(registry, host, 1)
}

/// What registries said, by reference, and which of them said nothing, by their name.
#[derive(Debug, Default)]
pub(super) struct Answers {
    all: Mutex<BTreeMap<String, (Instant, bool)>>,
}

impl Answers {
    fn get(&self, about: &str) -> Option<bool> {
        let mut all = self.all();
        all.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        all.get(about).map(|(_, answer)| *answer)
    }

    fn keep(&self, about: &str, answer: bool) {
        self.all()
            .insert(about.to_owned(), (Instant::now(), answer));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, bool)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
