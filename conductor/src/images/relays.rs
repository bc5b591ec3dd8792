//! Images that this host receives, and passes on as they come.
//!
//! No two hosts can wait for each other: a relay has one source for all its
//! life, and that was there before it.

mod spool;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::images::{OfferedImage, WantedImage};

pub(super) use spool::{Spool, open};

/// All that are received now and can be passed on. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Relays {
    all: Arc<Mutex<Vec<Arc<Relay>>>>,
}

/// One of them.
pub(super) struct Relay {
    /// What its source has offered.
    pub(super) offer: OfferedImage,
    pub(super) spool: Spool,
}

/// Nobody new is served once this is dropped.
pub(super) struct Relaying {
    relays: Relays,
    relay: Arc<Relay>,
}

impl Relays {
    pub(super) fn begin(&self, offer: OfferedImage, spool: Spool) -> Relaying {
        let relay = Arc::new(Relay { offer, spool });
        self.all().push(relay.clone());
        Relaying {
            relays: self.clone(),
            relay,
        }
    }

    /// The one of an image that is asked for by more than its name.
    pub(super) fn of_image(&self, wanted: &WantedImage) -> Option<Arc<Relay>> {
        if wanted.id.is_none() && wanted.content.is_none() {
            return None;
        }
        self.find(|offer| wanted.is(&offer.id, &offer.content))
    }

    /// The one of an image with this id at its source.
    pub(super) fn of_id(&self, id: &str) -> Option<Arc<Relay>> {
        self.find(|offer| offer.id == id)
    }

    fn find(&self, is_it: impl Fn(&OfferedImage) -> bool) -> Option<Arc<Relay>> {
        let all = self.all();
        all.iter().find(|relay| is_it(&relay.offer)).cloned()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Relay>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relaying {
    fn drop(&mut self) {
        let mut all = self.relays.all();
        all.retain(|relay| !Arc::ptr_eq(relay, &self.relay));
    }
}
