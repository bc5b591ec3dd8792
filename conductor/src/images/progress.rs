//! What is done to get an image here, for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

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
    Waits { on: Vec<HostName>, since: Instant },
    /// Others are pulled or copied first.
    Queues { since: Instant },
}

impl Doing {
    /// `all` is what is done for each image: one that waits for others gets on as they do.
    fn text(&self, image: &str, all: &BTreeMap<String, Self>) -> String {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        match self {
            Self::Pulls(progress) => format!("pulling {image}: {progress}"),
            Self::Copies { from, done, size } => format!(
                "copying {image} from {from}: {:.1} of about {:.1} MB",
                mega(*done),
                mega(*size)
            ),
            Self::Waits { on, since } => {
                let hosts: Vec<&str> = on.iter().map(HostName::as_str).collect();
                for_long(
                    format!(
                        "waits to copy {image}: other hosts copy it from {} now",
                        hosts.join(", ")
                    ),
                    *since,
                )
            }
            Self::Queues { since } => {
                let comes = |doing: &Self| matches!(doing, Self::Pulls(_) | Self::Copies { .. });
                let before = all.iter().filter(|(_, doing)| comes(doing));
                let before: Vec<String> = before.map(|(of, doing)| doing.text(of, all)).collect();
                for_long(
                    format!("waits for other images: {}", before.join("; ")),
                    *since,
                )
            }
        }
    }
}

/// With the minutes. Its turn will come: a text that changes is progress.
fn for_long(text: String, since: Instant) -> String {
    match since.elapsed().as_secs() / 60 {
        0 => text,
        minutes => format!("{text}, for {minutes} min"),
    }
}

/// What is done for each image.
#[derive(Debug, Default)]
pub(super) struct Progresses {
    all: Mutex<BTreeMap<String, Doing>>,
}

impl Progresses {
    pub(super) fn text(&self, image: &str) -> Option<String> {
        let all = self.all();
        all.get(image).map(|doing| doing.text(image, &all))
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
