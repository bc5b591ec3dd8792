//! Which images this agent pulled or got from another host, and when they were used last: kept on disk, because only those may be removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use engine::Image;
use model::disk::{LocalImage, PulledImage, PulledImages};
use store::state_file;

/// Images that are remembered; of more, those that were not used for longest are forgotten, and so never removed.
const MAX_IMAGES: usize = 1000;

/// The record. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Record {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    pulled: Mutex<PulledImages>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

impl Record {
    /// Reads the file. A missing one is an empty record, a damaged one too: what it said is never removed.
    pub(super) fn open(file: Option<PathBuf>) -> Self {
        let pulled = file.as_deref().map(read).unwrap_or_default();
        Self {
            shared: Arc::new(Inner {
                file,
                pulled: Mutex::new(pulled),
                writing: Mutex::default(),
            }),
        }
    }

    /// What it says.
    pub(super) fn pulled(&self) -> PulledImages {
        self.lock().clone()
    }

    /// The image was pulled by this agent.
    pub(super) fn is_known(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// This agent pulled the image from this repository.
    pub(super) fn is_pulled_from(&self, id: &str, repository: &str) -> bool {
        let pulled = self.lock();
        pulled
            .get(id)
            .is_some_and(|image| image.is_pulled_from(repository))
    }

    /// The id of an image that came from another host, by what it is made of.
    pub(super) fn copied(&self, content: &str) -> Option<String> {
        let pulled = self.lock();
        let mut all = pulled.iter();
        let found = all.find(|(_, image)| image.content.as_deref() == Some(content));
        found.map(|(id, _)| id.clone())
    }

    /// The agent has pulled an image by this name.
    pub(super) fn add(&self, id: String, name: String) {
        self.change(id, |image| {
            image.names.insert(name);
            image.content = None;
        });
    }

    /// An image came from another host, and was given this name.
    pub(super) fn add_copy(&self, image: &Image, name: Option<String>) {
        self.change(image.id.clone(), |noted| {
            noted.names.extend(name);
            noted.content = Some(image.content.clone());
        });
    }

    fn change(&self, id: String, change: impl FnOnce(&mut PulledImage)) {
        {
            let mut pulled = self.lock();
            let image = pulled.entry(id).or_default();
            change(image);
            image.used = now();
            while pulled.len() > MAX_IMAGES {
                let oldest = pulled.iter().min_by_key(|(_, image)| image.used);
                let oldest = oldest.map(|(id, _)| id.clone());
                oldest.and_then(|id| pulled.remove(&id));
            }
        }
        self.save();
    }

    /// A container is about to be made from an image.
    pub(super) fn use_now(&self, id: &str) {
        match self.lock().get_mut(id) {
            Some(image) => image.used = now(),
            None => return,
        }
        self.save();
    }

    /// These are all that are here; others have gone.
    pub(super) fn keep_only(&self, here: &[LocalImage]) {
        {
            let mut pulled = self.lock();
            let before = pulled.len();
            pulled.retain(|id, _| here.iter().any(|image| image.id == *id));
            if pulled.len() == before {
                return;
            }
        }
        self.save();
    }

    fn lock(&self) -> MutexGuard<'_, PulledImages> {
        lock(&self.shared.pulled)
    }

    /// Nobody waits for the disk: what a crash loses here is never removed.
    fn save(&self) {
        let Some(file) = self.shared.file.clone() else {
            return;
        };
        let record = self.clone();
        tokio::task::spawn_blocking(move || {
            let _one_at_a_time = lock(&record.shared.writing);
            if let Err(error) = state_file::replace_json(&file, &record.pulled()) {
                tracing::warn!(file = %file.display(), %error, "which images were pulled can't be kept");
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix milliseconds by this host's clock.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

fn read(file: &Path) -> PulledImages {
    let read = std::fs::read(file)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(
                file = %file.display(),
                %error,
                "which images were pulled can't be read; those are never removed"
            );
        }
        PulledImages::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_an_empty_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("images.json");
        assert!(read(&file).is_empty());
        let pulled: PulledImages = [("sha256:one".to_owned(), PulledImage::default())].into();
        state_file::replace_json(&file, &pulled).expect("written");
        assert_eq!(read(&file), pulled);
        std::fs::write(&file, "{").expect("written");
        assert!(read(&file).is_empty());
    }

    #[tokio::test]
    async fn it_is_bounded_and_forgets_what_is_gone() {
        let record = Record::open(None);
        for n in 0..=MAX_IMAGES {
            record.add(format!("sha256:{n}"), "x:1".to_owned());
        }
        assert_eq!(record.pulled().len(), MAX_IMAGES);
        let here = LocalImage {
            id: format!("sha256:{MAX_IMAGES}"),
            names: Vec::new(),
            used: false,
        };
        record.use_now("sha256:unknown");
        record.keep_only(std::slice::from_ref(&here));
        assert!(record.is_known(&here.id));
        assert_eq!(record.pulled().len(), 1);
    }
}
