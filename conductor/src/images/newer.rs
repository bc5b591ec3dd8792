//! Whether a registry has a newer image for a container.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::EngineError;
use manifests::image::Reference;
use model::images::{ImageAnswer, ImageQuestion, NoAnswer, RegistryImage};

use super::Images;
use crate::credentials;
use crate::registry::{Reach, Registry, RegistryError};

/// Where Docker keeps certificate authorities of registries.
const CERTIFICATES: &str = "/etc/docker/certs.d";

impl Images {
    /// Asks the registry, with this host's credentials as they are now, and not while it wants to be left alone.
    pub async fn newer(&self, question: ImageQuestion) -> ImageAnswer {
        let said = match self.ask(&question).await {
            Ok((image, digest)) => Ok(RegistryImage {
                image: image.to_string(),
                digest,
                at: now(),
            }),
            Err(no) => {
                tracing::warn!(container = %question.container, image = question.image, reason = no.reason, "not known whether there is a newer image");
                Err(no)
            }
        };
        ImageAnswer {
            container: question.container,
            version: question.version,
            said,
        }
    }

    async fn ask(&self, question: &ImageQuestion) -> Result<(Reference, String), NoAnswer> {
        let _turn = self.shared.questions.acquire().await;
        let image = engine::parse_reference(&question.image).map_err(of_engine)?;
        let name = image.registry();
        self.shared.heed_pause(name).map_err(of_engine)?;
        let config = &self.shared.settings.docker_config;
        let credentials = credentials::lookup(config, name).await.unwrap_or_else(|error| {
            tracing::warn!(registry = name, error = %error.chain(), "asking without credentials, because they can't be read");
            None
        });
        let info = self.shared.engine.info().await.map_err(of_engine)?;
        let reach = Reach {
            insecure: info.insecure_registries,
            certificates: Some(PathBuf::from(CERTIFICATES)),
        };
        let asked = async {
            let registry = Registry::of(&image, credentials, &reach).await?;
            registry.newest(&image, question.tags.as_ref()).await
        };
        asked
            .await
            .map_err(|error| self.shared.no_answer(name, &error))
    }
}

impl super::Inner {
    /// A registry that is busy is left alone by pulls, too.
    fn no_answer(&self, registry: &str, error: &RegistryError) -> NoAnswer {
        let reason = error.to_string();
        let mut retry = None;
        if let RegistryError::Busy { retry_after, .. } = error {
            retry = *retry_after;
            let limited = EngineError::RateLimited {
                retry_after: retry,
                message: reason.clone(),
            };
            self.learn(registry.to_owned(), &limited);
        }
        NoAnswer {
            reason,
            retry_after: retry,
        }
    }
}

fn of_engine(error: EngineError) -> NoAnswer {
    let retry_after = match &error {
        EngineError::RateLimited { retry_after, .. } => *retry_after,
        _ => None,
    };
    NoAnswer {
        reason: error.to_string(),
        retry_after,
    }
}

/// Unix seconds, for people.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
