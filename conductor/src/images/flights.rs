//! Work that is done once at a time for all who wait for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

type Flight<T> = Shared<BoxFuture<'static, T>>;

/// What is under way, by what it is about.
pub(super) struct Flights<T: Clone> {
    running: Mutex<BTreeMap<String, Flight<T>>>,
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
        }
    }
}

impl<T: Clone> Flights<T> {
    /// The result of what is under way for `key`; begins it if nothing is. It goes on while anybody waits.
    pub(super) async fn join(&self, key: &str, begin: impl FnOnce() -> BoxFuture<'static, T>) -> T {
        let flight = {
            let mut running = self.running();
            // One whose waiters have all gone is not polled any more, and is begun anew.
            running.retain(|_, flight| flight.strong_count().is_some_and(|count| count > 1));
            let flight = running
                .entry(key.to_owned())
                .or_insert_with(|| begin().shared());
            flight.clone()
        };
        let result = flight.clone().await;
        let mut running = self.running();
        if running.get(key).is_some_and(|other| other.ptr_eq(&flight)) {
            running.remove(key);
        }
        result
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Flight<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
