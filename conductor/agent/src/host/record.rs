//! When the host's record is written: a pure memory of what should be in it and what is.
//!
//! A change of `state` or `engine` is due at once, of the rest when it has held
//! for two seconds, so that a flapping count is no stream of events to every host.

use std::time::Duration;

use model::Millis;
use model::records::HostRecord;

/// How long a change must have held.
pub(super) const HOLD: Duration = Duration::from_secs(2);

/// What the record should be and what it is.
#[derive(Debug)]
pub(super) struct RecordKeeper {
    wanted: HostRecord,
    /// As it is in etcd; none if it has to be put anew.
    written: Option<HostRecord>,
    changed_at: Millis,
}

impl RecordKeeper {
    /// A record that is not in etcd yet.
    pub(super) fn new(wanted: HostRecord, now: Millis) -> Self {
        Self {
            wanted,
            written: None,
            changed_at: now,
        }
    }

    pub(super) fn wanted(&self) -> &HostRecord {
        &self.wanted
    }

    /// Another record is wanted.
    pub(super) fn want(&mut self, record: HostRecord, now: Millis) {
        if record != self.wanted {
            self.wanted = record;
            self.changed_at = now;
        }
    }

    /// It was put.
    pub(super) fn written(&mut self, record: HostRecord) {
        self.written = Some(record);
    }

    /// It is not in etcd any more.
    pub(super) fn lost(&mut self) {
        self.written = None;
    }

    /// What is written says of state, hold and epoch what is wanted.
    pub(super) fn says_what_counts(&self) -> bool {
        let counts = |record: &HostRecord| (record.state, record.hold.clone(), record.epoch);
        let written = self.written.as_ref();
        written.is_some_and(|written| counts(written) == counts(&self.wanted))
    }

    /// When it is to be written; none if it is as wanted.
    pub(super) fn due(&self) -> Option<Millis> {
        let Some(written) = &self.written else {
            return Some(Millis(0));
        };
        if *written == self.wanted {
            None
        } else if (written.state, written.engine) != (self.wanted.state, self.wanted.engine) {
            Some(Millis(0))
        } else {
            Some(self.changed_at + HOLD)
        }
    }
}

#[cfg(test)]
mod tests;
