//! The way of updates from the view to its one reader.
//!
//! At most one update waits: a new one is merged into it (`touched` is united),
//! so the view never waits for its reader, nothing touched is ever lost, and the
//! reader, however slow, always gets the newest snapshot. The first event after
//! a quiet time is there at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::ViewUpdate;

/// The view's end.
#[derive(Debug)]
pub struct UpdateSender(Arc<Slot>);

/// The reader's end.
#[derive(Debug)]
pub struct Updates(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Notify,
    failing: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<ViewUpdate>,
    closed: bool,
}

/// Both ends.
pub fn updates() -> (UpdateSender, Updates) {
    let slot = Arc::new(Slot::default());
    (UpdateSender(slot.clone()), Updates(slot))
}

impl Slot {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpdateSender {
    /// Gives the reader an update.
    pub fn send(&self, update: ViewUpdate) {
        let mut state = self.0.state();
        state.waiting = Some(match state.waiting.take() {
            Some(before) => update.after(before),
            None => update,
        });
        drop(state);
        self.0.changed.notify_one();
    }
}

impl UpdateSender {
    /// Why etcd can't be followed now; none when it is.
    pub fn fails(&self, why: Option<String>) {
        self.0.failing.send_if_modified(|failing| {
            let differs = *failing != why;
            *failing = why;
            differs
        });
    }
}

impl Drop for UpdateSender {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_one();
    }
}

impl Updates {
    /// The next update; none when the view has ended. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<ViewUpdate> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(update) = state.waiting.take() {
                    return Some(update);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// Why etcd can't be followed now; none when it is.
    pub fn failing(&self) -> watch::Receiver<Option<String>> {
        self.0.failing.subscribe()
    }

    /// An update that waits already.
    pub fn try_next(&mut self) -> Option<ViewUpdate> {
        self.0.state().waiting.take()
    }
}

#[cfg(test)]
mod tests;
