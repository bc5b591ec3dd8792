//! Other hosts that fetch images here now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Other hosts that may fetch images here at a time.
pub(super) const SERVED: u32 = 4;

/// How many fetch each image, by its content. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Serving {
    all: Arc<Mutex<BTreeMap<String, u32>>>,
}

/// One host that fetches an image, until this is dropped.
#[derive(Debug)]
pub(super) struct Served {
    serving: Serving,
    content: String,
}

impl Serving {
    /// One host more; none if as many are served as may be, or more than `beside` others of this image.
    pub(super) fn begin(&self, content: &str, beside: u32) -> Option<Served> {
        let mut all = self.all();
        if is_full(&all) || all.get(content).is_some_and(|served| *served > beside) {
            return None;
        }
        *all.entry(content.to_owned()).or_default() += 1;
        Some(Served {
            serving: self.clone(),
            content: content.to_owned(),
        })
    }

    /// How many fetch this image.
    pub(super) fn of(&self, content: &str) -> u32 {
        self.all().get(content).copied().unwrap_or_default()
    }

    pub(super) fn is_full(&self) -> bool {
        is_full(&self.all())
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(all: &BTreeMap<String, u32>) -> bool {
    all.values().sum::<u32>() >= SERVED
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut all = self.serving.all();
        if let Some(served) = all.get_mut(&self.content) {
            *served -= 1;
            if *served == 0 {
                all.remove(&self.content);
            }
        }
    }
}
