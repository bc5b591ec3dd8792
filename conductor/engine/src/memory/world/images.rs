//! Images on the host and in the registry.

use std::collections::BTreeMap;
use std::time::Duration;

use model::disk::LocalImage;

use super::{Published, World};
use crate::{Credentials, EngineError, HostFault, Image, Operation, parse_reference};

impl World {
    /// Puts an image on this host that no registry knows. Its id elsewhere depends on the store.
    pub fn add_local_image(&mut self, name: &str, id: &str) {
        let image = Image {
            id: self.id_here(id),
            content: content(id),
            ..Image::default()
        };
        self.name_image(name, image);
    }

    /// The id of an image in this host's store.
    fn id_here(&self, id: &str) -> String {
        let plain = id.trim_end_matches(IN_CONTAINERD);
        if self.store.containerd {
            format!("{plain}{IN_CONTAINERD}")
        } else {
            plain.to_owned()
        }
    }

    /// Gives it the name, and takes that from another one.
    fn name_image(&mut self, name: &str, mut image: Image) {
        let key = familiar(name);
        if let Ok(parsed) = parse_reference(name)
            && self.store.containerd
        {
            let digest = format!("{}@{}", parsed.familiar_repository(), image.id);
            if !image.repo_digests.contains(&digest) {
                image.repo_digests.push(digest);
            }
        }
        if !image.names.contains(&key) && !key.contains('@') {
            image.names.push(key.clone());
        }
        self.images.insert(key, image);
    }

    /// Gives an image a name.
    pub fn tag(&mut self, image_id: &str, name: &str) -> Result<(), EngineError> {
        self.ping()?;
        let image = self.known_image(image_id)?;
        // One without a name has one now.
        self.images.remove(image_id);
        self.name_image(name, image);
        Ok(())
    }

    fn known_image(&self, name: &str) -> Result<Image, EngineError> {
        let lacks = || EngineError::NotFound(format!("No such image: {name}"));
        self.find_image(name).cloned().ok_or_else(lacks)
    }

    /// The head of an image's archive; `archive_padding` zeros follow.
    pub fn save(&self, image_id: &str) -> Result<Vec<u8>, EngineError> {
        self.ping()?;
        let image = self.known_image(image_id)?;
        let text = format!(
            "{}\n{}\n{}\n{}\n",
            image.id,
            image.content,
            image.volumes.join(" "),
            self.archive_padding
        );
        Ok(text.into_bytes())
    }

    /// Takes an archive of so many bytes in, of which `head` is the beginning; the image's id here.
    pub fn load(&mut self, head: &[u8], bytes: u64) -> Result<String, EngineError> {
        self.ping()?;
        self.loads += 1;
        self.fail(Operation::Other)?;
        let truncated = || EngineError::Engine("unexpected EOF".to_owned());
        let mut lines = head.splitn(5, |byte| *byte == b'\n');
        let mut line = || lines.next().map(String::from_utf8_lossy);
        let (Some(id), Some(content), Some(volumes), Some(padding), Some(_)) =
            (line(), line(), line(), line(), line())
        else {
            return Err(truncated());
        };
        let line_ends = 4;
        let words = id.len() + content.len() + volumes.len() + padding.len() + line_ends;
        if padding.parse::<u64>().ok() != bytes.checked_sub(words as u64) {
            return Err(truncated());
        }
        let volumes = volumes.split_whitespace();
        let image = Image {
            id: self.id_here(&id),
            content: content.into_owned(),
            volumes: volumes.map(str::to_owned).collect(),
            ..Image::default()
        };
        let id = image.id.clone();
        if self.find_image(&id).is_none() {
            self.images.insert(id.clone(), image);
        }
        Ok(id)
    }

    /// Whether the registry has it.
    pub fn is_in_registry(
        &mut self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<bool, EngineError> {
        self.ping()?;
        self.questions += 1;
        if self.registry_away {
            return Err(away());
        }
        let Some(image) = self.published(reference) else {
            return Ok(false);
        };
        if image.needs.is_some() && image.needs.as_ref() != credentials {
            return Err(EngineError::Auth("unauthorized".to_owned()));
        }
        Ok(true)
    }

    /// Somebody makes an image of a container; its id. Labels go with it.
    pub fn commit(&mut self, docker_id: &str, name: &str) -> Result<String, EngineError> {
        let labels = self.known(docker_id)?.labels.clone();
        self.last += 1;
        let id = format!("sha256:committed-{}", self.last);
        let image = Image {
            id: id.clone(),
            labels: labels.keys().cloned().collect(),
            ..Image::default()
        };
        self.images.insert(familiar(name), image);
        self.image_labels.insert(id.clone(), labels);
        Ok(id)
    }

    /// An image on this host, by any of its names or its id.
    pub fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        self.ping()?;
        Ok(self.find_image(name).cloned())
    }

    /// All images, in the order of their ids.
    pub fn list_images(&self) -> Result<Vec<LocalImage>, EngineError> {
        self.ping()?;
        let mut all: BTreeMap<&str, LocalImage> = BTreeMap::new();
        for (name, image) in &self.images {
            let shown = all.entry(&image.id).or_insert_with(|| LocalImage {
                id: image.id.clone(),
                names: Vec::new(),
                used: self.is_used(&image.id),
            });
            for name in std::iter::once(name).chain(&image.repo_digests) {
                if *name != image.id && !shown.names.contains(name) {
                    shown.names.push(name.clone());
                }
            }
        }
        Ok(all.into_values().collect())
    }

    pub(super) fn is_used(&self, image_id: &str) -> bool {
        let mut containers = self.containers.values();
        containers.any(|cell| cell.image_id == image_id)
    }

    /// Removes an image; `false` if a container is made from it.
    pub fn remove_image(&mut self, image: &LocalImage) -> Result<bool, EngineError> {
        self.ping()?;
        if self.is_used(&image.id) {
            return Ok(false);
        }
        self.fail(Operation::Other)?;
        let before = self.images.len();
        self.images.retain(|_, here| here.id != image.id);
        if let Some(disk) = self.disk.as_mut().filter(|_| self.images.len() < before) {
            let freed = self.image_bytes.min(disk.used);
            disk.used -= freed;
            disk.available += freed;
        }
        Ok(true)
    }

    pub(super) fn find_image(&self, name: &str) -> Option<&Image> {
        self.images.get(&familiar(name)).or_else(|| {
            self.images
                .values()
                .find(|image| image.id == name || image.repo_digests.iter().any(|d| d == name))
        })
    }

    /// How long a pull of it takes.
    pub fn pull_delay(&self, name: &str) -> Duration {
        self.published(name)
            .map_or(Duration::ZERO, |image| image.delay)
    }

    fn published(&self, name: &str) -> Option<&Published> {
        self.registry.get(&familiar(name)).or_else(|| {
            let (repository, digest) = name.split_once('@')?;
            self.registry.iter().find_map(|(tagged, image)| {
                let same = parse_reference(tagged).ok()?.repository()
                    == parse_reference(repository).ok()?.repository();
                (same && image.digest == digest).then_some(image)
            })
        })
    }

    /// A pull, from its beginning to its end.
    pub fn pull(
        &mut self,
        name: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Option<String>, EngineError> {
        self.ping()?;
        let parsed = parse_reference(name)?;
        self.pulls += 1;
        self.fail(Operation::Pull)?;
        if self.registry_away {
            return Err(away());
        }
        let image = self
            .published(name)
            .ok_or_else(|| EngineError::NotFound(format!("manifest for {name} not found")))?
            .clone();
        if let Some(failure) = image.failure {
            return Err(failure);
        }
        if image.needs.is_some() && image.needs.as_ref() != credentials {
            return Err(EngineError::Auth(format!("pull access denied for {name}")));
        }
        let id = if self.store.containerd {
            image.digest.clone()
        } else {
            image.id.clone()
        };
        // The same image may have been pushed with another index: it has both digests then.
        let before = self.images.values().filter(|here| here.id == id);
        let mut repo_digests: Vec<String> =
            before.flat_map(|here| here.repo_digests.clone()).collect();
        repo_digests.push(format!("{}@{}", parsed.familiar_repository(), image.digest));
        repo_digests.sort_unstable();
        repo_digests.dedup();
        let here = Image {
            content: content(&image.id),
            id,
            repo_digests,
            healthcheck: image.healthcheck,
            volumes: image.volumes.clone(),
            ..Image::default()
        };
        // A pull by digest gives the image no tag, as Docker.
        let key = if name.contains('@') {
            format!("{}@{}", parsed.familiar_repository(), image.digest)
        } else {
            familiar(name)
        };
        self.name_image(&key, here);
        Ok(Some(image.digest))
    }
}

/// The end of an id in containerd's store.
const IN_CONTAINERD: &str = "-manifest";

fn content(id: &str) -> String {
    format!("content of {id}")
}

fn away() -> EngineError {
    EngineError::host(
        HostFault::RegistryUnreachable,
        "dial tcp: connection refused",
    )
}

/// The one spelling under which an image is kept: as Docker shows it, tag included.
fn familiar(name: &str) -> String {
    parse_reference(name).map_or_else(|_| name.to_owned(), |parsed| parsed.familiar())
}
