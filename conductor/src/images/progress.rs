//! What is done to get an image here, for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::PullProgress;
use manifests::HostName;

/// What is done for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    /// It is pulled from its registry.
    Pulls(PullProgress),
    /// It is copied from another host.
    Copies {
        from: HostName,
        done: u64,
        /// Its size there: an archive has about as many bytes.
        size: u64,
    },
    /// Those who have it serve others.
    Waits(Vec<HostName>),
}

impl Doing {
    fn text(&self, image: &str) -> String {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        match self {
            Self::Pulls(progress) => format!("pulling {image}: {progress}"),
            Self::Copies { from, done, size } => format!(
                "copying {image} from {from}: {:.1} of about {:.1} MB",
                mega(*done),
                mega(*size)
            ),
            Self::Waits(hosts) => {
                let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
                format!(
                    "waits to copy {image}: other hosts copy it from {} now",
                    hosts.join(", ")
                )
            }
        }
    }
}

/// What is done for each image.
#[derive(Debug, Default)]
pub(super) struct Progresses {
    all: Mutex<BTreeMap<String, Doing>>,
}

impl Progresses {
    pub(super) fn text(&self, image: &str) -> Option<String> {
        self.all().get(image).map(|doing| doing.text(image))
    }

    pub(super) fn set(&self, image: &str, doing: Doing) {
        self.all().insert(image.to_owned(), doing);
    }

    pub(super) fn end(&self, image: &str) {
        self.all().remove(image);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Doing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
