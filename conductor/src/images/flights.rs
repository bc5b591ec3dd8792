//! Work that is done once at a time for all who wait for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

type Flight<T> = Shared<BoxFuture<'static, T>>;

/// What is under way, by what it is about.
pub(super) struct Flights<T: Clone> {
    running: Mutex<BTreeMap<String, Running<T>>>,
}

struct Running<T: Clone> {
    flight: Flight<T>,
    waiters: usize,
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
        }
    }
}

impl<T: Clone> Flights<T> {
    /// The result of what is under way for `key`; begins it if nothing is. It ends when nobody waits any more.
    pub(super) async fn join(&self, key: &str, begin: impl FnOnce() -> BoxFuture<'static, T>) -> T {
        let waiter = {
            let mut running = self.running();
            let one = running.entry(key.to_owned()).or_insert_with(|| Running {
                flight: begin().shared(),
                waiters: 0,
            });
            one.waiters += 1;
            Waiter {
                flights: self,
                key,
                flight: one.flight.clone(),
            }
        };
        // A clone is awaited: a flight that has ended no longer says which it was.
        waiter.flight.clone().await
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
struct Waiter<'a, T: Clone> {
    flights: &'a Flights<T>,
    key: &'a str,
    flight: Flight<T>,
}

impl<T: Clone> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        let mut running = self.flights.running();
        let Some(one) = running.get_mut(self.key) else {
            return;
        };
        if !one.flight.ptr_eq(&self.flight) {
            return;
        }
        one.waiters -= 1;
        if one.waiters == 0 || one.flight.peek().is_some() {
            running.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_dropped_at_once() {
        let flights = Flights::<()>::default();
        let held = Arc::new(());
        let begin = || {
            let held = held.clone();
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
            .boxed()
        };
        let mut waiters: Vec<_> = (0..2)
            .map(|_| Box::pin(flights.join("one", begin)))
            .collect();
        for waiter in &mut waiters {
            assert!(futures_util::poll!(waiter).is_pending());
        }
        assert_eq!(Arc::strong_count(&held), 2);
        waiters.pop();
        assert_eq!(Arc::strong_count(&held), 2);
        waiters.pop();
        assert_eq!(Arc::strong_count(&held), 1);
        flights.join("one", || async {}.boxed()).await;
        assert!(flights.running().is_empty());
    }
}
