//! Failed attempts, and when to try again.

use model::{ModRev, VersionId};
use std::time::Duration;

use model::Fault;
use model::backoff::Backoff;
use model::time::Millis;

/// Attempts on one host after which an unclassified error is taken for the host's fault.
const UNKNOWN_ATTEMPTS: u32 = 3;

/// Attempts after which the manifest is to blame for a failed update.
const BLAMED: u32 = 3;

/// Longest time between two looks at volumes that a slot waits for.
const LOOK_AT_DATA: Duration = Duration::from_secs(5);

/// Time for which a host stays marked as unfit, at least.
const UNFIT: Duration = Duration::from_secs(10);

/// Failures in a row, and the last reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// When to try again.
    pub backoff: Backoff,
    /// Reason of the last failure, for people; empty if there is none.
    pub reason: String,
    /// Version that failed.
    pub rev: VersionId,
    /// Who has to change something.
    pub fault: Fault,
    /// Time of the first of them.
    since: Millis,
    /// Unclassified errors in a row.
    unknown: u32,
}

impl Trouble {
    pub(super) fn failed(&mut self, rev: VersionId, reason: &str, fault: Fault, now: Millis) {
        if self.rev != rev {
            *self = Self {
                rev,
                since: now,
                ..Self::default()
            };
        }
        self.backoff.failed(now);
        self.blames(fault, reason);
    }

    /// When an update fails for it: once the manifest has been to blame so often that other hosts have tried, too, or
    /// after this time without a success. Never for volumes that somebody has to see to.
    pub(crate) fn fails_at(&self, within: Duration) -> Option<Millis> {
        match self.fault {
            Fault::Data => None,
            Fault::Manifest if self.backoff.failures() >= BLAMED => Some(self.backoff.last()),
            _ => Some(self.since + within),
        }
    }

    pub(super) fn blames(&mut self, fault: Fault, reason: &str) {
        self.unknown = match fault {
            Fault::Unknown => self.unknown + 1,
            _ => 0,
        };
        self.fault = fault;
        reason.clone_into(&mut self.reason);
    }

    /// Another attempt here may do better, though nobody changes anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self.fault {
            Fault::Passing => true,
            Fault::Unknown => self.unknown < UNKNOWN_ATTEMPTS,
            Fault::Manifest | Fault::Host | Fault::Data => false,
        }
    }

    /// When to try again. Volumes are looked at often: it is cheap, and somebody has just seen to them.
    pub(crate) fn next_try(&self) -> Millis {
        let next = self.backoff.next_try();
        match self.fault {
            Fault::Data => next.min(self.backoff.last() + LOOK_AT_DATA),
            _ => next,
        }
    }
}

/// A mark in etcd that this host is unfit for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnfitMark {
    backoff: Backoff,
    /// Revision of the manifest.
    rev: ModRev,
}

impl UnfitMark {
    pub(super) fn marked(&mut self, rev: ModRev, now: Millis) {
        if self.rev != rev {
            *self = Self::default();
        }
        self.rev = rev;
        self.backoff.failed(now);
    }

    /// It could not run what this manifest says.
    pub fn is_about(&self, manifest_rev: ModRev) -> bool {
        self.rev == manifest_rev
    }

    /// When the mark is taken away, so that the container is tried here again.
    pub(crate) fn until(&self) -> Millis {
        self.backoff.next_try().max(self.backoff.last() + UNFIT)
    }
}
