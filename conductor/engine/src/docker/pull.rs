//! A pull, and how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::client::{failure, late};
use crate::{Credentials, EngineError, OnProgress, Operation, PullProgress, parse_reference};

/// How long a pull may say nothing.
const PULL_IDLE: Duration = Duration::from_secs(180);

pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    credentials: Option<&Credentials>,
    progress: OnProgress<'_>,
) -> Result<Option<String>, EngineError> {
    // Without a tag the engine would fetch every tag of the repository.
    let name = parse_reference(image)?;
    let options = CreateImageOptions {
        from_image: Some(name.repository()),
        tag: Some(name.version().to_owned()),
        ..CreateImageOptions::default()
    };
    let mut steps = docker.create_image(Some(options), None, credentials.map(header));
    let mut layers = Layers::default();
    let mut digest = None;
    loop {
        match timeout(PULL_IDLE, steps.next()).await {
            Ok(Some(Ok(step))) => {
                if layers.step(&step) {
                    progress(layers.progress());
                }
                let said = step.status.as_deref();
                let said = said.and_then(|status| status.strip_prefix("Digest: "));
                digest = said.map(str::to_owned).or(digest);
            }
            Ok(Some(Err(error))) => return Err(failure(Operation::Pull, &error)),
            Ok(None) => return Ok(digest),
            Err(_) => return Err(late(PULL_IDLE)),
        }
    }
}

pub(super) fn header(credentials: &Credentials) -> DockerCredentials {
    match credentials.clone() {
        Credentials::Password {
            username,
            password,
            server,
        } => DockerCredentials {
            username: Some(username),
            password: Some(password),
            serveraddress: Some(server),
            ..DockerCredentials::default()
        },
        Credentials::IdentityToken { token, server } => DockerCredentials {
            identitytoken: Some(token),
            serveraddress: Some(server),
            ..DockerCredentials::default()
        },
    }
}

/// The layers of an image, by what the engine says of each.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    fetched: u64,
    size: u64,
    unpacked: u64,
    unpacking: u64,
    done: bool,
}

impl Layers {
    /// Takes in one message; whether anything changed.
    fn step(&mut self, step: &CreateImageInfo) -> bool {
        let (Some(id), Some(status)) = (&step.id, &step.status) else {
            return false;
        };
        // The message that names the tag has an id too.
        if status.starts_with("Pulling from") {
            return false;
        }
        let layer = self.0.entry(id.clone()).or_default();
        let detail = step.progress_detail.as_ref();
        let number = |value: Option<i64>| value.and_then(|n| u64::try_from(n).ok());
        let current = number(detail.and_then(|d| d.current));
        let total = number(detail.and_then(|d| d.total)).filter(|total| *total > 0);
        match status.as_str() {
            "Downloading" => {
                layer.fetched = current.unwrap_or(layer.fetched);
                layer.size = total.unwrap_or(layer.size);
            }
            "Download complete" => layer.fetched = layer.size,
            // Without a total it is a time.
            "Extracting" => {
                layer.fetched = layer.size;
                match total {
                    Some(_) => layer.unpacked = current.unwrap_or_default(),
                    None => layer.unpacking = current.unwrap_or_default(),
                }
            }
            "Pull complete" | "Already exists" => {
                *layer = Layer {
                    fetched: layer.size,
                    size: layer.size,
                    done: true,
                    ..Layer::default()
                };
            }
            _ => {}
        }
        true
    }

    fn progress(&self) -> PullProgress {
        let mut progress = PullProgress {
            layers: self.0.len() as u32,
            ..PullProgress::default()
        };
        for layer in self.0.values() {
            progress.layers_done += u32::from(layer.done);
            progress.bytes_done += layer.fetched;
            progress.bytes += layer.size;
            progress.unpacked += layer.unpacked;
            progress.unpacking = progress.unpacking.max(layer.unpacking);
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, status: &str, detail: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: detail.map(|(current, total)| bollard::models::ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn progress_is_the_sum_over_the_layers() {
        let mut layers = Layers::default();
        assert!(!layers.step(&step("latest", "Pulling from library/x", None)));
        for message in [
            step("a", "Pulling fs layer", None),
            step("b", "Already exists", None),
            step("a", "Downloading", Some((300, 1_000))),
        ] {
            assert!(layers.step(&message));
        }
        assert_eq!(layers.progress().to_string(), "1/2 layers, 0.0/0.0 MB");
        assert_eq!(layers.progress().bytes_done, 300);
        for status in ["Download complete", "Extracting", "Pull complete"] {
            layers.step(&step("a", status, None));
        }
        let all = PullProgress {
            layers_done: 2,
            layers: 2,
            bytes_done: 1_000,
            bytes: 1_000,
            ..PullProgress::default()
        };
        assert_eq!(layers.progress(), all);
    }

    #[test]
    fn unpacking_is_progress_too() {
        let mut layers = Layers::default();
        layers.step(&step("a", "Downloading", Some((5_000_000, 5_000_000))));
        layers.step(&step("a", "Extracting", Some((1_200_000, 5_000_000))));
        let text = layers.progress().to_string();
        assert_eq!(text, "0/1 layers, 5.0/5.0 MB, unpacking: 1.2 MB");
        layers.step(&step("a", "Pull complete", None));
        assert_eq!(layers.progress().to_string(), "1/1 layers, 5.0/5.0 MB");
        // With containerd's store the engine tells seconds.
        layers.step(&step("b", "Extracting", Some((7, 0))));
        let text = layers.progress().to_string();
        assert_eq!(text, "1/2 layers, 5.0/5.0 MB, unpacking for 7 s");
    }
}
